"""Time to equal accuracy with `AutoFreeze` and without, in pairs that differ in nothing else.

A network learns the digits 0 to 4, and is then fine-tuned on 5 to 9, from the
same weights and with the same batches on both sides. Seconds are those of the
processor, of training alone; evaluation is not counted, a new trace is.

    python -m benchmarks.auto_freeze digits mobilenet --seeds 6
"""

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_layerwise as kl
from benchmarks import machine, measure

RESULTS = Path(__file__).parent / "results" / "training" / "auto-freeze.json"
WITHIN = 0.01  # of the accuracy at the end, by which a run counts as there
LAST = 3  # epochs that are the end


@dataclass(frozen=True)
class Task:
    """A network to pretrain and to fine-tune.

    Attributes:
        title: for the table.
        build: makes the network.
        side: of the images, in pixels.
        first: epochs on the old digits.
        epochs: on the new ones.
        trace_cost: steps that a new trace costs, for `AutoFreeze`.
    """

    title: str
    build: Callable[[], Any]
    side: int
    first: int
    epochs: int
    trace_cost: int


def _small() -> Any:
    conv, dense = keras.layers.Conv2D, keras.layers.Dense
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *(conv(32, 3, activation="relu", padding="same", name=f"conv_{i}") for i in range(4)),
            keras.layers.Flatten(),
            dense(64, activation="relu", name="dense"),
            dense(10, name="head"),
        ]
    )


