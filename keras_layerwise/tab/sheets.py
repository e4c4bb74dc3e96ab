"""A run's record as the page shows it: plain values that can not break a picture."""

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from keras_layerwise.storage.record import Record
from keras_layerwise.storage.values import flat

EVENTS = ("timeline", "changes", "overrides", "violations", "resumptions")
_ASSIGNMENTS = "training/assignments/"
_TEXTS = ("status", "started", "ended", "error")


@dataclass(frozen=True)
class Sheet:
    """A record in plain values.

    Attributes:
        values: each hyperparameter by key, as JSON text: in JavaScript 1 and 1.0 are one number.
        texts: ``status``, ``started``, ``ended`` and ``error``.
        results: ``final`` and ``best`` values of the metrics.
        fingerprints: by kind.
        events: what happened, each with its ``kind``, ``step`` and ``text``.
        layers: names of layers in the record to those in the process that trained.
        multipliers: of each layer the largest of its weights; 0 where all are frozen.
    """

    values: Mapping[str, str]
    texts: Mapping[str, str | None]
    results: Mapping[str, Mapping[str, Any]]
    fingerprints: Mapping[str, str]
    events: list[dict[str, Any]]
    layers: Mapping[str, str]
    multipliers: Mapping[str, float]

    def to_json(self, keys: Iterable[str] | None = None) -> dict[str, Any]:
        """Tells what the page is told; of the values those of `keys`."""
        shown = self.values if keys is None else {k: self.values[k] for k in keys}
        told = asdict(self)
        del told["texts"]
        return told | dict(self.texts) | {"values": dict(shown)}


def sheet(message: Any) -> Sheet:
    """Reads what a run wrote as its record.

    Raises:
        ValueError: where it is no record at all.
    """
    try:
        record = Record.from_json(message)
        found = flat(record.values)
        # Runs of a sweep share nearly all keys and texts: interned, each is kept once.
        values = {sys.intern(str(key)): sys.intern(_text(value)) for key, value in found.items()}
    except RecursionError as error:
        raise ValueError("The record is nested too deeply to be read.") from error
    return Sheet(
        values,
        {name: getattr(record, name) for name in _TEXTS},
        {
            kind: _members(inner, (int, float, str))
            for kind, inner in _members(record.results, dict).items()
        },
        _members(record.fingerprints, str),
        [
            *(_event(kind, event) for kind in EVENTS for event in getattr(record, kind)),
            *(
                _event("phases", {"step": phase.get("step"), **change})
                for phase in record.phases
                for change in phase.get("changes") or ()
                if isinstance(change, dict)
            ),
        ],
        _members(record.layers, str),
        _multipliers(values),
    )


def _members(mapping: Mapping[str, Any], accepted: Any) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if isinstance(value, accepted)}


def stable_names(message: Any) -> dict[str, str]:
    """Names of layers in the process that trained to others that the record has for them."""
    layers = message.get("layers") if isinstance(message, dict) else None
    if not isinstance(layers, dict):
        return {}
    return {
        there: here for here, there in layers.items() if isinstance(there, str) and there != here
    }


def differing(sheets: Iterable[Sheet]) -> list[str]:
    """Gives the keys whose value is not the same in all sheets, in the order of the records."""
    listed = list(sheets)
    keys = dict.fromkeys(key for one in listed for key in one.values)
    return [key for key in keys if len({one.values.get(key) for one in listed}) > 1]


def _multipliers(values: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, text in values.items():
        if not (key.startswith(_ASSIGNMENTS) and key.endswith("/multiplier")):
            continue
        weight = key.removesuffix("/multiplier")
        layer = weight.removeprefix(_ASSIGNMENTS).rpartition("/")[0]
        with contextlib.suppress(ValueError):  # one with a rate of its own has no multiplier
            value = 0.0 if values.get(f"{weight}/frozen") == "true" else float(text)
            found[layer] = max(found.get(layer, 0.0), value)
    return found


def _event(kind: str, event: Mapping[str, Any]) -> dict[str, Any]:
    step = event.get("step")
    if kind == "resumptions":
        text = f"resumed {_text(event)}"
    else:
        what = "learning rate" if kind == "timeline" else str(event.get("key"))
        text = f"{what} {_text(event.get('old'))} → {_text(event.get('new'))}"
    return {"kind": kind, "step": step if isinstance(step, (int, float)) else None, "text": text}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
