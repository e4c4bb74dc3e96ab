import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as slow_crc32c
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.util import tensor_util

from keras_layerwise.storage import events, framing, schema
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.schema import Row, Series

ROWS = tuple(Row(f"layer_{i}", trainable=True, frozen=False, parameters=i) for i in range(3))
DRIFT = Series("drift", ROWS, "l2", "the initial weights")


def read(directory):
    """The records of all event files, as TensorBoard's own loader gives them."""
    files = sorted(Path(directory).glob("events.out.tfevents.*"))
    found = [event for file in files for event in EventFileLoader(str(file)).Load()]
    return [event for event in found if event.HasField("summary")]


def values(directory):
    return [
        (event.step, value.tag, tensor_util.make_ndarray(value.tensor))
        for event in read(directory)
        for value in event.summary.value
    ]


def test_vectors_and_messages_come_back(tmp_path):
    writer = EventWriter(tmp_path)
    writer.vector(DRIFT, "d", [1.0, np.nan, np.inf], step=3)
    writer.vector(DRIFT, "d", [4.0, 5.0, 6.0], step=4)
    alarm = schema.alarm("nonfinite", "layer_1", 4, "Not finite: ü.")
    writer.messages(Series("alarms"), schema.ALARMS, [alarm], step=4)
    writer.close()
    first, second, _ = read(tmp_path)
    metadata = first.summary.value[0].metadata
    assert metadata.plugin_data.plugin_name == schema.PLUGIN
    assert Series.parse(metadata.plugin_data.content) == DRIFT
    assert not second.summary.value[0].HasField("metadata")
    np.testing.assert_array_equal(values(tmp_path)[0][2], np.float32([1, np.nan, np.inf]))
    assert (second.step, values(tmp_path)[1][2].tolist()) == (4, [4.0, 5.0, 6.0])
    assert values(tmp_path)[1][2].dtype == np.float32
    (text,) = values(tmp_path)[2][2]
    assert schema.json.loads(text) == alarm
    assert writer.lost == 0


def test_every_kind_comes_back_as_its_plugin_wants_it(tmp_path):
    writer = EventWriter(tmp_path)
    writer.scalars({"a": 0.5, "b": float("nan")}, step=1, description="Against x.")
    writer.text("t", "*hello*", step=1)
    writer.image("i", b"PNG", 4, 2, step=1)
    writer.histogram("h", [0.0, 1.0, 1.0, np.nan, np.inf], step=1)
    writer.histogram("empty", [np.nan], step=1)
    writer.summary(hparams.hparams_pb({"rate": 0.1}), step=1)
    writer.close()
    found = {tag: value for _, tag, value in values(tmp_path) if not tag.startswith("_hparams_")}
    assert found["a"] == 0.5
    assert np.isnan(found["b"])
    assert found["t"].tolist() == [b"*hello*"]
    assert found["i"].tolist() == [b"4", b"2", b"PNG"]
    assert found["h"][:, 2].sum() == 3
    assert found["h"][0, 0] == 0
    assert found["h"][-1, 1] == 1
    assert found["empty"].shape == (0, 3)
    plugins = {
        value.tag: value.metadata.plugin_data.plugin_name
        for event in read(tmp_path)
        for value in event.summary.value
    }
    names = ["scalars", "text", "images", "histograms", "hparams"]
    assert [plugins[tag] for tag in ["a", "t", "i", "h", "_hparams_/session_start_info"]] == names
    description = read(tmp_path)[0].summary.value[0].metadata.summary_description
    assert description == "Against x."


def test_checksums_are_those_of_tensorboard():
    assert framing.crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4 lists others
    for size in [0, 1, 3, 4, 5, 8, 255, 256, 257, 511, 513, 5000]:
        data = os.urandom(size)
        assert framing.crc32c(data) == slow_crc32c(data)


