"""What a selector picks: a name, a path, a glob, an object, a class, a question.

The same selectors serve the optimizer's rules, ``WeightDrift(select=...)``,
``GradualUnfreeze`` and ``override``. There are two questions: which weights
(`select`) and which layers (`select_layers`); what picks a weight picks the
layer that owns it.
"""

import difflib
import fnmatch
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from keras_layerwise.backend import internals
from keras_layerwise.errors import RuleError
from keras_layerwise.model import structure
from keras_layerwise.model.structure import Place, Site, Sites

ACCEPTED = (
    "a layer's name or path, a glob on weight paths ('*/bias'), a compiled regular "
    "expression (full match), a layer or nested model, a layer class, a callable "
    "(layer, weight) -> bool, a part of an outline, or a list or tuple of these"
)


def select(selector: Any, sites: Sequence[Site]) -> list[int]:
    """Finds the positions in `sites` of the weights that `selector` picks.

    A string is a layer's name or any run of names along its path
    (``"encoder/dense"``), or a weight's path; only a string that is none of
    these and has one of ``*?[`` in it is a glob. ``*`` also crosses ``/``.

    Args:
        selector: see above; a list or tuple picks what any of its members
            picks.
        sites: the weights to choose from.

    Returns:
        Positions in ascending order; empty where nothing is picked.

    Raises:
        TypeError: for an object that is no selector.
        RuleError: where a callable selector raises.

    Example:

    >>> import keras
    >>> from keras_layerwise.model.structure import sites
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="a")])
    >>> select("a", sites(model)), select("*/bias", sites(model))
    ([0, 1], [1])
    """
    check_type(selector)
    known = sites if isinstance(sites, Sites) else Sites(sites)
    return sorted(set(_weights(selector, known)))


def select_layers(selector: Any, model: Any) -> list[Any]:
    """Finds the layers of `model` that `selector` picks, each before the layers in it.

    What picks a weight as a rule picks the layer that owns it here. A name,
    path, class or glob also picks layers without weights; two layers of one
    name are both picked. A callable is asked ``(layer, None)`` about a layer
    without weights.

    Args:
        selector: what `select` takes.
        model: the model to choose from.

    Returns:
        Each layer once; empty where nothing is picked.

    Raises:
        TypeError: for an object that is no selector.
        RuleError: where a callable selector raises.

    Example:

    >>> import keras
    >>> relu, dense = keras.layers.ReLU(name="a"), keras.layers.Dense(1, name="b")
    >>> model = keras.Sequential([keras.Input((2,)), relu, dense])
    >>> [layer.name for layer in select_layers(["a", "*/bias"], model)]
    ['a', 'b']
    """
    check_type(selector)
    places = structure.places(model)
    picked = _layers(selector, places, structure.sites(model))
    return [place.layer for place in places if id(place.layer) in picked]


def check_type(selector: Any) -> None:
    """Raises a ``TypeError`` for an object that can not be a selector."""
    if isinstance(selector, (list, tuple)):
        for member in selector:
            check_type(member)
        return
    if isinstance(selector, re.Pattern) and isinstance(selector.pattern, bytes):
        raise TypeError(f"A selector's regular expression is over text; received {selector!r}.")
    if inspect.isclass(selector) and not _is_layer_class(selector):
        raise TypeError(
            f"A class selector must be a Keras layer class; received {selector!r}. "
            f"Accepted: {ACCEPTED}."
        )
    if is_part(selector) or is_layer(selector) or callable(selector):
        return
    if not isinstance(selector, (str, re.Pattern)):
        raise TypeError(f"Received {selector!r} as a selector. Accepted: {ACCEPTED}.")


def needs_model(selector: Any) -> bool:
    """Tells whether `selector` can be answered only where the layers are known."""
    if isinstance(selector, (list, tuple)):
        return any(needs_model(member) for member in selector)
    return not (isinstance(selector, (str, re.Pattern)) or is_layer(selector) or is_part(selector))


def label(selector: Any) -> str:
    """Gives a one-line text for a selector, for tables, records and errors."""
    if isinstance(selector, (list, tuple)):
        return "(" + ", ".join(label(member) for member in selector) + ")"
    if isinstance(selector, str):
        return selector
    if isinstance(selector, re.Pattern):
        return f"re:{selector.pattern}"
    if is_layer(selector):
        return f"layer {selector.name}"
    if is_part(selector):
        return str(selector.label)
    if inspect.isclass(selector):
        return f"class {selector.__name__}"
    return f"callable {getattr(selector, '__name__', type(selector).__name__)}"


