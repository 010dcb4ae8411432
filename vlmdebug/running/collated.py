"""What a collator made of rows, as tensors that can be read; and what it left in another form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch

from vlmdebug.checking.collate_findings import Nested, NotATensor, ZeroRows
from vlmdebug.checking.findings import Difference
from vlmdebug.core.given import described
from vlmdebug.core.keys import KNOWN, MEDIA_KEYS, PIXELS, TOKEN_KEYS
from vlmdebug.errors import BadInput, NotJudged
from vlmdebug.families.probe import image_text
from vlmdebug.families.unreadable import MEASURES
from vlmdebug.outcomes.reasons import DEPENDS, LOUD
from vlmdebug.running.dataset_rows import draw_video, video_text
from vlmdebug.running.joined import tensor_of
from vlmdebug.tiny.drawing import draw

PLACES = "position_ids"


class Tensors(NamedTuple):
    """The tensors of a batch, and the keys that are none or have a dimension too many."""

    inputs: dict[str, Any]
    found: list[Difference]


def dims_of(processor: Any) -> dict[str, dict[str, int]]:
    """The dimensions of each key that a processor returns for a text with an image, or a video.

    By `"image"` and `"video"`; without those that it names no token for, or takes no such call of.
    """
    token, video = image_text(processor), video_text(processor)
    if token is None or not callable(processor):
        return {}
    image, clip = draw(0, (112, 112)), draw_video(0)
    found: dict[str, dict[str, int]] = {}
    for given in ({"images": [[image]]}, {"images": [image]}):  # by sample, or flat
        found |= {"image": dims} if (dims := _dims(processor, token, given)) else {}
        if found:
            break
    for options in ({"do_sample_frames": False}, {}) if video is not None else ():
        dims = _dims(processor, str(video), {"videos": [clip], **options})
        if dims:
            return {**found, "video": dims}
    return found


def _dims(processor: Any, token: str, given: Mapping[str, Any]) -> dict[str, int]:
    with suppress(Exception):
        made: Any = processor(text=[f"{token} a cat"], return_tensors="pt", **given)
        return {key: value.ndim for key, value in made.items() if hasattr(value, "ndim")}
    return {}


def tensors_of(output: Any, samples: int, dims: Mapping[str, int]) -> Tensors:
    """The keys of a collator's output as tensors, as far as each can be one.

    `dims`: dimensions of keys, as the processor returns them.

    Raises:
        NotJudged: It is no mapping.
    """
    if isinstance(output, type) or not hasattr(output, "keys"):
        raise NotJudged(
            f"The collator returned {described(output)}, but a batch is a mapping of names to "
            "tensors. Nothing was compared. Return the processor's output, or a dict."
        )
    inputs: dict[str, Any] = {}
    found = list[Difference]()
    for key in output.keys():  # noqa: SIM118
        value, every = output[key], tuple(range(samples))
        if value is None or not isinstance(key, str):
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            value = torch.from_numpy(value)
        if isinstance(value, (list, tuple)) and key in KNOWN:
            outcome = LOUD if key in TOKEN_KEYS else DEPENDS
            found.append(NotATensor(key=key, samples=every, given=_listed(value), outcome=outcome))
            value = _as_tensor(key, value, dims.get(key))
            if value is None:
                continue
        if isinstance(value, torch.Tensor) and _holds_nothing(key, value, dims.get(key)):
            outcome = LOUD if key in PIXELS else DEPENDS
            given = tuple(value.shape)
            found.append(ZeroRows(key=key, samples=every, given=given, outcome=outcome))
            continue
        if isinstance(value, torch.Tensor) and _is_nested(key, value, dims.get(key)):
            given = tuple(value.shape)
            value = value.flatten(0, 1)
            due = tuple(value.shape)
            found.append(Nested(key=key, samples=every, given=given, due=due))
        inputs[key] = value
    if any(isinstance(one, ZeroRows) for one in found):  # nor is anything there to describe
        empty = [key for key in MEDIA_KEYS & inputs.keys() if _shape(inputs[key]) == (0,)]
        inputs = {key: value for key, value in inputs.items() if key not in empty}
    return Tensors(inputs, found)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _listed(value: Sequence[Any]) -> str:
    """`a list of 2 tensors`, `a list of None`."""
    kind = "list" if isinstance(value, list) else "tuple"
    if value and all(one is None for one in value):
        return f"a {kind} of None"
    some = " and None" if any(one is None for one in value) else ""
    tensors = any(isinstance(one, (torch.Tensor, np.ndarray)) for one in value)
    return f"a {kind} of {len(value)} {'tensors' if tensors else 'values'}{some}"


def _as_tensor(key: str, value: Sequence[Any], dims: int | None) -> torch.Tensor | None:
    """The tensor that a list represents; None if its parts do not fit together."""
    parts = [one for one in value if one is not None]
    if not parts:
        return None
    try:
        if not any(isinstance(one, (torch.Tensor, np.ndarray)) for one in parts):
            return torch.tensor(parts, device="cpu")
        tensors = [tensor_of(one) for one in parts]
        stacked = key in TOKEN_KEYS if dims is None else tensors[0].ndim < dims
        return torch.stack(tensors) if stacked else torch.cat(tensors)
    except (TypeError, ValueError, RuntimeError):
        return None


def _holds_nothing(key: str, value: torch.Tensor, dims: int | None) -> bool:
    """Whether it is a key of media without rows that has fewer dimensions than the processor's."""
    return key in MEDIA_KEYS and dims is not None and value.ndim < dims and not value.numel()


def _is_nested(key: str, value: torch.Tensor, dims: int | None) -> bool:
    """Whether a key has a dimension more than the processor returns, or than any model takes."""
    if key == PLACES or key not in KNOWN:
        return False
    if key in MEASURES:
        dims = 1 if MEASURES[key] is None else 2
    elif dims is None and key in TOKEN_KEYS:
        dims = 2
    return value.ndim - 1 == dims and (key not in TOKEN_KEYS or 1 in value.shape[:2])


def refuse_no_rows(rows: Any) -> list[Any]:
    """The rows as a list.

    Raises:
        BadInput: They are no list of rows, or there are none.
    """
    if isinstance(rows, (str, bytes, Mapping)) or not hasattr(rows, "__iter__"):
        raise BadInput(
            f"rows is {described(rows)}, but a collator takes a list of rows of a dataset. "
            "Nothing was collated. Pass [dataset[0], dataset[1], …]."
        )
    listed = list(rows)
    if not listed:
        raise BadInput(
            "There are no rows. A collator is judged on at least one. "
            "Nothing was collated. Pass [dataset[0], dataset[1], …]."
        )
    return listed
