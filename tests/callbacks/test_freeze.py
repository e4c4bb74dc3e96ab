"""A run that is frozen, watched, resumed and ended in every way."""

import os
import signal
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise.callbacks import freeze
from keras_layerwise.hyperparameters.fingerprints import weights_fingerprint
from keras_layerwise.storage.record import RecordError, load_record

x = np.linspace(0, 1, 32, dtype="float32").reshape(8, 4)
y = x[:, :1]


def build(optimizer=None, **compile_arguments):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, activation="relu", name="body"),
            keras.layers.Dropout(0.1, name="drop"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    settings = {"run_eagerly": True, **compile_arguments}
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **settings)
    return model


def fit(model, *callbacks, epochs=2, **arguments):
    model.fit(x, y, epochs=epochs, batch_size=4, verbose=0, callbacks=[*callbacks], **arguments)


def restored(model, step=2):
    """`model` as a checkpoint of that step leaves it."""
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(step)
    return model


class At(keras.callbacks.Callback):
    """Calls `action` with the model at the end of an epoch."""

    def __init__(self, epoch, action):
        super().__init__()
        self._epoch, self._action = epoch, action

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self._epoch:
            self._action(self.model)


def test_a_run_is_recorded_from_start_to_end(tmp_path):
    model = build(metrics=["mae"], run_eagerly=False)
    before = weights_fingerprint(model)
    frozen = kl.FreezeHyperparameters(tmp_path, {"dataset": "line", "size": np.int64(8)})
    seen = []
    fit(model, frozen, At(0, lambda _: seen.append(load_record(tmp_path))), validation_split=0.5)
    (at_start,) = seen
    record = load_record(tmp_path)
    assert frozen.record == record
    assert at_start.status == "running"
    assert at_start.ended is None
    assert at_start.values == record.values
    assert record.status == "finished"
    assert record.ended >= record.started
    assert record["user"] == {"dataset": "line", "size": 8}
    assert record["training"]["batch_size"] == 4
    assert record["training"]["epochs"] == 2
    assert record.fingerprint == record.fingerprints["hyperparameters"]
    assert record.fingerprints["initial_weights"] == before
    assert record.fingerprints["final_weights"] == weights_fingerprint(model)
    assert set(record.results["final"]) == {"loss", "mae", "val_loss", "val_mae"}
    history = model.history.history
    assert record.results["final"]["loss"] == history["loss"][-1]
    assert record.results["best"]["mae"] == min(history["mae"])


def test_the_best_is_the_greatest_where_more_is_better(tmp_path):
    model = build(metrics=[keras.metrics.BinaryAccuracy(name="hits")])
    fit(model, kl.FreezeHyperparameters(tmp_path), epochs=3)
    assert load_record(tmp_path).results["best"]["hits"] == max(model.history.history["hits"])


