"""One chunk on trial: what each of its keys was handed, beside what it should have been handed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from vlmdebug import wording
from vlmdebug.batch import BOOKKEEPING, Batch, Planned
from vlmdebug.errors import AmbiguousError
from vlmdebug.layout import OWNER, plural
from vlmdebug.mismatch import Mismatch
from vlmdebug.plan import Rows, chunk_bounds, rows_of
from vlmdebug.report import ChunkReport, KeyReport

KNOWN_EXTRAS = frozenset(
    [
        "attention_mask",
        "labels",
        "position_ids",
        "token_type_ids",
        "mm_token_type_ids",
        "inputs_embeds",
        "past_key_values",
        "use_cache",
        "cache_position",
        "logits_to_keep",
        "num_logits_to_keep",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "return_loss",
        "num_items_in_batch",
        "rope_deltas",
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "max_length_q",
        "max_length_k",
        "mm_encoder_outputs",
        "decoder_input_ids",
        "decoder_attention_mask",
        "fused_lm_head",
        "shift_labels",
    ]
)
"""Arguments of transformers' forward methods that a slicer may add to what the batch has."""


class Used(NamedTuple):
    """What one key of one chunk was handed.

    Attributes:
        rows: Rows of the batch's tensor, in order; -1 for a row that is none of them; None
            where they cannot be told.
        length: Of the tensor on the axis.
        source: The batch key whose rows these are, if it is another one.
        inner: Length of the padded dimension that follows the axis, if the layout has one.
        fits: Whether its other dimensions are as long as the batch's.
        columns: How many columns of tokens it has, where it lies along them.
        in_step: Whether its columns of tokens are those of the chunk's `input_ids`.
        dims: How many dimensions it has.
    """

    rows: Rows | None
    length: int
    source: str | None = None
    inner: int | None = None
    fits: bool = True
    columns: int | None = None
    in_step: bool = True
    dims: int = 0


