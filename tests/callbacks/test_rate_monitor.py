import keras
import numpy as np
import pytest
from keras import layers
from tensorboard.util import tensor_util

import keras_layerwise as kl
from keras_layerwise.storage import schema
from keras_layerwise.storage.schema import Series
from tests.shared.drift import read

X, Y = np.ones((16, 3), "float32"), np.ones((16, 2), "float32")


def network(name=None):
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="body"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="head"),
        ],
        name=name,
    )


def fit(model, *callbacks, epochs=2):
    """The history's rates: {row: [per epoch]}."""
    history = model.fit(X, Y, epochs=epochs, batch_size=8, verbose=0, callbacks=list(callbacks))
    return {
        key.removeprefix("learning_rate").removeprefix("/"): values
        for key, values in history.history.items()
        if key.startswith("learning_rate")
    }


def series(directory, kind="rates"):
    """The series of one kind, in the order they began: plugin data, steps and values."""
    kinds, found = {}, {}
    for event in read(directory / schema.RATES_DIR):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == schema.PLUGIN:
                kinds[value.tag] = Series.parse(value.metadata.plugin_data.content)
            if value.tag in kinds and kinds[value.tag].kind == kind:
                steps, values = found.setdefault(value.tag, ([], []))
                steps.append(event.step)
                values.append(tensor_util.make_ndarray(value.tensor))
    return [(kinds[tag], steps, values) for tag, (steps, values) in found.items()]


def test_a_plain_optimizer_has_one_rate_and_frozen_layers_none(tmp_path):
    model = network()
    model.get_layer("body").trainable = False
    model.compile(keras.optimizers.SGD(0.5), "mse")
    rates = fit(model, kl.LearningRateMonitor(tmp_path))
    assert rates == {"": [0.5] * 2, "body": [0.0] * 2, "norm": [0.5] * 2, "head": [0.5] * 2}
    ((about, steps, values),) = series(tmp_path)
    assert [(r.name, r.trainable, r.frozen, r.parameters) for r in about.rows] == [
        ("body", True, True, 16),
        ("norm", True, False, 8),
        ("head", True, False, 10),
    ]
    assert about.kind == "rates"
    assert steps == [2, 4]
    assert [value.tolist() for value in values] == [[0, 0.5, 0.5]] * 2


def test_nothing_is_written_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = network()
    model.compile("sgd", "mse")
    assert "head" in fit(model, kl.LearningRateMonitor())
    assert not list(tmp_path.iterdir())


def test_schedules_show_the_rate_at_the_end_of_each_epoch():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.5, 0.25])
    model = network()
    model.compile(keras.optimizers.SGD(schedule), "mse")
    rates = fit(model, kl.LearningRateMonitor(), epochs=3)
    expected = [float(schedule(step)) for step in (2, 4, 6)]
    assert rates["head"] == rates[""] == expected


def test_rules_show_as_rates_of_layers_and_of_weights_where_they_differ(tmp_path):
    model = network()
    rules = {"body": 0.1, "head/bias": kl.Rule(learning_rate=0.25), "norm": kl.Rule(frozen=True)}
    optimizer = kl.LayerwiseOptimizer(keras.optimizers.SGD(0.5), rules, model=model)
    model.compile(optimizer, "mse")
    rates = fit(model, kl.LearningRateMonitor(tmp_path), epochs=1)
    expected = {"": 0.5, "body": 0.05, "norm": 0, "head/kernel": 0.5, "head/bias": 0.25}
    assert {name: value for name, (value,) in rates.items()} == pytest.approx(expected)
    ((about, _, (values,)),) = series(tmp_path)
    assert [row.name for row in about.rows] == ["body", "norm", "head/kernel", "head/bias"]
    assert [row.parameters for row in about.rows] == [16, 8, 8, 2]
    np.testing.assert_allclose(values, [0.05, 0, 0.5, 0.25], rtol=1e-6)


def test_three_scalars_say_the_rate_and_its_range(tmp_path):
    model = network()
    rules = {"body": 0.1, "norm": kl.Rule(frozen=True)}
    model.compile(kl.LayerwiseOptimizer(keras.optimizers.SGD(0.5), rules, model=model), "mse")
    fit(model, kl.LearningRateMonitor(tmp_path), epochs=1)
    found = {
        value.tag: float(tensor_util.make_ndarray(value.tensor))
        for event in read(tmp_path / schema.RATES_DIR)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "scalars"
    }
    expected = {"learning_rate": 0.5, "learning_rate/lowest": 0.05, "learning_rate/highest": 0.5}
    assert found == pytest.approx(expected)


