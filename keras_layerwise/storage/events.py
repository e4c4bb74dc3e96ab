"""Event files: TensorBoard's protos on disk, from a thread of their own.

What TensorBoard's ``EventFileWriter`` costs a training step (it imports
TensorFlow, and computes a checksum byte by byte in Python) is avoided here:
handing an event over queues it, and a background thread builds, checks and
writes many events at once.
"""

import atexit
import contextlib
import itertools
import json
import os
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
from tensorboard.compat.proto.summary_pb2 import Summary

from keras_layerwise.storage import files, framing, protos, stores
from keras_layerwise.storage.schema import Series

PENDING_LIMIT = 16 << 20
"""Bytes that may wait for a slow disk; events beyond them are lost."""

_SENT = 1 << 20  # bytes a second that are sent to a store
_EARLY = 1 << 20  # bytes that are written without waiting for the interval
_PATIENCE = 30.0  # seconds that a flush waits for a disk that hangs
_numbers = itertools.count()


class _Pending(NamedTuple):
    wall_time: float
    step: int
    size: int
    build: Callable[[set[str]], Summary]  # given the tags whose metadata is on disk


class EventWriter:
    """Writes one event file in `directory`.

    TensorBoard reads a directory's event files one after the other, so there
    should be one live writer per directory. All methods may be called from
    any thread. After the constructor nothing raises for what a disk does: the
    first failure is a warning, events that could not be written are counted
    in `lost`, and whole events only are left in the file.

    Args:
        directory: created where it does not exist.
        flush_seconds: every event older than this is on the disk, whatever
            happens to the process or the power.

    Attributes:
        lost: number of events that could not be written.
        path: the event file.

    Raises:
        OSError: where the directory or the file can not be written.

    Example:
    >>> import tempfile
    >>> writer = EventWriter(tempfile.mkdtemp())
    >>> writer.scalar("drift/l2", 0.5, step=1)
    >>> writer.close()
    >>> writer.lost
    0
    """

    def __init__(self, directory: str | os.PathLike[str], flush_seconds: float = 10.0) -> None:
        self.lost = 0
        folder = files.place(directory)
        files.make_folder(folder)
        self._file, self.path = _create(folder)
        self._is_remote = stores.is_remote(folder)
        self._unsent = 0
        # Half of the interval is left for the disk.
        self._wait = flush_seconds / 2
        self._pending: list[_Pending] = []
        self._size = 0
        self._last_time = 0.0
        self._urgent = self._closed = self._writing = self._warned = False
        self._described: set[str] = set()
        self._said: dict[str, tuple[int, list[bytes]]] = {}
        self._end = 0
        self._changed = threading.Condition()
        try:
            self._append(framing.framed(protos.version_event(self._now())))
            files.sync_folder(folder)
        except OSError:
            self._file.close()
            with contextlib.suppress(OSError):
                self.path.unlink()
            raise
        self._thread = threading.Thread(
            target=self._run, name="keras_layerwise events", daemon=True
        )
        self._thread.start()
        # Keras calls no on_train_end when training raises.
        atexit.register(self.close)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Writes one scalar."""
        self.scalars({tag: value}, step)

    def scalars(self, values: Mapping[str, float], step: int, description: str = "") -> None:
        """Scalars of one step, in one event; `description` is shown beside their charts."""
        self._put(step, [protos.scalar(tag, value, description) for tag, value in values.items()])

    def vector(self, series: Series, tag: str, values: npt.ArrayLike, step: int) -> None:
        """Writes one event of a vector series: a float32 per row of `series`."""
        self.vectors([(series, tag, values)], step)

    def vectors(self, items: Iterable[tuple[Series, str, npt.ArrayLike]], step: int) -> None:
        """Writes one event of several vector series, each as for `vector`: all are kept or lost."""
        self._put(step, [protos.vector(*item) for item in items])

    def messages(
        self, series: Series, tag: str, messages: Sequence[dict[str, Any]], step: int
    ) -> None:
        """Writes one event of a message series: JSON objects.

        Messages of one step that come in several calls are said again with the
        later ones: TensorBoard's fast loader keeps one event per step and tag.
        """
        texts = [json.dumps(message, sort_keys=True).encode() for message in messages]
        last, said = self._said.get(tag, (step, []))
        texts = [*said, *texts] if last == step else texts
        self._said[tag] = step, texts
        self._put(step, [protos.messages(series, tag, texts)])

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Writes Markdown for TensorBoard's text page."""
        self._put(step, [protos.text(tag, markdown)])

    def image(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Writes a PNG image."""
        self._put(step, [protos.image(tag, png, width, height)])

    def histogram(self, tag: str, values: npt.ArrayLike, step: int) -> None:
        """Writes the distribution of `values`; what is not finite is left out."""
        self._put(step, [protos.histogram(tag, values)])

    def summary(self, proto: Any, step: int) -> None:
        """Writes a ready ``Summary`` (HParams, custom scalars), written as it is."""
        content = proto.SerializeToString()
        self._queue(step, len(content), lambda _: Summary.FromString(content))

    def flush(self) -> None:
        """Waits until what was handed over is written or counted as lost."""
        with self._changed:
            self._urgent = bool(self._pending)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._pending or self._writing), _PATIENCE)

    def close(self) -> None:
        """Writes what is pending and closes the file; a second call changes nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_PATIENCE)
        atexit.unregister(self.close)

    def _put(self, step: int, values: list[protos.Value]) -> None:
        size = sum(value.size for value in values)
        self._queue(step, size, lambda described: protos.summary(values, described))

    def _queue(self, step: int, size: int, build: Callable[[set[str]], Summary]) -> None:
        step = int(step)
        with self._changed:
            if self._closed or self._size + size > PENDING_LIMIT:
                self.lost += 1
                return
            self._pending.append(_Pending(self._now(), step, size, build))
            self._size += size
            self._urgent = self._urgent or self._size > _EARLY
            if len(self._pending) == 1 or self._urgent:
                self._changed.notify_all()

    def _now(self) -> float:
        """Gives the time, which for a reader of the file never runs backwards."""
        self._last_time = max(self._last_time, time.time())
        return self._last_time

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                # A store takes whole files only: the longer one is, the rarer it is sent.
                wait = max(self._wait, self._end / _SENT) if self._is_remote else self._wait
                self._changed.wait_for(lambda: self._urgent or self._closed, wait)
                batch, self._pending, self._size = self._pending, [], 0
                self._urgent, self._writing = False, True
                last = self._closed
            self._write(batch)
            with self._changed:
                self._writing = False
                self._changed.notify_all()
            if last:
                self.lost += self._unsent
                self._file.close()
                return

    def _write(self, batch: list[_Pending]) -> None:
        """Writes the events of `batch`, as many as the disk takes."""
        content = bytearray()
        ends: list[tuple[int, set[str]]] = []
        described = set(self._described)
        for pending in batch:
            try:
                summary = pending.build(described)
                content += framing.framed(protos.event(pending.wall_time, pending.step, summary))
            except Exception as error:  # an event that can not be built costs only itself
                self._lose(1, error)
                continue
            tags = {value.tag for value in summary.value if value.HasField("metadata")}
            described |= tags
            ends.append((len(content), tags))
        start = self._end
        failure = None
        try:
            self._append(content)
        except OSError as error:
            failure = error
            self._end = max([start, *(start + end for end, _ in ends if start + end <= self._end)])
            with contextlib.suppress(OSError):
                self._cut()
        for end, tags in ends:
            if start + end <= self._end:
                self._described |= tags
        # What is not sent yet is sent with what follows.
        self._unsent = self._unsent + len(ends) if failure and self._is_remote else 0
        if failure is not None:
            self._lose(sum(start + end > self._end for end, _ in ends), failure)

    def _append(self, content: bytes | bytearray) -> None:
        """Writes `content` where the last whole event ends, and moves `_end` on.

        A file that was removed takes no events.
        """
        self._cut()
        if not self._is_remote:
            self.path.stat()
        rest = memoryview(content)
        while rest:
            written = self._file.write(rest)
            self._end += written
            rest = rest[written:]
        files.sync(self._file.fileno())
        if self._is_remote:
            stores.send(self._file, self.path)

    def _cut(self) -> None:
        """Removes the half of an event that a failure may have left."""
        if self._file.seek(0, os.SEEK_END) != self._end:
            self._file.truncate(self._end)
            self._file.seek(self._end)

    def _lose(self, count: int, error: Exception) -> None:
        with self._changed:
            self.lost += count
        if self._warned:
            return
        self._warned = True
        # A filter that turns warnings into errors must not end this thread.
        with contextlib.suppress(RuntimeWarning):
            warnings.warn(
                f"Records for {self.path} are being lost ({type(error).__name__}: {error}). "
                "Training goes on, and later records are tried again.",
                RuntimeWarning,
                stacklevel=2,
            )


def _create(folder: Path) -> tuple[Any, Path]:
    """Makes a new file whose name sorts behind those that are there: readers go by name."""
    stamps = [
        int(match[1])
        for name in files.names_in(folder)
        if (match := re.match(r"events\.out\.tfevents\.(\d+)", name))
    ]
    stamp = max([int(time.time()), *(found + 1 for found in stamps)])
    name = f"{stamp:010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
    path = folder / f"events.out.tfevents.{name}"
    return files.create(path), path
