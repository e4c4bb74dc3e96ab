"""What a GPU is asked: operations counted, steps of real sizes, memory and its bandwidth.

The sizes need a GPU. Each case has a small size as well, with which the path
can be tried on a processor.
"""

import dataclasses
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import keras_layerwise as kl
from benchmarks import cases, drift, launches, machine, measure, models
from benchmarks.cases import Case
from benchmarks.drift import Figure
from benchmarks.measure import AGAIN, BASELINE, OURS
from benchmarks.steps import Steps
from keras_layerwise import LayerwiseOptimizer

MODE = {"tensorflow": "graph", "jax": "JAX", "torch": "PyTorch"}
MOST_OF_KERAS = {"tensorflow": 0.35, "jax": 1.02, "torch": None}


def all_cases(small: bool) -> list[Case]:
    """Every case of the backend that Keras has, most important first.

    Args:
        small: whether the networks have the sizes of a trial.
    """
    resnet, bert = ("conv_tiny", "bert_tiny") if small else ("resnet224", "bert")
    wide, giant = ("seven", "gpt2_tiny") if small else ("seven_wide", "gpt2_xl")
    found = [
        *(_launched(name) for name in (bert, resnet)),
        *(_step(name) for name in (bert, resnet)),
        *_updates(bert),
        *_drift(bert, resnet),
        _frozen(wide),
        *_synchronised(),
        _memory(giant),
    ]
    return [dataclasses.replace(case, name=f"gpu/{case.name}", slow=True) for case in found]


def _rules(model: Any) -> dict[str, float]:
    return models.groups(model, None)


def _title(name: str) -> str:
    return models.spec(name)[0]


# What is launched.


def _launched(name: str) -> Case:
    def run(seconds: float) -> dict[str, Any]:
        counts = {}
        for side in ("bare", "a rate for each layer"):
            model = models.build(name)
            inner = keras.optimizers.AdamW(1e-4)
            own = LayerwiseOptimizer(inner, _rules(model), model=model)
            model.compile(inner if side == "bare" else own, loss="mse")
            counts[side] = launches.of_step(model, *models.batch(name, model))
        bare, each = (counts[side].total() for side in counts)
        title = f"operations of a step, {_title(name)}, AdamW"
        figures = [
            Figure(f"{title}, bare", bare, "", None),
            Figure(f"{title}, more with a rate for each layer", each - bare, "", 0),
        ]
        kinds = {side: dict(found.most_common()) for side, found in counts.items()}
        return {"figures": [figure._asdict() for figure in figures], "operations": kinds}

    return Case(f"launches/{name}", f"operations of a step, {_title(name)}", run, headline=True)


# What a step and an update take.


def _step(name: str) -> Case:
    mode = MODE[keras.backend.backend()]
    return Case(
        f"step/{name}",
        f"{_title(name)}, AdamW, {mode}, one group a layer",
        Steps(name, "adamw", None, jit=mode == "JAX"),
        target=1.01,
        bound="high",
        headline=True,
    )


def _updates(name: str) -> Iterator[Case]:
    """The update alone, against Keras's and on PyTorch against its own optimizer."""
    backend = keras.backend.backend()
    title = f"update of {_title(name)}, AdamW, {MODE[backend]}, one group a layer"
    yield Case(
        f"update/{name}/keras",
        title,
        _against(name, BASELINE, _of_keras),
        target=MOST_OF_KERAS[backend],
        headline=True,
    )
    if backend == "torch":
        fused = "torch.optim.AdamW(fused=True)"
        for groups, label, most in (
            (False, f"{fused}, one group", 1.25),
            (True, f"{fused}, a group a layer", 1.0),
        ):
            yield Case(
                f"update/{name}/torch/{'groups' if groups else 'one'}",
                title,
                _against(name, label, lambda model, g=groups: _of_torch(model, g)),
                target=most,
                headline=True,
            )


