"""The command, as a user starts it."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from keras_layerwise import cli
from keras_layerwise.storage import schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.reading import final_drift
from keras_layerwise.storage.record import GROUPS, Record, save_record


def record(**user):
    values = {**{group: {} for group in GROUPS}, "user": user}
    values["runtime"] = {"seeds": {"keras": "never set", "numpy": 3}}
    return Record(values, status="finished", fingerprints={"initial_weights": "ab"})


@pytest.fixture
def runs(tmp_path):
    for name, user in {"a": {"rate": 0.1}, "b": {"rate": 0.1}, "c": {"rate": 1, "x": "y"}}.items():
        save_record(record(**user), tmp_path / name)
    return tmp_path


def test_diff_says_by_its_status_whether_runs_differ(runs, capsys):
    assert cli.main(["diff", str(runs / "a"), str(runs / "b")]) == 0
    assert "configured the same" in capsys.readouterr().out
    assert cli.main(["diff", str(runs / "a"), str(runs / "c")]) == 1
    shown = capsys.readouterr().out
    assert "user/rate" in shown
    assert "(absent)" in shown


def test_diff_for_programs(runs, capsys):
    assert cli.main(["diff", str(runs / "a"), str(runs / "c"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "differences": [
            {"key": "user/rate", "old": 0.1, "new": 1},
            {"key": "user/x", "old": "(absent)", "new": "y"},
        ],
        "same_weights": {"initial_weights": True},
    }


@pytest.mark.parametrize("command", [["show"], ["diff", "a"]])
def test_what_is_no_run_is_status_2(runs, capsys, command):
    arguments = [*(str(runs / name) if name == "a" else name for name in command), str(runs)]
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert "is no run" in shown.err
    assert not shown.out


def test_show_has_the_record_and_says_what_cannot_be_repeated(runs, capsys):
    change = {"step": 4, "key": "user/rate", "old": 0.1, "new": 0.2}
    save_record(
        replace(
            record(name="[bold]日本語[/bold]"),
            status="failed",
            error="KeyboardInterrupt",
            violations=[change],
            timeline=[{"step": 3, "old": 0.1, "new": 0.01}],
            results={"final": {"loss": 0.5}},
        ),
        runs / "d",
    )
    assert cli.main(["show", str(runs / "d")]) == 0
    shown = capsys.readouterr().out
    assert "[bold]日本語[/bold]" in shown
    assert "KeyboardInterrupt" in shown
    assert "no seed was set for keras." in shown
    assert "final/loss" in shown
    assert "violations" in shown
    assert "timeline" in shown


def write_drift(directory, names, l2, step):
    series = schema.Series(
        kind="drift",
        statistic="l2",
        reference="initial",
        rows=tuple(schema.Row(name, True, False, 2) for name in names),
    )
    writer = EventWriter(directory / "drift")
    tag = schema.drift_tag("l2", series.rows)
    writer.vector(series, tag, np.zeros(len(names)), step - 1)
    writer.vector(series, tag, l2, step)
    writer.close()


def test_show_has_the_final_drift_through_every_file_and_change_of_rows(runs, capsys):
    write_drift(runs / "a", ["x", "y"], [1.0, np.nan], 5)
    write_drift(runs / "a", ["y", "z"], [2.0, 3.0], 9)
    assert cli.main(["show", str(runs / "a"), "--json"]) == 0
    drift = json.loads(capsys.readouterr().out)["drift"]
    assert drift["step"] == 9
    assert [(x["name"], x["l2"]) for x in drift["layers"]] == [("x", 1.0), ("y", 2.0), ("z", 3.0)]
    assert cli.main(["show", str(runs / "a")]) == 0
    assert "drift at step 9" in capsys.readouterr().out


def test_a_file_that_is_cut_off_shows_what_is_whole(runs):
    write_drift(runs / "a", ["x"], [1.0], 5)
    (path,) = (runs / "a" / "drift").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    assert final_drift(runs / "a")["step"] == 4


def test_the_command_loads_no_framework(runs):
    code = (
        "import sys; from keras_layerwise import cli; status = cli.main(sys.argv[1:]);"
        "assert not {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules); sys.exit(status)"
    )
    write_drift(runs / "a", ["x"], [1.0], 5)
    for arguments, status in ((["show", "a"], 0), (["diff", "a", "c"], 1)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=runs, timeout=60, capture_output=True
        )
        assert done.returncode == status, done.stderr
