"""What a mismatch says: what was given, what belongs there, what will happen, what to do.

The first sentence alone must suffice in a log. Names are as in the user's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vlmdebug.cut_causes import WITHOUT_ZEROS
from vlmdebug.layout import STREAMS, plural
from vlmdebug.plan import Rows
from vlmdebug.safe import one_line

if TYPE_CHECKING:
    from vlmdebug.batch import Batch
    from vlmdebug.change import Change
    from vlmdebug.layout import Axis
    from vlmdebug.used import Made, Used


DEPENDS = "Depending on the model it raises or computes something else."
"""What follows where models differ."""
LOUD = "The model will raise."
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
        have = "has" if strange == 1 else "have"
        rows = number(len(used.rows), "row")
        return f"{key} with {rows}, {strange} of which {have} new values,"
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
        return f"Pass the rows of {key} unchanged: new values belong to no sample."
    if WITHOUT_ZEROS in units:
        return _zeros(batch, key, units)
    mistaken = f", not per {' or '.join(units)}" if units else ""
    if unit == "sample":
        return f"Cut {key} per sample{mistaken}: it has one row per sample."
    return f"Cut {key} per {unit}{mistaken}; vlmdebug.export(batch) writes that code."


def _zeros(batch: Batch, key: str, units: Sequence[str]) -> str:
    """What to do where the samples that own nothing are missing from the counts."""
    if WITHOUT_ZEROS not in units:
        return ""
    return (
        f"The offsets of {key} were computed without the samples that have no "
        f"{batch.layout[key].unit}: keep a 0 in the counts for each of them."
    )


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
        False: LOUD,
        None: DEPENDS,
    }[silent]
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


def dropped(
    batch: Batch,
    key: str,
    samples: Sequence[int],
    planned: Rows,
    then: str,
    units: Sequence[str] = (),
) -> str:
    """VLM003; `then` and `units` as for `wrong_rows`."""
    verb, own = ("was", "owns") if len(samples) == 1 else ("were", "own")
    return (
        f"{name_samples(samples)} {verb} given no {key} but {own} {_rows(batch, key, planned)}.\n"
        f"{then}\n{_zeros(batch, key, units) or f'Pass {key} on.'}"
    )


def must_be_absent(
    batch: Batch,
    key: str,
    samples: Sequence[int],
    used: Used,
    then: str,
    units: Sequence[str] = (),
) -> str:
    """VLM005; `then` and `units` as for `wrong_rows`."""
    has = "has" if len(samples) == 1 else "have"
    verb = "was" if len(samples) == 1 else "were"
    rows = "rows that cannot be told" if used.rows is None else _rows(batch, key, used.rows)
    if not used.length:
        rows = f"{key} with zero rows"
    unit = batch.layout.media.get(key, "")
    thing = unit if unit in STREAMS else "image"
    return (
        f"{name_samples(samples)} {has} no {thing} but {verb} given {rows}.\n"
        f"{then}\n"
        f"{_zeros(batch, key, units) or f'Leave {key} out of a chunk without {plural(thing)}.'}"
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


def made_otherwise(key: str, samples: Sequence[int], made: Made) -> str:
    """VLM011, a key that the slicer made and that holds other values than follow."""
    verb = "was" if len(samples) == 1 else "were"
    model = f"Leave {key} out, so that the model makes it, or make it as the model does."
    todo = made.todo or model
    return (
        f"{name_samples(samples)} {verb} given {key} that the slicer made, "
        f"but {made.why}.\n{DEPENDS}\n{todo}"
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


def cannot_tell(key: str, chunk: int, count: int, unread: str | None = None) -> str:
    """Rows that could not be told; no mismatch."""
    if unread is not None:
        return (
            f"Could not match {key} to rows of the batch (first in chunk {chunk}): it is {unread}. "
            f"{key} was not checked in these chunks. Pass a dense tensor of numbers."
        )
    return (
        f"Which rows of the batch the chunks' {key} holds cannot be told (first in chunk {chunk}, "
        f"{number(count, 'row')}): its values or shape were changed. It was not judged there. "
        "Pass the rows on unchanged, or change them after slicing."
    )


def may_be_cut(batch: Batch, key: str, chunk: int, used: Used, change: Change) -> str:
    """Rows without their padding, with more columns than tokens, or recast; no mismatch."""
    if change.kind == "longer":
        return (
            f"{key} has {used.columns} columns of tokens, more than input_ids (first in chunk "
            f"{chunk}): some models look no further than input_ids, others raise. Trim both "
            "alike, or ask the model: vlmdebug.prove."
        )
    if change.kind == "recast":
        now, before = change.dtype
        return (
            f"{key} was passed as {now} (first in chunk {chunk}), where the batch has {before}: "
            f"its values are the same, but some models refuse that dtype. Pass {key} as {before}, "
            "or ask the model: vlmdebug.prove."
        )
    return (
        f"{_cut_columns(key, change)} (first in chunk {chunk}). Only padding was cut off, which "
        f"some models do not need. Pass {key} uncut, or ask the model: vlmdebug.prove."
    )


def changed(
    key: str,
    samples: Sequence[int],
    change: Change,
    whole: tuple[int, ...],
    then: str,
) -> str:
    """VLM011: the right rows in another shape, or with other values; `then`: what follows."""
    verb = "was" if len(samples) == 1 else "were"
    said, todo = _change(key, change, whole)
    return f"{name_samples(samples)} {verb} given {said}.\n{then}\n{todo}"


def _change(key: str, change: Change, whole: tuple[int, ...]) -> tuple[str, str]:
    """What was given, and what to do."""
    shapes = f"{change.given} in place of {change.expected}"
    now, before = change.dtype
    keep = f"Pass the rows of {key} with all their dimensions: {key}[start:stop]."
    match change.kind:
        case "cut" | "padding cut":
            said = f"{key} with shape {shapes}: {_cut_columns(key, change)}"
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
        case "dtype":
            said = f"{key} as {now}, but token ids are looked up as int64 or int32"
            return said, f"Pass {key} as {before}: cast only tensors of floating point."
        case _:
            return (
                f"{key} with the batch's rows but other values: changed or moved within the rows",
                f"Pass the rows of {key} unchanged.",
            )


def _cut_columns(key: str, change: Change) -> str:
    """`columns of pixel_values were cut: 63 of 1176`."""
    pairs = zip(change.given, change.expected, strict=True)
    cut = [f"{given} of {have}" for given, have in pairs if given != have]
    return f"columns of {key} were cut: {' and '.join(cut)}"


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
        f"The slicer raised {type(error).__name__}{where} after {number(chunk, 'chunk')}: "
        f"{one_line(error, 500)}\n"
        f"{UNCUT if whole else ''}"
        "Later chunks were never produced and were not checked. Fix this line first."
    )


def keys_of(batch: Batch) -> str:
    """What a slicer can ask for, behind a key that the batch lacks."""
    return f"The batch has the keys {', '.join(batch.layout)}."


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
    who: str, placeholders: int, features: int, silent: bool | None, unit: str = ""
) -> str:
    """VLM009; `who` is `sample 1 has`; `unit` names clips, where it is not about images."""
    what = {
        True: "The model will not raise: without pixels it compares nothing.",
        False: "The model will raise.",
        None: DEPENDS,
    }[silent]
    tokens = number(placeholders, f"{unit} placeholder token".strip())
    todo = "Do not cut columns of input_ids that hold placeholder tokens."
    if placeholders > features > 0:
        todo = (
            f"{number(placeholders - features, 'placeholder token')} too many: a placeholder that "
            "was expanded already was likely expanded again. Expand each placeholder once."
        )
    return (
        f"{who} {tokens} in this chunk's input_ids but {number(features, 'feature')}.\n"
        f"{what}\n{todo}"
    )


def placeholders_lost(who: str, given: int, owned: int, unit: str) -> str:
    """VLM009 for clips of which it is not known how many features they become; `who` as above."""
    left = number(given, f"{unit} placeholder token") if given else f"no {unit} placeholder token"
    return (
        f"{who} {left} in this chunk's input_ids but {owned} in the batch, "
        f"and all rows of {plural(unit)}.\n{DEPENDS}\n"
        "Do not cut columns of input_ids that hold placeholder tokens."
    )


def marked_otherwise(key: str, sample: int, counted: int, marked: int) -> str:
    """VLM010 where two sources disagree."""
    return (
        f"sample {sample} has {number(counted, 'placeholder token')} in input_ids, but "
        f"{key} marks {marked}.\n"
        f"A model that tells images by {key} raises or computes something else.\n"
        f"Make {key} from the final input_ids: a completion or a template changed one of them."
    )


def clips_unknown(unit: str) -> str:
    """Clips whose placeholders and features could not be compared."""
    return (
        f"How many features the {plural(unit)} become is not known, so their placeholder tokens "
        "were not compared; rows can be cut all the same."
    )


def steps_unknown(batch: Batch) -> str:
    """Placeholders and features that could not be compared."""
    missing = "placeholder tokens" if batch.image.placeholders is None else "features"
    return (
        f"How many {missing} each image has is not known, so placeholders and features were not "
        "compared. Rows can still be cut. Pass processor=, or processor= and config= together."
    )


def pixels_cast(key: str, dtype: str) -> str:
    """Media of a dtype that no processor returns once it has normalised them; no mismatch."""
    return (
        f"{key} holds {dtype}, but processors return floating point: a cast may have destroyed the "
        "values, and nothing is left to compare them with. Keep the dtype that the processor gave."
    )


def hides(sample: int, count: int) -> str:
    """A mask that hides more than padding, which may be meant; no mismatch."""
    return (
        f"attention_mask hides {number(count, 'token')} of sample {sample} that are not the "
        "padding token, and nothing says that this is meant. The model does not see them. Make the "
        "mask from the padding of the final input_ids."
    )


def unmasked(sample: int, count: int, *, masked: bool) -> str:
    """Padding that the model reads as text, if it is padding; no mismatch."""
    tokens = number(count, "padding token")
    first = (
        f"attention_mask shows {tokens} in front of the text of sample {sample}"
        if masked
        else f"The batch has no attention_mask, and sample {sample} has {tokens} that its text "
        "attends to"
    )
    return (
        f"{first}. The model reads them as text. Pass attention_mask as the processor returned it."
    )


def left_out(chunk: int, tokens: Mapping[int, int]) -> str:
    """Text that a slicer cut off, which may be meant; no mismatch."""
    cut = ", ".join(f"{count} of sample {sample}" for sample, count in list(tokens.items())[:8])
    return (
        f"input_ids of chunk {chunk} lacks tokens that attention_mask does not hide: {cut}. "
        "The tokens that are left do not see them. Trim no more columns than are padding in every "
        "row of the chunk; where the cut is meant, cut the batch alike before it is checked."
    )


def not_finite(key: str) -> str:
    """Media that hold values no image has; no mismatch."""
    return (
        f"{key} holds NaN or infinity, which no processor returns: values overflowed in a cast, or "
        "were never written. The model computes NaN from them. Compare with what the processor "
        "returned, before any cast."
    )


def lost_mask(key: str) -> str:
    """A mask of pixels that is missing, which matters where some are padding; no mismatch."""
    return (
        f"The batch has no {key}, which its processor returns: the model takes every pixel for one "
        "of an image, and which of them are padding is not known. "
        f"Pass {key} as the processor returned it."
    )
