"""What TensorBoard serves of a frozen run, asked over HTTP."""

import contextlib
import json
import shutil
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_layerwise as kl
from keras_layerwise.storage import schema
from tests.shared.tab_browser import tensorboard, wait_for

x = np.linspace(0, 1, 32, dtype="float32").reshape(8, 4)
y = x[:, :1]
USER = {
    "name": 'he said "hi" \\ 日本語 50% <b>|</b>',
    "scale": np.float32(0.5),
    "augment": True,
    "none": None,
    "infinite": float("inf"),
}
STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
FINAL = [
    "(best)/loss",
    "(best)/mae",
    "(best)/val_loss",
    "(best)/val_mae",
    "(final)/loss",
    "(final)/mae",
    "(final)/val_loss",
    "(final)/val_mae",
]


class Interrupt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


class Scalars(keras.callbacks.Callback):
    """Another callback's charts in the same run."""

    def __init__(self, log_dir):
        super().__init__()
        self._log_dir = log_dir

    def on_train_end(self, logs=None):
        from keras_layerwise.storage.events import EventWriter

        writer = EventWriter(Path(self._log_dir) / "train")
        writer.scalar("Accuracy", 0.5, 1)
        writer.scalar("0", 0.5, 1)
        writer.close()


def train(log_dir, *callbacks, epochs=2, restored_at=0):
    keras.utils.clear_session(free_memory=False)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="d")])
    model.compile("sgd", "mse", metrics=["mae"])
    if restored_at:  # as from a checkpoint of the run in `log_dir`
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(restored_at)
    frozen = kl.FreezeHyperparameters(log_dir, USER)
    with contextlib.suppress(KeyboardInterrupt):
        model.fit(
            x,
            y,
            epochs=epochs,
            verbose=0,
            validation_split=0.5,
            callbacks=[frozen, *callbacks],
        )
    return frozen.record


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("logs")
    records = {
        "good": train(root / "good", Scalars(root / "good")),
        "bad": train(root / "bad", Interrupt()),
    }
    train(root / "again", Interrupt())
    keras.utils.set_random_seed(1)
    records["again"] = train_again(root / "again")
    return root, records


