"""What runs wrote, read back: the one place that knows what a series means on disk.

`Log` reads a directory's event files itself; the tab gets the same bytes from
TensorBoard and takes `series_of`, `vector_of`, `message_of` and `merge_rows` from here.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING

from keras_layerwise.storage import files
from keras_layerwise.storage.framing import unframed
from keras_layerwise.storage.schema import DRIFT_DIR, PLUGIN, STATISTICS, Row, SchemaError, Series
from keras_layerwise.storage.values import parsed


def series_of(content: bytes) -> Series:
    """Reads the plugin data of a tag.

    Raises:
        SchemaError: for what no version of the package wrote.
    """
    series = Series.parse(content)
    if len({row.name for row in series.rows}) != len(series.rows):
        raise SchemaError("The rows of a series must have names that differ.")
    own = series.facts.name if series.facts else None
    if series.statistic not in (None, own, *STATISTICS):
        raise SchemaError(f"Unknown statistic {series.statistic!r:.80}.")
    return series


def vector_of(tensor: TensorProto, series: Series) -> npt.NDArray[np.float32]:
    """Reads one value for each row of `series`.

    Raises:
        SchemaError: for a tensor of another type or size.
    """
    if tensor.dtype != DT_FLOAT or len(tensor.tensor_content) != 4 * len(series.rows):
        raise SchemaError(
            f"A vector of {len(series.rows)} float32 is {4 * len(series.rows)} bytes long; found "
            f"{len(tensor.tensor_content)} bytes of type {tensor.dtype}."
        )
    return np.frombuffer(tensor.tensor_content, "<f4")


def message_of(text: bytes | str) -> dict[str, Any]:
    """Reads one message.

    Raises:
        SchemaError: for what is no JSON object.
    """
    try:
        message = parsed(text)
    except (ValueError, TypeError):
        message = None
    if not isinstance(message, dict):
        raise SchemaError(f"unreadable message {text!r:.80}")
    return message


def merge_rows(described: Iterable[Sequence[Row]]) -> tuple[Row, ...]:
    """Gives the rows of all sources in the model's order, each as it was first described.

    Example:
    >>> row = lambda name: Row(name, True, False, 1)
    >>> [r.name for r in merge_rows([[row("a"), row("c")], [row("a"), row("b"), row("c")]])]
    ['a', 'b', 'c']
    """
    merged: list[Row] = []
    known: set[str] = set()
    for rows in described:
        if known.issuperset(row.name for row in rows):
            continue
        at = 0
        for row in rows:
            if row.name in known:
                at = next(i for i, other in enumerate(merged) if other.name == row.name) + 1
                continue
            merged.insert(at, row)
            known.add(row.name)
            at += 1
    return tuple(merged)


class Log:
    """The series of one directory of a run, read from its event files.

    What is damaged is left out and said in `problems`; the rest is read.

    Args:
        directory: such as ``<log_dir>/drift``; one that is not there has no series.

    Attributes:
        series: by tag, in the order in which they came.
        vectors: for each tag its ``(step, values)``, in the order in which they came.
        messages: for each tag its messages, each once.
        problems: what could not be read, in words.
    """

    def __init__(self, directory: Path) -> None:
        self.series: dict[str, Series] = {}
        self.vectors: dict[str, list[tuple[int, npt.NDArray[np.float32]]]] = {}
        self.problems: list[str] = []
        self._said: dict[str, dict[str, dict[str, Any]]] = {}
        for event in self._events(directory):
            for value in event.summary.value:
                try:
                    self._take(event.step, value)
                except SchemaError as error:
                    self._note(f"{value.tag:.80}: {error}")

    @property
    def messages(self) -> dict[str, list[dict[str, Any]]]:
        """For each tag its messages, each once: those of one step are written again with later."""
        return {tag: list(said.values()) for tag, said in self._said.items()}

    def tags(self, kind: str) -> list[str]:
        """Gives the tags of one kind that have values, the one that was written to last at the end.

        A tag whose rows were replaced by others, in mid-run or on resuming, ends early.
        """
        found = [tag for tag, series in self.series.items() if series.kind == kind]
        said = [tag for tag in found if tag in self._said]
        steps = {tag: self.vectors[tag][-1][0] for tag in found if tag in self.vectors}
        return said or sorted(steps, key=lambda tag: steps[tag])

    def _events(self, directory: Path) -> Iterator[Event]:
        for path in sorted(directory.glob("events.out.tfevents.*")):
            if not path.is_file():  # a pipe would be waited for
                continue
            try:
                for content in unframed(path):
                    yield Event.FromString(content)
            except (OSError, DecodeError) as error:
                self._note(f"{path.name}: {error}")

    def _take(self, step: int, value: Any) -> None:
        if value.metadata.plugin_data.plugin_name == PLUGIN and value.tag not in self.series:
            self.series[value.tag] = series_of(value.metadata.plugin_data.content)
        series = self.series.get(value.tag)
        if series is None:  # another plugin's, or one that could not be read
            return
        if series.rows:
            vector = vector_of(value.tensor, series)
            self.vectors.setdefault(value.tag, []).append((step, vector))
        elif value.tensor.dtype == DT_STRING:
            said = self._said.setdefault(value.tag, {})
            for text in value.tensor.string_val:
                message = message_of(text)
                key = json.dumps(message, sort_keys=True)
                said.pop(key, None)  # where it came again, it is the latest
                said[key] = message

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def final_drift(run: str | Path) -> dict[str, Any]:
    """Gives the last value of each drift statistic, for each layer and each part of the network.

    Returns:
        ``{"step": n, "reference": ..., "layers": [...], "parts": [...],
        "alarms": [...], "problems": [...]}``, each layer and part
        ``{"name": ..., "part": ..., "trainable": ..., "frozen": ...,
        "parameters": ..., "l2": ..., ...}``; a statistic that is not defined
        for it is left out.
    """
    log = Log(files.place(run) / DRIFT_DIR)
    layers, parts = _final(log, "drift"), _final(log, "blocks")
    for tag in log.tags("frozen"):
        for row, value in zip(log.series[tag].rows, log.vectors[tag][-1][1], strict=True):
            if row.name in layers:
                layers[row.name]["frozen"] = bool(value)
    drift = log.tags("blocks") + log.tags("drift")
    return {
        "step": max((log.vectors[tag][-1][0] for tag in drift), default=None),
        "reference": log.series[drift[-1]].reference if drift else None,
        "layers": list(layers.values()),
        "parts": list(parts.values()),
        "alarms": [message for tag in log.tags("alarms") for message in log.messages[tag]],
        "problems": log.problems,
    }


def _final(log: Log, kind: str) -> dict[str, dict[str, Any]]:
    """Gives the last value of each statistic by row."""
    tags = log.tags(kind)
    found: dict[str, dict[str, Any]] = {
        row.name: asdict(row) for row in merge_rows(log.series[tag].rows for tag in tags)
    }
    for tag in tags:
        series, (_, values) = log.series[tag], log.vectors[tag][-1]
        statistic = series.statistic or (series.facts.name if series.facts else kind)
        for row, number in zip(series.rows, values.tolist(), strict=True):
            entry = found[row.name] = {**found[row.name], **asdict(row)}
            entry.pop(statistic, None)
            if math.isfinite(number):
                entry[statistic] = number
    return found
