"""One vocabulary for two questions: which weights, and which layers."""

import re

import keras
import numpy as np
import pytest

from keras_layerwise.errors import RuleError
from keras_layerwise.model.selectors import select, select_layers
from keras_layerwise.model.structure import Sites, places, sites
from tests.shared import models

L = keras.layers


def encoder():
    inner = keras.Sequential(
        [keras.Input((4,)), L.Dense(4, name="dense"), L.Dropout(0.1, name="drop")], name="inner"
    )
    return keras.Sequential(
        [keras.Input((4,)), inner, L.BatchNormalization(name="norm"), L.Dense(2, name="head")],
        name="model",
    )


def names(selector, model):
    return [layer.name for layer in select_layers(selector, model)]


@pytest.mark.parametrize(
    ("selector", "layers", "weights"),
    [
        ("dense", ["dense"], ["inner/dense/kernel", "inner/dense/bias"]),
        ("inner/dense", ["dense"], ["inner/dense/kernel", "inner/dense/bias"]),
        ("model/inner", ["inner"], ["inner/dense/kernel", "inner/dense/bias"]),
        ("inner", ["inner"], ["inner/dense/kernel", "inner/dense/bias"]),
        ("head/bias", ["head"], ["head/bias"]),
        ("*/bias", ["dense", "head"], ["inner/dense/bias", "head/bias"]),
        ("*dr*", ["drop"], []),
        ("drop", ["drop"], []),
        (re.compile(r".*/kernel"), ["dense", "head"], ["inner/dense/kernel", "head/kernel"]),
        (re.compile(r"inner/d\w+"), ["dense", "drop"], []),
        (L.Dropout, ["drop"], []),
        (L.Dense, ["dense", "head"], ["inner/dense/kernel", "inner/dense/bias",
                                      "head/kernel", "head/bias"]),
        (lambda layer, weight: weight.name == "bias", ["dense", "head"],
         ["inner/dense/bias", "head/bias"]),
        (lambda layer, weight: isinstance(layer, L.Dropout), ["drop"], []),
        (["head/bias", "drop"], ["drop", "head"], ["head/bias"]),
        ("nothing", [], []),
    ],
)  # fmt: skip
def test_one_vocabulary(selector, layers, weights):
    model = encoder()
    assert names(selector, model) == layers
    found = sites(model)
    assert [found[i].path for i in select(selector, found)] == weights


def test_a_layer_object_and_the_model_itself():
    model = encoder()
    assert select_layers(model.get_layer("norm"), model) == [model.get_layer("norm")]
    assert select_layers(model, model) == [model]
    assert select_layers(L.Dense(1), model) == []


def test_two_layers_of_one_name_are_both_picked():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.p, self.q = L.Dense(2, name="proj"), L.Dense(2, name="proj")

        def call(self, inputs):
            return self.q(self.p(inputs))

    model = Twins()
    model(np.ones((1, 2)))
    assert select_layers("proj", model) == [model.p, model.q]
    assert len(select("proj", sites(model))) == 4
    assert select_layers("proj#2", model) == [model.q]


def test_a_shared_layer_is_picked_once_by_each_of_its_paths():
    model = models.shared()
    assert names("twice", model) == ["twice"]
    inner = model.get_layer("twice")
    outer = keras.Sequential(
        [
            keras.Input((4,)),
            keras.Sequential([keras.Input((4,)), inner], name="a"),
            keras.Sequential([keras.Input((4,)), inner], name="b"),
        ]
    )
    for selector in ("a/twice", "b/twice", "b/t*", re.compile(r"b/twice/kernel")):
        assert select_layers(selector, outer) == [inner]


def test_a_weight_of_the_model_itself():
    class Own(keras.Model):
        def build(self, shape):
            self.scale = self.add_weight(shape=(), name="scale")

        def call(self, inputs):
            return inputs * self.scale

    model = Own(name="own")
    model(np.ones((1, 2)))
    for selector in ("*scale", "own", lambda layer, weight: weight.name == "scale"):
        assert select_layers(selector, model) == [model]


def test_a_callable_that_raises_is_named_with_the_place():
    with pytest.raises(RuleError, match=r"KeyError.*inner/dense"):
        select_layers(lambda layer, weight: {}[layer.name] if weight is not None else 0, encoder())


@pytest.mark.parametrize("selector", [3, None, int, re.compile(b"a")])
def test_what_is_no_selector_is_a_type_error(selector):
    with pytest.raises(TypeError):
        select_layers(selector, encoder())


def test_a_plain_sequence_of_sites_is_indexed_too():
    found = sites(encoder())
    assert isinstance(found, Sites)
    assert select("head", list(found)) == select("head", found) == [6, 7]


def test_places_come_before_what_is_in_them():
    paths = [place.path for place in places(encoder())]
    assert paths[0] == "(model)"
    assert paths.index("inner") < paths.index("inner/dense")
