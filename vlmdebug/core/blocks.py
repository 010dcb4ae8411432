"""What an `attention_mask` of four dimensions, `(row, 1, seq, seq)`, shows to each token.

Models take such a mask as it is (`masking_utils._preprocess_mask_arguments`, transformers 5.24):
truth values that are true where a token is seen, or numbers that are added to the scores, 0 where
it is seen and a very low one where it is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vlmdebug.core.tensors import numbers_of

HIDDEN = -1e4
"""Scores that hide a token: this or less."""


def is_of_blocks(mask: Any) -> bool:
    """Whether a mask says of each pair of tokens if the first sees the second."""
    return len(getattr(mask, "shape", ())) == 4


def seen_of(mask: Any, rows: int, wide: int) -> np.ndarray | None:
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
