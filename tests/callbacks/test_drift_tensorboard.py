"""What a started TensorBoard serves of `WeightDrift`'s files, with each of its loaders."""

import contextlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

import keras_layerwise as kl
from tests.shared.drift import Push, alarms_of, classifier, fit
from tests.shared.tab_browser import tensorboard


def get(address, path, **query):
    url = f"{address}data/{path}?{urllib.parse.urlencode(query)}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(600):
        with contextlib.suppress(urllib.error.URLError):
            body = opener.open(url, timeout=30).read()
            if body not in (b"{}", b"[]", b"null"):
                return body
        time.sleep(0.1)  # the loaders read in the background
    raise AssertionError(f"{url} gave nothing")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in which a weight became NaN, so that statistics did, too."""
    directory = tmp_path_factory.mktemp("logs")
    model = classifier()
    drift = kl.WeightDrift(directory / "run", scalars="all", histograms=True)
    push = Push(model.get_layer("head").kernel, float("nan"))
    assert alarms_of(lambda: fit(model, push, drift, epochs=3))
    return directory, drift.history


@pytest.mark.parametrize("fast", [True, False], ids=["load_fast", "slow"])
def test_tensorboard_shows_it_without_a_plugin(run, scripts, fast):
    directory, history = run
    if fast:
        pytest.importorskip("tensorboard_data_server")
    found = tensorboard(directory, load_fast=fast, scripts=None if fast else scripts)
    with found as board:
        address = board.url
        assert json.loads(get(address, "runs")) == ["run/drift"]
        tags = json.loads(get(address, "plugin/scalars/tags"))["run/drift"]
        assert {"drift/l2", "drift/l2/body", "drift/max_abs/norm (non-trainable)"} < set(tags)
        assert "initial weights" in tags["drift/l2"]["description"]

        def scalar(tag):
            body = get(address, "plugin/scalars/scalars", run="run/drift", tag=tag)
            return [(step, value) for _, step, value in json.loads(body)]

        (found,) = scalar("drift/norm/body")  # what is not defined is not written
        assert found == (4, pytest.approx(history["norm"][0, 0], rel=1e-6))
        assert np.isnan(history["norm"][1:, 0]).all()
        assert [step for step, _ in scalar("drift/nonfinite/head")] == history["step"].tolist()
        assert scalar("drift/nonfinite/head")[-1][1] == 14

        images = get(
            address, "plugin/images/images", run="run/drift", tag="drift/relative_l2/heatmap"
        )
        entry = json.loads(images)[-1]
        picture = get(address, f"plugin/images/individualImage?{entry['query']}&")
        assert picture.startswith(b"\x89PNG")
        assert int.from_bytes(picture[16:20]) == 3 * 24

        text = get(address, "plugin/text/text", run="run/drift", tag="drift/alarms")
        assert "not finite" in json.loads(text)[-1]["text"]
        histograms = get(
            address, "plugin/histograms/histograms", run="run/drift", tag="drift/difference/body"
        )
        assert len(json.loads(histograms)) == 3
        layout = json.loads(get(address, "plugin/custom_scalars/layout"))
        chart = layout["category"][0]["chart"][0]
        (pattern,) = chart["multiline"]["tag"]
        together = json.loads(
            get(address, "plugin/custom_scalars/scalars", run="run/drift", tag=pattern)
        )
        assert set(together["tag_to_events"]) == {f"drift/l2/{row}" for row in history["layers"]}


@pytest.fixture(scope="module")
def hyperparameters(tmp_path_factory):
    """A run with the hyperparameters of TensorBoard's own callback."""
    from tensorboard.plugins.hparams import summary_v2 as hparams

    from keras_layerwise.storage.events import EventWriter

    directory = tmp_path_factory.mktemp("hparams")
    writer = EventWriter(directory / "run")
    writer.summary(hparams.hparams_pb({"rate": 0.1}), step=0)
    writer.close()
    fit(classifier(), kl.WeightDrift(directory / "run"))
    return directory


@pytest.mark.parametrize("fast", [True, False], ids=["load_fast", "slow"])
def test_hparams_has_few_metric_columns(hyperparameters, fast):
    if fast:
        pytest.importorskip("tensorboard_data_server")
    with tensorboard(hyperparameters, load_fast=fast) as board:
        body = json.loads(get(board.url, "plugin/hparams/experiment", request="{}"))
        names = {metric["name"]["tag"] for metric in body["metricInfos"]}
        assert names <= {"drift/l2", "drift/relative_l2", "drift/cosine"}
