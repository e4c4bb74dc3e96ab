"""Finds the blocks of a network: by names that agree with the graph, or by the graph alone."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_layerwise.model import kinds
from keras_layerwise.model.graph import Vertex

ADVICE = (
    "Pass `block=`, a regular expression that is searched in the layers' paths (what it matches "
    "the same is one block), and `stem=` and `head=`, selectors, for what comes before and after."
)
# A letter is part of the number in block2a_conv, and not in conv2d_1 or block1conv.
_NUMBER = re.compile(r"\d+(?:[a-z](?![a-z0-9]))?")

Units = dict[str, set[int]]


@dataclass
class Blocks:
    """Blocks in the order in which data passes.

    Attributes:
        units: positions of the vertices of each block, by its path.
        how: what they were found by, for the user.
        heads: positions of the vertices that make the outputs, where the way
            of finding blocks tells.
    """

    units: Units
    how: str
    heads: set[int] = field(default_factory=set)


class OutOfOrderError(Exception):
    """Blocks of which neither comes before the other."""


def listed(paths: Iterable[str], limit: int = 12) -> str:
    """Paths for an error message."""
    unique = list(dict.fromkeys(paths))
    more = f" and {len(unique) - limit} more" if len(unique) > limit else ""
    return ", ".join(unique[:limit]) + more


def kernels_of(vertices: Sequence[Vertex], members: Iterable[int]) -> int:
    """Tells how many layers with a kernel are in `members`."""
    return sum(vertices[i].kernels for i in members)


def before_each(vertices: Sequence[Vertex], units: Units) -> list[int]:
    """Gives the units that come before each vertex, as bits in the order of `units`."""
    label = {i: bit for bit, members in enumerate(units.values()) for i in members}
    before = [0] * len(vertices)
    for i, vertex in enumerate(vertices):
        for parent in vertex.parents:
            before[i] |= before[parent] | (1 << label[parent] if parent in label else 0)
    return before


def in_order(vertices: Sequence[Vertex], units: Units) -> Units:
    """Gives the units in the order in which data passes.

    Raises:
        OutOfOrderError: where two of them pass data to each other or lie on
            parallel branches.
    """
    before = before_each(vertices, units)
    names = list(units)
    masks = []
    for bit, members in enumerate(units.values()):
        mask = 0
        for i in members:
            mask |= before[i]
        masks.append(mask & ~(1 << bit))
    order = sorted(range(len(names)), key=lambda bit: masks[bit].bit_count())
    seen = 0
    for place, bit in enumerate(order):
        if masks[bit] != seen:
            other = order[place - 1] if masks[bit] & seen != seen else _first(masks[bit] & ~seen)
            kind = (
                "pass data to each other"
                if masks[bit] >> other & 1 and masks[other] >> bit & 1
                else "lie on branches of which neither comes first"
            )
            raise OutOfOrderError(f"{names[bit]!r} and {names[other]!r} {kind}")
        seen |= 1 << bit
    return {names[bit]: units[names[bit]] for bit in order}


def _first(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


# By names.


def by_names(vertices: Sequence[Vertex]) -> Blocks | None:
    """Units with a common stem and a number, where they agree with the graph.

    Raises:
        OutOfOrderError: where the names do not agree with the graph.
    """
    templates = _templates(vertices)
    templates = {key: u for key, u in templates.items() if not _are_outputs(vertices, u)}
    strong = {
        key: units
        for key, units in templates.items()
        if _is_strong(vertices, units) and not _is_mixed(vertices, units)
    }
    if not strong:
        strong = _interleaved(vertices, templates) or _weak(vertices, templates)
    if not strong:
        return None
    chosen: dict[str, Units] = {}
    for key in strong:
        if not any(key != other and key.startswith(other) for other in strong):
            chosen.update(_refined(vertices, key, strong))
    main = max(chosen, key=lambda key: kernels_of(vertices, set().union(*chosen[key].values())))
    scope = _scope(vertices, chosen, main)
    units: Units = {}
    for found in chosen.values():
        inside = {
            path: members
            for path, members in found.items()
            if all(vertices[i].chain[: len(scope)] == scope for i in members)
        }
        units.update(inside)
    units = _unnumbered_first(vertices, units) | units
    return Blocks(in_order(vertices, _joined(vertices, units, templates)), "names")


def _scope(vertices: Sequence[Vertex], chosen: dict[str, Units], main: str) -> tuple[Any, ...]:
    """Gives the layers down to the model that holds the blocks: `main`, and others of their size.

    What is outside, comes after them and is smaller is a head.

    Raises:
        OutOfOrderError: where blocks are in another model beside that of `main`.
    """
    scope, units = holder(vertices, chosen[main]), chosen[main]
    size = kernels_of(vertices, set().union(*units.values()))
    for found in chosen.values():
        outside = {
            path: members
            for path, members in found.items()
            if any(vertices[i].chain[: len(scope)] != scope for i in members)
        }
        if len(outside) < 2:
            continue
        above, below = before_each(vertices, units), before_each(vertices, outside)
        leads_on = any(below[i] for members in units.values() for i in members)
        for path, members in outside.items():
            if not leads_on and not any(above[i] for i in members):
                raise OutOfOrderError(
                    f"{path!r} and {next(iter(units))!r} lie on branches of which neither comes "
                    "first"
                )
        if not leads_on and kernels_of(vertices, set().union(*outside.values())) * 2 < size:
            continue  # a head
        try:
            units = in_order(vertices, units | outside)
        except OutOfOrderError:
            continue  # heads beside each other, after the blocks
    return holder(vertices, units)


def holder(vertices: Sequence[Vertex], units: Units) -> tuple[Any, ...]:
    """Gives the layers from the network down to the innermost model that holds all of `units`."""
    chains = [vertices[i].chain for members in units.values() for i in members]
    common = chains[0]
    for chain in chains:
        size = 0
        while size < min(len(common), len(chain)) and common[size] is chain[size]:
            size += 1
        common = common[:size]
    if len(units) == 1:
        # A unit's path may be that of a model itself; what holds it is outside of that.
        (path,) = units
        common = common[: path.count("/") + 1]
    while not kinds.is_model(common[-1]) and len(common) > 1:
        common = common[:-1]
    return common


def _templates(vertices: Sequence[Vertex]) -> dict[str, Units]:
    """Tells what names begin with, up to a number, by what it is without the number."""
    found: dict[str, Units] = {}
    for i, vertex in enumerate(vertices):
        if not (vertex.layers or vertex.joins):
            continue
        for path, template in _prefixes(vertex):
            found.setdefault(template, {}).setdefault(path, set()).add(i)
    return found


def _prefixes(vertex: Vertex) -> Iterator[tuple[str, str]]:
    base = ""
    for layer in vertex.chain[1:]:
        if not isinstance(layer, keras.Layer):
            return
        if kinds.is_automatic(layer):
            number = kinds.numbered(layer)
            if number:
                yield base + layer.name, _NUMBER.sub("#", base) + number[0] + "_#"
        else:
            for match in _NUMBER.finditer(layer.name):
                path = base + layer.name[: match.end()]
                yield path, _NUMBER.sub("#", path)
        base += layer.name + "/"


def _are_outputs(vertices: Sequence[Vertex], units: Units) -> bool:
    """Tells whether several units beside each other make the outputs, as numbered heads do."""
    if len(units) < 2:
        return False
    members: set[int] = set().union(*units.values())
    follows = set(members)
    for i in range(min(members), len(vertices)):
        if vertices[i].parents & follows:
            if vertices[i].layers and i not in members:
                return False
            follows.add(i)
    before = before_each(vertices, units)
    return not any(
        before[i] & ~(1 << bit) for bit, found in enumerate(units.values()) for i in found
    )


def _is_strong(vertices: Sequence[Vertex], units: Units) -> bool:
    """Tells whether most units have two layers with kernels, or one and a join."""
    strong = 0
    for members in units.values():
        kernels = kernels_of(vertices, members)
        strong += kernels > 1 or (kernels == 1 and any(vertices[i].joins for i in members))
    if len(units) == 1:
        # One numbered layer of blocks, as in a transformer of one layer.
        (members,) = units.values()
        whole = [vertices[i] for i in members]
        return strong == 1 and len(whole) == 1 and not kinds.is_leaf(whole[0].layer)
    return strong * 2 >= len(units)


def _is_mixed(vertices: Sequence[Vertex], units: Units) -> bool:
    """Tells whether units pass data to each other: the number then counts something else."""
    before = before_each(vertices, units)
    masks = [0] * len(units)
    for bit, members in enumerate(units.values()):
        for i in members:
            masks[bit] |= before[i]
    return any(
        masks[one] >> other & 1 and masks[other] >> one & 1
        for one in range(len(units))
        for other in range(one)
    )


def _weak(vertices: Sequence[Vertex], templates: dict[str, Units]) -> dict[str, Units]:
    """Gives numbered containers with one kernel each that hold most of the kernels."""
    total = sum(vertex.kernels for vertex in vertices)
    return {
        template: units
        for template, units in templates.items()
        if len(units) > 1
        and kernels_of(vertices, set().union(*units.values())) * 2 >= total
        and all(
            len(members) > 1 and all(vertices[i].path.startswith(f"{path}/") for i in members)
            for path, members in units.items()
        )
    }


def _indices(path: str) -> tuple[str, ...]:
    return tuple(_NUMBER.findall(path.rpartition("/")[2]))


def _interleaved(vertices: Sequence[Vertex], templates: dict[str, Units]) -> dict[str, Units]:
    """Units of several stems that share their numbers, as conv_dw_1 and conv_pw_1 do."""
    by_numbers: dict[Any, list[Units]] = {}
    for units in templates.values():
        if len(units) > 1 and all(kernels_of(vertices, members) for members in units.values()):
            by_numbers.setdefault(tuple(map(_indices, units)), []).append(units)
    for same in by_numbers.values():
        if len(same) < 2:
            continue
        merged = {
            path: set().union(*(list(units.values())[k] for units in same))
            for k, path in enumerate(same[0])
        }
        if _are_in_line(vertices, merged):
            return {"": merged}
    return {}


def _are_in_line(vertices: Sequence[Vertex], units: Units) -> bool:
    """Tells whether data passes within each unit, and from one to the next.

    It does not within a unit that takes a layer of each of two towers.
    """
    above: list[int] = []
    for vertex in vertices:
        found = 0
        for parent in vertex.parents:
            found |= above[parent] | 1 << parent
        above.append(found)
    try:
        in_order(vertices, units)
    except OutOfOrderError:
        return False
    return all(
        all(above[max(members)] >> i & 1 for i in members - {max(members)})
        for members in units.values()
    )


def _refined(vertices: Sequence[Vertex], key: str, strong: dict[str, Units]) -> dict[str, Units]:
    """Gives the smallest units within those of `key`, stages into blocks."""
    units = strong[key]
    inside = set().union(*units.values())
    total = kernels_of(vertices, inside)
    alike = kinds.are_alike(
        [
            kinds.shapes(layer for i in sorted(members) for layer in vertices[i].layers)
            for members in units.values()
        ]
    )
    for finer in sorted((k for k in strong if k != key and k.startswith(key)), key=len):
        covered = kernels_of(vertices, inside & set().union(*strong[finer].values()))
        if len(strong[finer]) <= len(units) or covered < (0.95 if alike else 0.6) * total:
            continue
        try:
            in_order(vertices, strong[finer])
        except OutOfOrderError:
            continue  # parallel parts of a block, as experts are
        return _refined(vertices, finer, strong)
    return {key: units}


def _unnumbered_first(vertices: Sequence[Vertex], units: Units) -> Units:
    """Finds the block before the first numbered one: the same names inside, without number."""
    inner: set[str] = set()
    for path, members in units.items():
        inner |= {vertices[i].path.removeprefix(path) for i in members if vertices[i].kernels}
    inner.discard("")
    taken = set().union(*units.values())
    groups: dict[str, set[int]] = {}
    for i, vertex in enumerate(vertices):
        if i in taken or not vertex.layers or not isinstance(vertex.layer, keras.Layer):
            continue
        for suffix in inner:
            if vertex.path.endswith(suffix) and not kinds.is_automatic(vertex.layer):
                groups.setdefault(vertex.path.removesuffix(suffix), set()).add(i)
    before = before_each(vertices, units)
    return {
        path: {
            i
            for i, vertex in enumerate(vertices)
            if i not in taken and vertex.layers and vertex.path.startswith(f"{path}_")
        }
        for path, members in groups.items()
        if kernels_of(vertices, members) > 1 and not any(before[i] for i in members)
    }


def _joined(vertices: Sequence[Vertex], units: Units, templates: dict[str, Units]) -> Units:
    """Gives the units with what has another stem and the same numbers, as bn2a_branch1 of res2a."""
    by_indices: dict[Any, str] = {_indices(path): path for path in units}
    taken = set().union(*units.values())
    for others in templates.values():
        free = {path: members - taken for path, members in others.items() if members - taken}
        if len(by_indices) < len(units) or not free or set(map(_indices, free)) != set(by_indices):
            continue
        joined = dict(units)
        for path, members in free.items():
            joined[by_indices[_indices(path)]] = joined[by_indices[_indices(path)]] | members
        try:
            in_order(vertices, joined)
        except OutOfOrderError:
            continue
        units, taken = joined, set().union(*joined.values())
    return units
