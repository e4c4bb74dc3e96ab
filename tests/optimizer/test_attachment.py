"""How an optimizer learns its model, without being told."""

import copy
import pickle
import warnings

import keras
import numpy as np
import pytest

from keras_layerwise import LayerwiseOptimizer, Rule, RuleError, optimizer_of
from keras_layerwise.optimizer import attachment
from tests.shared import models
from tests.shared.models import fit, numpy

L = keras.layers


def nested():
    inner = keras.Input((4,))
    body = keras.Model(inner, L.Dense(3, name="x2")(L.Dense(4, name="x1")(inner)), name="backbone")
    inputs = keras.Input((4,))
    return keras.Model(inputs, L.Dense(2, name="head")(body(inputs)))


WAYS = {
    "fit": lambda model: fit(model, epochs=1),
    "train_on_batch": lambda model: model.train_on_batch(*models.data(rows=8)),
    "test_on_batch": lambda model: model.test_on_batch(*models.data(rows=8)),
    "evaluate": lambda model: model.evaluate(*models.data(rows=8), verbose=0),
}


@pytest.mark.parametrize("way", WAYS)
def test_names_of_nested_models_and_callables_resolve(way):
    model = nested()
    rules = {
        "backbone/x1/kernel": 0.1,
        lambda layer, weight: (layer.name, weight.name) == ("x1", "bias"): 0.2,
        "backbone": 0.3,
    }
    model.compile(LayerwiseOptimizer("sgd", rules), "mse")
    WAYS[way](model)
    optimizer = optimizer_of(model)
    assert [a.multiplier for a in optimizer.selected("backbone")] == [0.1, 0.2, 0.3, 0.3]
    assert {a.multiplier for a in optimizer.selected("head")} == {1.0}


def test_freezing_reaches_the_compiled_step_without_attach():
    model = models.sequential()
    model.compile(LayerwiseOptimizer("sgd"), "mse")
    fit(model, epochs=1)
    model.optimizer.freeze("body")
    before = numpy(model.get_layer("body").kernel)
    fit(model, epochs=1)
    np.testing.assert_array_equal(numpy(model.get_layer("body").kernel), before)


def reloaded(model, tmp_path):
    model.save(tmp_path / "m.keras")
    return keras.models.load_model(tmp_path / "m.keras")


