"""One run: what it was set to, what came out, how far it moved and what was alarming."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from keras_layerwise.command.layout import (
    Section,
    cell,
    columns,
    fitted,
    folded,
    pairs,
    placed,
    wrapped,
)
from keras_layerwise.storage.record import RUNNING, Record
from keras_layerwise.storage.values import NEVER_SET, as_text, flat, is_unknown
from keras_layerwise.tables import render

STATISTICS = ("relative_l2", "l2", "max_abs", "cosine", "nonfinite")
"""What is shown of the drift where there is room for a few."""

_SILENT = 120  # seconds: a run gives a sign of life every 30 within an epoch
_ROWS = 24  # layers that are shown where the network has no parts
# Settings that say nothing while another is off.
_IDLE = {"ema_momentum": "use_ema", "ema_overwrite_frequency": "use_ema"}


def sections(run: str, record: Record, drift: Mapping[str, Any]) -> list[Section]:
    """Tells what a person wants to know of a run first."""
    training = dict(record["training"])
    rules = rule_lines(training)
    return [
        Section(placed("", run, f": {state(record)}{_duration(record)}"), _fate(record)),
        Section("set by the user", pairs(flat(record["user"]).items())),
        Section("training", _settings(training)),
        Section("rules", rules),
        Section("regularization", _folded_values(flat(record["regularization"]))),
        Section("architecture", _architecture(record["architecture"])),
        Section("layers unlike most of their class", _unlike(record["architecture"])),
        Section("where it came from", _provenance(record.provenance)),
        Section("runtime", _runtime(record["runtime"])),
        Section("results (final; best)", _results(record.results)),
        *drift_sections(drift),
        *(Section(name, _events(entries)) for name, entries in _happened(record).items()),
    ]


def everything(run: str, record: Record, drift: Mapping[str, Any]) -> list[str]:
    """Gives all that is known of a run, as tables."""
    lines = [f"{run}: {record.status}{_duration(record)}", *_fate(record)]
    for group in record:
        rows = [(key, as_text(value)) for key, value in flat(record[group]).items()]
        if rows:
            lines.append(render(group, ("Key", "Value"), rows))
    told = [(key, as_text(value)) for key, value in flat(record.provenance).items()]
    if told:
        lines.append(render("provenance", ("Key", "Value"), told))
    lines.append(render("fingerprints", ("Of", "SHA-256"), record.fingerprints.items()))
    results = [(key, cell(value)) for key, value in flat(record.results).items()]
    if results:
        lines.append(render("results", ("Metric", "#Value"), results))
    for name, entries in _happened(record).items():
        events = [
            (cell(e.get("step")), str(e.get("key", "learning_rate")), *map(as_text, _pair(e)))
            for e in entries
        ]
        if events:
            lines.append(render(name, ("#Step", "Key", "Old", "New"), events))
    for name in ("parts", "layers"):
        found = drift[name]
        names = list(dict.fromkeys(key for row in found for key in row if key not in _ABOUT))
        cells = [(row["name"], *(cell(row.get(name)) for name in names)) for row in found]
        if cells:
            heads = (name.capitalize()[:-1], *(f"#{name}" for name in names))
            lines.append(render(f"drift of {name} at step {drift['step']}", heads, cells))
    for section in (_alarms(drift), _problems(drift)):
        lines += [section.title, *section.lines] if section.lines else []
    return lines


_ABOUT = ("name", "part", "trainable", "frozen", "parameters")


def rule_lines(training: dict[str, Any]) -> list[str]:
    """Makes a line for each rule and what it sets; takes the assignments out of `training`."""
    weights = training.pop("assignments", None)
    lines = []
    if isinstance(weights, Mapping):
        found: Counter[tuple[str, str]] = Counter()
        for entry in weights.values():
            entry = entry if isinstance(entry, Mapping) else {"setting": entry}
            rule = str(entry.get("rule") or "(no rule)")
            said = [
                "frozen" if key == "frozen" else f"{_SIGNS.get(key, key)} {cell(value)}"
                for key, value in entry.items()
                if key != "rule" and value is not None and value is not False
            ]
            found[rule, ", ".join(said)] += 1
        lines = [
            fitted(f"  {rule}: {said} ({count} weight{'s' if count > 1 else ''})")
            for (rule, said), count in sorted(found.items(), key=lambda item: _place(item[0][0]))
        ]
    rules = training.pop("rules", None)
    if isinstance(rules, Mapping):
        lines += [fitted(f"  {name}: {as_text(value)}") for name, value in rules.items()]
    elif rules is not None:
        training["rules"] = rules
    return lines


_SIGNS = {"multiplier": "×", "learning_rate": "rate", "weight_decay": "decay"}


def _place(rule: str) -> tuple[int, int]:
    """Tells where a rule's part of the network comes: records are sorted by their text."""
    block = re.match(r"block (\d{1,9})", rule)
    if block:
        return 1, int(block[1])
    return {"stem": 0, "neck": 2, "head": 3}.get(rule, 4), 0


