"""The same assignment for the same weights, through every way of storing a model."""

import contextlib
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_layerwise import GradualUnfreeze, LayerwiseOptimizer, Rule, RuleError
from tests.shared import models
from tests.shared.models import assert_same_weights, compile_bare, fit, numpy, weights_of

optimizers = keras.optimizers
Falling = optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)

MODELS = {
    "sequential": (models.sequential, "body", "head"),
    "nested": (models.nested, "left/dense", "right"),
    "shared": (models.shared, "twice", "head"),
    "subclassed": (models.subclassed, "body", "head"),
}


def by_object(model, first, second):
    return {
        find(model, first): Rule(frozen=True),
        find(model, second): Rule(multiplier=0.2, weight_decay=0.01),
    }


def find(model, path):
    for name in path.split("/"):
        model = next(layer for layer in model._flatten_layers() if layer.name == name)
    return model


SELECTORS = {
    "object": by_object,
    "name": lambda model, first, second: {first: Rule(frozen=True), second: 0.2},
    "glob": lambda model, first, second: {
        f"{first}/*": Rule(frozen=True),
        "*/bias": Rule(learning_rate=Falling),
    },
    "regex": lambda model, first, second: {
        re.compile(f"(.*/)?{first}/kernel"): Rule(frozen=True),
        re.compile(".*bias"): 0.3,
    },
    "class": lambda model, first, second: {
        find(model, first): Rule(frozen=True),
        keras.layers.Dense: 0.4,
    },
    "callable": lambda model, first, second: {
        lambda layer, weight: layer.name == first.rpartition("/")[2]: Rule(frozen=True),
        lambda layer, weight: weight.name == "bias": Rule(learning_rate=0.002),
    },
}


def compiled(make, rules, first, second, fused=True):
    model = make()
    model(models.data()[0][:1])
    optimizer = LayerwiseOptimizer(
        optimizers.AdamW(0.01, weight_decay=0.1),
        rules(model, first, second),
        model=model,
        fused=fused,
    )
    model.compile(optimizer, loss="mse")
    return model


def trained(*made, **options):
    model = compiled(*made, **options)
    fit(model)
    return model


def with_slots(*made, **options):
    """As if trained, without a step that would have to be compiled first."""
    model = compiled(*made, **options)
    model.optimizer.build(model.trainable_variables)
    step_on(model)
    return model


def step_on(model):
    rng = np.random.default_rng(5)
    _, _, *slots = model.optimizer.inner_optimizer.variables
    for variable in slots:
        variable.assign(rng.uniform(size=variable.shape))
    model.optimizer.iterations.assign_add(7)


def holds(optimizer):
    """The assignment in terms that a reload does not change."""
    return [
        (s.path.rpartition("/")[2], s.label, s.rule.multiplier, s.rule.weight_decay, s.rule.frozen)
        for s in optimizer.plan.settings
    ]


def assert_same(model, again):
    assert holds(again.optimizer) == holds(model.optimizer)
    assert [a.learning_rate for a in again.optimizer.assignments] == pytest.approx(
        [a.learning_rate for a in model.optimizer.assignments]
    )
    state, state_again = model.optimizer.state.variables(), again.optimizer.state.variables()
    assert list(state_again) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(numpy(state_again[name]), numpy(value), err_msg=name)


def assert_trains_on_alike(model, again, epochs=2):
    fit(model, epochs=epochs)
    fit(again, epochs=epochs)
    assert_same_weights(model, again)


# Every selector is stored with every model; each of both trains on here. Where all that is
# stored is the same, training on is tested with some: its steps take longest to compile.
TRAINS_ON = {
    ("sequential", "object"),
    ("subclassed", "name"),
    ("shared", "glob"),
    ("nested", "glob"),
    ("subclassed", "regex"),
    ("sequential", "class"),
    ("shared", "callable"),
}


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_keras_file_keeps_assignment_and_slots(kind, selector, tmp_path):
    make, first, second = MODELS[kind]
    trains_on = (kind, selector) in TRAINS_ON
    made = trained if trains_on else with_slots
    model = made(make, SELECTORS[selector], first, second)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert_same(model, again)
    if not trains_on:
        return
    if keras.backend.backend() == "torch" and make is models.nested:
        # Keras registers PyTorch's parameters by path. After a reload two layers share one, so
        # one gradient is never set to zero again: with the bare optimizer, too.
        return
    assert_trains_on_alike(model, again)


