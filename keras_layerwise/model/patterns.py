"""Finds the blocks that a user's regular expression says."""

import re
from dataclasses import replace
from typing import Any

from keras_layerwise.errors import RuleError
from keras_layerwise.model import graph
from keras_layerwise.model.blocks import Blocks, OutOfOrderError, in_order, listed
from keras_layerwise.model.graph import Vertex
from keras_layerwise.model.structure import Sites


def blocks_of_layers(pattern: re.Pattern[str], sites: Sites) -> dict[int, str]:
    """Gives the block of every layer that `pattern` matches, by ``id``.

    Layers are one block where their paths are the same up to the end of the
    match; where the pattern has groups, where these are the same and the
    layers are in the same container.

    Raises:
        RuleError: where `pattern` matches no layer.
    """
    found: dict[int, str] = {}
    names: dict[Any, str] = {}
    for site in sites:
        if id(site.layer) in found:
            continue
        paths = ["/".join(part.name for part in chain[1:]) for chain in site.chains]
        for path in dict.fromkeys([site.layer_path, *paths]):
            match = pattern.search(path)
            if match:
                container = path[: match.start()].rpartition("/")[0]
                key = (container, match.groups()) if match.groups() else path[: match.end()]
                found[id(site.layer)] = names.setdefault(key, path[: match.end()])
                break
    if not found:
        raise RuleError(
            f"`block`={pattern.pattern!r} matches no layer. Paths of this model: "
            f"{listed((site.layer_path for site in sites), 20)}."
        )
    return found


def by_pattern(
    pattern: re.Pattern[str], vertices: list[Vertex], sites: Sites, given: set[int]
) -> tuple[list[Vertex], Blocks]:
    """Gives the vertices, split where one holds several blocks, and the blocks among them.

    Args:
        pattern: the user's.
        vertices: the network.
        sites: its weights.
        given: ``id`` of the layers that the user has said to be stem or head.

    Raises:
        RuleError: where a block would not be in one piece.
    """
    found = blocks_of_layers(pattern, sites)
    found = {key: name for key, name in found.items() if key not in given}
    chains: dict[int, list[Vertex]] = {}
    for vertex in vertices:
        keys = [found.get(id(layer)) for layer in vertex.layers]
        names = [name for name in dict.fromkeys(keys) if name is not None]
        if names and len(set(keys)) > 1:
            parts: list[Any] = [
                ((), [layer for layer in vertex.layers if found.get(id(layer)) == name])
                for name in names
            ]
            chains[id(vertex)] = graph.chain_of(vertex, parts)
    vertices = graph.replaced(vertices, chains) if chains else vertices
    units: dict[str, set[int]] = {}
    for i, vertex in enumerate(vertices):
        if vertex.layers and id(vertex.layers[0]) in found:
            units.setdefault(found[id(vertex.layers[0])], set()).add(i)
    try:
        units = in_order(vertices, units)
    except OutOfOrderError as error:
        raise RuleError(
            f"`block`={pattern.pattern!r} makes blocks that are not in one piece: {error}. Layers "
            "are one block where their paths are the same up to the end of the match, or where "
            "the groups of the pattern are: say more in it, such as the stage."
        ) from None
    return vertices, Blocks(units, f"block={pattern.pattern!r}")


def without_graph(
    pattern: re.Pattern[str], sites: Sites, given: set[int]
) -> tuple[list[Vertex], Blocks]:
    """Gives one vertex for each layer, and the blocks in the order of their numbers.

    Raises:
        RuleError: where a layer is in no block and not in `given`.
    """
    found = blocks_of_layers(pattern, sites)
    owners = {id(site.layer): site for site in sites}
    lost = [
        site.layer_path for key, site in owners.items() if key not in found and key not in given
    ]
    if lost:
        raise RuleError(
            f"The order of calls in this model is not known, and `block`={pattern.pattern!r} does "
            f"not say where these belong: {listed(lost)}. Pass `stem=` and `head=` for them."
        )
    units: dict[str, set[int]] = {}
    vertices = []
    for i, (key, site) in enumerate(owners.items()):
        vertices.append(Vertex(site.chains[0], [site.layer], kernels=1))
        if key in found and key not in given:
            units.setdefault(found[key], set()).add(i)
    texts = {re.sub(r"\d+", "#", path) for path in units}
    if len(texts) == 1:
        units = dict(
            sorted(units.items(), key=lambda item: list(map(int, re.findall(r"\d+", item[0]))))
        )
    # Each block follows the one before.
    above: set[int] = set()
    order: list[int] = []
    for members in units.values():
        for i in members:
            vertices[i] = replace(vertices[i], parents=above)
            order.append(i)
        above = set(members)
    rest = [i for i in range(len(vertices)) if i not in order]
    place = {old: new for new, old in enumerate([*order, *rest])}
    vertices = [
        replace(vertices[old], parents={place[parent] for parent in vertices[old].parents})
        for old in place
    ]
    renamed = {path: {place[i] for i in members} for path, members in units.items()}
    return vertices, Blocks(renamed, f"block={pattern.pattern!r}, in the order of the numbers")
