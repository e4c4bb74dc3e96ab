"""
Title: Fine-tune a pretrained network, layer by layer
Author: The keras-layerwise authors
Description: Rates that fall with depth, a head that learns first, and a look at what moved.
Accelerator: None
"""

"""
## Introduction

The first layers of a pretrained network are general and should move little; the last ones and the
new head have to learn. In this guide a MobileNetV2 that knows photographs learns handwritten
digits from 200 examples. The head learns first, alone; then all layers do, each depth at a rate of
its own. At the end we look at how far each layer has moved.

    pip install 'keras-layerwise[tensorflow]' scikit-learn matplotlib
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_layerwise as kl

keras.utils.set_random_seed(0)

"""
## The data

scikit-learn ships 1,797 digits of 8 × 8 pixels. We train on 200 of them, test on 200 others, and
make them the size and the colours that the network expects.
"""

images, labels = load_digits(return_X_y=True)
images = np.repeat(images.reshape(-1, 8, 8, 1), 3, axis=-1) * (255 / 16)
images = keras.applications.mobilenet_v2.preprocess_input(images.astype("float32"))
order = np.random.default_rng(0).permutation(len(labels))[:400]
x = keras.ops.convert_to_numpy(keras.ops.image.resize(images[order], (96, 96)))
y = labels[order]
train, test = (x[:200], y[:200]), (x[200:], y[200:])

"""
## The network

Where the weights cannot be downloaded we go on with random ones: all that follows works the same,
but the accuracy says nothing.
"""


def backbone(weights):
    """MobileNetV2 without its head, at a third of its width."""
    return keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), alpha=0.35, include_top=False, pooling="avg", weights=weights
    )


try:
    body = backbone("imagenet")
except Exception as error:  # Keras raises a bare Exception where a download fails
    print(f"{error}\nGoing on with random weights.")
    body = backbone(None)

model = keras.Sequential([body, keras.layers.Dense(10, activation="softmax", name="digits")])

"""
The outline has the parts of the network: the stem, the blocks in the order in which data passes,
the neck, and the head. Rules, drift and tab speak of these.
"""

print(kl.outline(model))

"""
## The rules

`layer_decay` goes by the outline: the head learns at the full rate, each block at three quarters of
the one above. `no_weight_decay` leaves biases and normalisations without decay. The last rule
freezes the body for now. Rules add up by setting, so the frozen layers have their rates already,
for later.
"""

rules = kl.no_weight_decay(model) | kl.layer_decay(model, 0.75) | {body: kl.Rule(frozen=True)}
optimizer = kl.LayerwiseOptimizer(keras.optimizers.AdamW(3e-3), rules, model=model)
model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
optimizer.summary()

"""
## First the head, then all

`GradualUnfreeze` unfreezes the body at the beginning of the second epoch, without `compile`: the
head's moments stay. `WeightDrift` measures after each epoch how far every layer is from where it
began, and `FreezeHyperparameters` writes down what the run was configured with.
"""

drift = kl.WeightDrift("logs/guide")
history = model.fit(
    *train,
    batch_size=40,
    epochs=3,
    validation_data=test,
    verbose=0,
    callbacks=[
        kl.GradualUnfreeze({1: body}),
        drift,
        kl.LearningRateMonitor("logs/guide"),
        kl.FreezeHyperparameters("logs/guide", {"decay": 0.75, "examples": len(train[0])}),
    ],
)
print("accuracy on digits not seen:", history.history["val_accuracy"])

"""
## What moved

The picture has a row for each layer and a column for each record; the brighter, the further from
the beginning. The body is dark in the first epoch and brighter towards the head in the others.
"""

drift.plot("relative_l2")

"""
`tensorboard --logdir logs` shows the same and more in the tab "Layerwise", and
`keras-layerwise show logs/guide` prints the record in a terminal.

## Save it, load it

The rules are saved with the model as they came out, weight by weight. Loading needs
`import keras_layerwise` and nothing else.
"""

model.save("digits.keras")
again = keras.models.load_model("digits.keras")
rates = [found.multiplier for found in optimizer.assignments]
assert [found.multiplier for found in again.optimizer.assignments] == rates
