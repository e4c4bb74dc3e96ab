"""The layers of a network in the order in which data passes.

Nested models and wrappers around them are expanded, so that a network is one
directed graph. A layer whose inside is not known stays one vertex; where it
holds numbered siblings that repeat (all the blocks of a vision transformer in
one encoder layer), these become a chain of vertices.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from keras_layerwise.backend.internals import graph_levels
from keras_layerwise.model import kinds

_JOINS = re.compile("add|concat|multiply|average|maximum|minimum|subtract|dot|merge|where|stack")
_BEFORE = re.compile("embed|patch|stem|pos|token|cls|class|pre|input|tokenizer|register")
_AFTER = re.compile("final|post|out|last|pool|top|head|down|merg|proj")


@dataclass(eq=False)
class Vertex:
    """One call of a layer or operation, or one of the siblings that it is split into.

    Attributes:
        chain: the layers from the network down to this one.
        layers: the layers in it that own weights.
        parents: positions of the vertices whose output it takes.
        kernels: how many layers in it have a kernel.
        joins: whether it takes several tensors together.
        enlarges: whether it makes images, or sequences, larger.
        is_mask: whether it gives only masks: tensors of true and false.
        is_placed: whether its place among its neighbours is known.
    """

    chain: tuple[Any, ...]
    layers: list[Any]
    parents: set[int] = field(default_factory=set)
    kernels: int = 0
    joins: bool = False
    enlarges: bool = False
    is_mask: bool = False
    is_placed: bool = True

    @property
    def layer(self) -> Any:
        """The layer or operation itself."""
        return self.chain[-1]

    @property
    def names(self) -> list[str]:
        """Names of the layers from below the network down."""
        return [part.name for part in self.chain[1:]]

    @property
    def path(self) -> str:
        """The names, joined by ``/``."""
        return "/".join(self.names)


# The graph.


class _Builder:
    """Collects vertices call by call."""

    def __init__(self) -> None:
        self.vertices: list[Vertex] = []
        self.calls: dict[int, list[list[int]]] = {}

    def add(
        self,
        chain: tuple[Any, ...],
        parents: set[int],
        count: int,
        enlarges: bool = False,
        is_mask: bool = False,
    ) -> int:
        layer = chain[-1]
        is_layer = isinstance(layer, keras.Layer)
        self.vertices.append(
            Vertex(
                chain=chain,
                layers=kinds.owners_in(layer) if is_layer else [],
                parents=parents,
                kernels=kinds.kernels_in(layer) if is_layer else 0,
                joins=count > 1 and _JOINS.search(type(layer).__name__.lower()) is not None,
                enlarges=enlarges,
                is_mask=is_mask,
            )
        )
        return len(self.vertices) - 1

    def expand(self, chain: tuple[Any, ...], inputs: Sequence[set[int]]) -> list[set[int]]:
        """Adds a model's graph; gives for each output the vertices that it comes from."""
        model = chain[-1]
        sources: dict[int, set[int]] = {}
        given = list(model.inputs)
        everything: set[int] = set().union(*inputs)
        for position, tensor in enumerate(given):
            same = len(given) == len(inputs)
            sources[id(tensor)] = inputs[position] if same else everything
        first = len(self.vertices)
        for node in (node for level in graph_levels(model) or () for node in level):
            if all(id(tensor) in sources for tensor in node.outputs):
                continue
            taken = [sources.get(id(tensor), set()) for tensor in node.input_tensors]
            for tensor, source in zip(node.outputs, self.call(node, chain, taken), strict=True):
                sources[id(tensor)] = source
        self.calls.setdefault(id(model), []).append(list(range(first, len(self.vertices))))
        return [sources.get(id(tensor), set()) for tensor in model.outputs]

    def call(
        self, node: Any, chain: tuple[Any, ...], taken: Sequence[set[int]]
    ) -> Sequence[set[int]]:
        layer = node.operation
        if isinstance(layer, keras.Layer) and layer.weights and (inner := kinds.inner_model(layer)):
            below = [*chain, layer]
            while below[-1] is not inner:
                below.append(kinds.weighted_children(below[-1])[0])
            outputs = self.expand(tuple(below), taken)
            if len(outputs) == len(node.outputs):
                return outputs
            return [set().union(*outputs)] * len(node.outputs)
        parents: set[int] = set().union(*taken)
        distinct = len({frozenset(source) for source in taken})
        shapes = ([tuple(t.shape) for t in found] for found in (node.input_tensors, node.outputs))
        enlarges = kinds.enlarges(layer, *shapes)
        is_mask = all(tensor.dtype == "bool" for tensor in node.outputs)
        position = self.add((*chain, layer), parents, distinct, enlarges, is_mask)
        if layer.__class__.__name__ != "InputLayer":
            self.calls.setdefault(id(layer), []).append([position])
        return [{position}] * len(node.outputs)


