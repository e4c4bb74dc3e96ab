"""Tells which of several processes that train together this one is."""

import json
import os
from typing import Any

import keras


def is_chief() -> bool:
    """Tells whether this process writes, of those that train together.

    On TensorFlow they are told by the environment variable ``TF_CONFIG``, on
    PyTorch by ``torch.distributed``.
    """
    ask = {"jax": _jax_index, "tensorflow": _tensorflow_index, "torch": _torch_index}
    return ask.get(keras.backend.backend(), lambda: 0)() == 0


def _jax_index() -> int:
    import jax

    return int(jax.process_index())


def _torch_index() -> int:
    import torch

    distributed = torch.distributed
    return (
        distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    )


def _tensorflow_index() -> int:
    try:
        config = json.loads(os.environ.get("TF_CONFIG") or "{}")
        cluster, task = config.get("cluster", {}), config.get("task", {})
        index = int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError):  # TF_CONFIG of another program's form
        return 0
    others = ("ps", "evaluator", *(("worker",) if "chief" in cluster else ()))
    return index + (task.get("type") in others)


def has_workers(strategy: Any) -> bool:
    """Tells whether this is TensorFlow's strategy for several processes."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
