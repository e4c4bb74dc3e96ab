"""Finds what makes the outputs of a network."""

import re
from collections.abc import Sequence
from typing import Any

from keras_layerwise.model.graph import Vertex

_HEAD = re.compile("head|logits|predictions|classifier")
_NAMED = re.compile(r"(.*_)?(head|top|logits|predictions|classifier)(_\d+)?")


def is_named(model: Any) -> bool:
    """Tells whether a model in a network is called a head by whoever made it."""
    return _NAMED.fullmatch(model.name) is not None


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


def in_scope(vertices: Sequence[Vertex], inside: Sequence[int], scope: Sequence[Any]) -> set[int]:
    """Finds what makes the outputs; in a backbone of KerasHub only what is named a head."""
    heads = outputs_of(vertices, inside)
    is_backbone = any(
        base.__name__ == "Backbone" and base.__module__.startswith("keras_hub")
        for layer in scope
        for base in type(layer).__mro__
    )
    return {i for i in heads if not is_backbone or _HEAD.search(vertices[i].layer.name)}


def whole(
    vertices: Sequence[Vertex], heads: set[int], scope: Sequence[Any], taken: set[int]
) -> set[int]:
    """Gives `heads`, and what else is in the models that hold them, as in one that is a Sequential.

    Not a model that holds any of `taken`, or one that is like others before it, as a block is.
    """
    size = len(scope)
    members: dict[int, list[int]] = {}
    for i, vertex in enumerate(vertices):
        if len(vertex.chain) > size + 1 and vertex.chain[size - 1] is scope[-1]:
            members.setdefault(id(vertex.chain[size]), []).append(i)
    kinds_of = {
        key: [type(vertices[i].layer) for i in found if vertices[i].kernels]
        for key, found in members.items()
    }
    ends = {key for key, found in members.items() if heads & set(found)}
    others = [kinds_of[key] for key in members if key not in ends]
    wholes = [
        found
        for key, found in members.items()
        if key in ends and kinds_of[key] not in others and not taken & set(found)
    ]
    return heads.union(*wholes)