def _against(
    name: str, base: str, other: Callable[[Any], Callable[[int], None]]
) -> Callable[[float], dict[str, Any]]:
    """Our update of a model's weights and `other`'s, in turns."""

    def ours(model: Any) -> Callable[[int], None]:
        inner = keras.optimizers.AdamW(1e-4)
        return _updates_of(LayerwiseOptimizer(inner, _rules(model), model=model), model)

    def run(seconds: float) -> dict[str, Any]:
        makers = {base: other, OURS: ours, AGAIN: other}
        sides = {side: make(models.build(name)) for side, make in makers.items()}
        return measure.compared(measure.in_turns(sides, seconds))

    return run


def _gradients(model: Any) -> list[Any]:
    return [keras.ops.full(variable.shape, 1e-3) for variable in model.trainable_variables]


def _updates_of(optimizer: Any, model: Any) -> Callable[[int], None]:
    optimizer.build(model.trainable_variables)
    return cases.updater(optimizer, _gradients(model), model.trainable_variables)


def _of_keras(model: Any) -> Callable[[int], None]:
    return _updates_of(keras.optimizers.AdamW(1e-4), model)


def _of_torch(model: Any, groups: bool) -> Callable[[int], None]:
    optimizer = models.torch_optimizer(
        model, 1e-4, _rules(model) if groups else {}, "AdamW", fused=True
    )
    for variable, gradient in zip(model.trainable_variables, _gradients(model), strict=True):
        variable.value.grad = gradient

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.step()
        machine.synchronise()

    return run


def _frozen(name: str) -> Case:
    mode = MODE[keras.backend.backend()]
    return Case(
        f"freeze/{name}",
        f"{_title(name)}: lower five frozen by a rule, not by trainable = False, {mode}",
        Steps(name, frozen=5, jit=mode == "JAX"),
        target=1.03,
        bound="high",
        headline=True,
    )


# What drift takes.


def _drift(large: str, network: str) -> Iterator[Case]:
    title = f"drift record, {_title(large)}"
    yield Case(
        f"drift/bandwidth/{large}",
        f"{title}, against a copy on the device that moves as many bytes",
        cases.pairs(lambda: _record_and_copy(large), "copy"),
        target=2.0,  # half of the memory's bandwidth
        headline=True,
    )
    yield Case(
        f"drift/leaves/{large}",
        f"{title}: what leaves the device",
        cases.figures_of(lambda: _what_leaves(large)),
        headline=True,
    )
    yield Case(
        f"drift/share/{network}",
        f"a drift record's share of training, {_title(network)}",
        cases.figures_of(lambda: _share(network)),
        headline=True,
    )


def _record_and_copy(name: str, count: int = 30) -> drift.Pairs:
    """A record, and a copy of half as many bytes as it reads: a copy also writes them."""
    model = models.build(name)
    followed = drift.tracker(model)
    size = sum(int(np.prod(weight.shape)) for weight in model.weights)
    source = keras.ops.ones((size,), "float32")
    copy = keras.ops.copy
    if keras.backend.backend() == "jax":
        import jax

        copy = jax.jit(lambda array: array + 1.0)  # XLA leaves out a copy that changes nothing
    elif keras.backend.backend() == "torch":
        copy = lambda array: array.clone()  # noqa: E731

    def copied() -> None:
        found = copy(source)
        if keras.backend.backend() == "jax":
            found.block_until_ready()
        machine.synchronise()

    machine.synchronise()
    return drift.paired(lambda: followed.record(0), copied, count)


def _what_leaves(name: str) -> list[Figure]:
    """Bytes that a record takes from the device, beyond a row of seven numbers for each weight.

    On JAX any other way out is an error while it is watched; PyTorch's profiler counts
    the copies. TensorFlow has no such watch.
    """
    from keras_layerwise.backend import arrays

    model = models.build(name)
    followed = drift.tracker(model)
    followed.record(0)
    taken, backend = [0], keras.backend.backend()
    convert = arrays.ops.convert_to_numpy

    def counted(array: Any) -> Any:
        if backend == "jax":
            import jax

            with jax.transfer_guard_device_to_host("allow"):
                found = convert(array)
        else:
            found = convert(array)
        taken[0] += found.nbytes
        return found

    arrays.ops.convert_to_numpy = counted
    copies: dict[str, int] = {}
    try:
        if backend == "jax":
            import jax

            with jax.transfer_guard_device_to_host("disallow"):
                followed.record(1)
        elif backend == "torch":
            copies = launches.of_call(lambda: followed.record(1))
        else:
            followed.record(1)
    finally:
        arrays.ops.convert_to_numpy = convert
    rows = len(model.weights)
    found = [
        Figure(f"bytes that leave the device in a record, {rows} weights", taken[0], "bytes", None),
        Figure("a weight", taken[0] / rows, "bytes", None),
    ]
    if backend == "torch":
        out = sum(n for kind, n in copies.items() if "DtoH" in kind or "Device -> Host" in kind)
        found.append(Figure("copies from the device in a record", out, "", 1))
    return found


