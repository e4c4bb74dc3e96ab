"""The published tables of layer-wise rates, and depth from the model's graph."""

import itertools

import keras
import pytest

from keras_layerwise import LayerwiseOptimizer, RuleError, discriminative, layer_decay

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


def test_timm():
    model = transformer()
    found = by_path(model, layer_decay(model, 0.75, BLOCK))
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
    rates = [1e-3 * m for m in discriminative(model, 1e-2).values()]
    assert rates == pytest.approx([1e-5, 1e-4, 1e-3])


def test_ulmfit():
    multipliers = list(layer_decay(dense_chain(4), 1 / 2.6).values())
    for lower, upper in itertools.pairwise(multipliers):
        assert upper / lower == pytest.approx(2.6)
    assert multipliers[-1] == 1.0


def test_one_layer_is_the_head():
    assert list(layer_decay(dense_chain(1), 0.5).values()) == [1.0]
    assert list(discriminative(dense_chain(1), 0.5).values()) == [1.0]


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
    assert list(layer_decay(model, 0.5).values()) == [0.25, 0.5, 1.0]


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
    ],
)
def test_wrong_arguments_say_so(arguments, message):
    with pytest.raises(RuleError, match=message):
        layer_decay(transformer(1), **arguments)


def test_a_model_that_is_not_built_says_so():
    with pytest.raises(RuleError, match="Build the model first"):
        layer_decay(keras.Sequential([keras.layers.Dense(1)]), 0.5)
