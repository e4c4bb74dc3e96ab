"""Where the weights of a model live: every weight with the layers above it.

The paths here are built from the names of the layers below the model. Unlike
``weight.path`` they are unique, and the same before and after a model is saved
and reloaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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


def sites(model: Any) -> tuple[Site, ...]:
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
    owners: dict[int, Any] = {}
    weights: dict[int, Any] = {}
    paths: dict[int, str] = {}
    used: set[str] = set()

    def visit(chain: tuple[Any, ...]) -> None:
        layer = chain[-1]
        if id(layer) not in paths:
            path = "/".join(part.name for part in chain[1:]) or MODEL
            paths[id(layer)] = _unique(path, used)
        for weight in _own_weights(layer):
            weights.setdefault(id(weight), weight)
            owners.setdefault(id(weight), layer)
            chains.setdefault(id(weight), []).append(chain)
        for child in sublayers(layer):
            visit((*chain, child))

    visit((model,))
    found = []
    used_weights: set[str] = set()
    for key, weight in weights.items():
        layer_path = paths[id(owners[key])]
        found.append(
            Site(
                weight=weight,
                layer=owners[key],
                layer_path=layer_path,
                path=_unique(f"{layer_path}/{weight.name}", used_weights),
                chains=tuple(chains[key]),
            )
        )
    return tuple(found)


def sites_of_variables(variables: Iterable[Any]) -> tuple[Site, ...]:
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
    return tuple(found)


def sublayers(layer: Any) -> Sequence[Any]:
    """The layers directly inside `layer`, in its own order."""
    return tuple(layer._layers)


def _own_weights(layer: Any) -> list[Any]:
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _unique(path: str, used: set[str]) -> str:
    unique, number = path, 1
    while unique in used:
        number += 1
        unique = f"{path}#{number}"
    used.add(unique)
    return unique
