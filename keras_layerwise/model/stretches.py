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

import keras

from keras_layerwise.errors import RuleError
from keras_layerwise.model import kinds
from keras_layerwise.model.blocks import ADVICE, Blocks, kernels_of, listed
from keras_layerwise.model.graph import Vertex

# A layer or stretch with more kernels than this, and with most of a network's,
# holds blocks that are not seen.
_MOST_IN_ONE_LAYER = 12
_DEEPEST_STRETCH = 3
_PRODUCTS = re.compile("Matmul|Einsum|Dot")
_TURNS = re.compile("Permute|Transpose|Swapaxes|Moveaxis")


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
    ended = _and_after(vertices, heads)  # as the softmax after the last layer
    chosen = [i for i in inside if i not in ended and carries[i]]
    around = _arcs_around(vertices, carries)
    is_chain = _leads_on(vertices, around)
    without = around if is_chain else set()
    opening = _sum_with_input(vertices, carries, chosen)
    pieces, rest = _pieces(vertices, chosen, heads, without, opening)
    trunk, last = _trunk(vertices, chosen, rest, heads)
    if trunk:
        found, beyond = _pieces(vertices, trunk, last, without, opening)
        has_more = sum(p.has_branches for p in found) > sum(p.has_branches for p in pieces)
        if has_more or _depth(vertices, rest) > _DEEPEST_STRETCH:
            pieces, rest = found, beyond
    _check(vertices, pieces, rest, heads, set() if is_chain else {child for _, child in around})
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
        follows = any(carries[parent] for parent in vertex.parents)
        carries.append(bool(vertex.layers) or (follows and not vertex.is_mask))
    return carries


def _and_after(vertices: Sequence[Vertex], heads: set[int]) -> set[int]:
    """Gives `heads` and what follows them."""
    found = set(heads)
    for i, vertex in enumerate(vertices):
        if vertex.parents & found:
            found.add(i)
    return found


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


def _sum_with_input(
    vertices: Sequence[Vertex], carries: Sequence[bool], chosen: Sequence[int]
) -> int | None:
    """Gives the sum that ends a first block by adding the network's own input to what it made."""
    for n, i in enumerate(chosen):
        raw = {p for p in vertices[i].parents if not carries[p] and not vertices[p].is_mask}
        if not raw or not _is_sum(vertices[i]):
            continue
        branch = chosen[:n]
        kernels = kernels_of(vertices, branch)
        is_short = 0 < _depth(vertices, branch) <= _DEEPEST_STRETCH
        is_first = kernels * 2 < kernels_of(vertices, chosen)
        is_residual = any(raw & vertices[k].parents for k in branch)
        return i if is_short and is_first and is_residual else None
    return None


def _is_sum(vertex: Vertex) -> bool:
    return vertex.joins and "add" in type(vertex.layer).__name__.lower()


def _trunk(
    vertices: Sequence[Vertex], chosen: Sequence[int], rest: Sequence[int], heads: set[int]
) -> tuple[list[int], set[int]]:
    """Gives what leads to the deepest outputs, and these, where others leave it earlier.

    So do auxiliary classifiers. Nothing where what leads to the others is no
    shorter than half of what goes on.
    """
    if not rest or len(heads) < 2:
        return [], set()
    after = sorted({*rest, *heads})
    depths = _depths(vertices, after)
    deepest = max(depths[head] for head in heads)
    last = {head for head in heads if depths[head] == deepest}
    leads = set(last)
    for i in range(len(vertices) - 1, -1, -1):
        leads |= vertices[i].parents if i in leads else set()
    beside = _depths(vertices, [i for i in after if i not in leads])
    aside = max((beside[head] for head in heads - last), default=0) - 1
    is_longer = heads != last and deepest - 1 > 2 * aside
    return ([i for i in chosen if i in leads], last) if is_longer else ([], set())


