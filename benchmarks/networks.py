"""What large networks ask of outlines, rules and slots: seconds and bytes, not ratios."""

import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

import keras_layerwise as kl
from benchmarks.drift import Figure
from keras_layerwise.model import structure


def _plain(count: int) -> Any:
    stack = [layers.Dense(4, name=f"dense_{i}") for i in range(count)]
    return keras.Sequential([keras.Input((4,)), *stack])


def _residual(count: int, named: bool) -> Any:
    """`count` layers with weights, three a block."""
    x = inputs = keras.Input((4,))
    for i in range(count // 3):
        y = x
        for kind, part in ((layers.Dense, "a"), (layers.Dense, "b")):
            y = kind(4, **({"name": f"block{i}_{part}"} if named else {}))(y)
        y = layers.LayerNormalization(**({"name": f"block{i}_norm"} if named else {}))(y)
        x = layers.Add()([x, y])
    return keras.Model(inputs, layers.Dense(2)(x))


NETWORKS: dict[str, Callable[[int], Any]] = {
    "one after the other": _plain,
    "in residual blocks, without names": lambda count: _residual(count, named=False),
    "in residual blocks, with names": lambda count: _residual(count, named=True),
}


def _best(work: Callable[[], Any], times: int = 5) -> float:
    """The median of `times` runs, in seconds of the processor."""
    found = []
    for _ in range(times):
        gc.collect()
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return statistics.median(found)


def rules() -> list[Figure]:
    """The time of `outline` and `layer_decay` for 1,000 layers, of rules for 10,000 weights."""
    sys.setrecursionlimit(50_000)  # Keras follows a graph that is 1,000 layers deep by recursion
    figures = []
    for name, build in NETWORKS.items():
        model = build(1000)
        for what, work in (
            ("outline", lambda model=model: kl.outline(model)),
            ("layer_decay", lambda model=model: kl.layer_decay(model, 0.9, lowest=1e-6)),
        ):
            figures.append(Figure(f"{what}, 1,000 layers {name}", _best(work), "s", 1.0))
        keras.utils.clear_session()
    model = _residual(5000, named=True)
    count = len(structure.sites(model))
    made = kl.no_weight_decay(model) | kl.layer_decay(model, 0.99, lowest=1e-6)

    def resolve() -> None:
        kl.LayerwiseOptimizer(keras.optimizers.AdamW(1e-3), made, model=model)

    figures.append(Figure(f"{len(made)} rules, {count:,} weights", _best(resolve), "s", 2.0))
    by_name = {f"block{i}_a": 0.5 for i in range(5000 // 3)}

    def by_names() -> None:
        kl.LayerwiseOptimizer(keras.optimizers.AdamW(1e-3), by_name, model=model)

    figures.append(
        Figure(f"{len(by_name)} rules by name, {count:,} weights", _best(by_names), "s", 2.0)
    )
    return figures


def lora() -> list[Figure]:
    """The slots of a BERT of 28.8M parameters that goes on with LoRA after a first phase."""
    from keras_hub.models import BertBackbone, BertTextClassifier

    body = BertBackbone(
        vocabulary_size=30522, num_layers=4, num_heads=8, hidden_dim=512, intermediate_dim=2048
    )
    model = BertTextClassifier(body, num_classes=2, preprocessor=None)
    ids = np.random.default_rng(0).integers(0, 30522, (2, 16))
    inputs = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": np.ones_like(ids)}
    optimizer = kl.LayerwiseOptimizer("adam")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def train() -> float:
        model.compile(optimizer, loss)
        model.train_on_batch(inputs, np.asarray([0, 1]))
        return _megabytes(optimizer.variables)

    every = train()
    body.enable_lora(8)
    kept = train()
    optimizer.drop_slots(body)
    dropped = train()
    bare = keras.optimizers.Adam()
    bare.build(model.trainable_variables)
    return [
        Figure("Adam's variables, BERT of 28.8M parameters, all trained", every, "MB", None),
        Figure("the same after enable_lora(8) and compile", kept, "MB", None),
        Figure(
            f"the same after drop_slots; a new bare Adam has {_megabytes(bare.variables):.3g} MB",
            dropped,
            "MB",
            1.01 * _megabytes(bare.variables),
        ),
    ]


def _megabytes(variables: Any) -> float:
    return (
        sum(int(np.prod(v.shape)) * keras.ops.convert_to_numpy(v).itemsize for v in variables) / 1e6
    )
