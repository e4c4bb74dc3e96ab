"""What an optimizer keeps for each weight, for some of a model's weights only."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras

_AVERAGES = "_model_variables_moving_average"


class Slots:
    """The slots of an optimizer by attribute and position, None where a weight has none.

    Every list in a Keras optimizer that runs parallel to the variables it was
    built with is a list of slots. Here they run parallel to all weights, so a
    position means the same weight whatever is frozen, and slots can be made
    for a weight that joins later.

    Args:
        optimizer: an optimizer that is not built.
        weights: all weights that it may ever update.
    """

    def __init__(self, optimizer: Any, weights: Sequence[Any]) -> None:
        self.optimizer = optimizer
        self.weights = list(weights)
        self.columns: dict[str, list[Any]] = {}

    def make(self, positions: Sequence[int]) -> None:
        """Makes the slots of the weights at `positions`, which have none yet."""
        optimizer = self.optimizer
        with _scope_of(optimizer):
            is_first = not optimizer.built
            builder = optimizer if is_first else _unbuilt_copy(optimizer)
            builder.build([self.weights[position] for position in positions])
        tracked = {id(variable) for variable in builder._variables}
        for name, made in list(vars(builder).items()):
            if not _is_slots(name, made, len(positions)):
                continue
            column = self.columns.setdefault(name, [None] * len(self.weights))
            for position, slot in zip(positions, made, strict=True):
                column[position] = slot
                if is_first or id(slot) not in tracked:
                    continue
                optimizer._track_variable(slot)
                if name == _AVERAGES:
                    # An average of zeros would pull the weight towards zero.
                    slot.assign(self.weights[position])
            # Past TensorFlow's tracking, which would store lists by what they hold today.
            object.__setattr__(optimizer, name, column)
        indices = {optimizer._var_key(weight): i for i, weight in enumerate(self.weights)}
        object.__setattr__(optimizer, "_trainable_variables_indices", indices)

    def activate(self, positions: Sequence[int]) -> None:
        """Lets the optimizer average only the weights at `positions`."""
        # Keras goes through these two in step with one another.
        active = [self.weights[position] for position in positions]
        object.__setattr__(self.optimizer, "_trainable_variables", active)
        if _AVERAGES in self.columns:
            averages = [self.columns[_AVERAGES][position] for position in positions]
            object.__setattr__(self.optimizer, _AVERAGES, averages)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The variables that no weight owns, and the slots, under names for storing.

        The names depend only on which weights have slots, not on when the
        slots were made.
        """
        optimizer = self.optimizer
        tracked = {id(variable): variable for variable in optimizer._variables}
        slots = {
            f"{name.strip('_')}.{position}": column[position]
            for position in range(len(self.weights))
            for name, column in self.columns.items()
            # Adafactor puts variables in a slot's place that it neither uses nor tracks.
            if id(column[position]) in tracked
        }
        in_slots = {id(slot) for slot in slots.values()}
        names = {
            id(value): name.strip("_")
            for name, value in vars(optimizer).items()
            if isinstance(value, keras.Variable)
        }
        own = {
            names.get(key, f"variable_{i}"): variable
            for i, (key, variable) in enumerate(tracked.items())
            if key not in in_slots
        }
        return own, slots


def _is_slots(name: str, value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count > 0
        and name not in ("_variables", "_trainable_variables")
        and all(item is None or isinstance(item, keras.Variable) for item in value)
    )


def _unbuilt_copy(optimizer: Any) -> Any:
    return type(optimizer).from_config(optimizer.get_config())


def _scope_of(optimizer: Any) -> Any:
    """The distribution strategy that the optimizer's variables belong to, on TensorFlow."""
    strategy = getattr(optimizer, "_distribution_strategy", None)
    if strategy is None:
        return contextlib.nullcontext()
    import tensorflow as tf

    # A replica is in its strategy already, and cannot enter it a second time.
    entered = tf.distribute.get_strategy() is strategy
    return contextlib.nullcontext() if entered else strategy.scope()
