"""What is measured, most important first."""

import dataclasses
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import drift, measure, models, networks, record
from benchmarks.machine import ROOT, synchronise
from benchmarks.measure import AGAIN, BASELINE, DRIFT, MULTI, OURS, compared
from benchmarks.models import OPTIMIZERS, RATE
from benchmarks.steps import Steps, compiled
from keras_layerwise import LayerwiseOptimizer
from keras_layerwise.command import sweep
from keras_layerwise.storage.schema import RECORD_FILE

Side = tuple[Callable[[], Any], Callable[[Any], Any]]  # the model, and its optimizer


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: to choose it by.
        title: for the table.
        run: measures for about the given seconds.
        target: the most that the ratio may be, None where nothing was set.
        bound: of the ratio, what is held to the target: its ``median``, or an end of its
            interval, ``low`` or ``high``.
        quick: whether ``--quick`` has it.
        slow: whether only ``--all`` has it.
        headline: whether docs/benchmarks.md shows it.
    """

    name: str
    title: str
    run: Callable[[float], dict[str, Any]]
    target: float | None = None
    bound: str = "median"
    quick: bool = False
    slow: bool = False
    headline: bool = False


def tracing(name: str, optimizer: str, groups: int | None = 1) -> Callable[[float], dict[str, Any]]:
    """The first step: to trace, to compile and to run once, in seconds of the processor.

    Slots are made before it, as in ``fit``.
    """
    make = OPTIMIZERS[optimizer][1]

    def ours(model: Any) -> Any:
        rules = {} if groups == 1 else models.groups(model, groups)
        return LayerwiseOptimizer(make(), rules, model=model)

    def first(optimizer: Callable[[Any], Any]) -> float:
        jit = keras.backend.backend() == "jax"
        model = compiled(name, optimizer, jit)
        step = models.stepper(name, model)
        gc.collect()
        start = time.process_time()
        step(1)
        return time.process_time() - start

    def run(seconds: float) -> dict[str, Any]:
        makers = {BASELINE: lambda model: make(), OURS: ours, AGAIN: lambda model: make()}
        first(makers[BASELINE])
        samples: dict[str, list[float]] = {side: [] for side in makers}
        order, end = list(makers), time.perf_counter() + 2 * seconds
        while time.perf_counter() < end or len(samples[BASELINE]) < 4:
            for side in order:
                samples[side].append(first(makers[side]))
            order.append(order.pop(0))
        return compared(samples)

    return run


def updates(weights: int, groups: int) -> Callable[[float], dict[str, Any]]:
    """The update alone, of many tiny weights, without a model around it."""

    def run(seconds: float) -> dict[str, Any]:
        def side(wrap: Callable[[Any], Any]) -> Callable[[int], None]:
            variables = [
                keras.Variable(np.ones(8, "float32"), name=f"w{i}") for i in range(weights)
            ]
            optimizer = wrap(keras.optimizers.Adam(RATE))
            optimizer.build(variables)
            gradients = [keras.ops.ones(8) for _ in variables]
            return updater(optimizer, gradients, variables)

        rules = {f"w{i}": 0.5 + (i % groups) / groups / 2 for i in range(weights)}
        sides = {
            BASELINE: side(lambda inner: inner),
            OURS: side(lambda inner: LayerwiseOptimizer(inner, rules if groups > 1 else {})),
            AGAIN: side(lambda inner: inner),
        }
        return compared(
            measure.in_turns(sides, seconds), scale={"weights": weights, "groups": groups}
        )

    return run


def updater(optimizer: Any, gradients: Any, variables: Any) -> Callable[[int], None]:
    """Applies the same gradients for some steps, and waits for the device."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        apply = jax.jit(optimizer.stateless_apply)
        values = [v.value for v in variables], [v.value for v in optimizer.variables]

        def run_jax(steps: int) -> None:
            nonlocal values
            for _ in range(steps):
                values = apply(values[1], gradients, values[0])
            jax.block_until_ready(values)

        return run_jax
    apply = optimizer.apply
    if backend == "tensorflow":
        import tensorflow as tf

        apply = tf.function(lambda: optimizer.apply(gradients, variables))

    def run(steps: int) -> None:
        for _ in range(steps):
            apply() if backend == "tensorflow" else apply(gradients, variables)
        synchronise()

    return run


