"""Gives every private name of Keras, NumPy and TensorFlow that this package needs a public word.

Each function's docstring is the promise that the rest of the package relies on;
``tests/backend/test_internals.py`` holds each on every backend and on the
oldest versions. Methods that are missing are an error when this module is
imported, attributes when they are read: nothing here turns into None.
"""

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

AVERAGES = "_model_variables_moving_average"
"""Attribute of an optimizer that lists the moving averages of the weights it trains."""
NOT_SLOTS = ("_variables", "_trainable_variables")
"""Attributes of an optimizer that list variables, but no slots of weights."""


def _require(owner: type, *names: str) -> None:
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        raise ImportError(
            f"Keras {keras.version()} has no {owner.__name__}.{', '.join(missing)}, which "
            "keras_layerwise replaces or calls. Install a version of Keras that "
            "keras_layerwise names in its requirements."
        )


_require(
    keras.optimizers.Optimizer,
    "_apply_weight_decay",
    "_backend_update_step",
    "_get_variable_index",
    "_track_variable",
    "_use_weight_decay",
    "_var_key",
)


# Backend.


def backend() -> str:
    """Names the backend that computes: ``"tensorflow"``, ``"jax"`` or ``"torch"``."""
    name: str = keras.backend.backend()
    return name


# Layers.


def sublayers(layer: Any) -> tuple[Any, ...]:
    """Lists the layers directly inside `layer`, in its own order."""
    return tuple(layer._layers)


def own_weights(layer: Any) -> list[Any]:
    """Lists the weights that `layer` itself made, without those of its sublayers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def own_state(layer: Any) -> list[Any]:
    """Lists the weights that `layer` itself made and that are never trained.

    Moving averages are among them. Setting ``layer.trainable`` moves no weight
    between this list and the trainable ones.
    """
    return list(layer._non_trainable_variables)


def is_state(layer: Any, weight: Any) -> bool:
    """Tells whether `weight` belongs to `layer` itself and is never trained."""
    return any(weight is own for own in layer._non_trainable_variables)


def trainable_flag(layer: Any) -> bool:
    """Reads the flag of `layer` alone, without asking what is inside or around it."""
    return bool(layer._trainable)


def set_trainable_flag(layer: Any, value: bool) -> None:
    """Sets the flag of `layer` alone, and of nothing inside it."""
    layer._trainable = value


def is_of_keras(layer: Any) -> bool:
    """Tells whether the class of `layer` is one of Keras's own, and not a subclass of it."""
    return type(layer).__module__.startswith(("keras.src.layers.", "keras.layers."))


def seed_generators(layer: Any) -> list[Any]:
    """Gives the list of random generators that `layer` itself keeps; changes to it hold."""
    found: list[Any] = layer._seed_generators
    return found


@contextlib.contextmanager
def unlocked(layer: Any) -> Iterator[None]:
    """Lets attributes with state be added to a built `layer`."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def own_attributes(layer: Any) -> dict[str, Any]:
    """Gives the attributes of `layer` that its class sets, without what every layer has.

    Of these only what a class may set differently is among them: the
    activity regularizer, and whether masks, jit and autocast are supported.
    """
    every, shared = _layer_attributes()
    return {
        name: value
        for name, value in vars(layer).items()
        if (name not in every or name in shared) and not name.startswith("_self_")
    }


@functools.cache
def _layer_attributes() -> tuple[frozenset[str], frozenset[str]]:
    shared = {
        "_input_spec",
        "_supports_masking",
        "activity_regularizer",
        "autocast",
        "supports_jit",
    }
    every = vars(keras.layers.Layer(name="any"))
    if not shared <= every.keys():
        raise ImportError(f"Keras {keras.version()} has layers without {shared - every.keys()}.")
    return frozenset(every), frozenset(shared)


# Graphs.


def graph_calls(layer: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Lists the arguments of each call of `layer` in a graph, with ``KerasTensor`` in them."""
    nodes = layer._inbound_nodes
    return [(tuple(node.arguments.args), dict(node.arguments.kwargs)) for node in nodes]


