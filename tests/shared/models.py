"""Small models and arrays that the tests share."""

import inspect

import keras
import numpy as np
import pytest

needs_muons_own_decay = pytest.mark.skipif(
    "adam_weight_decay" not in inspect.signature(keras.optimizers.Muon).parameters,
    reason="this Keras's Muon has one decay for all weights",
)


def numpy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def weights_of(model):
    return [numpy(weight) for weight in model.weights]


def assert_same_weights(one, other, **tolerance):
    """Bit for bit without a tolerance."""
    for expected, found in zip(weights_of(one), weights_of(other), strict=True):
        if tolerance:
            np.testing.assert_allclose(found, expected, **tolerance)
        else:
            np.testing.assert_array_equal(found, expected)


def variable(value, name="w", dtype="float32"):
    return keras.Variable(np.asarray(value, dtype="float32"), name=name, dtype=dtype)


def tensor(value, dtype="float32"):
    return keras.ops.convert_to_tensor(np.asarray(value, dtype=dtype))


def data(rows=48, features=4, outputs=2):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, features)).astype("float32")
    return x, (x[:, :outputs] ** 2).astype("float32")


def sequential():
    """body, normalisation and head, the weights always the same."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="tanh", name="body"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.Dense(2, name="head"),
        ],
        name="model",
    )


def one_layer():
    """A head alone, which takes a third of the time of `sequential` to trace and compile."""
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])


def nested():
    """Two submodels that hold layers of the same names."""
    keras.utils.set_random_seed(1)
    left, right = (
        keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(3, name="dense", activation="tanh"),
                keras.layers.Dense(3, name="out"),
            ],
            name=name,
        )
        for name in ("left", "right")
    )
    inputs = keras.Input((4,))
    hidden = keras.layers.Concatenate(name="join")([left(inputs), right(inputs)])
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden), name="nested")


def shared():
    """One layer that is used twice."""
    keras.utils.set_random_seed(1)
    twice = keras.layers.Dense(4, name="twice", activation="tanh")
    inputs = keras.Input((4,))
    hidden = twice(keras.layers.Dense(4, name="between")(twice(inputs)))
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden), name="shared")


@keras.saving.register_keras_serializable(package="keras_layerwise_tests")
class Subclassed(keras.Model):
    """A model whose weights do not exist before the first batch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = keras.layers.Dense(5, name="body", activation="tanh")
        self.head = keras.layers.Dense(2, name="head")

    def call(self, inputs):
        return self.head(self.body(inputs))


def subclassed():
    keras.utils.set_random_seed(1)
    return Subclassed(name="subclassed")


def compile_bare(model, optimizer, **settings):
    """Compiles with an optimizer of Keras's own, and makes its variables.

    Where the first step makes them, TensorFlow traces it twice.
    """
    model.compile(optimizer, loss="mse", **settings)
    model.optimizer.build(model.trainable_variables)


def fit(model, epochs=2, batch_size=16, **kwargs):
    x, y = data()
    return model.fit(
        x, y, epochs=epochs, batch_size=batch_size, shuffle=False, verbose=0, **kwargs
    )  # fmt: skip
