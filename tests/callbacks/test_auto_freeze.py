"""Blocks are frozen from the bottom up as they settle, and every decision is told."""

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise.drift.settling import first_unsettled
from tests.shared.models import assert_same_weights, numpy, weights_of


def network(blocks=4):
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(6, activation="tanh", name=f"block_{i}") for i in range(blocks)]
    return keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(1, name="head")])


def trained(freeze, epochs=8, callbacks=(), model=None, **fit):
    model = model or network()
    rates = {f"block_{i}": 0.2 + 0.2 * i for i in range(4)}
    model.compile(kl.LayerwiseOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), rates), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 5)).astype("float32")
    y = np.sin(x.sum(axis=1, keepdims=True))
    given = [freeze] if freeze else []
    model.fit(
        x, y, epochs=epochs, batch_size=16, shuffle=False, verbose=0,
        callbacks=[*given, *callbacks], **fit,
    )  # fmt: skip
    return model


class Kept(keras.callbacks.Callback):
    """The weights at the end of each epoch, after our callback has looked."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_begin(self, epoch, logs=None):
        if not self.weights:
            self.weights.append(weights_of(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(weights_of(self.model))


def test_it_decides_as_the_rule_does_from_movement_in_numpy():
    freeze, kept = kl.AutoFreeze(trace_cost=0), Kept()
    trained(freeze, callbacks=[kept])
    start, previous, expected = 0, None, []
    for before, after in zip(kept.weights, kept.weights[1:], strict=False):
        pairs = list(zip(before, after, strict=True))[:8]  # kernel and bias of four blocks
        squares = [float(((b - a) ** 2).sum()) for a, b in pairs]
        moved = [np.sqrt(squares[i] + squares[i + 1]) for i in range(0, 8, 2)]
        if previous is not None:
            found = first_unsettled(previous, moved, start)
            if found > start:
                start = found
                expected.append([f"block/{i}/block_{i}" for i in range(start)])
        previous = moved
    assert expected
    decided = [decision["frozen"] for decision in freeze.decisions]
    assert decided[: len(expected)] == expected[: len(decided)]
    assert len(decided) >= len(expected) - 1  # after the last epoch nothing is left to save


def test_what_is_frozen_stays_as_it_is_and_the_head_never_is():
    freeze, kept = kl.AutoFreeze(trace_cost=0, percentile=75), Kept()
    model = trained(freeze, epochs=12, callbacks=[kept])
    first = freeze.decisions[0]
    assert first["frozen"]
    at = first["epoch"] + 1
    count = 2 * len(first["frozen"])
    for before, after in zip(kept.weights[at][:count], weights_of(model)[:count], strict=True):
        np.testing.assert_array_equal(before, after)
    frozen = {key for decision in freeze.decisions for key in decision["frozen"]}
    assert "head" not in frozen
    assert "block/3/block_3" not in frozen
    assert not kl.optimizer_of(model).selected("head")[0].frozen


def test_a_run_that_is_repeated_decides_the_same():
    first, second = kl.AutoFreeze(trace_cost=0), kl.AutoFreeze(trace_cost=0)
    one, other = trained(first), trained(second)
    assert first.decisions == second.decisions
    assert_same_weights(one, other)


@pytest.mark.parametrize(("cost", "decides"), [(0, True), (12, False)])
def test_nothing_is_frozen_that_would_not_earn_back_its_trace(cost, decides):
    freeze = kl.AutoFreeze(trace_cost=cost)
    # 4 steps each: at most 24 are left at the first decision, and 3 of 4 blocks save half of each.
    trained(freeze, epochs=8)
    assert bool(freeze.decisions) == decides


def test_an_interval_in_steps_looks_within_the_epoch():
    freeze = kl.AutoFreeze(3, trace_cost=0, percentile=90)
    trained(freeze, epochs=9)
    steps = [decision["step"] for decision in freeze.decisions]
    assert steps
    assert all(step % 3 == 0 for step in steps)


def test_steps_are_counted_also_where_keras_makes_several_at_once():
    """As with ``steps_per_execution``, which PyTorch has not."""
    freeze, model, looks = kl.AutoFreeze(4, trace_cost=0), network(), []
    model.compile(kl.LayerwiseOptimizer("sgd"), "mse")
    freeze.set_model(model)
    freeze._look = lambda batch: looks.append(freeze._seen)
    for epoch in range(2):
        freeze.on_epoch_begin(epoch)
        for batch in range(0, 8, 2):
            freeze.on_train_batch_begin(batch)
            freeze.on_train_batch_end(batch + 1)
    assert looks == [4, 8, 12]


def test_the_optimizer_of_a_cell_that_runs_again_is_the_one_that_freezes():
    freeze, model = kl.AutoFreeze(trace_cost=0, percentile=75), network()
    for _ in range(2):
        trained(freeze, model=model)
        frozen = [a.path for a in kl.optimizer_of(model).assignments if a.frozen]
        assert frozen
        assert len(freeze.decisions[-1]["frozen"]) == len(frozen) / 2


@pytest.mark.parametrize("made", ["by_block", "by name"])
def test_who_unfreezes_blocks_at_every_epoch_is_refused_beside_it(made):
    model = network()
    rules = {"block_*": kl.Rule(frozen=True)}
    model.compile(kl.LayerwiseOptimizer(keras.optimizers.SGD(0.05), rules), "mse")
    unfreeze = kl.GradualUnfreeze({1: "block_*"})
    if made == "by_block":
        unfreeze = kl.GradualUnfreeze.by_block(model)
    x = np.ones((8, 5), "float32")
    with pytest.raises(kl.RuleError, match=r"GradualUnfreeze.*one after the other"):
        model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=[kl.AutoFreeze(), unfreeze])
    last_alone = kl.GradualUnfreeze({1: "block_3"})  # which it never freezes
    model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=[kl.AutoFreeze(), last_alone])


def test_it_is_no_violation_of_the_record_but_in_it(tmp_path):
    freeze = kl.AutoFreeze(trace_cost=0)
    trained(freeze, callbacks=[kl.FreezeHyperparameters(tmp_path / "run")])
    record = kl.load_record(tmp_path / "run")
    assert record.status == "finished"
    assert not record.violations
    changed = {change["key"] for change in record.changes if change["new"] is True}
    assert changed
    assert "AutoFreeze" in str(record.values["training"])


def test_a_checkpoint_that_is_ahead_of_its_record_is_the_same_run(tmp_path):
    class Killed(keras.callbacks.Callback):
        observes_only = True

        def on_epoch_end(self, epoch, logs=None):
            if freeze.decisions:
                raise SystemExit

    def run():
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        record = kl.FreezeHyperparameters(tmp_path / "run")
        trained(freeze, epochs=10, callbacks=[backup, *killed, record])

    freeze, killed = kl.AutoFreeze(trace_cost=0, percentile=75), [Killed()]
    with pytest.raises(SystemExit):
        run()
    assert not kl.load_record(tmp_path / "run").changes
    decided = freeze.decisions[-1]["frozen"]
    freeze, killed = kl.AutoFreeze(trace_cost=0, percentile=75), []
    run()
    record = kl.load_record(tmp_path / "run")
    assert (record.status, record.violations) == ("finished", [])
    assert all(set(decided) <= set(decision["frozen"]) for decision in freeze.decisions)


def test_a_run_that_goes_on_keeps_what_was_frozen():
    freeze = kl.AutoFreeze(trace_cost=0, percentile=75)
    model = trained(freeze, epochs=8)
    before = [numpy(v) for v in model.get_layer("block_0").trainable_variables]
    assert kl.optimizer_of(model).selected("block_0")[0].frozen
    x = np.random.default_rng(1).normal(size=(32, 5)).astype("float32")
    again = kl.AutoFreeze(trace_cost=0)
    model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=[again])
    assert all("block/0/block_0" in decision["frozen"] for decision in again.decisions)
    for w, v in zip(before, model.get_layer("block_0").trainable_variables, strict=True):
        np.testing.assert_array_equal(w, numpy(v))


class TestBadInput:
    @pytest.mark.parametrize("interval", [0, -1, True, 1.5, "step"])
    def test_an_interval(self, interval):
        with pytest.raises(ValueError, match="interval"):
            kl.AutoFreeze(interval)

    @pytest.mark.parametrize("percentile", [-1, 101])
    def test_a_percentile(self, percentile):
        with pytest.raises(ValueError, match="percentile"):
            kl.AutoFreeze(percentile=percentile)

    @pytest.mark.parametrize("cost", [-1, True, 0.5])
    def test_a_cost(self, cost):
        with pytest.raises(ValueError, match="trace_cost"):
            kl.AutoFreeze(trace_cost=cost)

    def test_another_optimizer_is_named(self):
        model = network()
        model.compile("sgd", "mse")
        with pytest.raises(kl.RuleError, match="SGD"):
            model.fit(np.ones((4, 5)), np.ones((4, 1)), verbose=0, callbacks=[kl.AutoFreeze()])

    def test_one_block_is_too_few(self):
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, name="only")])
        model.compile(kl.LayerwiseOptimizer("sgd"), "mse")
        with pytest.raises(kl.RuleError, match="block"):
            model.fit(np.ones((4, 5)), np.ones((4, 1)), verbose=0, callbacks=[kl.AutoFreeze()])