def _mobilenet() -> Any:
    return keras.applications.MobileNetV2(
        input_shape=(64, 64, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )


TASKS = {
    "digits": Task("four convolutions, 8 × 8 digits", _small, 8, 10, 40, 40),
    "mobilenet": Task("MobileNetV2 at 64 × 64", _mobilenet, 64, 8, 20, 60),
}


class Clock(keras.callbacks.Callback):
    """Counts seconds of the processor without those of the evaluation, which it makes.

    Attributes:
        seconds: since training began, at the end of each epoch.
        accuracy: at the end of each epoch.
    """

    def __init__(self, test: tuple[Any, Any]) -> None:
        super().__init__()
        self.test = test
        self.seconds: list[float] = []
        self.accuracy: list[float] = []
        self._spent = self._since = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts to count."""
        self._since = time.process_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops for the evaluation."""
        self._spent += time.process_time() - self._since
        self.seconds.append(self._spent)
        self.accuracy.append(self.model.evaluate(*self.test, verbose=0)[1])
        self._since = time.process_time()


def load(side: int, seed: int) -> dict[str, tuple[Any, Any]]:
    """The digits at a size: the old ones, half of the new to learn, half to test."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 8 - 1
    if side > 8:
        images = np.repeat(keras.ops.image.resize(images, (side, side)), 3, axis=-1)
    order = np.random.default_rng(seed).permutation(len(digits))
    old, new = (order[part[order]] for part in (digits < 5, digits >= 5))
    parts = {"old": old, "learn": new[: len(new) // 2], "test": new[len(new) // 2 :]}
    return {name: (images[found], digits[found]) for name, found in parts.items()}


def compiled(task: Task) -> Any:
    """The network of a task with an optimizer around it."""
    model = task.build()
    model.compile(
        kl.LayerwiseOptimizer(keras.optimizers.Adam(3e-4)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


@functools.cache
def pretrained(name: str) -> list[Any]:
    """The weights of a network that knows the old digits, the same for every seed."""
    task = TASKS[name]
    keras.utils.set_random_seed(0)
    model = compiled(task)
    model.fit(*load(task.side, 0)["old"], epochs=task.first, verbose=0)
    return list(model.get_weights())


def finetuned(name: str, seed: int, freeze: Any) -> dict[str, Any]:
    """What one side did: seconds and accuracy by epoch, and what was frozen when."""
    task = TASKS[name]
    data = load(task.side, seed)
    start = pretrained(name)
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = compiled(task)
    model.set_weights(start)
    clock = Clock(data["test"])
    callbacks = [clock] if freeze is None else [freeze, clock]
    model.fit(*data["learn"], epochs=task.epochs, verbose=0, callbacks=callbacks)
    decisions = [] if freeze is None else freeze.decisions
    return {
        "seconds": clock.seconds,
        "accuracy": clock.accuracy,
        "steps": int(keras.ops.convert_to_numpy(model.optimizer.iterations)),
        "frozen": [[d["epoch"], len(d["frozen"])] for d in decisions],
    }


def pair(name: str, seed: int) -> dict[str, Any]:
    """Both sides of a seed; which one is first alternates."""
    sides = {"without": None, "AutoFreeze": kl.AutoFreeze(trace_cost=TASKS[name].trace_cost)}
    order = list(sides) if seed % 2 else list(sides)[::-1]
    found = {side: finetuned(name, seed, sides[side]) for side in order}
    return {"seed": seed, **{side: found[side] for side in sides}}


def reached(runs: dict[str, Any], side: str) -> int | None:
    """The epoch after which a side was as good as the side without is at its end."""
    target = statistics.mean(runs["without"]["accuracy"][-LAST:]) - WITHIN
    found = (i for i, accuracy in enumerate(runs[side]["accuracy"]) if accuracy >= target)
    return next(found, None)


def row(title: str, pairs: Sequence[dict[str, Any]]) -> list[str]:
    """The line of a network in the table."""
    steps, to_equal, whole, better = [], [], [], []
    there = 0
    for runs in pairs:
        ours, theirs = reached(runs, "AutoFreeze"), reached(runs, "without")
        one, other = runs["AutoFreeze"], runs["without"]
        whole.append(one["seconds"][-1] / other["seconds"][-1])
        ends = [statistics.mean(side["accuracy"][-LAST:]) for side in (one, other)]
        better.append(100 * (ends[0] - ends[1]))
        assert theirs is not None  # its own end
        there += ours is not None
        missed = ours is None
        steps.append(float("inf") if missed else (ours + 1) / (theirs + 1))
        to_equal.append(float("inf") if missed else one["seconds"][ours] / other["seconds"][theirs])
    frozen = [runs["AutoFreeze"]["frozen"] for runs in pairs]
    return [
        title,
        f"{there} of {len(pairs)}",
        *(_interval(found) for found in (steps, to_equal, whole)),
        _interval(better, "+.2f"),
        f"{statistics.mean(found[-1][1] if found else 0 for found in frozen):.1f}",
        f"{statistics.mean(map(len, frozen)):.1f}",
    ]


def _interval(values: Sequence[float], form: str = ".2f") -> str:
    found = measure.interval(values)
    return f"{found.median:{form}} ({found.low:{form}} to {found.high:{form}})"


HEAD = [
    "network", "seeds that got there", "steps to equal accuracy, ratio",
    "seconds to equal accuracy, ratio", "seconds of all epochs, ratio",
    "accuracy at the end, points", "parts frozen", "new traces",
]  # fmt: skip


def table(record: dict[str, Any]) -> str:
    """In Markdown, a line for each network."""
    lines = [HEAD, ["---"] * len(HEAD)]
    lines += [row(TASKS[name].title, part["pairs"]) for name, part in record.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measures, shows each pair, and keeps them beside those of other networks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.auto_freeze")
    parser.add_argument("names", nargs="*", choices=[*TASKS, []], help="all where none is given")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=0, help="the others follow it")
    options = parser.parse_args()
    for name in options.names or TASKS:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            found = pair(name, seed)
            # After each, so that an interrupted run keeps what it measured.
            record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            kept = [runs for runs in record.get(name, {}).get("pairs", []) if runs["seed"] != seed]
            record[name] = {"machine": machine.describe(), **machine.revision()}
            record[name]["pairs"] = [*kept, found]
            RESULTS.write_text(json.dumps(record) + "\n")
            print(name, seed, *row("", [found])[1:], sep="  ", flush=True)
    print(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