def train_again(log_dir):
    """The same script once more: the interruption was not of its making."""

    class Interrupt(keras.callbacks.Callback):
        pass

    return train(log_dir, Interrupt(), restored_at=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, to be copied."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train(run)
    return run


def _run(name):
    """The run's directory; the row is that of a directory in it."""
    return name.removesuffix(schema.RECORD_DIR).rstrip("/")


class Server:
    def __init__(self, url):
        self.url = url

    def ask(self, path, data=None):
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            self.url + path, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def experiment(self):
        return self.ask(
            "data/plugin/hparams/experiment", {"experimentName": "", "includeMetrics": True}
        )

    def groups(self, *columns):
        request = {
            "experimentName": "",
            "allowedStatuses": STATUSES,
            "colParams": list(columns),
            "startIndex": 0,
            "sliceSize": 100,
            "includeMetrics": True,
        }
        answer = self.ask("data/plugin/hparams/session_groups", request)
        return {_run(group["name"]): group for group in answer["sessionGroups"]}

    def wait(self, condition):
        """TensorBoard loads when it likes."""

        def met():
            with contextlib.suppress(OSError):
                return condition(self)

        wait_for(met, "what it loads")


@contextlib.contextmanager
def serve(log_dir, load_fast, ready, scripts=None):
    with tensorboard(log_dir, load_fast=load_fast == "true", scripts=scripts) as board:
        server = Server(board.url)
        server.wait(ready)
        yield server


@pytest.fixture(params=["true", "false"])
def load_fast(request):
    return request.param


def ended(count):
    def check(server):
        sessions = [s for group in server.groups().values() for s in group["sessions"]]
        return len([s for s in sessions if s.get("endTimeSecs")]) == count

    return check


def test_every_run_is_a_complete_row(runs, scripts, load_fast):
    root, records = runs
    with serve(root, load_fast, ended(3), None if load_fast == "true" else scripts) as board:
        board.wait(lambda b: len(b.groups()["good"]["sessions"][0].get("metricValues", [])) >= 8)
        experiment, groups = board.experiment(), board.groups()
        rows = [f"{name}/{schema.RECORD_DIR}" for name in ("again", "bad", "good")]
        assert sorted(board.ask("data/runs")) == [*rows, "good/train"]
        texts = board.ask("data/plugin/text/tags")
        text = board.ask("data/plugin/text/text?run=good%2Fhparams&tag=hyperparameters")[0]["text"]
        filtered = {
            name: list(board.groups({"hparam": name, "filterDiscrete": domain}))
            for name, domain in {
                info["name"]: info["domainDiscrete"]
                for info in experiment["hparamInfos"]
                if "domainDiscrete" in info
            }.items()
        }
    columns = [info["name"] for info in experiment["metricInfos"]]
    assert [name["tag"] for name in columns] == FINAL
    assert set(groups) == {"good", "bad", "again"}
    sessions = {name: group["sessions"][0] for name, group in groups.items()}
    assert sessions["good"]["status"] == "STATUS_SUCCESS"
    assert sessions["bad"]["status"] == "STATUS_FAILURE"
    assert sessions["again"]["status"] == "STATUS_SUCCESS"
    for name, session in sessions.items():
        assert session["startTimeSecs"] <= session["endTimeSecs"]
        values = {value["name"]["tag"]: value["value"] for value in session["metricValues"]}
        for kind in ("best", "final"):
            for metric, value in records[name].results[kind].items():
                assert values[f"({kind})/{metric}"] == pytest.approx(value)
    shown = groups["good"]["hparams"]
    assert shown["user/scale"] == 0.5
    assert shown["user/augment"] is True
    assert shown["training/epochs"] == 2.0
    assert shown["training/optimizer/class"] == "SGD"
    assert shown["architecture/layers/d/units"] == 1.0
    assert not {"user/none", "user/infinite"} & set(shown)
    types = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    assert types["user/augment"] == "DATA_TYPE_BOOL"
    assert types["user/scale"] == "DATA_TYPE_FLOAT64"
    # A filter by all values that there are must keep every run.
    for name, kept in filtered.items():
        assert sorted(kept) == ["again", "bad", "good"], name
    assert "hyperparameters" in texts["good/hparams"]
    assert "日本語" in text
    assert "<table>" in text


def test_the_run_itself_can_be_the_log_directory(runs, load_fast):
    root, _ = runs
    with serve(root / "bad", load_fast, ended(1)) as board:
        (group,) = board.groups().values()
        assert group["sessions"][0]["status"] == "STATUS_FAILURE"
        assert group["hparams"]["user/scale"] == 0.5
        assert list(board.ask("data/runs")) == [schema.RECORD_DIR]
        assert [m["name"]["tag"] for m in board.experiment()["metricInfos"]] == FINAL
        shown = {v["name"]["tag"]: v["value"] for v in group["sessions"][0]["metricValues"]}
        assert sorted(shown) == sorted(FINAL)


def test_a_run_that_is_resumed_under_the_eyes_of_a_server(tmp_path, finished, load_fast):
    shutil.copytree(finished, tmp_path / "run")
    with serve(tmp_path, load_fast, ended(1)) as board:
        first = board.groups()["run"]["sessions"][0]
        train(tmp_path / "run", restored_at=1)
        shutil.copytree(finished, tmp_path / "other")
        board.wait(ended(2))
        groups = board.groups()
        assert groups["run"]["sessions"][0]["startTimeSecs"] == first["startTimeSecs"]
        assert groups["run"]["sessions"][0]["status"] == "STATUS_SUCCESS"


def test_the_tab_finds_the_whole_record_at_start_and_end(runs):
    root, records = runs
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(root / "good" / schema.RECORD_DIR), tensor_size_guidance={"tensors": 0}
    )
    events.Reload()
    metadata = events.SummaryMetadata(schema.RECORD).plugin_data
    assert metadata.plugin_name == schema.PLUGIN
    assert schema.Series.parse(metadata.content).kind == "record"
    first, last = (
        json.loads(event.tensor_proto.string_val[0]) for event in events.Tensors(schema.RECORD)
    )
    assert (first["status"], last["status"]) == ("running", "finished")
    assert last["fingerprints"]["final_weights"] == records["good"].fingerprints["final_weights"]


def test_a_killed_run_has_values_and_no_end(tmp_path, finished, load_fast):
    shutil.copytree(finished, tmp_path / "run")
    written = (tmp_path / "run" / schema.RECORD_DIR).iterdir()
    (end,) = [path for path in written if path.name == train_end(tmp_path / "run")]
    shutil.move(end, tmp_path / "elsewhere")
    with serve(
        tmp_path,
        load_fast,
        lambda b: b.groups() and b.groups()["run"]["sessions"][0].get("metricValues"),
    ) as board:
        session = board.groups()["run"]["sessions"][0]
    assert "endTimeSecs" not in session or not session["endTimeSecs"]
    assert session.get("status", "STATUS_UNKNOWN") == "STATUS_UNKNOWN"


def train_end(log_dir):
    return kl.load_record(log_dir).end_file
