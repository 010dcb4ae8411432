"""`rope_deltas`: what M-RoPE adds to the number of a token that is generated, to get its position.

Of each sample, the highest position in time, height and width, and 1, less the number of its tokens
(`modeling_qwen2_5_vl.get_rope_index`, transformers 5.24, and that of its variants). Releases before
5.0, and the Omni models, count padding among the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vlmdebug.core.observed import Made, MadeBy

DELTAS = "rope_deltas"
ROUNDED = 0.01
"""What rounding of single floats may do to positions that are fractions."""


def judged_deltas(
    values: np.ndarray, places: np.ndarray, shown: np.ndarray, widths: Iterable[int]
) -> Made:
    """What is known of deltas, one for each sample.

    Args:
        values: The deltas, `(sample,)` or `(sample, 1)`.
        places: M-RoPE's positions of the tokens, `(3, sample, seq)`.
        shown: Tokens that are no padding, `(sample, seq)`.
        widths: What else may be counted as tokens: the columns of the call, or of its batch.
    """
    samples = len(shown)
    if values.shape not in {(samples,), (samples, 1)}:
        return Made.unchecked(MadeBy.DELTAS_SHAPE, values.shape)
    if not shown.any(axis=1).all():
        return Made.unchecked(MadeBy.NO_TOKENS)
    given = values.reshape(samples).astype(np.float64)
    ends = np.where(shown, places.max(axis=0), -np.inf).max(axis=1) + 1  # (sample,)
    due = ends - shown.sum(axis=1)
    for one in (due, *(ends - wide for wide in widths)):  # all of a call by one rule
        if (abs(given - one) <= ROUNDED).all():
            return Made(True)
    sample = int(np.flatnonzero(~(abs(given - due) <= ROUNDED))[0])
    numbers = [int(one) if float(one).is_integer() else one for one in (given[sample], due[sample])]
    return Made.wrong(MadeBy.DELTAS, (sample,), *((one,) for one in numbers))
