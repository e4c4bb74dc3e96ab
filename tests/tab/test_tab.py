"""The tab's server side: through a real TensorBoard over HTTP, with both loaders."""

import argparse
import csv
import io
import json
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto

from keras_layerwise.storage import schema
from keras_layerwise.storage.reading import merge_rows
from keras_layerwise.tab import tables
from keras_layerwise.tab.columns import Records, join
from keras_layerwise.tab.plugin import LayerwiseLoader
from tests.shared import tab_browser
from tests.shared.tab_logs import (
    HOSTILE,
    growing,
    rows,
    write_broken_runs,
    write_drift,
    write_rates,
    write_record,
    write_scalars,
    writing,
)

LAYERS = rows("embed", HOSTILE, "head", frozen=["embed"])
STEPS = list(range(3000))
ALARM = schema.alarm("frozen_moved", "embed", 700, "embed is frozen, but moved")


def raw(tag, content, tensor):
    """A summary of the plugin's name that the package did not write."""
    data = SummaryMetadata.PluginData(plugin_name=schema.PLUGIN, content=content)
    value = Summary.Value(tag=tag, tensor=tensor)
    value.metadata.CopyFrom(SummaryMetadata(plugin_data=data, data_class=2))
    return Summary(value=[value])


def doubles(*values):
    shape = {"dim": [{"size": len(values)}]}
    return TensorProto(dtype=2, tensor_shape=shape, double_val=values)


def texts(*values):
    shape = {"dim": [{"size": len(values)}]}
    return TensorProto(dtype=7, tensor_shape=shape, string_val=values)


@pytest.fixture(scope="module")
def values():
    found = growing(STEPS, len(LAYERS)).astype("f4")
    found[1234, 2] = 1e6  # one record that must be seen in every picture
    return found


