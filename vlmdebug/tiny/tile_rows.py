"""Models with one row of pixels per tile."""

from __future__ import annotations

from typing import Any

from vlmdebug.tiny.from_config import recipe_from_config

_SQUARE = {"height": 56, "width": 56}
_LFM_ROWS = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]


def _tiles() -> tuple[str, str, dict[str, Any]]:
    options = {"size": _SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}
    return "got_ocr2.image_processing_pil_got_ocr2", "GotOcr2ImageProcessorPil", options


RECIPES = {
    "qianfan_ocr": recipe_from_config(
        "qianfan_ocr",
        processor="QianfanOCRProcessor",
        images=_tiles(),
        placeholder="<image>",
        tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
        },
        parts={"image_seq_length": 4},
        image_seq_length=4,
        vision_config={"image_size": [56, 56], "patch_size": [14, 14]},
    ),
    "cohere2_vision": recipe_from_config(
        "cohere2_vision",
        processor="Cohere2VisionProcessor",
        images=(
            "cohere2_vision.image_processing_cohere2_vision",
            "Cohere2VisionImageProcessor",
            # The processor uses its square as the number of placeholder tokens of a tile.
            {"size": _SQUARE, "patch_size": 2, "downsample_factor": 2, "max_patches": 4},
        ),
        placeholder="<|IMG_PATCH|>",
        tokens={
            "image_token": "<|IMG_PATCH|>",
            "boi_token": "<|START_OF_IMG|>",
            "eoi_token": "<|END_OF_IMG|>",
            "img_line_break_token": "<|IMG_LINE_BREAK|>",
        },
        alignment_intermediate_size=64,
        vision_config={"vision_use_head": False},
    ),
    "llama4": recipe_from_config(
        "llama4",
        processor="Llama4Processor",
        images=(
            "llama4.image_processing_llama4",
            "Llama4ImageProcessor",
            {"size": _SQUARE, "max_patches": 4, "resize_to_max_canvas": False},
        ),
        placeholder="<|image|>",
        unnamed=[
            *("<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>"),
            *("<|tile_x_separator|>", "<|tile_y_separator|>"),
        ],
        ids={
            "image_token_index": "<|patch|>",
            "boi_token_index": "<|image_start|>",
            "eoi_token_index": "<|image_end|>",
        },
        parts={"patch_size": 14, "pixel_shuffle_ratio": 0.5},
        cast=True,
        text_config={
            "intermediate_size_mlp": 64,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "moe_layers": [1],
            "attention_chunk_size": 512,
            "no_rope_layers": [1, 0],
        },
        vision_config={
            "intermediate_size": 128,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "pixel_shuffle_ratio": 0.5,
        },
    ),
    "lfm2_vl": recipe_from_config(
        "lfm2_vl",
        processor="Lfm2VlProcessor",
        images=(
            "lfm2_vl.image_processing_lfm2_vl",
            "Lfm2VlImageProcessor",
            {
                "downsample_factor": 2,
                "do_image_splitting": True,
                "min_tiles": 2,
                "max_tiles": 4,
                "use_thumbnail": True,
                "min_image_tokens": 4,
                "max_image_tokens": 9,
                "encoder_patch_size": 14,
                "tile_size": 56,
                "max_pixels_tolerance": 2.0,
                "max_num_patches": 64,
            },
        ),
        placeholder="<image>",
        tokens={
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
            "image_thumbnail_token": "<|img_thumbnail|>",
        },
        unnamed=_LFM_ROWS,
        downsample_factor=2,
        text_config={
            "layer_types": ["conv", "full_attention"],
            "block_multiple_of": 16,
            "block_auto_adjust_ff_dim": False,
        },
        vision_config={"num_patches": 16, "vision_use_head": False},
    ),
    "aria": recipe_from_config(
        "aria",
        processor="AriaProcessor",
        images=(
            "aria.image_processing_pil_aria",
            "AriaImageProcessorPil",
            {"max_image_size": 490, "split_image": False},
        ),
        placeholder="<image>",
        tokens={"image_token": "<image>"},
        parts={"size_conversion": {490: 128, 980: 256}},
        text_config={"moe_num_experts": 2, "moe_topk": 1, "moe_num_shared_experts": 1},
        vision_config={"image_size": 490},
        call={"max_image_size": 490},
        projector_patch_to_query_dict={1225: 128, 4900: 256},
    ),
    "inkling_mm_model": recipe_from_config(
        "inkling_mm_model",
        processor="InklingProcessor",
        images=(
            "inkling.image_processing_inkling",
            "InklingImageProcessor",
            {"size": {"height": 4, "width": 4}, "rescale_image_frac": 0.1},
        ),
        placeholder="<|content_image|><|image|>",
        tokens={"image_token": "<|image|>", "audio_token": "<|audio|>"},
        unnamed=["<|content_image|>", "<|content_audio_input|>"],
        parts={"feature_extractor": None},
        ids={
            "image_bos_token_id": "<|content_image|>",
            "audio_bos_token_id": "<|content_audio_input|>",
        },
        text_config={
            "swa_num_attention_heads": 2,
            "swa_num_key_value_heads": 1,
            "swa_head_dim": 16,
            "d_rel": 4,
            "logits_mup_width_multiplier": 1.0,
        },
        # With fewer layers than it has scales, its model needs scipy.
        vision_config={"patch_size": 4, "num_hidden_layers": 4},
        audio_config={"mel_vocab_size": 16},
    ),
}
