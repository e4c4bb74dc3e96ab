"""The hyperparameters of a model and of its ``fit``, read from the objects themselves."""

import contextlib
import hashlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_layerwise.callbacks.unfreeze import GradualUnfreeze
from keras_layerwise.hyperparameters import fit as fitting
from keras_layerwise.hyperparameters.runtime import runtime
from keras_layerwise.model import structure
from keras_layerwise.model.selectors import label
from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer
from keras_layerwise.storage.record import UNKNOWN, flat, plain

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


class Names:
    """The layers and weights of a model under names that do not depend on the process.

    Attributes:
        layers: each layer below the model by its path, in the model's order.
        paths: those paths by ``id(layer)``.
        sites: ``(path, site)`` of every weight.
        weights: path in this process to path in the record, of each weight.
        renamed: path in the record to path in this process, of each layer where they differ.
    """

    def __init__(self, model: Any) -> None:
        self.layers: dict[str, Any] = {}
        self.paths: dict[int, str] = {id(model): structure.MODEL}
        self.renamed: dict[str, str] = {}
        counts: Counter[str] = Counter()
        own: dict[int, str] = {}

        def visit(parent: Any, path: str, actual: str) -> None:
            for layer in structure.sublayers(parent):
                if id(layer) in self.paths:
                    continue
                if id(layer) not in own:
                    own[id(layer)] = _stable_name(layer, counts)
                inner = self._unique(f"{path}/{own[id(layer)]}" if path else own[id(layer)])
                inner_actual = f"{actual}/{layer.name}" if actual else layer.name
                self.paths[id(layer)] = inner
                self.layers[inner] = layer
                if inner != inner_actual:
                    self.renamed[inner] = inner_actual
                visit(layer, inner, inner_actual)

        visit(model, "", "")
        used: Counter[str] = Counter()
        self.sites = []
        self.weights: dict[str, str] = {}
        for site in structure.sites(model):
            path = f"{self.paths[id(site.layer)]}/{site.weight.name}"
            used[path] += 1
            path = path if used[path] == 1 else f"{path}#{used[path]}"
            self.sites.append((path, site))
            # An optimizer that was built before it knew its model has Keras's own paths.
            self.weights.setdefault(getattr(site.weight, "path", site.path), path)
            self.weights[site.path] = path

    def stable_label(self, text: str | None) -> str | None:
        """A rule's text, with the name that a layer has here."""
        kind, _, name = (text or "").partition(" ")
        for path, layer in self.layers.items():
            if kind == "layer" and layer.name == name:
                return f"layer {path.rpartition('/')[2]}"
        return text

    def _unique(self, path: str) -> str:
        number, unique = 1, path
        while unique in self.layers:
            number += 1
            unique = f"{path}#{number}"
        return unique


def _stable_name(layer: Any, counts: Counter[str]) -> str:
    """The layer's name; if Keras made it up, numbered anew as in a fresh process."""
    stem = re.sub(r"_\d+$", "", layer.name)
    if stem.replace("_", "") != type(layer).__name__.replace("_", "").lower():
        return str(layer.name)
    counts[stem] += 1
    return stem if counts[stem] == 1 else f"{stem}_{counts[stem] - 1}"


def weights_fingerprint(model: Any) -> str:
    """SHA-256 of every weight's dtype, shape and bytes, in the model's order.

    The same for equal weights on every backend, and after save and reload;
    ``"unknown"`` where other processes hold parts of the weights.
    """
    digest = hashlib.sha256()
    for site in structure.sites(model):
        value = site.weight.value
        if not (getattr(value, "is_fully_addressable", True) or value.is_fully_replicated):
            return UNKNOWN
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(value))
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        shape = ",".join(str(size) for size in value.shape)
        digest.update(f"{keras.backend.standardize_dtype(site.weight.dtype)}[{shape}]".encode())
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def learning_rate(model: Any) -> float | None:
    """The learning rate at this step; None without an optimizer that has one.

    Of a model that trains with optimizers of its own, it is the first one's.
    """
    found = fitting.optimizers_of(model)
    compiled = getattr(model, "optimizer", None)
    for optimizer in sorted(found, key=lambda each: each is compiled):
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            return number(optimizer.learning_rate)
    return None


