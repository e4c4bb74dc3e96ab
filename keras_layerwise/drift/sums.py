"""Sums over a weight and its reference, from which every statistic follows.

Both are read once, block by block, into a row of `COLUMNS`. Sums of parts merge
into sums of the whole, so a layer, a block, a model or a sharded weight costs
no second look at its elements.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Sums = npt.NDArray[np.float64]

COLUMNS = (
    "count",  # elements
    "shift",  # sum of w - r
    "square",  # sum of (w - r)^2
    "largest",  # max of |w - r|
    "total",  # sum of w
    "scatter",  # sum of (w - mean(w))^2
    "dot",  # sum of w * r
    "nonfinite",  # elements of w that are NaN or infinite
)
COUNT, SHIFT, SQUARE, LARGEST, TOTAL, SCATTER, DOT, NONFINITE = range(len(COLUMNS))

_BLOCK = 1 << 17  # elements whose working copies stay in the processor's cache
_RUN = 1 << 10  # most elements summed in the weight's own precision before float64 takes over
_SMALL = 1 << 12  # elements up to which weights are cheaper done together
_SPREAD = 0.1  # below this share of the sum of squares, the variance loses digits to cancellation
_TINY = 1e-15  # below it the square of a float32 loses digits


class Comparison:
    """What weights are compared with, laid out once for many measurements.

    Runs of 1,024 elements are summed in float32 with at least eight
    accumulators and everything above in float64, so the relative error of a
    sum of squares stays near 1e-6 however many elements there are. Working
    memory is a few blocks. One thread at a time may measure.

    Args:
        references: real arrays of any shape and dtype; they may change later.

    Attributes:
        references: the same values. Small arrays lie side by side in one, so
            these are to be kept instead of the given ones.

    Example:
    >>> import numpy as np
    >>> sums = Comparison([np.array([0.0, 1.0])]).measure([np.array([1.0, 3.0])])
    >>> {name: float(value) for name, value in zip(COLUMNS, sums[0])}["square"]
    5.0
    """

    def __init__(self, references: Sequence[Array]) -> None:
        self.references = list(references)
        small = [i for i, reference in enumerate(references) if _is_small(reference)]
        self._batches = [
            _Batch(members, [references[i] for i in members])
            for members in _batches(small, [reference.size for reference in references])
        ]
        for batch in self._batches:
            for i, view in zip(batch.members, batch.views(), strict=True):
                self.references[i] = view.reshape(references[i].shape)
        self._blocks = [
            (i, block, (-1, run), _working(reference.dtype))
            for i, reference in enumerate(references)
            if not _is_small(reference)
            for block, run in _cut(reference.size)
        ]
        self._owners = np.array([i for i, *_ in self._blocks], np.intp)
        self._memory = {
            working: np.empty((3, _BLOCK), working)
            for working in {working for *_, working in self._blocks}
        }

    def measure(self, weights: Sequence[Array]) -> Sums:
        """Gives the sums of each weight against its reference, which has its shape and dtype.

        Returns:
            Shape ``(len(weights), len(COLUMNS))``.
        """
        parts = np.zeros((len(self._blocks), len(COLUMNS)))
        flat = {
            i: (weights[i].reshape(-1), self.references[i].reshape(-1))
            for i in dict.fromkeys(self._owners.tolist())
        }
        with np.errstate(all="ignore"):  # NaN and infinity are results here
            for part, (i, block, runs, working) in zip(parts, self._blocks, strict=True):
                weight, reference = flat[i]
                w, r = weight[block].reshape(runs), reference[block].reshape(runs)
                _block(w, r, self._memory[working], part)
            for k in _doubtful(parts):
                i, block, *_ = self._blocks[k]
                _exact(flat[i][0][block], flat[i][1][block], parts[k])
            sums = merge(parts, self._owners, len(weights))
            for batch in self._batches:
                sums[batch.members] = batch.measure([weights[i] for i in batch.members])
        return sums


def merge(sums: Sums, groups: npt.NDArray[np.intp], count: int) -> Sums:
    """Gives the sums of `count` wholes from those of their parts.

    Args:
        sums: one row per part.
        groups: for each part, the whole that it belongs to.
        count: number of wholes.
    """
    merged = np.zeros((count, len(COLUMNS)))
    with np.errstate(all="ignore"):
        np.add.at(merged, groups, sums)
        merged[:, LARGEST] = 0
        np.maximum.at(merged[:, LARGEST], groups, sums[:, LARGEST])
        apart = _mean(sums) - _mean(merged)[groups]
        between = np.where(sums[:, COUNT] > 0, sums[:, COUNT] * apart**2, 0.0)
        np.add.at(merged[:, SCATTER], groups, between)
    return merged


def _mean(sums: Sums) -> npt.NDArray[np.float64]:
    return sums[:, TOTAL] / sums[:, COUNT]


def norm(sums: Sums) -> npt.NDArray[np.float64]:
    """Gives ‖w‖₂ of each row."""
    squares = sums[:, SCATTER] + sums[:, TOTAL] ** 2 / np.maximum(sums[:, COUNT], 1)
    return np.sqrt(squares)


def _working(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """Tells what a dtype is computed in: float32 where that holds all its values."""
    return np.float32 if np.can_cast(dtype, np.float32) else np.float64


def _cut(size: int) -> Iterator[tuple[slice, int]]:
    """Blocks of a weight, each with the length of the runs that it is whole in."""
    # Most sizes are products of small numbers, and need no shorter run at the end.
    run = next((n for n in range(_RUN, _RUN // 4, -1) if size % n == 0), min(_RUN, size))
    whole, step = size - size % run, _BLOCK - _BLOCK % run
    for at in range(0, whole, step):
        yield slice(at, min(at + step, whole)), run
    if whole < size:
        yield slice(whole, size), size - whole


def _block(w: Array, r: Array, memory: Array, part: Array) -> None:
    """Gives the sums of a block, given as rows of which each is summed in its own precision."""
    work, own, other = memory[:, : w.size].reshape(3, *w.shape)
    if w.dtype != work.dtype:
        np.copyto(own, w)
        np.copyto(other, r)
        w, r = own, other
    np.subtract(w, r, out=work)
    ones = _ones(w.dtype)[: w.shape[1]]
    # A product with ones is BLAS's, and thrice as fast as a sum.
    runs = np.empty((5, len(w)), w.dtype)
    np.vecdot(work, ones, out=runs[0])
    np.vecdot(work, work, out=runs[1])
    np.vecdot(w, r, out=runs[2])
    np.vecdot(w, ones, out=runs[3])
    np.vecdot(w, w, out=runs[4])
    shift, square, dot, total, squares = np.add.reduce(runs, axis=1, dtype=np.float64).tolist()
    largest = max(np.maximum.reduce(work, axis=None), -np.minimum.reduce(work, axis=None))
    scatter = squares - total * total / w.size
    if scatter < _SPREAD * squares:
        # A small spread around a large mean would lose its digits: take the mean off first.
        centre = w.dtype.type(total / w.size)
        np.subtract(w, centre, out=work)
        left = total - float(centre) * w.size
        around = float(np.add.reduce(np.vecdot(work, work), dtype=np.float64))
        scatter = max(around - left * left / w.size, 0.0)
    part[:] = w.size, shift, square, largest, total, scatter, dot, 0


@functools.cache
def _ones(dtype: np.dtype[Any]) -> Array:
    return np.ones(_RUN, dtype)


def _is_small(array: Array) -> bool:
    return 0 < array.size <= _SMALL and array.dtype == np.float32


def _batches(small: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Groups positions so that their sizes add up to about a block."""
    batches: list[list[int]] = []
    room = 0
    for i in small:
        if sizes[i] > room:
            batches.append([])
            room = _BLOCK
        batches[-1].append(i)
        room -= sizes[i]
    return batches


