"""Rates and Adam's update, written so that XLA compiles the updates of equal layers once.

XLA compiles two kernels once if they are the same code and differ only in the
buffers that they read. A rate written as a constant, or read at a constant
index of a vector, is part of the code, so that every weight gets a kernel of
its own: compiling 50 updates of 16 × 16 took 0.9 s and not 0.2. So the place of
every eighth rate is itself read from an array, at an index that is always 0 but
that XLA cannot know when it compiles, and those that follow count from it: equal
weights share eight kernels. On a processor XLA prepares each such array anew for
every step, some 0.35 µs each: an array for each of 100 weights of 64 × 64 took 1.08
of the bare optimizer's step.

Keras multiplies the rate by √(1 − β₂ᵗ) and divides by 1 − β₁ᵗ. With a rate for
each layer that is a division for each layer, and XLA puts a division whose
result several kernels read into a kernel of its own: 101 more for 51 layers.
Here the quotient is computed once for all weights; a rate is then one
multiplication, which XLA fuses into the kernel that updates the weight.

On a processor XLA copies each weight before a step whose gradients read it: nothing
says that the update, which writes in its place, comes after them. A rate that is
known only when the last gradient is says so. Large weights then take 0.9 of the
step, but small ones more, since they could have been updated beside the gradients.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_layerwise.backend.fused import Update
from keras_layerwise.backend.internals import backend
from keras_layerwise.backend.keras_optimizers import momentums_of, velocities_of

TOGETHER = 8  # rates whose places are read from one array


def part(vector: Any, count: int, step: Any) -> tuple[Any, ...]:
    """Parts a vector into its `count` elements, on any backend; `step` counts from 0."""
    if not _is_traced(vector):
        return tuple(ops.unstack(vector, num=count))
    import jax

    first = ops.cast(ops.minimum(step, 0), "uint32")  # 0, but known to the program alone

    def at(values: Any, place: Any) -> Any:
        return jax.lax.dynamic_slice(values, (place,), (1,))[0]

    # Of two elements, XLA would make a multiplication of those that begin with 0.
    starts = [at(np.array([i, count, 0], "uint32"), first) for i in range(0, count, TOGETHER)]
    return tuple(at(vector, starts[i // TOGETHER] + np.uint32(i % TOGETHER)) for i in range(count))


LARGE = 65_536  # elements of a weight from which a copy costs more than waiting


def known_after(rate: Any, gradient: Any, variable: Any) -> Any:
    """Gives `rate` as it is, to a program that knows it only once `gradient` is there.

    Args:
        rate: of the weight, not negative.
        gradient: the last of the step: that of the weight nearest to the inputs.
        variable: the weight that is updated at `rate`.
    """
    if math.prod(variable.shape) < LARGE or not _is_traced(rate):
        return rate
    import jax

    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    if not (alone and isinstance(gradient, jax.Array) and gradient.size):
        return rate
    bits = 8 * gradient.dtype.itemsize
    found = jax.lax.bitcast_convert_type(gradient.reshape(-1)[0], f"uint{bits}")
    for _ in range(2):  # no bit is left, which XLA does not see
        found = jax.lax.shift_right_logical(found, np.asarray(bits // 2, found.dtype))
    return rate + found.astype(rate.dtype)


def _is_traced(vector: Any) -> bool:
    if backend() != "jax":
        return False
    import jax

    return isinstance(vector, jax.core.Tracer)


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
    mean, square = momentums_of(optimizer)[position], velocities_of(optimizer)[position]
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
