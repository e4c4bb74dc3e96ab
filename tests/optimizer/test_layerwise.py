"""The definitions of the design, each against known numbers or the bare optimizer."""

import functools

import keras
import numpy as np
import pytest

from keras_layerwise import LayerwiseOptimizer, Rule
from tests.shared import keras_own, models
from tests.shared.models import (
    assert_same_weights,
    compile_bare,
    fit,
    numpy,
    tensor,
    variable,
    weights_of,
)

optimizers = keras.optimizers

OPTIMIZERS = {
    "SGD": lambda rate, **kw: optimizers.SGD(rate, **kw),
    "SGD momentum": lambda rate, **kw: optimizers.SGD(rate, momentum=0.9, **kw),
    "SGD nesterov": lambda rate, **kw: optimizers.SGD(rate, momentum=0.9, nesterov=True, **kw),
    "RMSprop": lambda rate, **kw: optimizers.RMSprop(rate, **kw),
    "RMSprop centered momentum": lambda rate, **kw: optimizers.RMSprop(
        rate, momentum=0.9, centered=True, **kw
    ),
    "Adam": lambda rate, **kw: optimizers.Adam(rate, **kw),
    "Adam amsgrad": lambda rate, **kw: optimizers.Adam(rate, amsgrad=True, **kw),
    "AdamW": lambda rate, **kw: optimizers.AdamW(rate, **{"weight_decay": 0.05, **kw}),
    "Adadelta": lambda rate, **kw: optimizers.Adadelta(rate, **kw),
    "Adagrad": lambda rate, **kw: optimizers.Adagrad(rate, **kw),
    "Adamax": lambda rate, **kw: optimizers.Adamax(rate, **kw),
    "Adafactor": lambda rate, **kw: optimizers.Adafactor(rate, **kw),
    "Nadam": lambda rate, **kw: optimizers.Nadam(rate, **kw),
    "Ftrl": lambda rate, **kw: optimizers.Ftrl(rate, **kw),
    "Lion": lambda rate, **kw: optimizers.Lion(rate, **kw),
}
LATER = {"Lamb", "Muon", "ScheduleFreeAdamW"}
# Keras 3.10's Muon asks TensorFlow's variables for a path and fails, bare as wrapped.
BROKEN = {"Muon"} if keras.__version__.startswith("3.10.") else set()
OPTIMIZERS.update(
    {
        name: (lambda cls: lambda rate, **kw: cls(rate, **kw))(getattr(optimizers, name))
        for name in sorted(LATER - BROKEN)
        if hasattr(optimizers, name)
    }
)
TESTED = {type(make(0.1)) for make in OPTIMIZERS.values()}

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def exact(optimizer, rules, **kwargs):
    """Without the fused kernels, where bits are compared."""
    return LayerwiseOptimizer(optimizer, rules, fused=False, **kwargs)


def steps(optimizer, starts, gradients):
    """Applies `gradients` (steps × weights) to weights that begin at `starts`, as `fit` does."""
    weights = [variable(start, name=f"w{i}") for i, start in enumerate(starts)]
    optimizer.build(weights)
    for row in gradients:
        optimizer.apply([tensor(g) for g in row], weights)
    optimizer.finalize_variable_values(weights)
    return [numpy(weight) for weight in weights]


STARTS = [np.linspace(-1, 1, 6).reshape(2, 3), np.array([0.5, -0.3, 0.8])]
RNG = np.random.default_rng(0)
GRADIENTS = [[RNG.normal(size=start.shape) for start in STARTS] for _ in range(8)]


@functools.cache
def bare_steps(make, rate):
    return steps(make(rate), STARTS, GRADIENTS)


def test_no_optimizer_of_keras_is_missing():
    wrappers = {"LossScaleOptimizer", "MultiOptimizer", "Optimizer"}
    known = {cls.__mro__[i].__name__ for cls in TESTED for i in (0, 1)}
    found = {
        name
        for name, value in vars(optimizers).items()
        if isinstance(value, type) and issubclass(value, optimizers.Optimizer)
    }
    assert found - wrappers - BROKEN <= known


@every_optimizer
def test_no_rules_is_the_bare_optimizer_bit_for_bit(make):
    wrapped = steps(exact(make(0.01), {}), STARTS, GRADIENTS)
    for expected, found in zip(bare_steps(make, 0.01), wrapped, strict=True):
        np.testing.assert_array_equal(found, expected)


