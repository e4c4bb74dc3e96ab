"""Lets layers compute as with ``trainable = False`` while `trainable` stays the user's.

`BatchNormalization` asks for its own `trainable` when it is called, and then
uses its moving averages and keeps them. A layer that an optimizer leaves out
is to compute the same, but its flag, its configuration and every list of
trainable weights belong to the user. So the flag reads False inside a call of
the model that is trained, for the layers named, and nowhere else.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import keras

from keras_layerwise.backend.torch_backward import untraced

# A context variable, because the replicas of a TensorFlow strategy run in threads of their own.
_frozen: ContextVar[frozenset[int]] = ContextVar("frozen", default=frozenset())
_MARK = "_keras_layerwise"


def freeze_in_calls(model: Any, layers: Callable[[], frozenset[int]]) -> None:
    """Has the layers whose ``id`` is among `layers()` compute as frozen in calls of `model`.

    Does nothing where `model` does so already.
    """
    if hasattr(vars(model).get("call"), _MARK):
        return
    _patch_flag()
    original, layers = model.call, untraced(layers)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = layers()
        if not found:
            return original(*args, **kwargs)
        with _as_frozen(found):
            return original(*args, **kwargs)

    setattr(call, _MARK, layers)
    object.__setattr__(model, "call", call)  # past the tracking of Keras and of PyTorch


def frozen_in_calls(model: Any) -> frozenset[int]:
    """Gives the ``id`` of the layers that compute as frozen in calls of `model`."""
    found: frozenset[int] = getattr(vars(model).get("call"), _MARK, frozenset)()
    return found


@contextlib.contextmanager
def _as_frozen(layers: frozenset[int]) -> Iterator[None]:
    token = _frozen.set(_frozen.get() | layers)
    try:
        yield
    finally:
        _frozen.reset(token)


def _patch_flag() -> None:
    plain = vars(keras.Layer)["trainable"]
    if hasattr(plain.fget, _MARK):
        return

    @functools.wraps(plain.fget)
    def trainable(self: Any) -> bool:
        return bool(plain.fget(self)) and id(self) not in _frozen.get()

    setattr(trainable, _MARK, plain)
    keras.Layer.trainable = property(trainable, plain.fset, plain.fdel, plain.__doc__)


def uninstall() -> None:
    """Gives layers back Keras's own `trainable`; models called later compute as in Keras."""
    plain = getattr(vars(keras.Layer)["trainable"].fget, _MARK, None)
    if plain is not None:
        keras.Layer.trainable = plain
