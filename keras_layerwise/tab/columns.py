"""Many records of a series as the few columns that a picture has room for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Steps = npt.NDArray[np.int64]

_FALLING = {"cosine"}
_SIGNED = {"mean_shift", "std_shift"}


@dataclass(frozen=True)
class Columns:
    """Consecutive records, joined into columns.

    Attributes:
        first: step of the first record in each column.
        last: step of the last record in each column.
        values: ``[row, column]``, the most telling value among the column's records.
    """

    first: Steps
    last: Steps
    values: Floats


def join(steps: Steps, values: Floats, limit: int, statistic: str | None = None) -> Columns:
    """Joins records into at most `limit` columns.

    A cell shows the value that is furthest from "nothing moved": the lowest
    for a cosine, the largest magnitude for what has a sign, else the highest.
    So a spike of one record is never hidden, and where there is a column for
    each record every value is as it was written.

    Args:
        steps: ``[record]``, ascending.
        values: ``[record, row]``; NaN where a value is not defined.
        limit: most columns.
        statistic: what the values are, one of `schema.STATISTICS`.

    Example:
    >>> import numpy as np
    >>> column = join(np.array([1, 2, 3]), np.array([[1.0], [9.0], [2.0]], "f4"), limit=1)
    >>> column.first, column.last, column.values
    (array([1]), array([3]), array([[9.]], dtype=float32))
    """
    count = len(steps)
    if count <= limit:
        return Columns(steps, steps, _rows_first(values))
    starts = np.linspace(0, count, limit, endpoint=False).astype(np.intp)
    ends = np.append(starts[1:], count) - 1
    return Columns(steps[starts], steps[ends], _rows_first(_telling(values, starts, statistic)))


def _telling(values: Floats, starts: npt.NDArray[Any], statistic: str | None) -> Floats:
    if statistic in _FALLING:
        return np.fmin.reduceat(values, starts)
    highest = np.fmax.reduceat(values, starts)
    if statistic not in _SIGNED:
        return highest
    lowest = np.fmin.reduceat(values, starts)
    return np.where(np.abs(lowest) > np.abs(highest), lowest, highest)


def _rows_first(values: Floats) -> Floats:
    return np.ascontiguousarray(values.T, dtype="<f4")
