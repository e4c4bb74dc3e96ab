"""The outline of every architecture of keras.applications and KerasHub, against its authors' count.

Not a part of ``make test``: ``make walk`` runs it. What cannot be told has the
error that it gives and the ``block=`` that mends it.
"""

import gc
import importlib
import inspect
from types import SimpleNamespace

import keras
import pytest

from keras_layerwise import RuleError, outline

pytestmark = pytest.mark.filterwarnings("ignore")  # what KerasHub and TensorFlow warn of

# name: (blocks, where the authors say so)
APPLICATIONS = {
    "ConvNeXtTiny": (18, "3+3+9+3, arXiv 2201.03545 section 3"),
    "ConvNeXtSmall": (36, "3+3+27+3"),
    "ConvNeXtBase": (36, "3+3+27+3"),
    "ConvNeXtLarge": (36, "3+3+27+3"),
    "DenseNet121": (58, "6+12+24+16, arXiv 1608.06993 table 1"),
    "DenseNet169": (82, "6+12+32+32"),
    "DenseNet201": (98, "6+12+48+32"),
    "EfficientNetB0": (16, "1+2+2+3+3+4+1, arXiv 1905.11946 table 1"),
    "EfficientNetB1": (23, "the same, depth 1.1"),
    "EfficientNetB2": (23, "the same, depth 1.2"),
    "EfficientNetB3": (26, "the same, depth 1.4"),
    "EfficientNetB4": (32, "the same, depth 1.8"),
    "EfficientNetB5": (39, "the same, depth 2.2"),
    "EfficientNetB6": (45, "the same, depth 2.6"),
    "EfficientNetB7": (55, "the same, depth 3.1"),
    "EfficientNetV2B0": (21, "1+2+2+3+5+8, arXiv 2104.00298 and its layers' names"),
    "EfficientNetV2B1": (27, "the same, depth 1.1"),
    "EfficientNetV2B2": (28, "the same, depth 1.2"),
    "EfficientNetV2B3": (32, "the same, depth 1.4"),
    "EfficientNetV2S": (40, "2+4+4+6+9+15, table 4"),
    "EfficientNetV2M": (57, "3+5+5+7+14+18+5"),
    "EfficientNetV2L": (79, "4+7+7+10+19+25+7"),
    "InceptionResNetV2": (40, "10+20+10, arXiv 1602.07261 figure 15"),
    "InceptionV3": (11, "mixed0 to mixed10, its layers' names"),
    "MobileNet": (13, "depthwise separable convolutions, arXiv 1704.04861 table 1"),
    "MobileNetV2": (17, "1+2+3+4+3+3+1, arXiv 1801.04381 table 2"),
    "MobileNetV3Large": (15, "arXiv 1905.02244 table 1"),
    "MobileNetV3Small": (11, "arXiv 1905.02244 table 2"),
    "ResNet50": (16, "3+4+6+3, arXiv 1512.03385 table 1"),
    "ResNet101": (33, "3+4+23+3"),
    "ResNet152": (50, "3+8+36+3"),
    "ResNet50V2": (16, "3+4+6+3, arXiv 1603.05027"),
    "ResNet101V2": (33, "3+4+23+3"),
    "ResNet152V2": (50, "3+8+36+3"),
    "VGG16": (5, "its layers' names"),
    "VGG19": (5, "its layers' names"),
    "Xception": (14, "modules, arXiv 1610.02357 figure 5"),
}
# Each cell takes the outputs of the two before it, and its number is at the end of the names.
CELL = r"_((?:stem_|reduce_)?\d+)$"
UNTOLD = {
    "NASNetMobile": (CELL, 16, "2 stem cells, 3 times 4 normal, 2 reductions, arXiv 1707.07012"),
    "NASNetLarge": (CELL, 22, "2 stem cells, 3 times 6 normal, 2 reductions"),
}
TOO_LARGE = {"ConvNeXtXLarge", "NASNetLarge"}  # as ConvNeXtLarge and NASNetMobile, but wider


