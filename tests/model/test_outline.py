"""Stem, blocks, neck and head of networks as people build them."""

import keras
import numpy as np
import pytest

from keras_layerwise import RuleError, outline
from keras_layerwise.backend.internals import sublayers
from keras_layerwise.model import structure
from keras_layerwise.model.outline import keys
from keras_layerwise.model.selectors import select, select_layers

L = keras.layers


def by_part(parts):
    """The names of the layers with weights, by part."""
    return {part.key: [layer.name for layer in part._owners] for part in parts}


def counts(parts):
    """How many weights the stem, the blocks, the neck and the head have."""
    ends = (parts.stem.weights, parts.neck.weights, parts.head.weights)
    return (len(ends[0]), [len(b.weights) for b in parts.blocks], len(ends[1]), len(ends[2]))


def check_complete(model, parts):
    """Every weight is in exactly one part."""
    found = [id(weight) for part in parts for weight in part.weights]
    assert sorted(found) == sorted(id(weight) for weight in model.weights)


def dense(name, units=4):
    return L.Dense(units, name=name)


def sequential(*layers):
    return keras.Sequential([keras.Input((4,)), *layers])


class Block(L.Layer):
    """A block whose inside is not known, with two kernels."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = dense("one"), dense("two")

    def build(self, shape):
        self.one.build(shape)
        self.two.build(shape)

    def call(self, inputs):
        return inputs + self.two(self.one(inputs))


class Encoder(L.Layer):
    """Blocks in one layer, with an embedding before and a norm after them."""

    def __init__(self, count=3, first=0, norm="norm", norm_is_last=True, **kwargs):
        super().__init__(**kwargs)
        if not norm_is_last:
            self.norm = L.LayerNormalization(name=norm)
        self.blocks = [Block(name=f"layer_{i + first}") for i in range(count)]
        if norm_is_last:
            self.norm = L.LayerNormalization(name=norm)

    def build(self, shape):
        self.position = self.add_weight(shape=shape[1:], name="position")
        for block in self.blocks:
            block.build(shape)
        self.norm.build(shape)

    def call(self, inputs):
        x = inputs + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def test_a_plain_stack_has_one_block_for_each_kernel():
    model = sequential(dense("a"), L.BatchNormalization(name="n"), dense("b"), dense("out", 1))
    parts = outline(model)
    assert by_part(parts) == {"block/0/a": ["a", "n"], "block/1/b": ["b"], "head": ["out"]}
    assert [part.depth for part in parts] == [1, 2, 3]
    check_complete(model, parts)


def test_recurrent_layers_and_wrappers_count_as_one():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            L.Embedding(9, 4, name="words"),
            L.Bidirectional(L.LSTM(3, return_sequences=True), name="one"),
            L.TimeDistributed(dense("inner"), name="each"),
            L.LSTM(3, name="two"),
            dense("out", 1),
        ]
    )
    parts = outline(model)
    assert [block.name for block in parts.blocks] == ["one", "each", "two"]
    assert by_part(parts)["stem"] == ["words"]
    assert [layer.name for layer in parts.blocks[0].layers] == ["one"]
    check_complete(model, parts)


def test_blocks_inside_a_layer():
    model = sequential(dense("patches"), Encoder(name="encoder"), dense("out", 2))
    parts = outline(model)
    assert [block.name for block in parts.blocks] == ["layer_0", "layer_1", "layer_2"]
    assert by_part(parts)["stem"] == ["patches", "encoder"]
    assert by_part(parts)["neck"] == ["norm"]
    assert by_part(parts)["head"] == ["out"]
    check_complete(model, parts)


def test_a_place_inside_a_layer_that_nothing_tells_is_asked_for():
    model = sequential(Encoder(norm_is_last=False, name="encoder"), dense("out", 2))
    with pytest.raises(RuleError, match=r"norm.*`stem=` and `head=`"):
        outline(model)
    assert by_part(outline(model, head=["norm", "out"]))["head"] == ["norm", "out"]
    named = sequential(Encoder(norm="final_norm", norm_is_last=False), dense("out", 2))
    assert by_part(outline(named))["neck"] == ["final_norm"]


def test_blocks_that_keras_numbered_count_where_the_class_is_the_users():
    model = sequential(dense("first"), *(Block() for _ in range(3)), dense("out", 1))
    assert counts(outline(model)) == (2, [4, 4, 4], 0, 2)


def test_one_layer_of_blocks():
    model = sequential(dense("first"), Block(name="layer_0"), dense("out", 1))
    assert counts(outline(model)) == (2, [4], 0, 2)


def test_experts_in_a_block_are_no_blocks():
    class Mixture(Block):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.experts = [Block(name=f"expert_{i}") for i in range(4)]

        def build(self, shape):
            super().build(shape)
            for expert in self.experts:
                expert.build(shape)

        def call(self, inputs):
            return sum(expert(inputs) for expert in self.experts)

    model = sequential(*(Mixture(name=f"layer_{i}") for i in range(3)), dense("out", 1))
    assert counts(outline(model)) == (0, [20, 20, 20], 0, 2)
    alone = sequential(dense("in"), Mixture(name="layer_0"), dense("out", 1))
    assert len(outline(alone).blocks) == 1


def residual(named, downsample=False):
    """A flat residual network of three blocks, with names of its own or Keras's."""

    def name(text):
        return {"name": text} if named else {}

    inputs = keras.Input((4,))
    x = L.Dense(4, **name("stem"))(inputs)
    for i in range(3):
        y = L.Dense(4, **name(f"stage{i // 2}_block{i}_a"))(x)
        y = L.BatchNormalization(**name(f"stage{i // 2}_block{i}_norm"))(y)
        y = L.Dense(4, **name(f"stage{i // 2}_block{i}_b"))(y)
        if downsample:
            x = L.Dense(4)(x)  # around the block, and without a name
        x = L.Add()([x, y])
    x = L.LayerNormalization(**name("final"))(x)
    return keras.Model(inputs, L.Dense(2, **name("out"))(x))


