"""Models with one row of pixels per image, and the tiles of all images in a second tensor."""

from __future__ import annotations

from vlmdebug.tiny.from_config import recipe_from_config

_SIDE = 48
_VIEW = {"height": 56, "width": 56}

RECIPES = {
    "deepseek_ocr2": recipe_from_config(
        "deepseek_ocr2",
        processor="DeepseekOcr2Processor",
        images=(
            "deepseek_ocr2.image_processing_pil_deepseek_ocr2",
            "DeepseekOcr2ImageProcessorPil",
            {"size": {"height": _SIDE, "width": _SIDE}, "tile_size": _SIDE},
        ),
        placeholder="<image>",
        tokens={"image_token": "<image>"},
        # The model makes 144 features of a view, which the processor computes from its sizes.
        parts={"patch_size": 1, "downsample_ratio": 4},
        call={"min_patches": 2, "max_patches": 3},
        text_config={
            "mlp_layer_types": ["dense", "dense"],
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
        vision_config={
            "sam_config": {
                "image_size": _SIDE,
                "patch_size": 4,
                "output_channels": 16,
                "downsample_channels": [16, 32],
                "global_attn_indexes": [1],
                "window_size": 4,
                "mlp_dim": 64,
                "initializer_range": 0.1,
            },
            "encoder_config": {"layer_types": ["full_attention"] * 2, "num_key_value_heads": 2},
        },
    ),
    "step3p7": recipe_from_config(
        "step3p7",
        processor="Step3p7Processor",
        images=(
            "step3p7.image_processing_step3p7",
            "Step3p7ImageProcessor",
            {"size": _VIEW, "patch_size": 56},
        ),
        placeholder="<im_patch>",
        unnamed=[
            *("<im_patch>", "<im_start>", "<im_end>"),
            *("<patch_start>", "<patch_end>", "<patch_newline>"),
        ],
        text_config={"mlp_layer_types": ["dense", "sparse"], "share_expert_dim": 16},
    ),
}