def test_a_vector_takes_five_bytes_a_value_and_300_a_record(tmp_path):
    rows = tuple(Row(f"block_{i}_expand", True, False, 9) for i in range(200))
    writer = EventWriter(tmp_path)
    series = Series("drift", rows, "relative_l2", "the initial weights")
    writer.vector(series, schema.drift_tag("relative_l2"), np.ones(200), step=10**6)
    writer.flush()
    before = writer.path.stat().st_size
    for step in range(100):
        writer.vector(series, schema.drift_tag("relative_l2"), np.ones(200), step=10**6 + step)
    writer.close()
    assert (writer.path.stat().st_size - before) / 100 <= 5 * 200 + 300


def test_a_scalar_takes_fifty_bytes(tmp_path):
    writer = EventWriter(tmp_path)
    scalars = {f"drift/l2/block_{i}_expand": 0.5 for i in range(200)}
    writer.scalars(scalars, step=10**6)
    writer.flush()
    before = writer.path.stat().st_size
    writer.scalars(scalars, step=10**6 + 1)
    writer.close()
    assert (writer.path.stat().st_size - before) / 200 <= 50


def test_a_directory_that_can_not_be_written_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        EventWriter(tmp_path / "file" / "run")
    with pytest.raises(OSError, match="gs://bucket"):
        EventWriter("gs://bucket/run")


def test_the_wrong_number_of_values_is_an_error_where_it_is_made(tmp_path):
    writer = EventWriter(tmp_path)
    with pytest.raises(ValueError, match=r"3 in all; received the shape \(2,\)"):
        writer.vector(DRIFT, "d", [1.0, 2.0], step=0)
    writer.close()


def test_time_does_not_run_backwards(tmp_path, monkeypatch):
    writer = EventWriter(tmp_path)
    clock = iter([2e9 + 10, 2e9, 2e9 + 20])
    monkeypatch.setattr(events.time, "time", lambda: next(clock))
    for step in range(3):
        writer.scalar("a", 0.0, step)
    writer.close()
    assert [event.wall_time for event in read(tmp_path)] == [2e9 + 10, 2e9 + 10, 2e9 + 20]


def test_a_later_file_sorts_behind_an_earlier_one_though_the_clock_went_back(tmp_path, monkeypatch):
    first = EventWriter(tmp_path)
    monkeypatch.setattr(events.time, "time", lambda: 1e9)
    second = EventWriter(tmp_path)
    assert first.path.name < second.path.name
    first.close()
    second.close()


def test_many_threads_lose_nothing(tmp_path):
    writer = EventWriter(tmp_path)

    def work(k):
        for step in range(50):
            writer.vector(DRIFT, f"d{k}", [k, step, 0], step)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    found = sorted((int(v[0]), int(v[1])) for _, _, v in values(tmp_path))
    assert found == [(k, step) for k in range(4) for step in range(50)]


def test_a_directory_removed_in_mid_run_loses_records_with_one_warning(tmp_path):
    writer = EventWriter(tmp_path / "run", flush_seconds=0.01)
    shutil.rmtree(tmp_path / "run")

    def write():
        for step in range(5):
            writer.scalar("a", 1.0, step)
            writer.flush()
        writer.close()

    with pytest.warns(RuntimeWarning, match="are being lost") as caught:
        write()
    assert len(caught) == 1
    assert writer.lost == 5


def test_a_record_that_can_not_be_built_costs_only_itself(tmp_path):
    writer = EventWriter(tmp_path)
    writer.scalar("\ud800", 1.0, step=1)  # no UTF-8
    writer.scalar("b", 2.0, step=2)
    with pytest.warns(RuntimeWarning, match="are being lost"):
        writer.close()
    assert [tag for _, tag, _ in values(tmp_path)] == ["b"]
    assert writer.lost == 1


def test_what_waits_for_a_disk_that_hangs_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "PENDING_LIMIT", 100)
    writer = EventWriter(tmp_path, flush_seconds=3600)
    for step in range(20):
        writer.vector(DRIFT, "d", [0, 0, 0], step)
    assert writer.lost == 12
    writer.close()
    assert len(values(tmp_path)) == 8


def test_after_close_records_are_counted_as_lost(tmp_path):
    writer = EventWriter(tmp_path)
    writer.close()
    writer.close()
    writer.scalar("a", 1.0, step=1)
    assert writer.lost == 1