def graph_levels(model: Any) -> list[list[Any]] | None:
    """Lists the nodes of a model's own graph level by level, from the inputs on.

    Each node has ``operation`` and ``parent_nodes``. None where the model has
    no graph, as a subclassed one.
    """
    function = getattr(model, "_functional", None) or model
    if not hasattr(function, "_nodes_by_depth"):
        return None
    by_depth = function._nodes_by_depth
    return [list(by_depth[depth]) for depth in sorted(by_depth, reverse=True)]


# Optimizers.


def step_counter(optimizer: Any) -> Any:
    """Gives the variable that counts the optimizer's updates, accumulated ones not counted."""
    return optimizer._iterations


def state_of(optimizer: Any) -> list[Any]:
    """Lists every variable that the optimizer tracks, in the order in which they were made."""
    return list(optimizer._variables)


def schedule_of(optimizer: Any) -> Any:
    """Gives the schedule of the optimizer's learning rate, None where the rate is a variable."""
    rate = optimizer._learning_rate
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def trained_by(optimizer: Any) -> list[Any]:
    """Lists the weights that the optimizer was built with; empty before."""
    return list(optimizer._trainable_variables)


def set_trained(optimizer: Any, weights: Sequence[Any]) -> None:
    """Replaces the weights that the optimizer updates and averages, past any tracking."""
    object.__setattr__(optimizer, "_trainable_variables", list(weights))


def key_of(optimizer: Any, weight: Any) -> Any:
    """Gives what the optimizer knows a weight by; equal for one variable always."""
    return optimizer._var_key(weight)


def index_of(optimizer: Any, weight: Any) -> int:
    """Gives the position of a weight's slots in the optimizer's lists."""
    return int(optimizer._get_variable_index(weight))


def set_positions(optimizer: Any, positions: Mapping[Any, int]) -> None:
    """Replaces the positions of the slots, by `key_of` a weight."""
    object.__setattr__(optimizer, "_trainable_variables_indices", dict(positions))


def track(optimizer: Any, variable: Any) -> None:
    """Adds a variable to what the optimizer saves and restores."""
    optimizer._track_variable(variable)


def uses_decay(optimizer: Any, weight: Any) -> bool:
    """Tells whether weight decay, where there is any, is applied to the weight."""
    return bool(optimizer._use_weight_decay(weight))


def updates_at_once(optimizer: Any) -> bool:
    """Tells whether the optimizer updates all weights in one call, as most do on PyTorch."""
    return hasattr(optimizer, "_parallel_update_step")


def strategy_of(optimizer: Any) -> Any:
    """Gives the TensorFlow strategy that the optimizer's variables live in, None elsewhere."""
    return getattr(optimizer, "_distribution_strategy", None)


# Models.


def compile_arguments(model: Any) -> dict[str, Any]:
    """Gives what ``compile`` was given for losses and metrics, as the user wrote it.

    Keys: ``loss_weights``, ``metrics``, ``weighted_metrics``; a value is None
    where nothing was given.
    """
    loss, metrics = model._compile_loss, model._compile_metrics
    return {
        "loss_weights": None if loss is None else loss._user_loss_weights,
        "metrics": None if metrics is None else metrics._user_metrics,
        "weighted_metrics": None if metrics is None else metrics._user_weighted_metrics,
    }


def function_arguments(loss: Any) -> dict[str, Any]:
    """Gives the arguments that a loss made from a function passes to it; empty for others."""
    found: dict[str, Any] = getattr(loss, "_fn_kwargs", {})
    return dict(found)


def better_direction(metric: Any) -> str | None:
    """Says whether a metric is better ``"up"`` or ``"down"``; None where Keras does not know."""
    direction: str | None = getattr(metric, "_direction", None)
    return direction


