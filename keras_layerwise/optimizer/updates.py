"""The methods of an optimizer that are replaced, so that each weight has its own rate.

Keras hands one learning rate down from ``_backend_update_step`` to
``update_step``. Here it hands down the rates of all weights, and each update
takes its own. PyTorch's fused update of all weights at once becomes one for
each group of weights that share their settings.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_layerwise.backend import tensorflow_kernels as fused
from keras_layerwise.backend import torch_foreach as foreach
from keras_layerwise.optimizer.rules import Schedule, Setting


class Updates:
    """Per-weight rates, decay and step counts around an optimizer's own update.

    Args:
        optimizer: a built optimizer; its methods are replaced on the instance.
        settings: what holds for each weight, by position; read at each trace,
            and on PyTorch at each step.
        multipliers: variable of shape ``(weights,)``, so that a multiplier
            can change without a new trace.
        use_fused: whether TensorFlow's fused kernels may be used.
    """

    def __init__(
        self, optimizer: Any, settings: Sequence[Setting], multipliers: Any, use_fused: bool
    ) -> None:
        self.optimizer = optimizer
        self.settings = settings
        self.multipliers = multipliers
        self.fused = fused.update_of(optimizer) if use_fused else None
        self.in_groups = hasattr(optimizer, "_parallel_update_step")
        self.foreach = foreach.update_of(optimizer) if use_fused and self.in_groups else None
        self.replaced = {
            "update_step": self._update_one,
            "_apply_weight_decay": self._decay,
        }
        if self.in_groups:
            self.replaced["_parallel_update_step"] = self._update_groups
        else:
            self.update_all = optimizer._backend_update_step
            self.replaced["_backend_update_step"] = self._update_all
        for name, method in self.replaced.items():
            object.__setattr__(optimizer, name, method)

    def _update_all(
        self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        self.update_all(
            grads, variables, (self._rates(learning_rate), self._shared_values(variables))
        )

    def _update_one(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        position = self.optimizer._get_variable_index(variable)
        first_step = self.settings[position].first_step
        if isinstance(learning_rate, (tuple, list)):
            rates, shared = learning_rate
            rate = rates[position]
            values = shared.get((first_step, keras.backend.standardize_dtype(variable.dtype)))
        else:
            rate, values = learning_rate, None
        if values is not None and fused.takes(variable, gradient):
            fused.apply(self.optimizer, position, variable, gradient, rate, values)
        else:
            method = type(self.optimizer).update_step
            method(self._counting_from(first_step), gradient, variable, rate)

    def _shared_values(self, variables: Sequence[Any]) -> dict[Any, Any]:
        """What fused updates share at a step, by the step their weights count from, and dtype."""
        values: dict[Any, Any] = {}
        for variable in variables if self.fused else ():
            position = self.optimizer._get_variable_index(variable)
            first_step = self.settings[position].first_step
            dtype = keras.backend.standardize_dtype(variable.dtype)
            if self.fused and dtype in self.fused.dtypes and (first_step, dtype) not in values:
                counting = self._counting_from(first_step)
                values[first_step, dtype] = self.fused.per_step(counting, dtype)
        return values

    def _update_groups(
        self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        places = [self.optimizer._get_variable_index(variable) for variable in variables]
        groups: dict[Any, list[int]] = {}
        for i, place in enumerate(places):
            setting = self.settings[place]
            key = (setting.rule.multiplier, setting.rule.learning_rate, setting.first_step)
            groups.setdefault(key, []).append(i)
        if self.foreach and len(groups) > 1 and len({key[2] for key in groups}) == 1:
            rates = self._rates(learning_rate)
            counting = self._counting_from(self.settings[places[0]].first_step)
            self.foreach(counting, places, grads, variables, [rates[place] for place in places])
            return
        # Nadam's product changes once a call, and every group has to meet it as it was.
        product = getattr(self.optimizer, "_u_product", None)
        before = None if product is None else ops.copy(product)
        for (multiplier, own_rate, first_step), members in groups.items():
            if product is not None:
                product.assign(before)
            type(self.optimizer)._parallel_update_step(
                self._counting_from(first_step),
                [grads[i] for i in members],
                [variables[i] for i in members],
                self._group_rate(multiplier, own_rate, learning_rate),
            )

    def _decay(self, variables: Sequence[Any]) -> None:
        optimizer = self.optimizer
        if not self._may_decay():
            return
        learning_rate = optimizer.learning_rate
        groups: dict[Any, list[Any]] = {}
        for variable in variables:
            position = optimizer._get_variable_index(variable)
            rule = self.settings[position].rule
            if not self._decays(variable, rule.weight_decay):
                continue
            own = (rule.multiplier, rule.learning_rate) if self.in_groups else position
            groups.setdefault((own, rule.weight_decay), []).append(variable)
        if self.foreach and len(groups) > 1:
            rates = self._rates(learning_rate)
            members = [v for found in groups.values() for v in found]
            places = [optimizer._get_variable_index(v) for v in members]
            owns = [self.settings[place].rule.weight_decay for place in places]
            decays = [optimizer.weight_decay if own is None else own for own in owns]
            foreach.decay(members, [rates[place] for place in places], decays)
            return
        rates = self._rates(learning_rate) if groups and not self.in_groups else ()
        for (own, decay), members in groups.items():
            if self.in_groups:
                multiplier, own_rate = own
                rate = self._group_rate(multiplier, own_rate, learning_rate)
            else:
                rate = rates[own]
            changes = {"_learning_rate": rate}
            if decay is not None:
                changes["weight_decay"] = decay
                if hasattr(optimizer, "adam_weight_decay"):
                    changes["adam_weight_decay"] = decay
            self._view(**changes)._apply_weight_decay(members)

    def _may_decay(self) -> bool:
        return self._given() or any(s.rule.weight_decay is not None for s in self.settings)

    def _given(self) -> bool:
        """Whether the optimizer has a decay for all weights."""
        names = ("weight_decay", "adam_weight_decay")
        return any(getattr(self.optimizer, name, None) is not None for name in names)

    def _decays(self, variable: Any, own: float | None) -> bool:
        decays: bool = self.optimizer._use_weight_decay(variable)
        return decays and (own is not None or self._given())

    def _rates(self, learning_rate: Any) -> tuple[Any, ...]:
        """Each weight's rate at this step."""
        step = self.optimizer._iterations
        dtype = self.multipliers.dtype
        learning_rate = ops.cast(learning_rate, dtype)
        rates = ops.unstack(
            ops.multiply(self.multipliers, learning_rate), num=len(self.settings)
        )  # fmt: skip
        return tuple(
            rate
            if _is_plain(setting)
            else ops.cast(
                _rate(setting.rule.multiplier, setting.rule.learning_rate, learning_rate, step),
                dtype,
            )
            for rate, setting in zip(rates, self.settings, strict=True)
        )

    def _group_rate(self, multiplier: Any, own_rate: Any, learning_rate: Any) -> Any:
        return _rate(multiplier, own_rate, learning_rate, self.optimizer._iterations)

    def _counting_from(self, first_step: int) -> Any:
        """The optimizer as it is after the steps since `first_step`."""
        if not first_step:
            return self.optimizer
        return self._view(_iterations=ops.subtract(self.optimizer._iterations, first_step))

    def _view(self, **changes: Any) -> Any:
        """The optimizer with its own methods, and with other values where they are given.

        A view, because TensorFlow lets its replicas take turns in the middle
        of an update: what one sets and restores on the optimizer, the next
        would see.
        """
        values = vars(self.optimizer)
        view = object.__new__(type(self.optimizer))
        vars(view).update({name: values[name] for name in values if name not in self.replaced})
        vars(view).update(changes)
        return view


def _is_plain(setting: Setting) -> bool:
    rule = setting.rule
    return rule.learning_rate is None and not isinstance(rule.multiplier, Schedule)


def _rate(multiplier: Any, own_rate: Any, learning_rate: Any, step: Any) -> Any:
    if own_rate is not None:
        return own_rate(step) if isinstance(own_rate, Schedule) else own_rate
    if multiplier is None or multiplier == 1.0:
        return learning_rate
    factor = multiplier(step) if isinstance(multiplier, Schedule) else multiplier
    return ops.multiply(learning_rate, factor)
