"""Each example shows what fails and what holds, and asserts both."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]
# The demonstration on digits has options, and a test of its own.
EXAMPLES = sorted({path.stem for path in ROOT.glob("examples/*.py")} - {"finetune_digits"})


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_holds_what_it_claims(name):
    if name == "rules_after_reload" and not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("shows what MultiOptimizer does, which this Keras does not have")
    environment = os.environ | {
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
