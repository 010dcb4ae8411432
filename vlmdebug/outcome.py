"""What the model would make of a chunk in which only one thing is wrong: raise, run, or unknown.

A model compares the number of features with the number of placeholders, and the lengths of tensors
with each other; it has no way to see whose pixels they are. Each mistake is judged as if all others
in the chunk were mended, so a finding keeps its loudness whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, islice
from typing import NamedTuple

from vlmdebug import wording
from vlmdebug.batch import Batch, Planned
from vlmdebug.change import Change
from vlmdebug.errors import AmbiguousError
from vlmdebug.layout import OWNER, Layout, TokenRows
from vlmdebug.modality import Modality
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
PATCHES = 3
"""Dimensions of media whose rows are patches; images have more."""


class Forecast:
    """What the model would make of one chunk if a single thing in it were wrong."""

    batch: Batch
    chunk: UsedChunk
    samples: Rows

    def __init__(self, batch: Batch, chunk: UsedChunk, samples: Rows) -> None:
        self.batch, self.chunk, self.samples = batch, chunk, samples
        self._planned: dict[str, Planned] = {}
        self._calls: dict[frozenset[str], Call] = {}

    def planned(self, key: str) -> Planned:
        """The rows of `key` that the chunk should get; raises as `Batch.planned` does."""
        found = self._planned.get(key)
        if found is None:
            found = self._planned[key] = self.batch.planned(key, self.samples)
        return found

    @cached_property
    def call(self) -> Call:
        """The chunk as it is, with all that is wrong in it."""
        return Call(self.batch, self.chunk.keys, self.samples, self._written, self.planned)

    @property
    def _written(self) -> int | None:
        """Placeholder tokens of images, as the chunk has them."""
        return self.chunk.placeholders.get("image")

    def wrong(self, key: str) -> Outcome:
        """What follows from wrong rows of `key`, and of the keys that were cut with it."""
        beside = [name for name in self._group(key) if self.chunk.keys.get(name) is not None]
        then = self._only([key, *beside]).with_wrong(key)
        used = self.chunk.keys.get(key)
        if used is None or used.rows is None or not used.rows.foreign or self._is_plain(key):
            return then
        # Sizes, ids and types of any value: a model may refuse some of them.
        return then if key == "input_ids" and then.silent is False else UNKNOWN

    def _is_plain(self, key: str) -> bool:
        """Whether a model takes any values there: pixels and masks, but no sizes and no ids."""
        return key.startswith(("pixel_values", "high_res_")) or "mask" in key

    def changed(self, key: str, change: Change) -> Outcome:
        """What follows from right rows of `key` in another shape, or with other values.

        As tiny models of all families do in transformers 5.23: none takes media with fewer columns
        than their siblings, and none its feature key with a dimension more or less.
        """
        if self.batch.is_of_clips(key):
            return UNKNOWN
        layout = self.batch.layout
        if change.kind == "values":
            counted = layout.row_by_row and key in layout.media and key != "pixel_values"
            known = self._is_plain(key) and not counted  # masks whose sums count patches
            return self._only([key]).with_wrong(key) if known else UNKNOWN
        loud = (
            (key == "input_ids" and self._is_refused(change))
            or (change.kind == "lost" and key in ("input_ids", layout.feature_key))
            or (change.kind == "added" and key == layout.feature_key)
            or (change.kind in CUTS and layout.checks_counts and self._is_cut_patches(key, change))
        )
        return LOUD if loud and not self._is_tolerated(key, change) else UNKNOWN

    def _is_tolerated(self, key: str, change: Change) -> bool:
        """Whether some models take it so: sizes that some images need not, one image by itself.

        LightOnOCR takes sizes with a dimension more, LLaVA-OneVision any of images with siblings.
        """
        siblings = any(axis.unit == OWNER for axis in self.batch.layout.values())
        if key == "image_sizes" and (siblings or change.kind == "added"):
            return True
        return change.kind == "lost" and "unbatched" in self.call.tolerated(key)

    def _is_refused(self, change: Change) -> bool:
        """Whether no model looks up ids of that dtype.

        Gemma 4 makes numbers of truth values where it writes padding over its placeholders; in a
        chunk with images it misses these (`modeling_gemma4`, transformers 5.23).
        """
        numbers = change.dtype[0] != "bool" or self.batch.layout.feature_key in self.chunk.keys
        return change.kind in ("dtype", "destroyed") and change.is_recast and numbers

    def _is_cut_patches(self, key: str, change: Change) -> bool:
        """Whether rows of patches were cut, and no other media key of the chunk was.

        What towers make of smaller images differs: Mistral 3 and Gemma 3n take them. Gemma 4
        Unified takes positions of patches that have one coordinate.
        """
        media, shape = self.batch.layout.media, change.expected
        if key not in media or len(shape) > PATCHES:
            return False
        if key != "pixel_values" and change.given[:-1] == shape[:-1] and len(shape) == PATCHES:
            return False
        beside = (
            used.change for name, used in self.chunk.keys.items() if name in media and name != key
        )
        return not any(one is not None and one.kind in CUTS for one in beside)

    def missing(self, key: str) -> Outcome:
        """What follows from the lack of `key`, and of the keys that were left out with it."""
        lacking = [name for name in self._group(key) if name not in self.chunk.keys]
        return self._only([key, *lacking]).without(key)

    def surplus(self, key: str) -> Outcome:
        """What follows from `key` where it must be absent."""
        beside = [name for name in self._group(key) if self.chunk.keys.get(name) is not None]
        return self._only([key, *beside]).with_surplus(key)

    def _group(self, key: str) -> Sequence[str]:
        """Keys that lie beside `key` and describe the same media."""
        modality = self.batch.of_key.get(key)
        return () if modality is None else modality.keys

    def _only(self, wrong: Collection[str]) -> Call:
        """The chunk as it would be if no other keys than these were wrong."""
        group = frozenset(wrong)
        if group not in self._calls:
            self._calls[group] = self._mended_but(group)
        return self._calls[group]

    def _mended_but(self, wrong: frozenset[str]) -> Call:
        keys = dict(self.chunk.keys)
        for key in self.batch.layout.keys() - wrong:
            mended = self._mended(key, keys.pop(key, None))
            if mended is not None:
                keys[key] = mended
        placeholders = self.batch.placeholders_of(self.samples)
        if placeholders is None or "input_ids" in wrong:
            placeholders = self._written
        return Call(self.batch, keys, self.samples, placeholders, self.planned)

    def _mended(self, key: str, used: Used | None) -> Used | None:
        """A key as it should have been handed over; one that is right stays as it is."""
        try:
            planned = self.planned(key)
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

    batch: Batch
    keys: Mapping[str, Used]
    samples: Rows
    layout: Layout
    placeholders: int | None
    planned: Callable[[str], Planned]

    def __init__(
        self,
        batch: Batch,
        keys: Mapping[str, Used],
        samples: Rows,
        placeholders: int | None,
        planned: Callable[[str], Planned],
    ) -> None:
        self.batch, self.keys, self.samples = batch, keys, samples
        self.layout, self.placeholders, self.planned = batch.layout, placeholders, planned

    def with_wrong(self, key: str) -> Outcome:
        """What the model makes of it where `key` has wrong rows."""
        silent = self.is_silent(key)
        used = self.keys[key]
        planned = self.planned(key).rows
        return Outcome(silent, self._consequence(silent, key, planned, used))

    def without(self, key: str) -> Outcome:
        """What the model makes of it where `key` is missing: without pixels none complains."""
        silent = self._silent_without(key)
        return Outcome(silent, wording.without(silent))

    def with_surplus(self, key: str) -> Outcome:
        """What the model makes of it where `key` must be absent."""
        clips = self.batch.is_of_clips(key)
        silent = self.is_silent(key) if clips or self.features else False  # nothing to see: refused
        return Outcome(silent, wording.surplus(self.layout.family, key, silent))

    def _consequence(self, silent: bool | None, key: str, planned: Rows, used: Used) -> str:
        then = "it sees the wrong pixels" if key in self.layout.media else wording.WRONG_TOKENS
        return wording.consequence(silent, self.balance, len(planned), used.length, then)

    def _silent_without(self, key: str) -> bool | None:
        if key == "input_ids":
            return False
        if self.batch.is_of_clips(key):
            return self.is_silent(key)
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
        key, features = self.layout.feature_key, self.batch.image.features
        if not self.batch.image.keys:
            return self.batch.features_of(self.samples)
        if key is None or features is None:
            return None
        used = self.keys.get(key)
        if used is None:
            return 0 if not any(k in self.keys for k in self.batch.image.keys) else None
        if used.rows is None or used.rows.foreign or used.source is not None:
            return None
        offsets = self.batch.image.feature_offsets
        return sum(offsets[stop] - offsets[start] for start, stop in used.rows.ranges)

    @cached_property
    def balance(self) -> tuple[int, int] | None:
        features = self.features
        if features is None or self.placeholders is None:
            return None
        return self.placeholders, features

    def is_silent(self, key: str = "") -> bool | None:
        """Whether the model would take this call, whose `key` is wrong, without an exception."""
        layout = self.layout
        if self.batch.is_of_clips(key):
            return self._takes_clips(self.batch.of_key[key])
        if key in layout and key not in layout.media:
            return self._takes_tokens(key)
        pixels = self.keys.get("pixel_values")
        if pixels is not None and pixels.length == 0 and "none" in self.tolerated("pixel_values"):
            return True  # the model looks at nothing else then
        if self._lacks_description:
            return False
        if (
            self._siblings_differ
            or self._rows_differ
            or any(self._is_odd(*item) for item in self.keys.items())
        ):
            return None
        if not self.lengths_agree:
            return False
        if not layout.checks_counts:  # then it lays rows and samples side by side
            rows = {name: used.length for name, used in self.keys.items() if name in layout.media}
            return all(layout.media[name].takes(rows[name], len(self.samples)) for name in rows)
        balance = self.balance
        if balance is None:
            return None
        if balance[0] != balance[1]:
            return False
        if balance == (0, 0) and pixels is not None and pixels.length:
            return False  # no row of pixels becomes a feature
        if not self._laid_out:
            return False if layout.strict else None
        if self._may_be_expanded:
            return None
        return not any(
            used.length == 0 and layout.media[name].without == "omit"
            for name, used in self.keys.items()
            if name in layout.media
        )

    def _takes_clips(self, clips: Modality) -> bool | None:
        """The same for videos of patches, whose grids say how many tokens and rows each asks for.

        Nothing is said of other videos and of audio: how many features they become is not known.
        """
        grids, pixels = self.keys.get("video_grid_thw"), self.keys.get("pixel_values_videos")
        step, made = self.batch.balance_of(self.samples, clips.name), clips.features
        if "video_grid_thw" not in clips.keys or step is None or not made:
            return None
        if pixels is None:  # without pixels it compares nothing, but M-RoPE may look for the grid
            return None if grids is None and step[0] and self.layout.strict else True
        if step[0] == 0 or grids is None:
            return False
        given = [self.keys[key] for key in clips.keys if key in self.keys]
        if any(self._is_foreign(used) for used in given):
            return None
        planned = {key: self.planned(key).rows for key in clips.keys}
        owned = [made[row] for row in planned["video_grid_thw"]]
        asked = [made[row] for row in grids.rows or ()]
        if sum(asked) != step[0]:
            return False
        if pixels.length != len(planned["pixel_values_videos"]):
            return False if pixels.length != 1 else None
        others = set(clips.keys) - {"video_grid_thw", "pixel_values_videos"}
        alike = all(key in self.keys and self.keys[key].rows == planned[key] for key in others)
        return True if asked == owned and alike else None

    def _is_foreign(self, used: Used) -> bool:
        odd = used.source is not None or used.change is not None
        return odd or used.rows is None or used.rows.foreign

    def _takes_tokens(self, key: str) -> bool | None:
        """The same for a key of tokens: what counts is how many rows it has beside `input_ids`."""
        layout, used, samples = self.layout, self.keys[key], len(self.samples)
        unread = key in layout.placing and layout.feature_key not in self.keys
        if key in layout.ignored or unread:
            return True
        if self._is_odd(key, used):
            return None
        if key == "input_ids" and (self._out_of_balance or layout.strict):
            return False if self._out_of_balance else None
        takes = layout.tokens.get(key, TokenRows()).takes(used.length, samples)
        fewer, more = used.length < samples and takes is None, used.length > samples and not takes
        if key == "attention_mask" and used.rows and (fewer or more):
            # Without padding in it, a mask may be passed over before its rows are looked up.
            full = used.rows.foreign or self.batch.is_full(key, used.rows)
            takes = None if full else takes if more else False
        return takes and self._places_fit(key)

    def _places_fit(self, key: str) -> bool | None:
        """Whether M-RoPE can lay the images out by `key` and what is there beside it.

        `get_rope_index` of Qwen2-VL and all that follow it (transformers 5.23): each run of image
        types takes the next grid, and the places must be as many as the tokens that are not masked.
        """
        masks, types = (self.keys.get(name) for name in ("attention_mask", "mm_token_type_ids"))
        made = self.batch.image.features
        used = self.keys.get(self.layout.feature_key or "")
        placed = {"attention_mask", *self.layout.placing}
        if not self.layout.strict or key not in placed or used is None or not used.length:
            return True
        if "position_ids" in self.keys:
            return True
        known = [one for one in (masks, types, used) if one is not None]
        if types is None or made is None or any(self._is_foreign(one) for one in known):
            return None
        grids = iter([made[row] for row in used.rows or ()])
        mask_rows = masks.rows if masks is not None else None
        for place, row in enumerate(list(types.rows or ())[: len(self.samples)]):
            marked = self._values("mm_token_type_ids", row)
            if mask_rows is not None:
                kept = self._values("attention_mask", list(mask_rows)[place])
                marked = [one for one, keep in zip(marked, kept, strict=True) if keep]
            if not _fits_grids(marked, grids):
                return None if set(marked) - {0, 1} else False
        return True

    def _values(self, key: str, row: int) -> list[int]:
        return self.batch.inputs[key][row].tolist()

    @property
    def _out_of_balance(self) -> bool:
        """Whether there are pixels, and other features than placeholders."""
        balance = self.balance if "pixel_values" in self.keys else None
        return balance is not None and balance[0] != balance[1]

    def _is_odd(self, key: str, used: Used) -> bool:
        """Whether its shape, or the tensor it comes from, is one that only some models take."""
        if key not in self.layout:
            return False
        return not used.fits or used.source is not None

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

    @cached_property
    def _rows_differ(self) -> bool:
        """Whether rows that must fit one another are those of tiles of other sizes.

        Pixels are padded to one size, so that theirs fit whatever they hold.
        """
        features = self.batch.image.features
        described = self.layout.media.keys() & self.keys.keys() - {"pixel_values"}
        used = [self.keys[key] for key in described]
        if not self.layout.row_by_row or features is None:
            return False
        if any(one.rows is None or one.rows.foreign for one in used):
            return True
        made = {tuple(features[row] for row in one.rows or ()) for one in used}
        return len(made) > 1

    @property
    def _may_be_expanded(self) -> bool:
        """Whether a row that came again may be an expanded view, in which samples have no memory.

        `get_image_features` of Idefics 2 and 3 asks for one view of all tiles (transformers 5.23).
        """
        layout, found = self.layout, ((key, used.rows) for key, used in self.keys.items())
        return any(
            rows is not None and len(set(rows)) < len(rows)
            for key, rows in found
            if key in layout.media and layout[key].unit == "sample" and layout[key].padded
        )

    def tolerated(self, key: str) -> frozenset[str]:
        """Wrong lengths and shapes of `key` that the model takes in silence."""
        media = self.layout.media.get(key)
        return media.tolerates if media is not None else frozenset()

    @property
    def _laid_out(self) -> bool:
        """Whether each sample's runs of placeholders are as long as the images laid out there.

        The images are handed to the samples in order, one per run, whichever they are.
        """
        layout, features, runs = self.layout, self.batch.image.features, self.batch.image.runs
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
            if key in layout.media and anchor is not None and feature_key is not None:
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


def _fits_grids(marked: Sequence[int], grids: Iterator[int]) -> bool:
    """Whether each run of image types has a grid left, and all places together are as many."""
    runs = [len(list(run)) for kind, run in groupby(marked) if kind]
    taken = list(islice(grids, len(runs)))
    return bool(marked) and len(taken) == len(runs) and sum(taken) == sum(runs)
