"""Tensors of an interpreted function: numpy arrays that know where their rows come from.

A row of a batch tensor keeps the values of the batch, so the judge identifies it by value. What a
function computes from values is marked as computed: it is never compared with the batch.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

MOST = 1 << 16
"""Items of the largest tensor or list that is computed here; larger ones are unknown."""


class Unknown:
    """A value that cannot be known from the source.

    Attributes:
        why: The source that it comes from, or the reason in words.
        key: The key of the batch that these rows belong to, where only the rows are unknown.
    """

    __slots__ = ("key", "why")

    def __init__(self, why: ast.AST | str = "", key: str | None = None) -> None:
        self.why: ast.AST | str = why
        self.key: str | None = key


class Opaque:
    """A value that is known by its name or code only: it equals nothing for sure, but itself."""


class Failed(Exception):
    """The interpreted code raises here: `name` is the class of its exception."""

    def __init__(self, name: str, said: str = "") -> None:
        super().__init__(said)
        self.name = name


class Tensor:
    """An array, the key of the batch that its rows are from, and the code that took them.

    Attributes:
        array: The values.
        key: The key of the batch; None for a tensor of other origin.
        computed: Whether its values were computed, and so are not those of the batch.
        cut: The last code that took rows; None for the whole tensor.
    """

    __slots__ = ("array", "computed", "cut", "key")

    def __init__(
        self,
        array: np.ndarray,
        key: str | None = None,
        *,
        computed: bool = False,
        cut: ast.AST | None = None,
    ) -> None:
        self.array: np.ndarray = array
        self.key: str | None = key
        self.computed: bool = computed
        self.cut: ast.AST | None = cut

    def of(self, array: Any, cut: ast.AST | None = None) -> Tensor:
        """The same values in another arrangement."""
        made = np.asarray(array)
        small(made.size)
        return Tensor(made, self.key, computed=self.computed, cut=cut or self.cut)

    def __len__(self) -> int:
        if not self.array.ndim:
            raise Failed("TypeError")
        return len(self.array)


def small(size: int | float) -> None:
    """Refuse what takes too long to compute here.

    Raises:
        LookupError: It has more than `MOST` items.
    """
    if size > MOST:
        raise LookupError


def weight(value: Any, most: int = MOST) -> int:
    """Number of items of a value and of all lists in it, counted as far as `most`."""
    count, left = 0, [value]
    while left and count <= most:
        part = left.pop()
        if isinstance(part, (dict, list, tuple, set)):
            count += len(part)
            left += part.values() if isinstance(part, dict) else part
    return count


def plain(value: Any) -> Any:
    """The value for numpy: arrays and numbers in place of tensors, lists of them alike.

    Raises:
        LookupError: A part of it is unknown, or it is too large.
    """
    if isinstance(value, (list, tuple)):
        small(weight(value))
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.array
    if isinstance(value, (Unknown, Opaque)):
        raise LookupError
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, slice):
        return slice(*(_index(part) for part in (value.start, value.stop, value.step)))
    return value


def _index(value: Any) -> Any:
    if value is None:
        return None
    number = plain(value)
    return int(number) if isinstance(number, np.ndarray) and number.size == 1 else number


def apart(function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """`function(left, right)` of arrays, unless its result is too large."""
    small(math.prod(np.broadcast_shapes(np.shape(left), np.shape(right))))
    return function(left, right)


def compared(function: Callable[[Any, Any], Any], left: Any, right: Any) -> Tensor:
    """`function(left, right)` of a tensor and a value.

    Raises:
        LookupError: It depends on which token has which id: those of the batch are made up.
    """
    ids = [isinstance(part, Tensor) and part.key == "input_ids" for part in (left, right)]
    if any(ids) and not all(ids):
        raise LookupError
    return computed(apart(function, plain(left), plain(right)))


def computed(value: Any) -> Tensor:
    """A tensor of values that no key of the batch has."""
    array = np.asarray(value)
    small(array.size)
    if array.dtype == object:
        raise LookupError
    return Tensor(array, computed=True)


def taken(tensor: Tensor, index: Any, node: ast.AST) -> Tensor:
    """`tensor[index]`, with the row that an integer selects as one dimension less."""
    parts = index if isinstance(index, tuple) else (index,)
    if isinstance(parts[0], Tensor) and parts[0].array.dtype == bool:
        _choose(parts[0])
    if any(isinstance(part, Unknown) for part in parts):
        raise LookupError
    found = tuple(_part(part) for part in parts)
    if len(found) == 1 and isinstance(found[0], list):
        found = (np.asarray(found[0], dtype=None if found[0] else np.int64),)
    try:
        array = tensor.array[found]
    except (IndexError, ValueError, TypeError) as error:
        raise Failed("IndexError", str(error)) from None
    if any(isinstance(part, np.ndarray) and part.dtype == bool and part.ndim > 1 for part in found):
        return Tensor(array, tensor.key, computed=True, cut=node)  # tokens of several samples
    whole = (isinstance(found[0], slice) and found[0] == slice(None)) or found[0] is Ellipsis
    return tensor.of(array, None if whole or found[0] is None else node)


def _choose(mask: Tensor) -> None:
    """Which rows a mask chooses depends on values: it leaves out the last one at least."""
    if mask.array.ndim == 1 and len(mask.array) > 1 and mask.array.all():
        mask.array = mask.array.copy()
        mask.array[-1] = False


def _part(part: Any) -> Any:
    made = plain(part)
    if isinstance(made, range):
        small(len(made))
        return [*made]
    if isinstance(made, np.ndarray) and made.ndim == 0 and made.dtype != bool:
        return int(made)
    if isinstance(made, np.ndarray) and made.dtype.kind == "f":
        raise Failed("IndexError")
    return made


def joined(parts: Sequence[Any], how: Callable[[Sequence[np.ndarray]], np.ndarray]) -> Tensor:
    """Tensors in one: rows of one key stay its rows."""
    arrays = [np.asarray(plain(part)) for part in parts]
    small(sum(array.size for array in arrays))
    try:
        array = how(arrays)
    except (ValueError, np.exceptions.AxisError) as error:
        raise Failed("RuntimeError", str(error)) from None
    tensors = [part for part in parts if isinstance(part, Tensor)]
    keys = {part.key for part in tensors}
    if len(keys) != 1 or len(tensors) != len(parts) or None in keys:
        return computed(array)
    made = tensors[0].of(array, next((part.cut for part in tensors if part.cut), None))
    made.computed = any(part.computed for part in tensors)
    return made


Items = Mapping[str, Any]
