"""Labels compared with `input_ids`: the same tokens at learned positions, in the same columns.

A decoder shifts them itself, so a label that is learned equals the token that it stands at, and one
of `shift_labels`, which a loss takes as they are, the token behind it. Labels of an encoder-decoder
are another text, and not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vlmdebug.checking.batch_findings import (
    LabelsDiffer,
    LabelsLength,
    LabelsOnMedia,
    LabelsOnPadding,
    LabelsOnPrompt,
)
from vlmdebug.checking.findings import Because, Cause, Difference
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import IGNORED, LABELS, PROMPT_TYPES
from vlmdebug.core.presence import has_two_texts
from vlmdebug.core.tensors import to_numpy

MOST_SHIFT = 8
SHIFTED = LABELS[1]
UNTOLD = ("unknown", "text")
"""Layouts that do not say whether the model is a decoder."""


def are_comparable(batch: Batch) -> bool:
    """Whether labels must be the tokens of `input_ids`: the model is known, and a decoder."""
    return batch.layout.family not in UNTOLD and not has_two_texts(batch.inputs, batch.rules)


def labels_differences(
    batch: Batch,
) -> list[Difference]:
    """What is wrong with the labels of a whole batch."""
    labels = batch.inputs.get("labels")
    if (labels is None and SHIFTED not in batch.inputs) or not are_comparable(batch):
        return []
    if labels is None:
        return [*_shifted_differences(batch)]
    ids = batch.inputs["input_ids"]  # (sample, seq)
    if len(getattr(labels, "shape", ())) != 2:
        return []  # a class per sample
    wide, given = int(ids.shape[1]), int(labels.shape[1])
    if wide != given:
        return [LabelsLength(samples=(*range(len(batch)),), columns=given, of_ids=wide)]
    found = list[Difference]()
    for sample in _suspects(batch, labels):
        own, text = batch.tokens("labels", sample), batch.tokens("input_ids", sample)
        learned = own != IGNORED
        wrong = int((learned & (own != text)).sum())
        media = _placeholders(batch, text, learned & (own == text))
        prompt = _in_prompt(batch, sample, learned)
        if wrong:
            by = _shift(text, own)
            cause = Cause(Because.LABELS_SHIFTED if by else Because.LABELS_OTHER)
            found.append(
                LabelsDiffer(
                    samples=(sample,), cause=cause, wrong=wrong, learned=int(learned.sum()), by=by
                )
            )
        elif media:
            found.append(LabelsOnMedia(samples=(sample,), placeholders=media))
        elif prompt:
            found.append(LabelsOnPrompt(samples=(sample,), tokens=prompt))
    return [*found, *_shifted_differences(batch)]


def _suspects(batch: Batch, labels: Any, ahead: int = 0) -> list[int]:
    """Samples that may have wrong labels: nearly always none, which is seen in all at once."""
    own, text = to_numpy(labels), to_numpy(batch.inputs["input_ids"])  # (row, seq)
    if own.shape != text.shape:
        return [*range(len(batch))]
    own, text = own[:, : own.shape[1] - ahead], text[:, ahead:]
    odd = own != text
    if not ahead:
        for token in batch.token_ids.values():
            odd |= text == token
        types = _types(batch)
        if types is not None:
            odd |= types == 0
    odd &= own != IGNORED
    if not np.count_nonzero(odd):
        return []
    return [
        sample
        for sample, (row, start, stop) in enumerate(batch.spans)
        if odd[row, start : stop - ahead].any()
    ]


def _shifted_differences(batch: Batch) -> Iterator[LabelsDiffer]:
    """Samples with `shift_labels` that are not the tokens behind them; the last one has none."""
    shifted = batch.inputs.get(SHIFTED)
    if tuple(getattr(shifted, "shape", ())) != tuple(batch.inputs["input_ids"].shape):
        return
    for sample in _suspects(batch, shifted, ahead=1):
        own, text = batch.tokens(SHIFTED, sample)[:-1], batch.tokens("input_ids", sample)[1:]
        learned = own != IGNORED
        wrong = int((learned & (own != text)).sum())
        if wrong:
            yield LabelsDiffer(
                key=SHIFTED,
                samples=(sample,),
                cause=Cause(Because.LABELS_OTHER),
                wrong=wrong,
                learned=int(learned.sum()),
                by=0,
            )


def padding_learned(batch: Batch) -> list[LabelsOnPadding]:
    """Samples with padding among their labels, though these are right otherwise."""
    labels, ids = batch.inputs.get("labels"), batch.inputs["input_ids"]
    if labels is None or not are_comparable(batch) or labels.shape != ids.shape:
        return []
    wrong = {sample for one in labels_differences(batch) for sample in one.samples}
    return [
        LabelsOnPadding(samples=(sample,), tokens=tokens)
        for sample in range(len(batch))
        if sample not in wrong
        and (tokens := _hidden(batch, sample, batch.tokens("labels", sample) != IGNORED))
    ]


def _placeholders(batch: Batch, ids: Any, learned: Any) -> int:
    """Placeholder tokens of any kind of media that are learned."""
    return sum(int(((ids == token) & learned).sum()) for token in batch.token_ids.values())


def _hidden(batch: Batch, sample: int, learned: Any) -> int:
    """Tokens that `attention_mask` hides, if all of them are learned: labels that are a copy.

    The loss reads labels alone (`loss_utils.ForCausalLMLoss`, 5.24), but never that of the first
    column. One token behind the text may be its end, where that is the padding token too.
    """
    mask = batch.inputs.get("attention_mask")
    if mask is None or tuple(mask.shape) != tuple(batch.inputs["input_ids"].shape):
        return 0
    if batch.hidden and batch.hidden[sample]:
        return 0  # a doubt of its own: other tokens are hidden
    hidden = to_numpy(batch.tokens("attention_mask", sample)) == 0
    if (hidden & ~to_numpy(learned)).any():
        return 0
    front, behind = (np.logical_and.accumulate(side) for side in (hidden, hidden[::-1]))
    padding = front | behind[::-1]
    return int(hidden.sum()) if (padding[1:] & padding[:-1]).any() else 0


def learns_prompt(batch: Batch, sample: int) -> bool:
    """Whether labels of a sample are tokens of its prompt."""
    labels = batch.inputs.get("labels")
    if labels is None or labels.shape != batch.inputs["input_ids"].shape:
        return False
    return _in_prompt(batch, sample, batch.tokens("labels", sample) != IGNORED) > 0


def _in_prompt(batch: Batch, sample: int, learned: Any) -> int:
    """Tokens that are learned in a prompt that sees all of itself.

    PaliGemma's processor makes labels of tokens of type 1 only
    (`processing_paligemma.PaliGemmaProcessor`, 5.23).
    """
    if _types(batch) is None:
        return 0
    return int(((batch.tokens(PROMPT_TYPES, sample) == 0) & learned).sum())


def _types(batch: Batch) -> np.ndarray | None:
    """Token types that tell the prompt from what is learned; None where there are none."""
    types = batch.inputs.get(PROMPT_TYPES)
    marked = batch.rules.token_types_mark == "completion"
    if types is None or not marked or types.shape != batch.inputs["input_ids"].shape:
        return None
    return to_numpy(types)


def _shift(ids: Any, labels: Any) -> int:
    """Columns by which labels stand to the right of their tokens, 0 where no shift fits."""
    for by in (side * step for step in range(1, MOST_SHIFT + 1) for side in (1, -1)):
        own, beside = (labels[by:], ids[:-by]) if by > 0 else (labels[:by], ids[-by:])
        learned = own != IGNORED
        if bool(learned.any()) and not bool((learned & (own != beside)).any()):
            return by
    return 0