@pytest.fixture(scope="module")
def logdir(tmp_path_factory, values):
    root = tmp_path_factory.mktemp("logs")
    write_drift(root / "good", ["l2"], LAYERS, STEPS, {"l2": values}, [ALARM])
    write_rates(root / "good", LAYERS, [0, 10], [[1, 2, 3], [4, 5, 6]])
    write_record(root / "good", {"dataset": "digits", "folds": 1, "rate": 1.0, "inf": "inf"})
    first, second = rows("a", "c"), rows("a", "b", "c")
    write_drift(root / "grown", ["l2"], first, [0, 1], {"l2": [[1, 2], [3, 4]]})
    write_drift(root / "grown", ["l2"], second, [2], {"l2": [[5, 6, 7]]})
    described = schema.Series("drift", rows("a"), "l2").to_bytes()
    foreign = {
        "unparsed": raw(schema.drift_tag("l2"), b"\x00not json", doubles(1.0)),
        "wrong_shape": raw(schema.drift_tag("l2"), described, doubles(1.0, 2.0)),
        "wrong_message": raw(schema.ALARMS, schema.Series("alarms").to_bytes(), texts(b"{", b"1")),
        "wrong_record": raw(schema.RECORD, schema.Series("record").to_bytes(), texts(b"{}")),
        "numbers_for_messages": raw(
            schema.ALARMS, schema.Series("alarms").to_bytes(), doubles(1.0, 2.0)
        ),
        "no_tensor": raw(
            schema.RECORD,
            schema.Series("record").to_bytes(),
            TensorProto(dtype=7, tensor_content=b"1234", tensor_shape={"dim": [{"size": 1}]}),
        ),
        "same_names": raw(
            schema.drift_tag("l2"),
            schema.Series("drift", rows("a", "a"), "l2").to_bytes(),
            doubles(1.0, 2.0),
        ),
        "unknown_statistic": raw(
            schema.drift_tag("l2"), schema.Series("drift", rows("a"), "beauty").to_bytes(), texts()
        ),
    }
    for name, summary in foreign.items():
        with writing(root / "foreign" / name) as writer:
            writer.summary(summary, 0)
    with writing(root / "said_twice" / schema.DRIFT_DIR) as writer:
        for row in "ab":
            message = schema.alarm("nonfinite", row, 5, row)
            writer.messages(schema.Series("alarms"), schema.ALARMS, [message], 5)
    write_broken_runs(root / "broken")
    for name, layer in [("first", "dense"), ("second", "dense_3")]:
        model = tuple(
            replace(row, part=part)
            for row, part in zip(
                rows(layer, f"{layer} (non-trainable)", "head"),
                (f"block/0/{layer}", f"block/0/{layer}", "head"),
                strict=True,
            )
        )
        write_drift(root / "stable" / name, ["l2"], model, [0], {"l2": [[1, 2, 3]]})
        write_rates(
            root / "stable" / name,
            rows(f"{layer}/kernel"),
            [0],
            [[0.5]],
            [schema.change("frozen", f"{layer}/kernel", 0, None, None)],
        )
        renamed = {"dense": layer} if layer != "dense" else {}
        write_record(root / "stable" / name, {"name": name}, layers=renamed)
    # A notebook's cell that ran twice, with Keras's own TensorBoard in the first run's directory.
    write_record(root / "cell", {}, ended="2026-01-01T01:00:00+00:00")
    write_record(root / "cell-2", {}, started="2026-01-01T02:00:00+00:00")
    write_scalars(root / "cell" / "validation", "epoch_loss", [0, 1], [3, 2])
    with writing(root / "turns" / schema.DRIFT_DIR) as writer:
        model = rows("a", "b", "b (non-trainable)", "c", frozen=["a", "b", "b (non-trainable)"])
        series, tag = schema.Series("frozen", model), schema.frozen_tag(model)
        for step, states in [(0, [1, 1, 1, 0]), (10, [0, 1, 1, 0]), (20, [0, 0, 0, 1])]:
            writer.vector(series, tag, states, step)
    changes = [schema.change("unfrozen", "b/kernel", 15, None, None)]
    write_rates(root / "turns", rows("b/kernel"), [0], [[1]], changes)
    torn = root / "torn" / schema.DRIFT_DIR
    write_drift(root / "torn", ["l2"], rows("a"), [0, 1], {"l2": [[1], [2]]})
    (file,) = torn.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    return root


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "slow"])
def board(request, logdir, scripts):
    fast = request.param
    with tab_browser.tensorboard(
        logdir, load_fast=fast, scripts=None if fast else scripts
    ) as found:

        def loaded():
            runs = {run["name"]: run for run in ask(found, "runs")["runs"]}
            last = runs.get("good", {}).get("stamps", {}).get("l2", [""])[0]
            return last.startswith(f"{STEPS[-1]}/") and {"grown", "torn"} <= runs.keys()

        tab_browser.wait_for(loaded, "the runs")
        yield found


@pytest.mark.parametrize("fast", [True, False])
def test_a_server_that_ends_while_it_starts_is_not_waited_for(monkeypatch, scripts, tmp_path, fast):
    for name in ("SERVER", "SERVER_WITHOUT_TENSORFLOW"):
        monkeypatch.setattr(tab_browser, name, "raise SystemExit(1)")
    server = tab_browser.tensorboard(tmp_path, scripts=None if fast else scripts)
    with pytest.raises(RuntimeError, match="ended while it started"), server:
        pass
    assert scripts.succeed(("print(1)",)) == ["1\n"]  # goes on with the next


def ask(board, route, **parameters):
    status, _, body = board.get(f"data/plugin/layerwise/{route}", **parameters)
    assert status == 200, body
    return json.loads(body)


def listed(board):
    """The runs by name, each with its own rows."""
    answer = ask(board, "runs")
    return {run["name"]: run | {"rows": answer["rows"][run["rows"]]} for run in answer["runs"]}


