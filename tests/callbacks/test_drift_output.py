"""Statistics and sinks of the user's own, metrics, phases, and what many layers are shown as."""

import csv
import re

import keras
import numpy as np
import pytest
from keras import layers
from tensorboard.util import tensor_util

import keras_layerwise as kl
from keras_layerwise.callbacks import drift_output
from keras_layerwise.model import outline
from keras_layerwise.storage import charts, schema
from tests.shared.drift import (
    X,
    Y,
    alarms_of,
    classifier,
    fit,
    host,
    read,
    series,
    vectors,
    weights_of,
)


def rms():
    return kl.Statistic(
        "rms", "‖w − w₀‖₂ / √n", "of the weight", lambda sums: sums.distance / sums.count**0.5
    )


def of_kind(directory, kind):
    return [found for found in series(directory).values() if found[0].kind == kind]


class TestOwnStatistic:
    def test_it_is_in_history_summary_plot_and_the_file_with_its_facts(self, tmp_path):
        pytest.importorskip("matplotlib")
        model = classifier()
        start = weights_of(model, "body")
        drift = kl.WeightDrift(tmp_path, statistics=["l2", rms()])
        fit(model, drift)
        moved = weights_of(model, "body") - start
        expected = np.sqrt(np.mean(moved**2))
        assert drift.history["rms"][-1, 0] == pytest.approx(expected, rel=1e-5)
        ((about, records),) = vectors(tmp_path, "rms")
        facts = schema.Facts("rms", "‖w − w₀‖₂ / √n", "of the weight", "rising")
        assert about.facts == facts
        assert records[-1][1][0] == pytest.approx(expected, rel=1e-5)
        printed = []
        drift.summary(printed.append)
        assert f"{drift.history['rms'][-1, 0]:.6g}" in printed[0]
        assert "rms" in drift._repr_html_()
        assert drift.plot("rms").axes[0].get_title().startswith("rms")
        assert drift.plot("rms")._repr_png_().startswith(b"\x89PNG")  # a notebook asks for it

    def test_every_series_says_how_its_statistic_reads(self, tmp_path):
        fit(classifier(), kl.WeightDrift(tmp_path, statistics=schema.STATISTICS), epochs=1)
        reads = {about.facts.name: about.facts.reads for about, _ in of_kind(tmp_path, "drift")}
        assert reads.keys() == {*schema.STATISTICS}
        assert {name for name, how in reads.items() if how == "falling"} == {"cosine"}
        assert {n for n, how in reads.items() if how == "signed"} == {"mean_shift", "std_shift"}


