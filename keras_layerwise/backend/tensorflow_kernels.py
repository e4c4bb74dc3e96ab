"""Updates weights with TensorFlow's own kernels, where they compute what Keras computes.

Keras spells an Adam update as a dozen elementwise operations, each of which
reads and writes a whole weight. TensorFlow has one kernel for it. A kernel is
taken for dense gradients only, of the dtypes named.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_layerwise.backend.fused import Update
from keras_layerwise.backend.keras_optimizers import accumulators_of, momentums_of, velocities_of


def _is_dense(variable: Any, gradient: Any) -> bool:
    """Tells whether the gradient is dense, and the weight a resource that a kernel can write to."""
    import tensorflow as tf

    return isinstance(gradient, tf.Tensor) and hasattr(variable, "handle")


def _sgd(optimizer: Any) -> Update:
    if not optimizer.momentum:
        return Update(_plain_update, _is_dense)
    return Update(_momentum_update, _is_for_momentum)


def _adam(optimizer: Any) -> Update | None:
    return None if optimizer.amsgrad else Update(_adam_update, _is_dense, _adam_powers)


def _rmsprop(optimizer: Any) -> Update | None:
    # Centred, the kernel subtracts in another order what nearly cancels.
    if optimizer.centered or not 0 <= optimizer.rho < 1:
        return None
    return Update(_rmsprop_update, _is_dense)


def _adagrad(optimizer: Any) -> Update | None:
    # Beyond this the constant of _adagrad_update would show.
    if optimizer.epsilon > 1.3e-6 * optimizer.initial_accumulator_value:
        return None
    return Update(_adagrad_update, _is_dense, dtypes=("float32",))


UPDATES: dict[type, Callable[[Any], Update | None]] = {
    keras.optimizers.SGD: _sgd,
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.Adagrad: _adagrad,
}


def _handle(slots: Any, position: int) -> Any:
    return slots[position].value.handle


_LEFT_TO_KERAS = range(88_000, 97_000)
"""Elements for which the kernel for momentum took 1.27 of a step with Keras's operations."""


def _is_for_momentum(variable: Any, gradient: Any) -> bool:
    return _is_dense(variable, gradient) and math.prod(variable.shape) not in _LEFT_TO_KERAS


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
    """Gives β₁ᵗ, β₂ᵗ and ε with which the kernel's step is Keras's; and √(1 − β₂ᵗ)/(1 − β₁ᵗ).

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
    length = ops.sqrt(1 - second) / (1 - first)
    rounded = np.dtype(dtype).type(optimizer.beta_2)
    own, kernels = 1 - optimizer.beta_2, 1 - float(rounded)
    if not 0 < own < 1 or not 0 < kernels < 1:
        return first, second, ops.cast(optimizer.epsilon, dtype), length
    shorter = ops.sqrt(ops.expm1(step * math.log1p(-kernels)) / ops.expm1(step * math.log1p(-own)))
    return 1 - (1 - first) / shorter, second, optimizer.epsilon * shorter, length


_ADAM_IN_THREE = range(300, 56_000)
"""Elements from which and below which `_adam_in_three` is faster than the kernel for Adam.

