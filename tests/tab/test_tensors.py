"""What the tab asks TensorBoard's data provider for."""

from types import SimpleNamespace

import numpy as np
import pytest

from keras_layerwise.storage import schema
from keras_layerwise.tab.cache import Cache
from keras_layerwise.tab.tensors import Source, Tensors

BROKEN = "broken"


class Provider:
    """One record for each run; of a broken one TensorBoard can make no array."""

    def __init__(self):
        self.calls = []

    def read_tensors(self, ctx, *, run_tag_filter, **_):
        runs = sorted(run_tag_filter.runs)
        self.calls.append(runs)
        if BROKEN in runs:
            raise TypeError("no tensor")
        datum = SimpleNamespace(step=7, wall_time=1.0, numpy=np.array(["text"], object))
        return {run: {tag: [datum] for tag in run_tag_filter.tags} for run in runs}


@pytest.fixture
def provider():
    return Provider()


def sources(*runs):
    return [Source(run, "tag", schema.Series("alarms"), "7/1.0", 1.0) for run in runs]


def test_many_runs_are_read_in_one_call_and_once(provider):
    tensors = Tensors(provider, None, Cache(10_000))
    for _ in range(2):
        tensors.ahead(None, "", sources("a", "b", "c"), 1)
        steps = [tensors.read(None, "", source, 1)[0][0] for source in sources("a", "b", "c")]
        assert steps == [7] * 3
    assert provider.calls == [["a", "b", "c"]]


def test_one_that_cannot_be_read_leaves_the_others(provider):
    tensors = Tensors(provider, None, Cache(10_000))
    tensors.ahead(None, "", sources("a", BROKEN), 1)
    whole, broken = sources("a", BROKEN)
    assert len(tensors.read(None, "", whole, 1)) == 1
    with pytest.raises(schema.SchemaError, match="tag of run 'broken' holds what is no tensor"):
        tensors.read(None, "", broken, 1)


def test_what_is_in_this_process_is_not_asked_for_ahead(provider):
    Tensors(provider, SimpleNamespace(), Cache(10_000)).ahead(None, "", sources("a", "b"), 1)
    assert provider.calls == []
