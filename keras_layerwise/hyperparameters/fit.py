"""Describes what ``fit`` was given, as plain values.

Keras tells a callback the number of epochs and steps, but not the batch size,
the class weights or the validation split. `keras_layerwise.callbacks.fit_hook`
notes them here when ``fit`` begins.
"""

import contextlib
import inspect
import math
import weakref
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import keras

from keras_layerwise.backend import internals
from keras_layerwise.hyperparameters.provenance import data_fingerprint
from keras_layerwise.optimizer.attachment import given_to, held
from keras_layerwise.storage.values import UNKNOWN

NONE = "none"


class _Running(NamedTuple):
    """A ``fit`` that goes on; callbacks hold the model, which could never be freed if held here."""

    callbacks: tuple[Any, ...]
    by_wrapper: bool


_data: "weakref.WeakKeyDictionary[Any, Future[str]]" = weakref.WeakKeyDictionary()
_descriptions: "weakref.WeakKeyDictionary[Any, dict[str, Any]]" = weakref.WeakKeyDictionary()
_running: "weakref.WeakKeyDictionary[Any, _Running]" = weakref.WeakKeyDictionary()

# What of `describe` tells nothing where a ``fit`` of the user's own has no such argument.
_TOLD_BY = {
    "data": "x",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "shuffle": "shuffle",
    "validation_split": "validation_split",
    "validation_data": "validation_data",
    "validation_freq": "validation_freq",
    "class_weights": "class_weight",
    "sample_weights": "sample_weight",
}


def begin(model: Any, arguments: Mapping[str, Any], callbacks: Iterable[Any]) -> Any:
    """Notes what a ``fit`` of `model` that begins now was given; `end` takes what this returns."""
    before = _running.get(model)
    given = tuple(callbacks)
    _descriptions.pop(model, None)
    _data.pop(model, None)
    with contextlib.suppress(Exception):  # what nobody thought of is unknown, and no one's error
        _descriptions[model] = describe(arguments)
        _running[model] = _Running(tuple(map(weakref.ref, given)), by_wrapper=True)
        is_arrays = _descriptions[model]["data"] == "arrays"
        if is_arrays and any(getattr(callback, "records_data", False) for callback in given):
            _data[model] = data_fingerprint((arguments["x"], arguments["y"]))
    return before


def begin_loop(model: Any, callbacks: Iterable[Any]) -> Any:
    """Notes a loop of the user's own, of which nothing is known but its callbacks."""
    before = _running.get(model)
    _descriptions.pop(model, None)
    _data.pop(model, None)
    _running[model] = _Running(tuple(map(weakref.ref, callbacks)), by_wrapper=True)
    return before


def data_of(model: Any, wait: bool = True) -> str | None:
    """Gives the fingerprint of the arrays that the last ``fit`` of `model` was given.

    Where they are not read yet, waits or gives None; ``"unknown"`` for what are no arrays.
    """
    future = _data.get(model)
    if future is None:
        return UNKNOWN
    return future.result() if wait or future.done() else None


def end(model: Any, before: Any) -> None:
    """Forgets a ``fit`` that has ended, for the one around it, if any."""
    _running.pop(model, None)
    if before is not None:
        _running[model] = before


def note_calling_frame(model: Any) -> None:
    """Describes a ``fit`` of `model` that was called past the wrapper, from its variables.

    A program that took hold of ``model.fit`` before this package was imported
    calls Keras's own, and a class may have a ``fit`` of its own.
    """
    running = _running.pop(model, None)
    if running is not None and running.by_wrapper:
        _running[model] = running
        return
    _descriptions.pop(model, None)
    frame = inspect.currentframe()
    while frame is not None:
        names = frame.f_locals
        if frame.f_code.co_name == "fit" and names.get("self") is model:
            with contextlib.suppress(Exception):
                _descriptions[model] = _described_by(names)
            given = getattr(names.get("callbacks"), "callbacks", None)
            if isinstance(given, list):
                _running[model] = _Running(tuple(map(weakref.ref, given)), by_wrapper=False)
            return
        frame = frame.f_back


