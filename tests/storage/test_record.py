"""The record: plain values, fingerprints, differences, one file."""

import argparse
import dataclasses
import datetime
import decimal
import enum
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_layerwise.storage.record import (
    GROUPS,
    Record,
    RecordError,
    load_record,
    save_record,
)
from keras_layerwise.storage.values import ABSENT, Difference, fingerprint, flat, plain

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Settings:
    depth: int
    path: Path


def record(**user):
    return Record({**{group: {} for group in GROUPS}, "user": user})


@pytest.mark.parametrize(
    ("one", "other"), [({"a": 1}, {"a": 2}), ({"a": 1}, {"a": 1.0}), ({"a": 1}, {"a": True})]
)
def test_another_value_or_type_is_another_fingerprint_and_a_difference(one, other):
    assert fingerprint(one) != fingerprint(other)
    assert record(**one).diff(record(**other)) == (Difference("user/a", one["a"], other["a"]),)


def test_the_fingerprint_of_a_record_leaves_the_runtime_out():
    one = Record({"training": {"epochs": 1}, "runtime": {"backend": "jax"}})
    other = Record({"training": {"epochs": 1}, "runtime": {"backend": "torch"}})
    assert one.fingerprint == other.fingerprint
    assert one.diff(other) == (Difference("runtime/backend", "jax", "torch"),)


def test_what_one_side_does_not_have_is_absent():
    assert record(a=1).diff(record()) == (Difference("user/a", 1, ABSENT),)


@given(st.dictionaries(st.text(), values))
def test_plain_values_stay_as_they_are_and_their_order_does_not_change_a_fingerprint(value):
    def finite(inner):
        if isinstance(inner, dict):
            return {key: finite(member) for key, member in inner.items()}
        if isinstance(inner, list):
            return [finite(member) for member in inner]
        return str(inner) if isinstance(inner, float) and not math.isfinite(inner) else inner

    assert plain(value) == finite(value)
    assert fingerprint(plain(value)) == fingerprint(plain(dict(reversed(value.items()))))


def test_users_values_become_plain():
    given_values = {
        "float": np.float32(0.5),
        "array": np.arange(3),
        "color": Color.RED,
        "settings": Settings(3, Path("a") / "b"),
        "tuple": (1, 2),
        "set": {2, 1},
        "infinite": float("inf"),
        1: "number as key",
    }
    assert plain(given_values) == {
        "float": 0.5,
        "array": [0, 1, 2],
        "color": "RED",
        "settings": {"depth": 3, "path": str(Path("a") / "b")},
        "tuple": [1, 2],
        "set": [1, 2],
        "infinite": "inf",
        "1": "number as key",
    }


@pytest.mark.parametrize("bad", [object(), b"bytes", len, 1j])
def test_what_cannot_be_stored_is_named_by_its_key(bad):
    with pytest.raises(TypeError, match=r"'model/layers/1/kind'"):
        plain({"model": {"layers": [{}, {"kind": bad}]}})


def test_what_holds_itself_is_named_by_its_key():
    endless = {}
    endless["again"] = [endless]
    with pytest.raises(ValueError, match=r"hyperparameter 'model/again/0/again.* holds itself"):
        plain({"model": endless})


def test_keys_that_become_one_are_refused():
    with pytest.raises(ValueError, match="both stored as '1'"):
        plain({1: "a", "1": "b"})
    with pytest.raises(ValueError, match="both called 'a/b'"):
        flat({"a": {"b": 1}, "a/b": 2})


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    written = dataclasses.replace(
        record(name='he said "hi" \\ 日本語', n=1), status="failed", error="ValueError: no"
    )
    save_record(written, tmp_path / "run")
    assert load_record(tmp_path / "run") == written
    assert load_record(tmp_path / "run" / "hyperparameters.json") == written


def test_the_file_is_canonical_and_readable(tmp_path):
    path = save_record(record(b=1, a="日本語"), tmp_path)
    text = path.read_text("utf-8")
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert '"a": "日本語"' in text
    assert [p.name for p in tmp_path.iterdir()] == ["hyperparameters.json"]


def test_a_write_that_fails_leaves_the_record_that_was_there(tmp_path, monkeypatch):
    save_record(record(a=1), tmp_path)

    def full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_record(record(a=2), tmp_path)
    assert load_record(tmp_path)["user"] == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["hyperparameters.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no hyperparameters.json"),
        ("{", "can not be read"),
        ("[]", "no version"),
        ('{"version": 99}', "version 99"),
        ('{"version": 1, "user": {}}', "no complete record"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "hyperparameters.json").write_text(content)
    with pytest.raises(RecordError, match=message):
        load_record(tmp_path)


