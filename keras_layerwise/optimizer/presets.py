"""Rules from the parts of a model: the closer to the head, the faster."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from keras_layerwise.backend.internals import is_state, own_weights
from keras_layerwise.errors import RuleError
from keras_layerwise.model import selectors, structure
from keras_layerwise.model.outline import Outline, Part, outline
from keras_layerwise.optimizer.rules import Rule, Rules, as_rules, check_number, ever_trainable

# Below this, a rate has no effect that float32 training could show.
_SMALLEST = 1e-12

_POSITION_OR_CLASS = re.compile(
    r"bias|pos(ition)?(al)?_?emb|(cls|class|dist|distillation|mask)_?token|register_token"
)


def layer_decay(
    model: Any,
    decay: float,
    block: str | re.Pattern[str] | None = None,
    *,
    stem: Any = None,
    head: Any = None,
    head_steps: int = 1,
    lowest: float | None = None,
) -> Rules:
    """Makes rules under which the rate falls by `decay` per block from the head down.

    Depth is that of the model's `outline`: with n blocks, block i has the
    multiplier decay^(n − 1 − i + head_steps), the stem decay^(n + head_steps),
    the neck what the last block has, and the head 1. What is trainable does
    not matter.

    - timm (``group_with_matcher``): ``layer_decay(vit, 0.75)``
    - MAE, BEiT (``util/lr_decay.py``), the final norm at 1:
      ``layer_decay(vit, 0.75, head=["ln", "predictions"])``
    - ELECTRA (``model/optimization.py``), two steps between head and last
      layer: ``layer_decay(bert, 0.8, head_steps=2)``; one without its
      off-by-one.
    - ULMFiT: ``layer_decay(model, 1 / 2.6)``

    Args:
        model: a model that is built.
        decay: factor per block, above 0.
        block: see `outline`.
        stem: see `outline`.
        head: see `outline`; a selector of what has multiplier 1.
        head_steps: steps between the head and the last block.
        lowest: no multiplier is below this; timm's ``min_scale``.

    Returns:
        `Rules`, one for each part of the outline.

    Raises:
        RuleError: where the outline cannot be told, a number is out of range,
            or a multiplier would be below 1e-12.

    Example:

    >>> import keras
    >>> layers = [keras.layers.Dense(4, name=f"dense_{i}") for i in range(3)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> [rule.multiplier for selector, rule in layer_decay(model, 0.5)]
    [0.25, 0.5, 1.0]
    """
    decay = _positive("decay", decay)
    floor = 0.0 if lowest is None else _positive("lowest", lowest)
    if isinstance(head_steps, bool) or not isinstance(head_steps, int) or head_steps < 0:
        raise RuleError(f"`head_steps` is an integer ≥ 0; received {head_steps!r}.")
    parts = outline(model, block, stem=stem, head=head)
    top = len(parts.blocks) + head_steps

    def multiplier(part: Part) -> float:
        return 1.0 if part is parts.head else max(decay ** (top - part.depth), floor)

    return _by_part(parts, multiplier, "layer_decay")


def discriminative(
    model: Any,
    lowest: float,
    block: str | re.Pattern[str] | None = None,
    *,
    stem: Any = None,
    head: Any = None,
) -> Rules:
    """Makes rules whose multipliers rise geometrically from `lowest` to 1, first to last part.

    With rate η this is fastai's ``slice(lowest·η, η)`` with a group for each
    part of the model's `outline`, the neck in the group of the last block.

    Args:
        model: a model that is built.
        lowest: multiplier of the first part, above 0.
        block: see `outline`.
        stem: see `outline`.
        head: see `outline`.

    Returns:
        `Rules`, one for each part of the outline.

    Raises:
        RuleError: where the outline cannot be told or `lowest` is out of range.

    Example:

    >>> import keras
    >>> layers = [keras.layers.Dense(4, name=f"dense_{i}") for i in range(3)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> [round(rule.multiplier, 6) for selector, rule in discriminative(model, 0.01)]
    [0.01, 0.1, 1.0]
    """
    lowest = _positive("lowest", lowest)
    parts = outline(model, block, stem=stem, head=head)
    levels = sorted({part.depth for part in parts})
    last = len(levels) - 1

    def multiplier(part: Part) -> float:
        return float(lowest ** ((last - levels.index(part.depth)) / last)) if last else 1.0

    return _by_part(parts, multiplier, "discriminative")


def no_weight_decay(model: Any) -> Rules:
    """Makes a rule without weight decay for what is usually left out of it.

    These are biases, weights of one dimension or fewer, all weights of
    normalisations, and the embeddings of positions and classes (timm's
    ``no_weight_decay``: ``pos_embed``, ``cls_token``, ``dist_token``).

    Args:
        model: a model that is built.

    Returns:
        `Rules`, to be joined with others: ``no_weight_decay(m) | layer_decay(m, 0.75)``; empty
        where the model has no such weights.

    Raises:
        RuleError: where the model is not built.

    Example:

    >>> import keras
    >>> from keras_layerwise import LayerwiseOptimizer
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a")])
    >>> adamw = keras.optimizers.AdamW(weight_decay=0.1)
    >>> optimizer = LayerwiseOptimizer(adamw, no_weight_decay(model), model=model)
    >>> [(a.path, a.weight_decay) for a in optimizer.assignments]
    [('a/kernel', 0.1), ('a/bias', 0.0)]
    """
    structure.sites_of_built(model)
    picked = _Picked(model, "biases, norms, positions, classes", _is_without_decay)
    return Rules(_nonempty(picked, Rule(weight_decay=0.0)), preset="no_weight_decay")


def lora_plus(model: Any, ratio: float = 16, base: Any = None) -> Rules:
    """Makes rules under which LoRA's B matrices train at `ratio` times their rate.

    The groups are those of peft's ``create_loraplus_optimizer`` (Hayou et al.
    2024, arXiv 2402.12354): A matrices and other weights at the rate that
    `base` gives them, B matrices at `ratio` times that; biases and weights of
    one dimension are in B's group, without weight decay. B of an embedding is
    in it too, which peft leaves at A's rate: its name there is not B's.

    Args:
        model: a model with LoRA weights; call ``enable_lora`` first.
        ratio: factor above 0 between the rates of B and A.
        base: rules for all weights, as of `layer_decay`; None for the
            optimizer's rate everywhere.

    Returns:
        `Rules`: those of the B group, then those of `base`.

    Raises:
        RuleError: where the model has no LoRA weights, `ratio` is out of
            range, or `base` gives the B group a rate that is a schedule.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False)])
    >>> model.layers[0].enable_lora(2)
    >>> [rule.multiplier for selector, rule in lora_plus(model)]
    [16.0]
    """
    ratio = _positive("ratio", ratio)
    sites = structure.sites_of_built(model)
    if not any(_is_lora_b(site.weight) for site in sites):
        raise RuleError(
            f"{model.name!r} has no LoRA weights. Call `enable_lora(rank)` on the backbone or on "
            "layers before making the rules."
        )
    others = Rules() | ({} if base is None else as_rules(base))
    rate_of: dict[int, Rule] = {}
    labels: dict[Rule, list[str]] = {}
    presets = list(others.presets)
    for index, (selector, rule) in enumerate(others):
        if rule.multiplier is None and rule.learning_rate is None:
            continue
        new = [i for i in selectors.select(selector, sites) if i not in rate_of]
        rate_of.update(dict.fromkeys(new, rule))
        if new:
            labels.setdefault(rule, []).append(selectors.label(selector))
        # It has its effect below, although the rules below say it before it does.
        presets[index] = presets[index] or ("lora_plus" if new else None)
    may_train = set(ever_trainable(sites))
    pairs: list[tuple[Any, Rule]] = []
    for given in dict.fromkeys(map(rate_of.get, range(len(sites)))):
        taken = {id(s.weight) for i, s in enumerate(sites) if rate_of.get(i) == given}
        for name, asks, decay in (("B", _is_lora_b, None), ("1-D", _is_flat, 0.0)):
            settings = {**_times(given, ratio), "weight_decay": decay}
            label = f"LoRA+ {name}" + (f" of {_few(labels[given])}" if given else "")
            picked = _Picked(
                model,
                label,
                lambda layer, w, asks=asks, taken=taken: asks(w) and id(w) in taken,  # type: ignore[misc]
            )
            if any(i in may_train for i in selectors.select(picked, sites)):
                pairs.append((picked, Rule(**settings)))
    others.presets = tuple(presets)
    return Rules(pairs, preset="lora_plus") | others


def _few(labels: Sequence[str], most: int = 3) -> str:
    """Joins labels for a line of a table, the first of many."""
    return ", ".join([*labels[:most], *(["…"] if len(labels) > most else [])])


class _Picked:
    """A selector of the weights of a model that answer a question, new ones among them."""

    is_part = True

    def __init__(self, model: Any, label: str, asks: Callable[[Any, Any], bool]) -> None:
        self.model = model
        self.label = label
        self.asks = asks

    @property
    def layers(self) -> list[Any]:
        """The layers that own such weights."""
        return list({id(layer): layer for layer, _ in self._pairs()}.values())

    @property
    def weights(self) -> list[Any]:
        """The weights themselves, of those that can ever train."""
        return [weight for _, weight in self._pairs()]

    def _pairs(self) -> list[tuple[Any, Any]]:
        return [
            (place.layer, weight)
            for place in structure.places(self.model)
            for weight in own_weights(place.layer)
            if not is_state(place.layer, weight) and self.asks(place.layer, weight)
        ]


def _by_part(parts: Outline, multiplier: Callable[[Part], float], preset: str) -> Rules:
    pairs: list[tuple[Any, Rule]] = []
    for part in parts:
        number = multiplier(part)
        if number < _SMALLEST:
            raise RuleError(
                f"{preset} would give the {part.label} of {parts.name!r} the multiplier "
                f"{number:.3g}, with {len(parts.blocks)} blocks: its weights would not move. Pass "
                "a floor with `lowest=`, or coarser blocks with `block=`."
            )
        pairs += _nonempty(part, Rule(multiplier=number))
    return Rules(pairs, preset=preset)


def _nonempty(part: Any, rule: Rule) -> list[tuple[Any, Rule]]:
    """Gives the rule, unless nothing that it selects can ever train, as `Normalization`."""
    trains = {
        id(weight)
        for layer in part.layers
        for owner in structure.places(layer)
        for weight in own_weights(owner.layer)
        if not is_state(owner.layer, weight)
    }
    return [(part, rule)] if any(id(weight) in trains for weight in part.weights) else []


def _is_without_decay(layer: Any, weight: Any) -> bool:
    names = f"{layer.name}/{weight.name}".lower()
    return (
        len(weight.shape) <= 1
        or "Normalization" in type(layer).__name__
        or "PositionEmbedding" in type(layer).__name__
        or _POSITION_OR_CLASS.search(names) is not None
    )


def _is_lora_b(weight: Any) -> bool:
    return re.fullmatch(r"lora_\w+_b", weight.name) is not None


def _is_flat(weight: Any) -> bool:
    # Keras's attention stores a bias by head, in two dimensions; PyTorch's has one.
    return (len(weight.shape) == 1 or weight.name == "bias") and not _is_lora_b(weight)


def _times(rule: Rule | None, ratio: float) -> dict[str, Any]:
    """Gives the rate of `rule` times `ratio`."""
    if rule is None:
        return {"multiplier": ratio}
    name = "multiplier" if rule.multiplier is not None else "learning_rate"
    value = getattr(rule, name)
    if not isinstance(value, float):
        raise RuleError(
            f"`base` gives LoRA weights the {name} {value!r}; lora_plus multiplies numbers only."
        )
    return {name: value * ratio}


def _positive(name: str, value: Any) -> float:
    number = check_number(name, value)
    if number == 0:
        raise RuleError(f"`{name}` must be above 0; received {value!r}.")
    return number
