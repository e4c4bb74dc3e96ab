"""What holds for one weight, and how it is found again for the same weight."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keras import ops

from keras_layerwise.errors import RuleError
from keras_layerwise.model.structure import Site
from keras_layerwise.optimizer.rules import Resolved, Rule, Schedule, some


@dataclass(frozen=True)
class Setting:
    """What holds for one weight.

    Attributes:
        path: the weight's path, unique in its model.
        layer: path of the layer that owns it.
        name: the weight's own name, which a reload does not change.
        shape: of the weight.
        label: the selectors of the rules that it follows, as text.
        rule: the settings themselves; `frozen` is True or False.
        has_slots: whether the inner optimizer holds state for the weight.
        first_step: step at which its slots were made; 0 but for weights that
            joined in mid-run.
        bare: place and path of each layer without weights of its own to train
            that a frozen part of an outline holds beside this weight: it is
            frozen while all weights that name it are.
        asked: what the rules said when they were last resolved; None where the
            setting was loaded. `rule` differs where a user changed it since.
    """

    path: str
    layer: str
    name: str
    shape: tuple[int, ...]
    label: str | None
    rule: Rule
    has_slots: bool = False
    first_step: int = 0
    bare: tuple[tuple[int, str], ...] = ()
    asked: Rule | None = field(default=None, compare=False)

    @property
    def frozen(self) -> bool:
        """Whether the weight is left out of training."""
        return bool(self.rule.frozen)

    @property
    def is_scheduled(self) -> bool:
        """Whether the weight's rate is its own or follows a schedule of its own."""
        return self.rule.learning_rate is not None or isinstance(self.rule.multiplier, Schedule)


def rate_of(rule: Rule, learning_rate: Any, step: Any) -> Any:
    """Gives the rate under `rule` at `step`; `learning_rate` is the inner optimizer's."""
    own = rule.learning_rate
    if own is not None:
        return own(step) if isinstance(own, Schedule) else own
    if rule.multiplier is None or rule.multiplier == 1.0:
        return learning_rate
    factor = rule.multiplier(step) if isinstance(rule.multiplier, Schedule) else rule.multiplier
    return ops.multiply(learning_rate, factor)


def match(
    stored: Sequence[Setting], own: Sequence[Setting], trained: Sequence[bool]
) -> list[int | None]:
    """Finds the stored setting of each weight: by path, and else by position.

    A reload keeps paths; a model that is built again may have other automatic
    names, but then has the same weights in the same order. Version 0.1 stored
    the weights that trained only. What was stored beyond all that the model has
    is left out with a warning: the configuration of a layer that holds others
    does not say that LoRA was enabled in them.

    Returns:
        The place in `stored` for each of `own`, None for a weight that was
        not stored.

    Raises:
        RuleError: where `stored` was made for other weights.
    """
    by_path = {setting.path: i for i, setting in enumerate(stored)}
    places = [by_path.get(setting.path) for setting in own]
    fits = [i is None or _alike(stored[i], new) for i, new in zip(places, own, strict=True)]
    found = {i for i in places if i is not None}
    if all(fits) and len(found) == len(stored):
        return places
    for chosen in (range(len(own)), [i for i, flag in enumerate(trained) if flag]):
        if len(chosen) == len(stored) and all(
            _alike(stored[i], own[position]) for i, position in enumerate(chosen)
        ):
            place = {position: i for i, position in enumerate(chosen)}
            return [place.get(position) for position in range(len(own))]
    if own and (inner := _of_nested(stored, own)) is not None:
        return inner
    if own and all(fits) and len(found) == len(own) < len(stored):
        lost = [setting.path for i, setting in enumerate(stored) if i not in found]
        warnings.warn(
            f"Settings and optimizer state of {some(lost)} are left out: the model that was saved "
            "had them, this one has not. Where they are LoRA's, Keras has merged them into the "
            "kernels of the file; call enable_lora and compile to go on with LoRA.",
            stacklevel=1,  # one place for all callers: it is said once
        )
        return places
    if len(stored) != len(own):
        raise RuleError(
            f"The stored assignment is for {len(stored)} weights, this model has {len(own)} that "
            "can train. Load it into the model that it was saved with."
        )
    position, old = next((i, s) for i, s in enumerate(stored) if not _alike(s, own[i]))
    new = own[position]
    raise RuleError(
        f"The stored assignment does not fit this model: weight {position} was {old.path!r} with "
        f"shape {old.shape}, and is {new.path!r} with shape {new.shape}. Load it into the model "
        "that it was saved with, or give new rules."
    )


def _of_nested(stored: Sequence[Setting], own: Sequence[Setting]) -> list[int | None] | None:
    """Finds the settings of a model in the one that was trained, whose paths go on above it.

    Both may have been compiled with the optimizer, and are stored with it then.
    """
    by_path = {setting.path: i for i, setting in enumerate(stored)}
    above = {s.path.removesuffix(own[0].path) for s in stored if s.path.endswith("/" + own[0].path)}
    for prefix in sorted(above):
        places = [by_path.get(prefix + setting.path) for setting in own]
        if all(
            i is not None and _alike(stored[i], new) for i, new in zip(places, own, strict=True)
        ):
            return places
    return None


def _alike(one: Setting, other: Setting) -> bool:
    return one.name == other.name and one.shape == other.shape


def setting_of(site: Site, resolved: Resolved | None) -> Setting:
    """Tells what rules say of the weight at `site`."""
    rule, label = resolved or (Rule(frozen=False), None)
    return Setting(
        path=site.path,
        layer=site.layer_path,
        name=site.weight.name,
        shape=tuple(site.weight.shape),
        label=label,
        rule=rule,
        asked=rule,
    )


def merged(known: Setting | None, found: Setting) -> Setting:
    """Tells what a weight that is known keeps, where the rules say of it what they did."""
    if known is None:
        return found
    bare = tuple(dict.fromkeys((*found.bare, *known.bare)))
    kept = replace(found, has_slots=known.has_slots, first_step=known.first_step, bare=bare)
    if known.asked is None or known.asked == found.asked:
        return replace(kept, rule=known.rule, label=known.label, asked=known.asked)
    return kept


def number(value: Any) -> float:
    """Gives a value of any backend as a number."""
    return float(ops.convert_to_numpy(value))
