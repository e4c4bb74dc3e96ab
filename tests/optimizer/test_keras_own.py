"""Keras's own optimizer tests pass with their optimizers wrapped."""

import json
from pathlib import Path

import keras
import pytest

from tests.shared import keras_own

SOURCE = Path(keras.__file__).parent / "src"
FILES = sorted(SOURCE.glob("optimizers/*_test.py"))
if keras.backend.backend() == "tensorflow":
    FILES += sorted(SOURCE.glob("backend/tensorflow/optimizer_distribute_test.py"))

pytestmark = [
    pytest.mark.skipif(not FILES, reason="this Keras was published without its tests"),
    pytest.mark.timeout(1200),  # JAX compiles every operation that these tests make
]


@pytest.fixture(scope="module")
def outcomes(scripts, tmp_path_factory):
    """What came of each test, by the name of its file and by its own."""
    report = tmp_path_factory.mktemp("keras_own") / "report.json"
    (run,) = scripts.run((Path(keras_own.__file__).read_text(), report, *FILES))
    assert report.exists(), run.stdout + run.stderr
    return json.loads(report.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_keras_own_tests_pass_with_wrapped_optimizers(file, outcomes):
    of_file = {
        name: outcome for name, outcome in outcomes.items() if name.startswith(f"{file.name}::")
    }
    failed = [f"{name}\n{o['text']}" for name, o in of_file.items() if o["outcome"] == "failed"]
    assert not failed, "\n\n".join(failed)
    passed = [outcome for outcome in of_file.values() if outcome["outcome"] == "passed"]
    if not passed and all(outcome["outcome"] == "skipped" for outcome in of_file.values()):
        pytest.skip(f"Keras skips all of it on {keras.backend.backend()}")
    # Without this, a file whose optimizers escape the wrapping would pass for nothing.
    assert sum(outcome["wrapped"] for outcome in passed) > 0


def test_every_exclusion_is_of_a_test_that_exists_and_fails(outcomes):
    """A line of the list that is no longer needed has to go."""
    excluded = {name for name, outcome in outcomes.items() if outcome["outcome"] == "excluded"}
    assert excluded == set(keras_own.EXCLUSIONS)
