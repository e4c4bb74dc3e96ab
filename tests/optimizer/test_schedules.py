"""What changes the rate in mid-run changes every layer's in proportion."""

import keras
import numpy as np
import pytest

from keras_layerwise import GradualUnfreeze, LayerwiseOptimizer, Rule, RuleError
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

optimizers = keras.optimizers
Halving = optimizers.schedules.ExponentialDecay(1.0, decay_steps=1, decay_rate=0.5)


class Recorder(keras.callbacks.Callback):
    """The effective rates of body and head at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_epoch_end(self, epoch, logs=None):
        found = {a.path: a.learning_rate for a in layerwise(self.model).assignments}
        self.rates.append((found["body/kernel"], found["head/kernel"]))


def layerwise(model):
    return getattr(model.optimizer, "inner_optimizer", model.optimizer) if isinstance(
        model.optimizer, optimizers.LossScaleOptimizer
    ) else model.optimizer  # fmt: skip


def run(callbacks, inner=None, epochs=3, **compile_arguments):
    model = models.sequential()
    optimizer = LayerwiseOptimizer(inner or optimizers.SGD(0.1), {"body": 0.1}, model=model)
    model.compile(optimizer, loss="mse", **compile_arguments)
    recorder = Recorder()
    fit(model, epochs=epochs, callbacks=[*callbacks, recorder])
    return recorder.rates


def assert_ratio(rates):
    for body, head in rates:
        assert body == pytest.approx(0.1 * head)


def test_reduce_lr_on_plateau_with_a_floor():
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.1, patience=0, min_delta=100.0, min_lr=0.005
    )
    rates = run([plateau], epochs=4)
    assert [head for _, head in rates] == pytest.approx([0.1, 0.01, 0.005, 0.005])
    assert_ratio(rates)


@pytest.mark.parametrize(
    "schedule", [lambda epoch: 0.1 / (epoch + 1), lambda epoch, rate: rate / (2 if epoch else 1)]
)
def test_learning_rate_scheduler(schedule):
    rates = run([keras.callbacks.LearningRateScheduler(schedule)], epochs=2)
    assert [head for _, head in rates] == pytest.approx([0.1, 0.05])
    assert_ratio(rates)


def test_a_schedule_in_the_inner_optimizer():
    rates = run(
        [],
        optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 3, 0.5, staircase=True)),
        epochs=2,
    )
    assert [head for _, head in rates] == pytest.approx([0.05, 0.025])
    assert_ratio(rates)


def test_setting_the_rate_in_mid_run():
    class Set(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.2 * (epoch + 1)

    rates = run([Set()], epochs=2)
    assert [head for _, head in rates] == pytest.approx([0.2, 0.4])
    assert_ratio(rates)


def test_the_set_rate_is_the_one_that_updates():
    weights = [variable([1.0], "w0"), variable([1.0], "w1")]
    optimizer = LayerwiseOptimizer(optimizers.SGD(0.1), {"w0": 0.1})
    optimizer.apply([tensor([1.0])] * 2, weights)
    optimizer.learning_rate = 0.2
    optimizer.apply([tensor([1.0])] * 2, weights)
    assert [numpy(w)[0] for w in weights] == pytest.approx([1 - 0.01 - 0.02, 1 - 0.1 - 0.2])


def test_a_schedule_as_multiplier_and_as_own_rate():
    """Both are functions of the step, which counts from 0."""
    weights = [variable([1.0], f"w{i}") for i in range(3)]
    rules = {"w0": Rule(multiplier=Halving), "w1": Rule(learning_rate=Halving)}
    optimizer = LayerwiseOptimizer(optimizers.SGD(0.1), rules)
    for _ in range(3):
        optimizer.apply([tensor([1.0])] * 3, weights)
    assert [numpy(w)[0] for w in weights] == pytest.approx([1 - 0.175, 1 - 1.75, 0.7])
    assert [a.learning_rate for a in optimizer.assignments] == pytest.approx([0.0125, 0.125, 0.1])
    optimizer.learning_rate = 1.0
    optimizer.apply([tensor([1.0])] * 3, weights)
    assert numpy(weights[1])[0] == pytest.approx(1 - 1.75 - 0.125)


def test_mixed_float16_trains_and_the_callbacks_still_work():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        plateau = keras.callbacks.ReduceLROnPlateau(
            monitor="loss", factor=0.1, patience=0, min_delta=100.0
        )
        rates = run([plateau], optimizers.Adam(0.1), epochs=2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert [head for _, head in rates] == pytest.approx([0.1, 0.01], rel=1e-4)
    assert_ratio(rates)


def test_mixed_float16_equals_the_bare_optimizer():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        bare, wrapped = models.sequential(), models.sequential()
        compile_bare(bare, optimizers.Adam(0.001))
        wrapped.compile(
            LayerwiseOptimizer(optimizers.Adam(0.01), {"*": 0.1}, fused=False), loss="mse"
        )
        assert isinstance(wrapped.optimizer, optimizers.LossScaleOptimizer)
        fit(bare)
        fit(wrapped)
    finally:
        keras.config.set_dtype_policy("float32")
    assert_same_weights(bare, wrapped, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(
    not hasattr(optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)
def test_inside_a_multi_optimizer():
    model = models.nested()
    slow_sgd = LayerwiseOptimizer(
        optimizers.SGD(0.1), {"*/bias": Rule(frozen=True), "*/kernel": 0.5}
    )
    adam = LayerwiseOptimizer(optimizers.Adam(0.01), {"head/bias": 0.1})
    left = {id(w) for w in model.get_layer("left").weights}
    model.compile(
        optimizers.MultiOptimizer(lambda w: slow_sgd if id(w) in left else adam), loss="mse"
    )  # fmt: skip
    before = weights_of(model)
    fit(model, epochs=1)
    after = weights_of(model)
    moved = {w.path: (a != b).any() for w, a, b in zip(model.weights, before, after, strict=True)}
    assert [m for p, m in moved.items() if p.startswith("left") and "bias" in p] == [False, False]
    assert all(m for p, m in moved.items() if not p.startswith("left") or "kernel" in p)
    assert {a.multiplier for a in slow_sgd.assignments} == {0.5, 1.0}
    assert adam.selected("head/bias")[0].multiplier == 0.1


# Changes at run time.


def paired_steps(optimizer, change, steps=6, at=3):
    weights = [variable([1.0], "w0"), variable([1.0], "w1")]
    optimizer.build(weights)
    trace = []
    for step in range(steps):
        if step == at:
            change(optimizer)
        optimizer.apply([tensor([1.0])] * 2, weights)
        trace.append([float(numpy(w)[0]) for w in weights])
    return np.diff([[1.0, 1.0], *trace], axis=0)


def test_set_multiplier_holds_from_the_next_step():
    moves = paired_steps(
        LayerwiseOptimizer(optimizers.SGD(0.1), {"w0": 0.1}), lambda o: o.set_multiplier("w0", 0.5)
    )
    np.testing.assert_allclose(moves[:, 0], [-0.01] * 3 + [-0.05] * 3, rtol=1e-4)
    np.testing.assert_allclose(moves[:, 1], -0.1, rtol=1e-4)


def test_freeze_keeps_slots_and_unfreeze_goes_on_with_them():
    optimizer = LayerwiseOptimizer(optimizers.SGD(0.1, momentum=0.5), {})
    weights = [variable([1.0], "w0"), variable([1.0], "w1")]
    optimizer.build(weights)
    optimizer.apply([tensor([1.0])] * 2, weights)
    optimizer.freeze("w0")
    optimizer.apply([tensor([1.0])] * 2, weights)
    assert numpy(weights[0])[0] == pytest.approx(0.9)
    optimizer.unfreeze("w0")
    optimizer.apply([tensor([1.0])] * 2, weights)
    assert numpy(weights[0])[0] == pytest.approx(0.9 - 0.05 - 0.1)
    assert numpy(weights[1])[0] == pytest.approx(1 - 0.1 - 0.15 - 0.175)


def test_a_late_weight_starts_with_the_bias_correction_of_step_one():
    """As in a new optimizer: with the run's own, Adam would step 3.2 times too far."""
    optimizer = LayerwiseOptimizer(optimizers.Adam(0.1), {"w0": Rule(frozen=True)})
    moves = paired_steps(optimizer, lambda o: o.unfreeze("w0"), steps=60, at=50)
    fresh = paired_steps(optimizers.Adam(0.1), lambda o: None, steps=10)
    np.testing.assert_array_equal(moves[:50, 0], 0.0)
    np.testing.assert_allclose(moves[50:, 0], fresh[:, 0], rtol=1e-4)


