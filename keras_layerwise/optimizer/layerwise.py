"""One optimizer, with settings of its own for every weight.

The inner Keras optimizer stays as it is and does all that it does: clipping,
accumulation, averaging, the update itself. Only where it would use one rate
for all weights, `keras_layerwise.optimizer.updates` gives each its own, as
`keras_layerwise.optimizer.plan` says.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_layerwise.backend import internals
from keras_layerwise.errors import RuleError
from keras_layerwise.model import interpolated
from keras_layerwise.optimizer import attachment, storing, summary
from keras_layerwise.optimizer import rules as rules_module
from keras_layerwise.optimizer.attachment import layerwise_optimizers as layerwise_optimizers
from keras_layerwise.optimizer.attachment import optimizer_of as optimizer_of
from keras_layerwise.optimizer.inner import checked
from keras_layerwise.optimizer.plan import Plan
from keras_layerwise.optimizer.state import State
from keras_layerwise.optimizer.stepper import Stepper
from keras_layerwise.optimizer.summary import Assignment


@keras.saving.register_keras_serializable(package="keras_layerwise")
class LayerwiseOptimizer(Stepper):
    """A Keras optimizer around another, with per-layer rates, decay and freezing.

    A weight with multiplier m is updated as the inner optimizer would at rate
    m·η(t); its gradient is not touched. Decay is w ← w − η_w·λ_w·w with the
    weight's own rate η_w and decay λ_w, as in a parameter group of PyTorch. A
    frozen weight is left out of everything, global-norm clipping included, and
    a layer that is frozen whole computes as if it had ``trainable = False``,
    but stays among the model's trainable weights. With all multipliers 1, no other rule and
    ``fused=False``, training is bit-identical to the inner optimizer's.

    The inner optimizer advances once per step. ``learning_rate`` is the inner
    optimizer's: schedules and callbacks change it and the ratios between
    layers stay. Settings that this class does not know (``beta_1``) are read
    from and written to the inner optimizer.

    A weight that is unfrozen in mid-run and has no slots gets new ones and
    starts with the bias correction of step 1, as in a new parameter group of
    PyTorch: with the correction of the run's step, zero slots would make
    Adam's first update (1−β₁)/√(1−β₂) ≈ 3.2 times too long.

    Compiled again, after `trainable` changed, ``enable_lora`` ran or a head was
    replaced, the optimizer keeps the slots and steps of the weights that it
    knows, and makes new ones for those that joined.

    Args:
        optimizer: a Keras optimizer that is not built yet, or its name.
            Clipping, averaging, accumulation and decay are set on it.
        rules: ``{selector: Rule or multiplier}``, or the `Rules` that a preset
            returns; a weight takes each setting from the first rule that
            selects it and says something about it. For selectors see
            `keras_layerwise.model.selectors.select`.
        model: the model that the rules are about. ``fit`` and
            ``train_on_batch`` tell the optimizer theirs; give it to check the
            rules at once, and for training loops of your own.
        name: of this optimizer.
        fused: update SGD, Adam, AdamW, RMSprop and Adagrad by TensorFlow's
            single kernels, and SGD, Adam, AdamW and Adagrad on PyTorch, and
            Adam and AdamW on JAX in fewer operations, where they compute
            Keras's formula: equal to a relative 1e-6 over 100 steps, and
            faster. Without it the updates are Keras's own, bit for bit.

    Raises:
        RuleError: for a rule that cannot hold; see
            `keras_layerwise.optimizer.rules.resolve`.
        TypeError: for arguments of the wrong type, an inner optimizer that
            is a wrapper itself, or settings that belong on the inner one.

    Example:

    >>> import keras
    >>> body, head = keras.layers.Dense(8, name="body"), keras.layers.Dense(2, name="head")
    >>> model = keras.Sequential([keras.Input((4,)), body, head])
    >>> optimizer = LayerwiseOptimizer("adam", {"body": 0.1}, model=model)
    >>> model.compile(optimizer=optimizer, loss="mse")
    >>> [(a.path, round(a.learning_rate, 6)) for a in optimizer.assignments]
    [('body/kernel', 0.0001), ('body/bias', 0.0001), ('head/kernel', 0.001), ('head/bias', 0.001)]
    """

    built: bool
    is_layerwise = True

    def __init__(
        self,
        optimizer: Any,
        rules: Any = None,
        model: Any = None,
        name: str | None = None,
        *,
        fused: bool = True,
        **misplaced: Any,
    ) -> None:
        if misplaced:
            raise TypeError(
                f"LayerwiseOptimizer does not take {', '.join(sorted(misplaced))}: settings of the "
                "update belong on the inner optimizer, such as "
                "LayerwiseOptimizer(keras.optimizers.Adam(1e-3, clipnorm=1.0), rules)."
            )
        inner = checked(optimizer)
        plan = Plan(rules_module.as_rules(rules))
        super().__init__(inner, name)
        self._set("plan", plan)
        self._set("state", State(self, inner, plan, fused))
        self._set("compiled", False)
        self._set("fused", fused)
        if internals.backend() == "tensorflow":
            self._checkpointed_assignment = storing.checkpointed(plan, self.state.restore)
        if model is not None:
            plan.give(model)
            attachment.know(model, self)
            if model.built and model.trainable_weights:
                self.state.resolve(model.trainable_weights)

    def build(self, variables: Sequence[Any]) -> None:
        """Finds what holds for `variables`, and makes the slots of those not frozen.

        Built before, it adopts other variables: those that it knows keep their
        slots and steps, new ones get new slots and count their own steps, and
        the rules are resolved anew.

        Raises:
            RuleError: where the rules, or a stored assignment, do not fit.
        """
        variables = list(variables)
        if not self.plan.is_resolved_for(variables):
            if self.built:
                self._sync()
            self.state.resolve(variables)
        elif self.built:
            return
        self.state.make()
        self.built = True
        self.state.activate()

    # What this optimizer adds.

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """What holds for each trainable weight now, in the optimizer's order.

        Raises:
            RuleError: while the weights are not known.
        """
        self._sync()
        self.plan.known_settings()
        return summary.assignments(self.plan, self.inner_optimizer, self.plan.trained)

    def attach(self, model: Any) -> None:
        """Tells the optimizer the model that it trains.

        With it, what is frozen can change after training began: the model's
        compiled step is then traced again. ``compile`` does this by itself.
        """
        self.plan.train_in(model)
        attachment.know(model, self)
        if self.built:
            self.build(self.plan.weights_at(self.plan.trained))

    def selected(self, select: Any) -> tuple[Assignment, ...]:
        """Gives the `assignments` of the weights that `select` picks, trainable now or not.

        Raises:
            RuleError: where nothing is selected.
        """
        positions = self._positions(select)
        self._sync()
        return summary.assignments(self.plan, self.inner_optimizer, positions)

    def set_multiplier(self, select: Any, value: float) -> None:
        """Changes the multiplier of weights, from the next step on, without a new trace.

        Args:
            select: a selector, as in the rules.
            value: a number ≥ 0.

        Raises:
            RuleError: where nothing is selected, `value` is out of range, or
                a weight has a rate or a schedule of its own.
        """
        value = rules_module.check_number("multiplier", value, takes_schedule=True)
        positions = self._positions(select)
        self.plan.check_constant(positions)
        self._sync()
        self.plan.change(positions, multiplier=value)
        self.state.write_multipliers()

    def freeze(self, select: Any) -> None:
        """Leaves weights out from the next step on; their slots are kept for `unfreeze`.

        Args:
            select: a selector, as in the rules.

        Raises:
            RuleError: where nothing is selected, or where the step is compiled
                and the model not known.
        """
        self._freeze(select, frozen=True)

    def unfreeze(self, select: Any) -> None:
        """Takes weights in from the next step on; the others keep their state.

        Args:
            select: a selector, as in the rules.

        Raises:
            RuleError: as `freeze`.
        """
        self._freeze(select, frozen=False)

    def drop_slots(self, select: Any) -> None:
        """Frees the slots of the selected weights that do not train now.

        A weight that trains again later gets new slots, and counts its own
        steps from then on. `summary` shows which weights hold slots unused.

        Args:
            select: a selector, as in the rules.

        Raises:
            RuleError: where nothing is selected, or all of it trains.
        """
        idle = self.plan.idle(self._positions(select))
        self._sync()
        self.state.drop(idle)
        self.state.trace_again()

    def summary(
        self, print_fn: Callable[[str], Any] | None = None, per_weight: bool = False
    ) -> None:
        """Prints what holds for each layer, and how much of the model is trained.

        Args:
            print_fn: receives the text; ``print`` by default.
            per_weight: a row for each weight instead of each layer.

        Raises:
            RuleError: while the weights are not known.
        """
        self._sync()
        sizes = self.state.slots.size_of if self.built else (lambda position: 0)
        text = summary.table(self.name, self.plan, self.inner_optimizer, sizes, per_weight)
        for model in self.plan.models:
            for share in interpolated.shares(model):
                text += f"\n Interpolated, share of the trained: {interpolated.as_text(share)}"
        (print_fn or print)(text)

    # Storing and loading.

    def get_config(self) -> dict[str, Any]:
        """Gives the inner optimizer and what holds for each weight, as plain values."""
        return {
            "name": self.name,
            "fused": self.fused,
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            **storing.plan_to_config(self.plan),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "LayerwiseOptimizer":
        """Makes the optimizer again; what was assigned is checked when it is built."""
        inner = keras.saving.deserialize_keras_object(
            config["optimizer"], custom_objects=custom_objects
        )
        rules, stored = storing.plan_from_config(config)
        optimizer = cls(inner, rules, name=config["name"], fused=config["fused"])
        if stored:
            optimizer.plan.expect(stored)
        return optimizer

    def save_own_variables(self, store: Any) -> None:
        """Stores the assignment, and the state under names that later slots do not shift."""
        storing.save(self.plan, self.state.variables(), store)

    def load_own_variables(self, store: Any) -> None:
        """Takes over a stored assignment and state.

        Raises:
            RuleError: where they were made for other weights.
        """
        if storing.ASSIGNMENT not in set(store.keys()) or not self.built:
            problem, remedy = "no LayerwiseOptimizer stored it", ""
            if not self.built:
                problem = "it is not built yet"
                remedy = (
                    " Its own rules hold, and decay_to='initial' pulls towards what the model has "
                    "when it is built. To go on with what was stored, call "
                    "optimizer.build(model.trainable_variables) before load_weights."
                )
            self.state.check_initial(problem)
            warnings.warn(
                f"The stored state is skipped for optimizer {self.name!r}: {problem}.{remedy}",
                stacklevel=2,
            )
            return
        self.state.load(store)

    # How the parts follow the plan.

    def _positions(self, select: Any) -> list[int]:
        """Gives the positions of what `select` picks; builds the optimizer where it can."""
        model = self.plan.model
        if not self.built and model is not None and attachment.is_built(model):
            self.build(model.trainable_weights)
        found: list[int] = self.plan.select(select)
        return found

    def _freeze(self, select: Any, frozen: bool) -> None:
        plan = self.plan
        positions = [p for p in self._positions(select) if plan.settings[p].frozen != frozen]
        if not positions:
            return
        if self.compiled and not plan.models:
            raise RuleError(
                "What is frozen cannot change now: the training step is compiled, and the "
                "optimizer does not know whose step it is. Pass model=... to LayerwiseOptimizer, "
                "or call optimizer.attach(model) first."
            )
        steps = [getattr(model, "train_function", None) for model in plan.models]
        if self.compiled and all(step is None for step in steps):
            warnings.warn(
                "What is frozen changes, but the step was compiled in a loop of your own: trace "
                "it again for the change to take effect (a model that trains by fit does).",
                stacklevel=3,
            )
        self._sync()
        if frozen:
            plan.freeze_with([select])
        plan.change(positions, frozen=frozen)
        if self.built:
            self.state.activate()

    def _sync(self) -> None:
        """Brings the state that training on JAX holds back into the variables."""
        for model in self.plan.models:
            internals.sync_state(model)
