"""What is noted in a run record while a run goes on: functions from record to record."""

import contextlib
import fnmatch
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from keras_layerwise.backend import internals
from keras_layerwise.hyperparameters.fingerprints import weights_fingerprint
from keras_layerwise.storage.record import DIVERGED, FAILED, FINISHED, RUNTIME, Record
from keras_layerwise.storage.run_file import now
from keras_layerwise.storage.values import (
    ABSENT,
    UNKNOWN,
    Difference,
    as_text,
    differences,
    flat,
    plain,
)

RATE = "training/learning_rate"
BUDGET = (
    "training/data_fingerprint*",
    "training/epochs",
    "training/samples",
    "training/steps_per_epoch",
    "training/validation_data",
    "training/validation_freq",
)
"""Globs of keys that may change without making it another run: how long, and on what, it trains."""


def is_rate(key: str) -> bool:
    """Tells whether `key` is the learning rate itself, whose changes are a timeline."""
    return (
        key.startswith("training/")
        and key.endswith("/learning_rate")
        and (key == RATE or key.startswith("training/optimizer/"))
    )


def matches(key: str, globs: Iterable[str]) -> bool:
    """Tells whether one of the `globs` matches `key`.

    Example:
    >>> matches("training/epochs", BUDGET), matches("training/batch_size", BUDGET)
    (True, False)
    """
    return any(fnmatch.fnmatchcase(key, glob) for glob in globs)


def history_of(record: Record) -> dict[str, list[Any]]:
    """Gives every value that each key of the run has had, the first at the front."""
    values = {key: [value] for key, value in flat(record.hyperparameters).items()}
    steps = [
        *record.changes,
        *record.overrides,
        *record.violations,
        *({"key": RATE, **change} for change in record.timeline),
    ]
    between = [
        {"step": phase["step"], **change} for phase in record.phases for change in phase["changes"]
    ]
    # Changes of one step: what a fit changed at its end comes before what the next began with.
    for change in sorted([*steps, *between], key=lambda change: change["step"] or 0):
        values.setdefault(change["key"], [ABSENT]).append(change["new"])
    return values


def unlike(record: Record, now: Mapping[str, Any], ignored: Iterable[str]) -> list[Difference]:
    """Tells what of a configuration is nothing that the run has ever had.

    What is unknown on one of the sides, and what may change, is not compared.
    """
    history = history_of(record)
    found = []
    for key in sorted({*history, *now}):
        values, value = history.get(key, [ABSENT]), now.get(key, ABSENT)
        if UNKNOWN in (value, values[0]) or matches(key, (*BUDGET, *ignored)):
            continue
        if all(differences({key: old}, {key: value}) for old in values):
            found.append(Difference(key, values[-1], value))
    return found


def last_values(record: Record) -> dict[str, Any]:
    """Tells what the run was last configured with."""
    last = {key: values[-1] for key, values in history_of(record).items()}
    return {key: value for key, value in last.items() if value != ABSENT}


