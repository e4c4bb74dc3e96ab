"""The table, the plots and the part of the docs, from what was measured."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
OURS = ("LayerwiseOptimizer", "WeightDrift")
MOST = 1.02  # what the lower end of a point of the sweep may be


def rows(results: Iterable[dict[str, Any]]) -> list[list[str]]:
    """One for each ratio."""
    found = []
    for result in results:
        for side, ratio in result.get("ratios", {}).items():
            own = side in OURS
            low, high = _short(ratio["low"]), _short(ratio["high"])
            against = result["baseline"] if own else side
            found.append(
                [
                    result["title"],
                    against,
                    f"{_short(ratio['median'])} ({low} to {high})",
                    "" if result["floor"] is None else f"±{result['floor']:.3f}",
                    ratio["verdict"],
                    _held(result, ratio) if own else "",
                ]
            )
    return found


def figures(results: Iterable[dict[str, Any]]) -> list[list[str]]:
    """One for each figure that is not a ratio."""
    return [
        [
            figure["what"],
            f"{_number(figure['value'])} {figure['unit']}".rstrip(),
            _target(figure["value"], figure["target"]),
        ]
        for result in results
        for figure in result.get("figures", ())
    ]


def verdict(results: Iterable[dict[str, Any]]) -> str:
    """How many targets were held, and which were not, on one line."""
    held, missed = 0, []
    for result in results:
        own = [(r, side) for side, r in result.get("ratios", {}).items() if side in OURS]
        told = [(result["title"], _short(r["median"]), _held(result, r)) for r, _ in own]
        told += figures([result])
        for what, value, said in told:
            held += said.endswith(": held")
            if said.endswith(": **missed**"):
                missed.append(f"{what} ({value}, {said.partition(':')[0]})")
    count = held + len(missed)
    return f"{held} of {count} targets held" + (f"; missed: {'; '.join(missed)}" * bool(missed))


def table(results: Sequence[dict[str, Any]]) -> str:
    """In Markdown; what is not a ratio has a table of its own."""
    head = ["what", "against", "ratio (95 %)", "A against A", "verdict", "target"]
    parts = [_table(head, rows(results))]
    if found := figures(results):
        parts.append(_table(["what", "measured", "target"], found))
    return "\n\n".join(parts)


def _table(head: list[str], lines: list[list[str]]) -> str:
    every = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in every)


def machine_line(machine: dict[str, Any]) -> str:
    """The machine and the versions in a sentence."""
    versions = machine["versions"]
    names = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    device = machine["gpu"] or f"{machine['cores']} cores of {machine['processor']}"
    if machine.get("driver"):
        device += f" with driver {machine['driver']}"
    return f"{device}, {machine['memory_gib']} GiB; {names}"


def markdown(record: dict[str, Any]) -> str:
    """Everything in one results file."""
    parts = ["# Measured with `python -m benchmarks`"]
    for backend, part in record.items():
        parts += [
            f"## {backend}",
            machine_line(part["machine"]),
            table(list(part["cases"].values())),
            "Commits:",
            _table(["commit", "date", "what"], _commits(part["cases"].values())),
            "Time of one step, and of the first (with trace and compilation):",
            _times(part["cases"].values()),
        ]
        parts += _swept(part["cases"])
    return "\n\n".join(parts) + "\n"


def page(text: str, records: dict[str, dict[str, Any]]) -> str:
    """`text` with the headline figures of all machines between the markers."""
    parts = []
    for stem, record in records.items():
        for backend, part in record.items():
            shown = [case for case in part["cases"].values() if case["headline"]]
            if shown:
                parts += [f"{backend}: {machine_line(part['machine'])}", table(shown)]
                # Of every case, those of the results file that have no row here too.
                parts += [verdict(part["cases"].values()) + "."]
            if lines := growth(part["cases"]):
                parts += [_table(["grows with", "from", "to", "side", "slope"], lines)]
            parts += _swept(part["cases"])
            parts += [f"![{name}](figures/{name})" for name in pictures(stem, backend, part)]
    if not any(part["machine"]["gpu"] for record in records.values() for part in record.values()):
        parts.append("Figures from a GPU are missing: none could be had.")
    body = "\n\n".join(parts)
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"The page has no {BEGIN} and {END}; put both where the table belongs.")
    return pattern.sub(lambda _: f"{BEGIN}\n{body}\n{END}", text)


QUANTITIES = ("weights", "groups", "parameters", "runs")


def scaled(cases: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The cases of each quantity that was scaled, in the order of its size."""
    found = {
        quantity: [case for name, case in cases.items() if name.startswith(f"scale/{quantity}/")]
        for quantity in QUANTITIES
    }
    return {
        quantity: sorted(points, key=lambda case: case["scale"][quantity])
        for quantity, points in found.items()
        if len(points) > 1
    }


def growth(cases: dict[str, dict[str, Any]]) -> list[list[str]]:
    """For each quantity and side, what one more costs."""
    lines = []
    for quantity, points in scaled(cases).items():
        xs = [case["scale"][quantity] for case in points]
        for side in points[0]["seconds"]:
            slope = measure.slope(xs, [case["seconds"][side] for case in points])
            each = f"{_seconds(slope)} per {quantity.rstrip('s')}"
            lines.append([quantity, f"{xs[0]:,}", f"{xs[-1]:,}", side, each])
    return lines


def pictures(stem: str, backend: str, part: dict[str, Any]) -> list[str]:
    """The files that `plots` draws of a backend, below the folder of all pictures."""
    drawn = [*scaled(part["cases"]), *(["sweep"] if sweep(part["cases"]) else [])]
    return [f"{stem}/{backend}-{name}.svg" for name in drawn]


