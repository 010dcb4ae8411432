"""Words for what was not compared: why, and what would settle it."""

from __future__ import annotations

from collections.abc import Mapping

from vlmdebug.checking.doubts import (
    BeforePromptEnds,
    BehindPrompt,
    Doubt,
    Embedded,
    FeaturesUnknown,
    Hidden,
    LeftOut,
    LostMask,
    MayDiffer,
    MoreColumns,
    Needs,
    NotAlone,
    NotApart,
    NotFinite,
    NotNextTo,
    NotRecomputed,
    NotTheSame,
    OddMask,
    OtherDtype,
    PaddingShown,
    PlacesUnknown,
    SidesUnseen,
    Unmasked,
    Unmatched,
    WholePixels,
    Written,
)
from vlmdebug.checking.shards import NotSplit
from vlmdebug.checking.text_shards import shard_doubt
from vlmdebug.core.change import Change
from vlmdebug.core.observed import MadeBy, MadeReason, Seams
from vlmdebug.core.wording import listed, number

MOST_SAMPLES = 8
ASK = "ask the model: vlmdebug.prove"
MADE: Mapping[MadeBy, str] = {
    MadeBy.NO_RULE: "no rule is known for it",
    MadeBy.NO_TOKENS: "the chunk has no input_ids of shape (sample, seq)",
    MadeBy.NO_NUMBERS: "it is no tensor of numbers",
    MadeBy.MASK_PLACES: "the model counts places by the mask, or otherwise without one",
    MadeBy.NO_MASK: "the batch has no mask, so it is not known which tokens are padding",
    MadeBy.NO_PLACEHOLDER: "the placeholder token is not known",
    MadeBy.MARKS_NONE: "it marks no placeholder token, as if it were left out",
    MadeBy.MARKS_TEXT: "it marks tokens that are no placeholders",
    MadeBy.MEANING: "its meaning differs from model to model",
    MadeBy.CACHE: "it is not 0, 1, 2 … of these tokens",
    MadeBy.LABELS: "it is not input_ids with -100 where nothing is learned",
    MadeBy.NO_MODEL: "the model is not known",
    MadeBy.HOLES: "attention_mask hides tokens between others",
    MadeBy.OPEN_TOKENS: "the tokens match no samples, of which one may begin at each 0",
    MadeBy.OPEN_MROPE: "M-RoPE's places of videos, audio and this model are not recomputed",
    MadeBy.FIRST_PLANE: "its first plane is not 0, 1, 2 …",
    MadeBy.NO_MEDIA_TO_COMPARE: "the batch has none to compare with",
    MadeBy.SHAPE: "its shape {} is not that of input_ids",
    MadeBy.SHAPES: "input_ids has shape {}, and this {}",
    MadeBy.MARKS: "it does not mark the placeholder tokens of input_ids by modality",
    MadeBy.ORDER: "the tokens' places go 0, 1, 2 …: column {0[1]} of row {0[0]} has {1[0]}, and "
    "{2[0]} follows from the tokens before it",
    MadeBy.MROPE: "M-RoPE's places in time, height and width follow from the grids: column {0[1]} "
    "of row {0[0]} has {1}, and belongs at {2}",
    MadeBy.TURNED: "height and width are swapped: column {0[1]} of row {0[0]} has {1} in time, "
    "height and width, and belongs at {2}",
    MadeBy.DELTAS: "they are the highest position of a sample, and 1, less the number of its "
    "tokens: row {0[0]} has {1[0]}, and {2[0]} follows from the grids",
    MadeBy.DELTAS_SHAPE: "its shape {} is not (sample, 1)",
    MadeBy.DELTAS_PACKED: "its rows hold several samples, and no model generates from such rows",
    MadeBy.NO_MEDIA: "the batch has no such media",
    MadeBy.COMPLETION: "the completion must have type 1: tokens of type 0 are the prompt, which "
    "sees all of itself",
    MadeBy.PADDING_UNKNOWN: "the padding token is not known",
    MadeBy.HIDES_TEXT: "it hides tokens that are no padding",
    MadeBy.SHOWS_PADDING: "it shows padding",
    MadeBy.UNREAD: "the call cannot be read by itself",
    MadeBy.MARKS_UNKNOWN: "which tokens it must mark is not known",
    MadeBy.OTHER_SHAPE: "its shape is not that of input_ids",
    MadeBy.NOT_MARKED: "it does not mark the placeholder tokens of input_ids",
}