def nearest(selector: Any, sites: Sequence[Site], count: int = 3) -> list[str]:
    """Gives the names and paths in `sites` that look most like `selector`."""
    text = selector.pattern if isinstance(selector, re.Pattern) else label(selector)
    candidates = list(dict.fromkeys(_candidates(sites)))
    close = difflib.get_close_matches(text, candidates, n=count, cutoff=0.4)
    return close or candidates[:count]


def is_layer(value: Any) -> bool:
    """Tells whether `value` is a Keras layer, without importing Keras to ask."""
    return not inspect.isclass(value) and _is_layer_class(type(value))


def is_part(value: Any) -> bool:
    """Tells whether `value` is a part of an outline: an object with ``weights`` and ``layers``."""
    return getattr(value, "is_part", False) is True


def _is_layer_class(cls: type) -> bool:
    return any(
        base.__name__ == "Layer" and base.__module__.startswith("keras.") for base in cls.__mro__
    )


def _weights(selector: Any, sites: Sites) -> Iterable[int]:
    if isinstance(selector, (list, tuple)):
        return (i for member in selector for i in _weights(member, sites))
    if isinstance(selector, str):
        literal = {*sites.by_path.get(selector, ()), *sites.by_name.get(selector, ())}
        return literal or _matching(_glob(selector), sites)
    if isinstance(selector, re.Pattern):
        return _matching(selector, sites)
    if is_layer(selector) or is_part(selector):
        positions = (sites.by_weight.get(id(weight)) for weight in selector.weights)
        return (i for i in positions if i is not None)
    if inspect.isclass(selector):
        return _where(
            sites,
            lambda s: any(isinstance(part, selector) for chain in s.chains for part in chain[1:]),
        )
    return _where(sites, lambda s: _ask(selector, s.layer, s.weight, s.path))


def _layers(selector: Any, places: Sequence[Place], sites: Sites) -> set[int]:
    """Gives the ``id`` of every layer that `selector` picks."""
    if isinstance(selector, (list, tuple)):
        return {key for member in selector for key in _layers(member, places, sites)}
    if is_layer(selector):
        return {id(selector)}
    if is_part(selector):
        return {id(layer) for layer in selector.layers}
    below = places[1:]
    if inspect.isclass(selector):
        return {id(place.layer) for place in below if isinstance(place.layer, selector)}
    if isinstance(selector, str):
        wanted = selector.split("/")
        named = {
            id(place.layer)
            for place in places
            if any(names[-len(wanted) :] == wanted for names in place.names)
        }
        named |= {id(sites[i].layer) for i in sites.by_path.get(selector, ())}
        return named or _matching_layers(_glob(selector), below, sites)
    if isinstance(selector, re.Pattern):
        return _matching_layers(selector, below, sites)
    return {
        id(place.layer)
        for place in places
        for weight in internals.own_weights(place.layer) or ([] if place is places[0] else [None])
        if _ask(selector, place.layer, weight, place.path)
    }


def _glob(text: str) -> re.Pattern[str] | None:
    return re.compile(fnmatch.translate(text)) if any(mark in text for mark in "*?[") else None


def _matching(pattern: re.Pattern[str] | None, sites: Sites) -> Iterable[int]:
    if pattern is None:
        return ()
    return [i for path, found in sites.by_path.items() if pattern.fullmatch(path) for i in found]


def _matching_layers(
    pattern: re.Pattern[str] | None, places: Sequence[Place], sites: Sites
) -> set[int]:
    if pattern is None:
        return set()
    owners = {id(sites[i].layer) for i in _matching(pattern, sites)}
    return owners | {
        id(place.layer)
        for place in places
        if any(pattern.fullmatch(path) for path in place.every_path)
    }


def _candidates(sites: Sequence[Site]) -> Iterable[str]:
    for site in sites:
        yield site.layer_path
        yield site.layer_path.rpartition("/")[2]
    for site in sites:
        yield site.path


def _where(sites: Sequence[Site], condition: Any) -> list[int]:
    return [i for i, site in enumerate(sites) if condition(site)]


def _ask(selector: Any, layer: Any, weight: Any, path: str) -> bool:
    try:
        return bool(selector(layer, weight))
    except Exception as error:
        if weight is None and isinstance(error, AttributeError):
            return False  # it asks about the weight of a layer that has none
        raise RuleError(
            f"The selector {label(selector)} raised {type(error).__name__}: {error} for "
            f"{path!r}. A callable selector takes (layer, weight) and returns a bool."
        ) from error
