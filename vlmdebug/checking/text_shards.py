"""Words for differences and doubts of calls that are split over ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vlmdebug.checking.findings import Difference
from vlmdebug.checking.shards import (
    ColumnsOfRank,
    LabelsOfRank,
    MissingOnRank,
    NotSplit,
    OtherRowsOfRank,
    PaddingSeen,
    PositionsOfRank,
    RowsOfRank,
    TextOfRanks,
    TokensOfRanks,
)
from vlmdebug.core.batch import Batch
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.core.wording import Words, name_samples, number

EVERY = (
    "Let every token be on one rank: before the split, pad the call to a multiple of the ranks, "
    "and for a zigzag of twice the ranks."
)
BEFORE = "Shift labels before the split, and pass them as shift_labels."
ALONG = "Split all keys along the tokens by the same columns as input_ids."


def _place(fault: ShardFault) -> str:
    """`token 3 of rank 1 (sample 0)`."""
    whose = "" if fault.sample is None else f" (sample {fault.sample})"
    if fault.column < 0:  # a mask reaches back to the first token
        return f"the token {number(-fault.column, 'column')} before {fault.where}{whose}"
    return f"token {fault.column} of {fault.where}{whose}"


def _values(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"({', '.join(map(str, numbers))})"


def _tokens(found: TokensOfRanks, batch: Batch) -> Words:
    fault = found.fault
    if fault.why is Split.RANKS and fault.noun == "call":
        are = "call came" if fault.given[0] == 1 else "calls came"
        return Words(
            f"{fault.given[0]} {are} of the {fault.due[0]} that share the tokens of a batch "
            "(shards of watch).",
            "Make the calls of all ranks of a batch one after another, or pass their number.",
        )
    if fault.why is Split.RANKS:
        have = number(fault.given[0], "dict")
        return Words(
            f"The slicer gave {have} for the ranks of chunk {found.chunk}, but it splits each "
            f"chunk over {fault.due[0]} (slicer.shards).",
            "Yield one dict per rank of each chunk, in the order of the ranks.",
        )
    tokens = number(fault.given[0], "token")
    are = "is" if fault.given[0] == 1 else "are"
    if fault.noun == "window":
        where = "in no call" if fault.why is Split.LOST else "in two calls"
        return Words(
            f"{tokens} of {name_samples(found.samples)} {are} {where} of a prefill: column "
            f"{fault.column} of the batch is the first of them.",
            "Begin each window where the one before it ended.",
        )
    where = f"{are} on no rank" if fault.why is Split.LOST else f"{are} on more than one rank"
    return Words(f"{tokens} of {name_samples(found.samples)} {where}.", EVERY)


def _positions(found: PositionsOfRank, batch: Batch) -> Words:
    fault = found.fault
    todo = "Compute position_ids of the whole call, and split them as input_ids."
    if fault.why is Split.NO_POSITIONS:
        return Words(
            f"The ranks have no position_ids, so each counts from 0: {_place(fault)} is at "
            f"{_values(fault.given)}, and belongs at {_values(fault.due)}.",
            todo,
        )
    if fault.given > fault.due:
        todo += " If tokens before it are on no rank, put each token on one rank."
    return Words(
        f"{_place(fault)} has position_ids {_values(fault.given)}, but {_values(fault.due)} "
        "follows from the tokens before it in the whole call.",
        todo,
    )


def _labels(found: LabelsOfRank, batch: Batch) -> Words:
    fault, label = found.fault, found.fault.given[0]
    match fault.why:
        case Split.LEARNED:
            return Words(
                f"{_place(fault)} is padding, but has label {label}.",
                "Pad labels with -100.",
                "The model will not raise, and learns padding.",
            )
        case Split.INSIDE:
            return Words(
                f"{_place(fault)} has {fault.key} {label}, but the next token, on another rank, "
                f"has label {fault.due[0]}: labels were shifted after the split.",
                BEFORE,
                "The model will not raise, and does not learn that token.",
            )
        case _:
            return Words(
                f"{_place(fault)} has {fault.key} {label}, but {fault.due[0]} belongs there.", ALONG
            )


def _columns(found: ColumnsOfRank, batch: Batch) -> Words:
    fault = found.fault
    if fault.why is Split.MASK:
        given, due = fault.given[0], fault.due[0]
        return Words(f"{_place(fault)} has {fault.key} {given}, but {due} belongs there.", ALONG)
    if fault.why is Split.OWN_MASK:
        return Words(
            f"{fault.where} was given {fault.key} with {number(fault.given[0], 'column')}, but "
            f"there are {number(fault.due[0], 'token')} with those in the cache: the model takes "
            "the first column for the first token in the cache.",
            f"Slice {fault.key} from the first token in the cache on.",
        )
    if fault.why is Split.SHAPE:
        return Words(
            f"{fault.where} was given {fault.key} of shape {_values(fault.given)}, but in the "
            f"batch it has shape {_values(fault.due)}: its rows were cut.",
            f"Do not split {fault.key} along the tokens: it has none.",
        )
    have = "no columns" if not fault.given else number(fault.given[0], "column")
    return Words(
        f"{fault.where} was given {fault.key} with {have} for "
        f"{number(fault.due[0], 'token')} of input_ids.",
        ALONG,
    )


def _missing(found: MissingOnRank, batch: Batch) -> Words:
    key, noun = found.fault.key, found.fault.noun
    return Words(
        f"{found.fault.where} was given no {key}, but other {noun}s of the call were.",
        f"Pass {key} to each {noun} that has tokens for it.",
    )


def _rows(found: RowsOfRank, batch: Batch) -> Words:
    fault, key = found.fault, found.fault.key
    given = f"{fault.where} was given {number(fault.given[0], 'row')} of {key}"
    if not fault.due:
        return Words(
            f"{given}, which are not whole images, or other images than its other keys describe.",
            "Give each rank whole images: all of their rows of every key.",
        )
    return Words(
        f"{given}, but its placeholder tokens are of images with {number(fault.due[0], 'row')}.",
        f"Give each rank the rows of {key} of the images with placeholder tokens there, or embed "
        "before the split and give all media to every rank.",
    )


def _other_rows(found: OtherRowsOfRank, batch: Batch) -> Words:
    key, fault = found.fault.key, found.fault
    if fault.why is Split.IMAGES:
        given, due = (f"{key}[{a}:{b}]" for a, b in (fault.given, fault.due))
        return Words(
            f"{fault.where} was given {given}, but its placeholder tokens are of {due}.",
            f"Give each {fault.noun} the rows of {key} of the images of its placeholder tokens.",
        )
    return Words(
        f"{found.fault.where} was given other rows of {key} than the rank before it, for an "
        "image that has placeholder tokens on both.",
        f"Give both the same rows of {key}.",
    )


def _seen(found: PaddingSeen, batch: Batch) -> Words:
    return Words(
        f"{_place(found.fault)} is padding, but attention_mask shows it.",
        "Pad attention_mask with 0.",
        "The model will not raise: tokens attend to the padding.",
    )


WORDS: Mapping[type[Difference], Callable[[Any, Batch], Words]] = {
    TokensOfRanks: _tokens,
    TextOfRanks: _tokens,
    PositionsOfRank: _positions,
    LabelsOfRank: _labels,
    ColumnsOfRank: _columns,
    MissingOnRank: _missing,
    RowsOfRank: _rows,
    OtherRowsOfRank: _other_rows,
    PaddingSeen: _seen,
}


def shard_doubt(one: NotSplit) -> str:
    """What is not known of a split, and what would settle it."""
    return DOUBTS[one.fault.why](one.fault, f"(first in chunk {one.chunk})")


def _unknown(fault: ShardFault, first: str) -> str:
    return (
        f"The ranks could not be joined {first}: their tokens are those of the batch in no known "
        "order (contiguous, zigzag of equal pieces, or striped). Nothing else of these chunks was "
        "checked. Split input_ids in one of these orders, and pass them on."
    )


def _embedded(fault: ShardFault, first: str) -> str:
    whole = f" of {fault.due[0]}" if fault.due else ""
    return (
        f"Rank {fault.rank} has {fault.key} of images with placeholder tokens on other ranks, too: "
        f"it has {number(fault.given[0], 'placeholder token')}{whole} {first}. Right if tokens are "
        "embedded before the split: then say so, slicer.embedded = True (of watch, embedded=True). "
        "A model that embeds on each rank raises there."
    )


def _no_media(fault: ShardFault, first: str) -> str:
    return (
        f"No rank has {fault.key} {first}, so which images were embedded before the split could "
        "not be compared. Give all media to every rank, or pass inputs_embeds."
    )


def _units(fault: ShardFault, first: str) -> str:
    return (
        f"The ranks have {fault.key} of their own {first}, and which rows belong to which "
        "placeholder tokens is not known in this layout, so only all of them together were "
        "compared. Give all media to every rank."
    )


def _unread(fault: ShardFault, first: str) -> str:
    return (
        f"{fault.key} could not be read {first} and was not compared. Pass a dense tensor of whole "
        "numbers, one for each token of input_ids."
    )


def _whole_mask(fault: ShardFault, first: str) -> str:
    return (
        f"Each rank has the attention_mask of all tokens {first}. Right only if attention across "
        "ranks takes it: a model that runs on one rank reads its first columns. Split it as "
        "input_ids."
    )


def _mask_dims(fault: ShardFault, first: str) -> str:
    return (
        f"attention_mask has {fault.given[0]} dimensions {first} and was not compared. Pass the "
        "mask of shape (row, seq) that it was made of."
    )


def _differ(fault: ShardFault, first: str) -> str:
    return (
        f"{fault.key} differs between ranks {first} and was not compared: it is not along the "
        "tokens. Pass the value of the whole call to every rank."
    )


def _between(fault: ShardFault, first: str) -> str:
    return (
        f"Labels are next to their tokens, so a loss on each rank does not learn {_place(fault)}, "
        f"label {fault.given[0]}, from the token before it, which is on another rank {first}. "
        f"Right only if the loss joins the ranks. {BEFORE}"
    )


def _below_zero(fault: ShardFault, first: str) -> str:
    return (
        f"{_place(fault)} has position {fault.given[0]}, and the padding before it has "
        f"{fault.given[0] - 1} {first}. Right only if attention begins a sample at each 0, as ring "
        "attention of some trainers does: a model of transformers takes both for one sample. Give "
        "the padding other position_ids."
    )


def _places(fault: ShardFault, first: str) -> str:
    why = "they follow from media that this call does not have"
    if fault.given:
        tokens, column = number(fault.given[0], "token"), fault.due[0]
        why = f"the cache has {tokens}, and {fault.where} begins at column {column} of the batch"
    return (
        f"position_ids of {fault.where} were not compared {first}: {why}. Slice the position_ids "
        "of the whole batch."
    )


def _packed(fault: ShardFault, first: str) -> str:
    return (
        f"{_place(fault)} has position_ids {_values(fault.given)}, and {_values(fault.due)} in a "
        f"row of one sample {first}. Right only if another sample begins in the row. Slice the "
        "position_ids of the whole batch, or pass attention_mask if each row is one sample."
    )


def _last(fault: ShardFault, first: str) -> str:
    return (
        f"{_place(fault)} has {fault.key} -100 {first}: right only if the next token, "
        f"{fault.due[0]} on another rank, is not learned. {BEFORE}"
    )


def _rest(fault: ShardFault, first: str) -> str:
    return (
        f"{number(fault.given[0], 'token')} of the batch, from column {fault.column} on, came in "
        "no window of the prefill. Right only if the program leaves them out, or passes them on in "
        "another tensor."
    )


def _alone(fault: ShardFault, first: str) -> str:
    return (
        f"{fault.where.capitalize()} has a copy of its tokens {first}, so the tokens, positions "
        "and media of other ranks are not known here. vlmdebug merge compares all ranks."
    )


def _gone(fault: ShardFault, first: str) -> str:
    return (
        f"{fault.key} of the ranks of one call was not compared {first}: it was gone before the "
        "last of them was called. Keep it until then."
    )


def _whole(fault: ShardFault, first: str) -> str:
    calls = number(fault.given[0], "call")
    code = f" ({fault.noun})" if fault.noun else ""
    return (
        f"{calls} may be whole, and right, or share the tokens of one batch, and then be wrong"
        f"{code} {first}. Watch calls that are split in a block of their own, "
        "vlmdebug.watch(model, shards=…), and whole calls outside of it."
    )


def _torn(fault: ShardFault, first: str) -> str:
    return (
        f"Calls that share the tokens of a batch were not compared {first}: others were skipped "
        "(sample_every), and may belong to them. Judge every call."
    )


def _behind(fault: ShardFault, first: str) -> str:
    return (
        f"{fault.where.capitalize()} has tokens that this model computes otherwise behind a cache "
        f"than in one call {first}: tokens of an image see each other, or all of the prompt do, in "
        "the first call alone. Give the images, or all of the prompt, in the first window."
    )


DOUBTS: Mapping[Split, Callable[[ShardFault, str], str]] = {
    Split.UNKNOWN: _unknown,
    Split.EMBEDDED: _embedded,
    Split.NO_MEDIA: _no_media,
    Split.UNITS: _units,
    Split.UNREAD: _unread,
    Split.WHOLE_MASK: _whole_mask,
    Split.MASK_DIMS: _mask_dims,
    Split.DIFFER: _differ,
    Split.BETWEEN: _between,
    Split.BELOW_ZERO: _below_zero,
    Split.PLACES: _places,
    Split.PACKED: _packed,
    Split.LAST: _last,
    Split.REST: _rest,
    Split.ALONE: _alone,
    Split.GONE: _gone,
    Split.WHOLE: _whole,
    Split.TORN: _torn,
    Split.BEHIND: _behind,
}
