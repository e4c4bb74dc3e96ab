"""Rules from the depth of a model: the closer to the head, the faster."""

import re
from collections.abc import Sequence
from typing import Any

from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors, structure
from keras_layerwise.optimizer.rules import check_number


def layer_decay(
    model: Any,
    decay: float,
    block: str | re.Pattern[str] | None = None,
    *,
    head: Any = None,
    head_steps: int = 1,
) -> dict[Any, float]:
    """Rules under which the rate falls by `decay` per block from the head down.

    Depth is the place in the model's own graph, through nested models. What
    comes before the first block is one step below it. What comes after the
    last block and is not in the head counts as part of that block. With n
    blocks, block i has the multiplier decay^(n − 1 − i + head_steps), what
    comes before decay^(n − 1 + head_steps + 1), the head 1.

    For a vision transformer, with ``block="block_[0-9]+"``:

    - timm (``group_with_matcher``): ``layer_decay(vit, 0.75, block)``
    - MAE, BEiT (``util/lr_decay.py``), the final norm at 1:
      ``layer_decay(vit, 0.75, block, head=["norm", "head"])``
    - ELECTRA (``model/optimization.py``), two steps between head and last
      layer: ``layer_decay(bert, 0.8, block, head_steps=2)``; one without its
      off-by-one.
    - ULMFiT: ``layer_decay(model, 1 / 2.6)``

    To leave biases and norms out of weight decay as well, use
    ``exclude_from_weight_decay`` of the optimizer: rules do not add up.

    Args:
        model: a model that is built.
        decay: factor per block, above 0.
        block: a regular expression, searched in the layers' paths; layers
            with the same match are one block. By default every layer that has
            weights is a block.
        head: a selector of what has multiplier 1; by default the last layer
            that has weights.
        head_steps: steps between the head and the last block.

    Returns:
        ``{layer: multiplier}`` for `LayerwiseOptimizer`.

    Raises:
        RuleError: where `model` has no trainable weights, `block` matches no
            layer, `head` selects none, or a number is out of range.

    Example:

    >>> import keras
    >>> layers = [keras.layers.Dense(4, name=f"dense_{i}") for i in range(3)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> list(layer_decay(model, 0.5).values())
    [0.25, 0.5, 1.0]
    """
    decay = _positive("decay", decay)
    if isinstance(head_steps, bool) or not isinstance(head_steps, int) or head_steps < 0:
        raise RuleError(f"`head_steps` is an integer ≥ 0; received {head_steps!r}.")
    units = _units(model)
    in_head = _in_head(model, units, head)
    steps = _steps_by_block(model, units, in_head, block) if block is not None else None
    if steps is None:
        levels = sorted({level for layer, level in units if layer not in in_head}, reverse=True)
        steps = {
            layer: levels.index(level) for layer, level in units if layer not in in_head
        }  # fmt: skip
    return {
        layer: 1.0 if layer in in_head else decay ** (steps[layer] + head_steps)
        for layer, _ in units
    }


def discriminative(model: Any, lowest: float) -> dict[Any, float]:
    """Rules whose multipliers rise geometrically from `lowest` to 1, first to last layer.

    With rate η this is fastai's ``slice(lowest·η, η)`` with a group per layer.

    Args:
        model: a model that is built.
        lowest: multiplier of the first layer, above 0.

    Returns:
        ``{layer: multiplier}`` for `LayerwiseOptimizer`.

    Raises:
        RuleError: where `model` has no trainable weights or `lowest` is out
            of range.

    Example:

    >>> import keras
    >>> layers = [keras.layers.Dense(4, name=f"dense_{i}") for i in range(3)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> [round(m, 6) for m in discriminative(model, 0.01).values()]
    [0.01, 0.1, 1.0]
    """
    lowest = _positive("lowest", lowest)
    units = _units(model)
    levels = sorted({level for _, level in units})
    last = len(levels) - 1
    return {
        layer: lowest ** ((last - levels.index(level)) / last) if last else 1.0
        for layer, level in units
    }


def _positive(name: str, value: Any) -> float:
    number = check_number(name, value)
    if number == 0:
        raise RuleError(f"`{name}` must be above 0; received {value!r}.")
    return number


def _units(model: Any) -> list[tuple[Any, int]]:
    """The layers that have trainable weights, each with its depth, from the input up."""
    depths: dict[Any, int] = {}
    _visit(model, 0, depths)
    seen: set[int] = set()
    units = []
    for layer, depth in sorted(depths.items(), key=lambda item: item[1]):
        weights = {id(weight) for weight in layer.trainable_weights}
        # A layer whose weights all belong to an earlier one has nothing left to rule.
        if weights - seen:
            units.append((layer, depth))
            seen |= weights
    if not units:
        raise RuleError(
            f"{getattr(model, 'name', model)!r} has no trainable weights. Build the model first, "
            "for example by calling it on one batch."
        )
    return units


def _visit(model: Any, start: int, depths: dict[Any, int]) -> int:
    """Notes the depth of every layer in `model` from `start`; returns the depth after it."""
    model = getattr(model, "_functional", None) or model
    if not hasattr(model, "_nodes_by_depth"):
        depth = start
        for layer in structure.sublayers(model):
            depth = _place(layer, depth, depths)
        return depth
    after: dict[int, int] = {}
    for level in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[level]:
            begin = max(
                (after.get(id(parent), start) for parent in node.parent_nodes), default=start
            )
            after[id(node)] = _place(node.operation, begin, depths)
    return max(after.values(), default=start)


def _place(layer: Any, depth: int, depths: dict[Any, int]) -> int:
    if not selectors.is_layer(layer) or not layer.weights:
        return depth
    if _is_model(layer):
        return _visit(layer, depth, depths)
    # A layer that is used twice keeps the place of its first use.
    depths[layer] = min(depth, depths.get(layer, depth))
    return depth + 1


def _is_model(layer: Any) -> bool:
    return any(base.__name__ == "Model" for base in type(layer).__mro__)


def _in_head(model: Any, units: Sequence[tuple[Any, int]], head: Any) -> set[Any]:
    if head is None:
        return {units[-1][0]}
    sites = structure.sites(model)
    picked = {id(sites[i].weight) for i in selectors.select(head, sites)}
    in_head = {layer for layer, _ in units if any(id(w) in picked for w in layer.trainable_weights)}
    if not in_head:
        raise RuleError(
            f"`head`={selectors.label(head)!r} selects no layer with trainable weights. The "
            f"nearest: {', '.join(selectors.nearest(head, sites))}."
        )
    return in_head


def _steps_by_block(
    model: Any, units: Sequence[tuple[Any, int]], in_head: set[Any], block: Any
) -> dict[Any, int]:
    """For each layer that is not in the head, how many blocks lie between it and the head."""
    pattern = re.compile(block)
    paths = {id(site.weight): site.layer_path for site in structure.sites(model)}
    blocks: list[str] = []
    block_of: dict[Any, int] = {}
    for layer, _ in units:
        if layer in in_head:
            continue
        match = pattern.search(paths[id(layer.trainable_weights[0])])
        if match and match[0] not in blocks:
            blocks.append(match[0])
        block_of[layer] = blocks.index(match[0]) if match else len(blocks) - 1
    if not blocks:
        raise RuleError(
            f"`block`={pattern.pattern!r} matches no layer. Paths of this model: "
            f"{', '.join(dict.fromkeys(paths.values()))[:300]}."
        )
    return {layer: len(blocks) - 1 - i for layer, i in block_of.items()}
