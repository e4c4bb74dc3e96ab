"""Overrides are in effect in the next fit, evaluate and predict, by their numbers."""

import keras
import numpy as np
import pytest

import keras_layerwise as kl

x = np.linspace(-1, 1, 32, dtype="float32").reshape(8, 4)
y = x[:, :1]


def build(*layers, optimizer="sgd", **compile_arguments):
    model = keras.Sequential(
        [keras.Input((4,)), *layers, keras.layers.Dense(1, name="head", kernel_initializer="ones")]
    )
    model.compile(optimizer, "mse", **compile_arguments)
    return model


def traced(model, *kinds):
    """The model after its functions were compiled: all, where the test asks for no `kinds`."""
    calls = {
        "fit": lambda: model.fit(x, y, verbose=0),
        "evaluate": lambda: evaluate(model),
        "predict": lambda: predict(model),
    }
    for kind in kinds or calls:
        calls[kind]()
    return model


def dense(**settings):
    return keras.layers.Dense(3, name="body", kernel_initializer="ones", **settings)


def evaluate(model):
    return model.evaluate(x, y, verbose=0)


def predict(model):
    return model.predict(x, verbose=0)


def kernel_of(model, name):
    return keras.ops.convert_to_numpy(model.get_layer(name).kernel)


def test_assigning_attributes_does_nothing_and_override_does():
    model = traced(build(dense()), "evaluate")
    before = evaluate(model)
    model.get_layer("body").kernel_regularizer = keras.regularizers.L1(0.1)
    assert evaluate(model) == before
    # The very value that was assigned without effect.
    kl.override(model, {"body": {"kernel_regularizer": keras.regularizers.L1(0.1)}})
    penalty = 0.1 * np.abs(kernel_of(model, "body")).sum()
    assert evaluate(model) == pytest.approx(before + penalty, rel=1e-5)


def test_a_penalty_is_in_the_loss_of_fit_and_moves_the_weights():
    model = traced(build(dense(), optimizer=keras.optimizers.SGD(0.1)), "fit")
    kl.override(model, {"body": {"kernel_regularizer": keras.regularizers.L2(0.5)}})
    before = kernel_of(model, "body")
    zero = np.zeros_like(x)
    model.fit(zero, np.zeros_like(y), epochs=1, batch_size=8, verbose=0)
    # Inputs of zero give no other gradient: w - 0.1 * 2 * 0.5 * w.
    np.testing.assert_allclose(kernel_of(model, "body"), 0.9 * before, rtol=1e-5)


@pytest.mark.parametrize(
    "value", ["sigmoid", keras.activations.sigmoid, lambda t: 1 / (1 + keras.ops.exp(-t))]
)
def test_an_activation_is_in_the_output(value):
    model = traced(build(dense(activation="relu")), "predict")
    kl.override(model, {"body": {"activation": value}})
    body, head = model.get_layer("body"), model.get_layer("head")
    bias = keras.ops.convert_to_numpy(body.bias), keras.ops.convert_to_numpy(head.bias)
    hidden = 1 / (1 + np.exp(-(x @ kernel_of(model, "body") + bias[0])))
    np.testing.assert_allclose(
        predict(model), hidden @ kernel_of(model, "head") + bias[1], rtol=1e-4, atol=1e-5
    )


def test_a_layer_whose_config_cannot_be_written_takes_overrides():
    model = build(dense(activation=lambda t: 2 * t))
    before = predict(model)
    kl.override(model, {"body": {"activation": lambda t: 4 * t}})
    head_bias = keras.ops.convert_to_numpy(model.get_layer("head").bias)
    np.testing.assert_allclose(predict(model) - head_bias, 2 * (before - head_bias), rtol=1e-5)


def test_an_activity_regularizer_is_in_the_loss():
    model = traced(build(dense()))
    before = evaluate(model)
    kl.override(model, {"head": {"activity_regularizer": keras.regularizers.L1(0.1)}})
    penalty = keras.regularizers.L1(0.1)
    output = keras.layers.Dense(1, name="head", activity_regularizer=penalty)
    from_the_start = keras.Sequential([keras.Input((4,)), model.get_layer("body"), output])
    from_the_start.compile(loss="mse")
    output.set_weights(model.get_layer("head").get_weights())
    assert evaluate(model) == pytest.approx(evaluate(from_the_start), rel=1e-5)
    assert evaluate(model) > before + 0.1


