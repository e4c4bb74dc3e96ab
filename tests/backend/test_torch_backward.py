"""On PyTorch, what is frozen costs no gradient, and what is not frozen gets the same."""

import shutil

import keras
import numpy as np
import pytest

from keras_layerwise import LayerwiseOptimizer, Rule

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the others leave out what is not used"
)

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = X[:, :2] ** 2


def make(rules):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "tanh", name="body"), keras.layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(LayerwiseOptimizer(keras.optimizers.SGD(0.1), rules, model=model), "mse")
    return model


def with_gradient(model):
    return [weight.name for weight in model.get_layer("body").weights if has_gradient(weight)]


def has_gradient(weight):
    return weight.value.grad is not None


def test_only_what_is_not_frozen_gets_a_gradient():
    model = make({"body/kernel": Rule(frozen=True)})
    model.train_on_batch(X, Y)
    assert with_gradient(model) == ["bias"]
    assert all(has_gradient(weight) for weight in model.get_layer("head").weights)
    assert all(weight.value.requires_grad for weight in model.weights)
    model.optimizer.unfreeze("body")
    model.train_on_batch(X, Y)
    assert with_gradient(model) == ["kernel", "bias"]
    model.optimizer.freeze("body")
    model.fit(X, Y, verbose=0)
    assert with_gradient(model) == []


def test_the_gradients_are_the_same():
    model, free = make({"body/kernel": Rule(frozen=True)}), make({})
    for each in (model, free):
        each.train_on_batch(X, Y)
    for weight, other in zip(model.weights[1:], free.weights[1:], strict=True):
        np.testing.assert_array_equal(weight.value.grad, other.value.grad)


def test_with_all_frozen_nothing_moves():
    model = make({"*": Rule(frozen=True)})
    before = model.get_weights()
    model.fit(X, Y, verbose=0)
    np.testing.assert_equal(model.get_weights(), before)


def test_a_step_of_ones_own_may_go_on_computing_with_the_loss():
    model = make({"body": Rule(frozen=True)})
    loss = model.optimizer.scale_loss(model.compute_loss(y=Y, y_pred=model(X)))
    head = model.get_layer("head").kernel.value
    loss.backward(retain_graph=True, inputs=[head])
    expected = head.grad.clone()
    head.grad = None
    (2 * loss).backward()
    np.testing.assert_allclose(head.grad, 2 * expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles by a C++ compiler")
def test_fit_where_pytorch_compiles_the_step():
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")

    def trained(jit_compile):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(4, name=name) for name in ("frozen", "slow", "out")]
        model = keras.Sequential([keras.Input((4,)), *layers])
        rules = {"frozen": Rule(frozen=True), "slow": 0.1}
        optimizer = LayerwiseOptimizer(keras.optimizers.Adam(0.01), rules)
        model.compile(optimizer, "mse", jit_compile=jit_compile)
        model.fit(x, x, epochs=2, batch_size=16, shuffle=False, verbose=0)
        optimizer.unfreeze("frozen")
        model.fit(x, x, batch_size=16, shuffle=False, verbose=0)
        return model.get_weights()

    for found, expected in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
