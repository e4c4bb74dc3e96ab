"""A power cut at any moment: each file is as it was before or after, and nothing synced is lost."""

import numpy as np
import pytest

from keras_layerwise import cli
from keras_layerwise.storage import reference
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.reading import Log
from keras_layerwise.storage.record import GROUPS, Record, RecordError, load_record, save_record
from keras_layerwise.storage.schema import (
    DRIFT_DIR,
    RECORD_FILE,
    REFERENCE_FILE,
    Row,
    Series,
    drift_tag,
)
from tests.shared.power import Disk, laid_out

ROWS = tuple(Row(f"layer_{i}", True, False, 4) for i in range(3))
SERIES = Series("drift", ROWS, "l2", "the initial weights")
TAG = drift_tag("l2", ROWS)
WEIGHTS = {"a/kernel": np.arange(6, dtype="f4").reshape(2, 3), "a/bias": np.zeros(3, "f4")}


def a_run(disk, directory):
    """Writes a record twelve times, a reference twice and events in between, and notes what is due.

    A note says what must be found from then on: it is made when the call has returned.
    """
    record = Record({**{group: {} for group in GROUPS}, "user": {"version": 0}})
    writer = None
    for version in range(12):
        record = Record({**record.values, "user": {"version": version}})
        disk.note("begun", "record", version)
        save_record(record, directory)
        disk.note("due", "record", version)
        if writer is None:
            writer = EventWriter(directory / DRIFT_DIR, flush_seconds=3600)
        if version < 2:
            disk.note("begun", "reference", version)
            weights = ((name, "float32", value + version) for name, value in WEIGHTS.items())
            reference.save(directory / DRIFT_DIR / REFERENCE_FILE, f"version {version}", weights)
            disk.note("due", "reference", version)
        for step in range(3 * version, 3 * version + 3):
            writer.vector(SERIES, TAG, [step, step, step], step)
        writer.flush()
        disk.note("due", "events", 3 * version + 2)
    writer.close()


def last(operations, kind, what):
    return max((o[2] for o in operations if o[:2] == (kind, what)), default=-1)


def check_record(operations, run):
    due, begun = (last(operations, kind, "record") for kind in ("due", "begun"))
    found = load_record(run)["user"]["version"] if (run / RECORD_FILE).exists() else -1
    assert due <= found <= begun


def check_reference(operations, run):
    due, begun = (last(operations, kind, "reference") for kind in ("due", "begun"))
    path = run / DRIFT_DIR / REFERENCE_FILE
    found = -1
    if path.exists():
        values, about = reference.load(path, {name: v.shape for name, v in WEIGHTS.items()})
        found = int(about.split()[1])
        for (value, _), expected in zip(values, WEIGHTS.values(), strict=True):
            np.testing.assert_array_equal(value, expected + found)
    assert due <= found <= begun


def check_events(operations, run):
    log = Log(run / DRIFT_DIR)
    steps = [step for step, _ in log.vectors.get(TAG, [])]
    assert steps == list(range(len(steps)))
    assert len(steps) > last(operations, "due", "events")
    assert all((values == step).all() for step, values in log.vectors.get(TAG, []))


def test_after_a_power_cut_everything_is_as_before_or_after(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path, patch)
        a_run(disk, tmp_path / "logs" / "run")
    (tmp_path / "replayed").mkdir()
    count, kinds = 0, set()
    for operations, kind, contents in disk.cuts():
        with laid_out(contents, tmp_path / "replayed") as folder:
            run = folder / "logs" / "run"
            check_record(operations, run)
            check_reference(operations, run)
            check_events(operations, run)
            assert cli.main(["show", str(run)]) in (0, 2)
        count += 1
        kinds.add(kind.split()[0])
    capsys.readouterr()
    print(f"{count} states replayed")
    assert kinds == {"whole", "torn", "lost"}
    assert count > 400


@pytest.mark.parametrize("spared", ["sync", "sync_folder"])
def test_without_syncing_a_power_cut_is_seen_to_lose(tmp_path, monkeypatch, spared):
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path, patch)
        patch.setattr(f"keras_layerwise.storage.files.{spared}", lambda _: None)
        a_run(disk, tmp_path / "logs" / "run")
    (tmp_path / "replayed").mkdir()
    with pytest.raises((AssertionError, RecordError)):  # noqa: PT012 - some state, whichever it is
        for operations, _, contents in disk.cuts():
            with laid_out(contents, tmp_path / "replayed") as folder:
                check_record(operations, folder / "logs" / "run")
                check_events(operations, folder / "logs" / "run")