class Settings:
    """What a run is configured with, flat and by part, so that two looks can be compared.

    What a reader gives as the same object again is neither made flat nor compared again.

    Args:
        ignored: globs of keys that are left out.
    """

    def __init__(self, ignored: Iterable[str]) -> None:
        self._ignored = tuple(ignored)
        self._known: dict[str, tuple[Any, dict[str, Any]]] = {}

    def of(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Gives the flat settings by part; what only describes where the run happens is none."""
        parts = {group: value for group, value in values.items() if group != RUNTIME}
        if "assignments" in parts["training"]:
            parts["training"] = dict(parts["training"])
            parts[_RULES] = parts["training"].pop("assignments")
        for name, value in parts.items():
            known = self._known.get(name)
            if known is None or known[0] is not value:
                nested = value
                for key in reversed(name.split("/")):
                    nested = {key: nested}
                self._known[name] = value, self._kept(flat(nested))
        return {name: self._known[name][1] for name in parts}

    def overridden(
        self, parts: Mapping[str, dict[str, Any]], entries: Iterable[Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Gives the settings as they are expected to be after overrides."""
        found = dict(parts)
        for entry in entries:
            key = entry["key"]
            name = _RULES if key.startswith(f"{_RULES}/") else key.partition("/")[0]
            found[name] = self._kept({**found.get(name, {}), key: entry["new"]})
            if entry["new"] == ABSENT:
                found[name].pop(key, None)
        return found

    def _kept(self, found: dict[str, Any]) -> dict[str, Any]:
        return {key: v for key, v in found.items() if not matches(key, self._ignored)}


_RULES = "training/assignments"


def merged(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Gives the settings of all parts, flat."""
    return {key: value for part in parts.values() for key, value in part.items()}


def differing(
    old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]
) -> list[Difference]:
    """Tells what differs between the settings of two looks."""
    parts = [name for name in {*old, *new} if old.get(name) is not new.get(name)]
    found = [d for name in parts for d in differences(old.get(name, {}), new.get(name, {}))]
    return sorted(found, key=lambda difference: difference.key)


def entries(found: Iterable[Difference], step: int) -> list[dict[str, Any]]:
    """Changes as a record has them."""
    return [{"step": step, **difference._asdict()} for difference in found]


def with_results(
    record: Record, logs: Mapping[str, Any], directions: Mapping[str, Callable[..., float]]
) -> Record:
    """Gives the record with an epoch's results.

    What is not a number is recorded as the word ``"nan"``, ``"inf"`` or
    ``"-inf"``, and is never the best.
    """
    final = dict(record.results.get("final", {}))
    best = dict(record.results.get("best", {}))
    for name, given in logs.items():
        if "learning_rate" in name:
            continue
        try:
            value = float(given)
        except (TypeError, ValueError):
            continue
        final[name] = value if math.isfinite(value) else str(value)
        better = min if name.endswith("loss") else directions.get(name.removeprefix("val_"))
        if better is not None and math.isfinite(value):
            best[name] = better(best.get(name, value), value)
    return replace(record, results={"final": final, "best": best})


def numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """Gives those of the results that are numbers.

    Example:
    >>> numbers({"loss": "nan", "mae": 0.5})
    {'mae': 0.5}
    """
    return {name: value for name, value in results.items() if not isinstance(value, str)}


def status_at_end(record: Record) -> str:
    """Gives ``"diverged"`` where a loss ended as no number, else ``"finished"``.

    Example:
    >>> status_at_end(Record({}, results={"final": {"loss": "nan"}}))
    'diverged'
    """
    final = record.results.get("final", {})
    losses = [value for name, value in final.items() if name.endswith("loss")]
    return DIVERGED if any(isinstance(value, str) for value in losses) else FINISHED


def ended(record: Record, model: Any, error: BaseException | None) -> Record:
    """Gives the record of a training of `model` that ended, by `error` where there was one."""
    status, text = status_at_end(record), None
    if error is not None:
        status, text = FAILED, plain(f"{type(error).__name__}: {error}".rstrip(": "))
    fingerprints = dict(record.fingerprints)
    fingerprints.pop("final_weights", None)
    with contextlib.suppress(Exception):  # state that an interrupted step left unusable
        fingerprints["final_weights"] = weights_fingerprint(model)
    return replace(
        record,
        status=status,
        ended=now(),
        seen=None,
        error=text,
        fingerprints=fingerprints,
    )


def with_git(record: Record, git: "Future[dict[str, Any]]", seconds: float) -> Record:
    """Adds what git says within `seconds` to the record: a large tree takes a while.

    The code of a run is that of its beginning.
    """
    with contextlib.suppress(TimeoutError):
        if (found := git.result(seconds)) and not record.resumptions:
            return replace(record, provenance={**record.provenance, "git": found})
    return record


def with_data(record: Record, data: str) -> Record:
    """Gives the record with the fingerprint of the data that a ``fit`` was given.

    Other data than in an earlier ``fit`` of the run is a warning; the record keeps both.
    """
    known = record.provenance.get("data", UNKNOWN)
    if data == known or (data == UNKNOWN and "data" in record.provenance):
        return record
    found = {**record.provenance, "data": data}
    if UNKNOWN not in (known, data):
        earlier = record.provenance.get("earlier_data")
        found["earlier_data"] = [*(earlier if isinstance(earlier, list) else ()), known]
        warnings.warn(
            f"The run goes on with other data than before: their fingerprint was {known!s:.12} "
            f"and is {data[:12]}. The record keeps both.",
            stacklevel=2,
        )
    return replace(record, provenance=found)


def lines(found: Iterable[Difference]) -> str:
    """Puts differences one a line, for errors."""
    return "\n".join(f"  {difference}" for difference in found)


def markdown(record: Record) -> str:
    """Gives the record as a table; what would end a cell is written out."""
    rows = ["| hyperparameter | value |", "|---|---|"]
    for key, value in flat(record.values).items():
        text = as_text(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
        rows.append(f"| {key} | {text} |")
    rows += [f"| fingerprint/{key} | {value} |" for key, value in record.fingerprints.items()]
    return "\n".join(rows)


def directions(model: Any) -> dict[str, Any]:
    """Gives ``min`` or ``max`` for each metric whose better side is known."""
    found: dict[str, Any] = {}
    for metric in model.metrics:
        for member in getattr(metric, "metrics", None) or [metric]:
            direction = internals.better_direction(member)
            if direction in ("up", "down"):
                found[member.name] = max if direction == "up" else min
    return found
