"""Weights between a reference and the trained ones, against the formula in NumPy."""

import re

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from tests.shared import models
from tests.shared.models import weights_of


def trained():
    """A model, what it began with, and what it has as if trained to: no step is compiled."""
    model = models.sequential()
    start = weights_of(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    move(model)
    return model, start, weights_of(model)


def move(model):
    rng = np.random.default_rng(2)
    model.set_weights([w + rng.uniform(0.1, 0.5, w.shape) for w in weights_of(model)])


@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_every_weight_is_between_as_in_wise_ft(alpha):
    model, start, end = trained()
    kl.interpolate(model, start, alpha)
    for found, w0, w1 in zip(weights_of(model), start, end, strict=True):
        np.testing.assert_allclose(found, (1 - alpha) * w0 + alpha * w1, rtol=1e-6, atol=1e-7)
        assert np.abs(found - w1).max() > 0  # moving averages as well


def test_the_ends_are_exact_and_undo_puts_every_bit_back():
    model, start, end = trained()
    end[0][0, 0] = np.nan  # what is not finite must not spread into the reference
    model.set_weights(end)
    with kl.interpolate(model, start, 0):
        for found, w0 in zip(weights_of(model), start, strict=True):
            np.testing.assert_array_equal(found, w0)
    for found, w1 in zip(weights_of(model), end, strict=True):
        np.testing.assert_array_equal(found, w1)
    undo = kl.interpolate(model, start, 0.3)
    undo.undo()
    undo.undo()
    for found, w1 in zip(weights_of(model), end, strict=True):
        np.testing.assert_array_equal(found, w1)
    kl.interpolate(model, start, 1.0)
    for found, w1 in zip(weights_of(model), end, strict=True):
        np.testing.assert_array_equal(found, w1)


def test_by_selector_the_first_decides_and_the_others_stay():
    model, start, end = trained()
    found = kl.interpolate(model, start, {"body/kernel": 0.5, "body": 0.0})
    assert found.alpha["body/kernel"] == 0.5
    assert found.alpha["body/bias"] == 0.0
    assert found.alpha["head/kernel"] == 1.0
    kernel, bias, *rest = weights_of(model)
    np.testing.assert_allclose(kernel, (start[0] + end[0]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(bias, start[1])
    for now, w1 in zip(rest, end[2:], strict=True):
        np.testing.assert_array_equal(now, w1)


def test_undone_in_another_order_no_weight_stays_between():
    model, start, end = trained()
    first = kl.interpolate(model, start, {"body": 0.5})
    second = kl.interpolate(model, start, {"body/kernel": 0.5, "head": 0.0})
    first.undo()
    kernel, bias, *_, head = weights_of(model)
    np.testing.assert_array_equal(kernel, end[0])
    np.testing.assert_array_equal(bias, end[1])
    np.testing.assert_array_equal(head, start[-1])  # which the second alone holds
    second.undo()
    first, second = (kl.interpolate(model, start, 0.5) for _ in range(2))
    first.undo()
    assert "interpolation" not in kl.inventory(model)["training"]
    second.undo()
    for found, w1 in zip(weights_of(model), end, strict=True):
        np.testing.assert_array_equal(found, w1)


def test_an_interruption_half_way_leaves_the_trained_weights(monkeypatch):
    model, start, end = trained()
    last = model.weights[-1]
    assign = type(last).assign

    def interrupted(self, value):
        if self is last and np.asarray(value).tolist() != end[-1].tolist():
            raise KeyboardInterrupt
        return assign(self, value)

    monkeypatch.setattr(type(last), "assign", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kl.interpolate(model, start, 0.5)
    assert "interpolation" not in kl.inventory(model)["training"]
    for found, w1 in zip(weights_of(model), end, strict=True):
        np.testing.assert_array_equal(found, w1)


def test_in_the_middle_of_an_epoch_it_reads_what_was_trained_up_to_there():
    model = models.sequential()
    start = weights_of(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")

    class Half(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            before = kl.interpolate(self.model, start, 1.0)
            with kl.interpolate(self.model, start, 0.5):
                self.found = weights_of(self.model)
            before.undo()

    half, plain = Half(), models.sequential()
    models.fit(model, callbacks=[half])
    plain.compile(keras.optimizers.SGD(0.1), "mse")
    models.fit(plain)
    for w0, w1, other, between in zip(
        start, weights_of(model), weights_of(plain), half.found, strict=True
    ):
        np.testing.assert_allclose(w1, other, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(between, (w0 + w1) / 2, rtol=1e-5, atol=1e-6)


def test_predictions_are_those_of_the_weights_between_also_where_they_were_compiled():
    model, start, end = trained()
    x, _ = models.data()
    model.predict(x, verbose=0)  # compiled with the trained weights
    other = models.sequential()
    other.set_weights([(a + b) / 2 for a, b in zip(start, end, strict=True)])
    with kl.interpolate(model, start, 0.5):
        np.testing.assert_allclose(
            model.predict(x, verbose=0), other.predict(x, verbose=0), rtol=1e-5, atol=1e-6
        )


def test_a_record_has_what_the_model_holds(tmp_path):
    model, start, _ = trained()
    x, y = models.data()
    model.fit(x, y, verbose=0, callbacks=[kl.FreezeHyperparameters(tmp_path)])
    held = kl.interpolate(model, start, {"body": 0.5, "head/kernel": 0.25})
    second = kl.interpolate(model, start, 0.75)
    assert kl.inventory(model)["training"]["interpolation"] == [
        {"body": 0.5, "head/kernel": 0.25},
        0.75,
    ]
    second.undo()
    model.fit(x, y, verbose=0, callbacks=[kl.FreezeHyperparameters(tmp_path)])
    (phase,) = kl.load_record(tmp_path).phases
    assert {change["key"]: change["new"] for change in phase["changes"]} == {
        "training/interpolation/body": 0.5,
        "training/interpolation/head/kernel": 0.25,
    }
    shown = []
    model.compile(kl.LayerwiseOptimizer("sgd"), "mse")
    kl.optimizer_of(model).build(model.trainable_variables)
    kl.optimizer_of(model).summary(shown.append)
    assert "share of the trained: body 0.5, head/kernel 0.25" in shown[0]
    held.undo()
    assert "interpolation" not in kl.inventory(model)["training"]
    with kl.interpolate(model, start, 1):
        assert kl.inventory(model)["training"]["interpolation"] == 1.0
    assert "interpolation" not in kl.inventory(model)["training"]


def test_half_precision_is_computed_in_float32():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, dtype="float16")])
    model.set_weights([np.full((1, 1), 3.0), np.full(1, 1.0)])
    kl.interpolate(model, [np.full((1, 1), 1.0), np.zeros(1)], 0.1)
    np.testing.assert_array_equal(weights_of(model)[0], np.float16(0.9 * 1.0 + 0.1 * 3.0))


@pytest.mark.parametrize("kind", ["model", "weights", "weights, not compiled", "keras", "run"])
def test_the_reference_is_a_model_a_file_or_a_run(kind, tmp_path):
    model = models.sequential()
    start = weights_of(model)
    reference = tmp_path / "run"
    if kind == "model":
        reference = models.sequential()
    if kind.startswith("weights"):
        reference = tmp_path / "w.weights.h5"
        model.save_weights(reference)
    if kind == "keras":
        reference = tmp_path / "m.keras"
        model.save(reference)
    if kind != "weights, not compiled":
        model.compile(keras.optimizers.SGD(0.1), "mse")
    if kind == "run":
        models.fit(model, callbacks=[kl.WeightDrift(reference)])
    else:
        move(model)
    kl.interpolate(model, reference, 0.0)
    for found, w0 in zip(weights_of(model), start, strict=True):
        np.testing.assert_array_equal(found, w0)


def test_a_real_network_between_two_of_its_own():
    keras.utils.set_random_seed(0)
    build = lambda: keras.applications.MobileNetV2(  # noqa: E731
        weights=None, input_shape=(32, 32, 3), classes=3
    )
    first, second = build(), build()
    starts, ends = weights_of(first), weights_of(second)
    with kl.interpolate(second, first, {"block_1_*": 0.5, re_block(): 0.0}) as found:
        assert len({found.alpha[path] for path in found.alpha}) == 3
        now = weights_of(second)
    for path, w0, w1, w in zip(found.alpha, starts, ends, now, strict=True):
        share = found.alpha[path]
        np.testing.assert_allclose(w, (1 - share) * w0 + share * w1, rtol=1e-5, atol=1e-7)
    for w1, w in zip(ends, weights_of(second), strict=True):
        np.testing.assert_array_equal(w, w1)


def re_block():
    return re.compile(r"(Conv1|bn_Conv1|expanded_conv_).*")


class TestBadInput:
    @pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
    def test_a_share_is_between_0_and_1(self, alpha):
        model = models.sequential()
        with pytest.raises(kl.RuleError, match="from 0 to 1"):
            kl.interpolate(model, weights_of(model), alpha)

    @pytest.mark.parametrize("alpha", ["half", "0.5", True, [0.5]])
    def test_what_is_no_number_is_a_type_error(self, alpha):
        model = models.sequential()
        with pytest.raises(TypeError, match=re.escape(repr(alpha))):
            kl.interpolate(model, weights_of(model), alpha)

    def test_a_selector_that_picks_nothing_is_named(self):
        model = models.sequential()
        with pytest.raises(kl.RuleError, match=r"'boddy'.*'body'"):
            kl.interpolate(model, weights_of(model), {"boddy": 0.5})

    def test_a_reference_that_does_not_fit_changes_nothing(self):
        model = models.sequential()
        before = weights_of(model)
        with pytest.raises(ValueError, match="arrays"):
            kl.interpolate(model, before[:2], 0.5)
        for found, w in zip(weights_of(model), before, strict=True):
            np.testing.assert_array_equal(found, w)

    def test_a_directory_that_holds_no_run_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="WeightDrift"):
            kl.interpolate(models.sequential(), tmp_path, 0.5)

    def test_what_is_no_reference_is_named(self):
        with pytest.raises(TypeError, match="received None"):
            kl.interpolate(models.sequential(), None, 0.5)

    def test_a_model_without_weights(self):
        with pytest.raises(kl.RuleError, match="Build"):
            kl.interpolate(models.subclassed(), [], 0.5)
        with pytest.raises(kl.RuleError, match="Build"):
            kl.interpolation_curve(models.subclassed(), [], [0.5], lambda model: 0.0)


class TestCurve:
    def test_a_table_of_what_each_share_gives(self, capsys):
        model, start, end = trained()
        curve = kl.interpolation_curve(
            model, start, [0, 0.5, 1], lambda m: {"bias": weights_of(m)[-1].sum()}
        )
        expected = [start[-1].sum(), (start[-1].sum() + end[-1].sum()) / 2, end[-1].sum()]
        bias = [row["bias"] for row in curve.rows]
        np.testing.assert_allclose(bias, expected, rtol=1e-5)
        assert "3/3" in capsys.readouterr().out
        assert "bias" in str(curve)
        assert curve.best("bias") == [0.0, 0.5, 1.0][int(np.argmax(expected))]

    def test_the_plot_has_every_result(self):
        pytest.importorskip("matplotlib", reason="draws the plot; not installed everywhere")
        model = models.sequential()
        found = {"kept": 1.0, "learned": 0.5}
        curve = kl.interpolation_curve(model, weights_of(model), [0, 1], lambda m: found, verbose=0)
        (axes,) = curve.plot().axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(found)

    def test_the_model_is_left_as_it_was_also_when_evaluating_raises(self):
        model, start, end = trained()

        def fail(model):
            raise RuntimeError("no data")

        with pytest.raises(RuntimeError, match="no data"):
            kl.interpolation_curve(model, start, [0.5], fail, verbose=0)
        for found, w1 in zip(weights_of(model), end, strict=True):
            np.testing.assert_array_equal(found, w1)

    def test_each_share_may_be_by_part(self):
        pytest.importorskip("matplotlib", reason="draws the plot; not installed everywhere")
        model, start, end = trained()
        alphas = [{kl.outline(model).head: 0.0}, {"head/bias": 0.5, "head": 0.0}, 1]
        curve = kl.interpolation_curve(
            model, start, alphas, lambda m: weights_of(m)[-1].sum(), verbose=0
        )
        expected = [start[-1].sum(), (start[-1].sum() + end[-1].sum()) / 2, end[-1].sum()]
        np.testing.assert_allclose([row["result"] for row in curve.rows], expected, rtol=1e-5)
        assert curve.best("result") in alphas
        assert "head/bias 0.5, head 0" in str(curve)
        (axes,) = curve.plot().axes
        assert axes.get_xticklabels()[1].get_text() == "head/bias 0.5, head 0"
        for found, w1 in zip(weights_of(model), end, strict=True):
            np.testing.assert_array_equal(found, w1)

    @pytest.mark.parametrize("found", [None, [0.5, 0.25], {"loss": "low"}])
    def test_what_evaluates_to_no_number_is_named(self, found):
        model = models.sequential()
        with pytest.raises(TypeError, match="return_dict=True"):
            kl.interpolation_curve(model, weights_of(model), [0.5], lambda m: found, verbose=0)

    @pytest.mark.parametrize("alphas", [0.5, {"body": 0.5}])
    def test_one_share_is_no_list(self, alphas):
        model = models.sequential()
        with pytest.raises(TypeError, match="list"):
            kl.interpolation_curve(model, weights_of(model), alphas, lambda m: 0, verbose=0)

    def test_no_share_is_an_error(self):
        model = models.sequential()
        with pytest.raises(kl.RuleError, match="empty"):
            kl.interpolation_curve(model, weights_of(model), [], lambda m: 0, verbose=0)