def graph(model: Any, is_split: bool = True) -> list[Vertex] | None:
    """Gives the vertices of `model` in an order in which each follows its parents.

    Where a layer is called several times, the calls are one vertex, unless one
    call follows another; then the first has the weights and the later ones none.

    Args:
        model: the network.
        is_split: whether a layer that holds blocks becomes a chain of vertices.

    Returns:
        None where the order of calls is not known.
    """
    inner = kinds.inner_model(model)
    if inner is None:
        return None
    chain = [model]
    while chain[-1] is not inner:
        chain.append(kinds.weighted_children(chain[-1])[0])
    builder = _Builder()
    inputs = []
    for tensor in inner.inputs:
        inputs.append({builder.add((*chain, _Input(tensor.name)), set(), 1)})
    builder.expand(tuple(chain), inputs)
    merged = _merged(builder)
    return _split_all(merged) if is_split else merged


@dataclass(frozen=True)
class _Input:
    name: str


def _merged(builder: _Builder) -> list[Vertex]:
    """Gives the vertices with the calls of one layer merged where that leaves no circle."""
    vertices = builder.vertices
    before = [0] * len(vertices)
    for i, vertex in enumerate(vertices):
        for parent in vertex.parents:
            before[i] |= before[parent] | 1 << parent
    leader = list(range(len(vertices)))
    for calls in builder.calls.values():
        if len(calls) < 2:
            continue
        is_weighted = any(vertices[i].layers for i in calls[0])
        follows = any(
            before[later[0]] >> earlier[-1] & 1
            for earlier in calls
            for later in calls
            if earlier is not later and earlier and later
        )
        if is_weighted and not follows and len({len(call) for call in calls}) == 1:
            for others in zip(*calls, strict=True):
                for other in others[1:]:
                    leader[other] = leader[others[0]]
    merged = _ordered(vertices, leader)
    if merged is None:
        merged = _ordered(vertices, list(range(len(vertices)))) or vertices
    seen: set[int] = set()
    for vertex in merged:
        vertex.layers = [layer for layer in vertex.layers if id(layer) not in seen]
        if not vertex.layers:
            vertex.kernels = 0
        seen |= {id(layer) for layer in vertex.layers}
    return merged


def _ordered(vertices: Sequence[Vertex], leader: Sequence[int]) -> list[Vertex] | None:
    """Gives the leaders, parents first; None where they form a circle."""
    parents: dict[int, set[int]] = {i: set() for i in dict.fromkeys(leader)}
    for i, vertex in enumerate(vertices):
        parents[leader[i]] |= {leader[parent] for parent in vertex.parents} - {leader[i]}
    children: dict[int, list[int]] = {i: [] for i in parents}
    waiting = {i: len(found) for i, found in parents.items()}
    for i, found in parents.items():
        for parent in found:
            children[parent].append(i)
    order, ready = [], [i for i in reversed(parents) if not waiting[i]]
    while ready:
        current = ready.pop()
        order.append(current)
        for child in children[current]:
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    if len(order) < len(parents):
        return None
    position = {old: new for new, old in enumerate(order)}
    return [
        replace(
            vertices[old],
            layers=list(vertices[old].layers),
            parents={position[parent] for parent in parents[old]},
        )
        for old in order
    ]


# Siblings inside a layer.


