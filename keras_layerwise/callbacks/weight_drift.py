"""How far every layer has moved: statistics, alarms and charts while a model trains."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_layerwise.backend.processes import is_chief
from keras_layerwise.callbacks import drift_output as output
from keras_layerwise.callbacks.base import RunCallback, print_loss
from keras_layerwise.callbacks.drift_output import Output, ReferenceFile
from keras_layerwise.callbacks.runs import Run
from keras_layerwise.drift import sources, views
from keras_layerwise.drift.alarms import Alarm
from keras_layerwise.drift.statistics import DEFAULT, Statistic, chosen
from keras_layerwise.drift.tracker import DriftRecord, Tracker
from keras_layerwise.drift.views import View
from keras_layerwise.model import outline, selectors, structure
from keras_layerwise.optimizer.attachment import assigned
from keras_layerwise.storage import charts, schema
from keras_layerwise.storage.sinks import Sink


class WeightDrift(RunCallback):
    """Records how far every layer's weights have moved from a reference.

    There is a row for each layer's trainable weights and one, marked, for its
    non-trainable weights. Rows of parts of the network (stem, blocks, neck,
    head) come from the same sums: above 60 rows they are what the console, the
    image and the scalars show; `history` and the tab have every layer.
    Records go to `history` and to ``<log_dir>/drift``, where TensorBoard shows
    scalars, a heat-map and alarms without a plugin, and every layer in the
    "Layerwise" tab.

    An alarm is a warning, once for each layer and those that share its cause:
    frozen layers that have moved, trainable layers that have not moved in an
    epoch, and weights that are not finite.

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
        statistics: names of built-in statistics, and each `Statistic` of your
            own. ``"update_ratio"`` is not in the default: it keeps a second
            copy of the weights.
        metrics: names from ``logs``, such as ``"val_old_accuracy"``: at the end
            of each epoch they are recorded beside the drift at the same step,
            so that the tab can draw what was kept against how far the model
            moved.
        per_weight: a row for each weight rather than for each layer.
        scalars: ``"model"``: a few for all trainable weights together;
            ``"all"``: also each statistic of each row, with charts under
            "Custom scalars"; ``"none"``.
        heatmap: at the end of each epoch, an image of the rows over the steps.
        histograms: at the end of each epoch, the distribution of w - w₀ for
            each row; by far the most costly option.
        sinks: who else gets what TensorBoard gets, such as `CSVSink`.
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
        statistics: Iterable[str | Statistic] = DEFAULT,
        metrics: Sequence[str] = (),
        per_weight: bool = False,
        scalars: str = "model",
        heatmap: bool = True,
        histograms: bool = False,
        sinks: Iterable[Sink] = (),
        on_nonfinite: str = "warn",
        verbose: int = 0,
        flush_seconds: float = 10.0,
    ) -> None:
        super().__init__(log_dir, sinks)
        _one_of("scalars", scalars, ("model", "all", "none"))
        _one_of("on_nonfinite", on_nonfinite, ("warn", "stop", "raise"))
        if update_freq != "epoch" and not (isinstance(update_freq, int) and update_freq > 0):
            raise ValueError(
                f'update_freq is "epoch" or a number of steps ≥ 1; received {update_freq!r}.'
            )
        if select is not None:
            selectors.check_type(select)
        sources.check(reference)
        self._reference = reference
        self._every = None if update_freq == "epoch" else int(update_freq)
        self._select = select
        self._statistics = chosen(statistics)
        self._metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        self._per_weight = per_weight
        self._scalars = scalars
        self._heatmap = heatmap
        self._histograms = histograms
        self._on_nonfinite = on_nonfinite
        self._verbose = verbose
        self._flush_seconds = flush_seconds
        self._output: Output | None = None
        self._file: ReferenceFile | None = None
        self._lost = 0
        self._tracker: Tracker | None = None
        self._followed: Run | None = None
        self._forget()

    @property
    def history(self) -> dict[str, Any]:
        """What was logged: ``step`` [n], ``layers`` (names), and [n, layers] per statistic.

        Each of `metrics` that was logged is [n], NaN at steps that had none.
        """
        found = output.history(self._records, self._statistics)
        for name in self._metrics:
            values = [self._logged.get(record.step, {}).get(name) for record in self._records]
            found[name] = np.array([np.nan if v is None else v for v in values])
        return found

    @property
    def lost(self) -> int:
        """Number of records that could not be written."""
        return self._lost + (self._output.lost if self._output else 0)

    def to_dataframe(self) -> Any:
        """Gives `history` as a ``pandas.DataFrame``: a row for each step and layer."""
        import pandas

        history = self.history
        index = pandas.MultiIndex.from_product(
            [history["step"], history["layers"]], names=["step", "layer"]
        )
        names = [statistic.name for statistic in self._statistics]
        return pandas.DataFrame({name: history[name].ravel() for name in names}, index)

    def plot(self, statistic: str | None = None, by: str | None = None) -> Any:
        """Draws one statistic as a heat-map and as lines.

        Args:
            statistic: its name.
            by: ``"layer"`` or ``"part"`` of the network; by part above 60 rows
                where ``None``.

        Returns:
            The Matplotlib figure.

        Raises:
            ValueError: for a statistic that is not recorded, or another `by`.
        """
        statistic = self._shown() if statistic is None else statistic
        _one_of("statistic", statistic, [one.name for one in self._statistics])
        if by is not None:
            _one_of("by", by, ("layer", "part"))
        steps = np.array([record.step for record in self._records], np.int64)
        names, values = output.over_time(
            self._records, statistic, None if by is None else by == "part"
        )
        return charts.figure(steps, names, values, statistic)

    def summary(self, print_fn: Any = print) -> None:
        """Prints the last record as a table, in the look of ``model.summary()``."""
        if not self._records:
            print_fn("WeightDrift has no record yet.")
            return
        print_fn(output.summary(self._records[-1], self._statistics, self._about))

    def _repr_html_(self) -> str:
        """Gives the last record as a table, for notebooks."""
        if not self._records:
            return "<p>WeightDrift has no record yet.</p>"
        return output.summary_html(self._records[-1], self._statistics, self._about)

    # What Keras calls.

    def on_run_begin(self) -> None:
        """Opens the event file, so that what can not be written fails here; takes the reference.

        Here because other callbacks may restore weights before.
        """
        if self.run.began == "new" or self._followed is not self.run:
            self._forget()
        self._followed = self.run
        self._file = ReferenceFile((self.directory or Path()) / schema.DRIFT_DIR)
        self.open_writer(schema.DRIFT_DIR, self._flush_seconds)
        if self._writer is not None:
            sinks = self._sinks.sinks
            self._output = Output(self._writer, sinks, self._statistics, self._scalars)
        if self._tracker is None:
            self._take_reference()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Counts from here."""
        super().on_epoch_begin(epoch, logs)
        self._epoch_start = self._checked = self._batches()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Records the steps before this one."""
        super().on_train_batch_begin(batch, logs)
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
        if self._every is None or self._metrics:
            self._record(tracker)
        else:
            self._record_if_due(tracker, self._batches())
        if self._records:
            record = self._records[-1]
            self._log_metrics(logs or {}, record.step)
            rates = _rates(self._assigned, tracker.view, self.rate())
            self._say(tracker.still(record.step, rates), record.step)
            if self._output is not None:
                self._draw(self._output, tracker, record)

    def on_run_end(self, error: BaseException | None) -> None:
        """Closes the event file and reports."""
        self.close()
        missing = [name for name in self._metrics if name not in self._seen]
        if missing and self._seen:
            output.warn(f"metrics={missing} were never logged, unlike {sorted(self._seen)}.")
        print_loss("WeightDrift", self._lost, self.directory)
        if self._verbose and error is None and is_chief():
            self.summary()

    def close(self) -> int:
        """Closes the outputs."""
        self._output = None
        lost = super().close()
        self._lost += lost
        return lost

    # How it is done.

    def _forget(self) -> None:
        self._tracker = None
        self._about = ""
        self._records: list[DriftRecord] = []
        self._logged: dict[int, dict[str, float]] = {}
        self._seen: set[str] = set()
        self._epoch_start = self._checked = 0
        self._recorded: int | None = None
        self._assigned: dict[int, Any] = {}

    def _batches(self) -> int:
        """Tells how many batches were trained on, over every ``fit`` of the run."""
        if self.run.counts_batches:
            return self.step()
        accumulated = getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1
        return self.step() * int(accumulated)

    def _take_reference(self) -> None:
        """Takes the reference, where weights exist."""
        view = self._look(self.model)
        if view is None:
            return
        initial = sources.is_word(self._reference, "initial")
        file = self._file if initial and self._file is not None else None
        stored = file.found if file is not None and self.run.began != "new" else None
        step = self.step()
        reference, self._about = sources.find(self._reference, self.model, view, step, stored)
        self._tracker = Tracker(
            self.model,
            view,
            reference,
            self._statistics,
            step=step,
            moving=sources.is_word(self._reference, "previous"),
            frozen=self._frozen_by_rule,
            again=self._look,
        )
        if file is not None and stored is None:
            file.keep(self._tracker, self._about)

    def _look(self, model: Any) -> View | None:
        parts = outline.keys(model)
        return views.look(model, self._select, self._per_weight, parts)

    def _frozen_by_rule(self, model: Any) -> set[str]:
        """Gives the paths of the weights that a rule of an optimizer of the model freezes now."""
        entries = self._assigned = assigned(model)
        return {
            site.path
            for site in structure.sites(model)
            if (entry := entries.get(id(site.weight))) is not None and entry.frozen
        }

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
        if self._output is not None:
            self._output.write(record, self._about)
        self._say(record.alarms, step)
        initial = sources.is_word(self._reference, "initial")
        if tracker.reference is not reference and initial and self._file is not None:
            self._file.keep(tracker, self._about)
        if record.nonfinite and self._on_nonfinite == "stop":
            self.model.stop_training = True
        if record.nonfinite and self._on_nonfinite == "raise":
            self.close()
            raise FloatingPointError(
                f"Weights are not finite at step {step}: {', '.join(record.nonfinite[:10])}."
            )

    def _log_metrics(self, logs: dict[str, Any], step: int) -> None:
        """Records the metrics that the user named, at the step of the last record."""
        found = {name: float(logs[name]) for name in self._metrics if name in logs}
        self._seen |= logs.keys()
        if found:
            self._logged[step] = found
            if self._output is not None:
                self._output.metrics(found, step)

    def _say(self, alarms: Sequence[Alarm], step: int) -> None:
        """Says alarms in the console, in TensorBoard's text and for the tab."""
        if not alarms:
            return
        if self._output is not None:
            self._output.alarms(alarms, step)
        if is_chief():
            for alarm in alarms:
                output.warn(alarm.message)

    def _draw(self, out: Output, tracker: Tracker, record: DriftRecord) -> None:
        """Gives the charts of an epoch: heat-map, histograms, and the layout of custom scalars."""
        if self._heatmap:
            out.heatmap(self._records, self._shown(), self._about)
        out.layout(record)
        if self._histograms:
            out.histograms(tracker, record.step)

    def _shown(self) -> str:
        """Gives the statistic that is drawn where there is room for one."""
        names = [statistic.name for statistic in self._statistics]
        return "relative_l2" if "relative_l2" in names else names[0]


def _rates(entries: Mapping[int, Any], view: View, own: float | None) -> dict[str, float]:
    """Gives the learning rate of each weight by path, as far as it is known."""
    found = {} if own is None else {site.path: own for site in view.sites}
    return found | {
        site.path: entries[id(site.weight)].learning_rate
        for site in view.sites
        if id(site.weight) in entries
    }


def _one_of(name: str, value: Any, accepted: Iterable[str]) -> None:
    if value not in accepted:
        raise ValueError(f"{name} takes one of {tuple(accepted)}; received {value!r}.")
