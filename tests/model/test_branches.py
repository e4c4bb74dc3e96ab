"""Outlines of networks that branch, as people write them, most without a name of their own."""

import keras
import pytest

from keras_layerwise import RuleError, outline
from tests.model.test_outline import check_complete, counts

pytestmark = pytest.mark.tensorflow_only  # nothing here depends on the backend
L = keras.layers


def conv(filters, **more):
    return L.Conv2D(filters, 3, padding="same", **more)


def residual(x):
    return L.Add()([x, conv(x.shape[-1])(L.ReLU()(conv(x.shape[-1])(x)))])


def classes(x, count=3, **more):
    return L.Dense(count, **more)(L.GlobalAveragePooling2D()(x))


def image():
    return keras.Input((16, 16, 3))


def kernels(parts):
    """How many matrices the stem, the blocks, the neck and the head have."""

    def count(part):
        return sum(len(weight.shape) > 1 for weight in part.weights)

    return (
        count(parts.stem),
        [count(b) for b in parts.blocks],
        count(parts.neck),
        count(parts.head),
    )


@pytest.mark.parametrize("last", [L.Softmax, lambda: L.Activation("sigmoid"), L.Flatten])
def test_what_follows_the_last_layer_does_not_hide_the_blocks(last):
    layers = [L.Dense(4) for _ in range(5)]
    parts = outline(keras.Sequential([keras.Input((4,)), *layers, last()]))
    assert counts(parts) == (0, [2, 2, 2, 2], 0, 2)


def test_masks_that_keras_makes_are_no_branch():
    """A concatenation makes a mask of ones for what has none; each later layer takes it."""
    words, letters = keras.Input((6,)), keras.Input((6, 5, 3))
    x = L.Embedding(9, 4, mask_zero=True)(words)
    y = L.TimeDistributed(L.Bidirectional(L.LSTM(2)))(letters)
    x = L.Concatenate()([x, y])
    for _ in range(2):
        x = L.Bidirectional(L.LSTM(4, return_sequences=True))(x)
    model = keras.Model([words, letters], L.TimeDistributed(L.Dense(2))(x))
    parts = outline(model)
    assert [len(block.weights) for block in parts.blocks] == [7, 6, 6]
    check_complete(model, parts)


def test_towers_whose_layers_share_their_numbers_are_an_error():
    inputs, ends = [], []
    for name in ("user", "item"):
        inputs.append(keras.Input((1,)))
        x = L.Flatten()(L.Embedding(9, 4, name=f"{name}_embedding")(inputs[-1]))
        ends.append(L.Dense(4, name=f"{name}_2")(L.Dense(8, name=f"{name}_1")(x)))
    with pytest.raises(RuleError, match=r"beside each other.*user_1.*block="):
        outline(keras.Model(inputs, L.Dot(1)(ends)))


def test_an_encoder_and_a_decoder_that_are_numbered_alike():
    source, target = keras.Input((5, 3)), keras.Input((5, 3))
    x = L.LSTM(4, return_sequences=True, name="enc1")(source)
    _, *state = L.LSTM(4, return_state=True, name="enc2")(x)
    y = L.LSTM(4, return_sequences=True, name="dec1")(target, initial_state=state)
    y = L.LSTM(4, return_sequences=True, name="dec2")(y)
    parts = outline(keras.Model([source, target], L.Dense(2, name="out")(y)))
    assert [block.name for block in parts.blocks] == ["enc1", "enc2", "dec1", "dec2"]


def test_an_auxiliary_output_leaves_the_blocks_after_it_blocks():
    inputs = image()
    x = residual(residual(conv(4)(inputs)))
    early = classes(x)
    middle = residual(x)
    hidden = L.Dense(3)(L.Dense(8)(L.GlobalAveragePooling2D()(middle)))
    for _ in range(3):
        middle = residual(middle)
    parts = outline(keras.Model(inputs, [classes(middle), early, hidden]))
    assert kernels(parts) == (1, [2] * 6, 1, 3)


def test_an_auxiliary_output_in_a_plain_stack():
    x = inputs = image()
    outputs = []
    for i in range(8):
        x = conv(4)(x)
        outputs += [classes(x)] if i in (2, 7) else []
    parts = outline(keras.Model(inputs, outputs))
    assert kernels(parts) == (0, [1] * 8, 0, 2)


def test_two_tasks_with_blocks_of_their_own_are_an_error():
    inputs = image()
    x = residual(residual(conv(4)(inputs)))
    tasks = [classes(residual(residual(residual(x)))), classes(residual(residual(x)))]
    with pytest.raises(RuleError, match=r"beside each other.*block="):
        outline(keras.Model(inputs, tasks))


def test_a_pyramid_on_blocks_without_names_is_an_error():
    x = inputs = image()
    levels = []
    for _ in range(3):
        x = residual(residual(conv(4, strides=2)(x)))
        levels.append(x)
    top = L.Conv2D(4, 1)(levels.pop())
    tops = [top]
    while levels:
        top = L.Add()([L.UpSampling2D()(top), L.Conv2D(4, 1)(levels.pop())])
        tops.append(top)
    head = conv(2)
    with pytest.raises(RuleError, match=r"beside each other.*block="):
        outline(keras.Model(inputs, [head(top) for top in tops]))


