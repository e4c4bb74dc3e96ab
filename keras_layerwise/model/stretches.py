"""Finds blocks by the graph alone, where names tell nothing.

A *point* is a vertex through which all data passes. Between two points that
are not neighbours lies a *stretch* with branches: a residual block, an
inception module. Where an encoder makes images smaller and a decoder makes
them larger again, as in a U-Net, the arcs between the two lead around what is
below them; without these arcs the network is a chain with points.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_layerwise.errors import RuleError
from keras_layerwise.model import kinds
from keras_layerwise.model.blocks import ADVICE, Blocks, kernels_of, listed
from keras_layerwise.model.graph import Vertex

# A layer or stretch with more kernels than this, and with most of a network's,
# holds blocks that are not seen.
_MOST_IN_ONE_LAYER = 12
_DEEPEST_STRETCH = 3


@dataclass
class _Piece:
    members: list[int]
    kernels: int
    has_branches: bool
    norms: list[int] = field(default_factory=list)


def by_stretches(vertices: Sequence[Vertex], inside: Sequence[int], heads: set[int]) -> Blocks:
    """Blocks from the points through which all data passes.

    Args:
        vertices: the network.
        inside: positions of those among which the blocks are.
        heads: positions of what makes the outputs.

    Raises:
        RuleError: where the graph does not tell.
    """
    carries = _carriers(vertices)
    chosen = [i for i in inside if i not in heads and carries[i]]
    around = _arcs_around(vertices, carries)
    is_chain = _leads_on(vertices, around)
    pieces = _pieces(vertices, chosen, heads, around if is_chain else set())
    _check(vertices, pieces, heads, set() if is_chain else {child for _, child in around})
    branching = [piece for piece in pieces if piece.has_branches]
    held = sum(piece.kernels for piece in branching)
    if len(branching) > 1 and held * 2 > sum(piece.kernels for piece in pieces):
        blocks = _with_attention(vertices, branching)
        how = "stretches between the points that all data passes"
    else:
        blocks = [piece.members for piece in pieces if piece.kernels]
        how = "layers with a kernel"
    if around and is_chain:
        how += ", the encoder's before the decoder's"
    return Blocks({_name(vertices, members): set(members) for members in blocks}, how)


def _carriers(vertices: Sequence[Vertex]) -> list[bool]:
    """Tells which vertices are or follow a layer with weights; masks and inputs are not."""
    carries: list[bool] = []
    for vertex in vertices:
        carries.append(bool(vertex.layers) or any(carries[parent] for parent in vertex.parents))
    return carries


def _arcs_around(vertices: Sequence[Vertex], carries: Sequence[bool]) -> set[tuple[int, int]]:
    """Gives the arcs, from a parent to its child, by which an encoder's outputs reach its decoder.

    Where data is brought together, some of it has been made larger more often.
    What has been less often comes from above.
    """
    often: list[int] = []
    for i, vertex in enumerate(vertices):
        above = max((often[parent] for parent in vertex.parents), default=0)
        often.append(above + (vertex.enlarges and carries[i]))
    return {
        (parent, i)
        for i, vertex in enumerate(vertices)
        for parent in vertex.parents
        if carries[parent] and often[parent] < max(often[other] for other in vertex.parents)
    }


def _leads_on(vertices: Sequence[Vertex], without: set[tuple[int, int]]) -> bool:
    """Tells whether each layer with weights still leads to an output without these arcs."""
    reaches = [True] * len(vertices)
    for vertex in vertices:
        for parent in vertex.parents:
            reaches[parent] = False
    for child in range(len(vertices) - 1, -1, -1):
        for parent in vertices[child].parents:
            reaches[parent] |= reaches[child] and (parent, child) not in without
    return all(reaches[i] for i, vertex in enumerate(vertices) if vertex.layers)


def _pieces(
    vertices: Sequence[Vertex],
    chosen: Sequence[int],
    heads: set[int],
    without: set[tuple[int, int]],
) -> list[_Piece]:
    """Stretches with branches, and layers with a kernel with what follows them.

    Args:
        vertices: the network.
        chosen: positions of those that are looked at.
        heads: positions of what makes the outputs.
        without: arcs that are left aside.
    """
    place = {i: n for n, i in enumerate(chosen)}
    size = len(chosen)
    skipped = [0] * (size + 2)
    ends = [True] * size
    for n, i in enumerate(chosen):
        parents = {
            place[parent]
            for parent in vertices[i].parents
            if parent in place and (parent, i) not in without
        }
        for parent in parents or {-1}:
            if parent >= 0:
                ends[parent] = False
            # the points from the parent to here, both left out, are passed by
            skipped[parent + 1] += 1
            skipped[n] -= 1
    for head in heads:
        for parent in vertices[head].parents & place.keys():
            ends[place[parent]] = True
    for n in range(size):
        if ends[n]:
            skipped[n + 1] += 1
            skipped[size] -= 1
    pieces: list[_Piece] = []
    open_count, stretch = 0, []
    for n, i in enumerate(chosen):
        open_count += skipped[n]
        if open_count > 0:
            stretch.append(i)
            continue
        if any(vertices[k].layers for k in stretch):
            members = [*stretch, i]
            pieces.append(_Piece(members, kernels_of(vertices, members), True))
        elif vertices[i].kernels or (vertices[i].layers and not pieces):
            pieces.append(_Piece([i], vertices[i].kernels, False))
        elif vertices[i].layers:
            pieces[-1].norms.append(i)
        stretch = []
    rest = [k for k in stretch if vertices[k].layers]
    branching = [piece for piece in pieces if piece.has_branches]
    if len(branching) > 1 and branching[-1].norms and not branching[-2].norms:
        branching[-1].norms.clear()  # the final norm of a network is in no block
    for piece in pieces:
        piece.members += piece.norms
    if rest and not heads:  # what lies between the last point and the heads is no block
        pieces.append(_Piece(rest, kernels_of(vertices, rest), True))
    return pieces


def _check(
    vertices: Sequence[Vertex], pieces: Sequence[_Piece], heads: set[int], meeting: set[int]
) -> None:
    """Raises where a piece holds what should be several blocks.

    Args:
        vertices: the network.
        pieces: what was found.
        heads: positions of what makes the outputs.
        meeting: positions at which a decoder takes what an encoder made.
    """
    total = sum(piece.kernels for piece in pieces) + kernels_of(vertices, heads)
    for piece in pieces:
        is_hourglass = piece.has_branches and len(meeting & set(piece.members)) > 1
        if piece.kernels * 2 <= total and not is_hourglass:
            continue
        deepest = 1 if _has_towers(vertices, piece.members) else _DEEPEST_STRETCH
        is_tangled = piece.has_branches and _depth(vertices, piece.members) > deepest
        hides_blocks = any(vertices[i].kernels > _MOST_IN_ONE_LAYER for i in piece.members)
        if is_tangled or is_hourglass or hides_blocks:
            paths = listed(vertices[i].path for i in piece.members if vertices[i].layers)
            what = (
                "branches that run beside each other"
                if is_tangled or is_hourglass
                else "a layer that holds most of the network"
            )
            raise RuleError(
                f"The blocks of this network cannot be told: it has {what}. Their paths: {paths}. "
                f"{ADVICE}"
            )


def _has_towers(vertices: Sequence[Vertex], members: Sequence[int]) -> bool:
    """Tells whether several inputs of the network are first brought together in `members`."""
    sources: list[set[int]] = []
    for i, vertex in enumerate(vertices):
        found = set().union(*(sources[parent] for parent in vertex.parents))
        sources.append(found if vertex.parents else {i})
    first = [i for i in members if not vertices[i].parents & set(members) and vertices[i].layers]
    return len({frozenset(sources[i]) for i in first}) > 1


def _depth(vertices: Sequence[Vertex], members: Sequence[int]) -> int:
    """Gives the most kernels on one way through `members`."""
    depth: dict[int, int] = {}
    for i in members:
        above = max((depth.get(parent, 0) for parent in vertices[i].parents), default=0)
        depth[i] = above + (vertices[i].kernels > 0)
    return max(depth.values())


def _with_attention(vertices: Sequence[Vertex], pieces: Sequence[_Piece]) -> list[list[int]]:
    """Joins the stretch of attention with the one of the feed-forward layers after it."""
    attends = [
        any("Attention" in type(vertices[i].layer).__name__ for i in piece.members)
        for piece in pieces
    ]
    # After each attention equally many others: the layers of a transformer. Where these
    # numbers differ, attention is one block among others, and what follows it is its end.
    text = "".join("a" if found else "o" for found in attends)
    others = [len(run) for run in re.split("a+", text)[1:]]
    is_regular = len(set(others)) == 1 and (len(others) > 1 or others[0] == 1)
    if not any(others):
        return [piece.members for piece in pieces]
    blocks: list[list[int]] = []
    for n, piece in enumerate(pieces):
        joins = any(attends[:n]) and not attends[n] if is_regular else False
        if joins or (n and attends[n - 1]):
            blocks[-1] += piece.members
        else:
            blocks.append(list(piece.members))
    return blocks


def _name(vertices: Sequence[Vertex], members: Sequence[int]) -> str:
    """Gives the join of a stretch where it has a name of its own, or else its first layer."""
    for i in reversed(members):
        vertex = vertices[i]
        is_named = isinstance(vertex.layer, keras.Layer) and not kinds.is_automatic(vertex.layer)
        if vertex.joins and is_named:
            return vertex.path
    return next(vertices[i].path for i in members if vertices[i].layers)


def outputs_of(vertices: Sequence[Vertex], inside: Sequence[int]) -> set[int]:
    """Positions of the layers with a kernel that make the outputs.

    Not one that a normalisation or a join follows: that is a backbone's end.
    """
    after: dict[int, Any] = {}
    chosen = set(inside)
    for i in reversed(inside):
        follows = after.get(i, False)
        sums = vertices[i].joins and "concat" not in type(vertices[i].layer).__name__.lower()
        blocks_head = follows or bool(vertices[i].layers) or sums
        for parent in vertices[i].parents & chosen:
            after[parent] = after.get(parent, False) or blocks_head
    return {i for i in inside if vertices[i].kernels and not after.get(i, False)}
