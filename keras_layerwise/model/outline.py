"""The parts of a network as a fine-tuner speaks of them: stem, blocks, neck, head."""

import html
import re
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from keras_layerwise.backend.internals import own_weights
from keras_layerwise.errors import RuleError
from keras_layerwise.model import placing, structure
from keras_layerwise.tables import render_html


class Part:
    """One part of a network; a selector of its weights.

    Attributes:
        name: ``"stem"``, ``"neck"``, ``"head"`` or what the block is called.
        index: of a block, from 0; None for the other parts.
        depth: 0 for the stem, i + 1 for block i of n, n for the neck, n + 1
            for the head.
        layers: the layers in it.
    """

    is_part = True

    def __init__(
        self,
        name: str,
        index: int | None,
        depth: int,
        layers: Sequence[Any],
        owned: Sequence[tuple[Any, Any]],
        adopts: set[int],
        known: dict[int, Any],
    ) -> None:
        self.name = name
        self.index = index
        self.depth = depth
        self.layers = tuple(layers)
        self._mine = {id(weight) for _, weight in owned}
        self._owners = tuple({id(layer): layer for layer, _ in owned}.values())
        self._adopts = adopts
        self._known = known

    @property
    def key(self) -> str:
        """``"stem"``, ``"block/<index>/<name>"``, ``"neck"`` or ``"head"``."""
        return self.name if self.index is None else f"block/{self.index}/{self.name}"

    @property
    def label(self) -> str:
        """How tables of rules call it."""
        return self.name if self.index is None else f"block {self.index} ({self.name})"

    @property
    def weights(self) -> list[Any]:
        """Its weights, with those that its layers got since, as from ``enable_lora``."""
        return [
            weight
            for layer in self._owners
            for weight in own_weights(layer)
            if self._has(weight, layer)
        ]

    def _has(self, weight: Any, layer: Any) -> bool:
        reference = self._known.get(id(weight))
        if reference is not None and reference() is weight:
            return id(weight) in self._mine
        return id(layer) in self._adopts

    def __bool__(self) -> bool:
        return bool(self.weights)

    def __repr__(self) -> str:
        return f"<{self.label}: {len(self.weights)} weights>"


