"""The command ``keras-layerwise``: a run's record, and what differs between two.

Starts in a fraction of a second: it reads files, and imports no Keras.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from keras_layerwise.storage import schema
from keras_layerwise.storage.reading import final_drift
from keras_layerwise.storage.record import RUNNING, Record, RecordError, load_record
from keras_layerwise.storage.values import NEVER_SET, as_text, flat

SAME, DIFFERENT, NO_RUN = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0; for ``diff`` 1 where the runs differ; 2 for what is no run.
    """
    parser = argparse.ArgumentParser(
        prog="keras-layerwise",
        description="What a run was configured with, and what became of it.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="a run's record and final drift")
    show.add_argument("runs", metavar="RUN", nargs=1, help="log_dir of the run")
    diff = commands.add_parser("diff", help="what differs between two runs")
    diff.add_argument("runs", metavar="RUN", nargs=2, help="log_dir of a run")
    for command in (show, diff):
        command.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    try:
        records = [load_record(run) for run in options.runs]
    except RecordError as error:
        print(f"keras-layerwise: {error}", file=sys.stderr)
        return NO_RUN
    if options.command == "show":
        return _show(options.runs[0], records[0], options.json)
    return _diff(options.runs, records, options.json)


def _show(run: str, record: Record, as_json: bool) -> int:
    drift = final_drift(run)
    if as_json:
        _print_json({**record.to_json(), "drift": drift})
        return SAME
    from keras_layerwise.tables import render

    state = f"{run}: {record.status}, started {record.started}, ended {record.ended or '-'}"
    if record.status == RUNNING:
        state += " (or killed: then no end could be written)"
    if record.error:
        state += f"\n{record.error}"
    print(state)
    for group in record:
        rows = [(key, as_text(value)) for key, value in flat(record[group]).items()]
        if rows:
            print(render(group, ("Key", "Value"), rows))
    print(render("fingerprints", ("Of", "SHA-256"), record.fingerprints.items()))
    for name in ("results", "timeline", "changes", "overrides", "violations"):
        entries = getattr(record, name)
        if name == "results":
            rows = [(key, _number(value)) for key, value in flat(entries).items()]
            columns: tuple[str, ...] = ("Metric", "#Value")
        else:
            columns = ("#Step", "Key", "Old", "New")
            rows = [
                (as_text(e["step"]), e.get("key", "learning_rate"), *map(as_text, _pair(e)))
                for e in entries
            ]
        if rows:
            print(render(name, columns, rows))
    if drift["layers"]:
        names = [name for name in schema.STATISTICS if name in drift["layers"][0]]
        rows = [
            (entry["name"], *(_number(entry.get(name)) for name in names))
            for entry in drift["layers"]
        ]
        title = f"drift at step {drift['step']}"
        print(render(title, ("Layer", *(f"#{name}" for name in names)), rows))
    unset = [name for name, seed in record["runtime"].get("seeds", {}).items() if seed == NEVER_SET]
    if unset:
        print(f"This run can not be repeated: no seed was set for {', '.join(unset)}.")
    return SAME


def _pair(entry: dict[str, Any]) -> tuple[Any, Any]:
    return entry["old"], entry["new"]


def _diff(runs: Sequence[str], records: Sequence[Record], as_json: bool) -> int:
    old, new = records
    found = old.diff(new)
    weights = {
        name: old.fingerprints.get(name) == new.fingerprints.get(name)
        for name in ("initial_weights", "final_weights")
        if name in old.fingerprints and name in new.fingerprints
    }
    if as_json:
        _print_json({"differences": [d._asdict() for d in found], "same_weights": weights})
        return DIFFERENT if found else SAME
    if found:
        from keras_layerwise.tables import render

        rows = [(d.key, as_text(d.old), as_text(d.new)) for d in found]
        print(render(f"{len(found)} keys differ", ("Key", *runs), rows))
    else:
        print("The runs were configured the same.")
    for name, same in weights.items():
        print(f"{name.replace('_', ' ')}: {'the same' if same else 'different'}")
    return DIFFERENT if found else SAME


def _print_json(value: Any) -> None:
    print(json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


if __name__ == "__main__":
    sys.exit(main())
