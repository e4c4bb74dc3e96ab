"""The hyperparameters of a model and of its ``fit``, read from the objects themselves."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_layerwise.backend import internals, keras_optimizers
from keras_layerwise.hyperparameters.describe import (
    describe,
    object_settings,
)
from keras_layerwise.hyperparameters.functions import is_own
from keras_layerwise.hyperparameters.names import Names
from keras_layerwise.hyperparameters.runtime import runtime
from keras_layerwise.hyperparameters.state import is_same, state_of
from keras_layerwise.hyperparameters.training import assignment_state, assignments, training
from keras_layerwise.model import selectors, structure
from keras_layerwise.storage.values import UNKNOWN, flat


def inventory(model: Any) -> dict[str, Any]:
    """Reads what `model` and its training are configured with.

    Works before and after ``compile`` and ``fit``; what is not there yet is
    left out, and what cannot be known is ``"unknown"``. Layers whose names
    Keras made up are numbered in the order of the model, so that the same
    code gives the same keys in every process.

    Args:
        model: a Keras model.

    Returns:
        Nested plain values in the groups ``architecture`` (its ``weights``
        with shape, dtype, initializer and the layers that share each),
        ``training``, ``regularization`` and ``runtime``. What ``fit`` was
        given, beyond epochs and steps, is known while and after a fit with
        ``FreezeHyperparameters``.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(10)])
    >>> inventory(model)["architecture"]["parameters"]
    7850
    """
    return {**Reader(model).read(), "runtime": runtime(model)}


class Reader:
    """Reads the inventory of one model again and again, but for its ``runtime``.

    What did not change is the same object as before: a reader need not look into it.

    Args:
        model: a Keras model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._state: list[Any] = []
        self._groups: dict[str, Any] = {}
        self._assigned: dict[int, tuple[list[Any], Any]] = {}

    def read(self) -> dict[str, Any]:
        """Gives the groups ``architecture``, ``training`` and ``regularization``."""
        model = self._model
        state = state_of(model, _seen)
        if not (self._groups and is_same(self._state, state)):
            self.names = Names(model)
            self._assigned = {}
            self._groups = {
                "architecture": _architecture(model, self.names),
                "regularization": _regularization(model, self.names),
            }
        self._state = state
        decay = _weight_decay(model, self.names)
        if decay != self._groups["regularization"].get("weight_decay", {}):
            self._groups["regularization"] = _regularization(model, self.names)
        return {**self._groups, "training": training(model, self.names, self._assignments)}

    def _assignments(self, optimizer: Any) -> Any:
        state = assignment_state(optimizer)
        before = self._assigned.get(id(optimizer))
        if before is None or not is_same(before[0], state):
            self._assigned[id(optimizer)] = before = state, assignments(optimizer, self.names)
        return before[1]


def _seen(thing: Any) -> Any:
    """Tells what a description tells of a layer, or of a part of a weight's penalty."""
    return _layer(thing) if isinstance(thing, keras.layers.Layer) else describe(thing)


def settings_of(model: Any) -> dict[str, Any]:
    """Gives the layers' settings alone, as the flat keys of a record."""
    names = Names(model)
    return flat(
        {
            "architecture": _architecture(model, names),
            "regularization": _regularization(model, names),
        }
    )


# Architecture.


def _architecture(model: Any, names: Names) -> dict[str, Any]:
    leaves = list(_leaves(model, set()))
    widths = [width for width in map(_width, leaves) if width is not None]
    hidden = max(len(widths) - _outputs(model), 0)
    trainable = {id(weight) for weight in model.trainable_weights}
    own = object_settings(model) if is_own(type(model)) else None
    return {
        "class": type(model).__name__,
        **({"settings": own} if own else {}),
        "number_of_layers": len(leaves),
        "hidden_layers": hidden,
        "hidden_units": widths[:hidden],
        "parameters": _count(model.weights) if model.built else UNKNOWN,
        "trainable_parameters": _count(model.trainable_weights) if model.built else UNKNOWN,
        "layers": {
            path: _layer(layer)
            for path, layer in names.layers.items()
            if not isinstance(layer, keras.layers.InputLayer)
        },
        "weights": {path: _weight(site, names, trainable) for path, site in names.sites},
    }


