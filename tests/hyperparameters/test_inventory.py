"""What is read from a model and its fit, without the user writing it down."""

import inspect
import tempfile

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise.hyperparameters import fit as fitting
from keras_layerwise.hyperparameters.fingerprints import weights_fingerprint
from keras_layerwise.hyperparameters.runtime import NEVER_SET, UNKNOWN
from keras_layerwise.storage.values import fingerprint, flat, plain

x = np.ones((20, 4), "float32")
y = np.ones((20, 1), "float32")


def small(*layers):
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])


def fitted(data=(x, y), **arguments):
    model = small()
    model.compile("sgd", "mse")
    feed = {"x": data[0], "y": data[1]} if isinstance(data, tuple) else {"x": data}
    with tempfile.TemporaryDirectory() as directory:
        callbacks = [kl.FreezeHyperparameters(directory)]
        model.fit(**feed, verbose=0, callbacks=callbacks, **arguments)
    return kl.inventory(model)["training"]


def test_the_network_of_the_textbook():
    sizes = (128, 64, 32)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            *(keras.layers.Dense(n, activation="relu") for n in sizes),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    found = kl.inventory(model)["architecture"]
    assert found["parameters"] == found["trainable_parameters"] == 111146
    assert found["hidden_layers"] == 3
    assert found["hidden_units"] == [128, 64, 32]
    assert found["number_of_layers"] == 4
    assert found["layers"]["dense_1"]["units"] == 64
    assert found["layers"]["dense_1"]["activation"] == "relu"
    assert found["layers"]["dense"]["kernel_initializer"] == "GlorotUniform()"
    assert found["weights"]["dense/kernel"] == {
        "shape": [784, 128],
        "dtype": "float32",
        "initializer": "GlorotUniform()",
        "trainable": True,
    }


def test_what_one_layer_is_made_of_is_not_counted_beside_it():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Embedding(50, 8),
            keras.layers.Bidirectional(keras.layers.LSTM(16)),
            keras.layers.RepeatVector(2),
            keras.layers.TimeDistributed(keras.layers.Dense(4)),
            keras.layers.RNN(keras.layers.GRUCell(5)),
            keras.layers.Dense(1),
        ]
    )
    found = kl.inventory(model)["architecture"]
    assert (found["number_of_layers"], found["hidden_units"]) == (6, [16, 4, 5])


def test_it_is_plain_and_flat_at_every_stage():
    model = keras.Sequential([keras.layers.Dense(2)])
    assert kl.inventory(model)["architecture"]["parameters"] == UNKNOWN
    model.compile("sgd", "mse", metrics=["mae", keras.metrics.RootMeanSquaredError()])
    model.fit(x, y, verbose=0)
    found = kl.inventory(model)
    assert plain(found) == found
    assert flat(found)
    assert found["training"]["metrics"][0] == "mae"


def test_shared_weights_name_their_layers():
    shared = keras.layers.Dense(3, name="shared")
    inner = keras.Sequential([keras.Input((3,)), shared], name="inner")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, inner(shared(inputs)))
    weights = kl.inventory(model)["architecture"]["weights"]
    assert list(weights) == ["shared/kernel", "shared/bias"]
    assert "shared" in weights["shared/kernel"]["shared_by"]
    assert "inner" in weights["shared/kernel"]["shared_by"]


def test_the_optimizer_with_all_its_settings():
    model = small()
    optimizer = keras.optimizers.AdamW(
        0.01, weight_decay=0.05, beta_1=0.8, clipnorm=1.0, use_ema=True
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, keras.losses.Huber(delta=2.0), loss_weights=[0.5])
    found = flat(kl.inventory(model))
    assert found["training/optimizer/class"] == "AdamW"
    assert found["training/learning_rate"] == 0.01
    assert found["training/optimizer/beta_1"] == 0.8
    assert found["training/optimizer/clipnorm"] == 1.0
    assert found["training/optimizer/use_ema"] is True
    assert "delta=2.0" in found["training/loss"]
    assert found["training/loss_weights"] == [0.5]
    assert found["regularization/weight_decay/value"] == 0.05
    assert found["regularization/weight_decay/excluded"] == ["dense/bias"]


def test_a_schedule_with_all_its_numbers():
    model = small()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([10, 20], [0.1, 0.01, 0.001])
    model.compile(keras.optimizers.SGD(schedule), "mse")
    found = kl.inventory(model)["training"]
    assert found["learning_rate_schedule"] == {
        "class": "PiecewiseConstantDecay",
        "boundaries": [10, 20],
        "values": [0.1, 0.01, 0.001],
    }
    assert "learning_rate" not in found


