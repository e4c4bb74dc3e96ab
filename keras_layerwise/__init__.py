"""Per-layer settings for Keras that hold, and a record of what they did.

Names are loaded when they are first used, so that ``import keras_layerwise``
(which the TensorBoard server and the command line do) loads neither Keras nor
its backend.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_layerwise import registration

if TYPE_CHECKING:
    from keras_layerwise.depth import discriminative as discriminative
    from keras_layerwise.depth import layer_decay as layer_decay
    from keras_layerwise.drift import WeightDrift as WeightDrift
    from keras_layerwise.errors import (
        FrozenHyperparameterError as FrozenHyperparameterError,
    )
    from keras_layerwise.errors import RuleError as RuleError
    from keras_layerwise.freeze import FreezeHyperparameters as FreezeHyperparameters
    from keras_layerwise.inventories import inventory as inventory
    from keras_layerwise.monitor import LearningRateMonitor as LearningRateMonitor
    from keras_layerwise.optimizer import LayerwiseOptimizer as LayerwiseOptimizer
    from keras_layerwise.overrides import override as override
    from keras_layerwise.record import load_record as load_record
    from keras_layerwise.rules import Assignment as Assignment
    from keras_layerwise.rules import Rule as Rule
    from keras_layerwise.unfreeze import GradualUnfreeze as GradualUnfreeze

# No module has the name of what it gives: importing it would put itself in its place.
_MODULES = {
    "Assignment": "rules",
    "FreezeHyperparameters": "freeze",
    "FrozenHyperparameterError": "errors",
    "GradualUnfreeze": "unfreeze",
    "LayerwiseOptimizer": "optimizer",
    "LearningRateMonitor": "monitor",
    "Rule": "rules",
    "RuleError": "errors",
    "WeightDrift": "drift",
    "discriminative": "depth",
    "inventory": "inventories",
    "layer_decay": "depth",
    "load_record": "record",
    "override": "overrides",
}

__version__ = "0.1.0"
__all__ = [
    "Assignment",
    "FreezeHyperparameters",
    "FrozenHyperparameterError",
    "GradualUnfreeze",
    "LayerwiseOptimizer",
    "LearningRateMonitor",
    "Rule",
    "RuleError",
    "WeightDrift",
    "__version__",
    "discriminative",
    "inventory",
    "layer_decay",
    "load_record",
    "override",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


registration.once_keras_is_loaded("keras_layerwise.optimizer")
