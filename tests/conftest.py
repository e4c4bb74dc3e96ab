"""What every test starts from: one backend, one seed, no state of the test before."""

import functools
import gc
import os
import tempfile

import hypothesis
import pytest

from tests.shared.scripts import started

# Keras is imported where it is used: the process that hands out the tests need not wait for it.
BACKEND = os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# PyTorch starts a thread for each core, and waits for them in a loop that takes all it gets. The
# run's processes share the cores, so that two thirds of their time went there.
if BACKEND == "torch":
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each test has a new model, and most have the same step: the first of the run's processes
# compiles it for JAX, and all that it starts find it here. One that reads what another has
# half written warns, and compiles it itself.
if BACKEND == "jax" and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory()
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": _compiled.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

# A time limit per example would fail by the machine's load, and a random
# choice of examples by chance.
hypothesis.settings.register_profile("deterministic", deadline=None, derandomize=True)
hypothesis.settings.load_profile("deterministic")

# What takes longest goes first: begun at the end, it would leave the other processes idle.
LONG = [
    "hyperparameters/test_override_walk.py",
    "tab/test_tab_network.py",
    "tab/test_tab_browser.py",
    "optimizer/test_layerwise.py",
    "test_examples.py",
    "optimizer/test_distribution_tf.py",
    "optimizer/test_saving.py",
    "callbacks/test_faults.py",
    "optimizer/test_distribution_jax.py",
    "optimizer/test_keras_own.py",
    "callbacks/test_freeze.py",
    "backend/test_tensorflow_kernels.py",
    "callbacks/test_weight_drift.py",
    "test_properties.py",
    "optimizer/test_frozen.py",
    "callbacks/test_freeze_tensorboard.py",
    "test_demo.py",
    "callbacks/test_runs.py",
]


def pytest_collection_modifyitems(config, items):
    if BACKEND != "tensorflow":
        items[:] = [item for item in items if not item.get_closest_marker("once")]
    order = {config.rootpath / "tests" / name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


# What the imports make stays to the end, and a test makes more objects than the collector waits
# for: it looked through all of them again and again, a tenth of the time.
gc.disable()


def pytest_collection_finish():
    if BACKEND == "jax":
        from tests.shared.draws import draw_with_numpy

        draw_with_numpy()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def scripts():
    """Runs scripts in processes of their own, without the time that importing Keras takes."""
    with started() as found:
        yield found


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Names, policies and random numbers do not depend on the tests that ran before."""
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Counts the cases for which a property held."""
    if not hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
        return (yield)
    check = item.obj.hypothesis.inner_test
    held = 0

    @functools.wraps(check)
    def counted(*args, **kwargs):
        nonlocal held
        __tracebackhide__ = True
        check(*args, **kwargs)
        held += 1

    item.obj.hypothesis.inner_test = counted
    try:
        return (yield)
    finally:
        item.obj.hypothesis.inner_test = check
        item.user_properties.append(("cases", held))


def pytest_terminal_summary(terminalreporter):
    cases = sum(
        count
        for report in terminalreporter.getreports("passed")
        for key, count in report.user_properties
        if key == "cases"
    )
    if cases:
        terminalreporter.write_line(f"properties held in {cases:,} cases")


def pytest_runtest_setup(item):
    if BACKEND != "tensorflow" and item.get_closest_marker("tensorflow_only"):
        pytest.skip(f"asks for what only TensorFlow has; this is {BACKEND}")
