"""Damaged files: every reader reads them or refuses them by its own error, and soon.

CI runs one round of a thousand files; `FUZZ_ROUNDS` sets the number of rounds.
Each case follows from its number, which a failure names.
"""

import contextlib
import copy
import io
import json
import os
import random
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.context import RequestContext

from keras_layerwise import cli
from keras_layerwise.storage import framing, reference, schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.reading import final_drift
from keras_layerwise.storage.record import Record, RecordError, load_record, save_record
from keras_layerwise.storage.schema import Row, Series
from keras_layerwise.tab.reading import Reader

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "1"))
CASES = 1000
LONGEST = 1.0  # seconds of the processor that one file may take
SAVED = Path(__file__).parents[1] / "saved" / "0.1" / "run"
SHAPES = {"a/kernel": (2, 3), "a/bias": (3,)}
with np.load(SAVED / "drift" / "reference.npz") as _stored:
    _names = json.loads(_stored["header.json"])["paths"]
    SAVED_SHAPES = {name: _stored[f"{i}"].shape for i, name in enumerate(_names)}
ODD = [
    None, True, -1, 0, 2**70, 1e308, -0.0, "", "x" * 5000, "\ud800", "\x1b[31m", "nan", [], {},
    [[]], {"a": {}}, {"": None}, ["unknown"], {"a/b": 1, "a": {"b": 2}},
]  # fmt: skip


def write_run(directory, user=1):
    rows = tuple(Row(f"layer_{i}", True, False, 4, part=f"block/{i}/b") for i in range(4))
    values = {
        "architecture": {"class": "M", "layers": {"a": {"class": "Dense", "units": 3}}},
        "training": {"learning_rate": 0.1, "assignments": {"a/kernel": {"multiplier": 0.5}}},
        "regularization": {"a": {"rate": 0.5}},
        "runtime": {"seeds": {"keras": "never set"}},
        "user": {"value": user},
    }
    change = {"step": 1, "key": "training/learning_rate", "old": 0.1, "new": 0.2}
    record = Record(
        values,
        status="finished",
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:01:00+00:00",
        results={"final": {"loss": 0.5}, "best": {"loss": "nan"}},
        fingerprints={"initial_weights": "ab"},
        timeline=[change],
        violations=[change],
        changes=[change],
        phases=[{"step": 1, "time": "now", "changes": [change]}],
        resumptions=[{"step": 1, "time": "now"}],
    )
    save_record(record, directory)
    drift = EventWriter(directory / schema.DRIFT_DIR)
    for kind, statistic, tag in (
        ("drift", "l2", schema.drift_tag("l2", rows)),
        ("drift", "cosine", schema.drift_tag("cosine", rows)),
        ("blocks", None, schema.blocks_tag("l2", rows)),
        ("frozen", None, schema.frozen_tag(rows)),
    ):
        facts = schema.facts_of(Series("drift", statistic="l2")) if kind == "blocks" else None
        for step in range(2):
            drift.vector(Series(kind, rows, statistic, "initial", facts), tag, [1, 2, 3, 4], step)
    drift.messages(Series("alarms"), schema.ALARMS, [schema.alarm("nonfinite", "a", 1, "No.")], 1)
    drift.close()
    told = EventWriter(directory / schema.RECORD_DIR)
    told.messages(Series("record"), schema.RECORD, [record.to_json()], 1)
    told.close()
    weights = [(name, "float32", np.ones(shape, "f4")) for name, shape in SHAPES.items()]
    reference.save(directory / schema.DRIFT_DIR / schema.REFERENCE_FILE, "initial", weights)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The contents of a run's files by path; of this version's run, and of version 0.1's."""
    here = tmp_path_factory.mktemp("corpus")
    write_run(here)
    return [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (here, SAVED)
    ]


# What may have happened to a file.


def torn(choose, data):
    return data[: choose.randrange(len(data) + 1)]


def flipped(choose, data):
    data = bytearray(data)
    for _ in range(choose.choice([1, 1, 2, 8])):
        data[choose.randrange(len(data))] = choose.choice([0, 1, 127, 128, 255])
    return bytes(data)


def spliced(choose, data):
    a, b, c = sorted(choose.randrange(len(data) + 1) for _ in range(3))
    return choose.choice([
        data[:a] + data[b:], data[:b] + data[a:], data[:a] + data[b:c] + data[a:b] + data[c:],
        data[:a] + choose.randbytes(b - a) + data[b:], b"", b"\0" * len(data),
    ])  # fmt: skip


def another_value(choose, data):
    """JSON with one value replaced, removed, or wrapped too deeply."""
    try:
        value = json.loads(data)
    except ValueError:
        return flipped(choose, data)
    places = []

    def visit(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)) and node[key]:
                visit(node[key])

    if not isinstance(value, (dict, list)) or not value:
        return flipped(choose, data)
    visit(value)
    node, key = choose.choice(places)
    kind = choose.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1:
        old, at = json.dumps(node[key]), json.dumps(value)
        depth = choose.choice([50, 150, 3000])
        return at.replace(old, "[" * depth + old + "]" * depth, 1).encode()
    elif kind == 2:
        number = choose.choice(["NaN", "Infinity", "1e999", "9" * 5000])
        return json.dumps(value).replace(json.dumps(node[key]), number, 1).encode()
    else:
        node[key] = copy.deepcopy(choose.choice(ODD))
    return json.dumps(value).encode()


