"""Changes of rows other than cutting: another shape, other columns, other values.

A tensor may hold the right rows and still not be what the processor made: cast to whole numbers,
without a dimension, with some of its columns. One record says which, for verdict and wording.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal[
    "columns",
    "longer",
    "cut",
    "padding cut",
    "grown",
    "lost",
    "added",
    "plane",
    "reshaped",
    "values",
    "destroyed",
    "zeros",
    "dtype",
    "recast",
]
UNSURE = frozenset({"longer", "padding cut", "recast"})
"""Kinds that some models take as if nothing had changed: no mismatch, and not OK."""
SHAPES = frozenset({"longer", "cut", "padding cut", "grown", "lost", "added", "plane", "reshaped"})
"""Kinds after which the tensor has another shape than rows of the batch's."""


class Change(NamedTuple):
    """How a tensor differs from the rows of the batch that it holds.

    Attributes:
        kind: `columns` of tokens are others than those of `input_ids`, or these and more
            (`longer`); another dimension was `cut` (`padding cut`: nothing but padding was cut
            off) or has `grown`; a dimension was `lost` or `added`; one `plane` of several was
            passed; numbers were `reshaped`; `values` are others, or `zeros`; a cast has `destroyed`
            them, or kept them in a `dtype` that the model does not take, or in one that it may not
            take (`recast`).
        given: Its shape.
        expected: Shape of these rows in the batch.
        dtype: Its dtype and that of the batch's, where they matter.
    """

    kind: Kind
    given: tuple[int, ...] = ()
    expected: tuple[int, ...] = ()
    dtype: tuple[str, str] = ("", "")

    @property
    def reshapes(self) -> bool:
        """Whether it has another shape than rows of the batch's."""
        return self.kind in SHAPES

    @property
    def is_recast(self) -> bool:
        """Whether it has another dtype than the batch's."""
        return self.dtype[0] != self.dtype[1]
