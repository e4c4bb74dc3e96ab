"""Rules, and what they come to for each weight of a model."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors
from keras_layerwise.model.structure import Site

Schedule = keras.optimizers.schedules.LearningRateSchedule

# What a float32, which rates are computed in, can hold.
_LARGEST = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a rule changes for the weights that it selects.

    Let η(t) be the inner optimizer's learning rate at step t.

    Args:
        multiplier: the weight is updated as the inner optimizer would at rate
            multiplier·η(t); a number ≥ 0 or a ``LearningRateSchedule`` of the
            step. Not with `learning_rate`.
        learning_rate: the weight's own rate, whatever η(t) does; a number ≥ 0
            or a ``LearningRateSchedule``. Not with `multiplier`.
        weight_decay: λ in w ← w − η_w·λ·w, a number ≥ 0; the inner
            optimizer's where it is None. What the inner optimizer excludes
            from decay stays excluded.
        frozen: the weight is left out of the optimizer: no update, no decay,
            no slots, no average, no share in the global norm for clipping.
            The other settings count from the moment it is unfrozen.

    Raises:
        RuleError: for a number that is negative, NaN or infinite, or for both
            `multiplier` and `learning_rate`.
        TypeError: for any other type.

    Example:

    >>> Rule(multiplier=0.1, weight_decay=0.0)
    Rule(multiplier=0.1, learning_rate=None, weight_decay=0.0, frozen=False)
    """

    multiplier: Any = None
    learning_rate: Any = None
    weight_decay: float | None = None
    frozen: bool = False

    def __post_init__(self) -> None:
        if self.multiplier is not None and self.learning_rate is not None:
            raise RuleError(
                f"A rule takes `multiplier` or `learning_rate`, not both; received multiplier="
                f"{self.multiplier!r} and learning_rate={self.learning_rate!r}. Give the one that "
                "should hold: a factor on the inner optimizer's rate, or a rate of its own."
            )
        for name in ("multiplier", "learning_rate", "weight_decay"):
            value = getattr(self, name)
            takes_schedule = name != "weight_decay"
            if value is None or (takes_schedule and isinstance(value, Schedule)):
                continue
            object.__setattr__(self, name, check_number(name, value, takes_schedule))
        if not isinstance(self.frozen, bool):
            raise TypeError(f"`frozen` is True or False; received {self.frozen!r}.")


def check_number(name: str, value: Any, takes_schedule: bool = False) -> float:
    """Returns `value` as a float, or says why it can not be the setting `name`."""
    schedule = " or a LearningRateSchedule" if takes_schedule else ""
    number = _as_float(value)
    if number is None:
        raise TypeError(f"`{name}` is a number{schedule}; received {value!r}.")
    if not 0 <= number <= _LARGEST:
        raise RuleError(
            f"`{name}` must be finite and not negative; received {value!r}. "
            "To leave a weight out of training use Rule(frozen=True)."
        )
    return number


