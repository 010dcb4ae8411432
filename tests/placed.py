"""Random batches of images, videos and audio with the positions that the model itself gives them.

Token ids, grids and seconds are drawn; pixels and sounds are noise, so that the tiny model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

import torch

import vlmdebug as vd
from vlmdebug.core.batch import Batch
from vlmdebug.families.metadata import read_metadata

TEXT, EDGES = 60, (61, 62)
MEL = 16  # of the tiny audio towers
Inputs = dict[str, Any]


@dataclass
class Media:
    """What was drawn for one batch, in the order of the tokens."""

    images: list[tuple[int, int, int]] = field(default_factory=list)
    videos: list[tuple[int, int, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    sounds: list[int] = field(default_factory=list)  # frames of each


class Placing:
    """One tiny model with M-RoPE, and batches for it."""

    def __init__(self, family: str, model: Any, processor: Any) -> None:
        self.family, self.model, self.processor = family, model, processor
        self.known = read_metadata(processor, None, model)
        self.omni = "omni_" in family and "thinker" in family
        self.shares = family.startswith("glm")  # frames have the token of images
        self.by_frame = not self.omni and family not in ("qwen2_vl", "qwen2_5_vl")

    def index(self, inputs: Inputs, **given: Any) -> torch.Tensor:
        """The model's own positions, `(3, sample, seq)`."""
        return self.indexed(inputs, **given)[0]

    def indexed(self, inputs: Inputs, **given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's own positions, and its deltas, `(sample, 1)`."""
        told = {key: inputs.get(key) for key in ("image_grid_thw", "video_grid_thw")}
        told |= {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        if self.omni:
            mask = inputs.get("feature_attention_mask")
            told["audio_seqlens"] = None if mask is None else mask.sum(1)
            told["second_per_grids"] = inputs.get("video_second_per_grid")
            return self.model.get_rope_index(**{**told, **given})
        told["mm_token_type_ids"] = inputs["mm_token_type_ids"]
        if self.family == "qwen2_5_vl":
            told["second_per_grid_ts"] = inputs.get("second_per_grid_ts")
        return self.model.model.get_rope_index(**{**told, **given})

    def draw(
        self, samples: Sequence[str], seed: int = 0, *, sound: bool = False, left: bool = False
    ) -> tuple[Inputs, torch.Tensor]:
        """A batch and the model's positions.

        `samples`: the media of each, `"iva"` an image, a video and a sound; with `sound` the videos
        have their own.
        """
        random, media = Random(seed), Media()
        drawn = [self._row(kinds, random, media, sound) for kinds in samples]
        wide = max(len(row) for row, _ in drawn)
        ids, mask = (
            torch.full((2, len(drawn), wide), self.known.pad_token_id or 0),
            torch.zeros(len(drawn), wide).long(),
        )
        for sample, (row, types) in enumerate(drawn):
            at = wide - len(row) if left else 0
            ids[0, sample, at : at + len(row)] = torch.tensor(row)
            ids[1, sample] = 0
            ids[1, sample, at : at + len(row)] = torch.tensor(types)
            mask[sample, at : at + len(row)] = 1
        inputs: Inputs = {"input_ids": ids[0], "attention_mask": mask}
        if not self.omni:
            inputs["mm_token_type_ids"] = ids[1]
        inputs |= self._tensors(media)
        return inputs, self.index(inputs, **({"use_audio_in_video": True} if sound else {}))

    def _row(
        self, kinds: str, random: Random, media: Media, sound: bool
    ) -> tuple[list[int], list[int]]:
        """Tokens and their types."""
        row, side = [TEXT] * random.randint(2, 3), self.known.merge_size or 1
        types = [0] * len(row)
        for kind in kinds:
            height, width = random.randint(1, 3), random.randint(1, 3)
            frames, grid = random.randint(1, 4), (side * height, side * width)
            if kind == "i":
                media.images.append((1, *grid))
                tokens = self._marked([self.token("image")] * (height * width), "image")
            elif kind == "v":
                media.videos.append((frames, *grid))
                media.seconds.append(random.choice([0.08, 0.2, 0.5, 0.7, 1.0, 2.0]))
                tokens = self._video(frames, height * width, media, random, sound)
            else:
                media.sounds.append(random.randint(8, 150))
                tokens = self._marked([self.token("audio")] * self._heard(media), "audio")
            code = {"i": 1, "v": 2, "a": 3}[kind]
            row += tokens
            types += [code if one in self.tokens else 0 for one in tokens]
            more = random.randint(1, 2)
            row, types = [*row, *[TEXT] * more], [*types, *[0] * more]
        return row, types

    def token(self, kind: str) -> int:
        """Id of a placeholder token."""
        image = kind == "image" or (kind == "video" and self.shares)
        found = self.known.image_token_id if image else self.known.token_ids[kind]
        assert found is not None
        return found

    @cached_property
    def tokens(self) -> set[int]:
        """Ids of all placeholder tokens."""
        return {self.known.image_token_id or 0, *self.known.token_ids.values()}

    def _heard(self, media: Media) -> int:
        rule = self.known.features_of_audio
        assert rule is not None
        return rule(media.sounds[-1])

    def _marked(self, tokens: list[int], kind: str) -> list[int]:
        """Placeholder tokens between those that begin and end them."""
        if not self.omni:
            return [EDGES[0], *tokens, EDGES[1]]
        config = self.model.config
        sound = kind == "audio"
        begin = config.audio_start_token_id if sound else config.vision_start_token_id
        return [begin, *tokens, EDGES[0] if sound else EDGES[1]]

    def _video(
        self, frames: int, each: int, media: Media, random: Random, sound: bool
    ) -> list[int]:
        one = [self.token("video")] * each
        if self.by_frame:  # a timestamp before each
            return [token for _ in range(frames) for token in (TEXT, *self._marked(one, "video"))]
        if not sound:
            return self._marked(one * frames, "video")
        media.sounds.append(random.randint(8, 150))
        turns = self._turns(frames, each, media.seconds[-1], self._heard(media))
        return self._marked(self._marked(turns, "audio"), "video")

    def _turns(self, frames: int, each: int, seconds: float, heard: int) -> list[int]:
        """Tokens of a video and its sound, as the processors write them."""
        config, video, audio = self.model.config, self.token("video"), self.token("audio")
        times = torch.arange(frames) * torch.tensor(seconds) * config.position_id_per_seconds
        seen = [(float(time), 0, video) for time in times for _ in range(each)]
        heard_at = [(float(at), 1, audio) for at in range(heard)]
        size = getattr(config, "seconds_per_chunk", 0) * config.position_id_per_seconds
        if size:  # by stretches of whole steps
            seen = [(int(time) // size, 0, video) for time, _, _ in seen]
            heard_at = [(int(at) // size, 1, audio) for at, _, _ in heard_at]
        return [token for _, _, token in sorted([*seen, *heard_at], key=lambda one: one[:2])]

    def _tensors(self, media: Media) -> Inputs:
        """Grids, pixels and sounds."""
        found: Inputs = {}
        for name, grids in (("image", media.images), ("video", media.videos)):
            if grids:
                grid = torch.tensor(grids)
                pixels = "pixel_values" if name == "image" else "pixel_values_videos"
                noise = torch.Generator().manual_seed(len(grids))
                rows = int(grid.prod(1).sum())
                found[f"{name}_grid_thw"] = grid
                found[pixels] = torch.randn(rows, self.patch, generator=noise)
        if media.videos and (self.omni or self.family == "qwen2_5_vl"):
            key = "video_second_per_grid" if self.omni else "second_per_grid_ts"
            found[key] = torch.tensor(media.seconds)
        if media.sounds:
            frames, wide = torch.tensor(media.sounds), max(media.sounds)
            noise = torch.Generator().manual_seed(wide)
            found["input_features"] = torch.randn(len(frames), MEL, wide, generator=noise)
            found["feature_attention_mask"] = (torch.arange(wide) < frames[:, None]).long()
        return found

    @cached_property
    def patch(self) -> int:
        """Values of a patch of pixels."""
        return max(self.known.patch_pixels)

    def read(self, inputs: Inputs, **given: Any) -> Batch:
        told = {"processor": self.processor, "config": self.model.config, **given}
        return vd.read_batch(inputs, **told)

    def logits(self, inputs: Inputs) -> torch.Tensor:
        """Those of the real tokens, `(token, vocab)`."""
        with torch.no_grad():
            found = self.model(**inputs, use_cache=False).logits
        return found[inputs["attention_mask"].bool()]