@pytest.mark.parametrize("names", [("head_1", "head_2"), ("age", "sex")])
def test_heads_that_are_models_are_heads_whole(names):
    x = inputs = image()
    for i in range(3):
        y = conv(4, name=f"block{i}_b")(conv(4, name=f"block{i}_a")(x))
        x = y if i == 0 else L.Add(name=f"block{i}_add")([x, y])
    x = L.GlobalAveragePooling2D()(x)
    heads = [
        keras.Sequential(
            [L.Dense(4), L.BatchNormalization(), L.Dropout(0.5), L.Dense(2)], name=name
        )
        for name in names
    ]
    parts = outline(keras.Model(inputs, [head(x) for head in heads]))
    assert counts(parts) == (0, [4, 4, 4], 0, 16)


@pytest.mark.parametrize(
    ("count", "name"), [(5, None), (3, None), (2, "head"), (1, "my_classifier_2")]
)
def test_a_head_that_is_a_model_on_a_stack_without_names(count, name):
    """Also one that is as large as what precedes it, where it is named one."""
    x = inputs = image()
    for _ in range(count):
        x = L.BatchNormalization()(conv(4)(x))
    top = keras.Sequential([L.Flatten(), L.Dense(8), L.Dropout(0.2), L.Dense(2)], name=name)
    assert kernels(outline(keras.Model(inputs, top(x)))) == (0, [1] * count, 0, 2)


def test_a_first_block_may_add_the_input_of_the_network():
    """As in Keras's example of a transformer for time series."""
    x = inputs = keras.Input((12, 2))
    for _ in range(3):
        x = L.LayerNormalization()(L.MultiHeadAttention(2, 4)(x, x)) + x
        x = L.Conv1D(2, 1)(L.Conv1D(4, 1)(x)) + x
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x)))
    assert counts(outline(model)) == (0, [14, 14, 14], 0, 2)


def test_what_a_whole_network_adds_to_its_input_is_a_stack():
    x = inputs = image()
    for _ in range(5):
        x = L.ReLU()(conv(4)(x))
    model = keras.Model(inputs, L.Add()([inputs, conv(3)(x)]))
    assert kernels(outline(model)) == (0, [1] * 6, 0, 0)


def test_tokens_and_then_channels_are_mixed_in_one_block():
    """As in an MLP-Mixer, whose axes change places: that is no decoder either."""
    x = inputs = keras.Input((16, 8))
    for _ in range(2):
        y = L.Permute((2, 1))(L.LayerNormalization()(x))
        x = L.Add()([x, L.Permute((2, 1))(L.Dense(16)(L.Dense(8)(y)))])
        x = L.Add()([x, L.Dense(8)(L.Dense(8)(L.LayerNormalization()(x)))])
    parts = outline(keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x))))
    assert kernels(parts) == (0, [4, 4], 0, 1)
    assert "encoder" not in parts.how


def test_a_shuffle_of_channels_mixes_no_tokens():
    """As in a ShuffleNet: each of its units is a block, also where the axes return at once."""
    x = inputs = keras.Input((16, 16, 4))
    for i in range(4):
        y = conv(4)(conv(4)(x))
        if i % 2 == 0:
            y = L.Permute((1, 2, 4, 3))(L.Reshape((16, 16, 2, 2))(y))
            y = L.Reshape((16, 16, 4))(L.Permute((1, 2, 4, 3))(y))
        x = L.Add()([x, y])
    parts = outline(keras.Model(inputs, classes(x)))
    assert kernels(parts) == (0, [2] * 4, 0, 1)


def test_attention_by_hand_and_what_follows_it_are_one_block():
    inputs = keras.Input((6,))
    x = L.Embedding(9, 8)(inputs)
    for _ in range(3):
        query, key, value = (L.Dense(8)(x) for _ in range(3))
        scores = L.Softmax()(keras.ops.matmul(query, keras.ops.transpose(key, (0, 2, 1))))
        x = L.Add()([x, L.Dense(8)(keras.ops.matmul(scores, value))])
        x = L.Add()([x, L.Dense(8)(L.Dense(16)(x))])
    model = keras.Model(inputs, L.Dense(2)(x[:, 0]))
    assert kernels(outline(model)) == (1, [6, 6, 6], 0, 1)


def test_a_decoder_as_large_as_the_encoder_is_no_head():
    """As in a variational autoencoder: two models, one after the other."""
    x = inputs = image()
    for _ in range(2):
        x = conv(4, strides=2)(x)
    x = L.Dense(8)(L.Flatten()(x))
    encoder = keras.Model(inputs, [L.Dense(2)(x), L.Dense(2)(x)])
    code = keras.Input((2,))
    y = L.Reshape((4, 4, 4))(L.Dense(64)(code))
    for filters in (4, 4):
        y = L.Conv2DTranspose(filters, 3, strides=2, padding="same")(y)
    decoder = keras.Model(code, conv(3)(y))
    outer = image()
    parts = outline(keras.Model(outer, decoder(L.Add()(encoder(outer)))))
    assert kernels(parts) == (0, [1, 1, 1, 2, 1, 1, 1], 0, 1)
