"""Packed rows of `input_ids`: where each of their samples begins and ends.

Trainers join samples in one row and say where each begins by `cu_seqlens` or `cu_seq_lens_q` and
`_k` (ends over all tokens, from 0), by `seq_idx` (a number per token), or by `position_ids` that
start again. All that are given must agree. Where none is, it may be an `attention_mask` of four
dimensions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from vlmdebug.core.batch import Ambiguity, Contradiction, Undecided
from vlmdebug.core.blocks import is_of_blocks, seen_of
from vlmdebug.core.keys import PACKED
from vlmdebug.core.part import Span, Spans
from vlmdebug.core.tensors import numbers_of, to_numpy
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.families.restarts import restarted
from vlmdebug.safe import one_line

ENDS = tuple(key for key in PACKED if key.startswith("cu_"))
INDEX = "seq_idx"
M_ROPE = (3, 4)
"""Planes of M-RoPE's `position_ids`, `(plane, row, seq)`."""
ASK = "Pass seq_lens=[…], the number of tokens of each sample, or the batch before packing."
ASK_BARE = (
    "Pass attention_mask with it if it is one sample, and position_ids that start again with each "
    "if it holds several."
)


@dataclass(frozen=True)
class Packing:
    """The samples of packed rows.

    Attributes:
        spans: The tokens of each sample; None where no row holds several.
        source: The key or argument that says so.
        ambiguities: What contradicts it, or what leaves it open.
        restarts: Whether `position_ids`, those of text, are 0, 1, 2 … in each sample.
    """

    spans: Spans | None = None
    source: str = "rows of input_ids"
    ambiguities: tuple[Ambiguity, ...] = ()
    restarts: bool = False


def read_packing(
    tensors: Mapping[str, Any],
    seq_lens: Any,
    pad: int | None,
    *,
    clips: Collection[int] = (),
    single: bool = False,
) -> Packing:
    """Where the samples of packed rows are.

    Args:
        tensors: The batch, with `input_ids` of shape `(row, seq)`.
        seq_lens: Tokens of each sample of the one row, or a list of them per row.
        pad: Id of the padding token, where known.
        clips: Ids of the placeholder tokens of videos and audio, where known.
        single: Whether counts were given for a single sample.

    Raises:
        BadInput: `seq_lens` is no such list.
    """
    rows, width = map(int, tensors["input_ids"].shape)
    planes, ids = _planes(tensors), to_numpy(tensors["input_ids"])
    if planes is not None and seq_lens is None:
        spans = restarted(tensors, planes, ids, pad)
        if spans is not None:
            return Packing(spans, "position_ids", restarts=True)
    zero = None if planes is None else _are_zero(planes)
    shown = _shown(tensors, zero)
    if planes is not None and pad is not None and (ids[:, -1] == pad).any():
        shown &= ~_jumping_padding(planes, ids == pad)
    found = _found(tensors, seq_lens)
    starts = None if zero is None else _starts(zero, shown)
    if starts is not None:
        found["position_ids"] = _by_starts(starts, shown)
    bad = [key for key, spans in found.items() if spans is None]
    if bad:
        return Packing(ambiguities=(_unreadable(bad[0], rows, width),))
    told = {key: spans for key, spans in found.items() if spans is not None}
    if not told and pad is not None and is_of_blocks(tensors.get("attention_mask")):
        blocks = _by_blocks(tensors["attention_mask"], ids, pad)
        told = {} if blocks is None else {"attention_mask": blocks}
    if not told:
        return Packing(
            ambiguities=() if single else tuple(_undecided(tensors, planes, shown, clips))
        )
    packing = _agreed(told, ids, pad)
    if packing.spans is None or packing.ambiguities:
        return packing
    spans, source = packing.spans, packing.source
    if planes is not None and len(spans) > 1:
        spans = _without_jumps(spans, ids, pad, planes)
    if len({span.row for span in spans}) == len(spans):
        return Packing()  # one sample in each row
    if sum(spans.lengths) == ids.size:  # as nearly always
        return Packing(spans, source)
    return Packing(spans, source, tuple(_left_over(tensors, ids, spans, pad)))


def _found(tensors: Mapping[str, Any], seq_lens: Any) -> dict[str, Spans | None]:
    """The spans that each argument but `position_ids` gives; None where it gives none."""
    rows, width = map(int, tensors["input_ids"].shape)
    found = dict[str, Spans | None]()
    if seq_lens is not None:
        found["seq_lens"] = _by_lengths(seq_lens, rows, width)
    for key in ENDS:
        if key in tensors and not _are_of_images(tensors[key], rows, width):
            found[key] = _by_ends(plain_ends(key, to_numpy(tensors[key])), rows, width)
    if INDEX in tensors:
        found[INDEX] = _by_index(to_numpy(tensors[INDEX]), rows, width)
    return found


