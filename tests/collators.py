"""Wrong collators, each as people write it, next to the right one.

Rows are `{"text": …, "images": […]}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "labels")
Rows = Sequence[dict[str, Any]]
Collate = Callable[[Rows], dict[str, Any]]


class Collators:
    """Collators of one processor; `right` is the only right one."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def right(self, rows: Rows, **options: Any) -> dict[str, Any]:
        images = [row["images"] for row in rows]
        made = self.processor(
            text=[row["text"] for row in rows],
            images=images if any(images) else None,
            padding=True,
            return_tensors="pt",
            **options,
        )
        return dict(made)

    def padded_right(self, rows: Rows) -> dict[str, Any]:
        return self.right(rows, padding_side="right")

    def media_in_another_order(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        return {key: one if key in TOKENS else one.flip(0) for key, one in made.items()}

    def images_of_the_first_row(self, rows: Rows) -> dict[str, Any]:
        first = rows[0]["images"]
        alike = [len(row["images"]) == len(first) for row in rows]
        return self.right(
            [{**row, "images": first} if own else row for row, own in zip(rows, alike, strict=True)]
        )

    def no_media_if_one_row_has_none(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        every = all(row["images"] for row in rows)
        return made if every else {key: one for key, one in made.items() if key in TOKENS}

    def truncated_to_the_shortest(self, rows: Rows) -> dict[str, Any]:
        made = self.padded_right(rows)
        least = int(made["attention_mask"].sum(1).min())
        return {key: one[:, :least] if key in TOKENS else one for key, one in made.items()}

    def truncated_inside_an_image(self, rows: Rows) -> dict[str, Any]:
        made = self.padded_right(rows)
        return {key: one[:, :6] if key in TOKENS else one for key, one in made.items()}

    def an_image_lost(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        if len(rows) == 1:
            return made
        return {key: one if key in TOKENS else one[:-1] for key, one in made.items()}

    def mask_of_ones(self, rows: Rows) -> dict[str, Any]:
        made = self.padded_right(rows)
        return {**made, "attention_mask": torch.ones_like(made["attention_mask"])}

    def mask_padded_on_the_left(self, rows: Rows) -> dict[str, Any]:
        made = self.padded_right(rows)
        return {**made, "attention_mask": made["attention_mask"].flip(1)}

    def mask_of_the_shortest(self, rows: Rows) -> dict[str, Any]:
        made = self.padded_right(rows)
        least = int(made["attention_mask"].sum(1).min())
        made["attention_mask"][:, least:] = 0
        return made

    def labels_padded_on_the_left(self, rows: Rows) -> dict[str, Any]:
        made = self.padded_right(rows)
        wide = made["input_ids"].shape[1]
        pairs = zip(made["input_ids"], made["attention_mask"], strict=True)
        own = [self._learned(ids[mask != 0]) for ids, mask in pairs]
        rows_of = [torch.cat([torch.full((wide - len(one),), -100), one]) for one in own]
        return {**made, "labels": torch.stack(rows_of)}

    def labels_learned_on_padding(self, rows: Rows) -> dict[str, Any]:
        made = self.padded_right(rows)
        return {**made, "labels": self._learned(made["input_ids"])}

    def _learned(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = [getattr(self.processor, name, None) for name in ("image_token_id", "image_ids")]
        media = [one for token in tokens for one in (token if isinstance(token, list) else [token])]
        made = ids.clone()
        for token in media:
            if token is not None:
                made[ids == token] = -100
        return made

    def types_padded_on_the_left(self, rows: Rows) -> dict[str, Any]:
        made = self.padded_right(rows)
        key = "mm_token_type_ids"
        if key not in made:
            return made
        pairs = zip(made[key], made["attention_mask"], strict=True)
        own = [types[mask != 0] for types, mask in pairs]
        wide = made[key].shape[1]
        rows_of = [torch.cat([one.new_zeros(wide - len(one)), one]) for one in own]
        return {**made, key: torch.stack(rows_of)}

    def media_left_as_a_list(self, rows: Rows) -> dict[str, Any]:
        return {k: one if k in TOKENS else list(one) for k, one in self.right(rows).items()}

    def none_where_there_are_no_images(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        return {**made, "pixel_values": made.get("pixel_values", [None] * len(rows))}

    def stacked(self, rows: Rows) -> dict[str, Any]:
        parts = [self.right([row]) for row in rows]
        made = {}
        for key in dict.fromkeys(key for part in parts for key in part):
            own = [part[key] for part in parts if key in part]
            tokens = key in TOKENS
            made[key] = pad_sequence([one[0] for one in own], True) if tokens else torch.stack(own)
        return made

    def sizes_of_the_first_image(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        grid = made.get("image_grid_thw")
        return made if grid is None else {**made, "image_grid_thw": grid[:1].repeat(len(grid), 1)}

    def a_key_lost(self, rows: Rows) -> dict[str, Any]:
        lost = ("image_grid_thw", "image_position_ids", "image_sizes", "pixel_attention_mask")
        return {key: one for key, one in self.right(rows).items() if key not in lost}

    def pixels_under_another_name(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        return {"pixel_values_images" if k == "pixel_values" else k: v for k, v in made.items()}

    def sorted_by_length(self, rows: Rows) -> dict[str, Any]:
        return self.right(sorted(rows, key=lambda row: -len(row["text"])))

    def only_texts_sorted(self, rows: Rows) -> dict[str, Any]:
        texts = sorted((row["text"] for row in rows), key=len)
        return self.right([{**row, "text": text} for row, text in zip(rows, texts, strict=True)])

    def first_row_twice(self, rows: Rows) -> dict[str, Any]:
        return self.right(rows if len(rows) == 1 else [rows[0], *rows])

    def joined_without_padding(self, rows: Rows) -> dict[str, Any]:
        parts = [self.right([row]) for row in rows]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def cast_to_whole_numbers(self, rows: Rows) -> dict[str, Any]:
        made = self.right(rows)
        if len(rows) > 1 and "pixel_values" in made:
            made["pixel_values"] = made["pixel_values"].long().float()
        return made
