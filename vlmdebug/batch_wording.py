"""What VLM010 says: the runs of a sample beside its features, what follows, the likely cause."""

from __future__ import annotations

from collections.abc import Sequence

from vlmdebug.batch import Batch
from vlmdebug.causes import Cause, Fault
from vlmdebug.layout import plural
from vlmdebug.runs import Sides
from vlmdebug.wording import DEPENDS, listed, number

REMEDIES: dict[Cause, str] = {
    "text cut off": "Truncation (max_length) likely cut the text inside {the}: "
    "raise max_length or drop {the} with all placeholder tokens.",
    "text without its images": "The chat template likely has no {noun} placeholder, or the prompt "
    "was made without it: print the text of that sample.",
    "images without a text": "{a} that the text names was likely dropped: "
    "pass the rows of every {noun} that the text names.",
    "another order": "The texts are likely in another order than the {nouns}: sort, shuffle and "
    "repeat both together.",
    "another size": "The text was likely made for {the} at another size{frames}: "
    "make text and {nouns} in one call of the processor, with the same options.",
    "expanded twice": "A placeholder was likely expanded twice, by the processor and again by "
    "other code: pass the text before or after expansion, not both.",
    "sampled placeholder": "A lone placeholder is likely sampled by a model in its completion: "
    "forbid that token id in generation.",
    "stray placeholder": "A stray placeholder is likely typed in the data, or sampled by a model: "
    "remove that token from the text.",
    "unknown": "Print the text of that sample and count the {nouns} in it.",
}


def out_of_step(
    batch: Batch,
    sides: Sides,
    sample: int,
    made: int | None,
    faults: Sequence[Fault],
    silent: bool | None,
) -> str:
    """VLM010 of one sample."""
    noun = "" if sides.noun == "image" else f"{sides.noun} "
    written, nouns = sides.placeholders[sample], plural(sides.noun)
    runs = [run.length for run in sides.runs[sample]]
    head = f"sample {sample} has {number(written, f'{noun}placeholder token')}"
    if made is None:
        head += f", in runs of {listed(runs)}, which fit none of the {nouns} that are due there."
    else:
        become = f"its {nouns} become {number(made, 'feature')}"
        head += f" but {become}: {_difference(sides, sample, written, made, faults)}."
    lines = [head, _consequence(batch, silent)]
    if made is not None and len(runs) + len(faults) > 1:
        lines.append(f"Runs of placeholder tokens: {listed(runs)}.")
    causes: list[Cause] = [*dict.fromkeys(fault.cause for fault in faults)] or ["unknown"]
    the = f"that {sides.noun}" if len(faults) == 1 else f"the {nouns}"
    frames = " or with another number of frames" if sides.noun == "video" else ""
    a = f"{'A' if sides.noun == 'video' else 'An'} {sides.noun}"
    lines += [
        REMEDIES[cause].format(noun=sides.noun, nouns=nouns, a=a, the=the, frames=frames)
        for cause in causes
    ]
    return "\n".join(lines)


def _difference(sides: Sides, sample: int, written: int, made: int, faults: Sequence[Fault]) -> str:
    causes = {fault.cause for fault in faults}
    if not written:
        return "the text names none of them"
    if causes == {"another order"}:
        return "they fit other samples" if written != made else "they are in another order"
    if written == made:
        return "as many, but in runs that do not fit"
    if written > made:
        return f"{written - made} too many"
    where = ", ".join(_left(sides, sample, fault) for fault in faults if fault.images)
    if causes == {"text cut off"}:
        return f"{made - written} were cut{f' from {where}' if where else ''}"
    return f"{made - written} too few{f', {where}' if where else ''}"


def _left(sides: Sides, sample: int, fault: Fault) -> str:
    """`image 1 (30 of 64 left)`; the image is numbered within its sample where that is known."""
    first = fault.images.start
    names = f"{sides.unit} {first} of the batch"
    if sides.owned is not None:
        names = f"{sides.unit} {first - sum(sides.owned[:sample])}"
    if len(fault.images) > 1:
        names += f" and {len(fault.images) - 1} more"
    return f"{names} ({fault.have} of {fault.want} left)"


def totals(batch: Batch, sides: Sides, named: Sequence[int]) -> str:
    """VLM010 where it is not certain which samples are wrong."""
    noun, nouns = "" if sides.noun == "image" else f"{sides.noun} ", plural(sides.noun)
    written, made = sum(sides.placeholders), sum(sides.features)
    tokens, features = number(written, f"{noun}placeholder token"), number(made, "feature")
    raises = "The model will raise, naming just these totals." if written != made else DEPENDS
    by_sample = "; ".join(
        f"sample {sample}: {listed([run.length for run in own]) or 'none'}"
        for sample, own in list(enumerate(sides.runs))[:8]
    )
    more = f" … {len(sides.runs)} samples in all" if len(sides.runs) > 8 else ""
    lines = [
        f"The batch has {tokens} but its {nouns} become {features}.",
        raises,
        f"Runs of placeholder tokens: {by_sample}{more}. "
        f"Features of the {plural(sides.unit)} in order: {listed(sides.features)}.",
    ]
    if named:
        lines.append(f"No text names {sides.unit} {listed(named)} of the batch.")
    if not written:
        lines.append(REMEDIES["text without its images"].format(noun=sides.noun))
    count = sides.unit if sides.unit in ("tile",) else sides.noun
    if sides.owned is None:
        lines.append(f"Pass num_{count}s=[…] to see which sample it is.")
    return "\n".join(lines)


def side_by_side(sample: int, tokens: int, images: Sequence[int], *, raises: bool) -> str:
    """VLM010 where a run of placeholder tokens is as long as several images."""
    return (
        f"sample {sample} has {tokens} placeholder tokens in one run, which are the features of "
        f"images {listed(images)} of the batch.\n"
        f"{'The model will raise: it' if raises else f'{DEPENDS} It'} takes each run of image "
        "tokens for one image.\n"
        "Keep the tokens that the processor writes between images, and one row of image_grid_thw "
        "per image."
    )


def without_media(sample: int, written: int, silent: bool | None) -> str:
    """VLM010 where the batch has no media at all."""
    then = "The model will not raise: without pixels it compares nothing and sees no image."
    return (
        f"sample {sample} has {number(written, 'placeholder token')} but its images become "
        f"0 features: {written} too many.\n"
        f"{then if silent else DEPENDS}\n"
        "Give the batch every image that the text names."
    )


def _consequence(batch: Batch, silent: bool | None) -> str:
    if silent is None:
        return DEPENDS
    if silent:
        return "The totals of the batch agree, so the model will not raise on the whole batch."
    features = batch.image.features
    if features is not None and batch.image.placeholders is not None:
        if sum(features) == sum(batch.image.placeholders):
            return (
                "The totals of the batch agree, but the model lays images out sample by sample "
                "and will raise."
            )
    return "The model will raise, naming totals only."
