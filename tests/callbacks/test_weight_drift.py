import itertools
import re

import keras
import numpy as np
import pytest
from keras import layers
from tensorboard.util import tensor_util

import keras_layerwise as kl
from keras_layerwise import cli
from keras_layerwise.backend import arrays
from keras_layerwise.drift import devices, sums
from keras_layerwise.storage import schema
from keras_layerwise.storage.schema import STATISTICS
from tests.shared import models
from tests.shared.drift import (
    Push,
    X,
    Y,
    alarms_of,
    by_definition,
    classifier,
    fit,
    host,
    messages,
    read,
    vectors,
    weights_of,
)


class Weights(keras.callbacks.Callback):
    """The weights of the layer "body" at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(weights_of(self.model, "body"))


def test_history_is_the_definition_at_every_record(tmp_path):
    model = classifier()
    start, seen = weights_of(model, "body"), Weights()
    drift = kl.WeightDrift(tmp_path, statistics=STATISTICS)
    fit(model, drift, seen, epochs=3)
    history = drift.history
    assert history["layers"] == ["body", "norm", "norm (non-trainable)", "head"]
    assert history["step"].tolist() == [4, 8, 12]
    assert set(history) == {"step", "layers", *STATISTICS}
    previous = [start, *seen.seen]
    for i, now in enumerate(seen.seen):
        for name, value in by_definition(now, start, previous[i], steps=4).items():
            np.testing.assert_allclose(history[name][i, 0], value, rtol=1e-4, atol=1e-6)


def test_the_default_statistics_are_all_that_need_no_second_copy(tmp_path):
    drift = kl.WeightDrift(tmp_path)
    fit(classifier(), drift)
    assert set(drift.history) == {"step", "layers", *STATISTICS} - {"update_ratio"}


def test_the_tab_gets_one_vector_a_record_with_the_rows_said_once(tmp_path):
    model = classifier()
    model.get_layer("body").trainable = False
    model.compile("sgd", "mse")
    drift = kl.WeightDrift(tmp_path)
    fit(model, drift, epochs=3)
    ((about, records),) = vectors(tmp_path)
    assert [(r.name, r.trainable, r.frozen, r.parameters) for r in about.rows] == [
        ("body", True, True, 30),
        ("norm", True, False, 12),
        ("norm (non-trainable)", False, False, 12),
        ("head", True, False, 14),
    ]
    assert (about.kind, about.statistic) == ("drift", "l2")
    assert about.reference == "the initial weights"
    assert [step for step, _ in records] == [4, 8, 12]
    np.testing.assert_allclose([v for _, v in records], drift.history["l2"], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions(tmp_path, dtype):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has float64 only where a process asks for it at its start")
    model = classifier(dtype)
    start = weights_of(model, "body")
    drift = kl.WeightDrift(tmp_path)
    fit(model, drift, epochs=1)
    expected = by_definition(weights_of(model, "body"), start)
    assert expected["l2"] > 0
    assert drift.history["l2"][0, 0] == pytest.approx(expected["l2"], rel=1e-5)
    assert drift.history["norm"][0, 0] == pytest.approx(expected["norm"], rel=1e-5)


def test_previous_compares_with_the_record_before(tmp_path):
    model, seen = classifier(), Weights()
    start = weights_of(model, "body")
    drift = kl.WeightDrift(tmp_path, reference="previous", statistics=["l2", "update_ratio"])
    fit(model, drift, seen, epochs=3)
    path = [start, *seen.seen]
    expected = [np.linalg.norm(b - a) for a, b in itertools.pairwise(path)]
    np.testing.assert_allclose(drift.history["l2"][:, 0], expected, rtol=1e-5)
    ratios = [e / np.linalg.norm(a) / 4 for e, a in zip(expected, path, strict=False)]
    np.testing.assert_allclose(drift.history["update_ratio"][:, 0], ratios, rtol=1e-5)


def references(model, tmp_path):
    """The same values as each kind of reference."""
    model.save(tmp_path / "other.keras")
    model.save_weights(tmp_path / "other.weights.h5")
    arrays = [np.array(keras.ops.convert_to_numpy(w)) for w in model.weights]
    return [tmp_path / "other.keras", str(tmp_path / "other.weights.h5"), arrays, model]


def test_files_models_and_arrays_are_references_and_leave_the_model_as_it_is(tmp_path):
    other = classifier()
    fit(other)
    for i, given in enumerate(references(other, tmp_path)):
        model = classifier()
        model.set_weights([w + 0.5 for w in model.get_weights()])
        fit(model, epochs=1)
        before, state = model.get_weights(), [host(v) for v in model.optimizer.variables]
        drift = kl.WeightDrift(tmp_path / str(i), given, select="body")
        drift.set_model(model)
        drift.on_train_begin()
        drift.on_epoch_begin(0)
        assert alarms_of(lambda d=drift: d.on_epoch_end(0))  # nothing was trained
        drift.on_train_end()
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        for a, v in zip(state, model.optimizer.variables, strict=True):
            np.testing.assert_array_equal(a, host(v))
        expected = np.linalg.norm(weights_of(model, "body") - weights_of(other, "body"))
        assert drift.history["l2"][0, 0] == pytest.approx(expected, rel=1e-5)


def test_arrays_are_copied(tmp_path):
    model = classifier()
    given = [np.array(w) for w in model.get_weights()]
    drift = kl.WeightDrift(tmp_path, given)
    fit(model, drift, epochs=1)
    before = drift.history["l2"][0, 0]
    given[0][:] = 9
    fit(model, drift, epochs=1)
    assert drift.history["l2"][1, 0] < 2 * before + 1


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_a_reference_that_does_not_fit_names_the_weight_and_both_shapes(tmp_path, kind):
    other = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(7, name="body"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="head"),
        ]
    )
    reference = references(other, tmp_path)[kind]
    model = classifier()
    before = model.get_weights()
    with pytest.raises(ValueError, match="body/kernel") as caught:
        fit(model, kl.WeightDrift(tmp_path / "run", reference))
    assert "4, 6" in str(caught.value)
    assert "4, 7" in str(caught.value)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_wrong_number_of_arrays_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has 1 arrays; the 8 watched weights are"):
        fit(classifier(), kl.WeightDrift(tmp_path, [np.zeros(3)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "initially"}, "'initially'"),
        ({"reference": 3}, "received 3"),
        ({"update_freq": 0}, "received 0"),
        ({"update_freq": "batch"}, "received 'batch'"),
        ({"statistics": ["l3"]}, "received 'l3'"),
        ({"statistics": []}, "statistics takes one of"),
        ({"scalars": "some"}, "received 'some'"),
        ({"on_nonfinite": "cry"}, "received 'cry'"),
    ],
)
def test_arguments_are_checked_at_once(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kl.WeightDrift(tmp_path, **options)


def test_a_missing_reference_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.keras"):
        fit(classifier(), kl.WeightDrift(tmp_path, tmp_path / "gone.keras"))


def test_select_narrows_and_says_when_it_picks_nothing(tmp_path):
    drift = kl.WeightDrift(tmp_path, select=["head", layers.BatchNormalization], per_weight=True)
    fit(classifier(), drift)
    assert drift.history["layers"] == [
        "norm/gamma",
        "norm/beta",
        "norm/moving_mean",
        "norm/moving_variance",
        "head/kernel",
        "head/bias",
    ]
    with pytest.raises(kl.RuleError, match=r"'haed' selects no weight.*Nearest: head"):
        fit(classifier(), kl.WeightDrift(tmp_path, select="haed"))


@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize("eager", [False, True])
def test_records_come_every_so_many_steps_of_the_optimizer(tmp_path, steps_per_execution, eager):
    if steps_per_execution > 1 and keras.backend.backend() == "torch":
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    model = classifier()
    model.compile("sgd", "mse", run_eagerly=eager, steps_per_execution=steps_per_execution)
    drift = kl.WeightDrift(tmp_path, update_freq=4)
    fit(model, drift, epochs=2, batch_size=4)  # 8 steps an epoch
    assert drift.history["step"].tolist() == [4, 8, 12, 16]
    fit(model, drift, epochs=1, batch_size=4)
    assert drift.history["step"].tolist() == [4, 8, 12, 16, 20, 24]
    ((_, records),) = vectors(tmp_path)
    assert [step for step, _ in records] == [4, 8, 12, 16, 20, 24]


def test_every_record_between_steps_sees_the_weights_of_its_step(tmp_path):
    x, y = np.ones((4, 1), "float32"), np.zeros((4, 1), "float32")
    model = keras.Sequential(
        [keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer="ones", name="w")]
    )
    model.compile(keras.optimizers.SGD(0.25), "mse")
    drift = kl.WeightDrift(tmp_path, update_freq=1, statistics="norm")
    model.fit(x, y, batch_size=1, epochs=2, shuffle=False, verbose=0, callbacks=[drift])
    # w <- w - 0.25 * 2 w
    np.testing.assert_allclose(drift.history["norm"][:, 0], 0.5 ** np.arange(1, 9), rtol=1e-6)


def test_gradient_accumulation_counts_the_steps_of_the_optimizer(tmp_path):
    model = classifier()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
    drift = kl.WeightDrift(tmp_path, update_freq=4)
    fit(model, drift, epochs=2, batch_size=4)
    assert drift.history["step"].tolist() == [2, 4, 6, 8]


def test_a_second_fit_goes_on(tmp_path):
    model = classifier()
    start = weights_of(model, "body")
    drift = kl.WeightDrift(tmp_path)
    fit(model, drift, epochs=1)
    fit(model, drift, epochs=1)
    assert drift.history["step"].tolist() == [4, 8]
    expected = np.linalg.norm(weights_of(model, "body") - start)
    assert drift.history["l2"][1, 0] == pytest.approx(expected, rel=1e-5)


def test_another_model_begins_anew(tmp_path):
    drift = kl.WeightDrift(tmp_path)
    fit(classifier(), drift)
    fit(classifier(), drift, epochs=1)
    assert drift.history["step"].tolist() == [4]


def test_a_resumed_run_keeps_the_first_reference(tmp_path):
    model = classifier()
    start = weights_of(model, "body")
    fit(model, kl.WeightDrift(tmp_path / "run"))
    model.save(tmp_path / "checkpoint.keras")
    resumed = keras.saving.load_model(tmp_path / "checkpoint.keras")
    drift = kl.WeightDrift(tmp_path / "run")
    fit(resumed, drift, epochs=1)
    assert drift.history["step"].tolist() == [12]
    expected = np.linalg.norm(weights_of(resumed, "body") - start)
    assert drift.history["l2"][0, 0] == pytest.approx(expected, rel=1e-5)
    ((about, records),) = vectors(tmp_path / "run")
    assert about.reference == "the initial weights"
    assert [step for step, _ in records] == [4, 8, 12]


def test_backup_and_restore_before_or_after_makes_no_difference(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    model = classifier()
    start = weights_of(model, "body")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(model, kl.WeightDrift(tmp_path / "run"), backup, Stop(), epochs=4)
    again = classifier()
    drift = kl.WeightDrift(tmp_path / "run")
    fit(again, drift, keras.callbacks.BackupAndRestore(tmp_path / "backup"), epochs=4)
    assert drift.history["step"].tolist()[-1] == 16
    expected = np.linalg.norm(weights_of(again, "body") - start)
    assert drift.history["l2"][-1, 0] == pytest.approx(expected, rel=1e-5)


def test_a_new_run_in_an_old_directory_takes_its_own_reference(tmp_path):
    fit(classifier(), kl.WeightDrift(tmp_path))
    model = classifier()
    start = weights_of(model, "body")
    drift = kl.WeightDrift(tmp_path)
    fit(model, drift, epochs=1)
    expected = np.linalg.norm(weights_of(model, "body") - start)
    assert drift.history["l2"][0, 0] == pytest.approx(expected, rel=1e-5)


def test_a_resumed_run_without_the_file_says_what_it_compares_with(tmp_path):
    model = classifier()
    fit(model)
    fit(model, kl.WeightDrift(tmp_path), epochs=1)
    ((about, _),) = vectors(tmp_path)
    assert about.reference == "the weights at step 8, the first seen"


@pytest.mark.parametrize("change", [{"select": "head"}, {"per_weight": True}], ids=str)
def test_a_run_resumed_with_other_rows_keeps_every_record_readable(tmp_path, change):
    """TensorBoard keeps the rows that a tag was first written with."""
    model = classifier()
    fit(model, kl.WeightDrift(tmp_path))
    drift = kl.WeightDrift(tmp_path, **change)
    fit(model, drift)
    first, second = vectors(tmp_path)
    for about, records in (first, second):
        assert {len(values) for _, values in records} == {len(about.rows)}
    assert [row.name for row in second[0].rows] == drift.history["layers"]
    final = {row["name"]: row["l2"] for row in cli.final_drift(tmp_path)["layers"]}
    assert set(final) == {row.name for about, _ in (first, second) for row in about.rows}
    last = drift.history["l2"][-1].astype("f4").tolist()
    assert [final[name] for name in drift.history["layers"]] == last


def test_a_stored_reference_of_another_model_is_an_error_with_both_shapes(tmp_path):
    model = classifier()
    fit(model, kl.WeightDrift(tmp_path))
    other = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="body")])
    other.compile("sgd", "mse")
    fit(other)
    with pytest.raises(ValueError, match=r"\(4, 6\) for the weight 'body/kernel', .* \(4, 2\)"):
        fit(other, kl.WeightDrift(tmp_path))


def test_the_stored_reference_is_read_without_pickle(tmp_path):
    model = classifier("bfloat16")
    fit(model, kl.WeightDrift(tmp_path))
    with np.load(tmp_path / schema.DRIFT_DIR / schema.REFERENCE_FILE, allow_pickle=False) as file:
        header = schema.json.loads(file["header.json"])
        shapes = [file[str(i)].shape for i in range(len(header["paths"]))]
    assert header["paths"][0] == "body/kernel"
    assert shapes[0] == (4, 6)
    assert not list(tmp_path.rglob("*.part"))
    drift = kl.WeightDrift(tmp_path)
    fit(model, drift, epochs=1)
    assert np.isfinite(drift.history["l2"]).all()


class Late(keras.Model):
    """Built by its first batch, and only then."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2, name="late")

    def call(self, x):
        return self.dense(x)


