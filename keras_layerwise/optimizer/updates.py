"""The methods of an optimizer that are replaced, so that each weight has its own rate.

Keras hands one learning rate down to the update of every weight. Here each
update asks the plan for its own. PyTorch's fused update of all weights at once
becomes one for each group of weights that share their settings.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import keras
from keras import ops

from keras_layerwise.backend import internals, jax_updates, keras_optimizers, tensorflow_kernels
from keras_layerwise.backend import torch_foreach as foreach
from keras_layerwise.backend.fused import Update
from keras_layerwise.optimizer.plan import Plan
from keras_layerwise.optimizer.setting import rate_of


def install(
    optimizer: Any,
    plan: Plan,
    multipliers: Any,
    initial: Callable[[int], Any],
    use_fused: bool,
) -> "Updates":
    """Replaces how a built optimizer updates and decays its weights.

    Args:
        optimizer: its methods are replaced on the instance.
        plan: what holds for each weight; read at each trace, and on PyTorch at
            each step.
        multipliers: variable of shape ``(weights,)``, so that a multiplier can
            change without a new trace.
        initial: gives the variable that holds what the weight at a position
            decays towards, where its rule says so.
        use_fused: whether fused kernels may be used.

    Returns:
        What was installed, to be told where `multipliers` is another variable.
    """
    updates = Updates(optimizer, plan, multipliers, initial, use_fused)
    in_groups = keras_optimizers.updates_at_once(optimizer)
    updates.replaced = keras_optimizers.replace_updates(
        optimizer,
        one=updates.update_one,
        together=updates.update_groups if in_groups else updates.update_all,
        decay=updates.decay,
    )
    return updates


_FUSED = {"tensorflow": tensorflow_kernels.UPDATES, "jax": jax_updates.UPDATES}


def fused_update(optimizer: Any) -> Update | None:
    """Gives the fused update for `optimizer`, None where Keras's own has to do it."""
    find = _FUSED.get(internals.backend(), {}).get(type(optimizer))
    return find(optimizer) if find else None


class Step:
    """What all updates of one step share, computed by the first weight that asks."""

    def __init__(self, updates: "Updates", grads: Sequence[Any], variables: Sequence[Any]) -> None:
        self.updates, self.grads, self.variables = updates, grads, variables

    @cached_property
    def rates(self) -> tuple[Any, ...]:
        """Each weight's rate, by position."""
        return self.updates.rates(self.updates.optimizer.learning_rate)

    @cached_property
    def shared(self) -> dict[Any, Any]:
        """What fused updates share, by the step that their weights count from, and dtype."""
        updates, found = self.updates, {}
        for variable in self.variables if updates.fused else ():
            setting = updates.plan.settings[keras_optimizers.index_of(updates.optimizer, variable)]
            dtype = keras.backend.standardize_dtype(variable.dtype)
            key = (setting.first_step, dtype)
            if updates.fused and dtype in updates.fused.dtypes and key not in found:
                found[key] = updates.fused.per_step(updates.counting_from(key[0]), dtype)
        return found


