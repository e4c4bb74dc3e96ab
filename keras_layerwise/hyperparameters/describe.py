"""Settings in words: objects, functions and arrays as plain values or one-line texts."""

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_layerwise.storage.values import plain


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


def nested(value: Any) -> Any:
    """A serialized schedule as keys of its own, so that each number can be compared."""
    if isinstance(value, Mapping) and "class_name" in value and "config" in value:
        config = value["config"]
        inner = (
            {key: nested(member) for key, member in config.items() if key != "name"}
            if isinstance(config, Mapping)
            else {"config": describe(config)}
        )
        return {"class": value["class_name"], **inner}
    return describe(value)


def _short(value: float) -> float:
    """A float that went through float32 in Keras, as it was before: 0.3, not 0.30000001192."""
    if not np.isfinite(value) or abs(value) > np.finfo(np.float32).max:
        return value
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value
