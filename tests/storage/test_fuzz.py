"""Damaged files: every reader reads them or refuses them by its own error, and soon.

CI runs one round of a thousand files; `FUZZ_ROUNDS` sets the number of rounds, of which
every fifth goes through the command and the tab. Each case follows from its number, which a
failure names.
"""

import contextlib
import copy
import functools
import io
import json
import os
import random
import shutil
import subprocess
import time
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.context import RequestContext
from tensorboard.data import server_ingester
from tensorboard.util import grpc_util

import keras_layerwise as kl
from keras_layerwise import cli
from keras_layerwise.optimizer.storing import ASSIGNMENT
from keras_layerwise.storage import framing, reference, run_file, schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.reading import Log, final_drift
from keras_layerwise.storage.record import Record, RecordError, load_record, save_record
from keras_layerwise.storage.schema import Row, Series
from keras_layerwise.tab.reading import Reader
from tests.shared.tab_browser import PATIENCE, wait_for

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "1"))
CASES = 1000
SERVED = 200 if ROUNDS > 1 else 40  # damaged runs before the data server
LONGEST = 1.0  # seconds of the processor that one file may take
SAVED = Path(__file__).parents[1] / "saved" / "0.1"
SHAPES = {"a/kernel": (2, 3), "a/bias": (3,)}
with np.load(SAVED / "run" / "drift" / "reference.npz") as _stored:
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
    rates = EventWriter(directory / schema.RATES_DIR)
    for step in range(2):
        rates.vector(Series("rates", rows), schema.rates_tag(rows), [0.1, 0, 0.2, 0.3], step)
    changed = schema.change("unfrozen", "layer_1", 1, None, None)
    rates.messages(Series("changes"), schema.CHANGES, [changed], 1)
    rates.close()
    run_file.write(directory, run_file.Mark(first=0, last=2, count=2, step=2, ended=True))
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
        for root in (here, SAVED / "run")
    ]


class Optimizer:
    """An optimizer that reads what files hold of it: a config, and an assignment with slots."""

    def __init__(self):
        layers = [keras.layers.Dense(3, name="a"), keras.layers.Dense(1, name="b")]
        model = keras.Sequential([keras.Input((2,)), *layers])
        falls = keras.optimizers.schedules.CosineDecay(0.1, 10)
        rules = {"a/kernel": kl.Rule(learning_rate=falls), "b": kl.Rule(frozen=True), "a": 0.5}
        self._made = kl.LayerwiseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rules, model)
        self._made.build(model.trainable_variables)
        self._state = {}
        self._made.save_own_variables(self._state)
        self._config = self._made.get_config()
        with h5py.File(SAVED / "model.weights.h5") as file:
            of_before = np.asarray(file["optimizer/vars"][ASSIGNMENT]).tobytes()
        own = {key: self._config[key] for key in ("rules", ASSIGNMENT)}
        self.files = {
            Path("config.json"): json.dumps(own).encode(),
            Path("stored.json"): self._state[ASSIGNMENT].tobytes(),
            Path("stored by 0.1.json"): of_before,
        }

    def refuses(self, path, data):
        """Whether it does not take what is stored in `data`."""
        try:
            if path.stem != "config":
                stored = self._state | {ASSIGNMENT: np.frombuffer(data, "uint8")}
                self._made.load_own_variables(stored)
            elif isinstance(found := _as_json(data), dict):
                kl.LayerwiseOptimizer.from_config({**self._config, **found})
        except kl.RuleError:
            return True
        return False


def _as_json(data):
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # which Keras reads, and refuses, before the package
        return None


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
    """Runs with one damaged file: `folder`/0/run is of this version, `folder`/1/run of 0.1."""
    runs = [folder / str(i) / "run" for i in range(len(corpus))]
    for run, contents in zip(runs, corpus, strict=True):
        for name, content in contents.items():
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_bytes(content)
    for number in range(count):
        choose = random.Random(f"{seed}/{number}")
        i = choose.randrange(len(corpus))
        path = choose.choice(sorted(corpus[i]))
        (runs[i] / path).write_bytes(damaged(choose, path, corpus[i][path], folder))
        yield f"case {seed}/{number}, {path}", path, runs[i]
        (runs[i] / path).write_bytes(corpus[i][path])


