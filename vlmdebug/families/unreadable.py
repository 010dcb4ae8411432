"""What no batch can hold: tensors without plain values in memory, and odd mappings.

Each is refused by name, with a remedy, before reading values fails with an error of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from vlmdebug.core.given import described, kind_of
from vlmdebug.core.keys import ROWLESS, TOKEN_KEYS
from vlmdebug.core.literals import literal
from vlmdebug.core.tensors import to_numpy
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

MOST_TOKENS = 2**28
"""Most tokens of a batch; larger `input_ids` are an expanded view or not a batch."""

STORED_OTHERWISE = {
    "is_nested": (
        "nested (jagged)",
        "[*value.unbind()], a list with a tensor per row, and layout={key: what a row counts}",
    ),
    "is_quantized": ("quantized", "value.dequantize()"),
    "is_complex": ("complex", "the values as they were, or leave the key out"),
    "is_neg": ("lazily negated", "value.resolve_neg()"),
}
"""Kinds of torch tensors by the attribute or method that identifies them, and what to pass."""

MEASURES: dict[str, int | None] = {
    "image_grid_thw": 3,
    "video_grid_thw": 3,
    "image_grid_hw": 2,
    "image_sizes": 2,
    "spatial_shapes": 2,
    "image_merge_sizes": None,
    "video_merge_sizes": None,
    "batch_num_images": None,
    "num_local_patches": None,
    "num_frames_per_video": None,
}
"""Keys that hold sizes or counts, with the numbers per row; None for a flat key."""
MAY_BE_ZERO = ("batch_num_images", "num_local_patches")
OF_EACH = {"image_merge_sizes": "image_grid_thw", "video_merge_sizes": "video_grid_thw"}
"""Keys with one number for each row of another key."""
MOST_OF_A_SIDE, MOST_OF_A_ROW = 2**24, 2**40


def items_of(inputs: Any) -> dict[str, Any]:
    """The keys and values of a mapping, each asked for once.

    Raises:
        BadInput: It is no mapping, it fails when asked, or a key is no string.
    """
    if isinstance(inputs, type) or not hasattr(inputs, "keys"):
        raise BadInput(
            f"{_name(inputs)} was given, but a batch is a mapping of names to tensors. "
            f"Pass what the processor returned (a BatchFeature or dict).{_way(inputs)}"
        )
    try:
        items = {key: inputs[key] for key in inputs.keys()}  # noqa: SIM118
    except Exception as error:  # a mapping of its own kind, with errors of its own kind
        raise BadInput(
            f"The batch, a {type(inputs).__name__}, raised {type(error).__name__} when its keys "
            f"were read: {one_line(error, 200)}. Nothing was read. Pass a plain dict of tensors."
        ) from error
    for key in items:
        if not isinstance(key, str):
            raise BadInput(
                f"The batch has the key {one_line(repr(key), 80)}, a {type(key).__name__}, but "
                "keys are names, as for model(**inputs). Leave it out."
            )
    return items


def _name(inputs: Any) -> str:
    if isinstance(inputs, type):
        return "The class"
    name, clause, kind = described(inputs).removeprefix("a ").partition(", which")
    return f"A {name}{clause}{kind}{',' if clause else ''}"


def _way(inputs: Any) -> str:
    """What takes a data loader, or a list of samples."""
    kind = None if isinstance(inputs, type) else kind_of(inputs)
    if kind in ("data loader", "data set"):
        return f" check(…) takes a {kind}: it looks at the first batches or rows."
    return " check(…) takes a list of samples." if isinstance(inputs, (list, tuple)) else ""


def refuse_unreadable(key: str, value: Any) -> None:
    """Refuse a tensor or array if its rows cannot be read from memory.

    Raises:
        BadInput: It is sparse, nested, quantized, conjugate, of objects, of a tensor class of its
            own …
    """
    if isinstance(value, Mapping):
        _refuse_dict(key, value)
    elif not hasattr(value, "dtype") and key not in ROWLESS and hasattr(value, "__dict__"):
        _refuse_object(key, value)
    odd = _odd_tensor(value) if hasattr(value, "layout") else _odd_array(value)
    if odd is not None:
        what, instead = odd
        if getattr(value, "is_nested", False) and key in TOKEN_KEYS:
            instead = "torch.nested.to_padded_tensor(value, 0)"
        raise BadInput(
            f"{key} is a {what}, but rows can be followed only in a plain tensor of numbers. "
            f"Nothing was read. Pass {instead}."
        )


def _refuse_dict(key: str, value: Mapping[Any, Any]) -> None:
    """Refuse a dict with tensors: no slice of it is known, and passing all of it would be wrong."""
    inner = [one_line(name, 40) for name, one in value.items() if hasattr(one, "shape")]
    inner += [one_line(name, 40) for name, one in value.items() if isinstance(one, (list, tuple))]
    if inner:
        raise BadInput(
            f"{key} is a {type(value).__name__} that holds {', '.join(inner[:3])}, but rows can be "
            "followed only in keys of the batch itself. Nothing was read. Pass its entries as "
            f"keys: {{**inputs, **inputs[{literal(key)}]}} without {key} itself."
        )


def _refuse_object(key: str, value: Any) -> None:
    """Refuse an object with tensors, for the same reason."""
    inner = [one_line(name, 40) for name, one in vars(value).items() if getattr(one, "shape", ())]
    if inner and not isinstance(value, type):
        raise BadInput(
            f"{key} is a {type(value).__name__} with the tensors {', '.join(inner[:3])}, but rows "
            "can be followed only in keys of the batch itself. Nothing was read. Pass its tensors "
            f"as keys, such as {inner[0]}, without {key} itself."
        )


def _odd_tensor(value: Any) -> tuple[str, str] | None:
    if not _is_in_rows(value.layout):
        return f"sparse tensor ({one_line(value.layout, 40)})", "value.to_dense()"
    for asked, (what, instead) in STORED_OTHERWISE.items():
        said = getattr(value, asked, False)
        if said() if callable(said) else said:
            return f"{what} tensor", instead
    if dispatches(type(value)):
        name = type(value).__name__
        dense = "value.full_tensor()" if hasattr(value, "full_tensor") else "a plain torch.Tensor"
        return f"{name}, a tensor class of its own", dense
    return None


@lru_cache(maxsize=64)
def _is_in_rows(layout: Any) -> bool:
    return str(layout) in ("torch.strided", "torch.jagged")


@lru_cache(maxsize=64)
def dispatches(kind: type) -> bool:
    """Whether a tensor class computes by functions of its own."""
    base = next((cls for cls in kind.__mro__ if cls.__module__ == "torch"), None)
    own = getattr(kind, "__torch_dispatch__", None)
    return base is not None and own != getattr(base, "__torch_dispatch__", None)


def _odd_array(value: Any) -> tuple[str, str] | None:
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind is None or kind in "biuf" or "bfloat16" in str(value.dtype):
        return None
    return f"numpy array of {value.dtype}", "value.tolist(), one entry per sample, or leave it out"


def refuse_too_many(key: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape too large for memory, such as that of an expanded view.

    Raises:
        BadInput: There are more tokens than any batch has.
    """
    total = 1
    for length in shape:
        total *= int(length)
    if total > MOST_TOKENS:
        raise BadInput(
            f"{key} has shape {shape}, {total} tokens, but at most {MOST_TOKENS} are read. "
            "Nothing was read. Pass a smaller batch."
        )


