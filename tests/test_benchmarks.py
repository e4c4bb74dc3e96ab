"""The arithmetic and the tables of the benchmarks; nothing here is timed."""

import fnmatch
import functools
import gc
import json
import math
import re
import signal
import subprocess
import time

import keras
import numpy as np
import pytest

from benchmarks import auto_freeze, cases, device, machine, measure, report
from benchmarks.apart import Built, apart
from benchmarks.measure import Ratio


def test_the_interval_holds_the_true_median_95_times_in_100():
    rng = np.random.default_rng(0)
    trials = [measure.interval(rng.exponential(size=25)) for _ in range(2000)]
    held = sum(found.low <= math.log(2) <= found.high for found in trials) / len(trials)
    assert 0.95 <= held <= 0.99


@pytest.mark.parametrize(
    # From tables of the sign test: the smallest and largest but k of n samples.
    ("count", "rank"),
    [(1, 0), (5, 0), (6, 0), (9, 1), (12, 2), (25, 7), (100, 39)],
)
def test_the_interval_is_between_these_ranks(count, rank):
    found = measure.interval([float(i) for i in range(count)])
    assert (found.low, found.high) == (rank, count - 1 - rank)
    assert found.median == (count - 1) / 2


def test_ratios_are_of_neighbours():
    # The machine became ten times slower in the middle of the run.
    baseline = [1.0, 1.0, 10.0, 10.0]
    assert measure.ratios([2.0, 2.0, 20.0, 20.0], baseline) == Ratio(2, 2, 2)


@pytest.mark.parametrize(
    ("ratio", "floor", "expected"),
    [
        (Ratio(1.01, 0.99, 1.03), 0.0, "no difference"),
        (Ratio(1.01, 1.005, 1.02), 0.015, "no difference"),
        (Ratio(1.03, 1.02, 1.04), 0.01, "more"),
        (Ratio(0.9, 0.85, 0.95), 0.05, "less"),
    ],
)
def test_a_difference_is_beyond_noise_and_interval(ratio, floor, expected):
    assert measure.verdict(ratio, floor) == expected


def test_the_floor_is_the_farther_end():
    assert measure.noise_floor(Ratio(1.0, 0.97, 1.01)) == pytest.approx(0.03)


def test_sides_take_turns_and_each_begins_some():
    calls = []

    def side(name):
        return lambda steps: calls.append(name)

    samples = measure.in_turns({"a": side("a"), "b": side("b")}, seconds=0, at_least=4)
    assert calls[-8:] == list("abbaabba")
    assert {name: len(found) for name, found in samples.items()} == {"a": 4, "b": 4}


def test_the_garbage_collector_rests_between_the_samples():
    seen = []
    measure.in_turns({"a": lambda steps: seen.append(gc.isenabled())}, seconds=0, at_least=2)
    assert seen[-2:] == [False, False]
    assert gc.isenabled()


def test_sides_apart_step_in_processes_of_their_own():
    build = functools.partial(Built, first=0.5, variables=3)
    with apart(build, [time.sleep, signal.raise_signal]) as sides:
        assert (sides[time.sleep].first, sides[time.sleep].variables) == (0.5, 3)
        with pytest.raises(EOFError):
            sides[signal.raise_signal].step(signal.SIGTERM)
        sides[time.sleep].step(0)


def test_slope():
    assert measure.slope([1, 2, 4], [5, 7, 11]) == pytest.approx(2)


def result(**changes):
    return {
        "title": "a step",
        "target": 1.02,
        "bound": "high",
        "headline": True,
        "baseline": "bare",
        "seconds": {"bare": 0.01, "LayerwiseOptimizer": 0.0101},
        "ratios": {
            "LayerwiseOptimizer": {
                "median": 1.01,
                "low": 1.0,
                "high": 1.03,
                "verdict": "no difference",
            }
        },
        "floor": 0.02,
        "commit": "abc",
        "date": "2026-01-01",
        **changes,
    }


ABOUT = {
    "processor": "Some CPU @ 2.0GHz", "cores": 2, "memory_gib": 8, "gpu": None,
    "versions": {"keras": "3"},
}  # fmt: skip