def test_a_model_built_by_its_first_batch_says_so(tmp_path):
    model = Late()
    model.compile("sgd", "mse")
    drift = kl.WeightDrift(tmp_path)
    fit(model, drift, epochs=2)
    assert drift.history["layers"] == ["late"]
    assert drift.history["step"].tolist() == [4, 8]
    ((about, _),) = vectors(tmp_path)
    # Keras builds a model before it trains it, except on TensorFlow.
    late = keras.backend.backend() == "tensorflow"
    expected = "the weights at step 1, the first seen" if late else "the initial weights"
    assert about.reference == expected


def test_weights_added_later_get_rows_and_a_reference_of_their_own(tmp_path):
    model = classifier()
    drift = kl.WeightDrift(tmp_path)
    fit(model, drift, epochs=1)
    start = weights_of(model, "head")
    before = drift.history["l2"][0]
    model.get_layer("body").enable_lora(2)
    model.compile("sgd", "mse")
    model.fit(X, Y, epochs=1, batch_size=8, verbose=0, callbacks=[drift])
    history = drift.history
    assert history["l2"].shape == (2, 4)
    _, (about, records) = vectors(tmp_path)
    assert len(records) == 1
    assert about.rows[0].parameters == 30 + 2 * 4 + 2 * 6
    np.testing.assert_allclose(history["l2"][0], before)
    assert np.isfinite(start).all()


