"""A "frozen" body, by ``MultiOptimizer`` and path patterns, saved and reloaded.

After a reload the weights' paths lack a prefix; the patterns match nothing any
more, and what was frozen trains without a warning.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_layerwise as kl

x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
y = x[:, :1]
folder = Path(tempfile.mkdtemp())


def network():
    """A body and a head."""
    keras.utils.set_random_seed(0)
    body = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu", name="hidden")], name="body"
    )
    return keras.Sequential([keras.Input((8,)), body, keras.layers.Dense(1, name="head")])


def body_moves(model):
    """Whether the body's weights change in one epoch."""
    before = model.get_layer("body").get_weights()[0]
    model.fit(x, y, verbose=0)
    return not np.array_equal(model.get_layer("body").get_weights()[0], before)


def reloaded(model, name):
    """The model after a round through a file."""
    model.save(folder / name)
    return keras.models.load_model(folder / name)


# Without the package.
model = network()
pattern = model.get_layer("body").weights[0].path.rpartition("/")[0] + "/.*"
rates = keras.optimizers.OptimizerMap(
    keras.optimizers.SGD(0.1), {pattern: keras.optimizers.SGD(0.0)}
)
model.compile(keras.optimizers.MultiOptimizer(rates), "mse")
print(f"{pattern!r} holds before the reload: {not body_moves(model)}")
assert not body_moves(model)
again = reloaded(model, "multi.keras")
path = again.get_layer("body").weights[0].path
moves = body_moves(again)
print(f"after it the path is {path!r}, and the body moves: {moves}")
assert moves

# With it.
model = network()
model.compile(
    kl.LayerwiseOptimizer(keras.optimizers.SGD(0.1), {"body": kl.Rule(frozen=True)}), "mse"
)
assert not body_moves(model)
again = reloaded(model, "layerwise.keras")
assert not body_moves(again)
assert all(a.frozen for a in again.optimizer.assignments if a.layer.startswith("body"))
print("LayerwiseOptimizer: frozen before and after")
