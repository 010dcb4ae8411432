"""What the model would make of a chunk in which only one thing is wrong: raise, run, or unknown.

A model compares the number of features with the number of placeholders, and the lengths of tensors
with each other; it has no way to see whose pixels they are. Each mistake is judged as if all others
in the chunk were mended, so a finding keeps its loudness whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from vlmdebug import wording
from vlmdebug.batch import Batch
from vlmdebug.change import Change
from vlmdebug.errors import AmbiguousError
from vlmdebug.layout import OWNER
from vlmdebug.plan import Rows
from vlmdebug.used import Used, UsedChunk


class Outcome(NamedTuple):
    """`silent`: True where the model runs, False where it raises, None where that is not known.

    `sentence` says the same to a person, and why.
    """

    silent: bool | None
    sentence: str


UNKNOWN = Outcome(None, wording.DEPENDS)
LOUD = Outcome(False, wording.LOUD)
CUTS = ("cut", "padding cut")


class Forecast:
    """What the model would make of one chunk if a single thing in it were wrong."""

    def __init__(self, batch: Batch, chunk: UsedChunk, samples: Rows) -> None:
        self.batch, self.chunk, self.samples = batch, chunk, samples

    @cached_property
    def call(self) -> Call:
        """The chunk as it is, with all that is wrong in it."""
        return Call(self.batch, self.chunk.keys, self.samples, self.chunk.placeholders)

    def wrong(self, key: str) -> Outcome:
        """What follows from wrong rows of `key`, and of the keys that were cut with it."""
        beside = [name for name in self._group(key) if self.chunk.keys.get(name) is not None]
        return self._only([key, *beside]).with_wrong(key)

    def changed(self, key: str, change: Change) -> Outcome:
        """What follows from right rows of `key` in another shape, or with other values.

        As tiny models of all families do in transformers 5.23: none takes media with fewer columns
        than their siblings, and none its feature key with a dimension more or less.
        """
        if key in self._stream_keys:
            return UNKNOWN
        if change.kind == "values":
            return self._only([key]).with_wrong(key)
        layout = self.batch.layout
        loud = (
            (key == "input_ids" and change.kind in ("dtype", "destroyed") and change.is_recast)
            or (change.kind in ("lost", "added") and key in ("input_ids", layout.feature_key))
            or (change.kind in CUTS and layout.checks_counts and self._is_cut_alone(key))
        )
        return LOUD if loud else UNKNOWN

    def _is_cut_alone(self, key: str) -> bool:
        """Whether no other media key of the chunk was cut on another dimension than its rows'."""
        media = self.batch.layout.media
        beside = (
            used.change for name, used in self.chunk.keys.items() if name in media and name != key
        )
        return key in media and not any(one is not None and one.kind in CUTS for one in beside)

    def missing(self, key: str) -> Outcome:
        """What follows from the lack of `key`, and of the keys that were left out with it."""
        if key in self._stream_keys:
            return UNKNOWN
        lacking = [name for name in self._group(key) if name not in self.chunk.keys]
        return self._only([key, *lacking]).without(key)

    def surplus(self, key: str) -> Outcome:
        """What follows from `key` where it must be absent."""
        if key in self._stream_keys:
            return UNKNOWN
        beside = [name for name in self._group(key) if self.chunk.keys.get(name) is not None]
        return self._only([key, *beside]).with_surplus(key)

    def _group(self, key: str) -> Sequence[str]:
        """Keys that lie beside `key` and describe the same media."""
        if key in self.batch.image_keys:
            return self.batch.image_keys
        return next((stream.keys for stream in self.batch.streams if key in stream.keys), ())

    @cached_property
    def _stream_keys(self) -> frozenset[str]:
        """Keys of video and audio clips."""
        return frozenset(key for stream in self.batch.streams for key in stream.keys)

    def _only(self, wrong: Collection[str]) -> Call:
        """The chunk as it would be if no other keys than these were wrong."""
        keys = dict(self.chunk.keys)
        for key in self.batch.layout.keys() - set(wrong):
            mended = self._mended(key, keys.pop(key, None))
            if mended is not None:
                keys[key] = mended
        placeholders = self.batch.placeholders_of(self.samples)
        if placeholders is None or "input_ids" in wrong:
            placeholders = self.chunk.placeholders
        return Call(self.batch, keys, self.samples, placeholders)

    def _mended(self, key: str, used: Used | None) -> Used | None:
        """A key as it should have been handed over; one that is right stays as it is."""
        try:
            planned = self.batch.planned(key, self.samples)
        except (AmbiguousError, IndexError):
            return used
        if planned.presence == "absent":
            return None
        if used is None and planned.presence == "either":
            return None
        right = used is not None and used.rows in (planned.rows, planned.lean)
        if used is not None and right and used.source is None and used.change is None:
            return used
        return Used(planned.rows, len(planned.rows), inner=self._inner(key))

    def _inner(self, key: str) -> int | None:
        """Length of the padded dimension of a key, as the others of the chunk have it."""
        axis = self.batch.layout[key]
        if axis.padded is None:
            return None
        beside = (self.chunk.keys.get(name) for name in self._group(key))
        given = [used.inner for used in beside if used is not None and used.inner is not None]
        shape = getattr(self.batch.inputs[key], "shape", ())
        own = shape[axis.padded_dim] if len(shape) > axis.padded_dim else None
        return given[0] if given else own


