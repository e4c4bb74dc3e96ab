"""What moved since when: the weights of a model followed from record to record.

Knows models and numbers, but no files and no callbacks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_layerwise.drift import statistics as measures
from keras_layerwise.drift.reference import Reference, Watched
from keras_layerwise.drift.statistics import Sums
from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors, structure
from keras_layerwise.model.structure import Site
from keras_layerwise.optimizer.layerwise import layerwise_optimizers
from keras_layerwise.storage.schema import Row

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class View:
    """What is watched of a model, and the rows that it is shown as.

    Attributes:
        sites: the watched weights.
        every: all weights of the model.
        watched: the watched weights, to be read.
        rows: what a record has a value for.
        groups: for each watched weight, its row.
        trained: for each, whether its layer trains it; False for state, such
            as moving averages.
        states: the weights of the model, by id, that are state.
        signature: of the model's weights, to see that they are others.
    """

    sites: tuple[Site, ...]
    every: tuple[Site, ...]
    watched: Watched
    rows: tuple[Row, ...]
    groups: npt.NDArray[np.intp]
    trained: Mask
    states: frozenset[int]
    signature: tuple[int, ...]


@dataclass(frozen=True)
class Alarm:
    """Something that should not be; see `keras_layerwise.storage.schema.alarm`."""

    kind: str
    row: str
    message: str


@dataclass(frozen=True)
class Record:
    """What was found at a step.

    Attributes:
        step: of the optimizer.
        rows: what the values are of.
        values: for each statistic, one per row.
        whole: each statistic of all trained weights together.
        alarms: what is wrong at this step.
        nonfinite: paths of the weights that are not finite.
    """

    step: int
    rows: tuple[Row, ...]
    values: dict[str, npt.NDArray[np.float64]]
    whole: dict[str, float]
    alarms: tuple[Alarm, ...]
    nonfinite: tuple[str, ...]


def look(model: Any, select: Any = None, per_weight: bool = False) -> View | None:
    """What there is to watch, ``None`` before the model has weights.

    Raises:
        RuleError: where `select` picks nothing.
    """
    if not (model.built and model.weights):
        return None
    every: tuple[structure.Site, ...] = structure.sites(model)
    chosen = every
    if select is not None:
        chosen = tuple(every[i] for i in selectors.select(select, every))
        if not chosen:
            raise RuleError(
                f"select={selectors.label(select)!r} selects no weight. Nearest: "
                f"{', '.join(selectors.nearest(select, every))}."
            )
    states = frozenset(id(site.weight) for site in every if _is_state(site))
    trained = np.array([id(site.weight) not in states for site in chosen])
    members: dict[str, list[int]] = {}
    for i, site in enumerate(chosen):
        name = site.path if per_weight else site.layer_path
        if not (per_weight or trained[i]):
            name += " (non-trainable)"
        members.setdefault(name, []).append(i)
    rows = tuple(
        Row(
            name=name,
            trainable=bool(trained[positions[0]]),
            frozen=False,  # known at the first record
            parameters=sum(int(np.prod(chosen[i].weight.shape)) for i in positions),
        )
        for name, positions in members.items()
    )
    groups = np.empty(len(chosen), np.intp)
    for row, positions in enumerate(members.values()):
        groups[positions] = row
    return View(
        sites=chosen,
        every=every,
        watched=Watched([site.weight for site in chosen]),
        rows=rows,
        groups=groups,
        trained=trained,
        states=states,
        signature=_signature(model),
    )


def _frozen(model: Any, view: View) -> Mask:
    """Which of the weights are meant to stay, by ``trainable`` or by a rule.

    State is meant to where its layer is: where all that the layer could train
    is frozen.
    """
    by_rule: set[str] = set()
    for optimizer in layerwise_optimizers(getattr(model, "optimizer", None)):
        if optimizer.built:
            by_rule |= {entry.path for entry in optimizer.assignments if entry.frozen}
    weights: dict[int, bool] = {}
    layers: dict[int, bool] = {}
    for site in view.every:
        key, layer = id(site.weight), id(site.layer)
        if key not in view.states:
            weights[key] = not site.weight.trainable or site.path in by_rule
            layers[layer] = layers.get(layer, True) and weights[key]
    for site in view.sites:
        if id(site.weight) in view.states:
            weights[id(site.weight)] = not site.layer.trainable or layers.get(id(site.layer), False)
    return np.array([weights[id(site.weight)] for site in view.sites], dtype=bool)


class Tracker:
    """Follows the weights of a model.

    Args:
        model: the model.
        view: what is watched of it; `select` and `per_weight` made it.
        reference: what the weights are compared with.
        statistics: names from `keras_layerwise.storage.schema.STATISTICS`.
        moving: whether the reference becomes the weights at each record.
        select: see `look`.
        per_weight: see `look`.
    """

    def __init__(
        self,
        model: Any,
        view: View,
        reference: Reference,
        statistics: Sequence[str],
        *,
        moving: bool = False,
        select: Any = None,
        per_weight: bool = False,
    ) -> None:
        self.view = view
        self.reference = reference
        self._model = model
        self._statistics = tuple(statistics)
        self._moving = moving
        self._select, self._per_weight = select, per_weight
        separate = "update_ratio" in self._statistics and not moving
        self._previous = Reference.taken(view.watched) if separate else None
        self._sums = reference.measure(view.watched)
        # Asked at a record, because an optimizer may not know its weights before the first step.
        self._frozen: Mask | None = None
        self._moved = np.zeros(len(view.sites), bool)

    def record(self, step: int) -> Record:
        """Compares the weights as they are now."""
        self._renew()
        view = self.view
        sums = self.reference.measure(view.watched)
        rows = [self._rows(sums), self._rows(self.reference.own)]
        if self._previous is not None:
            rows += [
                self._rows(self._previous.measure(view.watched)),
                self._rows(self._previous.own),
            ]
            self._previous.advance(view.watched, sums)
        elif self._moving:
            rows *= 2
        frozen = _frozen(self._model, view)
        if self._frozen is None:
            self._frozen = frozen
            view = self.view = _with_frozen(view, frozen)
        # Sums are added in one order always: those of the same values are the same.
        changed = (
            sums[:, measures.LARGEST] != 0 if self._moving else (sums != self._sums).any(axis=1)
        )
        nonfinite = sums[:, measures.NONFINITE]
        trained = np.array([row.trainable for row in view.rows])
        trained = trained if trained.any() else ~trained
        together = np.zeros(int(trained.sum()), np.intp)
        whole = self._statistics_of([measures.merge(table[trained], together, 1) for table in rows])
        record = Record(
            step=step,
            rows=view.rows,
            values=self._statistics_of(rows),
            whole={name: float(values[0]) for name, values in whole.items()},
            alarms=(
                *self._moved_though_frozen(changed & frozen & self._frozen, step),
                *self._not_finite(nonfinite, step),
            ),
            nonfinite=tuple(view.sites[i].path for i in np.flatnonzero(nonfinite)),
        )
        self._moved |= changed
        self._frozen, self._sums = frozen, sums
        if self._moving:
            self.reference.advance(view.watched, sums)
        return record

    def still(self, step: int) -> tuple[Alarm, ...]:
        """Rows that are trained and have not moved at any record."""
        if self._frozen is None:
            return ()
        free = self.view.trained & ~self._frozen
        return tuple(
            Alarm(
                "trainable_still",
                row.name,
                f"Layer {row.name!r} is trainable and has not moved up to step {step}.",
            )
            for i, row in enumerate(self.view.rows)
            if (mine := free & (self.view.groups == i)).any() and not self._moved[mine].any()
        )

    def _rows(self, sums: Sums) -> Sums:
        return measures.merge(sums, self.view.groups, len(self.view.rows))

    def _statistics_of(self, tables: list[Sums]) -> dict[str, npt.NDArray[np.float64]]:
        sums, own, *updates = tables
        both = (updates[0], updates[1]) if updates else None
        return measures.statistics(sums, own, self._statistics, both)

    def _renew(self) -> None:
        """Follows the model where it has other weights than before."""
        old = self.view
        if old.signature == _signature(self._model):
            return
        new = look(self._model, self._select, self._per_weight)
        if new is None:
            return
        self.reference = self.reference.extended(old.watched, new.watched)
        if self._previous is not None:
            self._previous = self._previous.extended(old.watched, new.watched)
        place = {id(site.weight): i for i, site in enumerate(old.sites)}
        known = [place.get(id(site.weight)) for site in new.sites]
        sums = self.reference.measure(new.watched)
        moved = np.zeros(len(new.sites), bool)
        for i, before in enumerate(known):
            if before is not None:
                sums[i], moved[i] = self._sums[before], self._moved[before]
        self._sums, self._moved = sums, moved
        self._frozen = None
        self.view = new

    def _moved_though_frozen(self, which: Mask, step: int) -> list[Alarm]:
        rows = dict.fromkeys(self.view.groups[which].tolist())
        return [
            Alarm(
                "frozen_moved",
                self.view.rows[i].name,
                f"Layer {self.view.rows[i].name!r} is frozen and has moved, at step {step}.",
            )
            for i in rows
        ]

    def _not_finite(self, counts: npt.NDArray[np.float64], step: int) -> list[Alarm]:
        found: dict[str, Alarm] = {}
        for i in np.flatnonzero(counts):
            row = self.view.rows[self.view.groups[i]].name
            message = (
                f"{counts[i]:.0f} elements of {self.view.sites[i].path!r} in layer {row!r} are not "
                f"finite, at step {step}."
            )
            found.setdefault(row, Alarm("nonfinite", row, message))
        return list(found.values())


def _with_frozen(view: View, frozen: Mask) -> View:
    rows = tuple(
        replace(row, frozen=bool(frozen[view.groups == i].all())) for i, row in enumerate(view.rows)
    )
    return replace(view, rows=rows)


def _signature(model: Any) -> tuple[int, ...]:
    return tuple(id(weight) for weight in model.weights)


def _is_state(site: Site) -> bool:
    return any(site.weight is weight for weight in site.layer._non_trainable_variables)
