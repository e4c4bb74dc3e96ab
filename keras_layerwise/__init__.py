"""Per-layer settings for Keras that hold, and a record of what they did.

Names are loaded when they are first used, so that ``import keras_layerwise``
(which the TensorBoard server and the command line do) loads neither Keras nor
its backend.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_layerwise import registration

if TYPE_CHECKING:
    from keras_layerwise.callbacks.auto_freeze import AutoFreeze as AutoFreeze
    from keras_layerwise.callbacks.freeze import FreezeHyperparameters as FreezeHyperparameters
    from keras_layerwise.callbacks.rate_monitor import LearningRateMonitor as LearningRateMonitor
    from keras_layerwise.callbacks.run import run as run
    from keras_layerwise.callbacks.unfreeze import GradualUnfreeze as GradualUnfreeze
    from keras_layerwise.callbacks.weight_drift import WeightDrift as WeightDrift
    from keras_layerwise.drift.averages import reestimate_averages as reestimate_averages
    from keras_layerwise.drift.interpolation import interpolate as interpolate
    from keras_layerwise.drift.interpolation import interpolation_curve as interpolation_curve
    from keras_layerwise.drift.statistics import Statistic as Statistic
    from keras_layerwise.errors import FrozenHyperparameterError as FrozenHyperparameterError
    from keras_layerwise.errors import RuleError as RuleError
    from keras_layerwise.hyperparameters.inventory import inventory as inventory
    from keras_layerwise.hyperparameters.override import Override as Override
    from keras_layerwise.hyperparameters.override import override as override
    from keras_layerwise.model.outline import Outline as Outline
    from keras_layerwise.model.outline import outline as outline
    from keras_layerwise.optimizer.attachment import optimizer_of as optimizer_of
    from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer as LayerwiseOptimizer
    from keras_layerwise.optimizer.presets import discriminative as discriminative
    from keras_layerwise.optimizer.presets import layer_decay as layer_decay
    from keras_layerwise.optimizer.presets import lora_plus as lora_plus
    from keras_layerwise.optimizer.presets import no_weight_decay as no_weight_decay
    from keras_layerwise.optimizer.rules import Rule as Rule
    from keras_layerwise.optimizer.rules import Rules as Rules
    from keras_layerwise.optimizer.summary import Assignment as Assignment
    from keras_layerwise.storage.record import Record as Record
    from keras_layerwise.storage.record import load_record as load_record
    from keras_layerwise.storage.sinks import CSVSink as CSVSink
    from keras_layerwise.storage.sinks import Sink as Sink

# A submodule must not share a public name: importing it would overwrite the attribute.
_MODULES = {
    "Assignment": "optimizer.summary",
    "AutoFreeze": "callbacks.auto_freeze",
    "CSVSink": "storage.sinks",
    "FreezeHyperparameters": "callbacks.freeze",
    "FrozenHyperparameterError": "errors",
    "GradualUnfreeze": "callbacks.unfreeze",
    "LayerwiseOptimizer": "optimizer.layerwise",
    "LearningRateMonitor": "callbacks.rate_monitor",
    "Outline": "model.outline",
    "Override": "hyperparameters.override",
    "Record": "storage.record",
    "Rule": "optimizer.rules",
    "RuleError": "errors",
    "Rules": "optimizer.rules",
    "Sink": "storage.sinks",
    "Statistic": "drift.statistics",
    "WeightDrift": "callbacks.weight_drift",
    "discriminative": "optimizer.presets",
    "interpolate": "drift.interpolation",
    "interpolation_curve": "drift.interpolation",
    "inventory": "hyperparameters.inventory",
    "layer_decay": "optimizer.presets",
    "load_record": "storage.record",
    "lora_plus": "optimizer.presets",
    "no_weight_decay": "optimizer.presets",
    "optimizer_of": "optimizer.attachment",
    "outline": "model.outline",
    "override": "hyperparameters.override",
    "reestimate_averages": "drift.averages",
    "run": "callbacks.run",
}

__version__ = "0.1.0"
__all__ = [
    "Assignment",
    "AutoFreeze",
    "CSVSink",
    "FreezeHyperparameters",
    "FrozenHyperparameterError",
    "GradualUnfreeze",
    "LayerwiseOptimizer",
    "LearningRateMonitor",
    "Outline",
    "Override",
    "Record",
    "Rule",
    "RuleError",
    "Rules",
    "Sink",
    "Statistic",
    "WeightDrift",
    "__version__",
    "discriminative",
    "interpolate",
    "interpolation_curve",
    "inventory",
    "layer_decay",
    "load_record",
    "lora_plus",
    "no_weight_decay",
    "optimizer_of",
    "outline",
    "override",
    "reestimate_averages",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


registration.once_keras_is_loaded("keras_layerwise.on_keras")
