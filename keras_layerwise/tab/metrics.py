"""Scalars that TensorBoard shows of the same training: losses, accuracies, what a user wrote."""

import functools
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tensorboard.data.provider import RunTagFilter

from keras_layerwise.storage import schema
from keras_layerwise.tab.reading import INSIDE

_PLUGIN = "scalars"
# One for each layer, which the tab has as vectors.
_OWN = re.compile(r"(epoch_|batch_)?(drift|learning_rate)/")
_NUMBER = re.compile(r"-\d+$")
_MOST = 1000  # points of one curve
_RESOLUTION = 1.0  # seconds of the times in a record

Span = tuple[float, float]
"""When a run began and ended, in seconds since 1970."""


class Metrics:
    """The scalars of each run, also where another run's directory has them.

    A notebook's cell that runs twice is two runs, in ``logs`` and ``logs-2``, and Keras's own
    ``TensorBoard("logs")`` writes the metrics of both into the first one's directory. When each
    run began and ended tells whose they are.

    Args:
        provider: TensorBoard's data provider.
        ctx: the request's context.
        experiment: TensorBoard's experiment.
        names: all runs.
        spans: of those runs whose record tells it.
    """

    def __init__(
        self,
        provider: Any,
        ctx: Any,
        experiment: str,
        names: Iterable[str],
        spans: Mapping[str, Span],
    ) -> None:
        self._read = functools.partial(
            provider.read_scalars, ctx, experiment_id=experiment, plugin_name=_PLUGIN
        )
        self._listing = provider.list_scalars(ctx, experiment_id=experiment, plugin_name=_PLUGIN)
        self._names = set(names)
        self._spans = spans

    def tags(self, run: str) -> dict[str, tuple[str, str]]:
        """Gives the metrics of a run by name, each with TensorBoard's run and tag."""
        first = _first(run)
        inherited = first in self._names and run in self._spans
        return (_tags(self._listing, first) if inherited else {}) | _tags(self._listing, run)

    def curves(self, runs: Iterable[str], name: str) -> dict[str, dict[str, Any]]:
        """Gives steps, wall times and values of one metric of each run, empty where it has none."""
        places = {run: self.tags(run).get(name) for run in runs}
        asked = [place for place in places.values() if place is not None]
        read: Mapping[str, Mapping[str, Any]] = {}
        if asked:
            members, tags = (sorted(set(some)) for some in zip(*asked, strict=True))
            wanted = RunTagFilter(runs=members, tags=tags)
            read = self._read(downsample=_MOST, run_tag_filter=wanted)
        found = {}
        for run, place in places.items():
            member, tag = place or (run, name)
            data = read.get(member, {}).get(tag, [])
            found[run] = _curve([one for one in data if self._is_of(run, member, one.wall_time)])
        return found

    def _is_of(self, run: str, member: str, time: float) -> bool:
        """Says whether what was written to `member` at a time is of `run`."""
        if self._within(run, time):
            return True
        if not _is_below(member, run):
            return False
        return not any(self._within(other, time) for other in self._spans if _first(other) == run)

    def _within(self, run: str, time: float) -> bool:
        began, ended = self._spans.get(run, (float("inf"), 0.0))
        return began <= time <= ended


def span_of(texts: Mapping[str, str | None]) -> Span | None:
    """Reads when a run began and ended; None where its record does not tell.

    Example:
    >>> span_of({"started": "1970-01-01T00:01:00+00:00", "ended": None})
    (60.0, inf)
    """
    try:
        began, ended = (
            None if text is None else datetime.fromisoformat(text).timestamp()
            for text in (texts.get("started"), texts.get("ended"))
        )
    except ValueError:
        return None
    return (
        None if began is None else (began, float("inf") if ended is None else ended + _RESOLUTION)
    )


def _curve(data: Sequence[Any]) -> dict[str, Any]:
    values = [datum.value for datum in data]
    return {
        "steps": [datum.step for datum in data],
        "times": [datum.wall_time for datum in data],
        "values": [value if abs(value) < float("inf") else None for value in values],
    }


def _first(run: str) -> str:
    """Gives the run whose directory `run` was meant for: that of ``logs-2`` is ``logs``."""
    return _NUMBER.sub("", run)


def _is_below(member: str, run: str) -> bool:
    return run == "." or member == run or member.startswith(f"{run}/")


def _tags(listing: Mapping[str, Iterable[str]], run: str) -> dict[str, tuple[str, str]]:
    found = {}
    for member, listed in sorted(listing.items()):
        below = posixpath.relpath(member, run) if run != "." else member
        if below.startswith("..") or below.count("/") or below == schema.RECORD_DIR:
            continue
        for tag in sorted(listed):
            if not _OWN.match(tag):
                own = below in (".", *INSIDE)
                found[tag if own else f"{below}/{tag}"] = (member, tag)
    return found