def test_a_late_weights_average_starts_at_the_weight():
    inner = optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    optimizer = LayerwiseOptimizer(inner, {"w0": Rule(frozen=True)})
    weights = [variable([1.0], "w0"), variable([1.0], "w1")]
    optimizer.build(weights)
    optimizer.apply([tensor([1.0])] * 2, weights)
    optimizer.unfreeze("w0")
    optimizer.apply([tensor([1.0])] * 2, weights)
    optimizer.finalize_variable_values(weights)
    assert numpy(weights[0])[0] == pytest.approx(0.9 * 1.0 + 0.1 * 0.9)


class At(keras.callbacks.Callback):
    """Changes the optimizer after a number of batches."""

    def __init__(self, batch, change):
        super().__init__()
        self.batch, self.change, self.seen = batch, change, 0
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen >= self.batch:
            if hasattr(self.model, "jax_state_sync"):
                self.model.jax_state_sync()
            self.weights.append(numpy(self.model.get_layer("body").kernel))
        if self.seen == self.batch:
            self.change(self.model.optimizer)


def test_freeze_and_unfreeze_in_mid_run_from_a_callback():
    model = models.sequential()
    model.compile(LayerwiseOptimizer("adam", {}, model=model), loss="mse")
    watch = At(2, lambda optimizer: optimizer.freeze("body"))
    fit(model, epochs=2, callbacks=[watch])
    for later in watch.weights[1:]:
        np.testing.assert_array_equal(later, watch.weights[0])
    watch = At(2, lambda optimizer: optimizer.unfreeze("body"))
    fit(model, epochs=1, callbacks=[watch])
    np.testing.assert_array_equal(watch.weights[0], later)
    assert (watch.weights[1] != watch.weights[0]).all()


