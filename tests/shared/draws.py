"""The values that layers begin with, drawn by NumPy where JAX compiles a program for each shape."""

import types

import keras
import numpy as np
from keras.src.initializers import random_initializers


def draw_with_numpy():
    """Lets Keras's initializers draw with NumPy; layers and ``keras.random`` draw as ever.

    XLA compiles JAX's draw of one shape for 0.2 to 0.5 s, and a network has fifty shapes.
    """
    plain = random_initializers.random
    ours = types.SimpleNamespace(**vars(plain))
    for draw in (uniform, normal, truncated_normal):
        setattr(ours, draw.__name__, _for_numbers(draw, getattr(plain, draw.__name__)))
    random_initializers.random = ours


def _for_numbers(draw, plain):
    def drawn(shape, *args, dtype=None, seed=None, **kwargs):
        if not isinstance(seed, int):  # a generator counts what it gave
            return plain(shape, *args, dtype=dtype, seed=seed, **kwargs)
        values = draw(np.random.default_rng(seed), shape, *args, **kwargs)
        return keras.ops.convert_to_tensor(values, dtype or keras.config.floatx())

    return drawn


def uniform(generator, shape, minval=0.0, maxval=1.0):
    return generator.uniform(minval, maxval, shape)


def normal(generator, shape, mean=0.0, stddev=1.0):
    return generator.normal(mean, stddev, shape)


def truncated_normal(generator, shape, mean=0.0, stddev=1.0):
    values = generator.normal(size=shape)
    while (far := np.abs(values) > 2).any():
        values[far] = generator.normal(size=far.sum())
    return mean + stddev * values
