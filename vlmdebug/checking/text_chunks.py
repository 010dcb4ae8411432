"""Words for what is wrong with chunks: VLM001 to VLM009, and VLM011."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmdebug.checking.findings import (
    Because,
    Changed,
    Difference,
    Dropped,
    EmptyChunk,
    ForeignRows,
    LabelsMade,
    MadeOtherwise,
    MustBeAbsent,
    OtherColumns,
    OtherLength,
    PaddingCut,
    PositionsDiffer,
    PositionsMade,
    Reordered,
    Repeated,
    SlicerRaised,
    StaleDeltas,
    StaleLookup,
    TokenFeatureMismatch,
    TokensLost,
    UnknownKey,
    WrongRows,
)
from vlmdebug.checking.text_doubts import columns_cut, made
from vlmdebug.core.batch import Batch
from vlmdebug.core.change import Change
from vlmdebug.core.layout import VIDEO_AND_AUDIO, plural
from vlmdebug.core.observed import MadeBy
from vlmdebug.core.owners import owners_of
from vlmdebug.core.rows import Rows
from vlmdebug.core.wording import Words, name_samples, number

KEEP_COLUMNS = "Do not cut columns of input_ids that hold placeholder tokens."
UNCUT = "It raises the same where the whole batch is one chunk, so no cut is the cause."
"""Of a slicer that takes no batch of this kind."""


def _were_given(samples: Sequence[int]) -> str:
    """`sample 1 was given`, `samples 0:2 were given`."""
    return f"{name_samples(samples)} {_was(samples)} given"


def _was(samples: Sequence[int]) -> str:
    return "was" if len(samples) == 1 else "were"


def _own(samples: Sequence[int]) -> str:
    return "owns" if len(samples) == 1 else "own"


def _rows(batch: Batch, key: str, rows: Rows | None) -> str:
    """`pixel_values[0:1] (1 row: image A1 of sample 0)`."""
    if rows is None:
        return "rows that could not be identified"
    if not rows.ranges:
        return f"no rows of {key}"
    whose = owners_of(batch, key, rows)
    return f"{key}[{rows}] ({number(len(rows), 'row')}{f': {whose}' if whose else ''})"


# --- rows ------------------------------------------------------------------------------------


def _wrong_rows(found: WrongRows, batch: Batch) -> Words:
    """The rows given and the rows owned."""
    key, samples = found.key, found.samples
    given, due = _given(found, batch), _rows(batch, key, found.expected)
    said = f"{_were_given(samples)} {given} but {_own(samples)} {due}."
    return Words(said, _cut_otherwise(found, batch))


def _given(found: WrongRows, batch: Batch) -> str:
    key, rows = found.key, found.actual
    if found.source is not None:
        return f"{key} with rows {rows} of {found.source}"
    if rows is not None and rows.foreign:
        strange = sum(1 for row in rows if row < 0)
        have = "has" if strange == 1 else "have"
        return f"{key} with {number(len(rows), 'row')}, {strange} of which {have} new values,"
    return _rows(batch, key, rows)


def _cut_otherwise(found: WrongRows, batch: Batch) -> str:
    key, unit = found.key, batch.layout[found.key].unit
    if found.actual is not None and found.actual.foreign and found.source is None:
        return f"Pass the rows of {key} unchanged: new values belong to no sample."
    if _lacks_zeros(found):
        return _keep_zeros(key, batch)
    if found.packed:
        return f"Join {key} of whole samples, in the order in which rows of input_ids hold them."
    mistaken = f", not per {' or '.join(found.cut_by)}" if found.cut_by else ""
    if unit == "sample":
        return f"Cut {key} per sample{mistaken}: it has one row per sample."
    return f"Cut {key} per {unit}{mistaken}; vlmdebug.export(batch) writes that code."


def _lacks_zeros(found: Difference) -> bool:
    return found.cause is not None and found.cause.because is Because.WITHOUT_ZEROS


def _keep_zeros(key: str, batch: Batch) -> str:
    """What to do where the samples that own nothing are missing from the counts."""
    return (
        f"The offsets of {key} were computed without the samples that have no "
        f"{batch.layout[key].unit}: keep a 0 in the counts for each of them."
    )


def _dropped(found: Dropped, batch: Batch) -> Words:
    key, samples = found.key, found.samples
    due = _rows(batch, key, found.expected)
    said = f"{_were_given(samples)} no {key} but {_own(samples)} {due}."
    return Words(said, _keep_zeros(key, batch) if _lacks_zeros(found) else f"Pass {key} on.")


def _must_be_absent(found: MustBeAbsent, batch: Batch) -> Words:
    key, samples = found.key, found.samples
    rows = _rows(batch, key, found.actual) if found.length else f"{key} with zero rows"
    unit = batch.layout.media.get(key, "")
    thing = unit if unit in VIDEO_AND_AUDIO else "image"
    has = "has" if len(samples) == 1 else "have"
    given = f"{name_samples(samples)} {has} no {thing} but {_was(samples)} given {rows}."
    return Words(
        given if samples else f"A chunk without samples was given {rows}.",
        _keep_zeros(key, batch)
        if _lacks_zeros(found)
        else f"Leave {key} out of a chunk without {plural(thing)}.",
    )


# --- rows that were altered ------------------------------------------------------------------


def _other_columns(found: OtherColumns, batch: Batch) -> Words:
    key, its = found.key, "its" if len(found.samples) == 1 else "their"
    if found.columns == found.of_ids:
        given = f"{key} with other columns than {its} input_ids"
    else:
        given = f"{key} with {found.columns} columns for {found.of_ids} of {its} input_ids"
    todo = "Trim and pad all keys along the tokens by the same columns."
    if found.packed:
        todo = f"Join {key} of the same tokens as input_ids, in the same order."
    return Words(f"{_were_given(found.samples)} {given}.", todo)


def _padding_cut(found: PaddingCut, batch: Batch) -> Words:
    axis, key, samples = found.axis, found.key, found.samples
    assert axis.padded is not None
    given = f"{_were_given(samples)} {key} with {number(found.given, axis.padded)} per sample"
    due = f" but {_own(samples)} up to {found.needed}"
    return Words(
        f"{given}{due if found.given < found.needed else ', and pixel_values with others'}.",
        f"Cut {key} on dim {axis.dim} only: dim {axis.padded_dim} is padded over "
        f"{plural(axis.padded)}, for the sample with the most.",
    )


def _changed(found: Changed, batch: Batch) -> Words:
    given, todo = _change(found.key, found.change, found.whole)
    return Words(f"{_were_given(found.samples)} {given}.", todo)


def _change(key: str, change: Change, whole: tuple[int, ...]) -> tuple[str, str]:
    """What was given, and what to do."""
    shapes = f"{change.given} in place of {change.expected}"
    now, before = change.dtype
    keep = f"Pass the rows of {key} with all their dimensions: {key}[start:stop]."
    match change.kind:
        case "cut" | "padding cut":
            said = f"{key} with shape {shapes}: {columns_cut(key, change)}"
            return said, f"Cut only the dimension of the rows: {key}[start:stop]."
        case "grown":
            return f"{key} with shape {shapes}: columns were added", keep
        case "lost":
            return f"{key} with shape {shapes}: a dimension was lost", keep
        case "added":
            return f"{key} with shape {shapes}: a dimension was added", keep
        case "plane":
            count = f"{change.given[0] if len(change.given) == len(whole) else 1} of {whole[0]}"
            planes = f"{key} with shape {shapes}: one plane of three was passed"
            if whole[0] != 3 or not count.startswith("1 "):
                planes = f"{key} with shape {shapes}: planes {count} were passed"
            return planes, f"Cut {key} on dim 1: {key}[:, start:stop]."
        case "reshaped":
            return f"{key} with shape {shapes}: it was reshaped", keep
        case "destroyed":
            cast = f"as {now}, where the batch has {before}" if now != before else f"in {now}"
            return (
                f"{key} {cast}: its values were destroyed by a cast",
                f"Pass {key} as {before}, or round it to 16 bits at most.",
            )
        case "zeros":
            return f"{key} of zeros, which mark no token", f"Pass the rows of {key} unchanged."
        case "dtype":
            takes = "token ids are looked up as int64 or int32"
            if key != "input_ids":
                takes = "the model takes rows by it, as by a mask of bool"
            todo = f"Pass {key} as {before}: cast only tensors of floating point."
            return f"{key} as {now}, but {takes}", todo
        case _:
            return (
                f"{key} with the batch's rows but other values: changed or moved within the rows",
                f"Pass the rows of {key} unchanged.",
            )


def _made_otherwise(found: MadeOtherwise, batch: Batch) -> Words:
    key, why = found.key, made(found.why)
    todo = f"Leave {key} out, so that the model makes it, or make it as the model does."
    if found.why.rule is MadeBy.COMPLETION:
        todo = f"Append ones to {key}."
    if found.why.rule is MadeBy.LABELS:
        todo = f"Make {key} from the chunk's input_ids, unshifted: the model shifts them."
    return Words(f"{_were_given(found.samples)} {key} that the slicer made, but {why}.", todo)


def _positions_differ(found: PositionsDiffer, batch: Batch) -> Words:
    key, why = found.key, made(found.why)
    return Words(
        f"sample {found.sample} has {key} that its tokens do not have: {why}.",
        f"Compute {key} from the final input_ids as the model does, or leave them out.",
    )


def _stale_deltas(found: StaleDeltas, batch: Batch) -> Words:
    return Words(
        f"row {found.sample} goes on in a cache with the model's rope_deltas of another prompt: "
        f"{found.given:g}, but {found.due:g} is that of the prompt in the cache.",
        "Keep rope_deltas of the model next to each cache, and set them before a call goes on in "
        "it; or pass position_ids.",
    )


# --- names of keys ---------------------------------------------------------------------------


def _unknown_key(found: UnknownKey, batch: Batch) -> Words:
    key, meant = found.key, found.meant
    known = f"; {meant} is the name it knows" if meant else ""
    return Words(
        f"{_were_given(found.samples)} {key}, which layout {batch.layout.family} does not "
        f"know{known}.",
        f"Pass it as {meant}." if meant else f"Leave {key} out.",
    )


def _stale_lookup(found: StaleLookup, batch: Batch) -> Words:
    asked, meant = found.key, found.meant
    return Words(
        f"The slicer looks for {asked}, which the batch does not have, and drops {meant}, "
        "which it has.",
        f"Rename {asked} to {meant}.",
        f"Its branch for {asked} never runs with {batch.layout.family}.",
    )


# --- placeholder tokens ----------------------------------------------------------------------


def _who(found: TokenFeatureMismatch | TokensLost) -> str:
    """`sample 1 has`, where `input_ids` say which samples the chunk holds."""
    if not found.matched:
        return f"chunk {found.chunk} has"
    return f"{name_samples(found.samples)} {'has' if len(found.samples) == 1 else 'have'}"


def _token_feature_mismatch(found: TokenFeatureMismatch, batch: Batch) -> Words:
    placeholders, features = found.placeholders, found.features
    named = "" if found.modality == "image" else f"{found.modality} "
    tokens = number(placeholders, f"{named}placeholder token")
    todo = KEEP_COLUMNS
    if placeholders > features > 0:
        todo = (
            f"{number(placeholders - features, 'placeholder token')} too many: a placeholder that "
            "was expanded already was likely expanded again. Expand each placeholder once."
        )
    given = f"{_who(found)} {tokens} in this chunk's input_ids"
    return Words(f"{given} but {number(features, 'feature')}.", todo)


def _tokens_lost(found: TokensLost, batch: Batch) -> Words:
    token = f"{found.modality} placeholder token"
    left = number(found.given, token) if found.given else f"no {token}"
    return Words(
        f"{_who(found)} {left} in this chunk's input_ids but {found.owned} in the batch, "
        f"and all rows of {plural(found.modality)}.",
        KEEP_COLUMNS,
    )


# --- samples ---------------------------------------------------------------------------------


def _empty_chunk(found: EmptyChunk, batch: Batch) -> Words:
    return Words(
        f"Chunk {found.chunk} holds no sample.",
        "Let the loop end with the batch: for start in range(0, samples, chunk_size).",
    )


def _repeated(found: Repeated, batch: Batch) -> Words:
    counts, parts = sorted({count for _, count in found.times}), []
    for count in counts:
        samples = [sample for sample, came in found.times if came == count]
        never = "is in no chunk" if len(samples) == 1 else "are in no chunk"
        often = f"came {count} times" if count > 1 else "came once"
        parts.append(f"{name_samples(samples)} {often if count else never}")
    due, wanted = "", found.wanted
    if wanted > 1:
        due = f" that are due {wanted} times each (slicer.expand_size)"
        due = due if found.expand_size else f", while others came {wanted} times"
    todo = "Let every sample be in one chunk: for start in range(0, samples, chunk_size)."
    if found.packed:
        todo = "Let every sample be in one packed row."
    alike = len(found.times) == found.total and len(counts) == 1 and counts[0]
    if found.expand_size == 1 and alike:
        todo += f"\nIf that is on purpose, as for beams, say so: slicer.expand_size = {counts[0]}."
        todo += f" If each time is a rank with other tokens: slicer.shards = {counts[0]}."
    return Words(f"{' and '.join(parts)}, of {number(found.total, 'sample')}{due}.", todo)


def _reordered(found: Reordered, batch: Batch) -> Words:
    return Words(
        "The chunks hold the samples in another order: "
        f"sample {found.moved} came at position {found.position}.",
        "Keep the batch's order, or undo the permutation on the outputs and say so: "
        "slicer.any_order = True.",
    )


def _slicer_raised(found: SlicerRaised, batch: Batch) -> Words:
    where = f" at {found.place}" if found.place else ""
    todo = "Later chunks were never produced and were not checked. Fix this line first."
    if found.asked:
        todo += f"\nThe batch has the keys {', '.join(batch.layout)}."
    return Words(
        f"The slicer raised {found.error}{where} after {number(found.chunk or 0, 'chunk')}: "
        f"{found.said}",
        todo,
        UNCUT if found.whole else "",
    )


WORDS: Mapping[type[Difference], Callable[[Any, Batch], Words]] = {
    WrongRows: _wrong_rows,
    OtherLength: _wrong_rows,
    ForeignRows: _wrong_rows,
    Dropped: _dropped,
    MustBeAbsent: _must_be_absent,
    OtherColumns: _other_columns,
    PaddingCut: _padding_cut,
    Changed: _changed,
    MadeOtherwise: _made_otherwise,
    LabelsMade: _made_otherwise,
    PositionsMade: _made_otherwise,
    PositionsDiffer: _positions_differ,
    StaleDeltas: _stale_deltas,
    UnknownKey: _unknown_key,
    StaleLookup: _stale_lookup,
    TokenFeatureMismatch: _token_feature_mismatch,
    TokensLost: _tokens_lost,
    EmptyChunk: _empty_chunk,
    Repeated: _repeated,
    Reordered: _reordered,
    SlicerRaised: _slicer_raised,
}
