"""Gradients times 0.1, to slow a layer down under Adam.

Adam divides each gradient by a running estimate of its size, so a constant
factor cancels out: the layer moves as far as before.
"""

import keras
import numpy as np

import keras_layerwise as kl

x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
y = x[:, :1]


def network():
    """The same network each time."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu", name="body"),
            keras.layers.Dense(1, name="head"),
        ]
    )


class ScaledGradients(keras.optimizers.Adam):
    """What is tried: the gradients of the first layer, times 0.1."""

    def apply(self, grads, trainable_variables=None):
        """Scales the gradients of the body's two weights."""
        super().apply([0.1 * grads[0], 0.1 * grads[1], *grads[2:]], trainable_variables)


def moved(optimizer):
    """How far the body's weights move in one epoch, by the largest."""
    model = network()
    model.compile(optimizer, "mse")
    before = model.get_layer("body").get_weights()[0]
    model.fit(x, y, verbose=0, shuffle=False)
    return np.abs(model.get_layer("body").get_weights()[0] - before).max()


# Without the package: the same movement.
full = moved(keras.optimizers.Adam(0.01))
scaled = moved(ScaledGradients(0.01))
print(f"Adam moves the body by {full:.4f}, with its gradients times 0.1 by {scaled:.4f}")
assert np.isclose(full, scaled, rtol=1e-3)

# With it: a tenth.
slow = moved(kl.LayerwiseOptimizer(keras.optimizers.Adam(0.01), {"body": 0.1}))
print(f"with the rule {{'body': 0.1}} by {slow:.4f}")
assert np.isclose(slow, 0.1 * full, rtol=0.05)
