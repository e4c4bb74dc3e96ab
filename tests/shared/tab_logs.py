"""Logs for the tab's tests, written with the package's own writer and without training."""

import contextlib
import hashlib
import json

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto

from keras_layerwise.storage import schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.record import GROUPS, Record

HOSTILE = '<img src=x onerror="window.top.hacked=1">/<b>bold</b>&amp;%{y}'


def rows(*names, frozen=(), still=()):
    return tuple(schema.Row(name, name not in still, name in frozen, 100) for name in names)


@contextlib.contextmanager
def writing(directory):
    writer = EventWriter(directory)
    try:
        yield writer
    finally:
        writer.close()


def write_drift(run, statistics, rows, steps, values, alarms=()):
    """One record per step; `values` maps a statistic to ``[record, row]``."""
    with writing(run / schema.DRIFT_DIR) as writer:
        series = {s: schema.Series("drift", rows, s, "the initial weights") for s in statistics}
        for i, step in enumerate(steps):
            writer.vectors(
                [(series[s], schema.drift_tag(s, rows), values[s][i]) for s in statistics], step
            )
        _write_messages(writer, "alarms", schema.ALARMS, alarms)


def write_rates(run, rows, steps, values, changes=()):
    with writing(run / schema.RATES_DIR) as writer:
        for step, line in zip(steps, values, strict=True):
            writer.vector(schema.Series("rates", rows), schema.rates_tag(rows), line, step)
        _write_messages(writer, "changes", schema.CHANGES, changes)


def _write_messages(writer, kind, tag, messages):
    # TensorBoard keeps one record per step and tag.
    for step in sorted({message["step"] for message in messages}):
        own = [message for message in messages if message["step"] == step]
        writer.messages(schema.Series(kind), tag, own, step)


def write_record(run, user, status="finished", weights=("start", "end"), training=None, **fields):
    prints = ("hyperparameters", "runtime", "initial_weights", "final_weights")
    sources = (repr(user), "machine", *weights)
    record = Record(
        {
            "architecture": {"model": {"name": "net"}},
            "training": training or {"optimizer": {"name": "adam", "learning_rate": 0.001}},
            "regularization": {},
            "runtime": {"python": "3.12"},
            "user": user,
        },
        status=status,
        fingerprints={
            name: hashlib.sha256(source.encode()).hexdigest()
            for name, source in zip(prints, sources, strict=True)
        },
        **({"started": "2026-01-01T00:00:00+00:00"} | fields),
    )
    with writing(run / schema.RECORD_DIR) as writer:
        writer.messages(schema.Series("record"), schema.RECORD, [record.to_json()], 0)


def growing(steps, count, seed=0):
    """Values of layers that move the further the nearer they are to the head."""
    speed = np.geomspace(0.01, 1, count) * np.random.default_rng(seed).uniform(0.7, 1.3, count)
    return np.sqrt(np.asarray(steps, float)[:, None] + 1) * speed * 0.05


def write_message(run, kind, tag, text, step=0):
    """A message as it is, whatever it is."""
    directory = {"record": schema.RECORD_DIR, "changes": schema.RATES_DIR}
    encoded = text.encode()
    tensor = TensorProto(dtype=7, tensor_shape={"dim": [{"size": 1}]}, string_val=[encoded])
    data = SummaryMetadata.PluginData(
        plugin_name=schema.PLUGIN, content=schema.Series(kind).to_bytes()
    )
    value = Summary.Value(tag=tag, tensor=tensor)
    value.metadata.CopyFrom(SummaryMetadata(plugin_data=data, data_class=2))
    with writing(run / directory.get(kind, schema.DRIFT_DIR)) as writer:
        writer.summary(Summary(value=[value]), step)


def write_broken_runs(root):
    """Runs whose record is not what a record is; each must cost itself only."""
    whole = {"version": 1, **{group: {} for group in GROUPS}}
    deep = "[" * 600 + "]" * 600
    nested = '{"a":' * 600 + "1" + "}" * 600
    records = {
        "null-in-timeline": json.dumps(whole | {"timeline": [None], "results": {"final": [1]}}),
        "wrong-everywhere": json.dumps(whole | {"status": 1, "layers": [], "fingerprints": 3}),
        "nested": json.dumps(whole)[:-1] + f', "user": {nested}, "error": {deep}}}',
        "too-deep": json.dumps(whole)[:-1] + ', "user": ' + '{"a":' * 5000 + "1" + "}" * 5001,
        "no-json": "{",
        "not-a-number": json.dumps(whole | {"results": {"final": {"loss": float("nan")}}}),
    }
    for name, text in records.items():
        write_message(root / name, "record", schema.RECORD, text)
    write_message(root / "bad-alarm", "alarms", schema.ALARMS, f'{{"row": "a", "step": {deep}}}')
    odd = {"what": "multiplier", "row": "a", "step": 1, "old": [None], "new": {"a": []}}
    write_message(root / "bad-change", "changes", schema.CHANGES, json.dumps(odd))
    return [*records, "bad-alarm", "bad-change"]


def network(blocks=17, frozen=()):
    """Rows of a network as its outline tells its parts; the layers of `frozen` parts are frozen."""
    parts = {"stem": ["stem/conv"]}
    kinds = ("expand", "expand_BN", "depthwise", "depthwise_BN", "project", "project_BN")
    for i in range(blocks):
        parts[f"block/{i}/block_{i}"] = [f"block_{i}/{kind}" for kind in kinds]
    parts |= {"neck": ["norm_BN"], "head": ["classes"]}
    found = []
    for part, layers in parts.items():
        for layer in layers:
            found.append(schema.Row(layer, True, part in frozen, 100, part))
            if layer.endswith("BN"):
                name = f"{layer} (non-trainable)"
                found.append(schema.Row(name, False, part in frozen, 20, part))
    return tuple(found)


def write_scalars(run, tag, steps, values):
    """A metric as TensorBoard's own callback writes it."""
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1
    )
    with writing(run) as writer:
        for step, number in zip(steps, values, strict=True):
            tensor = TensorProto(dtype=1, tensor_shape={}, float_val=[number])
            value = Summary.Value(tag=tag, tensor=tensor)
            value.metadata.CopyFrom(metadata)
            writer.summary(Summary(value=[value]), step)


def write_sweep(root, runs, statistics=("l2",), records=20, layers=None):
    """Runs that differ in their rate, the higher the further they move."""
    layers = layers or network(4, frozen=["stem"])
    steps = np.arange(records) * 10
    still = np.array([row.frozen for row in layers])
    for i in range(runs):
        rate = 10.0 ** (-4 + 3 * i / max(runs - 1, 1))
        values = growing(steps, len(layers), seed=i) * rate * 100
        values[:, still] = 0
        run = root / f"a-long-common-name-of-a-sweep/trial-{i:03d}"
        write_drift(run, statistics, layers, steps, dict.fromkeys(statistics, values))
        assignments = {
            row.name: {"kernel": {"multiplier": 0.9 ** (len(layers) - j), "frozen": row.frozen}}
            for j, row in enumerate(layers)
            if row.trainable
        }
        user = {"rate": rate, "way": "even" if i % 2 == 0 else "odd"}
        training = {"learning_rate": rate, "assignments": assignments}
        results = {"final": {"loss": (i - 10.2) ** 2, "accuracy": 1 - i / runs}}
        write_record(run, user, training=training, results=results)
