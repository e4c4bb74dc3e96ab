"""What should not be: alarms in groups, each with its cause and its remedy."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_NAMED = 3  # how many of many a message names


@dataclass(frozen=True)
class Group:
    """Weights that a record has one value for: a layer's, a block's, or one weight.

    Attributes:
        name: unique in its record.
        trainable: False for state, such as moving averages.
        frozen: whether all of them are frozen at the record.
        parameters: number of elements.
        part: the part of the network's outline that holds them, empty where
            there is none.
        kind: the class of their layer, empty for a block.
    """

    name: str
    trainable: bool
    frozen: bool
    parameters: int
    part: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Alarm:
    """Something that should not be.

    Attributes:
        kind: ``"frozen_moved"``, ``"trainable_still"`` or ``"nonfinite"``.
        rows: names of the rows that it is about, in the model's order.
        message: what, since when, why, and what to do.
    """

    kind: str
    rows: tuple[str, ...]
    message: str


def frozen_moved(rows: Iterable[Group], step: int) -> list[Alarm]:
    """Gives an alarm for frozen weights that moved, and one for each class whose state did.

    Example:
    >>> norm = Group("norm (non-trainable)", False, True, 8, kind="BatchNormalization")
    >>> print(*frozen_moved([norm], step=4)[0].message.partition(":")[:1])
    Layer 'norm (non-trainable)' is frozen and has moved, at step 4
    """
    causes: dict[str, list[Group]] = {}
    for row in rows:
        causes.setdefault("" if row.trainable else row.kind, []).append(row)
    found = []
    for kind, members in causes.items():
        names = tuple(row.name for row in members)
        one = len(names) == 1
        if one and members[0].frozen:
            what = f"Layer {names[0]!r} is frozen and has moved, at step {step}"
        elif one:  # such as the kernel beside LoRA's weights
            what = f"Frozen weights of layer {names[0]!r} have moved, at step {step}"
        elif kind:
            what = f"{len(names)} {kind} layers in the frozen part moved, at step {step}"
        else:
            what = f"{len(names)} frozen layers moved, at step {step}"
        if kind:
            why = (
                f"{'its' if one else 'their'} moving averages follow the data; set trainable = "
                f"False on the layer{'' if one else 's'} and compile again, or call with "
                "training=False"
            )
        else:
            why = (
                f"something else than the optimizer wrote to {'it' if one else 'them'}, or "
                "trainable changed after compile; compile again, and look for callbacks that "
                "assign weights"
            )
        listed = "" if one else f" ({_some(names)})"
        found.append(Alarm("frozen_moved", names, f"{what}{listed}: {why}."))
    return found


def trainable_still(
    still: Sequence[Group], free: Iterable[Group], rates: Mapping[str, float], step: int
) -> list[Alarm]:
    """Gives one alarm for the blocks in which nothing learns, and one for the other layers.

    Args:
        still: the rows that are trained and have never moved.
        free: all rows that are trained.
        rates: the learning rates of rows, where they are known.
        step: until which nothing moved.
    """
    names = {row.name for row in still}
    parts: dict[str, list[Group]] = {}
    for row in free:
        parts.setdefault(row.part, []).append(row)
    dead = {
        part: rows
        for part, rows in parts.items()
        if part and len(rows) > 1 and all(row.name in names for row in rows)
    }
    found = []
    if dead:
        places = [f"{spoken(part)}{_at(rows, rates)}" for part, rows in dead.items()]
        inside = [row for rows in dead.values() for row in rows]
        found.append(
            Alarm(
                "trainable_still",
                tuple(row.name for row in inside),
                f"Nothing in {_some(places)} learns: {len(inside)} trainable layers have not "
                f"moved up to step {step}; raise the rate, look whether a gradient reaches them, "
                "or freeze them.",
            )
        )
    others = [row for row in still if row.part not in dead]
    if others:
        one = len(others) == 1
        if one:
            what = (
                f"Layer {others[0].name!r} is trainable and has not moved up to step "
                f"{step}{_at(others, rates)}"
            )
        else:
            what = (
                f"{len(others)} trainable layers have not moved up to step {step}"
                f"{_at(others, rates)} ({_some([row.name for row in others])})"
            )
        it = "it" if one else "them"
        found.append(
            Alarm(
                "trainable_still",
                tuple(row.name for row in others),
                f"{what}: no gradient reaches {it}, or the rate is too small; connect {it} to "
                f"the loss, raise the rate, or freeze {it}.",
            )
        )
    return found


def nonfinite(found: Sequence[tuple[Group, str, int]], step: int) -> list[Alarm]:
    """Gives one alarm for all rows with weights that are not finite.

    Args:
        found: for each such row, the first weight's path and how many of its elements.
        step: at which it was seen.
    """
    if not found:
        return []
    said = [f"{count} elements of {path!r} in layer {row.name!r}" for row, path, count in found]
    if len(said) == 1:
        what = f"{said[0]} are not finite, at step {step}"
    else:
        what = f"{len(said)} layers are not finite, at step {step} ({_some(said)})"
    why = "lower the learning rate, clip the gradients, or look for such values in the data"
    return [Alarm("nonfinite", tuple(row.name for row, _, _ in found), f"{what}: {why}.")]


def spoken(part: str) -> str:
    """Gives the key of an outline's part as one says it.

    Example:
    >>> spoken("block/3/block_4"), spoken("head")
    ('block 3 (block_4)', 'the head')
    """
    if not part.startswith("block/"):
        return f"the {part}"
    _, number, name = part.split("/", 2)
    return f"block {number} ({name})"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _at(rows: Iterable[Group], rates: Mapping[str, float]) -> str:
    known = [rates[row.name] for row in rows if row.name in rates]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f" at rate {low:.3g}" if low == high else f" at rates {low:.3g} to {high:.3g}"