def sync_state(model: Any) -> None:
    """Brings the state that training holds on JAX back into the model's variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def trace_again(model: Any, kind: str) -> None:
    """Recompiles the ``"train"``, ``"test"`` or ``"predict"`` step that Keras has built.

    Does nothing where there is none yet.
    """
    if getattr(model, f"{kind}_function", None) is None:
        return
    make = getattr(model, f"make_{kind}_function")
    if backend() != "jax":
        make(force=True)
        return
    # JAX takes a method for one that it has traced before where the two compare equal, and
    # some reference keeps the old one alive; a new function equals no other.
    name = f"{kind}_step"
    own, step = vars(model).get(name), getattr(model, name)
    object.__setattr__(model, name, lambda state, data: step(state, data))
    try:
        make(force=True)
    finally:
        object.__delattr__(model, name)
        if own is not None:
            object.__setattr__(model, name, own)


# Data.


def pipeline(dataset: Any) -> Iterator[tuple[str, Any]]:
    """Goes through the steps of a ``tf.data`` pipeline, from the last back to the source."""
    while dataset is not None:
        yield type(dataset).__name__, dataset
        dataset = getattr(dataset, "_input_dataset", None)


def batch_size_of(step: Any) -> int | None:
    """Gives the size of the batches that a step of a pipeline makes, None for other steps."""
    size = getattr(step, "_batch_size", None)
    return None if size is None else int(keras.ops.convert_to_numpy(size))


# Seeds. Each gives None where nobody has set one.


def keras_seed() -> int | None:
    """Gives the seed that ``keras.utils.set_random_seed`` set."""
    seed = importlib.import_module("keras.src.utils.rng_utils").get_random_seed()
    return None if seed is None else int(seed)


def numpy_is_seeded() -> bool:
    """Tells whether NumPy's global generator was seeded; which seed it was is not kept."""
    return np.random.mtrand._rand._bit_generator.seed_seq is None


def tensorflow_seed() -> int | None:
    """Gives the seed that ``tf.random.set_seed`` set."""
    context = importlib.import_module("tensorflow.python.eager.context")
    seed = context.global_seed()
    return None if seed is None else int(seed)


def tensorflow_is_deterministic() -> bool:
    """Tells whether ``tf.config.experimental.enable_op_determinism`` was called."""
    config = importlib.import_module("tensorflow.python.framework.config")
    return bool(config.is_op_determinism_enabled())


def has_strategy(model: Any) -> bool:
    """Tells whether `model` was made under a TensorFlow strategy of the user's choice."""
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or "tensorflow" not in sys.modules:
        return False
    return type(strategy).__name__ != "_DefaultDistributionStrategy"


# What a `LayerwiseOptimizer` replaces on the optimizer that it wraps.


def untrack(optimizer: Any, variable: Any) -> None:
    """Takes a variable out of what the optimizer saves and restores."""
    optimizer._untrack_variable(variable)


def name_for_checkpoint(owner: Any, variable: Any, name: str) -> None:
    """Has ``tf.train.Checkpoint`` find `variable` below `owner` as `name`; nothing elsewhere."""
    if hasattr(owner, "_track_trackable"):
        owner._track_trackable(variable, name=name, overwrite=True)


def forget_for_checkpoint(owner: Any, name: str) -> None:
    """Takes `name` out of what ``tf.train.Checkpoint`` finds below `owner`."""
    if hasattr(owner, "_delete_tracking"):
        owner._delete_tracking(name)


def update_of_all(optimizer: Any) -> Any:
    """Gives the method that updates weights from gradients, weights and a rate."""
    return optimizer._backend_update_step


def replace_updates(optimizer: Any, *, one: Any, together: Any, decay: Any) -> frozenset[str]:
    """Replaces on the instance how one weight, all weights and the decay are computed.

    `together` takes the place of the call that updates several weights at
    once: `updates_at_once` says which that is. Gives the names replaced.
    """
    name = "_parallel_update_step" if updates_at_once(optimizer) else "_backend_update_step"
    replaced = {"update_step": one, "_apply_weight_decay": decay, name: together}
    for key, method in replaced.items():
        object.__setattr__(optimizer, key, method)
    return frozenset(replaced)


def update_group(optimizer: Any, grads: Sequence[Any], weights: Sequence[Any], rate: Any) -> None:
    """Updates weights at one rate in one call, where `updates_at_once`, as Keras does."""
    type(optimizer)._parallel_update_step(optimizer, grads, weights, rate)


