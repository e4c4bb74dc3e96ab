"""Drift of weights that no device holds whole, and what a record would cost at scale.

Eight virtual devices stand for eight accelerators. Every device measures its own
shards; what leaves it is one row of sums for each weight, however large the weight is.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import tempfile
import time

import keras
import numpy as np

import keras_layerwise as kl

WIDTH, LAYERS = 1024, 8
SUMS = 8  # float64 numbers that a process sends for each weight


def sharded_model():
    """Dense layers, each kernel split by columns over eight devices."""
    mesh = keras.distribution.DeviceMesh((1, 8), ["batch", "model"])
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )
    layers = [keras.layers.Dense(WIDTH, "tanh", name=f"block_{i}") for i in range(LAYERS)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers])


def seconds_per_record(model, x):
    """The median time that a record takes between two steps of a loop of one's own."""
    times = []
    with kl.run(tempfile.mkdtemp(), model, update_freq=1) as loop:
        for _ in range(12):
            model.train_on_batch(x, x / 2)
            start = time.perf_counter()
            loop.step()
            times.append(time.perf_counter() - start)
    assert len(loop.drift.history["step"]) >= 10
    return sorted(times[1:])[5]  # the first compiles


def main():
    """Trains, checks what moved, and calculates larger models from the measured rate."""
    model = sharded_model()
    model.compile(kl.LayerwiseOptimizer("adam", {"block_0": 0.1}, model=model), "mse")
    x = np.ones((8, WIDTH), "float32")
    drift = kl.WeightDrift(tempfile.mkdtemp(), update_freq=1)
    model.fit(x, x / 2, epochs=2, verbose=0, callbacks=[drift])
    kernel = model.get_layer("block_1").kernel.value
    assert kernel.addressable_shards[0].data.shape == (WIDTH, WIDTH // 8)
    slow, fast = drift.history["l2"][-1, :2]
    assert 0 < slow < fast
    print(f"block_0 at a tenth of the rate moved {slow:.3f}, block_1 {fast:.3f}")

    seconds, sent = seconds_per_record(model, x), SUMS * 8 * len(model.weights)
    count = model.count_params()
    rate = count / seconds
    print(f"{count / 1e6:.0f} million parameters: {seconds * 1e3:.0f} ms a record on one processor")
    print(f"{rate / 1e9:.2f} billion parameters a second; {sent:,} bytes leave a process")
    print("parameters  devices  reference on each  a record at this rate on each")
    for billions, devices in ((1, 8), (10, 64), (100, 512)):
        share = billions * 1e9 / devices
        memory, wait = share * 4 / 2**30, share / rate
        print(f"{billions:>8} B  {devices:>7}  {memory:>13.2f} GiB  {wait:>10.2f} s")


if __name__ == "__main__":
    if keras.backend.backend() == "jax":
        main()
    else:
        print("Keras shards weights on JAX: run with KERAS_BACKEND=jax.")
