"""Moving averages that are estimated anew, against the plain average in NumPy."""

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from tests.shared import models


def test_they_become_the_plain_average_over_the_batches():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential([keras.Input((3,)), norm])
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(8, 3)).astype("float32") for _ in range(5)]
    assert kl.reestimate_averages(model, [(x, None) for x in batches]) == 1
    means, variances = ([f(x, axis=0) for x in batches] for f in (np.mean, np.var))
    np.testing.assert_allclose(models.numpy(norm.moving_mean), np.mean(means, 0), rtol=1e-5)
    found = models.numpy(norm.moving_variance)
    np.testing.assert_allclose(found, np.mean(variances, 0), rtol=1e-5)
    assert norm.momentum == 0.9


def test_an_array_is_cut_into_batches():
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((1,)), norm])
    kl.reestimate_averages(model, np.array([[1.0], [3.0], [8.0]], "float32"), batch_size=2)
    np.testing.assert_allclose(models.numpy(norm.moving_mean), [(2 + 8) / 2])


def test_inputs_by_name_are_cut_into_batches_too():
    inputs = {name: keras.Input((1,), name=name) for name in "ab"}
    norm = keras.layers.BatchNormalization()
    model = keras.Model(inputs, norm(keras.layers.Add()(list(inputs.values()))))
    x = np.array([[1.0], [3.0], [8.0]], "float32")
    kl.reestimate_averages(model, {"a": x, "b": x}, batch_size=2)
    np.testing.assert_allclose(models.numpy(norm.moving_mean), [(4 + 16) / 2])


def test_a_dataset_of_keras_ends_where_it_says():
    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return np.full((2, 1), float(i)), np.zeros(2)

    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((1,)), norm])
    kl.reestimate_averages(model, Data())
    np.testing.assert_allclose(models.numpy(norm.moving_mean), [0.5])


def test_they_stay_as_they_were_where_the_data_fail():
    norm = keras.layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential([keras.Input((1,)), norm])

    def batches():
        yield np.ones((2, 1))
        raise KeyboardInterrupt

    before = models.weights_of(model)
    with pytest.raises(KeyboardInterrupt):
        kl.reestimate_averages(model, batches())
    for found, w in zip(models.weights_of(model), before, strict=True):
        np.testing.assert_array_equal(found, w)
    assert norm.momentum == 0.9


def test_a_layer_that_does_not_train_keeps_its_own():
    norm = keras.layers.BatchNormalization()
    norm.trainable = False
    model = keras.Sequential([keras.Input((1,)), norm])
    with pytest.raises(ValueError, match="no BatchNormalization that trains"):
        kl.reestimate_averages(model, np.ones((4, 1)))


def test_a_layer_that_a_rule_freezes_keeps_its_own_and_is_not_counted():
    held, free = (keras.layers.BatchNormalization(name=n) for n in ("held", "free"))
    model = keras.Sequential([keras.Input((3,)), held, free, keras.layers.Dense(1)])
    optimizer = kl.LayerwiseOptimizer("sgd", {"held": kl.Rule(frozen=True)})
    model.compile(optimizer, "mse")
    x = np.random.default_rng(0).normal(3.0, size=(8, 3)).astype("float32")
    model.fit(x, np.zeros((8, 1)), verbose=0)
    before = models.numpy(held.moving_mean)
    assert kl.reestimate_averages(model, x) == 1
    np.testing.assert_array_equal(models.numpy(held.moving_mean), before)
    scale = 1 / np.sqrt(1.0 + held.epsilon)
    np.testing.assert_allclose(models.numpy(free.moving_mean), scale * x.mean(0), rtol=1e-4)


def test_without_a_batch_it_is_an_error():
    model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
    with pytest.raises(ValueError, match="no batch"):
        kl.reestimate_averages(model, [])
