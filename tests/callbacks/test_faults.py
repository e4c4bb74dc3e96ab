"""What a fault may cost: records, never the training that would have gone on without us.

The table in docs/faults.md is made of these.
"""

import functools
import json
import os
import resource
import shutil
import signal
import threading
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_layerwise as kl
from keras_layerwise.drift.reference import Reference
from keras_layerwise.storage import run_file
from keras_layerwise.storage.record import RecordError
from tests.shared.scripts import WORKERS

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype("float32")
Y = X[:, :2] ** 2


def compiled():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="body"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    rules = {"body": 0.1, "head/bias": kl.Rule(frozen=True)}
    model.compile(kl.LayerwiseOptimizer("adam", rules, model=model), "mse")
    return model


def watching(folder):
    return [
        kl.WeightDrift(folder, update_freq=1, flush_seconds=0.01),
        kl.FreezeHyperparameters(folder, {"dataset": "toy"}),
        kl.LearningRateMonitor(folder),
    ]


def fit(model, callbacks, epochs=3):
    model.fit(
        X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    )
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


@functools.cache
def undisturbed():
    return fit(compiled(), [])


def assert_trained(weights):
    for found, expected in zip(weights, undisturbed(), strict=True):
        np.testing.assert_array_equal(found, expected)


def record_of(folder):
    return json.loads((Path(folder) / "hyperparameters.json").read_text())


