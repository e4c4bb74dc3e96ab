"""Where values go besides event files: what a sink is, and one that writes a table."""

import contextlib
import csv
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, runtime_checkable

import numpy as np
import numpy.typing as npt

from keras_layerwise.storage import files
from keras_layerwise.storage.schema import Series


@runtime_checkable
class Sink(Protocol):
    """Takes what a run writes, step by step; the event files of TensorBoard are one sink.

    The callbacks take ``sinks=[...]`` and hand each of them all that goes to
    TensorBoard. A class of one's own needs the six methods and no base class.

    - ``vectors``: one value for each row of a `Series`, several series at a time.
    - ``scalars``: numbers by tag.
    - ``messages``: alarms, changes and the run record, as plain values.
    - ``text``: Markdown.
    - ``image``: a PNG file's bytes, with its size in pixels.
    - ``close``: training has ended. A later ``fit`` may use the sink again.

    Example:
    >>> class Printed:
    ...     def vectors(self, items, step):
    ...         for series, tag, values in items:
    ...             print(step, series.statistic, dict(zip([r.name for r in series.rows], values)))
    ...
    ...     def scalars(self, values, step, description=""): ...
    ...     def messages(self, series, tag, messages, step): ...
    ...     def text(self, tag, markdown, step): ...
    ...     def image(self, tag, png, width, height, step): ...
    ...     def close(self): ...
    >>> isinstance(Printed(), Sink)
    True
    """

    def vectors(self, items: Iterable[tuple[Series, str, npt.ArrayLike]], step: int) -> None:
        """Takes values of several series at one step: ``(series, tag, one value per row)``."""

    def scalars(self, values: Mapping[str, float], step: int, description: str = "") -> None:
        """Takes numbers by tag."""

    def messages(
        self, series: Series, tag: str, messages: Sequence[dict[str, Any]], step: int
    ) -> None:
        """Takes plain values that JSON can hold."""

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Takes Markdown."""

    def image(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Takes a PNG image."""

    def close(self) -> None:
        """Ends what was begun; again is harmless."""