class Updates:
    """Per-weight rates, decay and step counts around an optimizer's own update; see `install`."""

    def __init__(
        self,
        optimizer: Any,
        plan: Plan,
        multipliers: Any,
        initial: Callable[[int], Any],
        use_fused: bool,
    ) -> None:
        self.optimizer, self.plan, self.multipliers = optimizer, plan, multipliers
        self.initial = initial
        self.in_groups = keras_optimizers.updates_at_once(optimizer)
        self.fused = fused_update(optimizer) if use_fused else None
        self.foreach = foreach.update_of(optimizer) if use_fused and self.in_groups else None
        self.of_all = keras_optimizers.update_of_all(optimizer)
        self.replaced: frozenset[str] = frozenset()
        self.step: Step | None = None

    def update_all(
        self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        """Updates `variables`, each at its own rate."""
        self.step = Step(self, grads, variables)
        try:
            self.of_all(grads, variables, learning_rate)
        finally:
            self.step = None

    def update_one(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one weight: in a step at its own rate, by itself at `learning_rate`."""
        position = keras_optimizers.index_of(self.optimizer, variable)
        first_step = self.plan.settings[position].first_step
        values = None
        if self.step is not None:
            learning_rate = jax_updates.known_after(
                self.step.rates[position], self.step.grads[0], variable
            )
            key = (first_step, keras.backend.standardize_dtype(variable.dtype))
            values = self.step.shared.get(key)
        if self.fused and values is not None and self.fused.takes(variable, gradient):
            self.fused.apply(self.optimizer, position, variable, gradient, learning_rate, values)
        else:
            method = type(self.optimizer).update_step
            method(self.counting_from(first_step), gradient, variable, learning_rate)

    def update_groups(
        self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        """Updates `variables` in as few calls as their settings allow, on PyTorch."""
        places = [keras_optimizers.index_of(self.optimizer, variable) for variable in variables]
        groups: dict[Any, list[int]] = {}
        by_step: dict[int, list[int]] = {}
        for i, place in enumerate(places):
            setting = self.plan.settings[place]
            key = (setting.rule.multiplier, setting.rule.learning_rate, setting.first_step)
            groups.setdefault(key, []).append(i)
            by_step.setdefault(setting.first_step, []).append(i)
        if self.foreach and (len(groups) > len(by_step) or foreach.is_shorter(self.optimizer)):
            for first_step, members in by_step.items():
                own = [places[i] for i in members]
                self.foreach(
                    self.counting_from(first_step),
                    own,
                    [grads[i] for i in members],
                    [variables[i] for i in members],
                    self._shared(own, learning_rate, variables[0].dtype),
                )
            return
        # Nadam's product changes once a call, and every group has to meet it as it was.
        product = keras_optimizers.product_per_step(self.optimizer)
        before = None if product is None else ops.copy(product)
        for (_, _, first_step), members in groups.items():
            if product is not None:
                product.assign(before)
            rule = self.plan.settings[places[members[0]]].rule
            keras_optimizers.update_group(
                self.counting_from(first_step),
                [grads[i] for i in members],
                [variables[i] for i in members],
                self._rate(rule, learning_rate),
            )

    def decay(self, variables: Sequence[Any]) -> None:
        """Decays `variables`, each at its own rate and decay."""
        optimizer, settings = self.optimizer, self.plan.settings
        given = decay_of_all(optimizer) is not None
        if not given and all(setting.rule.weight_decay is None for setting in settings):
            return
        learning_rate = optimizer.learning_rate
        groups: dict[Any, list[tuple[int, Any]]] = {}
        pulled: list[tuple[int, Any]] = []
        for variable in variables:
            position = keras_optimizers.index_of(optimizer, variable)
            rule = settings[position].rule
            if not keras_optimizers.uses_decay(optimizer, variable):
                continue
            if rule.decay_to is not None:
                pulled.append((position, variable))
            elif given or rule.weight_decay is not None:
                own = (rule.multiplier, rule.learning_rate) if self.in_groups else position
                groups.setdefault((own, rule.weight_decay), []).append((position, variable))
        if pulled:
            self._pull(pulled, learning_rate)
        members = [pair for found in groups.values() for pair in found]
        if self.foreach and len(groups) > 1:
            owns = [settings[position].rule.weight_decay for position, _ in members]
            places, held = zip(*members, strict=True)
            foreach.decay(
                held,
                self._shared(places, learning_rate, self.multipliers.dtype),
                [optimizer.weight_decay if own is None else own for own in owns],
            )
            return
        rates = self.rates(learning_rate) if groups and not self.in_groups else ()
        for (_, decay), found in groups.items():
            position = found[0][0]
            rule = settings[position].rule
            rate = self._rate(rule, learning_rate) if self.in_groups else rates[position]
            view = self._view(learning_rate=rate, weight_decay=decay)
            keras_optimizers.decay_weights(view, [variable for _, variable in found])

    def _pull(self, members: Sequence[tuple[int, Any]], learning_rate: Any) -> None:
        """Decays weights towards what they began with: w ← w − η_w·λ·(w − w₀)."""
        places, held = zip(*members, strict=True)
        owns = [self.plan.settings[place].rule.weight_decay for place in places]
        decays = [
            keras_optimizers.decay_by_default(self.optimizer, weight) or 0.0 if own is None else own
            for weight, own in zip(held, owns, strict=True)
        ]
        targets = [self.initial(place) for place in places]
        if self.in_groups:
            shared = self._shared(places, learning_rate, self.multipliers.dtype)
            foreach.pull(held, targets, shared, decays)
            return
        rates = self.rates(learning_rate)
        factors = [ops.multiply(rates[i], decay) for i, decay in zip(places, decays, strict=True)]
        keras_optimizers.pull_weights(self.optimizer, held, targets, factors)

    def rates(self, learning_rate: Any) -> tuple[Any, ...]:
        """Gives each weight's rate at this step, by position."""
        step = keras_optimizers.step_counter(self.optimizer)
        return self.plan.rates(self.multipliers, learning_rate, step)

    def _shared(self, places: Sequence[int], learning_rate: Any, dtype: Any) -> foreach.Rates:
        """Gives the rates of the weights at `places`, for one update of all of them."""
        rules = [self.plan.settings[place].rule for place in places]
        if any(self.plan.settings[place].is_scheduled for place in places):
            rates = self.rates(learning_rate)
            vector = ops.stack([ops.cast(rates[place], dtype) for place in places])
            return foreach.Rates(vector, [1.0] * len(places))
        factors = [1.0 if rule.multiplier is None else float(rule.multiplier) for rule in rules]
        return foreach.Rates(ops.cast(learning_rate, dtype), factors)

    def counting_from(self, first_step: int) -> Any:
        """Gives the optimizer as it is after the steps since `first_step`."""
        if not first_step:
            return self.optimizer
        steps = ops.subtract(keras_optimizers.step_counter(self.optimizer), first_step)
        return self._view(steps=steps)

    def _rate(self, rule: Any, learning_rate: Any) -> Any:
        return rate_of(rule, learning_rate, keras_optimizers.step_counter(self.optimizer))

    def _view(self, **changes: Any) -> Any:
        return keras_optimizers.view_of(self.optimizer, self.replaced, **changes)


def decay_of_all(optimizer: Any) -> float | None:
    """Gives the weight decay that an optimizer has for all weights, None where it has none."""
    found = (getattr(optimizer, name, None) for name in ("weight_decay", "adam_weight_decay"))
    return next((decay for decay in found if decay is not None), None)
