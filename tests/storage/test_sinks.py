"""Sinks: the table, and handing everything to several."""

import csv

import numpy as np
import pytest

from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.schema import Row, Series, alarm
from keras_layerwise.storage.sinks import CSVSink, Sink, Sinks

ROWS = (Row("a", True, False, 6, part="stem"), Row("b", True, False, 2))
DRIFT = Series("drift", ROWS, "l2")


def lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill(sink):
    sink.vectors([(DRIFT, "d", np.float32([0.5, np.nan])), (DRIFT, "d", [1, 2])], step=3)
    sink.scalars({"drift/l2": 0.25}, step=3, description="Against the initial weights.")
    sink.messages(Series("alarms"), "layerwise/alarms", [alarm("nonfinite", "b", 2, "Ü,\n")], 3)
    sink.text("drift/alarms", '* "said"', step=3)
    sink.image("heatmap", b"PNG", 4, 2, step=3)
    sink.close()


def test_a_table_has_every_value(tmp_path):
    sink = CSVSink(tmp_path / "deep" / "run.csv")
    fill(sink)
    found = lines(tmp_path / "deep" / "run.csv")
    drift = [(x["step"], x["name"], x["row"], x["part"], x["value"]) for x in found[:4]]
    assert drift == [
        ("3", "l2", "a", "stem", "0.5"),
        ("3", "l2", "b", "", "nan"),
        ("3", "l2", "a", "stem", "1"),
        ("3", "l2", "b", "", "2"),
    ]
    assert (found[4]["kind"], found[4]["name"], found[4]["value"]) == (
        "scalars", "drift/l2", "0.25"
    )  # fmt: skip
    assert (found[5]["kind"], found[5]["name"], found[5]["row"]) == ("alarms", "nonfinite", "b")
    assert found[5]["step"] == "2"
    assert '"message": "Ü,\\n"' in found[5]["text"]
    assert (found[6]["kind"], found[6]["text"]) == ("text", '* "said"')
    assert len(found) == 7


def test_a_second_fit_goes_on_in_the_file_and_another_sink_takes_another(tmp_path):
    sink, other = CSVSink(tmp_path / "run.csv"), CSVSink(tmp_path / "run.csv")
    for step in (1, 2):
        sink.scalars({"loss": step}, step)
        sink.close()
        sink.close()
    other.scalars({"loss": 9}, 9)
    assert [line["step"] for line in lines(tmp_path / "run.csv")] == ["1", "2"]
    assert [line["step"] for line in lines(tmp_path / "run-2.csv")] == ["9"]  # before it is closed
    assert other.path == tmp_path / "run-2.csv"
    other.close()


def test_the_file_is_where_the_sink_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = CSVSink("run.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    fill(sink)
    assert (tmp_path / "run.csv").exists()


def test_event_files_are_a_sink(tmp_path):
    writer = EventWriter(tmp_path)
    assert isinstance(writer, Sink)
    fill(writer)
    assert writer.lost == 0


class Recording:
    def __init__(self, fails=False):
        self.seen, self.fails = [], fails

    def _note(self, method, *arguments):
        self.seen.append(method)
        if self.fails:
            raise RuntimeError("no network")

    def vectors(self, items, step):
        assert len(list(items)) == 2
        self._note("vectors")

    def scalars(self, values, step, description=""):
        self._note("scalars")

    def messages(self, series, tag, messages, step):
        self._note("messages")

    def text(self, tag, markdown, step):
        self._note("text")

    def image(self, tag, png, width, height, step):
        self._note("image")

    def close(self):
        self._note("close")


def test_every_sink_gets_everything_and_one_that_fails_is_left_out():
    good, bad = Recording(), Recording(fails=True)
    sinks = Sinks([bad, good])
    with pytest.warns(RuntimeWarning, match=r"Recording failed in vectors.*no network") as caught:
        fill(sinks)
    assert len(caught) == 1
    assert good.seen == ["vectors", "scalars", "messages", "text", "image", "close"]
    assert bad.seen == ["vectors", "close"]
    with pytest.warns(RuntimeWarning, match="failed in scalars"):  # another fit tries again
        sinks.scalars({"a": 1.0}, 1)


def test_what_is_no_sink_is_refused_with_what_a_sink_has():
    with pytest.raises(TypeError, match=r"methods vectors, scalars, messages.*'run.csv'"):
        Sinks(["run.csv"])
