import functools

import keras
import numpy as np
import pytest

from keras_layerwise.backend import tensorflow_kernels
from keras_layerwise.optimizer.layerwise import LayerwiseOptimizer
from keras_layerwise.optimizer.rules import Rule
from tests.shared import models

optimizers = keras.optimizers

FUSED = {
    "sgd": lambda **k: optimizers.SGD(0.01, **k),
    "momentum": lambda **k: optimizers.SGD(0.01, momentum=0.9, **k),
    "nesterov": lambda **k: optimizers.SGD(0.01, momentum=0.9, nesterov=True, **k),
    "adam": lambda **k: optimizers.Adam(1e-3, **k),
    "adam_other_betas": lambda **k: optimizers.Adam(
        1e-3, beta_1=0.0, beta_2=0.9999, epsilon=1e-4, **k
    ),
    "adamw": lambda **k: optimizers.AdamW(1e-3, **{"weight_decay": 0.1, **k}),
    "rmsprop": lambda **k: optimizers.RMSprop(1e-3, **k),
    "rmsprop_momentum": lambda **k: optimizers.RMSprop(1e-3, rho=0.99, momentum=0.5, **k),
    "adagrad": lambda **k: optimizers.Adagrad(0.01, **k),
}
OPTIONS = {
    "decay": {"weight_decay": 0.05},
    "ema": {"use_ema": True, "ema_overwrite_frequency": 7},
    "accumulation": {"gradient_accumulation_steps": 3},
    "clipnorm": {"clipnorm": 0.1},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.01},
    "loss_scale": {"loss_scale_factor": 8.0},
    "schedule": {},
}


class Subclass(optimizers.Adam):
    def update_step(self, gradient, variable, learning_rate):
        super().update_step(-gradient, variable, learning_rate)


def gradients(steps, weights):
    """Of sizes from 1e-4 to 1, so that epsilon and the second moments matter."""
    rng = np.random.default_rng(1)
    return [
        [rng.normal(size=w.shape) * 10 ** rng.uniform(-4, 0, size=w.shape) for w in weights]
        for _ in range(steps)
    ]


def weights(dtype="float32"):
    rng = np.random.default_rng(0)
    return [
        # Large enough for what Adam's own kernel is too slow for.
        keras.Variable(rng.normal(size=(24, 24)) * 0.1, dtype=dtype, name="kernel"),
        keras.Variable(rng.normal(size=(7,)) * 0.1, dtype=dtype, name="bias"),
    ]


def train(optimizer, steps=100, dtype="float32", mode="graph"):
    """The weights after `steps` given gradients, and the kinds of operation in the graph."""
    import tensorflow as tf

    variables = weights(dtype)
    optimizer.build(variables)
    kinds = set()

    def step(grads):
        optimizer.apply(grads, variables)
        if not tf.executing_eagerly():
            kinds.update(op.type for op in tf.compat.v1.get_default_graph().get_operations())

    run = step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")
    for grads in gradients(steps, variables):
        run([tf.constant(g, dtype) for g in grads])
    return [v.numpy() for v in variables], kinds


@functools.cache
def bare(name, steps=100, dtype="float32", mode="graph"):
    return train(FUSED[name](), steps, dtype, mode)[0]


