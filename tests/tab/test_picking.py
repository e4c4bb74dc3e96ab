"""A few records of a series, as a TensorBoard without a data server keeps them."""

from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.util import tensor_util

from keras_layerwise.tab.picking import picked


def _tensors(run, tag):
    """Ten records of one series."""
    if (run, tag) != ("run", "l2"):
        raise KeyError(tag)
    return [
        SimpleNamespace(
            step=10 * i,
            wall_time=float(i),
            tensor_proto=tensor_util.make_tensor_proto(np.full(3, i, np.float32)),
        )
        for i in range(10)
    ]


MULTIPLEXER = SimpleNamespace(Tensors=_tensors)


class TestPicked:
    @pytest.mark.parametrize(
        ("limit", "steps"),
        [(1, [90]), (4, [0, 30, 60, 90]), (10, range(0, 100, 10)), (99, range(0, 100, 10))],
    )
    def test_records_are_spread_evenly_and_the_last_is_one(self, limit, steps):
        found = picked(MULTIPLEXER, "run", "l2", limit)
        assert [step for step, _, _ in found] == list(steps)
        assert [values.tolist() for _, _, values in found] == [[s / 10] * 3 for s in steps]

    def test_of_what_is_not_there_there_is_nothing(self):
        assert picked(MULTIPLEXER, "run", "cosine", 4) == []

    def test_only_what_is_picked_is_made_an_array(self, monkeypatch):
        made = []
        whole = tensor_util.make_ndarray
        monkeypatch.setattr(tensor_util, "make_ndarray", lambda p: made.append(p) or whole(p))
        picked(MULTIPLEXER, "run", "l2", 4)
        assert len(made) == 4
