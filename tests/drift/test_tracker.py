"""Rows, blocks and alarms of records, from weights that the tests set by hand."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_layerwise.drift import tracker, views
from keras_layerwise.drift.reference import Reference
from keras_layerwise.drift.statistics import STATISTICS, chosen
from tests.shared.drift import by_definition, host


def stacked():
    """stem, two blocks with normalisation, head."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="stem")])
    for i in range(2):
        model.add(layers.Dense(4, name=f"b{i}_dense"))
        model.add(layers.BatchNormalization(name=f"b{i}_norm"))
    model.add(layers.Dense(2, name="head"))
    return model


def parts_of(model):
    return {
        id(weight): f"block/{layer.name[1]}/b{layer.name[1]}" if "_" in layer.name else layer.name
        for layer in model.layers
        for weight in layer.weights
    }


def followed(model, names=("l2",), parts=True, **options):
    def look(model):
        return views.look(model, parts=parts_of(model) if parts else None)

    view = look(model)
    reference = Reference.taken(view.watched)
    return tracker.Tracker(model, view, reference, chosen(names), again=look, **options)


def move(weight, by):
    weight.assign(weight + by)


def test_blocks_are_the_concatenation_of_their_layers():
    model = stacked()
    one = followed(model, STATISTICS, step=10)
    start = [host(weight) for weight in model.weights]
    random = np.random.default_rng(0)
    for weight in model.weights:
        move(weight, random.normal(size=weight.shape).astype("float32"))
    record = one.record(15)
    assert [(row.name, row.part) for row in record.rows] == [
        ("stem", "stem"),
        ("b0_dense", "block/0/b0"),
        ("b0_norm", "block/0/b0"),
        ("b0_norm (non-trainable)", "block/0/b0"),
        ("b1_dense", "block/1/b1"),
        ("b1_norm", "block/1/b1"),
        ("b1_norm (non-trainable)", "block/1/b1"),
        ("head", "head"),
    ]
    assert [row.name for row in record.blocks] == [
        "stem",
        "block/0/b0",
        "block/0/b0 (non-trainable)",
        "block/1/b1",
        "block/1/b1 (non-trainable)",
        "head",
    ]
    trainable = {id(weight) for weight in model.trainable_weights}

    def expected(chosen):
        now = np.concatenate([host(w).ravel() for w, _ in chosen])
        before = np.concatenate([s.ravel() for _, s in chosen])
        return by_definition(now, before, before, steps=5)

    every = list(zip(model.weights, start, strict=True))
    keys = parts_of(model)
    for i, block in enumerate(record.blocks):
        members = [
            (w, s)
            for w, s in every
            if keys[id(w)] == block.part and (id(w) in trainable) == block.trainable
        ]
        assert block.parameters == sum(s.size for _, s in members)
        for name, value in expected(members).items():
            assert record.by_block[name][i] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    whole = expected([(w, s) for w, s in every if id(w) in trainable])
    for name, value in whole.items():
        assert record.whole[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_without_an_outline_there_are_no_blocks_and_all_else_is_the_same():
    model = stacked()
    with_parts, without = followed(model), followed(model, parts=False)
    move(model.get_layer("stem").kernel, 1.0)
    a, b = with_parts.record(1), without.record(1)
    np.testing.assert_array_equal(a.values["l2"], b.values["l2"])
    assert a.whole == b.whole
    assert b.blocks == ()
    assert {row.part for row in b.rows} == {""}


def test_a_row_says_what_holds_at_its_step():
    model = stacked()
    one = followed(model)
    stem = model.get_layer("stem")
    said = []
    for step, trainable in enumerate([True, False, True]):
        stem.trainable = trainable
        record = one.record(step)
        said.append((record.rows[0].frozen, record.blocks[0].frozen))
    assert said == [(False, False), (True, True), (False, False)]


def test_what_a_rule_freezes_is_asked_at_every_record():
    model = stacked()
    by_rule = set()
    one = followed(model, frozen=lambda asked: by_rule if asked is model else None)
    assert not one.record(1).rows[1].frozen
    by_rule |= {"b0_dense/kernel"}
    assert not one.record(2).rows[1].frozen  # the bias trains
    by_rule |= {"b0_dense/bias", "b0_norm/gamma", "b0_norm/beta"}
    record = one.record(3)
    assert [row.name for row in record.rows if row.frozen] == [
        "b0_dense",
        "b0_norm",
        "b0_norm (non-trainable)",
    ]
    assert [row.name for row in record.blocks if row.frozen] == [
        "block/0/b0",
        "block/0/b0 (non-trainable)",
    ]


def test_update_ratio_is_that_of_one_step():
    model = stacked()
    one = followed(model, ["update_ratio"], step=100)
    kernel = model.get_layer("stem").kernel
    kernel.assign(np.ones((3, 4)))
    one.record(103)
    kernel.assign(np.full((3, 4), 1.5))
    norm = np.sqrt(12)  # the bias is zero
    assert one.record(108).values["update_ratio"][0] == pytest.approx(0.5 * norm / (norm * 5))
    assert one.record(110).values["update_ratio"][0] == 0


def test_moved_state_of_frozen_layers_is_said_once_and_by_class():
    model = stacked()
    model.trainable = False
    one = followed(model)
    one.record(1)
    for i in range(2):
        move(model.get_layer(f"b{i}_norm").moving_mean, 1.0)
    (alarm,) = one.record(2).alarms
    assert alarm.message.startswith("2 BatchNormalization layers in the frozen part moved, at ste")
    move(model.get_layer("b0_norm").moving_mean, 1.0)
    move(model.get_layer("head").kernel, 1.0)
    (alarm,) = one.record(3).alarms
    assert alarm.rows == ("head",)


def test_a_block_in_which_nothing_learns_is_said_with_its_rate():
    model = stacked()
    one = followed(model)
    for name in ("stem", "b0_dense", "head"):
        move(model.get_layer(name).kernel, 1.0)
    one.record(4)
    rates = {"b1_dense/kernel": 1e-9, "b1_norm/gamma": 1e-9}
    block, layer = one.still(4, rates)
    assert block.message.startswith("Nothing in block 1 (b1) at rate 1e-09 learns: 2 trainable")
    assert layer.rows == ("b0_norm",)
    assert one.still(4, rates) == ()


def test_a_layer_that_was_freed_has_an_epoch_to_move():
    model = stacked()
    stem = model.get_layer("stem")
    stem.trainable = False
    one = followed(model)
    for layer in model.layers[1:]:
        move(layer.trainable_weights[0], 1.0)
    one.record(1)
    assert one.still(1) == ()
    stem.trainable = True
    one.record(2)
    assert one.still(2) == ()
    one.record(3)
    (alarm,) = one.still(3)
    assert alarm.rows == ("stem",)


def test_a_frozen_weight_of_a_layer_that_trains_is_told_apart():
    model = stacked()
    one = followed(model, frozen=lambda asked: {"stem/kernel"})
    one.record(1)
    move(model.get_layer("stem").kernel, 1.0)
    (alarm,) = one.record(2).alarms
    assert alarm.message.startswith("Frozen weights of layer 'stem' have moved, at step 2: some")


@pytest.mark.parametrize("by", [1e-33, 1e-5])
def test_a_bias_that_moves_by_nothing_is_no_learning(by):
    """A rate near zero moves what is zero, such as a bias, and no kernel."""
    model = stacked()
    one = followed(model)
    for layer in model.layers:
        move(layer.trainable_weights[0], 1.0 if "b1" not in layer.name else 0.0)
        move(layer.trainable_weights[1], by)
    one.record(4)
    one.record(8)
    said = [alarm.rows for alarm in one.still(8)]
    assert said == ([("b1_dense", "b1_norm")] if by < 1e-9 else [])
