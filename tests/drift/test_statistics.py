from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

from keras_layerwise.drift import statistics, sums
from keras_layerwise.drift.statistics import STATISTICS, DriftSums, Statistic
from tests.shared.drift import by_definition

DTYPES = [np.float32, np.float64, np.float16, bfloat16, np.int8, np.int64]


def measured(weights, references, previous=None, groups=None, steps=1):
    groups = np.arange(len(weights)) if groups is None else np.array(groups)
    count = groups.max() + 1

    def rows(a, b):
        return sums.merge(sums.Comparison(b).measure(a), groups, count)

    updates = None
    if previous is not None:
        updates = DriftSums(rows(weights, previous), rows(previous, previous))
    names = STATISTICS if previous is not None else statistics.DEFAULT
    found = DriftSums(rows(weights, references), rows(references, references), updates, steps)
    return statistics.compute([STATISTICS[name] for name in names], found)


def assert_same(found, expected, row=0, rtol=1e-5, atol=1e-12):
    for name, value in expected.items():
        # A difference of spreads has the digits of the spreads.
        slack = 1e-6 * expected["norm"] if name == "std_shift" else atol
        np.testing.assert_allclose(found[name][row], value, rtol, slack, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("size", [1, 7, 1024, 4096, 4097, 3 * 131072 + 77])
def test_every_statistic_is_its_formula_whatever_the_size_and_dtype(size, dtype):
    random = np.random.default_rng(size)
    r = (20 * random.normal(size=size) + 1).astype(dtype)
    w = (r.astype(np.float64) + 9 + random.normal(size=size)).astype(dtype)
    p = (r.astype(np.float64) + 8).astype(dtype)
    assert_same(measured([w], [r], [p], steps=5), by_definition(w, r, p, steps=5))


def test_a_layer_is_the_concatenation_of_its_weights():
    random = np.random.default_rng(0)
    weights = [random.normal(k, 1, size).astype(np.float32) for k, size in enumerate([5, 9000, 40])]
    references = [w + np.float32(0.5) for w in weights]
    found = measured(weights, references, groups=[1, 1, 0])
    both = by_definition(np.concatenate(weights[:2]), np.concatenate(references[:2]))
    assert_same(found, both, row=1)
    assert_same(found, by_definition(weights[2], references[2]), row=0)


@pytest.mark.parametrize("size", [100, 10_000, 300_000])
def test_a_small_spread_around_a_large_mean_keeps_its_digits(size):
    random = np.random.default_rng(1)
    r = (1000 + 1e-2 * random.normal(size=size)).astype(np.float32)
    w = (1000 + 3e-2 * random.normal(size=size)).astype(np.float32)
    found, expected = measured([w], [r]), by_definition(w, r)
    assert found["std_shift"][0] == pytest.approx(expected["std_shift"], rel=1e-4)


def test_sums_of_many_elements_keep_a_relative_error_below_1e_5():
    # Equal elements are the worst case: each rounding errs to the same side. A
    # plain float32 sum of these is off by 2e-2; and as blocks are added in
    # float64, a hundred times more elements change nothing but the count.
    size = 30_000_000
    r = np.zeros(size, np.float32)
    w = np.full(size, 0.1, np.float32)
    assert abs(np.cumsum(w * w, dtype=np.float32)[-1] / (size * float(w[0]) ** 2) - 1) > 1e-3
    found = measured([w], [r])
    exact = float(w[0]) * np.sqrt(size)
    assert found["l2"][0] == pytest.approx(exact, rel=1e-6)
    assert found["mean_shift"][0] == pytest.approx(float(w[0]), rel=1e-6)


@pytest.mark.parametrize("size", [10, 5000])
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e25, 3e37])
def test_squares_beyond_the_range_of_float32_are_right(size, scale):
    r = (np.linspace(1, 2, size) * scale).astype(np.float32)
    w = (np.linspace(2, 1.5, size) * scale).astype(np.float32)
    assert_same(measured([w], [r]), by_definition(w, r), atol=0)


