"""Words for a difference, from its fields and its outcome: what it says, and its cause in words.

A message says what was given and what belongs there, what the model will do, and what to do. Its
first sentence alone must suffice in a log. Names are as in the user's code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from vlmdebug.checking import text_batch, text_chunks, text_collate, text_packed, text_shards
from vlmdebug.checking.batch_findings import Stray
from vlmdebug.checking.findings import Because, Cause, Difference
from vlmdebug.core.batch import Batch
from vlmdebug.core.layout import plural
from vlmdebug.core.mismatch import Mismatch
from vlmdebug.core.wording import Words, number
from vlmdebug.outcomes.reasons import Raises, Runs, Unknown

WORDS: Mapping[type[Difference], Callable[[Any, Batch], Words]] = {
    **text_chunks.WORDS,
    **text_batch.WORDS,
    **text_packed.WORDS,
    **text_shards.WORDS,
    **text_collate.WORDS,
}
"""Words for each kind of difference."""

CAUSES: Mapping[Because, str] = {
    Because.CUT_PER: "cut per {}",
    Because.WITHOUT_ZEROS: "counts without zeros",
    Because.LOOKS_FOR: "looks for {}",
    Because.CHANGED: "{}",
    Because.COLUMNS: "columns",
    Because.PADDING: "padded {}",
    Because.MAKES: "makes {}",
    Because.TOTALS: "totals",
    Because.RUNS: "{}",
    Because.NO_MEDIA: "no {} in the batch",
    Because.COLLATOR: "{} dropped by the collator",
    Because.OTHER_ROWS: "images in other rows",
    Because.LABELS_LENGTH: "labels of another length",
    Because.LABELS_SHIFTED: "labels shifted",
    Because.LABELS_OTHER: "labels of other tokens",
    Because.LABELS_MEDIA: "placeholders learned",
    Because.LABELS_PADDING: "padding learned",
    Because.LABELS_PROMPT: "prompt learned",
    Because.ONE_RUN: "images in one run",
    Because.SIZES: "sizes of other pixels",
    Because.MASK: "mask of other pixels",
    Because.TILES: "aspect ratio of other tiles",
}
"""A likely cause, as `Mismatch.cause` has it."""

REASONS: Mapping[Raises | Runs | Unknown, str] = {
    Raises.ALWAYS: "The model will raise.",
    Raises.COUNTS_DIFFER: "The model will raise: the chunk has {tokens} and the rows become "
    "{features}.",
    Raises.LENGTHS_DIFFER: "The model will raise: the tensors of the chunk do not fit together.",
    Raises.FEWER_FEATURES: "The model will raise: the chunk has fewer features than placeholder "
    "tokens.",
    Raises.PADDING_DIFFERS: "The model will raise: the chunk has tensors that do not fit together.",
    Raises.REFUSES_KEY: "{family} cannot take {key} there, not even empty.",
    Raises.TOTALS_DIFFER: "The model will raise, naming just these totals.",
    Raises.ONLY_TOTALS: "The model will raise, naming totals only.",
    Raises.PER_SAMPLE: "The totals of the batch agree, but the model lays images out sample by "
    "sample and will raise.",
    Raises.NO_GRID: "The model will raise: it looks for the grid of that video and finds none.",
    Raises.NEEDS_KEY: "The model will raise while it has pixels.",
    Raises.RUN_PER_IMAGE: "The model will raise: it takes each run of image tokens for one image.",
    Raises.LOSS: "The loss will raise: it takes one label per token.",
    Runs.WRONG_PIXELS: "Both are the same length, so the model will not raise: "
    "it sees the wrong pixels.",
    Runs.WRONG_TOKENS: "Both are the same length, so the model will not raise: "
    "it reads the wrong tokens.",
    Runs.OTHER_TOKENS: "Both are the same length, so the model will not raise: "
    "it reads other tokens.",
    Runs.NO_ROWS: "The model passes over pixels without rows, so it will not raise: it sees none.",
    Runs.ADDS_UP: "Features and placeholders still add up, so the model will not raise.",
    Runs.OTHER_ANSWER: "The model will not raise, but its answer changes.",
    Runs.TAKES_KEY: "The model will not raise: it uses {key} for the chunk's placeholder tokens.",
    Runs.NO_PIXELS: "The model will not raise: without pixels it compares nothing.",
    Runs.NO_IMAGE: "The model will not raise: without pixels it compares nothing and sees no "
    "image.",
    Runs.MORE_FEATURES: "The model ignores surplus features, so it will not raise.",
    Runs.TOTALS_AGREE: "The totals of the batch agree, so the model will not raise on the whole "
    "batch.",
    Runs.TOKEN_AS_TEXT: "The model will not raise: without {media} it compares nothing and embeds "
    "the token as text.",
    Runs.SEES_NONE: "The model will not raise, and sees none.",
    Runs.OTHER_IMAGES: "The model will not raise: it compares no counts and shows it other images.",
    Runs.OTHER_LABELS: "The model will not raise, and learns other tokens.",
    Runs.LEARNS_MEDIA: "The model will not raise, and learns to write placeholders.",
    Runs.LEARNS_PADDING: "The model will not raise, and learns to write padding.",
    Runs.LEARNS_PROMPT: "The model will not raise, and learns tokens that it sees, since a prompt "
    "sees all of itself.",
    Runs.PER_CALL: "No single call shows that, so the model will not raise.",
    Runs.OTHER_ORDER: "The model will not raise, but outputs put together again belong to other "
    "samples.",
    Runs.MIXES: "The model will not raise: tokens attend to those of another sample.",
    Runs.OTHER_PLACES: "The model will not raise: it takes the tokens for others in place or time.",
    Runs.SEES_PADDING: "The model will not raise: the sample attends to these tokens.",
    Runs.UNREAD: "The model will not raise: it does not read {key} next to position_ids, and "
    "computes the same.",
    Runs.ACROSS: "The model will not raise, and learns to go on with another sample.",
    Unknown.DEPENDS: "Depending on the model it raises or computes something else.",
    Unknown.NOT_IN_BATCH: "The batch does not determine whether the model raises.",
    Unknown.BY_MARKS: "A model that tells images by {key} raises or computes something else.",
    Unknown.RUN_PER_IMAGE: "Depending on the model it raises or computes something else. "
    "It takes each run of image tokens for one image.",
    Unknown.ATTENTION: "Flash-attention mixes samples or raises; other kinds of attention do not "
    "look at it.",
    Unknown.DELTAS: "Models compute their own from all tokens; code that adds these to the "
    "numbers of generated tokens puts them in other places.",
    Unknown.SIGNATURE: "The model ignores it or raises, depending on its signature.",
}
"""What the model will do, for each reason."""


def as_mismatch(found: Difference, batch: Batch) -> Mismatch:
    """The public record of a difference in `batch`, in words."""
    return Mismatch(
        found.code,
        message(found, batch),
        found.key,
        found.chunk,
        found.samples,
        found.expected,
        found.actual,
        found.outcome.silent,
        None if found.cause is None else named(found.cause),
    )


def as_collated(found: Difference, batch: Batch) -> Mismatch:
    """The same of a difference that a collator made: it has no chunks, and other remedies."""
    made = as_mismatch(found, batch)
    todo = text_collate.todo_of(found) if type(found) in text_chunks.WORDS else None
    return replace(made, message=message(found, batch, todo), chunk=None)


def message(found: Difference, batch: Batch, todo: str | None = None) -> str:
    """What was given and belongs there, what the model will do, and what to do."""
    words = WORDS[type(found)](found, batch)
    then = consequence(found, batch) if words.then is None else words.then
    return "\n".join(line for line in (words.said, then, todo or words.todo) if line)


def consequence(found: Difference, batch: Batch) -> str:
    """What the model will do."""
    reason, counts = found.outcome
    sentence = REASONS[reason]
    if "{" not in sentence:
        return sentence
    placeholders, features = counts or (0, 0)
    return sentence.format(
        key=found.key,
        family=batch.layout.family,
        tokens=number(placeholders, "placeholder token"),
        features=number(features, "feature"),
        media=plural(found.modality) if isinstance(found, Stray) else "",
    )


def named(cause: Cause) -> str:
    """A cause in words."""
    return CAUSES[cause.because].format(cause.what)
