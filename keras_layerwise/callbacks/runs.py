"""Which run a ``fit`` belongs to, decided once for all of its callbacks, and the run's steps."""

import contextlib
import math
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_layerwise.backend import arrays
from keras_layerwise.backend.processes import is_chief
from keras_layerwise.errors import FrozenHyperparameterError
from keras_layerwise.hyperparameters.fingerprints import weights_fingerprint
from keras_layerwise.hyperparameters.fit import step_count, trains_itself
from keras_layerwise.model import structure
from keras_layerwise.storage import files, run_file
from keras_layerwise.storage.record import RecordError
from keras_layerwise.storage.run_file import Mark
from keras_layerwise.storage.values import UNKNOWN

RESUME = ("auto", "must", "never")
_SIGN_OF_LIFE = 30.0  # seconds between two within an epoch
_SAMPLE = 1 << 16  # about as many elements of each weight tell whether the weights are the same

_lock = threading.RLock()


class Run:
    """One training: its directory, and its one growing line of steps.

    Attributes:
        directory: absolute; None where nothing is written.
        began: how the ``fit`` that is going on came to it: ``"new"``, ``"continued"`` by
            the same model in this process, or ``"resumed"`` from a checkpoint.
        is_late: whether training went on before the run could begin.
        counts_batches: whether its steps are batches, because the model trains with
            optimizers of its own or in a loop of its user's.
        fingerprint: of the weights that it began with; ``"unknown"`` where nobody asked for it
            then, of a run that was resumed or is late, or where they cannot be read.
    """

    def __init__(
        self,
        directory: Path | None,
        mark: Mark,
        began: str,
        read: Callable[[Any], str] | None = None,
        model: Any = None,
    ) -> None:
        self.directory = directory
        self.began = began
        self.is_late = self.counts_batches = False
        self._mark = mark
        self._read = read
        self._weights = UNKNOWN if read is None else read(model)
        self.fingerprint = self._weights if read is weights_fingerprint else UNKNOWN
        # A count of the optimizers plus this is the run's step.
        self._offset = mark.step - mark.count
        self._step = mark.step
        self._batches = self._before_epoch = 0
        self._batch: int | None = None
        self._alive = time.monotonic()
        self._saved: tuple[Any, ...] = ()

    def step(self, model: Any) -> int:
        """Gives the run's step: grows over every ``fit``, also where `model` is compiled anew."""
        counted = self._batches if self.counts_batches else step_count(model)
        self._offset = max(self._offset, self._step - counted)
        self._step = counted + self._offset
        return self._step

    @property
    def last_step(self) -> int:
        """The step that was last asked for, for a state that can no longer be read."""
        return self._step

    def begins_anew(self, model: Any) -> bool:
        """Tells whether `model` is as it was when the run began: a new run begins."""
        return (
            self._read is not None
            and self._weights != UNKNOWN
            and step_count(model) == 0
            and self._weights == self._read(model)
        )

    def begin_epoch(self, steps: int | None) -> None:
        """Counts batches from here; `steps` is their number where it is known."""
        self._before_epoch, self._batch = self._batches, None
        self._mark = _changed(self._mark, ahead=steps)

    def begin_batch(self, batch: int) -> None:
        """Counts the batches before this one of the epoch."""
        self._batch = batch
        self._batches = self._before_epoch + batch

    def end_epoch(self, per_call: int, steps: int | None) -> None:
        """Counts the batch that was going on; `per_call` batches go in one call."""
        if self._batch is not None:
            done = self._batch + per_call
            self._batches = self._before_epoch + (done if steps is None else min(done, steps))
            self._batch = None
            self._before_epoch = self._batches

    def is_silent(self) -> bool:
        """Tells whether it is time for another sign of life."""
        return time.monotonic() - self._alive > _SIGN_OF_LIFE

    def save(self, model: Any, ended: bool = False) -> None:
        """Writes how far the run is, and that it lives; a failing disk ends no training."""
        with contextlib.suppress(Exception):  # an interrupted step can leave no state to read
            step = self.step(model)
            count = step_count(model)
            ahead = None if self.counts_batches else self._mark.ahead
            self._mark = _changed(
                self._mark, last=max(self._mark.last, count), count=count, step=step, ahead=ahead
            )
        state = (self._mark.last, self._mark.step, self._mark.ahead, ended)
        if state == self._saved and not self.is_silent():  # another callback has said it
            return
        self._saved = state
        self._alive = time.monotonic()
        self._mark = _changed(self._mark, ended=ended, seen=run_file.now())
        if self.directory is not None and is_chief():
            with contextlib.suppress(OSError):
                run_file.write(self.directory, self._mark)


