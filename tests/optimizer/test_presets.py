"""The published tables of layer-wise rates, and depth from the model's graph."""

import itertools

import keras
import pytest

from keras_layerwise import (
    LayerwiseOptimizer,
    Rule,
    RuleError,
    discriminative,
    layer_decay,
    lora_plus,
    no_weight_decay,
    outline,
)

BLOCK = r"block_(\d+)"


def transformer(blocks=12):
    """The skeleton of a vision transformer or BERT: stem, blocks of two layers, norm, head."""
    stem = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="patch")], name="embeddings"
    )
    layers = [keras.Input((4,)), stem]
    for i in range(blocks):
        layers.append(
            keras.Sequential(
                [
                    keras.Input((4,)),
                    keras.layers.Dense(4, name="attention"),
                    keras.layers.LayerNormalization(name="norm"),
                ],
                name=f"block_{i}",
            )
        )
    layers.append(keras.layers.LayerNormalization(name="final_norm"))
    layers.append(keras.layers.Dense(2, name="head"))
    return keras.Sequential(layers)


def by_path(model, rules):
    optimizer = LayerwiseOptimizer("sgd", rules, model=model)
    return {a.layer: a.multiplier for a in optimizer.assignments}


# timm/optim/_param_groups.py, vit_base_patch16_224 at layer_decay 0.75.
TIMM_BLOCKS = [
    0.031676, 0.042235, 0.056314, 0.075085, 0.100113, 0.133484,
    0.177979, 0.237305, 0.316406, 0.421875, 0.5625, 0.75,
]  # fmt: skip


def multipliers_of(rules):
    return [rule.multiplier for _, rule in rules]


@pytest.mark.parametrize("block", [BLOCK, None])
def test_timm(block):
    model = transformer()
    found = by_path(model, layer_decay(model, 0.75, block))
    assert found["embeddings/patch"] == pytest.approx(0.0237573, rel=1e-5)
    for i, expected in enumerate(TIMM_BLOCKS):
        assert found[f"block_{i}/attention"] == pytest.approx(expected, rel=2e-5)
        assert found[f"block_{i}/norm"] == pytest.approx(expected, rel=2e-5)
    assert found["final_norm"] == 0.75
    assert found["head"] == 1.0


def test_mae_and_beit_leave_the_final_norm_at_one():
    model = transformer()
    found = by_path(model, layer_decay(model, 0.75, BLOCK, head=["final_norm", "head"]))
    assert found["embeddings/patch"] == pytest.approx(0.0237573, rel=1e-5)
    assert found["block_0/attention"] == pytest.approx(0.031676, rel=2e-5)
    assert found["block_11/attention"] == 0.75
    assert found["final_norm"] == found["head"] == 1.0


def test_electra_with_and_without_its_off_by_one():
    model = transformer()
    rate = 1e-4
    published = by_path(model, layer_decay(model, 0.8, BLOCK, head_steps=2))
    assert published["embeddings/patch"] * rate == pytest.approx(4.398e-6, rel=1e-4)
    assert published["block_0/attention"] * rate == pytest.approx(5.498e-6, rel=1e-4)
    assert published["block_11/attention"] * rate == pytest.approx(6.4e-5)
    assert published["head"] * rate == rate
    corrected = by_path(model, layer_decay(model, 0.8, BLOCK))
    assert corrected["block_11/attention"] * rate == pytest.approx(8e-5)


def dense_chain(count):
    layers = [keras.layers.Dense(3, name=f"d{i}") for i in range(count)]
    return keras.Sequential([keras.Input((3,)), *layers])


def test_fastai_slice_over_three_groups():
    model = dense_chain(3)
    rates = [1e-3 * m for m in multipliers_of(discriminative(model, 1e-2))]
    assert rates == pytest.approx([1e-5, 1e-4, 1e-3])


def test_ulmfit():
    multipliers = multipliers_of(layer_decay(dense_chain(4), 1 / 2.6))
    for lower, upper in itertools.pairwise(multipliers):
        assert upper / lower == pytest.approx(2.6)
    assert multipliers[-1] == 1.0


def test_one_layer_is_the_head():
    assert multipliers_of(layer_decay(dense_chain(1), 0.5)) == [1.0]
    assert multipliers_of(discriminative(dense_chain(1), 0.5)) == [1.0]


def test_depth_follows_the_graph_not_the_order_of_creation():
    late, early = keras.layers.Dense(3, name="late"), keras.layers.Dense(3, name="early")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, late(keras.layers.Activation("relu")(early(inputs))))
    assert by_path(model, layer_decay(model, 0.5)) == {"early": 0.5, "late": 1.0}


