"""What a mismatch says: what was given, what belongs there, what will happen, what to do.

The first sentence alone must suffice in a log. Names are as in the user's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vlmdebug.layout import STREAMS, plural
from vlmdebug.plan import Rows

if TYPE_CHECKING:
    from vlmdebug.batch import Batch
    from vlmdebug.layout import Axis
    from vlmdebug.used import Used


DEPENDS = "Depending on the model it raises or computes something else."
"""What follows where models differ."""
WRONG_TOKENS = "it reads the wrong tokens"


def number(count: int, noun: str) -> str:
    """`1 row`, `2 rows`, `2 patches`.

    >>> number(1, "row"), number(2, "patch")
    ('1 row', '2 patches')
    """
    return f"{count} {noun if count == 1 else plural(noun)}"


def listed(numbers: Sequence[int], most: int = 6) -> str:
    """`0, 1, 2`, and for long lists `0, 1, 2, 3, 4, 5 … 64 in all`."""
    shown = ", ".join(map(str, numbers[:most]))
    return f"{shown} … {len(numbers)} in all" if len(numbers) > most else shown


def name_samples(samples: Sequence[int]) -> str:
    """`sample 1`, `samples 0:2`, `samples 2, 0`."""
    if len(samples) == 1:
        return f"sample {samples[0]}"
    rows = Rows.of(samples)
    named = str(rows) if len(rows.ranges) == 1 else listed(samples)
    return f"samples {named}" if samples else "no sample"


def wrong_rows(
    batch: Batch,
    key: str,
    samples: Sequence[int],
    planned: Rows,
    used: Used,
    then: str,
    units: Sequence[str],
) -> str:
    """VLM001, VLM002, VLM011: the rows given, the rows owned, and what follows.

    `then` says what the model does; `units` are those by which the rows may have been cut.
    """
    assert used.rows is not None
    verb, own = ("was", "owns") if len(samples) == 1 else ("were", "own")
    said = [
        f"{name_samples(samples)} {verb} given {_given(batch, key, used)} "
        f"but {own} {_rows(batch, key, planned)}.",
        then,
        _remedy(batch, key, used, units),
    ]
    return "\n".join(line for line in said if line)


def _given(batch: Batch, key: str, used: Used) -> str:
    assert used.rows is not None
    if used.source is not None:
        return f"{key} with rows {used.rows} of {used.source}"
    if used.rows.foreign:
        strange = sum(1 for row in used.rows if row < 0)
        are = "is" if strange == 1 else "are"
        rows = number(len(used.rows), "row")
        return f"{key} with {rows}, {strange} of which {are} not in the batch,"
    return _rows(batch, key, used.rows)


def _rows(batch: Batch, key: str, rows: Rows) -> str:
    """`pixel_values[0:1] (1 row: image 0 of sample 0)`."""
    if not rows.ranges:
        return f"no rows of {key}"
    whose = batch.describe(key, rows)
    return f"{key}[{rows}] ({number(len(rows), 'row')}{f': {whose}' if whose else ''})"


def consequence(
    silent: bool | None, balance: tuple[int, int] | None, planned: int, given: int, sees: str
) -> str:
    """What follows from `given` rows in place of the `planned` ones."""
    if silent is None:
        return "Whether the model raises cannot be told from the batch."
    if silent:
        if given == planned:
            return f"Both are the same length, so the model will not raise: {sees}."
        if not given:
            return "The model passes over pixels without rows, so it will not raise: it sees none."
        return "Features and placeholders still add up, so the model will not raise."
    if balance is not None and balance[0] != balance[1]:
        return (
            f"The model will raise: the chunk has {number(balance[0], 'placeholder token')} "
            f"and the rows become {number(balance[1], 'feature')}."
        )
    return "The model will raise: the tensors of the chunk do not fit together."


def without(silent: bool | None) -> str:
    """What follows where a key is missing."""
    return {
        True: "The model will not raise, but its answer changes.",
        False: "The model will raise.",
        None: DEPENDS,
    }[silent]


def surplus(family: str, key: str, silent: bool | None) -> str:
    """What follows where a key is there that must not be."""
    return {
        True: f"The model will not raise: it takes {key} for what the chunk's tokens stand for.",
        False: f"{family} cannot take {key} there, not even empty.",
        None: DEPENDS,
    }[silent]


def _remedy(batch: Batch, key: str, used: Used, units: Sequence[str]) -> str:
    unit = batch.layout[key].unit
    if used.rows is not None and used.rows.foreign and used.source is None:
        return f"Hand over the rows of {key} unchanged, or say what you changed."
    mistaken = f", not per {' or '.join(units)}" if units else ""
    if unit == "sample":
        return f"Cut {key} per sample{mistaken}: it has one row per sample."
    return f"Cut {key} per {unit}{mistaken}; vlmdebug.export(batch) writes that code."


def other_columns(
    key: str, samples: Sequence[int], used: Used, ids: Used, silent: bool | None
) -> str:
    """VLM011: the right rows, trimmed or padded otherwise than `input_ids`."""
    verb, its = ("was", "its") if len(samples) == 1 else ("were", "their")
    if used.columns == ids.columns:
        said = f"{key} with other columns than {its} input_ids"
    else:
        said = f"{key} with {used.columns} columns beside {ids.columns} of {its} input_ids"
    what = {
        True: "Both are the same length, so the model will not raise: it reads other tokens.",
        None: DEPENDS,
    }[silent or None]
    return (
        f"{name_samples(samples)} {verb} given {said}.\n{what}\n"
        "Trim and pad all that lies along the tokens by the same columns."
    )


def other_inner(
    key: str,
    samples: Sequence[int],
    axis: Axis,
    given: int,
    needed: int,
    silent: bool | None,
    fit: bool,
) -> str:
    """VLM001: the right rows, with less in each than their samples have."""
    verb, own = ("was", "owns") if len(samples) == 1 else ("were", "own")
    assert axis.padded is not None
    said = f"{key} with {number(given, axis.padded)} per sample"
    said += f" but {own} up to {needed}" if given < needed else ", and pixel_values with others"
    why = "fewer features than placeholder tokens" if fit else "tensors that do not fit together"
    what = f"The model will raise: the chunk has {why}."
    if silent is None:
        what = DEPENDS
    return (
        f"{name_samples(samples)} {verb} given {said}.\n{what}\n"
        f"Cut {key} on dim {axis.dim} only: dim {axis.padded_dim} is padded over "
        f"{plural(axis.padded)}, for the sample with the most."
    )


def short_columns(key: str, width: int, wide: int) -> str:
    """VLM011, in the batch as it was given."""
    return (
        f"{key} has {width} columns of tokens, but input_ids has {wide}.\n"
        f"{DEPENDS}\n"
        f"Pad {key} wherever input_ids grows, as by a completion, and trim both alike."
    )


def more_columns(key: str, width: int, wide: int) -> str:
    """Columns behind the tokens, which some models never look at; no mismatch."""
    return (
        f"{key} has {width} columns of tokens, but input_ids has {wide}: some models look no "
        "further than input_ids, others raise. Trim both alike, or ask the model: vlmdebug.prove."
    )


def dropped(batch: Batch, key: str, samples: Sequence[int], planned: Rows, then: str) -> str:
    """VLM003."""
    verb, own = ("was", "owns") if len(samples) == 1 else ("were", "own")
    return (
        f"{name_samples(samples)} {verb} given no {key} but {own} {_rows(batch, key, planned)}.\n"
        f"{then}\nPass {key} on."
    )


def must_be_absent(batch: Batch, key: str, samples: Sequence[int], used: Used, then: str) -> str:
    """VLM005."""
    has = "has" if len(samples) == 1 else "have"
    verb = "was" if len(samples) == 1 else "were"
    rows = "rows that cannot be told" if used.rows is None else _rows(batch, key, used.rows)
    if not used.length:
        rows = f"{key} with zero rows"
    unit = batch.layout.media[key].unit if key in batch.layout.media else ""
    thing = unit if unit in STREAMS else "image"
    return (
        f"{name_samples(samples)} {has} no {thing} but {verb} given {rows}.\n"
        f"{then}\n"
        f"Leave {key} out of a chunk without {plural(thing)}."
    )


def unknown_key(batch: Batch, key: str, samples: Sequence[int], near: str | None) -> str:
    """VLM004, a key that was passed."""
    verb = "was" if len(samples) == 1 else "were"
    meant = f"; {near} is the name it knows" if near else ""
    todo = f"Pass it as {near}." if near else f"Leave {key} out."
    return (
        f"{name_samples(samples)} {verb} given {key}, which layout {batch.layout.family} does not "
        f"know{meant}.\nThe model ignores it or raises, depending on its signature.\n{todo}"
    )


def made_otherwise(key: str, samples: Sequence[int], why: str) -> str:
    """VLM011, a key that the batch does not have and that holds other values than follow."""
    verb = "was" if len(samples) == 1 else "were"
    return (
        f"{name_samples(samples)} {verb} given {key} that the slicer made, "
        f"but {why}.\n{DEPENDS}\n"
        f"Leave {key} out, so that the model makes it, or make it as the model does."
    )


def not_recomputed(key: str, chunk: int, why: str) -> str:
    """A key that the slicer made and that could not be recomputed; no mismatch."""
    return (
        f"{key} was made by the slicer (first in chunk {chunk}) and was not checked: {why}. "
        f"Ask the model, vlmdebug.prove, or put {key} into the batch that is cut."
    )


def stale_lookup(batch: Batch, asked: str, near: str) -> str:
    """VLM004, a key that was asked for in vain."""
    return (
        f"The slicer looks for {asked}, which the batch does not have, and drops {near}, "
        f"which it has.\nIts branch for {asked} never runs with {batch.layout.family}.\n"
        f"Rename {asked} to {near}."
    )


def cannot_tell(key: str, chunk: int, count: int) -> str:
    """Rows that could not be told; no mismatch."""
    return (
        f"Which rows of the batch the chunks' {key} holds cannot be told (first in chunk {chunk}, "
        f"{number(count, 'row')}): its values or shape were changed. It was not judged there. "
        "Pass the rows on unchanged, or change them after slicing."
    )


def embedded(chunk: int) -> str:
    """`inputs_embeds` in place of `input_ids`; no mismatch."""
    return (
        f"The chunks hold inputs_embeds in place of input_ids (first in chunk {chunk}), so which "
        "samples they hold cannot be told and none was judged for sure. Pass input_ids on."
    )


def no_samples(chunk: int) -> str:
    """VLM006, for a chunk of nothing."""
    return (
        f"Chunk {chunk} holds no sample.\nThe model will raise.\n"
        "Let the loop end with the batch: for start in range(0, samples, chunk_size)."
    )


UNCUT = "It raises the same where the whole batch is one chunk, so no cut is the cause.\n"
"""Of a slicer that takes no batch of this kind."""


def raised(error: BaseException, place: str | None, chunk: int, *, whole: bool) -> str:
    """VLM008; `whole`: the batch in one chunk raises the same."""
    where = f" at {place}" if place else ""
    return (
        f"The slicer raised {type(error).__name__}{where} after {number(chunk, 'chunk')}: {error}\n"
        f"{UNCUT if whole else ''}"
        "No further chunk was made, so none was judged. Mend that line first."
    )


def skipped_or_repeated(
    times: Mapping[int, int], total: int, wanted: int, expand_size: int | None
) -> str:
    """VLM006; `times`: how often each sample came that should have come `wanted` times."""
    counts, parts = sorted({*times.values()}), []
    for count in counts:
        samples = [sample for sample, came in times.items() if came == count]
        never = "is in no chunk" if len(samples) == 1 else "are in no chunk"
        often = f"came {count} times" if count > 1 else "came once"
        parts.append(f"{name_samples(samples)} {often if count else never}")
    due = ""
    if wanted > 1:
        due = f" that are due {wanted} times each (slicer.expand_size)"
        due = due if expand_size else f", while others came {wanted} times"
    text = (
        f"{' and '.join(parts)}, of {number(total, 'sample')}{due}.\n"
        "No single call shows that, so the model will not raise.\n"
        "Let every sample be in one chunk: for start in range(0, samples, chunk_size)."
    )
    if expand_size == 1 and len(times) == total and len(counts) == 1 and counts[0]:
        text += f"\nIf that is on purpose, as for beams, say so: slicer.expand_size = {counts[0]}."
    return text


def reordered(position: int, sample: int) -> str:
    """VLM007."""
    return (
        f"The chunks hold the samples in another order: "
        f"sample {sample} came at position {position}.\n"
        "The model will not raise, but outputs put together again belong to other samples.\n"
        "Keep the batch's order, or undo the permutation on the outputs and say so: "
        "slicer.any_order = True."
    )


def chunk_out_of_step(
    samples: Sequence[int], placeholders: int, features: int, silent: bool | None, unit: str = ""
) -> str:
    """VLM009; `unit` names clips, where it is not about images."""
    what = {
        True: "The model will not raise: without pixels it compares nothing.",
        False: "The model will raise.",
        None: DEPENDS,
    }[silent]
    tokens = number(placeholders, f"{unit} placeholder token".strip())
    has = "has" if len(samples) == 1 else "have"
    return (
        f"{name_samples(samples)} {has} {tokens} in this chunk's "
        f"input_ids but {number(features, 'feature')}.\n{what}\n"
        "Do not cut columns of input_ids that hold placeholder tokens."
    )


def placeholders_lost(samples: Sequence[int], given: int, owned: int, unit: str) -> str:
    """VLM009 for clips of which it is not known how many features they become."""
    has = "has" if len(samples) == 1 else "have"
    left = number(given, f"{unit} placeholder token") if given else f"no {unit} placeholder token"
    return (
        f"{name_samples(samples)} {has} {left} in this chunk's input_ids but {owned} in the batch, "
        f"and all rows of {plural(unit)}.\n{DEPENDS}\n"
        "Do not cut columns of input_ids that hold placeholder tokens."
    )


def out_of_step(batch: Batch, sample: int, placeholders: int, features: int) -> str:
    """A whole sample whose tokens and images disagree, with the likely cause."""
    has = f"sample {sample} has {number(placeholders, 'placeholder token')}"
    images = f"its images become {number(features, 'feature')}"
    if placeholders > features:
        extra = placeholders - features
        return f"{has} but {images}: {extra} too many.\n{_whole_batch(batch)}\n" + (
            f"{number(extra, 'lone placeholder')} is likely sampled by a model in its completion: "
            "forbid that token id in generation."
            if extra <= 3
            else "Give the batch every image that the text names, or check num_images."
        )
    if not placeholders:
        return (
            f"{has} but {images}: the text names none of them.\n{_whole_batch(batch)}\n"
            "The chat template likely has no image placeholder, or the prompt was made without "
            "it: print the text of that sample."
        )
    cut = features - placeholders
    where = _cut_images(batch, sample)
    return (
        f"{has} but {images}: {cut} were cut{f' from {where}' if where else ''}.\n"
        f"{_whole_batch(batch)}\n"
        "Truncation (max_length) likely cut the text inside an image: "
        "raise max_length or drop that image with all its tokens."
    )


def marked_otherwise(sample: int, counted: int, marked: int) -> str:
    """VLM010 where two sources disagree."""
    return (
        f"sample {sample} has {number(counted, 'placeholder token')} in input_ids, but "
        f"mm_token_type_ids marks {marked}.\n"
        "A model that lays images out by mm_token_type_ids raises or computes something else.\n"
        "Make mm_token_type_ids from the final input_ids: a completion or a template changed one "
        "of them."
    )


def clips_out_of_step(unit: str, sample: int, placeholders: int, features: int) -> str:
    """VLM010 for video or audio clips."""
    return (
        f"sample {sample} has {number(placeholders, f'{unit} placeholder token')} but its "
        f"{plural(unit)} become {number(features, 'feature')}.\n"
        f"{DEPENDS}\n"
        "Truncation (max_length) may have cut the text inside a clip, or the clips are not this "
        f"sample's: check num_{unit}s."
    )


def clips_unknown(unit: str) -> str:
    """Clips whose placeholders and features could not be compared."""
    return (
        f"How many features the {plural(unit)} become is not known, so their placeholder tokens "
        "were not compared; rows can be cut all the same."
    )


def steps_unknown(batch: Batch) -> str:
    """Placeholders and features that could not be compared."""
    missing = "features" if batch.features is None else "placeholder tokens"
    return (
        f"How many {missing} each image has is not known, so placeholders and features were not "
        "compared; rows can be cut all the same. Pass processor= or config=."
    )


def totals_out_of_step(placeholders: int, features: int) -> str:
    """VLM010 where images per sample are not known."""
    return (
        f"The batch has {number(placeholders, 'placeholder token')} but its images become "
        f"{number(features, 'feature')}.\nThe model will raise, naming just these totals.\n"
        "Pass num_images=[…] to see which sample and image it is."
    )


def _whole_batch(batch: Batch) -> str:
    every = range(len(batch))
    if not batch.image_keys:
        return "The model will not raise: without pixels it compares nothing and sees no image."
    if batch.features_of(every) == batch.placeholders_of(every):
        if batch.layout.strict:
            return (
                "The totals of the batch agree, but the model lays images out sample by sample "
                "and will raise."
            )
        return "The totals of the batch agree, so the model will not raise on the whole batch."
    return "The model will raise, naming totals only."


def _cut_images(batch: Batch, sample: int) -> str | None:
    """Which images of the sample lost placeholder tokens: `image 1 (30 of 64 left)`.

    Truncation takes tokens from one end. The unbroken runs of placeholder tokens tell from
    which; where they do not, no image is named.
    """
    wanted = batch.per_image.get("feature")
    if wanted is None or batch.runs is None or "image" not in batch.counts:
        return None
    start, stop = batch.counts["image"].offsets[sample : sample + 2]
    wants, runs = list(wanted[start:stop]), list(batch.runs[sample])
    at_end = _kept(wants, runs)
    at_start = _kept(wants[::-1], runs[::-1])
    kept = at_end if at_end is not None else at_start and at_start[::-1]
    if kept is None or (at_end and at_start and at_end != at_start[::-1]):
        return None
    return ", ".join(
        f"image {image} ({have} of {want} left)"
        for image, (have, want) in enumerate(zip(kept, wants, strict=True))
        if have != want
    )


def _kept(wants: Sequence[int], runs: Sequence[int]) -> list[int] | None:
    """Tokens left of each image if the last ones were cut, or None where runs contradict that."""
    left, kept = sum(runs), []
    for want in wants:
        kept.append(min(want, left))
        left -= kept[-1]
    ends, total = {0}, 0
    for have in kept:
        total += have
        ends.add(total)
    # Every image's end is the end of a run, unless images stand side by side.
    total = 0
    for run in runs:
        total += run
        if total not in ends and len(runs) <= len(wants):
            return None
    return kept
