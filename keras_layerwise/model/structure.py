"""Where the weights of a model live: every weight with the layers above it.

The paths here are built from the names of the layers below the model. Unlike
``weight.path`` they are unique, and the same before and after a model is saved
and reloaded.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keras_layerwise.backend.internals import own_weights, sublayers
from keras_layerwise.errors import RuleError

MODEL = "(model)"


@dataclass(frozen=True, eq=False)
class Site:
    """One weight and the places of the model that it is reached through.

    Attributes:
        weight: the ``keras.Variable``.
        layer: the layer that owns it, ``None`` where no model is known.
        layer_path: names of the layers from below the model down to ``layer``,
            joined by ``/``; unique in the model. ``"(model)"`` for a weight
            of the model itself.
        path: ``layer_path/weight.name``, unique in the model.
        chains: for every place, the layers from the model down to the owner.
            More than one where a layer or a weight is shared.
    """

    weight: Any
    layer: Any
    layer_path: str
    path: str
    chains: tuple[tuple[Any, ...], ...]

    @property
    def names(self) -> Iterator[list[str]]:
        """The layer names from the model down, once for every place of the weight."""
        return _names(self.layer_path, self.chains)


@dataclass(frozen=True, eq=False)
class Place:
    """One layer and where in the model it is.

    Attributes:
        layer: the layer.
        path: names of the layers from below the model down to `layer`, joined
            by ``/``; unique in the model, ``"(model)"`` for the model itself.
        chains: for every place, the layers from the model down to `layer`.
            More than one where the layer, or one that holds it, is shared.
    """

    layer: Any
    path: str
    chains: tuple[tuple[Any, ...], ...]

    @property
    def names(self) -> Iterator[list[str]]:
        """The layer names from the model down, once for every place of the layer."""
        return _names(self.path, self.chains)

    @property
    def every_path(self) -> set[str]:
        """Every path below the model; more than one where the layer is shared."""
        return {self.path, *("/".join(p.name for p in chain[1:]) for chain in self.chains)}


class Sites(tuple[Site, ...]):
    """The weights of a model in the order of ``model.weights``, with an index.

    Selectors ask for the same weights once per rule; the index makes each
    question cost what it picks and not what the model has.
    """

    @cached_property
    def by_weight(self) -> dict[int, int]:
        """Position by the ``id`` of the weight."""
        return {id(site.weight): i for i, site in enumerate(self)}

    @cached_property
    def by_path(self) -> dict[str, list[int]]:
        """Positions by every path of a weight: ours, along each chain, and Keras's."""
        found: dict[str, list[int]] = {}
        for i, site in enumerate(self):
            for path in weight_paths(site):
                found.setdefault(path, []).append(i)
        return found

    @cached_property
    def by_name(self) -> dict[str, list[int]]:
        """Positions by every run of layer names above a weight, joined by ``/``."""
        found: dict[str, list[int]] = {}
        runs_of: dict[str, set[str]] = {}
        for i, site in enumerate(self):
            runs = runs_of.get(site.layer_path)
            if runs is None or len(site.chains) > 1:
                runs = {run for names in site.names for run in _runs(names)}
                if len(site.chains) == 1:
                    runs_of[site.layer_path] = runs
            for run in runs:
                found.setdefault(run, []).append(i)
        return found


def sites(model: Any) -> Sites:
    """Lists every weight of `model` once, in the order of ``model.weights``.

    Args:
        model: a Keras model or layer; what is not built yet has no weights.

    Returns:
        One `Site` per weight, trainable or not. Metric and seed state are not
        weights.

    Example:

    >>> import keras
    >>> inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="a")], name="in")
    >>> [s.path for s in sites(keras.Sequential([inner, keras.layers.Dense(1, name="b")]))]
    ['in/a/kernel', 'in/a/bias', 'b/kernel', 'b/bias']
    """
    chains: dict[int, list[tuple[Any, ...]]] = {}
    owners: dict[int, Place] = {}
    weights: dict[int, Any] = {}
    for place in places(model):
        for weight in own_weights(place.layer):
            weights.setdefault(id(weight), weight)
            owners.setdefault(id(weight), place)
            chains.setdefault(id(weight), []).extend(place.chains)
    used: set[str] = set()
    return Sites(
        Site(
            weight=weight,
            layer=owners[key].layer,
            layer_path=owners[key].path,
            path=_unique(f"{owners[key].path}/{weight.name}", used),
            chains=tuple(chains[key]),
        )
        for key, weight in weights.items()
    )


def places(model: Any) -> tuple[Place, ...]:
    """Lists `model` and every layer below it once, each before the layers in it.

    Example:

    >>> import keras
    >>> inner = keras.Sequential([keras.layers.ReLU(name="a")], name="in")
    >>> [place.path for place in places(keras.Sequential([inner]))]
    ['(model)', 'in', 'in/a']
    """
    chains: dict[int, list[tuple[Any, ...]]] = {}
    paths: dict[int, str] = {}
    used: set[str] = set()

    def visit(chain: tuple[Any, ...]) -> None:
        layer = chain[-1]
        if id(layer) not in paths:
            path = "/".join(part.name for part in chain[1:]) or MODEL
            paths[id(layer)] = _unique(path, used)
        chains.setdefault(id(layer), []).append(chain)
        for child in sublayers(layer):
            visit((*chain, child))

    visit((model,))
    return tuple(
        Place(layer=found[0][-1], path=paths[key], chains=tuple(found))
        for key, found in chains.items()
    )


def sites_of_built(model: Any) -> Sites:
    """Lists the weights as `sites` does, of a model that has some.

    Raises:
        RuleError: where `model` has no weights, as before it is built.
    """
    found = sites(model)
    if not found:
        raise RuleError(
            f"{getattr(model, 'name', model)!r} has no weights. Build the model first, for example "
            "by calling it on one batch."
        )
    return found


def sites_of_variables(variables: Iterable[Any]) -> Sites:
    """Describes weights whose model is not known, by their own paths."""
    found = []
    used: set[str] = set()
    for variable in variables:
        path = getattr(variable, "path", variable.name)
        found.append(
            Site(
                weight=variable,
                layer=None,
                layer_path=path.rpartition("/")[0] or MODEL,
                path=_unique(path, used),
                chains=(),
            )
        )
    return Sites(found)


def weight_paths(site: Site) -> set[str]:
    """Gives every text that names the weight: ours, one for each chain, and Keras's."""
    paths = {site.path, getattr(site.weight, "path", site.weight.name)}
    for chain in site.chains:
        paths.add("/".join([*(part.name for part in chain[1:]), site.weight.name]))
    return paths


def _names(path: str, chains: Iterable[tuple[Any, ...]]) -> Iterator[list[str]]:
    yield [path]
    for chain in chains:
        yield [part.name for part in chain]
    yield path.split("/")


def _runs(names: list[str]) -> Iterator[str]:
    """Gives every contiguous run of `names`, joined by ``/``."""
    for start in range(len(names)):
        for stop in range(start + 1, len(names) + 1):
            yield "/".join(names[start:stop])


def _unique(path: str, used: set[str]) -> str:
    unique, number = path, 1
    while unique in used:
        number += 1
        unique = f"{path}#{number}"
    used.add(unique)
    return unique
