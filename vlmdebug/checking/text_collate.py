"""Words for what a collator does to rows together that it does not do to each alone.

Rows of media have the words of a chunk that holds the batch; only the remedy is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vlmdebug.checking.collate_findings import (
    CollatorRaised,
    LabelsOnPadding,
    LostKey,
    LostTogether,
    Nested,
    NoBatch,
    NotATensor,
    OtherLabels,
    OtherMask,
    OtherPlaces,
    OtherText,
    OtherTokenValues,
    Renamed,
    RowsCounted,
    RowsReordered,
    SurplusTogether,
    ZeroRows,
)
from vlmdebug.checking.findings import Difference, Dropped, MustBeAbsent, UnknownKey, WrongRows
from vlmdebug.core.batch import Batch
from vlmdebug.core.wording import Words, name_samples, number

ALONE = "collated alone"


def todo_of(found: Difference) -> str | None:
    """What to do in a collator about rows of media; None where the words for a chunk apply."""
    key = found.key
    if isinstance(found, UnknownKey):
        return None
    if isinstance(found, Dropped):
        return f"Keep {key} of each sample that has it, also where other samples have none."
    if isinstance(found, MustBeAbsent):
        return f"Add no {key} for a sample that has none {ALONE}."
    if isinstance(found, WrongRows):
        return (
            f"Join {key} in the order of the samples, with all rows that each has {ALONE}. "
            "Only padding may be added."
        )
    return f"Join {key} as each sample has it {ALONE}; only padding may be added."


def _rows_counted(found: RowsCounted, batch: Batch) -> Words:
    return Words(
        f"The batch has {number(found.given, 'sample')}, but its rows give "
        f"{number(found.due, 'sample')} {ALONE}.",
        "Put each row into the batch once.",
    )


def _rows_reordered(found: RowsReordered, batch: Batch) -> Words:
    return Words(
        f"The batch holds its rows in another order: sample {found.position} is row {found.moved}.",
        "Keep the order of the rows, or say that it is on purpose: collate.any_order = True.",
    )


def _other_text(found: OtherText, batch: Batch) -> Words:
    said = f"sample {found.sample} has {number(found.given, 'token')}, but {found.due} {ALONE}"
    if found.cut:
        return Words(
            f"{said}: its text was cut.",
            "Pad to the longest sample of the batch, and truncate each sample to the same "
            "max_length as alone.",
        )
    return Words(
        f"{said}, and other ones." if found.given != found.due else f"{said}: they are others.",
        "Tokenize each row in the same way, whatever rows are next to it.",
    )


def _other_values(found: OtherTokenValues, batch: Batch) -> Words:
    key = found.key
    said = f"sample {found.sample} has other {key} than {ALONE}"
    said += f" at {found.wrong} of {number(found.tokens, 'token')}" if found.tokens else ""
    if not found.by:
        return Words(f"{said}.", f"Make {key} of each sample as {ALONE}, and only add padding.")
    side = "right" if found.by > 0 else "left"
    return Words(
        f"{said}: they stand {number(abs(found.by), 'column')} to the {side} of them.",
        f"Pad {key} on the side where input_ids is padded.",
    )


def _other_mask(found: OtherMask, batch: Batch) -> Words:
    what = [f"hides {number(found.hidden, 'token')} shown {ALONE}"] if found.hidden else []
    what += [f"shows {number(found.shown, 'padding token')}"] if found.shown else []
    return Words(
        f"attention_mask of sample {found.sample} {' and '.join(what)}.",
        "Pad attention_mask with 0 on the side where input_ids is padded.",
    )


def _labels_on_padding(found: LabelsOnPadding, batch: Batch) -> Words:
    return Words(
        f"sample {found.sample} has {number(found.learned, 'label')} where attention_mask marks "
        "padding.",
        "Pad labels with -100.",
    )


def _lost(found: LostTogether, batch: Batch) -> Words:
    has = "has" if len(found.samples) == 1 else "have"
    return Words(
        f"The batch lacks {found.key}, which {name_samples(found.samples)} {has} {ALONE}.",
        f"Keep {found.key} in every batch with a row that has it.",
    )


def _lost_key(found: LostKey, batch: Batch) -> Words:
    return Words(
        f"The batch lacks {found.key}, which its processor returns for each image.",
        "Keep every key that the processor returned.",
    )


def _renamed(found: Renamed, batch: Batch) -> Words:
    return Words(
        f"The batch has {found.key}, which its processor does not return, and lacks {found.meant}, "
        "which it returns.",
        f"Pass it as {found.meant}.",
    )


def _surplus(found: SurplusTogether, batch: Batch) -> Words:
    return Words(
        f"The batch has {found.key}, which no sample has {ALONE}.",
        f"Leave {found.key} out of a batch without media.",
    )


def _zero_rows(found: ZeroRows, batch: Batch) -> Words:
    return Words(
        f"The batch has {found.key} with shape {found.given}, which holds nothing.",
        f"Leave {found.key} out: give the processor the text alone where no row has media.",
    )


def _not_a_tensor(found: NotATensor, batch: Batch) -> Words:
    return Words(
        f"The batch has {found.key} as {found.given}, but a model takes a tensor.",
        f"Leave {found.key} out where no row has it, and concatenate the tensors of the others.",
    )


def _nested(found: Nested, batch: Batch) -> Words:
    return Words(
        f"The batch has {found.key} with shape {found.given}, but it has shape {found.due}: "
        "a dimension was added.",
        f"Concatenate {found.key} of the rows with torch.cat, and do not stack it.",
    )


def _raised(found: CollatorRaised, batch: Batch) -> Words:
    where = f" at {found.place}" if found.place else ""
    if found.alone:
        said = f"The collator raised {found.error}{where} for one row alone: {found.said}"
        return Words(said, "No batch was made, and nothing was compared. Fix this line first.", "")
    said = f"The collator raised {found.error}{where} for these rows together, and for none alone"
    return Words(f"{said}: {found.said}", "Fix this line first.", "")


def _no_batch(found: NoBatch, batch: Batch) -> Words:
    first, *rest = found.said.split(". ")
    return Words(f"{first}.", ". ".join(rest))


WORDS: Mapping[type[Difference], Callable[[Any, Batch], Words]] = {
    RowsCounted: _rows_counted,
    RowsReordered: _rows_reordered,
    OtherText: _other_text,
    OtherTokenValues: _other_values,
    OtherLabels: _other_values,
    OtherPlaces: _other_values,
    OtherMask: _other_mask,
    LabelsOnPadding: _labels_on_padding,
    LostKey: _lost_key,
    Renamed: _renamed,
    LostTogether: _lost,
    SurplusTogether: _surplus,
    ZeroRows: _zero_rows,
    NotATensor: _not_a_tensor,
    Nested: _nested,
    CollatorRaised: _raised,
    NoBatch: _no_batch,
}
