"""What models make of a key of tokens that has other rows than `input_ids`.

Found by running every architecture of `vlmdebug.tiny` in transformers 5.23, with the attention it
takes by default (sdpa). Most slice a mask of too many rows and never look at whose it is
(`sdpa_mask` in `transformers.masking_utils` indexes it by row); layers that multiply the mask with
the hidden states (linear attention, convolutions) raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, replace
from functools import cache

from vlmdebug.layout import TokenRows

MASK = TokenRows(same=True, fewer=None, one=None, more=True, beside_one=True, none=None)
TYPES = TokenRows(same=True, fewer=False, one=False, more=True, beside_one=True, none=False)
USUAL: Mapping[str, TokenRows] = {
    "input_ids": TokenRows(same=True),
    "attention_mask": MASK,
    "token_type_ids": TYPES,
    "mm_token_type_ids": TYPES,
    "moe_mm_token_type_ids": replace(
        TYPES, fewer=None, one=None, more=None, beside_one=None, none=True
    ),
    "position_ids": TokenRows(
        same=True, fewer=False, one=True, more=False, beside_one=False, none=False
    ),
    "labels": TokenRows(
        same=True, fewer=False, one=False, more=False, beside_one=False, none=False
    ),
}

_INDEXED = replace(
    MASK, fewer=False, one=False, none=False
)  # a mask is always made, so its rows are looked up
_PLACED = replace(MASK, fewer=False, one=False)  # M-RoPE takes the places from the mask
_MULTIPLIED = {"more": False}
_UNEQUAL = {"more": False, "beside_one": False}
_MASKS: Mapping[str, TokenRows] = {
    **dict.fromkeys(
        [
            *("gemma4", "gemma4_unified", "gemma3", "shieldgemma2", "paligemma", "dots3_note"),
            *("muse_glimmer", "muse_spark", "mistral_large4"),
        ],
        _INDEXED,
    ),
    **dict.fromkeys(["qwen4_exp", "inkling2"], replace(_INDEXED, **_UNEQUAL)),
    **dict.fromkeys(
        ["qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"],
        replace(_INDEXED, same=None, more=None, beside_one=None),
    ),
    **dict.fromkeys(
        [
            *("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "cosmos3_omni", "glm4v"),
            *("glm4v_moe", "glm46v", "glmga", "glm_ocr", "paddleocr_vl", "cohere_compass"),
            *("cosmos3_edge", "ernie4_5_vl_moe"),
        ],
        _PLACED,
    ),
    **dict.fromkeys(["qwen3_5", "qwen3_5_moe"], replace(_PLACED, **_MULTIPLIED)),
    **dict.fromkeys(["lfm2_vl", "lfm3_vl", "glm5_next"], replace(MASK, **_MULTIPLIED)),
    "nemotron_h_omni": replace(MASK, **_UNEQUAL),
}


@cache
def token_rows(model_type: str | None, models: tuple[str, ...]) -> Mapping[str, TokenRows]:
    """The rules of that model; those that all `models` of its layout share, where it is unknown."""
    types = (model_type,) if model_type is not None and model_type in models else models
    masks = [_MASKS.get(name, MASK) for name in types]
    shared = [
        answers[0] if len(set(answers)) == 1 else None
        for answers in zip(*map(astuple, masks), strict=True)
    ]
    return {**USUAL, "attention_mask": TokenRows(*shared)}