def test_a_target_for_the_interval_is_held_to_its_end():
    assert report.rows([result()])[0][-1] == "≤ 1.02: **missed**"
    assert report.rows([result(bound="median")])[0][-1] == "≤ 1.02: held"


def test_each_figure_keeps_the_commit_it_was_measured_at():
    later = result(title="another", commit="def")
    record = {"tensorflow": {"machine": ABOUT, "cases": {"a": result(), "b": later}}}
    written = report.markdown(record)
    assert "| abc | 2026-01-01 | a step |" in written
    assert "| def | 2026-01-01 | another |" in written


def test_what_is_no_ratio_has_a_table_of_its_own():
    figures = [
        {"what": "a record", "value": 79.04, "unit": "bytes", "target": 78},
        {"what": "a start", "value": 1.5, "unit": "s", "target": None},
        {"what": "operations", "value": 4561, "unit": "", "target": None},
    ]
    written = report.table([result(), {"title": "sizes", "headline": True, "figures": figures}])
    assert written.count("| what |") == 2
    assert "| a record | 79 bytes | ≤ 78: **missed** |" in written
    assert "| a start | 1.5 s |  |" in written
    assert "| operations | 4,561 |  |" in written


def test_the_page_gets_the_headlines_between_its_markers():
    cases = {"a": result(), "b": result(title="a detail", headline=False, target=None)}
    record = {"tensorflow": {"machine": ABOUT, "cases": cases}}
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    written = report.page(text, {"cpu": record})
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "a step" in written
    assert "old" not in written
    assert "a detail" not in written
    assert "GPU are missing" in written
    assert report.page(written, {"cpu": record}) == written
    with pytest.raises(ValueError, match="put both where"):
        report.page("no place", {"cpu": record})


def test_the_page_and_the_tables_are_those_of_the_results():
    """What `--page` writes, so that no figure of a page is older than its file."""
    results = machine.ROOT / "benchmarks" / "results"
    records = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    for stem, record in records.items():
        assert (results / f"{stem}.md").read_text() == report.markdown(record)
    page = (machine.ROOT / "docs" / "benchmarks.md").read_text()
    assert page == report.page(page, records)
    for name in re.findall(r"!\[.*\]\(figures/(.*)\)", page):
        assert (machine.ROOT / "docs" / "figures" / name).exists()
    for curve in (*report.QUANTITIES, "sweep"):
        assert f"/tensorflow-{curve}.svg" in page


def test_the_page_says_what_was_missed_by_cases_without_a_row():
    cases = {"a": result(target=None), "b": result(title="a detail", headline=False)}
    record = {"tensorflow": {"machine": ABOUT, "cases": cases}}
    assert "missed: a detail" in report.page(f"{report.BEGIN}{report.END}", {"cpu": record})


def test_a_point_of_the_sweep_is_held_by_the_lower_end_of_its_interval():
    point = result(bound="low")
    assert report.rows([point])[0][-1] == "low end ≤ 1.02: held"
    point["ratios"]["LayerwiseOptimizer"]["low"] = 1.03
    assert report.rows([point])[0][-1] == "low end ≤ 1.02: **missed**"


def test_one_file_for_each_kind_of_machine():
    assert machine.kind(ABOUT) == "some-cpu-2-0ghz-2-cores"
    assert machine.kind({**ABOUT, "gpu": "NVIDIA H100"}) == "nvidia-h100"


def test_the_verdict_is_one_line_with_every_missed_target():
    figures = [
        {"what": "a record", "value": 79.0, "unit": "bytes", "target": 78},
        {"what": "a start", "value": 1.5, "unit": "s", "target": None},
    ]
    found = [
        result(bound="median"),
        result(title="too slow", target=0.5),
        {"title": "sizes", "figures": figures},
        result(target=None),
    ]
    assert report.verdict(found) == (
        "1 of 3 targets held; missed: too slow (1.010, ≤ 0.5); a record (79 bytes, ≤ 78)"
    )
    assert report.verdict(found[:1]) == "1 of 1 targets held"


