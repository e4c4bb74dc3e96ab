"""Overrides that take effect: layer settings changed after a model was built and compiled.

Keras reads most settings of a layer when it is built or when a step is
traced, so an attribute that is set later is silently without effect. Here
`twins.Twins` tells what has to change on the layer, and what cannot.
"""

import difflib
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import keras
import numpy as np

from keras_layerwise.backend import internals, keras_optimizers
from keras_layerwise.errors import RuleError
from keras_layerwise.hyperparameters.describe import config_of
from keras_layerwise.hyperparameters.inventory import settings_of
from keras_layerwise.hyperparameters.twins import ABSENT, Difference, Twins, same
from keras_layerwise.model import selectors, structure
from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer
from keras_layerwise.storage.values import differences

_FIXED = {
    "name": "names are part of the paths that weights are saved under",
    "data_format": "the shapes around the layer were made with it; make the model anew with it",
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

    Example:

    >>> import keras
    >>> drop = keras.layers.Dropout(0.1, name="drop")
    >>> made = override(keras.Sequential([keras.Input((3,)), drop]), {"drop": {"rate": 0.5}})
    >>> made.changes[0]["key"], made.changes[0]["old"], drop.rate
    ('architecture/layers/drop/rate', 0.1, 0.5)
    >>> made.undo()
    >>> drop.rate
    0.1
    """

    def __init__(self, model: Any, undo: list[Callable[[], None]], changes: list[Any]) -> None:
        self.changes = changes
        self._model = model
        self._undo = undo

    def undo(self) -> None:
        """Puts everything back; a second call changes nothing."""
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
            that cannot change any more, with the reason. Nothing is changed
            then: either a setting acts on the next call, or it is refused.

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
    internals.sync_state(model)
    try:
        for selector, attributes in settings.items():
            if not isinstance(attributes, Mapping):
                raise RuleError(
                    f"`settings` is {{selector: {{attribute: value}}}}; received {attributes!r} "
                    f"for {selectors.label(selector)!r}. To set a multiplier or a rate, use the "
                    "rules of a LayerwiseOptimizer."
                )
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
    """Gives everything that was overridden on `model` so far, in order."""
    return _logs.get(model, [])


def _log(model: Any, before: Mapping[str, Any]) -> list[dict[str, Any]]:
    iterations = getattr(getattr(model, "optimizer", None), "iterations", None)
    step = None if iterations is None else int(keras.ops.convert_to_numpy(iterations))
    entries = [{"step": step, **d._asdict()} for d in differences(before, settings_of(model))]
    _logs.setdefault(model, []).extend(entries)
    return entries


# Which layers.


def _pick(selector: Any, model: Any) -> dict[str, Any]:
    """Gives the layers that `selector` picks by path, none below another."""
    picked = selectors.select_layers(selector, model)
    within = {id(inner) for layer in picked for inner in _below(layer)}
    paths = {id(place.layer): place.path for place in structure.places(model)}
    found = {paths[id(layer)]: layer for layer in picked if id(layer) not in within}
    if not found:
        near = difflib.get_close_matches(selectors.label(selector), paths.values(), n=3, cutoff=0.4)
        raise RuleError(
            f"The selector {selectors.label(selector)!r} picks no layer of {model.name!r}. "
            f"The nearest: {near or list(paths.values())[1:4]}."
        )
    return found


def _below(layer: Any) -> Iterator[Any]:
    for inner in internals.sublayers(layer):
        yield inner
        yield from _below(inner)


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
    # A layer that is used in two places is changed once.
    takers = {
        id(layer): (path, layer)
        for item in picked.items()
        for path, layer in _takers(*item, attribute)
    }
    if not takers:
        known = dict.fromkeys(
            key
            for layer in picked.values()
            for part in [layer, *_below(layer)]
            for key in _config(part)
        )
        known["trainable"] = None
        near = difflib.get_close_matches(attribute, known, n=3, cutoff=0.4) or sorted(known)
        raise RuleError(
            f"No layer that {selectors.label(selector)!r} picks has the setting {attribute!r}. "
            f"The nearest: {near}."
        )
    for path, layer in takers.values():
        _set(path, layer, attribute, value, undo)


def _takers(path: str, layer: Any, attribute: str) -> Iterator[tuple[str, Any]]:
    """Gives `layer` where it has the setting, or else those below it that have."""
    # Keras leaves this one out of the config where it is None.
    always = attribute == "activity_regularizer" and not isinstance(layer, _NO_SETTINGS)
    if always or attribute in _config(layer):
        yield path, layer
        return
    for child in internals.sublayers(layer):
        yield from _takers(f"{path}/{child.name}", child, attribute)


def _config(layer: Any) -> dict[str, Any]:
    if isinstance(layer, _NO_SETTINGS):
        return {}
    config = config_of(layer) or {}
    if any(map(selectors.is_layer, config.values())):
        config |= {k: v for k, v in layer.get_config().items() if selectors.is_layer(config[k])}
    if "dtype" in config:
        config["dtype"] = layer.dtype_policy
    return config


def _set(path: str, layer: Any, attribute: str, value: Any, undo: list[Callable[[], None]]) -> None:
    config = _config(layer)
    why = _FIXED.get(attribute)
    if attribute.endswith("_initializer"):
        why = "it ran when the layer was built; assign the weight: layer.kernel.assign(...)"
    if isinstance(value, keras.layers.Layer):
        why = "a layer that is in use cannot be exchanged; make the model anew with the other"
    if why and layer.built:
        raise RuleError(f"{attribute!r} of {path!r} cannot change after building: {why}.")
    twins = Twins(path, layer, config, attribute, value)
    found = twins.differences()
    made = _config(twins.new).get(attribute, value)
    if _is_ignored(value, made) or (not found and not same(config.get(attribute), made)):
        raise RuleError(
            f"{attribute!r} of {path!r} cannot change after building: the layer keeps nothing of "
            "it. Make the model anew with it."
        )
    if found:
        twins.check_effect(found)
    for difference in found:
        _put(difference, undo)
    noted = internals.noted_arguments(layer)
    if found and attribute in noted:
        undo.append(functools.partial(noted.update, {attribute: noted[attribute]}))
        noted[attribute] = value


def _is_ignored(value: Any, made: Any) -> bool:
    """Tells whether a layer that was made with `value` has another one, or none, in its config."""
    if made is None:
        return value is not None
    are_numbers = isinstance(value, (int, float)) and isinstance(made, (int, float))
    # A negative axis may have become the one that it stands for.
    return are_numbers and value >= 0 and not np.isclose(value, made)


def _put(difference: Difference, undo: list[Callable[[], None]]) -> None:
    owner, name = difference.owner, difference.name
    if isinstance(difference.value, keras.random.SeedGenerator):
        _give_generator(owner, name, difference.value, undo)
    elif difference.value is ABSENT:
        if name in vars(owner):
            old = vars(owner)[name]
            undo.append(lambda: setattr(owner, name, old))
            delattr(owner, name)
    elif isinstance(owner, keras.layers.Layer) and name not in vars(owner):
        undo.append(lambda: delattr(owner, name))
        setattr(owner, name, difference.value)
    else:
        old = getattr(owner, name)
        undo.append(lambda: setattr(owner, name, old))
        setattr(owner, name, difference.value)


def _give_generator(layer: Any, name: str, generator: Any, undo: list[Callable[[], None]]) -> None:
    """Adds a random generator to a built layer, which has none where it was made with rate 0."""

    def take_back() -> None:
        generators = internals.seed_generators(layer)
        generators[:] = [g for g in generators if g is not generator]
        delattr(layer, name)

    with internals.unlocked(layer):
        setattr(layer, name, generator)
    undo.append(take_back)


# Trainable.


def _set_trainable(layer: Any, value: Any, undo: list[Callable[[], None]]) -> None:
    if not isinstance(value, bool):
        raise RuleError(f"`trainable` is True or False; received {value!r}.")
    layers = [(part, internals.trainable_flag(part)) for part in (layer, *_below(layer))]
    weights = [(weight, weight.trainable) for weight in layer.weights]

    def put_back() -> None:
        for part, was in layers:
            internals.set_trainable_flag(part, was)
        for weight, was in weights:
            weight.trainable = was

    layer.trainable = value
    undo.append(put_back)


def _check_optimizer(model: Any) -> None:
    """Refuses weights that become trainable and have no slots in the built optimizer."""
    for optimizer in _chain(model):
        if not optimizer.built:
            continue
        known = {keras_optimizers.key_of(optimizer, v) for v in _known(optimizer)}
        unknown = [
            w for w in model.trainable_weights if keras_optimizers.key_of(optimizer, w) not in known
        ]
        if unknown:
            paths = {id(site.weight): site.path for site in structure.sites(model)}
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise RuleError(
                f"The optimizer was built without {paths[id(unknown[0])]!r}{more}, and has no "
                "state for what was not trainable then. Compile with a new optimizer; or keep the "
                "layers trainable from the start and freeze them by rule, which can be undone in "
                "mid-run: LayerwiseOptimizer(..., {layer: Rule(frozen=True)})."
            )
        if internals.backend() != "jax" or len(known) == len(model.trainable_weights):
            continue
        if optimizer.use_ema or isinstance(optimizer, LayerwiseOptimizer):
            raise RuleError(
                f"On JAX, {type(optimizer).__name__} with this state trains exactly the weights "
                "that it was built with. Freeze by rule instead: LayerwiseOptimizer(..., {layer: "
                "Rule(frozen=True)}), or optimizer.freeze(layer) in mid-run."
            )


def _chain(model: Any) -> Iterator[Any]:
    """Gives the optimizer and those that it wraps, down to a `LayerwiseOptimizer`."""
    optimizer = getattr(model, "optimizer", None)
    while optimizer is not None:
        yield optimizer
        if isinstance(optimizer, LayerwiseOptimizer):
            return
        optimizer = getattr(optimizer, "inner_optimizer", None)


def _known(optimizer: Any) -> list[Any]:
    """Gives the weights that the optimizer was built with, whatever is trainable now."""
    if isinstance(optimizer, LayerwiseOptimizer):
        return list(optimizer.plan.weights_at(optimizer.plan.trained))
    return _built_with.setdefault(optimizer, keras_optimizers.trained_by(optimizer))


# What Keras compiled.


def _take_effect(model: Any) -> None:
    """Recompiles every train, test and predict function that Keras has built."""
    for part in [model, *_below(model)]:
        for kind in ("train", "test", "predict"):
            internals.trace_again(part, kind)
    if internals.backend() == "jax":
        # Keras's stateless step takes values for exactly these.
        for optimizer in _chain(model):
            if optimizer.built and not isinstance(optimizer, LayerwiseOptimizer):
                trained = {id(weight) for weight in model.trainable_weights}
                still = {i: v for i, v in enumerate(_known(optimizer)) if id(v) in trained}
                positions = {keras_optimizers.key_of(optimizer, v): i for i, v in still.items()}
                keras_optimizers.set_trained(optimizer, list(still.values()))
                keras_optimizers.set_positions(optimizer, positions)
