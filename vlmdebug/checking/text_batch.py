"""Words for what is wrong with a whole batch: VLM003, VLM010, VLM011 and VLM013."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vlmdebug.checking.batch_findings import (
    AttendsOtherwise,
    Contradicted,
    LabelsDiffer,
    LabelsLength,
    LabelsOnMedia,
    LabelsOnPadding,
    LabelsOnPrompt,
    Lacking,
    MarkedOtherwise,
    MaskDiffers,
    NoFeatures,
    NothingShown,
    OneRun,
    OtherRows,
    OutsideSizes,
    PlacedOtherwise,
    Promised,
    RunsDiffer,
    ShortColumns,
    Stray,
    TilesDiffer,
    TotalsDiffer,
)
from vlmdebug.checking.causes import Fault, RunCause
from vlmdebug.checking.findings import Difference
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import PROMPT_TYPES
from vlmdebug.core.layout import plural
from vlmdebug.core.wording import Words, image_name, listed, number

MOST_SAMPLES = 8
REMEDIES: Mapping[RunCause, str] = {
    RunCause.CUT_OFF: "Truncation (max_length) likely cut the text inside {the}: "
    "raise max_length or drop {the} with all placeholder tokens.",
    RunCause.NO_RUN: "The chat template likely has no {noun} placeholder, or the prompt "
    "was made without it: print the text of that sample.",
    RunCause.NO_IMAGE: "{a} that the text names was likely dropped: "
    "pass the rows of every {noun} that the text names.",
    RunCause.ANOTHER_ORDER: "The texts are likely in another order than the {nouns}: sort, shuffle "
    "and repeat both together.",
    RunCause.ANOTHER_SIZE: "The text was likely made for {the} at another size{frames}: "
    "make text and {nouns} in one call of the processor, with the same options.",
    RunCause.EXPANDED_TWICE: "A placeholder was likely expanded twice, by the processor and again "
    "by other code: pass the text before or after expansion, not both.",
    RunCause.SAMPLED: "A lone placeholder is likely sampled by a model in its completion: "
    "forbid that token id in generation.",
    RunCause.STRAY: "A stray placeholder is likely typed in the data, or sampled by a model: "
    "remove that token from the text.",
    RunCause.UNKNOWN: "Print the text of that sample and count the {nouns} in it.",
}


def _placeholders(count: int, noun: str) -> str:
    """`4 placeholder tokens` of images, `4 video placeholder tokens`."""
    return number(count, f"{'' if noun == 'image' else f'{noun} '}placeholder token")


# --- runs and totals -------------------------------------------------------------------------


def _runs_differ(found: RunsDiffer, batch: Batch) -> Words:
    nouns, faults = plural(found.noun), found.faults
    said = f"sample {found.sample} has {_placeholders(sum(found.runs), found.noun)}"
    if found.features is None:
        said += f", in runs of {listed(found.runs)}, which fit none of the {nouns} that are due "
        said += "there."
    else:
        become = f"its {nouns} become {number(found.features, 'feature')}"
        said += f" but {become}: {_difference(found, found.features)}."
    lines = []
    if found.features is not None and len(found.runs) + len(faults) > 1:
        lines.append(f"Runs of placeholder tokens: {listed(found.runs)}.")
    causes = [*dict.fromkeys(fault.cause for fault in faults)] or [RunCause.UNKNOWN]
    names = {
        "noun": found.noun,
        "nouns": nouns,
        "a": f"{'A' if found.noun == 'video' else 'An'} {found.noun}",
        "the": f"that {found.noun}" if len(faults) == 1 else f"the {nouns}",
        "frames": " or with another number of frames" if found.noun == "video" else "",
    }
    return Words(said, "\n".join([*lines, *(REMEDIES[one].format(**names) for one in causes)]))


def _difference(found: RunsDiffer, features: int) -> str:
    causes = {fault.cause for fault in found.faults}
    written = sum(found.runs)
    if not written:
        return "the text names none of them"
    if causes == {RunCause.ANOTHER_ORDER}:
        return "they fit other samples" if written != features else "they are in another order"
    if written == features:
        return "as many, but in runs that do not fit"
    if written > features:
        return f"{written - features} too many"
    where = ", ".join(_left(found, fault) for fault in found.faults if fault.images)
    if causes == {RunCause.CUT_OFF}:
        return f"{features - written} were cut{f' from {where}' if where else ''}"
    return f"{features - written} too few{f', {where}' if where else ''}"


def _left(found: RunsDiffer, fault: Fault) -> str:
    """`image B2 (30 of 64 left)`; it is named by its sample where its place there is known."""
    first = fault.images.start
    names = f"{found.unit} {first} of the batch"
    if found.before is not None:
        place = first - found.before
        named = image_name(found.sample, place) if found.unit == "image" else place
        names = f"{found.unit} {named}"
    if len(fault.images) > 1:
        names += f" and {len(fault.images) - 1} more"
    return f"{names} ({fault.have} of {fault.want} left)"


def _totals_differ(found: TotalsDiffer, batch: Batch) -> Words:
    written, unit = sum(map(sum, found.runs)), found.unit
    features = number(sum(found.features), "feature")
    said = f"The batch has {_placeholders(written, found.noun)} but its {plural(found.noun)} "
    if found.outside:
        own = _placeholders(written, found.noun)
        said = f"The samples have {own}, and {found.outside} more are tokens of no sample: the "
        said += f"{plural(found.noun)} of the batch "
    by_sample = "; ".join(
        f"sample {sample}: {listed(own) or 'none'}"
        for sample, own in enumerate(found.runs[:MOST_SAMPLES])
    )
    more = f" … {len(found.runs)} samples in all" if len(found.runs) > MOST_SAMPLES else ""
    lines = [
        f"Runs of placeholder tokens: {by_sample}{more}. "
        f"Features of the {plural(unit)} in order: {listed(found.features)}."
    ]
    if found.unnamed:
        lines.append(f"No text names {unit} {listed(found.unnamed)} of the batch.")
    if not written:
        lines.append(REMEDIES[RunCause.NO_RUN].format(noun=found.noun))
    if found.outside:
        lines.append("Give the boundaries of every sample: no token with media is padding.")
    elif not found.owned:
        counted = unit if unit == "tile" else found.noun
        lines.append(f"Pass num_{counted}s=[…] to see which sample it is.")
    return Words(f"{said}become {features}.", "\n".join(lines))


def _one_run(found: OneRun, batch: Batch) -> Words:
    return Words(
        f"sample {found.sample} has {found.tokens} placeholder tokens in one run, which are the "
        f"features of images {listed(found.images)} of the batch.",
        "Keep the tokens that the processor writes between images, and one row of image_grid_thw "
        "per image.",
    )


def _no_features(found: NoFeatures, batch: Batch) -> Words:
    tokens = number(found.placeholders, "placeholder token")
    return Words(
        f"sample {found.sample} has {tokens} but its images become "
        f"0 features: {found.placeholders} too many.",
        "Give the batch every image that the text names.",
    )


def _nothing_shown(found: NothingShown, batch: Batch) -> Words:
    return Words(
        f"{found.key} shows no token of sample {found.sample}, and the model lays out images by "
        "the tokens that it shows.",
        "Leave rows of padding alone out of a call with images, or repeat a real sample.",
    )


def _contradicted(found: Contradicted, batch: Batch) -> Words:
    first, *rest = found.said.split(". ")
    return Words(f"{first}.", "", ". ".join(rest))


def _marked_otherwise(found: MarkedOtherwise, batch: Batch) -> Words:
    tokens = _placeholders(found.placeholders, found.noun)
    return Words(
        f"sample {found.sample} has {tokens} in input_ids, but {found.key} marks {found.marked}.",
        f"Make {found.key} from the final input_ids: "
        "a completion or a template changed one of them.",
    )


def _short_columns(found: ShortColumns, batch: Batch) -> Words:
    key = found.key
    return Words(
        f"{key} has {number(found.columns, 'column')} of tokens, but input_ids has {found.of_ids}.",
        f"Pad {key} wherever input_ids grows, as by a completion, and trim both alike.",
    )


# --- what is missing -------------------------------------------------------------------------


def _stray(found: Stray, batch: Batch) -> Words:
    unit = found.modality
    return Words(
        f"sample {found.sample} has {number(found.placeholders, f'{unit} placeholder token')}, "
        f"but the batch has no {plural(unit)}.",
        f"Give the batch every {unit} that the text names; where the text names none, the token is "
        "likely sampled by a model in its completion: forbid that token id in generation.",
    )


def _promised(found: Promised, batch: Batch) -> Words:
    unit = found.modality
    return Words(
        f"num_{unit}s adds up to {found.total}, but the batch has no {plural(unit)} at all.",
        f"Pass the {plural(unit)} with the text, or leave num_{unit}s out.",
    )


def _lacking(found: Lacking, batch: Batch) -> Words:
    key = found.key
    return Words(
        f"the whole batch lacks {key}, which its processor returns and its model takes.",
        f"Keep every key that the processor returned: a collator likely dropped {key}.",
    )


def _other_rows(found: OtherRows, batch: Batch) -> Words:
    also = "" if found.key == "pixel_values" else f" and {found.key}"
    rows = f"rows of pixel_values{also}"
    return Words(
        f"sample {found.sample} has {number(found.placeholders, 'placeholder token')} but "
        f"{number(found.images, 'image')} in its {rows}.",
        "Pass the images of each sample in its own row, in the order of its text.",
    )


def _outside_sizes(found: OutsideSizes, batch: Batch) -> Words:
    given, whole = (f"{height} x {width}" for height, width in (found.sides, found.whole))
    row = f"{found.key}[{found.image}] is {given} (height x width)"
    todo = f"Pass {found.key} and pixel_values of one call of the processor."
    if found.swapped:
        todo = f"Height and width are swapped: pass {found.key} as the processor returned it."
    larger = found.sides[0] > found.whole[0] or found.sides[1] > found.whole[1]
    return Words(
        f"{row}, but pixel_values[{found.image}] is {whole}."
        if larger
        else f"{row}, but pixel_values[{found.image}] has other values than padding outside it.",
        todo,
    )


def _mask_differs(found: MaskDiffers, batch: Batch) -> Words:
    said = [f"hides {number(found.hidden, found.of)} of its images"] if found.hidden else []
    said += [f"shows {number(found.shown, found.of)} of padding"] if found.shown else []
    return Words(
        f"{found.key} of sample {found.sample} {' and '.join(said)}.",
        f"Pass {found.key} and pixel_values of one call of the processor, unchanged.",
    )


def _attends_otherwise(found: AttendsOtherwise, batch: Batch) -> Words:
    key, tokens = found.key, number(found.tokens, "token")
    said = (
        f"{key} shows {tokens} of sample {found.sample} other images than those before them in "
        f"the text, first at token {found.first}"
    )
    if not found.by:
        return Words(f"{said}.", f"Make {key} from the final input_ids, as the processor does.")
    side = "right" if found.by > 0 else "left"
    return Words(
        f"{said}: it stands {number(abs(found.by), 'column')} to the {side} of them.",
        f"Pad {key} on the side where input_ids is padded, and cut both alike.",
    )


def _placed_otherwise(found: PlacedOtherwise, batch: Batch) -> Words:
    tokens = number(len(found.due), "placeholder token")
    return Words(
        f"{found.key} puts the image of sample {found.sample} on {_columns(found.given)}, but its "
        f"{tokens} are on {_columns(found.due)} of input_ids.",
        f"Pad {found.key} on the side where input_ids is padded, cut both alike, and keep its "
        "values and dtype.",
    )


def _columns(columns: tuple[int, ...]) -> str:
    """`columns 2:6`, or a few of them."""
    if not columns:
        return "no column"
    first, last = columns[0], columns[-1] + 1
    if len(columns) == last - first:
        return f"columns {first}:{last}"
    return f"{len(columns)} of columns {first}:{last}"


def _tiles_differ(found: TilesDiffer, batch: Batch) -> Words:
    said = f"{found.key}[{found.sample}][{found.image}] is {found.ratio}"
    if found.sides is None:
        said += ", which is no aspect ratio of so many tiles"
    else:
        said += f", {found.sides[0]} x {found.sides[1]} tiles (height x width)"
    others = f" of the first {found.among}" if found.among > found.shown else ""
    return Words(
        f"{said}, but aspect_ratio_mask shows {found.shown}{others} and pixel_values holds "
        f"{found.held}.",
        "Pass all keys of images of one call of the processor.",
    )


# --- labels ----------------------------------------------------------------------------------


def _labels_length(found: LabelsLength, batch: Batch) -> Words:
    return Words(
        f"labels has {number(found.columns, 'column')}, but input_ids has {found.of_ids}.",
        "Make labels from the final input_ids, after placeholders are expanded and padding is "
        "added, and cut both alike.",
    )


def _labels_differ(found: LabelsDiffer, batch: Batch) -> Words:
    by = found.by
    if found.key != "labels":
        return Words(
            f"sample {found.sample} has {number(found.wrong, 'label')} of {found.learned} in "
            f"{found.key} that differ from the next token in input_ids.",
            f"Shift labels by one column to the left to make {found.key}: no model shifts them "
            "again.",
        )
    said = (
        f"sample {found.sample} has {number(found.wrong, 'label')} of {found.learned} that differ "
        "from the tokens in input_ids"
    )
    if not by:
        return Words(
            f"{said}: they are of another text.",
            "Make labels from the final input_ids, after placeholders are expanded.",
        )
    side = "right" if by > 0 else "left"
    return Words(
        f"{said}: they stand {number(abs(by), 'column')} to the {side} of them.",
        "Do not shift labels: the model does it. Pad labels on the side where input_ids is padded.",
    )


def _labels_on_media(found: LabelsOnMedia, batch: Batch) -> Words:
    tokens = number(found.placeholders, "placeholder token")
    return Words(
        f"sample {found.sample} has {tokens} among its labels.",
        "Set labels to -100 wherever input_ids holds a placeholder token.",
    )


def _labels_on_padding(found: LabelsOnPadding, batch: Batch) -> Words:
    return Words(
        f"sample {found.sample} has {number(found.tokens, 'token')} among its labels that "
        "attention_mask hides.",
        "Set labels to -100 wherever attention_mask is 0.",
    )


def _labels_on_prompt(found: LabelsOnPrompt, batch: Batch) -> Words:
    return Words(
        f"sample {found.sample} has {number(found.tokens, 'token')} of the prompt among its "
        f"labels: {PROMPT_TYPES} is 0 there.",
        f"Set {PROMPT_TYPES} to 1 behind the prompt, and labels to -100 in it.",
    )


WORDS: Mapping[type[Difference], Callable[[Any, Batch], Words]] = {
    Contradicted: _contradicted,
    RunsDiffer: _runs_differ,
    TotalsDiffer: _totals_differ,
    OneRun: _one_run,
    NoFeatures: _no_features,
    NothingShown: _nothing_shown,
    MarkedOtherwise: _marked_otherwise,
    ShortColumns: _short_columns,
    Stray: _stray,
    Promised: _promised,
    Lacking: _lacking,
    OtherRows: _other_rows,
    OutsideSizes: _outside_sizes,
    MaskDiffers: _mask_differs,
    AttendsOtherwise: _attends_otherwise,
    PlacedOtherwise: _placed_otherwise,
    TilesDiffer: _tiles_differ,
    LabelsLength: _labels_length,
    LabelsDiffer: _labels_differ,
    LabelsOnMedia: _labels_on_media,
    LabelsOnPadding: _labels_on_padding,
    LabelsOnPrompt: _labels_on_prompt,
}
