"""Decay towards the initial weights against its formula in NumPy, and across files and phases."""

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from tests.shared import models
from tests.shared.models import (
    assert_same_weights,
    compile_bare,
    fit,
    numpy,
    tensor,
    variable,
    weights_of,
)

PULL = kl.Rule(weight_decay=0.5, decay_to="initial")


def test_the_published_answer():
    """w = 3, w₀ = 1, η = 0.1, λ = 0.5 and gradient 0 under SGD give 2.9."""
    w = variable([1.0])
    optimizer = kl.LayerwiseOptimizer(keras.optimizers.SGD(0.1), {"w": PULL})
    optimizer.build([w])
    w.assign([3.0])
    optimizer.apply([tensor([0.0])], [w])
    np.testing.assert_allclose(numpy(w), [2.9], rtol=1e-6)


def adam(gradients, w, w0, rate, decay):
    """Keras's Adam in NumPy, with decay towards w0 before the update."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        w = w - rate * decay * (w - w0)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        alpha = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        w = w - alpha * m / (np.sqrt(v) + 1e-7)
    return w


def sgd(gradients, w, w0, rate, decay):
    for g in gradients:
        w = w - rate * decay * (w - w0)
        w = w - rate * g
    return w


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (keras.optimizers.SGD, sgd),
        (keras.optimizers.Adam, adam),
        (lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.9), adam),
    ],
    ids=["SGD", "Adam", "AdamW"],
)
def test_a_hundred_steps_in_numpy(make, reference, fused):
    rng = np.random.default_rng(0)
    start = rng.normal(size=4)
    gradients = rng.normal(size=(100, 4))
    w = variable(start)
    optimizer = kl.LayerwiseOptimizer(
        make(0.01), {"w": kl.Rule(multiplier=0.5, weight_decay=0.3, decay_to="initial")},
        fused=fused,
    )  # fmt: skip
    for gradient in gradients:
        optimizer.apply([tensor(gradient)], [w])
    expected = reference(gradients, start, start, 0.005, 0.3)
    np.testing.assert_allclose(numpy(w), expected, rtol=2e-4, atol=2e-6)


def test_the_inner_optimizers_decay_is_taken_where_the_rule_names_none():
    w, v = variable([1.0]), variable([1.0], name="v")
    inner = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer = kl.LayerwiseOptimizer(inner, {"w": kl.Rule(decay_to="initial")})
    optimizer.build([w, v])
    w.assign([3.0])
    v.assign([3.0])
    optimizer.apply([tensor([0.0]), tensor([0.0])], [w, v])
    np.testing.assert_allclose(numpy(w), [2.9], rtol=1e-6)
    np.testing.assert_allclose(numpy(v), [2.85], rtol=1e-6)


@models.needs_muons_own_decay
def test_muon_pulls_each_weight_by_the_decay_that_it_has_for_it():
    matrix, vector = (
        variable(np.ones(shape), name=name) for shape, name in [((2, 2), "m"), (2, "v")]
    )
    inner = keras.optimizers.Muon(0.1, weight_decay=0.5, adam_weight_decay=1.0)
    rules = {"*": kl.Rule(decay_to="initial")}
    optimizer = kl.LayerwiseOptimizer(inner, rules)
    optimizer.build([matrix, vector])
    assert [a.weight_decay for a in optimizer.assignments] == [0.5, 1.0]
    for w in (matrix, vector):
        w.assign(numpy(w) + 2)
    optimizer.apply([tensor(np.zeros((2, 2))), tensor(np.zeros(2))], [matrix, vector])
    np.testing.assert_allclose(numpy(matrix), np.full((2, 2), 2.9), rtol=1e-6)
    np.testing.assert_allclose(numpy(vector), np.full(2, 2.8), rtol=1e-6)


def test_what_is_excluded_from_decay_is_not_pulled():
    w = variable([1.0])
    inner = keras.optimizers.SGD(0.1)
    inner.exclude_from_weight_decay(var_names=["w"])
    optimizer = kl.LayerwiseOptimizer(inner, {"w": PULL})
    optimizer.build([w])
    w.assign([3.0])
    optimizer.apply([tensor([0.0])], [w])
    np.testing.assert_array_equal(numpy(w), [3.0])
    shown = []
    optimizer.summary(shown.append)
    assert "to initial" not in shown[0]


def pulled(model=None, rules=None):
    model = model or models.sequential()
    rules = rules or {"body": kl.Rule(weight_decay=5.0, decay_to="initial")}
    model.compile(kl.LayerwiseOptimizer(keras.optimizers.Adam(0.02), rules), "mse")
    return model


def test_a_model_stays_closer_to_where_it_began():
    free = models.one_layer()
    free.compile(kl.LayerwiseOptimizer(keras.optimizers.Adam(0.02)), "mse")
    held = pulled(models.one_layer(), {"head": kl.Rule(weight_decay=5.0, decay_to="initial")})
    start = weights_of(held)[0]
    for model in (free, held):
        fit(model, epochs=3, batch_size=4)
    distances = [np.linalg.norm(weights_of(model)[0] - start) for model in (held, free)]
    assert distances[0] < 0.6 * distances[1]


@pytest.mark.parametrize("kind", ["keras", "weights"])
def test_a_file_holds_what_the_weights_began_with(kind, tmp_path):
    model = pulled()
    fit(model, epochs=3)
    path = tmp_path / ("m.keras" if kind == "keras" else "m.weights.h5")
    if kind == "keras":
        model.save(path)
        again = keras.models.load_model(path)
    else:
        model.save_weights(path)
        again = pulled()
        again.optimizer.build(again.trainable_variables)
        again.load_weights(path)
    for each in (model, again):
        fit(each, epochs=3)
    assert_same_weights(model, again, rtol=1e-6, atol=1e-7)


def test_weights_loaded_before_the_optimizer_is_built_are_what_it_pulls_towards(tmp_path):
    """Its warning says how to go on with what the file has instead."""
    path = tmp_path / "m.weights.h5"
    x, y = models.data()

    def made():
        model = models.one_layer()
        optimizer = kl.LayerwiseOptimizer(keras.optimizers.SGD(0.1), {"*": PULL}, model=model)
        model.compile(optimizer, "mse")
        return model

    def trained(model):
        model.fit(x, y, shuffle=False, verbose=0)
        return model.get_weights()

    model = made()
    trained(model)
    model.save_weights(path)
    expected = trained(model)
    again = made()
    with pytest.warns(UserWarning, match="before load_weights"):
        again.load_weights(path)
    assert all((a != e).any() for a, e in zip(trained(again), expected, strict=True))
    again = made()
    again.optimizer.build(again.trainable_variables)  # as the warning says
    again.load_weights(path)
    for a, e in zip(trained(again), expected, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("given", [False, True], ids=["alone", "given the model"])
def test_a_file_from_before_training_pulls_to_the_weights_in_it(given, tmp_path):
    model = models.one_layer()
    pretrained = [w + 1 for w in weights_of(model)]
    model.set_weights(pretrained)
    known = model if given else None
    model.compile(kl.LayerwiseOptimizer(keras.optimizers.SGD(0.1), {"*": PULL}, model=known), "mse")
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    fit(again, epochs=1)
    state = kl.optimizer_of(again).state
    for i, path in enumerate(a.path for a in again.optimizer.assignments):
        expected = next(
            w for w, v in zip(pretrained, again.weights, strict=True) if v.path.endswith(path)
        )
        np.testing.assert_array_equal(numpy(state.slots.initial(i)), expected)


@pytest.mark.tensorflow_only
def test_a_checkpoint_from_before_training_cannot_say_what_it_pulls_to(tmp_path):
    import tensorflow as tf

    model = pulled()
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "c"))
    again = pulled()
    again.optimizer.build(again.trainable_variables)
    with pytest.raises(kl.RuleError, match="before the optimizer was built"):
        tf.train.Checkpoint(model=again, optimizer=again.optimizer).restore(path)


def test_it_is_never_the_random_weights_of_the_model_that_loads(tmp_path):
    plain = models.sequential()
    compile_bare(plain, keras.optimizers.Adam(0.02))
    plain.save_weights(tmp_path / "plain.weights.h5")
    model = pulled()
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="decay_to"):
        model.load_weights(tmp_path / "plain.weights.h5")


def test_a_weight_that_joins_later_is_pulled_to_its_value_then():
    model = pulled(
        rules={
            "body": kl.Rule(weight_decay=5.0, decay_to="initial", frozen=True),
            "head": kl.Rule(weight_decay=5.0, decay_to="initial"),
        }
    )
    fit(model, epochs=1)
    kernel = model.get_layer("body").kernel
    kernel.assign(numpy(kernel) + 1.0)
    optimizer = kl.optimizer_of(model)
    optimizer.unfreeze("body")
    position = optimizer.plan.select("body/kernel")[0]
    np.testing.assert_array_equal(numpy(optimizer.state.slots.initial(position)), numpy(kernel))


def test_freezing_and_dropping_slots_keep_what_it_began_with():
    model = pulled()
    start = weights_of(model)[0]
    fit(model, epochs=2)
    optimizer = kl.optimizer_of(model)
    optimizer.freeze("body")
    optimizer.drop_slots("body")
    shown = []
    optimizer.summary(shown.append)
    assert "Idle slots" not in shown[0]
    optimizer.unfreeze("body")
    fit(model, epochs=1)
    position = optimizer.plan.select("body/kernel")[0]
    np.testing.assert_array_equal(numpy(optimizer.state.slots.initial(position)), start)


def test_weights_without_the_rule_have_no_copy():
    model = pulled()
    fit(model, epochs=1)
    names = [name for name in kl.optimizer_of(model).state.variables() if "initial" in name]
    assert len(names) == 2  # kernel and bias of the body


def test_summary_and_record_show_it(tmp_path):
    model = pulled()
    fit(model, epochs=1, callbacks=[kl.FreezeHyperparameters(tmp_path / "run")])
    shown = []
    kl.optimizer_of(model).summary(shown.append)
    assert "5 to initial" in shown[0]
    rule = kl.load_record(tmp_path / "run")["training"]["assignments"]["body/kernel"]
    assert rule["decay_to"] == "initial"


def test_under_accumulation_and_loss_scaling():
    model = models.one_layer()
    inner = keras.optimizers.Adam(0.02, gradient_accumulation_steps=2)
    outer = keras.optimizers.LossScaleOptimizer(
        kl.LayerwiseOptimizer(inner, {"head": kl.Rule(weight_decay=5.0, decay_to="initial")})
    )
    model.compile(outer, "mse")
    start = weights_of(model)[0]
    fit(model, epochs=4)
    free = models.one_layer()
    free.compile(
        keras.optimizers.LossScaleOptimizer(
            kl.LayerwiseOptimizer(keras.optimizers.Adam(0.02, gradient_accumulation_steps=2))
        ),
        "mse",
    )
    fit(free, epochs=4)
    distances = [np.linalg.norm(weights_of(m)[0] - start) for m in (model, free)]
    assert 0 < distances[0] < distances[1]


class TestBadInput:
    @pytest.mark.parametrize("value", ["zero", 1, True])
    def test_only_initial_is_known(self, value):
        with pytest.raises(kl.RuleError, match="initial"):
            kl.Rule(weight_decay=0.1, decay_to=value)

    def test_without_any_decay_it_says_so(self):
        model = models.sequential()
        rules = {"body": kl.Rule(decay_to="initial")}
        with pytest.raises(kl.RuleError, match="no weight decay"):
            kl.LayerwiseOptimizer(keras.optimizers.Adam(0.1), rules, model=model)


def test_what_a_mismatch_skips_is_never_pulled_to_random_weights(tmp_path):
    """Keras makes a warning of the error; the loaded weights are then those to begin with."""
    path = tmp_path / "m.weights.h5"
    x, y = models.data()
    plain = models.sequential()
    compile_bare(plain, keras.optimizers.SGD(0.1))
    plain.fit(x, y, verbose=0)
    plain.save_weights(path)
    model = models.sequential()
    for weight in model.weights:
        weight.assign(weight + 1.0)
    optimizer = kl.LayerwiseOptimizer(keras.optimizers.SGD(0.0), {"*": PULL}, model=model)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    with pytest.warns(UserWarning, match="cannot be restored"):
        model.load_weights(path, skip_mismatch=True)
    for position, weight in enumerate(plain.trainable_weights):
        kept = optimizer.state.slots.initial(position)
        np.testing.assert_array_equal(numpy(kept), numpy(weight))
