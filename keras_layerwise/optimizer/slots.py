"""Optimizer slots by weight position, when only some weights have them."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_layerwise.backend import internals, keras_optimizers

INITIAL = "_initial_weights"
"""The weights that decay pulls towards, kept as a slot is."""


class Slots:
    """Holds the slots of an optimizer by attribute and position, None where there is none.

    Every list in a Keras optimizer that runs parallel to the variables it was
    built with is a list of slots. Here they run parallel to all weights that
    can ever train, so a position means the same weight whatever is frozen, and
    slots can be made for a weight that joins later.

    Args:
        optimizer: an optimizer that is not built.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.weights: list[Any] = []
        self.columns: dict[str, list[Any]] = {}

    def arrange(self, weights: Sequence[Any]) -> None:
        """Puts the slots in the order of `weights`, which hold all that have any."""
        position = {id(weight): i for i, weight in enumerate(self.weights)}
        before = [position.get(id(weight)) for weight in weights]
        self.weights = list(weights)
        for name, column in self.columns.items():
            self.columns[name] = [None if i is None else column[i] for i in before]
        self._show()

    def make(self, positions: Sequence[int]) -> None:
        """Makes the slots of the weights at `positions`, which have none yet."""
        optimizer = self.optimizer
        with scope_of(optimizer):
            is_first = not optimizer.built
            builder = optimizer if is_first else _unbuilt_copy(optimizer)
            builder.build([self.weights[position] for position in positions])
        tracked = {id(variable) for variable in keras_optimizers.state_of(builder)}
        for name, made in list(vars(builder).items()):
            if not _is_slots(name, made, len(positions)):
                continue
            column = self.columns.setdefault(name, [None] * len(self.weights))
            for position, slot in zip(positions, made, strict=True):
                column[position] = slot
                if is_first or id(slot) not in tracked:
                    continue
                keras_optimizers.track(optimizer, slot)
                if name == keras_optimizers.AVERAGES:
                    # An average of zeros would pull the weight towards zero.
                    with internals.outside_graph():
                        slot.assign(ops.copy(self.weights[position]))
        self._show()

    def keep_initial(self, positions: Sequence[int]) -> None:
        """Keeps the weights at `positions` as they are now, but for those kept already."""
        column = self.columns.get(INITIAL, [None] * len(self.weights))
        new = [position for position in positions if column[position] is None]
        if not new:
            return
        self.columns[INITIAL] = column
        for position in new:
            weight = self.weights[position]
            with scope_of(self.optimizer):
                kept = self.optimizer.add_variable_from_reference(weight, name="initial")
            with internals.outside_graph():
                # A copy: JAX gives the memory of each away at a step.
                kept.assign(ops.copy(weight))
            column[position] = kept
        self._show()

    def renew_initial(self) -> None:
        """Keeps the weights as they are now in the place of those kept already."""
        for weight, kept in zip(self.weights, self.columns.get(INITIAL, ()), strict=False):
            if kept is not None:
                kept.assign(ops.copy(weight))

    def initial(self, position: int) -> Any:
        """Gives the variable that holds what a weight decays towards."""
        return self.columns[INITIAL][position]

    def drop(self, positions: Sequence[int]) -> None:
        """Frees the slots of the weights at `positions`."""
        tracked = {id(variable) for variable in keras_optimizers.state_of(self.optimizer)}
        for name, column in self.columns.items():
            if name == INITIAL:  # what a weight began with cannot be made again
                continue
            for position in positions:
                if id(column[position]) in tracked:
                    keras_optimizers.untrack(self.optimizer, column[position])
                column[position] = None

    def activate(self, positions: Sequence[int]) -> None:
        """Lets the optimizer average only the weights at `positions`."""
        # Keras goes through these two in step with one another.
        keras_optimizers.set_trained(
            self.optimizer, [self.weights[position] for position in positions]
        )
        if keras_optimizers.AVERAGES in self.columns:
            averages = [self.columns[keras_optimizers.AVERAGES][position] for position in positions]
            object.__setattr__(self.optimizer, keras_optimizers.AVERAGES, averages)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Gives the variables that no weight owns, and the slots, under names for storing.

        The names depend only on which weights have slots, not on when the
        slots were made.
        """
        tracked = {id(variable): variable for variable in keras_optimizers.state_of(self.optimizer)}
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
            for name, value in vars(self.optimizer).items()
            if isinstance(value, keras.Variable)
        }
        own = {
            names.get(key, f"variable_{i}"): variable
            for i, (key, variable) in enumerate(tracked.items())
            if key not in in_slots
        }
        return own, slots

    def size_of(self, position: int) -> int:
        """Tells how many elements the slots of a weight hold, of those that `drop` frees."""
        found = (column[position] for name, column in self.columns.items() if name != INITIAL)
        return sum(int(keras.ops.size(slot)) for slot in found if slot is not None)

    def _show(self) -> None:
        """Gives the optimizer its lists, past TensorFlow's tracking of what they hold today."""
        optimizer = self.optimizer
        for name in self.columns.keys() - {INITIAL}:
            object.__setattr__(optimizer, name, self.columns[name])
        keras_optimizers.set_positions(
            optimizer,
            {
                keras_optimizers.key_of(optimizer, weight): i
                for i, weight in enumerate(self.weights)
            },
        )


def _is_slots(name: str, value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count > 0
        and name not in keras_optimizers.NOT_SLOTS
        and all(item is None or isinstance(item, keras.Variable) for item in value)
    )


def _unbuilt_copy(optimizer: Any) -> Any:
    return type(optimizer).from_config(optimizer.get_config())


def scope_of(optimizer: Any) -> Any:
    """Gives the distribution strategy that the optimizer's variables belong to, on TensorFlow."""
    strategy = keras_optimizers.strategy_of(optimizer)
    if strategy is None:
        return contextlib.nullcontext()
    import tensorflow as tf

    # A replica is in its strategy already, and cannot enter it a second time.
    entered = tf.distribute.get_strategy() is strategy
    return contextlib.nullcontext() if entered else strategy.scope()
