"""Runs in directories of a store: in memory, and on a server that speaks S3."""

import contextlib
import io
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise import cli
from keras_layerwise.storage import files, reference, run_file, schema, stores
from keras_layerwise.storage.events import EventWriter
from keras_layerwise.storage.framing import framed
from keras_layerwise.storage.reading import final_drift

pytestmark = pytest.mark.tensorflow_only
pytest.importorskip("upath")

MARK = run_file.Mark(first=0, last=0, count=0, step=0)
X = np.linspace(0, 1, 24, dtype="float32").reshape(8, 3)


@pytest.fixture(scope="session")
def bucket():
    """The address of a bucket on a server of this machine."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    with pytest.MonkeyPatch.context() as patch:
        # Its requests are logged to standard error.
        patch.setattr("werkzeug.serving.WSGIRequestHandler.log", lambda *_: None)
        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ENDPOINT_URL", "S3_ENDPOINT"):  # the second is TensorBoard's own
            patch.setenv(name, f"http://{host}:{port}")
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
        server.stop()


@pytest.fixture(params=["memory", "s3"])
def place(request):
    """A directory of a store, another one for each test."""
    root = "memory://store" if request.param == "memory" else request.getfixturevalue("bucket")
    return f"{root}/{request.node.name.partition('[')[0]}/run"


def network():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="head")])
    model.compile(kl.LayerwiseOptimizer("sgd", {"head": 0.5}), "mse", run_eagerly=True)
    return model


def fit(model, place, *callbacks, epochs=2, **arguments):
    watching = [
        kl.WeightDrift(place),
        kl.FreezeHyperparameters(place, {"seed": 1}),
        kl.LearningRateMonitor(place),
    ]
    model.fit(
        X, X[:, :1], batch_size=4, epochs=epochs, verbose=0, callbacks=[*callbacks, *watching],
        **arguments,
    )  # fmt: skip
    return watching


def test_a_run_is_kept_continued_and_shown_as_in_a_directory(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = network()
    fit(model, place)
    drift, frozen, _ = fit(model, place, epochs=3, initial_epoch=2)
    assert frozen.record.status == "finished"
    record = kl.load_record(place)
    assert record == frozen.record
    assert [found["step"] for found in record.resumptions] == [4]
    assert final_drift(place)["step"] == 6
    assert final_drift(place)["layers"][0]["l2"] == pytest.approx(drift.history["l2"][-1, 0])
    assert cli.main(["show", place]) == 0
    assert "finished" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())  # no directory called memory:


def test_a_checkpoint_goes_on_in_another_process_and_a_new_run_beside(place, tmp_path, capsys):
    model = network()
    fit(model, place)
    model.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    drift, frozen, _ = fit(resumed, place, epochs=1)
    assert str(frozen.directory) == place
    assert drift.history["step"].tolist() == [6]
    reference_of = {"kernel": (3, 1), "bias": (1,)}
    stored = files.place(place) / schema.DRIFT_DIR / schema.REFERENCE_FILE
    reference.load(stored, {f"head/{name}": shape for name, shape in reference_of.items()})
    _, other, _ = fit(network(), place, epochs=1)
    assert str(other.directory) == f"{place}-2"
    capsys.readouterr()
    assert cli.main(["list", place.removesuffix("/run")]) == 0
    assert "2 of 2 runs" in capsys.readouterr().out


def test_of_several_that_claim_a_place_at_once_each_gets_its_own(place):
    found = []

    def claim():
        found.append(str(run_file.claim(files.place(place), MARK)))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [place, *(f"{place}-{number}" for number in (2, 3, 4))]
    assert {str(path) for path in run_file.runs(files.place(place))} == set(found)


def test_what_is_replaced_is_whole_and_stays_where_writing_it_fails(place):
    path = files.place(place) / "file"
    with files.replacing(path) as file:
        file.write(b"before")

    def fail():
        with files.replacing(path) as file:
            file.write(b"half")
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert path.read_bytes() == b"before"


def test_events_are_there_after_each_flush_and_wait_while_the_store_is_away(place, monkeypatch):
    writer = EventWriter(place, flush_seconds=3600)
    writer.scalar("a", 1.0, 1)
    writer.flush()
    before = writer.path.read_bytes()

    def away(file, path):
        raise OSError("the store is away")

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(stores, "send", away)
        writer.scalar("b", 1.0, 2)
        writer.flush()
        assert writer.path.read_bytes() == before
    writer.scalar("c", 1.0, 3)
    writer.close()
    assert writer.lost == 0
    after = writer.path.read_bytes()
    assert after.startswith(before)
    assert b"b" in after[len(before) :]


def test_a_store_that_stays_away_is_counted(place, monkeypatch):
    writer = EventWriter(place, flush_seconds=3600)

    def away(file, path):
        raise OSError("the store is away")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monkeypatch.setattr(stores, "send", away)
        for step in range(3):
            writer.scalar("a", 1.0, step)
            writer.flush()
        writer.close()
    assert writer.lost == 3


def test_tensorboard_reads_the_events(place):
    """Through its own file systems, which serve where TensorFlow is not installed."""
    from tensorboard.compat.tensorflow_stub.errors import OutOfRangeError
    from tensorboard.compat.tensorflow_stub.io import gfile
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    if place.startswith("s3"):
        pytest.importorskip("boto3")
    writer = EventWriter(place)
    writer.scalar("a", 1.0, 1)
    writer.close()
    names = [n for n in gfile.listdir(place) if "tfevents" in n]
    assert names == [writer.path.name]
    reader = PyRecordReader_New(f"{place}/{names[0]}")
    found = []
    with contextlib.suppress(OutOfRangeError):
        while True:
            reader.GetNext()
            found.append(reader.record())
    assert b"".join(map(framed, found)) == writer.path.read_bytes()


@pytest.mark.parametrize(
    "address", ["nowhere://bucket/run", "gs://bucket/run", "nowhere:/bucket/run"]
)
def test_a_store_that_nothing_is_installed_for_is_refused_at_once(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for make in (kl.FreezeHyperparameters, kl.WeightDrift, kl.LearningRateMonitor):
        with pytest.raises(OSError, match=r"can not be written.*keras-layerwise\[remote\]"):
            make(address)
    assert not list(tmp_path.iterdir())


def test_a_store_that_does_not_answer_is_an_error_before_the_first_step(monkeypatch, capsys):
    class AwayError(Exception):
        """As each store has errors of its own."""

    def away(*_):
        raise AwayError("no credentials")

    model = network()
    before = model.get_weights()
    with monkeypatch.context() as patch:
        patch.setattr(run_file, "holds_run", away)
        with pytest.raises(OSError, match=r"can not be reached: no credentials\. Check"):
            fit(model, "memory://away/run")
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    with monkeypatch.context() as patch:
        patch.setattr(type(files.place("memory://away")), "is_file", away)
        assert cli.main(["show", "memory://away/run"]) == 2
    assert "no credentials" in capsys.readouterr().err


def test_without_the_extra_an_address_is_refused_and_nothing_else_asks_for_it(tmp_path):
    code = (
        "import sys; sys.modules['upath'] = None\n"
        "from keras_layerwise.storage import files, record\n"
        "files.place('run')\n"
        "try: files.place('s3://bucket/run')\n"
        "except OSError as error: print('refused', 'keras-layerwise[remote]' in str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout == "refused True\n"


def test_a_table_goes_to_this_machine_only():
    with pytest.raises(OSError, match="local directory"):
        kl.CSVSink("s3://bucket/run.csv")


def test_a_file_that_is_to_be_sent_is_like_any_other():
    with stores.own_file() as file:
        assert isinstance(file, io.FileIO)
