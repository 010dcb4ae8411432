"""One chunk on trial: what each of its keys was handed, beside what it should have been handed."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property

from vlmdebug import wording
from vlmdebug.batch import Batch
from vlmdebug.change import UNSURE, Change
from vlmdebug.core.keys import BOOKKEEPING, EXTRAS
from vlmdebug.cut_causes import WITHOUT_ZEROS, Causes, named, samples_of
from vlmdebug.errors import AmbiguousError
from vlmdebug.layout import plural
from vlmdebug.mismatch import Mismatch
from vlmdebug.modality import Modality
from vlmdebug.outcome import Forecast
from vlmdebug.plan import Rows, rows_of
from vlmdebug.presence import Planned, can_do_without
from vlmdebug.report import ChunkReport, KeyReport
from vlmdebug.used import Made, Run, Used, UsedChunk


class Judge:
    """One chunk on trial."""

    causes: Causes
    batch: Batch
    run: Run
    index: int
    chunk: UsedChunk

    def __init__(
        self, batch: Batch, run: Run, index: int, chunk: UsedChunk, causes: Causes
    ) -> None:
        self.causes = causes
        self.batch, self.run, self.index, self.chunk = batch, run, index, chunk
        self.rows: Rows = samples_of(batch, run, index, chunk)
        self.samples: tuple[int, ...] = tuple(self.rows)
        self.forecast: Forecast = Forecast(batch, chunk, self.rows)
        self.mismatches: list[Mismatch] = []
        self.unsettled: dict[str, str] = {}

    def report(self) -> ChunkReport:
        if self.chunk.embedded:
            return self._embedded()
        keys = {key: self._key(key) for key in self.batch.layout if self._is_cut(key)}
        for key, made in self.chunk.made.items():
            if not made.right:
                keys[key] = self._made_key(key, made)
        for key, used in self.chunk.keys.items():
            near = self._meant(key, used) if self._is_strange(key) else None
            if near is not None:
                keys[key] = self._misnamed(key, used, near)
        features = self.forecast.call.features
        if not self.mismatches:
            self._out_of_step(features)
            self._clips_out_of_step()
        if self.chunk.left_out and not self.mismatches and not self.run.partial:
            self.unsettled["input_ids"] = wording.left_out(self.index, self.chunk.left_out)
        if not self.samples and "input_ids" in self.chunk.keys:
            message = wording.no_samples(self.index)
            self._add("VLM006", message, None, None, None, False, cause=None)
        return ChunkReport(
            self.samples,
            images_of(self.batch, self.samples),
            self.chunk.placeholders.get("image"),
            features,
            keys,
        )

    def _embedded(self) -> ChunkReport:
        """Embeddings hold no token ids, so whose rows lie beside them is not known."""
        self.unsettled["input_ids"] = wording.embedded(self.index)
        keys = {
            key: KeyReport("cannot tell", None, used.rows) for key, used in self.chunk.keys.items()
        }
        return ChunkReport((), None, self.chunk.placeholders.get("image"), None, keys)

    def _is_cut(self, key: str) -> bool:
        return self.batch.layout[key].unit != "batch"

    def _is_strange(self, key: str) -> bool:
        """Whether neither the batch has it nor models take it beside what a batch has."""
        beside = key in EXTRAS or key in BOOKKEEPING or key in self.chunk.made
        return not beside and key not in self.batch.inputs

    def _key(self, key: str) -> KeyReport:
        used = self.chunk.keys.get(key)
        try:
            planned = self.forecast.planned(key)
        except (AmbiguousError, IndexError):
            return KeyReport("cannot tell", None, used.rows if used else None)
        if used is None:
            if can_do_without(self.batch, key, planned, self.chunk):
                return KeyReport("absent", planned.rows, None)
            self._dropped(key, planned.rows)
            return KeyReport("dropped", planned.rows, None)
        if planned.presence == "absent":
            self._must_be_absent(key, used)
            return KeyReport("must be absent", planned.rows, used.rows)
        if used.rows is None:
            self._cannot_tell(key, used)
            return KeyReport("cannot tell", planned.rows, None)
        if not planned.rows.ranges and self._unlooked_at(key, planned):
            return KeyReport("ok", planned.rows, used.rows)
        right = used.rows == planned.rows or (
            used.rows == planned.without_empty and self._all_without_empty
        )
        if right and used.source is None and not self._inner_fits(key, used):
            self._other_inner(key, used)
            return KeyReport("wrong rows", planned.rows, used.rows)
        if right and used.source is None:
            return KeyReport(self._changed(key, used), planned.rows, used.rows)
        self._wrong_rows(key, planned.rows, used)
        return KeyReport("wrong rows", planned.rows, used.rows)

    def _unlooked_at(self, key: str, planned: Planned) -> bool:
        """Whether it says something of images in a chunk without any, and without pixels."""
        described = planned.presence == "either" and key in self.batch.image.keys
        return described and "pixel_values" not in self.chunk.keys

    @cached_property
    def _all_without_empty(self) -> bool:
        """Whether the same padded rows were left out of every key that can do without them."""
        layout = self.batch.layout
        given = [
            used.rows
            for key, used in self.chunk.keys.items()
            if key in layout.media and layout.rules.of(key).may_skip_empty_rows
        ]
        return len(set(given)) == 1

    def _inner_fits(self, key: str, used: Used) -> bool:
        """Whether the padded dimension still holds every tile of the chunk's samples."""
        needed = self._needed_inner(key)
        if used.inner is None or needed is None:
            return True
        anchor = self.chunk.keys.get(self.batch.layout.feature_key or "")
        beside = anchor.inner if anchor is not None and anchor.inner is not None else used.inner
        return used.inner >= needed and (beside == used.inner or beside < needed)

    def _needed_inner(self, key: str) -> int | None:
        """The most tiles or images of one of the chunk's samples; None where none are padded."""
        axis = self.batch.layout[key]
        if axis.padded is None or axis.padded not in self.batch.counts or axis.unit != "sample":
            return None
        counts = self.batch.counts[axis.padded]
        return max((counts[sample] for sample in self.samples), default=0)

    def _dropped(self, key: str, planned: Rows) -> None:
        silent, then = self.forecast.missing(key)
        units = [unit for unit in self._cut_by(key) if unit == WITHOUT_ZEROS]
        message = wording.dropped(self.batch, key, self.samples, planned, then, units)
        self._add("VLM003", message, key, planned, None, silent, cause=named(units))

    def _must_be_absent(self, key: str, used: Used) -> None:
        silent, then = self.forecast.surplus(key)
        units = self._cut_by(key) if used.length else []
        message = wording.must_be_absent(self.batch, key, self.samples, used, then, units)
        cause = named(units)
        self._add("VLM005", message, key, Rows(), used.rows, silent, cause=cause)

    def _wrong_rows(self, key: str, planned: Rows, used: Used) -> None:
        assert used.rows is not None
        if used.source is not None or used.rows.foreign:
            code = "VLM011"
        else:
            code = "VLM002" if used.length == len(planned) else "VLM001"
        units, (silent, then) = self._cut_by(key), self.forecast.wrong(key)
        message = wording.wrong_rows(self.batch, key, self.samples, planned, used, then, units)
        self._add(code, message, key, planned, used.rows, silent, cause=named(units))

    def _cannot_tell(self, key: str, used: Used) -> None:
        message = wording.cannot_tell(key, self.index, used.length, used.unread)
        self.unsettled.setdefault(key, message)

    def _changed(self, key: str, used: Used) -> str:
        """Right rows that may have become something else: the state of their key."""
        change = used.change
        if change is None:
            return "ok"
        if change.kind == "columns" or (change.kind == "longer" and self.forecast.reads_beyond):
            self._other_columns(key, used)
            return "wrong rows"
        if change.kind in UNSURE and not self._cut_apart(key, change):
            self.unsettled[key] = wording.may_be_cut(self.batch, key, self.index, used, change)
            return "cannot tell"
        silent, then = self.forecast.changed(key, change)
        whole = tuple(self.batch.inputs[key].shape)
        message = wording.changed(key, self.samples, change, whole, then)
        cause = f"{change.kind} {change.dtype[0]}".strip()
        self._add("VLM011", message, key, used.rows, used.rows, silent, cause=cause)
        return "wrong rows"

    def _cut_apart(self, key: str, change: Change) -> bool:
        """Whether a media key that shares a dimension of it was not cut alike."""
        media, keys = self.batch.layout.media, self.chunk.keys
        if key not in media or change.kind != "padding cut":
            return False
        sizes = _sizes(change)
        for name in media.keys() & keys.keys() - {key}:
            other, shape = keys[name], self.batch.inputs[name].shape[1:]
            for have, given in sizes:
                theirs = _sizes(other.change) if other.change is not None else ()
                if have in shape and (have, given) not in theirs:
                    return True
        return False

    def _other_columns(self, key: str, used: Used) -> None:
        ids = self.chunk.keys["input_ids"]
        silent = self.forecast.other_columns(key)
        message = wording.other_columns(key, self.samples, used, ids, silent)
        self._add("VLM011", message, key, used.rows, used.rows, silent, cause="columns")

    def _other_inner(self, key: str, used: Used) -> None:
        """The right rows, from whose padded dimension something was cut off."""
        axis, needed, given = self.batch.layout[key], self._needed_inner(key), used.inner
        assert axis.padded is not None and needed is not None and given is not None
        fit, silent = self.forecast.call.lengths_agree, self.forecast.short_padding()
        message = wording.other_inner(key, self.samples, axis, given, needed, silent, fit)
        cause = f"padded {plural(axis.padded)}"
        self._add("VLM001", message, key, used.rows, used.rows, silent, cause=cause)

    def _meant(self, key: str, used: Used) -> str | None:
        """The key of the batch that a name no model takes stands for; None for a trainer's own.

        A trainer may keep keys for its loss, `advantages` for instance. A name stands for a key if
        it is nearly the key's, or if it holds the rows of one that the chunk lacks.
        """
        missing = [name for name in self.batch.layout if name not in self.chunk.keys]
        if used.source in missing:
            return used.source
        near = get_close_matches(key, missing, 1, cutoff=0.75)
        if near:
            return near[0]
        strange = key in self.batch.known or self.run.partial  # of another model; given to this one
        return used.source or "" if strange else None

    def _misnamed(self, key: str, used: Used, near: str) -> KeyReport:
        message = wording.unknown_key(self.batch, key, self.samples, near)
        self._add("VLM004", message, key, None, used.rows, None, cause=None)
        return KeyReport("unknown key", None, used.rows)

    def _made_key(self, key: str, made: Made) -> KeyReport:
        if made.right is None:
            self.unsettled[key] = wording.not_recomputed(key, self.index, made.why)
            return KeyReport("cannot tell", None, None)
        message = wording.made_otherwise(key, self.samples, made)
        self._add("VLM011", message, key, None, None, None, cause=f"makes {key}")
        return KeyReport("wrong rows", None, None)

    def _add(
        self,
        code: str,
        message: str,
        key: str | None,
        planned: Rows | None,
        used: Rows | None,
        silent: bool | None,
        *,
        cause: str | None,
    ) -> None:
        self.mismatches.append(
            Mismatch(code, message, key, self.index, self.samples, planned, used, silent, cause)
        )

    def _cut_by(self, key: str) -> list[str]:
        """By what the rows may have been cut; of a single chunk as of all."""
        return self.causes.of(key)

    def _out_of_step(self, features: int | None) -> None:
        placeholders = self.chunk.placeholders.get("image")
        if features is None or placeholders is None or features == placeholders:
            return
        image_keys = self.batch.image.keys or ("input_ids",)
        if not self.unsettled.keys().isdisjoint(image_keys):
            return
        if placeholders == self.batch.placeholders_of(self.samples) and not self.run.partial:
            return  # the batch itself is out of step there, and VLM010 says so
        silent = self.forecast.other_totals(self.batch.image)
        message = wording.chunk_out_of_step(self._who, placeholders, features, silent)
        self._add("VLM009", message, "input_ids", None, None, silent, cause=None)

    @property
    def _who(self) -> str:
        """Whose tokens the chunk's are, where `input_ids` tell: `sample 1 has`."""
        if "input_ids" in self.unsettled:
            return f"chunk {self.index} has"
        return f"{wording.name_samples(self.samples)} {'has' if len(self.samples) == 1 else 'have'}"

    def _clips_out_of_step(self) -> None:
        """Clips whose placeholder tokens this chunk's `input_ids` has not all."""
        for name, modality in self.batch.modalities.items():
            step = self.batch.balance_of(self.samples, name)
            given = self.chunk.placeholders.get(name)
            if name == "image" or given is None or self.unsettled:
                continue
            if step is None:
                self._placeholders_lost(modality, given)
                continue
            if given == step[1]:
                continue
            if given == step[0] and not self.run.partial:
                continue  # the batch itself is out of step there, and VLM010 says so
            silent = self.forecast.other_totals(self.batch.modalities[name])
            message = wording.chunk_out_of_step(self._who, given, step[1], silent, name)
            self._add("VLM009", message, "input_ids", None, None, silent, cause=None)

    def _placeholders_lost(self, modality: Modality, given: int) -> None:
        """Clips whose features are not known, and whose tokens in the batch were not all passed."""
        passed = any(key in self.chunk.keys for key in modality.keys)
        owned = self.batch.placeholders_of(self.samples, modality.name)
        if owned is None or not passed:
            return
        if given < owned:
            message = wording.placeholders_lost(self._who, given, owned, modality.name)
            self._add("VLM009", message, "input_ids", None, None, None, cause=None)


def _sizes(change: Change) -> list[tuple[int, int]]:
    """Lengths of the dimensions that changed: in the batch, and now."""
    pairs = zip(change.expected[1:], change.given[1:], strict=False)
    return [(have, given) for have, given in pairs if have != given]


def images_of(batch: Batch, samples: Sequence[int]) -> int | None:
    """Images of `samples`; None where they are not known."""
    if "image" not in batch.counts:
        return None
    return len(rows_of(batch.counts["image"].offsets, samples))