def check(model, count):
    parts = outline(model)
    assert len(parts.blocks) == count, parts
    found = [id(weight) for part in parts for weight in part.weights]
    assert sorted(found) == sorted(id(weight) for weight in model.weights)
    return parts


@pytest.fixture(autouse=True)
def _free_memory():
    yield
    keras.utils.clear_session()
    gc.collect()


def application(name):
    side = 96 if name.startswith(("Inception", "Xception")) else 32
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(side, side, 3), classes=7)


def test_no_application_is_left_out():
    known = APPLICATIONS.keys() | UNTOLD.keys() | TOO_LARGE
    functions = {n for n in dir(keras.applications) if n[0].isupper()}
    assert functions == known


@pytest.mark.parametrize("name", APPLICATIONS)
def test_application(name):
    count, _ = APPLICATIONS[name]
    parts = check(application(name), count)
    assert len(parts.head.weights) == 2


@pytest.mark.parametrize("name", UNTOLD.keys() - TOO_LARGE)
def test_application_that_is_asked_about(name):
    block, count, _ = UNTOLD[name]
    model = application(name)
    with pytest.raises(RuleError, match="block="):
        outline(model)
    assert len(outline(model, block).blocks) == count


# KerasHub. A backbone's number of blocks is what its own configuration says.

COMMON = {
    "vocabulary_size": 50, "vocab_size": 50, "num_layers": 3, "num_heads": 2,
    "num_query_heads": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_dim": 8,
    "hidden_size": 8, "intermediate_dim": 16, "mlp_dim": 16, "embedding_dim": 8, "head_dim": 4,
    "head_size": 4, "patch_size": 8, "num_experts": 2, "top_k": 1, "moe_intermediate_dim": 8,
    "shared_expert_intermediate_dim": 8, "shared_expert_intermediate_size": 8, "filter_dim": 16,
    "encoder_num_layers": 2, "decoder_num_layers": 3, "encoder_num_heads": 2,
    "decoder_num_heads": 2, "num_layers_enc": 2, "num_layers_dec": 3, "encoder_hidden_dim": 8,
    "encoder_intermediate_dim": 16, "encoder_num_attention_heads": 2,
    "encoder_num_key_value_heads": 1, "encoder_head_dim": 4, "decoder_hidden_dim": 8,
    "encoder_layer_types": ["full_attention"] * 2, "decoder_intermediate_dim": 16,
    "decoder_num_attention_heads": 2, "decoder_num_key_value_heads": 1, "decoder_head_dim": 4,
    "decoder_layer_types": ["full_attention"] * 3,
}  # fmt: skip
SMALL_IMAGE, IMAGE = {"image_shape": (32, 32, 3)}, {"image_shape": (64, 64, 3)}

