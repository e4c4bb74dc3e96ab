"""The head first, then all: features that are good already are not distorted by a new head.

The setting is that of Kumar et al. 2022 (arXiv 2202.10054): a linear network
whose pretrained features are nearly right, examples from a part of the space,
and a test on all of it. A head of random numbers that trains together with the
features bends them for the examples that there are; everywhere else they no
longer fit. A head that was trained first has little left to bend.
"""

import keras
import numpy as np

import keras_layerwise as kl

rng = np.random.default_rng(0)
INPUTS, FEATURES, SEEN, EPOCHS = 16, 4, 8, 16


def orthonormal(matrix):
    """Columns of length 1 at right angles that span the same."""
    return np.linalg.qr(matrix)[0]


true = orthonormal(rng.normal(size=(INPUTS, FEATURES)))
pretrained = orthonormal(true + 0.025 * rng.normal(size=true.shape)).astype("float32")
answer = true @ rng.normal(size=(FEATURES, 1))
part = orthonormal(rng.normal(size=(INPUTS, SEEN)))
x = rng.normal(size=(3200, SEEN)) @ part.T
everywhere = rng.normal(size=(512, INPUTS))


def network():
    """The pretrained features, and a new head."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(FEATURES, use_bias=False, name="features"),
        keras.layers.Dense(1, use_bias=False, name="head"),
    ]
    model = keras.Sequential([keras.Input((INPUTS,)), *layers])
    model.get_layer("features").set_weights([pretrained])
    return model


def errors(rules=None, callbacks=()):
    """The relative squared error where there were examples, and everywhere; and the drift."""
    model = network()
    model.compile(kl.LayerwiseOptimizer(keras.optimizers.SGD(0.2), rules), "mse")
    model.fit(x, x @ answer, batch_size=256, epochs=EPOCHS, verbose=0, callbacks=[*callbacks])
    moved = np.linalg.norm(model.get_layer("features").get_weights()[0] - pretrained)
    found = [
        float(np.mean((model.predict(a, batch_size=512, verbose=0) - a @ answer) ** 2))
        / float(np.mean((a @ answer) ** 2))
        for a in (x, everywhere)
    ]
    return *found, moved


frozen = {"features": kl.Rule(frozen=True)}
then_all = kl.GradualUnfreeze({EPOCHS // 2: "features"})
at_once = errors()
head_only = errors(frozen)
head_first = errors(frozen, [then_all])
for name, found in {
    "all at once": at_once,
    "head only": head_only,
    "head first, then all": head_first,
}.items():
    seen, anywhere, moved = found
    print(f"{name:21} error seen {seen:.5f}, everywhere {anywhere:.4f}; moved {moved:.3f}")
# All at once fits what it was shown, and nothing else.
assert at_once[0] < 0.001
assert at_once[1] > 10 * head_first[1]
# The head alone keeps the features, faults and all; both after one another fit better.
assert head_only[2] == 0
assert head_first[0] < head_only[0]
assert head_first[1] < head_only[1]