def _leaves(parent: Any, seen: set[int]) -> Iterator[Any]:
    """Finds the layers that a reader would count: not those that one of Keras's own is made of."""
    for layer in internals.sublayers(parent):
        if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
            continue
        seen.add(id(layer))
        if not isinstance(layer, keras.Model):
            yield layer
        if isinstance(layer, keras.Model) or not type(layer).__module__.startswith("keras."):
            yield from _leaves(layer, seen)


def _width(layer: Any) -> int | None:
    """Units or filters of a layer, of what it wraps or of its cell; None where it has neither."""
    size = getattr(layer, "units", getattr(layer, "filters", None))
    if isinstance(size, int):
        return size
    inner = getattr(layer, "cell", None) or getattr(layer, "layer", None)
    inner = inner or getattr(layer, "forward_layer", None)
    return _width(inner) if selectors.is_layer(inner) else None


def _outputs(model: Any) -> int:
    return len(model.outputs) if getattr(model, "outputs", None) else 1


def _count(weights: Sequence[Any]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def _layer(layer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"class": type(layer).__name__, "trainable": bool(layer.trainable)}
    if isinstance(layer, keras.Model) and not is_own(type(layer)):
        return found
    settings = object_settings(layer, functools.partial(_part, layer))
    if settings is None:
        return {**found, "config": UNKNOWN}
    skipped = ("name", "trainable", "layers", "class", "build_config")
    return {**found, **{key: value for key, value in settings.items() if key not in skipped}}


def _part(layer: Any, value: Any) -> Any:
    """Gives a setting; a layer inside this one has an entry of its own."""
    if any(value is inner for inner in internals.sublayers(layer)):
        return type(value).__name__
    return describe(value)


def _weight(site: structure.Site, names: Names, trainable: set[int]) -> dict[str, Any]:
    weight = site.weight
    found = {
        "shape": [int(size) for size in weight.shape],
        "dtype": keras.backend.standardize_dtype(weight.dtype),
        "initializer": _initializer(site),
        "trainable": id(weight) in trainable,
    }
    holders = dict.fromkeys(names.paths[id(chain[-1])] for chain in site.chains)
    if len(site.chains) > 1:
        found["shared_by"] = [
            *holders,
            *dict.fromkeys(names.paths[id(c[-2])] for c in site.chains if len(c) > 2),
        ]
    return found


def _initializer(site: structure.Site) -> Any:
    """Keras drops a weight's initializer once it ran; the layer remembers most of them."""
    name = site.weight.name
    named = [f"{name}_initializer", f"{name.removesuffix('_kernel')}_initializer"]
    for attribute in [*named, *(["depthwise_initializer"] if name == "kernel" else [])]:
        initializer = getattr(site.layer, attribute, None)
        if initializer is not None:
            return describe(initializer)
    return UNKNOWN


# Regularization.

_RATES = ("rate", "dropout", "recurrent_dropout", "stddev")


def _regularization(model: Any, names: Names) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, layer in names.layers.items():
        entry = {
            key: float(value)
            for key in _RATES
            if isinstance(value := getattr(layer, key, None), (int, float))
        }
        entry |= _penalty("activity", getattr(layer, "activity_regularizer", None))
        if entry:
            found[path] = entry
    for path, site in names.sites:
        entry = _penalty("", site.weight.regularizer)
        if site.weight.constraint is not None:
            entry["constraint"] = describe(site.weight.constraint)
        if entry:
            found[path] = entry
    decay = _weight_decay(model, names)
    return {**found, "weight_decay": decay} if decay else found


def _penalty(prefix: str, regularizer: Any) -> dict[str, Any]:
    if regularizer is None:
        return {}
    name = f"{prefix}_regularizer" if prefix else "regularizer"
    try:
        config = regularizer.get_config()
    except (AttributeError, NotImplementedError):
        return {name: describe(regularizer)}
    numbers = {f"{prefix}_{key}" if prefix else key: describe(config[key]) for key in config}
    return {name: type(regularizer).__name__, **numbers}


def _weight_decay(model: Any, names: Names) -> dict[str, Any]:
    """Gives the inner-most optimizer's decay and the weights that it leaves out.

    What a `LayerwiseOptimizer` sets for single weights is among its
    assignments.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    decay = getattr(optimizer, "weight_decay", None)
    if not isinstance(decay, (int, float)):
        return {}
    excluded = [
        path
        for path, site in names.sites
        if site.weight.trainable and not keras_optimizers.uses_decay(optimizer, site.weight)
    ]
    return {"value": float(decay), "excluded": excluded}