def _duration(record: Record) -> str:
    try:
        start = datetime.fromisoformat(record.started or "")
        seconds = (datetime.fromisoformat(record.ended or "") - start).total_seconds()
    except (ValueError, TypeError):
        return ""
    parts = [(seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    said = [f"{number:.0f} {unit}" for number, unit in parts if number]
    return f" after {' '.join(said[:2]) or '0 s'}"


def state(record: Record) -> str:
    """Gives a record's status; of a run that gives no sign of life any more, since when."""
    try:
        silent = datetime.now(UTC) - datetime.fromisoformat(record.seen or "")
    except (ValueError, TypeError):
        return record.status
    if record.status != RUNNING or silent.total_seconds() < _SILENT:
        return record.status
    return f"silent since {str(record.seen)[:16].replace('T', ' ')}"


def _fate(record: Record) -> list[str]:
    lines = [f"  started {record.started or '-'}, ended {record.ended or '-'}"]
    if record.status == RUNNING:
        seen = f"; last alive {record.seen}" if record.seen else ""
        lines.append(f"  or killed: then no end was written{seen}")
    if record.error:
        lines += wrapped(record.error)[:4]
    for name in ("resumptions", "phases"):
        steps = [cell(entry.get("step")) for entry in getattr(record, name)]
        if steps:
            lines.append(fitted(f"  {name} at step {folded(steps, 50)}"))
    return lines


def _settings(training: Mapping[str, Any]) -> list[str]:
    values = flat(training)
    shown = []
    for key, value in values.items():
        parent, _, name = key.rpartition("/")
        idle = name in _IDLE and not values.get(f"{parent}/{_IDLE[name]}")
        if value in (None, False, [], {}) or is_unknown(value) or idle:
            continue
        shown.append((parent if name == "class" else key, value))
    lines = pairs(shown)
    unknown = [key for key, value in values.items() if is_unknown(value)]
    if unknown:
        lines += wrapped(f"not known: {', '.join(unknown)}")
    return lines


def _folded_values(values: Mapping[str, Any]) -> list[str]:
    """Gives a line for each setting and value, with the layers that have it."""
    layers: dict[tuple[str, str], list[str]] = {}
    for key, value in values.items():
        if value in (None, [], {}):
            continue
        layer, _, name = key.rpartition("/")
        layers.setdefault((name, as_text(value)), []).append(layer)
    alone = [(f"{found[0]}/{name}", v) for (name, v), found in layers.items() if len(found) == 1]
    return pairs((name.lstrip("/"), value) for name, value in alone) + [
        fitted(f"  {name} {value}: {folded(found, 50)}")
        for (name, value), found in layers.items()
        if len(found) > 1
    ]


def _architecture(values: Mapping[str, Any]) -> list[str]:
    lines = pairs((key, v) for key, v in values.items() if not isinstance(v, (dict, list)))
    layers = values.get("layers")
    if isinstance(layers, Mapping):
        kinds = Counter(
            str(layer.get("class")) for layer in layers.values() if isinstance(layer, Mapping)
        )
        lines += wrapped(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    return lines


_SIZES = ("class", "filters", "units", "output_dim", "input_dim", "depth", "name")


def _unlike(architecture: Mapping[str, Any]) -> list[str]:
    """Gives a line for each setting that a few layers have otherwise than most of their class."""
    layers = architecture.get("layers")
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path, layer in layers.items() if isinstance(layers, Mapping) else ():
        for key, value in layer.items() if isinstance(layer, Mapping) else ():
            if key not in _SIZES:
                values = found.setdefault((str(layer.get("class")), key), {})
                values.setdefault(as_text(value), []).append(path)
    lines = []
    for (kind, key), values in found.items():
        usual = max(values.values(), key=len)
        others = {v: paths for v, paths in values.items() if paths is not usual}
        if sum(map(len, others.values())) < len(usual):
            lines += [
                fitted(f"  {kind} {key} {v}: {folded(paths, 40)}") for v, paths in others.items()
            ]
    return lines


def _provenance(values: Mapping[str, Any]) -> list[str]:
    """Gives commit, machine and data, and the command, as far as it fits."""
    git = values.get("git")
    git = git if isinstance(git, Mapping) else {}
    dirty = {"True": ", with changes that no commit has"}.get(str(git.get("dirty")), "")
    told = [
        ("commit", f"{str(git['commit'])[:12]}{dirty}" if "commit" in git else None),
        ("of", git.get("repository")),
        ("host", values.get("host")),
        ("process", values.get("process")),
        ("data", None if is_unknown(values.get("data")) else str(values.get("data") or "")[:12]),
    ]
    lines = pairs((name, value) for name, value in told if value)
    if values.get("command"):
        lines.append(fitted(f"  {values['command']}"))
    packages = values.get("packages")
    if isinstance(packages, Mapping):
        lines += wrapped(", ".join(f"{name} {as_text(v)}" for name, v in packages.items()))
    return lines


def _runtime(values: Mapping[str, Any]) -> list[str]:
    lines = pairs((key, v) for key, v in flat(values).items() if v not in (None, NEVER_SET))
    seeds = values.get("seeds")
    if isinstance(seeds, Mapping):
        unset = [name for name, seed in seeds.items() if seed == NEVER_SET]
        if unset:
            said = f"This run can not be repeated: no seed was set for {', '.join(unset)}."
            lines += wrapped(said)
    return lines


def _results(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    final, best = results.get("final", {}), results.get("best", {})
    names = list(dict.fromkeys([*final, *best]))
    return pairs((name, f"{cell(final.get(name))}; {cell(best.get(name))}") for name in names)


def drift_sections(drift: Mapping[str, Any]) -> list[Section]:
    """Gives the last drift by part of the network, or of the layers that moved most; the alarms."""
    rows = [row for row in drift["parts"] if row["trainable"]]
    title = "drift by part of the network"
    if len(rows) < 2:  # a network without an outline has but one row, for all of it
        rows, title = drift["layers"], "drift by layer"
        if len(rows) > _ROWS:
            title = f"drift of the {_ROWS} layers of {len(rows)} that moved most"
            measure = next((s for s in STATISTICS if any(s in row for row in rows)), "")
            rows = sorted(rows, key=lambda row: -abs(row.get(measure, 0.0)))[:_ROWS]
    names = [s for s in STATISTICS if any(row.get(s) for row in rows)]
    heads = ["", "state", "parameters", *names]
    cells = [
        [
            spoken(row["name"]),
            "frozen" if row["frozen"] else "",
            f"{row['parameters']:,}",
            *(row.get(name) for name in names),
        ]
        for row in rows
    ]
    lines = columns(heads, cells)[0] if cells else []
    against = f" against {drift['reference']}" if drift["reference"] else ""
    title = fitted(f"{title}, at step {drift['step']}{against}")
    return [Section(title, lines, is_chief=True), _alarms(drift), _problems(drift)]


def spoken(part: str) -> str:
    """Gives the name of a part of the network as a person says it.

    Example:
    >>> spoken("block/3/conv4"), spoken("stem")
    ('block 3 (conv4)', 'stem')
    """
    kind, _, rest = part.partition("/")
    number, _, name = rest.partition("/")
    return f"block {number} ({name})" if kind == "block" and number.isdigit() else part


def _alarms(drift: Mapping[str, Any]) -> Section:
    said = dict.fromkeys(str(alarm.get("message", alarm)) for alarm in drift["alarms"])
    return Section("alarms", [line for text in said for line in wrapped(text)])


def _problems(drift: Mapping[str, Any]) -> Section:
    return Section("not readable", [fitted(f"  {problem}") for problem in drift["problems"]])


def _events(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Gives a line for each kind of change, with the keys and steps that it was seen at."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for entry in entries:
        key = str(entry.get("key", "learning_rate"))
        where, _, name = key.rpartition("/")
        if where.count("/") < 2:  # not one of many layers
            where, name = "", key
        change = f"{name} {' -> '.join(map(cell, _pair(entry)))}"
        found.setdefault((cell(entry.get("step")), change), []).append((where, name))
    return [
        fitted(f"  step {step}: {change}{_where(where for where, _ in places)}")
        for (step, change), places in found.items()
    ]


def _happened(record: Record) -> dict[str, list[Mapping[str, Any]]]:
    """Tells what changed after the start, by what allowed it; the gravest first."""
    phases: list[Mapping[str, Any]] = []
    for phase in record.phases:
        changes = phase.get("changes")
        for change in changes if isinstance(changes, list) else ():
            if isinstance(change, dict):
                phases.append({"step": phase.get("step"), **change})
    return {
        "violations": list(record.violations),
        "changed between phases": phases,
        "overrides": list(record.overrides),
        "changed by plan": list(record.changes),
        "learning rate": list(record.timeline),
    }


def _where(places: Iterable[str]) -> str:
    names = [place for place in places if place]
    return f" in {folded(names, 40)}" if names else ""


def _pair(entry: Mapping[str, Any]) -> tuple[Any, Any]:
    return entry.get("old"), entry.get("new")