def test_what_changes_on_the_way_is_said_with_its_step(tmp_path):
    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            optimizer = self.model.optimizer
            if epoch == 1:
                optimizer.unfreeze("body")
            if epoch == 2:
                optimizer.set_multiplier("head", 0.5)
                optimizer.freeze("norm/beta")

    model = network()
    rules = {"body": kl.Rule(frozen=True)}
    model.compile(kl.LayerwiseOptimizer(keras.optimizers.SGD(0.5), rules, model=model), "mse")
    rates = fit(model, kl.LearningRateMonitor(tmp_path), Change(), epochs=3)
    assert rates["body"] == [0, 0.5, 0.5]
    assert rates["head"] == [0.5, 0.5, 0.25]
    ((_, _, batches),) = series(tmp_path, "changes")
    said = [schema.json.loads(text) for texts in batches for text in texts]
    assert said == [
        schema.change("unfrozen", "body", 2, 0.0, 0.5),
        schema.change("multiplier", "head", 4, 1.0, 0.5),
        schema.change("frozen", "norm/beta", 4, 0.5, 0.0),
    ]


def test_keras_own_multi_optimizer_shows_the_rate_of_each_member():
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("this Keras has no MultiOptimizer")
    model = network()
    slow, fast = keras.optimizers.SGD(0.125), keras.optimizers.SGD(0.5)
    choose = lambda variable: slow if "body" in variable.path else fast  # noqa: E731
    model.compile(keras.optimizers.MultiOptimizer(choose), "mse")
    rates = fit(model, kl.LearningRateMonitor(), epochs=1)
    assert rates == {"body": [0.125], "norm": [0.5], "head": [0.5]}


def test_a_loss_scale_optimizer_shows_the_rate_inside():
    model = network()
    inner = keras.optimizers.SGD(0.5)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse")
    assert fit(model, kl.LearningRateMonitor(), epochs=1)["head"] == [0.5]


def test_other_callbacks_see_the_rates():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs["learning_rate/head"])

    model = network()
    model.compile(keras.optimizers.SGD(0.5), "mse")
    fit(model, kl.LearningRateMonitor(), Look())
    assert seen == [0.5, 0.5]


def test_a_log_dir_that_can_not_be_written_is_an_error_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    model = network()
    model.compile("sgd", "mse")
    with pytest.raises(OSError, match="file"):
        fit(model, kl.LearningRateMonitor(tmp_path / "file"))
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize("resumed", [False, True])
def test_rows_that_change_get_a_tag_of_their_own(tmp_path, resumed):
    """TensorBoard keeps the rows that a tag was first written with."""
    model = network()
    monitor = kl.LearningRateMonitor(tmp_path)
    slow = {"body": 0.1}
    model.compile(kl.LayerwiseOptimizer("sgd", slow, model=model), "mse")
    fit(model, monitor)
    model.get_layer("body").enable_lora(2)
    late = {"body/lora*": 2.0, **slow}
    model.compile(kl.LayerwiseOptimizer("sgd", late, model=model), "mse")
    fit(model, kl.LearningRateMonitor(tmp_path) if resumed else monitor)
    found = series(tmp_path)
    for about, _, values in found:
        assert {len(value) for value in values} == {len(about.rows)}
    (first, _, _), (second, _, _) = found
    assert len(second.rows) > len(first.rows)


def test_the_parts_of_a_gan_show_the_rates_of_their_own_optimizers(tmp_path):
    """Each optimizer names its weights below its own part, not below the whole."""

    class Gan(keras.Model):
        def __init__(self):
            super().__init__()
            self.maker, self.critic = network("maker"), network("critic")
            self.own = []
            for part, rules in ((self.maker, {"body": 0.5}), (self.critic, {"head": 0.5})):
                inner = keras.optimizers.SGD(0.5)
                self.own.append(kl.LayerwiseOptimizer(inner, rules, model=part))
                self.own[-1].build(part.trainable_variables)

    with kl.run(tmp_path, gan := Gan()) as run:
        for weight in gan.trainable_variables:
            weight.assign(weight + 1.0)
        run.step()
    ((about, _, (values,)),) = series(tmp_path)
    found = dict(zip([row.name for row in about.rows], values.tolist(), strict=True))
    assert found == {
        "maker/body": 0.25, "maker/norm": 0.5, "maker/head": 0.5,
        "critic/body": 0.5, "critic/norm": 0.5, "critic/head": 0.25,
    }  # fmt: skip


@pytest.mark.tensorflow_only
def test_a_network_of_many_layers_shows_its_parts_in_the_logs_and_all_layers_in_the_tab(tmp_path):
    stack = [layers.Dense(3, name=f"block_{i}_dense") for i in range(70)]
    model = keras.Sequential([keras.Input((3,)), *stack, layers.Dense(2, name="head")])
    rules = kl.layer_decay(model, 0.9)
    model.compile(kl.LayerwiseOptimizer(keras.optimizers.SGD(0.5), rules), "mse", run_eagerly=True)
    rates = fit(model, kl.LearningRateMonitor(tmp_path), epochs=1)
    parts = {part.key for part in kl.outline(model) if part.weights}
    assert len(rates) == 1 + len(parts)
    assert rates["head"] == [0.5]
    ((about, _, _),) = series(tmp_path)
    assert len(about.rows) == 71
    assert {row.part for row in about.rows} == parts
