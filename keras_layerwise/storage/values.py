"""Plain values: what JSON can hold, with one fingerprint and one text for equal values."""

import argparse
import dataclasses
import datetime
import decimal
import enum
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
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
    """Gives the SHA-256 of a plain value as canonical JSON: key order is nothing, types count.

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

    Mappings, dataclasses, namespaces, lists, tuples and sets (sorted); strings,
    numbers, decimals, bools, None; NumPy scalars and small arrays; dtypes and
    enum members (by name); dates and times (ISO 8601), durations, paths. NaN and
    the infinities become the words ``"nan"``, ``"inf"``, ``"-inf"``, which
    every JSON reader takes; bytes of a path that are no text are written out.

    Args:
        value: what to convert.
        key: where it is, for the error.

    Raises:
        TypeError: for anything else, naming its key.
        ValueError: where two keys become one, or values are nested too deeply.

    Example:

    >>> from pathlib import Path
    >>> plain({"path": Path("data") / "x", "rates": (0.1, 0.2)})
    {'path': 'data/x', 'rates': [0.1, 0.2]}
    """
    if key.count("/") > _DEEPEST:
        raise ValueError(
            f"The hyperparameter '{key:.60}…' is nested more than {_DEEPEST} levels deep, or holds "
            "itself. Store what describes it, such as a name or a number."
        )
    if isinstance(value, enum.Enum):
        return _text(value.name or str(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):  # what no float can be, no page and no column can show as a number
        return int(value) if abs(value) <= sys.float_info.max else hex(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, os.PathLike):
        return _text(os.fsdecode(value))
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    if isinstance(value, argparse.Namespace):
        return plain(vars(value), key)
    if _is_dtype(value):
        return str(getattr(value, "name", None) or value.__name__).removeprefix("torch.")
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
        "not be stored as a plain value. Accepted: str, int, float, bool, None, Decimal, NumPy "
        "scalars, dtypes, enum members, dates, dataclasses, namespaces, paths, and mappings, "
        "lists, tuples and sets of these. Store what describes it, such as a name or a number."
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


def _is_dtype(value: Any) -> bool:
    """Tells whether it is a dtype of NumPy (also its class), TensorFlow, JAX or PyTorch."""
    if isinstance(value, type):
        return value.__module__ == "numpy" and hasattr(value, "dtype")
    kind = type(value)
    framework = kind.__module__.partition(".")[0] in ("numpy", "tensorflow", "torch", "jax")
    return framework and "dtype" in kind.__name__.lower()


def _is_numpy(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist")


_LEAVES = (str, int, float, type(None), list)  # what most are, known sooner than a mapping


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the leaves by key, the names on the way joined by ``/``; lists are leaves.

    Example:

    >>> flat({"training": {"epochs": 3, "betas": [0.9, 0.99]}})
    {'training/epochs': 3, 'training/betas': [0.9, 0.99]}
    """
    found: dict[str, Any] = {}

    def visit(above: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            key = f"{above}{name}"
            if not isinstance(value, _LEAVES) and isinstance(value, Mapping):
                visit(f"{key}/" if key else "", value)
            elif key in found:
                raise ValueError(
                    f"Two hyperparameters are both called {key!r}: one is nested, the other has a "
                    "'/' in its name. Rename one."
                )
            else:
                found[key] = value

    visit("", values)
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> "Differences":
    """Gives the keys of two flat mappings whose values differ in value or type.

    Example:

    >>> found = differences({"a": 1, "b": "unknown"}, {"a": 1, "b": 2})
    >>> len(found), str(found)
    (0, 'the same as far as known; unknown: b')
    """
    found, unknown = [], []
    for key in sorted({*old, *new}):
        one, other = old.get(key, ABSENT), new.get(key, ABSENT)
        if one is other and not isinstance(one, (str, list)):
            continue
        if isinstance(one, str) and one == other and UNKNOWN not in one:
            continue  # as nearly all are: a run is compared with itself at each epoch
        known = comparable(one, other)
        if known is None:
            unknown.append(key)
        elif not _same(*known):
            found.append(Difference(key, one, other))
        elif is_unknown(one):
            unknown.append(key)
    return Differences(found, unknown)


class Differences(tuple[Difference, ...]):
    """What differs, as a tuple; as text also what nobody knows.

    Attributes:
        unknown: keys that cannot be compared, or not entirely: one side does
            not know, or functions were compiled by another version of Python.
    """

    unknown: tuple[str, ...]

    def __new__(cls, found: Iterable[Difference], unknown: Iterable[str] = ()) -> "Differences":
        """Takes the differences and the keys that nobody knows."""
        self = super().__new__(cls, found)
        self.unknown = tuple(unknown)
        return self

    def __str__(self) -> str:
        """Gives one line for each difference, or what holds where there is none."""
        lines = [str(difference) for difference in self]
        if self.unknown:
            known = "" if self else "the same as far as known; "
            lines.append(f"{known}unknown: {', '.join(self.unknown)}")
        return "\n".join(lines) or "the same"


_CODE = re.compile(r"py\d+\.\d+:[0-9a-f]{16}")
# An object's setting or a list's member that is unknown, within a text.
_UNKNOWN_PART = re.compile(rf"(?<![\w']){UNKNOWN}(?=[,)\]]|$)")


def code_tag(digest: str) -> str:
    """Gives a text for compiled code, which only the same version of Python compares.

    Example:

    >>> code_tag("0123456789abcdef").endswith(":0123456789abcdef")
    True
    """
    return f"py{sys.version_info.major}.{sys.version_info.minor}:{digest}"


def is_unknown(value: Any) -> bool:
    """Tells whether a value of a record says that it, or a part of it, is not known.

    Example:

    >>> is_unknown("unknown"), is_unknown("Focal(gamma=unknown)"), is_unknown("unknown words")
    (True, True, False)
    >>> is_unknown(["mse", "unknown"])
    True
    """
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, str):
        return value == UNKNOWN or (UNKNOWN in value and bool(_UNKNOWN_PART.search(value)))
    return isinstance(value, list) and any(map(is_unknown, value))


def comparable(old: Any, new: Any) -> tuple[Any, Any] | None:
    """Tells what of two values can be compared; None where nothing can.

    Of functions that other versions of Python compiled, all but the code can.
    """
    if ABSENT in (old, new):
        return old, new
    if UNKNOWN in (old, new):
        return (old, new) if old == new else None
    texts = [value if isinstance(value, str) else as_text(value) for value in (old, new)]
    if "py" not in texts[0] or texts[0] == texts[1]:
        return old, new
    tags = [_CODE.findall(text) for text in texts]
    versions = [{tag.partition(":")[0] for tag in found} for found in tags]
    if versions[0] == versions[1] or not (tags[0] and tags[1]):
        return old, new
    bare = [_CODE.sub("", text) for text in texts]
    return None if bare[0] == bare[1] else (old, new)


def _same(old: Any, new: Any) -> bool:
    # 1, 1.0 and True are equal in Python and different in a record.
    if type(old) is not type(new):
        return False
    if old is new or isinstance(old, (str, bool, int)):
        return bool(old == new)
    return json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)


_on_one_line = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes one for each call


def as_text(value: Any) -> str:
    """Gives a value of a record on one line, for tables and errors."""
    if isinstance(value, str):
        return value
    return _on_one_line(value)