@pytest.mark.parametrize("downsample", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_residual_blocks_by_names_or_by_the_graph(named, downsample):
    model = residual(named, downsample)
    parts = outline(model)
    size = 10 if downsample else 8
    assert counts(parts) == (2, [size, size, size], 2, 2)
    assert parts.how == ("names" if named else "stretches between the points that all data passes")
    check_complete(model, parts)


def test_attention_and_what_follows_it_are_one_block():
    inputs = keras.Input((5,))
    x = L.Embedding(10, 8)(inputs)
    for _ in range(3):
        x = L.LayerNormalization()(L.Add()([x, L.MultiHeadAttention(2, 4)(x, x)]))
        x = L.LayerNormalization()(L.Add()([x, L.Dense(8)(L.Dense(16)(x))]))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x)))
    assert counts(outline(model)) == (1, [16, 16, 16], 0, 2)


def test_a_mask_that_reaches_every_block_is_no_branch():
    inputs, mask = keras.Input((5,), name="ids"), keras.Input((5, 5), name="mask", dtype="bool")
    x = L.Embedding(10, 8)(inputs)
    for _ in range(2):
        x = L.Add()([x, L.MultiHeadAttention(2, 4)(x, x, attention_mask=mask)])
        x = L.Add()([x, L.Dense(8)(L.Dense(16)(x))])
    model = keras.Model([inputs, mask], L.Dense(2)(x[:, 0]))
    assert counts(outline(model)) == (1, [12, 12], 0, 2)


def test_names_with_one_number_in_two_places():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, name="conv1")(inputs)
    for i in (1, 2, 3):
        x = L.DepthwiseConv2D(3, padding="same", name=f"conv_dw_{i}")(x)
        x = L.Conv2D(4, 1, name=f"conv_pw_{i}")(x)
    model = keras.Model(inputs, L.Dense(2, name="out")(L.Flatten()(x)))
    assert counts(outline(model)) == (2, [4, 4, 4], 0, 2)


def test_everything_outside_a_nested_backbone_is_head():
    body = residual(named=True)
    backbone = keras.Model(body.input, body.layers[-2].output, name="backbone")
    model = sequential(L.Rescaling(2.0), backbone, L.Dropout(0.1), dense("hidden"), dense("out", 1))
    parts = outline(model)
    assert by_part(parts)["head"] == ["hidden", "out"]
    assert by_part(parts)["neck"] == ["final"]
    assert len(parts.blocks) == 3
    assert outline(backbone).head.weights == []


