"""Reading an inventory again: what changed is seen, and what did not is the same object."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_layerwise as kl
from keras_layerwise.hyperparameters.inventory import Reader

pytestmark = pytest.mark.tensorflow_only


class Scaled(layers.Layer):
    def __init__(self, factor, **options):
        super().__init__(**options)
        self.factor, self._hidden = factor, [1]

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor, "hidden": self._hidden[0]}


def varied():
    scale = 2.0
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="deep")], name="inner")
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1), name="penalized"),
            layers.Dense(4, activation=lambda x: x * scale, name="function"),
            layers.Dropout(0.5, name="dropout"),
            layers.Normalization(mean=np.zeros(4), variance=np.ones(4), name="scaled"),
            inner,
            Scaled(1.0, name="own"),
            layers.Dense(2, name="head"),
        ]
    )


def in_place(value):
    value[...] = 3.0


CHANGES = {
    "an attribute": lambda m: setattr(m.get_layer("dropout"), "rate", 0.25),
    "to an equal number of another type": lambda m: setattr(m.get_layer("own"), "factor", True),
    "a part of an attribute": lambda m: setattr(
        m.get_layer("penalized").kernel_regularizer, "l2", 0.2
    ),
    "the activation": lambda m: setattr(m.get_layer("head"), "activation", keras.activations.relu),
    "what a function sees": lambda m: setattr(
        m.get_layer("function").activation.__closure__[0], "cell_contents", 3.0
    ),
    "an array in place": lambda m: in_place(m.get_layer("scaled").input_mean),
    "an own layer": lambda m: setattr(m.get_layer("own"), "factor", 0.75),
    "an own layer's inside": lambda m: m.get_layer("own")._hidden.__setitem__(0, 2),
    "a flag deep inside": lambda m: setattr(
        m.get_layer("inner").get_layer("deep"), "trainable", False
    ),
    "a model's flag": lambda m: setattr(m.get_layer("inner"), "trainable", False),
    "a weight's penalty": lambda m: setattr(
        m.get_layer("head").kernel, "regularizer", keras.regularizers.L1(0.1)
    ),
    "a weight's constraint": lambda m: setattr(
        m.get_layer("head").kernel, "constraint", keras.constraints.NonNeg()
    ),
    "weights that join": lambda m: m.get_layer("head").enable_lora(1),
    "a dtype policy": lambda m: setattr(m.get_layer("head"), "dtype_policy", "mixed_bfloat16"),
    "the optimizer's decay": lambda m: setattr(m.optimizer, "weight_decay", 0.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_reading_again_sees_what_reading_anew_sees(change):
    model = varied()
    model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.1), "mse")
    reader = Reader(model)
    first = reader.read()
    again = reader.read()
    for group in ("architecture", "regularization"):
        assert again[group] is first[group]
    change(model)
    changed, anew = reader.read(), Reader(model).read()
    assert json.dumps(changed, sort_keys=True) == json.dumps(anew, sort_keys=True)
    assert json.dumps(changed, sort_keys=True) != json.dumps(first, sort_keys=True)


def test_rules_that_change_are_read_again_and_others_are_not():
    model = varied()
    optimizer = kl.LayerwiseOptimizer("sgd", {"head": 0.5, "inner": 0.1})
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    reader = Reader(model)
    first = reader.read()["training"]["assignments"]
    assert reader.read()["training"]["assignments"] is first
    optimizer.set_multiplier("head", 0.25)
    second = reader.read()["training"]["assignments"]
    assert second["head/kernel"]["multiplier"] == 0.25
    optimizer.freeze("inner")
    assert reader.read()["training"]["assignments"]["inner/deep/kernel"]["frozen"] is True
    assert first["head/kernel"]["multiplier"] == 0.5