def _as_float(value: Any) -> float | None:
    if isinstance(value, (bool, str, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Assignment:
    """What holds for one trainable weight now.

    Attributes:
        path: the weight's path, unique in its model.
        layer: path of the layer that owns it.
        rule: the selector of the rule that took it, as text; None without one.
        multiplier: factor on the inner optimizer's rate at this step; None
            where the weight has its own rate.
        learning_rate: the rate that its next update uses; 0.0 where frozen.
        weight_decay: λ of its next update; None where nothing decays it.
        frozen: whether it is left out.
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


@dataclass(frozen=True)
class Setting:
    """What is kept for one weight, in the order of the optimizer's weights.

    Attributes:
        path: see `Assignment`.
        layer: see `Assignment`.
        name: the weight's own name, which a reload does not change.
        shape: of the weight.
        label: see `Assignment.rule`.
        rule: the settings themselves.
        has_slots: whether the inner optimizer holds state for the weight.
        first_step: ``iterations`` when its slots were made; 0 but for weights
            that were unfrozen in mid-run.
    """

    path: str
    layer: str
    name: str
    shape: tuple[int, ...]
    label: str | None
    rule: Rule
    has_slots: bool = False
    first_step: int = 0

    def to_json(self) -> dict[str, Any]:
        """The setting as plain values."""
        return {**vars(self), "shape": list(self.shape), "rule": rule_to_json(self.rule)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Setting":
        """Reads `to_json` back.

        Raises:
            RuleError: for anything else.
        """
        try:
            return cls(
                path=str(data["path"]),
                layer=str(data["layer"]),
                name=str(data["name"]),
                shape=tuple(int(size) for size in data["shape"]),
                label=None if data["label"] is None else str(data["label"]),
                rule=rule_from_json(data["rule"]),
                has_slots=bool(data["has_slots"]),
                first_step=int(data["first_step"]),
            )
        except Exception as error:  # of a schedule's constructor, too
            raise RuleError(f"Not a stored assignment: {data!r:.300}. ({error})") from error


def settings_to_text(settings: Sequence[Setting]) -> str:
    """Settings as JSON."""
    return json.dumps([setting.to_json() for setting in settings])


def settings_from_text(text: str) -> list[Setting]:
    """Reads `settings_to_text` back.

    Raises:
        RuleError: for anything else.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RuleError(f"Not a stored assignment: {text!r:.300}. ({error})") from error
    if not isinstance(data, list):
        raise RuleError(f"Not a stored assignment: {text!r:.300}. Expected a JSON list.")
    return [Setting.from_json(item) for item in data]


def as_rules(rules: Any) -> dict[Any, Rule]:
    """Checks what a user gave as rules, and writes bare numbers out as `Rule`.

    Raises:
        TypeError: where a key is no selector or a value no rule.
        RuleError: where a number is out of range.
    """
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"`rules` is a dict {{selector: Rule or number}}; received {rules!r:.200}. "
            f"A selector is {selectors.ACCEPTED}."
        )
    checked = {}
    for selector, rule in rules.items():
        selectors.check_type(selector)
        if not isinstance(rule, Rule):
            if _as_float(rule) is None:
                raise TypeError(
                    f"The rule for {selectors.label(selector)!r} is {rule!r:.200}; accepted: a "
                    "number (a multiplier) or keras_layerwise.Rule(...)."
                )
            rule = Rule(multiplier=rule)
        checked[selector] = rule
    return checked


def resolve(
    asked: Iterable[Any], sites: Sequence[Site], trainable: Sequence[int]
) -> dict[int, Any]:
    """Finds for each trainable weight the first selector that picks it.

    Args:
        asked: the selectors of the rules, in their order.
        sites: every weight that is known, trainable or not.
        trainable: positions in `sites` of the weights that are trained.

    Returns:
        The selector that won, for each position in `trainable` that has one.

    Raises:
        RuleError: for a rule that selects nothing, nothing trainable, or
            nothing that an earlier rule has not taken.
    """
    winners: dict[int, Any] = {}
    may_train = set(trainable)
    for selector in asked:
        picked = selectors.select(selector, sites)
        if not picked:
            raise RuleError(_nothing(selector, sites))
        wanted = [position for position in picked if position in may_train]
        if not wanted:
            raise RuleError(
                f"The rule {selectors.label(selector)!r} selects only weights that are not "
                f"trainable: {_some(sites[p].path for p in picked)}. Remove the rule, or make "
                "the layer trainable before the model is compiled."
            )
        free = [position for position in wanted if position not in winners]
        if not free:
            in_the_way = dict.fromkeys(selectors.label(winners[p]) for p in wanted)
            raise RuleError(
                f"The rule {selectors.label(selector)!r} has no effect: all that it selects is "
                f"taken by {_some(in_the_way)}, which comes earlier, and the first rule that "
                "selects a weight wins. Put the narrower rule first, or remove this one."
            )
        winners.update(dict.fromkeys(free, selector))
    return winners


def _nothing(selector: Any, sites: Sequence[Site]) -> str:
    text = selectors.label(selector)
    if selectors.is_layer(selector):
        why = (
            "has no weights yet; build the model first"
            if not selector.weights
            else "is not part of this model"
        )
        return f"The rule for {text!r} selects nothing: that layer {why}."
    near = _some(selectors.nearest(selector, sites))
    return f"The rule {text!r} selects nothing. The nearest of what this model has: {near}."


def _some(items: Any, limit: int = 4) -> str:
    items = [repr(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def check_fit(stored: Sequence[Setting], found: Sequence[Setting]) -> None:
    """Raises a `RuleError` unless `stored` was made for weights like `found`."""
    if len(stored) != len(found):
        raise RuleError(
            f"The stored assignment is for {len(stored)} trainable weights, this model has "
            f"{len(found)}. Load it into the model that it was saved with, with the same layers "
            "trainable."
        )
    for position, (old, new) in enumerate(zip(stored, found, strict=True)):
        if old.name != new.name or old.shape != new.shape:
            raise RuleError(
                f"The stored assignment does not fit this model: weight {position} was "
                f"{old.path!r} with shape {old.shape}, and is {new.path!r} with shape {new.shape}."
                " Load it into the model that it was saved with, or give new rules."
            )


def relocated(stored: Setting, found: Setting) -> Setting:
    """The stored setting under the paths that its weight has now."""
    return replace(stored, path=found.path, layer=found.layer)


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """A rule as plain values."""
    return {
        "multiplier": _value_to_json(rule.multiplier),
        "learning_rate": _value_to_json(rule.learning_rate),
        "weight_decay": rule.weight_decay,
        "frozen": rule.frozen,
    }


def rule_from_json(data: Mapping[str, Any]) -> Rule:
    """Reads `rule_to_json` back; no code but a registered schedule's runs."""
    return Rule(
        multiplier=_value_from_json(data["multiplier"]),
        learning_rate=_value_from_json(data["learning_rate"]),
        weight_decay=data["weight_decay"],
        frozen=data["frozen"],
    )


def _value_to_json(value: Any) -> Any:
    if isinstance(value, Schedule):
        return keras.saving.serialize_keras_object(value)
    return value


def _value_from_json(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    name, module = value.get("class_name"), value.get("module")
    found = keras.saving.get_registered_object(value.get("registered_name"))
    if found is None and module == "keras.optimizers.schedules":
        found = getattr(keras.optimizers.schedules, str(name), None)
    # Keras would import whatever module a config names.
    if not (isinstance(found, type) and issubclass(found, Schedule)):
        raise RuleError(
            f"The stored schedule {name!r} of {module!r} is neither Keras's nor registered. "
            "Register its class with keras.saving.register_keras_serializable before loading."
        )
    schedule: type[Any] = found
    return schedule.from_config(dict(value["config"]))


def entry_to_json(selector: Any, rule: Rule) -> dict[str, Any]:
    """A rule whose weights are not known yet, as plain values."""
    entry: dict[str, Any] = {"rule": rule_to_json(rule)}
    if isinstance(selector, str):
        return {**entry, "name": selector}
    if hasattr(selector, "fullmatch"):
        return {**entry, "pattern": selector.pattern, "flags": selector.flags}
    if selectors.is_layer(selector):
        return {**entry, "name": selector.name}
    raise RuleError(
        f"The rule for {selectors.label(selector)!r} cannot be stored before the model's weights "
        "are known. Build the model first."
    )


def entry_from_json(entry: Any) -> tuple[Any, Rule]:
    """Reads `entry_to_json` back."""
    try:
        rule = rule_from_json(entry["rule"])
        if "pattern" in entry:
            return re.compile(entry["pattern"], entry["flags"]), rule
        if isinstance(entry["name"], str):
            return entry["name"], rule
        raise TypeError("a layer's name is text")
    except Exception as error:
        raise RuleError(f"Not a stored rule: {entry!r:.300}. ({error})") from error
