"""What is on disk, in one place for those who write it and those who read it.

::

    <log_dir>/hyperparameters.json            the frozen record
    <log_dir>/hparams/events.out.tfevents.*   HParams row, text, record (tag RECORD)
    <log_dir>/drift/events.out.tfevents.*     drift vectors, alarms
    <log_dir>/drift/reference.npz             the initial weights, for a resumed run
    <log_dir>/rates/events.out.tfevents.*     learning-rate vectors, changes

A *series* is one TensorBoard tag of plugin `PLUGIN` and data class TENSOR.
Vector series hold one rank-1 float32 tensor per record, one value per row, NaN
where a value is not defined. ``drift`` has a row for each layer (or weight), and
``blocks`` the same statistics for each part of the network's outline, the state
of a part apart, with all trained weights together as the last row, ``(model)``.
``frozen`` has the rows of ``drift``, 1 where a row is frozen and 0 where not, at
the steps at which that changed. ``rates`` has the learning rates. Message series (alarms,
changes, record) hold one rank-1 string tensor per record, each element a JSON
object. What the rows are is said once, in the plugin data of the tag; other
rows have another tag.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keras_layerwise.drift.statistics import READS
from keras_layerwise.drift.statistics import STATISTICS as _BUILT_IN
from keras_layerwise.storage.values import parsed

PLUGIN = "layerwise"
VERSION = 1

RECORD_FILE = "hyperparameters.json"
REFERENCE_FILE = "reference.npz"
# Not `log_dir` itself: TensorBoard finds no metrics for a row of the run ".".
RECORD_DIR = "hparams"
DRIFT_DIR = "drift"
RATES_DIR = "rates"

STATISTICS = tuple(_BUILT_IN)
"""The names of the built-in statistics; their one table is in `drift.statistics`."""

ALARMS = f"{PLUGIN}/alarms"
CHANGES = f"{PLUGIN}/changes"
RATES = f"{PLUGIN}/rates"
RECORD = f"{PLUGIN}/record"

KINDS = ("drift", "blocks", "frozen", "rates", "alarms", "changes", "record")


class SchemaError(ValueError):
    """Plugin data that this version of the package did not write."""


@dataclass(frozen=True)
class Row:
    """One row of a vector series: a layer's trainable or non-trainable weights, or one weight.

    Attributes:
        name: unique in its series, in the model's order.
        trainable: False for a row of non-trainable weights.
        frozen: whether the row's weights were frozen when the series began.
        parameters: number of elements.
        part: the part of the network that holds the row: ``"stem"``,
            ``"block/<index from 0>/<name>"``, ``"neck"`` or ``"head"``; empty
            where the network has no outline.
    """

    name: str
    trainable: bool
    frozen: bool
    parameters: int
    part: str = ""

    def __post_init__(self) -> None:
        _check("row", self, name=str, trainable=bool, frozen=bool, parameters=int, part=str)


@dataclass(frozen=True)
class Facts:
    """What a chart says about a statistic, so that a reader needs no code of its author's.

    Attributes:
        name: unique among the statistics of a run.
        formula: as it is printed.
        unit: ``"1"`` where it has none.
        reads: which value means the most movement: one of `READS`.
    """

    name: str
    formula: str
    unit: str
    reads: str

    def __post_init__(self) -> None:
        _check("statistic", self, name=str, formula=str, unit=str, reads=str)
        if self.reads not in READS:
            raise SchemaError(f"A statistic reads one of {READS}; received {self.reads!r}.")


@dataclass(frozen=True)
class Series:
    """The plugin data of one tag.

    Attributes:
        kind: one of `KINDS`.
        rows: what the values of a vector are; empty for messages.
        statistic: for ``"drift"``, one of `STATISTICS`, or the name in `facts`;
            ``None`` for ``"blocks"``, whose `facts` tell.
        reference: for ``"drift"``, what the weights are compared with, in words.
        facts: for ``"drift"`` and ``"blocks"``, what the statistic is; what
            version 0.1 wrote has none, see `facts_of`.
    """

    kind: str
    rows: tuple[Row, ...] = ()
    statistic: str | None = None
    reference: str | None = None
    facts: Facts | None = None

    def __post_init__(self) -> None:
        known: tuple[Any, ...] = (str, type(None))
        _check("series", self, kind=str, statistic=known, reference=known)

    def to_bytes(self) -> bytes:
        """Puts the series into plugin data, without what is empty and came after version 0.1."""
        data = {"version": VERSION, **asdict(self)}
        data["rows"] = [_without(row, "part") for row in data["rows"]]
        return json.dumps(_without(data, "facts"), sort_keys=True).encode()

    @classmethod
    def parse(cls, content: bytes) -> "Series":
        """Reads plugin data back.

        Raises:
            SchemaError: for anything that `to_bytes` of this version could
                not have written.
        """
        try:
            data = parsed(content)
            version = data.pop("version")
            if version != VERSION:
                raise SchemaError(
                    f"Plugin data has version {version!r}; this keras_layerwise reads {VERSION}. "
                    "Read it with the version that wrote it."
                )
            rows = tuple(Row(**row) for row in data.pop("rows"))
            facts = data.pop("facts", None)
            series = cls(rows=rows, facts=None if facts is None else Facts(**facts), **data)
        except SchemaError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SchemaError(f"Not plugin data of keras_layerwise: {content[:80]!r}.") from error
        if series.kind not in KINDS:
            raise SchemaError(f"Unknown kind of series {series.kind!r}; known: {KINDS}.")
        return series


def _check(what: str, values: Any, **types: Any) -> None:
    for name, accepted in types.items():
        value = getattr(values, name)
        # In Python, though not here, True is a number.
        if not isinstance(value, accepted) or (accepted is int and isinstance(value, bool)):
            raise SchemaError(f"The {name} of a {what} can not be {value!r:.80}.")


def _without(data: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != name or value}


def drift_tag(statistic: str, rows: Sequence[Row] = ()) -> str:
    """Gives the tag of a statistic's vectors.

    TensorBoard keeps the plugin data that a tag came with first, from whichever
    process and file, so the tag follows from the rows.
    """
    return f"{PLUGIN}/drift/{statistic}{_suffix(rows)}"


def blocks_tag(statistic: str, rows: Sequence[Row]) -> str:
    """Gives the tag of a statistic's vectors by part of the outline; see `drift_tag`."""
    return f"{PLUGIN}/blocks/{statistic}{_suffix(rows)}"