def test_a_frozen_body_stays_frozen_after_a_reload(tmp_path):
    """Where keras.optimizers.MultiOptimizer lets it train: the path lost its prefix."""
    model = with_slots(models.nested, lambda *_: {"left": Rule(frozen=True)}, "", "")
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    left = [numpy(w) for w in again.get_layer("left").weights]
    fit(again)
    for before, weight in zip(left, again.get_layer("left").weights, strict=True):
        np.testing.assert_array_equal(numpy(weight), before)


# In a process that has imported the backend, which takes longest, and knows no layer of ours.
LOADER = """
import importlib, json, sys

for name in list(sys.modules):
    if name.partition(".")[0] in ("keras", "keras_layerwise"):
        del sys.modules[name]
path, *order = sys.argv[1:]
for name in order:
    importlib.import_module(name)
import keras

model = keras.models.load_model(path)
print(json.dumps([[a.path, a.rule, a.multiplier, a.frozen] for a in model.optimizer.assignments]))
"""


def test_loading_in_a_new_process_needs_only_the_import_in_either_order(tmp_path, scripts):
    rules = {
        lambda layer, weight: layer.name == "body": Rule(frozen=True),
        lambda layer, weight: weight.name == "bias": 0.3,
    }
    model = with_slots(models.sequential, lambda *_: rules, "", "")
    model.save(tmp_path / "m.keras")
    orders = [("keras", "keras_layerwise"), ("keras_layerwise", "keras")]
    found = scripts.succeed(*((LOADER, tmp_path / "m.keras", *order) for order in orders))
    expected = [[a.path, a.rule, a.multiplier, a.frozen] for a in model.optimizer.assignments]
    assert [json.loads(each) for each in found] == [expected] * 2


def test_a_model_saved_before_its_first_step(tmp_path):
    model = models.sequential()
    rules = {
        model.get_layer("body"): Rule(frozen=True),
        re.compile(".*bias", re.IGNORECASE): Rule(learning_rate=Falling),
        "head": 0.5,
    }
    model.compile(LayerwiseOptimizer("adam", rules), loss="mse")
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert_trains_on_alike(model, again, epochs=1)
    assert [s.rule.frozen for s in again.optimizer.plan.settings] == [True, True] + [False] * 4


@pytest.mark.parametrize("mutate", ["one more layer", "another shape", "another name"])
def test_a_model_that_does_not_fit_is_an_error(mutate):
    model = with_slots(models.sequential, lambda *_: {"body": 0.1}, "", "")
    optimizer = LayerwiseOptimizer.from_config(model.optimizer.get_config())
    widths = {"one more layer": (6, 6, 2), "another shape": (7, 2), "another name": (6, 2)}[mutate]
    layers = [keras.layers.Dense(width) for width in widths]
    if mutate == "another name":
        layers.insert(1, keras.layers.PReLU())
        layers.insert(2, keras.layers.BatchNormalization(center=False))
    else:
        layers.insert(1, keras.layers.BatchNormalization())
    other = keras.Sequential([keras.Input((4,)), *layers])
    other.compile(optimizer, loss="mse")
    before = weights_of(other)
    with pytest.raises(RuleError, match="stored assignment"):
        fit(other)
    for a, b in zip(before, weights_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("make", "first", "second"), MODELS.values(), ids=MODELS.keys())
def test_weights_files_keep_what_changed_at_run_time(make, first, second, tmp_path):
    """A resumed run begins with the user's rules and goes on with what held."""
    model = with_slots(make, SELECTORS["name"], first, second)
    model.optimizer.unfreeze(first)
    model.optimizer.set_multiplier(second, 0.7)
    step_on(model)
    model.save_weights(tmp_path / "m.weights.h5")

    trains_on = make in (models.nested, models.subclassed)
    again = (trained if trains_on else compiled)(make, SELECTORS["name"], first, second)
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "m.weights.h5")
    assert_same(model, again)
    assert_same_weights(model, again)
    if trains_on:
        assert_trains_on_alike(model, again, epochs=1)