@every_optimizer
def test_no_rules_is_the_bare_optimizer_in_fit(make):
    bare, wrapped = models.one_layer(), models.one_layer()
    # Built in fit's first trace, ScheduleFreeAdamW loses the weights that it is to begin with.
    compile_bare(bare, make(0.01))
    wrapped.compile(exact(make(0.01), {}), loss="mse")
    fit(bare)
    fit(wrapped)
    assert_same_weights(bare, wrapped)


@every_optimizer
@pytest.mark.parametrize("multiplier", [0.1, 3.0])
def test_a_multiplier_is_the_bare_optimizer_at_that_rate(make, multiplier):
    wrapped = steps(exact(make(0.01), {"*": multiplier}), STARTS, GRADIENTS)
    for expected, found in zip(bare_steps(make, 0.01 * multiplier), wrapped, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


@every_optimizer
def test_groups_do_not_touch_one_another(make):
    """Each weight as if alone under the bare optimizer at its rate."""
    wrapped = steps(exact(make(0.01), {"w0": 0.1, "w1": 3.0}), STARTS, GRADIENTS)
    for i, multiplier in enumerate((0.1, 3.0)):
        alone = bare_steps(make, 0.01 * multiplier)[i]
        np.testing.assert_allclose(wrapped[i], alone, rtol=2e-5, atol=1e-7)


@every_optimizer
def test_an_own_rate_is_the_bare_optimizer_at_that_rate(make):
    optimizer = exact(make(0.5), {"*": Rule(learning_rate=0.01)})
    wrapped = steps(optimizer, STARTS, GRADIENTS)
    for expected, found in zip(bare_steps(make, 0.01), wrapped, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("gradient", [1.0, 0.1])
def test_a_multiplier_is_not_a_scaled_gradient(gradient):
    """Adam's first step has the length of its rate, whatever the gradient."""
    (found,) = steps(LayerwiseOptimizer(optimizers.Adam(1e-3), {"*": 0.1}), [[1.0]], [[[gradient]]])
    assert found[0] == pytest.approx(1 - 1e-4, abs=1e-7)


def test_decay_uses_the_weights_own_rate():
    optimizer = LayerwiseOptimizer(optimizers.SGD(0.1, weight_decay=0.5), {"*": 0.1})
    (found,) = steps(optimizer, [[1.0]], [[[0.0]]])
    assert found[0] == pytest.approx(0.995, abs=1e-7)


def test_decay_of_a_rule():
    optimizer = LayerwiseOptimizer(
        optimizers.SGD(0.1, weight_decay=0.5),
        {
            "w0": Rule(weight_decay=0.0),
            "w1": Rule(multiplier=0.1, weight_decay=0.2),
            "w2": Rule(learning_rate=0.3),
        },
    )
    found = steps(optimizer, [[1.0]] * 4, [[[0.0]] * 4])
    assert [w[0] for w in found] == pytest.approx([1.0, 1 - 0.01 * 0.2, 1 - 0.3 * 0.5, 0.95])


def test_decay_of_a_rule_where_the_inner_optimizer_has_none():
    optimizer = LayerwiseOptimizer(optimizers.SGD(0.1), {"w0": Rule(weight_decay=0.5)})
    found = steps(optimizer, [[1.0], [1.0]], [[[0.0], [0.0]]])
    assert [w[0] for w in found] == pytest.approx([0.95, 1.0])


def test_what_the_inner_optimizer_excludes_stays_excluded():
    inner = optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer = LayerwiseOptimizer(inner, {"*": 0.5})
    optimizer.exclude_from_weight_decay(var_names=["w0"])
    found = steps(optimizer, [[1.0], [1.0]], [[[0.0], [0.0]]])
    assert [w[0] for w in found] == pytest.approx([1.0, 0.975])
    assert [a.weight_decay for a in optimizer.assignments] == [None, 0.5]


@every_optimizer
def test_a_frozen_weight_is_left_out(make):
    optimizer = exact(make(0.01, weight_decay=0.1), {"w0": Rule(frozen=True)})
    frozen, trained = steps(optimizer, STARTS, GRADIENTS)
    np.testing.assert_array_equal(frozen, STARTS[0].astype("float32"))
    alone = steps(make(0.01, weight_decay=0.1), STARTS[1:], [[row[1]] for row in GRADIENTS])
    np.testing.assert_array_equal(trained, alone[0])
    assert not [v for v in optimizer.variables if "w0" in v.name]


def test_frozen_under_ftrl_is_no_rate_of_zero():
    """The same weight at rate 0 is NaN after one step."""
    model = models.sequential()
    body = numpy(model.get_layer("body").kernel)
    model.compile(LayerwiseOptimizer(optimizers.Ftrl(0.1), {"body": Rule(frozen=True)}), loss="mse")
    fit(model, epochs=5, batch_size=2)  # 120 steps
    np.testing.assert_array_equal(numpy(model.get_layer("body").kernel), body)
    assert all(np.isfinite(w).all() for w in weights_of(model))
    assert len(model.trainable_weights) == 6
    assert not [v for v in model.optimizer.variables if "body" in v.path]


def test_frozen_has_no_average():
    model = models.sequential()
    before = numpy(model.get_layer("body").kernel)
    inner = optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)
    model.compile(LayerwiseOptimizer(inner, {"body": Rule(frozen=True)}), loss="mse")
    fit(model)
    np.testing.assert_array_equal(numpy(model.get_layer("body").kernel), before)
    assert len(inner._model_variables_moving_average) == 4


def test_freezing_by_rule_equals_freezing_by_layer():
    by_rule, by_layer = models.sequential(), models.sequential()
    by_layer.get_layer("body").trainable = False
    settings = {"weight_decay": 0.1, "global_clipnorm": 0.1, "use_ema": True}
    by_rule.compile(
        exact(optimizers.AdamW(0.01, **settings), {"body": Rule(frozen=True)}), loss="mse"
    )
    compile_bare(by_layer, optimizers.AdamW(0.01, **settings))
    fit(by_rule)
    fit(by_layer)
    assert_same_weights(by_layer, by_rule)


def test_everything_frozen_only_counts():
    optimizer = LayerwiseOptimizer("adam", {"*": Rule(frozen=True)})
    (found,) = steps(optimizer, [[1.0]], [[[1.0]], [[1.0]]])
    assert found[0] == 1.0
    assert int(numpy(optimizer.iterations)) == 2


def test_the_global_norm_is_over_all_groups():
    optimizer = LayerwiseOptimizer(
        optimizers.SGD(1.0, global_clipnorm=1.0), {"w0": 1.0, "w1": Rule()}
    )
    found = steps(optimizer, [[0.0], [0.0]], [[[3.0], [4.0]]])
    assert [w[0] for w in found] == pytest.approx([-0.6, -0.8])


def test_the_global_norm_is_taken_before_multipliers():
    optimizer = LayerwiseOptimizer(optimizers.SGD(1.0, global_clipnorm=1.0), {"w0": 0.1, "w1": 2.0})
    found = steps(optimizer, [[0.0], [0.0]], [[[3.0], [4.0]]])
    assert [w[0] for w in found] == pytest.approx([-0.06, -1.6])


@pytest.mark.parametrize("name", sorted({"Nadam", "ScheduleFreeAdamW", "Adam"} & set(OPTIMIZERS)))
def test_the_inner_optimizer_advances_once_a_step(name):
    make = OPTIMIZERS[name]
    wrapped = exact(make(0.01), {"w0": 0.1, "w1": 2.0})
    bare = make(0.01)
    steps(wrapped, STARTS, GRADIENTS)
    steps(bare, STARTS, GRADIENTS)
    assert int(numpy(wrapped.iterations)) == len(GRADIENTS)
    if name == "Nadam":
        assert float(wrapped.inner_optimizer._u_product.numpy()) == pytest.approx(
            float(bare._u_product.numpy())
        )


def test_one_vector_is_all_that_is_added():
    bare, wrapped = optimizers.Adam(), LayerwiseOptimizer("adam", {"w0": 0.1, "w1": 0.2})
    steps(bare, STARTS, GRADIENTS[:1])
    steps(wrapped, STARTS, GRADIENTS[:1])
    assert len(wrapped.variables) == len(bare.variables) + 1


BARE_FEATURES = {
    "accumulation": {"gradient_accumulation_steps": 3},
    "average": {"use_ema": True, "ema_momentum": 0.9},
    "average overwritten": {"use_ema": True, "ema_overwrite_frequency": 4},
    "loss scale": {"loss_scale_factor": 8.0},
    "clipnorm": {"clipnorm": 0.2},
    "clipvalue": {"clipvalue": 0.1},
    "decay": {"weight_decay": 0.1},
    "accumulation, average, decay, clip": {
        "gradient_accumulation_steps": 2,
        "use_ema": True,
        "weight_decay": 0.1,
        "global_clipnorm": 0.5,
    },
}


@pytest.fixture
def branching(monkeypatch):
    """Steps that are not compiled accumulate or update at once; compiled, JAX traces both."""
    if keras.backend.backend() == "jax":
        keras_own.branch_at_once(monkeypatch.setattr)


@pytest.mark.usefixtures("branching")
@pytest.mark.parametrize("settings", BARE_FEATURES.values(), ids=BARE_FEATURES.keys())
@pytest.mark.parametrize("name", ["SGD momentum", "Adam", "Nadam"])
def test_the_inner_optimizers_features_are_its_own(name, settings):
    make = OPTIMIZERS[name]
    bare = steps(make(0.01, **settings), STARTS, GRADIENTS)
    wrapped = steps(exact(make(0.01, **settings), {}), STARTS, GRADIENTS)
    for expected, found in zip(bare, wrapped, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "names",
    [
        ["accumulation, average, decay, clip"],
        ["average overwritten", "loss scale", "clipnorm"],
        ["accumulation", "clipvalue"],
    ],
    ids=", ".join,
)
def test_the_inner_optimizers_features_are_its_own_in_fit(names):
    settings = {key: value for name in names for key, value in BARE_FEATURES[name].items()}
    bare, wrapped = models.one_layer(), models.one_layer()
    compile_bare(bare, optimizers.Adam(0.01, **settings))
    wrapped.compile(exact(optimizers.Adam(0.01, **settings), {}), loss="mse")
    fit(bare)
    fit(wrapped)
    assert_same_weights(bare, wrapped)


@pytest.mark.usefixtures("branching")
@pytest.mark.parametrize("settings", BARE_FEATURES.values(), ids=BARE_FEATURES.keys())
def test_the_features_hold_under_a_multiplier(settings):
    settings = {"weight_decay": 0.05, **settings}
    bare = steps(optimizers.AdamW(0.001, **settings), STARTS, GRADIENTS)
    rules = {"w0": 0.1, "w1": Rule(learning_rate=0.001)}
    wrapped = steps(exact(optimizers.AdamW(0.01, **settings), rules), STARTS, GRADIENTS)
    for expected, found in zip(bare, wrapped, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_that_is_none_is_skipped_as_in_the_bare_optimizer():
    weights = [variable([1.0], "w0"), variable([1.0], "w1")]
    optimizer = LayerwiseOptimizer(optimizers.SGD(0.1), {"w0": 0.5})
    with pytest.warns(UserWarning, match="w1"):
        optimizer.apply([tensor([1.0]), None], weights)
    assert [float(w.numpy()[0]) for w in weights] == pytest.approx([0.95, 1.0])


def test_no_gradient_at_all_is_the_bare_optimizers_error():
    optimizer = LayerwiseOptimizer(optimizers.SGD(0.1), {})
    with pytest.raises(ValueError, match="No gradients"):
        optimizer.apply([None], [variable([1.0])])


def test_constraints_are_applied():
    weight = variable([1.0])
    weight.constraint = keras.constraints.NonNeg()
    optimizer = LayerwiseOptimizer(optimizers.SGD(1.0), {"*": 0.5})
    optimizer.apply([tensor([10.0])], [weight])
    assert weight.numpy()[0] == 0.0


def test_overwrite_with_gradient():
    weight, other = variable([1.0], "w0"), variable([1.0], "w1")
    weight.overwrite_with_gradient = True
    optimizer = LayerwiseOptimizer(optimizers.SGD(1.0), {"w1": 0.5})
    optimizer.apply([tensor([7.0]), tensor([1.0])], [weight, other])
    assert [float(v.numpy()[0]) for v in (weight, other)] == [7.0, 0.5]


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Adagrad"])
def test_sparse_gradients_stay_sparse(name):
    import tensorflow as tf

    def train(optimizer):
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [keras.Input((2,), dtype="int32"), keras.layers.Embedding(9, 3, name="e")]
        )
        if not isinstance(optimizer, LayerwiseOptimizer):
            optimizer.build(model.trainable_variables)  # not while the step is traced
        seen = []
        plain = optimizer.apply

        def spy(gradients, weights=None):
            seen.extend(gradients)
            return plain(gradients, weights)

        object.__setattr__(optimizer, "apply", spy)
        model.compile(optimizer, loss="mse")
        model.fit(np.array([[1, 2], [2, 3]]), np.ones((2, 2, 3)), epochs=3, verbose=0)
        assert isinstance(seen[0], tf.IndexedSlices)
        return weights_of(model)

    make = OPTIMIZERS[name]
    slow = train(exact(make(0.01), {"e": 0.1}))
    for expected, found in zip(train(make(0.001)), slow, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
