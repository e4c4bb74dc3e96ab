"""The models that are trained, their optimizers and data, and one way to step each backend."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from benchmarks.machine import synchronise


def _dense(count: int, width: int) -> Any:
    blocks = [layers.Dense(width, activation="tanh", name=f"dense_{i}") for i in range(count)]
    return keras.Sequential([keras.Input((width,)), *blocks])


def _language(depth: int, width: int, heads: int, vocabulary: int, length: int = 128) -> Any:
    """A transformer in the sizes of BERT or GPT-2, made of Keras's layers."""
    entry = keras.Input((length,), dtype="int32", name="tokens")
    x = layers.Embedding(vocabulary, width, name="token")(entry)
    x = layers.LayerNormalization(name="token_norm")(_Position(name="position")(x))
    for i in range(depth):
        attention = layers.MultiHeadAttention(heads, width // heads, name=f"block_{i}_attention")
        seen = layers.LayerNormalization(name=f"block_{i}_norm")(x + attention(x, x))
        wide = layers.Dense(4 * width, activation="gelu", name=f"block_{i}_wide")(seen)
        x = seen + layers.Dense(width, name=f"block_{i}_narrow")(wide)
        x = layers.LayerNormalization(name=f"block_{i}_last")(x)
    return keras.Model(entry, layers.Dense(2, name="head")(x[:, 0]))


class _Position(layers.Layer):
    """Adds a learnt vector for each position."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer="normal", name="table")

    def call(self, x: Any) -> Any:
        return x + self.table


def _transformer(width: int = 128, length: int = 32) -> Any:
    """12 encoder layers, each of which is a model of its own."""
    x = entry = keras.Input((length, width))
    for i in range(12):
        inner = keras.Input((length, width))
        seen = layers.MultiHeadAttention(4, width // 4)(inner, inner)
        middle = layers.LayerNormalization()(inner + seen)
        wide = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(middle))
        block = keras.Model(inner, layers.LayerNormalization()(middle + wide), name=f"block_{i}")
        x = block(x)
    return keras.Model(entry, layers.Dense(8, name="head")(layers.GlobalAveragePooling1D()(x)))


def _embedding() -> Any:
    return keras.Sequential(
        [
            keras.Input((32,), dtype="int32"),
            layers.Embedding(20_000, 64, name="embedding"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(64, activation="relu", name="middle"),
            layers.Dense(1, name="head"),
        ]
    )


def _convolutions() -> Any:
    convolution = layers.Conv2D
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            convolution(8, 3, name="stem"),
            layers.BatchNormalization(name="norm"),
            convolution(8, 3, name="middle"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, name="head"),
        ]
    )


def _application(name: str, side: int) -> Any:
    return getattr(keras.applications, name)(
        weights=None, input_shape=(side, side, 3), classes=10, classifier_activation=None
    )


MODELS: dict[str, tuple[str, Callable[[], Any], int]] = {  # title, model, batch
    "small": ("50 small layers", lambda: _dense(50, 16), 8),
    "dense": ("6 × 1024 dense", lambda: _dense(6, 1024), 8),
    "seven": ("7 × 512 dense", lambda: _dense(7, 512), 8),
    "mobilenet": ("MobileNetV2", lambda: _application("MobileNetV2", 96), 8),
    "resnet": ("ResNet50", lambda: _application("ResNet50", 64), 4),
    "transformer": ("12-layer transformer", _transformer, 8),
    "embedding": ("Embedding, sparse", _embedding, 32),
    # What a GPU is asked, and small ones to try the path with.
    "bert": ("BERT-base, batch 32", lambda: _language(12, 768, 12, 30_522), 32),
    "bert_tiny": ("2 layers of 32, batch 2", lambda: _language(2, 32, 2, 1000, 16), 2),
    "resnet224": ("ResNet50, batch 32", lambda: _application("ResNet50", 224), 32),
    "conv_tiny": ("2 convolutions, batch 2", _convolutions, 2),
    "seven_wide": ("7 × 4096 dense, batch 256", lambda: _dense(7, 4096), 256),
    "gpt2_xl": ("GPT-2 XL, 1.5 billion, batch 1", lambda: _language(48, 1600, 25, 50_257), 1),
    "gpt2_tiny": ("4 layers of 64, batch 1", lambda: _language(4, 64, 4, 1000, 16), 1),
}


RATE = 1e-4
OPTIMIZERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "adam": ("Adam", lambda: keras.optimizers.Adam(RATE)),
    "adamw": ("AdamW", lambda: keras.optimizers.AdamW(RATE)),
    "momentum": ("SGD, momentum", lambda: keras.optimizers.SGD(RATE, momentum=0.9)),
    "rmsprop": ("RMSprop", lambda: keras.optimizers.RMSprop(RATE)),
    "rmsprop_momentum": ("RMSprop, momentum", lambda: keras.optimizers.RMSprop(RATE, momentum=0.9)),
    "adagrad": ("Adagrad", lambda: keras.optimizers.Adagrad(RATE)),
    "sgd": ("SGD", lambda: keras.optimizers.SGD(RATE)),
}
if keras.backend.backend() == "torch":  # where alone it has an update of ours
    OPTIMIZERS["lion"] = ("Lion", lambda: keras.optimizers.Lion(RATE))


SWEEP = {8: 50, 16: 50, 32: 50, 64: 50, 96: 30, 128: 20, 256: 8, 512: 6, 1024: 6, 2048: 3}
"""Widths that are swept, each with as many layers as keep a step short."""


def spec(name: str) -> tuple[str, Callable[[], Any], int]:
    """Title, model and batch size of a name in `MODELS`, or of ``sweep/WIDTH/BATCH``."""
    if not name.startswith("sweep/"):
        return MODELS[name]
    width, size = map(int, name.removeprefix("sweep/").split("/"))
    count = SWEEP[width]
    return f"{count} × {width} dense, batch {size}", lambda: _dense(count, width), size


def build(name: str) -> Any:
    """A new model, with the same weights each time."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    return spec(name)[1]()


def batch(name: str, model: Any) -> tuple[Any, Any]:
    """One batch on the device; every step gets the same one."""
    size = spec(name)[2]
    rng = np.random.default_rng(0)
    shape = (size, *model.input_shape[1:])
    y = rng.normal(size=(size, *model.output_shape[1:]))
    dtype = model.inputs[0].dtype
    if dtype == "int32":
        table = next(layer for layer in model.layers if isinstance(layer, layers.Embedding))
        x = rng.integers(0, table.input_dim, shape)
    else:
        x = rng.normal(size=shape)
    return keras.ops.convert_to_tensor(x, dtype), keras.ops.convert_to_tensor(y, "float32")


def groups(model: Any, count: int | None) -> dict[str, float]:
    """A multiplier for each layer with weights: `count` different ones, or one a layer."""
    named = [layer for layer in model.layers if layer.trainable_weights]
    count = min(count or len(named), len(named))
    return {
        layer.name: 0.5 + (i * count // len(named)) / count / 2 for i, layer in enumerate(named)
    }


def stepper(name: str, model: Any) -> Callable[[int], None]:
    """Trains a compiled model for some steps, as ``fit`` does, and waits for the device."""
    x, y = batch(name, model)
    # As `fit` does: metrics and slots are made before the step is traced.
    model._symbolic_build(data_batch=(x, y))
    model.make_train_function()
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()](
        model, x, y
    )


def _tensorflow(model: Any, x: Any, y: Any) -> Callable[[int], None]:
    import tensorflow as tf

    batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())

    def run(steps: int) -> None:
        for _ in range(steps):
            model.train_function(batches)
        synchronise()

    return run