def test_set_multiplier_in_mid_run_from_a_callback():
    model = models.sequential()
    optimizer = LayerwiseOptimizer(optimizers.SGD(0.1), {"body": 1.0}, model=model)
    model.compile(optimizer, loss="mse")
    watch = At(2, lambda optimizer: optimizer.set_multiplier("body", 0.0))
    fit(model, epochs=1, callbacks=[watch])
    np.testing.assert_array_equal(watch.weights[1], watch.weights[0])
    optimizer.set_multiplier("body", 1.0)
    fit(model, epochs=1, callbacks=[watch := At(1, lambda optimizer: None)])
    assert (watch.weights[-1] != watch.weights[0]).all()


@pytest.mark.tensorflow_only
def test_a_multiplier_changes_without_a_new_trace_and_freezing_with_one():
    model = models.sequential()
    traces = []
    optimizer = LayerwiseOptimizer("adam", {"body": 0.1}, model=model)
    model.compile(optimizer, loss="mse")
    plain = optimizer.apply

    def counting(gradients, weights=None):
        traces.append(1)
        plain(gradients, weights)

    object.__setattr__(optimizer, "apply", counting)
    fit(model, epochs=1)
    before = len(traces)
    optimizer.set_multiplier("body", 0.5)
    fit(model, epochs=1)
    assert len(traces) == before
    optimizer.freeze("body")
    fit(model, epochs=1)
    assert len(traces) > before


@pytest.mark.tensorflow_only
def test_freezing_a_compiled_step_of_an_unknown_model_is_an_error():
    import tensorflow as tf

    model = models.sequential()
    optimizer = LayerwiseOptimizer("sgd", {})
    weights = model.trainable_weights
    tf.function(lambda: optimizer.apply([tf.ones_like(w) for w in weights], weights))()
    with pytest.raises(RuleError, match="attach"):
        optimizer.freeze("body")
    assert not optimizer.selected("body")[0].frozen
    optimizer.attach(model)
    with pytest.warns(UserWarning, match="trace it again"):
        optimizer.freeze("body")
    assert optimizer.selected("body")[0].frozen


def test_unfreezing_keeps_the_other_slots():
    model = models.sequential()
    rules = {"body": Rule(frozen=True)}
    model.compile(LayerwiseOptimizer("adam", rules, model=model), loss="mse")
    fit(model, epochs=1)
    optimizer = model.optimizer
    before = {v.path: numpy(v) for v in optimizer.inner_optimizer._momentums if v is not None}
    optimizer.unfreeze("body")
    after = {v.path: numpy(v) for v in optimizer.inner_optimizer._momentums if v is not None}
    assert len(after) == len(before) + 2
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.set_multiplier("haed", 0.1), "selects nothing"),
        (lambda o: o.set_multiplier("head", -1.0), "not negative"),
        (lambda o: o.set_multiplier("body", 0.1), "its own rate"),
        (lambda o: o.freeze("bn/moving_mean"), "not trainable"),
        (lambda o: o.unfreeze("nothing"), "selects nothing"),
    ],
)
def test_changes_that_cannot_hold(change, message):
    model = models.sequential()
    optimizer = LayerwiseOptimizer("adam", {"body": Rule(learning_rate=0.1)}, model=model)
    with pytest.raises(RuleError, match=message):
        change(optimizer)