def made(why: MadeReason) -> str:
    """Why a key that was made is wrong, or was not checked."""
    return MADE[why.rule].format(*why.shapes)


def columns_cut(key: str, change: Change) -> str:
    """`columns of pixel_values were cut: 63 of 1176`."""
    pairs = zip(change.given, change.expected, strict=True)
    cut = [f"{given} of {have}" for given, have in pairs if given != have]
    return f"columns of {key} were cut: {' and '.join(cut)}"


ALONE = "Compare the logits of a packed row with those of its samples alone."
APART = "it is not known what keeps samples apart in this model"
SEAMS: Mapping[Seams, tuple[str, str]] = {
    Seams.MODEL: (APART, ALONE),
    Seams.NO_MODEL: (APART, f"Pass config= of the model. {ALONE}"),
    Seams.MASK: (
        "with an attention_mask, models ignore where position_ids start again",
        "Leave attention_mask out of a packed batch.",
    ),
    Seams.BLOCKS: (
        "what an attention_mask of more than two dimensions must show is not known",
        "Pass the mask of two dimensions that the processor returns.",
    ),
    Seams.UNREAD: (
        "an argument that says where they begin is no tensor of numbers",
        "Pass position_ids, labels and the ends of samples as tensors of whole numbers.",
    ),
    Seams.CACHE: (
        "with a cache, models other than those with flash-attention ignore where position_ids "
        "start again",
        "Pass use_cache=False.",
    ),
    Seams.FLASH: (
        "only flash-attention reads cu_seq_lens_q and _k, and no position_ids start again",
        "Pass position_ids that start again, too, or model=, which shows its attention.",
    ),
    Seams.JUMPS: (
        "only flash-attention sees where they begin, as the first plane of position_ids does not "
        "go on by one in each sample",
        "Let the first of the four planes be 0, 1, 2 … in each sample.",
    ),
    Seams.UNLIKE: (
        "position_ids start at numbers that differ, which flash-attention does not take for starts",
        "Start at 0 in each sample.",
    ),
    Seams.UNMASKED: (
        "without attention_mask only position_ids keep the padding in front of them apart, and "
        "flash-attention of several rows does not read these",
        "Pass attention_mask, or model=, which shows its attention.",
    ),
    Seams.SEVERAL: (
        "flash-attention reads position_ids of a single row only, and it is not known whether the "
        "model has it",
        "Pass model=, which shows its attention, or cu_seq_lens_q, cu_seq_lens_k, max_length_q and "
        "max_length_k of all rows.",
    ),
    Seams.OPEN: ("M-RoPE's places of this model are not recomputed", ALONE),
    Seams.STRANGE: (
        "also tokens that are of no sample of the batch and no padding",
        "Pack the samples of the batch alone.",
    ),
}
"""Why packed samples may not be apart, and what to do."""
UNSEEN: Mapping[Seams, str] = {
    Seams.BLOCKS: "it was not compared",
    Seams.UNMASKED: "they may attend to it",
    Seams.OPEN: "position_ids were not compared",
    Seams.STRANGE: "those were not compared",
}
"""What follows where samples are not mixed."""


def doubt(one: Doubt) -> str:
    """What was not compared, why, and what would settle it."""
    match one:
        case Unmatched():
            return _unmatched(one)
        case MayDiffer():
            return _may_differ(one)
        case NotRecomputed(key, chunk, why):
            return (
                f"{key} was made by the slicer (first in chunk {chunk}) and was not checked: "
                f"{made(why)}. Ask the model, vlmdebug.prove, or put {key} into the batch that is "
                "cut."
            )
        case PlacesUnknown(key, why):
            return (
                f"{key} of the batch were not checked: {made(why)}. Compare them with those "
                "that the model computes, or leave them out, so that it does."
            )
        case Embedded(chunk):
            return (
                f"The chunks hold inputs_embeds in place of input_ids (first in chunk {chunk}), so "
                "the samples could not be identified and the verdicts are not certain. "
                "Pass input_ids on."
            )
        case FeaturesUnknown():
            return _features_unknown(one)
        case LeftOut() | PaddingShown():
            return _of_columns(one)
        case SidesUnseen(key, images):
            return (
                f"Which side of images {listed(images)} is the height could not be compared: "
                f"{key} fits their padding with height and width swapped, too. Pass pixel values "
                "of real images."
            )
        case NotAlone() | NotNextTo() | NotTheSame():
            return _of_collator(one)
        case NotSplit():
            return shard_doubt(one)
        case BehindPrompt() | BeforePromptEnds():
            return _of_prompt(one)
        case _:
            return _of_batch(one)


