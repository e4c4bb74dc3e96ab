"""What the runs wrote, as plain values, through TensorBoard's data provider alone.

Series of one run lie in sub-directories of its log directory, which
TensorBoard lists as runs of their own; here they are one run again.
"""

import functools
import json
import posixpath
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tensorboard.data.provider import RunTagFilter

from keras_layerwise.storage import schema
from keras_layerwise.storage.reading import merge_rows, message_of, series_of
from keras_layerwise.tab.columns import Columns, Floats, Steps, join

# The largest number of records that both loaders take.
EVERYTHING = 2**31 - 1

_CACHED = 64

_DIRECTORIES = {
    "record": schema.RECORD_DIR,
    "drift": schema.DRIFT_DIR,
    "alarms": schema.DRIFT_DIR,
    "rates": schema.RATES_DIR,
    "changes": schema.RATES_DIR,
}


class UnknownRunError(LookupError):
    """A run or a series that is not there."""


@dataclass(frozen=True)
class Source:
    """One tag: where it is, what it holds, how far it has come and when it ended."""

    run: str
    tag: str
    series: schema.Series
    stamp: str
    ended: float

    @property
    def topic(self) -> str:
        """What the tag's values are about: a statistic, or the series' kind."""
        return self.series.statistic or self.series.kind


@dataclass
class Run:
    """The sources of one run, and what is wrong with those that could not be read."""

    name: str
    sources: list[Source] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def of(self, topic: str) -> list[Source]:
        """The sources on one topic, oldest first."""
        found = [source for source in self.sources if source.topic == topic]
        return sorted(found, key=lambda source: (source.run, source.ended))


@dataclass(frozen=True)
class Matrix:
    """One topic of one run, joined into columns.

    Attributes:
        rows: the rows of all sources, in the model's order.
        columns: their values.
        exact: False where the columns are picked records, a quick first view.
    """

    rows: tuple[schema.Row, ...]
    columns: Columns
    exact: bool