class At(keras.callbacks.Callback):
    """Does something once, in the middle of training."""

    def __init__(self, action, epoch=1, batch=2):
        super().__init__()
        self._action, self._when = action, (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == self._when:
            self._action()


@pytest.mark.tensorflow_only  # where a step has the same bits every time, and forks are allowed
@pytest.mark.skipif(not hasattr(os, "fork"), reason="asks for fork")
def test_twenty_kills_cost_nothing(scripts, tmp_path):
    (found,) = scripts.run(((WORKERS / "killed.py").read_text(), tmp_path, 20))
    ends = [int(word) for word in found.stdout.split()]
    assert ends == [-signal.SIGKILL] * 20 + [0, 0], found.stderr[-3000:]
    results = {}
    for name in ("undisturbed", "killed"):
        with np.load(tmp_path / name / "results.npz") as values:
            results[name] = dict(values)
    # Weights, the optimizer's state and the last record of drift, bit by bit.
    for name, expected in results["undisturbed"].items():
        np.testing.assert_array_equal(results["killed"][name], expected, err_msg=name)
    # A life that left no checkpoint is followed by another run; every other one is resumed.
    places = run_file.runs(tmp_path / "killed")
    record = record_of(places[0])
    assert record["status"] == "finished"
    assert len(record["resumptions"]) + len(places) - 1 == 20
    assert len(places) < 4
    assert not record["violations"]
    assert record["fingerprints"] == {
        **record_of(tmp_path / "undisturbed")["fingerprints"],
        "runtime": record["fingerprints"]["runtime"],
    }
    # The ends of sessions that were resumed are gone: one row, finished once.
    ends = [
        path.name for path in places[0].rglob("events*") if b"session_end_info" in path.read_bytes()
    ]
    assert len(ends) == 1


def test_a_disk_that_fills_costs_records(tmp_path):
    """Every file of this process is full from the middle of training on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))

    callbacks = watching(tmp_path)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            weights = fit(compiled(), [*callbacks, At(fill)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_trained(weights)
    assert any("lost" in str(warning.message) for warning in caught)
    assert callbacks[0].lost > 0
    assert record_of(tmp_path)["status"] == "running"  # the last that could be written, whole


def test_a_directory_that_is_removed_costs_records(tmp_path):
    folder = tmp_path / "run"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = fit(compiled(), [*watching(folder), At(lambda: shutil.rmtree(folder))])
    assert_trained(weights)
    assert any("lost" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["drift", "record", "rates"])
def test_a_directory_that_cannot_be_written_is_an_error_before_the_first_step(tmp_path, which):
    (tmp_path / "in_the_way").write_text("a file")
    model = compiled()
    before = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    with pytest.raises(OSError, match="in_the_way"):
        fit(model, [watching(tmp_path / "in_the_way" / "run")[which]])
    for found, expected in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_of_others_is_passed_on_and_recorded(tmp_path, error):
    def fail():
        raise error("of others")

    with pytest.raises(error, match="of others"):
        fit(compiled(), [*watching(tmp_path / "run"), At(fail)])
    assert record_of(tmp_path / "run")["status"] == "failed"
    assert error.__name__ in record_of(tmp_path / "run")["error"]
    # The same script again is a run of its own.
    assert_trained(fit(compiled(), [*watching(tmp_path / "run"), At(lambda: None)]))
    assert record_of(tmp_path / "run")["status"] == "failed"
    assert record_of(tmp_path / "run-2")["status"] == "finished"


def test_fit_in_a_thread(tmp_path):
    found, model = [], compiled()
    thread = threading.Thread(target=lambda: found.append(fit(model, watching(tmp_path))))
    thread.start()
    thread.join()
    assert_trained(found[0])
    assert record_of(tmp_path)["status"] == "finished"


def test_a_clock_that_jumps_back(tmp_path, monkeypatch):
    now = time.time

    def jump():
        monkeypatch.setattr(time, "time", lambda: now() - 86_400)

    callbacks = watching(tmp_path)
    assert_trained(fit(compiled(), [*callbacks, At(jump)]))
    assert callbacks[0].history["step"].tolist() == list(range(1, 19))
    for path in tmp_path.rglob("events*"):
        times = [event.wall_time for event in EventAccumulator(str(path))._generator.Load()]
        assert times == sorted(times)


def test_weights_that_are_not_finite_do_not_stop_training(tmp_path):
    model = compiled()

    def spoil():
        kernel = model.get_layer("head").kernel
        if hasattr(model, "jax_state_sync"):
            model.jax_state_sync()
        kernel.assign(np.full((4, 2), np.nan, "float32"))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, [*watching(tmp_path), At(spoil)])
    assert any("8 elements of 'head/kernel'" in str(warning.message) for warning in caught)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 18
    assert record_of(tmp_path)["status"] == "diverged"


def restored(step):
    """A model as a checkpoint of that step leaves it."""
    model = compiled()
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(step)
    return model


def test_foreign_and_truncated_files_beside_ours(tmp_path):
    place = tmp_path / "run"
    fit(compiled(), watching(place))
    for path in place.rglob("events*"):
        path.write_bytes(path.read_bytes()[:-7])
    for folder in (place, place / "drift", place / "rates"):
        (folder / "events.out.tfevents.9999999999.foreign").write_bytes(b"no events")
        (folder / "events.out.tfevents.text").write_text("no events")
        (folder / "notes\n.txt").write_text("of a user")
    (place / "run.json").write_text('{"first": 0')
    assert_trained(fit(compiled(), watching(place)))
    fit(restored(18), watching(place))
    assert len(record_of(place)["resumptions"]) == 0  # run-2 is the newest that fits
    assert len(record_of(tmp_path / "run-2")["resumptions"]) == 1
    assert (place / "notes\n.txt").exists()


def test_a_truncated_record_is_refused_before_the_first_step_and_kept(tmp_path):
    fit(compiled(), watching(tmp_path))
    path = tmp_path / "hyperparameters.json"
    half = path.read_text()[:100]
    path.write_text(half)
    model = restored(18)
    with pytest.raises(RecordError, match="can not be read"):
        fit(model, watching(tmp_path))
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 18
    assert path.read_text() == half


def test_no_checkpoint_is_there_before_the_reference(tmp_path, monkeypatch):
    """Or a run that is killed in between would compare with the weights of the checkpoint."""
    save, found = Reference.save, []

    def slowly(self, *args):
        time.sleep(0.5)
        save(self, *args)

    monkeypatch.setattr(Reference, "save", slowly)
    path = tmp_path / "drift" / "reference.npz"

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            found.append(path.exists())

    fit(compiled(), [Look(), *watching(tmp_path)], epochs=1)
    assert all(found)
    assert len(found) == 6


def test_a_truncated_reference_is_refused_before_the_first_step(tmp_path):
    fit(compiled(), watching(tmp_path)[:1])
    path = tmp_path / "drift" / "reference.npz"
    path.write_bytes(path.read_bytes()[:50])
    model = restored(18)
    with pytest.raises(ValueError, match=r"half of one\. Remove"):
        fit(model, watching(tmp_path)[:1])
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 18


def test_two_runs_at_once_in_one_directory(scripts, tmp_path):
    """Both train, each in a directory of its own."""
    code = (
        "import sys; from tests.callbacks import test_faults as t; "
        "t.fit(t.compiled(), t.watching(sys.argv[1]), epochs=10)"
    )
    for done in scripts.run((code, tmp_path / "run"), (code, tmp_path / "run")):
        assert done.returncode == 0, done.stderr
    for place in (tmp_path / "run", tmp_path / "run-2"):
        assert len(list((place / "drift").glob("events*"))) == 1
        assert kl.load_record(place).status == "finished"
        assert not kl.load_record(place).resumptions
