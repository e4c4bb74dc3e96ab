"""Where a run came from, and that no secret is among it."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise.hyperparameters.provenance import (
    REDACTED,
    data_fingerprint,
    git,
    provenance,
    redacted,
    redacted_arguments,
)
from keras_layerwise.storage.values import UNKNOWN


def run_git(directory, *words):
    author = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    run = subprocess.run(
        ["git", *author, *words], cwd=directory, check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


def test_the_commit_whether_the_tree_was_dirty_and_an_address_without_password(
    tmp_path, monkeypatch
):
    script = tmp_path / "train.py"
    script.write_text("pass")
    run_git(tmp_path, "init", "-q")
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "-qm", "first")
    run_git(tmp_path, "remote", "add", "origin", "https://me:s3cret@example.org/code.git")
    monkeypatch.setattr(sys, "argv", [str(script), "--hub-token", "s3cret", "--lr=0.1"])
    found = {**provenance(), "git": git().result()}
    assert found["git"] == {
        "commit": run_git(tmp_path, "rev-parse", "HEAD"),
        "dirty": False,
        "repository": f"https://{REDACTED}@example.org/code.git",
    }
    assert "s3cret" not in json.dumps(found)
    assert "--lr=0.1" in found["command"]
    script.write_text("changed")
    assert git().result()["dirty"] is True


def test_outside_of_a_repository_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git().result() == {}


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "HF_TOKEN",
        "password",
        "db_passwd",
        "api_key",
        "clientSecret",
        "private_key",
        "auth_tokens",
        "apikeys",
        "credentials",
        "hf_tokens",
        "ACCESS_KEYS",
        "passwords",
        "secrets",
    ],
)
def test_secrets_are_redacted_wherever_they_are(name):
    assert redacted({"a": [{name: "x"}]}) == {"a": [{name: REDACTED}]}
    assert "x" not in redacted_arguments(["p", f"--{name}", "x"])
    assert redacted_arguments(["p", f"{name}=x"])[1] == f"{name}={REDACTED}"


def test_what_is_no_secret_stays():
    values = {"max_tokens": 512, "num_api": 3, "author": "me", "keys": [1], "lr": 0.1}
    assert redacted(values) == values


def test_arrays_that_differ_have_other_fingerprints_and_others_none():
    x = np.arange(12, dtype="float32").reshape(3, 4)
    one = data_fingerprint((x, None)).result()
    assert one == data_fingerprint((x.copy(), None)).result()
    assert one == data_fingerprint((keras.ops.convert_to_tensor(x), None)).result()
    assert one != data_fingerprint((x.reshape(4, 3), None)).result()
    assert one != data_fingerprint((x + 1, None)).result()
    assert data_fingerprint(iter([x])).result() == UNKNOWN
    assert data_fingerprint(np.array([object()])).result() == UNKNOWN


def test_a_run_says_where_it_came_from_and_is_not_another_for_it(tmp_path):
    def run(data, name):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        secret = {"wandb": {"api_key": "for-no-one"}, "seed": 1}
        frozen = kl.FreezeHyperparameters(tmp_path / name, secret)
        model.fit(data, np.ones((4, 1)), verbose=0, callbacks=[frozen])
        return kl.load_record(tmp_path / name)

    one, other = run(np.ones((4, 2)), "one"), run(np.zeros((4, 2)), "other")
    assert one["user"] == {"wandb": {"api_key": REDACTED}, "seed": 1}
    assert "for-no-one" not in (tmp_path / "one" / "hyperparameters.json").read_text()
    assert one.provenance["packages"]["numpy"] == np.__version__
    assert one.provenance["data"] != other.provenance["data"]
    assert one.fingerprint == other.fingerprint
    assert one.diff(other) == ()
