"""What is watched of a model: its weights, the rows that they are shown as, what is frozen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_layerwise.backend import internals
from keras_layerwise.backend.arrays import Watched
from keras_layerwise.drift.alarms import Group
from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors, structure
from keras_layerwise.model.structure import Site

Mask = npt.NDArray[np.bool_]

STATE = " (non-trainable)"
"""Ends the name of a row of weights that are never trained, such as moving averages."""


@dataclass(frozen=True)
class View:
    """What is watched of a model, and the rows that it is shown as.

    Attributes:
        sites: the watched weights.
        every: all weights of the model.
        watched: the watched weights, to be read.
        rows: what a record has a value for.
        groups: for each watched weight, its row.
        blocks: the parts of the outline, their state apart; empty where the
            model has no outline.
        members: for each watched weight, its block.
        trained: for each, whether its layer trains it; False for state, such
            as moving averages.
        states: the weights of the model, by id, that are state.
        signature: ids of the model's weights; another value means that the set
            of weights changed.
    """

    sites: tuple[Site, ...]
    every: tuple[Site, ...]
    watched: Watched
    rows: tuple[Group, ...]
    groups: npt.NDArray[np.intp]
    blocks: tuple[Group, ...]
    members: npt.NDArray[np.intp]
    trained: Mask
    states: frozenset[int]
    signature: tuple[int, ...]


def look(
    model: Any,
    select: Any = None,
    per_weight: bool = False,
    parts: Mapping[int, str] | None = None,
) -> View | None:
    """Tells what there is to watch, ``None`` before the model has weights.

    Args:
        model: the model.
        select: which weights; all where ``None``.
        per_weight: a row for each weight rather than for each layer.
        parts: for weights, by id, the key of their part in the outline.

    Raises:
        RuleError: where `select` picks nothing.
    """
    # A model with a `train_step` of its own may never be built, only its parts.
    if not model.weights:
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
    states = frozenset(
        id(site.weight) for site in every if internals.is_state(site.layer, site.weight)
    )
    trained = np.array([id(site.weight) not in states for site in chosen])
    keys = [(parts or {}).get(id(site.weight), "") for site in chosen]
    suffixes = ["" if free else STATE for free in trained]
    names = [
        site.path if per_weight else site.layer_path + suffix
        for site, suffix in zip(chosen, suffixes, strict=True)
    ]
    rows, groups = _grouped(names, chosen, trained, keys)
    blocks: tuple[Group, ...] = ()
    members = np.zeros(len(chosen), np.intp)
    if any(keys):
        named = [
            (key or "(elsewhere)") + suffix for key, suffix in zip(keys, suffixes, strict=True)
        ]
        blocks, members = _grouped(named, chosen, trained, keys)
        blocks = tuple(replace(block, kind="") for block in blocks)
    return View(
        sites=chosen,
        every=every,
        watched=Watched([site.weight for site in chosen]),
        rows=rows,
        groups=groups,
        blocks=blocks,
        members=members,
        trained=trained,
        states=states,
        signature=signature(model),
    )


def _grouped(
    names: Sequence[str], chosen: Sequence[Site], trained: Mask, keys: Sequence[str]
) -> tuple[tuple[Group, ...], npt.NDArray[np.intp]]:
    """Gives the groups that the names make, in order, and for each weight its group."""
    members: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
    groups = np.empty(len(chosen), np.intp)
    for group, positions in enumerate(members.values()):
        groups[positions] = group
    return tuple(
        Group(
            name=name,
            trainable=bool(trained[positions[0]]),
            frozen=False,  # known at the first record
            parameters=sum(int(np.prod(chosen[i].weight.shape)) for i in positions),
            part=keys[positions[0]],
            kind=type(chosen[positions[0]].layer).__name__,
        )
        for name, positions in members.items()
    ), groups


def frozen_weights(model: Any, view: View, by_rule: Iterable[str]) -> Mask:
    """Tells which of the weights are meant to stay, by ``trainable`` or by a rule.

    State is meant to where its layer is: where all that the layer could train
    is frozen.
    """
    named = set(by_rule)
    weights: dict[int, bool] = {}
    layers: dict[int, bool] = {}
    for site in view.every:
        key, layer = id(site.weight), id(site.layer)
        if key not in view.states:
            weights[key] = not site.weight.trainable or site.path in named
            layers[layer] = layers.get(layer, True) and weights[key]
    for site in view.sites:
        if id(site.weight) in view.states:
            weights[id(site.weight)] = not site.layer.trainable or layers.get(id(site.layer), False)
    return np.array([weights[id(site.weight)] for site in view.sites], dtype=bool)


def with_frozen(view: View, frozen: Mask) -> View:
    """Gives the view with rows that say what is frozen; the same one where they say so already."""

    def renewed(rows: tuple[Group, ...], groups: npt.NDArray[np.intp]) -> tuple[Group, ...]:
        free = np.bincount(groups[~frozen], minlength=len(rows)) > 0
        if all(row.frozen != moves for row, moves in zip(rows, free, strict=True)):
            return rows
        return tuple(replace(row, frozen=not moves) for row, moves in zip(rows, free, strict=True))

    rows = renewed(view.rows, view.groups)
    blocks = renewed(view.blocks, view.members) if view.blocks else ()
    if rows is view.rows and blocks is view.blocks:
        return view
    return replace(view, rows=rows, blocks=blocks)


def signature(model: Any) -> tuple[int, ...]:
    """Gives the ids of the weights of `model`."""
    return tuple(id(weight) for weight in model.weights)
