"""The callback that records a run's hyperparameters, and watches them."""

import contextlib
import math
import os
import socket
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from keras_layerwise.backend.processes import is_chief
from keras_layerwise.callbacks import run_record, runs
from keras_layerwise.callbacks.base import RunCallback
from keras_layerwise.callbacks.others import planned_keys, trial_of
from keras_layerwise.errors import FrozenHyperparameterError
from keras_layerwise.hyperparameters import fit as fitting
from keras_layerwise.hyperparameters.fingerprints import weights_fingerprint
from keras_layerwise.hyperparameters.functions import sources_in
from keras_layerwise.hyperparameters.inventory import Reader
from keras_layerwise.hyperparameters.override import log_of
from keras_layerwise.hyperparameters.provenance import REDACT, git, provenance, redacted
from keras_layerwise.hyperparameters.row import columns
from keras_layerwise.hyperparameters.runtime import runtime
from keras_layerwise.optimizer.layerwise import layerwise_optimizers
from keras_layerwise.storage import hparams, schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.record import (
    FINISHED,
    GROUPS,
    RUNNING,
    RUNTIME,
    Record,
    load_record,
    save_record,
)
from keras_layerwise.storage.run_file import now
from keras_layerwise.storage.sinks import Sink
from keras_layerwise.storage.values import (
    UNKNOWN,
    Difference,
    differences,
    fingerprint,
    flat,
    plain,
)

_ON_CHANGE = ("raise", "warn", "ignore")
_SERIES = schema.Series(kind="record")
_GIT_AT_START, _GIT_AT_END = 0.1, 15.0  # seconds that are waited for git


