"""What TensorBoard's own dashboards and the tab read, as protos: values in, protos out."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
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

_BUCKETS = 30  # as many as TensorBoard's own histograms


class Value(NamedTuple):
    """One value of an event, built when it is written.

    Attributes:
        tag: of its chart.
        size: about how many bytes it holds until then.
        metadata: makes what a file says once for each tag.
        tensor: makes what it says each time.
    """

    tag: str
    size: int
    metadata: Callable[[], SummaryMetadata]
    tensor: Callable[[], TensorProto]


def scalar(tag: str, value: float, description: str = "") -> Value:
    """Makes the summary of a number; `description` is shown beside its chart."""
    return Value(
        tag,
        64,
        partial(_metadata, scalar_metadata, DATA_CLASS_SCALAR, description),
        partial(TensorProto, dtype=DT_FLOAT, float_val=[float(value)]),
    )


def vector(series: Series, tag: str, values: npt.ArrayLike) -> Value:
    """Makes one float32 for each row of `series`.

    Raises:
        ValueError: for another number of values.
    """
    data = np.array(values, dtype="<f4")
    if data.shape != (len(series.rows),):
        raise ValueError(
            f"A record of {tag!r} holds one value per row, {len(series.rows)} in all; "
            f"received the shape {data.shape}."
        )
    return Value(tag, data.nbytes, partial(_series_metadata, series), partial(_floats, data))


def messages(series: Series, tag: str, texts: Sequence[bytes]) -> Value:
    """Makes messages, each the text of a JSON object."""
    size = sum(map(len, texts))
    return Value(tag, size, partial(_series_metadata, series), partial(_strings, texts))


def text(tag: str, markdown: str) -> Value:
    """Makes Markdown for the text dashboard; what is no UTF-8 is written out."""
    content = markdown.encode(errors="backslashreplace")
    return Value(
        tag,
        len(content),
        partial(_metadata, text_metadata, DATA_CLASS_TENSOR),
        partial(_strings, [content]),
    )


def image(tag: str, png: bytes, width: int, height: int) -> Value:
    """Makes a PNG image."""
    return Value(
        tag,
        len(png),
        partial(_metadata, image_metadata, DATA_CLASS_BLOB_SEQUENCE),
        partial(_strings, [str(width).encode(), str(height).encode(), png]),
    )


def histogram(tag: str, values: npt.ArrayLike) -> Value:
    """Makes the distribution of `values`; what is not finite is left out."""
    buckets = _buckets(np.asarray(values))
    return Value(
        tag,
        buckets.nbytes,
        partial(_metadata, histogram_metadata, DATA_CLASS_TENSOR),
        partial(_floats, buckets),
    )


def version_event(wall_time: float) -> bytes:
    """Makes the first event of every file."""
    event = Event(wall_time=wall_time, file_version="brain.Event:2")
    return bytes(event.SerializeToString())


def event(wall_time: float, step: int, summary: Summary) -> bytes:
    """Makes an event as it stands in a file."""
    return bytes(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString())


def summary(values: Iterable[Value], described: set[str]) -> Summary:
    """Makes the values of one event; those whose tag is in `described` come without metadata."""
    return Summary(
        value=[
            Summary.Value(
                tag=value.tag,
                metadata=None if value.tag in described else value.metadata(),
                tensor=value.tensor(),
            )
            for value in values
        ]
    )


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


def _strings(texts: Sequence[bytes]) -> TensorProto:
    return TensorProto(dtype=DT_STRING, tensor_shape=_shape(len(texts)), string_val=texts)


def _buckets(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Rows of (left, right, count), as TensorBoard's histograms are stored."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return np.zeros((0, 3), "<f4")
    counts, edges = np.histogram(finite, bins=_BUCKETS)
    return np.stack([edges[:-1], edges[1:], counts], axis=1).astype("<f4")
