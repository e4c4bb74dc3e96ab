"""The command, as a user starts it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.cells import cell_len

import keras_layerwise
from keras_layerwise import cli
from keras_layerwise.storage import run_file, schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.reading import final_drift
from keras_layerwise.storage.record import GROUPS, Record, load_record, save_record


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
    assert "set by the user\n  rate: 0.1 -> 1\n  x: (absent) -> y\n" in shown


def test_diff_for_programs(runs, capsys):
    assert cli.main(["diff", str(runs / "a"), str(runs / "c"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["differences"] == [
        {"key": "user/rate", "old": 0.1, "new": 1},
        {"key": "user/x", "old": "(absent)", "new": "y"},
    ]
    assert told["same_weights"] == {"initial_weights": True}
    assert cli.main(["diff", str(runs / "a"), str(runs / "c"), "--csv"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "key,old,new", "user/rate,0.1,1", "user/x,(absent),y"
    ]  # fmt: skip


@pytest.mark.parametrize("command", [["show"], ["diff", "a"]])
def test_what_is_no_run_is_status_2(runs, capsys, command):
    arguments = [*(str(runs / name) if name == "a" else name for name in command), str(runs)]
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert "is no run" in shown.err
    assert not shown.out


class TestOutline:
    def test_it_shows_the_parts_of_a_saved_model(self, tmp_path, capsys):
        blocks = [keras.layers.Dense(2, name=f"block_{i}") for i in range(3)]
        model = keras.Sequential([keras.Input((2,)), *blocks, keras.layers.Dense(1, name="head")])
        model.save(tmp_path / "a.keras")
        assert cli.main(["outline", str(tmp_path / "a.keras"), "--block", r"block_(\d)"]) == 0
        assert capsys.readouterr().out.rstrip() == str(
            keras_layerwise.outline(model, r"block_(\d)")
        )

    def test_what_is_no_model_is_status_2(self, tmp_path, capsys):
        assert cli.main(["outline", str(tmp_path / "none.keras")]) == 2
        shown = capsys.readouterr()
        assert "none.keras" in shown.err
        assert not shown.out

    def test_without_a_backend_it_says_what_to_install(self):
        code = "import sys; sys.modules['jax'] = None; import keras_layerwise.cli as cli; "
        code += "sys.exit(cli.main(['outline', 'a.keras']))"
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"KERAS_BACKEND": "jax"},
            cwd=Path(keras_layerwise.__file__).parents[1],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 2
        assert "pip install 'keras-layerwise[jax]'" in run.stderr
        assert "Traceback" not in run.stderr


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
    assert "loss 0.5; -" in shown
    assert "step 4: user/rate 0.1 -> 0.2" in shown
    assert "step 3: learning_rate 0.1 -> 0.01" in shown
    assert cli.main(["show", str(runs / "d"), "--full"]) == 0
    full = capsys.readouterr().out
    assert all(text in full for text in ("[bold]日本語[/bold]", "final/loss", "violations"))


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
    assert "drift by layer, at step 9 against initial" in capsys.readouterr().out


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


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"keras-layerwise {keras_layerwise.__version__}\n"


def large_record(layers=155):
    """As large as MobileNetV2's, with as many rules, results and events."""
    names = [f"block_{i}_expand_BN" for i in range(layers)]
    values = {
        "architecture": {
            "class": "Functional",
            "layers": {name: {"class": "Conv2D", "filters": i} for i, name in enumerate(names)},
            "weights": {f"{name}/kernel": {"shape": [3, 3, i]} for i, name in enumerate(names)},
        },
        "training": {
            "loss": "unknown",
            "learning_rate": 0.001,
            "assignments": {
                f"{name}/kernel": {"rule": f"layer {name}", "multiplier": 0.75**i, "frozen": False}
                for i, name in enumerate(names)
            },
            **{f"setting_{i}": "long " * i for i in range(40)},
        },
        "regularization": {name: {"rate": 0.1} for name in names},
        "runtime": {"seeds": {"keras": 1}, "versions": {f"v{i}": "1.0" for i in range(60)}},
        "user": {f"value_{i}": "日本" * i for i in range(80)},
    }
    events = [
        {"step": i, "key": f"architecture/layers/{name}/trainable", "old": False, "new": True}
        for i, name in enumerate(names)
    ]
    results = {kind: {f"metric_{i}": i / 7 for i in range(40)} for kind in ("final", "best")}
    return Record(values, status="finished", changes=events, violations=events, results=results)