def test_a_flat_head_on_a_backbone_says_what_lies_between():
    body = residual(named=True)
    hidden = dense("hidden")(body.layers[-2].output)
    model = keras.Model(body.input, dense("classes", 2)(hidden))
    parts = outline(model)
    assert by_part(parts)["head"] == ["classes"]
    assert by_part(parts)["neck"] == ["final", "hidden"]
    assert "hidden" in str(parts).splitlines()[-1]
    assert "pass head=" in str(parts)
    assert by_part(outline(model, head=["hidden", "classes"]))["head"] == ["hidden", "classes"]


def test_every_output_is_head():
    inputs = keras.Input((4,))
    x = dense("body")(inputs)
    model = keras.Model(inputs, [dense("box")(x), dense("cls")(dense("cls_pre")(x))])
    assert by_part(outline(model)) == {
        "block/0/body": ["body"],
        "neck": ["cls_pre"],
        "head": ["box", "cls"],
    }


def test_a_shared_encoder_is_one_network():
    body = residual(named=False)
    encoder = keras.Model(body.input, body.layers[-2].output, name="encoder")
    left, right = keras.Input((4,)), keras.Input((4,))
    distance = L.Subtract()([encoder(left), encoder(right)])
    model = keras.Model([left, right], dense("out", 1)(distance))
    parts = outline(model)
    assert counts(parts) == (2, [8, 8, 8], 2, 2)
    check_complete(model, parts)


def test_a_shared_layer_belongs_to_its_lowest_part():
    shared, inputs = dense("shared"), keras.Input((4,))
    model = keras.Model(inputs, dense("out")(shared(dense("between")(shared(inputs)))))
    assert [block.name for block in outline(model).blocks] == ["shared", "between"]


def test_a_shared_weight_belongs_to_its_lowest_part():
    class Tied(L.Layer):
        def __init__(self, words, **kwargs):
            super().__init__(**kwargs)
            self.words = words

        def build(self, shape):
            self.bias = self.add_weight(shape=(9,), name="bias")

        def call(self, inputs):
            return keras.ops.matmul(inputs, keras.ops.transpose(self.words.embeddings)) + self.bias

    words = L.Embedding(9, 4, name="words")
    blocks = [Block(name=f"layer_{i}") for i in range(2)]
    model = keras.Sequential([keras.Input((5,)), words, *blocks, Tied(words, name="logits")])
    parts = outline(model)
    assert parts.part_of(words.embeddings) is parts.stem
    assert len(parts.blocks) == 2
    check_complete(model, parts)


def test_a_backbone_in_a_wrapper_and_in_a_subclassed_model():
    body = residual(named=True)
    inputs = keras.Input((3, 4))
    x = L.TimeDistributed(body)(inputs)
    model = keras.Model(inputs, dense("out", 1)(L.LSTM(2, name="lstm")(x)))
    assert len(outline(model).blocks) == 3
    assert by_part(outline(model))["head"][-1] == "out"

    class Outer(keras.Model):
        def __init__(self, *layers):
            super().__init__()
            self.parts = list(layers)

        def call(self, inputs):
            for layer in self.parts:
                inputs = layer(inputs)
            return inputs

    alone = Outer(body)
    alone(np.ones((1, 4)))
    assert len(outline(alone).blocks) == 3
    two = Outer(body, dense("top", 1))
    two(np.ones((1, 4)))
    with pytest.raises(RuleError, match=r"subclassed.*top"):
        outline(two)
    assert by_part(outline(two, head="top"))["head"] == ["top"]


def subclassed():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = dense("head")
            self.blocks = [dense(f"block_{i}") for i in range(11)]
            self.stem = dense("stem")

        def call(self, inputs):
            inputs = self.stem(inputs)
            for block in self.blocks:
                inputs = block(inputs)
            return self.head(inputs)

    model = Model()
    model(np.ones((1, 4)))
    return model


def test_a_subclassed_model_is_asked_about():
    model = subclassed()
    with pytest.raises(RuleError, match=r"head, block_0.*`block=`.*`stem=` and `head=`"):
        outline(model)
    with pytest.raises(RuleError, match="belong: head, stem"):
        outline(model, r"block_\d+")
    parts = outline(model, r"block_\d+", stem="stem", head="head")
    assert [block.name for block in parts.blocks] == [f"block_{i}" for i in range(11)]
    assert by_part(parts)["stem"] == ["stem"]