def number(value: Any) -> float:
    """A float as people write it: the shortest that is the same in the variable's dtype."""
    array = np.asarray(keras.ops.convert_to_numpy(value))
    return float(str(array[()])) if array.dtype.kind == "f" else float(array)


def _short(value: float) -> float:
    """A float that went through float32 in Keras, as it was before: 0.3, not 0.30000001192."""
    if not np.isfinite(value) or abs(value) > np.finfo(np.float32).max:
        return value
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value


# Architecture.


def _architecture(model: Any, names: Names) -> dict[str, Any]:
    leaves = [
        layer
        for layer in names.layers.values()
        if not isinstance(layer, (keras.Model, keras.layers.InputLayer))
    ]
    sizes = [getattr(layer, "units", getattr(layer, "filters", None)) for layer in leaves]
    widths = [int(size) for size in sizes if isinstance(size, int)]
    trainable = {id(weight) for weight in model.trainable_weights}
    return {
        "class": type(model).__name__,
        "number_of_layers": len(leaves),
        "hidden_layers": max(len(widths) - _outputs(model), 0),
        "hidden_units": widths[: max(len(widths) - _outputs(model), 0)],
        "parameters": _count(model.weights) if model.built else UNKNOWN,
        "trainable_parameters": _count(model.trainable_weights) if model.built else UNKNOWN,
        "layers": {
            path: _layer(layer)
            for path, layer in names.layers.items()
            if not isinstance(layer, keras.layers.InputLayer)
        },
        "weights": {path: _weight(site, names, trainable) for path, site in names.sites},
    }


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
        yield "epochs", {str(epoch): label(select) for epoch, select in callback.epochs.items()}
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
        found["learning_rate_schedule"] = _nested(rate)
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
        rule = {key: _nested(value) for key, value in setting["rule"].items()}
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


# Objects in words.


def describe_object(value: Any) -> Any:
    """Any Keras object, function or nesting of them, as `describe` would its serialized form."""
    if isinstance(value, (list, tuple)):
        return [describe_object(member) for member in value]
    if isinstance(value, Mapping):
        return {str(key): describe_object(member) for key, member in value.items()}
    if inspect.isfunction(value) or inspect.isbuiltin(value) or inspect.isclass(value):
        return value.__name__
    if hasattr(value, "get_config"):
        try:
            # Some of Keras's losses leave what they were made with out of their config.
            config = {**value.get_config(), **getattr(value, "_fn_kwargs", {})}
            return describe({"class_name": type(value).__name__, "config": config})
        except Exception:  # an object of the user's own need not be serializable
            return type(value).__name__
    return describe(value)


def describe(value: Any) -> Any:
    """A value out of ``get_config`` on one line where it is an object.

    Example:

    >>> describe({"module": "keras.regularizers", "class_name": "L2", "config": {"l2": 0.01}})
    'L2(l2=0.01)'
    """
    if isinstance(value, Mapping) and "class_name" in value and "config" in value:
        return _object_text(value)
    if isinstance(value, Mapping):
        return {str(key): describe(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(member) for member in value]
    try:
        return plain(_short(value) if type(value) is float else value)
    except TypeError:
        pass
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(value))
        digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        return f"array {list(array.shape)} {array.dtype} sha256:{digest}"
    return getattr(value, "__name__", type(value).__name__)


def _object_text(value: Mapping[str, Any]) -> str:
    config, name = value["config"], str(value["class_name"])
    if name == "__lambda__":
        return "lambda"
    if name == "function" or isinstance(config, str):
        return str(config)
    if name == "DTypePolicy" and isinstance(config, Mapping):
        return str(config["name"])
    if not isinstance(config, Mapping):
        return name
    settings = {key: describe(v) for key, v in config.items() if key != "name" and v is not None}
    return f"{name}({', '.join(f'{key}={v}' for key, v in settings.items())})"


def _nested(value: Any) -> Any:
    """A serialized schedule as keys of its own, so that each number can be compared."""
    if isinstance(value, Mapping) and "class_name" in value and "config" in value:
        config = value["config"]
        inner = (
            {key: _nested(member) for key, member in config.items() if key != "name"}
            if isinstance(config, Mapping)
            else {"config": describe(config)}
        )
        return {"class": value["class_name"], **inner}
    return describe(value)
