"""A few records of a series out of the memory of a TensorBoard that has no data server.

Its data provider makes arrays of all records before it picks those that were asked for, which
costs seconds for a sweep (``--load_fast=false``).
"""

from typing import Any

import numpy as np
from tensorboard.util import tensor_util

Datum = tuple[int, float, np.ndarray[Any, Any]]
"""Step, time and values of a record."""


def picked(multiplexer: Any, run: str, tag: str, limit: int) -> list[Datum]:
    """Gives at most `limit` records, evenly spaced, always the last; none of what is not there.

    Args:
        multiplexer: TensorBoard's, from the context in which it loads the tab.
        run: TensorBoard's run.
        tag: of a series of tensors.
        limit: most records, at least 1.
    """
    try:
        events = multiplexer.Tensors(run, tag)
    except KeyError:
        return []
    last = len(events) - 1
    places = range(last + 1) if last < limit else evenly(last, limit)
    return [
        (event.step, event.wall_time, tensor_util.make_ndarray(event.tensor_proto))
        for event in (events[i] for i in places)
    ]


def evenly(last: int, count: int) -> list[int]:
    """Gives `count` whole numbers up to `last`, which is one of them.

    Example:
    >>> evenly(9, 4), evenly(9, 1)
    ([0, 3, 6, 9], [9])
    """
    return [int(place) for place in np.linspace(last, 0, count).round()[::-1]]
