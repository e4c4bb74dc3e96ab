"""Nothing claims to know what it does not: objects, functions and schedules in words."""

import functools
import types

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise.hyperparameters.describe import describe
from keras_layerwise.hyperparameters.functions import code_of, sources_in
from keras_layerwise.storage.record import Record
from keras_layerwise.storage.values import UNKNOWN, differences, flat

SCALE = 2.0


class Focal(keras.losses.Loss):
    def __init__(self, gamma):
        super().__init__()
        self.gamma = gamma

    def call(self, y_true, y_pred):
        return keras.ops.mean(abs(y_true - y_pred) ** self.gamma)


class Hidden(keras.losses.Loss):
    """Its parameter is under another name."""

    def __init__(self, gamma):
        super().__init__()
        self._g = gamma

    def call(self, y_true, y_pred):
        return keras.ops.mean(abs(y_true - y_pred) ** self._g)


class Warm(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, k):
        self.k = k**-0.5

    def __call__(self, step):
        return self.k * keras.ops.cast(step + 1, "float32")


class Sparse(keras.regularizers.Regularizer):
    def __init__(self, strength):
        self.strength = strength

    def __call__(self, x):
        return self.strength * keras.ops.sum(abs(x))


class Scale(keras.layers.Layer):
    def __init__(self, factor, power=1):
        super().__init__()
        self.factor, self.power = factor, power

    def call(self, inputs):
        return inputs * self.factor**self.power

    def get_config(self):
        raise NotImplementedError


