"""What stands in an event file about its series: written, read, refused."""

import json
from dataclasses import asdict

import pytest

from keras_layerwise.storage.schema import Facts, Row, SchemaError, Series, drift_tag

ROW = Row("dense", True, False, 6)


def test_a_part_and_the_facts_of_a_statistic_come_back():
    facts = Facts("angle", "acos(cosine)", "rad", "rising")
    rows = (Row("dense", True, False, 6, part="block/3/conv"),)
    series = Series("drift", rows, "angle", "the initial weights", facts)
    assert Series.parse(series.to_bytes()) == series


def test_what_is_not_set_is_not_written():
    data = json.loads(Series("drift", (ROW,), "l2").to_bytes())
    assert "facts" not in data
    assert set(data["rows"][0]) == {"name", "trainable", "frozen", "parameters"}


def test_series_of_version_0_1_are_read():
    old = {
        "version": 1,
        "kind": "drift",
        "rows": [{"name": "dense", "trainable": True, "frozen": False, "parameters": 6}],
        "statistic": "l2",
        "reference": "the initial weights",
    }
    assert Series.parse(json.dumps(old).encode()).rows == (ROW,)


def test_a_tag_does_not_depend_on_the_part():
    assert drift_tag("l2", [ROW]) == drift_tag("l2", [Row("dense", True, False, 6, "head")])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 3),
        ("trainable", 1),
        ("frozen", None),
        ("parameters", True),
        ("parameters", "6"),
        ("part", None),
        ("other", 1),
    ],
)
def test_a_row_of_another_form_is_refused(key, value):
    data = {"version": 1, "kind": "drift", "rows": [{**asdict(ROW), key: value}]}
    with pytest.raises(SchemaError):
        Series.parse(json.dumps(data).encode())


@pytest.mark.parametrize(
    "changed",
    [
        {"facts": {"name": "a", "formula": "b", "unit": "1", "reads": "sideways"}},
        {"facts": {"name": "a"}},
        {"facts": []},
        {"statistic": ["l2"]},
        {"kind": {}},
        {"rows": 3},
        {"version": 2},
    ],
)
def test_a_series_of_another_form_is_refused(changed):
    data = {"version": 1, "kind": "drift", "rows": [asdict(ROW)], **changed}
    with pytest.raises(SchemaError):
        Series.parse(json.dumps(data).encode())
