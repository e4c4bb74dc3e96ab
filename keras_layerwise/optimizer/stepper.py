"""One step: which gradients go to the inner optimizer, and what Keras reads around it."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_layerwise.backend import internals, keras_optimizers
from keras_layerwise.backend import torch_backward as backward
from keras_layerwise.optimizer import attachment
from keras_layerwise.optimizer.inner import Wrapper
from keras_layerwise.optimizer.plan import Plan
from keras_layerwise.optimizer.state import State


class Stepper(Wrapper):
    """What Keras calls at each step; the weights that a plan leaves out stay as they are."""

    plan: Plan
    state: State
    built: bool
    compiled: bool
    build: Callable[..., None]

    @internals.as_written
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
            trainable_variables = self.plan.weights_of_step(len(grads))
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
            elif not self.plan.knows(trainable_variables):
                attachment.adopt(self)
        self._set("compiled", self.compiled or internals.in_graph())
        if len(self.plan.active) == len(self.plan.trained):
            self.inner_optimizer.apply(grads, trainable_variables)
            return
        self._check_variables_are_known(trainable_variables)
        settings = self.plan.settings
        active = [
            (gradient, variable)
            for gradient, variable in zip(grads, trainable_variables, strict=True)
            if not settings[keras_optimizers.index_of(self, variable)].frozen
        ]
        if active:
            self.inner_optimizer.apply([g for g, _ in active], [v for _, v in active])
        else:
            self._iterations.assign_add(1)

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Any],
        grads: Sequence[Any],
        trainable_variables: Sequence[Any],
    ) -> tuple[list[Any], list[Any]]:
        """Gives `apply` as a function of values; see ``keras.optimizers.Optimizer``."""
        self._set("compiled", True)
        # The base class maps the weights that it trains, which are the active ones elsewhere.
        active = keras_optimizers.trained_by(self)
        keras_optimizers.set_trained(self, self.plan.weights_of_step(len(trainable_variables)))
        try:
            result: tuple[list[Any], list[Any]] = super().stateless_apply(
                optimizer_variables, grads, trainable_variables
            )
        finally:
            keras_optimizers.set_trained(self, active)
        return result

    def scale_loss(self, loss: Any) -> Any:
        """Gives the loss to differentiate, for weights that are not frozen."""
        loss = super().scale_loss(loss)
        active = self.plan.active if self.built else ()
        if internals.backend() != "torch" or not 0 < len(active) < len(self.plan.trained):
            return loss
        return backward.towards(loss, [v.value for v in self.plan.weights_at(active)])

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Puts the moving averages in place of the weights, where the inner optimizer has any."""
        if self.built:
            self.inner_optimizer.finalize_variable_values(keras_optimizers.trained_by(self))

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets the state, in the order of ``variables``."""
        if not self.built:
            raise ValueError(
                "You are calling set_weights() on an optimizer that is not built, so it has no "
                "state to set. Call build(model.trainable_variables) first."
            )
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)
        self.state.read_multipliers()

    @property
    def variables(self) -> list[Any]:
        """The inner optimizer's variables and one vector of multipliers."""
        return list(self.state.variables().values())
