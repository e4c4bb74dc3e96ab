"""How far every layer has moved: statistics, alarms and charts while a model trains."""

import os
import threading
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_layerwise.backend.processes import is_chief
from keras_layerwise.callbacks.base import RunCallback, print_loss
from keras_layerwise.callbacks.runs import Run
from keras_layerwise.drift import reference as references
from keras_layerwise.drift import tracker as tracking
from keras_layerwise.drift.reference import Reference
from keras_layerwise.drift.tracker import Alarm, Record, Tracker, View
from keras_layerwise.hyperparameters.fit import trains_itself
from keras_layerwise.model import selectors
from keras_layerwise.storage import charts, schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.schema import Row, Series

DEFAULT_STATISTICS = tuple(name for name in schema.STATISTICS if name != "update_ratio")
"""All that need no second copy of the weights."""

_MODEL_SCALARS = ("l2", "relative_l2", "cosine")


class WeightDrift(RunCallback):
    """Records how far every layer's weights have moved from a reference.

    There is a row for each layer's trainable weights and one, marked, for its
    non-trainable weights. The statistics are those of
    `keras_layerwise.storage.schema.STATISTICS`. Records go to `history` and to
    ``<log_dir>/drift``, where TensorBoard shows scalars, a heat-map and alarms
    without a plugin, and every layer in the "Layerwise" tab.

    An alarm is a warning, once each, for a frozen layer that has moved, a
    trainable layer that has not moved in the first epoch, and weights that
    are not finite.

    Args:
        log_dir: the run's directory.
        reference: ``"initial"``: the weights when the run began, also when it
            is resumed (they are kept in ``<log_dir>/drift``, except of a model
            whose shards lie in several processes); ``"previous"``:
            the weights at the previous record; a ``.weights.h5`` or ``.keras``
            file; another model; or a list of arrays, one for each watched
            weight or for each weight of the model.
        update_freq: ``"epoch"``, or a number of steps.
        select: narrows what is watched, by the selectors of
            `keras_layerwise.model.selectors.select`.
        statistics: names from `keras_layerwise.storage.schema.STATISTICS`.
            ``"update_ratio"`` is not in the default: it keeps a second copy of
            the weights.
        per_weight: a row for each weight rather than for each layer.
        scalars: ``"model"``: a few for all trainable weights together;
            ``"all"``: also each statistic of each row, with charts under
            "Custom scalars"; ``"none"``.
        heatmap: at the end of each epoch, an image of the rows over the steps.
        histograms: at the end of each epoch, the distribution of w - w₀ for
            each row; by far the most costly option.
        on_nonfinite: ``"warn"``, ``"stop"`` the training, or ``"raise"`` a
            ``FloatingPointError``.
        verbose: 1 prints `summary` at the end of ``fit``.
        flush_seconds: every record older than this outlives the process.

    Raises:
        ValueError: for an argument that is none of the above, or a reference
            that does not fit the model.
        OSError: before the first step, where `log_dir` can not be written.

    Example:
    >>> import keras, numpy as np, tempfile
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    >>> model.compile("sgd", "mse")
    >>> drift = WeightDrift(tempfile.mkdtemp())
    >>> _ = model.fit(np.ones((8, 2)), np.ones((8, 1)), epochs=3, verbose=0, callbacks=[drift])
    >>> drift.history["layers"], drift.history["l2"].shape
    (['out'], (3, 1))
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        reference: Any = "initial",
        update_freq: str | int = "epoch",
        *,
        select: Any = None,
        statistics: Sequence[str] = DEFAULT_STATISTICS,
        per_weight: bool = False,
        scalars: str = "model",
        heatmap: bool = True,
        histograms: bool = False,
        on_nonfinite: str = "warn",
        verbose: int = 0,
        flush_seconds: float = 10.0,
    ) -> None:
        super().__init__(log_dir)
        _one_of("scalars", scalars, ("model", "all", "none"))
        _one_of("on_nonfinite", on_nonfinite, ("warn", "stop", "raise"))
        if update_freq != "epoch" and not (isinstance(update_freq, int) and update_freq > 0):
            raise ValueError(
                f'update_freq is "epoch" or a number of steps ≥ 1; received {update_freq!r}.'
            )
        names = (statistics,) if isinstance(statistics, str) else tuple(statistics)
        for name in names or ("",):
            _one_of("statistics", name, schema.STATISTICS)
        if select is not None:
            selectors.check_type(select)
        _check_reference(reference)
        self._reference = reference
        self._every = None if update_freq == "epoch" else int(update_freq)
        self._select = select
        self._statistics = tuple(name for name in schema.STATISTICS if name in names)
        self._per_weight = per_weight
        self._scalars = scalars
        self._heatmap = heatmap
        self._histograms = histograms
        self._on_nonfinite = on_nonfinite
        self._verbose = verbose
        self._flush_seconds = flush_seconds
        self._saving: threading.Thread | None = None
        self._lost = 0
        self._tracker: Tracker | None = None
        self._followed: Run | None = None
        self._batch: int | None = None
        self._first_epoch = True
        self._recorded: int | None = None
        self._forget()

    @property
    def history(self) -> dict[str, Any]:
        """What was logged: ``step`` [n], ``layers`` (names), and [n, layers] per statistic."""
        layers = list(dict.fromkeys(row.name for record in self._records for row in record.rows))
        column = {name: i for i, name in enumerate(layers)}
        found: dict[str, Any] = {
            "step": np.array([record.step for record in self._records], np.int64),
            "layers": layers,
        }
        for name in self._statistics:
            table = np.full((len(self._records), len(layers)), np.nan)
            for i, record in enumerate(self._records):
                table[i, [column[row.name] for row in record.rows]] = record.values[name]
            found[name] = table
        return found

    @property
    def lost(self) -> int:
        """Number of records that could not be written."""
        return self._lost + (self._writer.lost if self._writer else 0)

    def to_dataframe(self) -> Any:
        """`history` as a ``pandas.DataFrame``: a row for each step and layer."""
        import pandas

        history = self.history
        index = pandas.MultiIndex.from_product(
            [history["step"], history["layers"]], names=["step", "layer"]
        )
        return pandas.DataFrame({name: history[name].ravel() for name in self._statistics}, index)

    def plot(self, statistic: str | None = None) -> Any:
        """Draws one statistic as a heat-map and as lines; returns the Matplotlib figure."""
        statistic = self._shown() if statistic is None else statistic
        _one_of("statistic", statistic, self._statistics)
        history = self.history
        return charts.figure(history["step"], history["layers"], history[statistic], statistic)

    def summary(self, print_fn: Any = print) -> None:
        """Prints the last record as a table, in the look of ``model.summary()``."""
        from keras_layerwise.tables import render

        if not self._records:
            print_fn("WeightDrift has no record yet.")
            return
        record = self._records[-1]
        cells = [
            [row.name, _state(row), row.parameters]
            + [f"{record.values[name][i]:.6g}" for name in self._statistics]
            for i, row in enumerate(record.rows)
        ]
        columns = ["Layer", "Weights", "#Parameters", *(f"#{name}" for name in self._statistics)]
        print_fn(render(f"Drift from {self._about}, at step {record.step}", columns, cells))

    # What Keras calls.

    def on_run_begin(self) -> None:
        """Opens the event file, so that what can not be written fails here; takes the reference.

        Here because other callbacks may restore weights before.
        """
        if self.run.began == "new" or self._followed is not self.run:
            self._forget()
        self._followed = self.run
        self.open_writer(schema.DRIFT_DIR, self._flush_seconds)
        if self._tracker is None:
            self._take_reference()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Counts from here."""
        super().on_epoch_begin(epoch, logs)
        self._epoch_start = self._checked = self._batches()
        self._batch = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Records the steps before this one."""
        super().on_train_batch_begin(batch, logs)
        self._batch = batch
        if self._tracker is None:
            self._take_reference()
        elif self._every is not None:
            self._record_if_due(self._tracker, self._epoch_start + batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Records the epoch, and draws it."""
        super().on_epoch_end(epoch, logs)
        if self._tracker is None:
            self._take_reference()
        tracker = self._tracker
        if tracker is None:
            return
        if self._every is None:
            self._record(tracker)
        else:
            self._record_if_due(tracker, self._batches())
        if self._records:
            step = self._records[-1].step
            if self._first_epoch:
                self._say(tracker.still(step), step)
                self._first_epoch = False
            if self._writer is not None:
                self._draw(self._writer, tracker, step)

    def on_run_end(self, error: BaseException | None) -> None:
        """Closes the event file and reports."""
        self.close()
        print_loss("WeightDrift", self._lost, self.directory)
        if self._verbose and error is None and is_chief():
            self.summary()

    # How it is done.

    def _forget(self) -> None:
        self._followed = None
        self._tracker = None
        self._about = ""
        self._records: list[Record] = []
        self._rows: tuple[Row, ...] = ()
        self._tags: dict[str, str] = {}
        self._alarmed: set[tuple[str, str]] = set()
        self._first_epoch = True
        self._batch = None
        self._epoch_start = self._checked = 0
        self._recorded = None

    def close(self) -> int:
        """Waits for the reference's file, and closes the outputs."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None
        lost = super().close()
        self._lost += lost
        return lost

    def _batches(self) -> int:
        """How many batches were trained on, across runs."""
        optimizer = self.model.optimizer
        if optimizer is None or trains_itself(self.model):
            return self.step()
        return self.step() * (getattr(optimizer, "gradient_accumulation_steps", None) or 1)

    def _take_reference(self) -> None:
        """Takes the reference, where weights exist."""
        view = tracking.look(self.model, self._select, self._per_weight)
        if view is None:
            return
        reference, self._about, keep = self._make_reference(view)
        self._tracker = Tracker(
            self.model,
            view,
            reference,
            self._statistics,
            moving=_is(self._reference, "previous"),
            select=self._select,
            per_weight=self._per_weight,
        )
        if keep:
            self._keep(self._tracker)

    def _make_reference(self, view: View) -> tuple[Reference, str, bool]:
        """The reference, what it is in words, and whether a resumed run needs a file of it."""
        asked = self._reference
        if _is(asked, "previous"):
            return Reference.taken(view.watched), "the previous record", False
        if _is(asked, "initial"):
            if self.run.began != "new" and self._file.exists():
                return (*references.load(self._file, view.sites), False)
            step = self.step()
            about = f"the weights at step {step}, the first seen" if step else "the initial weights"
            return Reference.taken(view.watched), about, True
        if isinstance(asked, (list, tuple)):
            return references.of_arrays(asked, view.sites, view.every), "the given arrays", False
        if isinstance(asked, (str, os.PathLike)):
            path = Path(asked)
            found = references.of_file(path, self.model, view.sites, view.every)
            return found, f"the file {path.name}", False
        return references.of_model(asked, view.sites, view.every), f"the model {asked.name}", False

    @property
    def _file(self) -> Path:
        directory = self.directory or Path()  # which is that of log_dir, never None
        return directory / schema.DRIFT_DIR / schema.REFERENCE_FILE

    def _keep(self, tracker: Tracker) -> None:
        """Writes the reference for a resumed run, without holding up this one."""
        reference, view, about = tracker.reference, tracker.view, self._about
        if not (is_chief() and reference.is_whole(view.watched)):
            return
        if self._saving is not None:
            self._saving.join()

        def save() -> None:
            try:
                reference.save(self._file, view.watched, [s.path for s in view.sites], about)
            except OSError as error:
                _warn(
                    f"The reference could not be kept in {self._file} ({error}). Training goes "
                    "on; a resumed run will compare with the weights that it starts from."
                )

        self._saving = threading.Thread(target=save, name="WeightDrift", daemon=True)
        self._saving.start()

    def _record_if_due(self, tracker: Tracker, batches: int) -> None:
        if self._every and batches // self._every > self._checked // self._every:
            self._record(tracker)
        self._checked = batches

    def _record(self, tracker: Tracker) -> None:
        step, reference = self.step(), tracker.reference
        if step == self._recorded:  # while gradients are accumulated
            return
        self._recorded = step
        record = tracker.record(step)
        self._records.append(record)
        if self._writer is not None:
            self._write(self._writer, record)
        self._say(record.alarms, step)
        if tracker.reference is not reference and _is(self._reference, "initial"):
            self._keep(tracker)
        if record.nonfinite and self._on_nonfinite == "stop":
            self.model.stop_training = True
        if record.nonfinite and self._on_nonfinite == "raise":
            self.close()
            raise FloatingPointError(
                f"Weights are not finite at step {step}: {', '.join(record.nonfinite[:10])}."
            )

    def _write(self, writer: EventWriter, record: Record) -> None:
        if record.rows is not self._rows:
            self._rows = record.rows
            self._tags = {name: schema.drift_tag(name, self._rows) for name in self._statistics}
        writer.vectors(
            [
                (
                    Series("drift", record.rows, name, self._about),
                    self._tags[name],
                    record.values[name],
                )
                for name in self._statistics
            ],
            record.step,
        )
        if self._scalars == "none":
            return
        scalars = {
            f"drift/{name}": record.whole[name] for name in _MODEL_SCALARS if name in record.whole
        }
        if self._scalars == "all":
            for name in self._statistics:
                for row, value in zip(record.rows, record.values[name], strict=True):
                    scalars[charts.tag(name, row.name)] = value
        defined = {tag: value for tag, value in scalars.items() if not np.isnan(value)}
        writer.scalars(defined, record.step, description=f"Against {self._about}.")

    def _say(self, alarms: Sequence[Alarm], step: int) -> None:
        """Says each alarm once: in the console, in TensorBoard's text and for the tab."""
        new = [alarm for alarm in alarms if (alarm.kind, alarm.row) not in self._alarmed]
        if not new:
            return
        self._alarmed |= {(alarm.kind, alarm.row) for alarm in new}
        if self._writer is not None:
            messages = [schema.alarm(a.kind, a.row, step, a.message) for a in new]
            self._writer.messages(Series("alarms"), schema.ALARMS, messages, step)
            self._writer.text("drift/alarms", "\n".join(f"* {a.message}" for a in new), step)
        if is_chief():
            for alarm in new:
                _warn(alarm.message)

    def _draw(self, writer: EventWriter, tracker: Tracker, step: int) -> None:
        """The charts of an epoch: heat-map, histograms, and the layout of custom scalars."""
        rows = tracker.view.rows
        if self._heatmap:
            history, shown = self.history, self._shown()
            writer.image(f"drift/{shown}/heatmap", *charts.heatmap(history[shown].T), step)
            writer.text("drift/heatmap_rows", charts.legend(history, shown, self._about), step)
        if self._scalars == "all":
            writer.summary(charts.layout(self._statistics, [row.name for row in rows]), step)
        if self._histograms:
            for i, row in enumerate(rows):
                members = np.flatnonzero(tracker.view.groups == i).tolist()
                parts = [tracker.reference.difference(tracker.view.watched, k) for k in members]
                writer.histogram(f"drift/difference/{row.name}", np.concatenate(parts), step)

    def _shown(self) -> str:
        """The statistic that is drawn where there is room for one."""
        return "relative_l2" if "relative_l2" in self._statistics else self._statistics[0]


def _state(row: Row) -> str:
    kind = "trainable" if row.trainable else "non-trainable"
    return f"{kind}, frozen" if row.frozen else kind


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _is(asked: Any, word: str) -> bool:
    """Whether `asked` is the word; arrays and models have an equality of their own."""
    return isinstance(asked, str) and asked == word


def _one_of(name: str, value: Any, accepted: Iterable[str]) -> None:
    if value not in accepted:
        raise ValueError(f"{name} takes one of {tuple(accepted)}; received {value!r}.")


def _check_reference(reference: Any) -> None:
    words = ("initial", "previous")
    fits = selectors.is_layer(reference) or isinstance(reference, (os.PathLike, list, tuple))
    if isinstance(reference, str):
        fits = reference in words or reference.endswith((".weights.h5", ".keras"))
    if not fits:
        raise ValueError(
            'reference is "initial", "previous", a .weights.h5 or .keras file, a model or a list '
            f"of arrays; received {reference!r}."
        )