def _of_collator(one: NotAlone | NotNextTo | NotTheSame) -> str:
    match one:
        case NotAlone(row, error):
            return (
                f"Row {row} alone gave no batch ({error}), so the rows together were not compared "
                "with each of them alone. Let the collator take one row, or leave that row out."
            )
        case NotNextTo(key):
            return (
                f"{key} of the batch could not be matched to what the rows have alone, by its "
                "shape. It was not compared. Look at both: collate([row]) and collate(rows)."
            )
        case NotTheSame(keys):
            return (
                "The collator gives other values for the same row each time, of "
                f"{', '.join(keys)}, so these were not compared with each row alone. "
                "Switch off what is random in it, such as augmentation."
            )


def _unmatched(one: Unmatched) -> str:
    key, chunk = one.key, one.chunk
    if one.unread is not None:
        return (
            f"Could not match {key} to rows of the batch (first in chunk {chunk}): it is "
            f"{one.unread}. {key} was not checked in these chunks. Pass a dense tensor of numbers."
        )
    return (
        f"Could not match {key} to rows of the batch (first in chunk {chunk}, "
        f"{number(one.rows, 'row')}): its values or shape were changed. The key was not checked "
        "in these chunks. Pass the rows on unchanged, or change them after slicing."
    )


def _may_differ(one: MayDiffer) -> str:
    key, chunk, change = one.key, one.chunk, one.change
    if change.kind == "longer":
        return (
            f"{key} has {one.columns} columns of tokens, more than input_ids (first in chunk "
            f"{chunk}): some models look no further than input_ids, others raise. Trim both "
            f"alike, or {ASK}."
        )
    if change.kind == "recast":
        now, before = change.dtype
        return (
            f"{key} was passed as {now} (first in chunk {chunk}), where the batch has {before}: "
            f"its values are the same, but some models refuse that dtype. Pass {key} as {before}, "
            f"or {ASK}."
        )
    return (
        f"{columns_cut(key, change)} (first in chunk {chunk}). Only padding was cut off, which "
        f"some models do not need. Pass {key} uncut, or {ASK}."
    )


def _features_unknown(one: FeaturesUnknown) -> str:
    said = (
        f"How many {one.side} each {one.modality} has is not known, so placeholders and features "
        "were not compared. Rows can still be cut."
    )
    if one.modality != "image":
        return said  # no argument is sure to give a rule for them
    return f"{said} Pass processor=, or processor= and config= together."


def _of_columns(one: LeftOut | PaddingShown) -> str:
    if isinstance(one, PaddingShown):
        return (
            f"input_ids of chunk {one.chunk} has more or fewer columns of padding than the batch. "
            f"Without {one.mask}, tokens attend to padding, so what they compute may differ. "
            f"Pass {one.mask}, or leave the padding as it is."
        )
    cut = ", ".join(f"{count} of sample {sample}" for sample, count in one.tokens[:MOST_SAMPLES])
    return (
        f"input_ids of chunk {one.chunk} lacks tokens that attention_mask does not hide: {cut}. "
        "The tokens that are left do not see them. Trim no more columns than are padding in every "
        "row of the chunk; where the cut is meant, cut the batch alike before it is checked."
    )


