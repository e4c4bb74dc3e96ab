"""Tells which of several processes that train together this one is."""

from typing import Any

import keras


def is_chief() -> bool:
    """Whether this process writes, of those that train together."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return bool(jax.process_index() == 0)


def has_workers(strategy: Any) -> bool:
    """Whether this is TensorFlow's strategy for several processes."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