def run(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_a_full_disk_leaves_whole_records_and_later_ones_are_written(tmp_path):
    # A real limit on the size of files: write() takes a part and then fails,
    # as it does where a disk is full. Lifting it is a disk that has room again.
    code = """
        import resource, sys
        from keras_layerwise.storage.events import EventWriter
        from keras_layerwise.storage.schema import Row, Series
        rows = tuple(Row(f"layer_{i}", True, False, 1) for i in range(100))
        writer = EventWriter(sys.argv[1])
        series = Series("drift", rows, "l2", "the initial weights")
        writer.vector(series, "early", [0.0] * 100, 0)
        writer.flush()
        limit = writer.path.stat().st_size + 12_345
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        for step in range(1, 101):
            writer.vector(series, "early", [step] * 100, step)
            writer.vector(series, "late", [step] * 100, step)
            if step == 30:
                writer.flush()
        writer.flush()
        data, at = writer.path.read_bytes(), 0
        while at < len(data):  # length, its checksum, content, its checksum
            at += 16 + int.from_bytes(data[at : at + 8], "little")
        print(writer.lost, at == len(data) <= limit)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        writer.vector(series, "new", [7.0] * 100, 101)
        writer.vector(series, "early", [101.0] * 100, 101)
        writer.close()
        print(writer.lost)
    """
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    lost, fits, lost_at_last = done.stdout.split()
    assert fits == "True"
    assert int(lost) == int(lost_at_last) > 100
    assert done.stderr.count("are being lost") == 1
    found = values(tmp_path)
    assert len(found) == 1 + 200 + 2 - int(lost)
    assert all((value == (7 if tag == "new" else step)).all() for step, tag, value in found)
    assert [tag for step, tag, _ in found if step == 101] == ["new", "early"]
    described = [
        value.tag
        for event in read(tmp_path)
        for value in event.summary.value
        if value.HasField("metadata")
    ]
    assert sorted(described) == ["early", "late", "new"]


def test_metadata_that_was_lost_is_written_with_the_next_record(tmp_path):
    code = """
        import resource, sys
        from keras_layerwise.storage.events import EventWriter
        writer = EventWriter(sys.argv[1])
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (writer.path.stat().st_size + 10, hard))
        writer.text("t", "lost", 1)
        writer.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        writer.text("t", "kept", 2)
        writer.close()
    """
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    (event,) = read(tmp_path)
    assert event.summary.value[0].metadata.plugin_data.plugin_name == "text"
    assert [value.tolist() for _, _, value in values(tmp_path)] == [[b"kept"]]


def test_a_killed_process_leaves_every_record_older_than_the_flush_interval(tmp_path):
    code = """
        import sys, time
        from keras_layerwise.storage.events import EventWriter
        writer = EventWriter(sys.argv[1], flush_seconds=0.5)
        for step in range(10**6):
            writer.scalar("a", float(step), step)
            print(step, time.time(), flush=True)
            time.sleep(0.01)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said = []
        for line in process.stdout:
            step, at = line.split()
            said.append((int(step), float(at)))
            if said[-1][1] - said[0][1] > 2:
                break
        process.send_signal(signal.SIGKILL)
        killed = time.time()
        process.wait()
    written = [step for step, _, _ in values(tmp_path)]
    due = [step for step, at in said if at < killed - 0.5]
    assert len(due) > 20
    assert written == list(range(len(written)))
    assert len(written) >= len(due)


def test_training_that_ends_without_closing_loses_nothing(tmp_path):
    code = """
        import sys
        from keras_layerwise.storage.events import EventWriter
        EventWriter(sys.argv[1], flush_seconds=3600).scalar("a", 1.0, 1)
    """
    assert run(code, tmp_path).returncode == 0
    assert len(values(tmp_path)) == 1


def test_no_tensorflow_is_imported(tmp_path):
    code = """
        import sys
        from keras_layerwise.storage.events import EventWriter
        writer = EventWriter(sys.argv[1])
        writer.scalar("a", 1.0, 1)
        writer.close()
        print([name for name in sys.modules if name.split(".")[0] in ("tensorflow", "keras")])
    """
    assert run(code, tmp_path).stdout.strip() == "[]"
