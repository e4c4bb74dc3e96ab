"""``weight.initializer``, to see how a weight was initialized.

A Keras variable forgets its initializer once it has a value.
"""

import keras

import keras_layerwise as kl

model = keras.Sequential(
    [
        keras.Input((4,)),
        keras.layers.Dense(3, kernel_initializer="he_normal", name="body"),
        keras.layers.Dense(1, name="head"),
    ]
)

# Without the package.
try:
    print(model.get_layer("body").kernel.initializer)
    raise SystemExit("Keras remembers initializers now: this example can go.")
except AttributeError as error:
    print("Keras:", error)

# With it: every weight's shape, dtype and initializer.
weights = kl.inventory(model)["architecture"]["weights"]
for path, weight in weights.items():
    print(path, weight)
assert weights["body/kernel"]["initializer"] == "HeNormal()"
assert weights["head/bias"]["initializer"] == "Zeros()"
assert weights["body/kernel"]["shape"] == [4, 3]