def test_slots_of_a_weight_that_is_frozen_now_are_kept(tmp_path):
    model = with_slots(models.sequential, lambda *_: {"head": 0.5}, "", "")
    model.optimizer.freeze("body")
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert_same(model, again)
    again.optimizer.unfreeze("body")
    assert np.any(numpy(again.optimizer.state.variables()["momentums.0"]))


def test_weights_of_another_optimizer_are_skipped_with_a_warning(tmp_path):
    bare = models.sequential()
    bare.set_weights([weight + 1 for weight in weights_of(bare)])
    compile_bare(bare, "adam")
    bare.save_weights(tmp_path / "bare.weights.h5")
    model = with_slots(models.sequential, lambda *_: {"head": 0.5}, "", "")
    before = {name: numpy(v) for name, v in model.optimizer.state.variables().items()}
    with pytest.warns(UserWarning, match="skipped"):
        model.load_weights(tmp_path / "bare.weights.h5")
    for name, value in model.optimizer.state.variables().items():
        np.testing.assert_array_equal(numpy(value), before[name])
    assert_same_weights(bare, model)


def gradual(directory, epochs, stop_after=None):
    """A run with gradual unfreezing that may be interrupted and taken up again."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == stop_after:
                raise KeyboardInterrupt

    model = models.sequential()
    rules = {"body": Rule(multiplier=0.5, frozen=True), "bn": Rule(frozen=True)}
    model.compile(LayerwiseOptimizer(optimizers.Adam(0.01), rules, model=model), loss="mse")
    callbacks = [
        GradualUnfreeze({1: "bn", 2: "body"}),
        keras.callbacks.BackupAndRestore(directory, delete_checkpoint=False),
        Stop(),
    ]
    with contextlib.suppress(KeyboardInterrupt):
        fit(model, epochs=epochs, callbacks=callbacks)
    return model


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return gradual(tmp_path_factory.mktemp("undisturbed"), 4)


@pytest.mark.parametrize("stop_after", [2, 3])  # one layer to come, and none
def test_backup_and_restore_goes_on_as_if_undisturbed(tmp_path, undisturbed, stop_after):
    gradual(tmp_path / "b", 4, stop_after=stop_after)
    resumed = gradual(tmp_path / "b", 4)
    assert_same(undisturbed, resumed)
    assert_same_weights(undisturbed, resumed)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize(("make", "first", "second"), MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("train_first", [True, False])
def test_tf_checkpoint_keeps_assignment_and_slots(make, first, second, tmp_path, train_first):
    import tensorflow as tf

    model = with_slots(make, SELECTORS["name"], first, second)
    model.optimizer.unfreeze(first)
    step_on(model)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "ckpt")

    again = make()
    again(models.data()[0][:1])
    rules = SELECTORS["name"](again, first, second)
    again.compile(
        LayerwiseOptimizer(optimizers.AdamW(0.01, weight_decay=0.1), rules, model=again), loss="mse"
    )
    if train_first:
        fit(again)
    tf.train.Checkpoint(model=again, optimizer=again.optimizer).restore(path)
    again.optimizer.build(again.trainable_variables)
    assert_same(model, again)
    assert_same_weights(model, again)
    if train_first == (make in (models.nested, models.subclassed)):
        assert_trains_on_alike(model, again, epochs=1)


def test_under_mixed_precision_a_reload_keeps_everything(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = trained(models.sequential, SELECTORS["name"], "body", "head")
        model.save(tmp_path / "m.keras")
        again = keras.models.load_model(tmp_path / "m.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    inner, inner_again = model.optimizer.inner_optimizer, again.optimizer.inner_optimizer
    assert holds(inner) == holds(inner_again)
    for name, value in inner.state.variables().items():
        np.testing.assert_array_equal(numpy(inner_again.state.variables()[name]), numpy(value))
    assert float(again.optimizer.dynamic_scale.numpy()) == float(
        model.optimizer.dynamic_scale.numpy()
    )


def test_a_config_is_json_and_makes_the_same_optimizer():
    model = with_slots(models.sequential, SELECTORS["glob"], "body", "head", fused=False)
    config = json.loads(json.dumps(model.optimizer.get_config()))
    again = LayerwiseOptimizer.from_config(config)
    assert not again.fused
    again.build(model.trainable_variables)
    assert holds(again) == holds(model.optimizer)


def test_the_position_of_a_weight_decides_not_its_path():
    """Two models built one after the other have other automatic names."""

    def automatic():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])

    model = automatic()
    first = model.layers[0].name
    model.compile(LayerwiseOptimizer("adam", {first: 0.1}, model=model), loss="mse")
    model.optimizer.build(model.trainable_variables)
    other = automatic()
    assert other.layers[0].name != first
    other.compile(LayerwiseOptimizer.from_config(model.optimizer.get_config()), loss="mse")
    fit(other)
    assert [a.multiplier for a in other.optimizer.assignments] == [0.1, 0.1, 1.0, 1.0]


class TestVersion01:
    """What version 0.1 saved reads, and trains on to the numbers that it trained on to."""

    SAVED = Path(__file__).parents[1] / "saved" / "0.1"

    @pytest.fixture
    def expected(self):
        return json.loads((self.SAVED / "expected.json").read_text())

    @staticmethod
    def assert_expected(model, expected):
        assert int(numpy(model.optimizer.iterations)) == expected["iterations"]
        assert [vars(a) for a in model.optimizer.assignments] == [
            pytest.approx(entry) if isinstance(entry, float) else entry
            for entry in expected["assignments"]
        ]
        for value, weight in zip(expected["weights"], model.get_weights(), strict=True):
            np.testing.assert_allclose(weight, value, rtol=1e-6)
        x = np.random.RandomState(0).rand(32, 6).astype("f4")
        y = np.random.RandomState(1).rand(32, 2).astype("f4")
        model.fit(x, y, epochs=1, batch_size=8, verbose=0, shuffle=False)
        later = expected["weights_after_another_epoch"]
        for value, weight in zip(later, model.get_weights(), strict=True):
            np.testing.assert_allclose(weight, value, rtol=1e-4, atol=1e-6)

    def test_the_keras_file(self, expected):
        if tuple(map(int, keras.version().split(".")[:2])) < (3, 15):
            pytest.skip("was saved by Keras 3.15, whose layers have settings unknown to this one")
        self.assert_expected(keras.models.load_model(self.SAVED / "model.keras"), expected)

    def rebuilt(self):
        """The model and rules of ``make.py``, not trained, and without its metric."""
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(4, activation="tanh", name="stem")(inputs)
        hidden = keras.layers.BatchNormalization(name="norm")(hidden)
        body = [keras.layers.Dense(4, name=name) for name in "ab"]
        hidden = keras.Sequential([keras.Input((4,)), *body], name="body")(hidden)
        model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden), name="saved")
        rules = {
            "stem": Rule(frozen=True, multiplier=0.1),
            "body/a": Rule(multiplier=0.25, weight_decay=0.01),
            "body/b": Rule(learning_rate=Falling),
            "norm": 0.5,
        }
        inner = optimizers.AdamW(1e-2, weight_decay=0.1)
        model.compile(LayerwiseOptimizer(inner, rules, model=model), loss="mse")
        model.optimizer.build(model.trainable_variables)
        return model

    def test_the_weights_file(self, expected):
        model = self.rebuilt()
        model.load_weights(self.SAVED / "model.weights.h5")
        self.assert_expected(model, expected)

    @pytest.mark.tensorflow_only
    def test_the_checkpoint(self, expected):
        import tensorflow as tf

        model = self.rebuilt()
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        checkpoint.read(str(self.SAVED / "checkpoint")).expect_partial()
        self.assert_expected(model, expected)