# name: (blocks, what else it is built from). 3 is num_layers; 5 and 6 are encoder and decoder.
BACKBONES = {
    "AlbertBackbone": (1, {}),  # all layers share their weights
    "BartBackbone": (6, {}),
    "BertBackbone": (3, {}),
    "BloomBackbone": (3, {}),
    "CSPNetBackbone": (5, {"stem_filters": 4, "stem_kernel_size": 3, "stem_strides": 1,
                           "stackwise_depth": [1, 2, 2], "stackwise_strides": [1, 2, 2],
                           "stackwise_num_filters": [8, 8, 16], "block_type": "dark_block",
                           "stage_type": "dark", **SMALL_IMAGE}),
    "DINOV2Backbone": (3, {**SMALL_IMAGE, "position_embedding_shape": (32, 32, 3)}),
    "DINOV3Backbone": (3, SMALL_IMAGE),
    "DebertaV3Backbone": (3, {}),
    "DeiTBackbone": (3, SMALL_IMAGE),
    "DenseNetBackbone": (7, {"stackwise_num_repeats": [2, 3, 2], **IMAGE}),
    "DistilBertBackbone": (3, {}),
    "ESM2Backbone": (3, {}),
    "ESMBackbone": (3, {}),
    "EdRecBackbone": (5, {}),
    "EfficientNetBackbone": (5, {"stackwise_kernel_sizes": [3, 3, 5],
                                 "stackwise_num_repeats": [1, 2, 2],
                                 "stackwise_input_filters": [8, 8, 16],
                                 "stackwise_output_filters": [8, 16, 16],
                                 "stackwise_expansion_ratios": [1, 4, 4],
                                 "stackwise_squeeze_and_excite_ratios": [0, 0.25, 0.25],
                                 "stackwise_strides": [1, 2, 2],
                                 "stackwise_block_types": ["v1"] * 3,
                                 "stackwise_width_coefficients": [1.0] * 3,
                                 "stackwise_depth_coefficients": [1.0] * 3, **IMAGE}),
    "ElectraBackbone": (3, {}),
    "FNetBackbone": (3, {}),
    "FalconBackbone": (3, {}),
    "GPT2Backbone": (3, {}),
    "GPTNeoXBackbone": (3, {}),
    "Gemma3Backbone": (3, {"image_size": 16, "vision_encoder": None}),
    "GemmaBackbone": (3, {}),
    "GptOssBackbone": (3, {}),
    "HGNetV2Backbone": (5, {"depths": [1, 2, 2], "embedding_size": 8,
                            "hidden_sizes": [8, 16, 16], "stem_channels": [3, 4, 8],
                            "hidden_act": "relu", "use_learnable_affine_block": False,
                            "stackwise_stage_filters": [[8, 4, 8, 1, 2, 3], [8, 4, 16, 2, 2, 3],
                                                        [16, 8, 16, 2, 2, 3]],
                            "apply_downsample": [False, True, True],
                            "use_lightweight_conv_block": [False, False, True], **IMAGE}),
    "Llama3Backbone": (3, {}),
    "LlamaBackbone": (3, {}),
    "MiTBackbone": (4, {"layerwise_depths": [2, 2], "num_layers": 2,
                        "layerwise_num_heads": [1, 2], "layerwise_sr_ratios": [8, 4],
                        "max_drop_path_rate": 0.1, "layerwise_patch_sizes": [7, 3],
                        "layerwise_strides": [4, 2], "hidden_dims": [8, 16], **IMAGE}),
    "MistralBackbone": (3, {}),
    "MixtralBackbone": (3, {}),
    "MobileNetBackbone": (7, {"stackwise_expansion": [[2], [2, 2], [2, 2]],
                              "stackwise_num_blocks": [1, 2, 2],
                              "stackwise_num_filters": [[8], [8, 8], [16, 16]],
                              "stackwise_kernel_size": [[3], [3, 3], [3, 3]],
                              "stackwise_num_strides": [[2], [2, 1], [2, 1]],
                              "stackwise_se_ratio": [[0.25], [None, None], [0.25, 0.25]],
                              "stackwise_activation": [["relu"], ["relu"] * 2, ["hard_swish"] * 2],
                              "stackwise_padding": [[1], [1, 1], [1, 1]],
                              "output_num_filters": 16, "depthwise_filters": 8,
                              "depthwise_stride": 2, "depthwise_residual": False,
                              "last_layer_filter": 16, "squeeze_and_excite": 0.5,
                              "input_num_filters": 8, **IMAGE}),  # block_0_0 to block_4_0
    "MoonshineBackbone": (5, {}),
    "OPTBackbone": (3, {}),
    "Phi3Backbone": (3, {}),
    "Qwen2Backbone": (3, {}),
    "Qwen3Backbone": (3, {}),
    "Qwen3MoeBackbone": (3, {}),
    "Qwen3_5Backbone": (3, {}),
    "Qwen3_5MoeBackbone": (3, {}),
    "QwenBackbone": (3, {}),
    "QwenMoeBackbone": (3, {}),
    "RWKV7Backbone": (3, {"gate_lora": 2, "mv_lora": 2, "aaa_lora": 2, "decay_lora": 2}),
    "ResNetBackbone": (7, {"input_conv_filters": [64], "input_conv_kernel_sizes": [7],
                           "stackwise_num_filters": [64, 64, 64],
                           "stackwise_num_blocks": [2, 3, 2], "stackwise_num_strides": [1, 2, 2],
                           "block_type": "basic_block", **IMAGE}),
    "RobertaBackbone": (3, {}),
    "RoformerV2Backbone": (3, {}),
    "SmolLM3Backbone": (3, {"attention_bias": False, "attention_dropout": 0.0,
                            "rope_layer_enabled_list": [True] * 3,
                            "layer_types": ["attention"] * 3, "mlp_bias": False,
                            "layer_norm_epsilon": 1e-5, "max_position_embeddings": 16,
                            "rope_theta": 100.0, "partial_rotary_factor": 1.0}),
    "SwinTransformerBackbone": (6, {"embed_dim": 8, "depths": [2, 2, 2], "num_heads": [2, 2, 4],
                                    "window_size": 4, "patch_size": 4, **IMAGE}),
    "T5Backbone": (6, {}),
    "T5GemmaBackbone": (5, {}),
    "VGGBackbone": (3, {"stackwise_num_repeats": [2, 2, 3], "stackwise_num_filters": [4, 4, 8],
                        **IMAGE}),
    "ViTBackbone": (3, SMALL_IMAGE),
    "ViTDetBackbone": (3, {"global_attention_layer_indices": [0, 2], **SMALL_IMAGE}),
    "VideoPrismBackbone": (4, {"num_frames": 2, "num_spatial_layers": 2, "num_temporal_layers": 2,
                               "num_auxiliary_layers": 0, **SMALL_IMAGE}),  # spatial, temporal
    "WhisperBackbone": (6, {}),
    "XLMRobertaBackbone": (3, {}),
    "XLNetBackbone": (3, {}),
}  # fmt: skip

