"""Weights are read where they lie, and what is made of them lies there too."""

import keras
import numpy as np
import pytest

from keras_layerwise.backend import arrays
from keras_layerwise.backend.arrays import BFLOAT16, Piece, Watched
from tests.shared.models import tensor, variable

VALUES = np.arange(6.0).reshape(2, 3)
DTYPES = {"float32": np.dtype("float32"), "float16": np.dtype("float16"), "bfloat16": BFLOAT16}


@pytest.fixture(params=DTYPES)
def weight(request):
    return variable(VALUES, dtype=request.param)


def test_a_weight_is_read_in_its_dtype_and_as_it_is_now(weight):
    watched = Watched([weight])
    for more in (0, 1):
        weight.assign(VALUES + more)
        ((piece,),) = watched.read()
        assert piece.index == ()
        for found in (piece.array, arrays.view(weight)):
            assert found.dtype == DTYPES[weight.dtype]
            np.testing.assert_array_equal(found.astype("float32"), VALUES + more)


def test_a_view_is_the_weights_own_memory(weight):
    assert np.shares_memory(arrays.view(weight), arrays.view(weight))


def test_a_copy_is_not(weight):
    ((piece,),) = Watched([weight]).read()
    copy = arrays.copied(piece)
    assert copy.index == piece.index
    assert copy.array.dtype == piece.array.dtype
    assert not np.shares_memory(copy.array, piece.array)


def test_what_is_not_numpys_is_copied_on_its_device():
    array = tensor(VALUES)
    copy = arrays.copied(Piece(array, ()))
    assert type(copy.array) is type(array)
    assert copy.array is not array
    np.testing.assert_array_equal(arrays.host(copy.array), VALUES)


def test_a_value_is_placed_as_the_piece_is(weight):
    ((piece,),) = Watched([weight]).read()
    half = Piece(piece.array[:, 1:], (slice(None), slice(1, None)))
    placed = arrays.placed(half, VALUES + 5)
    assert placed.array.dtype == piece.array.dtype
    np.testing.assert_array_equal(placed.array.astype("float32"), VALUES[:, 1:] + 5)
    assert not np.shares_memory(placed.array, piece.array)


def test_a_value_is_placed_on_the_device_of_the_piece():
    piece = Piece(tensor(VALUES[1:], "float16"), slice(1, None))
    placed = arrays.placed(piece, VALUES + 5)
    assert type(placed.array) is type(piece.array)
    assert keras.backend.standardize_dtype(placed.array.dtype) == "float16"
    np.testing.assert_array_equal(arrays.host(placed.array), VALUES[1:] + 5)


def test_pieces_make_the_whole():
    left, right = (np.s_[:, :1], np.s_[:, 1:])
    pieces = [Piece(VALUES[right], right), Piece(VALUES[left], left)]
    np.testing.assert_array_equal(arrays.whole((2, 3), pieces), VALUES)
    assert arrays.whole((2, 3), [Piece(VALUES, ())]) is VALUES


def moments(w, r):
    return keras.ops.stack([keras.ops.sum(w), keras.ops.sum(keras.ops.square(w - r))])


def test_pairs_are_reduced_where_they_lie(monkeypatch):
    monkeypatch.setattr(arrays, "_CHUNK", 4)  # PyTorch reduces the first pair in two parts
    pairs = [(VALUES, VALUES - 2), (VALUES[0], VALUES[1])]
    totals, counts = np.zeros((2, 2)), np.zeros(2)
    for i, count, row in arrays.reduce_in_place(
        moments, [(tensor(w), tensor(r)) for w, r in pairs]
    ):
        totals[i] += row
        counts[i] += count
    assert counts.tolist() == [6, 3]
    np.testing.assert_array_equal(totals, [[15, 24], [3, 27]])


def test_one_process_has_the_tables_of_all():
    table = np.array([[0.1, 0.2]])
    assert np.shares_memory(arrays.of_all_processes(table), table)
    assert arrays.of_all_processes(table).shape == (1, 1, 2)