def test_shared_nested_and_equally_named_weights_each_have_their_row(tmp_path):
    shared = layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="same")], name="inner")
    other = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="same")], name="other")
    inputs = keras.Input((4,))
    outputs = layers.Dense(2, name="same")(other(inner(shared(shared(inputs)))))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    drift = kl.WeightDrift(tmp_path)
    fit(model, drift)
    assert drift.history["layers"] == ["shared", "inner/same", "other/same", "same"]
    assert (drift.history["l2"][-1] > 0).all()


def test_a_rate_of_one_and_large_values(tmp_path):
    model = classifier()
    model.compile(keras.optimizers.SGD(1.0), "mse")
    drift = kl.WeightDrift(tmp_path, update_freq=1)
    fit(model, drift, epochs=1)
    assert drift.history["l2"].shape == (4, 4)


def test_a_frozen_layer_that_moves_is_an_alarm_once(tmp_path):
    model = classifier()
    body = model.get_layer("body")
    body.trainable = False
    model.compile("sgd", "mse")
    drift = kl.WeightDrift(tmp_path)
    said = alarms_of(lambda: fit(model, Push(body.kernel, 0.5), drift, epochs=4))
    (text,) = said
    assert text.startswith("Layer 'body' is frozen and has moved, at step 8: something else")
    (message,) = messages(tmp_path)
    assert (message["kind"], message["row"], message["step"]) == ("frozen_moved", "body", 8)


