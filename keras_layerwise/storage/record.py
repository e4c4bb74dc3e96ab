"""The run record: what a run was configured with and what became of it, in one file.

Reading it back parses JSON and runs no code.
"""

import dataclasses
import html
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_layerwise.storage import compact, files, run_file, stores
from keras_layerwise.storage.schema import RECORD_FILE
from keras_layerwise.storage.values import (
    Differences,
    as_text,
    differences,
    fingerprint,
    flat,
    is_unknown,
    parsed,
)
from keras_layerwise.tables import render_html

VERSION = 1
PACKED = 2  # of files, in which what layers and weights have alike is written once

RUNTIME = "runtime"
GROUPS = ("architecture", "training", "regularization", RUNTIME, "user")

RUNNING, FINISHED, FAILED = "running", "finished", "failed"
DIVERGED = "diverged"


class RecordError(ValueError):
    """A directory without a record, or a file that is none."""


@dataclass(frozen=True)
class Record:
    """What a run was configured with, and what became of it.

    ``record[group]`` gives nested plain values, for each of the five `GROUPS`:
    the hyperparameters (``architecture``, ``training``, ``regularization``,
    ``user``) and the ``runtime`` they ran in.

    Attributes:
        values: the groups.
        status: ``"running"``, ``"finished"``, ``"diverged"`` (it came to its end,
            with a loss that is no number) or ``"failed"``. A run that was killed
            stays ``"running"``: nothing could be written any more.
        started: when training began, ISO 8601, UTC.
        ended: when it ended; None while it runs.
        seen: when it was last alive, of a run that is still ``"running"``.
        fingerprints: SHA-256 of ``hyperparameters``, ``runtime``,
            ``initial_weights`` and, after the end, ``final_weights``.
        layers: names of layers as the record has them to names in the
            process that trained, where the two differ.
        results: ``final`` and ``best`` value of the loss and each metric; what is
            no number is ``"nan"``, ``"inf"`` or ``"-inf"``.
        timeline: changes of the learning rate, each ``step``, ``old``, ``new``.
        changes: what a recorded callback changed by plan (`GradualUnfreeze`),
            each ``step``, ``key``, ``old``, ``new``.
        overrides: what `override` changed, each ``step``, ``key``, ``old``,
            ``new``; ``step`` is None before the first training.
        violations: what changed otherwise, in the same form.
        phases: what was changed between two fits of the run: each the ``step``, the
            ``time`` and ``changes``, each ``key``, ``old``, ``new``.
        resumptions: when and at which step training went on in this directory.
        error: what ended a failed run.
        provenance: git commit, command line, host, process and packages of
            the process that began the run; no part of what is compared.
        sources: source of the user's functions and classes by the tag of
            their code; shown, and no part of what is compared.
        end_file: the event file that holds the end of the HParams session.

    Example:

    >>> record = Record({"user": {"seed": 1}}, status="finished")
    >>> record["user"], record.status
    ({'seed': 1}, 'finished')
    """

    values: Mapping[str, Any]
    status: str = RUNNING
    started: str | None = None
    ended: str | None = None
    seen: str | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    timeline: Sequence[Mapping[str, Any]] = field(default_factory=list)
    changes: Sequence[Mapping[str, Any]] = field(default_factory=list)
    overrides: Sequence[Mapping[str, Any]] = field(default_factory=list)
    violations: Sequence[Mapping[str, Any]] = field(default_factory=list)
    phases: Sequence[Mapping[str, Any]] = field(default_factory=list)
    resumptions: Sequence[Mapping[str, Any]] = field(default_factory=list)
    error: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    end_file: str | None = None

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The groups that were set for the run: all but ``runtime``."""
        return {key: value for key, value in self.values.items() if key != RUNTIME}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the hyperparameters, in hexadecimal."""
        return fingerprint(self.hyperparameters)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The keys whose values could not be read, so that nobody knows whether they differ.

        Example:

        >>> Record({"training": {"loss": "unknown", "epochs": 3}}).unknown
        ('training/loss',)
        """
        known = {group: value for group, value in self.values.items() if group != "user"}
        return tuple(key for key, value in flat(known).items() if is_unknown(value))

    def diff(self, other: "Record") -> Differences:
        """Gives every key, hyperparameter or runtime, whose value is another in `other`.

        As text it says "the same", or "the same as far as known" with the
        keys, its ``unknown``, that one of the two records does not know.

        Example:

        >>> Record({"user": {"seed": 1}}).diff(Record({"user": {"seed": 2}}))
        (Difference(key='user/seed', old=1, new=2),)
        >>> record = Record({"training": {"batch_size": "unknown"}})
        >>> print(record.diff(record))
        the same as far as known; unknown: training/batch_size
        """
        return differences(flat(self.values), flat(other.values))

    def _repr_html_(self) -> str:
        """Gives the record for a notebook: what came out and what the user set, the rest folded."""
        title = f"Run: {self.status}" + (f", began {self.started}" if self.started else "")
        parts = {"results": self.results, "user": self.values.get("user", {}), **self.values}
        shown = {name: flat(values) for name, values in parts.items()}
        if self.error:
            shown = {"error": {"error": self.error}, **shown}
        return f"<strong>{html.escape(title)}</strong>" + "".join(
            f"<details{'' if name in self.values and name != 'user' else ' open'}>"
            f"<summary>{name} ({len(values)})</summary>"
            + render_html(name, ("Key", "Value"), ((k, as_text(v)) for k, v in values.items()))
            + "</details>"
            for name, values in shown.items()
            if values
        )

    def to_json(self) -> dict[str, Any]:
        """Gives the record as the plain values of its file."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"version": VERSION, **fields.pop("values"), **fields}

    @classmethod
    def from_json(cls, data: Any) -> "Record":
        """Reads `to_json` back, and what `save_record` wrote.

        Raises:
            RecordError: for what is no record, or one of another version.
        """
        if not isinstance(data, dict) or type(data.get("version")) is not int:
            raise RecordError("This is no record of keras_layerwise: it has no version.")
        if data["version"] not in (VERSION, PACKED):
            raise RecordError(
                f"The record has version {data['version']}; this keras_layerwise reads {VERSION} "
                f"and {PACKED}. Read it with the version that wrote it."
            )
        known = {f.name for f in dataclasses.fields(cls)} - {"values"}
        missing = [group for group in GROUPS if not isinstance(data.get(group), dict)]
        if missing:
            raise RecordError(f"This is no complete record: it has no {', '.join(missing)}.")
        values = {group: data[group] for group in GROUPS}
        try:
            if data["version"] == PACKED:
                values = compact.unpacked(values)
            flat(values)
        except ValueError as error:
            raise RecordError(str(error)) from None
        record = cls(
            values=values,
            **{name: data[name] for name in known if name in data},
        )
        _check(record)
        return record