def test_growth_has_the_slope_of_each_side_and_a_picture():
    def point(count, seconds):
        return result(
            headline=False, scale={"weights": count}, seconds={"bare": seconds, "ours": 2 * seconds}
        )

    cases = {"scale/weights/30": point(30, 0.3), "scale/weights/10": point(10, 0.1)}
    assert report.growth(cases) == [
        ["weights", "10", "30", "bare", "10 ms per weight"],
        ["weights", "10", "30", "ours", "20 ms per weight"],
    ]
    record = {"jax": {"machine": ABOUT, "cases": cases}}
    page = report.page(f"{report.BEGIN}{report.END}", {"cpu": record})
    assert "![cpu/jax-weights.svg](figures/cpu/jax-weights.svg)" in page


@pytest.fixture
def chunks():
    """The lines of the script's table for this backend."""
    script = machine.ROOT / "benchmarks" / "gpu.sh"
    run = subprocess.run([script, "chunks"], check=True, capture_output=True, text=True)
    lines = [line.split() for line in run.stdout.splitlines()]
    return [line for line in lines if line[1] == keras.backend.backend()]


class TestOnAGPU:
    """The script's path is tried with ``SMALL=1``, which takes minutes; this holds its table."""

    @pytest.mark.parametrize("small", [False, True])
    def test_every_case_is_in_a_chunk_and_every_chunk_has_cases(self, chunks, small):
        names = {case.name for case in device.all_cases(small)}
        every = names | {case.name for case in cases.all_cases()}
        found = [{n for n in every for p in c[3:] if fnmatch.fnmatch(n, p)} for c in chunks]
        assert all(found)
        assert names <= set().union(*found)

    def test_a_chunk_ends_in_time(self, chunks):
        names = [case.name for case in [*device.all_cases(False), *cases.all_cases()]]
        for name, _, seconds, *patterns in chunks:
            count = sum(any(fnmatch.fnmatch(case, p) for p in patterns) for case in names)
            assert count * float(seconds) <= 180, name  # the rest of ten minutes is for building


class TestSweep:
    @staticmethod
    def case(optimizer, width, median, low):
        ratio = {"median": median, "low": low, "high": median + 0.1, "verdict": ""}
        return {
            "title": f"{width} wide",
            "scale": {"optimizer": optimizer, "width": width, "batch": 8},
            "ratios": {"LayerwiseOptimizer": ratio},
        }

    def test_each_optimizer_has_its_geometric_mean_and_names_what_lies_above(self):
        found = [
            self.case("adam", 8, 0.5, 0.45),
            self.case("adam", 16, 2.0, 1.9),
            self.case("sgd", 8, 1.0, 0.9),
        ]
        lines = report.sweep_lines(found)
        assert [line[:3] for line in lines] == [
            ["adam", "2", "1.000"],
            ["sgd", "1", "1.000"],
            ["all", "3", "1.000"],
        ]
        assert [line[4] for line in lines] == ["16 wide", "none", "16 wide"]
        assert lines[0][3].startswith("1.900")

    def test_it_is_drawn_a_panel_for_each_optimizer(self, tmp_path):
        pytest.importorskip("matplotlib", reason="draws the plot; not installed everywhere")
        cases = {
            f"sweep/{o}/{w}/8": self.case(o, w, 1.0, 0.9) for o in ("adam", "sgd") for w in (8, 16)
        }
        (path,) = report.plots({"tensorflow": {"cases": cases}}, tmp_path)
        assert path.name == "tensorflow-sweep.svg"
        assert path.read_text().count("adam") == 1


def both_sides(accuracy):
    """A run that is there after two epochs, and one with `accuracy` in half the time."""
    return {
        "without": {"accuracy": [0.5, 0.9, 0.9, 0.9], "seconds": [1.0, 2.0, 3.0, 4.0]},
        "AutoFreeze": {"accuracy": accuracy, "seconds": [0.5, 1.0, 1.5, 2.0], "frozen": [[1, 3]]},
    }


def test_time_to_equal_accuracy_is_that_of_the_epoch_that_gets_there():
    found = auto_freeze.row("net", [both_sides([0.5, 0.6, 0.895, 0.9])])
    assert found[:2] == ["net", "1 of 1"]
    assert [cell.split(" ")[0] for cell in found[2:5]] == ["1.50", "0.75", "0.50"]


def test_a_run_that_never_gets_there_is_no_gain():
    found = auto_freeze.row("net", [both_sides([0.5, 0.6, 0.7, 0.8])])
    assert found[1] == "0 of 1"
    assert found[2].startswith("inf")