TensorFlow overestimates what Adam's kernel costs per element, and splits even a
small weight among all cores, which pays only where the temporaries of three are costly.
"""


def _adam_update(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    import tensorflow as tf

    if math.prod(variable.shape) in _ADAM_IN_THREE:
        _adam_in_three(optimizer, position, variable, gradient, rate, shared)
        return
    first, second, epsilon, _ = shared
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=_handle(momentums_of(optimizer), position),
        v=_handle(velocities_of(optimizer), position),
        beta1_power=first,
        beta2_power=second,
        lr=rate,
        beta1=tf.constant(optimizer.beta_1, rate.dtype),
        beta2=tf.constant(optimizer.beta_2, rate.dtype),
        epsilon=epsilon,
        grad=gradient,
    )


def _adam_in_three(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    """Updates both moments and the weight by one single-threaded kernel each."""
    import tensorflow as tf

    mean = momentums_of(optimizer)[position].value
    square = velocities_of(optimizer)[position].value
    for slot, beta, now in (
        (mean, optimizer.beta_1, gradient),
        (square, optimizer.beta_2, tf.square(gradient)),
    ):
        tf.raw_ops.ResourceApplyGradientDescent(
            var=slot.handle, alpha=tf.constant(1 - beta, rate.dtype), delta=slot - now
        )
    tf.raw_ops.ResourceApplyGradientDescent(
        var=variable.handle,
        alpha=rate * shared[3],
        delta=mean / (tf.sqrt(square) + tf.constant(optimizer.epsilon, rate.dtype)),
    )


_IN_TWO = range(32_000, 88_000)
"""Elements from which and below which two smaller kernels are faster than RMSprop's and Adagrad's.

Their own are split among the cores from the first on. Up to the second, what the smaller ones
hold in between is memory that is at hand; beyond it each step asks the system for new pages.
"""


def _rmsprop_update(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    """Corrects for the rounding of ``rho``, as `_adam_powers` does for that of β₂."""
    import tensorflow as tf

    # Without momentum RMSprop has no slot for its own kernel to write.
    if not optimizer.momentum > 0 or math.prod(variable.shape) in _IN_TWO:
        _rmsprop_in_two(optimizer, position, variable, gradient, rate)
        return
    rounded = float(np.dtype(rate.dtype.as_numpy_dtype).type(optimizer.rho))
    smaller = (1 - rounded) / (1 - optimizer.rho)
    tf.raw_ops.ResourceApplyRMSProp(
        var=variable.handle,
        ms=_handle(velocities_of(optimizer), position),
        mom=_handle(momentums_of(optimizer), position),
        lr=rate * math.sqrt(smaller),
        rho=tf.constant(optimizer.rho, rate.dtype),
        momentum=tf.constant(optimizer.momentum, rate.dtype),
        epsilon=tf.constant(optimizer.epsilon * smaller, rate.dtype),
        grad=gradient,
    )


def _rmsprop_in_two(optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any) -> None:
    import tensorflow as tf

    velocity = velocities_of(optimizer)[position].value
    tf.raw_ops.ResourceApplyGradientDescent(
        var=velocity.handle,
        alpha=tf.constant(1 - optimizer.rho, rate.dtype),
        delta=velocity - tf.square(gradient),
    )
    step = gradient / tf.sqrt(velocity + optimizer.epsilon)
    if not optimizer.momentum > 0:
        tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=step)
        return
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=_handle(momentums_of(optimizer), position),
        lr=tf.ones((), rate.dtype),
        grad=rate * step,
        momentum=tf.constant(optimizer.momentum, rate.dtype),
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

    if math.prod(variable.shape) in _IN_TWO:
        _adagrad_in_two(optimizer, position, variable, gradient, rate)
        return
    epsilon = (
        (math.sqrt(2) - 1) * optimizer.epsilon / math.sqrt(optimizer.initial_accumulator_value)
    )
    tf.raw_ops.ResourceApplyAdagradV2(
        var=variable.handle,
        accum=_handle(accumulators_of(optimizer), position),
        lr=rate,
        epsilon=tf.constant(epsilon, rate.dtype),
        grad=gradient,
    )


def _adagrad_in_two(optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any) -> None:
    import tensorflow as tf

    total = accumulators_of(optimizer)[position].value
    tf.raw_ops.ResourceApplyGradientDescent(
        var=total.handle, alpha=-tf.ones((), rate.dtype), delta=tf.square(gradient)
    )
    tf.raw_ops.ResourceApplyGradientDescent(
        var=variable.handle,
        alpha=rate,
        delta=gradient / tf.sqrt(total + optimizer.epsilon),
    )
