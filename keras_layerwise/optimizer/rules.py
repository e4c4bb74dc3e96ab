"""Rules, and what they come to for each weight of a model."""

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras

from keras_layerwise.backend.internals import is_state
from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors
from keras_layerwise.model.structure import Site

Schedule = keras.optimizers.schedules.LearningRateSchedule

# What a float32, which rates are computed in, can hold.
_LARGEST = (2 - 2**-23) * 2.0**127
_SMALLEST = 2.0**-126  # what is smaller, processors flush to zero


# The settings of a rule: a weight takes each from the first rule that says something about it.
_SETTINGS = {
    "rate": ("multiplier", "learning_rate"),
    "decay": ("weight_decay", "decay_to"),
    "frozen": ("frozen",),
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """States what holds for the weights that a selector picks; None says nothing.

    Let η(t) be the inner optimizer's learning rate at step t. A rule has three
    settings: the rate (`multiplier` or `learning_rate`), the decay
    (`weight_decay` and `decay_to`) and `frozen`. A weight takes each from the
    first rule, in order, that selects it and says something about it.

    Args:
        multiplier: the weight is updated as the inner optimizer would at rate
            multiplier·η(t); a number ≥ 0 or a ``LearningRateSchedule`` of the
            step. Not with `learning_rate`.
        learning_rate: the weight's own rate, whatever η(t) does; a number ≥ 0
            or a ``LearningRateSchedule``. Not with `multiplier`.
        weight_decay: λ in w ← w − η_w·λ·w, a number ≥ 0; the inner
            optimizer's where it is None. What the inner optimizer excludes
            from decay stays excluded.
        decay_to: not available yet, so None.
        frozen: with True the weight is left out of the optimizer: no update,
            no decay, no slots, no average, no share in the global norm for
            clipping. The other settings count from the moment it is unfrozen.
            With False it trains, whatever later rules say.

    Raises:
        RuleError: for a number that is negative, NaN or infinite, a rate that
            float32 makes zero, or for both `multiplier` and `learning_rate`.
        TypeError: for any other type.

    Example:

    >>> Rule(multiplier=0.1, weight_decay=0.0)
    Rule(multiplier=0.1, learning_rate=None, weight_decay=0.0, decay_to=None, frozen=None)
    """

    multiplier: Any = None
    learning_rate: Any = None
    weight_decay: float | None = None
    decay_to: str | None = None
    frozen: bool | None = None

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
        if self.decay_to is not None:
            raise RuleError(f"`decay_to` is not available yet; received {self.decay_to!r}.")
        if self.frozen is not None and not isinstance(self.frozen, bool):
            raise TypeError(f"`frozen` is True, False or None; received {self.frozen!r}.")

    def says(self) -> list[str]:
        """The settings that this rule says something about."""
        return [
            setting
            for setting, names in _SETTINGS.items()
            if any(getattr(self, name) is not None for name in names)
        ]


class Rules:
    """(selector, rule) pairs in order, as presets return them; ``a | b`` keeps both.

    Iterating gives the pairs. On either side of ``|`` may be a dict
    ``{selector: Rule or multiplier}``.

    Args:
        pairs: (selector, `Rule` or multiplier) pairs, or such a dict.
        preset: name of the function that made them. Rules of a preset may be
            covered by others; a rule that a user wrote is an error if all
            that it says is said by earlier ones.

    Raises:
        TypeError: where a selector is none, or a value no rule.
        RuleError: where a number is out of range.

    Example:

    >>> rules = Rules({"*/bias": Rule(weight_decay=0.0)}) | {"body": 0.1}
    >>> [(selector, rule.multiplier) for selector, rule in rules]
    [('*/bias', None), ('body', 0.1)]
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, pairs: Any = (), *, preset: str | None = None) -> None:
        if isinstance(pairs, Mapping):
            pairs = pairs.items()
        self.pairs = tuple((_checked(s), _as_rule(s, rule)) for s, rule in pairs)
        self.presets = (preset,) * len(self.pairs)

    @property
    def preset(self) -> str | None:
        """The name of the function that made all of these rules, None where none did."""
        return self.presets[0] if len(set(self.presets)) == 1 else None

    def __iter__(self) -> Iterator[tuple[Any, Rule]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and self.pairs == other.pairs

    def __repr__(self) -> str:
        inside = ", ".join(f"{selectors.label(s)!r}: {rule!r}" for s, rule in self.pairs)
        return f"Rules({{{inside}}})"

    def __or__(self, other: Any) -> "Rules":
        if not isinstance(other, (Rules, Mapping)):
            return NotImplemented
        other = as_rules(other)
        joined = Rules()
        joined.pairs = self.pairs + other.pairs
        joined.presets = self.presets + other.presets
        return joined

    def __ror__(self, other: Any) -> "Rules":
        return as_rules(other) | self if isinstance(other, Mapping) else NotImplemented


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
    if takes_schedule and 0 < number < _SMALLEST:
        raise RuleError(
            f"`{name}` {value!r} is 0 in float32, which rates are computed in: the weights would "
            "not train and nobody would be told. Give a larger one, such as `lowest` of a preset "
            "gives; to leave weights out of training use Rule(frozen=True)."
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


def as_rules(rules: Any) -> Rules:
    """Checks what a user gave as rules, and writes bare numbers out as `Rule`.

    Raises:
        TypeError: where a key is no selector or a value no rule.
        RuleError: where a number is out of range.
    """
    if rules is None:
        return Rules()
    if isinstance(rules, Rules):
        return rules
    if not isinstance(rules, Mapping):
        raise TypeError(
            "`rules` is a dict {selector: Rule or number}, or what a preset returns; received "
            f"{rules!r:.200}. A selector is {selectors.ACCEPTED}."
        )
    return Rules(rules)


def _checked(selector: Any) -> Any:
    selectors.check_type(selector)
    return selector


def _as_rule(selector: Any, rule: Any) -> Rule:
    if isinstance(rule, Rule):
        return rule
    if _as_float(rule) is None:
        raise TypeError(
            f"The rule for {selectors.label(selector)!r} is {rule!r:.200}; accepted: a "
            "number (a multiplier) or keras_layerwise.Rule(...)."
        )
    return Rule(multiplier=rule)


class Resolved(NamedTuple):
    """What rules come to for one weight."""

    rule: Rule
    label: str | None


def resolve(
    rules: Rules, sites: Sequence[Site], may_train: Iterable[int], *, again: bool = False
) -> dict[int, Resolved]:
    """Finds for each weight the first rule that says something about each setting.

    Args:
        rules: in their order.
        sites: every weight that is known.
        may_train: positions in `sites` of the weights that can ever train.
        again: whether the rules held before, for other weights; then a rule
            that has lost its effect is a warning.

    Returns:
        What holds for each position in `may_train` that a rule says something
        about.

    Raises:
        RuleError: for a rule that selects nothing, nothing that can ever
            train, or (for a rule of no preset) that says only what earlier
            rules say.
    """
    may = set(may_train)
    taken: dict[int, dict[str, int]] = {}
    for index, (selector, rule) in enumerate(rules):
        picked = selectors.select(selector, sites)
        wanted = [position for position in picked if position in may]
        has_effect = not rule.says()
        for position in wanted:
            settings = taken.setdefault(position, {})
            for setting in rule.says():
                has_effect = settings.setdefault(setting, index) == index or has_effect
        problem = None
        if not picked:
            problem = _nothing(selector, sites)
        elif not wanted:
            problem = (
                f"The rule {selectors.label(selector)!r} selects only weights that are not "
                f"trainable, whatever the layer's `trainable` is: "
                f"{_some(sites[p].path for p in picked)}. Remove the rule."
            )
        elif not has_effect and rules.presets[index] is None:
            problem = _covered(index, rules, [taken[position] for position in wanted])
        if problem and again:
            warnings.warn(problem, stacklevel=2)
        elif problem:
            raise RuleError(problem)
    return {
        position: _merged(rules, settings) for position, settings in taken.items() if settings
    }  # fmt: skip


def _covered(index: int, rules: Rules, taken: Sequence[Mapping[str, int]]) -> str:
    selector, rule = rules.pairs[index]
    in_the_way = dict.fromkeys(
        selectors.label(rules.pairs[settings[setting]][0])
        for settings in taken
        for setting in rule.says()
    )
    return (
        f"The rule {selectors.label(selector)!r} has no effect: what it says of "
        f"{' and '.join(rule.says())} is taken by {_some(in_the_way)}, which comes earlier, and "
        "the first rule that says something about a setting of a weight wins. Put the narrower "
        "rule first, or remove this one."
    )


def _merged(rules: Rules, settings: Mapping[str, int]) -> Resolved:
    values = {
        name: getattr(rules.pairs[index][1], name)
        for setting, index in settings.items()
        for name in _SETTINGS[setting]
    }
    used = dict.fromkeys(selectors.label(rules.pairs[i][0]) for i in sorted(settings.values()))
    values["frozen"] = bool(values.get("frozen"))
    return Resolved(Rule(**values), " | ".join(used))


def ever_trainable(sites: Sequence[Site]) -> list[int]:
    """The positions of the weights that train, or would if their layer were trainable."""
    return [
        i
        for i, site in enumerate(sites)
        if site.layer is None or not is_state(site.layer, site.weight)
    ]


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
