"""The variables of an optimizer, kept in line with the plan: slots, multipliers, what trains."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import ops

from keras_layerwise.backend import internals, keras_optimizers
from keras_layerwise.errors import RuleError
from keras_layerwise.optimizer import rules, storing, updates
from keras_layerwise.optimizer.plan import Plan
from keras_layerwise.optimizer.setting import Setting, number
from keras_layerwise.optimizer.slots import INITIAL, Slots, scope_of


class State:
    """Everything of an optimizer that changes while it trains, or that files hold.

    Args:
        owner: the `LayerwiseOptimizer`, under whose name variables are made.
        inner: the optimizer that it wraps.
        plan: what holds for each weight.
        use_fused: whether fused kernels may be used.
    """

    def __init__(self, owner: Any, inner: Any, plan: Plan, use_fused: bool) -> None:
        self.owner, self.inner, self.plan, self.use_fused = owner, inner, plan, use_fused
        self.slots = Slots(inner)
        self.updates: updates.Updates | None = None
        self.multipliers: Any = None
        self._names: tuple[str, ...] = ()

    def resolve(self, variables: Sequence[Any]) -> None:
        """Finds what holds for `variables`, and checks that their rates can be used.

        Raises:
            RuleError: where the rules, or a stored assignment, do not fit.
        """
        self.plan.resolve(variables)
        rate = self.inner.learning_rate
        is_known = isinstance(rate, keras.Variable) and not internals.in_graph()
        eta = number(rate) if is_known else None
        divides = isinstance(self.inner, keras.optimizers.Ftrl)
        for setting in self.plan.settings:
            rules.check_decay(setting.path, setting.rule, updates.decay_of_all(self.inner))
        for setting in (self.plan.settings[position] for position in self.plan.trained):
            rules.check_rate(setting.path, setting.rule, eta, divides_by_rate=divides)

    def make(self) -> None:
        """Makes the variables for what the plan has resolved; those that there are stay."""
        plan, is_first = self.plan, self.updates is None
        self.slots.arrange(plan.weights)
        self._make_multipliers()
        stored = [i for i, s in enumerate(plan.settings) if s.has_slots] if is_first else []
        missing = plan.missing_slots
        plan.note_slots(missing, held=True, step=0 if is_first else self.steps())
        if is_first or missing:
            self.slots.make(sorted({*stored, *missing}))
        self._keep_initial()
        self._name()
        if self.updates is None:
            self.updates = updates.install(
                self.inner, plan, self.multipliers, self.slots.initial, self.use_fused
            )
        self.updates.multipliers = self.multipliers
        plan.finish()

    def activate(self) -> None:
        """Has the optimizers, and the steps that contain them, train what the plan says."""
        missing = self.plan.missing_slots
        if missing:
            self.plan.note_slots(missing, held=True, step=self.steps())
            self.slots.make(missing)
            self._keep_initial()
            self._name()
        before, now = (
            keras_optimizers.trained_by(self.owner),
            self.plan.weights_at(self.plan.active),
        )
        self.slots.activate(self.plan.active)
        keras_optimizers.set_trained(self.owner, now)
        keys = {keras_optimizers.key_of(self.owner, w): i for i, w in enumerate(self.plan.weights)}
        keras_optimizers.set_positions(self.owner, keys)
        if [id(weight) for weight in before] != [id(weight) for weight in now]:
            self.trace_again()

    def trace_again(self) -> None:
        """Recompiles the training steps of the models that are known."""
        for model in self.plan.models:
            internals.trace_again(model, "train")

    def drop(self, positions: Sequence[int]) -> None:
        """Frees the slots of weights."""
        self.slots.drop(positions)
        self.plan.note_slots(positions, held=False)
        self._name()

    def variables(self) -> dict[str, Any]:
        """Gives every variable under its name for storing."""
        own, slots = self.slots.state()
        vector = {} if self.multipliers is None else {"multipliers": self.multipliers}
        return {**own, **vector, **slots}

    def write_multipliers(self) -> None:
        """Brings the variable in line with the plan."""
        with internals.outside_graph():
            self.multipliers.assign(self.plan.multipliers())

    def read_multipliers(self) -> None:
        """Brings the plan in line with the variable."""
        values = ops.convert_to_numpy(self.multipliers)
        for position, setting in enumerate(self.plan.settings):
            if isinstance(setting.rule.multiplier, float):
                self.plan.change([position], multiplier=float(values[position]))

    def steps(self) -> int:
        """Tells how many steps there were."""
        with internals.outside_graph():
            return int(number(keras_optimizers.step_counter(self.inner)))

    # Files.

    def load(self, store: Any) -> None:
        """Takes over what `storing.save` stored.

        Raises:
            RuleError: where it was made for other weights.
        """
        stored = storing.stored_settings(store)
        if not storing.was_built(store):
            # There is nothing to take over, and training begins with the file's weights.
            self.slots.renew_initial()
            return
        if storing.is_of_another_kind(store, self.variables(), self.owner.name):
            self.check_initial("it was stored by another kind of optimizer")
            return
        places = self._take_over(stored)
        try:
            storing.check_initial(stored, places, store)
        except RuleError:
            self.slots.renew_initial()
            raise
        storing.load(self.variables(), places, store)
        # What was stored without slots has new ones, and counts its steps from here.
        self.plan.note_slots(self._newer(places, stored), held=True, step=self.steps())

    def check_initial(self, why: str) -> None:
        """Raises a `RuleError` where weights decay to initial values that cannot be restored."""
        if INITIAL in self.slots.columns:
            # With skip_mismatch=True Keras only warns of it, and trains on.
            self.slots.renew_initial()
            raise RuleError(
                "The weights that rules with decay_to='initial' pull towards cannot be restored: "
                f"{why}. They would be what the model was built with. Load weights before the "
                "optimizer is built, or a file of a model that was trained with these rules."
            )

    def restore(self, stored: Sequence[Setting]) -> None:
        """Takes over the settings of a checkpoint, which restores variables by their names."""
        if self.updates is not None:
            if not any(setting.has_slots for setting in stored):
                self.check_initial("the checkpoint was written before the optimizer was built")
            if stored:
                self.plan.check_places(self._take_over(stored))
        elif stored:
            self.plan.expect(stored, in_place=True)

    def _take_over(self, stored: Sequence[Setting]) -> list[int | None]:
        plan = self.plan
        had = [setting.has_slots for setting in plan.settings]
        places = plan.take_over(stored)
        active = set(plan.active)
        self.drop([i for i in self._newer(places, stored) if i not in active])
        missing = [i for i, s in enumerate(plan.settings) if s.has_slots and not had[i]]
        if missing:
            self.slots.make(missing)
        self._keep_initial()
        self._name()
        self.write_multipliers()
        self.activate()
        return places

    def _keep_initial(self) -> None:
        """Keeps what those weights are now that decay to it, but for what is kept already."""
        self.slots.keep_initial(
            [i for i, s in enumerate(self.plan.settings) if s.has_slots and s.rule.decay_to]
        )

    def _newer(self, places: Iterable[int | None], stored: Sequence[Setting]) -> list[int]:
        """Gives the positions of the weights that hold slots and were stored without."""
        return [
            i
            for i, place in enumerate(places)
            if self.plan.settings[i].has_slots and (place is None or not stored[place].has_slots)
        ]

    def _make_multipliers(self) -> None:
        """Makes the vector of multipliers, anew where the number of weights changed."""
        values = self.plan.multipliers()
        if self.multipliers is not None and self.multipliers.shape == values.shape:
            self.write_multipliers()
            return
        with scope_of(self.inner):
            self.multipliers = self.owner.add_variable(
                shape=values.shape,
                # By initializer: an assignment here would be part of a graph that is traced.
                initializer=lambda shape, dtype=None: ops.convert_to_tensor(values, dtype),
                aggregation="only_first_replica",
                name="multipliers",
            )

    def _name(self) -> None:
        """Tells ``tf.train.Checkpoint`` the names of the variables that there are now."""
        state = self.variables()
        for name in set(self._names) - state.keys():
            keras_optimizers.forget_for_checkpoint(self.owner, name)
        for name, variable in state.items():
            keras_optimizers.name_for_checkpoint(self.owner, variable, name)
        self._names = tuple(state)
