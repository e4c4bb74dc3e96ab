"""One process that trains a large network: prints its peak memory and its weights' size, in bytes.

The memory is the device's, or the process's where there is no other device.
"""

import sys
import tempfile

import keras
import numpy as np

import keras_layerwise as kl
from benchmarks import cases, machine, models


def main(name: str, side: str) -> None:
    """Trains two epochs of two steps with `WeightDrift` or without."""
    model = models.build(name)
    optimizer = kl.LayerwiseOptimizer(keras.optimizers.SGD(1e-4), models.groups(model, None))
    model.compile(optimizer, loss="mse", jit_compile=keras.backend.backend() == "jax")
    x, y = models.batch(name, model)
    with tempfile.TemporaryDirectory() as folder:
        drift = [kl.WeightDrift(folder, heatmap=False)] if side == "with" else []
        model.fit(x, y, batch_size=1, epochs=2, steps_per_epoch=2, verbose=0, callbacks=drift)
    print(peak(), sum(4 * int(np.prod(weight.shape)) for weight in model.weights))


def peak() -> int:
    """The most bytes that the device had in use, or this process."""
    backend = keras.backend.backend()
    if not machine.gpu_name():
        return int(cases.peak_mib() * 2**20)
    if backend == "torch":
        import torch

        return int(torch.cuda.max_memory_allocated())
    if backend == "jax":
        import jax

        return int(jax.devices()[0].memory_stats()["peak_bytes_in_use"])
    import tensorflow as tf

    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


if __name__ == "__main__":
    main(*sys.argv[1:])