def _share(name: str) -> list[Figure]:
    """A record that is waited for, as a share of the steps between two."""
    model = models.build(name)
    model.compile(keras.optimizers.AdamW(1e-4), loss="mse", jit_compile=_jit())
    step = models.stepper(name, model)
    followed_model = models.build(name)
    followed = drift.tracker(followed_model)
    step(3)
    followed.record(0)
    steps = measure.interval([drift.seconds(lambda: step(5)) / 5 for _ in range(15)]).median
    record = measure.interval([drift.seconds(lambda: followed.record(1)) for _ in range(15)]).median
    return [
        Figure(f"a drift record of {_title(name)}", 1e3 * record, "ms", None),
        Figure("of a step, with a record at every one", 100 * record / steps, "%", 2),
        Figure("of 100 steps, with a record after them", record / steps, "%", 0.1),
    ]


def _jit() -> bool:
    return keras.backend.backend() == "jax"


def _synchronised() -> Iterator[Case]:
    """On PyTorch, which can say where a program waits for the device."""
    if keras.backend.backend() == "torch":
        yield Case(
            "drift/waits",
            "waits for the device between two records",
            cases.figures_of(_waits),
            headline=True,
        )


def _waits() -> list[Figure]:
    """How often twenty steps wait for the device, with `WeightDrift` and without."""
    import torch

    model = models.build("seven")
    model.compile(keras.optimizers.AdamW(1e-4), loss="mse")
    x, y = models.batch("seven", model)
    counts = {}
    for side in ("without", "with"):
        inside = _Between()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            more = [kl.WeightDrift(folder)] if side == "with" else []
            inside.said = said
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("warn")
            model.fit(x, y, batch_size=1, verbose=0, callbacks=[*more, inside])
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")
        counts[side] = inside.found
    more = counts["with"] - counts["without"]
    return [
        Figure(
            "waits for the device in an epoch's steps, without drift", counts["without"], "", None
        ),
        Figure("more of them with WeightDrift, outside its record", more, "", 0),
    ]


class _Between(keras.callbacks.Callback):
    """Counts the waits from the first step to the last."""

    said: Any = ()
    first: int | None = None
    found = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.first is None:
            self.first = len(self.said)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        kinds = [str(one.message) for one in self.said[self.first :]]
        self.found = sum("synchronizing" in text for text in kinds)


def _memory(name: str) -> Case:
    return Case(
        f"drift/memory/{name}",
        f"device memory with drift, {_title(name)}",
        cases.figures_of(lambda: _giant(name)),
        headline=True,
    )


def _giant(name: str) -> list[Figure]:
    """Peak memory of training with drift beyond that without, to the reference's own size."""
    peak = {}
    for side in ("without", "with"):
        command = [sys.executable, "-m", "benchmarks.giant", name, side]
        output = subprocess.run(
            command, cwd=machine.ROOT, check=True, capture_output=True, text=True
        ).stdout
        peak[side], size = map(int, output.split()[-2:])
    more = peak["with"] - peak["without"]
    return [
        Figure(f"weights of {_title(name)}", size / 2**30, "GiB", None),
        Figure("peak of a step without drift", peak["without"] / 2**30, "GiB", None),
        Figure("peak with drift", peak["with"] / 2**30, "GiB", None),
        Figure("what drift adds, to the size of the reference", more / size, "", 1.02),
    ]
