"""The same numbers on every backend and by every way to train: those of NumPy.

The reference is written out here: a linear model of two layers, its gradients
and the update of each optimizer, with settings for each weight.
"""

import keras
import numpy as np
import pytest

from keras_layerwise import LayerwiseOptimizer, Rule, override
from keras_layerwise.backend import torch_foreach as foreach

BACKEND = keras.backend.backend()
STEPS, ROWS = 8, 6
RNG = np.random.default_rng(3)
X = RNG.normal(size=(STEPS * ROWS, 3)).astype("float32")
Y = RNG.normal(size=(STEPS * ROWS, 2)).astype("float32")
STARTS = [RNG.normal(size=shape) * 0.5 for shape in ((3, 4), (4,), (4, 2), (2,))]
NAMES = ("body/kernel", "body/bias", "head/kernel", "head/bias")

RATE = 0.02


def gradients(weights, x, y):
    """Of the mean squared error of (x·W + b)·V + c."""
    w, b, v, c = weights
    hidden = x @ w + b
    slope = 2 * (hidden @ v + c - y) / y.size
    back = slope @ v.T
    return [x.T @ back, back.sum(0), hidden.T @ slope, slope.sum(0)]


class Reference:
    """One optimizer in float64, a state and a count of steps for each weight."""

    def __init__(self, momentum=0.0, adam=False, weight_decay=None, global_clipnorm=None):
        self.momentum, self.adam, self.clip = momentum, adam, global_clipnorm
        self.weights = [start.astype("float64") for start in STARTS]
        self.rates = [RATE] * 4
        self.decays = [weight_decay or 0.0] * 4
        self.frozen = [False] * 4
        self.m = [np.zeros_like(w) for w in self.weights]
        self.v = [np.zeros_like(w) for w in self.weights]
        self.steps = [0] * 4

    def step(self, x, y):
        found = gradients(self.weights, x, y)
        free = [i for i in range(4) if not self.frozen[i]]
        if self.clip is not None:
            norm = np.sqrt(sum(np.sum(found[i] ** 2) for i in free))
            found = [g * self.clip / max(norm, self.clip) for g in found]
        for i in free:
            weight, gradient, rate = self.weights[i], found[i], self.rates[i]
            weight -= rate * self.decays[i] * weight
            if self.adam:
                self.steps[i] += 1
                self.m[i] += 0.1 * (gradient - self.m[i])
                self.v[i] += 0.001 * (gradient**2 - self.v[i])
                length = np.sqrt(1 - 0.999 ** self.steps[i]) / (1 - 0.9 ** self.steps[i])
                weight -= rate * length * self.m[i] / (np.sqrt(self.v[i]) + 1e-7)
            else:
                self.m[i] = self.momentum * self.m[i] - rate * gradient
                weight += self.m[i]

    def run(self, changes=None):
        for step in range(STEPS):
            (changes or {}).get(step, lambda _: None)(self)
            rows = slice(step * ROWS, (step + 1) * ROWS)
            self.step(X[rows].astype("float64"), Y[rows].astype("float64"))
        return self.weights


INNER = {
    "SGD": (lambda: keras.optimizers.SGD(RATE), {}),
    "momentum": (
        lambda: keras.optimizers.SGD(RATE, momentum=0.9, weight_decay=0.3),
        {"momentum": 0.9, "weight_decay": 0.3},
    ),
    "Adam": (lambda: keras.optimizers.Adam(RATE), {"adam": True}),
    "AdamW": (
        lambda: keras.optimizers.AdamW(RATE, weight_decay=0.3, global_clipnorm=0.5),
        {"adam": True, "weight_decay": 0.3, "global_clipnorm": 0.5},
    ),
}
every_inner = pytest.mark.parametrize("name", INNER)

RULES = {
    "body/bias": Rule(learning_rate=0.05),
    "body": Rule(multiplier=0.1, weight_decay=0.9),
    "head/bias": Rule(frozen=True),
}


def reference(name, rules=True):
    found = Reference(**INNER[name][1])
    if rules:
        found.rates = [0.1 * RATE, 0.05, RATE, RATE]
        found.decays[:2] = [
            0.9,
            0.9,
        ]  # the bias takes its rate from one rule, its decay from another
        found.frozen[3] = True
    return found


def compiled(name, rules=RULES, **settings):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="body"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    model.set_weights(STARTS)
    model.compile(LayerwiseOptimizer(INNER[name][0](), rules, model=model), "mse", **settings)
    return model