def test_a_constraint_holds_after_the_next_step():
    model = traced(build(dense()))
    kl.override(model, {"body": {"kernel_constraint": keras.constraints.UnitNorm()}})
    model.fit(x, y, verbose=0)
    norms = np.linalg.norm(kernel_of(model, "body"), axis=0)
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)


def test_a_dropout_that_was_made_with_rate_zero_drops(tmp_path):
    drop = keras.layers.Dropout(0.0)
    model = traced(build(dense(), drop))
    override = kl.override(model, {keras.layers.Dropout: {"rate": 0.5}})
    kept = keras.ops.convert_to_numpy(drop(np.ones((50, 50), "float32"), training=True))
    assert set(np.unique(kept)) == {0.0, 2.0}
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    assert reloaded.get_layer("dropout").rate == 0.5
    override.undo()
    assert not hasattr(drop, "seed_generator")
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").get_layer("dropout").rate == 0.0


def test_momentum_and_epsilon_of_a_normalization():
    norm = keras.layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((4,)), norm])
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)
    model.predict(x, verbose=0)
    kl.override(model, {"norm": {"momentum": 0.25, "epsilon": 3.0}})
    mean = keras.ops.convert_to_numpy(norm.moving_mean)
    model.fit(x, x, batch_size=8, verbose=0)
    after = keras.ops.convert_to_numpy(norm.moving_mean)
    np.testing.assert_allclose(after, 0.25 * mean + 0.75 * x.mean(0), rtol=1e-4, atol=1e-6)
    variance = keras.ops.convert_to_numpy(norm.moving_variance)
    gamma, beta = (keras.ops.convert_to_numpy(w) for w in (norm.gamma, norm.beta))
    expected = (x - after) / np.sqrt(variance + 3.0) * gamma + beta
    np.testing.assert_allclose(predict(model), expected, rtol=1e-4, atol=1e-5)


def test_the_optimizer_keeps_its_state_and_the_model_its_compilation():
    model = traced(build(dense(), optimizer="adam"))
    state = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
    kl.override(model, {"body": {"activation": "tanh"}})
    for old, new in zip(state, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))
    assert model.compiled
    model.fit(x, y, verbose=0)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 2


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_trainable_takes_effect_and_back_with_slots_kept(optimizer):
    model = traced(build(dense(), optimizer=optimizer))
    before = kernel_of(model, "body")
    with kl.override(model, {"body": {"trainable": False}}):
        model.fit(x, y, verbose=0)
        np.testing.assert_array_equal(kernel_of(model, "body"), before)
    model.fit(x, y, verbose=0)
    assert not np.array_equal(kernel_of(model, "body"), before)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 3


def test_trainable_that_the_optimizer_has_no_state_for_is_refused():
    body = dense()
    body.trainable = False
    model = traced(build(body))
    with pytest.raises(kl.RuleError, match=r"built without 'body/kernel' and 1 more"):
        kl.override(model, {"body": {"trainable": True}})
    assert not body.trainable
    assert len(model.trainable_weights) == 2
    model.fit(x, y, verbose=0)


def test_a_with_block_puts_everything_back_also_after_an_error():
    model = traced(build(dense(activation="relu")))
    before, loss, config = predict(model), evaluate(model), model.get_config()
    settings = {
        "body": {
            "activation": "tanh",
            "kernel_regularizer": "l2",
            "bias_constraint": "non_neg",
            "trainable": False,
        }
    }

    def use_and_fail():
        with kl.override(model, settings):
            assert evaluate(model) != loss
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use_and_fail()
    np.testing.assert_array_equal(predict(model), before)
    assert evaluate(model) == loss
    assert model.get_config() == config
    assert model.get_layer("body").kernel.constraint is None
    assert len(model.trainable_weights) == 4


def test_a_refused_override_changes_nothing():
    model = traced(build(dense(activation="relu")))
    before = predict(model)
    with pytest.raises(kl.RuleError, match="'units'"):
        kl.override(model, {"body": {"activation": "tanh", "units": 5}})
    assert model.get_config()["layers"][1]["config"]["activation"] == "relu"
    np.testing.assert_array_equal(predict(model), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": 5}, r"'units' of 'body' cannot change from 3 to 5 .* Make the model anew"),
        ({"use_bias": False}, "'use_bias' of 'body' cannot change"),
        ({"kernel_initializer": "zeros"}, r"ran when the layer was built; assign the weight"),
        ({"name": "other"}, "'name' of 'body' cannot change"),
        ({"dtype": "float16"}, "'dtype' of 'body' cannot change"),
        ({"activaton": "relu"}, r"setting 'activaton'. The nearest: \['activation'"),
        ({"activation": "no_such"}, "does not take activation='no_such'"),
        ({"trainable": "yes"}, "True or False; received 'yes'"),
    ],
)
def test_what_cannot_change_says_so_and_what_to_do(settings, message):
    with pytest.raises(kl.RuleError, match=message):
        kl.override(build(dense()), {"body": settings})