def refuse_measures(tensors: Mapping[str, Any]) -> None:
    """Refuse impossible sizes and counts: below 1, fractions, or too large to multiply.

    Raises:
        BadInput: The message names the key, the row and its values.
    """
    for key, width in MEASURES.items():
        value: Any = tensors.get(key)
        if len(getattr(value, "shape", ())) != (1 if width is None else 2):
            continue  # a key of another layout, or refused with its family
        if width is not None and value.shape[1] != width:
            raise BadInput(
                f"{key} has shape {tuple(value.shape)}, but each row holds {width} numbers. "
                "Nothing was read. Pass it as the processor returned it."
            )
        given, least = to_numpy(value), 0 if key in MAY_BE_ZERO else 1
        if _are_small(given, least, width or 1):
            continue  # as nearly always
        rows = given.astype(float).reshape(len(value), width or 1)
        good = (rows >= least) & (rows <= MOST_OF_A_SIDE) & (rows == np.floor(rows))
        good &= "float" not in str(value.dtype)  # models do not accept 4.0 as a size either
        bad = np.flatnonzero(~good.all(axis=1) | (rows.prod(axis=1) > MOST_OF_A_ROW))
        if len(bad):
            raise BadInput(
                f"{key}[{bad[0]}] is {rows[bad[0]].tolist()}, but sizes are whole numbers, "
                f"{least} or more, and no image is larger than memory. Nothing was read. "
                "Pass it as the processor returned it."
            )
    for key, other in OF_EACH.items():
        if key in tensors and other in tensors and len(tensors[key]) != len(tensors[other]):
            raise BadInput(
                f"{key} has {number(len(tensors[key]), 'row')}, but {other} has "
                f"{len(tensors[other])}, one "
                "each. One was cut without the other. Pass both as the processor returned them."
            )


def _are_small(values: np.ndarray, least: int, width: int) -> bool:
    """Whether all are whole numbers in range, no `width` of them too large to multiply."""
    if values.dtype.kind not in "iu" or not values.size or int(values.min()) < least:
        return False
    most = int(values.max())
    return most <= MOST_OF_A_SIDE and most**width <= MOST_OF_A_ROW
