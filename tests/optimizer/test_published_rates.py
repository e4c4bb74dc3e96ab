"""Published tables of layer-wise rates, on KerasHub's own ViT and BERT."""

import pytest

from keras_layerwise import LayerwiseOptimizer, discriminative, layer_decay
from tests.optimizer.test_presets import TIMM_BLOCKS

hub = pytest.importorskip("keras_hub")


@pytest.fixture(scope="module")
def vit():
    body = hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=8, num_layers=12, num_heads=1, hidden_dim=4, mlp_dim=4
    )
    return hub.models.ViTImageClassifier(body, num_classes=2, preprocessor=None)


@pytest.fixture(scope="module")
def bert():
    body = hub.models.BertBackbone(
        vocabulary_size=9,
        num_layers=12,
        num_heads=1,
        hidden_dim=4,
        intermediate_dim=4,
        max_sequence_length=8,
    )
    return hub.models.BertTextClassifier(body, num_classes=2, preprocessor=None)


def rates(model, rules, text):
    """The multipliers of all weights with `text` in their path."""
    found = LayerwiseOptimizer("sgd", rules, model=model).assignments
    return {a.multiplier for a in found if text in f"/{a.path}"}


def one(model, rules, text):
    (rate,) = rates(model, rules, text)
    return rate


def test_timm_on_a_vision_transformer(vit):
    # timm/optim/_param_groups.py, vit_base_patch16_224 at layer_decay 0.75
    rules = layer_decay(vit, 0.75)
    assert one(vit, rules, "patching_and_embedding") == pytest.approx(0.0237573, rel=1e-5)
    for i, expected in enumerate(TIMM_BLOCKS):
        assert one(vit, rules, f"/transformer_block_{i + 1}/") == pytest.approx(expected, rel=2e-5)
    assert one(vit, rules, "/vit_encoder/ln/") == 0.75
    assert one(vit, rules, "/predictions/") == 1.0


def test_mae_leaves_the_final_norm_at_one(vit):
    rules = layer_decay(vit, 0.75, head=["vit_encoder/ln", "predictions"])
    assert one(vit, rules, "/vit_encoder/ln/") == one(vit, rules, "/predictions/") == 1.0
    assert one(vit, rules, "/transformer_block_12/") == 0.75


def test_electra_with_and_without_its_off_by_one(bert):
    published, corrected = layer_decay(bert, 0.8, head_steps=2), layer_decay(bert, 0.8)
    assert one(bert, published, "/token_embedding/") * 1e-4 == pytest.approx(4.398e-6, rel=1e-4)
    assert one(bert, published, "/transformer_layer_0/") * 1e-4 == pytest.approx(5.498e-6, rel=1e-4)
    assert one(bert, published, "/transformer_layer_11/") * 1e-4 == pytest.approx(6.4e-5)
    assert one(bert, corrected, "/transformer_layer_11/") * 1e-4 == pytest.approx(8e-5)
    assert one(bert, corrected, "/logits/") == 1.0


def test_ulmfit_and_fastai(bert):
    rules = layer_decay(bert, 1 / 2.6)
    for i in range(11):
        upper = one(bert, rules, f"/transformer_layer_{i + 1}/")
        assert upper / one(bert, rules, f"/transformer_layer_{i}/") == pytest.approx(2.6)
    rising = discriminative(bert, 1e-2)
    assert one(bert, rising, "/token_embedding/") == pytest.approx(1e-2)
    assert one(bert, rising, "/logits/") == 1.0
