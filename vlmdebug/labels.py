"""Labels beside `input_ids`: the same tokens where they are learned, in the same columns.

A decoder shifts them itself, so a label that is learned equals the token that it stands at.
Labels of an encoder-decoder are another text, and `shift_labels` another key: neither is looked at.
"""

from __future__ import annotations

from typing import Any

from vlmdebug.batch import Batch
from vlmdebug.core.keys import PROMPT_TYPES
from vlmdebug.mismatch import Mismatch
from vlmdebug.wording import number

IGNORED = -100
MOST_SHIFT = 8
TWO_TEXTS = ("decoder_input_ids", "decoder_attention_mask")
UNTOLD = ("unknown", "text")
"""Layouts that do not say whether the model is a decoder."""


def labels_mismatches(batch: Batch) -> list[Mismatch]:
    """What is wrong with the labels of a whole batch."""
    labels = batch.inputs.get("labels")
    other_text = any(key in batch.inputs for key in TWO_TEXTS)
    if labels is None or other_text or batch.layout.family in UNTOLD:
        return []
    ids = batch.inputs["input_ids"]  # (sample, seq)
    if len(getattr(labels, "shape", ())) != 2:
        return []  # a class per sample
    numbers = tuple(range(len(ids)))
    wide, given = int(ids.shape[1]), int(labels.shape[1])
    if wide != given:
        message = _other_length(given, wide)
        return [_found(message, numbers, silent=False, cause="labels of another length")]
    found = []
    for row, sample in enumerate(numbers):
        learned = labels[row] != IGNORED
        wrong = int((learned & (labels[row] != ids[row])).sum())
        media = _placeholders(batch, ids[row], learned & (labels[row] == ids[row]))
        prompt = _in_prompt(batch, sample, learned)
        if wrong:
            by = _shift(ids[row], labels[row])
            message = _other_tokens(sample, wrong, int(learned.sum()), by)
            cause = "labels shifted" if by else "labels of other tokens"
            found.append(_found(message, (sample,), silent=True, cause=cause))
        elif media:
            message = _learns_media(sample, media)
            found.append(_found(message, (sample,), silent=True, cause="placeholders learned"))
        elif prompt:
            message = _learns_prompt(sample, prompt)
            found.append(_found(message, (sample,), silent=True, cause="prompt learned"))
    return found


def _placeholders(batch: Batch, ids: Any, learned: Any) -> int:
    """Placeholder tokens of any kind of media that are learned."""
    return sum(int(((ids == token) & learned).sum()) for token in batch.token_ids.values())


def _in_prompt(batch: Batch, sample: int, learned: Any) -> int:
    """Tokens that are learned in a prompt that sees all of itself.

    PaliGemma's processor makes labels of tokens of type 1 only (`processing_paligemma`, 5.23).
    """
    types = batch.inputs.get(PROMPT_TYPES)
    marked = batch.rules.token_types_mark == "completion"
    if types is None or not marked or types.shape[1:] != learned.shape:
        return 0
    return int(((types[sample] == 0) & learned).sum())


def _shift(ids: Any, labels: Any) -> int:
    """Columns by which labels stand to the right of their tokens, 0 where no shift fits."""
    for by in (side * step for step in range(1, MOST_SHIFT + 1) for side in (1, -1)):
        own, beside = (labels[by:], ids[:-by]) if by > 0 else (labels[:by], ids[-by:])
        learned = own != IGNORED
        if bool(learned.any()) and not bool((learned & (own != beside)).any()):
            return by
    return 0


def _found(message: str, samples: tuple[int, ...], *, silent: bool, cause: str) -> Mismatch:
    return Mismatch("VLM013", message, key="labels", samples=samples, silent=silent, cause=cause)


def _other_length(given: int, wide: int) -> str:
    return (
        f"labels has {number(given, 'column')}, but input_ids has {wide}.\n"
        "The loss will raise: it takes one label per token.\n"
        "Make labels from the final input_ids, after placeholders are expanded and padding is "
        "added, and cut both alike."
    )


def _other_tokens(sample: int, wrong: int, learned: int, by: int) -> str:
    where = (
        f"they stand {number(abs(by), 'column')} to the {'right' if by > 0 else 'left'} of them"
        if by
        else "they are of another text"
    )
    remedy = (
        "Do not shift labels: the model does it. Pad labels on the side where input_ids is padded."
        if by
        else "Make labels from the final input_ids, after placeholders are expanded."
    )
    return (
        f"sample {sample} has {number(wrong, 'label')} of {learned} that differ from the tokens in "
        f"input_ids: {where}.\n"
        f"The model will not raise, and learns other tokens.\n{remedy}"
    )


def _learns_media(sample: int, tokens: int) -> str:
    return (
        f"sample {sample} has {number(tokens, 'placeholder token')} among its labels.\n"
        "The model will not raise, and learns to write placeholders.\n"
        f"Set labels to {IGNORED} wherever input_ids holds a placeholder token."
    )


def _learns_prompt(sample: int, tokens: int) -> str:
    return (
        f"sample {sample} has {number(tokens, 'token')} of the prompt among its labels: "
        f"{PROMPT_TYPES} is 0 there.\n"
        "The model will not raise, and learns tokens that it sees, since a prompt sees all of "
        "itself.\n"
        f"Set {PROMPT_TYPES} to 1 behind the prompt, and labels to {IGNORED} in it."
    )
