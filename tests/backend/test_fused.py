import keras
import numpy as np
import pytest

from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer
from keras_layerwise.optimizer.rules import Rule
from keras_layerwise.optimizer.updates import fused_update

optimizers = keras.optimizers
BACKEND = keras.backend.backend()


class Subclass(optimizers.Adam):
    pass


@pytest.mark.parametrize(
    ("kind", "backends"),
    [
        (optimizers.Adam, {"tensorflow", "jax"}),
        (optimizers.AdamW, {"tensorflow", "jax"}),
        (optimizers.SGD, {"tensorflow"}),
        (optimizers.Nadam, set()),
        (Subclass, set()),
    ],
)
def test_which_optimizer_has_an_update_of_its_own(kind, backends):
    assert (fused_update(kind()) is not None) == (BACKEND in backends)


def train(optimizer, dtype="float32", steps=100, unfreeze=None):
    rng = np.random.default_rng(0)
    weights = [
        keras.Variable(rng.normal(size=shape) * 0.1, dtype=dtype, name=name)
        for shape, name in (((9, 7), "kernel"), ((7,), "bias"))
    ]
    optimizer.build(weights)
    for step in range(steps):
        if step == unfreeze:
            optimizer.unfreeze("bias")
        optimizer.apply(
            [
                keras.ops.cast(rng.normal(size=w.shape) * 10 ** rng.uniform(-4, 0), dtype)
                for w in weights
            ],
            weights,
        )
    return [keras.ops.convert_to_numpy(keras.ops.cast(w, "float32")) for w in weights]


ADAMS = {
    "adam": lambda: optimizers.Adam(1e-3),
    "other betas": lambda: optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.9999, epsilon=1e-4),
    "adamw": lambda: optimizers.AdamW(1e-3, weight_decay=0.1),
    "averaged": lambda: optimizers.Adam(1e-3, use_ema=True, ema_overwrite_frequency=7),
    "accumulated": lambda: optimizers.Adam(1e-3, gradient_accumulation_steps=3),
}


@pytest.mark.skipif(BACKEND != "jax", reason="test_tensorflow_kernels.py has TensorFlow's")
class TestOnJax:
    @pytest.mark.parametrize("name", ADAMS)
    def test_equals_the_bare_optimizer_to_1e_6(self, name):
        # Outside of a compiled step, JAX traces each time whether to accumulate or to update.
        steps = 21 if name == "accumulated" else 100
        found = train(LayerwiseOptimizer(ADAMS[name](), {}), steps=steps)
        for actual, expected in zip(found, train(ADAMS[name](), steps=steps), strict=True):
            assert np.linalg.norm(actual - expected) <= 1e-6 * np.linalg.norm(expected)

    def test_rules_hold_and_a_late_weight_counts_its_own_steps(self):
        def run(**options):
            rules = {"kernel": 0.1, "bias": Rule(learning_rate=0.02, frozen=True)}
            wrapped = LayerwiseOptimizer(ADAMS["adamw"](), rules, **options)
            return train(wrapped, steps=40, unfreeze=10)

        for actual, expected in zip(run(), run(fused=False), strict=True):
            assert np.linalg.norm(actual - expected) <= 1e-6 * np.linalg.norm(expected)

    def test_half_precision_is_left_to_keras(self):
        for actual, expected in zip(
            train(LayerwiseOptimizer(ADAMS["adam"](), {}), "bfloat16", 20),
            train(ADAMS["adam"](), "bfloat16", 20),
            strict=True,
        ):
            np.testing.assert_array_equal(actual, expected)
