"""Whether an `attention_mask` of four dimensions keeps the samples of packed rows apart.

Models take such a mask as it is (`masking_utils._preprocess_mask_arguments`, transformers 5.24):
truth values that are true where a token is seen, or numbers that are added to the scores, 0 where
it is seen and a very low one where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmdebug.core.observed import Seam, Seams
from vlmdebug.core.part import Spans
from vlmdebug.tracking.made import numbers_of

HIDDEN = -1e4
"""Scores that hide a token: this or less."""


def is_of_blocks(mask: Any) -> bool:
    """Whether a mask says of each pair of tokens if the first sees the second."""
    return len(getattr(mask, "shape", ())) == 4


def seam_of_blocks(
    mask: Any, shape: tuple[int, ...], spans: Spans, samples: Sequence[int], *, cached: bool
) -> Seam | None:
    """The first token that sees others than itself and those of its sample before it.

    Args:
        mask: `(row, 1, seq, seq)`, or the same for all rows.
        shape: Of `input_ids`.
        spans: The tokens of each sample.
        samples: Their numbers.
        cached: Whether tokens may see others that a cache holds.
    """
    seen, pairs = _seen(mask, *shape), (shape[1], shape[1])
    if seen is None and not cached and tuple(mask.shape[-2:]) != pairs:
        return Seam(Seams.ENDS, "attention_mask", given=tuple(mask.shape), due=shape)
    if seen is None:
        return Seam(Seams.MASK, "attention_mask")
    for sample, (row, start, stop) in zip(samples, spans, strict=True):
        due = np.zeros((stop - start, shape[1]), dtype=bool)
        due[:, start:stop] = np.tri(stop - start, dtype=bool)
        off = np.flatnonzero((seen[row, start:stop] != due).any(axis=1))
        if len(off):
            at = start + int(off[0])
            given = (int(seen[row, at].sum()),)
            return Seam(Seams.SEEN, "attention_mask", sample, row, at, given, (at - start + 1,))
    return None


def _seen(mask: Any, rows: int, wide: int) -> np.ndarray | None:
    """Which tokens each token sees, `(row, seq, seq)`; None where the mask does not say."""
    values = numbers_of(mask)
    if values is None or values.shape not in {(rows, 1, wide, wide), (1, 1, wide, wide)}:
        return None
    if values.dtype.kind == "f":
        seen = values == 0
        if not (seen | (values <= HIDDEN)).all():
            return None
    elif values.dtype.kind == "b":
        seen = values
    else:
        return None
    return np.broadcast_to(seen[:, 0], (rows, wide, wide))
