"""The record of a run: plain values, compared, fingerprinted, kept in one file.

Reading a record back parses JSON and runs no code; nothing here imports Keras.
"""

import contextlib
import dataclasses
import enum
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from keras_layerwise.storage.schema import RECORD_FILE

VERSION = 1
UNKNOWN = "unknown"
NEVER_SET = "never set"
ABSENT = "(absent)"

RUNTIME = "runtime"
GROUPS = ("architecture", "training", "regularization", RUNTIME, "user")

RUNNING, FINISHED, FAILED = "running", "finished", "failed"
DIVERGED = "diverged"


class RecordError(ValueError):
    """A directory without a record, or a file that is none."""


class Difference(NamedTuple):
    """A key whose value differs; `ABSENT` where one side has no such key."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {as_text(self.old)} -> {as_text(self.new)}"


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

    def diff(self, other: "Record") -> tuple[Difference, ...]:
        """Every key, hyperparameter or runtime, whose value is another in `other`.

        Example:

        >>> Record({"user": {"seed": 1}}).diff(Record({"user": {"seed": 2}}))
        (Difference(key='user/seed', old=1, new=2),)
        """
        return differences(flat(self.values), flat(other.values))

    def to_json(self) -> dict[str, Any]:
        """The record as the plain values of its file."""
        fields = dataclasses.asdict(self)
        return {"version": VERSION, **fields.pop("values"), **fields}

    @classmethod
    def from_json(cls, data: Any) -> "Record":
        """Reads `to_json` back.

        Raises:
            RecordError: for what is no record, or one of another version.
        """
        if not isinstance(data, dict) or not isinstance(data.get("version"), int):
            raise RecordError("This is no record of keras_layerwise: it has no version.")
        if data["version"] != VERSION:
            raise RecordError(
                f"The record has version {data['version']}; this keras_layerwise reads {VERSION}. "
                "Read it with the version that wrote it."
            )
        known = {f.name for f in dataclasses.fields(cls)} - {"values"}
        missing = [group for group in GROUPS if not isinstance(data.get(group), dict)]
        if missing:
            raise RecordError(f"This is no complete record: it has no {', '.join(missing)}.")
        return cls(
            values={group: data[group] for group in GROUPS},
            **{name: data[name] for name in known if name in data},
        )


def load_record(log_dir: str | os.PathLike[str]) -> Record:
    """Reads the record of a run; parses JSON, runs no code.

    Args:
        log_dir: the directory that ``FreezeHyperparameters`` wrote to, or the
            file in it.

    Raises:
        RecordError: (a ``ValueError``) where there is no record.

    Example:

    >>> log_dir = tempfile.mkdtemp()
    >>> _ = save_record(Record({group: {} for group in GROUPS}), log_dir)
    >>> load_record(log_dir).status
    'running'
    """
    path = Path(log_dir)
    if path.is_dir() or path.name != RECORD_FILE:
        path = path / RECORD_FILE
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RecordError(
            f"{str(log_dir)!r} is no run: it has no {RECORD_FILE}. Give the log_dir of a "
            "FreezeHyperparameters callback."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{str(path)!r} can not be read as a record: {error}") from error
    try:
        return Record.from_json(data)
    except RecordError as error:
        raise RecordError(f"{str(path)!r}: {error}") from None


def save_record(record: Record, log_dir: str | os.PathLike[str]) -> Path:
    """Writes the record's file so that a reader sees the old or the new, whole."""
    path = Path(log_dir) / RECORD_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        record.to_json(), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False
    )
    handle, temporary = tempfile.mkstemp(prefix=f".{RECORD_FILE}.", dir=path.parent)
    try:
        # The escape of what is no UTF-8 is JSON's own.
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's mode is for secrets; colleagues may read a record.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    return path


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of a plain value: key order does not matter, types do.

    Example:

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    >>> fingerprint({"a": 1}) == fingerprint({"a": 1.0})
    False
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any, key: str = "") -> Any:
    """Turns nested user values into what JSON can hold without loss of meaning.

    Mappings, dataclasses, lists, tuples and sets (sorted); strings, numbers,
    bools, None; NumPy scalars and small arrays; enum members (by name); paths. NaN
    and the infinities become the words ``"nan"``, ``"inf"``, ``"-inf"``, which
    every JSON reader takes; bytes of a path that are no text are written out.

    Args:
        value: what to convert.
        key: where it is, for the error.

    Raises:
        TypeError: for anything else, naming its key.
        ValueError: where two keys become one.

    Example:

    >>> plain({"path": Path("data") / "x", "rates": (0.1, 0.2)})
    {'path': 'data/x', 'rates': [0.1, 0.2]}
    """
    if isinstance(value, enum.Enum):
        return _text(value.name or str(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (str, int)):
        return _text(value) if isinstance(value, str) else int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, os.PathLike):
        return _text(os.fsdecode(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return _plain_mapping(value, key)
    if isinstance(value, (set, frozenset)):
        members = [plain(member, key) for member in value]
        return sorted(members, key=lambda member: json.dumps(member, sort_keys=True))
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [plain(member, f"{key}/{i}") for i, member in enumerate(value)]
    if _is_numpy(value) and (value.ndim == 0 or value.size <= 1000):
        unpacked = value.tolist()
        if not _is_numpy(unpacked):
            return plain(unpacked, key)
    raise TypeError(
        f"The hyperparameter {key!r} is {value!r:.100} of type {type(value).__name__}, which can "
        "not be stored as a plain value. Accepted: str, int, float, bool, None, NumPy scalars, "
        "enum members, dataclasses, paths, and mappings, lists, tuples and sets of these. Store "
        "what describes it, such as a name or a number."
    )


def _text(value: str) -> str:
    # Neither JSON in UTF-8 nor an event file takes a lone surrogate.
    return value.encode("utf-8", "backslashreplace").decode()


def _plain_mapping(value: Mapping[Any, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, member in value.items():
        inner = plain(name, f"{key}/{name}")
        text = inner if isinstance(inner, str) else json.dumps(inner)
        if text in found:
            raise ValueError(
                f"Two keys of {key or 'the hyperparameters'!r} are both stored as {text!r}; "
                f"received {list(value)!r:.200}. Give them names that differ as text."
            )
        found[text] = plain(member, f"{key}/{text}" if key else text)
    return found


def _is_numpy(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist")


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves by key, the names on the way joined by ``/``; lists are leaves.

    Example:

    >>> flat({"training": {"epochs": 3, "betas": [0.9, 0.99]}})
    {'training/epochs': 3, 'training/betas': [0.9, 0.99]}
    """
    found: dict[str, Any] = {}

    def visit(key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, member in value.items():
                visit(f"{key}/{name}" if key else name, member)
        elif key in found:
            raise ValueError(
                f"Two hyperparameters are both called {key!r}: one is nested, the other has a "
                "'/' in its name. Rename one."
            )
        else:
            found[key] = value

    visit("", values)
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The keys of two flat mappings whose values differ in value or type."""
    return tuple(
        Difference(key, old.get(key, ABSENT), new.get(key, ABSENT))
        for key in sorted({*old, *new})
        if not _same(old.get(key, ABSENT), new.get(key, ABSENT))
    )


def _same(old: Any, new: Any) -> bool:
    # 1, 1.0 and True are equal in Python and different in a record.
    return type(old) is type(new) and json.dumps(old, sort_keys=True) == json.dumps(
        new, sort_keys=True
    )


def as_text(value: Any) -> str:
    """A value of a record on one line, for tables and errors."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
