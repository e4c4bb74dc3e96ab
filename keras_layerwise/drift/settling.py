"""Decides from a sequence of numbers which blocks have settled."""

from collections.abc import Sequence

import numpy as np

_BACKWARD = 2 / 3  # gradients by weights and by inputs cost a forward pass each
_BEYOND = 1e300  # stands for a change from nothing; percentiles of infinities are NaN


def first_unsettled(
    previous: Sequence[float], current: Sequence[float], start: int = 0, percentile: float = 50.0
) -> int:
    """Finds the first block that still changes as much as the others.

    A block's number says how much happened to it in an interval: the norm of
    its summed gradients, as published, or how far it moved. Its relative change
    is |previous − current| / previous. Everything below the first block whose
    relative change is at or above the percentile of those from `start` on has
    settled.

    Args:
        previous: a number ≥ 0 for each block, from the bottom up, of the
            interval before.
        current: the same for the interval that has just ended.
        start: blocks below are frozen already, and stay so.
        percentile: between 0 and 100; higher freezes more.

    Returns:
        The position of the first block that goes on training, `start` or above.

    Source: AutoFreeze, Liu et al. 2021, arXiv 2102.01386.

    Example:

    >>> first_unsettled([8.0, 8.0, 8.0, 8.0], [8.0, 7.9, 6.0, 4.0])
    2
    """
    change = [_relative_change(old, new) for old, new in zip(previous, current, strict=True)]
    threshold = np.percentile(change[start:], percentile)
    if not np.isfinite(threshold):  # a diverging network has settled nowhere
        return start
    return next(i for i in range(start, len(change)) if change[i] >= threshold)


def _relative_change(old: float, new: float) -> float:
    if new == 0.0:  # nothing happened to it
        return 0.0
    return min(abs(old - new) / old, _BEYOND) if old else _BEYOND


def pays(steps_left: int, trace_cost: float, frozen: int, blocks: int) -> bool:
    """Tells whether the steps that are left earn back the trace that a change of freezing costs.

    A block that is frozen at the bottom saves its backward pass, two thirds of
    what it takes of a step; the blocks are taken to be alike. All is counted
    in steps, so that a run that is repeated decides the same on a faster machine.

    Args:
        steps_left: until training ends.
        trace_cost: steps that a new trace takes as long as.
        frozen: how many more blocks are to be frozen.
        blocks: how many there are.
    """
    return _BACKWARD * frozen / blocks * steps_left > trace_cost
