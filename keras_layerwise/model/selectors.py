"""What a selector picks: a name, a path, a glob, an object, a class, a question.

The same selectors serve the optimizer's rules, ``WeightDrift(select=...)``,
``GradualUnfreeze`` and ``override``.
"""

import difflib
import fnmatch
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from keras_layerwise.errors import RuleError
from keras_layerwise.model.structure import Site

ACCEPTED = (
    "a layer's name or path, a glob on weight paths ('*/bias'), a compiled regular "
    "expression (full match), a layer or nested model, a layer class, a callable "
    "(layer, weight) -> bool, or a list or tuple of these"
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
    if isinstance(selector, (list, tuple)):
        picked = {i for member in selector for i in select(member, sites)}
        return sorted(picked)
    if isinstance(selector, str):
        return _by_text(selector, sites)
    if isinstance(selector, re.Pattern):
        return _where(sites, lambda s: any(selector.fullmatch(p) for p in _weight_paths(s)))
    if is_layer(selector):
        own = {id(weight) for weight in selector.weights}
        return _where(sites, lambda s: id(s.weight) in own)
    if inspect.isclass(selector):
        return _where(
            sites,
            lambda s: any(isinstance(part, selector) for chain in s.chains for part in chain[1:]),
        )
    return _where(sites, lambda s: _ask(selector, s))


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
    if not (isinstance(selector, (str, re.Pattern)) or is_layer(selector) or callable(selector)):
        raise TypeError(f"Received {selector!r} as a selector. Accepted: {ACCEPTED}.")


def needs_model(selector: Any) -> bool:
    """Whether `selector` can be answered only where the layers are known."""
    if isinstance(selector, (list, tuple)):
        return any(needs_model(member) for member in selector)
    return not (isinstance(selector, (str, re.Pattern)) or is_layer(selector))


def label(selector: Any) -> str:
    """A one-line text for a selector, for tables, records and errors."""
    if isinstance(selector, (list, tuple)):
        return "(" + ", ".join(label(member) for member in selector) + ")"
    if isinstance(selector, str):
        return selector
    if isinstance(selector, re.Pattern):
        return f"re:{selector.pattern}"
    if is_layer(selector):
        return f"layer {selector.name}"
    if inspect.isclass(selector):
        return f"class {selector.__name__}"
    return f"callable {getattr(selector, '__name__', type(selector).__name__)}"


def nearest(selector: Any, sites: Sequence[Site], count: int = 3) -> list[str]:
    """The names and paths in `sites` that look most like `selector`."""
    text = selector.pattern if isinstance(selector, re.Pattern) else label(selector)
    candidates = list(dict.fromkeys(_candidates(sites)))
    close = difflib.get_close_matches(text, candidates, n=count, cutoff=0.4)
    return close or candidates[:count]


def is_layer(value: Any) -> bool:
    """Whether `value` is a Keras layer, without importing Keras to ask."""
    return not inspect.isclass(value) and _is_layer_class(type(value))


def _is_layer_class(cls: type) -> bool:
    return any(
        base.__name__ == "Layer" and base.__module__.startswith("keras.") for base in cls.__mro__
    )


def _by_text(text: str, sites: Sequence[Site]) -> list[int]:
    wanted = text.split("/")
    literal = _where(
        sites,
        lambda s: text in _weight_paths(s) or any(_runs(wanted, names) for names in _names(s)),
    )
    if literal or not any(mark in text for mark in "*?["):
        return literal
    pattern = re.compile(fnmatch.translate(text))
    return _where(sites, lambda s: any(pattern.match(p) for p in _weight_paths(s)))


def _names(site: Site) -> list[list[str]]:
    """The layer names from the model down, once for every place of the weight."""
    if not site.chains:
        return [site.layer_path.split("/")]
    return [
        [site.layer_path],
        *([part.name for part in chain] for chain in site.chains),
        site.layer_path.split("/"),
    ]


def _weight_paths(site: Site) -> set[str]:
    paths = {site.path, getattr(site.weight, "path", site.weight.name)}
    for chain in site.chains:
        paths.add("/".join([*(part.name for part in chain[1:]), site.weight.name]))
    return paths


def _runs(wanted: list[str], names: list[str]) -> bool:
    """Whether `wanted` is a contiguous run of `names`."""
    size = len(wanted)
    return any(names[i : i + size] == wanted for i in range(len(names) - size + 1))


def _candidates(sites: Sequence[Site]) -> Iterable[str]:
    for site in sites:
        yield site.layer_path
        yield site.layer_path.rpartition("/")[2]
    for site in sites:
        yield site.path


def _where(sites: Sequence[Site], condition: Any) -> list[int]:
    return [i for i, site in enumerate(sites) if condition(site)]


def _ask(selector: Any, site: Site) -> bool:
    try:
        return bool(selector(site.layer, site.weight))
    except Exception as error:
        raise RuleError(
            f"The selector {label(selector)} raised {type(error).__name__}: {error} for the "
            f"weight {site.path!r}. A callable selector takes (layer, weight) and returns a bool."
        ) from error
