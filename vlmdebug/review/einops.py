"""What `einops.rearrange` and `einops.repeat` do to a tensor of an interpreted function."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlmdebug.review.arrays import Failed, Tensor, small
from vlmdebug.review.tensor_methods import number

_PART = re.compile(r"\(([^()]*)\)|(\S+)")
Axes = list[list[str]]


def rearranged(tensor: Tensor, pattern: Any, given: Mapping[str, Any], node: ast.AST) -> Tensor:
    """The tensor in the arrangement that a pattern names: `"(b n) c -> b n c"`.

    Raises:
        LookupError: The pattern, or the size of an axis, is not known.
        Failed: The tensor does not fit the pattern.
    """
    if not isinstance(pattern, str) or pattern.count("->") != 1:
        raise LookupError
    sides = pattern.split("->")
    left, right = (_axes(side, tensor.array.ndim, sides[0]) for side in sides)
    names = {name for group in (*left, *right) for name in group}
    known = {name: number(given[name]) for name in names & given.keys()}
    sizes = _sizes(tensor.array.shape, left, known)
    order = [name for group in left for name in group]
    out = [name for group in right for name in group]
    if len({*out}) != len(out) or not {*order} <= {*out}:
        raise LookupError
    array = tensor.array.reshape([sizes[name] for name in order])
    new = [name for name in out if name not in order]
    if not known.keys() >= {*new}:
        raise LookupError
    small(array.size * math.prod(known[name] for name in new))
    for name in new:
        array = array[..., None].repeat(known[name], axis=-1)
    array = array.transpose([[*order, *new].index(name) for name in out])
    sizes |= {name: known[name] for name in new}
    shape = [math.prod(sizes[name] for name in group) for group in right]
    return tensor.of(array.reshape(shape), node)


def _axes(side: str, dims: int, left: str) -> Axes:
    """The axes of one side, each with the names that are joined in it."""
    parts = [(joined.split() if not one else [one]) for joined, one in _PART.findall(side)]
    rest = dims - (len(_PART.findall(left)) - 1)
    found: Axes = []
    for part in parts:
        if part == ["..."]:
            found += [[f"...{place}"] for place in range(rest)]
        elif "..." in part or any(name.isdigit() and name != "1" for name in part):
            raise LookupError
        else:
            found.append([name for name in part if name != "1"])
    return found


def _sizes(shape: Sequence[int], axes: Axes, known: Mapping[str, int]) -> dict[str, int]:
    """The size of each name on the left."""
    if len(shape) != len(axes):
        raise Failed("EinopsError")
    found = dict(known)
    for size, group in zip(shape, axes, strict=True):
        rest = [name for name in group if name not in found]
        have = math.prod(found[name] for name in group if name in found)
        if len(rest) > 1:
            raise LookupError
        if (size % have if rest and have else size != have) or (rest and not have):
            raise Failed("EinopsError")
        found |= {name: size // have for name in rest}
    return found
