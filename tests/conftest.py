"""What every test starts from: one backend, one seed, no state of the test before."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import keras
import pytest

# A time limit per example would fail by the machine's load, and a random
# choice of examples by chance.
hypothesis.settings.register_profile("deterministic", deadline=None, derandomize=True)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Names, policies and random numbers do not depend on the tests that ran before."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


def pytest_runtest_setup(item):
    if keras.backend.backend() != "tensorflow" and item.get_closest_marker("tensorflow_only"):
        pytest.skip(f"asks for what only TensorFlow has; this is {keras.backend.backend()}")