def test_branches_of_one_depth_share_a_multiplier():
    inputs = keras.Input((3,))
    left = keras.layers.Dense(3, name="left")(inputs)
    right = keras.layers.Dense(3, name="right")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(left + right))
    found = by_path(model, layer_decay(model, 0.5))
    assert found == {"left": 0.5, "right": 0.5, "head": 1.0}


def test_nested_models_count_layer_by_layer():
    body = dense_chain(2)
    model = keras.Sequential([keras.Input((3,)), body, keras.layers.Dense(1, name="head")])
    assert multipliers_of(layer_decay(model, 0.5)) == [0.25, 0.5, 1.0]


def test_a_layer_used_twice_has_the_depth_of_its_first_use():
    shared = keras.layers.Dense(3, name="shared")
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(3, name="between")(shared(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(shared(hidden)))
    assert by_path(model, layer_decay(model, 0.5)) == {"shared": 0.25, "between": 0.5, "head": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 0.0}, "above 0"),
        ({"decay": float("nan")}, "finite"),
        ({"decay": 0.5, "block": "nothing_"}, "matches no layer"),
        ({"decay": 0.5, "head": "heda"}, "head"),
        ({"decay": 0.5, "head_steps": -1}, "head_steps"),
        ({"decay": 0.5, "lowest": -1.0}, "lowest"),
        ({"decay": 1e-9, "head_steps": 2}, "lowest=.*block="),
    ],
)
def test_wrong_arguments_say_so(arguments, message):
    with pytest.raises(RuleError, match=message):
        layer_decay(transformer(1), **arguments)


def test_a_model_that_is_not_built_says_so():
    with pytest.raises(RuleError, match="Build the model first"):
        layer_decay(keras.Sequential([keras.layers.Dense(1)]), 0.5)


def test_lowest_is_a_floor():
    model = dense_chain(5)
    assert multipliers_of(layer_decay(model, 0.1, lowest=0.05)) == [0.05, 0.05, 0.05, 0.1, 1.0]


def test_rules_hold_for_what_is_not_trainable_now():
    model = dense_chain(3)
    before = by_path(model, layer_decay(model, 0.5))
    model.layers[1].trainable = False
    rules = layer_decay(model, 0.5)
    model.layers[1].trainable = True
    assert by_path(model, rules) == before


def test_a_part_that_never_trains_has_no_rule():
    data = keras.layers.Normalization(mean=0.0, variance=1.0)
    model = keras.Sequential([keras.Input((3,)), data, *dense_chain(2).layers])
    assert by_path(model, layer_decay(model, 0.5)) == {"d0": 0.5, "d1": 1.0}


@pytest.mark.parametrize(
    "preset",
    [no_weight_decay, lora_plus, lambda m: layer_decay(m, 0.5), lambda m: discriminative(m, 0.1)],
    ids=["no_weight_decay", "lora_plus", "layer_decay", "discriminative"],
)
def test_a_preset_of_a_model_that_is_not_built_says_to_build_it(preset):
    model = keras.Sequential([keras.layers.Dense(2)], name="early")
    with pytest.raises(RuleError, match=r"'early' has no weights\. Build the model first"):
        preset(model)


def test_timm_usual_pair_of_layer_decay_and_no_decay():
    model = transformer(2)
    adamw = keras.optimizers.AdamW(weight_decay=0.1)
    rules = no_weight_decay(model) | layer_decay(model, 0.5)
    found = LayerwiseOptimizer(adamw, rules, model=model).assignments
    assert {a.path: a.weight_decay for a in found if "block_1" in a.path} == {
        "block_1/attention/kernel": 0.1,
        "block_1/attention/bias": 0.0,
        "block_1/norm/gamma": 0.0,
        "block_1/norm/beta": 0.0,
    }
    assert {a.multiplier for a in found if "block_1" in a.path} == {0.5}


def lora_model():
    model = dense_chain(3)
    model.layers[0].enable_lora(2)
    model.layers[1].enable_lora(2)
    return model


def pefts_groups(model, rate, ratio):
    """peft/optimizers/loraplus.py: B matrices and 1-D weights at ratio times the rate."""
    return {
        weight.path: rate * ratio
        if weight.name.endswith("_b") or len(weight.shape) == 1
        else rate
        for weight in model.trainable_weights
    }  # fmt: skip


