"""What holds for each weight now, for people: assignments and the table of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_layerwise.backend import keras_optimizers
from keras_layerwise.optimizer.plan import Plan
from keras_layerwise.optimizer.rules import Schedule
from keras_layerwise.optimizer.setting import Setting, number
from keras_layerwise.tables import number as as_text
from keras_layerwise.tables import render


@dataclass(frozen=True)
class Assignment:
    """What holds for one trainable weight now.

    Attributes:
        path: the weight's path, unique in its model.
        layer: path of the layer that owns it.
        rule: the selectors of the rules that it follows, as text, joined by
            `` | ``; None without one.
        multiplier: factor on the inner optimizer's rate at this step; None
            where the weight has its own rate.
        learning_rate: the rate that its next update uses; 0.0 where frozen.
        weight_decay: λ of its next update; None where nothing decays it.
        frozen: whether it is left out by a rule.
        parameters: number of its elements.
    """

    path: str
    layer: str
    rule: str | None
    multiplier: float | None
    learning_rate: float
    weight_decay: float | None
    frozen: bool
    parameters: int


def assignments(plan: Plan, optimizer: Any, positions: Iterable[int]) -> tuple[Assignment, ...]:
    """Tells what holds for the weights at `positions`.

    Args:
        plan: the plan.
        optimizer: the inner optimizer.
        positions: in the plan.
    """
    rate = number(optimizer.learning_rate)
    step = keras_optimizers.step_counter(optimizer)

    def now(value: Any) -> float:
        return number(value(step)) if isinstance(value, Schedule) else float(value)

    found = []
    for position in positions:
        setting = plan.settings[position]
        rule = setting.rule
        multiplier = 1.0 if rule.multiplier is None else now(rule.multiplier)
        own_rate = None if rule.learning_rate is None else now(rule.learning_rate)
        decays = keras_optimizers.uses_decay(optimizer, plan.weights[position])
        decay = rule.weight_decay
        if decay is None:
            decay = keras_optimizers.decay_by_default(optimizer, plan.weights[position])
        effective = rate * multiplier if own_rate is None else own_rate
        found.append(
            Assignment(
                path=setting.path,
                layer=setting.layer,
                rule=setting.label,
                multiplier=multiplier if own_rate is None else None,
                learning_rate=0.0 if setting.frozen else effective,
                weight_decay=decay if decays else None,
                frozen=setting.frozen,
                parameters=int(np.prod(setting.shape)),
            )
        )
    return tuple(found)


def _decay(entry: Assignment, setting: Setting) -> str:
    text = as_text(entry.weight_decay)
    pulls = setting.rule.decay_to and entry.weight_decay is not None
    return f"{text} to {setting.rule.decay_to}" if pulls else text


def table(
    name: str, plan: Plan, optimizer: Any, size_of: Callable[[int], int], per_weight: bool
) -> str:
    """Gives the table of ``LayerwiseOptimizer.summary``.

    Args:
        name: of the optimizer.
        plan: the plan.
        optimizer: the inner optimizer.
        size_of: how many elements the slots of the weight at a position hold.
        per_weight: a row for each weight instead of each layer.
    """
    trained = {position for position, _ in plan.trained_settings()}
    shown = [
        i
        for i, setting in enumerate(plan.settings)
        if i in trained or setting.label is not None or size_of(i)
    ]
    active = set(plan.active)
    idle = {i: size_of(i) for i in shown if i not in active and size_of(i)}
    groups: dict[str, list[tuple[int, Assignment]]] = {}
    for position, entry in zip(shown, assignments(plan, optimizer, shown), strict=True):
        groups.setdefault(entry.path if per_weight else entry.layer, []).append((position, entry))
    rows = []
    for key, members in groups.items():
        entries = [entry for _, entry in members]
        rows.append(
            (
                key,
                f"{sum(entry.parameters for entry in entries):,}",
                _each(rule for entry in entries for rule in (entry.rule or "-").split(" | ")),
                _each("own" if e.multiplier is None else as_text(e.multiplier) for e in entries),
                _each(as_text(entry.learning_rate) for entry in entries),
                _each(_decay(entry, plan.settings[position]) for position, entry in members),
                _each(_frozen(entry, position in trained) for position, entry in members),
                *([f"{sum(idle.get(position, 0) for position, _ in members):,}"] if idle else []),
            )
        )
    columns = (
        "Weight" if per_weight else "Layer",
        "#Parameters",
        "Rule",
        "#Multiplier",
        "#Rate",
        "#Decay",
        "Frozen",
        *(["#Idle slots"] if idle else []),
    )
    every = [(i, int(np.prod(plan.settings[i].shape))) for i in trained]
    lines = [
        render(f'Optimizer: "{name}"', columns, rows),
        f" Trained parameters: {sum(size for i, size in every if i in active):,}",
        f" Frozen parameters: {sum(size for i, size in every if i not in active):,}",
    ]
    if idle:
        held = sum(idle.values())
        lines.append(f" Slots of weights that do not train now: {held:,} (see drop_slots)")
    return "\n".join(lines)


def _frozen(entry: Assignment, is_trained: bool) -> str:
    return "not trainable" if not is_trained else "yes" if entry.frozen else "no"


def _each(values: Iterable[str]) -> str:
    """Gives the distinct values of a layer's weights, in order."""
    return " / ".join(dict.fromkeys(values))
