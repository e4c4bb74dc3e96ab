"""A plan and an optimizer's state as what files hold: config, HDF5, ``tf.train.Checkpoint``."""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors
from keras_layerwise.optimizer.plan import Plan
from keras_layerwise.optimizer.rules import Rule, Rules, Schedule, some
from keras_layerwise.optimizer.setting import Setting
from keras_layerwise.optimizer.slots import INITIAL

ASSIGNMENT = "assignment"
_INITIAL = INITIAL.strip("_")


# A plan.


def plan_to_config(plan: Plan) -> dict[str, Any]:
    """Tells what holds for each weight, and the rules for weights that may join, as plain values.

    Raises:
        RuleError: where the weights are not known, and a rule cannot be
            written as text.
    """
    if not plan.settings:
        return {"rules": [entry_to_json(selector, rule) for selector, rule in plan.rules]}
    entries = [
        entry_to_json(selector, rule) for selector, rule in plan.rules if _is_text(selector)
    ]  # fmt: skip
    trained = set(plan.trained)
    config = {
        ASSIGNMENT: [
            {**setting_to_json(setting), "trained": position in trained}
            for position, setting in enumerate(of_model(plan))
        ]
    }
    return {**config, "rules": entries} if entries else config


def plan_from_config(config: Mapping[str, Any]) -> tuple[Rules, list[Setting]]:
    """Reads `plan_to_config` back: the rules, and the settings that wait for their weights.

    Raises:
        RuleError: for anything else.
    """
    entries, items = (config.get(name, ()) for name in ("rules", ASSIGNMENT))
    for found in (entries, items):
        if not isinstance(found, (list, tuple)):
            raise RuleError(f"Not stored rules: {found!r:.300}. Expected a list.")
    rules = Rules(entry_from_json(entry) for entry in entries)
    return rules, [setting_from_json(item) for item in items]


def of_model(plan: Plan) -> list[Setting]:
    """Gives the settings of the weights that the model has; those that left it are in no file."""
    return plan.settings[: len(plan.settings) - plan.left]


# State.


def save(plan: Plan, state: Mapping[str, Any], store: Any) -> None:
    """Stores a plan, and its optimizer's variables under their names."""
    kept = len(of_model(plan))
    for name, variable in state.items():
        position = name.partition(".")[2]
        if not position or int(position) < kept:
            store[name] = ops.convert_to_numpy(variable)
    text = settings_to_text(of_model(plan))
    store[ASSIGNMENT] = np.frombuffer(text.encode(), dtype="uint8")


def stored_settings(store: Any) -> list[Setting]:
    """Reads the settings that `save` stored."""
    return settings_from_text(np.asarray(store[ASSIGNMENT]).astype("uint8").tobytes())


def was_built(store: Any) -> bool:
    """Tells whether the optimizer that `save` stored was built: it has multipliers then."""
    return "multipliers" in set(store.keys())


def is_of_another_kind(store: Any, state: Mapping[str, Any], name: str) -> bool:
    """Tells whether the stored state is of another kind of optimizer, which is then said."""
    kinds = {key.partition(".")[0] for key in set(store.keys()) - {ASSIGNMENT}}
    missing = {key.partition(".")[0] for key in state} - kinds - {_INITIAL}
    if missing:
        warnings.warn(
            f"The stored state is skipped for optimizer {name!r}: it was stored by another kind of "
            f"optimizer, without {', '.join(sorted(missing))}.",
            stacklevel=3,
        )
    return bool(missing)


def check_initial(stored: Sequence[Setting], places: Sequence[int | None], store: Any) -> None:
    """Raises a `RuleError` where a weight's initial value was to be stored and is not there."""
    names = set(store.keys())
    lost = [
        stored[place].path
        for place in places
        if place is not None
        and stored[place].rule.decay_to
        and stored[place].has_slots
        and f"{_INITIAL}.{place}" not in names
    ]
    if lost:
        raise RuleError(
            f"The stored state lacks what {some(lost)} began with, towards which decay_to='initial'"
            " pulls. Load a file that holds it whole, or give new rules."
        )


def load(state: Mapping[str, Any], places: Sequence[int | None], store: Any) -> None:
    """Sets variables to what was stored of their weights.

    Args:
        state: variables by name.
        places: the place of each weight where it was stored, by position.
        store: what `save` filled.

    Raises:
        RuleError: where one has another shape than what was stored, before any is set.
    """
    names = set(store.keys())
    found = {}
    for name, variable in state.items():
        kind, _, position = name.partition(".")
        if position:
            place = places[int(position)]
            name = f"{kind}.{place}"
        if name in names and name != "multipliers":  # which follow from the settings
            found[name] = variable
    for name, variable in found.items():
        shape = tuple(store[name].shape)
        if shape != tuple(variable.shape):
            raise RuleError(
                f"The stored {name!r} has the shape {shape}, and the optimizer's "
                f"{tuple(variable.shape)}: the stored assignment names another weight for it. "
                "Load a file that is whole, or give new rules."
            )
    for name, variable in found.items():
        variable.assign(np.asarray(store[name]))