class Kept:
    """A sink that keeps everything."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name not in ("vectors", "scalars", "messages", "text", "image", "close"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))


class TestSinks:
    def test_they_get_what_tensorboard_gets(self, tmp_path):
        kept, table = Kept(), kl.CSVSink(tmp_path / "run.csv")
        model = classifier()
        model.get_layer("body").trainable = False
        model.compile("sgd", "mse")
        drift = kl.WeightDrift(tmp_path / "run", sinks=[kept, table])
        push = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: model.get_layer("body").kernel.assign_add(
                np.ones((4, 6), "float32")
            )
        )
        assert alarms_of(lambda: fit(model, push, drift))
        names = [name for name, *_ in kept.calls]
        assert names.count("vectors") == 2
        assert {"scalars", "messages", "text", "image"} < {*names}
        assert names[-1] == "close"
        written = {tag for event in read(tmp_path / "run/drift") for tag in tags(event)}
        handed = {
            tag
            for name, *arguments in kept.calls
            for tag in (
                [tag for _, tag, _ in arguments[0]]
                if name == "vectors"
                else arguments[0]
                if name == "scalars"
                else [arguments[1]]
                if name == "messages"
                else [arguments[0]]
                if name in ("text", "image")
                else []
            )
        }
        assert handed == written
        with (tmp_path / "run.csv").open(encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        found = [float(r["value"]) for r in lines if (r["kind"], r["name"]) == ("drift", "l2")]
        np.testing.assert_allclose(found, drift.history["l2"].ravel(), rtol=1e-6)
        assert {r["name"] for r in lines if r["kind"] == "blocks"} == {*drift.history} - {
            "step",
            "layers",
        }

    def test_what_is_no_sink_is_refused_at_once(self, tmp_path):
        with pytest.raises(TypeError, match="A sink has the methods"):
            kl.WeightDrift(tmp_path, sinks=[print])


def tags(event):
    return [value.tag for value in event.summary.value]


class TestMetrics:
    def test_they_are_beside_the_drift_of_the_same_step(self, tmp_path):
        model = classifier()
        drift = kl.WeightDrift(tmp_path, update_freq=3, metrics=["val_loss", "loss"])
        fit_history = fit(model, drift, epochs=3, validation_data=(X, Y)).history
        history = drift.history
        # The records of every third step, and one at the end of each epoch.
        assert history["step"].tolist() == [3, 4, 6, 8, 9, 12]
        at_the_end = np.isin(history["step"], [4, 8, 12])
        for name in ("val_loss", "loss"):
            np.testing.assert_allclose(history[name][at_the_end], fit_history[name])
            assert np.isnan(history[name][~at_the_end]).all()
        found = {
            (value.tag, event.step): float(tensor_util.make_ndarray(value.tensor))
            for event in read(tmp_path / "drift")
            for value in event.summary.value
            if value.tag in ("val_loss", "drift/l2")
        }
        assert [found["val_loss", step] for step in (4, 8, 12)] == pytest.approx(
            fit_history["val_loss"], rel=1e-6
        )
        assert ("drift/l2", 12) in found

    def test_one_that_is_never_logged_is_said_with_those_that_are(self, tmp_path):
        drift = kl.WeightDrift(tmp_path, metrics="val_old_accuracy")
        with pytest.warns(UserWarning, match=r"val_old_accuracy.*never logged.*\['loss'\]"):
            fit(classifier(), drift)


class TestRun:
    def test_phases_are_one_line_and_rows_say_what_holds_now(self, tmp_path):
        model = classifier()
        start = weights_of(model, "head")
        drift = kl.WeightDrift(tmp_path, update_freq=2)
        fit(model, drift, epochs=1)
        body = host(model.get_layer("body").kernel)
        model.get_layer("body").trainable = False
        model.compile("adam", "mse")
        fit(model, drift, epochs=1)
        assert drift.history["step"].tolist() == [2, 4, 6, 8]
        expected = np.linalg.norm(weights_of(model, "head") - start)
        assert drift.history["l2"][-1, 3] == pytest.approx(expected, rel=1e-5)
        np.testing.assert_array_equal(host(model.get_layer("body").kernel), body)
        printed = []
        drift.summary(printed.append)
        assert re.search(r"body\s+│ trainable, frozen", printed[0])
        assert re.search(r"head\s+│ trainable  ", printed[0])
        ((about, states),) = of_kind(tmp_path, "frozen")
        assert [row.name for row in about.rows] == drift.history["layers"]
        assert [(step, state.tolist()) for step, state in states] == [
            (2, [0, 0, 0, 0]),
            (6, [1, 0, 0, 0]),
        ]

    def test_unfreezing_in_mid_run_is_in_the_rows(self, tmp_path):
        model = classifier()
        rules = {"body": kl.Rule(frozen=True)}
        model.compile(kl.LayerwiseOptimizer("sgd", rules, model=model), "mse")
        drift = kl.WeightDrift(tmp_path)
        fit(model, kl.GradualUnfreeze({2: "body"}), drift, epochs=3)
        ((_, states),) = of_kind(tmp_path, "frozen")
        assert [(step, state[0]) for step, state in states] == [(4, 1), (12, 0)]

    def test_a_model_with_optimizers_of_its_own_counts_batches(self, tmp_path):
        model = Alternating()
        model.compile()
        drift = kl.WeightDrift(tmp_path, update_freq=2)
        for _ in range(2):
            model.fit(X, batch_size=8, epochs=1, verbose=0, callbacks=[drift])
        assert drift.history["step"].tolist() == [2, 4, 6, 8]
        assert drift.history["layers"] == ["generator", "critic"]
        assert (np.diff(drift.history["l2"][:, 0]) != 0).all()


class Alternating(keras.Model):
    """Two networks, two optimizers, and a step that needs no gradients."""

    def __init__(self):
        super().__init__()
        self.generator = layers.Dense(4, name="generator")
        self.critic = layers.Dense(1, name="critic")
        self.generator.build((None, 4))
        self.critic.build((None, 4))
        # Nobody calls a network of networks: on TensorFlow it is never built.
        self.built = keras.backend.backend() != "tensorflow"
        self.optimizers = [keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.2)]

    def call(self, x):
        return self.critic(self.generator(x))

    def train_step(self, *arguments):
        if keras.backend.backend() == "jax":
            state, _ = arguments
            trained, *rest = state
            return {"loss": 0.0}, ([weight + 0.1 for weight in trained], *rest)
        for optimizer, layer in zip(self.optimizers, (self.generator, self.critic), strict=True):
            optimizer.apply(
                [keras.ops.ones(weight.shape) for weight in layer.trainable_weights],
                layer.trainable_weights,
            )
        return {"loss": 0.0}


def deep(count=35):
    """More rows than are shown one by one: a plain stack has a block for each layer."""
    stack = [keras.Input((4,))]
    for i in range(count):
        stack += [layers.Dense(4, name=f"dense_{i}"), layers.BatchNormalization(name=f"norm_{i}")]
    model = keras.Sequential([*stack, layers.Dense(2, name="head")])
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    return model


class TestManyLayers:
    def test_parts_are_shown_and_layers_kept(self, tmp_path):
        pytest.importorskip("matplotlib")
        model = deep()
        model.run_eagerly = True  # tracing 71 layers takes longer than their four steps
        drift = kl.WeightDrift(tmp_path, scalars="all")
        fit(model, drift, epochs=1)
        assert len(drift.history["layers"]) == 106
        keys = {*outline.keys(model).values()}
        ((about, records),) = vectors(tmp_path)
        assert {row.part for row in about.rows} == keys
        assert len(about.rows) == len(records[0][1]) == 106
        blocks = {
            found.facts.name: (found, values) for found, values in of_kind(tmp_path, "blocks")
        }
        names = [row.name for row in blocks["l2"][0].rows]
        assert names[-1] == drift_output.WHOLE
        assert {name.removesuffix(" (non-trainable)") for name in names[:-1]} == keys
        squares = drift.history["l2"][-1] ** 2
        trainable = [i for i, row in enumerate(about.rows) if row.trainable]
        assert blocks["l2"][1][-1][1][-1] == pytest.approx(squares[trainable].sum() ** 0.5)
        scalars = {
            value.tag
            for event in read(tmp_path / "drift")
            for value in event.summary.value
            if value.tag.startswith("drift/l2/")
        }
        assert {f"drift/l2/{name}" for name in names[:-1]} <= scalars
        assert not any("dense_" in tag.split("/")[2] for tag in scalars)
        printed = []
        drift.summary(printed.append)
        assert "106 rows by part of the network" in printed[0]
        assert len(printed[0].splitlines()) == len(names) - 1 + 5
        labels = [label.get_text() for label in drift.plot().axes[0].get_yticklabels()]
        assert len(labels) == len(names) - 1
        assert any(re.fullmatch(r"block 3 \(\w+\)", label) for label in labels)
        shown = drift.plot(by="layer").axes[0].get_yticklabels()
        assert [label.get_text() for label in shown] == drift.history["layers"]
        with pytest.raises(ValueError, match="received 'depth'"):
            drift.plot(by="depth")


class TestFigure:
    def test_what_is_exactly_zero_is_told_from_what_is_small_and_from_what_is_not_defined(self):
        pytest.importorskip("matplotlib")
        values = np.array([[0.0, 1e-30, 1.0, np.nan]])
        drawn = charts.figure(np.array([1]), list("abcd"), values, "l2")
        (mesh,) = drawn.axes[0].images
        zero, small, large, missing = (tuple(c) for c in mesh.to_rgba(mesh.get_array())[:, 0])
        assert (zero, missing) == ((1, 1, 1, 1), (0.75, 0.75, 0.75, 1))
        assert small == mesh.to_rgba(1e-6)
        assert large == mesh.to_rgba(1.0) != small

    def test_few_of_many_steps_and_lines_are_named(self):
        pytest.importorskip("matplotlib")
        values = np.random.default_rng(0).random((500, 40))
        drawn = charts.figure(np.arange(500), [f"row {i}" for i in range(40)], values, "l2")
        above, below = drawn.axes[:2]
        assert len(above.get_xticks()) <= 24
        assert len(above.get_yticks()) == 40
        largest = {f"row {i}" for i in np.argsort(values[-1])[-3:]}
        assert {text.get_text() for text in below.texts} == largest
