"""Predicts what a model's forward pass does with a call: run, raise, or unknown.

A model compares the number of features with the number of placeholders, and the lengths of tensors
with each other; it cannot see to which sample pixels belong. Every answer follows from the
`ModelRules` of the layout: True if the model runs, False if it raises, None if that is not known.
"""

from __future__ import annotations

from vlmdebug.core.keys import TWO_TEXTS
from vlmdebug.core.layout import SAMPLE_WITH_IMAGES
from vlmdebug.core.lazy import lazy
from vlmdebug.core.observed import ObservedKey
from vlmdebug.core.rules import Tolerated
from vlmdebug.errors import AmbiguousError
from vlmdebug.outcomes.call import Call
from vlmdebug.outcomes.clips import is_placed, takes_clips, takes_no_pixels
from vlmdebug.outcomes.tokens import takes_tokens

IMAGES_AND_VIDEOS = {"pixel_values", "pixel_values_videos"}


class Forward(Call):
    """The forward pass of one call."""

    @lazy
    def features(self) -> int | None:
        """Features the model would make of the image rows used; of too few tiles, fewer."""
        made, anchor = super().features, self.keys.get(self.layout.feature_key or "")
        if made is None or anchor is None:
            return made
        for key in self.layout.media:
            used = self.keys.get(key)
            if used is None or "short" not in self.tolerated(key):
                continue
            due = self._expected_length(self.layout[key].unit, "image", anchor)
            pieces = self.batch.image.pieces or ()
            of_one = next((own[0] for own in pieces if len(own) > 1), 0)
            made -= max(0, (due or 0) - used.length) * of_one
        return made

    def runs(self, key: str = "") -> bool | None:
        """Whether the model runs with this call, in which `key` is wrong."""
        if not self.rules.predict:
            return None
        if self.rules.one_placeholder and self.keys.keys() >= IMAGES_AND_VIDEOS:
            return False
        if self.batch.is_of_clips(key):
            return takes_clips(self, self.batch.of_key[key])
        if key in self.layout and key not in self.layout.media:
            return takes_tokens(self, key)
        other = self.rules.read_only_with.get(key)
        if other is not None and other not in self.keys and self._belongs_to_none(other):
            return True
        return self._takes_images

    def runs_without(self, key: str) -> bool | None:
        """Whether the model runs with this call, which lacks `key`: without pixels, few raise."""
        if key == "input_ids":
            return False
        if not self.rules.predict or self.layout[key].unit == SAMPLE_WITH_IMAGES:
            return None  # other images may have another number of features
        if self.batch.is_of_clips(key):
            return self.runs(key)
        if key in self._needed and key not in self.layout.media:
            return False
        if self.pixels not in self.keys:
            if self.pixels in self._needed:
                return False
            return takes_no_pixels(self, self.batch.image)
        return False if self._lacks_description else self.runs()

    def runs_with_surplus(self, key: str) -> bool | None:
        """Whether the model runs with this call, in which `key` must be absent."""
        if not self.rules.predict:
            return None
        clips = self.batch.is_of_clips(key)
        described = self.features or self._reads_no_images
        return self.runs(key) if clips or described else False  # zero rows: refused

    @lazy
    def _takes_images(self) -> bool | None:
        """The same for images, whichever of their keys is wrong."""
        layout = self.layout
        pixels = self.keys.get(self.pixels)
        if pixels is not None and pixels.length == 0 and "none" in self.tolerated(self.pixels):
            return True  # the model reads nothing else then
        if self._reads_no_images:
            return True
        if self._lacks_description:
            return False
        if (
            self._siblings_differ
            or self._rows_differ
            or any(self.is_odd(*item) for item in self.keys.items())
        ):
            return None
        if not self.lengths_agree:
            return False
        if not self.rules.checks_totals:  # then it pairs rows with samples
            rows = {name: used.length for name, used in self.keys.items() if name in layout.media}
            return all(
                self.rules.of(name).takes(rows[name], len(self.part.samples)) for name in rows
            )
        balance = self.balance
        if balance is None:
            return None
        if not self.rules.takes_totals(*balance):
            return False
        if balance == (0, 0) and pixels is not None and pixels.length:
            return False  # no row of pixels becomes a feature
        if not self._laid_out:
            return False if self.rules.checks_each_sample == "always" else None
        if self._may_be_expanded:
            return None
        return not any(
            used.length == 0
            and (self.rules.of(name).when_no_media == "omit" or self._belongs_to_none(name))
            for name, used in self.keys.items()
            if name in layout.media
        )

    @property
    def _reads_no_images(self) -> bool:
        """Whether there are no pixels, so that keys that describe them are not read."""
        return self.pixels not in self.keys and self.rules.checks_each_sample == "never"

    @lazy
    def _lacks_description(self) -> bool:
        """Whether there are pixels, but a key is missing without which the model raises."""
        keys, placed = self.keys, "position_ids" in self.keys
        return self.pixels in keys and any(
            key in self.layout
            and key not in keys
            and self.rules.uses(key, positions=placed)
            and not self._belongs_to_none(key)
            for key in self._needed
        )

    @property
    def _needed(self) -> frozenset[str]:
        """Keys without which this call raises; a decoder's text is made of the labels."""
        made = TWO_TEXTS if "labels" in self.keys else frozenset[str]()
        return self.rules.raises_without - made

    def _belongs_to_none(self, key: str) -> bool:
        """Whether the samples have no media of the key, so that the call should lack it."""
        try:
            return self.expected[key].presence == "absent"
        except (AmbiguousError, IndexError):
            return False

    @lazy
    def _siblings_differ(self) -> bool:
        """Whether the model would wrongly treat images as the only ones of their samples, or not
        so.

        In LLaVA-OneVision the tokens of an image depend on this. Its model reads a key with one
        number per sample that has images; without the key, each image counts as the only one.
        """
        layout, keys = self.layout, self.keys
        name = next((key for key, axis in layout.items() if axis.unit == SAMPLE_WITH_IMAGES), None)
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

    @lazy
    def _rows_differ(self) -> bool:
        """Whether rows that must fit one another belong to tiles of other sizes.

        Pixels are padded to one size, so their rows always fit.
        """
        features = self.batch.image.features
        if not self.rules.checks_each_row or features is None:
            return False
        described = self.layout.media.keys() & self.keys.keys() - {"pixel_values"}
        used = [self.keys[key] for key in described]
        if any(one.rows is None or one.rows.foreign for one in used):
            return True
        made = {tuple(features[row] for row in one.rows or ()) for one in used}
        return len(made) > 1

    @property
    def _may_be_expanded(self) -> bool:
        """Whether a repeated row may be an expanded view, in which samples share memory.

        `modeling_idefics3.get_image_features`, and that of Idefics 2, needs one view of all tiles
        (transformers 5.23).
        """
        layout, found = self.layout, ((key, used.rows) for key, used in self.keys.items())
        return any(
            rows is not None and len(set(rows)) < len(rows)
            for key, rows in found
            if key in layout.media and layout[key].unit == "sample" and layout[key].padded
        )

    def tolerated(self, key: str) -> frozenset[Tolerated]:
        """Wrong lengths and shapes of `key` that the model accepts without an error."""
        known = key in self.layout.media or key == "input_ids"
        return self.rules.of(key).runs_with if known else frozenset()

    @property
    def _laid_out(self) -> bool:
        """Whether each sample's runs of placeholders are as long as the images placed there.

        The images are assigned to the runs in order, whichever they are.
        """
        layout, features, runs = self.layout, self.batch.image.features, self.batch.image.runs
        used = self.keys.get(layout.feature_key or "")
        if not self.lays_out_media or features is None or runs is None:
            return True
        if used is None or used.rows is None or used.rows.foreign:
            return True
        made = iter([features[row] for row in used.rows])
        if self.rules.checks_each_sample == "sometimes":
            return [run for sample in self.part.samples for run in runs[sample]] == [*made]
        for sample in self.part.samples:
            if not is_placed(runs[sample], made):
                return False
        return next(made, None) is None

    @lazy
    def lengths_agree(self) -> bool:
        """Whether each media key has the length that the feature key requires."""
        axes, media, feature_key = self.layout.axes, self.layout.media, self.layout.feature_key
        anchor = self.keys.get(feature_key) if feature_key else None
        if anchor is None or feature_key is None:
            return True
        for key, used in self.keys.items():
            if key in media:
                expected = self._expected_length(axes[key].unit, axes[feature_key].unit, anchor)
                if expected is not None and not self.rules.of(key).takes(used.length, expected):
                    return False
                if used.inner != anchor.inner and used.inner and anchor.inner:
                    return False
        return True

    def _expected_length(self, unit: str, anchor_unit: str, anchor: ObservedKey) -> int | None:
        """Rows of `unit` that belong to the anchor's rows."""
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
