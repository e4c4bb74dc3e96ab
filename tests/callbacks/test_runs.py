"""Runs as people make them: cells run twice, more epochs, phases, folds, loops, failures."""

import copy
import functools
import gc
import inspect
import json
import os
import threading
import weakref

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise.backend import internals, processes
from keras_layerwise.callbacks import fit_hook, runs
from keras_layerwise.hyperparameters import fit as given
from keras_layerwise.storage import run_file

x = np.linspace(0, 1, 128, dtype="float32").reshape(16, 8)
y = x[:, :1]


def net(optimizer="sgd"):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(4, name="a"),
            keras.layers.Dense(1, name="h"),
        ]
    )
    model.compile(optimizer, "mse")
    return model


def fit(model, *callbacks, epochs=2, **arguments):
    """Two steps an epoch."""
    return model.fit(
        x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=[*callbacks], **arguments
    )


def steps(drift):
    return drift.history["step"].tolist()


def record_of(folder):
    return kl.load_record(folder)


class At(keras.callbacks.Callback):
    """Does something at the end of an epoch."""

    def __init__(self, action, epoch=0):
        super().__init__()
        self._action, self._epoch = action, epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self._epoch:
            self._action(self.model)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "run"


class TestWhichRun:
    def test_a_cell_that_runs_twice_makes_two_runs_and_says_it_once(self, place, capsys):
        for _ in range(2):
            fit(
                net(),
                kl.FreezeHyperparameters(place),
                kl.WeightDrift(place),
                kl.LearningRateMonitor(place),
            )
        second = place.with_name("run-2")
        for folder in (place, second):
            record = record_of(folder)
            assert record.status == "finished"
            assert not record.resumptions
            for part in ("drift", "rates"):
                assert len(list((folder / part).glob("events*"))) == 1
        (said,) = capsys.readouterr().out.splitlines()
        assert str(second) in said

    def test_more_epochs_continue_the_run_also_with_callbacks_made_anew(self, place):
        model = net()
        first = kl.WeightDrift(place)
        fit(model, kl.FreezeHyperparameters(place), first)
        second = kl.WeightDrift(place)
        fit(model, kl.FreezeHyperparameters(place), second, epochs=4, initial_epoch=2)
        assert steps(first) + steps(second) == [2, 4, 6, 8]
        assert second.history["l2"][0, 0] > first.history["l2"][-1, 0]  # one reference
        record = record_of(place)
        assert not place.with_name("run-2").exists()
        (phase,) = record.phases
        assert phase["step"] == 4
        assert [(c["key"], c["old"], c["new"]) for c in phase["changes"]] == [
            ("training/epochs", 2, 4)
        ]

    def test_what_changes_between_two_fits_is_a_phase_and_no_violation(self, place):
        model = net()
        frozen, drift = kl.FreezeHyperparameters(place), kl.WeightDrift(place)
        fit(model, frozen, drift)
        model.get_layer("a").trainable = False
        model.compile(keras.optimizers.Adam(0.01), "mse")
        fit(model, frozen, drift)
        assert steps(drift) == [2, 4, 6, 8]
        record = record_of(place)
        assert not record.violations
        (phase,) = record.phases
        changed = {change["key"]: change["new"] for change in phase["changes"]}
        assert changed["architecture/layers/a/trainable"] is False
        assert changed["training/optimizer/class"] == "Adam"

    def test_the_same_weights_again_are_a_new_run(self, place):
        """As in a cross-validation that puts the first weights back for each fold."""
        model = net()
        start = model.get_weights()
        for _ in range(3):
            model.set_weights(start)
            model.compile("sgd", "mse")
            fit(model, kl.FreezeHyperparameters(place), epochs=1)
        for name in ("run", "run-2", "run-3"):
            assert not record_of(place.with_name(name)).resumptions

    def test_a_trained_file_that_is_loaded_twice_begins_two_runs(self, place, tmp_path):
        pretrained = net()
        fit(pretrained)
        pretrained.save(tmp_path / "trained.keras")
        for _ in range(2):
            model = keras.saving.load_model(tmp_path / "trained.keras")
            drift = kl.WeightDrift(place)
            fit(model, drift, kl.FreezeHyperparameters(place))
            assert steps(drift) == [6, 8]
        for name in ("run", "run-2"):
            assert not record_of(place.with_name(name)).resumptions

    def test_a_checkpoint_continues_the_newest_run_that_fits(self, place, tmp_path):
        models = []
        for rate in (0.1, 0.01, 0.01):
            models.append(net(keras.optimizers.SGD(rate)))
            fit(models[-1], kl.FreezeHyperparameters(place))
        models[0].save(tmp_path / "first.keras")
        models[1].save(tmp_path / "second.keras")
        for name, run in (("first", "run"), ("second", "run-3")):
            model = keras.saving.load_model(tmp_path / f"{name}.keras")
            frozen = kl.FreezeHyperparameters(place)
            fit(model, frozen, epochs=1)
            assert frozen.directory.name == run
            assert [r["step"] for r in record_of(frozen.directory).resumptions] == [4]
        assert not record_of(place.with_name("run-2")).resumptions

    def test_a_checkpoint_of_another_configuration_is_refused_and_says_what_differs(self, place):
        model = net()
        fit(model, kl.FreezeHyperparameters(place, {"data": 1}))
        other = net()
        other.optimizer.build(other.trainable_variables)
        other.optimizer.iterations.assign(4)
        with pytest.raises(kl.FrozenHyperparameterError, match=r"user/data: 1 -> 2[\s\S]*never"):
            fit(other, kl.FreezeHyperparameters(place, {"data": 2}))
        fit(other, kl.FreezeHyperparameters(place, {"data": 2}, resume="never"))
        assert record_of(place.with_name("run-2"))["user"] == {"data": 2}

    def test_must_refuses_to_begin_and_never_to_continue(self, place):
        with pytest.raises(kl.FrozenHyperparameterError, match="'must'"):
            fit(net(), kl.FreezeHyperparameters(place, resume="must"))
        assert not place.exists()
        model = net()
        fit(model, kl.FreezeHyperparameters(place))
        fit(model, kl.FreezeHyperparameters(place, resume="must"))
        fit(model, kl.FreezeHyperparameters(place, resume="never"))
        assert len(record_of(place).resumptions) == 1
        assert not record_of(place.with_name("run-2")).resumptions

    @pytest.mark.parametrize("backup_first", [True, False])
    def test_a_killed_run_is_resumed_whichever_callback_restores(
        self, place, tmp_path, backup_first
    ):
        def stop(_):
            raise MemoryError

        def callbacks():
            drift = kl.WeightDrift(place)
            both = [
                keras.callbacks.BackupAndRestore(tmp_path / "backup"),
                kl.FreezeHyperparameters(place),
            ]
            return drift, [drift, *(both if backup_first else reversed(both))]

        with pytest.raises(MemoryError):
            fit(net(), *callbacks()[1], At(stop, 1), epochs=4)
        drift, both = callbacks()
        fit(net(), *both, epochs=4)
        assert steps(drift)[-1] == 8
        record = record_of(place)
        assert record.status == "finished"
        assert [r["step"] for r in record.resumptions] == [4]
        assert not record.violations
        assert not place.with_name("run-2").exists()

    def test_a_checkpoint_may_be_an_epoch_ahead_of_a_run_that_was_killed(self):
        killed = run_file.Mark(first=0, last=10, count=10, step=10, ahead=5)
        assert [killed.holds(n) for n in (0, 1, 15, 16)] == [False, True, True, False]

    def test_of_two_that_claim_a_place_at_once_one_gets_it(self, place):
        mark = run_file.Mark(first=0, last=0, count=0, step=0)
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(run_file.claim(place, mark).name))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == ["run", *(f"run-{n}" for n in range(2, 9))]

    def test_a_run_that_can_not_be_read_hides_no_other(self, place):
        models = [net(), net()]
        for model in models:
            fit(model, kl.FreezeHyperparameters(place))
        second = place.with_name("run-2") / "hyperparameters.json"
        second.write_text("{")
        resumed = net()
        resumed.optimizer.build(resumed.trainable_variables)
        resumed.optimizer.iterations.assign(4)
        fit(resumed, kl.FreezeHyperparameters(place))
        assert len(record_of(place).resumptions) == 1
        assert second.read_text() == "{"

    def test_of_several_processes_the_first_writes(self, place, monkeypatch):
        for module in ("base", "drift_output", "freeze", "runs", "weight_drift"):
            name = f"keras_layerwise.callbacks.{module}.is_chief"
            monkeypatch.setattr(name, lambda: False)
        drift, frozen = kl.WeightDrift(place), kl.FreezeHyperparameters(place)
        fit(net(), drift, frozen, kl.LearningRateMonitor(place))
        assert not place.exists()
        assert steps(drift) == [2, 4]
        assert frozen.record.status == "finished"

    @pytest.mark.tensorflow_only
    @pytest.mark.parametrize(
        ("cluster", "kind", "index", "writes"),
        [
            (["worker"], "worker", 0, True),
            (["worker"], "worker", 1, False),
            (["chief", "worker"], "worker", 0, False),
            (["chief", "worker"], "chief", 0, True),
            (["worker", "ps"], "ps", 0, False),
        ],
    )
    def test_the_chief_of_a_cluster(self, monkeypatch, cluster, kind, index, writes):
        config = {
            "cluster": {name: ["host:1", "host:2"] for name in cluster},
            "task": {"type": kind, "index": index},
        }
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        assert processes.is_chief() is writes

    def test_a_relative_directory_is_where_the_run_began(self, tmp_path, monkeypatch):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        monkeypatch.chdir(tmp_path / "a")
        drift = kl.WeightDrift("run")
        elsewhere = At(lambda _: os.chdir(tmp_path / "b"))
        fit(net(), elsewhere, kl.FreezeHyperparameters("run"), drift)
        assert record_of(tmp_path / "a" / "run").status == "finished"
        assert drift.directory == tmp_path / "a" / "run"
        assert not list((tmp_path / "b").iterdir())

    def test_a_relative_and_an_absolute_name_are_one_place(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        fit(net(), kl.FreezeHyperparameters("run"), kl.WeightDrift(tmp_path / "run"))
        assert not (tmp_path / "run-2").exists()


DATA = {"batch_size": 8, "data": "arrays", "validation_split": 0.25, "shuffle": True}


def seen(record):
    return {key: record["training"][key] for key in DATA}


class TestFitIsSeen:
    def test_a_fit_that_was_taken_hold_of_before(self, place):
        fit_hook.uninstall()
        try:
            model = net()
            early = model.fit
        finally:
            fit_hook.install()
        frozen = kl.FreezeHyperparameters(place)
        model.compile(kl.LayerwiseOptimizer("sgd", {"a": kl.Rule(frozen=True)}), "mse")
        unfreeze = kl.GradualUnfreeze({1: "a"})
        early(
            x,
            y,
            batch_size=8,
            epochs=2,
            validation_split=0.25,
            verbose=0,
            callbacks=[unfreeze, frozen],
        )
        assert seen(frozen.record) == DATA
        assert frozen.record["training"]["samples"] == 12
        assert frozen.record.changes
        assert not frozen.record.violations

    def test_a_callback_list_and_a_subclass_with_its_own_fit(self, tmp_path):
        class Own(keras.Sequential):
            def fit(self, *args, **kwargs):
                return super().fit(*args, **kwargs)

        model = Own([keras.Input((8,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        frozen = kl.FreezeHyperparameters(tmp_path)
        listed = keras.callbacks.CallbackList(
            [frozen], add_history=True, model=model, epochs=1, steps=2
        )
        model.fit(x, y, batch_size=8, validation_split=0.25, verbose=0, callbacks=listed)
        assert seen(frozen.record) == DATA

    def test_a_thread(self, tmp_path):
        model = net()
        thread = threading.Thread(
            target=lambda: fit(model, kl.FreezeHyperparameters(tmp_path), validation_split=0.25)
        )
        thread.start()
        thread.join()
        assert seen(record_of(tmp_path)) == DATA

    def test_evaluate_and_predict_inside(self, tmp_path):
        def inside(model):
            model.evaluate(x, y, verbose=0)
            model.predict(x, verbose=0)

        drift = kl.WeightDrift(tmp_path)
        fit(net(), At(inside), drift, kl.FreezeHyperparameters(tmp_path))
        assert steps(drift) == [2, 4]
        assert record_of(tmp_path).status == "finished"

    @pytest.mark.parametrize("batches", [0, 1, 4])
    @pytest.mark.filterwarnings("ignore:.*shuffle=True:UserWarning")  # Keras's, on PyTorch
    def test_data_that_fails_is_recorded_at_once_also_before_training_begins(self, place, batches):
        """Keras looks at the first batches before it tells a callback anything."""

        def data():
            for _ in range(batches):
                yield x[:4], y[:4]
            raise OSError("the disk is gone")

        with pytest.raises(Exception, match="the disk is gone"):
            net().fit(data(), verbose=0, callbacks=[kl.FreezeHyperparameters(place, {"a": 1})])
        record = record_of(place)
        assert record.status == "failed"
        assert "the disk is gone" in record.error
        assert (record["user"], record["training"]["data"]) == ({"a": 1}, "generator")

    def test_a_callback_that_fails_before_ours_begins_is_recorded(self, place):
        class Fails(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                raise KeyboardInterrupt

        model = net()
        with pytest.raises(KeyboardInterrupt):
            fit(model, Fails(), kl.WeightDrift(place), kl.FreezeHyperparameters(place))
        assert record_of(place).error == "KeyboardInterrupt"
        fit(model, kl.WeightDrift(place), kl.FreezeHyperparameters(place))
        assert record_of(place).status == "finished"

    def test_nothing_of_ours_changes_nothing_and_nothing_is_kept(self, tmp_path):
        class Foreign(keras.callbacks.Callback):
            def on_train_error(self, error):
                raise AssertionError

        model = net()
        with pytest.raises(ValueError, match="of others"):
            fit(model, Foreign(), At(lambda _: (_ for _ in ()).throw(ValueError("of others"))))
        assert given.described(model)["batch_size"] == 8  # which `inventory` tells
        callback = kl.FreezeHyperparameters(tmp_path)
        fit(model, callback)
        assert given.callbacks_of(model) is None
        found = weakref.ref(callback), weakref.ref(model)
        del callback, model
        keras.utils.clear_session()
        gc.collect()
        assert [ref() for ref in found] == [None, None]

    def test_the_wrapper_comes_off(self):
        installed = keras.Model.fit
        owner = internals.owner_of("fit")
        fit_hook.uninstall()
        try:
            assert keras.Model.fit is vars(owner)["fit"]
            assert inspect.unwrap(keras.Model.fit).__module__.startswith("keras.")
            assert not hasattr(keras.Model.fit, "keras_layerwise_fit")
        finally:
            fit_hook.install()
        assert inspect.unwrap(keras.Model.fit) is inspect.unwrap(installed)
        installed = keras.Model.fit
        fit_hook.install()
        assert keras.Model.fit is installed

    def test_an_error_is_explained_only_where_something_is_ours(self, monkeypatch):
        def fails(self, *args, **kwargs):
            raise ValueError("of PerReplica")

        monkeypatch.setattr(fit_hook, "has_workers", lambda strategy: True)
        monkeypatch.setattr(keras.Model, "fit", fit_hook._wrapped(fails))
        model = net()
        with pytest.raises(ValueError, match="of PerReplica"):
            fit(model)
        model.compile(kl.LayerwiseOptimizer("sgd"), "mse")
        with pytest.raises(RuntimeError, match="Keras 3 does not train in fit under"):
            fit(model)

    def test_what_others_wrap_around_it_stays_theirs(self, tmp_path, monkeypatch):
        ours, seen = keras.Model.fit, []

        @functools.wraps(ours)
        def theirs(self, *args, **kwargs):
            seen.append(self)
            return ours(self, *args, **kwargs)

        monkeypatch.setattr(keras.Model, "fit", theirs)
        fit_hook.install()
        assert keras.Model.fit is theirs
        fit_hook.uninstall()
        try:
            assert keras.Model.fit is theirs
            fit(net())
        finally:
            fit_hook.install()
        frozen = kl.FreezeHyperparameters(tmp_path)
        fit(net(), frozen)
        assert len(seen) == 2
        assert frozen.record["training"]["batch_size"] == 8

    def test_weights_that_differ_in_any_layer_have_another_digest(self):
        model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(600)])
        before = runs.weights_digest(model)
        assert runs.weights_digest(model) == before
        kernel, bias = model.get_weights()
        for changed in ([kernel * 1.001, bias], [kernel, bias + 1e-3]):
            model.set_weights(changed)
            assert runs.weights_digest(model) != before

    def test_copies_are_unused(self, place):
        """A tuner copies its callbacks for every trial, used or not."""
        callbacks = [
            kl.FreezeHyperparameters(place, {"a": 1}),
            kl.WeightDrift(place, update_freq=1),
            kl.LearningRateMonitor(place),
        ]
        fit(net(), *callbacks)
        fit(net(), *copy.deepcopy(callbacks))
        assert record_of(place.with_name("run-2"))["user"] == {"a": 1}
        assert not record_of(place).resumptions

    def test_a_tuners_trial_adds_its_number_and_values(self, place):
        class Trial:
            trial_id = "07"

            class hyperparameters:  # noqa: N801 - as KerasTuner calls it
                values = {"lr": 0.5, "units": 3}  # noqa: RUF012

        class TunerCallback(keras.callbacks.Callback):
            trial = Trial

        fit(net(), kl.FreezeHyperparameters(place, {"units": 4}), TunerCallback())
        assert record_of(place)["user"] == {"trial": "07", "lr": 0.5, "units": 4}


class TestResults:
    def test_what_a_run_began_with_is_unknown_where_it_is_recorded_later(self, place):
        model = net()
        fit(model, kl.WeightDrift(place))
        frozen = kl.FreezeHyperparameters(place)
        fit(model, frozen)
        assert frozen.record.fingerprints["initial_weights"] == "unknown"

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_loss_that_is_no_number_is_recorded_as_such(self, tmp_path, value):
        def spoil(model):
            weights = model.get_weights()
            model.set_weights([np.full_like(w, value) for w in weights])

        fit(net(), At(spoil, 1), kl.FreezeHyperparameters(tmp_path), epochs=3)
        record = record_of(tmp_path)
        assert record.status == "diverged"
        assert record.results["final"]["loss"] in ("nan", "inf")
        assert record.results["best"]["loss"] < 1

    def test_a_run_that_lives_says_when_it_was_last_seen(self, tmp_path):
        found = []
        fit(
            net(),
            kl.FreezeHyperparameters(tmp_path),
            At(lambda _: found.append((record_of(tmp_path), run_file.read(tmp_path)))),
        )
        ((record, mark),) = found
        assert record.seen >= record.started
        assert (mark.last, mark.ended) == (2, False)
        assert record_of(tmp_path).seen is None
        assert run_file.read(tmp_path).ended


class Gan(keras.Model):
    """Two optimizers of its own, one of which makes two steps a batch; Keras's default unused."""

    def __init__(self):
        super().__init__()
        self.g = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
        self.d = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        self.optimizers = {"g": keras.optimizers.SGD(0.5), "d": keras.optimizers.SGD(0.25)}

    def call(self, inputs):
        return self.d(self.g(inputs))

    def train_by_hand(self):
        for name, times in (("g", 1), ("d", 2)):
            weights = getattr(self, name).trainable_variables
            for _ in range(times):
                self.optimizers[name].apply([keras.ops.ones(w.shape) for w in weights], weights)


class TestLoops:
    def loop(self, place, model, **options):
        with kl.run(place, model, {"seed": 1}, **options) as run:
            for _ in range(2):
                for batch in range(3):
                    model.train_by_hand()
                    run.step({"g_loss": batch})
                run.epoch({"score": 0.5})
        return run

    def test_a_loop_of_ones_own_gives_what_fit_gives(self, place):
        model = Gan()
        model(x)
        run = self.loop(place, model)
        assert run.directory == place
        assert steps(run.drift) == [3, 6]
        record = record_of(place)
        assert record.status == "finished"
        assert record["user"] == {"seed": 1}
        assert record["training"]["data"] == "unknown"
        assert record.results["final"] == {"g_loss": 1.0, "score": 0.5}
        assert record.results["best"] == {"g_loss": 1.0}
        assert list((place / "rates").glob("events*"))
        again = self.loop(place, model, update_freq=2)
        assert steps(again.drift) == [8, 10, 12]
        assert len(record_of(place).resumptions) == 1

    def test_an_optimizer_that_was_given_the_model_is_found(self, place):
        layers = [keras.layers.Dense(4, name="a"), keras.layers.Dense(1, name="h")]
        model = keras.Sequential([keras.Input((8,)), *layers])
        optimizer = kl.LayerwiseOptimizer(keras.optimizers.SGD(0.5), {"a": 0.5}, model=model)
        with kl.run(place, model) as run:
            weights = model.trainable_variables
            optimizer.apply([keras.ops.ones(w.shape) for w in weights], weights)
            run.step()
        training = record_of(place)["training"]
        assert (training["optimizer"]["class"], training["learning_rate"]) == ("SGD", 0.5)
        assert training["assignments"]["a/kernel"]["multiplier"] == 0.5
        assert not record_of(place).violations

    def test_a_model_that_was_compiled(self, place):
        model = net()
        with kl.run(place, model) as run:
            for _ in range(3):
                run.step({"loss": model.train_on_batch(x, y)})
        assert steps(run.drift) == [3]
        assert record_of(place)["training"]["optimizer"]["class"] == "SGD"

    @pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), ValueError("stop")])
    def test_a_failure_in_the_loop_is_recorded_at_once(self, place, error):
        model = net()

        def loop():
            with kl.run(place, model) as run:
                run.step()
                raise error

        with pytest.raises(type(error), match="stop"):
            loop()
        record = record_of(place)
        assert record.status == "failed"
        assert record.error == f"{type(error).__name__}: stop"
        assert given.callbacks_of(model) is None

    def test_a_change_by_hand_is_a_violation(self, place):
        model = net()

        def loop():
            with kl.run(place, model) as run:
                run.step({"loss": model.train_on_batch(x, y)})
                model.get_layer("a").activation = keras.activations.tanh
                run.epoch()

        with pytest.raises(kl.FrozenHyperparameterError, match="a/activation"):
            loop()
        assert record_of(place).status == "failed"


def test_a_resumed_run_says_at_once_how_far_it_is(tmp_path):
    """A kill before its first save may leave a checkpoint that is an epoch further on."""
    place = tmp_path / "run"
    fit(net(), kl.FreezeHyperparameters(place))
    mark = run_file.read(place)
    resumed = net()
    resumed.optimizer.build(resumed.trainable_variables)
    resumed.optimizer.iterations.assign(mark.last + 2)
    run_file.write(place, run_file.Mark(**{**vars(mark), "ended": False, "ahead": 2}))
    seen = []

    class Look(keras.callbacks.Callback):
        observes_only = True

        def on_train_batch_end(self, batch, logs=None):
            seen.append(run_file.read(place))

    fit(resumed, kl.FreezeHyperparameters(place), Look(), epochs=1)
    assert seen[0].last == mark.last + 2
    assert seen[0].holds(mark.last + 4)
    assert not place.with_name("run-2").exists()
