"""Processors that belong to no layout family; they are built and probed to find their layout.

`tools/coverage.py` gives the reasons why their models are not proven. One is proven as an unknown
model: Phi-4, which is outside the image-text-to-text mapping.
"""

from __future__ import annotations

from typing import Any

from vlmdebug.tiny.from_config import recipe_from_config
from vlmdebug.tiny.registry import Recipe

_SQUARE = {"height": 56, "width": 56}
_IMAGE = {"image_token": "<image>"}
_MINICPM = {
    "image_token": "<unk_img>",
    "video_token": "<video>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


def _minicpm(
    model_type: str, processor: str, images: tuple[str, str], video: tuple[str, str]
) -> Any:
    return recipe_from_config(
        model_type,
        processor=processor,
        images=(*images, {}),
        placeholder="<unk_img>",
        tokens=_MINICPM,
        parts={"video_processor": (*video, {})},
    )


RECIPES: dict[str, Recipe] = {
    "hunyuan_vl": recipe_from_config(
        "hunyuan_vl",
        processor="HunYuanVLProcessor",
        images=("hunyuan_vl.image_processing_pil_hunyuan_vl", "HunYuanVLImageProcessorPil", {}),
        placeholder="<img_start><img_pad><img_end>",
        tokens={
            "image_token": "<img_pad>",
            "image_start_token": "<img_start>",
            "image_end_token": "<img_end>",
        },
        text_config={
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 2, 2, 2],
            }
        },
        vision_config={"text_hidden_size": 32, "patch_size": 16},
    ),
    "unlimited_ocr": recipe_from_config(
        "unlimited_ocr",
        processor="UnlimitedOcrProcessor",
        images=("unlimited_ocr.image_processing_unlimited_ocr", "UnlimitedOcrImageProcessor", {}),
        placeholder="<image>",
        tokens=_IMAGE,
    ),
    "minicpmv4_6": _minicpm(
        "minicpmv4_6",
        "MiniCPMV4_6Processor",
        ("minicpmv4_6.image_processing_pil_minicpmv4_6", "MiniCPMV4_6ImageProcessorPil"),
        ("minicpmv4_6.video_processing_minicpmv4_6", "MiniCPMV4_6VideoProcessor"),
    ),
    "minicpmv4_7": _minicpm(
        "minicpmv4_7",
        "MiniCPMV4_7Processor",
        ("minicpmv4_6.image_processing_pil_minicpmv4_6", "MiniCPMV4_6ImageProcessorPil"),
        ("minicpmv4_6.video_processing_minicpmv4_6", "MiniCPMV4_6VideoProcessor"),
    ),
    "minicpm_ocr": _minicpm(
        "minicpm_ocr",
        "MiniCPMOcrProcessor",
        ("minicpm_ocr.image_processing_minicpm_ocr", "MiniCPMOcrImageProcessor"),
        ("minicpm_ocr.video_processing_minicpm_ocr", "MiniCPMOcrVideoProcessor"),
    ),
    "molmo2": recipe_from_config(
        "molmo2",
        processor="Molmo2Processor",
        images=("molmo2.image_processing_molmo2", "Molmo2ImageProcessor", {}),
        placeholder="<|image|>",
        unnamed=[
            *("<|image|>", "<|video|>", "<im_start>", "<im_end>", "<im_patch>", "<im_col>"),
            *("<low_res_im_start>", "<im_low>", "<frame_start>", "<frame_end>"),
        ],
        parts={"video_processor": None},
    ),
    "phi4_multimodal": recipe_from_config(
        "phi4_multimodal",
        processor="Phi4MultimodalProcessor",
        # Its token count is only valid for crops of 448 pixels.
        images=(
            "phi4_multimodal.image_processing_phi4_multimodal",
            "Phi4MultimodalImageProcessor",
            {"dynamic_hd": 2},
        ),
        placeholder="<|image|>",
        tokens={"image_token": "<|image|>", "audio_token": "<|audio|>"},
        parts={
            "audio_processor": (
                "phi4_multimodal.feature_extraction_phi4_multimodal",
                "Phi4MultimodalFeatureExtractor",
                {},
            )
        },
        ids={
            "vision_config.image_token_id": "<|image|>",
            "audio_config.audio_token_id": "<|audio|>",
        },
        model="Phi4MultimodalForCausalLM",
        attn_implementation="eager",
        vision_config={"image_size": 448, "hidden_size": 16},
        audio_config={
            "num_blocks": 1,
            "nemo_conv_channels": 8,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
        },
    ),
}
