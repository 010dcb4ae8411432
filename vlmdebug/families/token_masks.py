"""What masks, token types and columns say of the tokens of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add

import numpy as np

from vlmdebug.core.blocks import seen_of
from vlmdebug.core.keys import IGNORED, PROMPT_TYPES
from vlmdebug.core.rules import ModelRules
from vlmdebug.core.tensors import by_sample, widened
from vlmdebug.families.facts import BatchFacts
from vlmdebug.families.form import Form

MARKS_EDGES = "moe_mm_token_type_ids"
"""Types that mark the begin and end tokens of images too."""
EDGES = 2
"""Tokens on each side of a run of placeholders that may be marked with it.

Aya Vision marks two in front (`processing_aya_vision.image_token_ids`, transformers 5.24), and no
other processor marks more. M-RoPE lays out each run that is marked by a grid, so that its
processors mark no other token (`modeling_qwen2_5_vl.get_rope_index`)."""


def marked(facts: BatchFacts, rules: ModelRules) -> dict[str, tuple[int, ...]]:
    """Tokens of each sample that each key of token types marks as placeholders.

    Some processors mark begin and end tokens too; these do not count. ERNIE 4.5 VL marks both in
    `moe_mm_token_type_ids` (`processing_ernie4_5_vl_moe.create_moe_mm_token_type_ids`, 5.23), so
    that a run with one of its neighbours marked and the other not has moved. Other text that is
    marked counts where all placeholders are marked, so that one count does not hide the other.
    """
    mask, ids = facts.placeholder_mask, facts.inputs["input_ids"]
    if mask is None or facts.metadata.image_token_id is None:
        return {}
    keys = ["mm_token_type_ids", MARKS_EDGES]
    keys += [PROMPT_TYPES] if rules.token_types_mark is not None else []
    prompt = rules.token_types_mark == "completion"
    found = {}
    for key in keys:
        types = facts.inputs.get(key)
        if types is not None and tuple(types.shape) == tuple(ids.shape):
            ones = facts.by_sample(key) == int(not (prompt and key == PROMPT_TYPES))
            alike = None if np.count_nonzero(ones != mask) else facts.placeholders  # nearly always
            marked = by_sample(ones & mask) if alike is None else alike  # ones: (sample, seq)
            if key == MARKS_EDGES:
                lopsided = _lopsided(ones, facts.places or ())
                marked = tuple(n - few for n, few in zip(marked, lopsided, strict=True))
            of_images = not (prompt and key == PROMPT_TYPES)
            if alike is None and of_images and marked == facts.placeholders:
                edges = 0 if rules.mrope is not None and key != MARKS_EDGES else EDGES
                marked = tuple(map(add, marked, _marked_text(ones, mask, facts, edges)))
            found[key] = marked
    return found


def _marked_text(
    ones: np.ndarray, mask: np.ndarray, facts: BatchFacts, edges: int
) -> tuple[int, ...]:
    """Marked tokens of each sample that stand more than `edges` from any placeholder.

    Not of tokens that the `attention_mask` hides: no model looks at their types.
    """
    near = widened(mask | np.isin(facts.ids, [*facts.metadata.token_ids.values()]), edges)
    shown = facts.mask is None or facts.mask.shape != mask.shape or facts.mask != 0
    return by_sample(ones & ~near & shown)


def _lopsided(ones: np.ndarray, places: Sequence[Sequence[tuple[int, int]]]) -> list[int]:
    """Runs of each sample that have a mark on one side and none on the other."""
    wide = ones.shape[1]
    return [
        sum(a > 0 and b < wide and bool(row[a - 1] != row[b]) for a, b in own)
        for row, own in zip(ones, places, strict=True)
    ]


def masked_otherwise(facts: BatchFacts, *, causal: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of each sample that `attention_mask` hides but should not, and the opposite.

    Returns:
        Tokens that it hides although they are not the padding token, and padding tokens that the
        text attends to, since no mask hides them; each is empty where it is not known.
    """
    mask, pad = facts.mask, facts.metadata.pad_token_id
    if pad is None:
        return (), ()
    padding = facts.ids == pad  # (sample, seq)
    if mask is not None and mask.shape != padding.shape:
        return (), _seen_in_blocks(facts, padding) if facts.packed is None else ()
    shown = padding if mask is None else mask != 0
    if mask is not None and not np.count_nonzero(shown == padding):  # as nearly always
        none = (0,) * len(mask)
        return none, none
    front = padding if facts.placeholder_mask is None else padding | facts.placeholder_mask
    if mask is None:
        return (), _attended(padding, padding, front, causal=causal, masked=False)
    unmasked = _attended(shown & padding, padding, front, causal=causal, masked=True)
    return by_sample(~(shown | padding)), unmasked


def _seen_in_blocks(facts: BatchFacts, padding: np.ndarray) -> tuple[int, ...]:
    """Padding in front of each text that a mask of four dimensions shows it."""
    seen = seen_of(facts.inputs["attention_mask"], *padding.shape)
    if seen is None or not np.count_nonzero(padding[:, :1]):
        return ()
    shown = padding & (seen & ~padding[:, :, None]).any(axis=1)
    return _attended(shown, padding, padding, causal=True, masked=True)


def padding_behind(facts: BatchFacts) -> tuple[int, ...]:
    """Padding behind the text of each sample of a batch without mask; empty if not known."""
    pad = facts.metadata.pad_token_id
    if pad is None or facts.mask is not None:
        return ()
    padding = facts.ids == pad  # (sample, seq)
    if not np.count_nonzero(padding[:, -1:]):  # as nearly always
        return (0,) * len(padding)
    behind = np.logical_and.accumulate(padding[:, ::-1], axis=1)
    return by_sample(behind & ~padding.all(axis=1, keepdims=True))