class _Batch:
    """Many small references at once, as segments of one array."""

    def __init__(self, members: list[int], references: Sequence[Array]) -> None:
        self.members = members
        self._reference = np.concatenate(references, axis=None)
        self._sizes = np.array([reference.size for reference in references])
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])

    def views(self) -> list[Array]:
        return np.split(self._reference, self._starts[1:])

    def measure(self, weights: Sequence[Array]) -> Sums:
        w, r = np.concatenate(weights, axis=None), self._reference
        sizes, starts = self._sizes, self._starts
        work = w - r
        # Zeros, as biases begin, are exact, and many.
        is_zero = ~np.logical_or.reduceat(w != 0, starts)
        sums = np.empty((len(weights), len(COLUMNS)))
        sums[:, COUNT] = sizes
        sums[:, SHIFT] = np.add.reduceat(work, starts)
        sums[:, SQUARE] = np.add.reduceat(work * work, starts)
        sums[:, LARGEST] = np.maximum.reduceat(np.abs(work, out=work), starts)
        sums[:, TOTAL] = np.add.reduceat(w, starts)
        sums[:, DOT] = np.add.reduceat(np.multiply(w, r, out=work), starts)
        centre = (sums[:, TOTAL] / sizes).astype(np.float32)
        w -= np.repeat(centre, sizes)
        left = sums[:, TOTAL] - centre.astype(np.float64) * sizes
        scatter = np.add.reduceat(np.multiply(w, w, out=w), starts)
        sums[:, SCATTER] = np.maximum(scatter - left * left / sizes, 0)
        sums[:, NONFINITE] = 0
        for i in _doubtful(sums):
            if sums[i, LARGEST] != 0 or not is_zero[i]:
                reference = r[starts[i] : starts[i] + sizes[i]]
                _exact(weights[i].reshape(-1), reference, sums[i])
        return sums


def _doubtful(sums: Sums) -> list[int]:
    """Tells where float32 may have overflowed or lost small squares, or not all was finite."""
    largest, count = sums[:, LARGEST], sums[:, COUNT]
    small = (largest != 0) & (largest < _TINY)
    small |= sums[:, SCATTER] + sums[:, TOTAL] ** 2 / count < count * _TINY**2
    # One infinity or NaN among the columns makes this sum not finite.
    return np.flatnonzero(small | ~np.isfinite(sums.sum(axis=1))).tolist()


def _exact(weight: Array, reference: Array, sums: Sums) -> None:
    """Gives a block in float64: for NaN, infinity, and what float32 can not square."""
    if sums[LARGEST] == 0 and not weight.any():
        return  # zeros are exact
    w, r = weight.astype(np.float64), reference.astype(np.float64)
    d = w - r
    sums[SHIFT], sums[SQUARE], sums[LARGEST] = d.sum(), d @ d, np.abs(d).max()
    sums[TOTAL], sums[SCATTER] = w.sum(), np.square(w - w.mean()).sum()
    sums[DOT], sums[NONFINITE] = w @ r, np.count_nonzero(~np.isfinite(w))
