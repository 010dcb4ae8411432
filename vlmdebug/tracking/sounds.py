"""How a model puts the tokens of a video and of its sound in order.

Qwen2.5-Omni takes turns by stretches of time: first what the video has in a stretch, then what the
sound has there (`modeling_qwen2_5_omni.get_rope_index`, transformers 5.24). Qwen3-Omni takes the
token that comes first, and that of the video if both come together
(`modeling_qwen3_omni_moe.get_rope_index`, transformers 5.24).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from vlmdebug.core.rules import MRope


class Piece(NamedTuple):
    """Tokens `begin:end` of the video if it is `seen`, else of its sound."""

    seen: bool
    begin: int
    end: int


def pieces_of(times: np.ndarray, sounds: int, begin: float, rule: MRope) -> Sequence[Piece] | None:
    """The pieces of a video and its sound, in order; None if that is not known.

    Args:
        times: Of each token of the video, from the begin of both on.
        sounds: Tokens of the sound, each one step of time behind the other.
        begin: The position at which both begin.
        rule: How the model lays them out.
    """
    if not len(times) or not sounds:
        return None
    if rule.sounds == "times":
        return [*_in_turn(times, sounds, begin)]
    if rule.per_chunk is None:
        return None
    seen, heard = (
        _stretches(times.tolist(), rule.per_chunk),
        _stretches(range(sounds), rule.per_chunk),
    )
    found = list[Piece]()
    for one, other in zip_longest(seen, heard):
        found += [] if one is None else [Piece(True, *one)]
        found += [] if other is None else [Piece(False, *other)]
    return found


def _stretches(times: Sequence[float], size: int) -> Iterator[tuple[int, int]]:
    """Where each stretch begins and ends; a gap in time ends one stretch with each token."""
    first, number = 0, 1
    for at, time in enumerate(times):
        if time >= number * size:
            yield first, at
            first, number = at, number + 1
    yield first, len(times)


def _in_turn(times: np.ndarray, sounds: int, begin: float) -> Iterator[Piece]:
    """The token that comes first, as single floats tell, and last what is left of one of them."""
    seen = (times.astype(np.float32) + np.float32(begin)).tolist()
    heard = (np.arange(sounds, dtype=np.float32) + np.float32(begin)).tolist()
    one = other = 0
    while one < len(seen) and other < len(heard):
        first = seen[one] <= heard[other]
        yield Piece(True, one, one + 1) if first else Piece(False, other, other + 1)
        one, other = one + first, other + (not first)
    if one < len(seen):
        yield Piece(True, one, len(seen))
    else:
        yield Piece(False, other, len(heard))
