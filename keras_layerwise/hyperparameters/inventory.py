"""The hyperparameters of a model and of its ``fit``, read from the objects themselves."""

import contextlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_layerwise.callbacks.unfreeze import GradualUnfreeze
from keras_layerwise.hyperparameters import fit as fitting
from keras_layerwise.hyperparameters.describe import describe, describe_object, nested
from keras_layerwise.hyperparameters.names import Names
from keras_layerwise.hyperparameters.runtime import runtime
from keras_layerwise.model import selectors, structure
from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer
from keras_layerwise.storage.values import UNKNOWN, flat

# Callbacks that write down what happens, and change nothing in it.
_OBSERVERS = (
    "BackupAndRestore",
    "CSVLogger",
    "FreezeHyperparameters",
    "History",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ProgbarLogger",
    "RemoteMonitor",
    "TensorBoard",
    "WeightDrift",
)
# Settings that say where something is kept or what is printed.
_PLACES = re.compile(r".*(dir|path|file|filename|directory|root|url|verbose|name)")


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
    names = Names(model)
    return {
        "architecture": _architecture(model, names),
        "training": _training(model, names),
        "regularization": _regularization(model, names),
        "runtime": runtime(model),
    }


def settings_of(model: Any) -> dict[str, Any]:
    """The layers' settings alone, as the flat keys of a record."""
    names = Names(model)
    return flat(
        {
            "architecture": _architecture(model, names),
            "regularization": _regularization(model, names),
        }
    )


def learning_rate(model: Any) -> float | None:
    """The learning rate at this step; None without an optimizer that has one.

    Of a model that trains with optimizers of its own, it is the first one's.
    """
    for optimizer in fitting.optimizers_of(model):
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            return number(optimizer.learning_rate)
    return None


def number(value: Any) -> float:
    """A float as people write it: the shortest that is the same in the variable's dtype."""
    array = np.asarray(keras.ops.convert_to_numpy(value))
    return float(str(array[()])) if array.dtype.kind == "f" else float(array)


# Architecture.