def test_wrapped_optimizers_are_named_and_looked_into():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = small()
        model.compile(kl.LayerwiseOptimizer(keras.optimizers.SGD(0.1), {"*/bias": 0.5}), "mse")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    found = kl.inventory(model)["training"]
    assert found["optimizer_wrappers"] == ["LossScaleOptimizer", "LayerwiseOptimizer"]
    assert found["learning_rate"] == 0.1
    assert found["optimizer"]["class"] == "SGD"
    assert "initial_scale" in found["LossScaleOptimizer"]


def test_each_weights_rule_and_multiplier():
    model = small(keras.layers.Dense(2, name="body"))
    rules = {model.layers[-1]: kl.Rule(learning_rate=0.5), "*/bias": kl.Rule(weight_decay=0.0)}
    model.compile(kl.LayerwiseOptimizer("adamw", rules, model=model), "mse")
    found = kl.inventory(model)["training"]["assignments"]
    assert found["body/kernel"]["rule"] is None
    assert found["body/kernel"]["multiplier"] == 1.0
    assert found["body/bias"] == {
        "rule": "*/bias",
        "multiplier": 1.0,
        "learning_rate": None,
        "weight_decay": 0.0,
        "frozen": False,
    }
    assert found["dense/kernel"]["rule"] == "layer dense"
    assert found["dense/kernel"]["learning_rate"] == 0.5
    assert found["dense/kernel"]["multiplier"] is None


def test_regularization_is_what_is_in_effect():
    dense = keras.layers.Dense(
        3,
        name="a",
        kernel_regularizer=keras.regularizers.L1L2(0.1, 0.2),
        bias_constraint="non_neg",
        activity_regularizer=keras.regularizers.L1(0.3),
    )
    model = small(dense, keras.layers.Dropout(0.4), keras.layers.GaussianNoise(0.5))
    dense.bias_regularizer = keras.regularizers.L2(9.0)  # too late, and without effect
    found = kl.inventory(model)["regularization"]
    assert found == {
        "a": {"activity_regularizer": "L1", "activity_l1": 0.3},
        "dropout": {"rate": 0.4},
        "gaussian_noise": {"stddev": 0.5},
        "a/kernel": {"regularizer": "L1L2", "l1": 0.1, "l2": 0.2},
        "a/bias": {"constraint": "NonNeg()"},
    }