# name: (configuration, what the error says, block=, the number of blocks that it gives)
ASKED = {
    # Double-stream blocks for image and text, then single-stream ones, all numbered by Keras.
    "FluxBackbone": (
        {"input_channels": 8, "mlp_ratio": 2.0, "depth": 2, "depth_single_blocks": 2,
         "axes_dim": [2, 1, 1], "theta": 100, "use_bias": True, "image_shape": (4, 8),
         "text_shape": (4, 8), "image_ids_shape": (4, 3), "text_ids_shape": (4, 3),
         "y_shape": (8,)},
        "beside each other", r"(?:double|single)_stream_block(?:_\d+)?", 4,
    ),
    # The vision encoder's norm was made before its blocks, and nothing tells where it is called.
    "PaliGemmaBackbone": (
        {"image_size": 16, "vit_patch_size": 8, "vit_num_heads": 2, "vit_hidden_dim": 8,
         "vit_num_layers": 2},
        "encoder_layer_norm", r"decoder_block_\d+", 3,
    ),
}  # fmt: skip

# Of several networks, built in `composed_backbones`. Blocks: of the encoder, then of the decoder.
COMPOSED = {
    "BLIP2Backbone": 7,  # 2 of the vision encoder, 2 of the query transformer, 3 of the text model
    "DFineBackbone": 8,  # 5 of HGNetV2, 3 of the decoder
    "DeepLabV3Backbone": 8,  # of the ResNet; the pyramid is the head
    "Gemma4Backbone": 5,  # 2 of the vision encoder, 3 of the decoder
    "MobileNetV5Backbone": 3,
    "PARSeqBackbone": 3,  # of the ViT; its one decoder layer is in the head
    "RetinaNetBackbone": 8,  # of the ResNet; the pyramid is the head
    "SegFormerBackbone": 5,  # of the MiT
    "T5Gemma2Backbone": 5,
    "XceptionBackbone": 3,
}
BESIDE = "neither comes first"
# name: (what the error says, what mends it, the number of blocks that it gives)
COMPOSED_ASKED = {
    # Two towers: the blocks of one are taken, the other is what lies outside.
    "CLIPBackbone": (BESIDE, {"block": r"text_encoder/encoder_block_\d+"}, 3),
    "MetaCLIP2Backbone": (BESIDE, {"block": r"text_encoder/encoder_block_\d+"}, 3),
    "SigLIPBackbone": (BESIDE, {"block": r"text_encoder/encoder_block_\d+"}, 3),
    "SAMBackbone": (
        BESIDE,
        {"block": r"windowed_transformer_encoder(?:_\d+)?", "head": "sam_prompt_encoder"},
        3,
    ),
    "SAM3PromptableConceptBackbone": (
        BESIDE, {"block": r"sam3_detr_(?:en|de)coder/layer_\d+"}, 4,
    ),
    "StableDiffusion3Backbone": (BESIDE, {"block": r"joint_block_\d+"}, 3),
    # One layer holds the image, audio and text networks.
    "Gemma3nBackbone": (
        "a layer that holds most of the network", {"block": r"decoder_block_\d+"}, 3,
    ),
    # The ResNet's first layers are kept by the model, which does not call them.
    "BASNetBackbone": (
        "not in the graph.*conv1_conv", {"stem": ["conv1_conv", "conv1_bn"]}, 14,
    ),
    # The neck's layers are numbered, and nothing tells where they are called.
    "DepthAnythingBackbone": (
        "cannot be told: resize",
        {"head": ["dinov2_backbone/layernorm", "resize", *(f"convs_{i}" for i in range(4))]},
        8,  # 4 of DINOv2, 4 that fuse its features
    ),
}  # fmt: skip
ALIASES = {"SmolLMBackbone": "SmolLM3Backbone"}
NO_NETWORK = {"Backbone", "FeaturePyramidBackbone"}  # classes to derive from


