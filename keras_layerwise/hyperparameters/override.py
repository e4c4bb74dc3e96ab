"""Overrides that take effect: layer settings changed after a model was built and compiled.

Keras reads most settings of a layer when it is built or when a step is
traced, so an attribute that is set later is silently without effect. Here two
twins of the layer are made by Keras itself, one with its settings and one
with the new ones; what differs between them is what has to change on the
layer, and where the twins' weights differ the setting cannot change any more.
"""

import difflib
import fnmatch
import inspect
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import keras
import numpy as np

from keras_layerwise.backend.internals import trace_again
from keras_layerwise.errors import RuleError
from keras_layerwise.hyperparameters.inventory import settings_of
from keras_layerwise.model import selectors, structure
from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer
from keras_layerwise.storage.values import differences

_FIXED = {
    "name": "names are part of the paths that weights are saved under",
    "dtype": "the weights are made in it; set dtype= when the layer is made",
    "seed": "the generator runs already; assign layer.seed_generator.state",
}
_NO_SETTINGS = (keras.Model, keras.layers.InputLayer)
_built_with: "weakref.WeakKeyDictionary[Any, list[Any]]" = weakref.WeakKeyDictionary()
_logs: "weakref.WeakKeyDictionary[Any, list[dict[str, Any]]]" = weakref.WeakKeyDictionary()


class Override:
    """What `override` changed; leaving its ``with`` block, or `undo`, puts it back.

    Attributes:
        changes: each ``step``, ``key`` (as in a record), ``old`` and ``new``.
    """

    def __init__(self, model: Any, undo: list[Callable[[], None]], changes: list[Any]) -> None:
        self.changes = changes
        self._model = model
        self._undo = undo

    def undo(self) -> None:
        """Puts everything back; again is harmless."""
        if not self._undo:
            return
        before = settings_of(self._model)
        while self._undo:
            self._undo.pop()()
        _take_effect(self._model)
        _log(self._model, before)

    def __enter__(self) -> "Override":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


def override(model: Any, settings: Mapping[Any, Mapping[str, Any]]) -> Override:
    """Changes settings of layers so that the next step of `model` uses them.

    The next ``fit``, ``evaluate`` and ``predict`` trace anew; the model stays
    compiled and the optimizer keeps its state. Takes every setting in a
    layer's config that can change once there are weights: activations,
    regularizers, constraints, rates, momentum, epsilon …, and ``trainable``.

    Every override is in the record of `FreezeHyperparameters`, with before
    and after. Functional and Sequential models keep overrides when they are
    saved and reloaded; a subclassed model keeps what its ``get_config`` has.

    Args:
        model: the model, built; compiled or not.
        settings: ``{selector: {attribute: value}}``. A selector is as in the
            rules, but picks layers, also those without weights: by name, path
            or glob on paths, by identity, class or ``(layer, weight) -> bool``.
            Of what it picks, the layers that have the attribute take it.
            Values are what the layer's constructor takes.

    Returns:
        An `Override`, which undoes everything at the end of a ``with`` block.

    Raises:
        RuleError: for a selector that picks nothing, an attribute that no
            picked layer has, a value that the layer refuses, or a setting
            that cannot change any more. Nothing is changed then.

    Example:

    >>> import keras
    >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.Input((3,)), dense])
    >>> with override(model, {"dense*": {"kernel_regularizer": keras.regularizers.L1(0.5)}}):
    ...     keras.ops.convert_to_numpy(model.losses[0]).item()
    1.5
    >>> model.losses
    []
    """
    before = settings_of(model)
    undo: list[Callable[[], None]] = []
    _sync(model)
    try:
        for selector, attributes in settings.items():
            picked = _pick(selector, model)
            for attribute, value in attributes.items():
                _apply(model, selector, picked, attribute, value, undo)
    except BaseException:
        while undo:
            undo.pop()()
        raise
    _take_effect(model)
    return Override(model, undo, _log(model, before))


def log_of(model: Any) -> list[dict[str, Any]]:
    """Everything that was overridden on `model` so far, in order."""
    return _logs.get(model, [])


