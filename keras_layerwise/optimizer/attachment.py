"""How an optimizer learns which model it trains, without being told.

Keras's ``compile`` gives a model its optimizer and says nothing to the
optimizer. So ``compile``, ``compile_from_config`` and ``train_on_batch`` are
wrapped, once and transparently, when this package and Keras are both loaded; they
act only for models that have a `LayerwiseOptimizer`. ``fit`` is wrapped for the callbacks
already, and that wrapper calls `prepare` here. With the model known, names of nested
models resolve, a change of what is frozen reaches the compiled step, layers
that are frozen whole compute so, and weights that joined get their slots.
"""

import functools
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_layerwise.backend import internals, keras_optimizers
from keras_layerwise.backend.frozen_layers import freeze_in_calls
from keras_layerwise.errors import RuleError
from keras_layerwise.model import structure
from keras_layerwise.optimizer import bare

_MARK = "_keras_layerwise_attaches"


class _Known:
    """The optimizers of one model, and which of its layers they freeze whole."""

    def __init__(self) -> None:
        self.optimizers: list[weakref.ref[Any]] = []
        self.key: Any = None
        self.layers: frozenset[int] = frozenset()


_known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


def is_layerwise(optimizer: Any) -> bool:
    """Tells whether `optimizer` is a `LayerwiseOptimizer`, without importing it."""
    return getattr(type(optimizer), "is_layerwise", False) is True


def layerwise_optimizers(optimizer: Any) -> list[Any]:
    """Gives the `LayerwiseOptimizer` in `optimizer`, through Keras's own wrappers; several in a
    ``MultiOptimizer``, none in any other.
    """  # noqa: D205
    if is_layerwise(optimizer):
        return [optimizer]
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return layerwise_optimizers(optimizer.inner_optimizer)
    members = getattr(optimizer, "optimizers", None) or ()
    return [found for member in members for found in layerwise_optimizers(member)]


def optimizer_of(model: Any) -> Any:
    """Finds the `LayerwiseOptimizer` that trains `model`, through ``LossScaleOptimizer``.

    Args:
        model: a Keras model.

    Returns:
        The optimizer; None where the model is not compiled or trained by
        another. Of several in a ``MultiOptimizer``, the first.

    Example:

    >>> import keras
    >>> from keras_layerwise import LayerwiseOptimizer
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> model.compile(LayerwiseOptimizer("adam", {"head": 0.1}), loss="mse")
    >>> optimizer_of(model).selected("head")[0].multiplier
    0.1
    """
    return next(iter(layerwise_optimizers(getattr(model, "optimizer", None))), None)


def assigned(model: Any) -> dict[int, Any]:
    """Tells what holds for each weight now, by ``id``, from every optimizer that trains `model`.

    Beside the optimizer that ``compile`` set these are the ones that the model
    holds, as a GAN does, and those that were given the model for a loop of
    one's own.
    """
    every = {id(optimizer): optimizer for optimizer in (*_found_on(model), *_told(model))}
    return {
        id(weight): entry
        for optimizer in every.values()
        if optimizer.built
        for weight, entry in zip(
            optimizer.plan.weights_at(optimizer.plan.trained), optimizer.assignments, strict=True
        )
    }


def is_built(model: Any) -> bool:
    """Tells whether `model` has all its weights."""
    return bool(model.built) and all(place.layer.built for place in structure.places(model))


def know(model: Any, optimizer: Any) -> None:
    """Lets layers of `model` that `optimizer` freezes whole compute as frozen."""
    known = _known.setdefault(model, _Known())
    known.optimizers = [ref for ref in known.optimizers if ref() not in (None, optimizer)]
    known.optimizers.append(weakref.ref(optimizer))
    known.key = None
    model_ref = weakref.ref(model)
    freeze_in_calls(model, lambda: frozen_layers(model_ref()))


def connect(model: Any) -> None:
    """Tells every `LayerwiseOptimizer` that is found on `model` that it trains it."""
    found = list(_found_on(model))
    if model in _known:
        _known[model].optimizers = []
        _known[model].key = None
    for optimizer in found:
        optimizer.plan.train_in(model)
        know(model, optimizer)


def prepare(model: Any) -> None:
    """Builds the optimizers of a compiled `model`, or has them adopt what changed since."""
    optimizer: Any = getattr(model, "optimizer", None)
    found = layerwise_optimizers(optimizer)
    for member in found:
        member.plan.step_in(model)
    if not found or getattr(model, "train_function", None) is not None:
        return
    if is_built(model) and all(member.plan.trains_more_than(model) for member in found):
        return
    connect(model)
    if internals.has_strategy(model) or not is_built(model) or not model.trainable_weights:
        return
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    else:
        _adopt(optimizer, model.trainable_variables)


def adopt(optimizer: Any) -> None:
    """Has a built `optimizer` adopt the weights that the model which it trains has now."""
    for model in reversed(optimizer.plan.trainers):
        if optimizer is optimizer_of(model) and is_built(model):
            _adopt(model.optimizer, model.trainable_variables)
            return


def _adopt(optimizer: Any, variables: list[Any]) -> None:
    if is_layerwise(optimizer):
        optimizer.build(variables)
    elif isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        keras_optimizers.set_trained_of_wrapper(optimizer, variables)
        _adopt(optimizer.inner_optimizer, variables)


def frozen_layers(model: Any) -> frozenset[int]:
    """Gives the ``id`` of every layer of `model` that its optimizers freeze whole.

    A layer is frozen whole where all its trainable weights are frozen by rule;
    one without trainable weights follows the layers that hold it, or the part
    of an outline that was frozen.
    """
    known = _known.get(model)
    if known is None:
        return frozenset()
    optimizers = [found for ref in known.optimizers if (found := ref()) is not None]
    for optimizer in optimizers:
        _look_ahead(optimizer, model)
    key = [(id(optimizer), optimizer.plan.version) for optimizer in optimizers]
    if key != known.key:
        known.key, known.layers = key, _frozen_whole(model, optimizers)
    return known.layers