def test_lora_plus_has_the_groups_of_peft():
    model = lora_model()
    adamw = keras.optimizers.AdamW(1.0, weight_decay=0.1)
    found = LayerwiseOptimizer(adamw, lora_plus(model, 16), model=model).assignments
    assert {w.path: a.learning_rate for w, a in zip(model.trainable_weights, found, strict=True)}
    rates = {a.path: a.learning_rate for a in found}
    assert sorted(rates.values()) == sorted(pefts_groups(model, 1.0, 16.0).values())
    assert rates["d0/lora_kernel_b"] == 16.0
    assert rates["d0/lora_kernel_a"] == rates["d2/kernel"] == 1.0
    assert {a.weight_decay for a in found if a.path.endswith("bias")} == {0.0}
    assert {a.weight_decay for a in found if "lora" in a.path} == {0.1}


@pytest.mark.tensorflow_only
def test_lora_plus_has_the_groups_of_peft_on_a_kerashub_network():
    hub = pytest.importorskip("keras_hub").models
    model = hub.BertBackbone(
        vocabulary_size=40, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=12,
    )  # fmt: skip
    model.enable_lora(2)
    optimizer = LayerwiseOptimizer("adamw", lora_plus(model, 16), model=model)
    found = {id(w): a for w, a in zip(model.trainable_weights, optimizer.assignments, strict=True)}
    assert sum(w.name == "lora_kernel_b" for w in model.trainable_weights) == 2 * 2
    for weight in model.trainable_weights:
        # In peft's network a bias by head is one vector.
        of_b = weight.name in ("lora_kernel_b", "bias", "gamma", "beta")
        assert found[id(weight)].multiplier == (16.0 if of_b else 1.0), weight.path
    stay = {"query/bias": 3.0, "lora_kernel_b": 2.0}
    rules = lora_plus(model, 4, base={f"*{name}": value for name, value in stay.items()})
    optimizer = LayerwiseOptimizer("adamw", rules, model=model)
    for weight, a in zip(model.trainable_weights, optimizer.assignments, strict=True):
        if weight.name == "lora_kernel_b":
            assert a.multiplier == 2.0 * 4


def test_lora_plus_takes_a_bias_by_head_for_a_bias():
    """What is one vector in PyTorch is an array of heads and sizes in Keras's attention."""
    inputs = keras.Input((3, 4))
    attention = keras.layers.MultiHeadAttention(2, 2, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    attention.query_dense.enable_lora(2)
    assert len(attention.query_dense.bias.shape) == 2
    found = LayerwiseOptimizer("sgd", lora_plus(model, 16), model=model).assignments
    rates = {a.path.removeprefix("attention/"): a.multiplier for a in found}
    assert rates == {
        "query/bias": 16.0, "query/lora_kernel_a": 1.0, "query/lora_kernel_b": 16.0,
        "key/kernel": 1.0, "key/bias": 16.0, "value/kernel": 1.0,
        "value/bias": 16.0, "attention_output/kernel": 1.0, "attention_output/bias": 16.0,
    }  # fmt: skip


def test_lora_plus_multiplies_the_rates_of_its_base():
    model = lora_model()
    found = LayerwiseOptimizer(
        "sgd", lora_plus(model, 4, base=layer_decay(model, 0.5)), model=model
    ).assignments
    rates = {a.path: a.multiplier for a in found if "lora" in a.path}
    assert rates == {
        "d0/lora_kernel_a": 0.25,
        "d0/lora_kernel_b": 1.0,
        "d1/lora_kernel_a": 0.5,
        "d1/lora_kernel_b": 2.0,
    }
    asked = {a.path: a.rule for a in found if a.path.endswith("lora_kernel_b")}
    assert asked == {
        "d0/lora_kernel_b": f"LoRA+ B of {outline(model).blocks[0].label}",
        "d1/lora_kernel_b": f"LoRA+ B of {outline(model).blocks[1].label}",
    }


def test_lora_plus_without_lora_or_with_a_schedule_says_so():
    with pytest.raises(RuleError, match="enable_lora"):
        lora_plus(dense_chain(2))
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    with pytest.raises(RuleError, match="numbers only"):
        lora_plus(lora_model(), base={"d0": Rule(learning_rate=schedule)})


def test_weights_that_a_layer_gets_later_have_the_rate_of_its_part():
    model = dense_chain(3)
    rules = layer_decay(model, 0.5)
    model.layers[0].enable_lora(2)
    found = LayerwiseOptimizer("sgd", rules, model=model).assignments
    assert {a.multiplier for a in found if a.path.startswith("d0/")} == {0.25}
    assert len(found) == 7


def test_parts_are_rules_of_their_own():
    model = transformer(4)
    parts = outline(model)
    found = by_path(model, {parts.blocks[:2]: Rule(multiplier=0.1), parts.stem: 0.01})
    assert [found[f"block_{i}/norm"] for i in range(4)] == [0.1, 0.1, 1.0, 1.0]
    assert found["embeddings/patch"] == 0.01
