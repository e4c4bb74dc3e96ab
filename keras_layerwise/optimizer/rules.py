"""Rules, and what they come to for each weight of a model."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import keras

from keras_layerwise.backend.internals import is_state
from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors
from keras_layerwise.model.structure import Site

Schedule = keras.optimizers.schedules.LearningRateSchedule

# What a float32, which rates are computed in, can hold.
_LARGEST = (2 - 2**-23) * 2.0**127
_SMALLEST = 2.0**-126  # what is smaller, processors flush to zero


INITIAL = "initial"

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
        decay_to: ``"initial"``: the decay pulls towards w₀, the weight when the
            optimizer was built (or when it joined): w ← w − η_w·λ·(w − w₀),
            decoupled L2-SP (Li et al. 2018, arXiv 1802.01483). λ is
            `weight_decay`, or the inner optimizer's.
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
        if self.decay_to not in (None, INITIAL):
            raise RuleError(
                f'`decay_to` is "initial", or None to decay towards 0; received {self.decay_to!r}.'
            )
        if self.frozen is not None and not isinstance(self.frozen, bool):
            raise TypeError(f"`frozen` is True, False or None; received {self.frozen!r}.")

    def says(self) -> list[str]:
        """Gives the settings that this rule says something about."""
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


Problems = Literal["raise", "warn", "ignore"]


class Resolved(NamedTuple):
    """What rules come to for one weight."""

    rule: Rule
    label: str | None


def resolve(
    rules: Rules,
    sites: Sequence[Site],
    may_train: Iterable[int],
    *,
    problems: Problems = "raise",
) -> dict[int, Resolved]:
    """Finds for each weight the first rule that says something about each setting.

    Args:
        rules: in their order.
        sites: every weight that is known.
        may_train: positions in `sites` of the weights that can ever train.
        problems: what becomes of a rule without effect. One that held before,
            for other weights, is worth a warning.

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
                f"{some(sites[p].path for p in picked)}. Remove the rule."
            )
        elif not has_effect and rules.presets[index] is None:
            problem = _covered(index, rules, [taken[position] for position in wanted])
        if problem and problems == "raise":
            raise RuleError(problem)
        if problem and problems == "warn":
            warnings.warn(problem, stacklevel=2)
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
        f"{' and '.join(rule.says())} is taken by {some(in_the_way)}, which comes earlier, and "
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
    """Gives the positions of the weights that train, or would if their layer were trainable."""
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
    if selectors.is_part(selector):
        why = (
            "is of another model; take the outline of the model that is trained"
            if selector.weights
            else "has no weights in it; print the outline to see which parts have any"
        )
        return f"The rule for {text!r} selects nothing: that part {why}."
    if isinstance(selector, (list, tuple)) and not selector:
        return (
            f"The rule for {selector!r} selects nothing: it is empty, as a slice of an outline's "
            "blocks past their end is. Print the outline to see how many blocks there are."
        )
    near = some(selectors.nearest(selector, sites))
    return f"The rule {text!r} selects nothing. The nearest of what this model has: {near}."


def some(items: Any, limit: int = 4) -> str:
    """Gives up to `limit` of `items`, for a message."""
    items = [repr(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def check_decay(path: str, rule: Rule, decay: float | None) -> None:
    """Raises a `RuleError` where the weight at `path` is to decay, and nothing says how much.

    Args:
        path: of the weight.
        rule: what holds for it.
        decay: the inner optimizer's λ for all weights.
    """
    if rule.decay_to is not None and rule.weight_decay is None and decay is None:
        raise RuleError(
            f"{path!r} is to decay to its initial value, but no weight decay is set. Give one in "
            'the rule, Rule(weight_decay=0.01, decay_to="initial"), or on the inner optimizer.'
        )


def check_rate(path: str, rule: Rule, eta: float | None, *, divides_by_rate: bool) -> None:
    """Raises a `RuleError` where the rate of the weight at `path` is none that can be used.

    Args:
        path: of the weight.
        rule: what holds for it.
        eta: the inner optimizer's rate, None where that follows a schedule.
        divides_by_rate: whether the inner optimizer divides by the rate, as Ftrl.
    """
    if divides_by_rate and not rule.frozen and 0.0 in (rule.multiplier, rule.learning_rate):
        raise RuleError(
            f"{path!r} has rate 0 under Ftrl, which divides by the rate and would "
            "make it NaN. Use Rule(frozen=True) to leave the weight out."
        )
    if eta and isinstance(rule.multiplier, float) and 0 < eta * rule.multiplier < _SMALLEST:
        raise RuleError(
            f"{path!r} has the rate {eta:g} × {rule.multiplier:g}, which is 0 in float32: it would "
            "not train and nobody would be told. Give a larger multiplier, or use "
            "Rule(frozen=True)."
        )