@pytest.fixture
def large(tmp_path):
    save_record(large_record(), tmp_path)
    parts = ["stem", *(f"block/{i}/block_{i}" for i in range(17)), "neck", "head", "(model)"]
    rows = tuple(schema.Row(part, True, False, 10**6, part) for part in parts)
    writer = EventWriter(tmp_path / "drift")
    for statistic in schema.STATISTICS[:4]:
        facts = schema.facts_of(schema.Series("drift", statistic=statistic))
        series = schema.Series("blocks", rows, None, "the initial weights", facts)
        writer.vector(series, schema.blocks_tag(statistic, rows), np.arange(len(rows)) / 3, 7)
    text = "17 layers have not moved: " + "raise the rate, " * 20
    found = [schema.alarm("trainable_still", f"layer_{i}", 7, text) for i in range(17)]
    writer.messages(schema.Series("alarms"), schema.ALARMS, found, 7)
    writer.close()
    return tmp_path


def test_show_and_diff_fit_a_page_however_large_the_network(large, runs, capsys):
    save_record(large_record(90), runs / "other")
    for arguments in (["show", large], ["diff", large, runs / "other"]):
        cli.main([*map(str, arguments)])
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 60
        assert max(map(cell_len, lines)) <= 80
        assert any(".. " in line and line.endswith("more lines: --full") for line in lines)
    cli.main(["show", str(large), "--full"])
    assert len(capsys.readouterr().out.splitlines()) > 500


@pytest.mark.parametrize("length", range(0, 80, 13))
def test_a_long_path_keeps_its_end_and_what_is_said_of_it(tmp_path, capsys, length):
    runs = tmp_path / ("x" * 60) / ("日" * length + "-sweep")
    save_record(record(), runs / "run-1")
    for arguments, begin, end in [
        (["show", runs / "run-1"], "..", "-sweep/run-1: finished"),
        (["list", runs], "1 of 1 runs in ..", "-sweep"),
    ]:
        assert cli.main([*map(str, arguments)]) == 0
        line = capsys.readouterr().out.splitlines()[0]
        assert cell_len(line) in (79, 80)
        assert line.startswith(begin)
        assert line.endswith(end)
    cli.main(["show", str(runs / "run-1"), "--full"])
    assert capsys.readouterr().out.startswith(f"{runs / 'run-1'}: finished\n")


def test_show_says_drift_by_part_and_each_alarm_once(large, capsys):
    save_record(record(dataset="toy"), large)
    assert cli.main(["show", str(large)]) == 0
    shown = capsys.readouterr().out
    assert "drift by part of the network, at step 7 against the initial weights" in shown
    assert "  block 16 (block_16)" in shown
    assert shown.count("17 layers have not moved") == 1


