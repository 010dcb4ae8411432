"""Models with one row of pixels per image."""

from __future__ import annotations

from typing import Any

from vlmdebug.tiny.from_config import recipe_from_config

_SQUARE = {"height": 56, "width": 56}
_CROPPED = {"size": {"shortest_edge": 56}, "crop_size": _SQUARE}
_IMAGE = {"image_token": "<image>"}
_PINPOINTS = [[56, 112], [112, 56], [112, 112]]
_LLAVA_PARTS = {
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
_LLAVA = {"vision_feature_layer": -1, "vision_feature_select_strategy": "default"}
_TOKENS_PER_IMAGE = 16  # patches of 14 in 56 x 56 pixels
_NO_HEAD = {"vision_use_head": False}

_GEMMA = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
}
_GEMMA4 = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
_PIXTRAL = {
    "image_token": "[IMG]",
    "image_break_token": "[IMG_BREAK]",
    "image_end_token": "[IMG_END]",
}
_APERTUS = {
    "image_token": "<|image|>",
    "audio_token": "<|audio|>",
    "boi_token": "<|img_start|>",
    "eoi_token": "<|img_end|>",
    "image_wrapper_token": "<|img_token_start|>",
    "eol_token": "<|img_end_of_row|>",
    "boa_token": "<|audio_start|>",
    "eoa_token": "<|audio_end|>",
}

