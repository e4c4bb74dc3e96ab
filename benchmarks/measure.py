"""Arithmetic of a comparison: samples in turns, ratios of neighbours, their median and interval."""

import contextlib
import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BASELINE, AGAIN = "bare", "bare again"
OURS, DRIFT, MULTI = "LayerwiseOptimizer", "WeightDrift", "MultiOptimizer"
CHUNK_SECONDS = 0.03


@dataclass(frozen=True)
class Ratio:
    """A median, and the interval that holds the true one with 95 % confidence."""

    median: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Ratio:
    """Median and its interval by order statistics, without assuming a distribution.

    The number of samples below the true median is binomial(n, 1/2). The
    interval reaches as few ranks from both ends as leave at most 2.5 % outside
    on either side; with fewer than six samples it is the whole range.
    """
    ordered = sorted(values)
    count = len(ordered)
    below, rank = 0.0, 0
    while (below := below + math.comb(count, rank) / 2**count) <= 0.025:
        rank += 1
    rank = max(rank - 1, 0)
    return Ratio(statistics.median(ordered), ordered[rank], ordered[count - 1 - rank])


def ratios(samples: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """How many times as long as `baseline`, turn by turn."""
    return interval([a / b for a, b in zip(samples, baseline, strict=True)])


def noise_floor(again: Ratio) -> float:
    """How far the interval of A against A reaches from 1."""
    return max(abs(again.low - 1), abs(again.high - 1))


def verdict(ratio: Ratio, floor: float) -> str:
    """``"no difference"`` where the interval holds 1, or the median is within the floor."""
    if ratio.low <= 1 <= ratio.high or abs(ratio.median - 1) <= floor:
        return "no difference"
    return "less" if ratio.median < 1 else "more"


def compared(samples: dict[str, list[float]], **more: Any) -> dict[str, Any]:
    """What is kept of samples taken in turns; the first side is what the others are held to."""
    base = next(iter(samples))
    pairs = {
        side if side in (OURS, DRIFT) else f"{side} to {base}": (side, base)
        for side in samples
        if side not in (base, AGAIN)
    }
    if MULTI in samples:
        pairs[f"{OURS} to {MULTI}"] = (OURS, MULTI)
    found = {label: ratios(samples[a], samples[b]) for label, (a, b) in pairs.items()}
    floor = None
    if AGAIN in samples:
        floor = noise_floor(ratios(samples[AGAIN], samples[base]))
    return {
        "baseline": base,
        "seconds": {name: interval(values).median for name, values in samples.items()},
        "ratios": {
            name: {
                **dataclasses.asdict(ratio),
                "verdict": verdict(ratio, floor or 0.0),
            }
            for name, ratio in found.items()
        },
        "floor": floor,
        "turns": len(samples[base]),
        **more,
    }


def in_turns(
    sides: Mapping[str, Callable[[int], None]], seconds: float, at_least: int = 8
) -> dict[str, list[float]]:
    """Seconds a step for each side, taken in turns until `seconds` are over.

    Args:
        sides: each runs the given number of steps and waits for the device.
        seconds: time to spend.
        at_least: number of turns that are taken however long they last.

    Returns:
        As many samples for each side as turns were taken.
    """
    chunk = 1
    for side in sides.values():  # the first steps are not kept
        side(3)
    while chunk < 64 and max(_seconds(side, chunk) for side in sides.values()) < CHUNK_SECONDS:
        chunk *= 2
    samples: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    end = time.perf_counter() + seconds
    with uncollected():
        while time.perf_counter() < end or len(samples[order[0]]) < at_least:
            for name in order:
                samples[name].append(_seconds(sides[name], chunk) / chunk)
            order.append(order.pop(0))
    return samples


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keeps Python's garbage collector off, as timeit does.

    It runs after so many allocations, which in turns of equal steps is always on one side.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the line through the points with the least squared error."""
    x_mean, y_mean = statistics.mean(xs), statistics.mean(ys)
    above = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - x_mean) ** 2 for x in xs)


def _seconds(side: Callable[[int], None], steps: int) -> float:
    start = time.perf_counter()
    side(steps)
    return time.perf_counter() - start
