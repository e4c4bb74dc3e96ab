"""Trains in a process that is killed again and again, and resumes until training is done.

    python killed.py FOLDER KILLS

Trains in FOLDER/killed so, then once more in FOLDER/undisturbed. Each life is a fork from
before TensorFlow has done anything, so that it starts quickly.
"""

import os
import random
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import keras
import numpy as np

import keras_layerwise as kl

EPOCHS, BATCHES = 30, 4
LIFE = None
saving = threading.Lock()


class Backup(keras.callbacks.BackupAndRestore):
    """Not to be killed between its two files: Keras would train an epoch twice."""

    def _save_model(self):
        with saving:
            super()._save_model()


class Kill(keras.callbacks.Callback):
    """Kills this process by SIGKILL up to 30 ms after a step within two epochs."""

    def on_train_begin(self, logs=None):
        self.random = random.Random(LIFE)
        self.steps = -1 if LIFE is None else self.random.randrange(1, 10)

    def on_train_batch_end(self, batch, logs=None):
        self.steps -= 1
        if self.steps == 0:
            threading.Thread(target=self.kill, daemon=True).start()

    def kill(self):
        time.sleep(self.random.uniform(0, 0.03))
        with saving:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="body"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    rules = {
        "body": kl.Rule(multiplier=0.1, weight_decay=0.5, frozen=True),
        "head/bias": kl.Rule(frozen=True),
    }
    inner = keras.optimizers.Adam(0.01, use_ema=True, weight_decay=0.1)
    model.compile(kl.LayerwiseOptimizer(inner, rules, model=model), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCHES * 4, 3)).astype("float32")
    drift = kl.WeightDrift(folder)
    callbacks = [
        Backup(folder / "backup", double_checkpoint=True),
        kl.GradualUnfreeze({20: "body"}),
        drift,
        kl.FreezeHyperparameters(folder, {"seed": 0}),
        kl.LearningRateMonitor(folder),
        Kill(),
    ]
    model.fit(
        x, x[:, :2] ** 2, batch_size=4, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks
    )
    values = [keras.ops.convert_to_numpy(v) for v in (*model.weights, *model.optimizer.variables)]
    last = {name: table[-1] for name, table in drift.history.items() if name != "layers"}
    np.savez(folder / "results.npz", *values, **last)


def ended(folder, life=None):
    """How a process ended that trained in `folder`, to be killed if it is numbered."""
    global LIFE
    process = os.fork()
    if process == 0:
        try:
            LIFE = life
            train(folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(folder, kills):
    ends = [ended(folder / "killed", life) for life in range(kills)]
    ends += [ended(folder / name) for name in ("killed", "undisturbed")]
    print(*ends)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
