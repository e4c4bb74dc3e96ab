"""Steps that Keras has compiled, traced anew."""

from typing import Any

import keras


def trace_again(model: Any, kind: str) -> None:
    """Has the compiled ``"train"``, ``"test"`` or ``"predict"`` step of `model` traced anew.

    Does nothing where there is none yet.
    """
    if getattr(model, f"{kind}_function", None) is None:
        return
    make = getattr(model, f"make_{kind}_function")
    if keras.backend.backend() != "jax":
        make(force=True)
        return
    # JAX takes a method for one that it has traced before where the two compare equal, and
    # some reference keeps the old one alive; a new function equals no other.
    name = f"{kind}_step"
    own, step = vars(model).get(name), getattr(model, name)
    object.__setattr__(model, name, lambda state, data: step(state, data))
    try:
        make(force=True)
    finally:
        object.__delattr__(model, name)
        if own is not None:
            object.__setattr__(model, name, own)
