"""The callback that freezes a run's hyperparameters, and watches them."""

import atexit
import contextlib
import fnmatch
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras

from keras_layerwise.backend.processes import is_chief
from keras_layerwise.callbacks.unfreeze import GradualUnfreeze
from keras_layerwise.errors import FrozenHyperparameterError
from keras_layerwise.hyperparameters import fit as fitting
from keras_layerwise.hyperparameters.fingerprints import weights_fingerprint
from keras_layerwise.hyperparameters.inventory import inventory, learning_rate
from keras_layerwise.hyperparameters.names import Names
from keras_layerwise.hyperparameters.override import log_of
from keras_layerwise.model.selectors import select
from keras_layerwise.optimizer.layerwise import layerwise_optimizers
from keras_layerwise.storage import hparams, schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.record import (
    FAILED,
    FINISHED,
    GROUPS,
    RUNNING,
    RUNTIME,
    Record,
    load_record,
    save_record,
)
from keras_layerwise.storage.values import (
    ABSENT,
    Difference,
    as_text,
    differences,
    fingerprint,
    flat,
    plain,
)

_ON_CHANGE = ("raise", "warn", "ignore")
_RATE = "training/learning_rate"
_SERIES = schema.Series(kind="record")


class FreezeHyperparameters(keras.callbacks.Callback):
    """Records what a run is configured with, once, and watches that it stays so.

    At the start of training the inventory of the model and its ``fit``, and
    the user's own values, are written to ``<log_dir>/hyperparameters.json``,
    as a row of TensorBoard's HParams dashboard and as a table of its text
    dashboard. At every epoch and at the end everything is read again.

    What a schedule or callback does to the learning rate is kept as a
    timeline; what `GradualUnfreeze` unfreezes by its plan, and what
    `override` changes, is recorded. Any other change is a violation.

    A `log_dir` that holds a record already is resumed where the
    hyperparameters are the same, and refused where they are not.

    Args:
        log_dir: the directory of the run.
        hyperparameters: the user's own values, any nesting of plain values,
            NumPy scalars, enums, dataclasses and paths.
        on_change: ``"raise"`` a `FrozenHyperparameterError`, ``"warn"``, or
            ``"ignore"``; violations are in the record in each case.
        ignore: globs of keys that may change, in mid-run and between a run
            and its resumption, such as ``"training/epochs"``.

    Raises:
        TypeError: for a hyperparameter that can not be stored, by its key.
        ValueError: for another `on_change`.

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

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        hyperparameters: Any = None,
        on_change: str = "raise",
        *,
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if on_change not in _ON_CHANGE:
            raise ValueError(f"`on_change` is one of {_ON_CHANGE}; received {on_change!r}.")
        if isinstance(ignore, str):
            raise TypeError(f"`ignore` is a list of globs; received the string {ignore!r}.")
        user = plain({} if hyperparameters is None else hyperparameters)
        if not isinstance(user, dict):
            raise TypeError(
                "`hyperparameters` is a mapping or a dataclass; received "
                f"{type(hyperparameters).__name__}."
            )
        flat({"user": user})
        self.log_dir = Path(log_dir)
        self.on_change = on_change
        self._ignore = tuple(ignore)
        self._user = user
        self._record: Record | None = None
        self._writer: EventWriter | None = None
        self._expected: dict[str, Any] = {}
        self._rate: float | None = None
        self._epoch = 0
        self._overrides_seen = 0

    @property
    def record(self) -> Record:
        """The frozen record.

        Raises:
            RuntimeError: before the first training.
        """
        if self._record is None:
            raise RuntimeError("There is no record before training has begun.")
        return self._record

    # What Keras, and `fitting`, call.

    def on_train_begin(self, logs: Any = None) -> None:
        """Freezes the hyperparameters.

        Raises:
            FrozenHyperparameterError: where `log_dir` is another run's.
        """
        if self._writer is not None:
            self._end(FAILED, "Training did not end, and another began.")
        model = self.model
        for optimizer in layerwise_optimizers(model.optimizer):
            optimizer.attach(model)
            if model.built and not optimizer.built:
                model.optimizer.build(model.trainable_variables)
        values = self._read()
        now = self._flat(values)
        self._rate = learning_rate(model)
        if is_chief() and (self.log_dir / schema.RECORD_FILE).exists():
            record = self._resumed(load_record(self.log_dir), now)
        else:
            record = self._new(values)
        self._record = record
        self._overrides_seen = 0
        self._take_overrides()
        self._expected = now
        if is_chief():
            save_record(self.record, self.log_dir)
            self._open()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes what callbacks changed since the last epoch."""
        self._epoch = epoch
        self._note_rate()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Reads everything again.

        Raises:
            FrozenHyperparameterError: where something changed, by `on_change`.
        """
        self._note_results(logs or {})
        self._check()
        self._save()

    def on_train_end(self, logs: Any = None) -> None:
        """Reads everything once more, and completes the record."""
        self._check()
        try:
            self._end(FINISHED)
        except OSError as error:  # training is done, and its result must not be lost for this
            warnings.warn(f"The record could not be completed: {error}", stacklevel=2)

    def on_train_error(self, error: BaseException) -> None:
        """Completes the record of a training that raised or was interrupted."""
        if self._writer is None:
            return
        try:
            self._end(FAILED, plain(f"{type(error).__name__}: {error}".rstrip(": ")))
        except Exception as problem:  # must not hide the error that ended training
            warnings.warn(f"The record could not be completed: {problem}", stacklevel=2)

    # At the start.

    def _read(self) -> dict[str, Any]:
        values = {**inventory(self.model), "user": self._user}
        return {group: values[group] for group in GROUPS}

    def _flat(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: value
            for key, value in flat({g: v for g, v in values.items() if g != RUNTIME}).items()
            if not self._ignored(key)
        }

    def _ignored(self, key: str) -> bool:
        return any(fnmatch.fnmatchcase(key, glob) for glob in self._ignore)

    def _new(self, values: dict[str, Any]) -> Record:
        record = Record(values, started=_now(), layers=Names(self.model).renamed)
        return replace(
            record,
            fingerprints={
                "hyperparameters": record.fingerprint,
                "runtime": fingerprint(values[RUNTIME]),
                "initial_weights": weights_fingerprint(self.model),
            },
        )

    def _resumed(self, found: Record, now: Mapping[str, Any]) -> Record:
        first = self._flat(found.values)
        # A resumed run starts where it began or where its callbacks had brought it.
        last = dict(first)
        for change in (*found.changes, *found.overrides):
            last[change["key"]] = change["new"]
        for change in found.timeline:
            last[change.get("key", _RATE)] = change["new"]
        differ = differences(first, now)
        wrong = [d for d in differ if differences({d.key: last.get(d.key, ABSENT)}, {d.key: d.new})]
        # A run that was killed may have left a checkpoint that is ahead of its record.
        step = self._step()
        plan = self._planned(math.inf) if step else set()
        unfrozen = [d for d in wrong if d.key in plan]
        wrong = [d for d in wrong if d not in unfrozen]
        if wrong:
            raise FrozenHyperparameterError(
                f"{str(self.log_dir)!r} holds a run with other hyperparameters "
                f"(started {found.started}, {found.status}):\n{_lines(wrong)}\n"
                "Give this run a log_dir of its own; or train with the recorded values to resume "
                "that one; or name the keys that may differ in FreezeHyperparameters(ignore=[...])."
            )
        self._remove_end(found)
        resumption = {
            "step": step,
            "time": _now(),
            "weights": weights_fingerprint(self.model),
        }
        return replace(
            found,
            status=RUNNING,
            ended=None,
            error=None,
            end_file=None,
            changes=[*found.changes, *_entries(unfrozen, step)],
            resumptions=[*found.resumptions, resumption],
        )

    def _remove_end(self, found: Record) -> None:
        """Removes the end of the part before: TensorBoard would show it for ever."""
        if found.end_file and found.end_file == Path(found.end_file).name:
            with contextlib.suppress(FileNotFoundError):
                (self.log_dir / schema.RECORD_DIR / found.end_file).unlink()

    def _open(self) -> None:
        record = self.record
        self._writer = EventWriter(self.log_dir / schema.RECORD_DIR)
        atexit.register(self._at_exit)
        started = datetime.fromisoformat(record.started or _now()).timestamp()
        row = flat(record.values)
        shown = {k: v for k, v in row.items() if not k.startswith("architecture/weights/")}
        step = self._step()
        self._writer.summary(hparams.session_start(shown, started), 0)
        self._writer.text("hyperparameters", _markdown(record), step)
        self._write_record()
        self._writer.flush()

    # While training.

    def _check(self) -> None:
        self._note_rate()
        self._take_overrides()
        now = self._flat(self._read())
        found = [d for d in differences(self._expected, now) if not _is_rate(d.key)]
        self._expected = now
        if not found:
            return
        step = self._step()
        planned = self._planned(self._epoch)
        changes = [d for d in found if d.key in planned and d.new is False]
        violations = [d for d in found if d not in changes]
        record = self.record
        self._record = replace(
            record,
            changes=[*record.changes, *_entries(changes, step)],
            violations=[*record.violations, *_entries(violations, step)],
        )
        self._save()
        if violations and self.on_change != "ignore":
            message = (
                f"Hyperparameters that were recorded as fixed changed, seen at step {step}:\n"
                f"{_lines(violations)}\n"
                "Set them before training, or change them with keras_layerwise.override, which "
                "records it; FreezeHyperparameters(on_change='warn') only warns."
            )
            if self.on_change == "raise":
                raise FrozenHyperparameterError(message)
            warnings.warn(message, stacklevel=2)

    def _save(self) -> None:
        if not is_chief():
            return
        try:
            save_record(self.record, self.log_dir)
        except OSError as error:
            warnings.warn(f"The record is behind: {error}. Training goes on.", stacklevel=2)

    def _planned(self, last_epoch: float) -> set[str]:
        """Keys of what the plan of a `GradualUnfreeze` has unfrozen up to an epoch."""
        sites = Names(self.model).sites
        return {
            f"training/assignments/{sites[position][0]}/frozen"
            for callback in fitting.callbacks_of(self.model) or ()
            if isinstance(callback, GradualUnfreeze)
            for epoch, selector in callback.epochs.items()
            if epoch <= last_epoch
            for position in select(selector, [site for _, site in sites])
        }

    def _note_rate(self) -> None:
        rate = learning_rate(self.model)
        if rate == self._rate or self._record is None:
            return
        change = {"step": self._step(), "old": self._rate, "new": plain(rate)}
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
        for entry in new:
            if entry["new"] == ABSENT:
                self._expected.pop(entry["key"], None)
            elif not self._ignored(entry["key"]):
                self._expected[entry["key"]] = entry["new"]

    def _note_results(self, logs: Mapping[str, Any]) -> None:
        record = self.record
        final = dict(record.results.get("final", {}))
        best = dict(record.results.get("best", {}))
        directions = _directions(self.model)
        for name, value in logs.items():
            if "learning_rate" in name or not _is_finite_number(value):
                continue
            value = float(value)
            final[name] = value
            better = directions.get(name.removeprefix("val_"))
            if better is not None:
                best[name] = better(best.get(name, value), value)
        self._record = replace(record, results={"final": final, "best": best})
        if self._writer is not None:
            scalars = {f"{hparams.BEST}{name}": value for name, value in best.items()}
            scalars |= {f"{hparams.FINAL}{name}": value for name, value in final.items()}
            self._writer.scalars(scalars, self._step())

    def _step(self) -> int:
        iterations = getattr(self.model.optimizer, "iterations", 0)
        return int(keras.ops.convert_to_numpy(iterations))

    # At the end.

    def _end(self, status: str, error: str | None = None) -> None:
        writer, self._writer = self._writer, None
        atexit.unregister(self._at_exit)
        if writer is None and is_chief():
            return
        fingerprints = dict(self.record.fingerprints)
        fingerprints.pop("final_weights", None)
        with contextlib.suppress(Exception):  # state that an interrupted step left unusable
            fingerprints["final_weights"] = weights_fingerprint(self.model)
        self._record = replace(
            self.record, status=status, ended=_now(), error=error, fingerprints=fingerprints
        )
        if writer is None:
            return
        self._write_record(writer)
        writer.close()
        # In a file of its own, so that a resumption can take it back.
        end = EventWriter(self.log_dir / schema.RECORD_DIR)
        end.summary(hparams.session_end(status == FINISHED, time.time()), 0)
        end.close()
        self._record = replace(self._record, end_file=end.path.name)
        save_record(self._record, self.log_dir)

    def _at_exit(self) -> None:
        """A loop that is not ``fit``'s can end without a word."""
        self.on_train_error(SystemExit("the process ended in the middle of training"))

    def _write_record(self, writer: EventWriter | None = None) -> None:
        writer = writer or self._writer
        if writer is not None:
            writer.messages(_SERIES, schema.RECORD, [self.record.to_json()], self._step())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _is_rate(key: str) -> bool:
    return (
        key.startswith("training/")
        and key.endswith("/learning_rate")
        and (key == _RATE or key.startswith("training/optimizer/"))
    )


def _is_finite_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _directions(model: Any) -> dict[str, Any]:
    """``min`` or ``max`` for each name in the logs whose better side is known."""
    found: dict[str, Any] = {}
    for metric in model.metrics:
        for member in getattr(metric, "metrics", None) or [metric]:
            direction = getattr(member, "_direction", None)
            if direction in ("up", "down"):
                found[member.name] = max if direction == "up" else min
    for name in model.metrics_names:
        if name.endswith("loss"):
            found[name] = min
    return found


def _entries(found: Iterable[Difference], step: int) -> list[dict[str, Any]]:
    return [{"step": step, **d._asdict()} for d in found]


def _lines(found: Iterable[Difference]) -> str:
    return "\n".join(f"  {difference}" for difference in found)


def _markdown(record: Record) -> str:
    """The record as a table; what would end a cell is written out."""
    rows = ["| hyperparameter | value |", "|---|---|"]
    for key, value in flat(record.values).items():
        text = as_text(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
        rows.append(f"| {key} | {text} |")
    rows += [f"| fingerprint/{key} | {value} |" for key, value in record.fingerprints.items()]
    return "\n".join(rows)