def test_shapes_that_others_rely_on_cannot_change():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 3, name="conv", padding="same"),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    for settings in ({"kernel_size": (5, 5)}, {"padding": "valid"}, {"strides": (2, 2)}):
        with pytest.raises(kl.RuleError, match="another shape"):
            kl.override(model, {"conv": settings})


def test_a_rate_out_of_range_is_refused_as_the_layer_does():
    with pytest.raises(kl.RuleError, match=r"rate=1.5: Invalid value"):
        kl.override(build(keras.layers.Dropout(0.1)), {"dropout": {"rate": 1.5}})


def test_a_selector_that_picks_nothing_names_the_nearest():
    with pytest.raises(kl.RuleError, match=r"picks no layer .* \['body'\]"):
        kl.override(build(dense()), {"bdy": {"activation": "relu"}})


def test_layers_are_picked_by_name_path_glob_class_identity_and_question():
    inner = keras.Sequential(
        [keras.Input((4,)), dense(activation="relu"), keras.layers.Dropout(0.1)], name="inner"
    )
    model = build(inner)
    for selector in (
        "body",
        "inner/body",
        "inner",
        inner,
        "*/bo*",
        keras.layers.Dense,
        lambda layer, weight: layer.name == "body",
        ("body", "head"),
    ):
        with kl.override(model, {selector: {"activation": "tanh"}}):
            assert inner.layers[0].activation is keras.activations.tanh
        assert inner.layers[0].activation is keras.activations.relu


@pytest.mark.parametrize(
    "selector",
    [
        "inner/body/kernel",
        "*/body/bias",
        lambda layer, weight: layer.name == "body" and weight.name == "bias",
    ],
)
def test_what_picks_a_weight_as_a_rule_picks_the_layer_that_owns_it(selector):
    inner = keras.Sequential([keras.Input((4,)), dense(activation="relu")], name="inner")
    kl.override(build(inner), {selector: {"activation": "tanh"}})
    assert inner.layers[0].activation is keras.activations.tanh


def test_every_layer_of_one_name_is_changed_and_a_shared_one_once():
    class Twice(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = dense(), dense()
            self.again = self.a

        def call(self, inputs):
            return self.a(inputs) + self.b(inputs) + self.again(inputs)

    model = Twice()
    model(x)
    made = kl.override(model, {"body": {"activation": "relu"}})
    assert {layer.activation for layer in (model.a, model.b)} == {keras.activations.relu}
    assert len(made.changes) == 2


@pytest.mark.parametrize("value", [0.1, "relu", None, ["relu"]])
def test_what_is_no_mapping_of_settings_is_named_with_its_selector(value):
    with pytest.raises(kl.RuleError, match=r"\{attribute: value\}.*'body'"):
        kl.override(build(dense()), {"body": value})


def test_what_only_building_reads_is_refused():
    class Scaled(keras.layers.Layer):
        def __init__(self, start=1.0, power=1.0, **kwargs):
            super().__init__(**kwargs)
            self.start, self.power = start, power

        def get_config(self):
            return {**super().get_config(), "start": self.start, "power": self.power}

        def build(self, shape):
            self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
            self.scale.assign(self.start)

        def call(self, inputs):
            return inputs * self.scale**self.power

    model = build(Scaled(2.0, name="scaled"))
    with pytest.raises(kl.RuleError, match="'start' of 'scaled' cannot change after building"):
        kl.override(model, {"scaled": {"start": 3.0}})
    before = predict(model)
    kl.override(model, {"scaled": {"power": 2.0}})
    bias = keras.ops.convert_to_numpy(model.get_layer("head").bias)
    np.testing.assert_allclose(predict(model) - bias, 2 * (before - bias), rtol=1e-5)


def test_two_overridden_dropouts_do_not_drop_alike():
    drops = [keras.layers.Dropout(0.0, name=name) for name in "ab"]
    model = build(*drops)
    kl.override(model, {keras.layers.Dropout: {"rate": 0.5}})
    ones = np.ones((1, 64), "float32")
    kept = [keras.ops.convert_to_numpy(drop(ones, training=True)) for drop in drops]
    assert not np.array_equal(*kept)


def test_settings_of_layers_that_are_made_of_layers():
    recurrent = keras.layers.LSTM(2, name="recurrent")
    attention = keras.layers.MultiHeadAttention(1, 2, name="attention")
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, recurrent(attention(inputs, inputs)))
    sequence = np.ones((2, 3, 4), "float32")
    model.predict(sequence, verbose=0)
    assert not model.losses
    settings = {
        "recurrent": {"recurrent_regularizer": keras.regularizers.L1(0.1), "dropout": 0.2},
        "attention": {"kernel_regularizer": keras.regularizers.L1(0.1), "dropout": 0.3},
    }
    with kl.override(model, settings):
        kernel = recurrent.cell.recurrent_kernel
        penalties = sorted(float(keras.ops.stop_gradient(loss)) for loss in model.losses)
        expected = 0.1 * np.abs(keras.ops.convert_to_numpy(kernel)).sum()
        assert len(penalties) == 5
        assert any(penalty == pytest.approx(expected, rel=1e-5) for penalty in penalties)
        configs = [layer["config"] for layer in model.get_config()["layers"]]
        assert [c["dropout"] for c in configs if "dropout" in c] == [0.3, 0.2]
        assert attention._dropout_layer.rate == 0.3
        assert recurrent.cell.dropout == 0.2
    assert not model.losses
    assert attention._dropout_layer.rate == 0.0


