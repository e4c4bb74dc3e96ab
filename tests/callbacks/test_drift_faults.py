"""What `WeightDrift` does where a disk, a process or a clock fails: real faults, no stand-ins."""

import signal
import textwrap

import pytest

import keras_layerwise as kl
from keras_layerwise.storage import schema
from tests.shared.drift import classifier, fit, read, vectors

PREAMBLE = """
    import os, resource, shutil, signal, sys, threading, warnings
    warnings.filterwarnings("always", ".*lost")
    import keras, numpy as np
    import keras_layerwise as kl
    x, y = np.ones((32, 4), "float32"), np.ones((32, 2), "float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="body")])
    model.compile("sgd", "mse")
"""


def run(scripts, code, *arguments, status=0):
    (done,) = scripts.run((textwrap.dedent(PREAMBLE) + textwrap.dedent(code), *arguments))
    assert done.returncode == status, done.stderr
    return done


def test_a_log_dir_that_can_not_be_written_is_an_error_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    model = classifier()
    before = model.get_weights()
    with pytest.raises(OSError, match="file"):
        fit(model, kl.WeightDrift(tmp_path / "file"))
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def test_a_disk_that_fills_in_mid_run_costs_records_and_one_warning(scripts, tmp_path):
    code = """
        class Fill(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 1:  # no file grows beyond this: write() fails half-way, as ENOSPC
                    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, resource.RLIM_INFINITY))
        drift = kl.WeightDrift(sys.argv[1], update_freq=1, flush_seconds=0.05)
        model.fit(x, y, batch_size=1, epochs=4, verbose=0, callbacks=[drift, Fill()])
        print(len(drift.history["step"]), drift.lost)
    """
    done = run(scripts, code, tmp_path)
    count, lost = map(int, done.stdout.split()[-2:])
    assert count == 128
    assert lost > 50
    assert done.stderr.count("are being lost") == 1
    assert f"{lost} records could not be written" in done.stdout
    ((_, records),) = vectors(tmp_path)
    steps = [step for step, _ in records]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 10


def test_a_log_dir_removed_in_mid_run_does_not_stop_training(scripts, tmp_path):
    code = """
        class Remove(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 1:
                    shutil.rmtree(sys.argv[1])
        drift = kl.WeightDrift(sys.argv[1], flush_seconds=0.05)
        model.fit(x, y, epochs=4, verbose=0, callbacks=[drift, Remove()])
        print(len(drift.history["step"]), drift.lost > 0)
    """
    done = run(scripts, code, tmp_path / "run")
    assert "4 True" in done.stdout
    assert done.stderr.count("are being lost") == 1


def test_a_killed_run_leaves_readable_records_and_resumes(scripts, tmp_path):
    code = """
        class Kill(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch % 20 == 0:
                    model.save_weights(sys.argv[1] + "/at.weights.h5")
                if epoch == 60:  # from outside of training, which goes on meanwhile
                    kill = os.kill, (os.getpid(), signal.SIGKILL)
                    threading.Timer(0.01, *kill).start()
        drift = kl.WeightDrift(sys.argv[1], flush_seconds=0.2)
        model.fit(x, y, epochs=10**6, verbose=0, callbacks=[drift, Kill()])
    """
    run(scripts, code, tmp_path, status=-signal.SIGKILL)
    ((_, records),) = vectors(tmp_path)
    steps = [step for step, _ in records]
    assert steps == list(range(1, len(steps) + 1))
    assert steps
    resume = """
        model.optimizer.build(model.trainable_weights)
        model.load_weights(sys.argv[1] + "/at.weights.h5")
        drift = kl.WeightDrift(sys.argv[1])
        model.fit(x, y, epochs=1, verbose=0, callbacks=[drift])
        print(drift.history["step"][0] > 40, drift.history["l2"][0, 0] > 0.1)
    """
    assert "True True" in run(scripts, resume, tmp_path).stdout


def test_a_clock_that_jumps_back_keeps_the_order(tmp_path, monkeypatch):
    from keras_layerwise.storage import events

    times = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(events.time, "time", lambda: float(next(times)))
    fit(classifier(), kl.WeightDrift(tmp_path), epochs=3)
    walls = [event.wall_time for event in read(tmp_path / schema.DRIFT_DIR)]
    assert walls == sorted(walls)
