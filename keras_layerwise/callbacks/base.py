"""What the callbacks of a run share: its directory, its step and rate, and who writes."""

import atexit
import contextlib
import copy
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import keras

from keras_layerwise.backend.processes import is_chief
from keras_layerwise.callbacks import runs
from keras_layerwise.hyperparameters.fit import note_calling_frame
from keras_layerwise.hyperparameters.training import learning_rate
from keras_layerwise.optimizer.layerwise import layerwise_optimizers
from keras_layerwise.storage import files, stores
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.sinks import Sink, Sinks


class RunCallback(keras.callbacks.Callback):
    """A callback that takes part in a run.

    Which run a ``fit`` belongs to is decided once for all callbacks that ask
    for the same directory, when its first epoch or batch begins. A subclass
    implements `on_run_begin` and `on_run_end`, and begins each method of Keras
    that it overrides with ``super()``.

    Args:
        log_dir: where runs are kept, a directory or a URL such as ``s3://bucket/run``; the
            run's own is `directory`. None writes nothing.
        sinks: where else records go.

    Raises:
        OSError: for a `log_dir` of a store that nothing is installed for.
    """

    observes_only = True
    """It changes nothing of the training, so that it is no part of its configuration."""

    resume = "auto"
    counts_batches = False
    records_weights = False
    """It needs the fingerprint of the weights that a run begins with, as `runs.Run.fingerprint`."""

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keeps the arguments, for copies."""
        self: Self = super().__new__(cls)
        self._made_with = args, kwargs
        return self

    def __init__(self, log_dir: str | os.PathLike[str] | None, sinks: Iterable[Sink] = ()) -> None:
        super().__init__()
        self.log_dir = self._wanted = None
        if log_dir is not None:
            is_url = stores.is_url(log_dir)
            self.log_dir = files.place(log_dir) if is_url else Path(log_dir)
            self._wanted = str(self.log_dir) if is_url else os.fspath(log_dir)
        self._sinks = Sinks(sinks)
        self._writer: EventWriter | None = None
        self._fit: runs.Fit | None = None
        self._run: runs.Run | None = None
        self._is_open = False
        self._called: Any = None

    def __deepcopy__(self, memo: Any) -> "RunCallback":
        """Makes an unused callback with the same arguments: a tuner copies one for each trial."""
        args, kwargs = self._made_with
        made = type(self)(*args, **kwargs)
        memo[id(self)] = made
        return made

    __copy__ = copy.deepcopy

    # What subclasses implement.

    def on_run_begin(self) -> None:
        """Acts when the run of this ``fit`` is known, before its first step."""

    def on_run_end(self, error: BaseException | None) -> None:
        """Acts when training has ended, with what it raised; `close` follows."""

    def differences_from(self, directory: Path) -> Sequence[Any]:
        """Tells what of the configuration is other than in the run in `directory`, a line each."""
        return ()

    # What they use.

    @property
    def run(self) -> runs.Run:
        """The run of the last ``fit``.

        Raises:
            RuntimeError: before the first training.
        """
        if self._run is None:
            raise RuntimeError("There is no run before training has begun.")
        return self._run

    @property
    def directory(self) -> Path | None:
        """The run's own directory, absolute; None before training, or where nothing is written."""
        return None if self._run is None else self._run.directory

    def step(self) -> int:
        """Gives the run's step: one growing line over every ``fit`` and ``compile``."""
        return self.run.step(self.model)

    def rate(self) -> float | None:
        """Gives the learning rate of the optimizer that trains; None where it has none."""
        return learning_rate(self.model)

    def open_writer(self, name: str, flush_seconds: float = 10.0) -> None:
        """Opens an event file in the run's directory `name`, where this process writes one.

        Raises:
            OSError: where it cannot be written.
        """
        if self.directory is not None and is_chief():
            self._writer = EventWriter(self.directory / name, flush_seconds)

    def outputs(self) -> tuple[Sink, ...]:
        """Lists who takes records: the event file and the sinks; nobody in the other processes."""
        sinks = (self._sinks,) if self._sinks.sinks and is_chief() else ()
        return sinks if self._writer is None else (self._writer, *sinks)

    def close(self) -> int:
        """Closes the outputs; returns how many records the event file lost."""
        writer, self._writer = self._writer, None
        for output in (*((writer,) if writer else ()), self._sinks):
            output.close()
        return writer.lost if writer else 0

    # What Keras and `fit_hook` call.

    def on_fit(self, model: Any) -> None:
        """Notes that ``fit`` was called: it may fail before training begins, as by its data."""
        self._called = model

    def on_train_begin(self, logs: Any = None) -> None:
        """Joins the other callbacks of this ``fit``."""
        self._called = None
        if self._is_open:
            self._end_run(RuntimeError("Training did not end, and another began."))
        model = self.model
        for optimizer in layerwise_optimizers(getattr(model, "optimizer", None)):
            optimizer.attach(model)
        note_calling_frame(model)
        self._run = None
        self._fit = runs.join(model, self, self._wanted)
        self._is_open = True
        self._stand_by()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begins the run's part of this ``fit``, and counts from here."""
        self._begin_run()
        self.run.begin_epoch(self._steps_per_epoch())

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Counts batches.

        At their begin rather than at the end of the one before, because Keras
        waits for every step on JAX where a callback looks at its end.
        """
        self._begin_run()
        run = self.run
        run.begin_batch(batch)
        if run.is_silent():
            run.save(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Counts the last batch, and notes how far the run is."""
        self._begin_run()
        model = self.model
        per_call = int(getattr(model, "steps_per_execution", 1) or 1)
        self.run.end_epoch(per_call, self._steps_per_epoch())
        self.run.save(model)

    def on_train_end(self, logs: Any = None) -> None:
        """Ends the run's part of this ``fit``."""
        self._begin_run()
        self._end_run(None)

    def on_train_error(self, error: BaseException) -> None:
        """Ends it where training raised or was interrupted, also before it began."""
        model, self._called = self._called, None
        if not self._is_open and model is None:
            return
        try:
            if model is not None:
                self.set_model(model)
                self.on_train_begin()
            if not (self._fit and self._fit.is_refused):
                self._begin_run(late=True)
            self._end_run(error)
        except Exception as problem:  # must not hide the error that ended training
            warnings.warn(f"The run could not be completed: {problem}", stacklevel=2)

    # How it is done.

    def _begin_run(self, late: bool = False) -> None:
        if self._run is not None:
            return
        if self._fit is None:  # a loop that never said that training begins
            self.on_train_begin()
        if self._fit is not None:
            self._run = self._fit.decide(self.model, late)
            self.on_run_begin()
            self._stand_by()

    def _end_run(self, error: BaseException | None) -> None:
        self._is_open, self._fit = False, None
        atexit.unregister(self._at_exit)
        if self._run is None:
            return
        try:
            self.on_run_end(error)
        finally:
            self.close()
            self._run.save(self.model, ended=error is None)

    def _stand_by(self) -> None:
        """Asks to be called at exit, before the writers that were opened until now."""
        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        """Closes the run as the interpreter exits: a custom loop never calls on_train_end."""
        self.on_train_error(SystemExit("the process ended in the middle of training"))

    def _steps_per_epoch(self) -> int | None:
        steps = (self.params or {}).get("steps")
        return steps if isinstance(steps, int) else None


def print_loss(name: str, lost: int, directory: Path | None) -> None:
    """Says how many records could not be written."""
    if lost:
        # Standard output may go to the same full disk.
        with contextlib.suppress(OSError):
            print(f"{name}: {lost} records could not be written to {directory}.")