def described(data, **arguments):
    """What `fit` would be described as, without a fit."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(keras.Model.fit).parameters.items()
    }
    return fitting.describe({**defaults, "x": data, **arguments})


class Batches(keras.utils.PyDataset):
    batch_size = 5

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return x[:5], y[:5]


def generator():
    while True:
        yield x[:5], y[:5]


def test_arrays():
    found = fitted(epochs=2, batch_size=8, validation_split=0.2, class_weight={0: 1, 1: 2.0})
    assert found["data"] == "arrays"
    assert found["epochs"] == 2
    assert found["steps_per_epoch"] == 2
    assert found["batch_size"] == 8
    assert found["samples"] == 16
    assert found["shuffle"] is True
    assert found["validation_split"] == 0.2
    assert found["class_weights"] is True
    assert found["class_weight"] == {"0": 1.0, "1": 2.0}


@pytest.mark.parametrize(("steps", "size"), [(None, 32), (3, 7)])
def test_the_batch_size_that_keras_chooses(steps, size):
    assert described(x, steps_per_epoch=steps)["batch_size"] == size


def test_a_py_dataset():
    found = fitted(Batches(), shuffle=False)
    assert (found["data"], found["batch_size"], found["shuffle"]) == ("PyDataset", 5, False)
    assert found["steps_per_epoch"] == 4


def test_what_a_generator_does_not_tell_is_unknown():
    found = fitted(generator(), steps_per_epoch=2, shuffle=False)
    assert (found["data"], found["steps_per_epoch"]) == ("generator", 2)
    assert found["batch_size"] == found["shuffle"] == found["sample_weights"] == UNKNOWN


def test_tf_data():
    tf = pytest.importorskip("tensorflow")
    source = tf.data.Dataset.from_tensor_slices((x, y))
    found = fitted(source.shuffle(20).batch(8).map(lambda a, b: (a, b)).prefetch(1), shuffle=False)
    assert (found["data"], found["batch_size"], found["shuffle"]) == ("tf.data", 8, True)
    assert found["steps_per_epoch"] == 3
    found = described(source.batch(5, drop_remainder=True))
    assert (found["batch_size"], found["shuffle"]) == (5, False)
    assert described(source.batch(4).rebatch(3))["batch_size"] == UNKNOWN
    found = described(tf.data.Dataset.range(2).interleave(lambda _: source.batch(4)))
    assert found["batch_size"] == found["shuffle"] == UNKNOWN


def test_a_pytorch_loader():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.ones(20, 4), torch.ones(20, 1))
    found = fitted(torch.utils.data.DataLoader(data, batch_size=6, shuffle=True), shuffle=False)
    assert (found["data"], found["batch_size"], found["shuffle"]) == ("DataLoader", 6, True)
    in_order = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(data), 5, False)

    class Own(torch.utils.data.Sampler):
        def __iter__(self):
            yield from ([3, 1], [0, 2])

    for sampler, size, shuffled in ((in_order, 5, False), (Own(), UNKNOWN, UNKNOWN)):
        found = described(torch.utils.data.DataLoader(data, batch_sampler=sampler))
        assert (found["batch_size"], found["shuffle"]) == (size, shuffled)


def test_without_the_callback_only_what_keras_tells_is_known():
    model = small()
    model.compile("sgd", "mse")
    assert kl.inventory(model)["training"]["epochs"] == UNKNOWN
    fit = keras.Model.fit
    keras.Model.fit = getattr(fit, "__wrapped__", fit)
    try:
        model.fit(x, y, epochs=2, verbose=0)
    finally:
        keras.Model.fit = fit
    found = kl.inventory(model)["training"]
    assert (found["epochs"], found["steps_per_epoch"]) == (2, 1)
    assert found["batch_size"] == UNKNOWN


def test_a_wrong_call_of_fit_fails_as_it_does_without():
    model = small()
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="epoch_count"):
        model.fit(x, y, epoch_count=3)
    with pytest.raises(ValueError, match="cardinality"):
        model.fit(x, y[:3], verbose=0)


def test_the_same_code_gives_the_same_keys_in_one_process():
    def hyperparameters():
        model = small(keras.layers.Dense(2), keras.layers.Dense(2, name="mine_7"))
        rules = {model.layers[0]: 0.5}
        model.compile(kl.LayerwiseOptimizer("sgd", rules, model=model), "mse")
        found = kl.inventory(model)
        return {group: found[group] for group in ("architecture", "training", "regularization")}

    first = hyperparameters()
    assert "dense/kernel" in first["architecture"]["weights"]
    assert "mine_7" in first["architecture"]["layers"]
    assert fingerprint(first) == fingerprint(hyperparameters())


def test_a_layer_that_cannot_be_serialized_is_not_in_the_way():
    class Scale(keras.layers.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, inputs):
            return inputs * self.factor

        def get_config(self):
            raise NotImplementedError

    found = kl.inventory(small(Scale(3)))["architecture"]["layers"]["scale"]
    assert (found["class"], found["trainable"], found["factor"]) == ("Scale", True, 3)
    assert found["code"].startswith("py")


def test_equal_weights_have_the_same_fingerprint_after_reload(tmp_path):
    model = small(keras.layers.BatchNormalization())
    before = weights_fingerprint(model)
    model.save(tmp_path / "model.keras")
    assert weights_fingerprint(keras.models.load_model(tmp_path / "model.keras")) == before
    weight = model.weights[0]
    weight.assign(weight + 1e-3)
    assert weights_fingerprint(model) != before


def test_the_fingerprint_of_weights_does_not_depend_on_the_backend():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.set_weights([np.arange(4, dtype="float32").reshape(2, 2), np.zeros(2, "float32")])
    # Of b"float32[2,2]" + the 16 bytes of 0, 1, 2, 3 + b"float32[2]" + 8 bytes of zero.
    assert weights_fingerprint(model).startswith("99dae03afc4e64fe")


def test_the_runtime_says_where_it_ran():
    model = small()
    model.compile("sgd", "mse", run_eagerly=True)
    found = kl.inventory(model)["runtime"]
    backend = keras.backend.backend()
    assert found["backend"] == backend
    assert {"python", "keras", "numpy", backend} <= set(found["versions"])
    assert found["devices"]
    assert found["run_eagerly"] is True
    assert found["determinism"] is False
    assert found["dtype_policy"] == "float32"
    assert found["seeds"]["keras"] == 0  # conftest's
    assert flat(found)


def test_a_seed_that_was_never_set_is_reported(scripts):
    code = """
        import keras, keras_layerwise as kl
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        print(kl.inventory(model)["runtime"]["seeds"]["keras"])
    """
    (done,) = scripts.run((code,))
    assert done.stdout.strip() == NEVER_SET, done.stderr
