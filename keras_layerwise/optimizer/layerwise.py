"""One optimizer, with settings of its own for every weight.

The inner Keras optimizer stays as it is and does all that it does: clipping,
accumulation, averaging, the update itself. Only where it would use one rate
for all weights, `keras_layerwise.optimizer.updates` gives each its own.
"""

import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_layerwise.backend import torch_backward as backward
from keras_layerwise.backend.internals import trace_again
from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors, structure
from keras_layerwise.optimizer import rules as rules_module
from keras_layerwise.optimizer.rules import Assignment, Rule, Rules, Schedule, Setting
from keras_layerwise.optimizer.slots import Slots
from keras_layerwise.optimizer.updates import Updates

_INNER_SETTINGS = (
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


def _as_written(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps AutoGraph from rewriting `method` in a user's ``tf.function``, as it spares Keras."""
    if keras.backend.backend() != "tensorflow":
        return method
    import tensorflow as tf

    spared: Callable[..., Any] = tf.autograph.experimental.do_not_convert(method)
    return spared


def _of_inner(name: str) -> property:
    """A setting that lives on the inner optimizer, and only there."""

    def get(self: "LayerwiseOptimizer") -> Any:
        return getattr(self.__dict__.get("inner_optimizer"), name, None)

    def put(self: "LayerwiseOptimizer", value: Any) -> None:
        # Keras's own constructor sets its defaults before there is an inner optimizer.
        if "inner_optimizer" in self.__dict__:
            setattr(self.inner_optimizer, name, value)

    return property(get, put)


@keras.saving.register_keras_serializable(package="keras_layerwise")
class LayerwiseOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer around another, with per-layer rates, decay and freezing.

    A weight with multiplier m is updated as the inner optimizer would at rate
    m·η(t); its gradient is not touched. Decay is w ← w − η_w·λ_w·w with the
    weight's own rate η_w and decay λ_w, as in a parameter group of PyTorch. A
    frozen weight is left out of everything, global-norm clipping included, as
    if its layer had ``trainable = False``, but stays among the model's
    trainable weights. With all multipliers 1, no other rule and
    ``fused=False``, training is bit-identical to the inner optimizer's.

    The inner optimizer advances once per step. ``learning_rate`` is the inner
    optimizer's: schedules and callbacks change it and the ratios between
    layers stay. Settings that this class does not know (``beta_1``) are read
    from and written to the inner optimizer.

    A weight that is unfrozen in mid-run and has no slots gets new ones and
    starts with the bias correction of step 1, as in a new parameter group of
    PyTorch: with the correction of the run's step, zero slots would make
    Adam's first update (1−β₁)/√(1−β₂) ≈ 3.2 times too long.

    Args:
        optimizer: a Keras optimizer that is not built yet, or its name.
            Clipping, averaging, accumulation and decay are set on it.
        rules: ``{selector: Rule or multiplier}``, or the `Rules` that a preset
            returns; a weight takes each setting from the first rule that
            selects it and says something about it. For selectors see
            `keras_layerwise.model.selectors.select`.
        model: the model to be trained; needed for classes and callables, and
            to check the rules at once rather than at the first step.
        name: of this optimizer.
        fused: on TensorFlow, update through its single kernels for SGD, Adam,
            AdamW, RMSprop and Adagrad where they compute Keras's formula:
            equal to a relative 1e-6 over 100 steps, and faster. Without it
            the updates are Keras's own, bit for bit.

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
        inner = _inner_optimizer(optimizer)
        rules = rules_module.as_rules(rules)
        if model is None:
            for selector, _ in rules:
                if selectors.needs_model(selector):
                    raise RuleError(
                        f"The rule for {selectors.label(selector)!r} can be answered only where "
                        "the layers are known. Pass model=... to LayerwiseOptimizer."
                    )
        super().__init__(learning_rate=0.0, name=name)
        # Past Keras's attribute tracking: the state of the inner optimizer is stored here,
        # under names that do not depend on the order in which slots were made.
        self._set("inner_optimizer", inner)
        self._set("_iterations", inner._iterations)
        self._set("_rules", rules)
        self._set("_model", None)
        self._set("_settings", [])
        self._set("_sites", ())
        self._set("_weights", [])
        self._set("_slots", Slots(inner, []))
        self._set("_multipliers", None)
        self._set("_stored", None)
        self._set("_compiled", False)
        self._set("fused", fused)
        if keras.backend.backend() == "tensorflow":
            self._checkpointed_assignment = _checkpointed_assignment(self)
        if model is not None:
            self.attach(model)
            if model.built and model.trainable_weights:
                self._resolve(model.trainable_weights)

    # What Keras asks of an optimizer.

    def build(self, variables: Sequence[Any]) -> None:
        """Finds what holds for `variables`, and makes the slots of those not frozen.

        Raises:
            RuleError: where the rules, or a stored assignment, do not fit.
        """
        if self.built:
            return
        variables = list(variables)
        settings = self._resolve(variables)
        self._set("_weights", variables)
        for position, variable in enumerate(variables):
            self._trainable_variables_indices[self._var_key(variable)] = position
        self._set("_trainable_variables", variables)
        self._set(
            "_multipliers",
            self.add_variable(
                shape=(len(variables),),
                # By initializer: an assignment here would be part of a graph that is traced.
                initializer=lambda shape, dtype=None: ops.convert_to_tensor(
                    self._multiplier_values(), dtype
                ),
                aggregation="only_first_replica",
                name="multipliers",
            ),
        )
        self._set("_slots", Slots(self.inner_optimizer, variables))
        self._make_slots([i for i, setting in enumerate(settings) if setting.has_slots])
        Updates(self.inner_optimizer, settings, self._multipliers, self.fused)
        self.built = True
        self._update_active()

    @_as_written
    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Updates the weights that are not frozen; see ``keras.optimizers.Optimizer.apply``."""
        grads = list(grads)
        if not grads:
            return
        if trainable_variables is None:
            if not self.built:
                raise ValueError(
                    "The optimizer is not built. Pass the variables with the gradients, or call "
                    "build(model.trainable_variables) first."
                )
            trainable_variables = self._weights
            if len(grads) != len(trainable_variables):
                raise ValueError(
                    f"Received {len(grads)} gradients for {len(trainable_variables)} variables. "
                    "Pass one gradient, or None, for each."
                )
        else:
            trainable_variables = list(trainable_variables)
            if not self.built:
                with keras.name_scope(self.name, caller=self):
                    self.build(trainable_variables)
        self._set("_compiled", self._compiled or _in_graph())
        if len(self.inner_optimizer._trainable_variables) == len(self._weights):
            self.inner_optimizer.apply(grads, trainable_variables)
            return
        self._check_variables_are_known(trainable_variables)
        active = [
            (gradient, variable)
            for gradient, variable in zip(grads, trainable_variables, strict=True)
            if not self._settings[self._get_variable_index(variable)].rule.frozen
        ]
        if active:
            self.inner_optimizer.apply([g for g, _ in active], [v for _, v in active])
        else:
            self.inner_optimizer._iterations.assign_add(1)

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Any],
        grads: Sequence[Any],
        trainable_variables: Sequence[Any],
    ) -> tuple[list[Any], list[Any]]:
        """`apply` as a function of values; see ``keras.optimizers.Optimizer``."""
        self._set("_compiled", True)
        # The base class maps `_trainable_variables`, which are the active ones elsewhere.
        active = self._trainable_variables
        self._set("_trainable_variables", self._weights)
        try:
            result: tuple[list[Any], list[Any]] = super().stateless_apply(
                optimizer_variables, grads, trainable_variables
            )
        finally:
            self._set("_trainable_variables", active)
        return result

    def scale_loss(self, loss: Any) -> Any:
        """The loss to differentiate, for weights that are not frozen."""
        loss = super().scale_loss(loss)
        active = self.inner_optimizer._trainable_variables if self.built else ()
        if keras.backend.backend() != "torch" or not 0 < len(active) < len(self._weights):
            return loss
        return backward.towards(loss, [variable.value for variable in active])

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Puts the moving averages in place of the weights, where the inner optimizer has any."""
        if self.built:
            self.inner_optimizer.finalize_variable_values(self.inner_optimizer._trainable_variables)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Excludes weights from decay, on the inner optimizer, whatever the rules say."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one weight at `learning_rate`, which no rule changes here."""
        self.inner_optimizer.update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        self.inner_optimizer._apply_weight_decay(variables)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets the state, in the order of ``variables``."""
        if not self.built:
            raise ValueError(
                "You are calling set_weights() on an optimizer that is not built, so it has no "
                "state to set. Call build(model.trainable_variables) first."
            )
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)
        self._read_multipliers()

    @property
    def variables(self) -> list[Any]:
        """The inner optimizer's variables and one vector of multipliers."""
        return list(self._state().values())

    @property
    def iterations(self) -> Any:
        """Number of steps, as the inner optimizer counts them."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's rate η(t); each weight's own is in `assignments`."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner_optimizer.learning_rate = value

    # What this optimizer adds.

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """What holds for each trainable weight now, in the optimizer's order.

        Raises:
            RuleError: while the weights are not known.
        """
        self._sync()
        settings = self._known_settings()
        inner = self.inner_optimizer
        rate = _number(inner.learning_rate)
        found = []
        for position, setting in enumerate(settings):
            rule = setting.rule
            multiplier = 1.0 if rule.multiplier is None else self._now(rule.multiplier)
            own_rate = None if rule.learning_rate is None else self._now(rule.learning_rate)
            effective = rate * multiplier if own_rate is None else own_rate
            found.append(
                Assignment(
                    path=setting.path,
                    layer=setting.layer,
                    rule=setting.label,
                    multiplier=multiplier if own_rate is None else None,
                    learning_rate=0.0 if rule.frozen else effective,
                    weight_decay=self._decay_of(position),
                    frozen=bool(rule.frozen),
                    parameters=int(np.prod(setting.shape)),
                )
            )
        return tuple(found)

    def attach(self, model: Any) -> None:
        """Tells the optimizer the model that it trains.

        With it, what is frozen can change after training began: the model's
        compiled step is then traced again. The package's callbacks do this.
        """
        self._set("_model", weakref.ref(model))
        if self._weights:
            positions = self._locate(self._weights)
            for i, position in enumerate(positions):
                site = self._sites[position]
                self._settings[i] = replace(
                    self._settings[i], path=site.path, layer=site.layer_path
                )  # fmt: skip

    def selected(self, select: Any) -> tuple[Assignment, ...]:
        """The `assignments` of the weights that `select` picks.

        Raises:
            RuleError: where nothing is selected.
        """
        positions = self._positions(select)
        assignments = self.assignments
        return tuple(assignments[position] for position in positions)

    def set_multiplier(self, select: Any, value: float) -> None:
        """Changes the multiplier of weights, from the next step on, without a new trace.

        Args:
            select: a selector, as in the rules.
            value: a number ≥ 0.

        Raises:
            RuleError: where nothing is selected, `value` is out of range, or
                a weight has a rate or a schedule of its own.
        """
        value = rules_module.check_number("multiplier", value)
        positions = self._positions(select)
        for position in positions:
            rule = self._settings[position].rule
            if rule.learning_rate is not None or isinstance(rule.multiplier, Schedule):
                raise RuleError(
                    f"{self._settings[position].path!r} has "
                    f"{'its own rate' if rule.learning_rate is not None else 'a schedule'}; a "
                    "multiplier would have no effect on it. Select other weights."
                )
        self._sync()
        for position in positions:
            self._change(position, multiplier=value)
        self._multipliers.assign(self._multiplier_values())

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
        from keras_layerwise.tables import assignment_table

        (print_fn or print)(assignment_table(self.name, self.assignments, per_weight))

    # Storing and loading.

    def get_config(self) -> dict[str, Any]:
        """The inner optimizer and what holds for each weight, as plain values."""
        config = {
            "name": self.name,
            "fused": self.fused,
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
        }
        if self._settings:
            return {**config, "assignment": [setting.to_json() for setting in self._settings]}
        return {
            **config,
            "rules": [rules_module.entry_to_json(*item) for item in self._rules],
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "LayerwiseOptimizer":
        """Makes the optimizer again; what was assigned is checked when it is built."""
        inner = keras.saving.deserialize_keras_object(
            config["optimizer"], custom_objects=custom_objects
        )
        rules = Rules(rules_module.entry_from_json(entry) for entry in config.get("rules", ()))
        optimizer = cls(inner, rules, name=config["name"], fused=config["fused"])
        if "assignment" in config:
            optimizer._set("_stored", [Setting.from_json(item) for item in config["assignment"]])
        return optimizer

    def save_own_variables(self, store: Any) -> None:
        """Stores the assignment, and the state under names that later slots do not shift."""
        for name, variable in self._state().items():
            store[name] = ops.convert_to_numpy(variable)
        store["assignment"] = np.frombuffer(self._assignment_to_text().encode(), dtype="uint8")

    def load_own_variables(self, store: Any) -> None:
        """Takes over a stored assignment and state.

        Raises:
            RuleError: where they were made for other weights.
        """
        names = set(store.keys())
        if "assignment" not in names or not self.built:
            problem = "it is not built yet" if not self.built else "no LayerwiseOptimizer stored it"
            warnings.warn(
                f"The stored state is skipped for optimizer {self.name!r}: {problem}.",
                stacklevel=2,
            )
            return
        text = np.asarray(store["assignment"]).astype("uint8").tobytes().decode()
        stored = rules_module.settings_from_text(text)
        if not stored:
            # Stored before its first step, there is nothing to take over.
            return
        rules_module.check_fit(stored, self._settings)
        kinds = {name.partition(".")[0] for name in names - {"assignment"}}
        own_kinds = {name.partition(".")[0] for name in self._state()}
        if not own_kinds <= kinds:
            warnings.warn(
                f"The stored state is skipped for optimizer {self.name!r}: it was stored by "
                "another kind of optimizer, without "
                f"{', '.join(sorted(own_kinds - kinds))}.",
                stacklevel=2,
            )
            return
        self._take_over(stored)
        for name, variable in self._state().items():
            variable.assign(np.asarray(store[name]))

    def __dir__(self) -> list[str]:
        # Keras's saver walks dir() and would store the inner optimizer a second time.
        return [name for name in super().__dir__() if name != "inner_optimizer"]

    def __getattr__(self, name: str) -> Any:
        inner = self.__dict__.get("inner_optimizer")
        if inner is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        inner = self.__dict__.get("inner_optimizer")
        own = inner is None or name in self.__dict__ or hasattr(type(self), name)
        if own or not hasattr(inner, name):
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)

    def _set(self, name: str, value: Any) -> None:
        """Sets an attribute past the tracking of Keras and TensorFlow."""
        object.__setattr__(self, name, value)

    # Which setting holds for which weight.

    def _resolve(self, variables: Sequence[Any]) -> list[Setting]:
        positions = self._locate(variables)
        located = [self._sites[position] for position in positions]
        settings = [
            Setting(
                path=site.path,
                layer=site.layer_path,
                name=site.weight.name,
                shape=tuple(site.weight.shape),
                label=None,
                rule=Rule(frozen=False),
            )
            for site in located
        ]
        if self._stored is not None:
            rules_module.check_fit(self._stored, settings)
            if located and located[0].chains:
                settings = [
                    rules_module.relocated(stored, found)
                    for stored, found in zip(self._stored, settings, strict=True)
                ]
            else:
                # Without the model, the stored paths are better than the variables' own.
                settings = list(self._stored)
                self._set("_sites", _sites_of_settings(settings, variables))
        else:
            may_train = {*positions, *rules_module.ever_trainable(self._sites)}
            found = rules_module.resolve(self._rules, self._sites, may_train)
            for i, position in enumerate(positions):
                if position in found:
                    rule, label = found[position]
                    settings[i] = replace(settings[i], label=label, rule=rule)
            settings = [replace(s, has_slots=not s.rule.frozen) for s in settings]
        self._check_rates(settings)
        self._set("_settings", settings)
        return settings

    def _check_rates(self, settings: Sequence[Setting]) -> None:
        if not isinstance(self.inner_optimizer, keras.optimizers.Ftrl):
            return
        for setting in settings:
            if not setting.rule.frozen and 0.0 in (
                setting.rule.multiplier,
                setting.rule.learning_rate,
            ):
                raise RuleError(
                    f"{setting.path!r} has rate 0 under Ftrl, which divides by the rate and would "
                    "make it NaN. Use Rule(frozen=True) to leave the weight out."
                )

    def _locate(self, variables: Sequence[Any]) -> list[int]:
        """Finds the places of `variables` in the model, or by their paths without one."""
        model = self._trained_model()
        sites = structure.sites(model) if model is not None else ()
        places = {id(site.weight): i for i, site in enumerate(sites)}
        unknown = [v for v in variables if id(v) not in places]
        if unknown and model is not None and not self._weights:
            raise RuleError(
                f"LayerwiseOptimizer was given the model {model.name!r}, but trains "
                f"{getattr(unknown[0], 'path', unknown[0].name)!r}, which is not a weight of it. "
                "Pass the model that is trained."
            )
        if unknown:
            sites = structure.sites_of_variables(variables)
            places = {id(site.weight): i for i, site in enumerate(sites)}
        self._set("_sites", sites)
        return [places[id(variable)] for variable in variables]

    def _positions(self, select: Any) -> list[int]:
        """The positions among the optimizer's weights of what `select` picks."""
        self._known_settings()
        if selectors.needs_model(select) and not any(site.chains for site in self._sites):
            raise RuleError(
                f"{selectors.label(select)!r} can be answered only where the layers are known. "
                "Pass model=... to LayerwiseOptimizer."
            )
        if not self.built:
            model = self._trained_model()
            if model is not None:
                self.build(model.trainable_weights)
        own = {id(weight): position for position, weight in enumerate(self._weights)}
        trainable = [i for i, site in enumerate(self._sites) if id(site.weight) in own]
        found = rules_module.resolve(
            Rules([(select, Rule(frozen=True))]), self._sites, trainable
        )  # fmt: skip
        return sorted(own[id(self._sites[i].weight)] for i in found)

    def _known_settings(self) -> list[Setting]:
        if not self._settings:
            raise RuleError(
                "The weights are not known yet. Pass model=... with a model that is built, or "
                "train one step first."
            )
        settings: list[Setting] = self._settings
        return settings

    def _trained_model(self) -> Any:
        """The model that was attached, None where none was or it is gone."""
        return None if self._model is None else self._model()

    def _active(self) -> list[int]:
        return [i for i, setting in enumerate(self._settings) if not setting.rule.frozen]

    def _change(self, position: int, **changes: Any) -> None:
        setting = self._settings[position]
        self._settings[position] = replace(setting, rule=replace(setting.rule, **changes))

    def _freeze(self, select: Any, frozen: bool) -> None:
        positions = [p for p in self._positions(select) if self._settings[p].rule.frozen != frozen]
        if not positions:
            return
        model = self._trained_model()
        if self._compiled and model is None:
            raise RuleError(
                "What is frozen cannot change now: the training step is compiled, and the "
                "optimizer does not know whose step it is. Pass model=... to LayerwiseOptimizer, "
                "or call optimizer.attach(model) first."
            )
        if self._compiled and getattr(model, "train_function", None) is None:
            warnings.warn(
                "What is frozen changes, but the step was compiled in a loop of your own: trace "
                "it again for the change to take effect (a model that trains by fit does).",
                stacklevel=3,
            )
        self._sync()
        for position in positions:
            self._change(position, frozen=frozen)
        missing = [p for p in self._active() if not self._settings[p].has_slots]
        if missing:
            step = int(_number(self.inner_optimizer._iterations))
            self._make_slots(missing)
            for position in missing:
                self._settings[position] = replace(
                    self._settings[position], has_slots=True, first_step=step
                )
        self._update_active()

    def _multiplier_values(self) -> Any:
        values = [setting.rule.multiplier for setting in self._settings]
        return np.asarray([m if isinstance(m, float) else 1.0 for m in values], dtype="float32")

    def _update_active(self) -> None:
        """Brings the inner optimizer and the compiled step in line with what is frozen."""
        active = self._active()
        before, now = self._trainable_variables, [self._weights[p] for p in active]
        self._slots.activate(active)
        self._set("_trainable_variables", now)
        if [id(weight) for weight in before] != [id(weight) for weight in now]:
            self._trace_again()

    def _trace_again(self) -> None:
        model = self._trained_model()
        if model is not None:
            trace_again(model, "train")

    def _sync(self) -> None:
        """On JAX, brings the state that training holds back into the variables."""
        model = self._trained_model()
        if model is not None and hasattr(model, "jax_state_sync"):
            model.jax_state_sync()

    # State.

    def _make_slots(self, positions: Sequence[int]) -> None:
        self._slots.make(positions)
        if hasattr(self, "_track_trackable"):
            for name, variable in self._state().items():
                self._track_trackable(variable, name=name, overwrite=True)

    def _state(self) -> dict[str, Any]:
        """Every variable under its name for storing."""
        own, slots = self._slots.state()
        added = {} if self._multipliers is None else {"multipliers": self._multipliers}
        return {**own, **added, **slots}

    def _assignment_to_text(self) -> str:
        return rules_module.settings_to_text(self._settings)

    def _assignment_from_text(self, text: str) -> None:
        stored = rules_module.settings_from_text(text)
        if self.built:
            self._take_over(stored)
        elif stored:
            self._set("_stored", stored)

    def _take_over(self, stored: Sequence[Setting]) -> None:
        """Makes a stored assignment the one that holds, slots included."""
        rules_module.check_fit(stored, self._settings)
        own = self._settings
        missing = [i for i, s in enumerate(stored) if s.has_slots and not own[i].has_slots]
        if missing:
            self._make_slots(missing)
        merged = [
            replace(
                rules_module.relocated(new, old), has_slots=new.has_slots or old.has_slots
            )
            for new, old in zip(stored, own, strict=True)
        ]  # fmt: skip
        self._settings[:] = merged
        self._multipliers.assign(self._multiplier_values())
        self._update_active()

    def _read_multipliers(self) -> None:
        values = ops.convert_to_numpy(self._multipliers)
        for position, setting in enumerate(self._settings):
            if isinstance(setting.rule.multiplier, float):
                self._change(position, multiplier=float(values[position]))

    def _now(self, value: Any) -> float:
        if isinstance(value, Schedule):
            return _number(value(self.inner_optimizer._iterations))
        return float(value)

    def _decay_of(self, position: int) -> float | None:
        """λ of a weight, None where nothing decays it."""
        inner = self.inner_optimizer
        if self._weights and not inner._use_weight_decay(self._weights[position]):
            return None
        own = self._settings[position].rule.weight_decay
        decay: float | None = inner.weight_decay if own is None else own
        return decay


for _name in _INNER_SETTINGS:
    setattr(LayerwiseOptimizer, _name, _of_inner(_name))


def layerwise_optimizers(optimizer: Any) -> list[LayerwiseOptimizer]:
    """The `LayerwiseOptimizer` in `optimizer`, through Keras's own wrappers; several in a
    ``MultiOptimizer``, none in any other.
    """  # noqa: D205
    if isinstance(optimizer, LayerwiseOptimizer):
        return [optimizer]
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return layerwise_optimizers(optimizer.inner_optimizer)
    members = getattr(optimizer, "optimizers", None) or ()
    return [found for member in members for found in layerwise_optimizers(member)]


def _sites_of_settings(
    settings: Sequence[Setting], variables: Sequence[Any]
) -> tuple[structure.Site, ...]:
    return tuple(
        structure.Site(weight=v, layer=None, layer_path=s.layer, path=s.path, chains=())
        for s, v in zip(settings, variables, strict=True)
    )


def _inner_optimizer(optimizer: Any) -> Any:
    if isinstance(optimizer, str):
        optimizer = keras.optimizers.get(optimizer)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`optimizer` is a Keras optimizer or its name; received {optimizer!r}. "
            "Such as LayerwiseOptimizer(keras.optimizers.Adam(1e-3), rules)."
        )
    if isinstance(optimizer, (LayerwiseOptimizer, keras.optimizers.LossScaleOptimizer)) or hasattr(
        optimizer, "optimizers"
    ):
        raise TypeError(
            f"LayerwiseOptimizer goes directly around an optimizer that updates weights; received "
            f"{type(optimizer).__name__}, which is a wrapper itself. Put LayerwiseOptimizer inside "
            "it (Keras adds LossScaleOptimizer by itself under mixed_float16)."
        )
    if optimizer.built:
        raise RuleError(
            f"The inner optimizer {optimizer.name!r} is already built and has slots of its own. "
            "Pass a new one, such as type(optimizer).from_config(optimizer.get_config())."
        )
    return optimizer


def _number(value: Any) -> float:
    return float(ops.convert_to_numpy(value))


def _in_graph() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.executing_eagerly()


def _checkpointed_assignment(owner: LayerwiseOptimizer) -> Any:
    """What ``tf.train.Checkpoint`` stores of the assignment beside the variables."""
    import tensorflow as tf

    class State(tf.train.experimental.PythonState):
        def serialize(self) -> str:
            return owner._assignment_to_text()

        def deserialize(self, string_value: bytes) -> None:
            owner._assignment_from_text(bytes(string_value).decode())

    return State()
