"""Many records of a series as the few columns that a picture has room for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Steps = npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Records:
    """Records of a series in the order of their steps.

    Attributes:
        steps: ``[record]``, ascending.
        times: ``[record]``, seconds since 1970.
        values: ``[record, row]``; NaN where a value is not defined.
    """

    steps: Steps
    times: Times
    values: Floats


@dataclass(frozen=True)
class Columns:
    """Consecutive records, joined into columns.

    Attributes:
        first: step of the first record in each column.
        last: step of the last record in each column.
        times: when the last record of each column was written.
        values: ``[row, column]``, the most telling value among the column's records.
    """

    first: Steps
    last: Steps
    times: Times
    values: Floats


def within(records: Records, first: int, last: int) -> Records:
    """Gives the records from the step `first` to the step `last`."""
    start, end = np.searchsorted(records.steps, [first, last + 1])
    return Records(records.steps[start:end], records.times[start:end], records.values[start:end])


def join(records: Records, limit: int, reads: str = "rising") -> Columns:
    """Joins records into at most `limit` columns.

    A cell shows the value that means the most movement: the lowest for a
    falling statistic (cosine), the largest magnitude for a signed one, else
    the highest. So a spike of one record is never hidden, and where there is a
    column for each record every value is as it was written.

    Args:
        records: what to join.
        limit: most columns.
        reads: ``"falling"``, ``"signed"`` or ``"rising"``.

    Example:
    >>> import numpy as np
    >>> values = np.array([[1.0], [9.0], [2.0]], "f4")
    >>> column = join(Records(np.array([1, 2, 3]), np.zeros(3), values), limit=1)
    >>> column.first, column.last, column.values
    (array([1]), array([3]), array([[9.]], dtype=float32))
    """
    steps, times, values = records.steps, records.times, records.values
    count = len(steps)
    if count <= limit:
        return Columns(steps, steps, times, _rows_first(values))
    starts = np.linspace(0, count, limit, endpoint=False).astype(np.intp)
    ends = np.append(starts[1:], count) - 1
    told = _telling(values, starts, reads)
    return Columns(steps[starts], steps[ends], times[ends], _rows_first(told))


def _telling(values: Floats, starts: npt.NDArray[Any], reads: str) -> Floats:
    if reads == "falling":
        return np.fmin.reduceat(values, starts)
    highest = np.fmax.reduceat(values, starts)
    if reads != "signed":
        return highest
    lowest = np.fmin.reduceat(values, starts)
    return np.where(np.abs(lowest) > np.abs(highest), lowest, highest)


def _rows_first(values: Floats) -> Floats:
    return np.ascontiguousarray(values.T, dtype="<f4")
