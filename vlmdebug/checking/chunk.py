"""One chunk of a run: what each key got is compared with what it should get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches

from vlmdebug.checking.altered import alteration
from vlmdebug.checking.chunk_tokens import columns_doubt, token_differences
from vlmdebug.checking.cut_causes import WITHOUT_ZEROS, Causes
from vlmdebug.checking.doubts import (
    Doubt,
    Embedded,
    MayDiffer,
    NotRecomputed,
    Unmatched,
)
from vlmdebug.checking.findings import (
    Difference,
    Dropped,
    EmptyChunk,
    ForeignRows,
    MustBeAbsent,
    OtherLength,
    UnknownKey,
    WrongRows,
    made_otherwise,
)
from vlmdebug.checking.observed import ObservedChunk
from vlmdebug.checking.packed import CutInRow, judged_at_seams, seam_differences, seam_doubts
from vlmdebug.checking.shards import shard_differences, shard_doubts
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import BOOKKEEPING, EXTRAS, pixels_of
from vlmdebug.core.lazy import lazy
from vlmdebug.core.observed import Made, ObservedCall, ObservedKey, SlicerRun
from vlmdebug.core.part import Part
from vlmdebug.core.presence import ExpectedRows, can_do_without
from vlmdebug.core.record import ChunkReport, KeyReport, KeyState
from vlmdebug.core.rows import Rows, rows_of
from vlmdebug.errors import AmbiguousError


class ChunkChecker:
    """The comparison of one chunk.

    Attributes:
        found: What differs, once `report` was called.
        doubts: What was not compared, by key.
    """

    def __init__(
        self, batch: Batch, run: SlicerRun, index: int, chunk: ObservedCall, causes: Causes
    ) -> None:
        self.chunk: ObservedChunk = ObservedChunk(batch, run, index, chunk, causes)
        self.batch: Batch = batch
        self.keys: Mapping[str, ObservedKey] = chunk.keys
        self.found: list[Difference] = []
        self.doubts: dict[str, Doubt] = {}

    def report(self) -> ChunkReport:
        """The verdict on each key; fills `found` and `doubts`."""
        chunk = self.chunk
        if chunk.used.split:
            self._split()
        if not chunk.used.identified:
            return self._apart()
        layout = self.batch.layout.items()
        keys = {key: self._key(key) for key, axis in layout if axis.unit != "batch"}
        for key, made in chunk.used.made.items():
            if not made.right:
                keys[key] = self._made_key(key, made)
        for key in [key for key in self.keys if key not in self.batch.inputs]:  # nearly never
            used = self.keys[key]
            near = self._meant(key, used) if self._is_strange(key) else None
            if near is not None:
                keys[key] = self._misnamed(key, used, near)
        features = chunk.forecast.call.features
        if not self.found:
            self.found += token_differences(chunk, self.doubts)
        if not self.found and not chunk.run.partial and (doubt := columns_doubt(chunk)):
            self.doubts["input_ids"] = doubt
        if chunk.used.cut or chunk.used.seams:
            self._seams(keys)
        if not chunk.samples and "input_ids" in self.keys:
            self.found.append(EmptyChunk(chunk=chunk.index))
        images = images_of(self.batch, chunk.part)
        return ChunkReport(chunk.samples, images, chunk.placeholders, features, keys)

    def _seams(self, keys: dict[str, KeyReport]) -> None:
        """What packed rows say of their samples: whole, and apart."""
        chunk = self.chunk
        for sample, (have, own) in chunk.used.cut.items():
            self.found.append(CutInRow(chunk=chunk.index, samples=(sample,), have=have, own=own))
        found = seam_differences(chunk.used.seams, chunk.samples, chunk.index)
        self.found += found
        left = [key for key, seen in judged_at_seams(chunk.used).items() if not seen]
        told = dict.fromkeys(left, KeyState.CANNOT_TELL)
        for key, state in {**told, **{one.key: KeyState.WRONG_ROWS for one in found}}.items():
            if key in keys and keys[key].state == KeyState.OK:
                keys[key] = replace(keys[key], state=state)
        for one in seam_doubts(chunk.used.seams, len(chunk.samples)):
            self.doubts.setdefault(f"seams: {one.why.name}", one)

    def _split(self) -> None:
        """What a split over ranks does wrong, or may."""
        chunk, faults = self.chunk, self.chunk.used.split
        self.found += shard_differences(faults, chunk.index, chunk.samples)
        for one in shard_doubts(faults, chunk.index):
            self.doubts.setdefault(f"split: {one.fault.why.name}", one)

    def _apart(self) -> ChunkReport:
        """Embeddings hold no token ids, and some ranks cannot be joined: samples are not known."""
        if self.chunk.used.embedded:
            self.doubts["input_ids"] = Embedded(self.chunk.index)
        keys = {
            key: KeyReport(KeyState.CANNOT_TELL, None, used.rows) for key, used in self.keys.items()
        }
        return ChunkReport((), None, self.chunk.placeholders, None, keys)

    def _is_strange(self, key: str) -> bool:
        """Whether it is no argument that models take in addition to those of the batch."""
        return not (key in self.chunk.used.made or key in EXTRAS or key in BOOKKEEPING)

    def _key(self, key: str) -> KeyReport:
        used = self.keys.get(key)
        try:
            expected = self.chunk.forecast.expected[key]
        except (AmbiguousError, IndexError):
            return KeyReport(KeyState.CANNOT_TELL, None, used.rows if used else None)
        if used is None:
            if can_do_without(self.batch, key, self.chunk.part, expected, self.chunk.used):
                return KeyReport(KeyState.ABSENT, expected.rows, None)
            return self._dropped(key, expected.rows)
        if expected.presence == "absent":
            return self._must_be_absent(key, expected.rows, used)
        if used.rows is None:
            unmatched = Unmatched(key, self.chunk.index, used.length, used.unread)
            self.doubts.setdefault(key, unmatched)
            return KeyReport(KeyState.CANNOT_TELL, expected.rows, None)
        if not expected.rows.ranges and self._is_unread(key, expected):
            return KeyReport(KeyState.OK, expected.rows, used.rows)
        right = used.rows == expected.rows or (
            used.rows == expected.without_empty and self._all_without_empty
        )
        if right and used.source is None:
            return KeyReport(self._right_rows(key, used), expected.rows, used.rows)
        without, own = expected.without_empty, expected.rows
        if without is not None and used.length == len(without) and self._all_without_empty:
            own = without
        return self._wrong_rows(key, own, used, used.rows)

    @lazy
    def _all_without_empty(self) -> bool:
        """Whether the same padded rows were left out of every key that can do without them."""
        media, rules = self.batch.layout.media, self.batch.rules
        given = {
            used.rows
            for key, used in self.keys.items()
            if key in media and rules.of(key).may_skip_empty_rows
        }
        return len(given) == 1

    def _is_unread(self, key: str, expected: ExpectedRows) -> bool:
        """Whether it describes images in a chunk that has none, and no pixels."""
        described = expected.presence == "either" and key in self.batch.image.keys
        return described and pixels_of(self.batch.layout.media) not in self.keys

    def _right_rows(self, key: str, used: ObservedKey) -> KeyState:
        """The state of a key with the right rows, which may have been altered."""
        if used.change is None and used.inner is None:
            return KeyState.OK  # as nearly all keys are
        altered = alteration(self.chunk, key, used)
        if altered is None:
            return KeyState.OK
        if isinstance(altered, MayDiffer):
            self.doubts[key] = altered
            return KeyState.CANNOT_TELL
        self.found.append(altered)
        return KeyState.WRONG_ROWS

    def _wrong_rows(self, key: str, expected: Rows, used: ObservedKey, rows: Rows) -> KeyReport:
        if used.source is not None or rows.foreign:
            kind = ForeignRows
        else:
            kind = WrongRows if used.length == len(expected) else OtherLength
        causes = self.chunk.causes.of(key)
        self.found.append(
            kind(
                key=key,
                expected=expected,
                actual=rows,
                outcome=self.chunk.forecast.wrong(key),
                cause=next(iter(causes), None),
                length=used.length,
                source=used.source,
                cut_by=tuple(one.what for one in causes if one is not WITHOUT_ZEROS),
                **self.chunk.place,
            )
        )
        return KeyReport(KeyState.WRONG_ROWS, expected, rows)

    def _dropped(self, key: str, expected: Rows) -> KeyReport:
        lacks_zeros = WITHOUT_ZEROS in self.chunk.causes.of(key)
        self.found.append(
            Dropped(
                key=key,
                expected=expected,
                outcome=self.chunk.forecast.missing(key),
                cause=WITHOUT_ZEROS if lacks_zeros else None,
                **self.chunk.place,
            )
        )
        return KeyReport(KeyState.DROPPED, expected, None)

    def _must_be_absent(self, key: str, expected: Rows, used: ObservedKey) -> KeyReport:
        causes = self.chunk.causes.of(key) if used.length else ()
        self.found.append(
            MustBeAbsent(
                key=key,
                expected=Rows(),
                actual=used.rows,
                outcome=self.chunk.forecast.surplus(key),
                cause=next(iter(causes), None),
                length=used.length,
                **self.chunk.place,
            )
        )
        return KeyReport(KeyState.MUST_BE_ABSENT, expected, used.rows)

    def _meant(self, key: str, used: ObservedKey) -> str | None:
        """The key of the batch that a name no model takes means; None for a trainer's own.

        A trainer may keep keys for its loss, `advantages` for instance. A name means a key if
        it is nearly the key's, or if it holds the rows of one that the chunk lacks.
        """
        missing = [name for name in self.batch.layout if name not in self.keys]
        if used.source in missing:
            return used.source
        near = get_close_matches(key, missing, 1, cutoff=0.75)
        if near:
            return near[0]
        # A key of another model, or any key where the model itself was called, is wrong.
        strange = key in self.batch.known or self.chunk.run.partial
        return used.source or "" if strange else None

    def _misnamed(self, key: str, used: ObservedKey, near: str) -> KeyReport:
        self.found.append(UnknownKey(key=key, actual=used.rows, meant=near, **self.chunk.place))
        return KeyReport(KeyState.UNKNOWN_KEY, None, used.rows)

    def _made_key(self, key: str, made: Made) -> KeyReport:
        assert made.why is not None
        if made.right is None:
            self.doubts[key] = NotRecomputed(key, self.chunk.index, made.why)
            return KeyReport(KeyState.CANNOT_TELL, None, None)
        self.found.append(made_otherwise(key, made.why, **self.chunk.place))
        return KeyReport(KeyState.WRONG_ROWS, None, None)


def images_of(batch: Batch, part: Part) -> int | None:
    """Images of its samples; None where they are not known."""
    if "image" not in batch.counts:
        return None
    return len(rows_of(batch.counts["image"].offsets, part.samples))