@dataclass(frozen=True)
class UsedChunk:
    """All keys of one chunk that hold something.

    `placeholders` are those of images, as its `input_ids` has them; `clips` those of video and
    audio.
    """

    keys: Mapping[str, Used]
    placeholders: int | None = None
    clips: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a slicer did: its chunks, the exception that ended it, the keys it asked for in vain.

    `partial`: these are some of the batch's chunks, so samples may be missing, or come again as
    for several answers to one question. `expand_size`: how often each sample comes; None where it
    may be often, but each alike.
    """

    chunks: Sequence[UsedChunk]
    chunk_size: int
    slicer: str | None = None
    error: BaseException | None = None
    error_place: str | None = None
    asked: Collection[str] = field(default_factory=tuple)
    any_order: bool = False
    partial: bool = False
    expand_size: int | None = 1


class Judge:
    """One chunk on trial."""

    def __init__(self, batch: Batch, run: Run, index: int, chunk: UsedChunk) -> None:
        self.batch, self.run, self.index, self.chunk = batch, run, index, chunk
        self.rows = self._samples()
        self.samples = tuple(self.rows)
        self.mismatches: list[Mismatch] = []
        self.unsettled: dict[str, str] = {}

    def _samples(self) -> Rows:
        """The samples the chunk holds, by its `input_ids`; as planned where these cannot tell."""
        ids = self.chunk.keys.get("input_ids")
        if ids is not None and ids.rows is not None and ids.source is None and not ids.rows.foreign:
            return ids.rows
        bounds = chunk_bounds(len(self.batch), self.run.chunk_size)
        return Rows(bounds[self.index : self.index + 1])

    def report(self) -> ChunkReport:
        keys = {key: self._key(key) for key in self.batch.layout if self._is_cut(key)}
        for key, used in self.chunk.keys.items():
            if key not in keys and self._is_strange(key):
                keys[key] = self._unknown_key(key, used)
        features = self._features
        if not self.mismatches:
            self._out_of_step(features)
            self._streams_out_of_step()
        if not self.samples and "input_ids" in self.chunk.keys:
            message = wording.no_samples(self.index)
            self._add("VLM006", message, None, None, None, False, cause=None)
        return ChunkReport(
            self.samples,
            images_of(self.batch, self.samples),
            self.chunk.placeholders,
            features,
            keys,
        )

    def _is_cut(self, key: str) -> bool:
        return self.batch.layout[key].unit != "batch"

    def _is_strange(self, key: str) -> bool:
        known = key in self.batch.inputs or key in KNOWN_EXTRAS or key in BOOKKEEPING
        return not known

    def _key(self, key: str) -> KeyReport:
        used = self.chunk.keys.get(key)
        try:
            planned = self.batch.planned(key, self.rows)
        except (AmbiguousError, IndexError):
            return KeyReport("cannot tell", None, used.rows if used else None)
        if used is None:
            if planned.presence != "required" or self._does_without(key, planned.rows):
                return KeyReport("absent", planned.rows, None)
            if key == "input_ids" and "inputs_embeds" in self.chunk.keys:
                self.unsettled[key] = wording.embedded(self.index)
                return KeyReport("cannot tell", planned.rows, None)
            self._dropped(key, planned.rows)
            return KeyReport("dropped", planned.rows, None)
        if planned.presence == "absent":
            self._must_be_absent(key, used)
            return KeyReport("must be absent", planned.rows, used.rows)
        if used.rows is None:
            self.unsettled[key] = wording.cannot_tell(key, self.index, used.length)
            return KeyReport("cannot tell", planned.rows, None)
        if not planned.rows.ranges and self._unlooked_at(key, planned):
            return KeyReport("ok", planned.rows, used.rows)
        right = used.rows == planned.rows or (used.rows == planned.lean and self._all_lean)
        if right and used.source is None and not self._inner_fits(key, used):
            self._other_inner(key, used)
            return KeyReport("wrong rows", planned.rows, used.rows)
        if right and used.source is None:
            if not used.in_step:
                self._other_columns(key, used)
                return KeyReport("wrong rows", planned.rows, used.rows)
            if not used.fits:
                self.unsettled[key] = wording.cannot_tell(key, self.index, used.length)
                return KeyReport("cannot tell", planned.rows, used.rows)
            return KeyReport("ok", planned.rows, used.rows)
        self._wrong_rows(key, planned.rows, used)
        return KeyReport("wrong rows", planned.rows, used.rows)

    def _unlooked_at(self, key: str, planned: Planned) -> bool:
        """Whether it says something of images in a chunk without any, and without pixels."""
        described = planned.presence == "either" and key in self.batch.image_keys
        return described and "pixel_values" not in self.chunk.keys

    @cached_property
    def _all_lean(self) -> bool:
        """Whether the same padded rows were left out of every key that can do without them."""
        media = self.batch.layout.media
        lean = [used for key, used in self.chunk.keys.items() if key in media and media[key].lean]
        return len({used.rows for used in lean}) == 1

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
        silent = self._silent_without(key)
        message = wording.dropped(self.batch, key, self.samples, planned, silent)
        self._add("VLM003", message, key, planned, None, silent, cause=None)

    def _does_without(self, key: str, planned: Rows) -> bool:
        """Whether the model makes the same of the chunk without that key."""
        if key in self.batch.layout.placing:
            positions = self.chunk.keys.get("position_ids")
            return positions is not None and positions.dims == 3  # (3 or 4, sample, seq)
        return key in self.batch.layout.masks and self.batch.is_full(key, planned)

    def _silent_without(self, key: str) -> bool | None:
        """Without pixels no model complains; with them it may miss what describes them."""
        if key == "input_ids":
            return False
        if key in self._stream_keys:
            return None
        if self.batch.layout[key].unit == OWNER:
            return None  # other images are made of other features, as many or not
        if "pixel_values" not in self.chunk.keys:
            return True
        if self._lacks_description:
            return False
        return self._is_silent()  # as all of the chunk is taken

    def _must_be_absent(self, key: str, used: Used) -> None:
        message = wording.must_be_absent(self.batch, key, self.samples, used)
        cause = _cause(self._cut_by(key, used)) if used.length else None
        silent = self._is_silent() if self._features else False  # nothing to see: refused
        if key in self._stream_keys:
            silent = None
        self._add("VLM005", message, key, Rows(), used.rows, silent, cause=cause)

    def _wrong_rows(self, key: str, planned: Rows, used: Used) -> None:
        assert used.rows is not None
        if used.source is not None or used.rows.foreign:
            code = "VLM011"
        else:
            code = "VLM002" if used.length == len(planned) else "VLM001"
        units, silent = self._cut_by(key, used), self._is_silent(key)
        message = wording.wrong_rows(
            self.batch, key, self.samples, planned, used, silent, units, self._balance
        )
        self._add(code, message, key, planned, used.rows, silent, cause=_cause(units))

    def _other_columns(self, key: str, used: Used) -> None:
        ids = self.chunk.keys["input_ids"]
        as_many, strict = used.columns == ids.columns, self.batch.layout.strict is not False
        silent = True if as_many and not strict else None  # M-RoPE looks for its images there
        message = wording.other_columns(key, self.samples, used, ids, silent)
        self._add("VLM011", message, key, used.rows, used.rows, silent, cause="columns")

    def _other_inner(self, key: str, used: Used) -> None:
        """The right rows, from whose padded dimension something was cut off."""
        axis, needed, given = self.batch.layout[key], self._needed_inner(key), used.inner
        assert axis.padded is not None and needed is not None and given is not None
        fit, checked = self._lengths_agree, self.batch.layout.checks_counts
        silent = None if fit and not checked else False
        message = wording.other_inner(key, self.samples, axis, given, needed, silent, fit)
        cause = f"padded {plural(axis.padded)}"
        self._add("VLM001", message, key, used.rows, used.rows, silent, cause=cause)

    def _unknown_key(self, key: str, used: Used) -> KeyReport:
        missing = [name for name in self.batch.layout if name not in self.chunk.keys]
        near = used.source or next(
            iter(get_close_matches(key, missing or [*self.batch.layout], 1)), None
        )
        message = wording.unknown_key(self.batch, key, self.samples, near)
        self._add("VLM004", message, key, None, used.rows, True, cause=None)
        return KeyReport("unknown key", None, used.rows)

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

    def _cut_by(self, key: str, used: Used) -> list[str]:
        """The units by whose offsets the rows may have been cut, other than the key's own."""
        if not self.samples or used.rows is None:
            return []
        first, last = self.samples[0], self.samples[-1] + 1
        own, total = self.batch.layout[key].unit, self._rows_in_batch(key)
        found = []
        for unit, counts in self.batch.counts.items():
            ends = {last, first + self.run.chunk_size} if unit == "sample" else {last}
            for end in ends:
                stop = counts.offsets[min(end, len(counts))] if unit != "sample" else end
                start = counts.offsets[first]
                cut = Rows([(min(start, total), min(stop, total))])
                if unit not in (own, *found) and used.rows == cut:
                    found.append(unit)
        return found

    def _rows_in_batch(self, key: str) -> int:
        return self.batch.counts[self.batch.layout[key].unit].total

    @cached_property
    def _features(self) -> int | None:
        """Features the model would make of the media rows used."""
        key, features = self.batch.layout.feature_key, self.batch.features
        if not self.batch.image_keys:
            return features_of(self.batch, self.samples)
        if key is None or features is None:
            return None
        used = self.chunk.keys.get(key)
        if used is None:
            return 0 if not any(k in self.chunk.keys for k in self.batch.image_keys) else None
        if used.rows is None or used.rows.foreign or used.source is not None:
            return None
        return sum(features[row] for row in used.rows)

    @cached_property
    def _balance(self) -> tuple[int, int] | None:
        features = self._features
        if features is None or self.chunk.placeholders is None:
            return None
        return self.chunk.placeholders, features

    def _is_silent(self, key: str = "") -> bool | None:
        """Whether the model would take this chunk, whose `key` is wrong, without an exception.

        It compares the number of features with the number of placeholders, and the tensors'
        lengths with each other; it has no way to see whose pixels they are.
        """
        layout = self.batch.layout
        if key in self._stream_keys or self._streams_differ:
            return None  # what a model makes of clips is not predicted
        pixels = self.chunk.keys.get("pixel_values")
        if pixels is not None and pixels.length == 0 and "none" in self._media("pixel_values"):
            return True  # the model looks at nothing else then
        if self._lacks_description:
            return False
        if self._siblings_differ:
            return None
        if any(self._is_odd(name, used) for name, used in self.chunk.keys.items()):
            return None
        if not self._lengths_agree:
            return False
        if key in layout and key not in layout.media:
            if pixels is not None and self._balance and self._balance[0] != self._balance[1]:
                return False
            # Other rows of tokens of the same length; a strict model lays images out by them.
            return True if layout.strict is False else None
        if not layout.checks_counts:  # then it lays rows and samples side by side
            rows = [used.length for name, used in self.chunk.keys.items() if name in layout.media]
            return all(count == len(self.samples) for count in rows)
        balance = self._balance
        if balance is None:
            return None
        if balance[0] != balance[1]:
            return False
        if not self._runs_agree:
            return False if layout.strict else None
        return not any(
            used.length == 0 and layout.media[name].without == "omit"
            for name, used in self.chunk.keys.items()
            if name in layout.media
        )

    def _is_odd(self, key: str, used: Used) -> bool:
        """Whether its shape, or the tensor it comes from, is one that only some models take."""
        if key not in self.batch.layout:
            return False
        tokens = key not in self.batch.layout.media and self.batch.layout[key].unit == "sample"
        broadcast = tokens and used.length == 1 < len(self.samples)
        return broadcast or not used.fits or used.source is not None

    @cached_property
    def _lacks_description(self) -> bool:
        """Whether there are pixels, but a key is missing without which the model raises."""
        pixels = self.chunk.keys.get("pixel_values")
        layout, keys = self.batch.layout, self.chunk.keys
        missing = {key for key in layout.loud_drops if key in layout and key not in keys}
        if "position_ids" in keys:
            missing -= layout.placing  # nobody looks at what they are made of
        return pixels is not None and bool(missing)

    @cached_property
    def _stream_keys(self) -> frozenset[str]:
        """Keys of video and audio clips."""
        return frozenset(key for stream in self.batch.streams for key in stream.keys)

    @cached_property
    def _streams_differ(self) -> bool:
        """Whether some key of clips holds other rows than planned."""
        for key in self._stream_keys:
            used = self.chunk.keys.get(key)
            try:
                planned = self.batch.planned(key, self.rows).rows
            except (AmbiguousError, IndexError):
                return True
            if (used.rows if used else Rows()) != planned:
                return True
        return False

    @cached_property
    def _siblings_differ(self) -> bool:
        """Whether images would be taken for alone, or not, otherwise than they are.

        LLaVA-OneVision's tokens of an image depend on it, and its model is told by a key with one
        number per sample that has images; without it, each image is alone.
        """
        layout, keys = self.batch.layout, self.chunk.keys
        name = next((key for key, axis in layout.items() if axis.unit == OWNER), None)
        media = keys.get(layout.feature_key or "")
        if name is None or media is None:
            return False
        told = keys.get(name)
        for used in (media, told):
            if used is not None and (used.rows is None or used.rows.foreign):
                return True
        owned = [count for count in self.batch.counts["image"] if count]
        alone = [count == 1 for count in owned for _ in range(count)]
        rows = list(media.rows or ())
        taken = [True] * len(rows)
        if told is not None:
            taken = [owned[row] == 1 for row in told.rows or () for _ in range(owned[row])]
        return len(taken) < len(rows) or any(
            alone[row] != flag for row, flag in zip(rows, taken, strict=False)
        )

    def _media(self, key: str) -> frozenset[str]:
        """Wrong lengths of `key` that the model takes in silence."""
        media = self.batch.layout.media.get(key)
        return media.tolerates if media is not None else frozenset()

    @cached_property
    def _runs_agree(self) -> bool:
        """Whether each sample's runs of placeholders are as long as the images laid out there.

        The images are handed to the samples in order, one per run, whichever they are.
        """
        layout, features, runs = self.batch.layout, self.batch.features, self.batch.runs
        used = self.chunk.keys.get(layout.feature_key or "")
        if layout.strict is False or features is None or runs is None or used is None:
            return True
        if used.rows is None or used.rows.foreign:
            return True
        made = iter([features[row] for row in used.rows])
        if layout.strict is None:
            return [run for sample in self.samples for run in runs[sample]] == [*made]
        for sample in self.samples:
            if sum(runs[sample]) != sum(islice(made, len(runs[sample]))):
                return False
        return next(made, None) is None

    @cached_property
    def _lengths_agree(self) -> bool:
        layout, keys = self.batch.layout, self.chunk.keys
        feature_key = layout.feature_key
        anchor = keys.get(feature_key) if feature_key else None
        for key, used in keys.items():
            if key not in layout:
                continue
            if key not in layout.media:
                if layout[key].unit == "sample" and used.length not in (1, len(self.samples)):
                    return False
            elif anchor is not None and feature_key is not None:
                expected = self._expected_length(layout[key].unit, layout[feature_key].unit, anchor)
                if expected is not None and not layout.media[key].takes(used.length, expected):
                    return False
                if used.inner != anchor.inner and used.inner and anchor.inner:
                    return False
        return True

    def _expected_length(self, unit: str, anchor_unit: str, anchor: Used) -> int | None:
        """Rows of `unit` that go with the anchor's rows."""
        if unit == anchor_unit:
            return anchor.length
        per_image = self.batch.per_image.get(unit)
        if (
            anchor_unit != "image"
            or per_image is None
            or anchor.rows is None
            or anchor.rows.foreign
        ):
            return None
        return sum(per_image[row] for row in anchor.rows)

    def _out_of_step(self, features: int | None) -> None:
        placeholders = self.chunk.placeholders
        if features is None or placeholders is None or features == placeholders:
            return
        if self.unsettled:
            return
        if placeholders == self.batch.placeholders_of(self.samples) and not self.run.partial:
            return  # the batch itself is out of step there, and VLM010 says so
        silent = not any(key in self.chunk.keys for key in self.batch.image_keys)
        message = wording.chunk_out_of_step(self.samples, placeholders, features, silent)
        self._add("VLM009", message, "input_ids", None, None, silent, cause=None)

    def _streams_out_of_step(self) -> None:
        """Clips whose placeholder tokens this chunk's `input_ids` has not all."""
        for stream in self.batch.streams:
            step = self.batch.stream_step(stream, self.samples)
            given = self.chunk.clips.get(stream.unit)
            if step is None or given is None or given == step[1] or self.unsettled:
                continue
            if given == step[0] and not self.run.partial:
                continue  # the batch itself is out of step there, and VLM010 says so
            message = wording.chunk_out_of_step(self.samples, given, step[1], None, stream.unit)
            self._add("VLM009", message, "input_ids", None, None, None, cause=None)


def images_of(batch: Batch, samples: Sequence[int]) -> int | None:
    """Images of `samples`; None where they are not known."""
    if "image" not in batch.counts:
        return None
    return len(rows_of(batch.counts["image"].offsets, samples))


def _cause(units: Sequence[str]) -> str | None:
    """The first unit that fits, in words; mismatches with one cause are one finding."""
    return f"cut per {units[0]}" if units else None


def features_of(batch: Batch, samples: Sequence[int]) -> int | None:
    """Features of `samples`; None where they are not known."""
    try:
        return batch.features_of(samples)
    except AmbiguousError:
        return None
