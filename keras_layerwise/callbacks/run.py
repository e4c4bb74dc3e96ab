"""A run of a training loop of one's own: what ``fit`` gives, without ``fit``."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import keras

from keras_layerwise.callbacks.base import RunCallback
from keras_layerwise.callbacks.freeze import FreezeHyperparameters
from keras_layerwise.callbacks.rate_monitor import LearningRateMonitor
from keras_layerwise.callbacks.weight_drift import WeightDrift
from keras_layerwise.hyperparameters import fit as fitting
from keras_layerwise.storage.record import Record
from keras_layerwise.storage.sinks import Sink


def run(
    log_dir: str | os.PathLike[str],
    model: Any,
    hyperparameters: Any = None,
    *,
    update_freq: str | int = "epoch",
    on_change: str = "raise",
    resume: str = "auto",
    callbacks: Iterable[Any] = (),
    sinks: Iterable[Sink] = (),
) -> "Loop":
    """Records a training loop of one's own as `FreezeHyperparameters` and others record a ``fit``.

    A context manager. Call ``run.step(logs)`` after every batch and
    ``run.epoch(logs)`` after every epoch: the run gets the same record, drift,
    rates and status as from ``fit``, and an error in the loop is recorded as
    one. The optimizers are those found on the model, also in attributes, as of
    a GAN, or else every `LayerwiseOptimizer` that was given ``model=``; set
    ``model.optimizer`` for another. Steps are batches, counted on from the
    optimizer's own step. On JAX, put what the loop holds into the model's
    variables before a step or epoch that is recorded.

    Args:
        log_dir: where the run is kept; a new run where it holds one goes to
            ``<log_dir>-2``, ``-3`` …
        model: what is trained; it need not be compiled.
        hyperparameters: the user's own values, as for `FreezeHyperparameters`.
        update_freq: when drift is recorded: ``"epoch"``, or a number of steps.
        on_change: as for `FreezeHyperparameters`.
        resume: as for `FreezeHyperparameters`.
        callbacks: others that are to be called, such as `GradualUnfreeze`.
        sinks: where else the records go.

    Raises:
        TypeError: for a hyperparameter that can not be stored.
        ValueError: for another `on_change`, `resume` or `update_freq`.
        OSError: where `log_dir` can not be written.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    >>> with run(tempfile.mkdtemp(), model, {"rate": 0.1}) as training:
    ...     for epoch in range(2):
    ...         for batch in range(4):
    ...             kernel = model.layers[0].kernel
    ...             _ = kernel.assign(kernel * 0.9)  # the step
    ...             training.step({"loss": float(batch)})
    ...         training.epoch()
    >>> training.record.status, training.record.results["final"]
    ('finished', {'loss': 1.5})
    >>> training.drift.history["step"]
    array([4, 8])
    """
    watching = [
        WeightDrift(log_dir, update_freq=update_freq, sinks=sinks),
        FreezeHyperparameters(
            log_dir, hyperparameters, on_change=on_change, resume=resume, sinks=sinks
        ),
        LearningRateMonitor(log_dir, sinks=sinks),
    ]
    return Loop(model, [*callbacks, *watching])


class Loop:
    """The context that `run` gives.

    Attributes:
        drift: the `WeightDrift` of the run, with its ``history``.
    """

    def __init__(self, model: Any, callbacks: list[Any]) -> None:
        self._model = model
        self._callbacks = callbacks
        self._ours = [found for found in callbacks if isinstance(found, RunCallback)]
        self.drift = next(found for found in callbacks if isinstance(found, WeightDrift))
        self._freeze = next(f for f in callbacks if isinstance(f, FreezeHyperparameters))
        self._epoch = self._batch = 0
        self._logged: dict[str, list[float]] = defaultdict(list)

    @property
    def directory(self) -> Path | None:
        """The run's own directory."""
        return self._freeze.directory

    @property
    def record(self) -> Record:
        """The run record, as `FreezeHyperparameters.record`."""
        return self._freeze.record

    def __enter__(self) -> "Loop":
        """Begins the run, or goes on with it."""
        for callback in self._ours:
            callback.counts_batches = True
        self._before = fitting.begin_loop(self._model, self._callbacks)
        self._list = keras.callbacks.CallbackList(
            self._callbacks, model=self._model, epochs=None, steps=None
        )
        try:
            self._list.on_train_begin()
            self._list.on_epoch_begin(self._epoch)
            self._list.on_train_batch_begin(0)
        except BaseException as error:
            self._fail(error)
            raise
        return self

    def step(self, logs: Mapping[str, Any] | None = None) -> None:
        """Tells that a batch was trained on, with what is to be averaged over the epoch."""
        for name, value in (logs or {}).items():
            self._logged[name].append(float(value))
        self._list.on_train_batch_end(self._batch, dict(logs or {}))
        self._batch += 1
        self._list.on_train_batch_begin(self._batch)

    def epoch(self, logs: Mapping[str, Any] | None = None) -> None:
        """Tells that an epoch has ended, with its results beside the averages of its steps."""
        means = {name: sum(values) / len(values) for name, values in self._logged.items()}
        self._list.set_params({"epochs": None, "steps": self._batch})
        self._list.on_epoch_end(self._epoch, {**means, **(logs or {})})
        self._list.set_params({"epochs": None, "steps": None})
        self._logged.clear()
        self._epoch, self._batch = self._epoch + 1, 0
        self._list.on_epoch_begin(self._epoch)
        self._list.on_train_batch_begin(0)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the run: finished, or failed with what the loop raised."""
        if error is not None:
            self._fail(error)
            return
        try:
            if self._batch:
                self.epoch()
            self._list.on_train_end()
        except BaseException as problem:
            self._fail(problem)
            raise
        fitting.end(self._model, self._before)

    def _fail(self, error: BaseException) -> None:
        for callback in self._ours:
            callback.on_train_error(error)
        fitting.end(self._model, self._before)