def test_branches_side_by_side_are_an_error():
    def tower(name):
        inputs = keras.Input((4,))
        x = inputs
        for i in range(3):
            x = Block(name=f"{name}_{i}")(x)
        return inputs, x

    (left, a), (right, b) = tower("image"), tower("text")
    model = keras.Model([left, right], dense("out")(L.Concatenate()([a, b])))
    with pytest.raises(RuleError, match=r"neither comes first.*block="):
        outline(model)
    auto = keras.Model(
        [left, right],
        L.Dense(1)(L.Add()([L.Dense(2)(L.Dense(3)(left)), L.Dense(2)(L.Dense(3)(right))])),
    )
    with pytest.raises(RuleError, match="beside each other"):
        outline(auto)


def test_lora_and_quantized_weights_stay_in_their_part():
    model = sequential(*(dense(f"d{i}") for i in range(3)))
    before = by_part(outline(model))
    parts = outline(model)
    model.layers[1].enable_lora(2)
    assert len(parts.blocks[1].weights) == 4
    assert by_part(outline(model)) == before
    check_complete(model, outline(model))
    for layer in model.layers:
        layer.quantize("int8")
    assert by_part(outline(model)) == before
    check_complete(model, outline(model))
    check_complete(model, parts)


def test_what_is_trainable_does_not_matter():
    model = residual(named=True)
    before = by_part(outline(model))
    for layer in model.layers[3:6]:
        layer.trainable = False
    assert by_part(outline(model)) == before


def test_blocks_by_pattern_also_inside_a_layer():
    model = sequential(dense("patches"), Encoder(first=1, name="encoder"), dense("out", 2))
    by_text = by_part(outline(model, r"layer_\d+"))
    assert by_text == by_part(outline(model, r"layer_(\d+)"))
    assert list(by_text) == [
        "stem",
        *(f"block/{i}/layer_{i + 1}" for i in range(3)),
        "neck",
        "head",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": "nothing_"}, "matches no layer.*stem.*block0"),
        ({"block": "("}, "no regular expression"),
        ({"block": "stem|out"}, "leaves most layers between.*stage0_block0_a"),
        ({"block": "(stage.)"}, None),
        ({"block": "(?:stem|out|stage0_block0)()"}, "lie apart into one block.*stage0_block1_a"),
        ({"head": "heda"}, "`head`='heda' selects no layer"),
        ({"stem": "heda"}, "`stem`='heda' selects no layer"),
        ({"head": "stage0_block0_a"}, "in the middle.*stage1_block2"),
        ({"head": "*norm*"}, "in the middle"),
        ({"stem": "final"}, "in the middle.*comes before"),
        ({"stem": "*", "head": "out"}, "both select"),
        ({"head": "stage1_block2_b/bias"}, "inside a block"),
    ],
)
def test_what_does_not_fit_says_what_to_pass(arguments, message):
    model = residual(named=True)
    if message is None:
        assert len(outline(model, **arguments).blocks) == 2
        return
    with pytest.raises(RuleError, match=message):
        outline(model, **arguments)


def test_a_pattern_that_joins_stem_and_head():
    model = sequential(dense("lin_in"), *(dense(f"b{i}") for i in range(4)), dense("lin_out"))
    with pytest.raises(RuleError, match=r"lin_in, lin_out, with b0.*number of the block"):
        outline(model, "lin")


@pytest.mark.parametrize("block", ["lin", ""])
def test_a_pattern_that_joins_the_whole_network(block):
    model = sequential(dense("lin_in"), *(dense(f"lin_{i}") for i in range(3)), dense("lin_out"))
    with pytest.raises(RuleError, match=r"whole network.*lin_in, lin_0.*number of the block"):
        outline(model, block)


def test_a_name_in_several_parts_is_in_the_middle():
    """The stem, a block and the head of this network have a layer of one name."""
    inner = [
        keras.Sequential([keras.Input((4,)), dense("d"), dense("e")], name=f"part_{i}")
        for i in range(3)
    ]
    model = keras.Sequential([keras.Input((4,)), *inner, dense("out", 1)])
    for name in ("stem", "head"):
        with pytest.raises(RuleError, match=r"in the middle.*[Pp]ass a longer path"):
            outline(model, **{name: "d"})
    assert len(outline(model, stem="part_0/d").stem.weights) == 2


