"""The statistics of drift: one table that callback, files, tab and docs read.

A `Statistic` says what it is called, how its formula is printed, its unit, how
it reads, and computes its values from sums. The built-in ones are DESIGN's.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_layerwise.drift import sums as columns
from keras_layerwise.drift.sums import Sums

Values = npt.NDArray[np.float64]

READS = ("falling", "signed", "rising")


@dataclass(frozen=True)
class DriftSums:
    """What a `Statistic` computes from: arrays with one value per row.

    A row is a layer, a block or a model; w are its weights, w₀ those of the
    reference, as one vector of `count` elements.

    Attributes:
        table: the sums of w against w₀, shape ``(rows, len(sums.COLUMNS))``.
        own: the sums of w₀ against itself, the same shape.
        previous: the same for w against the weights at the previous record;
            ``None`` where no statistic of the callback has ``needs_previous``.
        steps: steps of the optimizer since the previous record.
    """

    table: Sums
    own: Sums
    previous: "DriftSums | None" = None
    steps: int = 0

    @property
    def count(self) -> Values:
        """Number of elements."""
        return self.table[:, columns.COUNT]

    @property
    def square(self) -> Values:
        """Σ(w − w₀)²."""
        return self.table[:, columns.SQUARE]

    @property
    def shift(self) -> Values:
        """Σ(w − w₀)."""
        return self.table[:, columns.SHIFT]

    @property
    def largest(self) -> Values:
        """max|w − w₀|."""
        return self.table[:, columns.LARGEST]

    @property
    def dot(self) -> Values:
        """w·w₀."""
        return self.table[:, columns.DOT]

    @property
    def nonfinite(self) -> Values:
        """Number of elements that are NaN or infinite."""
        return self.table[:, columns.NONFINITE]

    @property
    def distance(self) -> Values:
        """‖w − w₀‖₂."""
        return np.sqrt(self.square)

    @property
    def norm(self) -> Values:
        """‖w‖₂."""
        return columns.norm(self.table)

    @property
    def reference_norm(self) -> Values:
        """‖w₀‖₂."""
        return columns.norm(self.own)

    @property
    def mean(self) -> Values:
        """The mean of w."""
        return self.table[:, columns.TOTAL] / self.count

    @property
    def std(self) -> Values:
        """The standard deviation of w, of the population."""
        return np.sqrt(self.table[:, columns.SCATTER] / self.count)

    @property
    def reference_mean(self) -> Values:
        """The mean of w₀."""
        return self.own[:, columns.TOTAL] / self.count

    @property
    def reference_std(self) -> Values:
        """The standard deviation of w₀."""
        return np.sqrt(self.own[:, columns.SCATTER] / self.count)


@dataclass(frozen=True)
class Statistic:
    """Says how far weights have moved, in one number per row.

    Pass one of your own in ``WeightDrift(statistics=[..., mine])``: it is
    recorded, drawn and shown in the tab as the built-in ones are.

    Args:
        name: letters, digits, ``_``, ``.`` and ``-``.
        formula: as it is printed beside a chart.
        unit: ``"1"`` for a ratio, ``"of the weight"``, ``"elements"`` ….
        function: from `DriftSums` to an array of one value per row; NaN where
            it is not defined.
        reads: which values tell of more movement: ``"rising"``, the higher;
            ``"falling"``, the lower, as for a cosine; ``"signed"``, those
            further from 0.
        needs_previous: whether ``sums.previous`` is read. It costs a second
            copy of the weights.

    Raises:
        ValueError: for a name, a way to read or values that are none of the above.

    Example:
    >>> rms = Statistic("rms", "‖w − w₀‖₂ / √n", "of the weight",
    ...                 lambda sums: sums.distance / sums.count**0.5)
    >>> rms.name, rms.reads
    ('rms', 'rising')
    """

    name: str
    formula: str
    unit: str
    function: Callable[[DriftSums], Any]
    reads: str = "rising"
    needs_previous: bool = False

    def __post_init__(self) -> None:
        """Tries the function on two rows, so that a fault shows before the training."""
        if not (isinstance(self.name, str) and re.fullmatch(r"[\w.-]+", self.name)):
            raise ValueError(
                "A statistic's name has letters, digits, '_', '.' and '-' only; received "
                f"{self.name!r}."
            )
        if self.reads not in READS:
            raise ValueError(
                f"Statistic {self.name!r} reads one of {READS}; received {self.reads!r}."
            )
        self.of(_example())

    def of(self, sums: DriftSums) -> Values:
        """Gives the value for each row of `sums`, as float64.

        Raises:
            ValueError: where the function does not give one number for each row.
        """
        with np.errstate(all="ignore"):  # NaN and infinity are results here
            found = np.asarray(self.function(sums), np.float64)
        if found.shape != sums.count.shape:
            raise ValueError(
                f"Statistic {self.name!r} gives one value for each row: its function was asked "
                f"for the shape {sums.count.shape} and returned {found.shape}."
            )
        return found


def _ratio(above: Values, below: Values) -> Values:
    return np.where(below == 0, np.nan, above / below)


def _cosine(sums: DriftSums) -> Values:
    return np.clip(_ratio(sums.dot, sums.norm * sums.reference_norm), -1, 1)


def _update_ratio(sums: DriftSums) -> Values:
    previous = sums.previous
    if previous is None:
        return np.full(sums.count.shape, np.nan)
    return _ratio(previous.distance, previous.reference_norm * sums.steps)


def _example() -> DriftSums:
    """Gives two rows: w = (1, 2) against w₀ = (1, 1), and zeros."""
    table = np.zeros((2, len(columns.COLUMNS)))
    table[0] = [2, 1, 1, 1, 3, 0.5, 3, 0]
    table[1, columns.COUNT] = 1
    own = np.zeros_like(table)
    own[0] = [2, 0, 0, 0, 2, 0, 2, 0]
    own[1, columns.COUNT] = 1
    return DriftSums(table, own, DriftSums(table, own), steps=1)


STATISTICS: dict[str, Statistic] = {
    statistic.name: statistic
    for statistic in (
        Statistic("l2", "‖w − w₀‖₂", "of the weight", lambda s: s.distance),
        Statistic(
            "relative_l2", "‖w − w₀‖₂ / ‖w₀‖₂", "1", lambda s: _ratio(s.distance, s.reference_norm)
        ),
        Statistic("cosine", "w·w₀ / (‖w‖₂ ‖w₀‖₂)", "1", _cosine, "falling"),
        Statistic(
            "mean_shift", "mean(w − w₀)", "of the weight", lambda s: s.shift / s.count, "signed"
        ),
        Statistic(
            "std_shift",
            "std(w) − std(w₀)",
            "of the weight",
            lambda s: s.std - s.reference_std,
            "signed",
        ),
        Statistic("max_abs", "max |w − w₀|", "of the weight", lambda s: s.largest),
        Statistic("norm", "‖w‖₂", "of the weight", lambda s: s.norm),
        Statistic(
            "update_ratio",
            "‖w_t − w_s‖₂ / (‖w_s‖₂ (t − s)), s the previous record's step",
            "1",
            _update_ratio,
            needs_previous=True,
        ),
        Statistic("nonfinite", "number of NaN and infinite elements", "elements",
                  lambda s: s.nonfinite),
    )
}  # fmt: skip
"""The built-in statistics by name, in the order in which they are shown."""

DEFAULT = tuple(name for name, found in STATISTICS.items() if not found.needs_previous)
"""The names of all that need no second copy of the weights."""


def chosen(given: "str | Statistic | Iterable[str | Statistic]") -> tuple[Statistic, ...]:
    """Gives the statistics that names and objects stand for, built-in ones first.

    Raises:
        ValueError: for a name that is not known, none at all, or two of one name.
    """
    asked = [given] if isinstance(given, (str, Statistic)) else list(given)
    own: dict[str, Statistic] = {}
    names: set[str] = set()
    for item in asked or ("",):
        if isinstance(item, Statistic) and STATISTICS.get(item.name) is not item:
            if item.name in STATISTICS or own.setdefault(item.name, item) is not item:
                raise ValueError(f"Two statistics are called {item.name!r}; rename one.")
        elif isinstance(item, Statistic):
            names.add(item.name)
        elif item in STATISTICS:
            names.add(item)
        else:
            raise ValueError(
                f"statistics takes one of {tuple(STATISTICS)} or a Statistic; received {item!r}."
            )
    return (*(found for name, found in STATISTICS.items() if name in names), *own.values())


def compute(statistics: Sequence[Statistic], sums: DriftSums) -> dict[str, Values]:
    """Gives each statistic's values by name: one per row, NaN where it is not defined."""
    return {statistic.name: statistic.of(sums) for statistic in statistics}
