"""Labels with -100 in place of that of a first token.

No decoder learns the first token of a row, as no token is before it, and packers hide it: a row of
one sample is labelled like one of several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import IGNORED
from vlmdebug.core.presence import has_two_texts
from vlmdebug.core.tensors import numbers_of
from vlmdebug.tracking.joined import Texts
from vlmdebug.tracking.rows import RowFinder


def with_first_labels(
    batch: Batch,
    finder: RowFinder,
    given: Mapping[str, Any],
    labels: Any,
    samples: Sequence[int],
) -> np.ndarray | None:
    """The labels of a call, with those of first tokens as the batch has them.

    Args:
        batch: The batch that was cut.
        finder: Finds rows of it.
        given: The call.
        labels: Its labels, `(sample, seq)`.
        samples: The sample of each of its rows.

    Returns:
        None if no first label is -100 that is not so in the batch.
    """
    texts, ids = finder.texts or Texts.of(batch), numbers_of(given.get("input_ids"))
    values, own = numbers_of(labels), numbers_of(batch.inputs.get("labels"))
    if texts is None or ids is None or values is None or own is None:
        return None
    if own.shape != tuple(batch.inputs["input_ids"].shape) or has_two_texts(given, batch.rules):
        return None
    if ids.shape != values.shape or ids.ndim != 2 or len(samples) != len(ids):
        return None
    found = values.copy()
    firsts = texts.not_padding(ids, given).argmax(axis=1)  # (sample,)
    for row, (at, sample) in enumerate(zip(firsts, samples, strict=True)):
        due = own[sample, texts.columns(sample)[:1]]
        if found[row, at] == IGNORED and len(due):
            found[row, at] = due[0]
    return found if np.count_nonzero(found != values) else None