def _log(model: Any, before: Mapping[str, Any]) -> list[dict[str, Any]]:
    iterations = getattr(getattr(model, "optimizer", None), "iterations", None)
    step = None if iterations is None else int(keras.ops.convert_to_numpy(iterations))
    entries = [{"step": step, **d._asdict()} for d in differences(before, settings_of(model))]
    _logs.setdefault(model, []).extend(entries)
    return entries


# Which layers.


def _pick(selector: Any, model: Any) -> dict[str, Any]:
    """The layers that `selector` picks by path, none below another."""
    selectors.check_type(selector)
    found: dict[str, Any] = {}
    for path, layer in _walk(model):
        inside = any(path.startswith(f"{outer}/") for outer in found)
        if not inside and _is_picked(selector, path, layer):
            found[path] = layer
    if not found:
        paths = [path for path, _ in _walk(model)]
        near = difflib.get_close_matches(selectors.label(selector), paths, n=3, cutoff=0.4)
        raise RuleError(
            f"The selector {selectors.label(selector)!r} picks no layer of {model.name!r}. "
            f"The nearest: {near or paths[:3]}."
        )
    return found


def _walk(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for layer in structure.sublayers(model):
        inner = f"{path}/{layer.name}" if path else layer.name
        yield inner, layer
        yield from _walk(layer, inner)


def _is_picked(selector: Any, path: str, layer: Any) -> bool:
    if isinstance(selector, (list, tuple)):
        return any(_is_picked(member, path, layer) for member in selector)
    if isinstance(selector, re.Pattern):
        return selector.fullmatch(path) is not None
    if isinstance(selector, str):
        if path == selector or path.endswith(f"/{selector}"):
            return True
        return any(c in selector for c in "*?[") and fnmatch.fnmatchcase(path, selector)
    if selectors.is_layer(selector):
        return layer is selector
    if inspect.isclass(selector):
        return isinstance(layer, selector)
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    return any(bool(selector(layer, weight)) for weight in own or [None])


# What changes.


def _apply(
    model: Any,
    selector: Any,
    picked: Mapping[str, Any],
    attribute: str,
    value: Any,
    undo: list[Callable[[], None]],
) -> None:
    if attribute == "trainable":
        for layer in picked.values():
            _set_trainable(layer, value, undo)
        _check_optimizer(model)
        return
    takers = [taker for item in picked.items() for taker in _takers(*item, attribute)]
    if not takers:
        known = dict.fromkeys(
            key
            for path, layer in picked.items()
            for _, part in [(path, layer), *_walk(layer, path)]
            for key in _config(part)
        )
        known["trainable"] = None
        near = difflib.get_close_matches(attribute, known, n=3, cutoff=0.4) or sorted(known)
        raise RuleError(
            f"No layer that {selectors.label(selector)!r} picks has the setting {attribute!r}. "
            f"The nearest: {near}."
        )
    for path, layer in takers:
        _set(path, layer, attribute, value, undo)


def _takers(path: str, layer: Any, attribute: str) -> Iterator[tuple[str, Any]]:
    """`layer` where it has the setting, or else those below it that have."""
    # Keras leaves this one out of the config where it is None.
    always = attribute == "activity_regularizer" and not isinstance(layer, _NO_SETTINGS)
    if always or attribute in _config(layer):
        yield path, layer
        return
    for child in structure.sublayers(layer):
        yield from _takers(f"{path}/{child.name}", child, attribute)


def _config(layer: Any) -> dict[str, Any]:
    if isinstance(layer, _NO_SETTINGS):
        return {}
    try:
        config = dict(layer.get_config())
    except Exception:  # a layer of the user's own need not be serializable
        return {}
    # The objects themselves, since a function of the user's need not be registered.
    for key, value in config.items():
        if isinstance(value, Mapping) and "class_name" in value and hasattr(layer, key):
            config[key] = getattr(layer, key)
    if "dtype" in config:
        config["dtype"] = layer.dtype_policy
    return config


def _set(path: str, layer: Any, attribute: str, value: Any, undo: list[Callable[[], None]]) -> None:
    config = _config(layer)
    why = _FIXED.get(attribute)
    if attribute.endswith("_initializer"):
        why = "it ran when the layer was built; assign the weight: layer.kernel.assign(...)"
    if why and layer.built:
        raise RuleError(f"{attribute!r} of {path!r} cannot change after building: {why}.")
    old = _twin(layer, config)
    try:
        new = _twin(layer, {**config, attribute: value})
    except Exception as error:  # what the layer's constructor says about the value
        text = str(error).rpartition("Exception encountered: ")[2]
        raise RuleError(f"{path!r} does not take {attribute}={value!r}: {text}") from error
    if layer.built and (_shapes(old) != _shapes(new) or _output(old, layer) != _output(new, layer)):
        raise RuleError(
            f"{attribute!r} of {path!r} cannot change from {config.get(attribute)!r} to {value!r} "
            "after building: its weights or its output would have another shape. Make the model "
            "anew with it, and copy what fits: new_layer.set_weights(...)."
        )
    count = len(undo)
    _copy(old, new, layer, undo, attribute)
    if len(undo) == count and not _equal(config.get(attribute), _config(new).get(attribute)):
        raise RuleError(
            f"{attribute!r} of {path!r} cannot change after building: the layer keeps nothing of "
            "it. Make the model anew with it."
        )


def _twin(layer: Any, config: dict[str, Any]) -> Any:
    twin = type(layer).from_config(dict(config))
    if layer.built and not twin.built:
        twin.build_from_config(layer.get_build_config())
    return twin


def _shapes(layer: Any) -> list[Any]:
    return [(weight.name, tuple(weight.shape)) for weight in layer.weights]


def _output(twin: Any, layer: Any) -> Any:
    shapes = (layer.get_build_config() or {}).get("input_shape")
    try:
        return twin.compute_output_shape(shapes)
    except Exception:  # not every layer can say
        return None


def _copy(old: Any, new: Any, layer: Any, undo: list[Callable[[], None]], attribute: str) -> None:
    """Sets on `layer`, its weights and the layers in it what differs between the twins."""
    for name, value in list(vars(new).items()):
        if isinstance(value, keras.random.SeedGenerator):
            if name not in vars(layer):
                _give_generator(layer, name, value, undo)
        elif _is_setting(name, value, attribute) and not _equal(vars(old).get(name), value):
            _put(layer, name, value, undo)
    stem, _, asked = attribute.rpartition("_")
    for before, after, weight in zip(_own(old), _own(new), _own(layer), strict=True):
        for name in ("regularizer", "constraint"):
            value = getattr(after, name)
            # The layer's attribute may have been assigned before, without effect on the weight.
            late = name == asked and weight.name.startswith(stem)
            if not _equal(getattr(weight if late else before, name), value):
                _put(weight, name, value, undo)
    parts = (structure.sublayers(part) for part in (old, new, layer))
    for before, after, part in zip(*parts, strict=True):
        _copy(before, after, part, undo, attribute)


def _own(layer: Any) -> list[Any]:
    # In the order of creation; `trainable` moves weights between Keras's two lists.
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _put(target: Any, name: str, value: Any, undo: list[Callable[[], None]]) -> None:
    old = getattr(target, name)
    undo.append(lambda: setattr(target, name, old))
    setattr(target, name, value)


def _give_generator(layer: Any, name: str, generator: Any, undo: list[Callable[[], None]]) -> None:
    """A rate of 0 made the layer without a generator, and locked it."""

    def take_back() -> None:
        layer._seed_generators[:] = [g for g in layer._seed_generators if g is not generator]
        delattr(layer, name)

    layer._tracker.unlock()
    try:
        setattr(layer, name, generator)
    finally:
        layer._tracker.lock()
    undo.append(take_back)


def _is_plain(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(_is_plain(member) for member in value)
    return value is None or type(value) in (bool, int, float, str)


def _is_setting(name: str, value: Any, attribute: str) -> bool:
    if callable(value) and not hasattr(value, "get_config"):
        # Keras wraps methods on each instance, which are functions as activations are.
        return name.strip("_") == attribute
    return _is_plain(value) or (
        hasattr(value, "get_config") and not isinstance(value, keras.layers.Layer)
    )


def _equal(old: Any, new: Any) -> bool:
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if hasattr(new, "get_config"):
        return bool(old.get_config() == new.get_config())
    if isinstance(new, np.ndarray):
        return bool(np.array_equal(old, new))
    return bool(old == new)


# Trainable.


def _set_trainable(layer: Any, value: Any, undo: list[Callable[[], None]]) -> None:
    if not isinstance(value, bool):
        raise RuleError(f"`trainable` is True or False; received {value!r}.")
    parts = [layer, *(part for _, part in _walk(layer))]
    layers = [(part, part._trainable) for part in parts]
    weights = [(weight, weight.trainable) for weight in layer.weights]

    def put_back() -> None:
        for part, was in layers:
            part._trainable = was
        for weight, was in weights:
            weight.trainable = was

    layer.trainable = value
    undo.append(put_back)


def _check_optimizer(model: Any) -> None:
    """An optimizer keeps its slots, and can not get new ones for single weights."""
    for optimizer in _chain(model):
        if not optimizer.built:
            continue
        known = {optimizer._var_key(v) for v in _known(optimizer)}
        unknown = [w for w in model.trainable_weights if optimizer._var_key(w) not in known]
        if unknown:
            paths = {id(site.weight): site.path for site in structure.sites(model)}
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise RuleError(
                f"The optimizer was built without {paths[id(unknown[0])]!r}{more}, and has no "
                "state for what was not trainable then. Compile with a new optimizer; or keep the "
                "layers trainable from the start and freeze them by rule, which can be undone in "
                "mid-run: LayerwiseOptimizer(..., {layer: Rule(frozen=True)})."
            )
        if keras.backend.backend() != "jax" or len(known) == len(model.trainable_weights):
            continue
        if optimizer.use_ema or isinstance(optimizer, LayerwiseOptimizer):
            raise RuleError(
                f"On JAX, {type(optimizer).__name__} with this state trains exactly the weights "
                "that it was built with. Freeze by rule instead: LayerwiseOptimizer(..., {layer: "
                "Rule(frozen=True)}), or optimizer.freeze(layer) in mid-run."
            )


def _chain(model: Any) -> Iterator[Any]:
    """The optimizer and those that it wraps; a `LayerwiseOptimizer` answers for its own."""
    optimizer = getattr(model, "optimizer", None)
    while optimizer is not None:
        yield optimizer
        if isinstance(optimizer, LayerwiseOptimizer):
            return
        optimizer = getattr(optimizer, "inner_optimizer", None)


def _known(optimizer: Any) -> list[Any]:
    """The weights that the optimizer was built with, whatever is trainable now."""
    if isinstance(optimizer, LayerwiseOptimizer):
        return list(optimizer._weights)
    known: list[Any] = _built_with.setdefault(optimizer, list(optimizer._trainable_variables))
    return known


# What Keras compiled.


def _sync(model: Any) -> None:
    """On JAX, brings the state that a running ``fit`` holds back into the variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def _take_effect(model: Any) -> None:
    """Has every step that Keras has traced so far traced anew."""
    for part in [model, *(layer for _, layer in _walk(model))]:
        for kind in ("train", "test", "predict"):
            trace_again(part, kind)
    if keras.backend.backend() == "jax":
        # Keras's stateless step takes values for exactly these.
        for optimizer in _chain(model):
            if optimizer.built and not isinstance(optimizer, LayerwiseOptimizer):
                trained = {id(weight) for weight in model.trainable_weights}
                still = {i: v for i, v in enumerate(_known(optimizer)) if id(v) in trained}
                indices = {optimizer._var_key(v): i for i, v in still.items()}
                object.__setattr__(optimizer, "_trainable_variables", list(still.values()))
                object.__setattr__(optimizer, "_trainable_variables_indices", indices)
