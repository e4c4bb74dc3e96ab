"""The demonstration runs, and shows what it measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_layerwise as kl
from keras_layerwise.storage import schema
from tests.shared import tab_browser

pytest.importorskip("sklearn", reason="the demonstration's digits come with scikit-learn")

ROOT = Path(__file__).parent.parent
WAYS = [
    "one rate for all",
    "head only",
    "layer decay",
    "gradual unfreezing",
    "decay to pretrained",
]
INTERPOLATED = "interpolated, best α"  # has no run of its own
LAYERS = ["conv_1", "norm_1", "conv_2", "norm_2", "conv_3", "dense", "head"]


def log_dir(logs, way):
    return logs / "seed-0" / way.replace(" ", "_")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What it printed, and the directory of its logs."""
    logs = tmp_path_factory.mktemp("demo") / "logs"
    run = subprocess.run(
        [sys.executable, "examples/finetune_digits.py", "--quick", "--seeds=1", "--logdir", logs],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "I0000" not in run.stderr, "log lines of TensorFlow come before the demonstration's"
    return run.stdout, logs


def table(text):
    """The cells of each row under its first cell."""
    lines = [line.strip("│").split("│") for line in text.splitlines() if line.startswith("│")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_table_has_what_was_learned_and_kept_drift_and_seconds_of_every_way(demo):
    rows = table(demo[0])
    assert rows.pop("Way") == ["Learned 5-9", "Kept 0-4", *LAYERS, "Seconds"]
    assert list(rows) == [*WAYS, INTERPOLATED]
    for learned, kept, *figures in rows.values():
        assert 0 <= float(learned) <= 1
        assert 0 <= float(kept) <= 1
        assert all(float(figure) >= 0 for figure in figures)


def test_drift_shows_what_each_way_does(demo):
    rows = table(demo[0])
    drift = {way: dict(zip(LAYERS, map(float, rows[way][2:-1]), strict=True)) for way in WAYS}
    moved = {layer for layer, distance in drift["head only"].items() if distance > 0}
    assert moved == {"head"}
    assert 0 < drift["layer decay"]["conv_1"] < drift["one rate for all"]["conv_1"] / 3
    assert all(drift["gradual unfreezing"].values())


def test_what_was_learned_against_what_was_kept_is_drawn(demo):
    picture = (demo[1] / "learned-and-kept.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_output_ends_with_the_command_that_opens_the_logs(demo):
    text, logs = demo
    assert text.splitlines()[-1].strip() == f"tensorboard --logdir {logs}"


def test_the_logs_fill_every_part_of_the_tab(demo):
    logs = demo[1]
    with tab_browser.tensorboard(logs) as board:

        def loaded():
            runs = json.loads(board.get("data/plugin/layerwise/runs")[2])["runs"]
            stamps = [run["stamps"] for run in runs]
            last = [found.get(topic, [""])[0] for found in stamps for topic in ("l2", "rates")]
            whole = all(stamp.startswith("100/") for stamp in last)  # 5 epochs of 20
            whole = whole and all("record" in found for found in stamps)
            return len(runs) == len(WAYS) and whole and runs

        runs = {run["name"]: run for run in tab_browser.wait_for(loaded, "the runs")}
        curves = {
            name: json.loads(
                board.get("data/plugin/layerwise/metric", name=name, run=list(runs))[2]
            )["curves"]
            for name in ("kept", "learned")
        }
    # What "Did it forget?" draws over the drift: the last point is the printed accuracy.
    printed = table(demo[0])
    for column, name in enumerate(("learned", "kept")):
        for way in WAYS:
            values = curves[name][log_dir(logs, way).relative_to(logs).as_posix()]["values"]
            assert len(values) == 5
            assert values[-1] == pytest.approx(float(printed[way][column]), abs=6e-4)
    for way in WAYS:
        run = runs[log_dir(logs, way).relative_to(logs).as_posix()]
        assert run["problems"] == []
        assert {*run["statistics"], "rates", "record"} <= run["stamps"].keys()
        assert run["alarms"] == []
        unfrozen = {change["row"] for change in run["changes"] if change["what"] == "unfrozen"}
        assert unfrozen == (set(LAYERS[:-1]) if way == "gradual unfreezing" else set())


@pytest.mark.parametrize("way", WAYS)
def test_every_run_left_a_record_and_its_charts(demo, way):
    run = log_dir(demo[1], way)
    record = kl.load_record(run)
    assert record.status == "finished"
    assert record["user"] == {"way": way, "seed": 0, "examples": 10}
    for name in (schema.RECORD_DIR, schema.DRIFT_DIR, schema.RATES_DIR):
        directory = run / name
        assert list(directory.glob("events.out.tfevents.*")), directory