class Outline:
    """The parts of a network, found by `outline`.

    Every weight is in exactly one part. Each part, and each slice of
    ``blocks``, is a selector wherever selectors are taken.

    Attributes:
        stem: what comes before the first block.
        blocks: a tuple of the blocks in the order in which data passes.
        neck: what follows the last block and makes no output.
        head: everything that makes an output and has weights.
        how: what the blocks were found by.

    Example:

    >>> import keras
    >>> from keras_layerwise import Rule, outline
    >>> layers = [keras.layers.Dense(4, name=f"dense_{i}") for i in range(4)]
    >>> parts = outline(keras.Sequential([keras.Input((4,)), *layers]))
    >>> rules = {parts.blocks[:2]: Rule(frozen=True), parts.head: 1.0}
    >>> [part.key for part in parts]
    ['block/0/dense_0', 'block/1/dense_1', 'block/2/dense_2', 'head']
    """

    def __init__(self, name: str, parts: Sequence[Part], how: str, hint: str = "") -> None:
        self.name = name
        self.stem, *blocks, self.neck, self.head = parts
        self.blocks = tuple(blocks)
        self.how = how
        self._hint = hint

    def __iter__(self) -> Iterator[Part]:
        """Gives the parts that have weights, from the inputs to the outputs."""
        return (part for part in (self.stem, *self.blocks, self.neck, self.head) if part)

    def part_of(self, weight: Any) -> Part | None:
        """Gives the part that `weight` is in; None for a weight of another model."""
        return next((p for p in self if any(weight is own for own in p.weights)), None)

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for part in self:
            owners = [layer.name for layer in part.layers if layer.weights]
            shown = ", ".join(owners[:3]) + (f" and {len(owners) - 3} more" * (len(owners) > 3))
            count = sum(int(_size(weight.shape)) for weight in part.weights)
            kind = part.name if part.index is None else f"block {part.index}"
            name = "" if part.index is None else part.name
            rows.append((kind, name, str(part.depth), shown, f"{count:,}"))
        return rows

    @property
    def _title(self) -> str:
        return f'Outline of "{self.name}": {len(self.blocks)} blocks, by {self.how}'

    def __str__(self) -> str:
        heading = ("Part", "Name", "Depth", "Layers", "Parameters")
        rows = [heading, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
        right = (2, 4)
        lines = [
            "  ".join(
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self._title, *lines, *([self._hint] if self._hint else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        heading = ("Part", "Name", "#Depth", "Layers", "#Parameters")
        hint = f"<p>{html.escape(self._hint)}</p>" if self._hint else ""
        return render_html(self._title, heading, self._rows()) + hint


def outline(
    model: Any,
    block: str | re.Pattern[str] | None = None,
    *,
    stem: Any = None,
    head: Any = None,
) -> Outline:
    """Finds the parts of a network: stem, blocks in the order of data, neck, head.

    The blocks are, in this order: what `block` says; siblings that repeat, also
    inside a layer; in a flat graph, names with a common stem and a number
    that agree with the graph; stretches of the graph between points where all
    data passes through one tensor; in a plain stack, one block for each layer
    with a kernel, its normalisation with it. Where an encoder's outputs are
    copied to a decoder, as in a U-Net, the copies are left aside: the encoder's
    blocks come first, then the decoder's. What is trainable does not matter.

    A shared weight belongs to its lowest part. What leads around or between
    blocks belongs to the block that consumes it.

    Args:
        model: a model that is built.
        block: a regular expression, searched in the path of every layer that
            has weights, also inside layers. Layers are one block where their
            paths are the same up to the end of the match; where the
            expression has groups, where these are the same and the layers are
            in the same container.
        stem: a selector of what comes before the blocks.
        head: a selector of what makes the outputs.

    Returns:
        An `Outline`; ``print`` shows it as a table.

    Raises:
        RuleError: where nothing tells the parts, or what was passed does not
            fit the model. The message lists paths and says what to pass.

    Example:

    >>> import keras
    >>> block = lambda i: [keras.layers.Dense(4, name=f"block_{i}_{k}") for k in "ab"]
    >>> layers = [keras.layers.Dense(4, name="stem"), *block(0), *block(1)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2, name="head")])
    >>> print(outline(model))
    Outline of "sequential...": 2 blocks, by names
    Part     Name     Depth  Layers                Parameters
    -------  -------  -----  --------------------  ----------
    stem                  0  stem                          20
    block 0  block_0      1  block_0_a, block_0_b          40
    block 1  block_1      2  block_1_a, block_1_b          40
    head                  3  head                          10
    """
    sites = structure.sites_of_built(model)
    placed = placing.place(model, sites, block, stem, head)
    known = {id(site.weight): weakref.ref(site.weight) for site in sites}
    count = len(placed.names)
    names = ["stem", *placed.names, "neck", "head"]
    owned: list[list[tuple[Any, Any]]] = [[] for _ in names]
    for site in sites:
        owned[placed.weights[id(site.weight)]].append((site.layer, site.weight))
    parts, adopted = [], set[int]()
    for rank, members in enumerate(owned):
        owners = {id(layer) for layer, _ in members}
        index = rank - 1 if 0 < rank <= count else None
        depth = min(rank, count) if rank < count + 2 else count + 1
        layers = placed.layers[rank]
        parts.append(Part(names[rank], index, depth, layers, members, owners - adopted, known))
        adopted |= owners
    return Outline(getattr(model, "name", "model"), parts, placed.how, placed.hint)


def keys(model: Any) -> dict[int, str]:
    """Gives the `Part.key` of every weight by its ``id``; empty where the parts cannot be told."""
    try:
        parts = outline(model)
    except RuleError:
        return {}
    return {id(weight): part.key for part in parts for weight in part.weights}


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