class Sinks:
    """Hands everything to each of several sinks.

    A sink that raises is warned about once and gets nothing more until
    `close`: training goes on, and the other sinks get everything.

    Example:
    >>> sinks = Sinks([])
    >>> sinks.scalars({"loss": 0.5}, step=1)
    """

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self.sinks = tuple(sinks)
        for sink in self.sinks:
            if not isinstance(sink, Sink):
                raise TypeError(
                    "A sink has the methods vectors, scalars, messages, text, image and close; "
                    f"received {sink!r:.100}."
                )
        self._failed: set[int] = set()

    def vectors(self, items: Iterable[tuple[Series, str, npt.ArrayLike]], step: int) -> None:
        """Takes them as `Sink` says."""
        self._each("vectors", list(items), step)

    def scalars(self, values: Mapping[str, float], step: int, description: str = "") -> None:
        """Takes them as `Sink` says."""
        self._each("scalars", values, step, description)

    def messages(
        self, series: Series, tag: str, messages: Sequence[dict[str, Any]], step: int
    ) -> None:
        """Takes them as `Sink` says."""
        self._each("messages", series, tag, messages, step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Takes them as `Sink` says."""
        self._each("text", tag, markdown, step)

    def image(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Takes them as `Sink` says."""
        self._each("image", tag, png, width, height, step)

    def close(self) -> None:
        """Closes every sink."""
        self._each("close")
        self._failed.clear()

    def _each(self, method: str, *arguments: Any) -> None:
        for sink in self.sinks:
            if id(sink) in self._failed and method != "close":
                continue
            try:
                getattr(sink, method)(*arguments)
            except Exception as error:  # a user's code: it must not end the training
                if id(sink) in self._failed:
                    continue
                self._failed.add(id(sink))
                warnings.warn(
                    f"The sink {type(sink).__name__} failed in {method}() "
                    f"({type(error).__name__}: {error}) and gets nothing more of this training.",
                    RuntimeWarning,
                    stacklevel=3,
                )


class CSVSink:
    """Writes a run's numbers, messages and texts to one table that pandas and R read.

    Each line is one value: ``step, kind, name, row, part, value, text``. The
    kind is ``drift``, ``rates``, ``scalars``, ``alarms``, ``changes``,
    ``record`` or ``text``; the name is the statistic or the tag; the row is the
    layer or weight, with its part of the network's outline. Images are left out.

    The file is made at the first value, and is never written over: where
    `path` exists, ``name-2.csv``, ``-3`` … is used. One object writes one file,
    over as many ``fit`` calls as it is used for.

    Args:
        path: the file; its folder is created.

    Attributes:
        path: the file that is written; final after the first value.

    Example:
    >>> import tempfile
    >>> from keras_layerwise.storage.schema import Row
    >>> sink = CSVSink(Path(tempfile.mkdtemp()) / "run.csv")
    >>> rows = (Row("dense", True, False, 6), Row("head", True, False, 2))
    >>> sink.vectors([(Series("drift", rows, "l2"), "layerwise/drift/l2", [0.5, 0.25])], step=4)
    >>> sink.close()
    >>> print(sink.path.read_text(), end="")
    step,kind,name,row,part,value,text
    4,drift,l2,dense,,0.5,
    4,drift,l2,head,,0.25,
    """

    COLUMNS = ("step", "kind", "name", "row", "part", "value", "text")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Absolute: the program may change its directory before the first value.
        self.path = files.local(path)
        self._begun = False
        self._file: TextIO | None = None

    def vectors(self, items: Iterable[tuple[Series, str, npt.ArrayLike]], step: int) -> None:
        """Writes a line for each row of each series."""
        self._write(
            (step, series.kind, _name(series) or tag, row.name, row.part, value, "")
            for series, tag, values in items
            for row, value in zip(series.rows, np.asarray(values).tolist(), strict=True)
        )

    def scalars(self, values: Mapping[str, float], step: int, description: str = "") -> None:
        """Writes a line for each number."""
        self._write(
            (step, "scalars", tag, "", "", float(value), "") for tag, value in values.items()
        )

    def messages(
        self, series: Series, tag: str, messages: Sequence[dict[str, Any]], step: int
    ) -> None:
        """Writes a line for each message, with its JSON as the text."""
        self._write(
            (
                message.get("step", step),
                series.kind,
                message.get("kind") or message.get("what") or tag,
                message.get("row", ""),
                "",
                "",
                json.dumps(message, sort_keys=True, ensure_ascii=False),
            )
            for message in messages
        )

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Writes one line."""
        self._write([(step, "text", tag, "", "", "", markdown)])

    def image(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Leaves the image out: a table holds none."""

    def close(self) -> None:
        """Closes the file; a later value opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _write(self, lines: Iterable[Sequence[Any]]) -> None:
        if self._file is None:
            self._file = self._open()
        csv.writer(self._file, lineterminator="\n").writerows(lines)
        self._file.flush()  # so that a killed process loses nothing that was handed over

    def _open(self) -> TextIO:
        if self._begun:
            return _opened(self.path, "a")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        wanted, number = self.path, 1
        while True:
            with contextlib.suppress(FileExistsError):
                file = _opened(self.path, "x")
                break
            number += 1
            self.path = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        self._begun = True
        csv.writer(file, lineterminator="\n").writerow(self.COLUMNS)
        return file


def _opened(path: Path, mode: Literal["a", "x"]) -> TextIO:
    # The escape of what is no UTF-8 is JSON's own.
    return path.open(mode, newline="", encoding="utf-8", errors="backslashreplace")


def _name(series: Series) -> str | None:
    """Gives the statistic that `series` has values of."""
    return series.statistic or (series.facts.name if series.facts else None)
