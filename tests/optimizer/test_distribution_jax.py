"""`keras.distribution` on JAX: the same numbers on one device, eight, and in two processes."""

import json
import socket

import keras
import numpy as np
import pytest

from tests.shared.scripts import WORKERS

if keras.backend.backend() != "jax":
    pytest.skip("keras.distribution shards on JAX", allow_module_level=True)

WORKER = (WORKERS / "sharded.py").read_text()
CASES = [
    "AdamW, global norm, to initial, changes",
    "momentum, clipped, averaged, accumulated",
]
KINDS = ["data", "model"]


@pytest.fixture(scope="module")
def one_process(scripts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_process")
    scripts.succeed((WORKER, 8, folder / "results.npz"))
    with np.load(folder / "results.npz") as found:
        return dict(found), folder


@pytest.fixture(scope="module")
def two_processes(scripts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # The log directories differ, to see who writes.
    scripts.succeed(
        *((WORKER, 4, folder / f"{i}.npz", folder / f"logs{i}", address, 2, i) for i in range(2))
    )
    results = []
    for i in range(2):
        with np.load(folder / f"{i}.npz") as found:
            results.append(dict(found))
    return results, folder


def assert_same(found, expected, case, kind):
    for i in range(4):
        np.testing.assert_allclose(
            found[f"{case}/{kind}/{i}"], expected[f"{case}/one/{i}"], rtol=2e-5, atol=2e-6
        )


def assert_same_drift(found, expected, kind):
    names = [key.rpartition("/")[2] for key in expected if key.startswith("drift/one/")]
    assert "l2" in names
    assert expected["drift/one/step"].tolist() == [2, 4, 6]
    for name in names:
        np.testing.assert_allclose(
            found[f"drift/{kind}/{name}"],
            expected[f"drift/one/{name}"],
            rtol=2e-5,
            atol=2e-6,
            err_msg=name,
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_eight_devices_train_as_one(one_process, case, kind):
    results, _ = one_process
    assert_same(results, results, case, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_drift_of_sharded_weights_is_that_of_whole_ones(one_process, kind):
    results, _ = one_process
    assert_same_drift(results, results, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(one_process, two_processes, case, kind):
    for results in two_processes[0]:
        assert_same(results, one_process[0], case, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_drift_in_two_processes_is_that_of_one(one_process, two_processes, kind):
    for results in two_processes[0]:
        assert_same_drift(results, one_process[0], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_writes(two_processes, kind):
    _, folder = two_processes
    chief = {path.name.partition(".")[0] for path in (folder / "logs0" / kind).rglob("*")}
    assert {"events", "drift", "rates", "hyperparameters"} <= chief
    assert not (folder / "logs1").exists() or not any((folder / "logs1").rglob("*"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_is_the_same_on_one_device_and_on_many(one_process, two_processes, kind):
    def read(path):
        return json.loads((path / "hyperparameters.json").read_text())

    one = read(one_process[1] / "one")
    many = [read(one_process[1] / kind), read(two_processes[1] / "logs0" / kind)]
    assert [record["architecture"] for record in many] == [one["architecture"]] * 2
    prints = [record["fingerprints"]["initial_weights"] for record in (one, *many)]
    # Weights that no process holds whole are not gathered for their fingerprint.
    assert prints == [prints[0], prints[0], "unknown" if kind == "model" else prints[0]]
