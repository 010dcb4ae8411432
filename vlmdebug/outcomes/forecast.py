"""What the model would make of a chunk in which only one thing is wrong: raise, run, or unknown.

Each mistake is judged as if all others in the chunk were corrected, so the loudness of a finding
does not depend on other findings. `vlmdebug.outcomes.forward` answers what the forward pass does
with the corrected call.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

from vlmdebug.core.batch import Batch
from vlmdebug.core.change import Change
from vlmdebug.core.keys import KEYS, TOKEN_KEYS
from vlmdebug.core.layout import SAMPLE_WITH_IMAGES
from vlmdebug.core.lazy import lazy
from vlmdebug.core.modality import Modality
from vlmdebug.core.observed import ObservedCall, ObservedKey, Seams
from vlmdebug.core.part import Part
from vlmdebug.core.presence import Expected
from vlmdebug.errors import AmbiguousError
from vlmdebug.outcomes.forward import Forward
from vlmdebug.outcomes.reasons import DEPENDS, LOUD, Outcome, Raises, Runs, Unknown, outcome

CUTS = ("cut", "padding cut")
PATCHES = 3
"""Dimensions of media with patches as rows; images have more."""


class Forecast:
    """What the model would make of one chunk if a single thing in it were wrong.

    Attributes:
        expected: The rows of each key that the chunk should get.
    """

    batch: Batch
    chunk: ObservedCall
    part: Part

    def __init__(self, batch: Batch, chunk: ObservedCall, part: Part) -> None:
        self.batch, self.chunk, self.part = batch, chunk, part
        self.expected: Expected = Expected(batch, part)
        self._calls: dict[frozenset[str], Forward] = {}

    @lazy
    def call(self) -> Forward:
        """The chunk as it is, with all that is wrong in it."""
        return Forward(self.batch, self.chunk.keys, self.part, self._written, self.expected)

    @property
    def _written(self) -> int | None:
        """Placeholder tokens of images, as the chunk has them."""
        return self.chunk.placeholders.get("image")

    def wrong(self, key: str) -> Outcome:
        """What follows from wrong rows of `key`, and of the keys that were cut with it."""
        if self.batch.rules.leaves_unread(key, self.chunk.keys):
            return Outcome(Runs.UNREAD)
        beside = [name for name in self._group(key) if self.chunk.keys.get(name) is not None]
        then = self._with_wrong(key, self._only([key, *beside]))
        used = self.chunk.keys.get(key)
        if used is None or used.rows is None or not used.rows.foreign or self._is_plain(key):
            return then
        # Sizes, ids and types of any value: a model may refuse some of them.
        return then if key == "input_ids" and then.silent is False else DEPENDS

    def _is_plain(self, key: str) -> bool:
        """Whether a model takes any values there: pixels and masks, but no sizes and no ids."""
        return key.startswith(("pixel_values", "high_res_")) or "mask" in key

    def changed(self, key: str, change: Change) -> Outcome:
        """What follows from right rows of `key` in another shape, or with other values.

        As tiny models of all families do in transformers 5.23: none takes media with fewer columns
        than their siblings, and none its feature key with a dimension more or less.
        """
        layout = self.batch.layout
        if layout.rules.leaves_unread(key, self.chunk.keys):
            return Outcome(Runs.UNREAD)
        if not layout.rules.predict or self.batch.is_of_clips(key):
            return DEPENDS
        if change.kind == "values":
            sums = layout.rules.checks_each_row or key == layout.feature_key
            # masks with sums that count patches or tiles
            counted = sums and key in layout.media and key != "pixel_values"
            known = self._is_plain(key) and not counted
            return self._with_wrong(key, self._only([key])) if known else DEPENDS
        loud = (
            (key == "input_ids" and self._is_refused(change))
            or (change.kind == "lost" and self._is_refused_without(key, change))
            or (change.kind == "added" and key == layout.feature_key)
            or (
                change.kind in CUTS
                and layout.rules.checks_totals
                and self._is_cut_patches(key, change)
            )
        )
        return LOUD if loud and not self._is_tolerated(key, change) else DEPENDS

    def _is_refused_without(self, key: str, change: Change) -> bool:
        """Whether no model takes the key with a dimension less; one number may count one image."""
        read = key in ("input_ids", self.batch.layout.feature_key)
        return read and len(change.expected) > 1

    def _is_tolerated(self, key: str, change: Change) -> bool:
        """Whether some models take it so: sizes that some images need not, one image by itself.

        LightOnOCR takes sizes with a dimension more, LLaVA-OneVision any of images with siblings.
        """
        siblings = any(axis.unit == SAMPLE_WITH_IMAGES for axis in self.batch.layout.values())
        if key == "image_sizes" and (siblings or change.kind == "added"):
            return True
        tolerated = self.call.tolerated(key)
        lost = change.kind == "lost" and "unbatched" in tolerated
        return lost or (change.kind == "added" and "nested" in tolerated)

    def _is_refused(self, change: Change) -> bool:
        """Whether no model looks up ids of that dtype.

        Gemma 4 makes numbers of truth values where it writes padding over its placeholders; in a
        chunk with images it misses these (`modeling_gemma4.forward`, transformers 5.23).
        """
        numbers = change.dtype[0] != "bool" or self.batch.layout.feature_key in self.chunk.keys
        return change.kind in ("dtype", "destroyed") and change.is_recast and numbers

    def _is_cut_patches(self, key: str, change: Change) -> bool:
        """Whether rows of patches were cut, and no other media key of the chunk was.

        What towers make of smaller images differs: Mistral 3 and Gemma 3n take them. Gemma 4
        Unified takes positions of patches that have one coordinate. A Q-Former broadcasts a text.
        """
        media, shape = self.batch.layout.media, change.expected
        if key not in media or len(shape) > PATCHES or "input_ids" in KEYS[key].of:
            return False  # the text of a Q-Former is media by its images alone
        if key != "pixel_values" and change.given[:-1] == shape[:-1] and len(shape) == PATCHES:
            return False
        beside = (
            used.change for name, used in self.chunk.keys.items() if name in media and name != key
        )
        return not any(one is not None and one.kind in CUTS for one in beside)

    def missing(self, key: str) -> Outcome:
        """What follows from the lack of `key`, and of the keys that were left out with it."""
        lacking = [name for name in self._group(key) if name not in self.chunk.keys]
        silent = self._only([key, *lacking]).runs_without(key)
        return outcome(silent, Runs.OTHER_ANSWER)

    def surplus(self, key: str) -> Outcome:
        """What follows from `key` where it must be absent."""
        beside = [name for name in self._group(key) if self.chunk.keys.get(name) is not None]
        silent = self._only([key, *beside]).runs_with_surplus(key)
        return outcome(silent, Runs.TAKES_KEY, Raises.REFUSES_KEY)

    def other_columns(self, key: str) -> Outcome:
        """What follows from columns of `key` other than those of `input_ids`.

        With `position_ids`, M-RoPE reads no types, and a mask without padding may be ignored.
        """
        rules, keys = self.batch.rules, self.chunk.keys
        given = "position_ids" in keys
        if rules.leaves_unread(key, keys):
            return Outcome(Runs.UNREAD)
        if not rules.predict or key not in TOKEN_KEYS or not rules.uses(key, positions=given):
            return DEPENDS
        if keys[key].columns == keys["input_ids"].columns:  # M-RoPE reads them
            return Outcome(Runs.OTHER_TOKENS) if rules.checks_each_sample == "never" else DEPENDS
        placed = rules.checks_each_sample == "always" and "pixel_values" in keys
        unread = given and key == "attention_mask"
        return LOUD if placed and not unread else DEPENDS  # it is read token by token

    def short_padding(self, key: str) -> Outcome:
        """What follows from a padded dimension of `key` that lacks media of the chunk.

        With two dimensions swapped it has as many numbers, and Mllama reshapes its masks
        (`modeling_mllama._prepare_cross_attention_mask`, transformers 5.24).
        """
        rules, agree = self.batch.rules, self.call.lengths_agree
        change = self.chunk.keys[key].change
        swapped = change is not None and prod(change.given) == prod(change.expected)
        if not rules.predict or swapped or (agree and not rules.checks_totals):
            return DEPENDS
        return Outcome(Raises.FEWER_FEATURES if agree else Raises.PADDING_DIFFERS)

    def other_totals(self, modality: Modality) -> Outcome:
        """What follows from more or fewer placeholders than features; without pixels, nothing."""
        keys = self.chunk.keys
        if not self.batch.rules.predict:
            return DEPENDS
        if modality.name == "image":
            return outcome(not any(key in keys for key in modality.keys), Runs.NO_PIXELS)
        compared = {"video_grid_thw", "pixel_values_videos"} <= keys.keys()
        return LOUD if compared and modality.name == "video" else DEPENDS

    @property
    def reads_beyond(self) -> bool:
        """Whether the model may read columns of a key behind those of `input_ids`.

        M-RoPE reads all keys of tokens side by side, so that longer ones raise.
        """
        return self.batch.rules.checks_each_sample != "never"

    def _with_wrong(self, key: str, call: Forward) -> Outcome:
        runs, balance = call.runs(key), call.balance
        if runs is None:
            return Outcome(Unknown.NOT_IN_BATCH)
        if runs:
            return Outcome(self._runs_because(key, call.keys[key].length))
        if balance is not None and balance[0] != balance[1]:
            return Outcome(Raises.COUNTS_DIFFER, balance)
        return Outcome(Raises.LENGTHS_DIFFER)

    def _runs_because(self, key: str, length: int) -> Runs:
        """Why the model takes `length` wrong rows of `key`."""
        if length == len(self.expected[key].rows):
            return Runs.WRONG_PIXELS if key in self.batch.layout.media else Runs.WRONG_TOKENS
        return Runs.ADDS_UP if length else Runs.NO_ROWS

    def _group(self, key: str) -> Sequence[str]:
        """Other keys that describe the same media as `key`."""
        modality = self.batch.of_key.get(key)
        return () if modality is None else modality.keys

    def _only(self, wrong: Collection[str]) -> Forward:
        """The chunk as it would be if no other keys than these were wrong."""
        group = frozenset(wrong)
        if group not in self._calls:
            self._calls[group] = self._mended_but(group)
        return self._calls[group]

    def _mended_but(self, wrong: frozenset[str]) -> Forward:
        keys = dict(self.chunk.keys)
        for key in self.batch.layout.axes:
            if key in wrong:
                continue
            mended = self._mended(key, keys.pop(key, None))
            if mended is not None:
                keys[key] = mended
        placeholders = self.batch.placeholders_of(self.part)
        strange = any(seam.why is Seams.STRANGE for seam in self.chunk.seams)
        if placeholders is None or "input_ids" in wrong or strange:
            placeholders = self._written
        return Forward(self.batch, keys, self.part, placeholders, self.expected)

    def _mended(self, key: str, used: ObservedKey | None) -> ObservedKey | None:
        """A key as it should have been passed; a right one is unchanged."""
        if self.batch.layout[key].unit == "batch":
            return used  # an option, such as `use_audio_in_video`
        try:
            expected = self.expected[key]
        except (AmbiguousError, IndexError):
            return used
        if expected.presence == "absent":
            return None
        if used is None and expected.presence == "either":
            return None
        right = used is not None and used.rows in (expected.rows, expected.without_empty)
        if used is not None and right and used.source is None and used.change is None:
            return used
        return ObservedKey(expected.rows, len(expected.rows), inner=self._inner(key))

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
