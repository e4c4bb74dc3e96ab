"""Two runs: causes before what follows from them, results and drift side by side."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from keras_layerwise.command.layout import Section, cell, columns, fitted, folded, wrapped
from keras_layerwise.command.show import spoken
from keras_layerwise.storage.record import RUNTIME, Record
from keras_layerwise.storage.values import ABSENT, Difference, as_text

_SINGLY = 3  # values of one setting that get a line each
_WHICH = ("first:", "second:")
_MEASURES = ("relative_l2", "l2")
_CONSEQUENCES = re.compile(
    r"architecture/(weights/.*|parameters|trainable_parameters|number_of_layers|hidden_layers"
    r"|hidden_units)|training/steps_per_epoch"
)
_MANY = re.compile(
    r"(?P<group>architecture/layers|training/assignments|regularization)/(?P<rest>.*)"
)
_ORDER = (
    ("user", "set by the user"),
    ("training", "training"),
    ("rules", "rules"),
    ("regularization", "regularization"),
    ("architecture", "architecture"),
    (RUNTIME, "runtime"),
)


def sections(
    runs: Sequence[str], records: Sequence[Record], drifts: Sequence[Mapping[str, Any]]
) -> list[Section]:
    """Tells what differs, causes first."""
    old, new = records
    found = old.diff(new)
    unknown = found.unknown
    follows = [d for d in found if _CONSEQUENCES.fullmatch(d.key)]
    causes = [d for d in found if d not in follows]
    if all(d.key.startswith(f"{RUNTIME}/") for d in causes):  # then they are no consequences
        causes, follows = list(found) if not causes else [*causes, *follows], []
    by_group: dict[str, list[Difference]] = {name: [] for name, _ in _ORDER}
    for difference in causes:
        by_group[_group(difference.key)].append(difference)
    return [
        Section(_verdict(found, unknown), _about(runs, unknown)),
        *(Section(title, _lines(by_group[name], name)) for name, title in _ORDER),
        Section("and what follows", _folded_keys(follows)),
        Section("results", _results(records)),
        *_drift(drifts),
        Section("weights", _weights(old, new)),
    ]


def same_weights(old: Record, new: Record) -> dict[str, bool]:
    """Tells whether the runs began and ended with the same weights, where both know."""
    return {
        name: old.fingerprints[name] == new.fingerprints[name]
        for name in ("initial_weights", "final_weights")
        if name in old.fingerprints and name in new.fingerprints
    }


def _group(key: str) -> str:
    group = key.partition("/")[0]
    is_rule = key.startswith(("training/assignments/", "training/rules"))
    return "rules" if is_rule else group


def _verdict(found: Sequence[Difference], unknown: Sequence[str]) -> str:
    if len(found) == 1:
        return "One setting differs."
    if found:
        return f"{len(found)} settings differ."
    known = " as far as known" if unknown else ""
    return f"The runs were configured the same{known}."


def _about(runs: Sequence[str], unknown: Sequence[str]) -> list[str]:
    lines = [
        line for which, run in zip(_WHICH, runs, strict=True) for line in wrapped(f"{which} {run}")
    ]
    return lines + (wrapped(f"not known: {folded(unknown, 140)}") if unknown else [])


def _lines(found: Sequence[Difference], group: str) -> list[str]:
    """Gives a line for each difference; those of many layers alike are one line."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for key, old, new in found:
        many = _MANY.fullmatch(key)
        layer, _, name = (many["rest"] if many else "").rpartition("/")
        if many and ABSENT in (old, new):  # all settings of a layer that the other has not
            name = "only in the second" if old == ABSENT else "only in the first"
            alike.setdefault((name, "", ""), []).append(layer)
        elif many:
            alike.setdefault((name, _text(old), _text(new)), []).append(layer)
        else:
            alike.setdefault((key.partition("/")[2] or key, _text(old), _text(new)), []).append("")
    lines = _ranges(alike, "weights" if group == "rules" else "layers")
    for (name, was, now), layers in alike.items():
        names = list(dict.fromkeys(layer for layer in layers if layer))
        where = f" ({folded(names, 40)})" if names else ""
        said = f"{name}: {was} -> {now}" if was or now else name
        lines += wrapped(f"{said}{where}")[:3]
    return lines


def _ranges(alike: dict[tuple[str, str, str], list[str]], what: str) -> list[str]:
    """Takes out numbers that differ from layer to layer, as of rates that fall by block.

    Such a setting is one line, with its range in both runs.
    """
    named: dict[str, list[tuple[str, str, str]]] = {}
    for name, was, now in alike:
        if _is_number(was) and _is_number(now):
            named.setdefault(name, []).append((name, was, now))
    lines = []
    for name, entries in named.items():
        if len(entries) <= _SINGLY:
            continue
        count = len(dict.fromkeys(layer for entry in entries for layer in alike.pop(entry)))
        old, new = (_range([float(entry[i]) for entry in entries]) for i in (1, 2))
        lines += wrapped(f"{name}: {old} -> {new} ({count} {what}, not all alike)")[:3]
    return lines


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.4g} … {max(values):.4g}"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _text(value: Any) -> str:
    return as_text(value) or '""'


def _folded_keys(found: Sequence[Difference]) -> list[str]:
    lines = [
        fitted(f"  {key.partition('/')[2]}: {cell(old)} -> {cell(new)}")
        for key, old, new in found
        if not key.startswith("architecture/weights/")
    ]
    weights = dict.fromkeys(
        key.removeprefix("architecture/weights/").rpartition("/")[0]
        for key, _, _ in found
        if key.startswith("architecture/weights/")
    )
    if weights:
        lines.append(fitted(f"  {len(weights)} weights: {folded(list(weights), 56)}"))
    return lines


def _results(records: Sequence[Record]) -> list[str]:
    tables = [
        {f"{name} ({kind})": v for kind, found in r.results.items() for name, v in found.items()}
        for r in records
    ]
    names = list(dict.fromkeys([*tables[0], *tables[1]]))
    rows: list[list[Any]] = [["status", *(record.status for record in records)]]
    rows += [[name, *(table.get(name) for table in tables)] for name in names]
    return columns(["", "first", "second"], rows)[0]


def _drift(drifts: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Puts one statistic of both networks side by side, by part or, without parts, by layer."""
    kind = "parts" if all(len(drift["parts"]) > 1 for drift in drifts) else "layers"
    tables = [{row["name"]: row for row in drift[kind] if row["trainable"]} for drift in drifts]
    names = list(dict.fromkeys([*tables[0], *tables[1]]))
    if not names:
        return []
    shown = [m for m in _MEASURES if any(m in row for t in tables for row in t.values())][:1]
    if not shown:
        return []
    rows = [
        [spoken(name), *(table.get(name, {}).get(shown[0]) for table in tables)] for name in names
    ]
    steps = " and ".join(str(drift["step"]) for drift in drifts)
    title = f"drift: {shown[0]}, at steps {steps}"
    return [Section(title, columns(["", "first", "second"], rows)[0])]


def _weights(old: Record, new: Record) -> list[str]:
    return [
        f"  {name.replace('_', ' ')}: {'the same' if same else 'different'}"
        for name, same in same_weights(old, new).items()
    ]
