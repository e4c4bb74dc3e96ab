"""Rates and Adam's update, spelled so that XLA needs no kernel for each weight's rate.

Kernels of equal layers are one program for XLA, compiled once, where they read
their rates from buffers of their own. A rate that is a place in a vector, or a
constant, is taken into the kernel instead, and makes it another program:
compiling 50 updates of 16 × 16 took 1.5 s and not 0.3. The sums of many pairs,
reduced together, are in buffers of their own: here each element and a zero.

Keras multiplies the rate by √(1 − β₂ᵗ) and divides by 1 − β₁ᵗ. With a rate for
each layer that is a division for each layer, and XLA gives a division that
several kernels read a kernel of its own: 101 more for 51 layers. Here the
quotient comes first, once for all weights; a rate is then one multiplication,
which XLA takes into the kernel that updates the weight.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_layerwise.backend.fused import Update
from keras_layerwise.backend.internals import backend

AT_ONCE = 64  # the time to compile a reduction grows faster than what it reduces


def part(vector: Any, count: int) -> tuple[Any, ...]:
    """Parts a vector into its `count` elements, on any backend."""
    if not _is_compiled_for_a_processor(vector):
        return tuple(ops.unstack(vector, num=count))
    return tuple(_parting()(vector))


@functools.cache
def _parting() -> Any:
    import jax

    parted = jax.custom_jvp(_reduced)
    parted.defjvp(lambda primals, tangents: (parted(*primals), list(tangents[0])))
    return parted


def _reduced(vector: Any) -> list[Any]:
    import jax

    zero = np.zeros((), vector.dtype)
    rows = jax.numpy.stack([vector, jax.numpy.zeros_like(vector)])
    found: list[Any] = []
    for start in range(0, vector.shape[0], AT_ONCE):
        pairs = [rows[:, i] for i in range(start, min(start + AT_ONCE, vector.shape[0]))]
        found += jax.lax.reduce(pairs, [zero] * len(pairs), _sums, (0,))
    return found


def _sums(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    return [one + other for one, other in zip(first, second, strict=True)]


def _is_compiled_for_a_processor(vector: Any) -> bool:
    if backend() != "jax":
        return False
    import jax

    return isinstance(vector, jax.core.Tracer) and jax.default_backend() == "cpu"


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