def process(name: str, optimizer: str) -> Callable[[float], dict[str, Any]]:
    """Whole processes that train for 200 steps: wall time, and peak memory."""

    def run(seconds: float) -> dict[str, Any]:
        times: dict[str, list[float]] = {BASELINE: [], OURS: [], AGAIN: []}
        memory: dict[str, list[float]] = {side: [] for side in times}
        for _ in range(max(2, round(seconds / 3))):
            for side in times:
                start = time.perf_counter()
                peak = _peak_of_process(name, optimizer, "ours" if side == OURS else "bare")
                times[side].append(time.perf_counter() - start)
                memory[side].append(peak)
        peaks = compared(memory)
        return compared(times, peak_mib=peaks["seconds"], peak_ratio=peaks["ratios"][OURS])

    return run


def _peak_of_process(name: str, optimizer: str, side: str) -> float:
    """Trains in a process of its own; returns the most memory that it had, in MiB."""
    command = [sys.executable, "-m", "benchmarks.process", name, optimizer, side]
    output = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), check=True, capture_output=True, text=True
    ).stdout
    return float(json.loads(output.splitlines()[-1]))


def _memory_to_initial() -> list[drift.Figure]:
    """What decay towards the initial weights adds to the peak, beyond the copy of the weights."""
    pairs = [
        [_peak_of_process("dense", "adamw", side) for side in ("to initial", "ours")]
        for _ in range(3)
    ]
    size = models.build("dense").count_params() * 4 / 2**20
    what = "peak memory, 6 × 1024 dense, decay to initial against to 0, beyond 1 × the weights"
    added = statistics.median(one - other for one, other in pairs)
    return [drift.Figure(what, added - size, "MiB", 64)]


