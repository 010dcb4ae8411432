"""Words for differences at the seams of packed rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vlmdebug.checking.findings import Difference
from vlmdebug.checking.packed import CutInRow, LabelsAcross, Mixed, OtherPositions
from vlmdebug.core.batch import Batch
from vlmdebug.core.observed import Seam, Seams
from vlmdebug.core.wording import Words, name_samples, number

ALONE = "Compute position_ids of each sample alone, and concatenate them."
NO_FLASH = "The attention of this model does not read cu_seq_lens_q."
PLANES = (
    "Models with M-RoPE need (4, row, seq): the places of text, which separate samples, then time, "
    "height and width. Other models need (row, seq)."
)


def _shape(numbers: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, numbers))})"


def _numbers(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else _shape(numbers)


def _place(seam: Seam) -> str:
    return f"column {seam.column} of row {seam.row}"


def _positions(found: OtherPositions, batch: Batch) -> Words:
    seam, given, due = found.seam, found.seam.given, found.seam.due
    match seam.why:
        case Seams.NO_POSITIONS:
            alone = batch.rules.flash_attention is False
            return Words(
                f"{name_samples(found.samples)} share rows of input_ids, but there are no "
                "position_ids that start again at each of them.",
                f"{ALONE} {NO_FLASH}" if alone else ALONE,
            )
        case Seams.PLANES:
            needs = "" if given[-1:] != due[-1:] else " to separate samples"
            return Words(
                f"position_ids of the packed rows have shape {_shape(given)}, but the model needs "
                f"{_shape(due)}{needs}.",
                PLANES,
            )
        case Seams.MROPE if len(given) > 1:
            return Words(
                f"sample {seam.sample} has position_ids {_numbers(given)} at {_place(seam)}, but "
                f"they are {_numbers(due)} if it is alone: time, height and width.",
                f"Call get_rope_index of the model for each sample. {ALONE}",
            )
        case _:
            return Words(
                f"sample {seam.sample} has position_ids {_numbers(given)} at {_place(seam)}, but "
                f"it is {_numbers(due)} if the sample is alone.",
                ALONE,
            )


def _mixed(found: Mixed, batch: Batch) -> Words:
    seam = found.seam
    match seam.why:
        case Seams.PADDING:
            return Words(
                f"sample {seam.sample} begins at {_place(seam)}, behind tokens of no sample that "
                "position_ids count as its own.",
                "Remove the padding of each sample before samples are joined.",
            )
        case Seams.SEEN:
            return Words(
                f"attention_mask lets the token at {_place(seam)} see "
                f"{number(seam.given[0], 'token')}, but {seam.due[0]} of sample {seam.sample} "
                "belong there: itself and those before it, of its own sample alone.",
                "Make the mask of the numbers of the samples: hide tokens of other samples, and "
                "those that come later.",
            )
        case Seams.ROWS:
            return Words(
                f"sample {seam.sample} begins at {_place(seam)}, but flash-attention takes each of "
                f"{seam.given[0]} rows for one sample: it reads position_ids of a single row only.",
                "Join all samples in one row, or pass cu_seq_lens_q, cu_seq_lens_k, max_length_q "
                "and max_length_k of all rows.",
            )
        case _:
            return _ends(seam)


def _ends(seam: Seam) -> Words:
    match seam.why:
        case Seams.LONGEST:
            return Words(
                f"{seam.key} is {seam.given[0]}, but the longest sample has "
                f"{number(seam.due[0], 'token')}.",
                "Compute it from the samples of the packed row.",
            )
        case _ if seam.sample is None:
            return Words(
                f"{seam.key} has shape {_shape(seam.given)}, but input_ids has {_shape(seam.due)}.",
                "Compute it from the packed row.",
            )
        case _ if not seam.due:
            return Words(
                f"{seam.key} is {seam.given[0]} where sample {seam.sample} begins, at "
                f"{_place(seam)}, and does not tell it from its neighbors.",
                "Give each sample of a row a number of its own.",
            )
        case _:
            return Words(
                f"{seam.key} has an end at token {seam.given[0]}, but sample {seam.sample} has one "
                f"at {seam.due[0]}.",
                "Compute it from the lengths of the samples without padding, after they are "
                "joined: cumulative, from 0 to the number of tokens.",
            )


def _labels(found: LabelsAcross, batch: Batch) -> Words:
    seam = found.seam
    if seam.key != "labels":
        return Words(
            f"the last token of sample {seam.sample}, at {_place(seam)}, has {seam.key} "
            f"{seam.given[0]}, though no token of its sample is behind it.",
            f"Set the last of {seam.key} of each sample to -100.",
        )
    return Words(
        f"the first token of sample {seam.sample}, at {_place(seam)}, has label {seam.given[0]}, "
        "which is learned from the last token of the sample before it.",
        "Set the first label of each sample to -100.",
    )


def _cut(found: CutInRow, batch: Batch) -> Words:
    return Words(
        f"sample {found.sample} has {found.have} of its {number(found.own, 'token')} in the packed "
        "row.",
        "Join whole samples.",
    )


WORDS: Mapping[type[Difference], Callable[[Any, Batch], Words]] = {
    OtherPositions: _positions,
    Mixed: _mixed,
    LabelsAcross: _labels,
    CutInRow: _cut,
}