def _pieces(
    vertices: Sequence[Vertex],
    chosen: Sequence[int],
    heads: set[int],
    without: set[tuple[int, int]],
    opening: int | None,
) -> tuple[list[_Piece], list[int]]:
    """Gives stretches with branches, layers with a kernel with what follows them, and the rest.

    The rest lies between the last point and several outputs, and is in no block.

    Args:
        vertices: the network.
        chosen: positions of those that are looked at.
        heads: positions of what makes the outputs.
        without: arcs that are left aside.
        opening: the position of a sum that the network's own input leads to.
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
        for parent in parents | {-1} if i == opening else parents or {-1}:
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
    rest = stretch if any(vertices[k].layers for k in stretch) else []
    branching = [piece for piece in pieces if piece.has_branches]
    if len(branching) > 1 and branching[-1].norms and not branching[-2].norms:
        branching[-1].norms.clear()  # the final norm of a network is in no block
    for piece in pieces:
        piece.members += piece.norms
    if rest and not heads:
        pieces.append(_Piece(rest, kernels_of(vertices, rest), True))
        rest = []
    return pieces, rest


def _check(
    vertices: Sequence[Vertex],
    pieces: Sequence[_Piece],
    rest: Sequence[int],
    heads: set[int],
    meeting: set[int],
) -> None:
    """Raises where a piece, or what follows the last one, holds what should be several blocks.

    Args:
        vertices: the network.
        pieces: what was found.
        rest: positions of what lies between the last piece and several outputs.
        heads: positions of what makes the outputs.
        meeting: positions at which a decoder takes what an encoder made.
    """
    if rest and (
        _depth(vertices, rest) > _DEEPEST_STRETCH or not any(piece.kernels for piece in pieces)
    ):
        raise _untold(vertices, rest, "branches that run beside each other")
    total = sum(piece.kernels for piece in pieces) + kernels_of(vertices, [*heads, *rest])
    for piece in pieces:
        is_hourglass = piece.has_branches and len(meeting & set(piece.members)) > 1
        if piece.kernels * 2 <= total and not is_hourglass:
            continue
        deepest = 1 if _has_towers(vertices, piece.members) else _DEEPEST_STRETCH
        is_tangled = piece.has_branches and _depth(vertices, piece.members) > deepest
        if is_tangled or is_hourglass:
            raise _untold(vertices, piece.members, "branches that run beside each other")
        if any(vertices[i].kernels > _MOST_IN_ONE_LAYER for i in piece.members):
            raise _untold(vertices, piece.members, "a layer that holds most of the network")


def _untold(vertices: Sequence[Vertex], members: Sequence[int], what: str) -> RuleError:
    paths = listed(vertices[i].path for i in members if vertices[i].layers)
    return RuleError(
        f"The blocks of this network cannot be told: it has {what}. Their paths: {paths}. {ADVICE}"
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
    return max(_depths(vertices, members).values(), default=0)


def _depths(vertices: Sequence[Vertex], members: Sequence[int]) -> dict[int, int]:
    """Gives the most kernels on a way through `members` to each of them, which are in order."""
    depth: dict[int, int] = {}
    for i in members:
        above = max((depth.get(parent, 0) for parent in vertices[i].parents), default=0)
        depth[i] = above + (vertices[i].kernels > 0)
    return depth


def _with_attention(vertices: Sequence[Vertex], pieces: Sequence[_Piece]) -> list[list[int]]:
    """Joins the stretch of attention with the one of the feed-forward layers after it."""
    attends = [
        any(_attends(vertices[i]) for i in piece.members) or _mixes(vertices, piece.members)
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


def _attends(vertex: Vertex) -> bool:
    """Tells whether it is attention, or the product of two tensors that attention by hand has."""
    name = type(vertex.layer).__name__
    return "Attention" in name or (
        _PRODUCTS.fullmatch(name) is not None and len(vertex.parents) > 1
    )


def _mixes(vertices: Sequence[Vertex], members: Sequence[int]) -> bool:
    """Tells whether a kernel takes axes that have changed places, as an MLP-Mixer's the tokens."""
    kinds_of = [type(vertices[i].layer).__name__ for i in members]
    turns = [n for n, kind in enumerate(kinds_of) if _TURNS.fullmatch(kind)]
    return bool(turns) and any(vertices[i].kernels for i in members[turns[0] : turns[-1]])


def _name(vertices: Sequence[Vertex], members: Sequence[int]) -> str:
    """Gives the join of a stretch where it has a name of its own, or else its first layer."""
    for i in reversed(members):
        vertex = vertices[i]
        is_named = isinstance(vertex.layer, keras.Layer) and not kinds.is_automatic(vertex.layer)
        if vertex.joins and is_named:
            return vertex.path
    return next(vertices[i].path for i in members if vertices[i].layers)
