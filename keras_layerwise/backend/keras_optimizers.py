"""Gives every private name of Keras's optimizers that this package needs a public word.

As `keras_layerwise.backend.internals`, which has those of layers, models and data.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_layerwise.backend.internals import backend, require

AVERAGES = "_model_variables_moving_average"
"""Attribute of an optimizer that lists the moving averages of the weights it trains."""
NOT_SLOTS = ("_variables", "_trainable_variables")
"""Attributes of an optimizer that list variables, but no slots of weights."""


require(
    keras.optimizers.Optimizer,
    "_apply_weight_decay",
    "_backend_update_step",
    "_get_variable_index",
    "_track_variable",
    "_untrack_variable",
    "_use_weight_decay",
    "_var_key",
)
if backend() == "tensorflow":
    require(
        keras.optimizers.Optimizer, "_distribution_strategy", "_track_trackable", "_delete_tracking"
    )
if backend() == "torch":
    _parallel = importlib.import_module(
        "keras.src.backend.torch.optimizers.torch_parallel_optimizer"
    )
    require(_parallel.TorchParallelOptimizer, "_parallel_update_step")
require(keras.optimizers.Adam, "_momentums", "_velocities")
require(keras.optimizers.RMSprop, "_momentums", "_velocities", "_average_gradients")
require(keras.optimizers.Lion, "_momentums")
require(keras.optimizers.Adagrad, "_accumulators")
require(keras.optimizers.Nadam, "_u_product")


def step_counter(optimizer: Any) -> Any:
    """Gives the variable that counts the optimizer's updates, accumulated ones not counted."""
    return optimizer._iterations


def state_of(optimizer: Any) -> list[Any]:
    """Lists every variable that the optimizer tracks, in the order in which they were made."""
    return list(optimizer._variables)


def momentums_of(optimizer: Any) -> Any:
    """Lists by position the slots of Adam's and Lion's means, or of RMSprop's momentum."""
    return optimizer._momentums


def velocities_of(optimizer: Any) -> Any:
    """Lists by position the slots of the averages of squared gradients, of Adam and RMSprop."""
    return optimizer._velocities


def averages_of(optimizer: Any) -> Any:
    """Lists by position the slots of the averages of gradients that a centered RMSprop keeps."""
    return optimizer._average_gradients


def accumulators_of(optimizer: Any) -> Any:
    """Lists by position the slots of Adagrad's sums of squared gradients."""
    return optimizer._accumulators


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
    """Gives the key by which the optimizer finds a weight's slots; it never changes."""
    return optimizer._var_key(weight)


def index_of(optimizer: Any, weight: Any) -> int:
    """Gives the position of a weight's slots in each of the optimizer's lists."""
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


def decay_by_default(optimizer: Any, weight: Any) -> float | None:
    """Gives the decay that the optimizer itself has for a weight, None where it has none."""
    # Muon has another one for what it updates as Adam does.
    as_adam = getattr(optimizer, "_should_use_adamw", None)
    found = optimizer.adam_weight_decay if as_adam and as_adam(weight) else optimizer.weight_decay
    return None if found is None else float(found)


def updates_at_once(optimizer: Any) -> bool:
    """Tells whether the optimizer updates all weights in one call, as most do on PyTorch."""
    return hasattr(optimizer, "_parallel_update_step")


def strategy_of(optimizer: Any) -> Any:
    """Gives the TensorFlow strategy that the optimizer's variables live in, None elsewhere."""
    return getattr(optimizer, "_distribution_strategy", None)


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


def set_trained_of_wrapper(wrapper: Any, weights: Sequence[Any]) -> None:
    """Has a wrapper that is built, as for loss scaling, expect gradients of other weights."""
    set_trained(wrapper, weights)
    set_positions(wrapper, {key_of(wrapper, w): i for i, w in enumerate(weights)})