CHANGES = {
    "architecture/layers/drop/rate": lambda m: setattr(m.get_layer("drop"), "rate", 0.9),
    "architecture/layers/body/activation": lambda m: setattr(
        m.get_layer("body"), "activation", keras.activations.tanh
    ),
    "architecture/layers/body/kernel_regularizer": lambda m: setattr(
        m.get_layer("body"), "kernel_regularizer", keras.regularizers.L2(0.1)
    ),
    "regularization/body/kernel/l2": lambda m: setattr(
        m.get_layer("body").kernel, "regularizer", keras.regularizers.L2(0.1)
    ),
    "architecture/layers/head/trainable": lambda m: setattr(
        m.get_layer("head"), "trainable", False
    ),
    "training/loss_weights": lambda m: m._compile_loss._user_loss_weights.__setitem__(0, 5.0),
    "training/optimizer/beta_1": lambda m: setattr(m.optimizer, "beta_1", 0.5),
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_by_hand_names_key_values_and_step(tmp_path, key):
    model = build(loss_weights=[1.0])
    frozen = kl.FreezeHyperparameters(tmp_path)
    with pytest.raises(kl.FrozenHyperparameterError, match=rf"step 2:[\s\S]*{key}: .* -> .*"):
        fit(model, At(0, CHANGES[key]), frozen)
    record = load_record(tmp_path)
    assert record.status == "failed"
    assert "FrozenHyperparameterError" in record.error
    (entry,) = [entry for entry in record.violations if entry["key"] == key]
    assert entry["step"] == 2
    assert entry["old"] != entry["new"]


def test_a_change_in_the_last_epoch_after_the_callback_is_seen_at_the_end(tmp_path):
    with pytest.raises(kl.FrozenHyperparameterError, match=r"rate: 0.1 -> 0.9"):
        fit(
            build(),
            kl.FreezeHyperparameters(tmp_path),
            At(1, CHANGES["architecture/layers/drop/rate"]),
        )


def test_a_rule_that_is_changed_by_hand_is_a_violation(tmp_path):
    optimizer = kl.LayerwiseOptimizer("sgd", {"body": 0.5})
    with pytest.raises(kl.FrozenHyperparameterError, match=r"body/kernel/multiplier: 0.5 -> 0.25"):
        fit(
            build(optimizer),
            At(0, lambda m: m.optimizer.set_multiplier("body", 0.25)),
            kl.FreezeHyperparameters(tmp_path),
        )


def test_on_change_warns_once_or_keeps_quiet(tmp_path):
    change = At(0, CHANGES["architecture/layers/drop/rate"])
    with pytest.warns(UserWarning, match="drop/rate: 0.1 -> 0.9") as caught:
        fit(build(), change, kl.FreezeHyperparameters(tmp_path / "a", on_change="warn"), epochs=3)
    assert len([w for w in caught if "drop/rate" in str(w.message)]) == 1
    fit(build(), change, kl.FreezeHyperparameters(tmp_path / "b", on_change="ignore"))
    fit(
        build(),
        change,
        kl.FreezeHyperparameters(tmp_path / "c", ignore=["*/drop/rate"]),
    )
    statuses = [load_record(tmp_path / name).status for name in "abc"]
    assert statuses == ["finished"] * 3
    assert len(load_record(tmp_path / "a").violations) == 2
    assert len(load_record(tmp_path / "b").violations) == 2
    assert not load_record(tmp_path / "c").violations


def test_the_rates_changes_are_a_timeline_and_no_violation(tmp_path):
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: [0.01, 0.005, 0.001][epoch])
    fit(build(), schedule, kl.FreezeHyperparameters(tmp_path), epochs=3)
    record = load_record(tmp_path)
    assert record["training"]["learning_rate"] == 0.01
    assert record.timeline == [
        {"step": 2, "old": 0.01, "new": 0.005},
        {"step": 4, "old": 0.005, "new": 0.001},
    ]
    assert not record.violations


def test_a_schedules_rates_are_a_timeline(tmp_path):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    fit(build(keras.optimizers.SGD(schedule)), kl.FreezeHyperparameters(tmp_path))
    assert load_record(tmp_path).timeline == [{"step": 2, "old": 0.5, "new": 0.25}]


@pytest.mark.parametrize("first", ["freeze", "unfreeze"])
def test_what_a_plan_unfreezes_is_a_change_and_no_violation(tmp_path, first):
    optimizer = kl.LayerwiseOptimizer("sgd", {"body": kl.Rule(multiplier=0.1, frozen=True)})
    callbacks = [kl.FreezeHyperparameters(tmp_path), kl.GradualUnfreeze({1: "body"})]
    fit(build(optimizer), *(callbacks if first == "freeze" else reversed(callbacks)))
    record = load_record(tmp_path)
    assert record.status == "finished"
    assert not record.violations
    assert [(e["key"], e["new"]) for e in record.changes] == [
        ("training/assignments/body/bias/frozen", False),
        ("training/assignments/body/kernel/frozen", False),
    ]
    assert record["training"]["callbacks"]["GradualUnfreeze"] == {"epochs": {"1": "body"}}


def test_unfreezing_by_hand_is_a_violation_beside_a_plan_for_later(tmp_path):
    optimizer = kl.LayerwiseOptimizer("sgd", {"body": kl.Rule(frozen=True)})
    with pytest.raises(kl.FrozenHyperparameterError, match="body/kernel/frozen: true -> false"):
        fit(
            build(optimizer),
            kl.GradualUnfreeze({2: "body"}),
            At(0, lambda m: m.optimizer.unfreeze("body")),
            kl.FreezeHyperparameters(tmp_path),
            epochs=3,
        )


def test_overrides_are_recorded_and_no_violations(tmp_path):
    model = build()
    kl.override(model, {"drop": {"rate": 0.2}})
    fit(
        model,
        At(0, lambda m: kl.override(m, {"body": {"activation": "tanh"}})),
        kl.FreezeHyperparameters(tmp_path),
    )
    record = load_record(tmp_path)
    found = {(e["key"], e["old"], e["new"]) for e in record.overrides}
    assert ("architecture/layers/drop/rate", 0.1, 0.2) in found
    assert ("architecture/layers/body/activation", "relu", "tanh") in found
    assert record["architecture"]["layers"]["drop"]["rate"] == 0.2
    assert record["architecture"]["layers"]["body"]["activation"] == "relu"
    assert not record.violations


