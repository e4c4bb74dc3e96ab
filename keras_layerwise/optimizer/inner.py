"""What a wrapper hands on to the optimizer that it wraps."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_layerwise.backend import keras_optimizers
from keras_layerwise.errors import RuleError

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


def _of_inner(name: str) -> property:
    """Makes a property that reads and writes a setting of the inner optimizer."""

    def get(self: "Wrapper") -> Any:
        return getattr(self.__dict__.get("inner_optimizer"), name, None)

    def put(self: "Wrapper", value: Any) -> None:
        # Keras's own constructor sets its defaults before there is an inner optimizer.
        if "inner_optimizer" in self.__dict__:
            setattr(self.inner_optimizer, name, value)

    return property(get, put)


class Wrapper(keras.optimizers.Optimizer):
    """An optimizer that keeps no setting of its own: all live on the one that it wraps.

    Args:
        inner: the optimizer that is wrapped.
        name: of the wrapper.
    """

    def __init__(self, inner: Any, name: str | None) -> None:
        super().__init__(learning_rate=0.0, name=name)
        # Past Keras's attribute tracking: the state of the inner optimizer is stored by the
        # wrapper, under names that do not depend on the order in which slots were made.
        self._set("inner_optimizer", inner)
        self._set("_iterations", keras_optimizers.step_counter(inner))

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

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Excludes weights from decay, on the inner optimizer, whatever the rules say."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one weight at `learning_rate`, which no rule changes here."""
        self.inner_optimizer.update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        keras_optimizers.decay_of(self.inner_optimizer)(variables)

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


for _name in _INNER_SETTINGS:
    setattr(Wrapper, _name, _of_inner(_name))


def checked(optimizer: Any) -> Any:
    """Gives the optimizer to wrap, from it or its name.

    Raises:
        TypeError: for anything else, or for a wrapper.
        RuleError: for one that is built.
    """
    if isinstance(optimizer, str):
        optimizer = keras.optimizers.get(optimizer)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"`optimizer` is a Keras optimizer or its name; received {optimizer!r}. "
            "Such as LayerwiseOptimizer(keras.optimizers.Adam(1e-3), rules)."
        )
    if isinstance(optimizer, (Wrapper, keras.optimizers.LossScaleOptimizer)) or hasattr(
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