def _described_by(names: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: names.get(name) for name in (*_TOLD_BY.values(), "steps_per_epoch")}
    split = arguments["validation_split"]
    if split and arguments["validation_data"] is not None:  # Keras has split the arrays already
        arguments |= {"validation_split": 0.0, "validation_data": None}
    found = describe(arguments)
    found["validation_split"] = split or 0.0
    return found | {key: UNKNOWN for key, name in _TOLD_BY.items() if name not in names}


def described(model: Any) -> dict[str, Any]:
    """Describes what the running or last ``fit`` of `model` was given; empty where not known."""
    return dict(_descriptions.get(model, {}))


def callbacks_of(model: Any) -> tuple[Any, ...] | None:
    """Gives the callbacks that the running ``fit`` of `model` was given; None where not known."""
    running = _running.get(model)
    if running is None:
        return None
    return tuple(callback for held in running.callbacks if (callback := held()) is not None)


def optimizers_of(model: Any) -> list[Any]:
    """Gives all optimizers found on `model`: the one it was compiled with first, then its own.

    A model with a ``train_step`` of its own keeps its optimizers in attributes,
    also in lists and dicts. Keras's default, which ``compile()`` makes for such a
    model and which never makes a step, is left out. Where the model has none,
    these are the optimizers that were given the model, for a loop of one's own.
    """
    found = held(model) or given_to(model)
    inner = {key for optimizer in found for key in _inside(optimizer)}
    outer = [optimizer for optimizer in found if id(optimizer) not in inner]
    return outer[1:] if len(outer) > 1 and _is_unused(model, outer[0]) else outer


def _is_unused(model: Any, optimizer: Any) -> bool:
    compiled = getattr(model, "optimizer", None)
    is_default = optimizer is compiled and isinstance(optimizer, keras.optimizers.RMSprop)
    return is_default and not int(keras.ops.convert_to_numpy(optimizer.iterations))


def _inside(optimizer: Any) -> Iterator[int]:
    """Ids of the optimizers that `optimizer` wraps."""
    members = getattr(optimizer, "optimizers", None) or ()
    for member in (getattr(optimizer, "inner_optimizer", None), *members):
        if member is not None:
            yield id(member)
            yield from _inside(member)


def trains_itself(model: Any) -> bool:
    """Tells whether `model` trains with optimizers of its own: its steps are its batches."""
    compiled = getattr(model, "optimizer", None)
    return compiled is None or optimizers_of(model) != [compiled]


def step_count(model: Any) -> int:
    """Gives the largest step count of all optimizers found on `model`."""
    counts = [getattr(optimizer, "iterations", 0) for optimizer in optimizers_of(model)]
    return max((int(keras.ops.convert_to_numpy(count)) for count in counts), default=0)


