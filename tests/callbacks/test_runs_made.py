"""Runs as clusters, tuners and other libraries make them; what TensorFlow alone can tell."""

import warnings

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from tests.shared.scripts import WORKERS

pytestmark = pytest.mark.tensorflow_only

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X[:, :1]


def network(rate=0.1):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="head")])
    model.compile(keras.optimizers.SGD(rate), "mse", run_eagerly=True)
    return model


def events(folder):
    return {part: len(list((folder / part).glob("events*"))) for part in ("drift", "rates")}


@pytest.fixture(scope="module")
def cluster(scripts, tmp_path_factory):
    """Where the processes of tests/shared/workers/requeued.py left their runs."""
    folder = tmp_path_factory.mktemp("cluster")
    (done,) = scripts.run(((WORKERS / "requeued.py").read_text(), folder))
    # The last line: before it, the second of two runs says where it is recorded.
    assert done.stdout.splitlines()[-1].split() == ["-15", "0", "3", "0", "0", "0"], done.stderr[
        -3000:
    ]
    return folder


@pytest.mark.parametrize("name", ["requeued", "told"])
def test_a_job_that_is_requeued_goes_on_with_its_run_on_another_machine(cluster, name):
    record = kl.load_record(cluster / name)
    assert record.status == "finished"
    assert [(r["step"], r["host"]) for r in record.resumptions] == [(8, "another-node")]
    assert not record.violations
    assert not record.phases
    assert not (cluster / f"{name}-2").exists()
    assert events(cluster / name) == {"drift": 2, "rates": 2}


def test_two_processes_that_train_at_once_keep_their_runs_apart(cluster):
    for name in ("together", "together-2"):
        record = kl.load_record(cluster / name)
        assert record.status == "finished"
        assert not record.resumptions
        assert events(cluster / name) == {"drift": 1, "rates": 1}
    assert not (cluster / "together-3").exists()


@pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning")  # KerasTuner's own
@pytest.mark.filterwarnings("ignore:getName:DeprecationWarning")
def test_the_trials_of_a_tuner_are_runs_with_their_number_and_values(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what KerasTuner imports
        keras_tuner = pytest.importorskip("keras_tuner")

    def build(hp):
        return network(hp.Choice("rate", [0.1, 0.01]))

    tuner = keras_tuner.GridSearch(
        build, objective="val_loss", directory=tmp_path / "tuner", overwrite=True
    )
    runs = tmp_path / "runs"
    watching = [kl.FreezeHyperparameters(runs, {"project": "x"}), kl.WeightDrift(runs)]
    tuner.search(X, Y, epochs=2, validation_data=(X, Y), verbose=0, callbacks=watching)
    records = [kl.load_record(tmp_path / name) for name in ("runs", "runs-2")]
    assert not (tmp_path / "runs-3").exists()
    assert [record.status for record in records] == ["finished"] * 2
    assert sorted(record["user"]["rate"] for record in records) == [0.01, 0.1]
    assert {record["user"]["trial"] for record in records} == set(tuner.oracle.trials)
    assert {record["user"]["project"] for record in records} == {"x"}
    best = min(records, key=lambda record: record.results["best"]["val_loss"])
    assert best["user"]["rate"] == tuner.get_best_hyperparameters()[0].get("rate")


def test_the_folds_of_a_cross_validation_are_runs_of_their_own(tmp_path):
    selection = pytest.importorskip("sklearn.model_selection")
    from keras.wrappers import SKLearnRegressor

    callback = kl.FreezeHyperparameters(tmp_path / "fold")
    scores = selection.cross_val_score(
        SKLearnRegressor(lambda X, y: network()),  # noqa: N803 - the names that scikit-learn has
        X,
        Y[:, 0],
        cv=3,
        params={"epochs": 2, "verbose": 0, "callbacks": [callback]},
    )
    assert np.isfinite(scores).all()
    for name in ("fold", "fold-2", "fold-3"):
        record = kl.load_record(tmp_path / name)
        assert record.status == "finished"
        assert not record.resumptions
    assert not (tmp_path / "fold-4").exists()


def test_other_data_in_a_later_fit_of_a_run_is_a_warning(tmp_path):
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(2):
            model.fit(X, Y, verbose=0, callbacks=[kl.FreezeHyperparameters(tmp_path)])
    first = kl.load_record(tmp_path).provenance["data"]
    with pytest.warns(UserWarning, match="other data than before"):
        model.fit(2 * X, Y, verbose=0, callbacks=[kl.FreezeHyperparameters(tmp_path)])
    told = kl.load_record(tmp_path).provenance
    assert told["earlier_data"] == [first]
    assert told["data"] not in (first, "unknown")