COPIES = {
    "load_model": reloaded,
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("again", COPIES.values(), ids=COPIES)
def test_a_copy_can_be_asked_and_changed_at_once(again, tmp_path):
    model = models.sequential()
    model.compile(LayerwiseOptimizer("sgd", {"body": 0.1}), "mse")
    fit(model, epochs=1)
    other = again(model, tmp_path)
    optimizer = optimizer_of(other)
    assert optimizer is not optimizer_of(model)
    assert optimizer.assignments == optimizer_of(model).assignments
    optimizer.set_multiplier("body", 0.5)
    assert optimizer.selected("body")[0].multiplier == 0.5
    optimizer.freeze("body")
    before = numpy(other.get_layer("body").kernel)
    fit(other, epochs=1)
    np.testing.assert_array_equal(numpy(other.get_layer("body").kernel), before)


@keras.saving.register_keras_serializable("tests")
class CompilesItself(keras.Model):
    """A model with a ``compile`` of its own, called by its constructor, as KerasHub's tasks."""

    def __init__(self, itself=True, **kwargs):
        inputs = keras.Input((4,))
        outputs = L.Dense(2, name="head")(L.BatchNormalization(name="body")(inputs))
        super().__init__(inputs, outputs, **kwargs)
        self.itself = itself
        if itself:
            self.compile()

    def compile(self, optimizer="adam", loss="mse", **kwargs):
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def get_config(self):
        return {"name": self.name, "itself": self.itself}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@pytest.mark.parametrize("again", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_model_with_a_compile_of_its_own_keeps_its_optimizer(again, tmp_path):
    model = CompilesItself()
    model.compile(LayerwiseOptimizer("adam", {"body": Rule(frozen=True)}))
    fit(model, epochs=1)
    other = again(model, tmp_path)
    assert optimizer_of(other).assignments == optimizer_of(model).assignments
    for mine, stored in zip(other.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numpy(mine), numpy(stored))
    before = models.weights_of(other)
    fit(other, epochs=1)
    moved = [not (a == b).all() for a, b in zip(before, models.weights_of(other), strict=True)]
    assert moved == [False] * 4 + [True] * 2


def test_what_a_compile_of_ones_own_may_set_is_said_to_be_missing(tmp_path):
    model = CompilesItself(itself=False)
    model.compile(LayerwiseOptimizer("adam", {"body": 0.1}))
    with pytest.warns(UserWarning, match="CompilesItself has a compile.. of its own"):
        other = reloaded(model, tmp_path)
    other.compile(other.optimizer)
    fit(other, epochs=1)
    assert optimizer_of(other).selected("body")[0].multiplier == 0.1


@pytest.mark.filterwarnings("ignore:The object being serialized", "ignore:Skipping variable")
def test_a_loss_that_is_not_known_leaves_such_a_model_as_keras_does(tmp_path):
    model = CompilesItself()
    model.compile(LayerwiseOptimizer("adam"), loss=lambda y, z: keras.ops.mean((y - z) ** 2, -1))
    with pytest.warns(UserWarning, match="`compile..` was not called"):
        other = reloaded(model, tmp_path)
    assert optimizer_of(other) is None


def test_an_outer_model_trains_an_inner_ones_optimizer():
    inner = models.sequential()

    class Outer(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def call(self, inputs, training=False):
            return self.inner(inputs, training=training)

    outer = Outer()
    outer.compile(LayerwiseOptimizer("sgd", {"body": 0.5}, model=inner), "mse")
    fit(outer, epochs=1)
    optimizer = optimizer_of(outer)
    assert [a.path for a in optimizer.selected("body")] == ["body/kernel", "body/bias"]
    optimizer.freeze(["body", "bn"])
    before = [numpy(w) for w in inner.weights[:6]]
    fit(outer, epochs=1)
    for value, weight in zip(before, inner.weights[:6], strict=True):
        np.testing.assert_array_equal(numpy(weight), value)


def test_an_inner_model_trains_again_beside_an_outer_one_and_both_are_stored(tmp_path):
    inner = models.sequential()
    inner.compile(LayerwiseOptimizer(keras.optimizers.Adam(0.01), {"body": 0.5}), "mse")
    fit(inner, epochs=1)
    inputs = keras.Input(inner.input_shape[1:])
    outer = keras.Model(inputs, keras.layers.Dense(2, name="top")(inner(inputs)))
    outer.compile(inner.optimizer, "mse")
    fit(outer, epochs=1)
    before = numpy(outer.get_layer("top").kernel), numpy(inner.get_layer("body").kernel)
    fit(inner, epochs=1)
    np.testing.assert_array_equal(numpy(outer.get_layer("top").kernel), before[0])
    assert (numpy(inner.get_layer("body").kernel) != before[1]).any()
    assert int(outer.optimizer.iterations) > 0
    expected = [(a.path, a.multiplier) for a in optimizer_of(outer).assignments]
    assert len(expected) == len(outer.trainable_weights)
    outer.save(tmp_path / "outer.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras stores the state with the inner model
        again = keras.saving.load_model(tmp_path / "outer.keras")
    assert [(a.path, a.multiplier) for a in optimizer_of(again).assignments] == expected
    found = [a.multiplier for a in optimizer_of(again.layers[1]).assignments]
    assert found == [multiplier for _, multiplier in expected[: len(found)]]


def test_an_optimizer_of_a_step_of_the_models_own_knows_it_too():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.head = L.Dense(3, name="body"), L.Dense(2, name="head")
            self.other_optimizer = LayerwiseOptimizer("sgd", {L.Dense: 0.5})

        def call(self, inputs):
            return self.head(self.body(inputs))

    model = Two()
    model.compile("sgd", "mse")
    fit(model, epochs=1)
    model.other_optimizer.build(model.body.trainable_variables)
    assert [a.path for a in model.other_optimizer.assignments] == ["body/kernel", "body/bias"]


def test_under_loss_scaling():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = nested()
        model.compile(LayerwiseOptimizer("adam", {"backbone": 0.1}), "mse")
        fit(model, epochs=1)
        optimizer_of(model).set_multiplier("backbone", 0.2)
        again = copy.deepcopy(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {a.multiplier for a in optimizer_of(model).selected("backbone")} == {0.2}
    assert {a.multiplier for a in optimizer_of(again).selected("backbone")} == {0.2}


def test_optimizer_of_others_is_none():
    model = models.sequential()
    assert optimizer_of(model) is None
    model.compile("adam", "mse")
    assert optimizer_of(model) is None


def test_a_wrong_rule_is_an_error_of_fit_before_anything_trains():
    model = nested()
    model.compile(LayerwiseOptimizer("sgd", {"backbonne": Rule(frozen=True)}), "mse")
    before = models.weights_of(model)
    model.predict(models.data()[0], verbose=0)
    with pytest.raises(RuleError, match=r"'backbonne' selects nothing.*'backbone/x1'"):
        fit(model, epochs=1)
    assert all((a == b).all() for a, b in zip(before, models.weights_of(model), strict=True))


def test_the_hooks_can_be_taken_off_and_do_nothing_for_others(scripts):
    code = """
from pathlib import Path
import keras
from keras_layerwise.optimizer import attachment

def compiles():
    return [vars(keras.Model.__mro__[i]).get("compile") for i in range(1, 4)]

ours = Path(attachment.__file__).parents[1]
hooked = compiles()
attachment.uninstall()
plain = compiles()
assert plain != hooked
assert not any(ours in Path(own.__code__.co_filename).parents for own in plain if own)
attachment.install()
attachment.install()
assert compiles() != plain
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
assert "call" not in vars(model)
attachment.uninstall()
assert compiles() == plain
"""
    scripts.succeed((code,))


def test_a_model_that_is_gone_is_not_kept_alive():
    import gc
    import weakref

    optimizer = LayerwiseOptimizer("sgd")
    model = models.sequential()
    model.compile(optimizer, "mse")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert optimizer.plan.models == []
    assert not [ref for ref in attachment._known if ref is None]
