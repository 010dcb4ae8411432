"""M-RoPE's positions in time, height and width, as they follow from the grids of images and videos.

A text token is one behind all before it. An image or video begins there and is laid out frame by
frame and row by row; text goes on one behind its larger side. As `modeling_qwen2_vl.get_rope_index`
and that of its variants (transformers 5.24); what differs between models is in `MRope`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.rows import rows_of
from vlmdebug.core.rules import MRope
from vlmdebug.core.tensors import to_numpy
from vlmdebug.errors import AmbiguousError
from vlmdebug.families.video_audio import TYPES
from vlmdebug.tracking.sounds import pieces_of

GRIDS = {"image": "image_grid_thw", "video": "video_grid_thw"}
CODES = {"image": 1, "video": TYPES["video"]}
TEXT, VIDEO, AUDIO = 0, TYPES["video"], TYPES["audio"]
MOST_MERGED = 8
"""Largest side of a square of patches that become one feature."""
MOST_SECONDS = 2**32
"""Seconds between two frames above which nothing is computed."""


class Run(NamedTuple):
    """Tokens of one type, `at:end` of all real tokens one behind the other."""

    code: int
    at: int
    end: int


class Block(NamedTuple):
    """The features of an image or video: the time of each frame, its rows and its columns.

    `after`: where text goes on, from the begin of the block on.
    """

    times: tuple[float, ...]
    height: int
    width: int
    after: float

    @property
    def size(self) -> int:
        return len(self.times) * self.height * self.width

    @property
    def places(self) -> np.ndarray:
        """Time, height and width of each feature from its begin on, `(3, feature)`."""
        return _places_of(self)


@lru_cache(maxsize=64)
def _places_of(block: Block) -> np.ndarray:
    frame, rest = np.divmod(np.arange(block.size), block.height * block.width)
    down, across = np.divmod(rest, block.width)
    found = np.stack([np.array(block.times)[frame], down, across])
    found.setflags(write=False)
    return found


def mrope(
    batch: Batch,
    types: np.ndarray,
    shown: np.ndarray,
    samples: Sequence[int],
    given: Mapping[str, Any],
) -> np.ndarray | None:
    """Positions of the tokens of these samples, `(3, sample, seq)`; None where no rule is proven.

    Args:
        batch: The batch that owns the samples.
        types: 0 for text, 1 for image, 2 for video, 3 for audio, `(sample, seq)`.
        shown: Tokens that are no padding, `(sample, seq)`; all others get 0.
        samples: Their numbers in the batch.
        given: The call, where the batch's own tensors are not kept.
    """
    stops = shown.sum(axis=1).cumsum().tolist()
    laid = mrope_in_row(batch, types[shown], stops, samples, given)
    if laid is None:
        return None
    places = np.zeros((3, *types.shape), dtype=laid.dtype)
    places[:, shown] = laid
    return places


def mrope_in_row(
    batch: Batch,
    types: np.ndarray,
    stops: Sequence[int],
    samples: Sequence[int],
    given: Mapping[str, Any],
) -> np.ndarray | None:
    """The same for the real tokens of all samples one behind the other, `(3, token)`.

    `stops`: where each sample ends.
    """
    rule = batch.rules.mrope
    edges = types[1:] != types[:-1]
    edges[[stop - 1 for stop in stops if 0 < stop < len(types)]] = True
    begins = [0, *(edges.nonzero()[0] + 1).tolist()][: len(types)]
    codes = types[begins].tolist()
    present = {*codes} - {TEXT}
    if rule is None or not present <= {*CODES.values(), *([AUDIO] if rule.sounds else [])}:
        return None
    media = dict[int, tuple[Block, ...]]()
    for name, code in CODES.items():
        if code in present:
            blocks = _blocks(batch, rule, name, samples, given)
            if blocks is None:
                return None
            media[code] = tuple(blocks)
    return _laid((*codes,), (*begins, len(types)), (*stops,), (*media.items(),), rule)


@lru_cache(maxsize=8)
def _laid(
    codes: Sequence[int],
    edges: Sequence[int],
    stops: Sequence[int],
    media: Sequence[tuple[int, tuple[Block, ...]]],
    rule: MRope,
) -> np.ndarray | None:
    """Positions of all tokens, `(3, token)`; None if runs have other sizes.

    The models of a loop get the same samples in turn: a policy and its reference, for one.

    Args:
        codes: The type of each run of tokens of one type.
        edges: Where each run begins, and the end of the last one.
        stops: Where samples end.
        media: The images and videos, in order, by type.
        rule: How the model lays them out.
    """
    one, ends, begins = _Places(stops[-1], media, rule), {*stops}, {0, *stops}
    for group in _groups(map(Run, codes, edges, edges[1:]), ends):
        code, at, end = group[0].code, group[0].at, group[-1].end
        if code == TEXT:
            one.text(at, end)
        elif rule.sounds is None:
            if not all(one.media(*run) for run in group):  # images may stand side by side
                return None
        elif at in begins or end in ends or not one.edged(group):
            return None
        if end in ends:
            one.begin = 0
    return one.done()


def _groups(runs: Iterable[Run], ends: Collection[int]) -> Iterator[list[Run]]:
    """Text, and media of one sample without text between them."""
    group = list[Run]()
    for run in runs:
        if group and TEXT in (run.code, group[0].code):
            yield group
            group = []
        group.append(run)
        if run.end in ends:
            yield group
            group = []


class _Places:
    """Positions of tokens, from the first one on.

    Attributes:
        begin: That of the next token.
    """

    def __init__(
        self, tokens: int, media: Sequence[tuple[int, tuple[Block, ...]]], rule: MRope
    ) -> None:
        whole = rule.sounds != "times"
        self.begin: float = 0
        self._rule = rule
        self._left = {code: iter(blocks) for code, blocks in media}
        self._places = np.empty((3, tokens), dtype=np.int64 if whole else np.float64)
        self._places[:] = np.arange(tokens)
        self._sizes, self._by = list[int](), list[float]()  # tokens, and what is added to each
        self._shared = False  # the next two tokens have one position
        self._alone = set[bool]()  # whether videos have no sound

    def text(self, at: int, end: int) -> None:
        """Each token is one behind the other."""
        if self._shared and end - at > 1:
            self._move(1, self.begin - at)
            self._shared, at = False, at + 1
        self._move(end - at, self.begin - at)
        self.begin += end - at

    def media(self, code: int, at: int, end: int) -> bool:
        """The next images or videos; False if they have other sizes."""
        while at < end:
            block = next(self._left[code], None)
            if block is None or not block.size or at + block.size > end:
                return False
            self._places[:, at : at + block.size] = block.places
            self._move(block.size, self.begin)
            at, self.begin = at + block.size, self.begin + block.after
        return True

    def edged(self, group: Sequence[Run]) -> bool:
        """One image, video or sound, or a video with its sound, between begin and end tokens."""
        code, at, end = group[0].code, group[0].at, group[-1].end
        if self._shared:
            return False  # its begin token is the end token of what comes before
        if len(group) > 1:
            self._alone.add(False)
            return {run.code for run in group} == {VIDEO, AUDIO} and self._with_sound(group)
        if code == AUDIO:
            self.text(at, end)
            return True
        if code == VIDEO:
            self._alone.add(True)
        known = len(self._sizes)
        return self.media(code, at, end) and len(self._sizes) == known + 1

    def _with_sound(self, group: Sequence[Run]) -> bool:
        """A video and its sound, which begin together; False if the model orders them otherwise."""
        at, end, rule = group[0].at, group[-1].end, self._rule
        video = next(self._left[VIDEO], None)
        shown = [np.full(run.end - run.at, run.code == VIDEO) for run in group]
        shown = np.concatenate(shown)  # (token,), whether it is of the video
        sounds = int((~shown).sum())
        if video is None or video.size != len(shown) - sounds:
            return False
        if rule.sounds == "chunks":
            if self._sizes[-1] < 2:  # the begin tokens of both
                return False
            self._sizes[-1] -= 1
            self._move(1, self._by[-1] - 1)
            self.begin -= 1
        pieces = pieces_of(video.places[0], sounds, self.begin, rule)
        order = [] if pieces is None else [np.full(b - a, seen) for seen, a, b in pieces]
        if pieces is None or not np.array_equal(np.concatenate(order), shown):
            return False
        own = self._places[:, at:end]
        own[:, shown], own[:, ~shown] = video.places, np.arange(sounds)
        self._move(end - at, self.begin)
        seen, a, b = pieces[-1]
        self.begin += float(video.places[:, a:b].max() if seen else b - 1) + 1
        self._shared = rule.sounds == "chunks"
        return True

    def _move(self, tokens: int, by: float) -> None:
        self._sizes.append(tokens)
        self._by.append(by)

    def done(self) -> np.ndarray | None:
        """Positions of all tokens; None if media are left, or a model may lay some out as text."""
        left = any(next(blocks, None) is not None for blocks in self._left.values())
        if left or self._shared or len(self._alone) > 1:
            return None
        moved = np.array(self._by, dtype=self._places.dtype)
        self._places += np.repeat(moved, self._sizes)
        self._places.setflags(write=False)
        return self._places


def _blocks(
    batch: Batch, rule: MRope, name: str, samples: Sequence[int], given: Mapping[str, Any]
) -> list[Block] | None:
    """The images or videos of the samples, in order."""
    key, modality = GRIDS[name], batch.modalities.get(name)
    if key not in batch.inputs or name not in batch.counts or modality is None:
        return None
    features = batch.per_image.get("feature") if name == "image" else modality.features
    try:
        rows = list(rows_of(batch.counts[name].offsets, samples))
    except (AmbiguousError, KeyError):
        return None
    own = _own(key, batch, rows, given)
    grids = None if own is None else own.tolist()
    if grids is None or features is None or len(grids) != len(rows):
        return None
    merge = _merge(grids, [features[row] for row in rows], rule.newline)
    if merge is None:
        return None
    sides = [(height // merge, width // merge + rule.newline) for _, height, width in grids]
    frames = [grid[0] for grid in grids]
    if name == "image":
        images = [Block((0,), *side, max(side)) for side in sides]
        return images if {*frames} <= {1} else None
    return _of_videos(batch, rule, frames, sides, rows, given)


def _of_videos(
    batch: Batch,
    rule: MRope,
    frames: Sequence[int],
    sides: Sequence[tuple[int, int]],
    rows: Sequence[int],
    given: Mapping[str, Any],
) -> list[Block] | None:
    """Videos as the model lays them out; `sides`: height and width of each."""
    each = zip(frames, sides, strict=True)
    if rule.videos == "frames":
        return [Block((0,), *side, max(side)) for many, side in each for _ in range(many)]
    if rule.videos is None:
        return None
    times: list[tuple[float, ...]] | None = [(*range(many),) for many in frames]
    if rule.videos == "seconds" and max(frames, default=0) > 1:
        times = _times(batch, rule, frames, rows, given)
    if times is None:
        return None
    if rule.sounds is None:
        return [Block(own, *side, max(side)) for own, side in zip(times, sides, strict=True)]
    pairs = zip(times, sides, strict=True)
    return [Block(own, *side, max(*own, *(one - 1 for one in side)) + 1) for own, side in pairs]


def _times(
    batch: Batch, rule: MRope, frames: Sequence[int], rows: Sequence[int], given: Mapping[str, Any]
) -> list[tuple[float, ...]] | None:
    """The time of each frame of each video, by the seconds between two of them.

    Models multiply in the precision of the seconds, or in that of single floats
    (`modeling_qwen2_5_vl.get_rope_index`, `modeling_qwen2_5_omni.get_rope_index`, transformers
    5.24). Without seconds, the first takes one, and the second raises; a program that computed
    positions before may know others. Videos of one frame need none.
    """
    key, per_second = rule.timed_by, rule.per_second
    seconds = _own(key, batch, rows, given)
    lacks = key not in batch.inputs and given.get(key) is None
    still = lacks and max(frames, default=0) <= 1
    if per_second is None or (seconds is None and (rule.sounds or not still)):
        return None
    if seconds is not None:
        if seconds.shape != (len(rows),) or not (abs(seconds) < MOST_SECONDS).all():
            return None
    found = list[tuple[float, ...]]()
    for at, many in enumerate(frames):
        one = np.float32(1) if seconds is None else seconds[at]
        kind = np.float64 if seconds is not None and seconds.dtype == np.float64 else np.float32
        count = np.arange(many, dtype=kind)
        if rule.sounds:  # in this order, which decides what is rounded
            times = count.astype(np.float32) * np.float32(one) * np.float32(per_second)
        else:
            times = count * kind(kind(per_second) * one)
        whole = rule.sounds != "times"
        found.append((*(times.astype(np.int64) if whole else times).tolist(),))
    return found


def _own(
    key: str, batch: Batch, rows: Sequence[int], given: Mapping[str, Any]
) -> np.ndarray | None:
    """These rows of a key; the call's own where the batch's tensors are not kept.

    None where there are none, or half precision hides what their numbers were.
    """
    whole = batch.inputs.get(key)
    value = given.get(key) if whole is None else whole
    if value is None or "float16" in str(getattr(value, "dtype", "")):
        return None
    values = to_numpy(value)
    if not hasattr(value, "dtype") and values.dtype == np.float64:
        values = values.astype(np.float32)  # as models take numbers that are no tensor
    if whole is None:
        return values
    return values[list(rows)] if len(values) > max(rows, default=-1) else None


def _merge(grids: Sequence[Sequence[int]], features: Sequence[int], newline: bool) -> int | None:
    """Side of the square of patches that become one feature; None if no square fits all grids."""
    for side in range(1, MOST_MERGED + 1):
        fits = all(
            height % side == width % side == 0
            and frames * (height // side) * (width // side + newline) == count
            for (frames, height, width), count in zip(grids, features, strict=True)
        )
        if fits:
            return side
    return None