class Reader:
    """Reads runs of one experiment through `provider`, remembering what it joined."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._lock = threading.Lock()
        self._cache: OrderedDict[Any, Matrix] = OrderedDict()

    def runs(self, ctx: Any, experiment: str, names: Iterable[str] | None = None) -> dict[str, Run]:
        """The runs of `experiment` by name; `names` restricts it to those."""
        wanted = None
        if names is not None:
            names = set(names)
            wanted = {member for name in names for member in _members(name)}
        listing = self._provider.list_tensors(
            ctx,
            experiment_id=experiment,
            plugin_name=schema.PLUGIN,
            run_tag_filter=RunTagFilter(runs=wanted),
        )
        found: dict[str, Run] = {}
        for member, tags in sorted(listing.items()):
            for tag, listed in sorted(tags.items()):
                try:
                    series = _parse(listed.plugin_content)
                except schema.SchemaError as error:
                    run = found.setdefault(member, Run(member))
                    run.problems.append(f"{tag}: {error}")
                    continue
                name = _group(member, series.kind)
                stamp = f"{listed.max_step}/{listed.max_wall_time}"
                run = found.setdefault(name, Run(name))
                run.sources.append(Source(member, tag, series, stamp, listed.max_wall_time))
        if names is not None:
            found = {name: run for name, run in found.items() if name in names}
        return found

    def run(self, ctx: Any, experiment: str, name: str) -> Run:
        """One run.

        Raises:
            UnknownRunError: where there is none of that name.
        """
        try:
            return self.runs(ctx, experiment, [name])[name]
        except KeyError:
            raise UnknownRunError(f"No run {name!r} with layerwise data.") from None

    def messages(self, ctx: Any, experiment: str, run: Run, kind: str) -> list[dict[str, Any]]:
        """All messages of one kind, each once; what is no message is a problem of the run."""
        found: dict[str, dict[str, Any]] = {}
        for source in run.of(kind):
            for _, tensor in self._read(ctx, experiment, source, EVERYTHING):
                for text in np.ravel(tensor):
                    try:
                        message = message_of(text)
                    except schema.SchemaError as error:
                        run.problems.append(f"{source.tag}: {error}")
                        continue
                    key = json.dumps(message, sort_keys=True)
                    found.pop(key, None)  # where it came again, it is the latest
                    found[key] = message
        return list(found.values())

    def matrix(
        self, ctx: Any, experiment: str, run: Run, topic: str, limit: int, quick: bool = False
    ) -> Matrix:
        """The vectors on `topic` in at most `limit` columns.

        Args:
            ctx: the request's context.
            experiment: TensorBoard's experiment.
            run: from `runs`.
            topic: a statistic, or ``"rates"``.
            limit: most columns.
            quick: reads no more records than there are columns, unless the
                whole is remembered; says so in `Matrix.exact`.

        Raises:
            UnknownRunError: where the run has nothing on that topic.
            schema.SchemaError: where the data is not what its tag says.
        """
        sources = run.of(topic)
        if not sources:
            raise UnknownRunError(f"Run {run.name!r} has no {topic!r}.")
        key = (experiment, tuple((s.run, s.tag, s.stamp) for s in sources), limit)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        rows = merge_rows([source.series.rows for source in sources])
        steps, values, whole = self._records(
            ctx, experiment, sources, rows, limit + 1 if quick else EVERYTHING
        )
        matrix = Matrix(rows, join(steps, values, limit, sources[0].series.statistic), whole)
        if whole:
            with self._lock:
                self._cache[key] = matrix
                while len(self._cache) > _CACHED:
                    self._cache.popitem(last=False)
        return matrix

    def records(
        self, ctx: Any, experiment: str, run: Run, topic: str
    ) -> tuple[tuple[schema.Row, ...], Steps, Floats]:
        """Every record on `topic`: the rows, the steps and ``[record, row]`` values."""
        sources = run.of(topic)
        rows = merge_rows([source.series.rows for source in sources])
        steps, values, _ = self._records(ctx, experiment, sources, rows, EVERYTHING)
        return rows, steps, values

    def _records(
        self,
        ctx: Any,
        experiment: str,
        sources: Sequence[Source],
        rows: Sequence[schema.Row],
        limit: int,
    ) -> tuple[Steps, Floats, bool]:
        place = {row.name: i for i, row in enumerate(rows)}
        steps: list[int] = []
        parts = [np.empty((0, len(rows)), np.float32)]
        whole = True
        for source in sources:
            data = self._read(ctx, experiment, source, limit)
            whole = whole and len(data) < limit
            own = [place[row.name] for row in source.series.rows]
            for _, tensor in data:
                if tensor.shape != (len(own),) or tensor.dtype.kind != "f":
                    raise schema.SchemaError(
                        f"{source.tag} of run {source.run!r} holds a tensor of {tensor.dtype} "
                        f"{tensor.shape} where its description says float32 ({len(own)},)."
                    )
            part = np.full((len(data), len(rows)), np.nan, np.float32)
            if data:
                part[:, own] = np.stack([tensor for _, tensor in data])
            steps += [step for step, _ in data]
            parts.append(part)
        order = np.argsort(np.asarray(steps, np.int64), kind="stable")
        return np.asarray(steps, np.int64)[order], np.concatenate(parts)[order], whole

    def _read(
        self, ctx: Any, experiment: str, source: Source, limit: int
    ) -> list[tuple[int, np.ndarray[Any, Any]]]:
        data = self._provider.read_tensors(
            ctx,
            experiment_id=experiment,
            plugin_name=schema.PLUGIN,
            downsample=limit,
            run_tag_filter=RunTagFilter(runs=[source.run], tags=[source.tag]),
        )
        return [(d.step, d.numpy) for d in data.get(source.run, {}).get(source.tag, [])]


def describe(run: Run) -> dict[str, Any]:
    """What the page must know of a run before it asks for data."""
    drift = [source for source in run.sources if source.series.kind == "drift"]
    by_topic = {topic: run.of(topic) for topic in {s.topic for s in run.sources}}
    first = run.of(drift[0].topic) if drift else []
    return {
        "name": run.name,
        "statistics": [s for s in schema.STATISTICS if s in by_topic],
        "reference": next((s.series.reference for s in drift if s.series.reference), None),
        "rows": [asdict(row) for row in merge_rows([s.series.rows for s in first])],
        "stamps": {topic: [s.stamp for s in sources] for topic, sources in by_topic.items()},
    }


_parse = functools.lru_cache(maxsize=1024)(series_of)


def _group(member: str, kind: str) -> str:
    """The run that TensorBoard's run `member` belongs to."""
    parent, last = posixpath.split(member)
    return (parent or ".") if last == _DIRECTORIES.get(kind) else member


def _members(name: str) -> list[str]:
    """TensorBoard's runs that the run `name` may consist of."""
    inside = sorted(set(_DIRECTORIES.values()))
    return [name, *(posixpath.join(name, part) if name != "." else part for part in inside)]
