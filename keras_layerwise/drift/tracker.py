"""Follows the weights of a model from record to record: models and numbers, no files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_layerwise.drift import alarms
from keras_layerwise.drift import sums as columns
from keras_layerwise.drift.alarms import Alarm, Group
from keras_layerwise.drift.reference import Reference
from keras_layerwise.drift.statistics import DriftSums, Statistic, Values, compute
from keras_layerwise.drift.sums import Sums
from keras_layerwise.drift.views import (
    Mask,
    View,
    frozen_weights,
    look,
    signature,
    with_frozen,
)

_RESOLVED = 1e-9  # of a block's norm: a hundredth of what float32 resolves


@dataclass(frozen=True)
class DriftRecord:
    """What was found at a step.

    Attributes:
        step: of the run.
        rows: what the values are of, as it is at this step.
        values: for each statistic, one per row.
        blocks: the parts of the outline.
        by_block: for each statistic, one per block.
        whole: each statistic of all trained weights together.
        alarms: what is wrong and was not said before.
        nonfinite: paths of the weights that are not finite.
    """

    step: int
    rows: tuple[Group, ...]
    values: dict[str, Values]
    blocks: tuple[Group, ...]
    by_block: dict[str, Values]
    whole: dict[str, float]
    alarms: tuple[Alarm, ...]
    nonfinite: tuple[str, ...]


def none_by_rule(model: Any) -> frozenset[str]:
    """Says that no weight is frozen by a rule."""
    return frozenset()


class Tracker:
    """Follows the weights of a model.

    Args:
        model: the model.
        view: what is watched of it, from `look`.
        reference: what the weights are compared with.
        statistics: what to compute.
        step: of the run, now.
        moving: whether the reference becomes the weights at each record.
        frozen: gives the paths of the model's weights that a rule freezes now;
            ``trainable`` is asked here.
        again: looks anew at a model whose weights are others than before.
    """

    def __init__(
        self,
        model: Any,
        view: View,
        reference: Reference,
        statistics: Sequence[Statistic],
        *,
        step: int = 0,
        moving: bool = False,
        frozen: Callable[[Any], Iterable[str]] = none_by_rule,
        again: Callable[[Any], View | None] = look,
    ) -> None:
        self.view = view
        self.reference = reference
        self._model = model
        self._statistics = tuple(statistics)
        self._moving = moving
        self._by_rule, self._look = frozen, again
        separate = any(one.needs_previous for one in statistics) and not moving
        self._previous = Reference.taken(view.watched) if separate else None
        self._step = step
        self._sums = reference.measure(view.watched)
        # Whether the distance to the reference is that to the beginning, or from the last record.
        self._began_there = self._sums[:, columns.SQUARE] == 0
        # Asked at a record, because an optimizer may not know its weights before the first step.
        self._frozen: Mask | None = None
        self._free: Mask | None = None  # at the last call of `still`
        self._moved = np.zeros(len(view.sites), bool)
        self._said: set[tuple[str, str]] = set()  # kinds of alarms and rows

    def record(self, step: int) -> DriftRecord:
        """Compares the weights as they are now."""
        self._renew()
        sums = self.reference.measure(self.view.watched)
        frozen = frozen_weights(self._model, self.view, self._by_rule(self._model))
        view = self.view = with_frozen(self.view, frozen)
        before = frozen if self._frozen is None else self._frozen
        values, by_block, whole = self._values(sums, step)
        if self._previous is not None:
            self._previous.advance(view.watched, sums)
        # Sums are added in one order always: those of the same values are the same.
        changed = (
            sums[:, columns.LARGEST] != 0 if self._moving else (sums != self._sums).any(axis=1)
        )
        bad = sums[:, columns.NONFINITE]
        moved = dict.fromkeys(view.groups[changed & frozen & before].tolist())
        record = DriftRecord(
            step=step,
            rows=view.rows,
            values=values,
            blocks=view.blocks,
            by_block=by_block,
            whole=whole,
            alarms=self._once(
                alarms.frozen_moved(self._unsaid("frozen_moved", moved), step)
                + alarms.nonfinite(
                    [
                        (row, path, count)
                        for row, path, count in _first_of_each(view, bad)
                        if ("nonfinite", row.name) not in self._said
                    ],
                    step,
                )
            ),
            nonfinite=tuple(view.sites[i].path for i in np.flatnonzero(bad)),
        )
        self._moved |= changed & ~self._hardly(sums)
        self._frozen, self._sums, self._step = frozen, sums, step
        if self._moving:
            self.reference.advance(view.watched, sums)
        return record

    def _hardly(self, sums: Sums) -> Mask:
        """Weights that moved by less than float32 resolves in their block: it does not learn."""
        view = self.view
        groups, count = (
            (view.members, len(view.blocks)) if view.blocks else (view.groups, len(view.rows))
        )
        sizes = columns.norm(columns.merge(self.reference.own, groups, count))[groups]
        small: Mask = np.sqrt(sums[:, columns.SQUARE]) < _RESOLVED * sizes
        small &= self._began_there
        return small

    def still(self, step: int, rates: Mapping[str, float] | None = None) -> tuple[Alarm, ...]:
        """Alarms for what has been trained since the last call and has not moved at any record.

        Args:
            step: of the run.
            rates: learning rates by the path of the weight, to be said beside.
        """
        if self._frozen is None:
            return ()
        view, free = self.view, self.view.trained & ~self._frozen
        since = free if self._free is None else free & self._free
        self._free = free
        count = len(view.rows)
        watched = np.bincount(view.groups[since], minlength=count) > 0
        moved = np.bincount(view.groups[since & self._moved], minlength=count) > 0
        known: dict[str, float] = {}
        for i in np.flatnonzero(since):
            rate = (rates or {}).get(view.sites[i].path)
            if rate is not None:
                known.setdefault(view.rows[view.groups[i]].name, rate)
        return self._once(
            alarms.trainable_still(
                self._unsaid("trainable_still", np.flatnonzero(watched & ~moved)),
                self._unsaid("trainable_still", np.flatnonzero(watched)),
                known,
                step,
            )
        )

    def _unsaid(self, kind: str, rows: Iterable[int]) -> list[Group]:
        """Gives those rows that no alarm of this kind was about."""
        found = [self.view.rows[i] for i in rows]
        return [row for row in found if (kind, row.name) not in self._said]

    def _once(self, found: Iterable[Alarm]) -> tuple[Alarm, ...]:
        """Remembers what is said, so that it is said once."""
        found = tuple(found)
        self._said |= {(alarm.kind, row) for alarm in found for row in alarm.rows}
        return found

    def _values(
        self, sums: Sums, step: int
    ) -> tuple[dict[str, Values], dict[str, Values], dict[str, float]]:
        """Gives the statistics of each row, of each block and of all trained weights, in one go."""
        view = self.view
        rows, blocks = len(view.rows), len(view.blocks)
        trained = view.trained if view.trained.any() else ~view.trained
        parts = [np.arange(len(sums)), np.flatnonzero(trained)]
        targets = [view.groups, np.full(int(trained.sum()), rows + blocks)]
        if blocks:
            parts.append(np.arange(len(sums)))
            targets.append(view.members + rows)
        part, target = np.concatenate(parts), np.concatenate(targets)

        def merged(table: Sums) -> Sums:
            return columns.merge(table[part], target, rows + blocks + 1)

        table, own = merged(sums), merged(self.reference.own)
        previous = None
        if self._previous is not None:
            previous = DriftSums(
                merged(self._previous.measure(view.watched)), merged(self._previous.own)
            )
        elif self._moving:
            previous = DriftSums(table, own)
        found = compute(self._statistics, DriftSums(table, own, previous, step - self._step))
        return (
            {name: values[:rows] for name, values in found.items()},
            {name: values[rows:-1] for name, values in found.items()},
            {name: float(values[-1]) for name, values in found.items()},
        )

    def _renew(self) -> None:
        """Follows the model where it has other weights than before."""
        old = self.view
        if old.signature == signature(self._model):
            return
        new = self._look(self._model)
        if new is None:
            return
        self.reference = self.reference.extended(old.watched, new.watched)
        if self._previous is not None:
            self._previous = self._previous.extended(old.watched, new.watched)
        place = {id(site.weight): i for i, site in enumerate(old.sites)}
        known = [place.get(id(site.weight)) for site in new.sites]
        sums = self.reference.measure(new.watched)
        moved, there = np.zeros(len(new.sites), bool), np.ones(len(new.sites), bool)
        for i, before in enumerate(known):
            if before is not None:
                sums[i], moved[i] = self._sums[before], self._moved[before]
                there[i] = self._began_there[before]
        self._sums, self._moved, self._began_there = sums, moved, there
        self._frozen = self._free = None
        self.view = new


def _first_of_each(view: View, counts: Values) -> list[tuple[Group, str, int]]:
    """Gives the path and size of the first bad weight of each row that is not finite."""
    found: dict[int, tuple[Group, str, int]] = {}
    for i in np.flatnonzero(counts):
        row = int(view.groups[i])
        found.setdefault(row, (view.rows[row], view.sites[i].path, int(counts[i])))
    return list(found.values())