def by_fit(model, **settings):
    model.fit(X, Y, batch_size=ROWS, shuffle=False, verbose=0, **settings)


def batches():
    for start in range(0, len(X), ROWS):
        yield X[start : start + ROWS], Y[start : start + ROWS]


def assert_same(model, expected):
    for weight, value in zip(model.trainable_weights, expected, strict=True):
        found = keras.ops.convert_to_numpy(weight)
        np.testing.assert_allclose(found, value, rtol=2e-5, atol=2e-6, err_msg=weight.path)


@every_inner
@pytest.mark.parametrize(
    "settings",
    [{}, {"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 4}],
    ids=lambda settings: "".join(settings) or "default",
)
def test_fit(name, settings):
    if BACKEND == "torch" and ("jit_compile" in settings or "steps_per_execution" in settings):
        pytest.skip("test_torch_backward.py compiles; one step per execution on PyTorch")
    model = compiled(name, **settings)
    by_fit(model)
    assert_same(model, reference(name).run())


@every_inner
def test_train_on_batch(name):
    model = compiled(name)
    for x, y in batches():
        model.train_on_batch(x, y)
    assert_same(model, reference(name).run())
    assert int(model.optimizer.iterations) == STEPS


@every_inner
@pytest.mark.parametrize("compile_as", ["eager", "compiled", "XLA"])
def test_a_loop_of_ones_own(name, compile_as):
    model = compiled(name)
    step = {"tensorflow": tensorflow_step, "jax": jax_step, "torch": torch_step}[BACKEND]
    if BACKEND == "torch" and compile_as != "eager":
        pytest.skip("Keras compiles nothing on PyTorch")
    train = step(model, compile_as)
    for x, y in batches():
        train(x, y)
    assert_same(model, reference(name).run())


def tensorflow_step(model, compile_as):
    import tensorflow as tf

    def train(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        weights = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, weights), weights)

    if compile_as == "eager":
        return train
    return tf.function(train, jit_compile=compile_as == "XLA")


def jax_step(model, compile_as):
    import jax

    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)

    def loss(trainable, x, y):
        outputs, _ = model.stateless_call(trainable, [], x)
        return ((outputs - y) ** 2).mean()

    def step(trainable, state, x, y):
        found = jax.grad(loss)(trainable, x, y)
        return optimizer.stateless_apply(state, found, trainable)

    if compile_as != "eager":
        step = jax.jit(step)

    def train(x, y):
        trainable = [v.value for v in model.trainable_variables]
        state = [v.value for v in optimizer.variables]
        trainable, state = step(trainable, state, x, y)
        for variables, values in (
            (model.trainable_variables, trainable),
            (optimizer.variables, state),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    return train


def torch_step(model, compile_as):
    import torch

    def train(x, y):
        model.zero_grad()
        loss = ((model(x) - torch.from_numpy(y)) ** 2).mean()
        loss.backward()
        weights = [v for v in model.trainable_weights if v.value.grad is not None]
        with torch.no_grad():
            model.optimizer.apply([v.value.grad for v in weights], weights)

    return train


# Changes in mid-run.


class At(keras.callbacks.Callback):
    """Calls a function of the optimizer before a step, or after the one before.

    Keeps every compiled step alive: JAX would take an old one, of a method that
    compares equal, for the new one.
    """

    def __init__(self, changes, after):
        super().__init__()
        self.changes, self.after = changes, after
        self.kept = []

    def on_train_begin(self, logs=None):
        self.model.optimizer.attach(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        if not self.after and batch in self.changes:
            self.changes[batch](self.model.optimizer)

    def on_train_batch_end(self, batch, logs=None):
        self.kept.append(self.model.train_function)
        if self.after and batch + 1 in self.changes:
            self.changes[batch + 1](self.model.optimizer)


CHANGES = {
    2: lambda o: o.set_multiplier("body/kernel", 0.7),
    3: lambda o: o.freeze("head/kernel"),
    4: lambda o: o.unfreeze("head/bias"),
    6: lambda o: o.unfreeze("head/kernel"),
    7: lambda o: setattr(o, "learning_rate", RATE / 2),
}


def reference_changes():
    def put(attribute, position, value):
        return lambda r: getattr(r, attribute).__setitem__(position, value)

    def halve(r):
        r.rates = [0.7 * RATE / 2, 0.05, RATE / 2, RATE / 2]

    return {
        2: put("rates", 0, 0.7 * RATE),
        3: put("frozen", 2, True),
        4: put("frozen", 3, False),
        6: put("frozen", 2, False),
        7: halve,
    }


@pytest.mark.parametrize("name", ["SGD", "momentum"])
@pytest.mark.parametrize("after", [False, True], ids=["batch begin", "batch end"])
@pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
def test_changes_from_a_batch_callback(name, after, run_eagerly):
    model = compiled(name, run_eagerly=run_eagerly)
    by_fit(model, callbacks=[At(CHANGES, after)])
    assert_same(model, reference(name).run(reference_changes()))
    assert int(model.optimizer.iterations) == STEPS


def test_a_weight_unfrozen_in_mid_run_counts_its_own_steps():
    model = compiled("Adam")
    by_fit(model, callbacks=[At({5: CHANGES[4]}, True)])
    assert_same(model, reference("Adam").run({5: reference_changes()[4]}))


def test_changes_between_epochs():
    """The state that `fit` keeps on JAX and the compiled step on TensorFlow meet each change."""
    model = compiled("momentum")
    expected = reference("momentum")
    for epoch in range(3):
        by_fit(model)
        expected.run()
        multiplier = (0.5, 3.0, 0.0)[epoch]
        model.optimizer.set_multiplier("head/kernel", multiplier)
        expected.rates[2] = multiplier * RATE
    by_fit(model, epochs=2)
    expected.run()
    expected.run()
    assert_same(model, expected.weights)


def test_a_change_needs_no_second_trace():
    traces = []

    class Counting(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, inputs):
            traces.append(1)
            return self.inner(inputs)

    model = Counting(keras.Sequential([keras.layers.Dense(2, name="body")]))
    model.compile(LayerwiseOptimizer("adam", {"*": 0.5}), loss="mse")
    by_fit(model)
    before = len(traces)
    model.optimizer.set_multiplier("*", 0.1)
    model.optimizer.learning_rate = 0.5
    by_fit(model)
    if BACKEND == "torch":
        assert len(traces) == before + STEPS  # a call per step, and nothing is traced
    else:
        assert len(traces) == before


def test_an_override_meets_steps_that_are_still_alive():
    """JAX would take the test step of before, which compares equal, for the new one."""
    model = compiled("SGD")
    before = model.evaluate(X, Y, verbose=0)
    kept = model.test_function
    override(model, {"body": {"activation": "sigmoid"}})
    assert kept is not None
    assert model.evaluate(X, Y, verbose=0) != before


# What one backend has.


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's fused kernels")
@pytest.mark.parametrize(
    ("rules", "calls"),
    [
        ({}, 1),
        ({"*": 0.5}, 1),
        ({"body": 0.1}, 2),
        ({"body": 0.1, "head": 0.1}, 1),
        ({"body": 0.1, "head/kernel": Rule(learning_rate=1.0)}, 3),
        ({"body": Rule(frozen=True)}, 1),
    ],
)
def test_one_fused_call_for_each_group(rules, calls, monkeypatch):
    import torch

    monkeypatch.setattr(foreach, "_UPDATES", {})  # SGD as an optimizer that it does not have
    model = compiled("SGD", rules)
    made = []
    add = torch._foreach_add_
    monkeypatch.setattr(
        torch, "_foreach_add_", lambda *args, **kw: (made.append(1), add(*args, **kw))
    )
    model.train_on_batch(X[:ROWS], Y[:ROWS])
    assert len(made) == calls


@pytest.mark.skipif(BACKEND != "jax", reason="the functional interface of JAX")
def test_stateless_apply_changes_no_variable():
    model = compiled("AdamW")
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    trainable = [v.value for v in model.trainable_variables]
    state = [v.value for v in optimizer.variables]
    new, new_state = optimizer.stateless_apply(state, trainable, trainable)
    assert_same(model, STARTS)
    assert [v.shape for v in new] == [v.shape for v in trainable]
    assert len(new_state) == len(state)
    np.testing.assert_array_equal(new[3], trainable[3])  # frozen
    assert int(new_state[0]) == 1
    assert int(optimizer.iterations) == 0


@pytest.mark.skipif(BACKEND != "jax", reason="the functional interface of JAX")
def test_a_multiplier_is_part_of_the_state_that_is_passed():
    """What `stateless_apply` is given counts, not what the variables hold meanwhile."""
    model = compiled("SGD", {"*": 1.0})
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    trainable = [v.value for v in model.trainable_variables]
    state = [v.value for v in optimizer.variables]
    optimizer.set_multiplier("*", 0.0)
    new, _ = optimizer.stateless_apply(state, trainable, trainable)
    np.testing.assert_allclose(new[0], STARTS[0] * (1 - RATE), rtol=1e-5)
