"""The tokens of one chunk: placeholders and the features that its rows become, and its columns.

The rows of every key may be right while columns with placeholder tokens are missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from vlmdebug.checking.doubts import LeftOut, PaddingShown
from vlmdebug.checking.findings import TokenFeatureMismatch, TokensLost
from vlmdebug.checking.observed import ObservedChunk
from vlmdebug.core.modality import Modality


def token_differences(
    chunk: ObservedChunk, doubtful: Collection[str]
) -> Iterator[TokenFeatureMismatch | TokensLost]:
    """Where tokens and features of a modality differ, or tokens of the batch are missing.

    Args:
        chunk: The chunk.
        doubtful: Keys of the chunk that could not be compared.
    """
    for modality in chunk.batch.modalities.values():
        given = chunk.used.placeholders.get(modality.name)
        if given is None:
            continue
        if doubtful and not set(modality.keys or ("input_ids",)).isdisjoint(doubtful):
            continue
        features = chunk.forecast.call.features_of(modality)
        owned = chunk.batch.placeholders_of(chunk.part, modality.name)
        if features is None:
            yield from _lost(chunk, modality, given, owned, doubtful)
        elif given != features and (given != owned or chunk.run.partial):
            # Where the batch's own tokens and features differ, VLM010 says so.
            yield TokenFeatureMismatch(
                outcome=chunk.forecast.other_totals(modality),
                placeholders=given,
                features=features,
                modality=modality.name,
                matched="input_ids" not in doubtful,
                **chunk.place,
            )


def _lost(
    chunk: ObservedChunk,
    modality: Modality,
    given: int,
    owned: int | None,
    doubtful: Collection[str],
) -> Iterator[TokensLost]:
    """Media with unknown features, where not all of the batch's tokens were passed."""
    if owned is None or given >= owned or "input_ids" in doubtful:
        return
    if any(key in chunk.keys for key in modality.keys):
        yield TokensLost(given=given, owned=owned, modality=modality.name, **chunk.place)


def columns_doubt(chunk: ObservedChunk) -> LeftOut | PaddingShown | None:
    """Columns with tokens that others attend to, if the chunk has not all of the batch's own."""
    used, batch, ids = chunk.used, chunk.batch, chunk.keys.get("input_ids")
    if used.left_out:
        return LeftOut(chunk.index, tuple(used.left_out.items()))
    shown = batch.rules.shows_padding(batch.inputs) and batch.rules.shows_padding(chunk.keys)
    if ids is None or used.spans is not None or not shown:
        return None
    cut = ids.columns != batch.inputs["input_ids"].shape[-1]
    return PaddingShown(chunk.index, batch.rules.shows_padding_without) if cut else None