class Call:
    """The inputs of one call, by the rules of the model's layout."""

    def __init__(
        self, batch: Batch, keys: Mapping[str, Used], samples: Rows, placeholders: int | None
    ) -> None:
        self.batch, self.keys, self.samples = batch, keys, samples
        self.layout, self.placeholders = batch.layout, placeholders

    def with_wrong(self, key: str) -> Outcome:
        """What the model makes of it where `key` has wrong rows."""
        silent = self.is_silent(key)
        used = self.keys[key]
        planned = self.batch.planned(key, self.samples).rows
        return Outcome(silent, self._consequence(silent, key, planned, used))

    def without(self, key: str) -> Outcome:
        """What the model makes of it where `key` is missing: without pixels none complains."""
        silent = self._silent_without(key)
        return Outcome(silent, wording.without(silent))

    def with_surplus(self, key: str) -> Outcome:
        """What the model makes of it where `key` must be absent."""
        silent = self.is_silent() if self.features else False  # nothing to see: refused
        return Outcome(silent, wording.surplus(self.layout.family, key, silent))

    def _consequence(self, silent: bool | None, key: str, planned: Rows, used: Used) -> str:
        then = "it sees the wrong pixels" if key in self.layout.media else wording.WRONG_TOKENS
        return wording.consequence(silent, self.balance, len(planned), used.length, then)

    def _silent_without(self, key: str) -> bool | None:
        if key == "input_ids":
            return False
        if self.layout[key].unit == OWNER:
            return None  # other images are made of other features, as many or not
        if "pixel_values" not in self.keys:
            return True
        if self._lacks_description:
            return False
        return self.is_silent()

    @cached_property
    def features(self) -> int | None:
        """Features the model would make of the media rows used."""
        key, features = self.layout.feature_key, self.batch.features
        if not self.batch.image_keys:
            return features_of(self.batch, self.samples)
        if key is None or features is None:
            return None
        used = self.keys.get(key)
        if used is None:
            return 0 if not any(k in self.keys for k in self.batch.image_keys) else None
        if used.rows is None or used.rows.foreign or used.source is not None:
            return None
        return sum(features[row] for row in used.rows)

    @cached_property
    def balance(self) -> tuple[int, int] | None:
        features = self.features
        if features is None or self.placeholders is None:
            return None
        return self.placeholders, features

    def is_silent(self, key: str = "") -> bool | None:
        """Whether the model would take this chunk, whose `key` is wrong, without an exception.

        It compares the number of features with the number of placeholders, and the tensors'
        lengths with each other; it has no way to see whose pixels they are.
        """
        layout = self.layout
        if key in self._stream_keys or self._streams_differ:
            return None  # what a model makes of clips is not predicted
        pixels = self.keys.get("pixel_values")
        if pixels is not None and pixels.length == 0 and "none" in self._media("pixel_values"):
            return True  # the model looks at nothing else then
        if self._lacks_description:
            return False
        if self._siblings_differ:
            return None
        if any(self._is_odd(name, used) for name, used in self.keys.items()):
            return None
        if not self.lengths_agree:
            return False
        if key in layout and key not in layout.media:
            if pixels is not None and self.balance and self.balance[0] != self.balance[1]:
                return False
            # Other rows of tokens of the same length; a strict model lays images out by them.
            return True if layout.strict is False else None
        if not layout.checks_counts:  # then it lays rows and samples side by side
            rows = [used.length for name, used in self.keys.items() if name in layout.media]
            return all(count == len(self.samples) for count in rows)
        balance = self.balance
        if balance is None:
            return None
        if balance[0] != balance[1]:
            return False
        if not self._runs_agree:
            return False if layout.strict else None
        return not any(
            used.length == 0 and layout.media[name].without == "omit"
            for name, used in self.keys.items()
            if name in layout.media
        )

    def _is_odd(self, key: str, used: Used) -> bool:
        """Whether its shape, or the tensor it comes from, is one that only some models take."""
        if key not in self.layout:
            return False
        tokens = key not in self.layout.media and self.layout[key].unit == "sample"
        broadcast = tokens and used.length == 1 < len(self.samples)
        return broadcast or not used.fits or used.source is not None

    @cached_property
    def _lacks_description(self) -> bool:
        """Whether there are pixels, but a key is missing without which the model raises."""
        pixels = self.keys.get("pixel_values")
        layout, keys = self.layout, self.keys
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
            used = self.keys.get(key)
            try:
                planned = self.batch.planned(key, self.samples).rows
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
        layout, keys = self.layout, self.keys
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
        media = self.layout.media.get(key)
        return media.tolerates if media is not None else frozenset()

    @cached_property
    def _runs_agree(self) -> bool:
        """Whether each sample's runs of placeholders are as long as the images laid out there.

        The images are handed to the samples in order, one per run, whichever they are.
        """
        layout, features, runs = self.layout, self.batch.features, self.batch.runs
        used = self.keys.get(layout.feature_key or "")
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
    def lengths_agree(self) -> bool:
        layout, keys = self.layout, self.keys
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


def features_of(batch: Batch, samples: Sequence[int]) -> int | None:
    """Features of `samples`; None where they are not known."""
    try:
        return batch.features_of(samples)
    except AmbiguousError:
        return None
