"""Keras's own optimizer tests, with every optimizer that they make wrapped, without rules.

``python tests/shared/keras_own.py REPORT FILE...`` runs those test files and writes what
came of each test to REPORT. It is a process of its own because it changes how
optimizers are made: the tests import them in too many ways for anything less.
"""

import collections
import contextlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from unittest import mock

import keras
import pytest

import keras_layerwise as kl

if keras.backend.backend() == "jax":
    import jax

# Tests that cannot hold for a wrapped optimizer, each with its reason. One that
# passes all the same counts as a failure: its line has to go.
EXCLUSIONS = {
    "multi_optimizer_test.py::MultiOptimizerTest::test_serialization": (
        "asks for the class names of the optimizers, and LayerwiseOptimizer is another class"
    ),
    "optimizer_test.py::OptimizerTest::test_get_method": (
        "asks for the class of what optimizers.get returns, and LayerwiseOptimizer is another"
    ),
    "sgd_test.py::SGDTest::test_single_step": (
        "counts two variables, and LayerwiseOptimizer adds one: the vector of multipliers"
    ),
}
if importlib.util.find_spec("tensorflow") is None:
    EXCLUSIONS[
        "multi_optimizer_test.py::MultiOptimizerTest::test_tensorboard_logging_with_multi_optimizer"
    ] = "Keras's TensorBoard callback writes with TensorFlow, which is not installed"

# What goes around optimizers itself is not wrapped; what it goes around is.
UNWRAPPED = (
    kl.LayerwiseOptimizer,
    keras.optimizers.LossScaleOptimizer,
    getattr(keras.optimizers, "MultiOptimizer", kl.LayerwiseOptimizer),
)


class Wrapping:
    """A pytest plugin: wraps optimizers as they are made, and notes what came of each test."""

    def __init__(self):
        self.outcomes = {}
        self.wrapped = collections.Counter()
        self._test = "collection"
        self._is_inner = False

    def pytest_configure(self, config):
        config.addinivalue_line("markers", "requires_trainable_backend: Keras's, met here")
        base = keras.optimizers.Optimizer
        plain_new = base.__new__

        def new(cls, *args, **kwargs):
            if self._is_inner or cls is base or issubclass(cls, UNWRAPPED):
                return plain_new(cls)
            with self._as_inner():
                inner = cls(*args, **kwargs)
            self.wrapped[self._test] += 1
            # Not an instance of cls, so Python does not call __init__ with these arguments.
            return kl.LayerwiseOptimizer(inner, {}, name=inner.name)

        base.__new__ = new
        from_config = kl.LayerwiseOptimizer.from_config.__func__

        def from_config_of_inner(cls, *args, **kwargs):
            with self._as_inner():
                return from_config(cls, *args, **kwargs)

        kl.LayerwiseOptimizer.from_config = classmethod(from_config_of_inner)
        patch_object = mock.patch.object

        def patch_inner(target, name, *args, **kwargs):
            """Where a test patches methods of its optimizer, patches the one that updates."""
            if isinstance(target, kl.LayerwiseOptimizer):
                target = target.inner_optimizer
                if name == "_apply_weight_decay":  # LayerwiseOptimizer calls the class's
                    target = type(target)
            return patch_object(target, name, *args, **kwargs)

        mock.patch.object = patch_inner
        if keras.backend.backend() == "jax":
            branch_at_once()

    @contextlib.contextmanager
    def _as_inner(self):
        before, self._is_inner = self._is_inner, True
        try:
            yield
        finally:
            self._is_inner = before

    def pytest_collection_modifyitems(self, items):
        for item in items:
            if reason := EXCLUSIONS.get(name_of(item.nodeid)):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    def pytest_runtest_setup(self, item):
        self._test = name_of(item.nodeid)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[name_of(report.nodeid)] = {
                "outcome": "excluded" if hasattr(report, "wasxfail") else report.outcome,
                "text": report.longreprtext,
            }


def branch_at_once(put=setattr):
    """Lets ``jax.lax.cond`` trace no branches where the condition is known, outside of a step.

    Each of a thousand calls traced both: it took half of the time of these tests. That an
    update may be traced as a branch, our own tests of accumulation hold.
    """
    plain = jax.lax.cond

    def cond(pred, true_fun, false_fun):
        if isinstance(pred, jax.core.Tracer):
            return plain(pred, true_fun=true_fun, false_fun=false_fun)
        return (true_fun if pred else false_fun)()

    put(jax.lax, "cond", cond)


def name_of(nodeid):
    """``adam_test.py::AdamTest::test_ema``, wherever Keras is installed."""
    return nodeid.rpartition("/")[2]


def main(report, *files):
    plugin = Wrapping()
    status = pytest.main(
        [
            "-c",
            os.devnull,
            "-p",
            "no:cacheprovider",
            "--assert=plain",
            "-q",
            "-W",
            "ignore",
            *files,
        ],
        [plugin],
    )
    for name, result in plugin.outcomes.items():
        result["wrapped"] = plugin.wrapped[name]
    Path(report).write_text(json.dumps(plugin.outcomes))
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
