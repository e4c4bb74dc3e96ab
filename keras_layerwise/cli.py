"""The command ``keras-layerwise``: a run, two runs, a sweep, the parts of a saved model.

Starts in a fraction of a second: it reads files, and imports no Keras, except
for ``outline``, which loads a model.
"""

import argparse
import contextlib
import csv
import importlib
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import keras_layerwise
from keras_layerwise.command import diff, show, sweep
from keras_layerwise.command.layout import WIDTH, columns, page, placed
from keras_layerwise.storage.reading import final_drift
from keras_layerwise.storage.record import RecordError, load_record
from keras_layerwise.storage.values import flat

SAME, DIFFERENT, NO_RUN = 0, 1, 2
LINES = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0; for ``diff`` 1 where the runs differ; 2 for what is no run.
    """
    # A console that is not UTF-8 gets escapes for what it can not show.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        status, lines = _COMMANDS[options.command](options)
    except (RecordError, sweep.UnknownKeyError, OSError) as error:
        status, lines = NO_RUN, [f"keras-layerwise: {error}"]
    return _write(lines, status, sys.stderr if status == NO_RUN else sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-layerwise",
        description="What runs were configured with, and what became of them.",
    )
    version = f"keras-layerwise {keras_layerwise.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("show", help="a run's settings, results, drift and alarms")
    one.add_argument("runs", metavar="RUN", nargs=1, help="log_dir of the run")
    one.add_argument("--full", action="store_true", help="all that is known, however long")
    two = commands.add_parser("diff", help="what differs between two runs, causes first")
    two.add_argument("runs", metavar="RUN", nargs=2, help="log_dir of a run")
    two.add_argument("--full", action="store_true", help="all differences, however many")
    many = commands.add_parser("list", help="the runs below a directory, as a table")
    many.add_argument("directory", metavar="DIR", help="holds the log_dirs of runs")
    many.add_argument("--sort", metavar="NAME", help="by a result or setting, such as val_loss")
    many.add_argument("--descending", action="store_true", help="the highest first")
    many.add_argument(
        "--where", metavar="NAME=VALUE", action="append", default=[],
        help="only runs with that setting or result, such as learning_rate=0.001",
    )  # fmt: skip
    for command in (one, two, many):
        form = command.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="for programs")
        form.add_argument("--csv", action="store_true", help="for spreadsheets")
    outline = commands.add_parser("outline", help="the parts of a saved model; loads Keras")
    outline.add_argument("file", metavar="FILE.keras", help="a model that was saved")
    outline.add_argument("--block", help="a pattern that each layer of a block has in its path")
    return parser


def _show(options: argparse.Namespace) -> tuple[int, Iterable[str]]:
    (run,) = options.runs
    record, drift = load_record(run), final_drift(run)
    if options.json:
        return SAME, [_json({**record.to_json(), "drift": drift})]
    if options.csv:
        pairs = {**flat(record.values), **flat({"results": record.results})}
        return SAME, [_csv(["key", "value"], pairs.items())]
    if options.full:
        return SAME, show.everything(run, record, drift)
    return SAME, page(show.sections(run, record, drift), LINES)


def _diff(options: argparse.Namespace) -> tuple[int, Iterable[str]]:
    old, new = records = [load_record(run) for run in options.runs]
    found = old.diff(new)
    status = DIFFERENT if found else SAME
    if options.json:
        told = {
            "differences": [difference._asdict() for difference in found],
            "unknown": list(found.unknown),
            "same_weights": diff.same_weights(old, new),
            "results": [record.results for record in records],
        }
        return status, [_json(told)]
    if options.csv:
        return status, [_csv(["key", "old", "new"], found)]
    drifts = [final_drift(run) for run in options.runs]
    sections = diff.sections(options.runs, records, drifts)
    return status, page(sections, None if options.full else LINES)


def _list(options: argparse.Namespace) -> tuple[int, Iterable[str]]:
    runs, problems = sweep.read(options.directory)
    _write([f"keras-layerwise: {problem}" for problem in problems], SAME, sys.stderr)
    if not runs:
        raise RecordError(f"There is no run in {options.directory!r} that can be read.")
    asked = [sweep.resolve(runs, options.sort)] if options.sort else []
    found = sweep.by(runs, options.sort, options.descending) if options.sort else runs
    for condition in options.where:
        asked.append(sweep.resolve(runs, condition.partition("=")[0].strip()))
        found = sweep.where(found, condition) if found else found
    names, rows = sweep.table(found, asked)
    if options.json:
        return SAME, [_json([dict(zip(names, row, strict=True)) for row in rows])]
    if options.csv:
        return SAME, [_csv(names, rows)]
    rows = [
        [row[0], show.state(run.record), *row[2:]] for row, run in zip(rows, found, strict=True)
    ]
    lines, left = columns(sweep.heads(names), rows, WIDTH)
    if left:
        lines.append(f"  .. {left} more columns: --csv or --json")
    return SAME, [placed(f"{len(found)} of {len(runs)} runs in ", options.directory), *lines]


def _outline(options: argparse.Namespace) -> tuple[int, Iterable[str]]:
    # By name, so that nothing here imports Keras before it is asked for.
    try:
        saving = importlib.import_module("keras.saving")
    except (ImportError, ValueError) as error:  # Keras has no backend: the note says what to do
        return NO_RUN, [f"keras-layerwise: {error}", *getattr(error, "__notes__", ())]
    outline = importlib.import_module("keras_layerwise.model.outline").outline
    try:
        model = saving.load_model(options.file, compile=False)
        return SAME, [str(outline(model, options.block))]
    except Exception as error:  # whatever a file or a layer in it may raise
        return NO_RUN, [f"keras-layerwise: {options.file!r}: {error}"]


_COMMANDS = {"show": _show, "diff": _diff, "list": _list, "outline": _outline}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)


def _csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for row in rows:
        writer.writerow(
            [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in row]
        )
    return text.getvalue().rstrip("\n")


def _write(lines: Iterable[str], status: int, stream: Any) -> int:
    try:
        for line in lines:
            print(line, file=stream)
        stream.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. What is left in the buffer
        # would fail once more when the interpreter ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


if __name__ == "__main__":
    sys.exit(main())
