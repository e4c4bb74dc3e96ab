"""Updates weights with TensorFlow's own kernels, where they compute what Keras computes.

Keras spells an Adam update as a dozen elementwise operations, each of which
reads and writes a whole weight. TensorFlow has one kernel for it. A kernel is
taken for a class of Keras itself, not for a subclass, which may have changed
the formula; and only for dense gradients of the dtypes named.
The rest is left to Keras.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops


@dataclass(frozen=True)
class Update:
    """Says how one optimizer updates a weight in place.

    Attributes:
        per_weight: updates a weight, from the optimizer, the weight's position
            and resource variable, its gradient and rate, and `per_step`'s values.
        per_step: values that all weights share at a step, from the optimizer
            and the weights' dtype.
        dtypes: of the weights that it updates as Keras does.
    """

    per_weight: Callable[..., None]
    per_step: Callable[[Any, str], tuple[Any, ...]] = lambda optimizer, dtype: ()
    dtypes: tuple[str, ...] = ("float32", "float64")


def update_of(optimizer: Any) -> Update | None:
    """Gives the fused update for `optimizer`, None where Keras's own has to do it."""
    if keras.backend.backend() != "tensorflow":
        return None
    find = _UPDATES.get(type(optimizer))
    return find(optimizer) if find else None


def takes(variable: Any, gradient: Any) -> bool:
    """Whether the gradient is dense, and the weight a resource that a kernel can write to."""
    import tensorflow as tf

    return isinstance(gradient, tf.Tensor) and hasattr(variable, "handle")


def apply(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    """Updates one weight of an `optimizer` that has an `update_of`."""
    update = update_of(optimizer)
    if update is not None:
        dtype = variable.dtype
        update.per_weight(
            optimizer, position, variable, ops.cast(gradient, dtype), ops.cast(rate, dtype), shared
        )


def _sgd(optimizer: Any) -> Update:
    return Update(_momentum_update if optimizer.momentum else _plain_update)


def _adam(optimizer: Any) -> Update | None:
    return None if optimizer.amsgrad else Update(_adam_update, _adam_powers)


def _rmsprop(optimizer: Any) -> Update | None:
    # Centred, the kernel subtracts in another order what nearly cancels.
    if optimizer.centered or not 0 <= optimizer.rho < 1:
        return None
    return Update(_rmsprop_update if optimizer.momentum > 0 else _rmsprop_in_two)


def _adagrad(optimizer: Any) -> Update | None:
    # Beyond this the constant of _adagrad_update would show.
    if optimizer.epsilon > 1.3e-6 * optimizer.initial_accumulator_value:
        return None
    return Update(_adagrad_update, dtypes=("float32",))


_UPDATES: dict[type, Callable[[Any], Update | None]] = {
    keras.optimizers.SGD: _sgd,
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.Adagrad: _adagrad,
}


def _handle(slots: Any, position: int) -> Any:
    return slots[position].value.handle


def _plain_update(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    import tensorflow as tf

    tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)


def _momentum_update(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    import tensorflow as tf

    tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=_handle(optimizer.momentums, position),
        lr=rate,
        grad=gradient,
        momentum=tf.constant(optimizer.momentum, rate.dtype),
        use_nesterov=optimizer.nesterov,
    )


def _adam_powers(optimizer: Any, dtype: str) -> tuple[Any, ...]:
    """Gives β₁ᵗ, β₂ᵗ and ε with which the kernel's step is Keras's.

    Keras multiplies by 1 − β₂, rounded; the kernel subtracts the rounded β₂
    from 1, which in float32 at 0.999 is less by 1.3e-5 of itself. Its second
    moment is therefore smaller by the factor s² below, whatever the gradients,
    and the step has to be shorter by s. That goes into β₁ᵗ, which is used
    nowhere but in the length of the step.
    """
    step = ops.cast(optimizer.iterations + 1, dtype)
    first, second = (
        ops.power(ops.cast(beta, dtype), step) for beta in (optimizer.beta_1, optimizer.beta_2)
    )
    rounded = np.dtype(dtype).type(optimizer.beta_2)
    own, kernels = 1 - optimizer.beta_2, 1 - float(rounded)
    if not 0 < own < 1 or not 0 < kernels < 1:
        return first, second, ops.cast(optimizer.epsilon, dtype)
    shorter = ops.sqrt(ops.expm1(step * math.log1p(-kernels)) / ops.expm1(step * math.log1p(-own)))
    return 1 - (1 - first) / shorter, second, optimizer.epsilon * shorter


def _adam_update(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    import tensorflow as tf

    first, second, epsilon = shared
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=_handle(optimizer._momentums, position),
        v=_handle(optimizer._velocities, position),
        beta1_power=first,
        beta2_power=second,
        lr=rate,
        beta1=tf.constant(optimizer.beta_1, rate.dtype),
        beta2=tf.constant(optimizer.beta_2, rate.dtype),
        epsilon=epsilon,
        grad=gradient,
    )


def _rmsprop_update(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    """Corrects for the rounding of ``rho``, as `_adam_powers` does for that of β₂."""
    import tensorflow as tf

    rounded = float(np.dtype(rate.dtype.as_numpy_dtype).type(optimizer.rho))
    smaller = (1 - rounded) / (1 - optimizer.rho)
    tf.raw_ops.ResourceApplyRMSProp(
        var=variable.handle,
        ms=_handle(optimizer._velocities, position),
        mom=_handle(optimizer._momentums, position),
        lr=rate * math.sqrt(smaller),
        rho=tf.constant(optimizer.rho, rate.dtype),
        momentum=tf.constant(optimizer.momentum, rate.dtype),
        epsilon=tf.constant(optimizer.epsilon * smaller, rate.dtype),
        grad=gradient,
    )


def _rmsprop_in_two(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    """Without momentum there is no slot that the kernel for RMSprop could write to."""
    import tensorflow as tf

    velocity = optimizer._velocities[position].value
    tf.raw_ops.ResourceApplyGradientDescent(
        var=velocity.handle,
        alpha=tf.constant(1 - optimizer.rho, rate.dtype),
        delta=velocity - tf.square(gradient),
    )
    tf.raw_ops.ResourceApplyGradientDescent(
        var=variable.handle,
        alpha=rate,
        delta=gradient / tf.sqrt(velocity + optimizer.epsilon),
    )


def _adagrad_update(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    """Keras divides by √(a + ε), the kernel by √a + ε'.

    For a not below its initial value a₀, ε' = (√2 − 1)·ε/√a₀ keeps the two
    within 0.09·ε/a₀ of each other: 9e-8 with Keras's defaults, less than the
    rounding of float32.
    """
    import tensorflow as tf

    epsilon = (
        (math.sqrt(2) - 1) * optimizer.epsilon / math.sqrt(optimizer.initial_accumulator_value)
    )
    tf.raw_ops.ResourceApplyAdagradV2(
        var=variable.handle,
        accum=_handle(optimizer._accumulators, position),
        lr=rate,
        epsilon=tf.constant(epsilon, rate.dtype),
        grad=gradient,
    )
