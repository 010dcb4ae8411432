"""Placeholder tokens of one chunk and the features that its rows become.

The rows of every key may be right while columns with placeholder tokens are missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from vlmdebug.checking.findings import TokenFeatureMismatch, TokensLost
from vlmdebug.checking.observed import ObservedChunk
from vlmdebug.core.modality import Modality


def token_differences(
    chunk: ObservedChunk, features: int | None, doubtful: Collection[str]
) -> Iterator[TokenFeatureMismatch | TokensLost]:
    """Where tokens and features differ, or tokens of the batch are missing.

    Args:
        chunk: The chunk.
        features: Features that its image rows become; None where that is not known.
        doubtful: Keys of the chunk that could not be compared.
    """
    yield from _of_images(chunk, features, doubtful)
    for name, modality in chunk.batch.modalities.items() if not doubtful else ():
        if name != "image":
            yield from _of_clips(chunk, modality)


def _of_images(
    chunk: ObservedChunk, features: int | None, doubtful: Collection[str]
) -> Iterator[TokenFeatureMismatch]:
    batch, placeholders = chunk.batch, chunk.placeholders
    if features is None or placeholders is None or features == placeholders:
        return
    if not set(batch.image.keys or ("input_ids",)).isdisjoint(doubtful):
        return
    if placeholders == batch.placeholders_of(chunk.samples) and not chunk.run.partial:
        return  # tokens and features of the batch itself differ there, and VLM010 says so
    yield TokenFeatureMismatch(
        outcome=chunk.forecast.other_totals(batch.image),
        placeholders=placeholders,
        features=features,
        matched="input_ids" not in doubtful,
        **chunk.place,
    )


def _of_clips(chunk: ObservedChunk, clips: Modality) -> Iterator[TokenFeatureMismatch | TokensLost]:
    """Clips with fewer or more placeholder tokens in the chunk than they should have."""
    step = chunk.batch.balance_of(chunk.samples, clips.name)
    given = chunk.used.placeholders.get(clips.name)
    if given is None:
        return
    if step is None:
        yield from _lost(chunk, clips, given)
        return
    if given == step[1] or (given == step[0] and not chunk.run.partial):
        return  # where the batch's own tokens and features differ, VLM010 says so
    yield TokenFeatureMismatch(
        outcome=chunk.forecast.other_totals(clips),
        placeholders=given,
        features=step[1],
        modality=clips.name,
        **chunk.place,
    )


def _lost(chunk: ObservedChunk, clips: Modality, given: int) -> Iterator[TokensLost]:
    """Clips with unknown features, where not all of the batch's tokens were passed."""
    owned = chunk.batch.placeholders_of(chunk.samples, clips.name)
    if owned is not None and given < owned and any(key in chunk.keys for key in clips.keys):
        yield TokensLost(given=given, owned=owned, modality=clips.name, **chunk.place)
