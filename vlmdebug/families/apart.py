"""Which models keep the samples of packed rows apart, and what hides padding in front of one."""

from __future__ import annotations

SEPARATES = frozenset(
    {
        *("apertus1p5", "aria", "aya_vision", "chameleon", "cohere2_vision", "cohere_compass"),
        *("cosmos3_edge", "cosmos3_omni", "deepseek_ocr2", "deepseek_vl", "deepseek_vl_hybrid"),
        *("dots3_note", "emu3", "ernie4_5_vl_moe", "exaone4_5", "fast_vlm", "gemma3n"),
        *("gemma4_unified", "glm46v", "glm4v", "glm4v_moe", "glm_ocr", "glmga"),
        *("granite4_vision", "granite_docling", "hy_v4_vl", "hyperclovax_vision_v2"),
        *("idefics2", "idefics3", "internvl", "janus", "kimi_k25", "lighton_ocr", "llava"),
        *("llava_next", "llava_next_video", "llava_onevision", "minimax_m3_vl", "mistral3"),
        *("mistral_large4", "muse_glimmer", "muse_spark", "ovis2", "paddleocr_vl"),
        *("perception_lm", "qianfan_ocr", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl"),
        *("qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe", "smolvlm", "step3p7"),
        *("video_llama_3", "video_llava", "vipllava"),
    }
)
"""Models in which `position_ids` that start again keep samples apart: the logits of each tiny model
are those of the samples alone (default attention, transformers 5.24). Others read token types over
the whole row (Gemma 3, PaliGemma) or carry a state along it (Qwen3.5, LFM)."""
REPEATS = frozenset(
    {
        *("cohere_compass", "cosmos3_omni", "qwen3_omni_moe_thinker", "qwen3_vl"),
        "qwen3_vl_moe",
    }
)
"""Models of `SEPARATES` with M-RoPE that take `position_ids` of two dimensions for all four planes;
others take them for time, height and width alone, which keeps no samples apart."""
OWN_MASK = frozenset(
    {
        *("cohere2_vision", "gemma3n", "gemma4_unified", "hy_v4_vl", "muse_glimmer"),
        "muse_spark",
    }
)
"""Models of `SEPARATES` in which an `attention_mask` of four dimensions is not all that hides
tokens: layers differ in what they show, or choose tokens by a mask of two."""
SHARES_PROCESSOR = frozenset({"qwen3_vl"})
"""Models of `SEPARATES` with a processor that other models have, too, which separate nothing:
Qwen3.5 carries a state along the row. Without a config, nothing is known of either."""
HIDES_PADDING = SEPARATES | {"mllama", "paligemma"}
"""Models in which `position_ids` keep padding apart that is in front of a sample: without
`attention_mask`, the logits of each tiny model are those of the sample alone, whatever the
embedding of padding is (default attention, transformers 5.24)."""
HIDES_PADDING_OF_TEXT = frozenset({"gemma3", "gemma4", "shieldgemma2"})
"""The same for rows without images. In rows with images,
`modeling_gemma3.create_masks_for_vision_model` (transformers 5.24) looks for the tokens of an image
by numbers that begin again with each sample."""