def _look_ahead(optimizer: Any, model: Any) -> None:
    """Resolves the rules in a first trace, which calls the model before the optimizer is built."""
    plan = optimizer.plan
    asked = [rule.frozen for _, rule in plan.rules] + [s.frozen for s in plan.stored]
    if plan.settings or not any(asked) or not is_built(model):
        return
    try:
        plan.resolve(model.trainable_weights)
    except RuleError:
        return  # which the optimizer raises when it is built, in the same trace


def _frozen_whole(model: Any, optimizers: list[Any]) -> frozenset[int]:
    frozen: set[int] = set()
    for optimizer in optimizers:
        plan = optimizer.plan
        own = {id(plan.weights[i]) for i in plan.trained if plan.settings[i].frozen}
        frozen |= own - {id(weight) for weight in plan.weights_at(plan.active)}
    if not frozen:
        return frozenset()
    trains: dict[int, bool] = {}  # whether a layer that has trainable weights trains any
    for site in structure.sites(model):
        if not site.weight.trainable:
            continue
        for layer in (layer for chain in site.chains for layer in chain):
            trains[id(layer)] = trains.get(id(layer), False) or id(site.weight) not in frozen
    whole: set[int] = set()
    alone = set()
    for place in structure.places(model):
        holders = [chain[-2] for chain in place.chains if len(chain) > 1]
        follows = bool(holders) and all(id(holder) in whole for holder in holders)
        if not trains.get(id(place.layer), not follows):
            whole.add(id(place.layer))
        elif id(place.layer) not in trains and place.layer.weights:
            alone.add(id(place.layer))
    for optimizer in optimizers if alone else ():
        plan = optimizer.plan
        following = bare.frozen(plan.settings, plan.weights, plan.sites, frozen)
        whole |= alone & {id(layer) for layer in following}
    return frozenset(whole)


def given_to(model: Any) -> list[Any]:
    """Lists the optimizers that were given `model`, or a part of it, for a loop of one's own."""
    parts = [model, *(place.layer for place in structure.places(model))]
    found = {id(o): o for part in parts if part in _known for o in _told(part)}
    return list(found.values())


def _told(model: Any) -> list[Any]:
    known = _known.get(model)
    return [] if known is None else [o for ref in known.optimizers if (o := ref()) is not None]


def held(model: Any) -> list[Any]:
    """Lists the optimizers that `model` holds: that of ``compile`` first, then its own.

    A model with a ``train_step`` of its own keeps them in attributes, also in lists and dicts.
    """
    found: dict[int, Any] = {}
    for value in (getattr(model, "optimizer", None), *vars(model).values()):
        members = value.values() if isinstance(value, dict) else value
        for member in members if isinstance(value, (list, tuple, dict)) else (value,):
            if isinstance(member, keras.optimizers.Optimizer):
                found.setdefault(id(member), member)
    return list(found.values())


def _found_on(model: Any) -> Iterator[Any]:
    """Gives every `LayerwiseOptimizer` in those that `model` holds."""
    inside = [found for optimizer in held(model) for found in layerwise_optimizers(optimizer)]
    yield from {id(optimizer): optimizer for optimizer in inside}.values()


# Keras's methods.


def install() -> None:
    """Has ``compile`` and ``train_on_batch`` tell optimizers their model, and files keep theirs."""
    _wrap("compile", after=_compiled)
    _wrap("compile_from_config", instead=_compile_as_stored)
    _wrap("train_on_batch", before=prepare)


def uninstall() -> None:
    """Gives Keras its own methods back."""
    for name in ("compile", "compile_from_config", "train_on_batch"):
        owner = internals.owner_of(name)
        original = getattr(vars(owner)[name], _MARK, None)
        if original is not None:
            setattr(owner, name, original)


def _compiled(model: Any) -> None:
    connect(model)
    if layerwise_optimizers(model.optimizer) and model.optimizer.built:
        prepare(model)


def _compile_as_stored(model: Any, config: dict[str, Any]) -> bool:
    """Compiles a loaded model whose class has a ``compile`` of its own; tells whether it did.

    Keras leaves it as its constructor made it: a task of KerasHub with an Adam of its own,
    under which everything trains that a rule had frozen.
    """
    owner: Any = internals.owner_of("compile")
    if type(model).compile is owner.compile:
        return False
    try:
        given = keras.saving.deserialize_keras_object(config)
    except RuleError:
        raise
    except (TypeError, ValueError):  # a loss or metric of the user's that Keras was not told of
        return False
    if not layerwise_optimizers(given.get("optimizer")):
        return False
    if not model.compiled:
        warnings.warn(
            f"{type(model).__name__} has a compile() of its own, which Keras does not call when it "
            "loads a model. The optimizer, losses and metrics are those of the file; what else "
            "compile() sets is missing. Where the model needs it, call compile() with "
            "`optimizer=model.optimizer`, which keeps the state.",
            stacklevel=2,
        )
    owner.compile(model, **given)
    if model.built:
        model.optimizer.build(model.trainable_variables)
    return True


def _wrap(name: str, before: Any = None, after: Any = None, instead: Any = None) -> None:
    owner = internals.owner_of(name)
    original = vars(owner)[name]
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(self)
        if instead is not None and instead(self, *args, **kwargs):
            return None
        result = original(self, *args, **kwargs)
        if after is not None:
            after(self)
        return result

    setattr(method, _MARK, original)
    setattr(owner, name, method)
