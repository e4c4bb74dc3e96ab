"""Encoder-decoders have the blocks of both told apart, in the order of the data, or are an error.

The networks are written as people write them: most without a name of their own.
"""

import keras
import pytest

from keras_layerwise import RuleError, outline
from keras_layerwise.model import kinds

pytestmark = pytest.mark.tensorflow_only  # nothing here depends on the backend
L = keras.layers


def conv(filters, **more):
    return L.Conv2D(filters, 3, padding="same", **more)


def unet(deepest=3, side=32, transposed=False, normed=False, convs=2):
    """As in the paper: two convolutions a level, copied over and concatenated."""

    def level(x, filters):
        for _ in range(convs):
            x = conv(filters)(x)
            x = L.BatchNormalization()(x) if normed else x
            x = L.Activation("relu")(x)
        return x

    inputs = keras.Input((side, side, 3))
    x, skips = inputs, []
    for i in range(deepest):
        skips.append(level(x, 4 * 2**i))
        x = L.MaxPooling2D()(skips[-1])
    x = level(x, 4 * 2**deepest)
    for i in reversed(range(deepest)):
        if transposed:
            x = L.Conv2DTranspose(4 * 2**i, 2, strides=2, padding="same")(x)
        else:
            x = conv(4 * 2**i)(L.UpSampling2D()(x))
        x = level(L.Concatenate()([skips.pop(), x]), 4 * 2**i)
    return keras.Model(inputs, L.Conv2D(2, 1, activation="softmax")(x))


def xception_style():
    """As in Keras's example of segmentation: separable and transposed convolutions, residuals."""
    inputs = keras.Input((32, 32, 3))
    x = L.Activation("relu")(L.BatchNormalization()(conv(8, strides=2)(inputs)))
    before = x
    for filters in (16, 24, 32):
        for _ in range(2):
            x = L.SeparableConv2D(filters, 3, padding="same")(L.Activation("relu")(x))
            x = L.BatchNormalization()(x)
        x = L.MaxPooling2D(3, strides=2, padding="same")(x)
        before = L.Conv2D(filters, 1, strides=2, padding="same")(before)
        x = before = L.add([x, before])
    for filters in (32, 24, 16, 8):
        for _ in range(2):
            x = L.Conv2DTranspose(filters, 3, padding="same")(L.Activation("relu")(x))
            x = L.BatchNormalization()(x)
        before = L.Conv2D(filters, 1, padding="same")(L.UpSampling2D(2)(before))
        x = before = L.add([L.UpSampling2D(2)(x), before])
    return keras.Model(inputs, conv(3, activation="softmax")(x))


def residual(x, filters):
    before = x if x.shape[-1] == filters else L.Conv2D(filters, 1)(x)
    return L.Add()([before, conv(filters)(conv(filters)(x))])


def denoiser():
    """As in Keras's example of diffusion: residual blocks, two copies a level, a second input."""
    noisy, time = keras.Input((16, 16, 3)), keras.Input((1, 1, 2))
    x = L.Concatenate()([L.Conv2D(4, 1)(noisy), L.UpSampling2D(16)(time)])
    skips = []
    for filters in (4, 6):
        for _ in range(2):
            x = residual(x, filters)
            skips.append(x)
        x = L.AveragePooling2D(2)(x)
    x = residual(x, 8)
    for filters in (6, 4):
        x = L.UpSampling2D(interpolation="bilinear")(x)
        for _ in range(2):
            x = residual(L.Concatenate()([x, skips.pop()]), filters)
    return keras.Model([noisy, time], L.Conv2D(3, 1)(x))


def residual_autoencoder():
    x = inputs = keras.Input((32, 32, 3))
    for filters in (4, 8):
        x = L.MaxPooling2D()(residual(x, filters))
    for filters in (8, 4):
        x = L.UpSampling2D()(residual(x, filters))
    return keras.Model(inputs, conv(3)(x))


def deconvolutions():
    """Convolutions down and transposed ones up, with the copies added."""
    x = inputs = keras.Input((16, 16, 1))
    skips = []
    for filters in (4, 6, 8):
        x = conv(filters, strides=2)(x)
        skips.append(x)
    for filters, skip in zip((6, 4), (skips[1], skips[0]), strict=True):
        x = L.Conv2DTranspose(filters, 3, strides=2, padding="same")(x)
        x = L.ReLU()(L.Add()([x, skip]))
    return keras.Model(inputs, L.Conv2DTranspose(1, 3, strides=2, padding="same")(x))


def of_any_size():
    """Of images whose size is not known: the layers' own settings tell."""
    x = inputs = keras.Input((None, None, 1))
    skips = []
    for filters in (4, 8):
        x = conv(filters)(x)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = conv(8)(x)
    for filters in (8, 4):
        x = L.Conv2DTranspose(filters, 3, strides=2, padding="same")(x)
        x = conv(filters)(L.Concatenate()([x, skips.pop()]))
    return keras.Model(inputs, L.Conv2D(1, 1)(x))


def kernels_by_block(model):
    """For each block, the places of its layers with a kernel in the order they were called."""
    place = {id(layer): i for i, layer in enumerate(filter(kinds.has_kernel, model.layers))}
    parts = outline(model)
    return [sorted(place[id(w)] for w in b.layers if id(w) in place) for b in parts.blocks], parts


