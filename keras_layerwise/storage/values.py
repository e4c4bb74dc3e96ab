"""Plain values: what JSON can hold, with one fingerprint and one text for equal values."""

import dataclasses
import enum
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

UNKNOWN = "unknown"
NEVER_SET = "never set"
ABSENT = "(absent)"

_DEEPEST = 100  # levels, far below what Python's own recursion can work with


class Difference(NamedTuple):
    """A key whose value differs; `ABSENT` where one side has no such key."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {as_text(self.old)} -> {as_text(self.new)}"


def parsed(text: str | bytes) -> Any:
    """Reads JSON that can be worked with: numbers are finite, and nothing is nested too deeply.

    Raises:
        ValueError: for anything else.

    Example:

    >>> parsed('{"rate": 0.1}')
    {'rate': 0.1}
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"JSON that is nested more than {_DEEPEST} levels deep")
        level = [
            member
            for outer in level
            if isinstance(outer, (dict, list))
            for member in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number that is not finite, {text:.20}")
    return value


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

    >>> from pathlib import Path
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


def is_unknown(value: Any) -> bool:
    """Whether a value of a record, or a member of it, is not known.

    Example:

    >>> is_unknown(["mse", "unknown"]), is_unknown("mse")
    (True, False)
    """
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(is_unknown, value))
    return isinstance(value, str) and value == UNKNOWN