def matrix(board, **parameters):
    status, _, body = board.get("data/plugin/layerwise/matrix", **parameters)
    assert status == 200, body
    (size,) = struct.unpack("<I", body[:4])
    header = json.loads(body[4 : 4 + size])
    shape = (len(header["rows"]), len(header["first"]))
    return header, np.frombuffer(body[4 + size :], "<f4").reshape(shape)


class TestEntryPoint:
    def test_it_loads_nothing_heavy(self):
        code = (
            "import sys, keras_layerwise.tab.plugin\n"
            "print({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules))"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.stdout.strip() == "set()", run.stderr

    def test_all_records_are_kept_unless_the_user_says_how_many(self):
        flags = argparse.Namespace(samples_per_plugin={"images": 3})
        LayerwiseLoader().fix_flags(flags)
        assert flags.samples_per_plugin == {"images": 3, "layerwise": 0}
        flags = argparse.Namespace(samples_per_plugin={"layerwise": 7})
        LayerwiseLoader().fix_flags(flags)
        assert flags.samples_per_plugin == {"layerwise": 7}

    def test_tensorboard_lists_the_tab(self, board):
        listing = json.loads(board.get("data/plugins_listing")[2])
        assert listing["layerwise"]["enabled"]
        assert listing["layerwise"]["tab_name"] == "Layerwise"


class TestJoin:
    values = arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 3)),
        elements=st.one_of(st.floats(-9, 9, width=32), st.just(np.nan), st.just(np.inf)),
    )

    @pytest.mark.parametrize("reads", ["falling", "signed", "rising"])
    @given(values=values, limit=st.integers(1, 12))
    def test_each_column_shows_the_value_that_stands_out_most(self, reads, values, limit):
        steps = np.arange(len(values)) * 10
        found = join(Records(steps, steps * 2.0, values), limit, reads)
        assert found.values.shape == (values.shape[1], min(len(values), limit))
        assert found.first[0] == steps[0]
        assert found.last[-1] == steps[-1]
        np.testing.assert_array_equal(found.times, found.last * 2.0)
        assert (found.first[1:] == found.last[:-1] + 10).all()
        for column, (first, last) in enumerate(zip(found.first, found.last, strict=True)):
            for row in range(values.shape[1]):
                members = values[first // 10 : last // 10 + 1, row]
                members = members[~np.isnan(members)]
                shown = found.values[row, column]
                if not members.size:
                    assert np.isnan(shown)
                elif reads == "falling":
                    assert shown == members.min()
                elif reads == "signed":
                    assert shown in members
                    assert abs(shown) == abs(members).max()
                else:
                    assert shown == members.max()

    def test_where_there_is_room_nothing_changes(self):
        values = np.array([[1, 2], [np.nan, 4]], "f4")
        found = join(Records(np.array([3, 5]), np.array([0.5, 0.7]), values), 2)
        np.testing.assert_array_equal(found.values, values.T)
        assert found.first.tolist() == found.last.tolist() == [3, 5]

    def test_rows_that_appear_later_come_where_the_model_has_them(self):
        merged = merge_rows([rows("a", "d"), rows("a", "b", "d", "e"), rows("c", "d")])
        assert [row.name for row in merged] == ["c", "a", "b", "d", "e"]


class TestRuns:
    def test_the_directories_of_a_run_are_one_run(self, board):
        runs = listed(board)
        assert not any(name.endswith(("/drift", "/rates")) for name in runs)
        good = runs["good"]
        assert good["statistics"] == ["l2"]
        assert set(good["stamps"]) == {"l2", "rates", "alarms", "record"}
        assert good["rows"][0] == {
            "name": "embed", "trainable": True, "frozen": True, "parameters": 100, "part": ""
        }  # fmt: skip
        assert good["alarms"] == [ALARM]
        assert good["problems"] == []

    def test_a_log_directory_may_be_a_run_itself(self, logdir):
        with tab_browser.tensorboard(logdir / "good") as found:
            runs = tab_browser.wait_for(lambda: ask(found, "runs")["runs"], "the run")
            assert [run["name"] for run in runs] == ["."]
            header, _ = tab_browser.wait_for(
                lambda: matrix(found, run=".", topic="rates", columns=100), "its rates"
            )
            assert header["rows"] == [row.name for row in LAYERS]

    def test_what_is_broken_breaks_its_own_run(self, board):
        runs = listed(board)
        assert len(matrix(board, run="good", topic="l2", columns=100)[0]["rows"]) == 3
        assert "Not plugin data" in runs["foreign/unparsed"]["problems"][0]
        assert "unreadable message" in runs["foreign/wrong_message"]["problems"][0]
        assert runs["foreign/numbers_for_messages"]["problems"]
        assert "what is no tensor" in runs["foreign/no_tensor"]["problems"][0]
        assert "names that differ" in runs["foreign/same_names"]["problems"][0]
        assert "beauty" in runs["foreign/unknown_statistic"]["problems"][0]
        parameters = {"run": "foreign/wrong_shape", "topic": "l2", "columns": 100}
        status, _, body = board.get("data/plugin/layerwise/matrix", **parameters)
        assert status == 400
        assert b"float64 (2,)" in body
        status, _, body = board.get("data/plugin/layerwise/record", run="foreign/wrong_record")
        assert status == 400
        assert b"no record" in body

    def test_messages_of_one_step_arrive_once_each(self, board):
        runs = listed(board)
        assert [alarm["row"] for alarm in runs["said_twice"]["alarms"]] == ["a", "b"]

    def test_what_was_frozen_or_unfrozen_in_between_is_told_once(self, board):
        runs = listed(board)
        told = {(c["what"], c["row"], c["step"]) for c in runs["turns"]["changes"]}
        assert told == {("unfrozen", "b/kernel", 15), ("unfrozen", "a", 10), ("frozen", "c", 20)}

    def test_a_torn_file_shows_what_is_whole(self, board):
        header, found = matrix(board, run="torn", topic="l2", columns=100)
        assert header["first"] == [0]
        assert found.tolist() == [[1.0]]


class TestMatrix:
    def test_every_record_arrives_as_written(self, board, values):
        header, found = matrix(board, run="good", topic="l2", columns=4000)
        assert header["rows"] == [row.name for row in LAYERS]
        assert header["first"] == header["last"] == STEPS
        assert header["exact"]
        np.testing.assert_array_equal(found, values.T)

    def test_a_narrow_picture_hides_no_spike(self, board):
        header, found = matrix(board, run="good", topic="l2", columns=100)
        assert len(header["first"]) == 100
        row, column = np.unravel_index(found.argmax(), found.shape)
        assert (row, found[row, column]) == (2, 1e6)
        assert header["first"][column] <= 1234 <= header["last"][column]

    def test_a_quick_first_view_has_true_records_and_says_what_it_is(self, board, values):
        header, found = matrix(board, run="good", topic="l2", columns=77, quick=1)
        assert not header["exact"]
        assert header["first"][0] >= 0
        assert header["last"][-1] == STEPS[-1]
        for column, (first, last) in enumerate(zip(header["first"], header["last"], strict=True)):
            assert found[0, column] in values[first : last + 1, 0]

    def test_a_quick_view_of_what_is_remembered_is_exact(self, board):
        exact, found = matrix(board, run="good", topic="l2", columns=55)
        quick, again = matrix(board, run="good", topic="l2", columns=55, quick=1)
        assert exact == quick
        np.testing.assert_array_equal(found, again)

    def test_a_span_of_steps_has_each_of_its_records(self, board, values):
        header, found = matrix(board, run="good", topic="l2", columns=50, first=1200, last=1249)
        assert header["first"] == header["last"] == STEPS[1200:1250]
        assert header["exact"]
        np.testing.assert_array_equal(found, values[1200:1250].T)
        nothing, _ = matrix(board, run="good", topic="l2", columns=50, first=5000, last=6000)
        assert nothing["first"] == []

    def test_series_of_other_rows_are_one_picture(self, board):
        grown = listed(board)["grown"]
        assert [row["name"] for row in grown["rows"]] == ["a", "b", "c"]
        header, found = matrix(board, run="grown", topic="l2", columns=100)
        assert header["rows"] == ["a", "b", "c"]
        assert header["first"] == [0, 1, 2]
        np.testing.assert_array_equal(found, [[1, 3, 5], [np.nan, np.nan, 6], [2, 4, 7]])

    @pytest.mark.parametrize(
        ("status", "parameters"),
        [
            (404, {"run": "absent", "topic": "l2", "columns": 100}),
            (404, {"run": "good", "topic": "beauty", "columns": 100}),
            (404, {"run": "../good", "topic": "l2", "columns": 100}),
            (404, {"run": "/etc/passwd", "topic": "l2", "columns": 100}),
            (400, {"run": "good", "topic": "l2"}),
            (400, {"run": "good", "topic": "l2", "columns": "many"}),
            (400, {"run": "good", "topic": "l2", "columns": "9" * 5000}),
            (400, {"topic": "l2", "columns": 100}),
        ],
    )
    def test_what_can_not_be_answered_is_said(self, board, status, parameters):
        assert board.get("data/plugin/layerwise/matrix", **parameters)[0] == status


class TestRecord:
    def test_its_values_keep_their_types(self, board):
        record = ask(board, "record", run="good")["record"]
        assert record["status"] == "finished"
        assert record["values"]["user/folds"] == "1"
        assert record["values"]["user/rate"] == "1.0"
        assert record["values"]["user/inf"] == '"inf"'
        assert record["fingerprints"].keys() >= {"initial_weights", "final_weights"}

    def test_a_run_may_have_none(self, board):
        assert ask(board, "record", run="grown") == {"record": None}


class TestOneBadRun:
    def test_it_costs_itself_only_and_says_what_is_wrong(self, board):
        names = ["good", *(r["name"] for r in ask(board, "runs")["runs"] if "broken" in r["name"])]
        assert len(names) == 9
        answer = ask(board, "records", run=names)
        assert answer["records"]["good"]["results"] == {}
        broken = {f"broken/{name}" for name in ("bad-alarm", "bad-change")}
        assert set(answer["problems"]) == set(names) - {"good"} - broken
        assert "'timeline' can not be [None]" in answer["problems"]["broken/null-in-timeline"]

    def test_what_is_no_mark_is_a_problem_of_its_run(self, board):
        runs = listed(board)
        assert "unreadable" in runs["broken/bad-alarm"]["problems"][0]
        (change,) = runs["broken/bad-change"]["changes"]
        assert (change["old"], change["new"]) == ("[null]", '{"a": []}')

    def test_a_matrix_that_can_not_be_read_leaves_the_others(self, board):
        names = ["good", "foreign/wrong_shape", "absent"]
        parameters = {"run": names, "topic": "l2", "columns": 50}
        status, _, body = board.get("data/plugin/layerwise/matrices", **parameters)
        assert status == 200
        headers = []
        while body:
            (size,) = struct.unpack("<I", body[:4])
            (inner,) = struct.unpack("<I", body[4:8])
            headers.append(json.loads(body[8 : 8 + inner]))
            body = body[4 + size :]
        assert len(headers[0]["first"]) == len(headers[0]["times"]) == 50
        assert "float64" in headers[1]["error"]
        assert "absent" in headers[2]["error"]


class TestMetrics:
    def test_what_a_later_run_wrote_into_an_earlier_ones_directory_is_its_own(self, board):
        names = ["cell", "cell-2", "good"]
        name = "validation/epoch_loss"
        assert ask(board, "metrics", run=["cell-2"])["metrics"] == [name]
        curves = ask(board, "metric", run=names, name=name)["curves"]
        assert {run: curve["values"] for run, curve in curves.items()} == {
            "cell": [],
            "cell-2": [3, 2],
            "good": [],
        }


class TestStableNames:
    def test_two_models_of_one_process_share_their_rows(self, board):
        runs = listed(board)
        shared = ["dense", "dense (non-trainable)", "head"]
        for name in ("stable/first", "stable/second"):
            assert [row["name"] for row in runs[name]["rows"]] == shared
            parts = [row["part"] for row in runs[name]["rows"]]
            assert parts == ["block/0/dense", "block/0/dense", "head"]
            header, _ = matrix(board, run=name, topic="l2", columns=100)
            assert header["rows"] == shared
            header, _ = matrix(board, run=name, topic="rates", columns=100)
            assert header["rows"] == ["dense/kernel"]
            assert runs[name]["changes"][0]["row"] == "dense/kernel"

    def test_of_a_sweep_only_what_differs_is_sent(self, board):
        answer = ask(board, "records", run=["stable/first", "stable/second"])
        values = {name: record["values"] for name, record in answer["records"].items()}
        assert values == {
            "stable/first": {"user/name": '"first"'},
            "stable/second": {"user/name": '"second"'},
        }
        assert answer["same"] == 4


class TestReadOnly:
    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "OPTIONS"])
    @pytest.mark.parametrize("route", ["runs", "index.js", "csv"])
    def test_only_get_and_head_are_answered(self, board, method, route):
        request = urllib.request.Request(
            f"{board.url}data/plugin/layerwise/{route}", method=method, data=None
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 405
        assert refused.value.headers["Allow"] == "GET, HEAD"
        refused.value.close()

    def test_head_has_no_body(self, board):
        url = f"{board.url}data/plugin/layerwise/csv?run=good&topic=l2"
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as answer:
            assert answer.status == 200
            assert answer.read() == b""


class TestFiles:
    def test_csv_leaves_while_it_is_made(self):
        asked = []

        def reading(name):
            def read():
                asked.append(name)
                if name == "bad":
                    raise ValueError("torn")
                many = np.arange(1000)
                return rows("a"), Records(many, many / 1.0, np.ones((1000, 1), "f4"))

            return read

        lines = tables.lines(["a"], [(name, reading(name)) for name in ("one", "bad", "two")])
        assert next(lines) == b"run,step,a\r\n"
        assert asked == []
        first = next(lines)
        assert asked == ["one"]
        assert first.count(b"\r\n") < 1000
        rest = b"".join(lines).decode().splitlines()
        assert "bad,can not be read: torn" in rest
        assert rest[-1] == "two,999,1.0"

    def test_csv_has_every_record_of_every_run(self, board, values):
        status, headers, body = board.get(
            "data/plugin/layerwise/csv", run=["good", "grown"], topic="l2"
        )
        assert status == 200
        assert headers["Content-Disposition"].startswith("attachment")
        lines = list(csv.reader(io.StringIO(body.decode())))
        assert lines[0] == ["run", "step", "embed", HOSTILE, "head", "a", "b", "c"]
        assert len(lines) == 1 + len(STEPS) + 3
        assert lines[5][:2] == ["good", "4"]
        assert [np.float32(cell) for cell in lines[5][2:5]] == values[4].tolist()
        assert lines[5][5:] == ["", "", ""]

    def test_the_library_comes_with_its_licence_and_may_be_kept(self, board):
        folder = "vendor/plotly.js-cartesian-dist-min-4.1.1"
        route = f"data/plugin/layerwise/{folder}/plotly-cartesian.min.js"
        status, headers, body = board.get(route)
        assert status == 200
        assert "max-age" in headers["Cache-Control"]
        assert b"v4.1.1" in body[:200]

    @pytest.mark.parametrize("name", ["../plugin.py", "%2e%2e/plugin.py", "README.md", "absent.js"])
    def test_nothing_else_is_served(self, board, name):
        assert board.get(f"data/plugin/layerwise/{name}")[0] == 404