def test_diff_begins_with_causes_and_folds_what_follows(tmp_path, capsys):
    def one(units, rate, fold):
        values = {
            "architecture": {
                "parameters": 10 * units,
                "layers": {"a": {"class": "Dense", "units": units}},
                "weights": {f"a/w{i}": {"shape": [i, units]} for i in range(30)},
            },
            "training": {
                "learning_rate": rate,
                "assignments": {f"a/w{i}": {"multiplier": rate} for i in range(30)},
            },
            "regularization": {"a": {"rate": rate}},
            "runtime": {"python": str(units)},
            "user": {"fold": fold},
        }
        return Record(values, results={"best": {"val_loss": 1 / units}})

    save_record(one(2, 0.1, 0), tmp_path / "old")
    save_record(one(4, 0.01, 1), tmp_path / "new")
    assert cli.main(["diff", str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines[1:] if line[0] != " "]
    assert heads == [
        "set by the user", "training", "rules", "regularization", "architecture", "runtime",
        "and what follows", "results",
    ]  # fmt: skip
    rules = lines[lines.index("rules") + 1]
    assert rules.startswith("  multiplier: 0.1 -> 0.01 (a/w0, a/w1, ")
    follows = lines[lines.index("and what follows") + 1 :][:2]
    assert follows[0] == "  parameters: 20 -> 40"
    assert follows[1].startswith("  30 weights: a/w0, a/w1, ")
    assert any(line.split() == ["val_loss", "(best)", "0.5", "0.25"] for line in lines)


def test_diff_has_the_drift_of_both_runs_side_by_side(runs, capsys):
    write_drift(runs / "a", ["x", "y"], [1.0, 2.0], 5)
    write_drift(runs / "b", ["y", "z"], [3.0, 4.0], 6)
    cli.main(["diff", str(runs / "a"), str(runs / "b")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["drift:", "l2,", "at", "steps", "5", "and", "6"] in lines
    assert lines[-5:-2] == [["x", "1", "-"], ["y", "2", "3"], ["z", "-", "4"]]


def test_diff_claims_no_more_than_is_known(tmp_path, capsys):
    for name in ("a", "b"):
        values = {**{group: {} for group in GROUPS}, "training": {"loss": ["mse", "unknown"]}}
        save_record(Record(values), tmp_path / name)
    assert cli.main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().out
    assert "the same as far as known" in shown
    assert "not known: training/loss" in shown


@pytest.fixture
def a_sweep(tmp_path):
    for i in range(12):
        values = {
            **{group: {} for group in GROUPS},
            "training": {"learning_rate": 10.0 ** -(i % 3)},
        }
        values["user"] = {"fold": i, "same": 1}
        loss = "nan" if i == 5 else (i - 4) ** 2 / 8
        results = {"final": {"val_loss": 9.0, "loss": 1.0}, "best": {"val_loss": loss}}
        save_record(Record(values, status="finished", results=results), tmp_path / f"run-{i}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / schema.RECORD_FILE).write_text("{")
    return tmp_path


def test_a_sweep_is_a_table_that_is_sorted_and_filtered(a_sweep, capsys):
    assert cli.main(["list", str(a_sweep), "--sort", "val_loss"]) == 0
    shown = capsys.readouterr()
    assert "broken" in shown.err
    title, head, *rows = shown.out.splitlines()
    assert title.startswith("12 of 12 runs")
    assert head.split()[:4] == ["run", "status", "val_loss", "fold"]
    assert "same" not in head
    assert [row.split()[0] for row in rows][:3] == ["run-4", "run-3", "run-2"]
    assert rows[-1].split()[0] == "run-5"
    arguments = ["--where", "learning_rate=0.01", "--sort", "fold", "--descending"]
    assert cli.main(["list", str(a_sweep), *arguments]) == 0
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["run-11", "run-8", "run-5", "run-2"]


def test_a_sweep_comes_in_the_order_of_its_numbers(a_sweep, capsys):
    cli.main(["list", str(a_sweep), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in told] == [f"run-{i}" for i in range(12)]
    cli.main(["list", str(a_sweep), "--csv", "--where", "fold=3"])
    head, row = capsys.readouterr().out.splitlines()
    assert dict(zip(head.split(","), row.split(","), strict=True))["user/fold"] == "3"


def test_a_table_that_is_too_wide_says_how_many_columns_are_left_out(tmp_path, capsys):
    for i in range(3):
        save_record(record(**{f"a_long_name_{k}": i * k for k in range(1, 20)}), tmp_path / f"{i}")
    assert cli.main(["list", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].endswith("more columns: --csv or --json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort", "vol_loss"], "Nearest: val_loss"),
        (["--where", "fold"], "name=value"),
        (["--where", "nothing=1"], "No run has 'nothing'"),
    ],
)
def test_a_name_that_no_run_has_is_status_2_with_the_nearest(a_sweep, capsys, arguments, message):
    assert cli.main(["list", str(a_sweep), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_directory_without_runs_is_status_2(tmp_path, capsys):
    assert cli.main(["list", str(tmp_path)]) == 2
    assert "no run" in capsys.readouterr().err


def test_a_closed_pipe_and_a_console_that_is_not_utf8_are_no_errors(runs):
    save_record(record(name="日本語", **{f"value_{i}": "x" * 70 for i in range(3000)}), runs / "d")
    command = [sys.executable, "-m", "keras_layerwise.cli", "show", "--full", str(runs / "d")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    encoded = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=encoded, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u65e5" in done.stdout


SAVED = Path(__file__).parents[1] / "saved" / "0.1"


def test_what_version_0_1_wrote_is_shown(capsys):
    expected = json.loads((SAVED / "expected.json").read_text())["history"]
    drift = final_drift(SAVED / "run")
    assert drift["step"] == expected["step"][-1]
    assert not drift["problems"]
    assert [row["name"] for row in drift["layers"]] == expected["layers"]
    for name in schema.STATISTICS:
        shown = [row.get(name, np.nan) for row in drift["layers"]]
        np.testing.assert_allclose(shown, expected[name][-1], rtol=1e-6, err_msg=name)
    assert cli.main(["show", str(SAVED / "run")]) == 0
    out = capsys.readouterr().out
    assert "saved by 0.1" in out
    assert f"at step {drift['step']} against the initial weights" in out
    assert cli.main(["diff", str(SAVED / "run"), str(SAVED / "run")]) == 0
    assert cli.main(["list", str(SAVED)]) == 0


def test_the_fingerprint_that_version_0_1_took_still_holds():
    expected = json.loads((SAVED / "expected.json").read_text())
    found = load_record(SAVED / "run")
    assert found.fingerprint == expected["record_fingerprint"] == found.fingerprints[
        "hyperparameters"
    ]  # fmt: skip


def test_show_says_where_a_run_came_from_and_which_layers_differ(runs, capsys):
    dense = {"class": "Dense", "units": 4, "use_bias": True, "trainable": True}
    layers = {f"layer_{i}": {**dense, "units": i} for i in range(5)}
    layers["head"] = {**dense, "use_bias": False}
    found = record()
    found = replace(
        found,
        values={**found.values, "architecture": {"class": "M", "layers": layers}},
        provenance={
            "git": {"commit": "0123456789abcdef", "dirty": True, "repository": "git@host:code"},
            "command": "train.py --lr=0.1",
            "host": "node",
            "process": 3,
            "data": "fedcba9876543210",
            "packages": {"keras": "3.15.1"},
        },
    )
    save_record(found, runs / "d")
    assert cli.main(["show", str(runs / "d")]) == 0
    shown = capsys.readouterr().out
    assert "commit 0123456789ab, with changes that no commit has; of git@host:code" in shown
    assert "host node; process 3; data fedcba987654" in shown
    assert "train.py --lr=0.1" in shown
    assert "keras 3.15.1" in shown
    assert "layers unlike most of their class\n  Dense use_bias false: head\n" in shown
    assert "units" not in shown
    assert cli.main(["show", str(runs / "d"), "--full"]) == 0
    assert "0123456789abcdef" in capsys.readouterr().out


def test_rates_that_fall_by_block_are_one_line_of_a_diff(runs, capsys):
    for name, decay in {"d": 0.9, "e": 0.5}.items():
        rules = {
            f"block_{i}/kernel": {"rule": f"block {i}", "multiplier": decay**i} for i in range(9)
        }
        found = record()
        save_record(
            replace(found, values={**found.values, "training": {"assignments": rules}}),
            runs / name,
        )
    assert cli.main(["diff", str(runs / "d"), str(runs / "e")]) == 1
    lines = capsys.readouterr().out.splitlines()
    rules = lines[lines.index("rules") + 1 : lines.index("results")]
    assert rules == ["  multiplier: 0.4305 … 0.9 -> 0.003906 … 0.5 (8 weights, not all alike)"]


def test_a_run_without_a_sign_of_life_says_since_when(tmp_path, capsys):
    """Its mark is newer than its record, which is written at an epoch's end only."""
    record = Record({group: {} for group in GROUPS}, seen="2026-01-01T10:00:00+00:00")
    save_record(record, tmp_path / "killed")
    seen = "2026-01-01T10:07:30+00:00"
    run_file.write(tmp_path / "killed", run_file.Mark(0, 1, 1, 1, seen=seen))
    save_record(replace(record, seen=run_file.now()), tmp_path / "lives")
    assert load_record(tmp_path / "killed").seen == seen
    assert cli.main(["show", str(tmp_path / "killed")]) == 0
    assert "silent since 2026-01-01 10:07" in capsys.readouterr().out
    assert cli.main(["list", str(tmp_path)]) == 0
    killed, lives = capsys.readouterr().out.splitlines()[-2:]
    assert "silent since 2026-01-01 10:07" in killed
    assert lives.split()[:2] == ["lives", "running"]