def frozen_tag(rows: Sequence[Row]) -> str:
    """Gives the tag of what is frozen; see `drift_tag`."""
    return f"{PLUGIN}/frozen{_suffix(rows)}"


def facts_of(series: Series) -> Facts | None:
    """Tells what the statistic of `series` is, also where version 0.1 did not write it.

    Example:
    >>> facts_of(Series("drift", statistic="cosine")).reads
    'falling'
    """
    if series.facts is not None or series.statistic not in _BUILT_IN:
        return series.facts
    found = _BUILT_IN[series.statistic]
    return Facts(found.name, found.formula, found.unit, found.reads)


def rates_tag(rows: Sequence[Row] = ()) -> str:
    """Gives the tag of the learning rates; see `drift_tag`."""
    return RATES + _suffix(rows)


def _suffix(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    # Not `frozen`, which is a row's state rather than what it is.
    told = json.dumps([(row.name, row.trainable, row.parameters) for row in rows])
    return "/" + hashlib.sha256(told.encode()).hexdigest()[:8]


def alarm(kind: str, row: str, step: int, message: str) -> dict[str, Any]:
    """Gives an alarm's message; `kind` is ``frozen_moved``, ``trainable_still`` or ``nonfinite``.

    Rows that are alarming for one cause have one message text in common: it is
    about all of them.
    """
    return {"kind": kind, "row": row, "step": step, "message": message}


def change(what: str, row: str, step: int, old: Any, new: Any) -> dict[str, Any]:
    """Gives a change's message.

    `what` is ``frozen``, ``unfrozen``, ``multiplier`` or ``weight_decay``.
    """
    return {"what": what, "row": row, "step": step, "old": old, "new": new}
