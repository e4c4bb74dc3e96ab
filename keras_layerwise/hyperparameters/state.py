"""What the description of a model is made from, to tell whether it would be the same again.

To describe 400 layers takes a tenth of a second, to look whether any of their
attributes is another object than before a hundredth. Where attributes do not
tell, as of the user's own classes and functions, the description itself is
compared.
"""

import types
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_layerwise.backend import internals
from keras_layerwise.hyperparameters.functions import is_own

_PLAIN = frozenset({bool, bytes, complex, float, int, str, type, type(None), types.ModuleType})
_ROUTINES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_DEEPEST = 5


class _UnclearError(Exception):
    """Something whose identity does not tell whether it is as it was."""


def state_of(model: Any, describe: Callable[[Any], Any]) -> list[Any]:
    """Lists the objects that decide how the layers and weights of `model` are described.

    Args:
        model: a Keras model.
        describe: gives the description of a layer, or of a regularizer or
            constraint; called where the objects do not tell.
    """
    found: list[Any] = []
    seen: set[int] = set()

    def tell(thing: Any, add: Callable[..., None], *arguments: Any) -> None:
        length = len(found)
        try:
            add(found, thing, *arguments)
        except _UnclearError:
            found[length:] = [repr(describe(thing))]

    def visit(layer: Any) -> None:
        children = internals.sublayers(layer)
        found.extend((layer, layer.name, len(children)))
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if layer is model and not is_own(type(model)):
            found.append(model.trainable)
        else:
            tell(layer, _add_layer, children)
        for weight in internals.own_weights(layer):
            found.extend((weight, weight.trainable))
            for part in (weight.regularizer, weight.constraint):
                if part is not None:
                    tell(part, _add, ())
        for child in children:
            visit(child)

    visit(model)
    return found


def is_same(old: Sequence[Any], new: Sequence[Any]) -> bool:
    """Tells whether both list the same objects; texts and numbers that are equal are the same.

    Example:
    >>> is_same(["a", 1, is_same], ["a", 1, is_same]), is_same([1], [True])
    (True, False)
    """
    return len(old) == len(new) and all(
        a is b or (type(a) is type(b) and type(a) in (str, int, float) and a == b)
        for a, b in zip(old, new, strict=True)
    )


def _add_layer(found: list[Any], layer: Any, children: Sequence[Any]) -> None:
    if is_own(type(layer)):
        raise _UnclearError
    found.extend((type(layer), layer.trainable))
    if isinstance(layer, keras.Model):
        return
    _add(found, layer.dtype_policy, children)
    for name, value in internals.own_attributes(layer).items():
        found.append(name)
        if type(value) in _PLAIN:
            found.append(value)
        else:
            _add(found, value, children)


def _add(found: list[Any], value: Any, children: Sequence[Any], depth: int = 0) -> None:
    """Adds `value` and what is in it."""
    found.append(value)
    kind = type(value)
    if kind in _PLAIN or issubclass(kind, (keras.Variable, keras.KerasTensor)):
        return
    if depth > _DEEPEST:
        raise _UnclearError
    if issubclass(kind, (list, tuple, set, frozenset)):
        found.append(len(value))
        members = value
    elif issubclass(kind, (keras.layers.Layer, keras.Metric)):
        if any(value is child for child in children):
            return
        raise _UnclearError
    elif issubclass(kind, dict):
        found.extend(value)
        members = value.values()
    elif kind in _ROUTINES:
        if is_own(value) or getattr(value, "__closure__", None):
            raise _UnclearError
        return
    elif kind.__module__.startswith("keras.") and hasattr(value, "__dict__"):
        found.extend(vars(value))
        members = vars(value).values()
    else:
        raise _UnclearError
    for member in members:
        if type(member) in _PLAIN:
            found.append(member)
        else:
            _add(found, member, children, depth + 1)
