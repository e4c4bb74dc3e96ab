"""Settings in words: any object, function or array as a plain value or a one-line text.

What ``get_config`` leaves out is read from the constructor's parameters and
the attributes. What cannot be read is ``"unknown"``: a record does not claim
that two things are the same because it could not look.
"""

import functools
import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_layerwise.backend import internals
from keras_layerwise.hyperparameters.functions import code_of, describe_function, is_own
from keras_layerwise.storage.values import UNKNOWN, plain

_DEEPEST = 6
_MOST = 1000  # elements of an array that are written out


def config_of(value: Any) -> dict[str, Any] | None:
    """Gives the settings of an object with the objects in it themselves; None where none tell.

    A serialized function of the user's has lost its code. Where ``get_config``
    is missing or fails, what the constructor takes is read from the attributes
    of the same names. A model's layers have settings of their own.
    """
    if isinstance(value, keras.Model):
        return None
    try:
        config = dict(value.get_config())
    except Exception:  # an object of the user's own need not be serializable
        names = parameters(type(value))
        return {name: getattr(value, name) for name in names if hasattr(value, name)} or None
    for key, member in config.items():
        if isinstance(member, Mapping) and "class_name" in member:
            # A layer's `dtype` is that of its weights, which its policy decides.
            name = "dtype_policy" if key == "dtype" else key
            config[key] = getattr(value, name, member)
    return config


