"""Event files: TensorBoard's protos on disk, from a thread of their own.

What TensorBoard's ``EventFileWriter`` costs a training step (it imports
TensorFlow, and computes a checksum byte by byte in Python) is avoided here:
handing a record over queues it, and a background thread builds, checks and
writes many records at once.
"""

import atexit
import contextlib
import functools
import itertools
import json
import os
import re
import socket
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata

from keras_layerwise.storage.schema import PLUGIN, Series

PENDING_LIMIT = 16 << 20
"""Bytes that may wait for a slow disk; records beyond them are lost."""

_EARLY = 1 << 20  # bytes that are written without waiting for the interval
_PATIENCE = 30.0  # seconds that a flush waits for a disk that hangs
_BUCKETS = 30  # as many as TensorBoard's own histograms
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
    first failure is a warning, records that could not be written are counted
    in `lost`, and whole records only are left in the file.

    Args:
        directory: created where it does not exist.
        flush_seconds: every record older than this is in the file, whatever
            happens to the process.

    Attributes:
        lost: number of records that could not be written.
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
        folder = _local(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self.path = _create(folder)
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
        version = Event(wall_time=self._now(), file_version="brain.Event:2")
        try:
            self._append(_framed(version.SerializeToString()))
        except OSError:
            self._file.close()
            self.path.unlink()
            raise
        self._thread = threading.Thread(
            target=self._run, name="keras_layerwise events", daemon=True
        )
        self._thread.start()
        # Keras calls no on_train_end when training raises.
        atexit.register(self.close)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """One scalar."""
        self.scalars({tag: value}, step)

    def scalars(self, values: Mapping[str, float], step: int, description: str = "") -> None:
        """Scalars of one step, in one record; `description` is shown beside their charts."""
        items = [(tag, float(value)) for tag, value in values.items()]

        def metadata() -> SummaryMetadata:
            return _metadata(scalar_metadata, DATA_CLASS_SCALAR, description)

        def build(described: set[str]) -> Summary:
            return Summary(
                value=[
                    Summary.Value(
                        tag=tag,
                        metadata=None if tag in described else metadata(),
                        tensor=TensorProto(dtype=DT_FLOAT, float_val=[value]),
                    )
                    for tag, value in items
                ]
            )

        self._put(step, 64 * len(items), build)

    def vector(self, series: Series, tag: str, values: npt.ArrayLike, step: int) -> None:
        """One record of a vector series: a float32 per row of `series`."""
        self.vectors([(series, tag, values)], step)

    def vectors(self, items: Iterable[tuple[Series, str, npt.ArrayLike]], step: int) -> None:
        """One record of several vector series, each as for `vector`: all are kept or lost."""
        taken = [(series, tag, np.array(values, dtype="<f4")) for series, tag, values in items]
        for series, tag, data in taken:
            if data.shape != (len(series.rows),):
                raise ValueError(
                    f"A record of {tag!r} holds one value per row, {len(series.rows)} in all; "
                    f"received the shape {data.shape}."
                )

        def build(described: set[str]) -> Summary:
            return Summary(
                value=[
                    Summary.Value(
                        tag=tag,
                        metadata=None if tag in described else _series_metadata(series),
                        tensor=_floats(data),
                    )
                    for series, tag, data in taken
                ]
            )

        self._put(step, sum(data.nbytes for _, _, data in taken), build)

    def messages(
        self, series: Series, tag: str, messages: Sequence[dict[str, Any]], step: int
    ) -> None:
        """One record of a message series: JSON objects.

        Messages of one step that come in several calls are said again with the
        later ones: TensorBoard's fast loader keeps one record per step and tag.
        """
        texts = [json.dumps(message, sort_keys=True).encode() for message in messages]
        last, said = self._said.get(tag, (step, []))
        texts = [*said, *texts] if last == step else texts
        self._said[tag] = step, texts
        self._put_tensor(
            tag,
            step,
            sum(map(len, texts)),
            lambda: _series_metadata(series),
            lambda: _strings(texts),
        )

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Markdown for TensorBoard's text page."""
        content = markdown.encode()

        def metadata() -> SummaryMetadata:
            return _metadata(text_metadata, DATA_CLASS_TENSOR)

        self._put_tensor(tag, step, len(content), metadata, lambda: _strings([content]))

    def image(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """A PNG image."""

        def metadata() -> SummaryMetadata:
            return _metadata(image_metadata, DATA_CLASS_BLOB_SEQUENCE)

        parts = [str(width).encode(), str(height).encode(), png]
        self._put_tensor(tag, step, len(png), metadata, lambda: _strings(parts))

    def histogram(self, tag: str, values: npt.ArrayLike, step: int) -> None:
        """The distribution of `values`; what is not finite is left out."""
        buckets = _buckets(np.asarray(values))

        def metadata() -> SummaryMetadata:
            return _metadata(histogram_metadata, DATA_CLASS_TENSOR)

        self._put_tensor(tag, step, buckets.nbytes, metadata, lambda: _floats(buckets))

    def summary(self, proto: Any, step: int) -> None:
        """A ready ``Summary`` (HParams, custom scalars), written as it is."""
        content = proto.SerializeToString()
        self._put(step, len(content), lambda _: Summary.FromString(content))

    def flush(self) -> None:
        """Waits until what was handed over is written or counted as lost."""
        with self._changed:
            self._urgent = bool(self._pending)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._pending or self._writing), _PATIENCE)

    def close(self) -> None:
        """Writes what is pending and closes the file; again is harmless."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_PATIENCE)
        atexit.unregister(self.close)

    def _put_tensor(
        self,
        tag: str,
        step: int,
        size: int,
        metadata: Callable[[], SummaryMetadata],
        tensor: Callable[[], TensorProto],
    ) -> None:
        def build(described: set[str]) -> Summary:
            found = None if tag in described else metadata()
            return Summary(value=[Summary.Value(tag=tag, metadata=found, tensor=tensor())])

        self._put(step, size, build)

    def _put(self, step: int, size: int, build: Callable[[set[str]], Summary]) -> None:
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
        """The time, which for a reader of the file never runs backwards."""
        self._last_time = max(self._last_time, time.time())
        return self._last_time

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                self._changed.wait_for(lambda: self._urgent or self._closed, self._wait)
                batch, self._pending, self._size = self._pending, [], 0
                self._urgent, self._writing = False, True
                last = self._closed
            self._write(batch)
            with self._changed:
                self._writing = False
                self._changed.notify_all()
            if last:
                self._file.close()
                return

    def _write(self, batch: list[_Pending]) -> None:
        """Writes the records of `batch`, as many as the disk takes."""
        content = bytearray()
        ends: list[tuple[int, set[str]]] = []
        described = set(self._described)
        for pending in batch:
            try:
                summary = pending.build(described)
                event = Event(wall_time=pending.wall_time, step=pending.step, summary=summary)
                content += _framed(event.SerializeToString())
            except Exception as error:  # a record that can not be built costs only itself
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
        if failure is not None:
            self._lose(sum(start + end > self._end for end, _ in ends), failure)

    def _append(self, content: bytes | bytearray) -> None:
        """Writes `content` where the last whole record ends, and moves `_end` on.

        A file that was removed takes no records.
        """
        self._cut()
        self.path.stat()
        rest = memoryview(content)
        while rest:
            written = self._file.write(rest)
            self._end += written
            rest = rest[written:]

    def _cut(self) -> None:
        """Removes the half of a record that a failure may have left."""
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


def _local(directory: str | os.PathLike[str]) -> Path:
    if re.match(r"[a-z][a-z0-9+.-]+://", os.fspath(directory)):
        raise OSError(
            f"Event files are written to a local directory; received {os.fspath(directory)!r}. "
            "Mount the storage, or copy the directory there."
        )
    return Path(directory)


def _create(folder: Path) -> tuple[Any, Path]:
    """A new file whose name sorts behind those that are there: readers go by name."""
    stamps = [
        int(match[1])
        for path in folder.iterdir()
        if (match := re.match(r"events\.out\.tfevents\.(\d+)", path.name))
    ]
    stamp = max([int(time.time()), *(found + 1 for found in stamps)])
    name = f"{stamp:010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
    path = folder / f"events.out.tfevents.{name}"
    return path.open("xb", buffering=0), path


def _metadata(plugin: Any, data_class: Any, description: str = "") -> SummaryMetadata:
    found = plugin.create_summary_metadata(display_name=None, description=description)
    found.data_class = data_class
    return found


def _series_metadata(series: Series) -> SummaryMetadata:
    return SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN, content=series.to_bytes()),
        data_class=DATA_CLASS_TENSOR,
    )


def _shape(*sizes: int) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _floats(values: npt.NDArray[Any]) -> TensorProto:
    return TensorProto(
        dtype=DT_FLOAT, tensor_shape=_shape(*values.shape), tensor_content=values.tobytes()
    )


def _strings(texts: Iterable[bytes]) -> TensorProto:
    texts = list(texts)
    return TensorProto(dtype=DT_STRING, tensor_shape=_shape(len(texts)), string_val=texts)


def _buckets(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Rows of (left, right, count), as TensorBoard's histograms are stored."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return np.zeros((0, 3), "<f4")
    counts, edges = np.histogram(finite, bins=_BUCKETS)
    return np.stack([edges[:-1], edges[1:], counts], axis=1).astype("<f4")


def _framed(data: bytes) -> bytes:
    """A record of an event file: length and content, each with its checksum."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        [length, struct.pack("<I", _masked(length)), data, struct.pack("<I", _masked(data))]
    )


