"""What the runs wrote, as plain values, through TensorBoard's data provider alone.

Series of one run lie in sub-directories of its log directory, which
TensorBoard lists as runs of their own; here they are one run again.
"""

import contextlib
import functools
import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tensorboard.data.provider import RunTagFilter

from keras_layerwise.storage import schema
from keras_layerwise.storage.reading import merge_rows, message_of, series_of
from keras_layerwise.tab.cache import Cache
from keras_layerwise.tab.columns import Columns, Records, join, within
from keras_layerwise.tab.naming import renamed, stable
from keras_layerwise.tab.sheets import Sheet, sheet, stable_names
from keras_layerwise.tab.tensors import EVERYTHING, Source, Tensors

_CACHED = 96 * 2**20  # bytes

_DIRECTORIES = {
    "record": schema.RECORD_DIR,
    "drift": schema.DRIFT_DIR,
    "blocks": schema.DRIFT_DIR,
    "frozen": schema.DRIFT_DIR,
    "alarms": schema.DRIFT_DIR,
    "rates": schema.RATES_DIR,
    "changes": schema.RATES_DIR,
}
INSIDE = tuple(sorted(set(_DIRECTORIES.values())))


class UnknownRunError(LookupError):
    """A run or a series that is not there."""


@dataclass
class Run:
    """The sources of one run, what is wrong with those that could not be read, and names.

    `names` has the layers' names in the process that trained, with those of the record.
    """

    name: str
    sources: list[Source] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    names: Mapping[str, str] = field(default_factory=dict)

    def of(self, topic: str) -> list[Source]:
        """Gives the sources on one topic, oldest first."""
        found = [source for source in self.sources if source.topic == topic]
        return sorted(found, key=lambda source: (source.run, source.ended))

    def rows(self, sources: Iterable[Source]) -> tuple[schema.Row, ...]:
        """Gives the rows of `sources` under stable names, in the model's order."""
        return merge_rows([renamed(source.series.rows, self.names) for source in sources])


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
    """Reads runs of one experiment through `provider`, remembering what it joined.

    Args:
        provider: TensorBoard's data provider.
        multiplexer: what it reads from, where that is in this process; see `picked`.
    """

    def __init__(self, provider: Any, multiplexer: Any = None) -> None:
        self._provider = provider
        self._cache = Cache(_CACHED)
        self._tensors = Tensors(provider, multiplexer, self._cache)

    def runs(self, ctx: Any, experiment: str, names: Iterable[str] | None = None) -> dict[str, Run]:
        """Gives the runs of `experiment` by name; `names` restricts it to those."""
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
        found = {name: found[name] for name in sorted(found, key=_natural)}
        records = [source for run in found.values() for source in run.of("record")[-1:]]
        self._tensors.ahead(ctx, experiment, records, 1)
        for run in found.values():
            try:
                run.names = self._names(ctx, experiment, run)
            except schema.SchemaError as error:  # which must not hide the other runs
                run.problems.append(f"{schema.RECORD}: {error}")
        return found

    def run(self, ctx: Any, experiment: str, name: str) -> Run:
        """Gives one run.

        Raises:
            UnknownRunError: where there is none of that name.
        """
        try:
            return self.runs(ctx, experiment, [name])[name]
        except KeyError:
            raise UnknownRunError(f"No run {name!r} with layerwise data.") from None

    def ahead(
        self, ctx: Any, experiment: str, runs: Iterable[Run], topics: Sequence[str], most: int
    ) -> None:
        """Reads at most `most` records of each run on each topic in one call, for what follows."""
        sources = [source for run in runs for topic in topics for source in run.of(topic)]
        self._tensors.ahead(ctx, experiment, sources, most)

    def messages(self, ctx: Any, experiment: str, run: Run, kind: str) -> list[dict[str, Any]]:
        """Gives all messages of one kind, each once; what is no message is a problem of the run."""
        sources = run.of(kind)
        key = ("messages", experiment, _stamps(sources))
        remembered = self._cache.get(key)
        if remembered is None:
            remembered = self._messages(ctx, experiment, sources)
            self._cache.put(key, remembered, 1000 * (len(remembered[0]) + 1))
        found, problems = remembered
        run.problems += problems
        return [message | {"row": stable(message["row"], run.names)} for message in found]

    def _messages(
        self, ctx: Any, experiment: str, sources: Sequence[Source]
    ) -> tuple[list[dict[str, Any]], list[str]]:
        found: dict[str, dict[str, Any]] = {}
        problems = []
        for source in sources:
            try:
                read = self._tensors.read(ctx, experiment, source, EVERYTHING)
            except schema.SchemaError as error:
                problems.append(str(error))
                continue
            for _, _, tensor in read:
                for text in np.ravel(tensor):
                    try:
                        message = _mark(message_of(text))
                    except schema.SchemaError:
                        message = None
                    if message is None:
                        problems.append(f"{source.tag}: unreadable message {text!r:.80}")
                        continue
                    key = json.dumps(message, sort_keys=True)
                    found.pop(key, None)  # where it came again, it is the latest
                    found[key] = message
        return list(found.values()), problems

    def sheet(self, ctx: Any, experiment: str, run: Run) -> Sheet | None:
        """Gives the run's latest record, checked; None where it has none.

        Raises:
            ValueError: where it is no record.
        """
        sources = run.of("record")
        if not sources:
            return None
        key = ("sheet", experiment, _stamps(sources))
        found: Sheet | None = self._cache.get(key)
        if found is None:
            found = sheet(self._latest(ctx, experiment, sources[-1]))
            self._cache.put(key, found, 200 * len(found.values))
        return found

    def matrix(
        self,
        ctx: Any,
        experiment: str,
        run: Run,
        topic: str,
        limit: int,
        quick: bool = False,
        span: tuple[int, int] | None = None,
    ) -> Matrix:
        """Gives the vectors on `topic` in at most `limit` columns.

        Args:
            ctx: the request's context.
            experiment: TensorBoard's experiment.
            run: from `runs`.
            topic: a statistic, or ``"rates"``.
            limit: most columns.
            quick: reads no more records than there are columns, unless the
                whole is remembered; says so in `Matrix.exact`.
            span: the first and the last step that are wanted; all by default.

        Raises:
            UnknownRunError: where the run has nothing on that topic.
            schema.SchemaError: where the data is not what its tag says.
        """
        sources = run.of(topic)
        if not sources:
            raise UnknownRunError(f"Run {run.name!r} has no {topic!r}.")
        quick = quick and span is None  # picked records need not lie in the span
        key = ("matrix", experiment, _stamps(sources), tuple(run.names.items()), limit, span)
        for kind in ("whole", "quick") if quick else ("whole",):
            found: Matrix | None = self._cache.get((kind, *key))
            if found is not None:
                return found
        rows = run.rows(sources)
        most = limit + 1 if quick else EVERYTHING
        records, whole = self._records(ctx, experiment, run, sources, rows, most)
        if span is not None:
            records = within(records, *span)
        facts = schema.facts_of(sources[0].series)
        matrix = Matrix(rows, join(records, limit, facts.reads if facts else "rising"), whole)
        kind = "whole" if whole else "quick"
        self._cache.put((kind, *key), matrix, matrix.columns.values.nbytes + 200 * len(rows))
        return matrix

    def turns(self, ctx: Any, experiment: str, run: Run) -> list[dict[str, Any]]:
        """Rows that were frozen or unfrozen while they were watched, as changes.

        These are seen at the first record after they happened.
        """
        sources = run.of("frozen")
        key = ("turns", experiment, _stamps(sources), tuple(run.names.items()))
        found: list[dict[str, Any]] | None = self._cache.get(key)
        if found is None:
            rows = run.rows(sources)
            records, _ = self._records(ctx, experiment, run, sources, rows, EVERYTHING)
            found = []
            before = np.array([row.frozen for row in rows], np.float32)
            for step, states in zip(records.steps.tolist(), records.values, strict=True):
                for i in np.flatnonzero((states != before) & ~np.isnan(states)):
                    what = "frozen" if states[i] else "unfrozen"
                    found.append(schema.change(what, rows[i].name, step, None, None))
                before = np.where(np.isnan(states), before, states)
            self._cache.put(key, found, 1000 * (len(found) + 1))
        return found

    def records(
        self, ctx: Any, experiment: str, run: Run, topic: str
    ) -> tuple[tuple[schema.Row, ...], Records]:
        """Gives every record on `topic`, with its rows."""
        sources = run.of(topic)
        rows = run.rows(sources)
        return rows, self._records(ctx, experiment, run, sources, rows, EVERYTHING)[0]

    def _records(
        self,
        ctx: Any,
        experiment: str,
        run: Run,
        sources: Sequence[Source],
        rows: Sequence[schema.Row],
        limit: int,
    ) -> tuple[Records, bool]:
        place = {row.name: i for i, row in enumerate(rows)}
        read = [self._tensors.read(ctx, experiment, source, limit) for source in sources]
        data = [datum for some in read for datum in some]
        values = np.full((len(data), len(rows)), np.nan, np.float32)
        start = 0
        for source, some in zip(sources, read, strict=True):
            own = [place[row.name] for row in renamed(source.series.rows, run.names)]
            tensors = [tensor for _, _, tensor in some]
            for tensor in tensors:
                if tensor.shape != (len(own),) or tensor.dtype.kind != "f":
                    raise schema.SchemaError(
                        f"{source.tag} of run {source.run!r} holds a tensor of {tensor.dtype} "
                        f"{tensor.shape} where its description says float32 ({len(own)},)."
                    )
            part = values[start : start + len(some)]
            start += len(some)
            if not tensors:
                continue
            if own == list(range(len(rows))):  # without a copy: it can be hundreds of megabytes
                np.stack(tensors, out=part, casting="same_kind")
            else:
                part[:, own] = np.stack(tensors)
        steps = np.array([step for step, _, _ in data], np.int64)
        every = Records(steps, np.array([time for _, time, _ in data], np.float64), values)
        if (np.diff(steps) < 0).any():
            order = np.argsort(steps, kind="stable")
            every = Records(every.steps[order], every.times[order], every.values[order])
        whole = all(len(some) < limit for some in read)
        return every, whole

    def _names(self, ctx: Any, experiment: str, run: Run) -> Mapping[str, str]:
        sources = run.of("record")
        if not sources:
            return {}
        key = ("names", experiment, _stamps(sources))
        found: Mapping[str, str] | None = self._cache.get(key)
        if found is None:
            found = stable_names(self._latest(ctx, experiment, sources[-1]))
            self._cache.put(key, found, 200 * (len(found) + 1))
        return found

    def _latest(self, ctx: Any, experiment: str, source: Source) -> dict[str, Any] | None:
        for _, _, tensor in reversed(self._tensors.read(ctx, experiment, source, 1)):
            for text in reversed(np.ravel(tensor)):
                with contextlib.suppress(schema.SchemaError):
                    return message_of(text)
        return None


def _mark(message: dict[str, Any] | None) -> dict[str, Any] | None:
    """Gives an alarm or a change with plain values only; None where it lacks its step or row."""
    if message is None or not isinstance(message.get("row"), str):
        return None
    step = message.get("step")
    if isinstance(step, bool) or not isinstance(step, (int, float)):
        return None
    return {
        key: value if value is None or isinstance(value, (str, int, float)) else json.dumps(value)
        for key, value in message.items()
    }


def _stamps(sources: Iterable[Source]) -> tuple[tuple[str, str, str], ...]:
    return tuple((s.run, s.tag, s.stamp) for s in sources)


def _natural(name: str) -> list[str | float]:
    """Sorts ``run`` before ``run-2``, that before ``run-10``, and 0.75 before 0.9."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]


_parse = functools.lru_cache(maxsize=256)(series_of)


def _group(member: str, kind: str) -> str:
    """Gives the run that TensorBoard's run `member` belongs to."""
    parent, last = posixpath.split(member)
    return (parent or ".") if last == _DIRECTORIES.get(kind) else member


def _members(name: str) -> list[str]:
    """Gives TensorBoard's runs that the run `name` may consist of."""
    return [name, *(posixpath.join(name, part) if name != "." else part for part in INSIDE)]