def _jax(model: Any, x: Any, y: Any) -> Callable[[int], None]:
    import jax

    kinds = ("trainable", "non_trainable", "optimizer", "metrics")
    state = model._get_jax_state(
        **{f"{kind}_variables": True for kind in kinds}, purge_model_variables=True
    )

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            _, state = model.train_function(state, iter([(x, y)]))
        jax.block_until_ready(state)

    return run


def _torch(model: Any, x: Any, y: Any) -> Callable[[int], None]:
    model.train()

    def run(steps: int) -> None:
        for _ in range(steps):
            model.train_function([(x, y)])
        synchronise()

    return run


def torch_optimizer(
    model: Any, rate: float, multipliers: dict[str, float], kind: str = "Adam", **options: Any
) -> Any:
    """PyTorch's own optimizer, with one parameter group for each rate."""
    import torch

    members: dict[float, list[Any]] = {}
    for layer in model.layers:
        factor = multipliers.get(layer.name, 1.0)
        members.setdefault(factor, []).extend(v.value for v in layer.trainable_weights)
    groups = [{"params": found, "lr": rate * factor} for factor, found in members.items() if found]
    return getattr(torch.optim, kind)(groups, eps=1e-7, **options)


def torch_stepper(name: str, model: Any, rate: float, multipliers: Any) -> Callable[[int], None]:
    """The same training in PyTorch's own words."""
    import torch

    x, y = batch(name, model)
    optimizer = torch_optimizer(model, rate, multipliers)
    model.train()

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x, training=True), y).backward()
            optimizer.step()
        synchronise()

    return run
