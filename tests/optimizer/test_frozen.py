"""A layer that a rule freezes whole computes as with ``trainable = False``."""

import copy
import pickle

import keras
import numpy as np
import pytest

from keras_layerwise import LayerwiseOptimizer, Rule, inventory, outline
from keras_layerwise.backend import frozen_layers
from tests.shared import models
from tests.shared.models import numpy, weights_of

L = keras.layers
FROZEN = Rule(frozen=True)


def network(stem=False):
    """A body with every kind of normalisation in it, and a head; before them, a stem or none.

    As wide as the inputs, so that the updates of equal weights are compiled once.
    """
    keras.utils.set_random_seed(3)
    body = keras.Sequential(
        [
            keras.Input((4,)),
            L.Dense(4, name="d", kernel_regularizer="l2"),
            L.BatchNormalization(name="n"),
            L.BatchNormalization(name="bare", center=False, scale=False),
            L.Dropout(0.3, seed=7, name="drop"),
        ],
        name="body",
    )
    before = [L.Dense(4, name="stem"), L.BatchNormalization(name="bn")] if stem else []
    return keras.Sequential([keras.Input((4,)), *before, body, L.Dense(2, name="head")])


def compiled(rules, still=(), stem=False, **settings):
    model = network(stem)
    for name in still:
        model.get_layer(name).trainable = False
    inner = keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.1, global_clipnorm=0.5)
    optimizer = inner if rules is None else LayerwiseOptimizer(inner, rules, fused=False)
    model.compile(optimizer, "mse", **settings)
    if rules is None:
        inner.build(model.trainable_variables)  # else TensorFlow traces the first step twice
    return model


def train(model, epochs=2):
    x, y = models.data()
    model.fit(x, y, epochs=epochs, batch_size=16, shuffle=False, verbose=0)


def assert_equal(one, other):
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b), err_msg=a.path)


@pytest.mark.parametrize("still", [["body"], ["bn"], ["stem", "bn", "body"]], ids="+".join)
def test_fit_is_that_with_trainable_off(still):
    by_rule = compiled(dict.fromkeys(still, FROZEN), stem=True)
    by_flag = compiled(None, still, stem=True)
    train(by_rule)
    train(by_flag)
    assert_equal(by_rule, by_flag)


@pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
def test_train_on_batch_is_that_with_trainable_off(run_eagerly):
    # Without a stem one differentiates nothing of the body, and JAX rounds the other otherwise.
    by_rule = compiled({"body": FROZEN}, stem=True, run_eagerly=run_eagerly)
    by_flag = compiled(None, ["body"], stem=True, run_eagerly=run_eagerly)
    x, y = models.data(rows=16)
    for _ in range(3):
        by_rule.train_on_batch(x, y)
        by_flag.train_on_batch(x, y)
    assert_equal(by_rule, by_flag)


def test_a_layer_that_trains_in_part_uses_its_batches():
    model = compiled({"*/gamma": FROZEN, "body/d": FROZEN}, stem=True)
    before = [numpy(model.get_layer("bn").moving_mean), numpy(body(model, "bare").moving_mean)]
    train(model, epochs=1)
    after = [numpy(model.get_layer("bn").moving_mean), numpy(body(model, "bare").moving_mean)]
    assert all((a != b).all() for a, b in zip(before, after, strict=True))


def body(model, name):
    return model.get_layer("body").get_layer(name)


def test_a_layer_without_weights_follows_the_part_that_was_frozen():
    def stack(still=()):
        model = bare_stack()
        for name in still:
            model.get_layer(name).trainable = False
        return model

    model = stack()
    first = outline(model).blocks[0]
    assert {layer.name for layer in first.layers} >= {"d0", "n0"}
    for rules, still in (({first: FROZEN}, ["d0", "n0"]), ({"d0": FROZEN}, ["d0"])):
        by_rule, by_flag = model if first in rules else stack(), stack(still)
        by_rule.compile(LayerwiseOptimizer("sgd", rules, fused=False), "mse")
        models.compile_bare(by_flag, "sgd")
        train(by_rule)
        train(by_flag)
        assert_equal(by_rule, by_flag)


def bare_stack():
    keras.utils.set_random_seed(3)
    norms = [L.BatchNormalization(name=f"n{i}", center=False, scale=False) for i in range(2)]
    dense = [L.Dense(4, name=f"d{i}") for i in range(2)]
    layers = [dense[0], norms[0], dense[1], norms[1], L.Dense(2, name="head")]
    return keras.Sequential([keras.Input((4,)), *layers])


def by_file(model, folder):
    model.save(folder / "m.keras")
    return keras.models.load_model(folder / "m.keras")


def by_weights(model, folder):
    """A script of a user that knows of no freezing loads what was trained."""
    model.save_weights(folder / "m.weights.h5")
    again = bare_stack()
    again.compile(LayerwiseOptimizer("sgd"), "mse")
    again.optimizer.build(again.trainable_variables)
    again.load_weights(folder / "m.weights.h5")
    return again