def test_gradual_unfreeze():
    model = models.sequential()
    rules = {"body": Rule(multiplier=0.1, frozen=True), "bn": Rule(frozen=True)}
    model.compile(LayerwiseOptimizer("adam", rules), loss="mse")
    frozen = []
    seen = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: frozen.append(
            [a.layer for a in model.optimizer.assignments if a.frozen]
        )
    )
    fit(model, epochs=3, callbacks=[GradualUnfreeze({1: "bn", 2: ["body"]}), seen])
    assert frozen == [["body", "body", "bn", "bn"], ["body", "body"], []]
    assert model.optimizer.selected("body")[0].multiplier == 0.1


@pytest.mark.parametrize(
    ("epochs", "error"),
    [({"1": "body"}, TypeError), ({-1: "body"}, ValueError), ({1: 3}, TypeError), ([1], TypeError)],
)
def test_gradual_unfreeze_refuses(epochs, error):
    with pytest.raises(error):
        GradualUnfreeze(epochs)


@pytest.mark.parametrize("rules", [{"body": 0.1}, {"head": Rule(frozen=True)}])
def test_gradual_unfreeze_of_what_is_not_frozen(rules):
    model = models.sequential()
    model.compile(LayerwiseOptimizer("adam", rules, model=model), loss="mse")
    with pytest.raises(RuleError, match="nothing of it is frozen"):
        fit(model, callbacks=[GradualUnfreeze({1: "body"})])


def test_gradual_unfreeze_needs_the_optimizer():
    model = models.sequential()
    model.compile("adam", loss="mse")
    with pytest.raises(RuleError, match="Wrap it"):
        fit(model, callbacks=[GradualUnfreeze({1: "body"})])


def test_a_weight_frozen_in_mid_run_leaves_the_average():
    """Keras would go on averaging it, and write the average over it."""
    inner = optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=1)
    optimizer = LayerwiseOptimizer(inner, {})
    weights = [variable([1.0], "w0"), variable([1.0], "w1")]
    optimizer.build(weights)
    for _ in range(3):
        optimizer.apply([tensor([1.0])] * 2, weights)
    before = numpy(weights[0])[0]
    optimizer.freeze("w0")
    for _ in range(3):
        optimizer.apply([tensor([1.0])] * 2, weights)
    optimizer.finalize_variable_values(weights)
    assert numpy(weights[0])[0] == before
    assert numpy(weights[1])[0] < before
    optimizer.unfreeze("w0")
    optimizer.apply([tensor([1.0])] * 2, weights)
    assert numpy(weights[0])[0] == pytest.approx(before - 0.5 * 0.1)


def test_freezing_while_gradients_are_accumulated():
    optimizer = LayerwiseOptimizer(optimizers.SGD(0.1, gradient_accumulation_steps=2), {})
    weights = [variable([1.0], "w0"), variable([1.0], "w1")]
    optimizer.build(weights)
    optimizer.apply([tensor([1.0])] * 2, weights)
    optimizer.freeze("w0")
    optimizer.apply([tensor([1.0])] * 2, weights)
    assert [numpy(w)[0] for w in weights] == pytest.approx([1.0, 0.9])


def test_a_model_that_is_not_built_is_resolved_at_the_first_batch():
    model = models.subclassed()
    rules = {
        lambda layer, weight: layer.name == "body": Rule(multiplier=0.1, frozen=False),
        keras.layers.Dense: Rule(frozen=True),
    }
    optimizer = LayerwiseOptimizer("adam", rules, model=model)
    model.compile(optimizer, loss="mse")
    fit(model, epochs=1)
    assert [(a.path, a.multiplier, a.frozen) for a in optimizer.assignments] == [
        ("body/kernel", 0.1, False),
        ("body/bias", 0.1, False),
        ("head/kernel", 1.0, True),
        ("head/bias", 1.0, True),
    ]


def test_settings_of_the_inner_optimizer_are_reached_through_the_wrapper():
    inner = optimizers.Adam(0.1)
    optimizer = LayerwiseOptimizer(inner, {})
    optimizer.beta_1 = 0.5
    optimizer.clipnorm = 1.0
    assert (inner.beta_1, inner.clipnorm, optimizer.epsilon) == (0.5, 1.0, inner.epsilon)


@pytest.mark.tensorflow_only
def test_freezing_under_a_compiled_loop_of_ones_own_says_what_to_do():
    import tensorflow as tf

    model = models.sequential()
    optimizer = LayerwiseOptimizer("sgd", {}, model=model)

    @tf.function
    def step():
        optimizer.apply([tf.ones_like(w) for w in model.trainable_weights], model.trainable_weights)

    step()
    with pytest.warns(UserWarning, match="trace it again"):
        optimizer.freeze("body")
