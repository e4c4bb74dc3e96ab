"""What training was configured with: fit, compile, optimizers, callbacks."""

import contextlib
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_layerwise.backend import internals, keras_optimizers
from keras_layerwise.hyperparameters import fit as fitting
from keras_layerwise.hyperparameters.describe import describe, nested, parameters
from keras_layerwise.hyperparameters.functions import code_of, is_own
from keras_layerwise.hyperparameters.names import Names
from keras_layerwise.model import interpolated, selectors
from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer
from keras_layerwise.optimizer.plan import Plan
from keras_layerwise.optimizer.setting import Setting
from keras_layerwise.optimizer.storing import of_model, rule_to_json
from keras_layerwise.storage.values import UNKNOWN

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


def training(
    model: Any, names: Names, assigned: Callable[[Any], Any] | None = None
) -> dict[str, Any]:
    """Reads the ``training`` group of an inventory.

    Args:
        model: a Keras model.
        names: of its layers and weights.
        assigned: gives the `assignments` of an optimizer, where they need not be read anew.
    """
    assigned = assigned or functools.partial(assignments, names=names)
    found: dict[str, Any] = _fit(model)
    if getattr(model, "compiled", False):
        found["loss"] = describe(model.loss)
        for name, value in internals.compile_arguments(model).items():
            found[name] = describe(value)
        found["steps_per_execution"] = model.steps_per_execution
    if shares := interpolated.shares(model):
        found["interpolation"] = shares[0] if len(shares) == 1 else shares
    used = fitting.optimizers_of(model)
    # A model that trains with optimizers of its own does not use Keras's default one.
    members = {k: member for k, member in _own_optimizers(model).items() if member in used}
    compiled = getattr(model, "optimizer", None)
    rest = [one for one in used if not any(one is other for other in members.values())]
    if rest and compiled not in rest:  # given the model, and kept by the loop that trains it
        members |= {str(i): one for i, one in enumerate(rest)} if len(rest) > 1 else {}
        compiled = rest[0] if len(rest) == 1 else None
    if members:
        found["optimizers"] = {key: _optimizer(member, assigned) for key, member in members.items()}
    if compiled is not None and any(compiled is member for member in used):
        found |= _optimizer(compiled, assigned)
    return found


def _own_optimizers(model: Any) -> dict[str, Any]:
    """Finds the optimizers that the model keeps beside the compiled one, by attribute."""
    found: dict[str, Any] = {}
    compiled = getattr(model, "optimizer", None)
    for name, value in vars(model).items():
        is_many = isinstance(value, (dict, list, tuple))
        several = value if isinstance(value, dict) else dict(enumerate(value)) if is_many else {}
        for key, member in (several or {"": value}).items():
            if isinstance(member, keras.Optimizer) and member is not compiled:
                found[f"{name}/{key}" if several else name] = member
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
    """Gives the settings of the callbacks that act on training, by class name."""
    found: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        if name in _OBSERVERS or getattr(callback, "observes_only", False):
            continue
        counts[name] += 1
        key = name if counts[name] == 1 else f"{name}_{counts[name]}"
        found[key] = dict(_callback_settings(callback)) or True
    return found


def _callback_settings(callback: Any) -> Iterator[tuple[str, Any]]:
    for name in parameters(type(callback)):
        if not _PLACES.fullmatch(name):
            value: Any = getattr(callback, name, UNKNOWN)
            # Keras turns its sign once it knows the direction of the metric.
            yield name, _selected(abs(value) if name == "min_delta" else value)


def _selected(value: Any) -> Any:
    """Gives a callback's setting, where selectors are among them by their labels."""
    if isinstance(value, Mapping):
        return {str(key): _selected(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_selected(member) for member in value]
    if selectors.is_layer(value) or selectors.is_part(value):
        return selectors.label(value)
    return describe(value)


def _optimizer(optimizer: Any, assigned: Callable[[Any], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    wrappers = []
    while hasattr(optimizer, "inner_optimizer"):
        wrappers.append(type(optimizer).__name__)
        if isinstance(optimizer, LayerwiseOptimizer):
            found["assignments"] = assigned(optimizer)
        else:
            settings = _config(optimizer)
            settings.pop("inner_optimizer", None)
            found[type(optimizer).__name__] = _tidy(settings)
        optimizer = optimizer.inner_optimizer
    if wrappers:
        found["optimizer_wrappers"] = wrappers
    config = _config(optimizer)
    rate = config.pop("learning_rate", None)
    members = getattr(optimizer, "optimizers", ())
    schedule = None if members else keras_optimizers.schedule_of(optimizer)
    if schedule is not None:
        found["learning_rate_schedule"] = nested(schedule)
    elif isinstance(rate, float):
        found["learning_rate"] = number(optimizer.learning_rate)
    if members:
        config = {str(i): _optimizer(member, assigned) for i, member in enumerate(members)}
        return {**found, "optimizer": {"class": type(optimizer).__name__, **config}}
    return {**found, "optimizer": {"class": type(optimizer).__name__, **_tidy(config)}}


def _config(optimizer: Any) -> dict[str, Any]:
    try:
        config = dict(optimizer.get_config())
    except Exception:  # a schedule that cannot be serialized must not hide what else there is
        names = dict.fromkeys(n for cls in type(optimizer).__mro__ for n in parameters(cls))
        config = {name: getattr(optimizer, name, UNKNOWN) for name in names}
        config["learning_rate"] = number(optimizer.learning_rate)
    code = {"code": code_of(type(optimizer))} if is_own(type(optimizer)) else {}
    return {**config, **code}


def _tidy(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: describe(value) for key, value in config.items() if key != "name"}


def assignments(optimizer: LayerwiseOptimizer, names: Names) -> Any:
    """Gives what the rules of an optimizer say of each weight that it was built for."""
    plan = optimizer.plan
    if not plan.settings:
        return UNKNOWN
    found = {}
    for setting in _settings(plan):
        rule = {key: nested(value) for key, value in rule_to_json(setting.rule).items()}
        if rule["multiplier"] is None and rule["learning_rate"] is None:
            rule["multiplier"] = 1.0
        path = names.weights.get(setting.path, setting.path)
        found[path] = {"rule": names.stable_label(setting.label), **rule}
    return found


def assignment_state(optimizer: LayerwiseOptimizer) -> list[Any]:
    """Lists the objects that decide what `assignments` gives."""
    found: list[Any] = [optimizer]
    for setting in _settings(optimizer.plan):
        found.append(setting)
        for value in (setting.rule.multiplier, setting.rule.learning_rate):
            if value is not None and not isinstance(value, (int, float)):  # a schedule
                found.append(str(nested(value)))
    return found


def _settings(plan: Plan) -> Iterator[Setting]:
    trained = set(plan.trained)
    return (s for position, s in enumerate(of_model(plan)) if position in trained)


def learning_rate(model: Any) -> float | None:
    """Gives the learning rate at this step; None without an optimizer that has one.

    Of a model that trains with optimizers of its own, it is the first one's.
    """
    for optimizer in fitting.optimizers_of(model):
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            return number(optimizer.learning_rate)
    return None


def number(value: Any) -> float:
    """Gives a float as people write it: the shortest that is the same in the variable's dtype."""
    array = np.asarray(keras.ops.convert_to_numpy(value))
    return float(str(array[()])) if array.dtype.kind == "f" else float(array)