def _masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


_BLOCK = 256


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) checksum of at least 4 bytes.

    A checksum is linear in its input: each byte of a block adds (by xor) a
    value that only the byte and its place decide, so one table look-up over
    all bytes and one reduction do a block. Zeros before the data change
    nothing; the state goes into the first four bytes of the next block.
    """
    places, head = _tables()
    block = np.zeros(-(-len(data) // _BLOCK) * _BLOCK, np.uint8)
    start = block.size - len(data)
    block[start:] = np.frombuffer(data, np.uint8)
    block[start : start + 4] ^= 0xFF
    index = places[0] + block.reshape(-1, _BLOCK)
    first, second, third, fourth = head
    state = 0
    for part in np.bitwise_xor.reduce(places[1].take(index), axis=1).tolist():
        state = (
            part
            ^ first[state & 0xFF]
            ^ second[state >> 8 & 0xFF]
            ^ third[state >> 16 & 0xFF]
            ^ fourth[state >> 24]
        )
    return state ^ 0xFFFFFFFF


@functools.cache
def _tables() -> tuple[tuple[npt.NDArray[Any], npt.NDArray[Any]], list[list[int]]]:
    """What a byte at each place of a block adds to the checksum."""
    byte = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        byte = np.where(byte & 1, byte >> 1 ^ np.uint32(0x82F63B78), byte >> 1)
    table = np.empty((_BLOCK, 256), np.uint32)
    table[-1] = byte
    for place in range(_BLOCK - 2, -1, -1):
        later = table[place + 1]
        table[place] = byte[later & 0xFF] ^ later >> 8
    offsets = np.arange(_BLOCK, dtype=np.intp) * 256
    return (offsets, table.ravel()), [table[place].tolist() for place in range(4)]
