"""`tf.distribute.MirroredStrategy` on two logical devices: the same numbers as on one."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

WORKERS = Path(__file__).parent / "workers"
pytestmark = pytest.mark.tensorflow_only

SAME = [
    "rates", "momentum and decay", "Adam", "AdamW", "average", "changes", "changes under Adam",
    "changes of an average", "loss scale", "schedule",
]  # fmt: skip
CLIPPED = ["clipnorm", "global_clipnorm", "clipvalue"]


def run(script, *arguments, **environment):
    """Runs a worker in a process of its own: devices are set before TensorFlow starts."""
    found = subprocess.run(
        [sys.executable, str(WORKERS / script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return found.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("asks for tf.distribute")
    out = tmp_path_factory.mktemp("mirrored") / "results.npz"
    run("mirrored.py", out)
    with np.load(out) as found:
        return dict(found)


def weights(results, name, devices):
    return [results[f"{name}/{devices}/{i}"] for i in range(4)]


@pytest.mark.parametrize("name", SAME)
def test_two_replicas_train_as_one_device(results, name):
    one, two = weights(results, name, "one"), weights(results, name, "two")
    for i in range(4):
        np.testing.assert_allclose(two[i], one[i], rtol=2e-5, atol=2e-6)
    assert results[f"{name}/one/steps"] == results[f"{name}/two/steps"] == 12


def test_drift_is_that_of_one_device(results):
    names = [key.rpartition("/")[2] for key in results if key.startswith("drift/one/")]
    assert "l2" in names
    assert results["drift/one/step"].tolist() == [3, 6, 9, 12]
    for name in names:
        one, two = results[f"drift/one/{name}"], results[f"drift/two/{name}"]
        np.testing.assert_allclose(two, one, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("rate", ["", " at a tenth"])
@pytest.mark.parametrize("name", CLIPPED)
def test_clipping_is_what_keras_makes_of_it_under_replicas(results, name, rate):
    """Keras clips each replica's gradients before they are summed."""
    bare = weights(results, f"bare {name}{rate}", "two")
    found = weights(results, f"{name}{rate}", "two")
    for i in range(4):
        np.testing.assert_allclose(found[i], bare[i], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["accumulation", "average written back"])
def test_what_keras_cannot_do_under_replicas_fails_as_in_keras(results, name):
    """When this fails, Keras can: move the case to `CASES`."""
    assert "merge_call" in str(results[f"{name}/bare"])
    assert "merge_call" in str(results[f"{name}/layerwise"])
