"""Check the tensors that `read_batch` is given; what no batch can hold is refused by its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from vlmdebug.core.keys import BOOKKEEPING, KNOWN, ROWLESS, TOKEN_KEYS
from vlmdebug.core.tensors import unreadable
from vlmdebug.errors import BadInput
from vlmdebug.families.unreadable import refuse_measures, refuse_too_many, refuse_unreadable
from vlmdebug.safe import one_line

PLACES_OF_PATCHES = ("image_position_ids", "video_position_ids")
"""Keys that an embedding reads (`modeling_gemma4.get_image_features`, transformers 5.24)."""


def holds_tensors(value: Any) -> bool:
    """Whether it is a list of tensors or arrays with dimensions, or of such lists and dicts."""
    if not isinstance(value, (list, tuple)):
        return False
    parts = [part for one in value for part in (one.values() if isinstance(one, dict) else (one,))]
    return any(getattr(one, "shape", ()) or holds_tensors(one) for one in parts)


def checked_tensors(inputs: Mapping[str, Any], lists: Collection[str] = ()) -> dict[str, Any]:
    """The keys that hold something, each checked to be a tensor on one real device.

    Keys in `lists` may hold a list of tensors, and so may keys that no layout has.
    """
    tensors: dict[str, Any] = {
        key: [*value] if isinstance(value, tuple) and holds_tensors(value) else value
        for key, value in inputs.items()
        if value is not None and key not in BOOKKEEPING
    }
    if "input_ids" not in tensors:
        raise BadInput(
            f"input_ids is missing or None; the batch has {', '.join(tensors) or 'no keys'}. "
            "Samples are the rows of input_ids, so nothing can be cut without it. "
            "Pass what the processor returned for text and images together."
        )
    ids = tensors["input_ids"]
    _check_tensor("input_ids", ids)
    for key, value in tensors.items():
        if not (holds_tensors(value) and key in lists and key not in TOKEN_KEYS):
            _check_tensor(key, value)
    _check_devices(tensors)
    refuse_measures(tensors)
    ids = tensors["input_ids"]
    refuse_too_many("input_ids", tuple(ids.shape))
    if "float" in str(ids.dtype) or "bool" in str(ids.dtype):
        raise BadInput(
            f"input_ids holds {ids.dtype}, but token ids are whole numbers. "
            "An embedding would refuse them. Pass input_ids as the tokenizer returned them."
        )
    for key in PLACES_OF_PATCHES:
        if "float" in str(getattr(tensors.get(key), "dtype", "")):
            raise BadInput(
                f"{key} holds {tensors[key].dtype}, but the places of patches are whole numbers. "
                "An embedding would refuse them. Cast only pixels to another dtype."
            )
    if ids.ndim != 2 or 0 in ids.shape:
        raise BadInput(
            f"input_ids has shape {tuple(ids.shape)}, but a batch has one row of tokens per "
            "sample: (sample, seq), at least one of each. "
            "Nothing was cut. Pass the batch as the processor returned it, with padding=True."
        )
    return tensors


def _check_tensor(key: str, value: Any) -> None:
    refuse_unreadable(key, value)
    listed = isinstance(value, (list, tuple))
    if listed and key not in KNOWN:
        return  # a thing per sample, such as its prompt, or a tensor per image
    if listed:
        raise BadInput(
            f"{key} is a {type(value).__name__} of {len(value)}, but rows can be followed only "
            'in a tensor. Call the processor with return_tensors="pt" and padding=True, '
            "or leave the key out."
        )
    nested = getattr(value, "is_nested", False)  # which has no shape to ask for
    if key in KNOWN and not nested and not getattr(value, "shape", ()):
        raise BadInput(
            f"{key} is {one_line(repr(value), 80)}, but it is a tensor with a row "
            "per sample, image, tile or patch. Pass it as the processor returned it, or leave it "
            "out."
        )
    if getattr(getattr(value, "device", None), "type", None) == "meta" and not nested:
        raise BadInput(
            f"{key} is on the meta device: it has a shape {tuple(value.shape)} but no values, "
            "so rows cannot be identified. Pass the batch before it is moved to meta."
        )
    reason = unreadable(value) if hasattr(value, "dtype") else None
    if reason is not None and key in KNOWN:
        raise BadInput(
            f"{key} is {reason}, but rows can be followed only in a dense tensor of numbers. "
            "Pass it as the processor returned it."
        )


def _check_devices(tensors: Mapping[str, Any]) -> None:
    devices: dict[str, str] = {}
    for key, value in tensors.items():
        if getattr(value, "shape", ()) and key not in ROWLESS:
            devices.setdefault(str(getattr(value, "device", "cpu")), key)
    if len(devices) > 1:
        where = ", ".join(f"{key} on {device}" for device, key in devices.items())
        raise BadInput(
            f"The tensors are on {len(devices)} devices: {where}. "
            "A model would refuse such a batch. Move all of it: inputs.to(device)."
        )
