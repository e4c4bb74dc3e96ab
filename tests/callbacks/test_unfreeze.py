"""Layers that join training: by part of an outline, from the head down."""

import keras
import pytest

from keras_layerwise import GradualUnfreeze, LayerwiseOptimizer, Rule, RuleError, outline
from tests.shared import models


def network():
    """Data normalisation, an embedding of it, two blocks with averages, head."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(4, name="stem")]
    for i in range(2):
        layers += [
            keras.layers.Dense(4, name=f"block_{i}_a"),
            keras.layers.BatchNormalization(name=f"block_{i}_norm"),
            keras.layers.Dense(4, name=f"block_{i}_b"),
        ]
    layers += [keras.layers.LayerNormalization(name="final"), keras.layers.Dense(2, name="head")]
    return keras.Sequential(layers)


class Trained(keras.callbacks.Callback):
    """Which layers trained in each epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.before = [models.numpy(w) for w in self.model.trainable_weights]

    def on_epoch_end(self, epoch, logs=None):
        moved = [
            weight.path.split("/")[-2]
            for weight, old in zip(self.model.trainable_weights, self.before, strict=True)
            if (models.numpy(weight) != old).any()
        ]
        self.epochs.append(sorted(set(moved)))


def frozen_body(model):
    parts = outline(model)
    return {(parts.stem, *parts.blocks, parts.neck): Rule(frozen=True)}


def test_by_block_goes_from_the_head_down():
    model = network()
    model.compile(LayerwiseOptimizer("sgd", frozen_body(model), model=model), loss="mse")
    trained = Trained()
    models.fit(model, epochs=7, callbacks=[GradualUnfreeze.by_block(model, every=2), trained])
    upper = ["block_1_a", "block_1_b", "block_1_norm", "final", "head"]
    lower = ["block_0_a", "block_0_b", "block_0_norm"]
    assert trained.epochs == [
        *[["head"]] * 2,
        *[upper] * 2,
        *[lower + upper] * 2,
        [*lower, *upper, "stem"],
    ]


def test_by_block_comes_to_the_same_state_when_it_is_resumed():
    model = network()
    optimizer = LayerwiseOptimizer("sgd", frozen_body(model), model=model)
    model.compile(optimizer, loss="mse")
    models.fit(model, epochs=5, initial_epoch=2, callbacks=[GradualUnfreeze.by_block(model)])
    assert not any(a.frozen for a in optimizer.assignments)


def test_parts_freeze_and_unfreeze_at_run_time():
    model = network()
    optimizer = LayerwiseOptimizer("sgd", model=model)
    model.compile(optimizer, loss="mse")
    models.fit(model, epochs=1)
    parts = outline(model)
    optimizer.freeze(parts.blocks[:2])
    optimizer.freeze(parts.stem)
    assert {a.layer for a in optimizer.assignments if not a.frozen} == {"final", "head"}
    optimizer.unfreeze(parts.blocks[1])
    assert {a.layer for a in optimizer.assignments if not a.frozen} == {
        "block_1_a", "block_1_norm", "block_1_b", "final", "head",
    }  # fmt: skip


def test_what_is_planned_is_told():
    model = network()
    callback = GradualUnfreeze.by_block(model, every=2)
    parts = [[part.key for part in found] for found in callback.planned_changes(4)]
    assert parts == [["block/1/block_1", "neck"], ["block/0/block_0"]]
    assert callback.planned_changes(1) == []


@pytest.mark.parametrize(
    ("every", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_every_is_a_number_of_epochs(every, error):
    with pytest.raises(error, match="every"):
        GradualUnfreeze.by_block(network(), every=every)


def test_a_model_without_parts_says_so():
    model = models.subclassed()
    model(keras.ops.ones((1, 4)))
    with pytest.raises(RuleError, match="block="):
        GradualUnfreeze.by_block(model)
