"""Adam's update, spelled so that XLA needs no kernel for each weight's rate.

Keras multiplies the rate by √(1 − β₂ᵗ) and divides by 1 − β₁ᵗ. With a rate for
each layer that is a division for each layer, and XLA gives a division that
several kernels read a kernel of its own: 101 more for 51 layers. Here the
quotient comes first, once for all weights; a rate is then one multiplication,
which XLA takes into the kernel that updates the weight.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_layerwise.backend.fused import Update


def _is_array(variable: Any, gradient: Any) -> bool:
    import jax

    return isinstance(gradient, jax.Array)


def _length(optimizer: Any, dtype: str) -> tuple[Any, ...]:
    step = ops.cast(optimizer.iterations + 1, dtype)
    first, second = (
        ops.power(ops.cast(beta, dtype), step) for beta in (optimizer.beta_1, optimizer.beta_2)
    )
    return (ops.sqrt(1 - second) / (1 - first),)


def _adam_update(
    optimizer: Any, position: int, variable: Any, gradient: Any, rate: Any, shared: Any
) -> None:
    mean, square = optimizer._momentums[position], optimizer._velocities[position]
    optimizer.assign_add(mean, (gradient - mean) * (1 - optimizer.beta_1))
    optimizer.assign_add(square, (ops.square(gradient) - square) * (1 - optimizer.beta_2))
    below = ops.sqrt(square) + optimizer.epsilon
    optimizer.assign_sub(variable, mean * (rate * shared[0]) / below)


def _adam(optimizer: Any) -> Update | None:
    return None if optimizer.amsgrad else Update(_adam_update, _is_array, _length)


UPDATES: dict[type, Callable[[Any], Update | None]] = {
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
}
