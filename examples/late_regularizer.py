"""A regularizer assigned to a layer that is built already.

Keras hands a layer's regularizer to its weights when they are made. Assigning
the attribute later changes the layer's config and nothing else.
"""

import keras
import numpy as np

import keras_layerwise as kl

x = np.ones((8, 4), "float32")
y = np.ones((8, 1), "float32")

layer = keras.layers.Dense(1, kernel_initializer="ones")
model = keras.Sequential([keras.Input((4,)), layer])
model.compile("adam", "mse")
loss = model.evaluate(x, y, verbose=0)

# Without the package: no penalty, even after another compile.
layer.kernel_regularizer = keras.regularizers.L1(0.01)
model.compile("adam", "mse")
assert model.losses == []
assert model.evaluate(x, y, verbose=0) == loss
print(f"assigned: the loss stays {loss:.4f}")

# With it: 4 weights of 1 cost 4 * 0.01.
with kl.override(model, {layer: {"kernel_regularizer": keras.regularizers.L1(0.01)}}):
    penalized = model.evaluate(x, y, verbose=0)
    print(f"overridden: the loss is {penalized:.4f}")
    assert np.isclose(penalized, loss + 0.04)
assert np.isclose(model.evaluate(x, y, verbose=0), loss)
