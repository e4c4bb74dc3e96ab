"""What `WeightDrift` makes of its records: event files and sinks, tables, pictures."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_layerwise.backend.processes import is_chief
from keras_layerwise.drift.alarms import Alarm, Group, spoken
from keras_layerwise.drift.statistics import Statistic, Values
from keras_layerwise.drift.tracker import DriftRecord, Tracker
from keras_layerwise.drift.views import STATE
from keras_layerwise.storage import charts, schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.schema import Facts, Row, Series
from keras_layerwise.storage.sinks import Sink, Sinks
from keras_layerwise.tables import render, render_html

MOST_ROWS = 60
"""More rows than these are shown by part of the outline, where the model has one."""

_TOGETHER = ("l2", "relative_l2", "cosine")
WHOLE = "(model)"


class Output:
    """Writes records to the event file and to every sink.

    Args:
        writer: the event file.
        sinks: who else gets everything.
        statistics: what the records hold.
        scalars: ``"model"``, ``"all"`` or ``"none"``, as for `WeightDrift`.
    """

    def __init__(
        self,
        writer: EventWriter,
        sinks: Sequence[Sink],
        statistics: Sequence[Statistic],
        scalars: str,
    ) -> None:
        self._writer = writer
        self._sinks = Sinks([writer, *sinks])
        self._facts = {s.name: Facts(s.name, s.formula, s.unit, s.reads) for s in statistics}
        self._scalars = scalars
        self._rows: tuple[Group, ...] = ()
        self._headers: list[tuple[Series, str]] = []

    @property
    def lost(self) -> int:
        """Number of records that could not be written to the event file."""
        return self._writer.lost

    def write(self, record: DriftRecord, about: str) -> None:
        """Writes one record: vectors of rows and of blocks, what is frozen, and scalars."""
        items: list[tuple[Series, str, npt.ArrayLike]] = []
        if record.rows is not self._rows:  # others than before, or frozen otherwise
            self._rows = record.rows
            rows = tuple(map(_row, record.rows))
            blocks = (*map(_row, record.blocks), _whole(record))
            self._headers = [
                (Series("drift", rows, name, about, facts), schema.drift_tag(name, rows))
                for name, facts in self._facts.items()
            ] + [
                (Series("blocks", blocks, None, about, facts), schema.blocks_tag(name, blocks))
                for name, facts in self._facts.items()
            ]
            states = [float(row.frozen) for row in rows]
            items.append((Series("frozen", rows), schema.frozen_tag(rows), states))
        values = [
            *(record.values[name] for name in self._facts),
            *(np.append(record.by_block[name], record.whole[name]) for name in self._facts),
        ]
        items += [
            (series, tag, found) for (series, tag), found in zip(self._headers, values, strict=True)
        ]
        self._sinks.vectors(items, record.step)
        self._sinks.scalars(self._numbers(record), record.step, f"Against {about}.")

    def _numbers(self, record: DriftRecord) -> dict[str, float]:
        if self._scalars == "none":
            return {}
        found = {f"drift/{n}": record.whole[n] for n in _TOGETHER if n in record.whole}
        if self._scalars == "all":
            rows, values = shown(record)
            for name in self._facts:
                for row, value in zip(rows, values[name], strict=True):
                    found[charts.tag(name, row.name)] = float(value)
        return {tag: value for tag, value in found.items() if not np.isnan(value)}

    def metrics(self, found: Mapping[str, float], step: int) -> None:
        """Metrics of the user's choice, beside the drift at the same step."""
        self._sinks.scalars(found, step, "Beside the drift at the same step.")

    def alarms(self, alarms: Sequence[Alarm], step: int) -> None:
        """Writes alarms, for the tab and as text."""
        messages = [
            schema.alarm(alarm.kind, row, step, alarm.message)
            for alarm in alarms
            for row in alarm.rows
        ]
        self._sinks.messages(Series("alarms"), schema.ALARMS, messages, step)
        self._sinks.text("drift/alarms", "\n".join(f"* {a.message}" for a in alarms), step)

    def heatmap(self, records: Sequence[DriftRecord], statistic: str, about: str) -> None:
        """Writes one statistic of all records as an image, with its legend."""
        step = records[-1].step
        names, table = over_time(records, statistic)
        picture, wide, tall = charts.heatmap(table.T)
        self._sinks.image(f"drift/{statistic}/heatmap", picture, wide, tall, step)
        steps = [record.step for record in records]
        history = {"step": steps, "layers": names, statistic: table}
        self._sinks.text("drift/heatmap_rows", charts.legend(history, statistic, about), step)

    def layout(self, record: DriftRecord) -> None:
        """Charts of each row under "Custom scalars", where the rows' scalars are written."""
        if self._scalars == "all":
            names = [row.name for row in shown(record)[0]]
            self._writer.summary(charts.layout(list(self._facts), names), record.step)

    def histograms(self, tracker: Tracker, step: int) -> None:
        """Writes the distribution of w - w₀ of each row."""
        view = tracker.view
        for i, row in enumerate(view.rows):
            members = np.flatnonzero(view.groups == i).tolist()
            parts = [tracker.reference.difference(view.watched, k) for k in members]
            self._writer.histogram(f"drift/difference/{row.name}", np.concatenate(parts), step)


