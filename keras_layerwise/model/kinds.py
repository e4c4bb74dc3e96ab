"""What kind a layer is: one or several, with a kernel or without, named or numbered."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras

from keras_layerwise.backend.internals import (
    graph_levels,
    is_of_keras,
    own_weights,
    sublayers,
)

_NOT_KERNELS = re.compile("embed|token|pos|bias|gamma|beta|scale|lora_|centroid|seed")
_ENLARGES = re.compile("UpSampling|Conv.*Transpose|Resiz|Upsampl|DepthToSpace|PixelShuffle")
_NEVER_ENLARGES = re.compile("Pad|Concat|Add$|Multiply|Reshape|Broadcast|Tile|Repeat|GetItem")
_TRAILING_NUMBER = re.compile(r"(.*?)_?(\d+)$")


def is_model(layer: Any) -> bool:
    """Tells whether `layer` is a Keras model."""
    return isinstance(layer, keras.Model)


def weighted_children(layer: Any) -> list[Any]:
    """Gives the layers directly inside `layer` that have weights."""
    return [child for child in sublayers(layer) if child.weights]


def is_leaf(layer: Any) -> bool:
    """Tells whether `layer` counts as one: Keras's own, or one without weighted layers in it."""
    if is_model(layer):
        return False
    whole = (keras.layers.MultiHeadAttention, keras.layers.RNN, keras.layers.Wrapper)
    return is_of_keras(layer) or isinstance(layer, whole) or not weighted_children(layer)


def leaves(layer: Any) -> Iterator[Any]:
    """Gives the smallest layers in `layer` that count as one, and those that own weights beside."""
    if is_leaf(layer):
        yield layer
        return
    if own_weights(layer):
        yield layer
    for child in sublayers(layer):
        yield from leaves(child)


def has_kernel(layer: Any) -> bool:
    """Tells whether a leaf has a kernel, which an embedding or a normalisation has not."""
    weights = layer.weights if is_leaf(layer) else own_weights(layer)
    return not re.search("Embedding|Normalization|LayerScale", type(layer).__name__) and any(
        len(weight.shape) > 1 and not _NOT_KERNELS.search(weight.name) for weight in weights
    )


def kernels_in(layer: Any) -> int:
    """Tells how many leaves of `layer` have a kernel; a layer that is used twice counts once."""
    found = {id(leaf): leaf for leaf in leaves(layer)}
    return sum(has_kernel(leaf) for leaf in found.values())


def enlarges(operation: Any, taken: Sequence[Any], made: Sequence[Any]) -> bool:
    """Tells whether `operation` makes images or sequences larger, by half at least.

    Args:
        operation: a layer, or an operation of ``keras.ops``.
        taken: the shapes of its inputs.
        made: the shapes of its outputs.
    """
    if not taken or not made or _NEVER_ENLARGES.search(type(operation).__name__):
        return False
    first = getattr(operation, "data_format", None) == "channels_first"
    before, after = (shape[2:] if first else shape[1:-1] for shape in (taken[0], made[0]))
    if len(before) != len(after):
        return False
    if None not in (*before, *after):
        is_permuted = sorted(map(str, taken[0])) == sorted(map(str, made[0]))
        return bool(math.prod(after) * 2 >= math.prod(before) * 3) and not is_permuted
    if _ENLARGES.search(type(operation).__name__) is None:
        return False
    return "Transpose" not in type(operation).__name__ or bool(max(operation.strides) > 1)


def owners_in(layer: Any) -> list[Any]:
    """Gives the layers in `layer`, itself among them, that own weights, each once."""
    found: dict[int, Any] = {}

    def visit(part: Any) -> None:
        if own_weights(part):
            found.setdefault(id(part), part)
        for child in sublayers(part):
            visit(child)

    visit(layer)
    return list(found.values())


def is_automatic(layer: Any) -> bool:
    """Tells whether Keras made up the layer's name from its class."""
    auto = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
    auto = re.sub("([a-z])([A-Z])", r"\1_\2", auto).lower()
    return re.fullmatch(rf"{re.escape(auto)}(_\d+)?", layer.name) is not None


def numbered(layer: Any) -> tuple[str, int] | None:
    """Gives the stem and number of a layer's name; None where a number of Keras's says nothing.

    Keras numbers what has no name of its own. That says something only about
    a layer of a class of the user's, of which blocks are made.
    """
    match = _TRAILING_NUMBER.fullmatch(layer.name)
    if is_automatic(layer):
        if is_leaf(layer) or is_model(layer):
            return None
        return (match[1], int(match[2])) if match else (layer.name, 0)
    return (match[1], int(match[2])) if match else None


def shapes(layers: Iterable[Any]) -> tuple[tuple[int, ...], ...]:
    """Gives the shapes of all weights: what repeats has the same."""
    return tuple(
        tuple(weight.shape)
        for layer in layers
        for weight in own_weights(layer)
        if "lora" not in weight.name
    )


def are_alike(shapes_of_each: Sequence[Any]) -> bool:
    """Tells whether at least half have the same weights, as the blocks of a transformer have."""
    return Counter(shapes_of_each).most_common(1)[0][1] * 2 >= len(shapes_of_each)


def inner_model(layer: Any) -> Any | None:
    """Gives the model with a graph that `layer` only wraps, as ``TimeDistributed(resnet)`` does."""
    while graph_levels(layer) is None:
        children = weighted_children(layer)
        if len(children) != 1 or own_weights(layer):
            return None
        (layer,) = children
    return layer