def towers(smaller=3, larger=3):
    """Two networks of blocks, each a model, whose outputs are brought together."""

    def tower(name, count):
        blocks = [Block(name=f"block_{i}") for i in range(count)]
        return keras.Sequential([keras.Input((4,)), *blocks], name=name)

    inputs = [keras.Input((4,)), keras.Input((4,))]
    found = [tower("image", larger)(inputs[0]), tower("text", smaller)(inputs[1])]
    return keras.Model(inputs, dense("out")(L.Concatenate()(found)))


@pytest.mark.parametrize(("smaller", "larger"), [(3, 3), (2, 6)])
def test_towers_that_are_models_side_by_side_are_an_error(smaller, larger):
    model = towers(smaller, larger)
    with pytest.raises(RuleError, match=r"neither comes first.*block="):
        outline(model)
    parts = outline(model, r"image/block_\d+", head=["text", "out"])
    assert len(parts.blocks) == larger
    assert len(parts.head.weights) == 4 * smaller + 2


@pytest.mark.parametrize(("first", "second", "blocks"), [(3, 3, 6), (2, 6, 8), (6, 2, 6)])
def test_an_encoder_and_a_decoder_that_are_models(first, second, blocks):
    """Both have blocks, unless the second is so much smaller that it is a head."""

    def part(name, count):
        layers = [Block(name=f"block_{i}") for i in range(count)]
        return keras.Sequential([keras.Input((4,)), *layers], name=name)

    model = sequential(part("encoder", first), part("decoder", second), dense("out", 1))
    parts = outline(model)
    assert len(parts.blocks) == blocks
    assert [block.name.split("/")[0] for block in parts.blocks[:2]] != ["decoder", "decoder"]
    assert len(parts.head.weights) == (2 if blocks == first + second else 10)


def test_a_model_that_is_not_built_says_so():
    with pytest.raises(RuleError, match="Build the model first"):
        outline(keras.Sequential([dense("a")]))


def test_what_is_no_expression_is_a_type_error():
    with pytest.raises(TypeError, match="regular expression"):
        outline(sequential(dense("a")), block=3)


def test_a_layer_outside_the_graph_is_asked_for():
    body = residual(named=True)
    body.extra = dense("extra")
    body.extra.build((None, 4))
    if body.extra not in sublayers(body):
        pytest.skip("this Keras does not track a layer that a functional model gets later")
    with pytest.raises(RuleError, match=r"not in the graph.*extra"):
        outline(body)
    assert by_part(outline(body, head=["out", "extra"]))["head"] == ["out", "extra"]


def test_parts_are_selectors_of_weights_and_of_layers():
    model = residual(named=True)
    parts, sites = outline(model), structure.sites(model)
    picked = [sites[i].path for i in select(parts.blocks[:2], sites)]
    assert len(picked) == 16
    assert all("block0" in path or "block1" in path for path in picked)
    names = {layer.name for layer in select_layers(parts.blocks[2], model) if layer.weights}
    assert names == {"stage1_block2_a", "stage1_block2_norm", "stage1_block2_b"}
    assert parts.part_of(model.get_layer("final").gamma) is parts.neck
    assert parts.part_of(L.Dense(1)) is None


def test_keys_never_fail():
    model = residual(named=True)
    found = keys(model)
    assert found[id(model.get_layer("stem").kernel)] == "stem"
    assert found[id(model.get_layer("stage1_block2_a").kernel)] == "block/2/stage1_block2"
    assert keys(subclassed()) == {}


def test_the_table_shows_each_part():
    text = str(outline(residual(named=True)))
    assert "3 blocks, by names" in text.splitlines()[0]
    assert [line.split()[0] for line in text.splitlines()[3:]][:5] == [
        "stem",
        "block",
        "block",
        "block",
        "neck",
    ]
    shown = outline(residual(named=True))._repr_html_()
    assert "3 blocks, by names</caption>" in shown
    assert shown.count("<tr>") == 1 + len(["stem", *range(3), "neck", "head"])
