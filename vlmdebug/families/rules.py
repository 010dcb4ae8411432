"""The behaviours of the models, as named values that families and their variants refer to.

They were found by running every architecture of `vlmdebug.tiny` with its default attention (sdpa)
and by reading its modeling file. Rules of a whole family are in the family's own file; behaviours
that several models share have a name here. Tests compare each with its tiny model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, replace

from vlmdebug.core.rules import KeyRules, ModelRules, MRope, TokenRows

SEEN = ("5.23", "5.24")
"""Releases of transformers in which the rules were tested against the tiny models."""
TYPES = frozenset({"mm_token_type_ids"})
ONE = KeyRules(runs_with=frozenset({"one"}))
"""A single row of pixels is broadcast without an error."""
SURPLUS = KeyRules(runs_with=frozenset({"surplus"}))
"""Surplus rows after the right ones are ignored."""
DESCRIBES = KeyRules("either")
"""Keys that describe pixels are ignored if there are no pixels."""

# --- keys of tokens ------------------------------------------------------------------------

MASK = TokenRows(same=True, fewer=None, one=None, more=True, beside_one=True, none=None)
"""Most models slice a mask of too many rows and never check which samples it is of:
`masking_utils.padding_mask_function` (transformers 5.23) indexes it by row, and
`masking_utils.sdpa_mask` may skip that where no token is hidden."""
INDEXED = replace(MASK, fewer=False, one=False, none=False)
"""The model always builds a mask, so it indexes the rows of the given one."""
PLACED = replace(MASK, fewer=False, one=False)
"""M-RoPE computes positions from the mask (`modeling_qwen2_vl.get_rope_index`)."""
MULTIPLIED = replace(MASK, more=False)
"""Layers that multiply the mask with hidden states (linear attention, convolutions) raise."""
PLACED_MULTIPLIED = replace(PLACED, more=False)
UNEQUAL = replace(MASK, more=False, beside_one=False)
INDEXED_UNEQUAL = replace(INDEXED, more=False, beside_one=False)

_TYPES = TokenRows(same=True, fewer=False, one=False, more=True, beside_one=True, none=False)
_LABELS = TokenRows(same=True, fewer=False, one=False, more=False, beside_one=False, none=False)
TOKENS = {
    "input_ids": TokenRows(same=True),
    "attention_mask": MASK,
    "token_type_ids": _TYPES,
    "mm_token_type_ids": _TYPES,
    "moe_mm_token_type_ids": TokenRows(same=True, none=True),
    "position_ids": replace(_LABELS, one=True),
    "labels": _LABELS,
}
"""What most models do with wrong rows of each token key."""

DECODER = TokenRows(same=True, fewer=False, one=False, more=False, beside_one=True, none=False)
"""Rows of `decoder_input_ids`; the states of the encoder are broadcast to several of them."""

USUAL = ModelRules(seen=SEEN, ignored=TYPES, tokens=TOKENS)
"""The model compares the totals of a call and needs every key that describes its pixels."""


def with_mask(rules: ModelRules, mask: TokenRows) -> ModelRules:
    """The rules of a model that treats wrong rows of `attention_mask` as `mask` says."""
    return replace(rules, tokens={**rules.tokens, "attention_mask": mask})


def common_mask(rules: Iterable[ModelRules]) -> TokenRows:
    """What all models with these rules do with a mask; None if they differ."""
    masks = [astuple(one.tokens["attention_mask"]) for one in rules]
    columns = zip(*masks, strict=True)
    return TokenRows(*(one[0] if len(set(one)) == 1 else None for one in columns))


# --- Qwen-VL's grids -----------------------------------------------------------------------

QWEN2_5 = ModelRules(
    seen=SEEN,
    checks_each_sample="always",
    only_used_for_position_ids=TYPES | {"second_per_grid_ts"},
    raises_without=frozenset({"image_grid_thw"}),
    sometimes_returned=frozenset({"image_merge_sizes"}),
    keys={"image_grid_thw": DESCRIBES, "image_merge_sizes": DESCRIBES},
    tokens={**TOKENS, "attention_mask": PLACED},
    mrope=MRope("seconds", timed_by="second_per_grid_ts"),
)
"""`modeling_qwen2_5_vl.get_rope_index` (transformers 5.23), and that of the other variants, assigns
the grids to runs of image tokens."""
QWEN2 = replace(QWEN2_5, raises_without=TYPES | {"image_grid_thw"}, mrope=MRope("whole"))
"""`modeling_qwen2_vl.compute_3d_position_ids` (transformers 5.23) raises without
`mm_token_type_ids`."""
_BROADCAST = {**QWEN2.keys, "pixel_values": ONE}
QWEN2_IMAGES = replace(QWEN2, mrope=MRope())
QWEN2_FRAMES = replace(QWEN2, mrope=MRope("frames"))
QWEN3 = replace(QWEN2_FRAMES, keys=_BROADCAST)
"""`modeling_qwen3_vl.get_rope_index` (transformers 5.24) takes each frame of a video for an
image."""
QWEN3_IMAGES = replace(QWEN3, mrope=MRope())
HY4 = replace(QWEN3, mrope=MRope(newline=True))
"""`modeling_hy_v4_vl.get_vision_position_ids` (transformers 5.24) adds a column to each row."""
QWEN3_5 = with_mask(QWEN3, PLACED_MULTIPLIED)
GLM = replace(QWEN3, one_placeholder=True)
"""`get_placeholder_mask` of GLM-4V and its variants looks for image tokens in place of videos.
`modeling_glm4v.get_rope_index` (transformers 5.24) takes each frame of a video for an image."""
GLM_OCR = replace(QWEN2_FRAMES, one_placeholder=True)
QWEN4 = with_mask(QWEN3, INDEXED_UNEQUAL)

GRID = replace(
    QWEN2_5,
    checks_each_sample="never",
    ignored=TYPES,
    only_used_for_position_ids=frozenset(),
    tokens=TOKENS,
    mrope=None,
)
"""Grids without M-RoPE: only the totals of a call are compared."""
GRID_INDEXED = with_mask(GRID, INDEXED)
GRID_INDEXED_UNEQUAL = with_mask(GRID, INDEXED_UNEQUAL)
GRID_MULTIPLIED = with_mask(GRID, MULTIPLIED)
GRID_MERGES = replace(GRID, raises_without=GRID.raises_without | {"image_merge_sizes"})
GRID_BROADCAST = replace(GRID, keys=_BROADCAST)
GRID_BROADCAST_INDEXED = with_mask(GRID_BROADCAST, INDEXED)

OMNI = with_mask(
    replace(
        GRID,
        checks_each_sample="sometimes",
        causal=False,
        audio_surplus=True,
        mrope=MRope("seconds", timed_by="video_second_per_grid", sounds="chunks"),
    ),
    replace(INDEXED, same=None, more=None, beside_one=None),
)
"""Positions are computed with the mask, or differently without it, and images are found in the text
by their ids (`modeling_qwen2_5_omni.get_rope_index`, transformers 5.23), which does not always
detect wrong sizes."""
OMNI_BROADCAST = replace(
    OMNI,
    keys=_BROADCAST,
    mrope=MRope("seconds", timed_by="video_second_per_grid", sounds="times"),
)
"""`modeling_qwen3_omni_moe.get_rope_index` (transformers 5.24) does not round down times."""
