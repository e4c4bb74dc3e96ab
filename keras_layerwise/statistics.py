"""Drift statistics: arrays in, numbers out.

A weight and its reference are read once, block by block, into a few *sums*
(a row of `COLUMNS`). Sums of parts merge into sums of the whole, so a layer,
a model or a sharded weight costs no second look at its elements; the
statistics of DESIGN follow from the sums.
"""

import functools
from collections.abc import Sequence
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
_RUN = 1 << 10  # elements summed in the weight's own precision before float64 takes over
_SMALL = 1 << 12  # elements up to which weights are cheaper done together
_SPREAD = 0.1  # the part of a sum of squares below which its difference to the mean's is not exact
_TINY = 1e-15  # below it the square of a float32 loses digits


def measure(weights: Sequence[Array], references: Sequence[Array]) -> Sums:
    """The sums of each weight against its reference.

    Runs of 1,024 elements are summed in float32 with at least eight
    accumulators and everything above in float64, so the relative error of a
    sum of squares stays near 1e-6 however many elements there are. Working
    memory is a few blocks.

    Args:
        weights: real arrays of any shape and dtype.
        references: arrays of the same shapes and dtypes.

    Returns:
        Shape ``(len(weights), len(COLUMNS))``.

    Example:
    >>> import numpy as np
    >>> sums = measure([np.array([1.0, 3.0])], [np.array([0.0, 1.0])])
    >>> {name: float(value) for name, value in zip(COLUMNS, sums[0])}["square"]
    5.0
    """
    flat = [(w.reshape(-1), r.reshape(-1)) for w, r in zip(weights, references, strict=True)]
    small, blocks = [], []
    for i, (weight, _) in enumerate(flat):
        if weight.size <= _SMALL and _working(weight.dtype) is np.float32:
            small.append(i)
        else:
            blocks += [(i, slice(at, at + _BLOCK)) for at in range(0, weight.size, _BLOCK)]
    parts = np.zeros((len(blocks), len(COLUMNS)))
    memory = {working: np.empty((3, _BLOCK), working) for working in (np.float32, np.float64)}
    with np.errstate(all="ignore"):  # NaN and infinity are results here
        for part, (i, block) in zip(parts, blocks, strict=True):
            weight, reference = flat[i]
            _block(weight[block], reference[block], memory[_working(weight.dtype)], part)
        for k in _doubtful(parts):
            i, block = blocks[k]
            _exact(flat[i][0][block], flat[i][1][block], parts[k])
        sums = merge(parts, np.array([i for i, _ in blocks], np.intp), len(flat))
        for batch in _batches(small, [weight.size for weight, _ in flat]):
            sums[batch] = _together([flat[i] for i in batch])
    return sums


def merge(sums: Sums, groups: npt.NDArray[np.intp], count: int) -> Sums:
    """The sums of `count` wholes from those of their parts.

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


def statistics(
    sums: Sums, own: Sums, names: Sequence[str], updates: tuple[Sums, Sums] | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """The statistics of DESIGN from sums.

    Args:
        sums: the weights against the reference.
        own: the reference against itself.
        names: which of `keras_layerwise.schema.STATISTICS`.
        updates: the same two for the previous record, for ``update_ratio``.

    Returns:
        One value per row of `sums` for each name; NaN where it is not defined.
    """
    with np.errstate(all="ignore"):
        count, norm, reference_norm = sums[:, COUNT], _norm(sums), _norm(own)
        distance = np.sqrt(sums[:, SQUARE])
        found = {
            "l2": distance,
            "relative_l2": _ratio(distance, reference_norm),
            "cosine": np.clip(_ratio(sums[:, DOT], norm * reference_norm), -1, 1),
            "mean_shift": sums[:, SHIFT] / count,
            "std_shift": np.sqrt(sums[:, SCATTER] / count) - np.sqrt(own[:, SCATTER] / count),
            "max_abs": sums[:, LARGEST],
            "norm": norm,
            "nonfinite": sums[:, NONFINITE],
        }
        if updates is not None:
            found["update_ratio"] = _ratio(np.sqrt(updates[0][:, SQUARE]), _norm(updates[1]))
    return {name: found[name] for name in names}


def _mean(sums: Sums) -> npt.NDArray[np.float64]:
    return sums[:, TOTAL] / sums[:, COUNT]


def _norm(sums: Sums) -> npt.NDArray[np.float64]:
    squares = sums[:, SCATTER] + sums[:, TOTAL] ** 2 / np.maximum(sums[:, COUNT], 1)
    return np.sqrt(squares)


def _ratio(above: Array, below: Array) -> Array:
    return np.where(below == 0, np.nan, above / below)


def _working(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """What a dtype is computed in: float32 where that holds all its values."""
    return np.float32 if np.can_cast(dtype, np.float32) else np.float64


def _block(w: Array, r: Array, memory: Array, part: Array) -> None:
    work, own, other = memory[:, : w.size]
    if w.dtype != work.dtype:
        np.copyto(own, w)
        np.copyto(other, r)
        w, r = own, other
    np.subtract(w, r, out=work)
    part[COUNT] = w.size
    part[SHIFT] = _dot(work, None)
    part[LARGEST] = max(np.maximum.reduce(work), -np.minimum.reduce(work))
    part[SQUARE] = _dot(work, work)
    part[DOT] = _dot(w, r)
    part[TOTAL] = total = _dot(w, None)
    squares, around_zero = _dot(w, w), total * total / w.size
    part[SCATTER] = squares - around_zero
    if part[SCATTER] < _SPREAD * squares:
        # A small spread around a large mean would lose its digits: take the mean off first.
        centre = w.dtype.type(total / w.size)
        np.subtract(w, centre, out=work)
        left = total - float(centre) * w.size
        part[SCATTER] = max(_dot(work, work) - left * left / w.size, 0.0)


def _dot(a: Array, b: Array | None) -> float:
    """The sum of ``a * b``, or of `a`: a product with ones is BLAS's, and thrice as fast."""
    runs = a.size // _RUN * _RUN
    ones = _ones(a.dtype)
    total = 0.0
    if runs:
        rows = a[:runs].reshape(-1, _RUN)
        partial = np.vecdot(rows, ones if b is None else b[:runs].reshape(-1, _RUN))
        total = float(np.add.reduce(partial, dtype=np.float64))
    if runs < a.size:
        total += float(np.vecdot(a[runs:], ones[: a.size - runs] if b is None else b[runs:]))
    return total


