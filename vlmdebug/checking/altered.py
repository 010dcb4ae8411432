"""Right rows that became something else: other columns, another shape, other values."""

from __future__ import annotations

from vlmdebug.checking.doubts import MayDiffer
from vlmdebug.checking.findings import Because, Cause, Changed, OtherColumns, PaddingCut
from vlmdebug.checking.observed import ObservedChunk
from vlmdebug.core.change import UNSURE, Change
from vlmdebug.core.layout import plural
from vlmdebug.core.observed import ObservedKey


def alteration(
    chunk: ObservedChunk, key: str, used: ObservedKey
) -> PaddingCut | Changed | OtherColumns | MayDiffer | None:
    """What became of the right rows of `key`; None where they are as they were."""
    if not _padding_fits(chunk, key, used):
        return _padding_cut(chunk, key, used)
    change = used.change
    if change is None:
        return None
    if change.kind == "columns" or (change.kind == "longer" and chunk.forecast.reads_beyond):
        return _other_columns(chunk, key, used)
    if change.kind in UNSURE and not _is_cut_apart(chunk, key, change):
        return MayDiffer(key, chunk.index, used.columns, change)
    return Changed(
        key=key,
        expected=used.rows,
        actual=used.rows,
        outcome=chunk.forecast.changed(key, change),
        cause=Cause(Because.CHANGED, f"{change.kind} {change.dtype[0]}".strip()),
        change=change,
        whole=tuple(chunk.batch.inputs[key].shape),
        **chunk.place,
    )


def _padding_fits(chunk: ObservedChunk, key: str, used: ObservedKey) -> bool:
    """Whether the padded dimension still holds every tile of the chunk's samples."""
    needed = _needed_padding(chunk, key)
    if used.inner is None or needed is None:
        return True
    anchor = chunk.keys.get(chunk.batch.layout.feature_key or "")
    beside = anchor.inner if anchor is not None and anchor.inner is not None else used.inner
    return used.inner >= needed and (beside == used.inner or beside < needed)


def _needed_padding(chunk: ObservedChunk, key: str) -> int | None:
    """The most tiles or images of one of the chunk's samples; None where none are padded."""
    axis, counts = chunk.batch.layout[key], chunk.batch.counts
    if axis.padded is None or axis.padded not in counts or axis.unit != "sample":
        return None
    return max((counts[axis.padded][sample] for sample in chunk.samples), default=0)


def _padding_cut(chunk: ObservedChunk, key: str, used: ObservedKey) -> PaddingCut:
    """The right rows, with their padded dimension cut off."""
    axis, needed = chunk.batch.layout[key], _needed_padding(chunk, key)
    assert axis.padded is not None and needed is not None and used.inner is not None
    return PaddingCut(
        key=key,
        expected=used.rows,
        actual=used.rows,
        outcome=chunk.forecast.short_padding(key),
        cause=Cause(Because.PADDING, plural(axis.padded)),
        axis=axis,
        given=used.inner,
        needed=needed,
        **chunk.place,
    )


def _other_columns(chunk: ObservedChunk, key: str, used: ObservedKey) -> OtherColumns:
    return OtherColumns(
        key=key,
        expected=used.rows,
        actual=used.rows,
        outcome=chunk.forecast.other_columns(key),
        columns=used.columns,
        of_ids=chunk.keys["input_ids"].columns,
        **chunk.place,
    )


def _is_cut_apart(chunk: ObservedChunk, key: str, change: Change) -> bool:
    """Whether a media key that shares a dimension of it was not cut alike."""
    media, keys = chunk.batch.layout.media, chunk.keys
    if key not in media or change.kind != "padding cut":
        return False
    sizes = _sizes(change)
    for name in media.keys() & keys.keys() - {key}:
        other, shape = keys[name], chunk.batch.inputs[name].shape[1:]
        for have, given in sizes:
            theirs = _sizes(other.change) if other.change is not None else ()
            if have in shape and (have, given) not in theirs:
                return True
    return False


def _sizes(change: Change) -> list[tuple[int, int]]:
    """Lengths of the dimensions that changed: in the batch, and now."""
    pairs = zip(change.expected[1:], change.given[1:], strict=False)
    return [(have, given) for have, given in pairs if have != given]