def peak_mib() -> float:
    """The most memory that this process has had."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def pairs(sample: Callable[[], drift.Pairs], base: str) -> Callable[[float], dict[str, Any]]:
    """Makes a case of samples of `WeightDrift` and of what it is held to."""

    def run(seconds: float) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these models do not learn, which WeightDrift reports
            found = sample()
        return compared({base: [b for _, b in found], DRIFT: [a for a, _ in found]})

    return run


def figures_of(measured: Callable[[], list[drift.Figure]]) -> Callable[[float], dict[str, Any]]:
    """Makes a case of what is no ratio."""
    return lambda seconds: {"figures": [figure._asdict() for figure in measured()]}


def _record_against(other: Callable[[Any], Callable[[], Any]]) -> Callable[[], drift.Pairs]:
    def sample() -> drift.Pairs:
        model = drift.build("mobilenet_v2")
        followed = drift.tracker(model)
        return drift.paired(lambda: followed.record(0), other(model), 10)

    return sample


def _get_weights(model: Any) -> Callable[[], Any]:
    start = model.get_weights()
    return lambda: [
        np.linalg.norm(w - w0) for w, w0 in zip(model.get_weights(), start, strict=True)
    ]


def _summary_scalars(model: Any) -> Callable[[], Any]:
    import tensorflow as tf

    writer = tf.summary.create_file_writer(tempfile.mkdtemp())
    start = model.get_weights()

    def write() -> None:
        with writer.as_default(step=0):
            for i, (weight, w0) in enumerate(zip(model.weights, start, strict=True)):
                tf.summary.scalar(f"drift/{i}", tf.norm(weight.value - w0))

    return write


def _titled(model: str, optimizer: str, mode: str, groups: int | None = 1) -> str:
    count = {None: "one group a layer", 1: "no rules"}.get(groups, f"{groups} groups")
    return f"{models.spec(model)[0]}, {OPTIMIZERS[optimizer][0]}, {mode}, {count}"


def _step(model: str, mode: str, groups: int | None, optimizer: str = "adam", **more: Any) -> Case:
    options = {k: more.pop(k) for k in ("peers", "precision", "to_initial") if k in more}
    precision = options.get("precision", "float32")
    described = mode if precision == "float32" else f"{mode} {precision}"
    parts = ["step", model, optimizer, mode, str(groups or "each")]
    if precision != "float32":
        parts.append("mixed")
    title = _titled(model, optimizer, described, groups)
    if options.get("to_initial"):
        parts.append("to_initial")
        title += ", decay to initial, not to 0"
    return Case(
        name="/".join(parts),
        title=title,
        run=Steps(model, optimizer, groups, jit=mode in ("XLA", "JAX"), **options),
        **{"target": 1.02, "bound": "high", **more},
    )


def _trace(model: str, optimizer: str, mode: str, target: float) -> Case:
    return Case(
        name=f"trace/{model}/{optimizer}",
        title=f"first step: {_titled(model, optimizer, mode)}",
        run=tracing(model, optimizer),
        target=target,
        headline=optimizer == "adam",
    )


def _scale() -> Iterator[Case]:
    for weights in (10, 100, 1000, 3000):
        yield Case(
            f"scale/weights/{weights}",
            f"update of {weights} weights, one group each",
            updates(weights, weights),
            slow=weights == 3000,
        )
    for groups in (1, 10, 100, 300):
        yield Case(
            f"scale/groups/{groups}",
            f"update of 300 weights in {groups} groups",
            updates(300, groups),
        )
    for runs in (10, 100, 300):
        yield Case(f"scale/runs/{runs}", f"list a sweep of {runs} runs", _listing(runs))


def _sweep(mode: str) -> Iterator[Case]:
    """A rate for each layer at every width and batch, with every optimizer that has a kernel."""
    for optimizer in OPTIMIZERS:
        for width in models.SWEEP:
            for size in (1, 8, 32, 256):
                case = _step(f"sweep/{width}/{size}", mode, None, optimizer, slow=True, bound="low")
                yield dataclasses.replace(
                    case,
                    name=f"sweep/{optimizer}/{width}/{size}",
                    run=_scaled(case.run, {"width": width, "batch": size, "optimizer": optimizer}),
                )


def _listing(runs: int) -> Callable[[float], dict[str, Any]]:
    """Lists a sweep as the command does, and only parses its files."""

    def run(seconds: float) -> dict[str, Any]:
        text = (ROOT / "tests" / "saved" / "0.1" / "run" / RECORD_FILE).read_text()
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"run-{i}" / RECORD_FILE for i in range(runs)]
            for path in paths:
                path.parent.mkdir()
                path.write_text(text)

            def parsed(times: int) -> None:
                for _ in range(times):
                    for path in paths:
                        json.loads(path.read_text())

            def listed(times: int) -> None:
                for _ in range(times):
                    assert len(sweep.read(folder)[0]) == runs

            samples = measure.in_turns({"json.loads": parsed, "list": listed}, seconds, 4)
        return compared(samples, scale={"runs": runs})

    return run


def _scaled(
    run: Callable[[float], dict[str, Any]], scale: dict[str, Any]
) -> Callable[[float], dict[str, Any]]:
    return lambda seconds: {**run(seconds), "scale": scale}


def _of_tensorflow() -> Iterator[Case]:
    for optimizer in OPTIMIZERS:
        yield _step(
            "dense", "graph", 1, optimizer,
            peers=["unfused"], target=0.80, bound="median", headline=True,
            quick=optimizer in ("adam", "momentum"),
        )  # fmt: skip
    yield _step("small", "graph", None, peers=["unfused", MULTI], quick=True, headline=True)
    yield _step("dense", "graph", None, peers=[MULTI], headline=True)
    for optimizer in ("momentum", "adamw", "rmsprop", "adagrad"):
        yield _step("small", "graph", 1, optimizer)
    for groups in (1, 2, 12):
        yield _step("small", "graph", groups)
    yield _trace("dense", "adam", "graph", 0.5)
    yield _trace("small", "adam", "graph", 0.5)
    yield _trace("dense", "rmsprop", "graph", 0.5)
    yield _step("transformer", "graph", None, headline=True)
    yield _step("embedding", "graph", 2)
    yield _step("mobilenet", "graph", 12, headline=True)
    yield _step("resnet", "graph", 12, headline=True)
    yield _step("small", "XLA", None, headline=True, quick=True)
    yield _step("dense", "XLA", None, headline=True)
    yield _step("dense", "graph", None, precision=_mixed())
    yield _step("transformer", "XLA", None, slow=True)
    yield _step("mobilenet", "XLA", 12, slow=True)
    yield _step("resnet", "XLA", 12, slow=True)
    yield _step("mobilenet", "graph", None, precision=_mixed(), slow=True)


def _of_others(mode: str) -> Iterator[Case]:
    torch = ["torch.optim"] if mode == "PyTorch" else []
    multi = [] if mode == "PyTorch" else [MULTI]
    yield _step("small", mode, None, quick=True, headline=True, peers=multi)
    yield _step("small", mode, 1)
    yield _step("dense", mode, None, quick=True, headline=True)
    yield _step("dense", mode, 1, quick=True, headline=True)
    for groups in (1, 2, 12, None):
        yield _step("transformer", mode, groups, peers=torch, headline=groups is None)
    yield _step("embedding", mode, 2)
    yield _step("mobilenet", mode, 12)
    yield _step("resnet", mode, 12)
    yield _step("dense", mode, None, precision=_mixed())
    if mode == "JAX":
        yield _trace("small", "adam", mode, 1.2 if mode == "JAX" else 1.0)


def _mixed() -> str:
    from benchmarks.machine import gpu_name

    return "mixed_float16" if gpu_name() else "mixed_bfloat16"


def _of_drift() -> Iterator[Case]:
    for name in drift.MODELS:
        yield Case(
            f"drift/numpy/{name}",
            f"drift record, {name}, against a NumPy sum of weights and reference",
            pairs(lambda name=name: drift.record_against_numpy(name), "NumPy"),
            target=2.5,
            headline=True,
            quick=name == "mobilenet_v2",
        )
    yield Case(
        "drift/get_weights",
        "drift record, mobilenet_v2, against a get_weights() loop in NumPy",
        pairs(_record_against(_get_weights), "get_weights()"),
    )
    if keras.backend.backend() == "tensorflow":
        yield Case(
            "drift/scalars",
            "drift record, mobilenet_v2, against tf.summary.scalar per weight",
            pairs(_record_against(_summary_scalars), "tf.summary.scalar"),
        )
        for name in drift.MODELS:
            yield Case(
                f"drift/tensorboard/{name}",
                f"drift record, {name}, against TensorBoard(histogram_freq=1)",
                pairs(lambda name=name: drift.record_against_tensorboard(name), "TensorBoard"),
                target=0.02,
                headline=True,
            )
    for name, frequency, count, target in (("mlp", 100, 100, 1.01), ("mobilenet_v2", 1, 5, 1.05)):
        yield Case(
            f"drift/fit/{frequency}",
            f"fit with a drift record every {frequency} steps, {name}, batch 32",
            pairs(
                lambda n=name, f=frequency, c=count: drift.fit_with_and_without(n, f, c), "without"
            ),
            target=target,
            headline=True,
        )
    yield Case("drift/figures", "sizes of a record", figures_of(drift.figures), headline=True)
    yield Case("record/figures", "the run record", figures_of(record.figures), headline=True)
    for size in (10**5, 10**6, 10**7, 10**8, 10**9):
        yield Case(
            f"scale/parameters/{size:.0e}".replace("+", ""),
            f"drift record of {size:.0e} parameters, against NumPy",
            lambda seconds, size=size: {
                **pairs(lambda: drift.elements(size), "NumPy")(seconds),
                "scale": {"parameters": size},
            },
            slow=size == 10**9,
        )


def _of_tab() -> Iterator[Case]:
    def measured(load_fast: bool, name: str) -> list[drift.Figure]:
        from benchmarks import tab

        return tab.figures(load_fast, tab.SIZES[name])

    for name, about in (("sweep", "100 runs"), ("long", "long runs")):
        for load_fast in (True, False):
            yield Case(
                f"tab/{name}/{'fast' if load_fast else 'slow'}",
                f"the tab over {about}, --load_fast={load_fast}",
                figures_of(lambda fast=load_fast, name=name: measured(fast, name)),
                slow=True,
                headline=True,
            )


def _of_networks() -> Iterator[Case]:
    yield Case("networks/rules", "rules for large networks", figures_of(networks.rules))
    yield Case("networks/lora", "slots after LoRA", figures_of(networks.lora), headline=True)


def all_cases() -> list[Case]:
    """Those of the backend that Keras has."""
    backend = keras.backend.backend()
    mode = {"tensorflow": "graph", "jax": "JAX", "torch": "PyTorch"}[backend]
    freezing = Case(
        "freeze",
        f"lower five of seven layers frozen by a rule, not by trainable = False, {mode}",
        Steps("seven", frozen=5, jit=mode == "JAX"),
        target=1.02,
        bound="high",
        headline=True,
        quick=True,
    )
    whole = Case(
        "process/dense/adam",
        f"whole process, 200 steps of 6 × 1024, Adam, {mode}",
        process("dense", "adam"),
        headline=True,
    )
    to_initial = [
        _step("dense", mode, 1, "adamw", to_initial=True, target=None, headline=True),
        _step("mobilenet", mode, 1, "adamw", to_initial=True, target=None),
        Case(
            "memory/to_initial", "decay to initial", figures_of(_memory_to_initial), headline=True
        ),
    ]
    first = _of_tensorflow() if backend == "tensorflow" else _of_others(mode)
    return [
        *first,
        freezing,
        *_of_networks(),
        *to_initial,
        *_of_drift(),
        whole,
        *_scale(),
        *_of_tab(),
        *_sweep(mode),
    ]