def refuses(run, path):
    """Whether the readers of the file refuse any of it; only errors of our own may come out."""
    if path.suffix not in (".json", ".npz"):
        if path.parts[0] != schema.DRIFT_DIR:
            return bool(Log(run / path.parent).problems)
        drift = final_drift(run)
        json.dumps(drift, allow_nan=False)
        return bool(drift["problems"])
    if path.name == run_file.RUN_FILE:
        mark = run_file.read(run)
        return mark is None or not mark.holds(1)
    try:
        if path.suffix == ".npz":
            shapes = SHAPES if run.parent.name == "0" else SAVED_SHAPES
            values, _ = reference.load(run / path, shapes)
            assert [value.shape for value, _ in values] == list(shapes.values())
        else:
            record = load_record(run)
            assert record.diff(record) == ()
            Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    except (RecordError, reference.StoredReferenceError):
        return True
    return False


def share_refused(found):
    """Reads each of (case, reader); says which share was refused, and holds each to its time."""
    refused = count = 0
    for case, read in found:
        began = time.process_time()
        try:
            refused += read()
        except Exception as error:
            raise AssertionError(case) from error
        took = time.process_time() - began
        assert took < LONGEST, f"{case}: {took:.1f} s"
        count += 1
    return refused / count


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_damaged_file_is_read_or_refused(corpus, tmp_path, round_):
    found = cases(corpus, tmp_path, CASES * 4 // 5, round_)
    share = share_refused((c, functools.partial(refuses, run, path)) for c, path, run in found)
    assert 0.25 < share < 1  # else the damage is none, or nothing but noise


def test_a_header_that_numpy_would_only_warn_of_is_refused(tmp_path):
    """As Python 2 wrote them, and this package never."""
    path = tmp_path / "reference.npz"
    reference.save(path, "initial", [("a/kernel", "float32", np.ones((2, 3), "f4"))])
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    assert b"(2, 3), }  " in members["0.npy"]
    members["0.npy"] = members["0.npy"].replace(b"(2, 3), }  ", b"(2L, 3L), }")
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    with pytest.raises(reference.StoredReferenceError, match="no stored reference"):
        reference.load(path, {"a/kernel": (2, 3)})


def test_an_assignment_that_names_another_weight_sets_nothing():
    optimizer = Optimizer()
    _, path, _ = sorted(optimizer.files)
    stored = json.loads(optimizer.files[path])
    stored[0]["path"], stored[1]["path"] = stored[1]["path"], stored[0]["path"]
    for key in ("layer", "name", "shape"):
        stored[0][key], stored[1][key] = stored[1][key], stored[0][key]
    assert optimizer.refuses(path, json.dumps(stored).encode())


@pytest.fixture(scope="module")
def optimizer():
    return Optimizer()


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_damaged_assignment_is_taken_or_refused(optimizer, tmp_path, round_):
    def found():
        for number in range(CASES // 5):
            choose = random.Random(f"{round_}/{number}")
            path = choose.choice(sorted(optimizer.files))
            data = damaged(choose, path, optimizer.files[path], tmp_path)
            case = f"case {round_}/{number}, {path}"
            yield case, functools.partial(optimizer.refuses, path, data)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of state that is not there
        assert 0.25 < share_refused(found()) < 1


FEWER = range(-(-ROUNDS // 5))


@pytest.mark.parametrize("round_", FEWER)
def test_the_command_says_what_it_can_not_read(corpus, tmp_path, capsys, round_):
    write_run(tmp_path / "good")
    for case, _, run in cases(corpus, tmp_path, CASES // 20, round_):
        for arguments in (
            ["show", run], ["show", run, "--full"], ["show", run, "--json"],
            ["diff", tmp_path / "good", run], ["diff", run, tmp_path / "good", "--json"],
        ):  # fmt: skip
            try:
                assert cli.main([*map(str, arguments)]) in (0, 1, 2)
            except Exception as error:
                raise AssertionError(case) from error
            lines = capsys.readouterr().out.splitlines()
            assert "--full" in arguments or "--json" in arguments or len(lines) <= 60


def check_tab(provider, case="", alone=("a", "z")):
    """Asks the tab's reader for all that there is; the runs `alone` must be whole."""
    reader, ctx = Reader(provider), RequestContext()
    runs = reader.runs(ctx, "")
    assert set(alone) <= runs.keys(), case
    for found in runs.values():
        for topic in {source.topic for source in found.sources if source.series.rows}:
            with contextlib.suppress(*(() if found.name in alone else (schema.SchemaError,))):
                values = reader.matrix(ctx, "", found, topic, limit=10).columns.values
                assert values.shape[0] == 4 or found.name not in alone, case
        for kind in ("alarms", "changes"):
            told = reader.messages(ctx, "", found, kind)
            assert told or found.name not in alone, case
        with contextlib.suppress(*(() if found.name in alone else (ValueError,))):  # no record
            assert reader.sheet(ctx, "", found) or found.name not in alone, case
    return runs


@pytest.mark.parametrize("round_", FEWER)
def test_one_bad_run_hides_no_other(corpus, tmp_path, capsys, round_):
    for name in ("a", "z"):
        write_run(tmp_path / "0" / name, user=name)
        write_run(tmp_path / "1" / name, user=name)
    for case, _, run in cases(corpus, tmp_path, CASES // 20, round_):
        assert cli.main(["list", str(run.parent), "--csv"]) == 0, case
        shown = capsys.readouterr().out.splitlines()
        assert {"a", "z"} <= {line.split(",")[0] for line in shown[1:]}, case
        loader = EventMultiplexer().AddRunsFromDirectory(str(run.parent))
        try:
            loader.Reload()
        except DecodeError:  # TensorBoard's own reader, on what is no proto
            continue
        check_tab(MultiplexerDataProvider(loader, str(run.parent)), case)


@contextlib.contextmanager
def data_server(logdir, folder):
    """What TensorBoard's fast loader reads, once; a process beside, as in TensorBoard."""
    port_file = folder / "port"
    process = subprocess.Popen(
        [
            server_ingester.get_server_binary().path,
            *(f"--logdir={logdir}", "--reload=once", "--port=0", f"--port-file={port_file}"),
            *(f"--samples-per-plugin={schema.PLUGIN}=1000", "--die-after-stdin"),
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: port_file.exists() and port_file.read_text().endswith("\n"), "the port")
        ingester = server_ingester.ExistingServerDataIngester(
            f"localhost:{port_file.read_text().strip()}",
            channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
        )
        ingester.start()
        yield ingester.data_provider
        assert process.poll() is None
    finally:
        process.stdin.close()
        process.wait(PATIENCE)


def test_the_data_server_hides_no_other_run_for_damaged_ones(corpus, tmp_path):
    for name in ("a", "z"):
        write_run(tmp_path / "logs" / name, user=name)
    events = [{p: c for p, c in one.items() if "tfevents" in p.name} for one in corpus]
    for number, (_, _, run) in enumerate(cases(events, tmp_path, SERVED, "server")):
        shutil.copytree(run, tmp_path / "logs" / f"damaged_{number}")
    with data_server(tmp_path / "logs", tmp_path) as provider:
        read = []

        def all_are_read():  # of what a file has left, nobody knows when it is read
            read.append(len(provider.list_runs(RequestContext(), experiment_id="")))
            return len(read) > 3 and read[-1] == read[-4]

        wait_for(all_are_read, "the data server")
        assert len(check_tab(provider)) > SERVED * 3 // 4