@pytest.mark.parametrize("size", [10, 5000, 200_000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_elements_that_are_not_finite_are_counted_and_stay_in_their_layer(size, bad):
    r = np.ones(size, np.float32)
    w = r.copy()
    w[[0, -1]] = bad
    found = measured([w, r * 2], [r, r])
    assert found["nonfinite"].tolist() == [2, 0]
    assert not np.isfinite(found["l2"][0])
    assert_same(found, by_definition(r * 2, r), row=1)


def test_what_is_not_defined_is_nan():
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    found = measured([one, zero, zero], [zero, one, zero], [zero, one, zero])
    assert np.isnan(found["relative_l2"]).tolist() == [True, False, True]
    assert np.isnan(found["cosine"]).tolist() == [True, True, True]
    assert np.isnan(found["update_ratio"]).tolist() == [True, False, True]
    assert found["l2"].tolist() == pytest.approx([np.sqrt(3), np.sqrt(3), 0])


def test_an_empty_weight_adds_nothing():
    empty, one = np.zeros((0, 4), np.float32), np.ones(4, np.float32)
    assert_same(
        measured([empty, one], [empty, one + 1], groups=[0, 0]), by_definition(one, one + 1)
    )


def test_arrays_that_are_not_contiguous_are_read_in_order():
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    r = np.ones((3, 4), np.float32)
    assert_same(measured([w.T[:, ::2]], [r.T[:, ::2]]), by_definition(w.T[:, ::2], r.T[:, ::2]))


shapes = st.lists(st.integers(1, 300), min_size=1, max_size=6)


@given(sizes=shapes, seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_identity_scale_permutation(sizes, seed, scale):
    random = np.random.default_rng(seed)
    r = [random.normal(size=n).astype(np.float32) for n in sizes]
    w = [a + random.normal(size=a.size).astype(np.float32) for a in r]
    same = measured(r, r)
    assert not same["l2"].any()
    assert not same["max_abs"].any()
    np.testing.assert_allclose(same["cosine"], 1, rtol=1e-6)
    one = measured(w, r)
    scaled = measured(
        [(a * scale).astype(np.float64) for a in w], [a * np.float64(scale) for a in r]
    )
    np.testing.assert_allclose(scaled["l2"], one["l2"] * scale, rtol=1e-4)
    np.testing.assert_allclose(scaled["relative_l2"], one["relative_l2"], rtol=1e-4)
    order = random.permutation(len(sizes))
    moved = measured([w[i] for i in order], [r[i] for i in order])
    for name, values in one.items():
        np.testing.assert_allclose(moved[name], values[order], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_same_values_give_the_same_sums_to_the_last_bit():
    random = np.random.default_rng(3)
    w = [random.normal(size=n).astype(np.float32) for n in (10, 3000, 500_000)]
    r = [a + np.float32(0.1) for a in w]
    first, again = (
        sums.Comparison(r).measure(w),
        sums.Comparison(r).measure([a.copy() for a in w]),
    )
    assert (first == again).all()


class TestOwnStatistic:
    def test_it_is_computed_from_the_same_sums(self):
        random = np.random.default_rng(4)
        r = random.normal(1, 2, 5000).astype(np.float32)
        w, p = r + np.float32(0.5), r + np.float32(0.25)
        found = DriftSums(
            sums.Comparison([r]).measure([w]),
            sums.Comparison([r]).measure([r]),
            DriftSums(sums.Comparison([p]).measure([w]), sums.Comparison([p]).measure([p])),
            steps=4,
        )
        exact = {
            "count": 5000,
            "distance": np.sqrt(5000) / 2,
            "shift": 2500,
            "square": 1250,
            "largest": 0.5,
            "norm": np.linalg.norm(w.astype("f8")),
            "reference_norm": np.linalg.norm(r.astype("f8")),
            "mean": w.mean(dtype="f8"),
            "reference_mean": r.mean(dtype="f8"),
            "std": w.std(dtype="f8"),
            "reference_std": r.std(dtype="f8"),
            "dot": w.astype("f8") @ r.astype("f8"),
            "nonfinite": 0,
        }
        for name, value in exact.items():
            own = Statistic("own", "", "1", lambda s, name=name: getattr(s, name))
            np.testing.assert_allclose(own.of(found), [value], rtol=1e-5, err_msg=name)
        rate = Statistic("rate", "", "1", lambda s: s.previous.distance / s.steps)
        np.testing.assert_allclose(rate.of(found), [np.sqrt(5000) / 16], rtol=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("a b", "", "1", lambda s: s.count), "received 'a b'"),
            (("a", "", "1", lambda s: s.count, "up"), "received 'up'"),
            (("a", "", "1", lambda s: s.count.sum()), r"shape \(2,\) and returned \(\)"),
        ],
    )
    def test_what_it_can_not_be_is_said_when_it_is_made(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Statistic(*arguments)

    def test_its_function_fails_when_it_is_made_and_not_in_the_training(self):
        with pytest.raises(AttributeError, match="spread"):
            Statistic("own", "", "1", lambda s: s.spread)

    def test_two_of_one_name_are_an_error(self):
        own = Statistic("l2", "", "1", lambda s: s.count)
        for asked in [[own], ["l2", own]]:
            with pytest.raises(ValueError, match="'l2'"):
                statistics.chosen(asked)


def test_the_docs_have_the_same_table():
    text = (Path(__file__).parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")
    for one in STATISTICS.values():
        formula = one.formula.replace("|", "\\|")
        assert f"| `{one.name}` | {formula} | {one.unit} |" in text
