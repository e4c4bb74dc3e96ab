"""Remembers which shares of its trained weights a model holds, for the record of its next fit."""

import weakref
from typing import Any

_HELD: "weakref.WeakKeyDictionary[Any, list[tuple[Any, Any]]]" = weakref.WeakKeyDictionary()


def hold(model: Any, key: Any, alpha: Any) -> None:
    """Adds an interpolation of `model`, known by `key`, with its share or shares by selector."""
    _HELD.setdefault(model, []).append((key, alpha))


def release(model: Any, key: Any) -> None:
    """Takes an interpolation out again; nothing where it is not held."""
    _HELD[model] = [pair for pair in _HELD.get(model, ()) if pair[0] is not key]


def shares(model: Any) -> list[Any]:
    """Lists the shares that `model` holds, in the order in which they were put in."""
    return [alpha for _, alpha in _HELD.get(model, ())]