def backbone(name, given):
    models = pytest.importorskip("keras_hub").models
    cls = getattr(models, name, None)
    if cls is None:
        pytest.skip(f"this version of KerasHub has no {name}")
    names = inspect.signature(cls.__init__).parameters
    small = {
        key: value
        for key, value in COMMON.items()
        if key in names and names[key].default is inspect.Parameter.empty
    }
    return cls(**{**small, **given})


# What a task is built from besides a backbone and a number of classes.
MORE = {
    "DFineObjectDetector": {"num_classes": 4},  # as its backbone, which it would build anew
    "DepthAnythingDepthEstimator": {"depth_estimation_type": "relative"},
    "Gemma4AssistantCausalLM": {
        "backbone_hidden_size": 8, "num_centroids": 2, "centroid_intermediate_top_k": 1,
        "use_ordered_embeddings": False,
    },
    "PARSeqCausalLM": {
        "preprocessor": SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=1, end_token_id=0)),
    },
}  # fmt: skip
# Tasks that are asked about more than their backbone: what the error says, what mends it.
ASKED_TASKS = {
    # The projections lead from another model's states and back to them, outside the graph.
    "Gemma4AssistantCausalLM": (
        "not in the graph.*pre_projection", {"stem": "pre_projection", "head": "post_projection"},
    ),
    # The decoder's attention holds layers that this task's graph does not call.
    "SAMImageSegmenter": (
        BESIDE,
        {"block": r"windowed_transformer_encoder(?:_\d+)?",
         "head": ["sam_prompt_encoder", "sam_mask_decoder"]},
    ),
}  # fmt: skip
# Its backbone has another language model than that of BLIP2CausalLM, for which it is built here.
OF_ANOTHER_BACKBONE = {"BLIP2Seq2SeqLM"}