def test_a_checkpoint_of_the_run_resumes_it(tmp_path):
    for model in (build(), restored(build())):
        fit(model, kl.FreezeHyperparameters(tmp_path, {"a": 1}), initial_epoch=0)
    record = load_record(tmp_path)
    assert record.status == "finished"
    (resumption,) = record.resumptions
    assert set(resumption) == {"step", "time", "host", "weights"}
    assert resumption["step"] == 2


def test_a_run_that_was_overridden_in_mid_run_resumes_before_and_behind_it(tmp_path):
    def new(l2=None):
        model = build()
        if l2:
            kl.override(model, {"body": {"kernel_regularizer": keras.regularizers.L2(l2)}})
        return model

    settings = {"kernel_regularizer": keras.regularizers.L2(0.1)}
    fit(
        new(),
        At(0, lambda m: kl.override(m, {"body": settings})),
        kl.FreezeHyperparameters(tmp_path),
    )
    nothing = At(9, None)
    fit(restored(new()), nothing, kl.FreezeHyperparameters(tmp_path))
    fit(restored(new(0.1)), nothing, kl.FreezeHyperparameters(tmp_path))
    assert len(load_record(tmp_path).resumptions) == 2
    with pytest.raises(kl.FrozenHyperparameterError, match=r"kernel/l2: 0.1 -> 0.2"):
        fit(restored(new(0.2)), nothing, kl.FreezeHyperparameters(tmp_path))


def test_a_run_whose_rate_was_reduced_resumes(tmp_path):
    model = build()
    halve = keras.callbacks.LearningRateScheduler(lambda _, rate: rate / 2)
    fit(model, halve, kl.FreezeHyperparameters(tmp_path))
    fit(model, halve, kl.FreezeHyperparameters(tmp_path))
    assert len(load_record(tmp_path).timeline) == 4
    again = restored(build())
    again.optimizer.learning_rate = 0.005  # as it was on the way
    fit(again, halve, kl.FreezeHyperparameters(tmp_path))
    assert len(load_record(tmp_path).resumptions) == 2
    other = restored(build())
    other.optimizer.learning_rate = 1.0
    with pytest.raises(kl.FrozenHyperparameterError, match=r"learning_rate: .* -> 1.0"):
        fit(other, halve, kl.FreezeHyperparameters(tmp_path))


def test_a_plan_resumes_before_and_behind_what_it_unfroze(tmp_path):
    def again(model):
        fit(model, kl.GradualUnfreeze({1: "body"}), kl.FreezeHyperparameters(tmp_path))

    def new():
        return build(kl.LayerwiseOptimizer("sgd", {"body": kl.Rule(frozen=True)}))

    model = new()
    again(model)
    again(model)
    again(restored(new()))
    assert len(load_record(tmp_path).resumptions) == 2


def test_other_hyperparameters_are_refused_before_the_first_step(tmp_path):
    fit(build(), kl.FreezeHyperparameters(tmp_path, {"a": 1}))
    before = load_record(tmp_path)
    files = sorted(tmp_path.iterdir())
    model = restored(build(keras.optimizers.Adam(0.02)))
    weights = weights_fingerprint(model)
    with pytest.raises(kl.FrozenHyperparameterError) as caught:
        fit(model, kl.FreezeHyperparameters(tmp_path, {"a": 1.0}), epochs=3)
    message = str(caught.value)
    assert "training/epochs" not in message
    assert "training/learning_rate: 0.01 -> 0.02" in message
    assert "user/a: 1 -> 1.0" in message
    assert "log_dir of its own" in message
    assert weights_fingerprint(model) == weights
    assert load_record(tmp_path) == before
    assert sorted(tmp_path.iterdir()) == files


def test_keys_that_may_differ_can_be_named(tmp_path):
    for model, user in ((build(), 1), (restored(build()), 2)):
        fit(model, kl.FreezeHyperparameters(tmp_path, {"a": user}, ignore=["user/a"]))
    assert load_record(tmp_path).resumptions[0]["step"] == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("no"), SystemExit(3)])
def test_a_fit_that_does_not_end_is_recorded_as_failed_at_once(tmp_path, error):
    def stop(_):
        raise error

    model = build()
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - what ends a process too
        fit(model, kl.FreezeHyperparameters(tmp_path), At(0, stop))
    record = load_record(tmp_path)
    assert record.status == "failed"
    assert caught.typename in record.error
    assert record.fingerprints["final_weights"] == weights_fingerprint(model)


def test_a_path_that_is_no_text_is_recorded(tmp_path):
    data = Path(os.fsdecode(b"data/\xff"))

    def fail(_):
        raise FileNotFoundError(data)

    with pytest.raises(FileNotFoundError):
        fit(build(), kl.FreezeHyperparameters(tmp_path, {"data": data, str(data): 1}), At(0, fail))
    record = load_record(tmp_path)
    assert record["user"] == {"data": "data/\\udcff", "data/\\udcff": 1}
    assert record.error == "FileNotFoundError: data/\\udcff"