def test_reading_a_record_imports_no_keras(tmp_path):
    save_record(record(a=1), tmp_path)
    code = (
        "import sys, keras_layerwise as kl; kl.load_record(sys.argv[1]);"
        "assert not {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


@pytest.mark.parametrize(
    ("given_value", "stored"),
    [
        (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (decimal.Decimal("0.10"), "0.10"),
        (argparse.Namespace(lr=0.1, path=Path("a")), {"lr": 0.1, "path": "a"}),
        (np.dtype("float32"), "float32"),
        (np.float16, "float16"),
        ({3, 1}, [1, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (10**40, 10**40),
        (2**1030, hex(2**1030)),
        (-(2**1500), hex(-(2**1500))),
    ],
)
def test_what_people_have_as_settings_is_taken(given_value, stored):
    assert plain({"key": given_value}) == {"key": stored}


def many_layers():
    layers = {
        f"layer_{i}": {"class": "Dense", "units": 2 + i // 100, "bias": bool(i % 2), "rate": None}
        for i in range(400)
    }
    # Equal in Python, and three values of a record.
    layers |= {f"odd_{value!r}": {"class": "Odd", "value": value} for value in (1, 1.0, True)}
    layers |= {"other": {"class": "Dense", "units": 2}, "nested": {"class": "N", "a": {"b": [1]}}}
    groups = {**{group: {} for group in GROUPS}, "architecture": {"class": "M", "layers": layers}}
    return Record({**groups, "training": {"assignments": {"a/kernel": {"multiplier": 0.5}}}})


def test_layers_that_are_alike_are_written_once_and_read_each(tmp_path):
    saved = many_layers()
    path = save_record(saved, tmp_path)
    found = load_record(tmp_path)
    assert json.dumps(found.values, sort_keys=True) == json.dumps(saved.values, sort_keys=True)
    assert found.fingerprint == saved.fingerprint
    assert found.diff(saved) == ()
    assert path.stat().st_size < len(json.dumps(saved.to_json())) / 3


def test_a_record_of_the_first_form_is_read_as_the_same(tmp_path):
    saved = many_layers()
    path = save_record(saved, tmp_path)
    path.write_text(json.dumps(saved.to_json()))
    assert json.loads(path.read_text())["version"] == 1
    assert load_record(tmp_path).fingerprint == saved.fingerprint


@pytest.mark.parametrize(
    "layers",
    [
        [1],
        [{"of": ["a"]}],
        [{"of": ["a"], "settings": []}],
        [{"of": ["a", "a"], "settings": {}}],
        [{"of": [1], "settings": {}}],
        [{"of": ["a"], "settings": {}, "as": 0}],
        [{"of": ["a"], "settings": {}, "as": -1}],
        [{"of": ["a"], "settings": {}}, {"of": ["b"], "settings": {}, "as": 0.0}],
        # A small file that stands for a hundred million settings.
        [{"of": list(map(str, range(10**4))), "settings": dict.fromkeys(map(str, range(10**4)))}],
    ],
)
def test_settings_that_are_packed_otherwise_are_refused(tmp_path, layers):
    groups = {**{group: {} for group in GROUPS}, "architecture": {"layers": layers}}
    (tmp_path / "hyperparameters.json").write_text(json.dumps({"version": 2, **groups}))
    with pytest.raises(RecordError, match="architecture/layers can not be read"):
        load_record(tmp_path)


def test_a_notebook_shows_what_came_out_and_was_set_and_folds_the_rest():
    found = dataclasses.replace(
        record(seed=1, name="<b>mine</b>"),
        status="failed",
        error="ValueError: no",
        results={"final": {"loss": 0.5}},
    )
    found.values["training"]["epochs"] = 3
    shown = found._repr_html_()
    opened, folded = shown.partition("<details><summary>training")[::2]
    assert "Run: failed" in opened
    assert all(text in opened for text in ("final/loss", "0.5", "seed", "ValueError: no"))
    assert "epochs" in folded
    assert "epochs" not in opened
    assert "&lt;b&gt;mine" in shown
    assert "<b>mine" not in shown
    ElementTree.fromstring(f"<div>{shown.replace(' open>', '>')}</div>")  # every tag is closed


@pytest.mark.parametrize("name", ["results", "provenance"])
def test_a_key_that_stands_twice_is_refused_when_it_is_read(name):
    """The command would meet it only where it shows everything."""
    twice = {"final": {"loss": {"a/b": 1, "a": {"b": 2}}}}
    record = Record({group: {} for group in GROUPS}).to_json() | {name: twice}
    with pytest.raises(RecordError, match="both called 'final/loss/a/b'"):
        Record.from_json(record)
