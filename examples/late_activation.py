"""An activation assigned after the model has predicted.

Where Keras compiles its steps (TensorFlow, JAX), the compiled step keeps the
old activation until the model is compiled again, which resets nothing that one
can see and so is easily forgotten.
"""

import keras
import numpy as np

import keras_layerwise as kl

x = np.array([[-2.0], [2.0]], "float32")
layer = keras.layers.Dense(1, activation="relu", kernel_initializer="ones")
model = keras.Sequential([keras.Input((1,)), layer])
model.compile("adam", "mse")
assert model.predict(x, verbose=0).tolist() == [[0.0], [2.0]]

# Without the package: still relu.
layer.activation = keras.activations.sigmoid
assigned = model.predict(x, verbose=0)
print("assigned:", assigned.ravel())
if keras.backend.backend() != "torch":  # which runs step by step, without compiling
    assert assigned.tolist() == [[0.0], [2.0]]
layer.activation = keras.activations.relu

# With it: sigmoid in the next prediction.
with kl.override(model, {layer: {"activation": "sigmoid"}}):
    overridden = model.predict(x, verbose=0)
    print("overridden:", overridden.ravel())
    assert np.allclose(overridden, 1 / (1 + np.exp(-x)), atol=1e-6)
assert model.predict(x, verbose=0).tolist() == [[0.0], [2.0]]