class FreezeHyperparameters(RunCallback):
    """Records what a run is configured with, once, and watches that it stays so.

    At the start of training the inventory of the model and its ``fit``, and
    the user's own values, are written to ``hyperparameters.json`` in the run's
    `directory`, as a row of TensorBoard's HParams dashboard and as a table of
    its text dashboard. At every epoch and at the end everything is read again.

    A run is one training, over as many ``fit`` calls and processes as it takes.
    Another ``fit`` of the same model, or of one that was restored from a
    checkpoint of the run, continues it; everything else is a new run, which
    goes to ``<log_dir>-2``, ``-3`` … where `log_dir` holds a run.

    What a schedule or callback does to the learning rate is kept as a
    timeline, what was changed between two fits as a phase; what a callback
    unfreezes by its plan, and what `override` changes, is recorded. Any other
    change is a violation.

    Args:
        log_dir: where the run is kept.
        hyperparameters: the user's own values: any nesting of plain values, NumPy
            scalars, enums, dataclasses, paths. A KerasTuner trial adds its own.
        on_change: ``"raise"`` a `FrozenHyperparameterError`, ``"warn"``, or
            ``"ignore"``; violations are in the record in each case.
        resume: ``"auto"`` continues a run as said above; ``"must"`` refuses to begin
            a new one; ``"never"`` begins a new one always.
        ignore: globs of keys that may change, in mid-run and between a run
            and its continuation, such as ``"training/batch_size"``. Epochs, steps
            per epoch and what validation uses always may.
        sinks: where else the record and the results go.
        redact: globs of names, such as ``"*password*"``; what has such a name
            in `hyperparameters` or on the command line is stored as
            ``"(redacted)"``.

    Raises:
        TypeError: for a hyperparameter that can not be stored, by its key.
        ValueError: for another `on_change` or `resume`.
        OSError: for a `log_dir` of a store that nothing is installed for.

    Example:

    >>> import tempfile, keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> frozen = FreezeHyperparameters(tempfile.mkdtemp(), {"dataset": "toy"})
    >>> x, y = keras.ops.ones((8, 2)), keras.ops.ones((8, 1))
    >>> _ = model.fit(x, y, batch_size=4, verbose=0, callbacks=[frozen])
    >>> frozen.record["training"]["batch_size"], frozen.record["user"], frozen.record.status
    (4, {'dataset': 'toy'}, 'finished')
    """

    records_data = records_weights = True
    """Asks for fingerprints of the arrays that ``fit`` is given, and of the first weights."""

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        hyperparameters: Any = None,
        on_change: str = "raise",
        *,
        resume: str = "auto",
        ignore: Sequence[str] = (),
        sinks: Iterable[Sink] = (),
        redact: Sequence[str] = REDACT,
    ) -> None:
        super().__init__(log_dir, sinks)
        for name, value, accepted in (
            ("on_change", on_change, _ON_CHANGE),
            ("resume", resume, runs.RESUME),
        ):
            if value not in accepted:
                raise ValueError(f"`{name}` is one of {accepted}; received {value!r}.")
        if isinstance(ignore, str):
            raise TypeError(f"`ignore` is a list of globs; received the string {ignore!r}.")
        user = plain({} if hyperparameters is None else hyperparameters)
        if not isinstance(user, dict):
            raise TypeError(
                "`hyperparameters` is a mapping or a dataclass; received "
                f"{type(hyperparameters).__name__}."
            )
        flat({"user": user})
        self.on_change = on_change
        self.resume = resume
        self._ignore = tuple(ignore)
        self._redact = tuple(redact)
        self._user = redacted(user, self._redact)
        self._record: Record | None = None
        self._values: dict[str, Any] = {}
        self._settings = run_record.Settings(self._ignore)
        self._expected: dict[str, dict[str, Any]] = {}
        self._rate: float | None = None
        self._seen_at = 0
        self._epoch = 0
        self._overrides_seen = 0

    @property
    def record(self) -> Record:
        """The run record.

        Raises:
            RuntimeError: before the first training.
        """
        if self._record is None:
            raise RuntimeError("There is no record before training has begun.")
        return self._record

    # The start.

    def on_train_begin(self, logs: Any = None) -> None:
        """Reads everything, before other callbacks change the rate for the first epoch."""
        super().on_train_begin(logs)
        self._git = git(self._redact)
        self._look()

    def differences_from(self, directory: Path) -> Sequence[Difference]:
        """Tells what of the configuration the run in `directory` never had."""
        if not (directory / schema.RECORD_FILE).exists():
            return ()
        # A run that was killed may have left a checkpoint that is ahead of its record.
        planned = planned_keys(self.model, math.inf)
        now = run_record.merged(self._settings.of(self._values))
        found = run_record.unlike(load_record(directory), now, self._ignore)
        return [difference for difference in found if difference.key not in planned]

    def on_run_begin(self) -> None:
        """Writes the record of a new run, or goes on with that of the run that goes on."""
        if fitting.step_count(self.model) != self._seen_at:  # another callback has restored it
            self._look()
        current = self._settings.of(self._values)
        self._overrides_seen = 0
        directory = self.directory or Path()  # which is that of log_dir, never None
        if self.run.began != "new" and (directory / schema.RECORD_FILE).exists():
            self._record = self._continued(load_record(directory), run_record.merged(current))
        else:
            self._record = self._new()
        self._take_overrides()
        self._expected = current
        if is_chief():
            save_record(self.record, directory)
        self._open()

    def _look(self) -> None:
        for optimizer in layerwise_optimizers(getattr(self.model, "optimizer", None)):
            if self.model.built and not optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
        self._reader = Reader(self.model)
        values = {**self._read(), RUNTIME: runtime(self.model)}
        self._values = {group: values[group] for group in GROUPS}
        self._rate = self.rate()
        self._seen_at = fitting.step_count(self.model)

    def _read(self) -> dict[str, Any]:
        return {**self._reader.read(), "user": {**trial_of(self.model), **self._user}}

    def _new(self) -> Record:
        values = self._values
        record = Record(
            values,
            started=now(),
            layers=self._reader.names.renamed,
            sources=sources_in(flat(values)),
            provenance=provenance(self._redact),
        )
        return replace(
            run_record.with_git(record, self._git, _GIT_AT_START),
            fingerprints={
                "hyperparameters": record.fingerprint,
                "runtime": fingerprint(values[RUNTIME]),
                "initial_weights": self.run.fingerprint,
            },
        )

    def _continued(self, record: Record, current: Mapping[str, Any]) -> Record:
        step = self.step()
        last = {
            key: value
            for key, value in run_record.last_values(record).items()
            if not run_record.matches(key, self._ignore)
        }
        found = list(differences(last, current))
        if self.run.began == "resumed":  # the checkpoint may be of another epoch
            planned = planned_keys(self.model, math.inf)
            found = [d for d in found if d.key not in planned and not run_record.is_rate(d.key)]
        changes = [difference._asdict() for difference in found]
        phase = {"step": step, "time": now(), "changes": changes}
        resumption = {
            "step": step,
            "time": now(),
            "host": socket.gethostname(),
            "weights": weights_fingerprint(self.model),
        }
        self._remove_end(record)
        return replace(
            record,
            status=RUNNING,
            ended=None,
            error=None,
            end_file=None,
            phases=[*record.phases, phase] if changes else record.phases,
            resumptions=[*record.resumptions, resumption],
        )

    def _remove_end(self, found: Record) -> None:
        """Removes the end of the part before: TensorBoard would show it for ever."""
        if not (is_chief() and self.directory and found.end_file):
            return
        if found.end_file == Path(found.end_file).name:
            with contextlib.suppress(FileNotFoundError):
                (self.directory / schema.RECORD_DIR / found.end_file).unlink()

    def _open(self) -> None:
        record = self.record
        self.open_writer(schema.RECORD_DIR)
        started = datetime.fromisoformat(record.started or now()).timestamp()
        if self._writer is not None:
            self._writer.summary(hparams.session_start(columns(record.values), started), 0)
        for output in self.outputs():
            output.text("hyperparameters", run_record.markdown(record), self.step())
        self._write_record(self.step())
        if self._writer is not None:
            self._writer.flush()

    # While training.

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes what callbacks changed since the last epoch."""
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch
        self._note_rate()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Reads everything again.

        Raises:
            FrozenHyperparameterError: where something changed, by `on_change`.
        """
        super().on_epoch_end(epoch, logs)
        better = run_record.directions(self.model)
        record = run_record.with_results(self.record, logs or {}, better)
        if (data := fitting.data_of(self.model, wait=False)) is not None:
            record = run_record.with_data(record, data)
        self._record = record
        results = self.record.results
        scalars = {
            f"{prefix}{name}": value
            for prefix, kind in ((hparams.BEST, "best"), (hparams.FINAL, "final"))
            for name, value in run_record.numbers(results.get(kind, {})).items()
        }
        for output in self.outputs():
            output.scalars(scalars, self.step())
        self._check()
        self._save()

    def on_train_end(self, logs: Any = None) -> None:
        """Reads everything once more, and completes the record."""
        self._begin_run()
        self._check()
        super().on_train_end(logs)

    def _check(self) -> None:
        self._note_rate()
        self._take_overrides()
        current = self._settings.of(self._read())
        changed = run_record.differing(self._expected, current)
        found = [d for d in changed if not run_record.is_rate(d.key)]
        self._expected = current
        if not found:
            return
        step = self.step()
        planned = planned_keys(self.model, self._epoch)
        changes = [d for d in found if d.key in planned]
        violations = [d for d in found if d not in changes]
        record = self.record
        self._record = replace(
            record,
            changes=[*record.changes, *run_record.entries(changes, step)],
            violations=[*record.violations, *run_record.entries(violations, step)],
        )
        self._save()
        if violations and self.on_change != "ignore":
            message = (
                f"Hyperparameters that were recorded as fixed changed, seen at step {step}:\n"
                f"{run_record.lines(violations)}\n"
                "Set them before training, or change them with keras_layerwise.override, which "
                "records it; FreezeHyperparameters(on_change='warn') only warns."
            )
            if self.on_change == "raise":
                raise FrozenHyperparameterError(message)
            warnings.warn(message, stacklevel=2)

    def _save(self) -> None:
        self._record = replace(self.record, seen=now())
        if self.directory is None or not is_chief():
            return
        try:
            save_record(self.record, self.directory)
        except OSError as error:
            warnings.warn(f"The record is behind: {error}. Training goes on.", stacklevel=2)

    def _note_rate(self) -> None:
        rate = self.rate()
        if rate == self._rate or self._record is None:
            return
        change = {"step": self.step(), "old": self._rate, "new": plain(rate)}
        self._record = replace(self._record, timeline=[*self._record.timeline, change])
        self._rate = rate

    def _take_overrides(self) -> None:
        """Moves what `override` logged since the last look into the record."""
        log = log_of(self.model)
        new = log[self._overrides_seen :]
        self._overrides_seen = len(log)
        if not new or self._record is None:
            return
        known = list(self._record.overrides)
        entries = [dict(entry) for entry in new if dict(entry) not in known]
        self._record = replace(self._record, overrides=[*known, *entries])
        self._expected = self._settings.overridden(self._expected, new)

    # The end.

    def on_run_end(self, error: BaseException | None) -> None:
        """Completes the record."""
        if self._record is None or self._record.status != RUNNING:
            return
        record = run_record.with_git(self._record, self._git, _GIT_AT_END)
        record = run_record.with_data(record, fitting.data_of(self.model) or UNKNOWN)
        self._record = run_record.ended(record, self.model, error)
        self._write_record(self.run.last_step)
        self.close()
        if self.directory is None or not is_chief():
            return
        try:
            # In a file of its own, so that a continuation can take it back.
            end = EventWriter(self.directory / schema.RECORD_DIR)
            end.summary(hparams.session_end(self._record.status == FINISHED, time.time()), 0)
            end.close()
            self._record = replace(self._record, end_file=end.path.name)
            save_record(self._record, self.directory)
        except OSError as problem:  # training is done, and its result must not be lost for this
            warnings.warn(f"The record could not be completed: {problem}", stacklevel=2)

    def _write_record(self, step: int) -> None:
        for output in self.outputs():
            output.messages(_SERIES, schema.RECORD, [self.record.to_json()], step)