def _agreed(told: Mapping[str, Spans], ids: np.ndarray, pad: int | None) -> Packing:
    """The spans that all of these give; some may count padding behind a sample."""
    source, spans = next(iter(told.items()))
    if any(own != spans for own in told.values()):
        texts = {key: _texts(own, ids, pad) for key, own in told.items()}
        other = next((key for key in told if texts[key] != texts[source]), None)
        if other is not None:
            return Packing(spans, source, (_contradiction(source, spans, other, told[other]),))
        bare = [_without_padding(own, ids, pad) for own in told.values()]
        spans = Spans(min(same, key=lambda span: span.stop) for same in zip(*bare, strict=True))
    return Packing(_without_padding(spans, ids, pad), source)


def plain_ends(key: str, ends: np.ndarray) -> np.ndarray:
    """Cumulative lengths as `(end,)`, without -1 behind them.

    Trainers collate `cu_seqlens` as one more key of one row, `(1, end)`, and pad it with -1; the
    lengths that flash-attention takes, `cu_seq_lens_q` and `_k`, have one dimension.
    """
    if key.endswith(("_q", "_k")) or ends.dtype.kind not in "iu":
        return ends
    flat = ends[0] if ends.ndim == 2 and len(ends) == 1 else ends
    if flat.ndim != 1 or not len(flat) or flat[-1] != -1:
        return flat
    return flat[: int(np.flatnonzero(flat != -1)[-1:].sum()) + 1]


def _are_of_images(bounds: Any, rows: int, width: int) -> bool:
    """Whether bounds do not end with the tokens of several rows, but with those of images."""
    if rows == 1 or getattr(bounds, "ndim", 0) != 1 or not len(bounds):
        return False
    return int(bounds[-1]) != rows * width


def _without_padding(spans: Spans, ids: np.ndarray, pad: int | None) -> Spans:
    """The spans that hold more than padding; collators number padding too."""
    if pad is None or not np.count_nonzero(ids == pad):  # as nearly always
        return spans
    return Spans(span for span in spans if (ids[span.row, span.start : span.stop] != pad).any())


def _without_jumps(spans: Spans, ids: np.ndarray, pad: int | None, planes: np.ndarray) -> Spans:
    """The spans without padding behind each from where positions do not go on by one.

    If the padding token is not known, one token again and again may be padding where all planes
    jump at once: within an image of M-RoPE some of them go on.
    """
    found = list[Span]()
    for span in spans:
        row, start, stop = span
        one = ids[row, stop - 1]
        if pad in (None, one):
            text = np.flatnonzero(ids[row, start:stop] != one)
            begin = start + int(text[-1:].sum()) + 1
            off = np.diff(planes[:, row, begin - 1 : stop], axis=1) != 1  # (plane, step)
            jumps = np.flatnonzero(off.all(axis=0) if pad is None else off.any(axis=0))
            if len(jumps) and (pad is not None or stop - begin > 1):
                span = Span(row, start, begin + int(jumps[0]))
        found.append(span)
    return Spans(found)


def _texts(spans: Spans, ids: np.ndarray, pad: int | None) -> Spans:
    """The same, and without padding behind each."""
    if pad is None:
        return spans
    return Spans(
        Span(row, start, start + int(np.flatnonzero(ids[row, start:stop] != pad)[-1]) + 1)
        for row, start, stop in _without_padding(spans, ids, pad)
    )


def _by_lengths(given: Any, rows: int, width: int) -> Spans:
    """The spans that `seq_lens=` gives."""
    listed = given.tolist() if hasattr(given, "tolist") else given
    flat = isinstance(listed, Sequence) and not any(isinstance(one, Sequence) for one in listed)
    per_row = [listed] if flat and rows == 1 else listed
    lengths = [
        [one.item() if hasattr(one, "item") else one for one in own]
        for own in (per_row if isinstance(per_row, Sequence) else ())
        if isinstance(own, Sequence)
    ]
    good = len(lengths) == rows and all(
        isinstance(one, int) and not isinstance(one, bool) and one > 0
        for own in lengths
        for one in own
    )
    if not good or any(sum(own) > width for own in lengths) or not all(lengths):
        raise BadInput(
            f"seq_lens is {one_line(repr(given), 80)}, but input_ids has {number(rows, 'row')} of "
            f"{width} tokens. It holds the number of tokens of each sample, 1 or more: a list for "
            f"one row, or a list per row, each with a sum of at most {width}."
        )
    return _cut((np.cumsum([0, *own]).tolist() for own in lengths), range(rows))


