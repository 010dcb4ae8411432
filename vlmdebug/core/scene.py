"""The place of a batch's images and tokens, as plain data, so that a saved report can be drawn.

A report knows the rows of every chunk; a scene knows their contents: which rows are which image,
the placeholder tokens of each image in its sample, and, if requested, a small picture of the image.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

from vlmdebug.core.rows import Rows
from vlmdebug.core.wording import image_name

THUMBNAIL = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]{1,100000}")


@dataclass(frozen=True)
class Scene:
    """The contents of the rows of a batch.

    Attributes:
        units: What a row of each key counts, `{"pixel_values": "patch"}`.
        images: Images per sample.
        per_image: Rows of each image of the batch, by unit, if they are known.
        tokens: Length of the samples' rows of tokens.
        places: For each sample, the ranges of placeholder tokens and their image, `(start, stop,
            image)`; image -1 if it is not known.
        thumbnails: Pictures of images as data URIs, by the image's number in the batch.
        parts: Pictures of images of which some rows were passed, the others faded, by `part`.
    """

    units: Mapping[str, str]
    images: tuple[int, ...]
    per_image: Mapping[str, tuple[int, ...]]
    tokens: int
    places: tuple[tuple[tuple[int, int, int], ...], ...] = ()
    thumbnails: Mapping[int, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """First image of each sample, and the number of all images."""
        return (0, *accumulate(self.images))

    @cached_property
    def owners(self) -> tuple[int, ...]:
        """Sample of each image."""
        return tuple([s for s, count in enumerate(self.images) for _ in range(count)])

    def name(self, image: int) -> str:
        """`image C1`: the first image of sample 2."""
        sample = bisect_right(self.firsts, image) - 1
        return f"image {image_name(sample, image - self.firsts[sample])}"

    def share(self, key: str, image: int, rows: Rows | None) -> str:
        """`image C1`, or `1 of 40 rows of image C1`."""
        bounds = self.bounds(key)
        if bounds is None or rows is None:
            return self.name(image)
        first, end = bounds[image], bounds[image + 1]
        given = sum(max(0, min(stop, end) - max(start, first)) for start, stop in rows.ranges)
        if given >= end - first:
            return self.name(image)
        return f"{given} of {end - first} rows of {self.name(image)}"

    def part(self, key: str, image: int, rows: Rows | None) -> str:
        """Name of an image and those of its rows that are among `rows`: `2:0-1`, from its first."""
        bounds = self.bounds(key)
        if bounds is None or rows is None:
            return str(image)
        first, end = bounds[image], bounds[image + 1]
        cut = [(max(a, first) - first, min(b, end) - first) for a, b in rows.ranges]
        return f"{image}:" + ",".join(f"{a}-{b}" for a, b in cut if a < b)

    def bounds(self, key: str) -> Sequence[int] | None:
        """First row of each image in the rows of `key`, and the end; None if not known."""
        unit = self.units.get(key, "")
        if unit == "image":
            return range(sum(self.images) + 1)
        return (0, *accumulate(self.per_image[unit])) if unit in self.per_image else None

    def of_sample(self, sample: int) -> range:
        """Numbers of the images of a sample."""
        return range(self.firsts[sample], self.firsts[sample + 1])

    def images_in(self, key: str, rows: Rows | None) -> list[int]:
        """Numbers of the images that have some of the rows, in the order of the rows."""
        found: dict[int, None] = {}
        bounds = self.bounds(key)
        if self.units.get(key) == "sample":
            own = [self.of_sample(row) for row in rows or () if 0 <= row < len(self.images)]
            return [image for images in own for image in images]
        for start, stop in rows.ranges if rows and bounds is not None else ():
            if start >= 0 and bounds is not None:
                first = bisect_right(bounds, start) - 1
                found.update(dict.fromkeys(range(first, bisect_left(bounds, stop))))
        return [image for image in found if image < sum(self.images)]

    def to_dict(self) -> dict[str, Any]:
        return {
            "units": dict(self.units),
            "images": list(self.images),
            "per_image": {unit: list(rows) for unit, rows in self.per_image.items()},
            "tokens": self.tokens,
            "places": [[list(run) for run in sample] for sample in self.places],
            "thumbnails": {str(image): data for image, data in self.thumbnails.items()},
            "parts": dict(self.parts),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scene:
        return cls(
            data["units"],
            tuple(data["images"]),
            {unit: tuple(rows) for unit, rows in data["per_image"].items()},
            data["tokens"],
            tuple(tuple((run[0], run[1], run[2]) for run in sample) for sample in data["places"]),
            {
                int(image): uri
                for image, uri in data["thumbnails"].items()
                if THUMBNAIL.fullmatch(uri)  # a report may come from an untrusted source
            },
            {name: uri for name, uri in data.get("parts", {}).items() if THUMBNAIL.fullmatch(uri)},
        )