class Counted(keras.metrics.Mean):
    def __init__(self, weight, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight


def model_of(*layers, optimizer="sgd", loss="mse", **arguments):
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    model.compile(optimizer, loss, **arguments)
    return model


def power(exponent):
    return lambda y_true, y_pred: abs(y_true - y_pred) ** exponent


PAIRS = {
    "losses": (Focal(2.0), Focal(4.0)),
    "lambdas": (lambda a, b: abs(a - b), lambda a, b: 100 * abs(a - b)),
    "names": (lambda a, b: keras.ops.abs(a - b), lambda a, b: keras.ops.square(a - b)),
    "closures": (power(1), power(2)),
    "defaults": (lambda a, b, c=1: abs(a - b) * c, lambda a, b, c=2: abs(a - b) * c),
    "partials": (functools.partial(power, 1), functools.partial(power, 2)),
    "methods": (Sparse(1.0).__call__, Sparse(2.0).__call__),
    "schedules": (Warm(4), Warm(16)),
    "regularizers": (Sparse(0.1), Sparse(0.2)),
    "layers": (Scale(2), Scale(3)),
    "metrics": (Counted(1.0), Counted(2.0)),
    "arrays": (np.arange(2000), np.arange(2000) + 1),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_what_differs_is_never_the_same(kind):
    one, other = PAIRS[kind]
    assert describe(one) != describe(other)
    assert describe(one) == describe(one)


def test_the_same_code_elsewhere_is_the_same():
    one, other = lambda a: a + 1, lambda a: a + 1
    assert describe(one) == describe(other)
    assert describe(power(2)) == describe(power(2))


def test_a_global_that_a_function_reads_is_part_of_it(monkeypatch):
    def scaled(x):
        return x * SCALE

    before = describe(scaled)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert describe(scaled) != before


def test_another_method_of_a_class_of_the_same_name_is_another_class():
    def loss(body):
        return type("Custom", (keras.losses.Loss,), {"call": body})()

    one, other = loss(lambda s, a, b: a - b), loss(lambda s, a, b: b - a)
    assert describe(one) != describe(other)


def test_keras_own_are_names_and_numbers():
    assert describe(keras.activations.relu) == "relu"
    assert describe(keras.losses.Huber(delta=2.0)).startswith("Huber(")
    assert "delta=2.0" in describe(keras.losses.Huber(delta=2.0))


@pytest.mark.parametrize(
    "value",
    [object(), types.SimpleNamespace, Hidden(2.0), lambda: object],
    ids=["object", "class", "hidden", "function"],
)
def test_what_cannot_be_read_is_unknown_or_told_by_its_code(value):
    text = describe(value)
    assert UNKNOWN in text or "code=" in text or text == "SimpleNamespace"


def test_a_parameter_that_left_no_trace_is_unknown():
    assert "gamma=unknown" in describe(Hidden(2.0))


def test_a_schedule_without_config_hides_nothing_else():
    optimizer = keras.optimizers.SGD(Warm(16), momentum=0.9, clipnorm=1.0)
    found = kl.inventory(model_of(optimizer=optimizer))["training"]
    assert found["optimizer"]["momentum"] == 0.9
    assert found["optimizer"]["clipnorm"] == 1.0
    assert found["learning_rate_schedule"]["class"] == "Warm"
    assert found["learning_rate_schedule"]["k"] == 0.25
    assert "learning_rate" not in found


def test_layers_without_config_are_read_from_their_attributes():
    found = kl.inventory(model_of(Scale(3)))["architecture"]["layers"]["scale"]
    assert (found["factor"], found["power"]) == (3, 1)
    assert found["code"] == code_of(Scale)


def test_a_users_model_is_told_by_its_code_and_settings():
    class Net(keras.Model):
        def __init__(self, alpha):
            super().__init__()
            self.alpha = alpha
            self.head = keras.layers.Dense(1)

        def call(self, inputs):
            return self.alpha * self.head(inputs)

    found = kl.inventory(Net(0.5))["architecture"]
    assert found["settings"]["alpha"] == 0.5
    assert found["settings"]["code"] == code_of(Net)


def test_a_layers_lambda_is_compared():
    one, other = (
        flat(kl.inventory(model_of(keras.layers.Dense(2, activation=f))))
        for f in (lambda x: x, lambda x: 2 * x)
    )
    key = "architecture/layers/dense/activation"
    assert one[key] != other[key]


def test_optimizers_of_the_models_own_are_recorded_and_not_the_default():
    class Gan(keras.Model):
        def compile(self, generator, discriminator):
            super().compile()
            self.g, self.d = generator, {"d": discriminator}

    model = Gan()
    model.compile(keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-2))
    found = flat(kl.inventory(model)["training"])
    assert found["optimizers/g/learning_rate"] == 1e-3
    assert found["optimizers/d/d/optimizer/class"] == "SGD"
    assert "optimizer/class" not in found


def test_the_source_is_kept_beside_and_not_compared():
    model = model_of(loss=PAIRS["lambdas"][1])
    values = flat(kl.inventory(model))
    assert any("100 * abs(a - b)" in text for text in sources_in(values).values())
    assert "100" not in values["training/loss"]


def test_another_python_makes_functions_unknown():
    text = describe(PAIRS["lambdas"][0])
    tag = text[text.index("py") : -1]
    elsewhere = text.replace(tag, "py3.99:0123456789abcdef")
    found = differences({"loss": text}, {"loss": elsewhere})
    assert (len(found), found.unknown) == (0, ("loss",))
    assert differences({"loss": text}, {"loss": text.replace(tag[-3:], "xyz")})
    assert differences({"loss": f"a {text}"}, {"loss": f"b {elsewhere}"})


def test_a_difference_with_unknowns_says_how_far_it_knows():
    one = Record({"training": {"batch_size": UNKNOWN, "loss": "F(gamma=unknown)", "epochs": 2}})
    other = Record({"training": {"batch_size": 8, "loss": "F(gamma=unknown)", "epochs": 2}})
    found = one.diff(other)
    assert found == ()
    assert str(found) == ("the same as far as known; unknown: training/batch_size, training/loss")
    assert str(other.diff(Record({"training": {**other["training"], "epochs": 3}}))) == (
        "training/epochs: 2 -> 3\nunknown: training/loss"
    )
    assert str(Record({}).diff(Record({}))) == "the same"


def test_objects_of_the_same_settings_share_a_text_until_one_has_others():
    one, other = (keras.initializers.Constant(1.0) for _ in range(2))
    assert describe(one) == describe(other) == "Constant(value=1.0)"
    other.value = True
    assert describe(other) == "Constant(value=True)"
    other.value = 2.0
    assert (describe(one), describe(other)) == ("Constant(value=1.0)", "Constant(value=2.0)")