class ReferenceFile:
    """The reference of a run on disk, so that a resumed run compares with the same weights."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / schema.REFERENCE_FILE

    @property
    def found(self) -> Path | None:
        """The file, where there is one."""
        return self._path if self._path.exists() else None

    def keep(self, tracker: Tracker, about: str) -> None:
        """Writes the tracker's reference, where this process holds all of it.

        Not beside the training: a checkpoint must never be there before it, or a
        run that is killed in between compares with the weights of the checkpoint.
        """
        reference, view = tracker.reference, tracker.view
        if not (is_chief() and reference.is_whole(view.watched)):
            return
        try:
            reference.save(self._path, view.watched, [s.path for s in view.sites], about)
        except OSError as error:
            warn(
                f"The reference could not be kept in {self._path} ({error}). Training goes "
                "on; a resumed run will compare with the weights that it starts from."
            )


def shown(record: DriftRecord) -> tuple[tuple[Group, ...], dict[str, Values]]:
    """Gives the rows that people are shown, and their values: layers, or parts of many layers."""
    if len(record.rows) > MOST_ROWS and record.blocks:
        return record.blocks, record.by_block
    return record.rows, record.values


def history(records: Sequence[DriftRecord], statistics: Sequence[Statistic]) -> dict[str, Any]:
    """Gives ``step`` [n], ``layers`` (names), and [n, layers] per statistic."""
    found: dict[str, Any] = {"step": np.array([record.step for record in records], np.int64)}
    found["layers"], place = _places([record.rows for record in records])
    for statistic in statistics:
        values = [record.values[statistic.name] for record in records]
        found[statistic.name] = _table(values, place, len(found["layers"]))
    return found


def over_time(
    records: Sequence[DriftRecord], statistic: str, by_block: bool | None = None
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Names and [records, rows] of one statistic, by part where `shown` does so."""
    if by_block is None:
        by_block = shown(records[-1])[0] is not records[-1].rows
    groups = [record.blocks if by_block else record.rows for record in records]
    values = [(r.by_block if by_block else r.values)[statistic] for r in records]
    names, place = _places(groups)
    if by_block:
        labels = {row.name: label(row) for rows in groups for row in rows}
        names = [labels[name] for name in names]
    return names, _table(values, place, len(names))


def _places(
    groups: Sequence[tuple[Group, ...]],
) -> tuple[list[str], list[npt.NDArray[np.intp]]]:
    """Gives all names in order, and for each record the columns of its rows."""
    column: dict[str, int] = {}
    places: list[npt.NDArray[np.intp]] = []
    before: list[str] = []
    for rows in groups:
        names = [row.name for row in rows]
        if not places or names != before:
            for name in names:
                column.setdefault(name, len(column))
            places.append(np.array([column[name] for name in names], np.intp))
            before = names
        else:
            places.append(places[-1])
    return list(column), places


def _table(
    values: Sequence[Values], places: Sequence[npt.NDArray[np.intp]], columns: int
) -> npt.NDArray[np.float64]:
    table = np.full((len(values), columns), np.nan)
    for line, found, place in zip(table, values, places, strict=True):
        line[place] = found
    return table


def summary(record: DriftRecord, statistics: Sequence[Statistic], about: str) -> str:
    """Gives the record as a table for the console."""
    title, columns, cells = _cells(record, statistics, about)
    return render(title, columns, cells)


def summary_html(record: DriftRecord, statistics: Sequence[Statistic], about: str) -> str:
    """Gives the record as a table for a notebook."""
    return render_html(*_cells(record, statistics, about))


def _cells(
    record: DriftRecord, statistics: Sequence[Statistic], about: str
) -> tuple[str, list[str], list[list[str]]]:
    rows, values = shown(record)
    by_block = rows is not record.rows
    names = [statistic.name for statistic in statistics]
    cells = [
        [label(row) if by_block else row.name, _state(row), f"{row.parameters:,}"]
        + [f"{values[name][i]:.6g}" for name in names]
        for i, row in enumerate(rows)
    ]
    title = f"Drift from {about}, at step {record.step}"
    if by_block:
        title += f": {len(record.rows)} rows by part of the network"
    columns = ["Part" if by_block else "Layer", "Weights", "#Parameters"]
    return title, [*columns, *(f"#{name}" for name in names)], cells


def label(block: Group) -> str:
    """Gives a part as one says it: ``block 3 (block_4)``, its state marked."""
    spoken_part = spoken(block.part) if block.part else block.name.removesuffix(STATE)
    return spoken_part.removeprefix("the ") + ("" if block.trainable else STATE)


def _state(row: Group) -> str:
    kind = "trainable" if row.trainable else "non-trainable"
    return f"{kind}, frozen" if row.frozen else kind


def _row(group: Group) -> Row:
    return Row(group.name, group.trainable, group.frozen, group.parameters, group.part)


def _whole(record: DriftRecord) -> Row:
    trained = [row for row in record.rows if row.trainable] or list(record.rows)
    frozen = all(row.frozen for row in trained)
    return Row(WHOLE, trained[0].trainable, frozen, sum(row.parameters for row in trained))


def warn(message: str) -> None:
    """Gives a warning from the callback, as the line that called it."""
    warnings.warn(message, stacklevel=3)