def another_event(choose, data, folder):
    """An event file in which one event is another, with a checksum that is right."""
    path = folder / "events"
    path.write_bytes(data)
    events = list(framing.unframed(path))
    i = choose.randrange(len(events))
    event = Event.FromString(events[i])
    values = event.summary.value
    if values and choose.random() < 0.7:
        value = choose.choice(values)
        kind = choose.randrange(5)
        if kind == 0:
            content = value.metadata.plugin_data.content
            value.metadata.plugin_data.content = another_value(choose, content or b"{}")
        elif kind == 1:
            value.tensor.tensor_content = spliced(choose, value.tensor.tensor_content or b"1234")
        elif kind == 2 and value.tensor.string_val:
            value.tensor.string_val[0] = another_value(choose, value.tensor.string_val[0])
        elif kind == 3:
            value.tensor.dtype = choose.choice([0, 1, 2, 3, 7, 99])
        else:
            value.tag = choose.choice(["", "layerwise/alarms", "\x1b", "/", "é" * 500])
        event.step = choose.choice([event.step, -1, 2**62, 0])
        events[i] = event.SerializeToString()
    else:
        events[i] = choose.choice([torn, flipped, spliced])(choose, events[i] or b"\0")
    return b"".join(map(framing.framed, events))


def another_member(choose, data):
    """A zip file in which one member is another, with a checksum that is right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = choose.choice(names)
        for name in names:
            content = old.read(name)
            if name == chosen:
                how = another_value if name.endswith(".json") else flipped
                content = choose.choice([torn, flipped, spliced, how])(choose, content)
            new.writestr(name, content)
    return out.getvalue()


def damaged(choose, path, data, folder):
    general = [torn, flipped, spliced]
    if path.suffix == ".json":
        return choose.choice([*general, *[another_value] * 6])(choose, data)
    if path.suffix == ".npz":
        return choose.choice([*general, *[another_member] * 4])(choose, data)
    if choose.random() < 0.7:
        return another_event(choose, data, folder)
    return choose.choice(general)(choose, data)


def cases(corpus, folder, count, seed):
    """Runs with one damaged file, each laid out in `folder`."""
    for number in range(count):
        choose = random.Random(f"{seed}/{number}")
        contents = choose.choice(corpus)
        path = choose.choice(sorted(contents))
        bad = damaged(choose, path, contents[path], folder)
        run = folder / "run"
        for name, content in contents.items():
            target = run / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(bad if name == path else content)
        yield number, path, run, contents is corpus[0]
        for name in contents:
            (run / name).unlink()


def every_reader(run, is_ours):
    """Reads a run; only errors of our own may come out. Says how much of it was refused."""
    refused = 0
    try:
        record = load_record(run)
        assert record.diff(record) == ()
        Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    except RecordError:
        refused += 1
    drift = final_drift(run)
    json.dumps(drift, allow_nan=False)
    refused += len(drift["problems"])
    stored = run / schema.DRIFT_DIR / schema.REFERENCE_FILE
    if stored.exists():
        try:
            shapes = SHAPES if is_ours else SAVED_SHAPES
            values, _ = reference.load(stored, shapes)
            assert [value.shape for value, _ in values] == list(shapes.values())
        except reference.StoredReferenceError:
            refused += 1
    return refused


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_damaged_file_is_read_or_refused(corpus, tmp_path, round_):
    slowest, refused = 0.0, 0
    for number, path, run, is_ours in cases(corpus, tmp_path, CASES, round_):
        began = time.process_time()
        try:
            refused += bool(every_reader(run, is_ours))
        except Exception as error:
            raise AssertionError(f"case {round_}/{number}, {path}") from error
        slowest = max(slowest, time.process_time() - began)
        assert slowest < LONGEST, f"case {round_}/{number}, {path}: {slowest:.1f} s"
    assert CASES // 4 < refused < CASES  # else the damage is none, or nothing but noise


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_the_command_says_what_it_can_not_read(corpus, tmp_path, capsys, round_):
    write_run(tmp_path / "good")
    for number, path, run, _ in cases(corpus, tmp_path, CASES // 20, round_):
        for arguments in (
            ["show", run], ["show", run, "--full"], ["show", run, "--json"],
            ["diff", tmp_path / "good", run], ["diff", run, tmp_path / "good", "--json"],
        ):  # fmt: skip
            try:
                assert cli.main([*map(str, arguments)]) in (0, 1, 2)
            except Exception as error:
                raise AssertionError(f"case {round_}/{number}, {path}") from error
            lines = capsys.readouterr().out.splitlines()
            assert "--full" in arguments or "--json" in arguments or len(lines) <= 60


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_one_bad_run_hides_no_other(corpus, tmp_path, capsys, round_):
    for name in ("a", "z"):
        write_run(tmp_path / name, user=name)
    for number, path, run, _ in cases(corpus, tmp_path, CASES // 20, round_):
        case = f"case {round_}/{number}, {path}"
        assert cli.main(["list", str(tmp_path), "--csv"]) == 0, case
        shown = capsys.readouterr().out.splitlines()
        assert {"a", "z"} <= {line.split(",")[0] for line in shown[1:]}, case
        loader = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
        try:
            loader.Reload()
        except DecodeError:  # TensorBoard's own reader, on what is no proto
            continue
        reader = Reader(MultiplexerDataProvider(loader, str(tmp_path)))
        ctx = RequestContext()
        runs = reader.runs(ctx, "")
        assert {"a", "z"} <= runs.keys(), case
        for name in ("a", "z"):
            assert reader.matrix(ctx, "", runs[name], "l2", limit=10).columns.values.shape[0] == 4
        for found in runs.values():
            for topic in {source.topic for source in found.sources if source.series.rows}:
                with contextlib.suppress(schema.SchemaError):
                    reader.matrix(ctx, "", found, topic, limit=10)
            for kind in ("alarms", "changes"):
                reader.messages(ctx, "", found, kind)
        assert run.exists()
