"""A slower layer through ``optimizer.get_weights`` and ``set_weights``.

The optimizer's weights are its slots, such as Adam's moments. None of them is a
layer's learning rate, so scaling them slows no layer down.
"""

import keras
import numpy as np

import keras_layerwise as kl

x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
y = x[:, :1]


def network():
    """The same network and data order each time."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu", name="body"),
            keras.layers.Dense(1, name="head"),
        ]
    )


def moved(model, scale=None):
    """How far the body moves in ten epochs after a first, by its largest weight."""
    model.fit(x, y, verbose=0, shuffle=False)
    if scale is not None:
        scale(model.optimizer)
    before = model.get_layer("body").get_weights()[0]
    model.fit(x, y, epochs=10, verbose=0, shuffle=False)
    return np.abs(model.get_layer("body").get_weights()[0] - before).max()


def scale_slot(optimizer):
    """What is tried: the optimizer's weight of that name, times 0.1."""
    (slot,) = [v for v in optimizer.variables if "body_kernel_momentum" in v.path]
    slot.assign(0.1 * keras.ops.convert_to_numpy(slot))


# Without the package: there is no `get_weights`, and what there is are slots.
plain = network()
plain.compile(keras.optimizers.Adam(0.01), "mse")
assert not hasattr(plain.optimizer, "get_weights")
full = moved(plain)
tried = network()
tried.compile(keras.optimizers.Adam(0.01), "mse")
slot = moved(tried, scale_slot)
print(f"body moves {full:.4f}; with a slot scaled by 0.1 {slot:.4f}")
assert slot > 0.8 * full

# With it: a rule.
model = network()
model.compile(kl.LayerwiseOptimizer(keras.optimizers.Adam(0.01), {"body": 0.1}), "mse")
slow = moved(model)
print(f"with the rule {{'body': 0.1}} {slow:.4f}")
assert slow < 0.2 * full
