"""Padding in front of samples that no `attention_mask` hides, where positions keep it apart.

A model of transformers takes a token for the first of a sample if its position does not go on by
one (`masking_utils.find_packed_sequence_indices`, 5.24): as where padding has positions 0, 0, 0 or
1, 1, 1 and the sample begins at 0. Flash-attention reads that in a single row alone
(`modeling_flash_attention_utils._is_packed_sequence`, 5.24). A state that runs along the row is not
kept apart so, nor, in some models, are images (`HIDES_PADDING`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import CACHES
from vlmdebug.core.part import Span, Spans
from vlmdebug.core.tensors import to_numpy
from vlmdebug.tracking.joined import IDS, PADDING_MASK, Texts
from vlmdebug.tracking.packed import PLANES, PackedCall, begins
from vlmdebug.tracking.rows import RowFinder


class Unmasked:
    """A call without `attention_mask` in which positions keep each sample apart from padding.

    Attributes:
        for_flash: Whether flash-attention keeps them apart, too.
    """

    def __init__(self, *, for_flash: bool) -> None:
        self.for_flash: bool = for_flash

    @classmethod
    def of(
        cls, batch: Batch, finder: RowFinder, given: Mapping[str, Any], samples: Sequence[int]
    ) -> Unmasked | None:
        """None if the call has a mask, no padding is in front, or nothing keeps it apart.

        Args:
            batch: The batch that was cut.
            finder: Finds rows of it.
            given: The call.
            samples: The sample of each of its rows.
        """
        rules, mask = batch.rules, batch.inputs.get(PADDING_MASK)
        if mask is None or given.get(PADDING_MASK) is not None or given.get("position_ids") is None:
            return None
        if rules.hides_padding is None or not rules.predict:
            return None
        if given.get("use_cache") is True or any(given.get(key) is not None for key in CACHES):
            return None
        texts = finder.texts = finder.texts or Texts.of(batch)
        spans = None if texts is None else _spans(texts, to_numpy(given[IDS]), samples)
        if spans is None or not any(start for _, start, _ in spans):
            return None
        call = PackedCall(batch, given, spans, samples, None)
        plane = _text_plane(call)
        if plane is None or not begins(call, plane):
            return None
        if rules.hides_padding == "texts" and _have_media(batch, to_numpy(given[IDS]), spans):
            return None
        if not rules.causal and not _end(plane, spans):
            return None
        starts = [int(plane[row, start]) for row, start, _ in spans]
        for_flash = len(plane) == 1 and starts == [int(plane.min())]
        if rules.flash_attention and not for_flash:
            return None
        return cls(for_flash=for_flash or rules.flash_attention is False)


def _have_media(batch: Batch, ids: np.ndarray, spans: Spans) -> bool:
    """Whether a row with padding in front has placeholder tokens."""
    rows = [row for row, start, _ in spans if start]
    return bool(np.isin(ids[rows], [*batch.token_ids.values()]).any())


def _end(plane: np.ndarray, spans: Spans) -> bool:
    """Whether positions do not go on behind any sample, where tokens attend to later ones."""
    wide = plane.shape[1]
    return all(
        stop == wide or int(plane[row, stop]) != int(plane[row, stop - 1]) + 1
        for row, _, stop in spans
    )


def _text_plane(call: PackedCall) -> np.ndarray | None:
    """The positions that say where samples begin, `(row, seq)`; None if none do."""
    positions = call.numbers.get("position_ids")
    if positions is None or positions.shape[-2:] != call.shape or positions.ndim > 3:
        return None
    planes = positions[None] if positions.ndim == 2 else positions
    repeated = len(planes) == 1 and call.batch.rules.repeats_positions
    return planes[0] if repeated or len(planes) == (PLANES if call.is_mrope else 1) else None


def _spans(texts: Texts, table: np.ndarray, samples: Sequence[int]) -> Spans | None:
    """Where the tokens of each sample are in its row; None if they are not all there."""
    if table.ndim != 2 or len(table) != len(samples):
        return None
    found = list[Span]()
    for row, (sample, tokens) in enumerate(zip(samples, table, strict=True)):
        text = texts.text(sample)
        starts = np.flatnonzero(tokens[: len(tokens) - len(text) + 1] == text[:1])
        whole = (at for at in starts.tolist() if np.array_equal(tokens[at : at + len(text)], text))
        start = next(whole, None) if len(text) else None
        if start is None:
            return None
        found.append(Span(row, start, start + len(text)))
    return Spans(found)