def describe(value: Any, depth: int = 0) -> Any:
    """Puts a setting into a plain value, or into one line where it is an object.

    Example:

    >>> describe({"module": "keras.regularizers", "class_name": "L2", "config": {"l2": 0.01}})
    'L2(l2=0.01)'
    >>> describe([keras.initializers.Zeros(), keras.activations.relu, 0.5])
    ['Zeros()', 'relu', 0.5]
    """
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is float:
        return plain(_short(value))
    if isinstance(value, str):
        return plain(value)
    if depth > _DEEPEST:
        return UNKNOWN
    inner = functools.partial(describe, depth=depth + 1)
    if isinstance(value, Mapping) and "class_name" in value and "config" in value:
        return _serialized_text(value)
    if isinstance(value, Mapping):
        return {str(key): inner(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [inner(member) for member in value]
    if isinstance(value, keras.dtype_policies.DTypePolicy):
        return value.name
    large = isinstance(value, np.ndarray) and value.size > _MOST
    # The backend's own question takes a while; most objects have no shape.
    is_tensor = hasattr(value, "shape") and keras.ops.is_tensor(value)
    if large or is_tensor or isinstance(value, keras.Variable):
        return _array_text(value)
    if not callable(value):
        try:
            return plain(value)
        except TypeError:
            pass
    return _callable_text(value, inner) or _object_text(value, inner)


def object_settings(value: Any, inner: Any = describe) -> dict[str, Any] | None:
    """Gives what an object was made with; None where nothing tells.

    For a class of the user's own, ``get_config`` is completed from the
    parameters of its constructor and its attributes, and by a tag of its code.
    """
    config = config_of(value)
    found = {} if config is None else {**config, **internals.function_arguments(value)}
    if not is_own(type(value)):
        return None if config is None else {key: inner(member) for key, member in found.items()}
    attributes = _attributes(value)
    found |= attributes
    missing = [name for name in parameters(type(value)) if name not in found]
    for name in missing:
        found[name] = getattr(value, f"_{name}", UNKNOWN)
    # A parameter that is no attribute became another one, or a layer, which is described.
    if attributes or (isinstance(value, keras.layers.Layer) and internals.sublayers(value)):
        found = {
            k: member for k, member in found.items() if k not in missing or member is not UNKNOWN
        }
    described = {key: inner(member) for key, member in found.items()}
    return {**described, "code": code_of(type(value))}


def parameters(cls: Any) -> list[str]:
    """Names the constructor's parameters, but for ``self`` and those that collect others."""
    return [
        name
        for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]


def nested(value: Any) -> Any:
    """Gives a schedule as keys of its own, so that each number can be compared."""
    if isinstance(value, Mapping) and "class_name" in value and "config" in value:
        config = value["config"]
        inner = (
            {key: nested(member) for key, member in config.items() if key != "name"}
            if isinstance(config, Mapping)
            else {"config": describe(config)}
        )
        return {"class": value["class_name"], **inner}
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        settings = object_settings(value, nested)
        named = {"settings": UNKNOWN} if settings is None else settings
        return {"class": type(value).__name__, **{k: v for k, v in named.items() if k != "name"}}
    return describe(value)


def _attributes(value: Any) -> dict[str, Any]:
    """Gives the attributes that the user's own classes set, without what training changes."""
    if not hasattr(value, "__dict__"):
        return {}
    cls: Any = type(value)
    usual = _usual_attributes(cls)
    return {
        name: member
        for name, member in vars(value).items()
        if not name.startswith("_") and name not in usual and not _is_state(member)
    }


@functools.lru_cache(maxsize=256)
def _usual_attributes(cls: Any) -> frozenset[str]:
    named = (keras.layers.Layer, keras.Model, keras.losses.Loss, keras.metrics.Metric)
    found: set[str] = set()
    for kind in named:
        if issubclass(cls, kind):
            found |= vars(kind(name="usual")).keys()
    # What Keras sets on a model as it trains, evaluates and predicts.
    return frozenset({*found, "history", "stop_evaluating", "stop_predicting", "stop_training"})


def _is_state(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple, set)):
        return any(map(_is_state, value))
    kinds = (
        keras.Variable,
        keras.layers.Layer,
        keras.Metric,
        keras.Optimizer,
        keras.random.SeedGenerator,
        keras.KerasTensor,
        keras.callbacks.Callback,
    )
    return isinstance(value, kinds) or hasattr(value, "assign_add")


def _callable_text(value: Any, inner: Any) -> str | None:
    value = getattr(value, "python_function", value)
    if isinstance(value, functools.partial):
        given = [*map(inner, value.args), *(f"{k}={inner(v)}" for k, v in value.keywords.items())]
        return f"partial({', '.join(map(str, [inner(value.func), *given]))})"
    if inspect.ismethod(value):
        function = describe_function(value.__func__, inner)
        owner = value.__self__
        return f"{inner(owner)}.{function}" if is_own(type(owner)) else function
    if inspect.isclass(value):
        return f"{value.__name__}(code={code_of(value)})" if is_own(value) else value.__name__
    if inspect.isfunction(value):
        return describe_function(value, inner)
    if inspect.isbuiltin(value) or isinstance(value, np.ufunc):
        return value.__name__
    return None


def _object_text(value: Any, inner: Any) -> str:
    if isinstance(value, keras.Model):
        return f"{type(value).__name__}({UNKNOWN})"  # its weights are not compared here
    key = _all_of(value)
    if (known := _texts.get(key)) is not None:
        return known
    settings = object_settings(value, inner)
    if settings is None:
        return f"{type(value).__name__}({UNKNOWN})"
    text = _text(type(value).__name__, settings)
    if key is not None:
        if len(_texts) >= _MOST:
            _texts.clear()
        _texts[key] = text
    return text


# A network has hundreds of initializers, and few that differ.
_texts: dict[Any, str] = {}
_PLAIN = frozenset({bool, float, int, str, type(None)})


def _all_of(value: Any) -> Any:
    """Gives all that an object of Keras's own is made of; None where that is more than numbers."""
    if not type(value).__module__.startswith("keras.") or not hasattr(value, "__dict__"):
        return None
    found = tuple((name, type(member), member) for name, member in vars(value).items())
    return (type(value), found) if all(kind in _PLAIN for _, kind, _ in found) else None


def _text(name: str, settings: Mapping[str, Any]) -> str:
    shown = {key: v for key, v in settings.items() if key != "name" and v is not None}
    return f"{name}({', '.join(f'{key}={v}' for key, v in shown.items())})"


def _serialized_text(value: Mapping[str, Any]) -> str:
    config, name = value["config"], str(value["class_name"])
    if name == "__lambda__":
        return f"lambda({UNKNOWN})"
    if name == "function":
        return f"{config}({UNKNOWN})"  # the user's own: Keras's functions are plain names
    if isinstance(config, str):
        return config
    if name == "DTypePolicy" and isinstance(config, Mapping):
        return str(config["name"])
    if not isinstance(config, Mapping):
        return name
    return _text(name, {key: describe(member) for key, member in config.items()})


def _array_text(value: Any) -> str:
    try:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(value))
    except Exception:  # a symbol, or a value on another machine
        return UNKNOWN
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return f"array {list(array.shape)} {array.dtype} sha256:{digest}"


def _short(value: float) -> float:
    """Undoes the rounding of a float to float32 in Keras: 0.3, not 0.30000001192."""
    if not np.isfinite(value) or abs(value) > np.finfo(np.float32).max:
        return value
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value
