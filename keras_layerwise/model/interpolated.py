"""Remembers which shares of its trained weights a model holds, for the record of its next fit."""

import weakref
from typing import Any

_HELD: "weakref.WeakKeyDictionary[Any, list[tuple[Any, Any]]]" = weakref.WeakKeyDictionary()


def hold(model: Any, key: Any, alpha: Any) -> None:
    """Adds an interpolation of `model`, known by `key`, with its share or shares by selector."""
    _HELD.setdefault(model, []).append((key, alpha))


def release(model: Any, key: Any) -> list[Any]:
    """Takes an interpolation out again, and gives those put in after it; none if it is not held."""
    held = _HELD.get(model, [])
    place = next((i for i, (other, _) in enumerate(held) if other is key), len(held))
    _HELD[model] = held[:place] + held[place + 1 :]
    return [other for other, _ in held[place + 1 :]]


def shares(model: Any) -> list[Any]:
    """Lists the shares that `model` holds, in the order in which they were put in."""
    return [alpha for _, alpha in _HELD.get(model, ())]


def as_text(alpha: Any) -> str:
    """Gives a share, or shares by selector, as tables show it."""
    pairs = alpha.items() if isinstance(alpha, dict) else [("", alpha)]
    return ", ".join(f"{selector} {share:g}".strip() for selector, share in pairs)