def _check(record: Record) -> None:
    """Refuses fields of another type: a reader may rely on what `Record` says of them."""
    for entry in dataclasses.fields(Record):
        value = getattr(record, entry.name)
        if entry.default_factory is dict:
            fits = isinstance(value, dict)
        elif entry.default_factory is list:
            fits = isinstance(value, list) and all(isinstance(member, dict) for member in value)
        else:
            fits = isinstance(value, (str, type(entry.default))) or entry.name == "values"
        if not fits:
            raise RecordError(f"The field {entry.name!r} can not be {value!r:.80}.")
    if not all(isinstance(found, dict) for found in record.results.values()):
        raise RecordError(f"The field 'results' can not be {record.results!r:.80}.")
    texts = [*record.fingerprints.values(), *record.layers.values()]
    if not all(isinstance(text, str) for text in texts):
        raise RecordError("The fields 'fingerprints' and 'layers' hold texts only.")
    try:
        for found in (record.results, record.provenance):
            flat(found)
    except ValueError as error:
        raise RecordError(str(error)) from None


def load_record(log_dir: str | os.PathLike[str]) -> Record:
    """Reads the record of a run; parses JSON, runs no code.

    Args:
        log_dir: the directory that ``FreezeHyperparameters`` wrote to, or the
            file in it.

    Raises:
        RecordError: (a ``ValueError``) where there is no record.

    Example:

    >>> import tempfile
    >>> log_dir = tempfile.mkdtemp()
    >>> _ = save_record(Record({group: {} for group in GROUPS}), log_dir)
    >>> load_record(log_dir).status
    'running'
    """
    path = files.place(log_dir) if stores.is_url(log_dir) else Path(log_dir)
    try:
        with stores.asked(path):
            if path.is_dir() or path.name != RECORD_FILE:
                path = path / RECORD_FILE
            is_there = path.is_file()
    except OSError as error:
        raise RecordError(f"{str(path)!r} can not be read: {error}") from error
    if not is_there:
        raise RecordError(
            f"{str(log_dir)!r} is no run: it has no {RECORD_FILE}. Give the log_dir of a "
            "FreezeHyperparameters callback."
        )
    try:
        data = parsed(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{str(path)!r} can not be read as a record: {error}") from error
    try:
        record = Record.from_json(data)
    except RecordError as error:
        raise RecordError(f"{str(path)!r}: {error}") from None
    # Within an epoch only the mark is written, which is small.
    mark = run_file.read(path.parent) if record.status == RUNNING else None
    if mark is not None and mark.seen > (record.seen or ""):
        record = dataclasses.replace(record, seen=mark.seen)
    return record


def save_record(record: Record, log_dir: str | os.PathLike[str]) -> Path:
    """Writes the record's file so that a reader sees the old or the new, whole."""
    path = files.place(log_dir) / RECORD_FILE
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    texts = _encoded(fields.pop("values")) | _texts({"version": PACKED, **fields})
    content = ",\n".join(f' "{name}": {texts[name]}' for name in sorted(texts))
    with files.replacing(path) as file:
        # The escape of what is no UTF-8 is JSON's own.
        file.write(f"{{\n{content}\n}}\n".encode("utf-8", "backslashreplace"))
    return path


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Gives each value as JSON, set in as members of an object are."""
    options: dict[str, Any] = {"sort_keys": True, "ensure_ascii": False, "allow_nan": False}
    return {
        name: json.dumps(value, indent=1, **options).replace("\n", "\n ")
        for name, value in values.items()
    }


_last: tuple[Mapping[str, Any], dict[str, str]] = {}, {}


def _encoded(values: Mapping[str, Any]) -> dict[str, str]:
    """Gives the groups as JSON: made once for a run, whose record is saved at each epoch."""
    global _last
    if _last[0] is not values:
        _last = values, _texts(compact.packed(values))
    return _last[1]
