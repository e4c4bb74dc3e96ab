"""Alarms come in groups, each with its cause and its remedy in one sentence."""

from keras_layerwise.drift import alarms
from keras_layerwise.drift.alarms import Group


def norms(count):
    return [
        Group(f"block_{i}_BN (non-trainable)", False, True, 8, f"block/{i}/block_{i}",
              "BatchNormalization")
        for i in range(count)
    ]  # fmt: skip


def dense(name, part=""):
    return Group(name, True, False, 4, part, "Dense")


class TestFrozenMoved:
    def test_state_of_one_class_is_one_alarm(self):
        (alarm,) = alarms.frozen_moved(norms(52), step=4)
        assert alarm.message.startswith(
            "52 BatchNormalization layers in the frozen part moved, at step 4 "
            "(block_0_BN (non-trainable), block_1_BN (non-trainable), block_2_BN (non-trainable) "
            "and 49 more): their moving averages follow the data; set trainable = False on the "
            "layers"
        )
        assert alarm.rows == tuple(row.name for row in norms(52))

    def test_weights_and_state_have_alarms_apart(self):
        found = alarms.frozen_moved([dense("a"), *norms(1), dense("b")], step=2)
        assert [alarm.rows for alarm in found] == [("a", "b"), ("block_0_BN (non-trainable)",)]
        assert found[0].message.startswith("2 frozen layers moved, at step 2 (a, b): something")
        assert "compile again" in found[0].message

    def test_nothing_moved_is_nothing(self):
        assert alarms.frozen_moved([], step=1) == []


class TestTrainableStill:
    def test_a_block_in_which_nothing_learns_is_one_alarm_with_its_rate(self):
        block = [dense(f"block_3_{part}", "block/3/block_3") for part in "abc"]
        head = dense("head", "head")
        rates = dict.fromkeys((row.name for row in block), 1e-12)
        (alarm,) = alarms.trainable_still(block, [*block, head], rates, step=40)
        assert alarm.message.startswith(
            "Nothing in block 3 (block_3) at rate 1e-12 learns: 3 trainable layers have not moved "
            "up to step 40; raise the rate"
        )
        assert alarm.rows == ("block_3_a", "block_3_b", "block_3_c")

    def test_many_blocks_are_one_alarm(self):
        blocks = [dense(f"{i}_{part}", f"block/{i}/b{i}") for i in range(9) for part in "ab"]
        rates = {row.name: 10.0 ** -(30 - i // 2) for i, row in enumerate(blocks)}
        (alarm,) = alarms.trainable_still(blocks, blocks, rates, step=1)
        assert "Nothing in block 0 (b0) at rate 1e-30, block 1 (b1) at rate" in alarm.message
        assert "and 6 more learns: 18 trainable layers" in alarm.message

    def test_a_layer_of_a_block_that_learns_is_named(self):
        rows = [dense("moves", "block/0/b"), dense("still", "block/0/b")]
        (alarm,) = alarms.trainable_still(rows[1:], rows, {"still": 0.1}, step=3)
        assert alarm.message.startswith(
            "Layer 'still' is trainable and has not moved up to step 3 at rate 0.1: no gradient"
        )

    def test_layers_without_an_outline_share_an_alarm(self):
        rows = [dense(name) for name in "abcde"]
        (alarm,) = alarms.trainable_still(rows, rows, {"a": 0.1, "b": 0.2}, step=3)
        assert alarm.message.startswith(
            "5 trainable layers have not moved up to step 3 at rates 0.1 to 0.2 "
            "(a, b, c and 2 more)"
        )
        assert alarm.rows == tuple("abcde")


class TestNonfinite:
    def test_one_layer(self):
        (alarm,) = alarms.nonfinite([(dense("head"), "head/kernel", 12)], step=8)
        assert alarm.message.startswith(
            "12 elements of 'head/kernel' in layer 'head' are not finite, at step 8: lower"
        )

    def test_many_layers(self):
        found = [(dense(name), f"{name}/kernel", 4) for name in "abcd"]
        (alarm,) = alarms.nonfinite(found, step=8)
        assert alarm.rows == tuple("abcd")
        assert alarm.message.startswith(
            "4 layers are not finite, at step 8 (4 elements of 'a/kernel' in layer 'a', "
        )
