"""What collators, truncation, shuffling and sampling do to a whole batch.

Each takes a sound batch and gives the inputs of a faulty one, or None where it does not apply. What
a batch alone cannot show, such as two images of one size that changed places, is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F

from differential.sound import Sound, sound

Inputs = dict[str, Any]
TEXTS = ("input_ids", "decoder_input_ids")
"""What a batch needs to be one, and what no processor returns: trainers make it from `labels`."""


@dataclass(frozen=True)
class Fault:
    """One way in which a whole batch goes wrong, or is changed without harm.

    Attributes:
        by_config: Whether only the config knows of it: PaddleOCR-VL's processor, for one, names no
            video token.
    """

    name: str
    change: Callable[[Sound, Random], Inputs | None]
    harmless: bool = False
    by_config: bool = False

    def __repr__(self) -> str:
        return self.name


def token_of(source: Sound, unit: str = "image") -> int | None:
    """The placeholder token of a modality, as the model's config says it."""
    config = source.model.config
    for name in (f"{unit}_token_id", f"{unit}_token_index"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    return None


def _along_tokens(source: Sound) -> list[str]:
    """Keys of shape `(sample, seq)`."""
    shape = source.inputs["input_ids"].shape
    return [key for key, value in source.inputs.items() if value.shape == shape]


def _with(source: Sound, changes: Mapping[str, Any]) -> Inputs:
    return {**source.inputs, **changes}


def _tokens(source: Sound, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    return _with(source, {key: change(source.inputs[key]) for key in _along_tokens(source)})


def _marks(source: Sound) -> torch.Tensor | None:
    """Where the placeholder tokens of images are, `(sample, seq)`."""
    token = token_of(source)
    return None if token is None else source.inputs["input_ids"] == token


def _last_text(source: Sound) -> int:
    """Columns at the right end that hold neither a placeholder nor the start of the text."""
    marks = _marks(source)
    if marks is None or not marks.any():
        return 0
    return int(marks.shape[1] - 1 - marks.any(0).nonzero()[-1])


# --- text ------------------------------------------------------------------------------------


def truncated_text(source: Sound, dice: Random) -> Inputs | None:
    """The end of the text is cut off all keys alike, and no placeholder."""
    room = _last_text(source)
    if room < 3 or "cross_attention_mask" in source.inputs or "labels" in source.inputs:
        return None
    cut = dice.randint(1, room - 2)
    made = _tokens(source, lambda value: value[:, :-cut])
    return made if bool(made["attention_mask"].any(1).all()) else None


def truncated_image(side: str) -> Callable[[Sound, Random], Inputs | None]:
    """So much text is cut off that placeholders go with it."""

    def change(source: Sound, dice: Random) -> Inputs | None:
        marks = _marks(source)
        if marks is None or not marks.any() or "cross_attention_mask" in source.inputs:
            return None
        columns = marks.any(0).nonzero().flatten()
        width = marks.shape[1]
        if side == "right":
            keep = int(columns[dice.randrange(len(columns))])
            return _tokens(source, lambda value: value[:, :keep]) if keep > 1 else None
        start = int(columns[dice.randrange(len(columns))]) + 1
        return _tokens(source, lambda value: value[:, start:]) if start < width - 1 else None

    return change


def _replaced(source: Sound, where: torch.Tensor, token: int) -> Inputs:
    """Other tokens, with the types that go with them."""
    changes = {"input_ids": source.inputs["input_ids"].masked_fill(where, token)}
    for key in ("mm_token_type_ids", "token_type_ids", "moe_mm_token_type_ids"):
        if key in source.inputs and source.inputs[key].shape == where.shape:
            changes[key] = source.inputs[key].masked_fill(where, 0)
    return _with(source, changes)


def _text_token(source: Sound) -> int:
    """A token of ordinary text: the commonest of those that are no placeholder."""
    marks, ids = _marks(source), source.inputs["input_ids"]
    assert marks is not None
    return int(ids[~marks & source.real].flatten().mode().values)


def every_second(source: Sound, dice: Random) -> Inputs | None:
    """Every second placeholder is lost, in each sample."""
    marks = _marks(source)
    if marks is None or not marks.any():
        return None
    odd = marks & (marks.cumsum(1) % 2 == 0)
    return _replaced(source, odd, _text_token(source)) if odd.any() else None


def one_sample_without(source: Sound, dice: Random) -> Inputs | None:
    """The placeholders of one sample are lost, as if the template had written none."""
    marks = _marks(source)
    rows = [] if marks is None else marks.any(1).nonzero().flatten().tolist()
    if marks is None or not rows:
        return None
    where = torch.zeros_like(marks)
    row = dice.choice(rows)
    where[row] = marks[row]
    return _replaced(source, where, _text_token(source))


def one_lost(source: Sound, dice: Random) -> Inputs | None:
    """One placeholder became text."""
    marks = _marks(source)
    if marks is None or not marks.any():
        return None
    row, column = dice.choice(marks.nonzero().tolist())
    where = torch.zeros_like(marks)
    where[row, column] = True
    return _replaced(source, where, _text_token(source))


def sampled(unit: str) -> Callable[[Sound, Random], Inputs | None]:
    """A column is appended, as by a completion, and one row has a placeholder there."""

    def change(source: Sound, dice: Random) -> Inputs | None:
        token = token_of(source, unit)
        if token is None or "labels" in source.inputs or "cross_attention_mask" in source.inputs:
            return None
        ids = source.inputs["input_ids"]
        more = torch.full((len(ids), 1), _text_token(source) if _marks(source) is not None else 1)
        more[dice.randrange(len(ids))] = token
        added = {"input_ids": more, "attention_mask": torch.ones_like(more)}
        return _with(
            source,
            {
                key: torch.cat([source.inputs[key], added.get(key, torch.zeros_like(more))], 1)
                for key in _along_tokens(source)
            },
        )

    return change


def completed(source: Sound, dice: Random) -> Inputs | None:
    """Three columns of text are appended to all keys alike."""
    if (
        "labels" in source.inputs
        or "cross_attention_mask" in source.inputs
        or _marks(source) is None
    ):
        return None
    if source.inputs["attention_mask"][:, -1].min() == 0:
        return None
    more = torch.full((len(source.images), 3), _text_token(source))
    added = {"input_ids": more, "attention_mask": torch.ones_like(more)}
    return _with(
        source,
        {
            key: torch.cat([source.inputs[key], added.get(key, torch.zeros_like(more))], 1)
            for key in _along_tokens(source)
        },
    )


def texts_reversed(source: Sound, dice: Random) -> Inputs | None:
    """The texts come in another order than the media."""
    marks = _marks(source)
    if marks is None:
        return None
    made = _tokens(source, lambda value: value.flip(0))
    token = token_of(source)
    tiles = [*source.owned] == ["pixel_values"] and source.owned["pixel_values"] != source.images
    if tiles or _runs(made["input_ids"] == token) == _runs(marks):
        return None  # nothing in such a batch says which rows of pixels are whose
    return made


def _runs(marks: torch.Tensor) -> list[int]:
    """Lengths of the unbroken runs of placeholders, over all rows in order."""
    found = []
    for row in F.pad(marks.int(), (1, 1)):
        begins, ends = ((row.diff() == step).nonzero().flatten() for step in (1, -1))
        found += (ends - begins).tolist()
    return found


# --- media -----------------------------------------------------------------------------------


def without_last_media(source: Sound, dice: Random) -> Inputs | None:
    """The media of the last sample that has some were not collated."""
    owned = {key: rows for key, rows in source.owned.items() if rows is not None}
    if len(owned) < len(source.owned) or not owned:
        return None
    changes = {}
    for key, rows in owned.items():
        last = [count for count in rows if count][-1]
        changes[key] = source.inputs[key][:-last]
    return _with(source, changes) if all(len(value) for value in changes.values()) else None


def media_twice(source: Sound, dice: Random) -> Inputs | None:
    """Media were collated twice."""
    if any(rows is None for rows in source.owned.values()) or not source.owned:
        return None
    return _with(source, {key: torch.cat([source.inputs[key]] * 2) for key in source.owned})


def one_media_key_short(source: Sound, dice: Random) -> Inputs | None:
    """One media key lacks its last row, the others have theirs."""
    key = dice.choice(list(source.owned))
    value = source.inputs[key]
    return _with(source, {key: value[:-1]}) if len(value) > 1 else None


def media_of_other_sizes(source: Sound, dice: Random) -> Inputs | None:
    """The images were processed again at another size."""
    other = sound(source.family, source.images, (96, 96), "right", 0)
    token = token_of(source)
    if token is None:
        return None
    theirs, ours = ((one.inputs["input_ids"] == token).sum(1) for one in (other, source))
    if torch.equal(theirs, ours):
        return None
    return _with(source, {key: other.inputs[key] for key in source.owned})


def media_columns_cut(source: Sound, dice: Random) -> Inputs | None:
    """Every tensor of two dimensions or more is trimmed on dim 1, as tokens are."""
    width = source.inputs["input_ids"].shape[1] - 1
    wide = [
        key
        for key in source.owned
        if source.inputs[key].ndim > 1 and source.inputs[key].shape[1] > width
    ]
    if not wide or _last_text(source) < 3 or "cross_attention_mask" in source.inputs:
        return None
    keys = [*wide, *_along_tokens(source)]
    return _with(source, {key: source.inputs[key][:, :width] for key in keys})


# --- one key ---------------------------------------------------------------------------------


def dropped(source: Sound, dice: Random) -> Inputs | None:
    """A key of the processor did not get through the collator."""
    key = dice.choice([key for key in source.inputs if key not in TEXTS])
    return {name: value for name, value in source.inputs.items() if name != key}


def beside_ids(
    change: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[Sound, Random], Inputs | None]:
    """One key along the tokens is changed, `input_ids` is not.

    Nothing in a batch says what the second text of an encoder-decoder is.
    """

    def changed(source: Sound, dice: Random) -> Inputs | None:
        keys = [key for key in _along_tokens(source) if key not in TEXTS]
        key = dice.choice(keys)
        made = change(source.inputs[key])
        return None if torch.equal(made, source.inputs[key]) else _with(source, {key: made})

    return changed


def cast(dtype: torch.dtype) -> Callable[[Sound, Random], Inputs | None]:
    """The pixels were cast, and their values lost."""

    def change(source: Sound, dice: Random) -> Inputs | None:
        if "pixel_values" not in source.inputs:
            return None
        return _with(source, {"pixel_values": source.inputs["pixel_values"].to(dtype)})

    return change


def options(source: Sound, dice: Random) -> Inputs | None:
    """What trainers put beside a batch."""
    extra = dice.choice(
        [
            {"num_items_in_batch": torch.tensor(7)},
            {"num_items_in_batch": 7},
            {"use_cache": False},
            {"return_dict": True},
            {"logits_to_keep": 3},
        ]
    )
    return {**source.inputs, **extra}


def labels(
    change: Callable[[torch.Tensor, torch.Tensor], Any],
) -> Callable[[Sound, Random], Inputs | None]:
    """Labels as a collator makes them, changed; those of an encoder-decoder are another text."""

    def made(source: Sound, dice: Random) -> Inputs | None:
        marks = None if "decoder_input_ids" in source.inputs else _marks(source)
        if "labels" in source.inputs or marks is None or not marks.any():
            return None
        right = source.inputs["input_ids"].masked_fill(marks | ~source.real, -100)
        value = change(right, source.inputs["input_ids"])
        if value is None:
            return None
        return {**source.inputs, "labels": value}

    return made


def half_masked(source: Sound, dice: Random) -> Inputs | None:
    """A mask of pixels hides the right half of each image."""
    mask, pixels = source.inputs.get("pixel_attention_mask"), source.inputs.get("pixel_values")
    if mask is None or pixels is None or mask.shape != pixels.shape[:2] + pixels.shape[-2:]:
        return None
    shown = mask.clone()
    shown[..., mask.shape[-1] // 2 :] = 0
    return _with(source, {"pixel_attention_mask": shown})


def another_ratio(source: Sound, dice: Random) -> Inputs | None:
    """Images of several tiles have the aspect ratio of one tile."""
    ids = source.inputs.get("aspect_ratio_ids")
    return None if ids is None or ids.max() < 2 else _with(source, {"aspect_ratio_ids": ids.sign()})


FAULTS = [
    Fault("nothing", lambda s, d: dict(s.inputs), harmless=True),
    Fault("options beside it", options, harmless=True),
    Fault("end of the text cut off", truncated_text, harmless=True),
    Fault("a completion appended", completed, harmless=True),
    Fault("labels", labels(lambda right, ids: right), harmless=True),
    Fault("copied", lambda s, d: {k: v.clone() for k, v in s.inputs.items()}, harmless=True),
    Fault("half of each image masked", half_masked),
    Fault("aspect ratio of one tile", another_ratio),
    Fault("image cut off at the end", truncated_image("right")),
    Fault("image cut off at the start", truncated_image("left")),
    Fault("every second placeholder lost", every_second),
    Fault("one placeholder lost", one_lost),
    Fault("a sample without its placeholders", one_sample_without),
    Fault("image token sampled", sampled("image")),
    Fault("video token sampled", sampled("video"), by_config=True),
    Fault("audio token sampled", sampled("audio"), by_config=True),
    Fault("texts in another order", texts_reversed),
    Fault("media of the last sample lost", without_last_media),
    Fault("media twice", media_twice),
    Fault("one media key short", one_media_key_short),
    Fault("images of another size", media_of_other_sizes),
    Fault("columns of media cut", media_columns_cut),
    Fault("key dropped", dropped),
    Fault("key shifted to the left", beside_ids(lambda v: F.pad(v[:, 1:], (0, 1)))),
    Fault("key shifted to the right", beside_ids(lambda v: F.pad(v[:, :-1], (1, 0)))),
    Fault("key short of a column", beside_ids(lambda v: v[:, :-1])),
    Fault("key of zeros", beside_ids(torch.zeros_like)),
    Fault("pixels as whole numbers", cast(torch.long)),
    Fault("pixels as truth values", cast(torch.bool)),
    Fault("labels shifted", labels(lambda right, ids: right.roll(1, 1))),
    Fault("labels short", labels(lambda right, ids: right[:, :-1])),
    Fault("labels of placeholders", labels(lambda right, ids: ids.clone())),
]
