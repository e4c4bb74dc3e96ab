"""Many runs as a table: what differs between them and what came out, sorted and filtered."""

import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_layerwise.storage import files, stores
from keras_layerwise.storage.record import RUNTIME, Record, RecordError, load_record
from keras_layerwise.storage.schema import RECORD_FILE
from keras_layerwise.storage.values import ABSENT, as_text, flat

_FIRST = ("user/", "training/", "regularization/", "architecture/", f"{RUNTIME}/")


class UnknownKeyError(ValueError):
    """A key that no run has."""


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: its directory, from that of the sweep.
        record: what it was set to and what came out.
        values: settings by key, and results by metric: the best where one is
            known, else the final.
    """

    name: str
    record: Record
    values: Mapping[str, Any]


def read(directory: str) -> tuple[list[Run], list[str]]:
    """Gives all runs below a directory, and what is wrong with those that can not be read."""
    root = files.place(directory) if stores.is_url(directory) else Path(directory)
    runs, problems = [], []
    with stores.asked(root):
        found = list(_records(root))
    for path in found:
        try:
            record = load_record(path)
        except RecordError as error:
            problems.append(str(error))
            continue
        name = path.as_posix().removeprefix(root.as_posix()).strip("/") or "."
        runs.append(Run(name, record, {**flat(record.values), **_results(record)}))
    return runs, problems


def _records(root: Path) -> Iterator[Path]:
    walk: Any = root.walk() if stores.is_remote(root) else os.walk(root)  # type: ignore[attr-defined]
    for folder, inner, names in walk:
        inner.sort(key=_natural)
        if RECORD_FILE in names:
            yield Path(folder) if isinstance(folder, str) else folder


def _natural(name: str) -> tuple[str, int, str]:
    """Names by the number at their end: run-2 comes before run-10."""
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits[:18] or 0), name


def _results(record: Record) -> dict[str, Any]:
    final, best = record.results.get("final", {}), record.results.get("best", {})
    return {**{f"final/{name}": value for name, value in final.items()}, **final, **best}


def resolve(runs: Sequence[Run], name: str) -> str:
    """Gives the key that a user means by `name`: a metric, a whole key, or the end of one.

    Raises:
        UnknownKeyError: where no run has it.
    """
    keys = dict.fromkeys(key for run in runs for key in run.values)
    if name in keys:
        return name
    ends = [key for key in keys if key.endswith(f"/{name}")]
    if not ends:
        known = {key.rpartition("/")[2] for key in keys}
        near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.4)
        advice = f" Nearest: {', '.join(near)}." if near else ""
        raise UnknownKeyError(f"No run has {name!r}, neither as a setting nor as a result.{advice}")
    rank = {group: i for i, group in enumerate(_FIRST)}
    return min(ends, key=lambda key: (rank.get(f"{key.partition('/')[0]}/", 9), key.count("/")))


def where(runs: Sequence[Run], condition: str) -> list[Run]:
    """Gives the runs that meet a condition, ``name=value``.

    Raises:
        UnknownKeyError: where no run has that name, or it is no condition.
    """
    name, sign, wanted = condition.partition("=")
    if not sign:
        raise UnknownKeyError(f"A condition is name=value; received {condition!r}.")
    key = resolve(runs, name.strip())
    return [run for run in runs if _equal(run.values.get(key, ABSENT), wanted.strip())]


def _equal(value: Any, wanted: str) -> bool:
    try:
        return not isinstance(value, bool) and float(value) == float(wanted)
    except (TypeError, ValueError, OverflowError):
        return as_text(value) == wanted or json.dumps(value).lower() == wanted.lower()


def by(runs: Sequence[Run], name: str, descending: bool) -> list[Run]:
    """Gives the runs by a setting or result; those without a number, or without any, come last.

    Raises:
        UnknownKeyError: where no run has that name.
    """
    key = resolve(runs, name)
    numbers = {run.name: _number(run.values.get(key)) for run in runs}
    sign = -1 if descending else 1

    def place(run: Run) -> tuple[int, float, str]:
        number = numbers[run.name]
        if number is not None:
            return 0, sign * number, ""
        value = run.values.get(key)
        return (2, 0.0, "") if value is None or value == "nan" else (1, 0.0, as_text(value))

    return sorted(runs, key=place)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def table(runs: Sequence[Run], first: Sequence[str] = ()) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: run, status, `first`, the results, and every setting that differs."""
    keys = list(dict.fromkeys(key for run in runs for key in run.values))
    metrics = [
        name for name in dict.fromkeys(n for run in runs for n in _results(run.record))
        if not name.startswith("final/")
    ]  # fmt: skip
    metrics.sort(key=lambda name: (not name.startswith("val_"), not name.endswith("loss"), name))
    settings = [key for key in keys if key.startswith(_FIRST) and _differs(runs, key)]
    settings.sort(key=lambda key: (_place(key), key.count("/")))
    chosen = list(dict.fromkeys([*first, *_mixed(settings, metrics)]))
    rows = [[run.name, run.record.status, *(run.values.get(key) for key in chosen)] for run in runs]
    return ["run", "status", *chosen], rows


def _mixed(settings: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Gives the user's settings, a few results, and the rest: the last columns may not fit."""
    users = [key for key in settings if key.startswith("user/")]
    others = [key for key in settings if key not in users]
    return [*users[:3], *metrics[:2], *others, *users[3:], *metrics[2:]]


def _place(key: str) -> int:
    return next(i for i, group in enumerate(_FIRST) if key.startswith(group))


def _differs(runs: Sequence[Run], key: str) -> bool:
    return len({json.dumps(run.values.get(key, ABSENT), sort_keys=True) for run in runs}) > 1


def heads(names: Sequence[str]) -> list[str]:
    """Gives each name without the folders that it does not need to differ from the others.

    Example:
    >>> heads(["run", "user/rate", "training/optimizer/rate", "training/epochs"])
    ['run', 'user/rate', 'optimizer/rate', 'epochs']
    """
    found = []
    for name in names:
        parts = name.split("/")
        length = 1
        while length < len(parts) and _clash("/".join(parts[-length:]), name, names):
            length += 1
        found.append("/".join(parts[-length:]))
    return found


def _clash(end: str, name: str, names: Sequence[str]) -> bool:
    return any(other != name and (other == end or other.endswith(f"/{end}")) for other in names)
