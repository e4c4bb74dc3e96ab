"""What `FreezeHyperparameters` costs: the start of a run, an epoch, its file, a fingerprint."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_layerwise as kl
from benchmarks.drift import Figure
from keras_layerwise.hyperparameters.fingerprints import weights_fingerprint
from keras_layerwise.storage import schema

Times = tuple[float, float]


def network() -> Any:
    """DenseNet121: 428 layers, trained with another rate for each of its 58 blocks."""
    model = keras.applications.DenseNet121(weights=None, classes=10, input_shape=(32, 32, 3))
    optimizer = kl.LayerwiseOptimizer(keras.optimizers.SGD(0.01), kl.layer_decay(model, 0.9))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    optimizer.build(model.trainable_variables)
    return model


def figures(count: int = 5) -> list[Figure]:
    """Medians of `count`, in seconds of the training thread's processor time where so said."""
    model = network()
    with tempfile.TemporaryDirectory() as folder:
        runs = [_run(model, Path(folder) / str(i), i, count) for i in range(count + 1)]
        size = (Path(folder) / "0" / schema.RECORD_FILE).stat().st_size
    starts, checks, epochs = zip(*runs[1:], strict=True)  # the first one pays for imports
    of = "of 428 layers"
    start, thread = (statistics.median(times) for times in zip(*starts, strict=True))
    check, epoch = (statistics.median(w for some in each for w, _ in some)
                    for each in (checks, epochs))  # fmt: skip
    return [
        Figure(f"start of a run {of}", start, "s", 0.3),
        Figure(f"start of a run {of}, the training thread's share", thread, "s", None),
        Figure(f"reading again {of}", 1e3 * check, "ms", 20),
        Figure(f"an epoch's end {of}, the record saved", 1e3 * epoch, "ms", None),
        Figure(f"hyperparameters.json {of}", size / 1e3, "kB", 100),
        Figure("fingerprint of 100 million weights", _fingerprint(count), "s", 0.3),
    ]


def _run(model: Any, place: Path, seed: int, count: int) -> tuple[Times, list[Times], list[Times]]:
    """The start, `count` times reading again, and the ends of epochs of one run."""
    frozen = kl.FreezeHyperparameters(place, {"seed": seed}, resume="never")
    frozen.set_model(model)
    frozen.set_params({"epochs": 1, "steps": 1})
    start = _seconds(lambda: (frozen.on_train_begin(), frozen.on_epoch_begin(0)))
    checks = [_seconds(frozen._check) for _ in range(count)]
    epochs = [_seconds(lambda: frozen.on_epoch_end(0, {"loss": 0.5})) for _ in range(count)]
    frozen.on_train_end()
    return start, checks, epochs


def _seconds(work: Callable[[], Any]) -> Times:
    """Wall time, and processor time of this thread."""
    wall, thread = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - wall, time.thread_time() - thread


def _fingerprint(count: int) -> float:
    layers = [keras.layers.Dense(5000, use_bias=False) for _ in range(4)]
    model = keras.Sequential([keras.Input((5000,)), *layers])
    weights_fingerprint(model)
    return statistics.median(_seconds(lambda: weights_fingerprint(model))[0] for _ in range(count))
