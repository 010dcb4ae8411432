"""What was compared with what, as a report keeps it and its views say it in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

from vlmdebug.checking.labels import are_comparable
from vlmdebug.checking.packed import judged_at_seams
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import (
    DERIVED,
    KEYS,
    MEDIA_OF,
    PACKED,
    PROMPT_TYPES,
    SIDES,
    TRAINERS_OWN,
    TWO_TEXTS,
)
from vlmdebug.core.layout import plural
from vlmdebug.core.modality import Modality
from vlmdebug.core.observed import SlicerRun
from vlmdebug.core.record import ChunkReport, Compared, KeyState, keys_with_only
from vlmdebug.core.wording import number

SIZES = "image_sizes"
PLACES = "places of the tokens of input_ids"
FOLLOWS = DERIVED | {*PACKED}
"""Keys that follow from other keys, and are judged where the batch has none of them."""


def compared(
    batch: Batch, run: SlicerRun | None, chunks: Sequence[ChunkReport]
) -> tuple[Compared, ...]:
    """Rows against the batch's own, and placeholder tokens of each modality against features."""
    found = []
    if run is not None:
        judged = any(chunk.identified for chunk in run.chunks)
        none = (KeyState.ABSENT, KeyState.CANNOT_TELL) if judged else ()
        keys = number(len(batch.layout.keys() - keys_with_only(chunks, *none)), "key")
        rows = f"rows of {keys} in {number(len(run.chunks), 'chunk')}"
        found.append(Compared(rows, "those that the batch's counts give them" if judged else None))
        if run.shards is not None:
            tokens = f"tokens of {number(run.shards, 'rank')}"
            placed = judged or any(one.has_misplaced for one in run.chunks)
            found.append(Compared(tokens, "those of the batch" if placed else None))
        found += _followed(batch, run)
    if run is not None and run.partial:
        return tuple(found)
    if batch.image.keys and batch.rules.no_placeholders:
        what = f"images of {number(len(batch), 'sample')}"
        counted = "image" in batch.counts
        found.append(Compared(what, "rows of input_ids" if counted else None))
    for name, modality in batch.modalities.items():
        in_text = not (name == "image" and batch.rules.no_placeholders)
        if in_text and (modality.keys or modality.placeholders is not None):
            what = f"{name} placeholders of {number(len(batch), 'sample')}"
            found.append(Compared(what, _against(batch, modality)))
    sides = [*SIDES, *([SIZES] if is_padded_to_sizes(batch) else [])]
    found += [order_of_sides(key) for key in sides if key in batch.layout]
    own = [key for key in batch.layout if key in TRAINERS_OWN or key not in KEYS]
    found += [Compared(key, beyond=True) for key in own if run is None]
    if "labels" in batch.layout:
        found.append(Compared("labels", "input_ids" if are_comparable(batch) else None))
    if _may_hide_completions(batch) and run is None:
        found.append(Compared(f"completions in {PROMPT_TYPES}", None))
    found += [Compared(key, None) for key in sorted(TWO_TEXTS) if key in batch.layout and not run]
    return tuple(found)


def _followed(batch: Batch, run: SlicerRun) -> Iterator[Compared]:
    """Keys that the code made, and those that keep the samples of packed rows apart."""
    chunks: dict[tuple[str | None, str], int] = Counter()
    for call in run.chunks:
        made = {key: one.right is not None for key, one in call.made.items() if key in FOLLOWS}
        for key, known in ({**made, **judged_at_seams(call)} if call.identified else {}).items():
            chunks[_source(batch, key) if known else None, key] += 1
    groups: dict[tuple[str | None, int], list[str]] = {}
    for (against, key), count in chunks.items():
        groups.setdefault((against, count), []).append(key)
    for (against, count), keys in groups.items():
        names = ", ".join(keys)
        yield Compared(f"{names} in {number(count, 'chunk')}", against)


def _source(batch: Batch, key: str) -> str:
    """What a key that follows from others is compared with."""
    if key in batch.inputs:
        return "those of the batch"
    if key in PACKED:
        return "the samples of each row"
    return PLACES if "position_ids" in KEYS[key].of or key == "position_ids" else "input_ids"


def _may_hide_completions(batch: Batch) -> bool:
    """Whether a sample may have a completion, but has no token with the type of one.

    Only the tokenizer knows the line break that ends a prompt.
    """
    types = batch.inputs.get(PROMPT_TYPES)
    if types is None or batch.rules.token_types_mark != "completion" or batch.behind_prompt:
        return False
    return not bool((types == 1).any(1).all())


def _against(batch: Batch, modality: Modality) -> str | None:
    """What the placeholder tokens of a modality were compared with; None if with nothing."""
    if not modality.keys:
        return f"no {plural(modality.name)} in the batch"
    if counts_unknown(batch, modality) or modality.placeholders is None:
        return None
    of = "features of" if batch.rules.checks_totals else f"{plural(modality.name)} in"
    return f"{of} {modality.feature_key}"


@cache
def order_of_sides(key: str) -> Compared:
    """Which number of a pair of sides is the height; only padding or M-RoPE could show it."""
    return Compared(f"order of height and width in {key}", beyond=True)


def positions(key: str, *, known: bool) -> Compared:
    """Positions of the batch, or its deltas; `known`: whether these could be recomputed."""
    return Compared(key, PLACES if known else None)


def is_padded_to_sizes(batch: Batch) -> bool:
    """Whether images are padded on the right and below, and their sizes are those without padding.

    The padding is one value: `image_processing_pixtral._pad_for_batching` pads with 0 after
    normalization (transformers 5.23). Elsewhere `image_sizes` are the sizes before resizing.
    """
    pixels, sizes = batch.inputs.get(MEDIA_OF["image"]), batch.inputs.get(SIZES)
    if batch.layout.feature_key != SIZES or pixels is None or sizes is None or pixels.ndim != 4:
        return False
    return tuple(sizes.shape) == (len(pixels), 2)


def counts_unknown(batch: Batch, modality: Modality) -> bool:
    """Whether placeholder tokens and features of media in the batch cannot be compared."""
    if not modality.keys or not batch.rules.checks_totals:
        return False
    return modality.inferred or modality.features is None or modality.placeholders is None