def test_saved_models_keep_overrides(tmp_path):
    model = traced(build(dense(activation="relu"), keras.layers.Dropout(0.1)))
    kl.override(
        model,
        {
            "body": {"activation": "tanh", "kernel_regularizer": keras.regularizers.L2(0.5)},
            "dropout": {"rate": 0.4},
        },
    )
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(reloaded), predict(model), rtol=1e-5)
    assert evaluate(reloaded) == pytest.approx(evaluate(model), rel=1e-5)
    assert reloaded.get_layer("dropout").rate == 0.4


def test_a_config_that_keras_makes_follows(tmp_path):
    """ELU has no `get_config`: Keras notes what its constructor was given."""
    model = traced(build(dense(), keras.layers.ELU(1.0, name="elu")))
    with kl.override(model, {"elu": {"alpha": 3.0}}) as made:
        assert [change["key"] for change in made.changes] == ["architecture/layers/elu/alpha"]
        model.save(tmp_path / "model.keras")
        reloaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(predict(reloaded), predict(model), rtol=1e-5)
    assert model.get_layer("elu").get_config()["alpha"] == 1.0


def test_what_a_layer_ignores_is_refused():
    """SimpleRNN takes an activity regularizer, and keeps nothing of it."""
    recurrent = keras.layers.SimpleRNN(2, name="recurrent")
    model = keras.Sequential([keras.Input((3, 4)), recurrent])
    with pytest.raises(kl.RuleError, match="keeps nothing of it"):
        kl.override(model, {"recurrent": {"activity_regularizer": keras.regularizers.L2(0.5)}})


def test_in_mid_run_the_next_step_uses_the_new_value():
    class Penalize(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                settings = {"kernel_regularizer": keras.regularizers.L2(10.0)}
                kl.override(self.model, {"body": settings, keras.layers.Dropout: {"rate": 0.1}})

    model = build(dense(), keras.layers.Dropout(0.0), optimizer=keras.optimizers.SGD(1e-6))
    model.fit(x, y, epochs=2, verbose=0, callbacks=[Penalize()])
    first, second = model.history.history["loss"]
    penalty = 10.0 * np.square(kernel_of(model, "body")).sum()
    assert second - first == pytest.approx(penalty, rel=0.1)


def test_changes_are_known_with_before_and_after():
    model = traced(build(dense(activation="relu")))
    override = kl.override(model, {"body": {"activation": "tanh"}})
    assert override.changes == [
        {
            "step": 1,
            "key": "architecture/layers/body/activation",
            "old": "relu",
            "new": "tanh",
        }
    ]


def test_a_model_that_is_not_compiled_takes_overrides():
    model = keras.Sequential([keras.Input((4,)), dense()])
    kl.override(model, {"body": {"kernel_regularizer": keras.regularizers.L1(1.0)}})
    assert float(keras.ops.stop_gradient(model.losses[0])) == 12.0
    model.compile("sgd", "mse")
    model.fit(x, np.ones((8, 3), "float32"), verbose=0)
