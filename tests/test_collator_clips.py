"""Collators of videos, with real video processors: each row alone is the oracle for all together.

They need torchvision, so `test_torchvision.py` runs this file.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from architectures import VARIABLE
from collators import TOKENS, Collators, Rows
from recorded import RECORDERS, built

import vlmdebug as vd

pytestmark = pytest.mark.skipif(VARIABLE not in os.environ, reason="runs next to torchvision")

FAMILIES = ("qwen2_5_vl", "glm4v", "llava_onevision")
WRONG = {
    "media_in_another_order": "VLM002",
    "videos_of_the_first_row": "VLM002",
    "no_media_if_one_row_has_none": "VLM003",
    "truncated_inside_an_image": "VLM010",
    "an_image_lost": "VLM001",
    "media_left_as_a_list": "VLM011",
    "grids_of_the_first_video": "VLM002",
    "a_key_of_videos_lost": "VLM003",
    "videos_under_another_name": "VLM004",
    "only_texts_sorted": "VLM007",
    "cast_to_whole_numbers": "VLM011",
}


class VideoCollators(Collators):
    """The collators, for rows with `videos` too; images are always right."""

    def __init__(self, family: str) -> None:
        super().__init__(built(family)[1])
        self.call = dict(RECORDERS[family].call)
        self.nested = RECORDERS[family].nested
        self.most = 4 if family == "llava_onevision" else None  # it takes videos of one length

    def right(self, rows: Rows, **options: Any) -> dict[str, Any]:
        images = [row["images"] for row in rows]
        flat = [image for own in images for image in own]
        videos = [video[: self.most] for row in rows for video in row["videos"]]
        made = self.processor(
            text=[row["text"] for row in rows],
            padding=True,
            return_tensors="pt",
            **({"images": images if self.nested else flat} if flat else {}),
            **({"videos": videos} if videos else {}),
            **{**self.call, **options},
        )
        return dict(made)

    def of_videos(self, rows: Rows, change: Any) -> dict[str, Any]:
        made = self.right(rows)
        return {key: change(one) if "video" in key else one for key, one in made.items()}

    def media_in_another_order(self, rows: Rows) -> dict[str, Any]:
        return self.of_videos(rows, lambda one: one.flip(0))

    def videos_of_the_first_row(self, rows: Rows) -> dict[str, Any]:
        first = rows[0]["videos"]
        return self.right(
            [{**row, "videos": first} if len(row["videos"]) == len(first) else row for row in rows]
        )

    def no_media_if_one_row_has_none(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        every = all(row["videos"] for row in rows)
        return made if every else {k: one for k, one in made.items() if "video" not in k}

    def an_image_lost(self, rows: Rows) -> dict[str, Any]:
        return self.right(rows) if len(rows) == 1 else self.of_videos(rows, lambda one: one[:-1])

    def media_left_as_a_list(self, rows: Rows) -> dict[str, Any]:
        return self.of_videos(rows, list)

    def grids_of_the_first_video(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        grid = made.get("video_grid_thw")
        return made if grid is None else {**made, "video_grid_thw": grid[:1].expand(len(grid), 3)}

    def a_key_of_videos_lost(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        key = "video_grid_thw" if "video_grid_thw" in made else "pixel_values_videos"
        return {name: one for name, one in made.items() if name != key}

    def videos_under_another_name(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        return {
            "pixel_value_videos" if k == "pixel_values_videos" else k: v for k, v in made.items()
        }

    def cast_to_whole_numbers(self, rows: Rows) -> dict[str, Any]:
        made, key = self.right(rows), "pixel_values_videos"
        return {**made, key: made[key].long().float()} if len(rows) > 1 and key in made else made


def trial_of(family: str, name: str) -> Any:
    one = VideoCollators(family)
    return vd.collator(getattr(one, name), one.processor, rows=row_of(family))


def row_of(family: str) -> Any:
    """A row as users of that processor write it."""
    marks = RECORDERS[family].marks

    def row(images, videos, text, answer):
        media = [marks["i"]] * len(images) + [marks["v"]] * len(videos)
        return {"text": " ".join([*media, text, answer]), "images": images, "videos": videos}

    return row


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_right_collator_of_videos_survives(family, side):
    one = VideoCollators(family)

    def right(rows):
        return one.right(rows, padding_side=side)

    tried: dict[str, Any] = {}
    trial = vd.collator(right, one.processor, rows=row_of(family))

    assert vd.falsify(trial, max_examples=26, tried=tried) is None
    assert {name: (int(count), count.left_out) for name, count in tried.items()} == {
        "rows": (26, ())
    }


@pytest.mark.parametrize(
    "family", ["qwen2_5_vl", "llava_onevision", pytest.param("glm4v", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_collator_of_videos_falls_by_its_own_code(family, name):
    found = vd.falsify_all(trial_of(family, name), max_examples=26)
    codes = {finding.code for one in found for finding in one.report.findings}

    if (family, name) == ("llava_onevision", "grids_of_the_first_video"):
        assert found == ()  # it has no such key
    else:
        assert WRONG[name] in codes
        assert any("videos per row" in repr(one) for one in found)


def shown(family: str, name: str, videos: list[int], images: list[int]) -> vd.Report:
    rows = vd.make_rows(row_of(family), images, videos_per_row=videos)
    return vd.check(trial_of(family, name), rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "videos", "images"),
    [
        ("right", [1, 0, 2], [0, 0, 0]),
        ("media_in_another_order", [1, 1], [0, 0]),
        ("videos_of_the_first_row", [1, 1], [0, 0]),
        ("no_media_if_one_row_has_none", [1, 0], [0, 0]),
    ],
)
def test_finding_changes_the_logits_and_a_right_batch_does_not(family, name, videos, images):
    model, _ = built(family)
    rows = vd.make_rows(row_of(family), images, videos_per_row=videos)
    collate = getattr(VideoCollators(family), name)
    report = shown(family, name, videos, images)
    alone = [one for row in rows for one in logits(model, collate([row]))]
    try:
        together = logits(model, collate(rows))
        differ = max(float((a - b).abs().max()) for a, b in zip(together, alone, strict=True))
    except (ValueError, RuntimeError, IndexError):
        differ = 1.0  # it raised

    assert (differ < 1e-3) == report.ok, report


def logits(model: Any, made: dict[str, Any]) -> list[torch.Tensor]:
    with torch.no_grad():
        found = model(**made).logits
    return [one[mask != 0] for one, mask in zip(found, made["attention_mask"], strict=True)]


def test_rows_of_the_printed_test_are_those_that_failed():
    found = vd.falsify(trial_of("qwen2_5_vl", "media_in_another_order"), max_examples=26)
    assert found is not None
    assert repr(found).startswith("own rows: images per row [")
    counts = [len(row["videos"]) for row in found.rows]

    assert counts in ([2], [1, 1])


def test_collator_without_videos_says_that_none_were_tried():
    one = VideoCollators("qwen2_5_vl")

    def row(images, text, answer):
        return {**row_of("qwen2_5_vl")(images, [], text, answer)}

    tried: dict[str, Any] = {}
    vd.falsify(vd.collator(one.right, one.processor, rows=row), max_examples=9, tried=tried)

    assert tried["rows"].left_out == ("videos",)


@pytest.mark.parametrize("clips", [False, ["audio"], ["video"], True])
def test_videos_are_left_out_where_they_are_not_wanted(clips):
    trial = trial_of("qwen2_5_vl", "media_in_another_order")
    found = vd.falsify(trial, max_examples=20, clips=clips)

    assert (found is None) == (clips in (False, ["audio"]))


def test_default_rows_of_text_have_the_processors_video_token():
    one = VideoCollators("qwen2_5_vl")
    trial = vd.collator(one.media_in_another_order, one.processor, rows="text")
    found = vd.falsify(trial, max_examples=26)

    assert found is not None
    assert "<|video_pad|>" in found.rows[0]["text"]
    assert "videos_per_row" in found.to_pytest.__self__._arguments()
    assert [key for key in one.right(found.rows) if key not in TOKENS]