def describe(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the arguments of ``fit`` as plain values; data is described, not kept."""
    x = arguments["x"]
    class_weight = arguments["class_weight"]
    kind = data_kind(x)
    found: dict[str, Any] = {
        "data": kind,
        "epochs": arguments["epochs"],
        "batch_size": _batch_size(kind, arguments),
        "shuffle": _shuffle(kind, arguments),
        "validation_split": arguments["validation_split"] or 0.0,
        "validation_data": data_kind(_first(arguments["validation_data"])),
        "validation_freq": arguments["validation_freq"],
        "class_weights": class_weight is not None,
        "sample_weights": _sample_weights(kind, arguments),
    }
    if kind == "arrays":
        found["samples"] = _kept(arguments)
    if class_weight is not None:
        found["class_weight"] = {str(key): float(class_weight[key]) for key in class_weight}
    return found


def data_kind(x: Any) -> str:
    """Tells how data is fed, in the terms of ``fit``'s documentation.

    Example:

    >>> import numpy as np
    >>> data_kind({"a": np.zeros(3)}), data_kind(iter([1])), data_kind(None), data_kind(object())
    ('arrays', 'generator', 'none', 'unknown')
    """
    if x is None:
        return NONE
    if isinstance(x, keras.utils.PyDataset):
        return "PyDataset"
    bases = {(base.__module__.partition(".")[0], base.__name__) for base in type(x).__mro__}
    if ("tensorflow", "DatasetV2") in bases or (
        "tensorflow",
        "DistributedDatasetInterface",
    ) in bases:
        return "tf.data"
    if ("torch", "DataLoader") in bases:
        return "DataLoader"
    if any(module == "grain" for module, _ in bases):
        return "grain"
    leaves = keras.tree.flatten(x)
    if leaves and all(hasattr(leaf, "shape") and len(leaf.shape) for leaf in leaves):
        return "arrays"
    if isinstance(x, Iterator):
        return "generator"
    return UNKNOWN


def _first(data: Any) -> Any:
    """Gives the inputs of ``validation_data``, which is (x, y), (x, y, weights) or a data set."""
    return data[0] if isinstance(data, tuple) and data else data


def _rows(x: Any) -> int:
    return int(keras.tree.flatten(x)[0].shape[0])


def _kept(arguments: Mapping[str, Any]) -> int:
    """Gives the samples left for training after the validation split."""
    rows = _rows(arguments["x"])
    split = arguments["validation_split"]
    if not split or arguments["validation_data"] is not None:
        return rows
    return int(rows * (1.0 - split))


def _batch_size(kind: str, arguments: Mapping[str, Any]) -> Any:
    x = arguments["x"]
    if kind == "arrays":
        # As documented for `fit`: 32 by default, but enough for all in the steps asked for.
        steps = arguments["steps_per_epoch"]
        return arguments["batch_size"] or (math.ceil(_kept(arguments) / steps) if steps else 32)
    if kind == "tf.data":
        return _tf_batch_size(x)
    size = getattr(x, "batch_size", None)
    if kind == "DataLoader" and size is None:
        size = getattr(_plain_sampler(x), "batch_size", None)
    return size if isinstance(size, int) else UNKNOWN


def _plain_sampler(loader: Any) -> Any:
    """Gives the loader's batch sampler where it is PyTorch's own, whose work is known."""
    found = getattr(loader, "batch_sampler", None)
    return found if type(found).__name__ == "BatchSampler" else None


def _shuffle(kind: str, arguments: Mapping[str, Any]) -> Any:
    x = arguments["x"]
    if kind in ("arrays", "PyDataset"):
        return arguments["shuffle"]
    if kind == "tf.data":
        return _tf_shuffle(x)
    if kind == "DataLoader":
        sampler = type(getattr(_plain_sampler(x), "sampler", None)).__name__
        return {"RandomSampler": True, "SequentialSampler": False}.get(sampler, UNKNOWN)
    return UNKNOWN


def _sample_weights(kind: str, arguments: Mapping[str, Any]) -> Any:
    if kind == "arrays":
        return arguments["sample_weight"] is not None
    if kind == "tf.data" and isinstance(arguments["x"].element_spec, tuple):
        return len(arguments["x"].element_spec) == 3
    return UNKNOWN


# Steps of a tf.data pipeline that change neither the size of a batch nor the order.
_NEUTRAL = ("Prefetch", "Map", "Repeat", "Take", "Skip", "Options", "Cache", "ModelDataset")


def _tf_batch_size(dataset: Any) -> Any:
    spec = keras.tree.flatten(dataset.element_spec)[0]
    rows = spec.shape[0] if getattr(spec, "shape", None) else None
    if rows is not None:
        return int(rows)
    for name, step in internals.pipeline(dataset):
        if "BatchDataset" in name and (size := internals.batch_size_of(step)) is not None:
            return size
        if "FlatMap" in name or not any(neutral in name for neutral in (*_NEUTRAL, "Shuffle")):
            break
    return UNKNOWN


def _tf_shuffle(dataset: Any) -> Any:
    for name, _ in internals.pipeline(dataset):
        if "Shuffle" in name:
            return True
        if "FlatMap" in name:
            return UNKNOWN
        if not any(part in name for part in (*_NEUTRAL, "Batch")):
            return False if "Tensor" in name or "Range" in name else UNKNOWN
    return UNKNOWN
