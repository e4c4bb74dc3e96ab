"""The rule of AutoFreeze against its published one."""

import numpy as np
import pytest

from keras_layerwise.drift.settling import first_unsettled, pays


def published(sums, percentile):
    """The decisions of AutoFreeze's freeze_intermediate_e2e_lr.py, written from its description.

    ``sums`` are the L1 norms of each layer's summed gradients, an interval a row.
    """
    start, previous, decisions = 0, None, []
    for current in sums:
        if previous is not None:
            ratios = np.zeros(len(current))
            moving = current > 0
            ratios[moving] = np.abs(previous - current)[moving] / previous[moving]
            threshold = np.percentile(ratios[start:], percentile)
            start = int(np.flatnonzero(ratios >= threshold)[0])
        decisions.append(start)
        previous = current
    return decisions


def recorded(seed, layers=12, intervals=10):
    """Sums that fall as layers converge, the lower ones first, as in the paper's figure."""
    rng = np.random.default_rng(seed)
    speed = np.linspace(1.5, 0.2, layers)
    times = np.arange(intervals)[:, None]
    return 5.0 * np.exp(-speed * times / 3) + rng.uniform(0.5, 1.5, (intervals, layers))


@pytest.mark.parametrize("percentile", [30, 50, 75])
@pytest.mark.parametrize("seed", range(4))
def test_it_decides_step_by_step_as_the_published_code(seed, percentile):
    sums = recorded(seed)
    start, decisions = 0, [0]
    for i in range(1, len(sums)):
        # A frozen layer has no gradients.
        sums[i, :start] = 0.0
        start = first_unsettled(sums[i - 1], sums[i], start, percentile)
        decisions.append(start)
    assert decisions == published(sums, percentile)
    assert decisions[-1] > 0


def test_a_block_that_begins_to_move_has_not_settled():
    assert first_unsettled([0.0, 1.0, 1.0], [1.0, 1.0, 1.0]) == 0


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_network_that_diverges_has_settled_nowhere(broken):
    assert first_unsettled([1.0, 1.0, 1.0], [1.0, broken, broken], start=1) == 1


@pytest.mark.parametrize(
    ("steps_left", "frozen", "earned"), [(90, 4, True), (89, 4, False), (30, 12, True)]
)
def test_a_trace_is_earned_back_or_not_made(steps_left, frozen, earned):
    """Of 12 blocks, 4 save two ninths of a step: 20 steps in 90."""
    assert pays(steps_left, 19.9, frozen, blocks=12) == earned
