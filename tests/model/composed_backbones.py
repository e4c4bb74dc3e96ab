"""Backbones of KerasHub that are built from others, as small as they can be."""

import keras_hub.models as m
from keras_hub import layers

IMAGE = {"image_shape": (64, 64, 3)}


def resnet(**more):
    return m.ResNetBackbone(
        **{
            "input_conv_filters": [64], "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 64, 64, 64], "stackwise_num_blocks": [2, 2, 2, 2],
            "stackwise_num_strides": [1, 2, 2, 2], "block_type": "basic_block", **more,
        }
    )  # fmt: skip


def vit():
    return m.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16
    )


def towers(kind, **more):
    """An encoder for images and one for text."""
    sizes = {"hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 16}
    vision = {"patch_size": 8, "image_shape": (32, 32, 3), **sizes}
    text = {"vocabulary_size": 50, "embedding_dim": 8, **sizes, "num_layers": 3}
    return getattr(m, f"{kind}Backbone")(
        vision_encoder=getattr(m, f"{kind}VisionEncoder")(**vision),
        text_encoder=getattr(m, f"{kind}TextEncoder")(**text),
        **more,
    )


def basnet():
    return m.BASNetBackbone(resnet(), num_classes=1, projection_filters=64, **IMAGE)


def blip2(with_t5=False):
    from keras_hub.src.models.blip2.blip2_backbone import BLIP2Backbone
    from keras_hub.src.models.blip2.blip2_custom_opt import BLIP2CustomOPT
    from keras_hub.src.models.blip2.blip2_flan_t5_lm import BLIP2FlanT5
    from keras_hub.src.models.blip2.blip2_qformer import BLIP2QFormer
    from keras_hub.src.models.blip2.blip2_vision_encoder import BLIP2VisionEncoder

    sizes = {"num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    vision = BLIP2VisionEncoder(
        image_size=16, patch_size=8, num_layers=2, use_patch_bias=True, use_class_token=True,
        use_mha_bias=True, use_mlp_bias=True, dropout_rate=0.0, layer_norm_epsilon=1e-5,
        initializer_range=0.02, **sizes,
    )  # fmt: skip
    qformer = BLIP2QFormer(
        num_query_tokens=4, num_layers=2, vision_dim=8, cross_attention_frequency=2, dropout=0.0,
        layer_norm_epsilon=1e-5, **sizes,
    )  # fmt: skip
    text = {
        "vocabulary_size": 50, "num_layers": 3, "num_query_tokens": 4, "qformer_hidden_dim": 8,
    }  # fmt: skip
    if with_t5:
        language = BLIP2FlanT5(**text, **sizes)
    else:
        language = BLIP2CustomOPT(**text, **sizes, dropout=0.0, max_sequence_length=16)
    return BLIP2Backbone(vision_encoder=vision, qformer=qformer, language_model=language)


def dfine():
    shape = {"image_shape": (64, 64, 3)}
    body = m.HGNetV2Backbone(
        stem_channels=[3, 8, 8],
        stackwise_stage_filters=[
            [8, 8, 16, 1, 3, 3], [16, 8, 32, 1, 3, 3], [32, 16, 64, 2, 3, 5], [64, 16, 64, 1, 3, 5],
        ],
        apply_downsample=[False, True, True, True],
        use_lightweight_conv_block=[False, False, True, True], depths=[1, 1, 2, 1],
        hidden_sizes=[16, 32, 64, 64], embedding_size=8, use_learnable_affine_block=True,
        hidden_act="relu", out_features=["stage3", "stage4"], **shape,
    )  # fmt: skip
    return m.DFineBackbone(
        backbone=body, decoder_in_channels=[16, 16], encoder_hidden_dim=16, num_denoising=0,
        num_labels=4, hidden_dim=16, learn_initial_query=False, num_queries=6,
        anchor_image_size=(64, 64), feat_strides=[16, 32], num_feature_levels=2,
        encoder_in_channels=[64, 64], encode_proj_layers=[1], num_attention_heads=2,
        encoder_ffn_dim=16, num_encoder_layers=1, hidden_expansion=0.34, depth_multiplier=0.5,
        eval_idx=-1, num_decoder_layers=3, decoder_attention_heads=2, decoder_ffn_dim=16,
        decoder_n_points=[2, 2], lqe_hidden_dim=8, num_lqe_layers=2,
        out_features=["stage3", "stage4"], seed=0, **shape,
    )  # fmt: skip


def deeplab():
    return m.DeepLabV3Backbone(
        image_encoder=resnet(**IMAGE), projection_filters=4, low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5", upsampling_size=8, dilation_rates=[6, 12], **IMAGE,
    )  # fmt: skip


def depth_anything():
    body = m.DINOV2Backbone(
        patch_size=14, num_layers=4, hidden_dim=8, num_heads=2, intermediate_dim=16,
        image_shape=(84, 84, 3), position_embedding_shape=(84, 84),
    )  # fmt: skip
    return m.DepthAnythingBackbone(
        image_encoder=body, reassemble_factors=[4, 2, 1, 0.5], neck_hidden_dims=[4, 4, 8, 8],
        fusion_hidden_dim=8, head_hidden_dim=4, head_in_index=-1,
        feature_keys=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def gemma3n():
    from keras_hub.src.models.gemma3n.gemma3n_audio_encoder import Gemma3nAudioEncoder
    from keras_hub.src.models.gemma3n.gemma3n_backbone import Gemma3nBackbone
    from keras_hub.src.models.mobilenetv5.mobilenetv5_backbone import MobileNetV5Backbone
    from keras_hub.src.models.mobilenetv5.mobilenetv5_builder import convert_arch_def_to_stackwise

    vision = MobileNetV5Backbone(
        **convert_arch_def_to_stackwise([["er_r1_k3_s1_e1_c16"]]),
        num_features=4, image_shape=(32, 32, 3), use_msfa=False,
    )  # fmt: skip
    audio = Gemma3nAudioEncoder(
        hidden_size=8, input_feat_size=32, sscp_conv_channel_size=[4, 8],
        sscp_conv_kernel_size=[(3, 3), (3, 3)], sscp_conv_stride_size=[(2, 2), (2, 2)],
        sscp_conv_group_norm_eps=1e-5, num_hidden_layers=1, rms_norm_eps=1e-6,
        gradient_clipping=1.0, residual_weight=0.5, num_attention_heads=1,
        attention_chunk_size=4, num_attention_context_right=5, num_attention_context_left=5,
        attention_logit_cap=50.0, conv_kernel_size=5, reduction_factor=1,
    )  # fmt: skip
    return Gemma3nBackbone(
        text_vocab_size=50, text_hidden_size=8, num_hidden_layers=3, pad_token_id=0,
        num_attention_heads=1, num_key_value_heads=1, head_dim=8, intermediate_size=[16] * 3,
        hidden_activation="gelu_approximate", layer_types=["full_attention"] * 3,
        sliding_window=4, rope_theta=10000.0, max_position_embeddings=16,
        vocab_size_per_layer_input=50, hidden_size_per_layer_input=2, altup_num_inputs=2,
        laurel_rank=1, vision_encoder_config=vision.get_config(), vision_hidden_size=16,
        audio_encoder_config=audio.get_config(), audio_hidden_size=8,
    )  # fmt: skip


def gemma4(with_images=True):
    vision = with_images and m.Gemma4VisionEncoder(
        image_size=16, patch_size=4, pool_size=2, num_layers=2, num_heads=2, head_dim=4,
        num_key_value_heads=1, hidden_dim=8, intermediate_dim=16, output_dim=8,
    )  # fmt: skip
    return m.Gemma4Backbone(
        vocabulary_size=50, image_size=16, num_layers=3, num_query_heads=2, num_key_value_heads=1,
        hidden_dim=8, intermediate_dim=16, head_dim=4, vision_encoder=vision or None,
    )  # fmt: skip


def mobilenet_v5():
    return m.MobileNetV5Backbone(
        stackwise_block_types=[["er"], ["uir", "uir"]], stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[8], [16, 16]], stackwise_strides=[[2], [2, 1]],
        stackwise_act_layers=[["relu"], ["relu", "relu"]], stackwise_exp_ratios=[[4.0], [6.0] * 2],
        stackwise_se_ratios=[[0.0], [0.0, 0.0]], stackwise_dw_kernel_sizes=[[0], [5, 5]],
        stackwise_dw_start_kernel_sizes=[[0], [0, 0]], stackwise_dw_end_kernel_sizes=[[0], [0, 0]],
        stackwise_exp_kernel_sizes=[[3], [0, 0]], stackwise_pw_kernel_sizes=[[1], [0, 0]],
        stackwise_num_heads=[[0], [0, 0]], stackwise_key_dims=[[0], [0, 0]],
        stackwise_value_dims=[[0], [0, 0]], stackwise_kv_strides=[[0], [0, 0]],
        stackwise_use_cpe=[[False], [False, False]], use_msfa=False, image_shape=(32, 32, 3),
    )  # fmt: skip


def parseq():
    return m.PARSeqBackbone(
        image_encoder=vit(), vocabulary_size=20, max_label_length=5, decoder_hidden_dim=8,
        num_decoder_layers=1, num_decoder_heads=2, decoder_mlp_dim=16,
    )  # fmt: skip


def retinanet():
    return m.RetinaNetBackbone(
        image_encoder=resnet(**IMAGE), min_level=3, max_level=5, use_p5=False, **IMAGE
    )


def sam3():
    sizes = {"hidden_dim": 8, "num_heads": 2, "intermediate_dim": 16}
    image = {"image_shape": (56, 56, 3), "patch_size": 14, "num_layers": 2, **sizes}
    return m.SAM3PromptableConceptBackbone(
        vision_encoder=layers.SAM3VisionEncoder(
            **image, fpn_hidden_dim=8, fpn_scale_factors=[4.0, 2.0, 1.0, 0.5],
            pretrain_image_shape=(28, 28, 3), window_size=2, global_attn_indexes=[1],
        ),
        text_encoder=layers.SAM3TextEncoder(
            vocabulary_size=50, embedding_dim=8, num_layers=2, **sizes
        ),
        geometry_encoder=layers.SAM3GeometryEncoder(num_layers=2, roi_size=7, **sizes),
        detr_encoder=layers.SAM3DetrEncoder(num_layers=2, **sizes),
        detr_decoder=layers.SAM3DetrDecoder(**image, num_queries=5),
        mask_decoder=layers.SAM3MaskDecoder(num_upsampling_stages=3, hidden_dim=8, num_heads=2),
    )  # fmt: skip


def sam():
    sizes = {"hidden_size": 8, "intermediate_dim": 16, "num_heads": 2}
    body = m.ViTDetBackbone(
        num_layers=3, global_attention_layer_indices=[2], patch_size=16, num_output_channels=8,
        window_size=2, image_shape=(64, 64, 3), **sizes,
    )  # fmt: skip
    prompts = layers.SAMPromptEncoder(
        hidden_size=8, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_channels=4
    )
    masks = layers.SAMMaskDecoder(
        num_layers=2, embedding_dim=8, num_multimask_outputs=3, iou_head_depth=3,
        iou_head_hidden_dim=8, **sizes,
    )  # fmt: skip
    return m.SAMBackbone(image_encoder=body, prompt_encoder=prompts, mask_decoder=masks)


def segformer():
    body = m.MiTBackbone(
        num_layers=4, hidden_dims=[4, 8, 12, 16], layerwise_depths=[1, 2, 1, 1],
        layerwise_num_heads=[1, 2, 2, 2], layerwise_sr_ratios=[8, 4, 2, 1],
        layerwise_patch_sizes=[7, 3, 3, 3], layerwise_strides=[4, 2, 2, 2],
        max_drop_path_rate=0.1, **IMAGE,
    )  # fmt: skip
    return m.SegFormerBackbone(image_encoder=body, projection_filters=8)


def stable_diffusion_3():
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    vae = VAEBackbone(
        [32, 32, 32, 32], [1, 1, 1, 1], [32, 32, 32, 32], [1, 1, 1, 1], image_shape=(64, 64, 3)
    )
    clips = [
        m.CLIPTextEncoder(20, 32, 32, 2, 2, 64, "quick_gelu", -2, name=name)
        for name in ("clip_l", "clip_g")
    ]
    return m.StableDiffusion3Backbone(
        mmdit_patch_size=2, mmdit_num_heads=2, mmdit_hidden_dim=32, mmdit_num_layers=3,
        mmdit_position_size=16, mmdit_qk_norm=None, mmdit_dual_attention_indices=None, vae=vae,
        clip_l=clips[0], clip_g=clips[1], **IMAGE,
    )  # fmt: skip


def t5gemma2():
    half = {"hidden_dim": 8, "intermediate_dim": 16, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 4}  # fmt: skip
    sides = {
        f"{side}_{key}": value
        for side, count in (("encoder", 2), ("decoder", 3))
        for key, value in {**half, "num_layers": count,
                           "layer_types": ["full_attention"] * count}.items()
    }  # fmt: skip
    return m.T5Gemma2Backbone(vocabulary_size=50, **sides)


def xception():
    return m.XceptionBackbone(
        stackwise_conv_filters=[[8, 8], [8, 16], [16, 16]], stackwise_pooling=[True, True, False],
        image_shape=(64, 64, 3),
    )  # fmt: skip


BUILDERS = {
    "BASNetBackbone": basnet,
    "BLIP2Backbone": blip2,
    "CLIPBackbone": lambda: towers("CLIP", projection_dim=8),
    "DFineBackbone": dfine,
    "DeepLabV3Backbone": deeplab,
    "DepthAnythingBackbone": depth_anything,
    "Gemma3nBackbone": gemma3n,
    "Gemma4Backbone": gemma4,
    "MetaCLIP2Backbone": lambda: towers("MetaCLIP2", projection_dim=8),
    "MobileNetV5Backbone": mobilenet_v5,
    "PARSeqBackbone": parseq,
    "RetinaNetBackbone": retinanet,
    "SAM3PromptableConceptBackbone": sam3,
    "SAMBackbone": sam,
    "SegFormerBackbone": segformer,
    "SigLIPBackbone": lambda: towers("SigLIP"),
    "StableDiffusion3Backbone": stable_diffusion_3,
    "T5Gemma2Backbone": t5gemma2,
    "XceptionBackbone": xception,
}