def _by_ends(ends: np.ndarray, rows: int, width: int) -> Spans | None:
    """The spans between cumulative lengths over all tokens; None if these are none."""
    given = ends.tolist() if ends.ndim == 1 and ends.dtype.kind in "iu" else []
    if len(given) < 2 or given[0] != 0 or given != sorted(given) or given[-1] > rows * width:
        return None
    spans = list[Span]()
    for start, stop in pairwise(dict.fromkeys(given)):
        row, begin = divmod(start, width)
        if begin + stop - start > width:
            return None  # a sample does not go on in the next row
        spans.append(Span(row, begin, begin + stop - start))
    return Spans(spans) or None


def _by_index(index: np.ndarray, rows: int, width: int) -> Spans | None:
    """The spans of equal numbers; tokens with a number below 0 belong to no sample."""
    if index.shape != (rows, width):
        return None
    changes = np.diff(index, axis=1, prepend=index[:, :1] - 1) != 0
    return _by_starts(changes, index >= 0)


def _by_starts(starts: np.ndarray, shown: np.ndarray) -> Spans | None:
    """The spans from each start to the next one, or to the last token that is shown."""
    edges, rows = list[list[int]](), list[int]()
    for row, (begins, real) in enumerate(zip(starts, shown, strict=True)):
        columns = real.nonzero()[0]
        if len(columns):
            first, stop = int(columns[0]), int(columns[-1]) + 1
            edges.append(sorted({first, *(begins & real).nonzero()[0].tolist(), stop}))
            rows.append(row)
    return _cut(edges, rows) or None


def _by_blocks(mask: Any, ids: np.ndarray, pad: int) -> Spans | None:
    """The spans of a mask of four dimensions: in each, a token sees the one before it.

    None where it cannot be read, or no row holds several; no sample is one token long.
    """
    seen = seen_of(mask, *ids.shape)
    if seen is None:
        return None
    starts = np.ones(ids.shape, dtype=bool)
    starts[:, 1:] = ~np.diagonal(seen, offset=-1, axis1=1, axis2=2)
    spans = _without_padding(_by_starts(starts, np.ones_like(starts)) or Spans(), ids, pad)
    several = len({span.row for span in spans}) < len(spans)
    return spans if several and min(spans.lengths) > 1 else None


def _cut(edges: Iterable[Sequence[int]], rows: Iterable[int]) -> Spans:
    return Spans(
        Span(row, start, stop)
        for row, own in zip(rows, edges, strict=True)
        for start, stop in pairwise(own)
    )


def _planes(tensors: Mapping[str, Any]) -> np.ndarray | None:
    """`position_ids` as `(plane, row, seq)`; None where the batch has none of a known shape."""
    shape = tuple(tensors["input_ids"].shape)
    given = tuple(getattr(tensors.get("position_ids"), "shape", ()))
    if given != shape and (len(given) != 3 or given[0] not in M_ROPE or given[1:] != shape):
        return None
    values = to_numpy(tensors["position_ids"])
    return values if values.ndim == 3 else values[None]


def _shown(tensors: Mapping[str, Any], zero: np.ndarray | None) -> np.ndarray:
    """Tokens that no `attention_mask` hides, `(row, seq)`, without positions of padding.

    Position 0 at the end of a row, or several times at its begin, is padding: no sample is one
    token long. `zero`: tokens with that position, if the batch has positions.
    """
    ids, mask = tensors["input_ids"], tensors.get("attention_mask")
    masked = mask is not None and tuple(mask.shape) == tuple(ids.shape)
    shown = to_numpy(mask) != 0 if masked else np.ones(tuple(ids.shape), dtype=bool)
    if zero is None or not (zero[:, -1].any() or zero[:, :2].all(axis=1).any()):
        return shown  # as nearly always
    behind = np.logical_and.accumulate(zero[:, ::-1], axis=1)[:, ::-1]
    behind[:, 0] = False
    before = np.logical_and.accumulate(zero, axis=1)
    before[:, :-1], before[:, -1] = before[:, 1:].copy(), False
    return shown & ~behind & ~before


