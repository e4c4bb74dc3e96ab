"""Runs as a cluster makes them, each life a fork from before TensorFlow has done anything.

    python requeued.py FOLDER

- ``requeued``: ended by SIGTERM after its second epoch, and begun again as on another machine.
- ``told``: the same, with a handler that turns SIGTERM into an exception.
- ``together``: two processes at once that ask for one directory.
"""

import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import keras
import numpy as np

import keras_layerwise as kl

EPOCHS = 4


class At(keras.callbacks.Callback):
    """Does something when an epoch begins."""

    observes_only = True

    def __init__(self, epoch, action):
        super().__init__()
        self._epoch, self._action = epoch, action

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self._epoch:
            self._action()


def train(folder, *callbacks, backup=True):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    model.compile(kl.LayerwiseOptimizer("adam", {"head": 0.5}), "mse")
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    saved = [keras.callbacks.BackupAndRestore(folder.with_name(f"{folder.name}-backup"))]
    watching = [
        kl.WeightDrift(folder),
        kl.FreezeHyperparameters(folder, {"seed": 0}),
        kl.LearningRateMonitor(folder),
    ]
    model.fit(
        x, x[:, :2], batch_size=4, epochs=EPOCHS, shuffle=False, verbose=0,
        callbacks=[*(saved if backup else ()), *watching, *callbacks],
    )  # fmt: skip


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)  # a signal may take a moment


def end(number, frame):
    raise SystemExit("the queue wants its node back")


def told(folder):
    signal.signal(signal.SIGTERM, end)
    train(folder, At(2, terminate))


def elsewhere(folder):
    socket.gethostname = lambda: "another-node"
    train(folder)


def beside(folder, number):
    """Trains while the other of two does."""

    def wait():
        (folder.parent / f"ready-{number}").touch()
        while not (folder.parent / f"ready-{1 - number}").exists():
            time.sleep(0.01)

    train(folder, At(1, wait), backup=False)


def life(work, *arguments):
    """Begins a process; returns its number."""
    process = os.fork()
    if process:
        return process
    try:
        work(*arguments)
    except SystemExit:
        os._exit(3)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(process):
    """How it ended: its exit status, or the signal below zero."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(folder):
    found = [
        ended(life(train, folder / "requeued", At(2, terminate))),
        ended(life(elsewhere, folder / "requeued")),
        ended(life(told, folder / "told")),
        ended(life(elsewhere, folder / "told")),
    ]
    both = [life(beside, folder / "together", number) for number in range(2)]
    print(*found, *map(ended, both))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