def behind_prompt(facts: BatchFacts, rules: ModelRules) -> tuple[int, ...]:
    """Tokens of each sample behind the end of its prompt that have the type of the prompt.

    Empty where no type says that, or where it is not known how prompts end.
    """
    ends = facts.metadata.prompt_ends
    if not _types_prompts(facts, rules) or not ends:
        return ()
    prompt = facts.by_sample(PROMPT_TYPES, 1) == 0  # (sample, seq)
    if facts.mask is not None and facts.mask.shape == prompt.shape:
        prompt = prompt & (facts.mask != 0)
    ends_here = prompt & np.isin(facts.ids, [*ends])
    before = np.logical_or.accumulate(ends_here, axis=1)
    after = np.logical_or.accumulate(ends_here[:, ::-1], axis=1)[:, ::-1]
    return by_sample(prompt & before & ~after)


def before_prompt_ends(facts: BatchFacts, rules: ModelRules) -> tuple[int, ...]:
    """Tokens of each sample with the type of a completion in front of the end of its prompt.

    A prompt, all of type 0, comes first (`processing_paligemma.PaliGemmaProcessor`, 5.24), so that
    it ends no earlier than the last token of type 0. It may end later where that is no line break,
    which ends each prompt: at the first line break, or the first token that is learned. What is
    learned is no prompt. Empty where no type says that.
    """
    if not _types_prompts(facts, rules):
        return ()
    types, shown = facts.by_sample(PROMPT_TYPES), facts.ids != facts.metadata.pad_token_id
    if facts.mask is not None and facts.mask.shape == types.shape:
        shown = facts.mask != 0
    learned = np.zeros(types.shape, dtype=bool)
    labels = facts.inputs.get("labels")
    if tuple(getattr(labels, "shape", ())) == tuple(facts.inputs["input_ids"].shape):
        learned = facts.by_sample("labels", IGNORED) != IGNORED
    typed = (types != 0) & ~learned  # (sample, seq)
    if facts.placeholder_mask is not None:
        typed &= ~facts.placeholder_mask
    breaks = np.isin(facts.ids, [*facts.metadata.prompt_ends])
    rows = zip(types, typed, learned, breaks, shown, strict=True)
    return tuple([_typed_ahead(*(one[real] for one in own)) for *own, real in rows])


def _typed_ahead(
    types: np.ndarray, typed: np.ndarray, learned: np.ndarray, breaks: np.ndarray
) -> int:
    """The same of one sample, of its tokens that are shown."""
    prompt = np.flatnonzero(types == 0)
    if not len(prompt):
        return 0
    last = int(prompt[-1])
    ahead = int(typed[:last].sum())
    if ahead or breaks[last]:
        return ahead
    ends = np.flatnonzero(learned) if learned.any() else np.flatnonzero(breaks[last:]) + last + 1
    return int(typed[last : int(ends[0])].sum()) if len(ends) else 0


def _types_prompts(facts: BatchFacts, rules: ModelRules) -> bool:
    """Whether types of all tokens tell prompts from completions."""
    types = facts.inputs.get(PROMPT_TYPES)
    if rules.token_types_mark != "completion" or types is None:
        return False
    return tuple(types.shape) == tuple(facts.inputs["input_ids"].shape)


def _attended(
    shown: np.ndarray, padding: np.ndarray, front: np.ndarray, *, causal: bool, masked: bool
) -> tuple[int, ...]:
    """Padding tokens of each sample that its text attends to, of those that no mask hides.

    A causal model never looks at those behind the text. Where a mask shows padding within the text,
    it may be text: some tokenizers pad with the token that ends one. `front`: what may stand before
    the text, padding and the placeholder tokens of images, which BLIP-2 writes before it. A mask
    that shows one token next to the text may be right: for some tokenizers it is the first or the
    last token of a text too, where no other padding stands between.
    """
    if not np.count_nonzero(shown):
        return (0,) * len(shown)
    if causal or masked:
        edges = np.logical_and.accumulate(front, axis=1)
        if not causal:
            edges = edges | np.logical_and.accumulate(padding[:, ::-1], axis=1)[:, ::-1]
        shown = shown & edges
    shown = shown & ~padding.all(axis=1, keepdims=True)
    if masked:
        text = np.pad(~padding, ((0, 0), (1, 1)))
        apart = ~(text[:, 2:] | text[:, :-2])
        shown = shown & (apart | (shown.sum(axis=1, keepdims=True) > 1))
    return by_sample(shown)


def columns(facts: BatchFacts, form: Form) -> dict[str, int]:
    """Columns of tokens of the keys that a model aligns with `input_ids` and uses.

    Not of labels, which an encoder-decoder has for other tokens, nor of masks of more dimensions.
    """
    inputs = facts.inputs
    return {
        key: int(inputs[key].shape[dim])
        for key, dim, dims in form.columns
        if dims is None or getattr(inputs[key], "ndim", 0) == dims
    }


def unpadded(facts: BatchFacts) -> tuple[bool, ...] | None:
    """Samples with a mask that hides only tokens at the end, unseen by causal attention."""
    if facts.packed is not None and not facts.has("attention_mask"):
        return (True,) * facts.samples
    mask = facts.mask
    if mask is None or mask.ndim != 2:
        return None
    return tuple(np.logical_and.reduce(mask[:, 1:] <= mask[:, :-1], axis=1).tolist())
