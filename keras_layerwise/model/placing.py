"""Puts every weight of a network into a part, from its graph, its blocks and what a user says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_layerwise.backend.internals import own_weights
from keras_layerwise.errors import RuleError
from keras_layerwise.model import (
    blocks,
    graph,
    heads,
    kinds,
    patterns,
    selectors,
    stretches,
    ways,
)
from keras_layerwise.model.blocks import ADVICE, Blocks, OutOfOrderError, listed
from keras_layerwise.model.graph import Vertex
from keras_layerwise.model.structure import Sites


@dataclass
class Placed:
    """The parts by rank: 0 the stem, then the blocks, the neck and the head.

    Attributes:
        names: of the blocks.
        weights: the rank of each weight by its ``id``.
        layers: the layers of each rank.
        how: what the blocks were found by.
        hint: what the user could say to have other parts.
    """

    names: list[str]
    weights: dict[int, int]
    layers: list[list[Any]]
    how: str
    hint: str


@dataclass
class _Given:
    """What the user says to be stem and head: weights by ``id``, and their layers."""

    stem: set[int]
    head: set[int]
    layers: dict[int, str]


def place(model: Any, sites: Sites, block: Any, stem: Any, head: Any) -> Placed:
    """Finds the rank of every weight of `model`.

    Raises:
        RuleError: where nothing tells the parts, or what was passed does not
            fit the model.
    """
    given = _given(sites, stem, head)
    pattern = _compiled(block)
    vertices = _graph(model, given, is_split=pattern is None)
    if vertices is None:
        if pattern is None:
            raise RuleError(
                f"The order of calls in {model.name!r} is not known, since it is a subclassed "
                f"model: its blocks cannot be told. Its layers: "
                f"{listed(child.name for child in kinds.weighted_children(model))}; its paths: "
                f"{listed(s.layer_path for s in sites)}. {ADVICE}"
            )
        vertices, found = patterns.without_graph(pattern, sites, set(given.layers))
    elif pattern is not None:
        vertices, found = patterns.by_pattern(pattern, vertices, sites, set(given.layers))
    else:
        free = [_without(vertex, given) for vertex in vertices]
        found = _by_itself(free)
    ranks, hint = _ranks(vertices, found, given, pattern)
    return _placed(sites, vertices, found, ranks, given, hint)


def _given(sites: Sites, stem: Any, head: Any) -> _Given:
    picked = {}
    for name, selector in (("stem", stem), ("head", head)):
        positions = [] if selector is None else selectors.select(selector, sites)
        if selector is not None and not positions:
            raise RuleError(
                f"`{name}`={selectors.label(selector)!r} selects no layer with weights. The "
                f"nearest: {', '.join(selectors.nearest(selector, sites))}."
            )
        picked[name] = set(positions)
    both = picked["stem"] & picked["head"]
    if both:
        raise RuleError(
            f"`stem`={selectors.label(stem)!r} and `head`={selectors.label(head)!r} both select "
            f"{listed(sites[i].path for i in sorted(both))}. Pass a longer path for one of them."
        )
    layers = {}
    for name, chosen in picked.items():
        own = {id(sites[i].weight) for i in chosen}
        for i in chosen:
            if all(id(weight) in own for weight in own_weights(sites[i].layer)):
                layers[id(sites[i].layer)] = name
    stem_ids, head_ids = ({id(sites[i].weight) for i in found} for found in picked.values())
    return _Given(stem_ids, head_ids, layers)


def _compiled(block: Any) -> re.Pattern[str] | None:
    if block is None or (isinstance(block, re.Pattern) and isinstance(block.pattern, str)):
        return block
    if not isinstance(block, str):
        raise TypeError(f"`block` is a regular expression over text; received {block!r}.")
    try:
        return re.compile(block)
    except re.error as error:
        raise RuleError(f"`block`={block!r} is no regular expression: {error}.") from error


def _graph(model: Any, given: _Given, is_split: bool) -> list[Vertex] | None:
    """Gives the graph of `model`, or that of the one layer in it that is not given."""
    vertices = graph.graph(model, is_split)
    if vertices is not None or any(
        id(w) not in given.stem | given.head for w in own_weights(model)
    ):
        return vertices
    children = [
        child
        for child in kinds.weighted_children(model)
        if any(id(layer) not in given.layers for layer in kinds.owners_in(child))
    ]
    if len(children) != 1 or not kinds.is_model(model):
        return None
    vertices = _graph(children[0], given, is_split)
    if vertices is None:
        return None
    return [replace(vertex, chain=(model, *vertex.chain)) for vertex in vertices]


def _without(vertex: Vertex, given: _Given) -> Vertex:
    """Gives `vertex` without what the user has placed, for finding the blocks."""
    if vertex.layers and all(id(layer) in given.layers for layer in vertex.layers):
        return replace(vertex, layers=[], kernels=0)
    return vertex


def _by_itself(vertices: list[Vertex]) -> Blocks:
    """Gives the blocks that names or the graph tell."""
    try:
        found = blocks.by_names(vertices)
    except OutOfOrderError as error:
        raise RuleError(
            f"The blocks of this network are not one after the other: {error}. Paths: "
            f"{listed(vertex.path for vertex in vertices if vertex.layers)}. {ADVICE}"
        ) from None
    if found is not None:
        return found
    weighted = [i for i, vertex in enumerate(vertices) if vertex.layers]
    scope = _scope(vertices)
    inside = [i for i, vertex in enumerate(vertices) if vertex.chain[: len(scope)] == scope]
    is_last = not set(weighted) - set(inside) or max(weighted) == max(set(inside) & set(weighted))
    ends = heads.in_scope(vertices, inside, scope) if is_last else set()
    whole = heads.whole(vertices, ends, scope, set())
    least = 2 if any(vertices[i].enlarges for i in whole) else 1  # as in `_scope`, for a decoder
    before = blocks.kernels_of(vertices, set(inside) - whole)
    is_named = all(heads.is_named(vertices[i].chain[len(scope)]) for i in whole - ends)
    if is_named or blocks.kernels_of(vertices, whole) * least < before:
        ends = whole
    return stretches.by_stretches(vertices, inside, ends)


def _scope(vertices: Sequence[Vertex]) -> tuple[Any, ...]:
    """Gives the layers down to the innermost model that holds more than half of the kernels.

    Not down to a model that is named a head, nor to an encoder before a decoder that
    has more than half of its kernels.
    """
    scope: tuple[Any, ...] = vertices[0].chain[:1]
    total = sum(vertex.kernels for vertex in vertices)
    while True:
        held: dict[int, int] = {}
        chains = {}
        enlarging: set[int] = set()
        for vertex in vertices:
            if len(vertex.chain) > len(scope) + 1 and vertex.chain[: len(scope)] == scope:
                key = id(vertex.chain[len(scope)])
                if heads.is_named(vertex.chain[len(scope)]):
                    continue
                enlarging |= {key} if vertex.enlarges else set()
                held[key] = held.get(key, 0) + vertex.kernels
                chains[key] = vertex.chain[: len(scope) + 1]
        most = max(held, key=held.__getitem__, default=None)
        if most is None or held[most] * 2 <= total:
            return scope
        if any(held[key] * 2 > held[most] for key in enlarging - {most}):
            return scope
        scope = chains[most]


# Ranks.


def _ranks(
    vertices: Sequence[Vertex], found: Blocks, given: _Given, pattern: Any
) -> tuple[list[int], str]:
    """Gives the rank of every vertex, and what to say about the neck."""
    count = len(found.units)
    block_of = {i: n for n, members in enumerate(found.units.values()) for i in members}
    before = blocks.before_each(vertices, found.units)
    after = ways.after_each(vertices, block_of)
    head, neck = count + 2, count + 1
    for i, vertex in enumerate(vertices):
        if i not in block_of:
            _check_given(vertex, before[i], after[i], given, list(found.units))
    scope = blocks.holder(vertices, found.units) if found.units else vertices[0].chain[:1]
    outer = {i for i, v in enumerate(vertices) if v.chain[: len(scope)] != scope}
    has_outer_head = any(vertices[i].layers and not after[i] for i in outer) and bool(count)
    ends: set[int] = set()
    if not given.head and not has_outer_head:
        ends = heads.in_scope(vertices, range(len(vertices)), scope)
        ends = heads.whole(vertices, ends, scope, set(block_of))
        ends = {i for i in ends if i not in block_of and not after[i]}
    children = ways.children(vertices)
    ranks, lost = [], []
    for i, vertex in enumerate(vertices):
        said = {given.layers.get(id(layer)) for layer in vertex.layers} or {None}
        if i in block_of:
            rank = block_of[i] + 1
        elif said == {"stem"}:
            rank = 0
        elif said == {"head"} or i in ends:
            rank = head
        elif not vertex.is_placed:
            lost.append(i)
            rank = 0
        elif after[i]:
            rank = ways.rank_before(vertices, children, i, before, after, block_of)
        elif before[i]:
            rank = ways.closed(vertices, children, i, before, after, block_of) or neck
            is_outer = i in outer and not given.head
            rank = head if is_outer and rank == neck else rank
        elif not count:
            rank = 0
        elif i in outer and not given.head and has_outer_head:
            rank = head
        else:
            lost += [i] if vertex.layers else []
            rank = neck
        ranks.append(rank)
    if lost:
        paths = listed(
            layer.name if layer is not vertices[i].layer else vertices[i].path
            for i in lost
            for layer in vertices[i].layers
        )
        raise RuleError(
            f"Whether these come before or after the blocks cannot be told: {paths}. Say it with "
            "`stem=` and `head=`."
        )
    _check_filled(vertices, ranks, found, pattern)
    between = [
        v.path for v, rank in zip(vertices, ranks, strict=True) if rank == neck and v.kernels
    ]
    hint = ""
    if between and not given.head and ends:
        hint = (
            f"Between the last block and the output: {listed(between, 4)}. To have them in the "
            "head, pass head=[...] with them and the last layer."
        )
    return ranks, hint


def _check_given(
    vertex: Vertex, before: int, after: int, given: _Given, names: Sequence[str]
) -> None:
    for weight in (weight for layer in vertex.layers for weight in own_weights(layer)):
        if id(weight) in given.head and after:
            which = names[after.bit_length() - 1]
            raise RuleError(
                f"`head` selects {vertex.path!r}, which is in the middle: the block {which!r} "
                "comes after it. Pass a longer path that selects only what makes the outputs."
            )
        if id(weight) in given.stem and before:
            which = names[before.bit_length() - 1]
            raise RuleError(
                f"`stem` selects {vertex.path!r}, which is in the middle: the block {which!r} "
                "comes before it. Pass a longer path that selects only what precedes the blocks."
            )


def _check_filled(
    vertices: Sequence[Vertex], ranks: Sequence[int], found: Blocks, pattern: Any
) -> None:
    """Raises where a pattern's blocks would take in more than they match."""
    if pattern is None:
        return
    weighted = [i for i, vertex in enumerate(vertices) if vertex.layers]
    matched: set[int] = set().union(*found.units.values())
    filled = [i for i in weighted if i not in matched and 0 < ranks[i] <= len(found.units)]
    for n, (name, members) in enumerate(found.units.items()):
        inside = [i for i in filled if ranks[i] == n + 1 and min(members) < i < max(members)]
        is_whole = weighted[0] in members and weighted[-1] in members
        kernels = blocks.kernels_of(vertices, inside)
        if kernels > blocks.kernels_of(vertices, members) or (is_whole and kernels):
            raise RuleError(
                f"`block`={pattern.pattern!r} joins layers that lie apart into one block: "
                f"{listed((vertices[i].path for i in sorted(members)), 4)}, with "
                f"{listed((vertices[i].path for i in inside), 4)} between them. Say more in the "
                "pattern, such as the number of the block."
            )
        if len(weighted) > 1 and members == set(weighted) and not re.search(r"\d", name):
            raise RuleError(
                f"`block`={pattern.pattern!r} joins the whole network into one block, from its "
                f"first layer to its last: {listed((vertices[i].path for i in weighted), 4)}. Say "
                "more in the pattern, such as the number of the block."
            )
    if blocks.kernels_of(vertices, filled) > blocks.kernels_of(vertices, matched):
        raise RuleError(
            f"`block`={pattern.pattern!r} leaves most layers between the blocks: "
            f"{listed(vertices[i].path for i in filled)}. Say less in the pattern, so that it "
            "matches the layers of every block."
        )