def decay_weights(optimizer: Any, weights: Sequence[Any]) -> None:
    """Decays weights at the optimizer's own rate and decay, as Keras does."""
    type(optimizer)._apply_weight_decay(optimizer, weights)


def pull_weights(
    optimizer: Any, weights: Sequence[Any], targets: Sequence[Any], factors: Sequence[Any]
) -> None:
    """Moves each weight towards its target: w ← w − factor·(w − target), on every replica."""
    if backend() != "tensorflow":
        for weight, target, factor in zip(weights, targets, factors, strict=True):
            step = keras.ops.cast(factor, weight.dtype)
            weight.assign(weight - (weight - target) * step)
        return
    import tensorflow as tf

    def pull(variable: Any, target: Any, factor: Any) -> None:
        variable.assign_sub((variable - target) * tf.cast(factor, variable.dtype))

    def of_all(strategy: Any, *steps: Any) -> None:
        for weight, target, step in zip(weights, targets, steps, strict=True):
            strategy.extended.update(weight.value, pull, args=(target.value, step), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(of_all, strategy_of(optimizer), *factors)


def view_of(
    optimizer: Any,
    without: frozenset[str],
    *,
    learning_rate: Any = None,
    steps: Any = None,
    weight_decay: float | None = None,
) -> Any:
    """Gives the optimizer with the methods of its class, and other values where given.

    A view, because TensorFlow lets its replicas take turns in the middle of an
    update: what one sets and restores on the optimizer, the next would see.
    `without` are the names that `replace_updates` gave; `steps` takes the
    place of `step_counter`.
    """
    view = object.__new__(type(optimizer))
    vars(view).update({key: v for key, v in vars(optimizer).items() if key not in without})
    if learning_rate is not None:
        vars(view)["_learning_rate"] = learning_rate
    if steps is not None:
        vars(view)["_iterations"] = steps
    if weight_decay is not None:
        vars(view)["weight_decay"] = weight_decay
        if hasattr(optimizer, "adam_weight_decay"):  # Muon's, for what it updates as Adam does
            vars(view)["adam_weight_decay"] = weight_decay
    return view


def decay_of(optimizer: Any) -> Any:
    """Gives the method that decays weights, which may be replaced on the instance."""
    return optimizer._apply_weight_decay


def product_per_step(optimizer: Any) -> Any:
    """Gives Nadam's product of momentum factors, which each update changes; None for others."""
    return getattr(optimizer, "_u_product", None)


def as_written(method: Any) -> Any:
    """Keeps AutoGraph from rewriting `method` in a user's ``tf.function``, as it spares Keras."""
    if backend() != "tensorflow":
        return method
    return importlib.import_module("tensorflow").autograph.experimental.do_not_convert(method)


def in_graph() -> bool:
    """Tells whether TensorFlow is tracing a function now."""
    return backend() == "tensorflow" and not (
        importlib.import_module("tensorflow").executing_eagerly()
    )


def outside_graph() -> contextlib.AbstractContextManager[Any]:
    """Lets variables be made and set at once although TensorFlow traces a function."""
    if not in_graph():
        return contextlib.nullcontext()
    scope: contextlib.AbstractContextManager[Any] = importlib.import_module(
        "tensorflow"
    ).init_scope()
    return scope


def set_trained_of_wrapper(wrapper: Any, weights: Sequence[Any]) -> None:
    """Has a wrapper that is built, as for loss scaling, expect gradients of other weights."""
    set_trained(wrapper, weights)
    set_positions(wrapper, {key_of(wrapper, w): i for i, w in enumerate(weights)})


def owner_of(name: str) -> type:
    """Gives the class whose `name` every ``keras.Model`` inherits, to be wrapped there.

    Keras compares a model's ``compile`` with that of the class which defines
    it, and loads no compiled model where they differ.
    """
    found: type = next(base for base in keras.Model.__mro__[1:] if name in vars(base))
    return found