def test_data_that_breaks_in_mid_epoch_is_a_failure(tmp_path):
    def broken():
        yield x[:4], y[:4]
        yield x[:4], y[:4]
        yield x[:4], y[:4]
        raise OSError("the disk is gone")

    with pytest.raises(Exception, match="the disk is gone"):
        build().fit(
            broken(),
            steps_per_epoch=8,
            shuffle=False,
            verbose=0,
            callbacks=[kl.FreezeHyperparameters(tmp_path)],
        )
    assert load_record(tmp_path).status == "failed"


def test_the_final_weights_count_what_other_callbacks_restore(tmp_path):
    model = build()
    fit(
        model,
        keras.callbacks.EarlyStopping("loss", patience=5, restore_best_weights=True),
        kl.FreezeHyperparameters(tmp_path),
    )
    assert load_record(tmp_path).fingerprints["final_weights"] == weights_fingerprint(model)


SCRIPT = """
import os, signal, sys
import keras, numpy as np
import keras_layerwise as kl
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        {action}
callbacks = [kl.FreezeHyperparameters(sys.argv[1]), Stop()]
x, y = np.ones((4, 4), "float32"), np.ones((4, 1), "float32")
{loop}
"""
FIT = "model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)"
# A shell has what it starts in the background ignore interruptions.
INTERRUPTED = (
    "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)"
)
LOOP = """
callbacks = keras.callbacks.CallbackList(callbacks, model=model)
callbacks.on_train_begin()
model.train_on_batch(x, y)
"""


@pytest.mark.parametrize(
    ("action", "loop", "status"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL) if epoch else None", FIT, "running"),
        (INTERRUPTED, FIT, "failed"),
        ("sys.exit(3)", FIT, "failed"),
        ("pass", LOOP, "failed"),
    ],
)
def test_a_process_that_ends_in_mid_training(tmp_path, scripts, action, loop, status):
    (done,) = scripts.run((SCRIPT.format(action=action, loop=loop), tmp_path))
    record = load_record(tmp_path)
    assert record.status == status, done.stderr
    if status == "running":
        assert done.returncode == -signal.SIGKILL
        assert record.ended is None
        assert "loss" in record.results["final"]


def test_a_loop_that_ends_without_a_word_is_closed_by_the_next(tmp_path):
    model = build()
    callbacks = keras.callbacks.CallbackList(
        [kl.FreezeHyperparameters(tmp_path)], model=model, epochs=1
    )
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    model.train_on_batch(x, y)
    callbacks.on_train_begin()
    assert "another began" in load_record(tmp_path).error
    callbacks.on_train_end()
    record = load_record(tmp_path)
    assert record.status == "finished"
    assert len(record.resumptions) == 1


def test_what_cannot_be_kept_is_refused_by_the_constructor(tmp_path):
    with pytest.raises(TypeError, match="'model/act'"):
        kl.FreezeHyperparameters(tmp_path, {"model": {"act": object()}})
    with pytest.raises(TypeError, match="mapping or a dataclass"):
        kl.FreezeHyperparameters(tmp_path, [1])
    with pytest.raises(ValueError, match="'stop'"):
        kl.FreezeHyperparameters(tmp_path, on_change="stop")
    with pytest.raises(TypeError, match="list of globs"):
        kl.FreezeHyperparameters(tmp_path, ignore="a")
    with pytest.raises(RuntimeError, match="before training"):
        _ = kl.FreezeHyperparameters(tmp_path).record
    with pytest.raises(ValueError, match="'often'"):
        kl.FreezeHyperparameters(tmp_path, resume="often")


def test_a_disk_that_fails_in_mid_run_does_not_end_training(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    model = build()
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="No space left"):
        fit(
            model,
            At(0, lambda _: patch.setattr(freeze, "save_record", full)),
            kl.FreezeHyperparameters(tmp_path),
        )
    assert len(model.history.history["loss"]) == 2


def test_a_damaged_record_is_not_written_over(tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    (place / "hyperparameters.json").write_text("{")
    fit(build(), kl.FreezeHyperparameters(place))
    assert load_record(tmp_path / "run-2").status == "finished"
    (place / "hyperparameters.json").write_text("{")
    with pytest.raises(RecordError, match="can not be read"):
        fit(restored(build(), 9), kl.FreezeHyperparameters(place))
    assert (place / "hyperparameters.json").read_text() == "{"


def test_a_directory_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        fit(build(), kl.FreezeHyperparameters(tmp_path / "file" / "run"))