@pytest.mark.parametrize(
    ("build", "kernels"),
    [
        (unet, 17),
        (lambda: unet(normed=True), 17),
        (lambda: unet(transposed=True), 17),
        (lambda: unet(1, transposed=True), 7),
        (lambda: unet(convs=1, transposed=True), 10),
        (deconvolutions, 5),
        (of_any_size, 7),
    ],
)
def test_plain_levels_have_a_block_for_each_kernel_down_and_then_up(build, kernels):
    found, parts = kernels_by_block(build())
    assert found == [[i] for i in range(kernels)]
    assert len(parts.head.weights) == 2
    assert parts.neck.weights == parts.stem.weights == []
    assert "the encoder's before the decoder's" in parts.how


@pytest.mark.parametrize(("build", "blocks"), [(xception_style, 7), (residual_autoencoder, 4)])
def test_residual_blocks_down_and_then_up(build, blocks):
    found, parts = kernels_by_block(build())
    assert len(found) == blocks
    assert [i for block in found for i in block] == sorted(i for block in found for i in block)
    assert all(len(block) in (2, 3) for block in found)
    assert len(parts.head.weights) == 2


def test_residual_blocks_with_copies_between_them():
    model = denoiser()
    parts = outline(model)
    assert [len([w for w in b.weights if len(w.shape) > 1]) for b in parts.blocks] == [
        3, 2, 3, 2, 3, 3, 3, 3, 3,
    ]  # fmt: skip
    assert [part.key for part in (parts.stem, parts.head) if len(part.weights) == 2] == [
        "stem",
        "head",
    ]


def test_a_decoder_after_a_backbone_that_is_nested_is_its_head():
    body = unet()
    encoder = keras.Model(body.input, [body.layers[i].output for i in (4, 9)], name="encoder")
    inputs = keras.Input((32, 32, 3))
    above, below = encoder(inputs)
    up = L.Concatenate()([L.UpSampling2D()(below), above])
    model = keras.Model(inputs, L.Conv2D(2, 1)(conv(4, name="up")(up)))
    assert next(layer.name for layer in outline(model).head._owners) == "up"


def attention_gates():
    x = inputs = keras.Input((16, 16, 1))
    skips = []
    for filters in (4, 8):
        x = conv(filters)(x)
        skips.append(x)
        x = L.MaxPool2D()(x)
    x = conv(16)(x)
    for filters in (8, 4):
        skip, x = skips.pop(), L.UpSampling2D()(x)
        gate = L.ReLU()(L.Add()([L.Conv2D(filters, 1)(skip), L.Conv2D(filters, 1)(x)]))
        gate = L.Conv2D(1, 1, activation="sigmoid")(gate)
        x = conv(filters)(L.Concatenate()([x, L.Multiply()([skip, gate])]))
    return keras.Model(inputs, L.Conv2D(1, 1)(x))


def nested_copies():
    """U-Net++: what is copied is worked on between encoder and decoder."""
    inputs = keras.Input((16, 16, 1))
    x00 = conv(4)(inputs)
    x10 = conv(4)(L.MaxPool2D()(x00))
    x20 = conv(4)(L.MaxPool2D()(x10))
    x01 = conv(4)(L.Concatenate()([x00, L.UpSampling2D()(x10)]))
    x11 = conv(4)(L.Concatenate()([x10, L.UpSampling2D()(x20)]))
    x02 = conv(4)(L.Concatenate()([x00, x01, L.UpSampling2D()(x11)]))
    return keras.Model(inputs, L.Conv2D(1, 1)(x02))


@pytest.mark.parametrize("build", [attention_gates, nested_copies])
def test_layers_between_encoder_and_decoder_are_asked_about(build):
    with pytest.raises(RuleError, match=r"beside each other.*conv2d_1.*block="):
        outline(build())


def test_a_little_branch_that_is_made_larger_again_is_no_decoder():
    """As the pooled branch of an atrous pyramid."""
    x = inputs = keras.Input((16, 16, 3))
    for filters in (4, 8, 8):
        x = residual(x, filters)
    pooled = L.UpSampling2D(16)(L.Conv2D(4, 1)(L.AveragePooling2D(16)(x)))
    x = L.Concatenate()([pooled, conv(4)(x), L.Conv2D(4, 1)(x)])
    parts = outline(keras.Model(inputs, L.Conv2D(2, 1)(x)))
    assert len(parts.blocks) == 4
    assert "encoder" not in parts.how


def test_names_tell_the_levels():
    inputs = keras.Input((16, 16, 2))
    x, skips = inputs, []
    for i in range(3):
        x = conv(2, name=f"down{i}_b")(conv(2, name=f"down{i}_a")(x))
        skips.append(x)
        x = L.MaxPool2D()(x)
    for i in range(3):
        x = L.Concatenate()([L.UpSampling2D()(x), skips.pop()])
        x = conv(2, name=f"up{i}_b")(conv(2, name=f"up{i}_a")(x))
    blocks = outline(keras.Model(inputs, conv(1, name="mask")(x))).blocks
    assert [block.name for block in blocks] == ["down0", "down1", "down2", "up0", "up1", "up2"]


def test_attention_among_other_blocks_takes_in_no_more_than_the_next():
    def dense(x):
        return L.Add()([x, L.Dense(8)(L.Dense(8)(x))])

    inputs = keras.Input((16, 4))
    x = dense(dense(L.Dense(8)(inputs)))
    x = dense(dense(dense(L.Add()([x, L.MultiHeadAttention(2, 4)(x, x)]))))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x)))
    assert [len(block.weights) for block in outline(model).blocks] == [4, 4, 12, 4, 4]