def _placed(
    sites: Sites,
    vertices: Sequence[Vertex],
    found: Blocks,
    ranks: Sequence[int],
    given: _Given,
    hint: str,
) -> Placed:
    count = len(found.units)
    rank_of: dict[int, int] = {}
    layers: list[list[Any]] = [[] for _ in range(count + 3)]
    for vertex, rank in zip(vertices, ranks, strict=True):
        for layer in vertex.layers:
            rank_of[id(layer)] = min(rank, rank_of.get(id(layer), rank))
        is_later_call = not vertex.layers and getattr(vertex.layer, "weights", None)
        is_layer = isinstance(vertex.layer, keras.Layer) and not is_later_call
        parts = [vertex.layer] if is_layer else []
        inner = {id(layer) for layer in vertex.layers}
        whole = bool(parts) and inner == {id(layer) for layer in kinds.owners_in(vertex.layer)}
        layers[rank] += parts if whole or not vertex.layers else vertex.layers
    weights, lost, middle = {}, [], []
    for site in sites:
        key = id(site.weight)
        owners = [rank_of[id(chain[-1])] for chain in site.chains if id(chain[-1]) in rank_of]
        said = 0 if key in given.stem else count + 2 if key in given.head else None
        if said is None and not owners:
            lost.append(site.layer_path)
            continue
        if said is not None and any(0 < rank <= count for rank in owners):
            middle.append(site.path)
        if said is None and site.weight.name == "reverse_embeddings":
            said = count + 2  # the output's matrix, in a layer that is first called on the inputs
        weights[key] = min(owners) if said is None else said
    if lost:
        raise RuleError(
            f"These layers are not in the graph of the model, so that their part cannot be told: "
            f"{listed(lost)}. Say it with `stem=` and `head=`."
        )
    if middle:
        raise RuleError(
            f"`stem` or `head` selects what is in the middle, inside a block: {listed(middle)}. "
            "Pass a longer path, or other blocks with `block=`."
        )
    names = _short(found.units)
    return Placed(names, weights, layers, found.how, hint)


def _short(paths: Sequence[str] | dict[str, Any]) -> list[str]:
    """Gives the paths without the containers that all of them are in."""
    parts = [path.split("/") for path in paths]
    size = 0
    while parts and all(len(p) > size + 1 and p[size] == parts[0][size] for p in parts):
        size += 1
    return ["/".join(part[size:]) for part in parts]
