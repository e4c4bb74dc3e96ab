"""Sums of weights on accelerators, reduced there, and of all processes together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_layerwise.backend import arrays
from keras_layerwise.drift import sums as columns
from keras_layerwise.drift.sums import Sums


def measure(pairs: Sequence[tuple[Any, Any]]) -> Sums:
    """Gives the sums of (weight, reference) pairs of the backend's arrays.

    Every device reduces its own pairs; a row of numbers for each leaves it.
    """
    found = arrays.reduce_in_place(_sums, pairs)
    rows = np.array([[count, *row] for _, count, row in found], np.float64)
    return columns.merge(rows, np.array([i for i, _, _ in found], np.intp), len(pairs))


def over_processes(sums: Sums) -> Sums:
    """Gives the sums of whole weights, from what each process found of its own shards."""
    found = arrays.of_all_processes(sums)
    if len(found) == 1:
        return sums
    owners = np.tile(np.arange(len(sums)), len(found))
    return columns.merge(found.reshape(-1, sums.shape[1]), owners, len(sums))


def _sums(w: Any, r: Any) -> Any:
    """Gives the columns of `sums.COLUMNS` after the count."""
    w, r = ops.cast(w, "float32"), ops.cast(r, "float32")
    d = w - r
    return ops.stack(
        [
            ops.sum(d),
            ops.sum(d * d),
            ops.max(ops.abs(d)),
            ops.sum(w),
            ops.sum(ops.square(w - ops.mean(w))),
            ops.sum(w * r),
            ops.sum(ops.cast(ops.logical_not(ops.isfinite(w)), "float32")),
        ]
    )