class Fit:
    """The callbacks of one ``fit`` that ask for the same directory, until it is decided.

    It is decided when training begins, after all callbacks' ``on_train_begin``:
    one that comes later, such as ``BackupAndRestore``, may restore the model.
    """

    def __init__(self, directory: Path | None, count: int) -> None:
        self.directory = directory
        self.names: set[str | None] = {None if directory is None else str(directory)}
        self.members: weakref.WeakSet[Any] = weakref.WeakSet()
        self.run: Run | None = None
        self.is_refused = False
        self._count = count

    def decide(self, model: Any, late: bool = False) -> Run:
        """Gives the run of this ``fit``: found, or begun.

        Args:
            model: what is trained.
            late: whether training went on already, in a loop that said nothing of it.

        Raises:
            FrozenHyperparameterError: where the configuration is another than
                that of the run that the model's steps belong to, or ``resume="must"``
                and there is none.
            OSError: where the directory cannot be made.
        """
        with _lock:
            if self.run is None:
                self.is_refused = True  # unless what follows does not raise
                modes = {member.resume for member in self.members}
                counts_batches = trains_itself(model) or any(
                    member.counts_batches for member in self.members
                )
                found = None if "never" in modes else self._found(model, counts_batches)
                self.run = found or self._new(model, modes, late)
                self.run.counts_batches = counts_batches
                self.run.step(model)
                if self.run.began == "resumed":
                    # At once: a kill before the first save may leave a later checkpoint behind.
                    self.run.save(model)
                self.is_refused = False
                for name in self.names:
                    _runs.setdefault(model, {})[name] = self.run
                waiting = _fits.get(model, {})
                if waiting.get(self.directory) is self:
                    del waiting[self.directory]
            return self.run

    def _found(self, model: Any, counts_batches: bool) -> Run | None:
        runs = _runs.get(model, {})
        for known in filter(None, map(runs.get, self.names)):
            if _exists(known.directory) and not known.begins_anew(model):
                known.began = "continued"
                return known
        count = step_count(model)
        if not count or self.directory is None:
            return None
        refused = []
        unreadable = None
        for directory in run_file.runs(self.directory):
            mark = run_file.read(directory)
            if mark is not None and not mark.holds(count):
                continue
            try:
                differences = [d for m in self.members for d in m.differences_from(directory)]
            except RecordError as error:  # which hides no other run that fits
                unreadable = unreadable or error
                continue
            if not differences:
                return _resumed(directory, mark, count, counts_batches)
            refused.append((directory, differences))
        if unreadable is not None:
            raise unreadable
        if not refused:
            return None
        directory, differences = refused[0]
        lines = "\n".join(f"  {difference}" for difference in differences)
        raise FrozenHyperparameterError(
            f"The model's {count} steps belong to the run in {str(directory)!r}, which was "
            f"configured otherwise:\n{lines}\n"
            "Train with the recorded values to continue that run; or begin a new one: give it "
            "a log_dir of its own or FreezeHyperparameters(resume='never'); or name the keys "
            "that may differ in FreezeHyperparameters(ignore=[...])."
        )

    def _new(self, model: Any, modes: Iterable[str], late: bool) -> Run:
        count = step_count(model)
        if "must" in modes and is_chief():
            raise FrozenHyperparameterError(
                f"resume='must', but no run in {str(self.directory)!r} can be continued by this "
                f"model: it has made {count} steps. Restore it from a checkpoint of the run before "
                "training, or use resume='auto'."
            )
        first = self._count if late else count
        mark = Mark(first=first, last=count, count=count, step=count)
        directory = self.directory
        if directory is not None and is_chief():
            directory = run_file.claim(directory, mark)
            if directory != self.directory:
                with contextlib.suppress(OSError):  # standard output may go to a full disk
                    print(
                        f"keras_layerwise: {str(self.directory)!r} holds another run; this one is "
                        f"recorded in {str(directory)!r}."
                    )
        whole = any(member.records_weights for member in self.members)
        read = weights_fingerprint if whole else weights_digest
        run = Run(directory, mark, "new", None if late else read, model)
        run.is_late = late and count != self._count
        return run


# Values must not refer to the models, or the models could never be freed.
_runs: "weakref.WeakKeyDictionary[Any, dict[str | None, Run]]" = weakref.WeakKeyDictionary()
_fits: "weakref.WeakKeyDictionary[Any, dict[Path | None, Fit]]" = weakref.WeakKeyDictionary()


def join(model: Any, member: Any, asked: str | None) -> Fit:
    """Takes a callback into the ``fit`` of `model` that is about to begin.

    A relative directory becomes absolute here: the program may go elsewhere later.
    """
    directory = None if asked is None else files.place(asked)
    with _lock:
        waiting = _fits.setdefault(model, {})
        fit = waiting.get(directory)
        if fit is None or member in fit.members:
            fit = waiting[directory] = Fit(directory, step_count(model))
        fit.members.add(member)
        fit.names.add(asked)
        return fit


def weights_digest(model: Any) -> str:
    """Gives a number that other weights do not share; ``"unknown"`` where none can be read here.

    Of a large weight evenly spaced rows are read: training moves most of them.
    """
    if not model.built:
        return UNKNOWN
    digest = 0
    try:
        for site in structure.sites(model):
            size = math.prod(site.weight.shape)
            step = min(site.weight.shape[0], size // _SAMPLE) if size > _SAMPLE else 0
            value = arrays.rows(site.weight, step) if step else arrays.view(site.weight)
            read = np.ascontiguousarray(value).reshape(-1)
            digest = zlib.crc32(read.view(np.uint8).data, digest)
    except (RuntimeError, ValueError, TypeError):  # other processes hold parts of the weights
        return UNKNOWN
    return str(digest)


def _resumed(directory: Path, mark: Mark | None, count: int, counts_batches: bool) -> Run:
    if mark is None:  # of an earlier version, or torn by a power cut
        mark = Mark(first=0, last=count, count=count, step=count)
    step = mark.step - mark.count + count
    if counts_batches:  # in each of which an optimizer may make several steps
        step = round(mark.step * (count - mark.first) / max(1, mark.count - mark.first))
    last = max(mark.last, count)
    return Run(directory, _changed(mark, last=last, count=count, step=step), "resumed")


def _exists(directory: Path | None) -> bool:
    return directory is None or run_file.holds_run(directory)


def _changed(mark: Mark, **changes: Any) -> Mark:
    return Mark(**{**vars(mark), **changes})
