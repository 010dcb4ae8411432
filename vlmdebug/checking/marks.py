"""Token types compared with the tokens of media that they mark."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from vlmdebug.checking.batch_findings import MarkedOtherwise
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import MARKS_CLIPS
from vlmdebug.core.tensors import by_sample, to_numpy
from vlmdebug.outcomes.reasons import Outcome, Runs, Unknown

CLIPS = {"video": 2, "audio": 3}
"""Types of the tokens of clips (`processing_utils.create_mm_token_type_ids`, transformers 5.24)."""


def marked_otherwise(batch: Batch, seen: Collection[int]) -> list[MarkedOtherwise]:
    """Samples with placeholder tokens that two sources count differently.

    `seen`: samples that are known to be wrong.
    """
    sources = [("image", key, marks) for key, marks in batch.marked.items()]
    if MARKS_CLIPS in batch.inputs:
        sources += [(noun, MARKS_CLIPS, marks) for noun, marks in _clips(batch)]
    if not sources:
        return []
    unread = {k for _, k, _ in sources if batch.rules.leaves_unread(k, batch.inputs)}
    return [
        MarkedOtherwise(
            key=key,
            samples=(s,),
            placeholders=counted,
            marked=marked,
            noun=noun,
            outcome=Outcome(Runs.UNREAD if key in unread else Unknown.BY_MARKS),
        )
        for noun, key, marks in sources
        if (own := batch.modalities[noun].placeholders) is not None and own != marks
        for s, (counted, marked) in enumerate(zip(own, marks, strict=True))
        if counted != marked and s not in seen
    ]


def _clips(batch: Batch) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Placeholder tokens of clips of each sample that are marked as such, by modality.

    Only of modalities with a token of their own. Without M-RoPE, models look only at whether a
    token is of any media.
    """
    if len(batch.modalities) == 1:
        return  # images alone
    types, ids = batch.inputs.get(MARKS_CLIPS), batch.inputs["input_ids"]
    if types is None or batch.packed is not None or tuple(types.shape) != tuple(ids.shape):
        return
    for noun, number in CLIPS.items():
        one = batch.modalities.get(noun)
        if one is None or one.token_id in (None, batch.image.token_id):
            continue
        places, marks = to_numpy(ids) == one.token_id, to_numpy(types)  # (sample, seq)
        right = places & (marks != 0 if batch.rules.mrope is None else marks == number)
        if np.count_nonzero(places) != np.count_nonzero(right):  # nearly never
            yield noun, by_sample(right)