def plots(record: dict[str, Any], folder: Path) -> list[Path]:
    """A plot for each quantity that was scaled, with its slope."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "benchmarks"  # a picture of the same figures is the same file
    from matplotlib import pyplot

    made = []
    for backend, part in record.items():
        for quantity, points in scaled(part["cases"]).items():
            xs = [case["scale"][quantity] for case in points]
            figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
            for side in points[0]["seconds"]:
                ys = [case["seconds"][side] for case in points]
                label = f"{side}: {_seconds(measure.slope(xs, ys))} per {quantity.rstrip('s')}"
                axes.plot(xs, [1e3 * y for y in ys], "o-", label=label)
            axes.set(xlabel=quantity, ylabel="ms", xscale="log", yscale="log", title=backend)
            axes.legend()
            path = folder / f"{backend}-{quantity}.svg"
            figure.savefig(path, metadata={"Date": None})
            pyplot.close(figure)
            made.append(path)
        if found := sweep(part["cases"]):
            path = folder / f"{backend}-sweep.svg"
            _draw_sweep(found, backend).savefig(path, metadata={"Date": None})
            made.append(path)
    return made


def sweep(cases: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The cases that belong to the sweep over widths, batches and optimizers."""
    return [case for name, case in cases.items() if name.startswith("sweep/")]


def _swept(cases: dict[str, dict[str, Any]]) -> list[str]:
    found = sweep(cases)
    head = ["optimizer", "points", "geometric mean", "highest lower end", f"above {MOST}"]
    return [
        "A rate for each layer, to bare, over widths and batches:",
        _table(head, sweep_lines(found)),
    ] * bool(found)


def sweep_lines(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """For each optimizer and for all: the geometric mean, the highest point, what lies above."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in found:
        groups.setdefault(case["scale"]["optimizer"], []).append(case)
    if len(groups) > 1:
        groups["all"] = list(found)
    lines = []
    for name, members in groups.items():
        ratios = [case["ratios"][OURS[0]] for case in members]
        mean = math.exp(sum(math.log(ratio["median"]) for ratio in ratios) / len(ratios))
        highest = max(members, key=lambda case: case["ratios"][OURS[0]]["low"])
        above = [case["title"] for case in members if case["ratios"][OURS[0]]["low"] > MOST]
        lines.append(
            [
                name,
                str(len(members)),
                f"{mean:.3f}",
                f"{highest['ratios'][OURS[0]]['low']:.3f}: {highest['title']}",
                "; ".join(above) or "none",
            ]
        )
    return lines


def _draw_sweep(found: Sequence[dict[str, Any]], title: str) -> Any:
    """Ratio over width, a panel for each optimizer and a line for each batch, with intervals."""
    from matplotlib.figure import Figure

    optimizers = list(dict.fromkeys(case["scale"]["optimizer"] for case in found))
    figure = Figure(figsize=(4 * len(optimizers), 3.5), layout="constrained")
    panels = figure.subplots(1, len(optimizers), sharey=True, squeeze=False)[0]
    for axes, optimizer in zip(panels, optimizers, strict=True):
        mine = [case for case in found if case["scale"]["optimizer"] == optimizer]
        for size in sorted({case["scale"]["batch"] for case in mine}):
            line = sorted(
                (case["scale"]["width"], case["ratios"][OURS[0]])
                for case in mine
                if case["scale"]["batch"] == size
            )
            medians = [ratio["median"] for _, ratio in line]
            reach = [
                [ratio["median"] - ratio["low"] for _, ratio in line],
                [ratio["high"] - ratio["median"] for _, ratio in line],
            ]
            axes.errorbar([w for w, _ in line], medians, reach, marker="o", label=f"batch {size}")
        axes.axhline(1.0, color="grey", linewidth=0.8)
        axes.set(xscale="log", xlabel="width", title=optimizer)
    panels[0].set_ylabel("ours / bare")
    panels[0].legend()
    figure.suptitle(f"{title}: a step with a rate for each layer")
    return figure


def _times(results: Iterable[dict[str, Any]]) -> str:
    lines = ["| what | side | time | first | variables |", "|---|---|---|---|---|"]
    for result in results:
        for side, seconds in result.get("seconds", {}).items():
            first = result.get("first_seconds", {}).get(side)
            count = result.get("variables", {}).get(side, "")
            shown = "" if first is None else _seconds(first)
            lines.append(
                f"| {result['title']} | {side} | {_seconds(seconds)} | {shown} | {count} |"
            )
    return "\n".join(lines)


def _commits(results: Iterable[dict[str, Any]]) -> list[list[str]]:
    titles: dict[tuple[str, str], list[str]] = {}
    for result in results:
        titles.setdefault((result["commit"], result["date"]), []).append(result["title"])
    return [[*when, "; ".join(found)] for when, found in titles.items()]


def _held(result: dict[str, Any], ratio: dict[str, Any]) -> str:
    said = _target(ratio[result["bound"]], result["target"])
    return said.replace("≤", "low end ≤") if result["bound"] == "low" else said


def _target(value: float, most: float | None) -> str:
    if most is None:
        return ""
    return f"≤ {most:g}: {'held' if value <= most else '**missed**'}"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _short(value: float) -> str:
    return f"{value:.3f}" if value >= 0.1 else f"{value:.2g}"


def _seconds(value: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")):
        if abs(value) * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.2g} ns"
