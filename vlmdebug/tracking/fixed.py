"""What all calls of one run share of a key, whichever of its rows they hold."""

from __future__ import annotations

from typing import NamedTuple

from vlmdebug.core.batch import Batch


class Fixed(NamedTuple):
    """Lengths of the batch's own tensor.

    Attributes:
        free: Dimensions judged separately: columns of tokens, and a padded one of known length.
        inner: Length of the padded dimension of the batch's own tensor, if its layout has one.
        columns: Its columns of tokens, if it has one per token.
        dims: Its dimensions.
    """

    free: tuple[int, ...]
    inner: int | None
    columns: int | None
    dims: int

    @classmethod
    def of(cls, batch: Batch, key: str) -> Fixed:
        axis, at = batch.layout[key], batch.token_dims.get(key)
        shape = getattr(batch.inputs[key], "shape", ())
        free = (axis.padded_dim,) if axis.unit == "sample" and axis.padded in batch.counts else ()
        inner = shape[axis.padded_dim] if axis.padded and len(shape) > axis.padded_dim else None
        wide = shape[at] if at is not None and len(shape) > at else None
        return cls(free if at is None else (*free, at), inner, wide, len(shape))


def fixed_of(known: dict[str, Fixed], batch: Batch, key: str) -> Fixed:
    """The lengths of a key, which are worked out once and kept in `known`."""
    if key not in known:
        known[key] = Fixed.of(batch, key)
    return known[key]