WAYS = {
    "file": by_file,
    "weights": by_weights,
    "copy": lambda model, folder: copy.deepcopy(model),
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("by_hand", [False, True])
def test_it_follows_the_part_after_a_reload_too(way, by_hand, tmp_path):
    model = bare_stack()
    first = outline(model).blocks[0]
    model.compile(LayerwiseOptimizer("sgd", {} if by_hand else {first: FROZEN}), "mse")
    if by_hand:
        train(model, epochs=1)
        model.optimizer.freeze(first)
    else:
        model.optimizer.build(model.trainable_variables)
    again = WAYS[way](model, tmp_path)
    before = [numpy(again.get_layer(name).moving_mean) for name in ("n0", "n1")]
    train(again, epochs=1)
    after = [numpy(again.get_layer(name).moving_mean) for name in ("n0", "n1")]
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[1] != before[1]).any()
    if by_hand:
        return
    again.optimizer.unfreeze("d0")
    train(again, epochs=1)
    assert (numpy(again.get_layer("n0").moving_mean) != before[0]).any()


def test_flags_and_files_stay_the_users():
    model = compiled({"body": FROZEN})
    config, record = model.get_config(), inventory(model)["architecture"]
    train(model, epochs=1)
    assert all(layer.trainable for layer in model._flatten_layers())
    assert len(model.trainable_weights) == 6
    assert model.get_config() == config
    assert inventory(model)["architecture"] == record
    assert keras.models.clone_model(model).get_layer("body").trainable


def test_a_change_in_mid_run_holds_for_the_averages_too():
    model = compiled({})
    average = body(model, "n").moving_mean
    train(model, epochs=1)
    model.optimizer.freeze("body")
    before = numpy(average)
    train(model, epochs=1)
    np.testing.assert_array_equal(numpy(average), before)
    model.optimizer.unfreeze("body/d/bias")
    train(model, epochs=1)
    np.testing.assert_array_equal(numpy(average), before)
    model.optimizer.unfreeze("body")
    train(model, epochs=1)
    assert (numpy(average) != before).any()


def test_after_a_reload(tmp_path):
    def reloaded(model):
        train(model, epochs=1)
        model.save(tmp_path / "m.keras")
        again = keras.models.load_model(tmp_path / "m.keras")
        train(again, epochs=1)
        return again

    assert_equal(reloaded(compiled({"body": FROZEN})), reloaded(compiled(None, ["body"])))


def test_a_model_that_is_built_by_its_first_batch():
    class Deferred(keras.Model):
        def __init__(self):
            super().__init__()
            self.d, self.n = L.Dense(3, name="d"), L.BatchNormalization(name="n")
            self.head = L.Dense(2, name="head")

        def call(self, inputs, training=False):
            return self.head(self.n(self.d(inputs), training=training))

    model = Deferred()
    model.compile(LayerwiseOptimizer("sgd", {("d", "n"): FROZEN}), "mse")
    train(model, epochs=1)
    np.testing.assert_array_equal(numpy(model.n.moving_mean), 0.0)


def test_a_loop_of_ones_own_that_knows_the_model():
    model = network()
    optimizer = LayerwiseOptimizer("sgd", {"body": FROZEN}, model=model)
    before = numpy(body(model, "n").moving_mean)
    model(models.data()[0], training=True)
    np.testing.assert_array_equal(numpy(body(model, "n").moving_mean), before)
    optimizer.unfreeze("body")
    model(models.data()[0], training=True)
    assert (numpy(body(model, "n").moving_mean) != before).any()


def test_a_layer_trained_elsewhere_is_frozen_only_in_the_model_that_freezes_it():
    """As a GAN's discriminator, which the generator's optimizer leaves alone."""
    critic = keras.Sequential(
        [keras.Input((4,)), L.BatchNormalization(name="n"), L.Dense(2, name="out")], name="critic"
    )
    critic.compile("sgd", "mse")
    both = keras.Sequential([keras.Input((4,)), L.Dense(4, name="maker"), critic])
    both.compile(LayerwiseOptimizer("sgd", {"critic": FROZEN}), "mse")
    x = models.data()[0]
    before = weights_of(critic)
    both.fit(x, x[:, :2], verbose=0)
    assert all((a == b).all() for a, b in zip(before, weights_of(critic), strict=True))
    critic.fit(x, x[:, :2], verbose=0)
    assert not any((a == b).all() for a, b in zip(before, weights_of(critic), strict=True))


def test_another_optimizer_has_nothing_frozen():
    model = compiled({"body": FROZEN})
    kept = model.optimizer
    model.compile("sgd", "mse")
    before = numpy(body(model, "n").moving_mean)
    train(model, epochs=1)
    assert (numpy(body(model, "n").moving_mean) != before).any()
    assert kept is not None


def test_the_hook_can_be_taken_off():
    plain = vars(keras.Layer)["trainable"]
    model = compiled({"body": FROZEN})
    assert vars(keras.Layer)["trainable"].fset is plain.fset
    frozen_layers.uninstall()
    try:
        train(model, epochs=1)
        assert (numpy(body(model, "n").moving_mean) != 0).any()
    finally:
        frozen_layers.freeze_in_calls(network(), lambda: frozenset())