def _jumping_padding(planes: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Padding at the end of a row from where positions do not go on by one, `(row, seq)`.

    Collators give it any position, such as 0, 1 or its place in the row. A text that ends with the
    same token may lose it here, which no other token of it attends to.
    """
    behind = np.logical_and.accumulate(padding[:, ::-1], axis=1)[:, ::-1]
    behind &= ~padding.all(axis=1, keepdims=True)
    jumps = np.zeros(padding.shape, dtype=bool)
    jumps[:, 1:] = (planes[:, :, 1:] - planes[:, :, :-1] != 1).any(axis=0)
    return np.logical_or.accumulate(jumps & behind, axis=1)


def _starts(zero: np.ndarray, shown: np.ndarray) -> np.ndarray | None:
    """Where all planes of `position_ids` are 0 after another token; None where nowhere."""
    starts = zero & shown
    starts[:, 1:] &= shown[:, :-1]
    return starts if starts[:, 1:].any() else None


def _are_zero(planes: np.ndarray) -> np.ndarray:
    """Tokens that are the first by the places of text, else by all planes, `(row, seq)`.

    Places of text are alone, or the first of four planes. The others look at differences only.
    """
    text = len(planes) != M_ROPE[0]
    return planes[0] == 0 if text else ~np.logical_or.reduce(planes, axis=0)


def _undecided(
    tensors: Mapping[str, Any],
    planes: np.ndarray | None,
    shown: np.ndarray,
    clips: Collection[int],
) -> Iterator[Ambiguity]:
    """Signs of several samples in a row that do not say where each begins.

    Time also goes back behind a video, as text goes on behind its sides, or its sound comes.
    """
    width = tensors["input_ids"].shape[1]
    for key in (one for one in PACKED if one.startswith("max_") and one in tensors):
        longest = _longest(tensors[key])
        if longest is None or longest < width:
            said = (
                "not one number"
                if longest is None
                else f"{longest}, below the {width} tokens of a row"
            )
            yield _open(f"{key} is {said}")
            return
    if planes is None:
        if len(tensors["input_ids"]) == 1 and "attention_mask" not in tensors:
            shape = getattr(tensors.get("position_ids"), "shape", None)
            which = "" if shape is None else f" of its shape: they have {tuple(shape)}"
            said = f"input_ids is one row without attention_mask and position_ids{which}"
            yield _open(said, ASK_BARE)
        return
    back = (planes[0][:, 1:] < planes[0][:, :-1]) & shown[:, 1:] & shown[:, :-1]
    if back.any() and clips and len(planes) == M_ROPE[0]:
        back &= ~np.isin(to_numpy(tensors["input_ids"]), [*clips])[:, :-1]
    if back.any():
        row, column = map(int, np.argwhere(back)[0])
        yield _open(f"position_ids go back at token {column + 1} of row {row}, but not to 0")


def _longest(given: Any) -> int | None:
    """A length that a key gives; None if it is no one number."""
    values = None if given is None or isinstance(given, str) else numbers_of(np.asarray(given))
    if values is None or values.size != 1 or not np.isfinite(values).all():
        return None
    return int(values.reshape(()))


def _open(why: str, ask: str = ASK) -> Ambiguity:
    said = f"{why}, so rows may hold several samples; each row was read as one sample. {ask}"
    return Undecided((), None, said)


def _unreadable(key: str, rows: int, width: int) -> Contradiction:
    said = (
        f"{key} does not divide {number(rows, 'row')} of {width} tokens into samples. "
        f"It belongs to another batch, or a row was cut or padded after packing. {ASK}"
    )
    return Contradiction((), None, said, silent=None)


def _contradiction(key: str, spans: Spans, other: str, theirs: Spans) -> Contradiction:
    said = (
        f"{key} and {other} disagree on the samples of the packed rows: "
        f"{_lengths(spans)} tokens by {key}, {_lengths(theirs)} by {other}. "
        "One belongs to another batch, or was made before a row was cut or padded. "
        "Compute both from the final rows."
    )
    return Contradiction((), None, said, silent=None)


def _lengths(spans: Spans) -> str:
    return one_line(str(list(spans.lengths)), 80)


def _left_over(
    tensors: Mapping[str, Any], ids: np.ndarray, spans: Spans, pad: int | None
) -> Iterator[Ambiguity]:
    """Tokens of no sample that are not known to be padding."""
    left = np.ones(ids.shape, dtype=bool)
    for row, start, stop in spans:
        left[row, start:stop] = False
    mask = tensors.get("attention_mask")
    if mask is not None and tuple(mask.shape) == ids.shape:
        left &= to_numpy(mask) != 0
    count = int((left if pad is None else left & (ids != pad)).sum())
    if count:
        said = (
            f"{number(count, 'token')} of the packed rows belong to no sample, and nothing says "
            f"that they are padding. They were not checked. {ASK}"
        )
        yield Ambiguity((), None, said)
