"""Models that take patches and a grid per image, as Qwen-VL does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmdebug.tiny.from_config import recipe_from_config
from vlmdebug.tiny.registry import Recipe

_QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
_OMNI = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
_OMNI_MARK = "<|vision_bos|><|IMAGE|><|vision_eos|>"
_OMNI_IDS = {
    "vision_start_token_id": "<|vision_bos|>",
    "vision_end_token_id": "<|vision_eos|>",
    "audio_start_token_id": "<|audio_bos|>",
}
_GLM = {"image_token": "<|image|>", "video_token": "<|video|>"}
_GLM_EDGES = ["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
_GLM_MARK = "<|begin_of_image|><|image|><|end_of_image|>"
_GLM_IDS: dict[str, str] = dict(
    zip(
        (
            "image_start_token_id",
            "image_end_token_id",
            "video_start_token_id",
            "video_end_token_id",
        ),
        _GLM_EDGES,
        strict=True,
    )
)
_MUSE = [
    *("<|patch|>", "<|image_start|>", "<|image_end|>", "<|video|>"),
    *("<|vid_frame_separator|>", "<|vid_start|>", "<|vid_end|>"),
]
_MUSE_MARK = "<|image_start|><|patch|><|image_end|>"
_NO_VIDEO = {"video_processor": None}
_NO_VIDEO_OR_AUDIO = {"video_processor": None, "feature_extractor": None}

_MERGE = 2
_VISION = {"intermediate_size": 32, "spatial_merge_size": _MERGE}
_NEWER_VISION = {**_VISION, "patch_size": 16, "num_position_embeddings": 64}
_DEEPSTACK = {**_NEWER_VISION, "deepstack_visual_indexes": [0]}
_GLM_VISION = {**_VISION, "image_size": 112}


def _rope(sections: Sequence[int], **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}
    return {"rope_parameters": {**rope, **more}}


def _qwen_images(patch: int, **more: Any) -> tuple[str, str, dict[str, Any]]:
    pixels = (patch * _MERGE) ** 2
    sizes = {"min_pixels": 4 * pixels, "max_pixels": 16 * pixels}
    return (
        "qwen2_vl.image_processing_pil_qwen2_vl",
        "Qwen2VLImageProcessorPil",
        {"patch_size": patch, "merge_size": _MERGE, **sizes, **more},
    )


def _glm_images(model_type: str, name: str) -> tuple[str, str, dict[str, Any]]:
    size = {"shortest_edge": 8 * 28 * 28, "longest_edge": 32 * 28 * 28}
    return f"{model_type}.image_processing_pil_{model_type}", name, {"size": size}


_HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    **_rope([1, 1, 0], mrope_interleaved=True, partial_rotary_factor=0.25),
}
_INTERLEAVED = _rope([2, 3, 3], mrope_interleaved=True)
_MERGED = {"merge_size": _MERGE, "min_pixels": 4 * 28 * 28, "max_pixels": 16 * 28 * 28}


def _qwen(model_type: str, processor: str, patch: int = 14, **special: Any) -> Recipe:
    return recipe_from_config(
        model_type,
        processor=processor,
        images=_qwen_images(patch),
        placeholder=_QWEN_MARK,
        tokens=_QWEN,
        parts=_NO_VIDEO,
        **special,
    )


def _glm(model_type: str, processor: str, images: tuple[str, str], **special: Any) -> Recipe:
    vision = special.pop("vision_config", {})
    return recipe_from_config(
        model_type,
        processor=processor,
        images=_glm_images(*images),
        placeholder=_GLM_MARK,
        tokens=_GLM,
        unnamed=_GLM_EDGES,
        ids=_GLM_IDS,
        parts=_NO_VIDEO,
        vision_config={**_GLM_VISION, **vision},
        **special,
    )


def _inkling(model_type: str, **text: Any) -> Recipe:
    return recipe_from_config(
        model_type,
        processor="Inkling2Processor",
        images=("inkling2.image_processing_inkling2", "Inkling2ImageProcessor", {}),
        placeholder="<|img|>",
        tokens={"image_token": "<|img|>"},
        text_config={
            "swa_num_attention_heads": 2,
            "swa_num_key_value_heads": 1,
            "swa_head_dim": 16,
            **text,
        },
        vision_config={"text_hidden_size": 32, "patch_size": 20, "projection_hidden_dim": 32},
    )


_GLM_ROPE = _rope([2, 1, 1], partial_rotary_factor=0.5)

RECIPES = {
    "qwen3_vl_moe": _qwen(
        "qwen3_vl_moe", "Qwen3VLProcessor", 16, text_config=_INTERLEAVED, vision_config=_DEEPSTACK
    ),
    "qwen3_5_moe": _qwen(
        "qwen3_5_moe", "Qwen3VLProcessor", 16, text_config=_HYBRID, vision_config=_NEWER_VISION
    ),
    "cosmos3_omni": _qwen(
        "cosmos3_omni", "Qwen3VLProcessor", 16, text_config=_INTERLEAVED, vision_config=_DEEPSTACK
    ),
    "cosmos3_edge": recipe_from_config(
        "cosmos3_edge",
        processor="Cosmos3EdgeProcessor",
        images=(
            "cosmos3_edge.image_processing_pil_cosmos3_edge",
            "Cosmos3EdgeImageProcessorPil",
            {},
        ),
        placeholder=_QWEN_MARK,
        tokens=_QWEN,
        parts=_NO_VIDEO,
        # The model needs them to place an image, and the processor does not return them by default.
        call={"return_mm_token_type_ids": True},
        text_config=_rope([2, 3, 3]),
        vision_config={"patch_size": 16},
    ),
    "exaone4_5": _qwen("exaone4_5", "Exaone4_5_Processor"),
    "hyperclovax_vision_v2": _qwen("hyperclovax_vision_v2", "HyperCLOVAXVisionV2Processor"),
    "lfm3_vl": _qwen(
        "lfm3_vl",
        "Lfm3VlProcessor",
        16,
        text_config={"layer_types": ["conv", "full_attention"]},
        vision_config={"patch_size": 16},
    ),
    "qwen2_5_omni_thinker": recipe_from_config(
        "qwen2_5_omni_thinker",
        processor="Qwen2_5OmniProcessor",
        images=_qwen_images(14),
        placeholder=_OMNI_MARK,
        tokens=_OMNI,
        ids={
            **_OMNI_IDS,
            "image_token_index": "<|IMAGE|>",
            "video_token_index": "<|VIDEO|>",
            "audio_token_index": "<|AUDIO|>",
        },
        parts=_NO_VIDEO_OR_AUDIO,
        text_config=_rope([2, 3, 3]),
        audio_config={"output_dim": 32, "num_mel_bins": 16},
    ),
    "qwen3_omni_moe_thinker": recipe_from_config(
        "qwen3_omni_moe_thinker",
        processor="Qwen3OmniMoeProcessor",
        images=_qwen_images(16),
        placeholder=_OMNI_MARK,
        tokens=_OMNI,
        ids=_OMNI_IDS,
        parts=_NO_VIDEO_OR_AUDIO,
        text_config=_INTERLEAVED,
        vision_config=_DEEPSTACK,
        audio_config={"output_dim": 32, "num_mel_bins": 16, "downsample_hidden_size": 8},
    ),
    "glm4v_moe": _glm(
        "glm4v_moe", "Glm4vProcessor", ("glm4v", "Glm4vImageProcessorPil"), text_config=_GLM_ROPE
    ),
    "glm46v": _glm(
        "glm46v", "Glm46VProcessor", ("glm46v", "Glm46VImageProcessorPil"), text_config=_GLM_ROPE
    ),
    "glmga": _glm(
        "glmga", "Glm46VProcessor", ("glmga", "GlmgaImageProcessorPil"), text_config=_GLM_ROPE
    ),
    "glm_ocr": _glm(
        "glm_ocr",
        "Glm46VProcessor",
        ("glm46v", "Glm46VImageProcessorPil"),
        text_config=_rope([2, 3, 3]),
    ),
    "glm5_next": _glm(
        "glm5_next",
        "Glm5NextProcessor",
        ("glm5_next", "Glm5NextImageProcessorPil"),
        text_config={
            "num_key_value_heads": 2,
            "qk_rope_head_dim": 0,
            "layer_types": ["linear_attention", "full_attention"],
            "index_n_heads": 2,
            "mlp_layer_types": ["dense", "sparse"],
        },
        vision_config={"projection_intermediate_size": 32},
    ),
    "kimi_k25": recipe_from_config(
        "kimi_k25",
        processor="Kimi_K25Processor",
        images=(
            "kimi_k25.image_processing_kimi_k25",
            "Kimi_K25ImageProcessor",
            {"max_patches": 64},
        ),
        placeholder="<|media_begin|>image<|media_content|><|media_pad|><|media_end|>",
        tokens={"image_token": "<|media_pad|>", "video_token": "<|kimi_k25_video_placeholder|>"},
        unnamed=["<|media_begin|>", "<|media_content|>", "<|media_end|>"],
        ids={
            "vision_start_token_id": "<|media_begin|>",
            "vision_end_token_id": "<|media_end|>",
        },
        parts=_NO_VIDEO,
        text_config={"num_key_value_heads": 2},
        vision_config={"pos_emb_height": 8, "pos_emb_width": 8},
    ),
    "minimax_m3_vl": recipe_from_config(
        "minimax_m3_vl",
        processor="MiniMaxM3VLProcessor",
        images=("minimax_m3_vl.image_processing_minimax_m3_vl", "MiniMaxM3VLImageProcessor", {}),
        placeholder="]<]image[>[",
        unnamed=[
            *("]<]image[>[", "]<]video[>["),
            *("]<]start of image[>[", "]<]end of image[>["),
        ],
        parts=_NO_VIDEO,
    ),
    "muse_glimmer": recipe_from_config(
        "muse_glimmer",
        processor="MuseGlimmerProcessor",
        images=("muse_glimmer.image_processing_muse_glimmer", "MuseGlimmerImageProcessor", {}),
        placeholder=_MUSE_MARK,
        unnamed=_MUSE,
        parts=_NO_VIDEO,
        out_hidden_size=128,
    ),
    "muse_spark": recipe_from_config(
        "muse_spark",
        processor="MuseSparkProcessor",
        images=("muse_glimmer.image_processing_muse_glimmer", "MuseGlimmerImageProcessor", {}),
        placeholder=_MUSE_MARK,
        unnamed=[*_MUSE, "<|audio|>", "<|soft_audio_start|>", "<|soft_audio_end|>"],
        parts=_NO_VIDEO_OR_AUDIO,
        out_hidden_size=128,
        text_config={"moe_hidden_size": 16},
        audio_config={"patch_sizes": [4, 4], "hidden_sizes": [16, 32], "depths": [1, 1]},
    ),
    "paddleocr_vl": recipe_from_config(
        "paddleocr_vl",
        processor="PaddleOCRVLProcessor",
        images=(
            "paddleocr_vl.image_processing_pil_paddleocr_vl",
            "PaddleOCRVLImageProcessorPil",
            _MERGED,
        ),
        placeholder=_QWEN_MARK,
        tokens=_QWEN,
        text_config=_rope([2, 3, 3]),
    ),
    "video_llama_3": recipe_from_config(
        "video_llama_3",
        processor="VideoLlama3Processor",
        images=(
            "video_llama_3.image_processing_pil_video_llama_3",
            "VideoLlama3ImageProcessorPil",
            _MERGED,
        ),
        placeholder=_QWEN_MARK,
        tokens=_QWEN,
        parts=_NO_VIDEO,
    ),
    "inkling2": _inkling("inkling2"),
    "inkling2_loop": _inkling(
        "inkling2_loop",
        n_layers_per_attn_res_block=1,
        loop_layer_index_start=1,
        loop_layer_index_end=2,
        loop_num_passes=2,
        loop_gate_rank=4,
    ),
    "hy_v4_vl": recipe_from_config(
        "hy_v4_vl",
        processor="HYV4VLProcessor",
        images=(
            "hy_v4_vl.image_processing_pil_hy_v4_vl",
            "HYV4VLImageProcessorPil",
            {"size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 16 * 32 * 32}},
        ),
        placeholder=_QWEN_MARK,
        tokens=_QWEN,
        parts=_NO_VIDEO,
        text_config={
            **_rope([2, 1, 1]),
            "index_topk": 512,
            "index_n_heads": 2,
            "hc_mult": 2,
        },
        vision_config={"patch_size": 16, "max_image_size": 256},
        attn_implementation="eager",
    ),
    "qwen4_exp": _qwen(
        "qwen4_exp",
        "Qwen3VLProcessor",
        16,
        text_config={
            **_HYBRID,
            "hc_lowrank": 8,
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 512,
            "indexer_compress_ratio": 4,
        },
        vision_config=_NEWER_VISION,
    ),
    "dots3_note": recipe_from_config(
        "dots3_note",
        processor="Dots3NoteProcessor",
        images=_qwen_images(14, temporal_patch_size=1),
        placeholder="<|img|><|imgpad|><|endofimg|>",
        unnamed=[
            *("<|img|>", "<|imgpad|>", "<|endofimg|>"),
            *("<|video_pad|>", "<|audio_comp_pad|>"),
        ],
        parts=_NO_VIDEO_OR_AUDIO,
        text_config={"num_key_value_heads": 2},
        vision_config={
            "mlp_layer_types": ["dense", "dense"],
            "adapter_in_dim": 32,
            "adapter_out_dim": 32,
        },
        audio_config={
            "adapter_input_size": 32,
            "adapter_out_dim": 32,
            "downsample_hidden_size": 8,
        },
    ),
    "cohere_compass": recipe_from_config(
        "cohere_compass",
        processor="CohereCompassProcessor",
        images=(
            "cohere_compass.image_processing_pil_cohere_compass",
            "CohereCompassImageProcessorPil",
            {"patch_size": 16, **_MERGED},
        ),
        placeholder="<|VISION_START|><|IMAGE_PAD|><|VISION_END|>",
        unnamed=["<|IMAGE_PAD|>", "<|VIDEO_PAD|>", "<|VISION_START|>", "<|VISION_END|>"],
        parts=_NO_VIDEO,
        text_config={
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": dict.fromkeys(
                ("sliding_attention", "full_attention"),
                {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            ),
        },
        vision_config=_DEEPSTACK,
    ),
    "ernie4_5_vl_moe": recipe_from_config(
        "ernie4_5_vl_moe",
        processor="Ernie4_5_VLMoeProcessor",
        images=(
            "ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe",
            "Ernie4_5_VLMoeImageProcessorPil",
            _MERGED,
        ),
        placeholder="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        tokens={
            "image_token": "<|IMAGE_PLACEHOLDER|>",
            "image_start_token": "<|IMAGE_START|>",
            "image_end_token": "<|IMAGE_END|>",
            "video_token": "<|VIDEO_PLACEHOLDER|>",
            "video_start_token": "<|VIDEO_START|>",
            "video_end_token": "<|VIDEO_END|>",
        },
        parts=_NO_VIDEO,
        text_config={
            "moe_intermediate_size": [16, 16],
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            **_rope([3, 3, 2]),
        },
        vision_config=_VISION,
    ),
    "nemotron_h_omni": recipe_from_config(
        "nemotron_h_omni",
        processor="NemotronH_Omni_Reasoning_V3Processor",
        images=(
            "nemotron_h_omni.image_processing_nemotron_h_omni",
            "NemotronH_Omni_Reasoning_V3ImageProcessor",
            {},
        ),
        placeholder="<image>",
        unnamed=[
            *("<image>", "<video>", "<so_embedding>", "<so_start>", "<so_end>"),
            *("<img>", "</img>"),
        ],
        parts=_NO_VIDEO_OR_AUDIO,
        audio_config=None,
        vision_hidden_size=32,
        text_config={
            "mamba_num_heads": 2,
            "mamba_head_dim": 16,
            "ssm_state_size": 16,
            "n_groups": 1,
            "moe_shared_expert_intermediate_size": 16,
        },
        vision_config={"video_temporal_patch_size": 2, "patch_size": 16},
    ),
}
