"""Rows of a call that hold several samples: which tokens are of which sample.

A packer joins samples in one row and removes their padding. The tokens themselves say which samples
a row holds; what the packer says of its seams (`position_ids`, `cu_seqlens`) is judged later, and
only decides what tokens leave open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import IGNORED, LABELS, PACKED
from vlmdebug.core.lazy import lazy
from vlmdebug.core.packed_row import Place
from vlmdebug.core.part import Span, Spans
from vlmdebug.core.rows import Rows
from vlmdebug.core.tensors import numbers_of, side_by_side, to_numpy
from vlmdebug.tracking.identity import identified
from vlmdebug.tracking.rows import RowFinder

SHORTEST = 3
"""Tokens that must follow each other to count as a part of a sample."""
HEAD = 32
"""Tokens by which samples are looked up; all of them are compared then."""
MOST_STRANGE = 64
"""Tokens of no sample in a row after which it is not taken for a packed one."""
PADDING_MASK, IDS = "attention_mask", "input_ids"


class Piece(NamedTuple):
    """Tokens of a call, `span`, that are tokens of a sample from its `first` one on.

    `alike`: all samples with these tokens in this place.
    """

    span: Span
    alike: tuple[int, ...]
    first: int = 0


@dataclass(frozen=True)
class Joined:
    """The samples of the packed rows of one call, in the order of their tokens.

    Attributes:
        samples: The samples; one comes several times if its tokens do.
        spans: The tokens of each of them in the call.
        firsts: The first of its own tokens that each of them has there.
        texts: The tokens of the batch.
        strange: Whether other tokens that are no padding stand among them.
    """

    samples: tuple[int, ...]
    spans: Spans
    firsts: tuple[int, ...]
    texts: Texts
    strange: bool

    @classmethod
    def of(cls, batch: Batch, finder: RowFinder, given: Mapping[str, Any]) -> Joined | None:
        """None if no row of `input_ids` holds tokens of several samples.

        Where the call says that it is packed, rows of one sample are packed, too, with padding
        behind it at most.
        """
        ids = given.get(IDS)
        if ids is None or len(getattr(ids, "shape", ())) != 2 or 0 in ids.shape:
            return None
        texts = finder.texts = finder.texts or Texts.of(batch)
        if texts is None:
            return None
        table = to_numpy(ids)
        if not _is_told(given) and table.shape[1] < texts.least:
            return None
        shown, cuts = texts.not_padding(table, given), edges(given, table.shape)
        pieces = list[Piece]()
        begins = cuts if given.get(PADDING_MASK) is None else ()  # of samples of another batch, too
        several, told, strange = False, _is_told(given), False
        ends = cuts if batch.rules.causal or batch.rules.separates_packed else ()
        table = table.astype(texts.dtype, copy=False)
        shown &= ~texts.is_padding(table)
        for row, (tokens, real) in enumerate(zip(table, shown, strict=True)):
            own = texts.pieces(row, tokens, real, cuts)
            if own is None:
                return None
            begun = [one for one in own if one.first < SHORTEST or not one.span.start]
            odd = texts.is_strange(own, tokens, real)
            several |= len(begun) > 1 or (odd and any((row, p.span.stop) in begins for p in begun))
            told &= texts.is_alone(own, tokens, ends, behind=batch.rules.causal)
            strange |= odd
            pieces += own
        if not (several or (told and _shows_all(given, table.shape, texts.width))):
            return None
        others = {key: given.get(key) for key in batch.layout if key not in batch.token_dims}
        found = identified([one.alike for one in pieces], (), batch, finder, others)
        assert found is not None
        spans = Spans(one.span for one in pieces)
        return cls(tuple(found), spans, tuple(one.first for one in pieces), texts, strange)

    @property
    def rows(self) -> Rows:
        """The samples as rows of the batch."""
        return Rows.of(self.samples)

    @property
    def stop(self) -> int:
        """The column behind the last of their tokens."""
        return max(span.stop for span in self.spans)

    @lazy
    def lost(self) -> dict[int, tuple[int, int]]:
        """How many tokens each sample of which some are missing has here, and how many it owns."""
        lengths = zip(self.samples, self.spans.lengths, strict=True)
        owned = ((sample, have, self.texts.length(sample)) for sample, have in lengths)
        return {sample: (have, own) for sample, have, own in owned if have != own}

    @property
    def placed(self) -> list[Place]:
        """The place of each sample in its row."""
        parts = zip(self.samples, self.spans, self.firsts, strict=True)
        return [
            Place(
                sample,
                start,
                stop,
                int(self.texts.columns(sample)[first]),
                self.texts.length(sample) - (stop - start),
            )
            for sample, (_, start, stop), first in parts
        ]

    def apart(self, table: np.ndarray, fill: int = 0) -> np.ndarray:
        """A key along the tokens of the call, with a row per sample: `(…, sample, seq)`."""
        return side_by_side(table, self.spans, fill)

    def own(self, values: Any) -> np.ndarray:
        """A key along the tokens of the batch as `apart` gives that of the call."""
        table, wide = to_numpy(values), max(self.spans.lengths)
        found = np.zeros((*table.shape[:-2], len(self.samples), wide), dtype=table.dtype)
        parts = zip(self.samples, self.firsts, self.spans.lengths, strict=True)
        for at, (sample, first, size) in enumerate(parts):
            columns = self.texts.columns(sample)[first : first + size]
            found[..., at, :size] = table[..., sample, columns]
        return found

    def matches(self, batch: Batch, key: str, value: Any) -> bool:
        """Whether the tokens of each sample have their own values of a key in the batch.

        The first label of a sample is ignored where another one stands before it.
        """
        ours, theirs = self.own(batch.inputs[key]), self.apart(to_numpy(value))
        if ours.shape[:-2] != theirs.shape[:-2]:
            return False
        if key == "labels":
            ours[:, 0] = np.where(theirs[:, 0] == IGNORED, IGNORED, ours[:, 0])
        return np.array_equal(ours, theirs)

    def by_sample(self, given: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
        """The call with a row per sample, padded on the right: keys of `shape` along the tokens."""
        found = dict(given)
        for key, value in given.items():
            own, numbers = tuple(getattr(value, "shape", ())), None
            if own[-2:] == shape and len(own) in (2, 3) and own[:-2] != (1,):
                numbers = numbers_of(value)
            if numbers is not None:
                found[key] = self.apart(numbers, IGNORED if key in LABELS else 0)
        if LABELS[1] in found and found[LABELS[1]] is not given[LABELS[1]]:
            self._blank_at_seams(found[LABELS[1]])
        lengths = np.array(self.spans.lengths)
        found[PADDING_MASK] = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        return found

    def _blank_at_seams(self, ahead: np.ndarray) -> None:
        """Labels that are one ahead, without those in front of a seam, which are judged there."""
        for at, (one, behind) in enumerate(pairwise(self.spans)):
            if one.row == behind.row:
                ahead[at, one.stop - one.start - 1] = IGNORED


class Texts:
    """The tokens of each sample of a padded batch, without padding."""

    def __init__(self, ids: np.ndarray, shown: np.ndarray) -> None:
        self._columns = [np.flatnonzero(one) for one in shown]
        self._texts = [row[columns] for row, columns in zip(ids, self._columns, strict=True)]
        firsts = [text[0] for text in self._texts if len(text)]
        self._padding = np.setdiff1d(ids[~shown], firsts)
        lengths = sorted(len(text) for text in self._texts if len(text))
        self.least: int = sum(lengths[:2]) if len(lengths) > 1 else 2 * sum(lengths)
        self._shortest = lengths[0]
        self.dtype: Any = ids.dtype
        self.width: int = ids.shape[1]
        self._head = min(lengths[0], HEAD)
        self._by_head: dict[bytes, list[int]] = defaultdict(list)
        for sample, text in enumerate(self._texts):
            if len(text):
                self._by_head[text[: self._head].tobytes()].append(sample)
        for alike in self._by_head.values():
            alike.sort(key=lambda sample: -len(self._texts[sample]))
        self._all = np.concatenate(self._texts)
        self._ends = np.cumsum([len(text) for text in self._texts])

    @classmethod
    def of(cls, batch: Batch) -> Texts | None:
        """None where the batch does not say what padding is."""
        ids, mask = batch.inputs[IDS], batch.inputs.get(PADDING_MASK)
        if mask is not None and tuple(mask.shape) != tuple(ids.shape):
            return None
        table = to_numpy(ids)
        shown = np.ones(table.shape, dtype=bool) if mask is None else to_numpy(mask) != 0
        return cls(table, shown) if shown.any() else None

    def length(self, sample: int) -> int:
        """Tokens of a sample."""
        return len(self._texts[sample])

    def columns(self, sample: int) -> np.ndarray:
        """Its columns in the batch."""
        return self._columns[sample]

    @property
    def every(self) -> Sequence[np.ndarray]:
        """The tokens of every sample."""
        return self._texts

    def text(self, sample: int) -> np.ndarray:
        """Its tokens."""
        return self._texts[sample]

    def real(self, table: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
        """Tokens of a call that are no padding, `(row, seq)`."""
        return self.not_padding(table, given) & ~self.is_padding(table)

    def is_padding(self, table: np.ndarray) -> np.ndarray:
        """Tokens that are padding wherever they stand."""
        if len(self._padding) == 1:  # as nearly always
            return table == self._padding[0]
        return np.isin(table, self._padding)

    def not_padding(self, table: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
        """Tokens of a call that its own mask shows, `(row, seq)`."""
        mask = given.get(PADDING_MASK)
        if mask is None or tuple(getattr(mask, "shape", ())) != table.shape:
            return np.ones(table.shape, dtype=bool)
        return to_numpy(mask) != 0

    def pieces(
        self, row: int, tokens: np.ndarray, shown: np.ndarray, edges: Collection[tuple[int, int]]
    ) -> list[Piece] | None:
        """The samples in one row; None if too many of its tokens are of no sample.

        Behind those, such as completions, samples are looked for where positions begin again.

        Args:
            row: Its number.
            tokens: Its tokens.
            shown: Those that are no padding.
            edges: Row and column of the places where positions begin again.
        """
        found, at, strange, tried = list[Piece](), 0, 0, -1
        real = np.flatnonzero(shown)
        full = len(real) == len(tokens)  # as nearly always
        while True:
            after = at if full else int(np.searchsorted(real, at))
            if after == len(real):
                return found
            at = int(real[after])
            piece = self._whole(row, tokens, at, edges)
            room = 2 * (len(real) - after) >= self._shortest
            if piece is None and room and tried < len(found):  # only behind a sample
                piece, tried = self._part(row, tokens, at), len(found)
            if piece is not None:
                found.append(piece)
                at = piece.span.stop
                continue
            if found and _are_the_same(tokens[at:]):
                return found  # padding, of which the batch may have none
            strange += 1
            if strange <= min(MOST_STRANGE, len(tokens) // 5):
                at += 1
                continue
            at = min([column for one, column in edges if one == row and column > at], default=-1)
            if not found or (at < 0 and not self._ends_apart(found, edges)):
                return None
            if at < 0:
                return found

    @staticmethod
    def _ends_apart(found: Sequence[Piece], edges: Collection[tuple[int, int]]) -> bool:
        """Whether positions begin again behind the only sample of a row, or with its last one."""
        row, start, stop = found[-1].span
        return (row, stop if len(found) == 1 else start) in edges

    def is_strange(self, pieces: Sequence[Piece], tokens: np.ndarray, shown: np.ndarray) -> bool:
        """Whether a row holds other tokens: not padding, nor one token again and again."""
        if sum(one.span.stop - one.span.start for one in pieces) == len(tokens):
            return False  # as nearly always
        left = shown.copy()
        for span in (one.span for one in pieces):
            left[span.start : span.stop] = False
        return bool((left[1:] & left[:-1] & (tokens[1:] != tokens[:-1])).any())

    def is_alone(
        self,
        pieces: Sequence[Piece],
        tokens: np.ndarray,
        ends: Collection[tuple[int, int]],
        *,
        behind: bool,
    ) -> bool:
        """Whether a row is one sample, or one and padding behind one of these ends.

        `behind`: padding of the batch may stand behind any end.
        """
        if len(pieces) != 1 or pieces[0].span.start or pieces[0].first:
            return False
        row, _, stop = pieces[0].span
        left = tokens[stop:]
        padding = bool(self.is_padding(left).all())
        at_end = (row, stop) in ends and (padding or _are_the_same(left))
        return not len(left) or at_end or (behind and padding)

    def _whole(
        self, row: int, tokens: np.ndarray, at: int, edges: Collection[tuple[int, int]]
    ) -> Piece | None:
        """A sample that begins there: one that ends at an edge before others, then the longest."""
        fits = list[int]()
        for sample in self._by_head.get(tokens[at : at + self._head].tobytes(), ()):
            text = self._texts[sample]
            own = tokens[at : at + len(text)]
            if len(own) == len(text) and not np.count_nonzero(own != text):
                fits.append(sample)
        if not fits:
            return None
        ends = {sample: at + len(self._texts[sample]) for sample in fits}
        best = next((one for one in fits if (row, ends[one]) in edges), fits[0])
        alike = tuple(sorted(one for one in fits if ends[one] == ends[best]))
        return Piece(Span(row, at, ends[best]), alike)

    def _part(self, row: int, tokens: np.ndarray, at: int) -> Piece | None:
        """The longest part of a sample that begins there; None if it is shorter than half of it."""
        begins, head = np.ones(len(self._all), dtype=bool), tokens[at : at + SHORTEST]
        for ahead, token in enumerate(head):
            begins[: len(begins) - ahead] &= self._all[ahead:] == token
            begins[len(begins) - ahead :] &= ahead == 0
        best: tuple[int, int, int] | None = None
        for place in np.flatnonzero(begins)[:MOST_STRANGE].tolist():
            sample = int(np.searchsorted(self._ends, place, side="right"))
            text = self._texts[sample]
            first = place - int(self._ends[sample]) + len(text)
            size = min(len(text) - first, len(tokens) - at)
            off = np.flatnonzero(text[first : first + size] != tokens[at : at + size])
            size = int(off[0]) if len(off) else size
            if best is None or size > best[0]:
                best = size, sample, first
        if best is None or best[0] < SHORTEST or 2 * best[0] < len(self._texts[best[1]]):
            return None
        size, sample, first = best
        return Piece(Span(row, at, at + size), (sample,), first)


def _are_the_same(tokens: np.ndarray) -> bool:
    return bool((tokens == tokens[:1]).all())


def _is_told(given: Mapping[str, Any]) -> bool:
    """Whether the call has arguments of packed rows."""
    return any(given.get(key) is not None for key in (*PACKED, "position_ids"))


def _shows_all(given: Mapping[str, Any], shape: tuple[int, ...], width: int) -> bool:
    """Whether no mask says that rows of one sample are those of a padded batch, `width` long."""
    mask = given.get(PADDING_MASK)
    return mask is None or len(getattr(mask, "shape", ())) == 4 or shape[1] > width


def edges(given: Mapping[str, Any], shape: tuple[int, ...]) -> set[tuple[int, int]]:
    """Row and column of the ends of samples as the call's `position_ids` have them."""
    table = numbers_of(given.get("position_ids"))
    if table is None or table.shape[-2:] != shape or table.ndim > 3:
        return set()
    first = table if table.ndim == 2 else table[0]
    rows, columns = (np.diff(first, axis=1) != 1).nonzero()
    return {*zip(rows.tolist(), (columns + 1).tolist(), strict=True)}