# Settings.


def setting_to_json(setting: Setting) -> dict[str, Any]:
    """Gives a setting as plain values."""
    return {
        "path": setting.path,
        "layer": setting.layer,
        "name": setting.name,
        "shape": list(setting.shape),
        "label": setting.label,
        "rule": rule_to_json(setting.rule),
        "has_slots": setting.has_slots,
        "first_step": setting.first_step,
        **({"bare": [list(layer) for layer in setting.bare]} if setting.bare else {}),
    }


def setting_from_json(data: Mapping[str, Any]) -> Setting:
    """Reads `setting_to_json` back.

    Raises:
        RuleError: for anything else.
    """
    try:
        return Setting(
            path=str(data["path"]),
            layer=str(data["layer"]),
            name=str(data["name"]),
            shape=tuple(int(size) for size in data["shape"]),
            label=None if data["label"] is None else str(data["label"]),
            rule=rule_from_json(data["rule"]),
            has_slots=bool(data["has_slots"]),
            first_step=int(data["first_step"]),
            bare=tuple((int(place), str(path)) for place, path in data.get("bare", ())),
        )
    except Exception as error:  # of a schedule's constructor, too
        raise RuleError(f"Not a stored assignment: {data!r:.300}. ({error})") from error


def settings_to_text(settings: Sequence[Setting]) -> str:
    """Settings as JSON."""
    return json.dumps([setting_to_json(setting) for setting in settings])


def settings_from_text(text: str | bytes) -> list[Setting]:
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
    return [setting_from_json(item) for item in data]


# Rules.


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """Gives a rule as plain values."""
    return {
        "multiplier": _value_to_json(rule.multiplier),
        "learning_rate": _value_to_json(rule.learning_rate),
        "weight_decay": rule.weight_decay,
        **({} if rule.decay_to is None else {"decay_to": rule.decay_to}),
        "frozen": rule.frozen,
    }


def rule_from_json(data: Mapping[str, Any]) -> Rule:
    """Reads `rule_to_json` back; no code but a registered schedule's runs."""
    return Rule(
        multiplier=_value_from_json(data["multiplier"]),
        learning_rate=_value_from_json(data["learning_rate"]),
        weight_decay=data["weight_decay"],
        decay_to=data.get("decay_to"),
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


def _is_text(selector: Any) -> bool:
    return isinstance(selector, (str, re.Pattern))


def entry_to_json(selector: Any, rule: Rule) -> dict[str, Any]:
    """Gives a rule whose weights are not known yet, as plain values.

    Raises:
        RuleError: for a selector that cannot be written as text.
    """
    entry: dict[str, Any] = {"rule": rule_to_json(rule)}
    if isinstance(selector, re.Pattern):
        return {**entry, "pattern": selector.pattern, "flags": selector.flags}
    if isinstance(selector, str):
        return {**entry, "name": selector}
    if selectors.is_layer(selector):
        return {**entry, "name": selector.name}
    raise RuleError(
        f"The rule for {selectors.label(selector)!r} cannot be stored before the model's weights "
        "are known. Build the model first."
    )


def entry_from_json(entry: Any) -> tuple[Any, Rule]:
    """Reads `entry_to_json` back.

    Raises:
        RuleError: for anything else.
    """
    try:
        rule = rule_from_json(entry["rule"])
        if "pattern" in entry:
            return re.compile(entry["pattern"], entry["flags"]), rule
        if isinstance(entry["name"], str):
            return entry["name"], rule
        raise TypeError("a layer's name is text")
    except Exception as error:
        raise RuleError(f"Not a stored rule: {entry!r:.300}. ({error})") from error


def checkpointed(plan: Plan, take_over: Any) -> Any:
    """Tells what ``tf.train.Checkpoint`` stores of a plan beside the variables.

    Args:
        plan: the plan.
        take_over: called with the settings that are restored.
    """
    import tensorflow as tf

    class State(tf.train.experimental.PythonState):
        def serialize(self) -> str:
            return settings_to_text(of_model(plan))

        def deserialize(self, string_value: bytes) -> None:
            take_over(settings_from_text(bytes(string_value)))

    return State()
