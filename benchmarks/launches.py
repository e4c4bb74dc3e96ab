"""How many operations one update launches, counted and not timed.

On TensorFlow they are the operations of the traced graph, on JAX the
instructions of the program that XLA compiled, on PyTorch what its profiler
saw. The count is exact, so a test can hold it.
"""

import collections
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_layerwise import LayerwiseOptimizer

FREE = frozenset({"Const", "Placeholder", "Identity", "NoOp", "parameter", "constant", "tuple"})


def of_update(
    make: Callable[[], Any], rules: Mapping[str, Any] | None, weights: int = 12
) -> collections.Counter[str]:
    """Counts the operations of one update of `weights` matrices, by kind.

    Args:
        make: makes the optimizer.
        rules: for the weights ``w0``, ``w1`` …; None leaves the optimizer bare.
        weights: how many there are.
    """
    variables = [keras.Variable(np.ones((8, 8), "float32"), name=f"w{i}") for i in range(weights)]
    optimizer = make() if rules is None else LayerwiseOptimizer(make(), rules)
    optimizer.build(variables)
    gradients = [keras.ops.ones((8, 8)) for _ in variables]
    count = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    found = count(optimizer, gradients, variables)
    return collections.Counter({kind: n for kind, n in found.items() if kind not in FREE})


def _tensorflow(optimizer: Any, gradients: Any, variables: Any) -> collections.Counter[str]:
    import tensorflow as tf

    traced = tf.function(lambda *given: optimizer.apply(list(given), variables))
    graph = traced.get_concrete_function(*gradients).graph
    return collections.Counter(op.type for op in graph.get_operations())


def _jax(optimizer: Any, gradients: Any, variables: Any) -> collections.Counter[str]:
    import jax

    values = [v.value for v in optimizer.variables], gradients, [v.value for v in variables]
    text = jax.jit(optimizer.stateless_apply).lower(*values).compile().as_text()
    entry = text[text.index("ENTRY") :]
    return collections.Counter(re.findall(r"= \S+ ([\w-]+)\(", entry))


def _torch(optimizer: Any, gradients: Any, variables: Any) -> collections.Counter[str]:
    import torch

    optimizer.apply(gradients, variables)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        optimizer.apply(gradients, variables)
    return collections.Counter({event.key: event.count for event in profile.key_averages()})
