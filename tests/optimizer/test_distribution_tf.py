"""`tf.distribute.MirroredStrategy` on two logical devices: the same numbers as on one."""

import runpy
import socket

import keras
import numpy as np
import pytest

from keras_layerwise.callbacks.fit_hook import MULTI_WORKER
from tests.shared.scripts import WORKERS

pytestmark = pytest.mark.tensorflow_only

SAME = [
    "momentum, decay and schedules", "RMSprop", "Adagrad under a loss scale",
    "AdamW, decay to initial, an average and changes",
]  # fmt: skip
CLIPPED = ["clipnorm", "global_clipnorm", "clipvalue"]


@pytest.fixture(scope="module")
def results(scripts, tmp_path_factory):
    """What a process of its own trained: devices are set before TensorFlow starts."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("asks for tf.distribute")
    out = tmp_path_factory.mktemp("mirrored") / "results.npz"
    scripts.succeed(((WORKERS / "mirrored.py").read_text(), out))
    with np.load(out) as found:
        return dict(found)


def weights(results, name, devices):
    return [results[f"{name}/{devices}/{i}"] for i in range(4)]


@pytest.mark.parametrize("name", SAME)
def test_two_replicas_train_as_one_device(results, name):
    one, two = weights(results, name, "one"), weights(results, name, "two")
    for i in range(4):
        np.testing.assert_allclose(two[i], one[i], rtol=2e-5, atol=2e-6)
        assert np.linalg.norm(two[i] - one[i]) <= 1e-6 * np.linalg.norm(one[i])
    assert results[f"{name}/one/steps"] == results[f"{name}/two/steps"] == 12


def test_drift_is_that_of_one_device(results):
    names = [key.rpartition("/")[2] for key in results if key.startswith("drift/one/")]
    assert "l2" in names
    assert results["drift/one/step"].tolist() == [3, 6, 9, 12]
    for name in names:
        one, two = results[f"drift/one/{name}"], results[f"drift/two/{name}"]
        np.testing.assert_allclose(two, one, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("rate", [0.1, 0.01], ids=["no rules", "at a tenth"])
@pytest.mark.parametrize("name", CLIPPED)
def test_clipping_is_what_keras_makes_of_it_under_replicas(results, name, rate):
    """Keras clips each replica's gradients before they are summed."""
    for i in range(2):
        found, bare = (results[f"{name}/{rate}/{kind}/{i}"] for kind in ("layerwise", "bare"))
        np.testing.assert_allclose(found, bare, rtol=2e-6, atol=1e-7)


def test_a_body_frozen_by_rule_computes_in_each_replica_as_with_trainable_off(results):
    for i in range(8):
        np.testing.assert_array_equal(results[f"frozen/rule/{i}"], results[f"frozen/flag/{i}"])
    assert (results["frozen/flag/6"] != results["frozen/later/6"]).any()


def test_averages_stay_when_a_body_is_frozen_in_mid_run_under_replicas(results):
    assert (results["frozen/when"] != np.asarray([[0.0], [1.0]])).any()
    np.testing.assert_array_equal(results["frozen/end"], results["frozen/when"])


@pytest.mark.parametrize("name", ["accumulation", "average written back"])
def test_what_keras_cannot_do_under_replicas_fails_as_in_keras(results, name):
    """When this fails, Keras can: move the case to `CASES`."""
    assert "merge_call" in str(results[f"{name}/bare"])
    assert "merge_call" in str(results[f"{name}/layerwise"])


@pytest.fixture(scope="module")
def two_workers(scripts, tmp_path_factory):
    """What each of two processes that train together came to."""
    folder = tmp_path_factory.mktemp("two_workers")
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        addresses = ",".join(f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other))
    code = (WORKERS / "multi_worker.py").read_text()
    scripts.succeed(*((code, addresses, i, folder / f"{i}.npz") for i in range(2)))
    results = []
    for i in range(2):
        with np.load(folder / f"{i}.npz") as found:
            results.append(dict(found))
    return results


def test_a_loop_of_ones_own_trains_on_two_workers_as_on_one(two_workers):
    worker = runpy.run_path(str(WORKERS / "multi_worker.py"))
    model, optimizer = worker["make"]()
    for i in range(0, len(worker["X"]), worker["BATCH"]):
        rows = slice(i, i + worker["BATCH"])
        found = worker["gradients"](model, worker["X"][rows], worker["Y"][rows])
        optimizer.apply(found, model.trainable_variables)
    for results in two_workers:
        for i, expected in enumerate(model.weights):
            np.testing.assert_allclose(results[f"loop/{i}"], expected.numpy(), rtol=2e-5, atol=2e-6)


def test_fit_does_not_train_on_two_workers_with_any_optimizer(two_workers):
    """Keras issue 20585. When this fails, Keras can: say so in the README and test it."""
    assert "PerReplica" in str(two_workers[0]["bare"])


def test_fit_on_two_workers_fails_with_what_to_do(two_workers):
    assert f"RuntimeError: {MULTI_WORKER}" in str(two_workers[0]["fit"])
