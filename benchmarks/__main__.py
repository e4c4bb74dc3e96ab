"""The command line."""

import argparse
import fnmatch
import importlib.util
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import machine, report

RESULTS = Path(__file__).parent / "results"
FIGURES = machine.ROOT / "docs" / "figures"


def main() -> int:
    """Measures, and writes the results file of this kind of machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="cases, or patterns such as 'step/dense/*'")
    parser.add_argument("--quick", action="store_true", help="the most important in two minutes")
    parser.add_argument("--all", action="store_true", help="those too that take minutes each")
    parser.add_argument("--small", action="store_true", help="a GPU's cases in a trial's sizes")
    parser.add_argument("--list", action="store_true", help="show the cases and stop")
    parser.add_argument("--seconds", type=float, help="for each case, beyond building it")
    parser.add_argument("--output", type=Path, help=f"folder instead of {RESULTS.name}/")
    parser.add_argument("--page", action="store_true", help="only write the tables of the docs")
    options = parser.parse_args()
    if options.page:
        return _write_page()
    if options.small and not options.output:
        parser.error("--small only tries the path: say with --output where its figures go")
    backend = machine.choose_backend()
    # TensorFlow warns of many traces in one process, which is what is measured.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from benchmarks import cases, device

    every = cases.all_cases()
    if options.names or options.list:  # a processor would take hours for a GPU's
        every += device.all_cases(options.small)
    chosen = [
        case
        for case in every
        if (
            any(fnmatch.fnmatch(case.name, name) for name in options.names)
            if options.names
            else (case.quick if options.quick else options.all or not case.slow)
        )
    ]
    if options.list or not chosen:
        print(*(f"{case.name:36} {case.title}" for case in chosen or every), sep="\n")
        return 0 if options.list else 2
    about, when = machine.describe(), machine.revision()
    print(f"{report.machine_line(about)}; commit {when['commit']}", flush=True)
    seconds = options.seconds or (2.0 if options.quick else 5.0)
    done, failed = {}, []
    start = time.perf_counter()
    for i, case in enumerate(chosen, 1):
        print(f"[{i}/{len(chosen)}, {time.perf_counter() - start:.0f} s] {case.name}", flush=True)
        try:
            result = case.run(seconds)
        except Exception:  # one case that cannot be run must not cost the others
            traceback.print_exc()
            failed.append(case.name)
            continue
        done[case.name] = {
            "title": case.title,
            "target": case.target,
            "bound": case.bound,
            "headline": case.headline,
            **when,
            **result,
        }
        for row in report.rows([done[case.name]]):
            print("    " + "  ".join(cell for cell in row[1:] if cell), flush=True)
        for row in report.figures([done[case.name]]):
            print("    " + "  ".join(cell for cell in row if cell), flush=True)
        # After each, so that an interrupted run keeps what it measured.
        path = _write(options.output or RESULTS, backend, about, done)
    if done:
        _draw(path)
    took = f"{time.perf_counter() - start:.0f} s"
    print(
        f"verdict: {report.verdict(done.values())}; {took}; failed: {', '.join(failed) or 'none'}"
    )
    return 1 if failed else 0


def _write(folder: Path, backend: str, about: dict[str, Any], done: dict[str, Any]) -> Path:
    """Puts the cases beside those of other backends and of earlier runs with these versions."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{machine.kind(about)}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    before = record.get(backend, {})
    kept = before["cases"] if before.get("machine") == about else {}
    record[backend] = {"machine": about, "cases": {**kept, **done}}
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def _draw(path: Path) -> None:
    """The table and the plots of a results file."""
    record = json.loads(path.read_text())
    path.with_suffix(".md").write_text(report.markdown(record))
    if importlib.util.find_spec("matplotlib"):
        folder = FIGURES / path.stem if path.parent == RESULTS else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        report.plots(record, folder)
    else:
        print("No plots: matplotlib is not installed.")
    print(path)


def _write_page() -> int:
    """Writes what follows from the results files, which may come from another machine."""
    found = sorted(RESULTS.glob("*.json"))
    for path in found:
        _draw(path)
    records = {path.stem: json.loads(path.read_text()) for path in found}
    path = machine.ROOT / "docs" / "benchmarks.md"
    path.write_text(report.page(path.read_text(), records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