def _unmasked(one: Unmasked) -> str:
    tokens = number(one.tokens, "padding token")
    where = "in front of" if one.causal else "next to"
    first = (
        f"attention_mask shows {tokens} {where} the text of sample {one.sample}"
        if one.masked
        else f"The batch has no attention_mask, and sample {one.sample} has {tokens} that its text "
        "attends to"
    )
    return (
        f"{first}. The model reads them as text. Pass attention_mask as the processor returned it."
    )


def _of_prompt(one: BehindPrompt | BeforePromptEnds) -> str:
    typed = f"sample {one.sample} has {number(one.tokens, 'token')} with token_type_ids"
    if isinstance(one, BeforePromptEnds):
        return (
            f"{typed} 1 in front of the end of its prompt: the model does not let them see the "
            "tokens of the prompt behind them, nor be seen by those in front. Set token_type_ids "
            "to 0 in the prompt, and to 1 behind it."
        )
    return (
        f"{typed} 0 behind the line break that ends a prompt: the model lets tokens of type 0 see "
        "each other, later ones too. If they are a completion, set their token_type_ids to 1."
    )


def _lost_mask(one: LostMask) -> str:
    if one.times:
        return (
            f"The batch has videos and no {one.key}, so the model takes 1.0 second between frames, "
            f"and whether that is right is not known. Pass {one.key} as the processor returned it."
        )
    return (
        f"The batch has no {one.key}, which its processor returns: the model takes every pixel "
        "for one of an image, and which of them are padding is not known. "
        f"Pass {one.key} as the processor returned it."
    )


NEEDS: Mapping[Needs, str] = {
    "positions": "M-RoPE writes positions of int64 into a tensor of that dtype, and torch raises. "
    "Cast it to int64, or pass position_ids.",
    "loss": "the loss of the model takes int64 for tokens, and raises. Cast it to int64.",
    "tiles": "the model takes tiles by truth values: with others it raises, or takes other tiles. "
    "Cast it to bool.",
    "weights": "the model does not cast it to the dtype of its weights, so that torch raises. Cast "
    "it to that dtype.",
}


def _of_values(one: WholePixels | OtherDtype | NotFinite | OddMask) -> str:
    match one:
        case OtherDtype(key, dtype, why):
            return f"{key} holds {dtype}, but {NEEDS[why]}"
        case WholePixels(key, dtype):
            return (
                f"{key} holds {dtype}, but processors return floating point: a cast may have "
                "destroyed the values, and nothing is left to compare them with. Keep the dtype "
                "that the processor gave."
            )
        case NotFinite(key):
            return (
                f"{key} holds NaN or infinity, which no processor returns: values overflowed in a "
                "cast, or were never written. The model computes NaN from them. Compare with what "
                "the processor returned, before any cast."
            )
        case OddMask(key):
            return (
                f"{key} holds values other than 0 and 1: some models multiply by them, and others "
                f"take each that is not 0 for 1, or raise. Pass {key} as the processor returned it."
            )


def _of_batch(
    one: MoreColumns
    | WholePixels
    | OtherDtype
    | NotFinite
    | OddMask
    | Hidden
    | Unmasked
    | LostMask
    | NotApart
    | Written,
) -> str:
    match one:
        case MoreColumns(key, columns, of_ids):
            return (
                f"{key} has {columns} columns of tokens, but input_ids has {of_ids}: some models "
                f"look no further than input_ids, others raise. Trim both alike, or {ASK}."
            )
        case Hidden(sample, tokens):
            return (
                f"attention_mask hides {number(tokens, 'token')} of sample {sample} that are not "
                "the padding token, and nothing says that this is meant. The model does not see "
                "them. Make the mask from the padding of the final input_ids."
            )
        case Unmasked():
            return _unmasked(one)
        case WholePixels() | OtherDtype() | NotFinite() | OddMask():
            return _of_values(one)
        case LostMask():
            return _lost_mask(one)
        case NotApart(samples, why):
            said, todo = SEAMS[why]
            return (
                f"Rows of input_ids hold {number(samples, 'sample')}, but {said}, so "
                f"{UNSEEN.get(why, 'the model may mix them')}. {todo}"
            )
        case Written(key):
            return (
                f"{key} was modified in place between two chunks of the same input_ids, so its "
                "rows could not be matched to samples, and only their number was checked. Do not "
                "modify the batch while it is cut into chunks."
            )