_VQ = {"base_channels": 32, "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1}


def _vocabulary(processor: Any) -> dict[str, int]:
    """Ids of the tokens that images become, by their text."""
    return processor.tokenizer.get_vocab()


def _pixtral_images() -> tuple[str, str, dict[str, Any]]:
    options = {"patch_size": {"height": 14, "width": 14}, "size": {"longest_edge": 112}}
    return "pixtral.image_processing_pil_pixtral", "PixtralImageProcessorPil", options


def _pixtral_parts() -> dict[str, Any]:
    return {"patch_size": 14, "spatial_merge_size": 2}


RECIPES = {
    "vipllava": recipe_from_config(
        "vipllava",
        processor="LlavaProcessor",
        images=(
            "llava.image_processing_pil_llava",
            "LlavaImageProcessorPil",
            {**_CROPPED, "do_pad": False},
        ),
        placeholder="<image>",
        tokens=_IMAGE,
        parts=_LLAVA_PARTS,
        image_seq_length=_TOKENS_PER_IMAGE,
        vision_feature_layers=[-1, -2],
    ),
    "paligemma": recipe_from_config(
        "paligemma",
        processor="PaliGemmaProcessor",
        images=("siglip.image_processing_pil_siglip", "SiglipImageProcessorPil", {"size": _SQUARE}),
        image_attributes={"image_seq_length": _TOKENS_PER_IMAGE},
        placeholder="<image>",
        tokens=_IMAGE,
        vision_config=_NO_HEAD,
    ),
    "janus": recipe_from_config(
        "janus",
        processor="JanusProcessor",
        images=(
            "janus.image_processing_pil_janus",
            "JanusImageProcessorPil",
            {"size": _SQUARE, "min_size": 14},
        ),
        placeholder="<image_placeholder>",
        tokens={
            "image_token": "<image_placeholder>",
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        },
        ids={"image_token_id": "<image_placeholder>"},
        parts={"num_image_tokens": _TOKENS_PER_IMAGE},
        vision_config={"num_image_tokens": _TOKENS_PER_IMAGE},
        vq_config={
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "latent_channels": 32,
            "num_embeddings": 16,
            "projection_dim": 32,
        },
    ),
    "deepseek_vl_hybrid": recipe_from_config(
        "deepseek_vl_hybrid",
        processor="DeepseekVLHybridProcessor",
        images=(
            "deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid",
            "DeepseekVLHybridImageProcessorPil",
            {"size": _SQUARE, "high_res_size": {"height": 128, "width": 128}},
        ),
        placeholder="<image_placeholder>",
        tokens={"image_token": "<image_placeholder>"},
        parts={"num_image_tokens": _TOKENS_PER_IMAGE},
        vision_config=_NO_HEAD,
        high_res_vision_config={
            "image_size": 128,
            "patch_size": 16,
            "output_channels": 32,
            "global_attn_indexes": [1],
            "window_size": 4,
            "mlp_dim": 64,
        },
    ),
    "shieldgemma2": recipe_from_config(
        "shieldgemma2",
        # Its own processor writes the prompts, one per policy; images have Gemma 3's layout.
        processor="Gemma3Processor",
        images=("gemma3.image_processing_pil_gemma3", "Gemma3ImageProcessorPil", {"size": _SQUARE}),
        placeholder="<start_of_image>",
        tokens=_GEMMA,
        ids={"image_token_index": "<image_soft_token>"},
        parts={"image_seq_length": 4},
        mm_tokens_per_image=4,
        vision_config=_NO_HEAD,
    ),
    "mistral3": recipe_from_config(
        "mistral3",
        processor="PixtralProcessor",
        images=_pixtral_images(),
        placeholder="[IMG]",
        tokens=_PIXTRAL,
        ids={"image_token_index": "[IMG]"},
        parts=_pixtral_parts(),
        spatial_merge_size=2,
        vision_feature_layer=-1,
        vision_config={"image_size": 112},
    ),
    "lighton_ocr": recipe_from_config(
        "lighton_ocr",
        processor="LightOnOcrProcessor",
        images=_pixtral_images(),
        placeholder="<|image_pad|>",
        tokens={
            "image_token": "<|image_pad|>",
            "image_break_token": "<|vision_pad|>",
            "image_end_token": "<|vision_end|>",
        },
        parts=_pixtral_parts(),
        spatial_merge_size=2,
        vision_config={"image_size": 112},
    ),
    "mistral_large4": recipe_from_config(
        "mistral_large4",
        processor="PixtralProcessor",
        images=_pixtral_images(),
        placeholder="[IMG]",
        tokens=_PIXTRAL,
        ids={"image_token_index": "[IMG]"},
        parts=_pixtral_parts(),
        spatial_merge_size=2,
        vision_feature_layer=-1,
        text_config={"num_key_value_heads": 2, "head_dim": 8},
        vision_config={"image_size": 112},
    ),
    "gemma4_unified": recipe_from_config(
        "gemma4_unified",
        processor="Gemma4UnifiedProcessor",
        images=(
            "gemma4_unified.image_processing_gemma4_unified",
            "Gemma4UnifiedImageProcessor",
            {"max_soft_tokens": 70},
        ),
        placeholder="<|image|>",
        tokens=_GEMMA4,
        unnamed=["<|video|>"],
        parts={"video_processor": None, "feature_extractor": None},
        audio_config=None,
        text_config={
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={"patch_size": 16, "mm_embed_dim": 32, "output_proj_dims": 32},
    ),
    "llava_next_video": recipe_from_config(
        "llava_next_video",
        processor="LlavaNextVideoProcessor",
        images=(
            "llava_next.image_processing_pil_llava_next",
            "LlavaNextImageProcessorPil",
            {**_CROPPED, "image_grid_pinpoints": _PINPOINTS},
        ),
        placeholder="<image>",
        tokens={**_IMAGE, "video_token": "<video>"},
        parts={**_LLAVA_PARTS, "video_processor": None},
        image_grid_pinpoints=_PINPOINTS,
        image_seq_length=_TOKENS_PER_IMAGE,
        **_LLAVA,
    ),
    "video_llava": recipe_from_config(
        "video_llava",
        processor="VideoLlavaProcessor",
        images=(
            "video_llava.image_processing_video_llava",
            "VideoLlavaImageProcessor",
            {"size": {"shortest_edge": 56}, "crop_size": _SQUARE},
        ),
        placeholder="<image>",
        tokens={**_IMAGE, "video_token": "<video>"},
        parts={
            "video_processor": None,
            "patch_size": 14,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        call={"return_legacy_image_output": False},
        image_seq_length=_TOKENS_PER_IMAGE,
        **_LLAVA,
    ),
    "llava_onevision": recipe_from_config(
        "llava_onevision",
        processor="LlavaOnevisionProcessor",
        images=(
            "llava_onevision.image_processing_pil_llava_onevision",
            "LlavaOnevisionImageProcessorPil",
            {"size": _SQUARE, "image_grid_pinpoints": _PINPOINTS},
        ),
        placeholder="<image>",
        tokens={**_IMAGE, "video_token": "<video>"},
        parts={
            "num_image_tokens": _TOKENS_PER_IMAGE,
            "vision_feature_select_strategy": "full",
            "video_processor": None,
        },
        image_grid_pinpoints=_PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_config=_NO_HEAD,
    ),
    "chameleon": recipe_from_config(
        "chameleon",
        processor="ChameleonProcessor",
        images=(
            "chameleon.image_processing_pil_chameleon",
            "ChameleonImageProcessorPil",
            _CROPPED,
        ),
        placeholder="<image>",
        tokens={
            **_IMAGE,
            "boi_token": "<racm3:break>",
            "eoi_token": "<eoss>",
            "sep_token": "<reserved08706>",
        },
        unnamed=[f"IMGIMG{chr(ord('A') + code)}Z" for code in range(8)],
        parts={"image_seq_length": 49},  # squares of 8 in 56 x 56 pixels
        vocabulary_map=_vocabulary,
        vq_config={**_VQ, "latent_channels": 32, "num_embeddings": 8, "resolution": 56},
    ),
    "emu3": recipe_from_config(
        "emu3",
        processor="Emu3Processor",
        images=(
            "emu3.image_processing_emu3",
            "Emu3ImageProcessor",
            {"min_pixels": 56 * 56, "max_pixels": 112 * 112},
        ),
        placeholder="<image>",
        tokens={
            **_IMAGE,
            "boi_token": "<|image start|>",
            "eoi_token": "<|image end|>",
            "image_wrapper_token": "<|image token|>",
            "eof_token": "<|extra_201|>",
        },
        unnamed=["<|extra_200|>", *(f"<|visual token {code:06}|>" for code in range(8))],
        vocabulary_map=_vocabulary,
        vq_config={**_VQ, "codebook_size": 8, "num_attention_heads": 1, "embed_dim": 4},
    ),
    "apertus1p5": recipe_from_config(
        "apertus1p5",
        processor="Apertus1p5Processor",
        images=(
            "apertus1p5.image_processing_apertus1p5",
            "Apertus1p5ImageProcessor",
            {"size": {"min_pixels": 32 * 32, "max_pixels": 96 * 96}},
        ),
        placeholder="<|image|>",
        tokens=_APERTUS,
        # The ids of images and sounds follow the tokens of `_APERTUS`.
        unnamed=[f"<|visual token {code}|>" for code in range(16)]
        + [f"<|audio token {code}|>" for code in range(4)],
        parts={"feature_extractor": None},
        text_config={"hidden_act": "silu"},  # its own activation warns without a CUDA kernel
        ids={"image_token_offset": "<|visual token 0|>", "audio_token_offset": "<|audio token 0|>"},
        vision_config={
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "latent_channels": 16,
            "embed_dim": 16,
            "codebook_size": 16,
        },
        audio_config={"num_filters": 2, "codebook_size": 4, "codebook_dim": 32},
    ),
    "granite4_vision": recipe_from_config(
        "granite4_vision",
        processor="Granite4VisionProcessor",
        images=(
            "llava_next.image_processing_pil_llava_next",
            "LlavaNextImageProcessorPil",
            {**_CROPPED, "image_grid_pinpoints": _PINPOINTS},
        ),
        placeholder="<image>",
        tokens=_IMAGE,
        parts={
            "patch_size": 14,
            "vision_feature_select_strategy": "full",
            "downsample_rate": "1/2",
        },
        image_grid_pinpoints=_PINPOINTS,
        downsample_rate="1/2",
        deepstack_layer_map=[[-2, 0]],
        spatial_target_layers=[0, 1, 0, 1],
        vision_config={"hidden_size": 64},
    ),
    "t5gemma2": recipe_from_config(
        "t5gemma2",
        processor="Gemma3Processor",
        images=("gemma3.image_processing_pil_gemma3", "Gemma3ImageProcessorPil", {"size": _SQUARE}),
        placeholder="<start_of_image>",
        tokens=_GEMMA,
        ids={
            "image_token_index": "<image_soft_token>",
            "encoder.image_token_index": "<image_soft_token>",
        },
        parts={"image_seq_length": 4},
        decoder=True,
        encoder={"mm_tokens_per_image": 4, "vision_config": _NO_HEAD},
    ),
    "diffusion_gemma": recipe_from_config(
        "diffusion_gemma",
        processor="Gemma4Processor",
        images=(
            "gemma4.image_processing_pil_gemma4",
            "Gemma4ImageProcessorPil",
            {"max_soft_tokens": 70},
        ),
        placeholder="<|image|>",
        tokens=_GEMMA4,
        unnamed=["<|video|>"],
        parts={"video_processor": None, "feature_extractor": None},
        decoder=True,  # the canvas that it denoises
        initializer_range=0.05,  # so that its attention is wide, and padding shows
        text_config={
            "top_k_experts": 2,
            "use_bidirectional_attention": "vision",
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={"patch_size": 16},
    ),
}