def assert_equal_to_rounding(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert np.linalg.norm(a - e) <= 1e-6 * np.linalg.norm(e)


def assert_identical(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("mode", ["graph", "xla", "eager"])
@pytest.mark.parametrize("name", FUSED)
def test_equals_the_bare_optimizer_to_1e_6(name, mode):
    steps = 30 if mode == "eager" else 100
    actual, kinds = train(LayerwiseOptimizer(FUSED[name](), {}), steps, mode=mode)
    assert_equal_to_rounding(actual, bare(name, steps, mode=mode))
    assert mode == "eager" or any(kind.startswith("ResourceApply") for kind in kinds)


@pytest.mark.tensorflow_only
def test_the_size_of_a_weight_says_which_kernels_update_it():
    _, kinds = train(LayerwiseOptimizer(FUSED["adam"](), {}), steps=1)
    assert {"ResourceApplyAdam", "ResourceApplyGradientDescent"} <= kinds


@pytest.mark.tensorflow_only
def test_weights_that_the_kernel_for_momentum_is_too_slow_for_are_left_to_keras(monkeypatch):
    _, kinds = train(LayerwiseOptimizer(FUSED["momentum"](), {}), steps=1)
    assert "AssignAddVariableOp" not in kinds
    monkeypatch.setattr(tensorflow_kernels, "_LEFT_TO_KERAS", range(60, 600))
    actual, kinds = train(LayerwiseOptimizer(FUSED["momentum"](), {}))
    assert_equal_to_rounding(actual, bare("momentum"))
    assert {"ResourceApplyKerasMomentum", "AssignAddVariableOp"} <= kinds


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize(
    ("name", "own"),
    [("rmsprop_momentum", "ResourceApplyRMSProp"), ("adagrad", "ResourceApplyAdagradV2")],
)
def test_two_kernels_for_weights_between_are_the_bare_optimizer_to_1e_6(
    name, own, mode, monkeypatch
):
    monkeypatch.setattr(tensorflow_kernels, "_IN_TWO", range(60, 600))
    actual, kinds = train(LayerwiseOptimizer(FUSED[name](), {}), mode=mode)
    assert_equal_to_rounding(actual, bare(name, mode=mode))
    assert {own, "ResourceApplyGradientDescent"} <= kinds


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
def test_equals_the_bare_optimizer_with_every_option(name, option):
    def make():
        optimizer = FUSED[name](**OPTIONS[option])
        if option == "schedule":
            optimizer.learning_rate = optimizers.schedules.ExponentialDecay(1e-3, 10, 0.5)
        return optimizer

    expected, _ = train(make(), steps=50)
    actual, kinds = train(LayerwiseOptimizer(make(), {}), steps=50)
    assert_equal_to_rounding(actual, expected)
    nested = option == "accumulation"  # the update is in a graph of its own, a branch
    assert nested or any(kind.startswith("ResourceApply") for kind in kinds)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("name", FUSED)
def test_float64_where_the_kernel_is_that_precise(name):
    actual, _ = train(LayerwiseOptimizer(FUSED[name](), {}), dtype="float64")
    assert_equal_to_rounding(actual, bare(name, dtype="float64"))


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("name", FUSED)
def test_rules_hold(name):
    rules = {"kernel": 0.1, "bias": Rule(learning_rate=0.02, weight_decay=0.3)}
    options = {"weight_decay": 0.1}
    expected, _ = train(LayerwiseOptimizer(FUSED[name](**options), rules, fused=False))
    actual, _ = train(LayerwiseOptimizer(FUSED[name](**options), rules))
    assert_equal_to_rounding(actual, expected)


@pytest.mark.tensorflow_only
def test_unfrozen_late_counts_from_its_own_step():
    import tensorflow as tf

    def run(**options):
        variables = weights()
        optimizer = LayerwiseOptimizer(
            optimizers.Adam(1e-3), {"bias": Rule(frozen=True)}, **options
        )
        optimizer.build(variables)
        for i, grads in enumerate(gradients(40, variables)):
            if i == 10:
                optimizer.unfreeze("bias")
            optimizer.apply([tf.constant(g, "float32") for g in grads], variables)
        return [v.numpy() for v in variables]

    assert_equal_to_rounding(run(), run(fused=False))


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("name", FUSED)
def test_off_it_is_bit_identical(name):
    actual, kinds = train(LayerwiseOptimizer(FUSED[name](), {}, fused=False))
    assert_identical(actual, bare(name))
    assert not any(kind.startswith("ResourceApply") for kind in kinds)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (lambda: optimizers.Adam(1e-3, amsgrad=True), "float32"),
        (lambda: optimizers.RMSprop(1e-3, centered=True), "float32"),
        (lambda: optimizers.Adagrad(1e-2, epsilon=1e-3), "float32"),
        (lambda: optimizers.Adagrad(1e-2, initial_accumulator_value=0.0), "float32"),
        (lambda: Subclass(1e-3), "float32"),
        (lambda: optimizers.Nadam(1e-3), "float32"),
        (lambda: optimizers.Adam(1e-3), "float16"),
        (lambda: optimizers.Adam(1e-3), "bfloat16"),
        (lambda: optimizers.Adagrad(1e-2), "float64"),
    ],
    ids=[
        "amsgrad",
        "centered",
        "large epsilon",
        "empty accumulator",
        "subclass",
        "other class",
        "float16",
        "bfloat16",
        "adagrad float64",
    ],
)
def test_what_no_kernel_computes_takes_the_plain_way(make, dtype):
    expected, _ = train(make(), steps=20, dtype=dtype)
    actual, kinds = train(LayerwiseOptimizer(make(), {}), steps=20, dtype=dtype)
    assert_identical(actual, expected)
    assert not any(kind.startswith("ResourceApply") for kind in kinds)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("name", ["momentum", "adam", "rmsprop", "adagrad"])
def test_sparse_gradients_take_the_plain_way(name):
    def fit(wrapped):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((3,), dtype="int32"), keras.layers.Embedding(20, 4, name="table")]
        )
        if wrapped:
            model.compile(LayerwiseOptimizer(FUSED[name](), {}), "mse", jit_compile=False)
        else:
            models.compile_bare(model, FUSED[name](), jit_compile=False)
        x = np.arange(24).reshape(8, 3) % 17
        model.fit(x, np.ones((8, 3, 4)), batch_size=4, epochs=5, verbose=0)
        return model.get_weights()

    assert_identical(fit(wrapped=True), fit(wrapped=False))


@pytest.mark.tensorflow_only
def test_inside_keras_loss_scaling():
    def run(wrap):
        import tensorflow as tf

        variables = weights()
        optimizer = optimizers.LossScaleOptimizer(wrap(optimizers.Adam(1e-3)))
        optimizer.build(variables)
        apply = tf.function(lambda grads: optimizer.apply(grads, variables))
        for i, grads in enumerate(gradients(30, variables)):
            bad = np.inf if i == 7 else 1.0  # such a step is left out
            apply([tf.constant(g * bad, "float32") for g in grads])
        return [v.numpy() for v in variables]

    assert_equal_to_rounding(run(lambda o: LayerwiseOptimizer(o, {})), run(lambda o: o))


@pytest.mark.tensorflow_only
def test_autograph_does_not_rewrite_it(monkeypatch):
    import tensorflow as tf

    variables = weights()
    optimizer = LayerwiseOptimizer(optimizers.Adam(1e-3), {})
    optimizer.build(variables)
    seen = []
    update = optimizer.inner_optimizer.apply

    def apply(*args):
        seen.append(tf.__internal__.autograph.control_status_ctx().status.name)
        update(*args)

    monkeypatch.setattr(optimizer.inner_optimizer, "apply", apply)
    tf.function(lambda: optimizer.apply([tf.ones(v.shape) for v in variables], variables))()
    assert seen == ["DISABLED"]


def test_the_configuration_keeps_it():
    for value in (True, False):
        optimizer = LayerwiseOptimizer(optimizers.Adam(), {}, fused=value)
        assert LayerwiseOptimizer.from_config(optimizer.get_config()).fused is value
