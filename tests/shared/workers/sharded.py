"""Trains each case on one device, data-parallel and model-parallel, on virtual devices.

python sharded.py DEVICES OUT.npz                                  one process
python sharded.py DEVICES OUT.npz LOG_DIR ADDRESS PROCESSES ID     one of several
"""

import sys
from pathlib import Path

import jax
import keras
import numpy as np

from keras_layerwise import (
    FreezeHyperparameters,
    LayerwiseOptimizer,
    LearningRateMonitor,
    Rule,
    WeightDrift,
)

optimizers = keras.optimizers
RULES = {
    "body/bias": Rule(learning_rate=0.05),
    "body": Rule(multiplier=0.1, weight_decay=0.9),
    "head/bias": Rule(frozen=True),
}
# The kernel is pulled to where it began, which is sharded as the kernel is.
PULLED = {**RULES, "body": Rule(multiplier=0.5, weight_decay=5.0, decay_to="initial")}
DRIFT = ("step", "l2", "relative_l2", "cosine", "mean_shift", "std_shift", "max_abs", "norm")


class Changing(keras.callbacks.Callback):
    """Changes multipliers and what is frozen, in mid-run: `changes` by number of batches."""

    def __init__(self, changes):
        super().__init__()
        self.changes = changes

    def on_train_begin(self, logs=None):
        self.model.optimizer.attach(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self.changes.get(batch + 1, lambda _: None)(self.model.optimizer)


def multiply(optimizer):
    optimizer.set_multiplier("body/kernel", 0.7)


AVERAGE = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2}
# Two that have much at once: compiling their steps takes most of the time.
CASES = {
    "AdamW, global norm, to initial, changes": (
        lambda: optimizers.AdamW(0.02, weight_decay=0.3, global_clipnorm=0.5),
        PULLED,
        {
            2: multiply,
            3: lambda o: (o.freeze("head/kernel"), o.unfreeze("head/bias")),
            5: lambda o: o.unfreeze("head/kernel"),
        },
    ),
    "momentum, clipped, averaged, accumulated": (
        lambda: optimizers.SGD(
            0.1,
            momentum=0.9,
            weight_decay=0.3,
            clipnorm=0.1,
            gradient_accumulation_steps=2,
            **AVERAGE,
        ),
        RULES,
        {3: multiply},
    ),
}


def layout(name):
    devices = keras.distribution.list_devices()
    if name == "data":
        return keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    if name == "model":
        # Two processes hold half of each weight each.
        mesh = keras.distribution.DeviceMesh((2, len(devices) // 2), ["model", "batch"], devices)
        rules = keras.distribution.LayoutMap(mesh)
        rules[".*body/kernel"] = (None, "model")
        rules[".*body/bias"] = ("model",)
        rules[".*head/kernel"] = ("model", None)
        return keras.distribution.ModelParallel(
            layout_map=rules, batch_dim_name="batch", auto_shard_dataset=False
        )
    return None


def train(kind, inner, rules, callbacks):
    keras.utils.clear_session(free_memory=False)  # forgets the distribution, too
    keras.distribution.set_distribution(layout(kind))
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8, "tanh", kernel_initializer="zeros", name="body"),
            keras.layers.Dense(2, kernel_initializer="zeros", name="head"),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    model.compile(LayerwiseOptimizer(inner(), rules, model=model), "mse")
    # Where batches are spread over processes, each passes its own part.
    processes, mine = jax.process_count(), jax.process_index()
    if kind == "model":
        processes, mine = 1, 0
    x = rng.normal(size=(6, processes, 16 // processes, 3)).astype("float32")[:, mine]
    y = rng.normal(size=(6, processes, 16 // processes, 2)).astype("float32")[:, mine]
    model.fit(
        x.reshape(-1, 3),
        y.reshape(-1, 2),
        batch_size=16 // processes,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return model


def whole(array):
    """All of an array, of which this process may hold a part."""
    if jax.process_count() == 1:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def sharded(model):
    shards = model.get_layer("body").kernel.value.addressable_shards
    return shards[0].data.shape != (3, 8)


def main(out, log_dir=None):
    results = {}
    for kind in ("one", "data", "model"):
        if kind == "one" and jax.process_count() > 1:
            continue
        folder = Path(log_dir or Path(out).parent) / kind
        drift = WeightDrift(folder, update_freq=2)
        watching = [
            drift,
            FreezeHyperparameters(folder, on_change="ignore"),
            LearningRateMonitor(folder),
        ]
        for name, (inner, rules, changes) in CASES.items():
            model = train(kind, inner, rules, [Changing(changes), *watching])
            watching = []
            assert sharded(model) == (kind == "model")
            for i, weight in enumerate(model.weights):
                results[f"{name}/{kind}/{i}"] = whole(weight.value)
        results |= {f"drift/{kind}/{name}": drift.history[name] for name in DRIFT}
    np.savez(out, **results)


if __name__ == "__main__":
    devices, out, *others = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    if others:
        log_dir, address, processes, mine = others
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(address, int(processes), int(mine))
        main(out, log_dir)
    else:
        main(out)