def _architecture(model: Any, names: Names) -> dict[str, Any]:
    leaves = list(_leaves(model, set()))
    widths = [width for width in map(_width, leaves) if width is not None]
    hidden = max(len(widths) - _outputs(model), 0)
    trainable = {id(weight) for weight in model.trainable_weights}
    return {
        "class": type(model).__name__,
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
    """The layers that a reader would count; what one of Keras's own is made of is part of it."""
    for layer in structure.sublayers(parent):
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
    return int(sum(np.prod(weight.shape, dtype=np.int64) for weight in weights))


def _layer(layer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"class": type(layer).__name__, "trainable": bool(layer.trainable)}
    if isinstance(layer, keras.Model):
        return found
    try:
        config = layer.get_config()
    except Exception:  # a layer of the user's own need not be serializable
        return {**found, "config": UNKNOWN}
    skipped = ("name", "trainable", "layers", "class", "build_config")
    return {**found, **{key: describe(v) for key, v in config.items() if key not in skipped}}


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
    for attribute in (f"{name}_initializer", f"{name.removesuffix('_kernel')}_initializer"):
        initializer = getattr(site.layer, attribute, None)
        if initializer is not None:
            return describe_object(initializer)
    return UNKNOWN


# Training.


def _training(model: Any, names: Names) -> dict[str, Any]:
    found: dict[str, Any] = _fit(model)
    if not getattr(model, "compiled", False):
        return found
    compile_loss = getattr(model, "_compile_loss", None)
    compile_metrics = getattr(model, "_compile_metrics", None)
    found["loss"] = describe_object(model.loss)
    found["loss_weights"] = describe_object(getattr(compile_loss, "_user_loss_weights", None))
    found["metrics"] = describe_object(getattr(compile_metrics, "_user_metrics", None))
    found["weighted_metrics"] = describe_object(
        getattr(compile_metrics, "_user_weighted_metrics", None)
    )
    found["steps_per_execution"] = model.steps_per_execution
    if model.optimizer is not None:
        found |= _optimizer(model.optimizer, names)
    return found


_FIT = (
    "epochs",
    "steps_per_epoch",
    "batch_size",
    "data",
    "shuffle",
    "validation_split",
    "class_weights",
)


def _fit(model: Any) -> dict[str, Any]:
    params = getattr(getattr(model, "history", None), "params", None) or {}
    found: dict[str, Any] = dict.fromkeys(_FIT, UNKNOWN)
    found |= fitting.described(model)
    found["epochs"] = params.get("epochs", found["epochs"])
    found["steps_per_epoch"] = params.get("steps") or UNKNOWN
    callbacks = fitting.callbacks_of(model)
    if callbacks is not None:
        found["callbacks"] = describe_callbacks(callbacks)
    return found


def describe_callbacks(callbacks: Sequence[Any]) -> dict[str, Any]:
    """The settings of the callbacks that act on training, by class name."""
    found: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        if name in _OBSERVERS:
            continue
        counts[name] += 1
        key = name if counts[name] == 1 else f"{name}_{counts[name]}"
        found[key] = dict(_callback_settings(callback)) or True
    return found


def _callback_settings(callback: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(callback, GradualUnfreeze):
        yield (
            "epochs",
            {str(epoch): selectors.label(select) for epoch, select in callback.epochs.items()},
        )
        return
    for name, parameter in inspect.signature(type(callback).__init__).parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if name == "self" or not named or _PLACES.fullmatch(name):
            continue
        value: Any = getattr(callback, name, UNKNOWN)
        # Keras turns its sign once it knows the direction of the metric.
        yield name, describe_object(abs(value) if name == "min_delta" else value)


def _optimizer(optimizer: Any, names: Names) -> dict[str, Any]:
    found: dict[str, Any] = {}
    wrappers = []
    while hasattr(optimizer, "inner_optimizer"):
        wrappers.append(type(optimizer).__name__)
        if isinstance(optimizer, LayerwiseOptimizer):
            found["assignments"] = _assignments(optimizer, names)
        else:
            settings = _config(optimizer)
            settings.pop("inner_optimizer", None)
            found[type(optimizer).__name__] = _tidy(settings)
        optimizer = optimizer.inner_optimizer
    if wrappers:
        found["optimizer_wrappers"] = wrappers
    config = _config(optimizer)
    rate = config.pop("learning_rate", None)
    if isinstance(rate, Mapping):
        found["learning_rate_schedule"] = nested(rate)
    elif isinstance(rate, float):
        found["learning_rate"] = number(optimizer.learning_rate)
    members = getattr(optimizer, "optimizers", ())
    if members:
        config = {str(i): _optimizer(member, names) for i, member in enumerate(members)}
        return {**found, "optimizer": {"class": type(optimizer).__name__, **config}}
    return {**found, "optimizer": {"class": type(optimizer).__name__, **_tidy(config)}}


def _config(optimizer: Any) -> dict[str, Any]:
    try:
        return dict(optimizer.get_config())
    except Exception:  # an optimizer of the user's own need not be serializable
        return {"settings": UNKNOWN}


def _tidy(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: describe(value) for key, value in config.items() if key != "name"}


def _assignments(optimizer: LayerwiseOptimizer, names: Names) -> Any:
    config = optimizer.get_config()
    if "assignment" not in config:
        return UNKNOWN
    found = {}
    for setting in config["assignment"]:
        rule = {key: nested(value) for key, value in setting["rule"].items()}
        if rule["multiplier"] is None and rule["learning_rate"] is None:
            rule["multiplier"] = 1.0
        path = names.weights.get(setting["path"], setting["path"])
        found[path] = {"rule": names.stable_label(setting["label"]), **rule}
    return found


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
            entry["constraint"] = describe_object(site.weight.constraint)
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
        return {name: describe_object(regularizer)}
    numbers = {f"{prefix}_{key}" if prefix else key: describe(config[key]) for key in config}
    return {name: type(regularizer).__name__, **numbers}


def _weight_decay(model: Any, names: Names) -> dict[str, Any]:
    """The inner-most optimizer's decay and the weights that it leaves out.

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
        if site.weight.trainable and not optimizer._use_weight_decay(site.weight)
    ]
    return {"value": float(decay), "excluded": excluded}
