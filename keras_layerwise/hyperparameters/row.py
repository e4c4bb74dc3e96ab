"""The row of a run: of all that is recorded, what people compare runs by.

The user's values, training, regularization, and of the layers what differs
from their classes' defaults. Everything else stays in the record.
"""

import functools
import inspect
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_layerwise.hyperparameters.describe import describe
from keras_layerwise.storage.values import as_text, flat

MOST = 60
_ALWAYS = ("architecture/class", "architecture/parameters", "architecture/trainable_parameters")
_SHOWN = 4  # values of one setting that are named


def columns(values: Mapping[str, Any], most: int = MOST) -> dict[str, Any]:
    """Reduces an inventory with the user's values to at most `most` columns.

    Where each layer's own settings are too many, those of a class share a
    column. The user's values are never left out.

    Args:
        values: the groups of a record.
        most: how many columns there may be beside the user's.

    Example:

    >>> layers = {"a": {"class": "Dense", "trainable": True, "units": 3, "use_bias": True}}
    >>> columns({"architecture": {"layers": layers}, "user": {"seed": 1}})
    {'user/seed': 1, 'architecture/layers/a/units': 3}
    """
    user = {f"user/{key}": value for key, value in flat(values.get("user", {})).items()}
    training = dict(values.get("training", {}))
    rules = rule_lines(training.pop("assignments", {}))
    found = {f"training/{key}": value for key, value in flat(training).items()}
    if rules:
        found["training/rules"] = "; ".join(rules)
    architecture = values.get("architecture", {})
    penalties = values.get("regularization", {})
    found |= _within(_regularization(penalties), most - len(user) - len(found) - len(_ALWAYS))
    whole = flat({"architecture": {k: v for k, v in architecture.items() if k != "layers"}})
    found |= {key: whole[key] for key in _ALWAYS if key in whole}
    layers = list(_unusual(architecture.get("layers", {})))
    found |= _within(layers, most - len(user) - len(found))
    room = max(most - len(user), 0)
    return {**user, **dict(list(found.items())[:room])}


def rule_lines(assignments: Any) -> list[str]:
    """Gives each rule of a `LayerwiseOptimizer` as one line.

    Example:

    >>> rule = {"rule": "encoder", "multiplier": 0.1, "learning_rate": None, "frozen": False}
    >>> rule_lines({"encoder/kernel": {**rule, "weight_decay": None}})
    ['encoder: × 0.1']
    """
    if not isinstance(assignments, Mapping):
        return []
    lines: dict[str, None] = {}
    for entry in assignments.values():
        if isinstance(entry, Mapping) and entry.get("rule") is not None:
            lines[f"{as_text(entry['rule'])}: {', '.join(_said(entry)) or '× 1'}"] = None
    return list(lines)


def _said(entry: Mapping[str, Any]) -> Iterator[str]:
    if entry.get("frozen"):
        yield "frozen"
    if entry.get("multiplier") not in (None, 1.0):
        yield f"× {entry['multiplier']:g}" if not isinstance(entry["multiplier"], str) else "× ?"
    if entry.get("learning_rate") is not None:
        yield f"rate {as_text(entry['learning_rate'])}"
    if entry.get("weight_decay") is not None:
        yield f"decay {as_text(entry['weight_decay'])}"
    if entry.get("decay_to") is not None:
        yield f"decay to {as_text(entry['decay_to'])}"


def _regularization(values: Mapping[str, Any]) -> list[tuple[str, str, str, Any]]:
    """Gives (group, name of the part, setting, value) of each penalty, rate and constraint."""
    found = []
    for path, settings in values.items():
        for key, value in flat(settings).items() if isinstance(settings, Mapping) else ():
            kind = path.rpartition("/")[2] if "/" in path else path
            found.append(("regularization", path, f"{kind}/{key}", value))
    return found


def _unusual(layers: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Tells what of each layer differs from the defaults of its class."""
    for path, layer in layers.items():
        name = layer["class"]
        usual = _defaults(name)
        for key, value in layer.items():
            if key in ("class", "dtype", "axis", "data_format") or value is None:
                continue
            if key not in usual or not _alike(usual[key], value):
                yield "architecture/layers", path, f"{name}/{key}", value


@functools.lru_cache(maxsize=256)
def _defaults(name: str) -> dict[str, Any]:
    cls = getattr(keras.layers, name, None)
    found: dict[str, Any] = {"trainable": True}
    parents: tuple[Any, ...] = inspect.getmro(cls) if inspect.isclass(cls) else ()
    for parent in parents:
        for key, parameter in inspect.signature(parent.__init__).parameters.items():
            if parameter.default is not parameter.empty:
                found.setdefault(key, describe(parameter.default))
    return found


def _alike(default: Any, value: Any) -> bool:
    """Tells whether a setting is its default, also where Keras writes that out: 1 as [1, 1]."""
    if default == value or default is None:
        return bool(default == value) or value in ("linear", [])
    if isinstance(value, list) and value and all(member == default for member in value):
        return True
    words = [str(v).replace("_", "").lower().partition("(")[0] for v in (default, value)]
    return isinstance(default, str) and words[0] == words[1]


def _within(found: Sequence[tuple[str, str, str, Any]], room: int) -> dict[str, Any]:
    """Gives a column for each setting of each part; of each class where those are too many."""
    each = {f"{group}/{path}/{of.rpartition('/')[2]}": v for group, path, of, v in found}
    if len(each) <= room:
        return each
    shared: dict[str, Counter[str]] = {}
    for group, _, of, value in found:
        shared.setdefault(f"{group}/{of}", Counter())[json.dumps(value, ensure_ascii=False)] += 1
    return {key: _most(counts) for key, counts in shared.items()}


def _most(counts: Counter[str]) -> Any:
    if len(counts) == 1:
        return json.loads(next(iter(counts)))
    shown = [f"{value} (×{count})" for value, count in counts.most_common(_SHOWN)]
    return ", ".join([*shown, *(["…"] if len(counts) > _SHOWN else [])])
