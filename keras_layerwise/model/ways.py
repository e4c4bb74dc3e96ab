"""Follows the data from a layer to the blocks before and after it."""

from collections.abc import Sequence

from keras_layerwise.model.graph import Vertex


def after_each(vertices: Sequence[Vertex], block_of: dict[int, int]) -> list[int]:
    """Gives the blocks that come after each vertex, as bits."""
    after = [0] * len(vertices)
    for i in range(len(vertices) - 1, -1, -1):
        mine = after[i] | (1 << block_of[i] if i in block_of else 0)
        for parent in vertices[i].parents:
            after[parent] |= mine
    return after


def rank_before(
    vertices: Sequence[Vertex],
    consumers: Sequence[Sequence[int]],
    i: int,
    before: Sequence[int],
    after: Sequence[int],
    block_of: dict[int, int],
) -> int:
    """Gives the rank of what a block follows: the stem, or the block that consumes it."""
    last = before[i].bit_length() - 1
    following = (after[i] & -after[i]).bit_length() - 1
    if following <= last:
        return last + 1  # between two layers of one block
    around = closed(vertices, consumers, i, before, after, block_of)
    if around is not None:
        return around
    return following + 1 if last >= 0 else 0


def closed(
    vertices: Sequence[Vertex],
    consumers: Sequence[Sequence[int]],
    i: int,
    before: Sequence[int],
    after: Sequence[int],
    block_of: dict[int, int],
) -> int | None:
    """Gives the rank of the one block that `i` leads around, as a shortcut does."""
    if not vertices[i].layers:
        return None
    todo, seen = [i], {i}
    while todo:
        for child in consumers[todo.pop()]:
            if child in seen or child in block_of:
                continue
            seen.add(child)
            vertex = vertices[child]
            if vertex.joins and "add" in type(vertex.layer).__name__.lower():
                around = before[child].bit_length() - 1
                is_beside = around == before[i].bit_length() and not after[i] >> around & 1
                return around + 1 if is_beside else None
            todo.append(child)
    return None


def children(vertices: Sequence[Vertex]) -> list[list[int]]:
    """Gives the vertices that each one's output goes to."""
    found: list[list[int]] = [[] for _ in vertices]
    for i, vertex in enumerate(vertices):
        for parent in vertex.parents:
            found[parent].append(i)
    return found
