"""What a whole batch lacks: media that its text or its counts promise, keys that its model needs.

A collator drops them in one place for all samples, so that no comparison of rows can show it.
"""

from __future__ import annotations

from vlmdebug.batch import Batch
from vlmdebug.forward_batch import runs_unchecked, runs_with_stray, runs_without
from vlmdebug.layout import plural
from vlmdebug.mismatch import Mismatch
from vlmdebug.wording import DEPENDS, number

SILENT = (
    "The model will not raise: without {units} it compares nothing and embeds the token as text."
)
LOUD = "The model will raise: it looks for the grid of that video and finds none."


def lacking(batch: Batch) -> list[Mismatch]:
    """What is stray, promised, dropped, or in the row of another sample."""
    return [*_strays(batch), *_promised(batch), *_dropped(batch), *_in_other_rows(batch)]


def _strays(batch: Batch) -> list[Mismatch]:
    """Placeholder tokens of videos or audio clips in a batch without any."""
    return [
        Mismatch(
            "VLM010",
            _stray(batch, unit, sample, tokens),
            key="input_ids",
            samples=(sample,),
            silent=runs_with_stray(batch, unit, sample),
            cause=f"no {unit} in the batch",
        )
        for unit, by_sample in batch.strays.items()
        for sample, tokens in enumerate(by_sample)
        if tokens
    ]


def _stray(batch: Batch, unit: str, sample: int, tokens: int) -> str:
    said = {True: SILENT.format(units=plural(unit)), False: LOUD, None: DEPENDS}[
        runs_with_stray(batch, unit, sample)
    ]
    return (
        f"sample {sample} has {number(tokens, f'{unit} placeholder token')}, "
        f"but the batch has no {plural(unit)}.\n"
        f"{said}\n"
        f"Give the batch every {unit} that the text names; where the text names none, the token is "
        "likely sampled by a model in its completion: forbid that token id in generation."
    )


def _promised(batch: Batch) -> list[Mismatch]:
    """Counts above 0 of media that have no key in the batch."""
    return [
        Mismatch(
            "VLM010",
            f"num_{unit}s adds up to {total}, but the batch has no {plural(unit)} at all.\n"
            "The model will not raise, and sees none.\n"
            f"Pass the {plural(unit)} with the text, or leave num_{unit}s out.",
            silent=True,
            cause=f"no {unit} in the batch",
        )
        for unit, total in batch.promised.items()
    ]


def _dropped(batch: Batch) -> list[Mismatch]:
    """Keys that the processor or the model names, and the batch has not."""
    found = []
    for key in batch.lacks:
        silent = runs_without(batch, key)
        will = {
            True: "The model will not raise, but its answer changes.",
            False: "The model will raise while it has pixels.",
            None: DEPENDS,
        }[silent]
        found.append(
            Mismatch(
                "VLM003",
                f"the whole batch lacks {key}, which its processor returns and its model takes.\n"
                f"{will}\n"
                f"Keep every key that the processor returned: a collator likely dropped {key}.",
                key=key,
                silent=silent,
                cause=f"{key} dropped by the collator",
            )
        )
    return found


def _in_other_rows(batch: Batch) -> list[Mismatch]:
    """Mllama: images in the row of a sample beside those that its text names.

    Aspect ratios have ids from 1, padding has 0 (`convert_aspect_ratios_to_ids` in
    image_processing_mllama, transformers 5.23). The model compares nothing.
    """
    ratios = batch.inputs.get("aspect_ratio_ids")
    if ratios is None or batch.image.placeholders is None or batch.rules.checks_totals:
        return []
    if len(ratios) != len(batch):
        return []  # said already: rows of another batch
    silent = runs_unchecked(batch)
    then = "The model will not raise: it compares no counts and shows it other images."
    shown = (ratios > 0).reshape(len(batch), -1).sum(-1).tolist()
    return [
        Mismatch(
            "VLM010",
            f"sample {sample} has {number(named, 'placeholder token')} but "
            f"{number(given, 'image')} in its rows of pixel_values and aspect_ratio_ids.\n"
            f"{then if silent else DEPENDS}\n"
            "Pass the images of each sample in its own row, in the order of its text.",
            key="aspect_ratio_ids",
            samples=(sample,),
            silent=silent,
            cause="images in other rows",
        )
        for sample, (named, given) in enumerate(zip(batch.image.placeholders, shown, strict=True))
        if named != given
    ]