def siblings(layer: Any) -> list[tuple[Any, ...]] | None:
    """Gives the repeating siblings in `layer`, each as the chain of layers from below it.

    The blocks may be held in stages: where these differ, the blocks in them
    are the siblings. None where nothing repeats, or the numbers contradict
    the order in which the siblings were made.
    """
    children = kinds.weighted_children(layer)
    total = kinds.kernels_in(layer)
    groups: dict[Any, list[Any]] = {}
    for child in children:
        number = None if kinds.is_leaf(child) else kinds.numbered(child)
        if number and kinds.kernels_in(child) > 1 and "expert" not in child.name:
            groups.setdefault((type(child), number[0]), []).append(child)
    for group in groups.values():
        numbers = [(kinds.numbered(child) or ("", 0))[1] for child in group]
        if numbers != sorted(set(numbers)) or sum(map(kinds.kernels_in, group)) * 2 < total:
            continue
        if kinds.are_alike([kinds.shapes(kinds.owners_in(child)) for child in group]):
            return [(child,) for child in group]
        inside = [(child, siblings(child)) for child in group]
        return [(child, *below) for child, found in inside for below in (found if found else [()])]
    for child in children:
        if (
            not kinds.is_leaf(child)
            and kinds.kernels_in(child) * 5 >= total * 4
            and len(children) > 1
        ):
            found = siblings(child)
            return [(child, *below) for below in found] if found else None
    if len(children) == 1 and not kinds.is_leaf(children[0]):
        found = siblings(children[0])
        return [(children[0], *below) for below in found] if found else None
    return None


def _split_all(vertices: list[Vertex]) -> list[Vertex]:
    """Splits each layer that holds blocks, unless it is itself one of many that are alike."""
    groups: dict[Any, list[Vertex]] = {}
    for vertex in vertices:
        if vertex.kernels > 1 and not kinds.is_leaf(vertex.layer):
            number = kinds.numbered(vertex.layer) or (vertex.layer.name, 0)
            key = (tuple(map(id, vertex.chain[:-1])), type(vertex.layer), number[0])
            groups.setdefault(key, []).append(vertex)
    chains: dict[int, list[Vertex]] = {}
    for group in groups.values():
        if len(group) > 1 and kinds.are_alike([kinds.shapes(vertex.layers) for vertex in group]):
            continue
        for vertex in group:
            if found := siblings(vertex.layer):
                parts = [(below, kinds.owners_in(below[-1])) for below in found]
                chains[id(vertex)] = chain_of(vertex, parts)
    return replaced(vertices, chains)


def chain_of(vertex: Vertex, parts: Sequence[tuple[tuple[Any, ...], list[Any]]]) -> list[Vertex]:
    """Gives the chain of vertices that stands for `vertex`: its `parts`, and the rest around them.

    The rest goes before or after the part that it stands next to in the order
    in which the layers were made, unless its name says otherwise. Where
    neither tells, the vertex is not placed, and the user is to be asked.
    """
    order = {id(layer): i for i, layer in enumerate(vertex.layers)}
    known = {id(layer): i for i, (_, layers) in enumerate(parts) for layer in layers}
    first, last = min(map(order.__getitem__, known)), max(map(order.__getitem__, known))
    gaps: dict[Any, list[Any]] = {}
    for layer in vertex.layers:
        if id(layer) in known:
            continue
        place = order[id(layer)]
        name = layer.name.lower()
        gap: Any
        if first < place < last:
            gap = min(i for key, i in known.items() if order[key] > place)
        elif _BEFORE.search(name) or layer is vertex.layer:
            gap = 0
        elif place > last or _AFTER.search(name):
            gap = len(parts)
        else:
            gap = "unknown"
        gaps.setdefault(gap, []).append(layer)
    made = []

    def make(chain: tuple[Any, ...], layers: list[Any]) -> None:
        kernels = sum(
            kinds.kernels_in(layer) if kinds.is_leaf(layer) else kinds.has_kernel(layer)
            for layer in layers
        )
        made.append(Vertex(chain, layers, kernels=kernels))

    if "unknown" in gaps:
        make(vertex.chain, gaps["unknown"])
        made[-1].is_placed = False
    for i, (below, layers) in enumerate(parts):
        if i in gaps:
            make(vertex.chain, gaps[i])
        make((*vertex.chain, *below), [layer for layer in layers if id(layer) in order])
    if len(parts) in gaps:
        make(vertex.chain, gaps[len(parts)])
    return made


def replaced(vertices: Sequence[Vertex], chains: dict[int, list[Vertex]]) -> list[Vertex]:
    """Gives the vertices with some replaced by chains, parents renumbered."""
    result: list[Vertex] = []
    end: dict[int, int] = {}
    for i, vertex in enumerate(vertices):
        parents = {end[parent] for parent in vertex.parents}
        chain = chains.get(id(vertex))
        if chain is None:
            result.append(replace(vertex, parents=parents))
        else:
            for part in chain:
                part.parents = parents
                result.append(part)
                if part.is_placed:
                    parents = {len(result) - 1}
        end[i] = len(result) - 1
    return result