def backbones_of(task):
    wanted = getattr(task, "backbone_cls", None)
    return wanted if isinstance(wanted, (list, tuple)) else [wanted] if wanted else []


def every_task():
    models = pytest.importorskip("keras_hub").models
    found = (getattr(models, name) for name in dir(models))
    return [t for t in found if inspect.isclass(t) and issubclass(t, models.Task)]


def tasks_on(body):
    """Gives each class of tasks that takes `body`, and a model of it."""
    for task in every_task():
        if type(body) in backbones_of(task) and task.__name__ not in OF_ANOTHER_BACKBONE:
            names = inspect.signature(task.__init__).parameters
            options = {"preprocessor": None} if "preprocessor" in names else {}
            options |= {"num_classes": 2} if "num_classes" in names else {}
            yield task, task(**{"backbone": body, **options, **MORE.get(task.__name__, {})})


def check_with_tasks(body, count):
    """Each task has the backbone's parts, and what it adds to them is head."""
    parts = check(body, count)
    for task, model in tasks_on(body):
        if task.__name__ in ASKED_TASKS:
            check_asked(model, *ASKED_TASKS[task.__name__], count)
            continue
        found = check(model, count)
        assert found.stem.weights == parts.stem.weights, task
        new = {id(weight) for weight in model.weights} - {id(weight) for weight in body.weights}
        assert new <= {id(weight) for weight in found.head.weights}, task


def check_asked(model, message, arguments, count):
    with pytest.raises(RuleError, match=message):
        outline(model)
    assert len(outline(model, **arguments).blocks) == count


def check_asked_with_tasks(body, message, arguments, count):
    """The backbone and each task have the error, and what mends it."""
    check_asked(body, message, arguments, count)
    for task, model in tasks_on(body):
        check_asked(model, *ASKED_TASKS.get(task.__name__, (message, arguments)), count)


def test_no_backbone_is_left_out():
    models = pytest.importorskip("keras_hub").models
    known = BACKBONES.keys() | ASKED.keys() | COMPOSED.keys() | COMPOSED_ASKED.keys()
    known |= ALIASES.keys() | NO_NETWORK
    assert {name for name in dir(models) if name.endswith("Backbone")} <= known
    assert all(getattr(models, a, 0) is getattr(models, b, 0) for a, b in ALIASES.items())
    assert {cls.__name__ for task in every_task() for cls in backbones_of(task)} <= known


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_and_its_tasks(name):
    count, given = BACKBONES[name]
    check_with_tasks(backbone(name, given), count)


@pytest.mark.parametrize("name", ASKED)
def test_backbone_that_is_asked_about(name):
    given, message, block, count = ASKED[name]
    check_asked_with_tasks(backbone(name, given), message, {"block": block}, count)


@pytest.mark.parametrize("name", COMPOSED)
def test_backbone_of_others(name):
    check_with_tasks(composed(name), COMPOSED[name])


@pytest.mark.parametrize("name", COMPOSED_ASKED)
def test_backbone_of_others_that_is_asked_about(name):
    check_asked_with_tasks(composed(name), *COMPOSED_ASKED[name])


def test_a_task_whose_language_model_is_an_encoder_and_a_decoder():
    models = pytest.importorskip("keras_hub").models
    if not hasattr(models, "BLIP2Seq2SeqLM"):
        pytest.skip("this version of KerasHub has no BLIP2Seq2SeqLM")
    body = importlib.import_module("tests.model.composed_backbones").blip2(with_t5=True)
    # 2 of the vision encoder, 2 of the query transformer, 3 of the encoder, 3 of the decoder
    check(body, 10)
    parts = check(models.BLIP2Seq2SeqLM(body), 10)
    assert len(parts.head.weights) == 1


def composed(name):
    models = pytest.importorskip("keras_hub").models
    if not hasattr(models, name):
        pytest.skip(f"this version of KerasHub has no {name}")
    return importlib.import_module("tests.model.composed_backbones").BUILDERS[name]()
