"""What `WeightDrift` costs, as samples taken in pairs: ``(ours, baseline)`` in seconds.

Each function takes its pair in turns, so that what else the machine does
falls on both. What is not a ratio is a `Figure`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_layerwise as kl
from keras_layerwise.drift import tracker as tracking
from keras_layerwise.drift import views
from keras_layerwise.drift.reference import Reference
from keras_layerwise.drift.statistics import DEFAULT, chosen
from keras_layerwise.storage import schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.schema import Row, Series

Pairs = list[tuple[float, float]]
MODELS = ("mlp", "mobilenet_v2", "resnet50")


def build(name: str) -> Any:
    """One of `MODELS`, compiled."""
    if name == "mlp":  # 33.6M parameters
        dense = keras.layers.Dense
        model = keras.Sequential([keras.Input((4096,)), dense(4096), dense(4096), dense(10)])
    else:
        kind = {"mobilenet_v2": "MobileNetV2", "resnet50": "ResNet50"}[name]
        model = getattr(keras.applications, kind)(
            weights=None, classes=10, classifier_activation=None
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss)
    return model


def seconds(work: Callable[[], Any]) -> float:
    """The time that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(ours: Callable[[], Any], baseline: Callable[[], Any], count: int) -> Pairs:
    """`count` samples of both in turns, after one of each that is not kept."""
    ours()
    baseline()
    return [(seconds(ours), seconds(baseline)) for _ in range(count)]


def tracker(model: Any, names: tuple[str, ...] = DEFAULT) -> tracking.Tracker:
    """What `WeightDrift` follows a model with."""
    view = views.look(model)
    assert view is not None
    return tracking.Tracker(model, view, Reference.taken(view.watched), chosen(names))


def record_against_numpy(name: str, count: int = 30) -> Pairs:
    """One record against a NumPy sum over the weights and one over the reference."""
    model = build(name)
    followed = tracker(model)
    weights = [np.array(weight) for weight in model.get_weights()]
    copies = [weight.copy() for weight in weights]
    return paired(
        lambda: followed.record(0),
        lambda: [(a.sum(), b.sum()) for a, b in zip(weights, copies, strict=True)],
        count,
    )


def record_against_tensorboard(name: str, count: int = 6) -> Pairs:
    """One record, to the file, against the weights of ``keras.callbacks.TensorBoard``.

    The heat-map, which is drawn once an epoch, is no part of a record.
    """
    model = build(name)
    with tempfile.TemporaryDirectory() as folder:
        board = keras.callbacks.TensorBoard(folder, histogram_freq=1, write_graph=False)
        board.set_model(model)
        board.on_train_begin()
        drift = kl.WeightDrift(Path(folder) / "ours", heatmap=False)
        drift.set_model(model)
        drift.on_train_begin()
        drift.on_epoch_begin(0)

        def record() -> None:
            model.optimizer.iterations.assign_add(1)
            drift.on_epoch_end(0)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing is trained here, which is an alarm
            pairs = paired(record, lambda: board._log_weights(1), count)
        drift.on_train_end()
        board.on_train_end()
    return pairs


def fit_with_and_without(name: str, update_freq: int, steps: int, count: int = 5) -> Pairs:
    """``fit`` over `steps` batches of 32, with records and without."""
    model = build(name)
    shape = (32, *model.input_shape[1:])
    x, y = np.zeros(shape, "float32"), np.zeros(32, "int32")

    def batches() -> Iterator[tuple[Any, Any]]:
        while True:
            yield x, y

    def fit(*callbacks: Any) -> None:
        model.fit(batches(), steps_per_epoch=steps, verbose=0, callbacks=list(callbacks))

    with tempfile.TemporaryDirectory() as folder:
        drift = kl.WeightDrift(folder, update_freq=update_freq)
        return paired(lambda: fit(drift), fit, count)


