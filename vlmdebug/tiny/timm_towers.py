"""Models with a vision tower of timm; timm needs torchvision."""

from __future__ import annotations

from vlmdebug.tiny.from_config import recipe_from_config

_SQUARE = {"height": 64, "width": 64}
_GEMMA = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
}

RECIPES = {
    "gemma3n": recipe_from_config(
        "gemma3n",
        processor="Gemma3nProcessor",
        images=("siglip.image_processing_pil_siglip", "SiglipImageProcessorPil", {"size": _SQUARE}),
        placeholder="<image_soft_token>",
        tokens=_GEMMA,
        parts={"feature_extractor": None, "image_seq_length": 256, "audio_seq_length": 8},
        vision_soft_tokens_per_image=256,
        audio_soft_tokens_per_image=8,
        text_config={
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 8,
            # The ids of text, then 8 of images and 8 of audio, as in the released config.
            "vocab_size": 416,
            "vocab_size_per_layer_input": 400,
            "laurel_rank": 8,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": [0.0, 0.0],
        },
        # A narrow tower of the released kind; it cannot take zero rows either.
        vision_config={
            "architecture": "mobilenetv5_base",
            "model_args": {"channel_multiplier": 0.02},
            "hidden_size": 2048,
            "vocab_size": 8,
            "vocab_offset": 400,
        },
        audio_config={
            "vocab_size": 8,
            "vocab_offset": 408,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": [8, 8],
        },
    ),
    "fast_vlm": recipe_from_config(
        "fast_vlm",
        processor="LlavaProcessor",
        images=(
            "clip.image_processing_pil_clip",
            "CLIPImageProcessorPil",
            {"size": {"shortest_edge": 64}, "crop_size": _SQUARE},
        ),
        placeholder="<image>",
        tokens={"image_token": "<image>"},
        parts={
            "patch_size": 32,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        image_seq_length=4,
        vision_config={"architecture": "test_resnet", "hidden_size": 96},
    ),
    "perception_lm": recipe_from_config(
        "perception_lm",
        processor="PerceptionLMProcessor",
        # With tiles, its processor takes only images of as many tiles in one batch.
        images=(
            "perception_lm.image_processing_perception_lm",
            "PerceptionLMImageProcessor",
            {"vision_input_type": "vanilla", "tile_size": 64, "max_num_tiles": 4},
        ),
        placeholder="<image>",
        tokens={"image_token": "<image>", "video_token": "<video>"},
        parts={"patch_size": 16, "pooling_ratio": 2, "video_processor": None},
        projector_pooling_ratio=2,
        vision_config={
            # A small tower of the released kind.
            "architecture": "vit_pe_core_tiny_patch16_384",
            "model_args": {
                "depth": 2,
                "embed_dim": 32,
                "num_heads": 2,
                "img_size": [64, 64],
                "global_pool": "",
                "use_post_transformer_norm": False,
            },
        },
    ),
}