@functools.cache
def _ones(dtype: np.dtype[Any]) -> Array:
    return np.ones(_RUN, dtype)


def _batches(small: list[int], sizes: list[int]) -> list[list[int]]:
    """Groups weights so that each group is about a block."""
    batches: list[list[int]] = []
    room = 0
    for i in small:
        if sizes[i] == 0:
            continue
        if sizes[i] > room:
            batches.append([])
            room = _BLOCK
        batches[-1].append(i)
        room -= sizes[i]
    return batches


def _together(pairs: list[tuple[Array, Array]]) -> Sums:
    """Many small weights at once, as segments of one array."""
    sizes = np.array([weight.size for weight, _ in pairs])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    w = np.concatenate([weight for weight, _ in pairs], dtype=np.float32)
    r = np.concatenate([reference for _, reference in pairs], dtype=np.float32)
    difference = w - r
    sums = np.empty((len(pairs), len(COLUMNS)))
    sums[:, COUNT] = sizes
    sums[:, SHIFT] = np.add.reduceat(difference, starts)
    sums[:, SQUARE] = np.add.reduceat(difference * difference, starts)
    sums[:, LARGEST] = np.maximum.reduceat(np.abs(difference, out=difference), starts)
    sums[:, TOTAL] = np.add.reduceat(w, starts)
    sums[:, DOT] = np.add.reduceat(np.multiply(w, r, out=r), starts)
    centre = (sums[:, TOTAL] / sizes).astype(np.float32)
    w -= np.repeat(centre, sizes)
    left = sums[:, TOTAL] - centre.astype(np.float64) * sizes
    sums[:, SCATTER] = np.maximum(np.add.reduceat(w * w, starts) - left * left / sizes, 0)
    sums[:, NONFINITE] = 0
    for i in _doubtful(sums):
        _exact(*pairs[i], sums[i])
    return sums


def _doubtful(sums: Sums) -> list[int]:
    """Where float32 may have overflowed or lost small squares, or not all was finite."""
    largest, count = sums[:, LARGEST], sums[:, COUNT]
    small = (largest != 0) & (largest < _TINY)
    small |= sums[:, SCATTER] + sums[:, TOTAL] ** 2 / count < count * _TINY**2
    # One infinity or NaN among the columns makes this sum not finite.
    return np.flatnonzero(small | ~np.isfinite(sums.sum(axis=1))).tolist()


def _exact(weight: Array, reference: Array, sums: Sums) -> None:
    """A block in float64: for NaN, infinity, and what float32 can not square."""
    if sums[LARGEST] == 0 and not weight.any():
        return  # zeros, as biases begin
    w, r = weight.astype(np.float64), reference.astype(np.float64)
    d = w - r
    sums[SHIFT], sums[SQUARE], sums[LARGEST] = d.sum(), d @ d, np.abs(d).max()
    sums[TOTAL], sums[SCATTER] = w.sum(), np.square(w - w.mean()).sum()
    sums[DOT], sums[NONFINITE] = w @ r, np.count_nonzero(~np.isfinite(w))