def test_a_frozen_layer_that_keeps_still_is_none_whatever_the_reference(tmp_path):
    other = classifier()
    model = classifier()
    model.get_layer("body").trainable = False
    model.compile("sgd", "mse")
    for given in ["initial", "previous", other]:
        assert alarms_of(lambda r=given: fit(model, kl.WeightDrift(tmp_path, r))) == []


def test_moving_statistics_of_a_layer_frozen_by_a_rule_stay(tmp_path):
    model = classifier()
    optimizer = kl.LayerwiseOptimizer("sgd", {"norm": kl.Rule(frozen=True)}, model=model)
    model.compile(optimizer, "mse")
    drift = kl.WeightDrift(tmp_path)
    assert alarms_of(lambda: fit(model, drift, epochs=1)) == []
    ((about, _),) = vectors(tmp_path)
    assert [row.frozen for row in about.rows] == [False, True, True, False]
    moved = dict(zip(drift.history["layers"], drift.history["max_abs"][-1], strict=True))
    assert [name for name, distance in moved.items() if distance == 0] == [
        "norm",
        "norm (non-trainable)",
    ]


def test_a_trainable_layer_that_keeps_still_is_an_alarm_after_the_first_epoch(tmp_path):
    inputs = keras.Input((4,))
    unused = layers.Dense(2, name="unused")
    outputs = layers.Dense(2, name="used")(inputs) + 0 * unused(inputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    said = alarms_of(lambda: fit(model, kl.WeightDrift(tmp_path), epochs=3))
    (text,) = said
    assert text.startswith("Layer 'unused' is trainable and has not moved up to step 4 at rate")
    assert [m["kind"] for m in messages(tmp_path)] == ["trainable_still"]


@pytest.mark.parametrize("what", ["warn", "stop", "raise"])
def test_a_weight_that_is_not_finite_is_named_with_its_layer_and_step(tmp_path, what):
    model = classifier()
    kernel = model.get_layer("head").kernel
    drift = kl.WeightDrift(tmp_path, on_nonfinite=what)
    push = Push(kernel, float("nan"))

    def run():
        if what == "raise":
            with pytest.raises(FloatingPointError, match=r"step 8: .*head/kernel"):
                fit(model, push, drift, epochs=4)
        else:
            fit(model, push, drift, epochs=4)

    said = alarms_of(run)
    (text,) = said
    # NaN in the head reaches every weight by the gradients of the same epoch.
    assert text.startswith("4 layers are not finite, at step 8 (24 elements of 'body/kernel' in")
    assert {m["row"] for m in messages(tmp_path)} == {*drift.history["layers"]}
    assert {m["message"] for m in messages(tmp_path)} == {text}
    assert drift.history["step"].tolist() == ([4, 8, 12, 16] if what == "warn" else [4, 8])
    head = drift.history["layers"].index("head")
    assert drift.history["nonfinite"][1, head] == 14


def scalars(directory):
    return {
        value.tag
        for event in read(directory / schema.DRIFT_DIR)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "scalars"
    }


def test_scalars_are_few_all_or_none(tmp_path):
    for choice in ["model", "all", "none"]:
        fit(classifier(), kl.WeightDrift(tmp_path / choice, scalars=choice))
    few = {"drift/l2", "drift/relative_l2", "drift/cosine"}
    assert scalars(tmp_path / "model") == few
    assert scalars(tmp_path / "none") == set()
    everything = scalars(tmp_path / "all")
    assert few | {"drift/max_abs/head", "drift/norm/norm (non-trainable)"} < everything
    assert len(everything) == 3 + 8 * 4


def test_a_whole_model_scalar_is_over_its_trainable_weights(tmp_path):
    model = classifier()
    names = ["body", "norm", "head"]
    start = weights_of(model, *names)
    fit(model, kl.WeightDrift(tmp_path), epochs=1)
    (found,) = [
        tensor_util.make_ndarray(value.tensor)
        for event in read(tmp_path / schema.DRIFT_DIR)
        for value in event.summary.value
        if value.tag == "drift/l2"
    ]
    assert found == pytest.approx(np.linalg.norm(weights_of(model, *names) - start), rel=1e-5)


def test_histograms_on_request(tmp_path):
    fit(classifier(), kl.WeightDrift(tmp_path, histograms=True), epochs=1)
    found = {
        value.tag: tensor_util.make_ndarray(value.tensor)
        for event in read(tmp_path / schema.DRIFT_DIR)
        for value in event.summary.value
        if "difference" in value.tag
    }
    assert len(found) == 4
    assert found["drift/difference/body"][:, 2].sum() == 30


def test_summary_names_every_layer_and_the_reference(tmp_path, capsys):
    drift = kl.WeightDrift(tmp_path, verbose=1)
    drift.summary()
    assert "no record yet" in capsys.readouterr().out
    fit(classifier(), drift)
    printed = capsys.readouterr().out
    assert "Drift from the initial weights, at step 8" in printed
    assert re.search(r"norm \(non-trainable\)\s+│ non-trainable\s", printed)
    assert f"{drift.history['l2'][-1, 0]:.6g}" in printed


def test_dataframe(tmp_path):
    pytest.importorskip("pandas")
    drift = kl.WeightDrift(tmp_path)
    fit(classifier(), drift)
    frame = drift.to_dataframe()
    assert frame.loc[(8, "head"), "l2"] == drift.history["l2"][1, 3]


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    drift = kl.WeightDrift(tmp_path)
    fit(classifier(), drift)
    above, below = drift.plot("l2").axes[:2]
    assert [label.get_text() for label in above.get_yticklabels()] == drift.history["layers"]
    np.testing.assert_array_equal(below.lines[3].get_ydata(), drift.history["l2"][:, 3])
    with pytest.raises(ValueError, match="received 'l4'"):
        drift.plot("l4")


def test_the_heat_map_is_an_image_of_rows_over_steps(tmp_path):
    image = pytest.importorskip("PIL.Image")
    import io

    fit(classifier(), kl.WeightDrift(tmp_path), epochs=2)
    *_, last = [
        tensor_util.make_ndarray(value.tensor)
        for event in read(tmp_path / schema.DRIFT_DIR)
        for value in event.summary.value
        if value.tag.endswith("heatmap")
    ]
    drawn = image.open(io.BytesIO(last[2]))
    assert drawn.size == (int(last[0]), int(last[1])) == (2 * 24, 4 * 24)
    assert len({drawn.getpixel((40, 12 + 24 * row)) for row in range(4)}) == 4


def test_the_model_trains_as_it_would_without(tmp_path):
    results = []
    for callbacks in [[], [kl.WeightDrift(tmp_path, update_freq=1)]]:
        keras.utils.set_random_seed(3)
        model = classifier()
        fit(model, *callbacks)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_accelerators_compute_is_what_the_processor_does(monkeypatch):
    # The code for weights on an accelerator, run where the tests are.
    monkeypatch.setattr(arrays, "_CHUNK", 100)
    random = np.random.default_rng(0)
    weights = [random.normal(3, 1, shape).astype("float32") for shape in [(7, 50), (3,)]]
    others = [w + random.normal(size=w.shape).astype("float32") for w in weights]
    weights[1][0] = np.inf
    tensors = [[keras.ops.convert_to_tensor(a) for a in arrays] for arrays in (weights, others)]
    pairs = list(zip(*tensors, strict=True))
    found = devices.measure(pairs)
    expected = sums.Comparison(others).measure(weights)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-4)
    assert found[1, sums.NONFINITE] == 1
    copied = arrays.copied(arrays.Piece(pairs[0][0], ())).array
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(copied), weights[0])
    placed = arrays.placed(arrays.Piece(pairs[0][0], ()), others[0]).array
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(placed), others[0])


def test_rules_of_optimizers_that_compile_never_saw_are_known_by_weight(tmp_path):
    model = models.nested()  # its parts have optimizers of their own, as those of a GAN
    model.left_optimizer = kl.LayerwiseOptimizer(
        keras.optimizers.SGD(0.1), {"dense": kl.Rule(frozen=True)}, model=model.get_layer("left")
    )
    for_right = kl.LayerwiseOptimizer(keras.optimizers.SGD(0.1), {"right/out": 0.5}, model=model)
    left, right, head = (
        model.get_layer(name).trainable_variables for name in ("left", "right", "head")
    )
    with kl.run(tmp_path / "run", model) as training:
        for _ in range(3):
            for optimizer, weights in ((model.left_optimizer, left), (for_right, right + head)):
                optimizer.apply([keras.ops.ones(w.shape) for w in weights], weights)
            training.step({"loss": 1.0})
        training.epoch()
    rows = {row.name: row for row in training.drift._records[-1].rows}
    assert rows["left/dense"].frozen
    assert not rows["right/dense"].frozen
    assert not rows["left/out"].frozen