class Figure(NamedTuple):
    """What is no ratio, and the most that it may be, None where nothing was set."""

    what: str
    value: float
    unit: str
    target: float | None


def figures() -> list[Figure]:
    """What a record costs beside its computation."""
    vector, scalar = bytes_written()
    found = [
        Figure("handing over a record of 200 layers × 8 statistics, median",
               1e6 * statistics.median(hand_over()), "µs", 50),
        Figure("a vector of 200 layers in the event file, beyond 5 bytes a value",
               vector, "bytes", 300),
        Figure("a scalar in the event file", scalar, "bytes", 50),
    ]  # fmt: skip
    for compared, copies in (("the start", 1), ("the start and the previous record", 2)):
        for name in MODELS:
            added, size = peak_memory(name, copies)
            what = f"peak memory, {name} against {compared}, beyond {copies} × the weights"
            found.append(Figure(what, (added - copies * size) / 2**20, "MiB", 64))
    return found


def hand_over(count: int = 1000) -> list[float]:
    """Seconds to hand over 8 statistics of 200 layers, while the writer writes."""
    rows = tuple(Row(f"block_{i}_expand", True, False, 9) for i in range(200))
    items = [
        (Series("drift", rows, name, "the initial weights"), schema.drift_tag(name), np.ones(200))
        for name in schema.STATISTICS[:8]
    ]
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        writer = EventWriter(folder)
        for step in range(count):
            samples.append(seconds(lambda step=step: writer.vectors(items, step)))
            time.sleep(0.001)
        writer.close()
    return samples


def bytes_written() -> tuple[float, float]:
    """Bytes a record of one vector of 200 layers, beyond 5 a value, and bytes a scalar."""
    rows = tuple(Row(f"block_{i}_expand", True, False, 9) for i in range(200))
    series = Series("drift", rows, "relative_l2", "the initial weights")
    with tempfile.TemporaryDirectory() as folder:
        writer = EventWriter(folder)
        sizes = []
        for work in (
            lambda: writer.vector(series, schema.drift_tag("relative_l2"), np.ones(200), 10**6),
            lambda: writer.scalars({f"drift/l2/{row.name}": 1.0 for row in rows}, 10**6),
        ):
            work()
            writer.flush()
            before = writer.path.stat().st_size
            work()
            writer.flush()
            sizes.append(writer.path.stat().st_size - before)
        writer.close()
    return sizes[0] - 5 * 200, sizes[1] / 200


def peak_memory(name: str, copies: int) -> tuple[int, int]:
    """Bytes that records with 1 or 2 references add to the process's peak; bytes of the weights."""
    code = f"import benchmarks.drift as d; print(*d._peak({name!r}, {copies}))"
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, check=True
    ).stdout
    added, size = map(int, output.split()[-2:])
    return added, size


def elements(size: int, count: int = 3) -> Pairs:
    """One record of `size` parameters in one model of a few large weights."""
    width = int((size / 4) ** 0.5)
    layers = [keras.layers.Dense(width, use_bias=False) for _ in range(4)]
    model = keras.Sequential([keras.Input((width,)), *layers])
    followed = tracker(model)
    weights = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    return paired(lambda: followed.record(0), lambda: [(a.sum(), a.sum()) for a in weights], count)


def _peak(name: str, copies: int) -> tuple[int, int]:
    model = build(name)
    x = np.zeros((1, *model.input_shape[1:]), "float32")
    model.fit(x, np.zeros(1), verbose=0)
    size = sum(int(np.prod(weight.shape)) for weight in model.weights) * 4
    Path("/proc/self/clear_refs").write_text("5")  # Linux's way to begin a new peak
    before = _status("VmRSS")
    followed = tracker(model, DEFAULT + ("update_ratio",) * (copies - 1))
    for step in range(3):
        followed.record(step)
    return _status("VmHWM") - before, size


def _status(name: str) -> int:
    """A figure of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return int(line.split()[1]) * 1024
