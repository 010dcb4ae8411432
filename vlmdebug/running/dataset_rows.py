"""Rows of a dataset as trainers keep them, drawn: a few words, images and videos that differ.

Each kind is a function of the media, the text and the answer of one row. `falsify` of a collator
draws such rows, and `make_rows` makes the same ones again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.given import described, public
from vlmdebug.core.keys import TOKEN_KEYS
from vlmdebug.core.wording import listed, number
from vlmdebug.errors import BadInput
from vlmdebug.families.probe import image_text
from vlmdebug.safe import one_line
from vlmdebug.tiny.drawing import checked_counts, draw

SIZES = ((64, 64), (112, 56), (56, 112), (168, 168))
"""Width and height of drawn images, smallest first."""
VIDEOS = ((4, (64, 64)), (4, (112, 56)), (4, (56, 112)), (8, (64, 64)))
"""Frames of drawn videos, with their width and height, smallest first."""
WORDS = (3, 40, 400)
"""Words of drawn texts, shortest first."""
_WORDS = ("which", "number", "do", "you", "see", "and", "what", "colour", "is", "the", "shape")


@dataclass(frozen=True)
class RowSpec:
    """One drawn row: the number of a size for each image and video, and of a length of its text.

    `videos` is None for a dataset without a column for videos.
    """

    images: tuple[int, ...] = ()
    words: int = 0
    videos: tuple[int, ...] | None = None


class Drawn(NamedTuple):
    """What a row is made of; `videos` is None without a column for them."""

    images: list[Any]
    videos: list[Any] | None
    text: str
    answer: str

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The media, by column."""
        videos = {} if self.videos is None else {"videos": [*self.videos]}
        return {"images": [*self.images], **videos}


def _messages(row: Drawn) -> dict[str, Any]:
    return {"messages": _turns(_places(row), row), **row.columns}


def _embedded(row: Drawn) -> dict[str, Any]:
    own = [{"type": "image", "image": image} for image in row.images]
    own += [{"type": "video", "video": video} for video in row.videos or ()]
    return {"messages": _turns(own, row)}


def _prompt_completion(row: Drawn) -> dict[str, Any]:
    question, reply = _turns(_places(row), row)
    return {"prompt": [question], "completion": [reply], **row.columns}


def _places(row: Drawn) -> list[dict[str, Any]]:
    return [{"type": "image"}] * len(row.images) + [{"type": "video"}] * len(row.videos or ())


def _turns(media: Sequence[Any], row: Drawn) -> list[dict[str, Any]]:
    content = [*map(dict, media), {"type": "text", "text": row.text}]
    return [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": row.answer}]},
    ]


CONVERSATIONS: Mapping[str, Callable[[Drawn], dict[str, Any]]] = {
    "messages": _messages,
    "embedded": _embedded,
    "prompt_completion": _prompt_completion,
}
KINDS = (*CONVERSATIONS, "prompt", "text", "processed")
"""Kinds of rows; the first that a collator takes is drawn."""


@public
def make_rows(
    kind: str | Callable[..., Any],
    images_per_row: Sequence[int],
    *,
    sizes: Sequence[int] | None = None,
    words: Sequence[int] | None = None,
    videos_per_row: Sequence[int] | None = None,
    video_sizes: Sequence[int] | None = None,
    processor: Any = None,
) -> list[Any]:
    """Rows of a dataset, with drawn images, videos and texts; equal arguments make equal rows.

    Args:
        kind: `"messages"`: a conversation under `messages`, its images under `images`.
            `"embedded"`: a conversation that holds its images. `"prompt_completion"`: a
            conversation as `prompt` and `completion`, and `images`. `"prompt"` and `"text"`: a
            text under that name with the processor's image tokens in it, and `images`.
            `"processed"`: what the processor returns for one row, without the batch dimension of
            tokens. Or a function of `images=`, `text=` and `answer=` that makes one row; of
            `videos=` too, if there are some. With videos, the rows have `videos` next to `images`:
            arrays of uint8 with shape (frame, height, width, 3).
        images_per_row: One number per row, 0 for a text.
        sizes: One number per image, from 0: an index of `SIZES`, all 0 by default.
        words: One number per row, from 0: short, long or very long; all 0 by default.
        videos_per_row: One number per row; None, the default, for rows without such a column.
        video_sizes: One number per video, from 0: an index of `VIDEOS`, all 0 by default.
        processor: The processor; only for `"prompt"`, `"text"` and `"processed"`.

    Raises:
        BadInput: The numbers do not fit together, or there is no such kind.
    """
    counts = checked_counts(images_per_row)
    videos = None if videos_per_row is None else checked_counts(videos_per_row)
    if videos is not None and len(videos) != len(counts):
        raise BadInput(
            f"videos_per_row has {number(len(videos), 'entry')}, but images_per_row has "
            f"{len(counts)}. No row was made. Pass one number per row."
        )
    images = _parted(counts, _numbers("sizes", sizes, sum(counts), len(SIZES), "image"))
    lengths = _numbers("words", words, len(counts), len(WORDS), "row")
    clips = _numbers("video_sizes", video_sizes, sum(videos or ()), len(VIDEOS), "video")
    shown = [None] * len(counts) if videos is None else _parted(videos, clips)
    specs = map(RowSpec, images, lengths, shown)
    return [row_of(kind, place, spec, processor) for place, spec in enumerate(specs)]


def _parted(counts: Sequence[int], values: Sequence[int]) -> list[tuple[int, ...]]:
    left = iter(values)
    return [tuple(next(left) for _ in range(count)) for count in counts]


def row_of(kind: str | Callable[..., Any], place: int, spec: RowSpec, processor: Any) -> Any:
    """Row number `place`, with text and media that no other row has."""
    row = _drawn(place, spec)
    if callable(kind):
        return _own_row(kind, row)
    if kind in CONVERSATIONS:
        return CONVERSATIONS[kind](row)
    if kind not in KINDS:
        raise BadInput(
            f"rows is {described(kind)}, but the kinds of rows are {', '.join(KINDS)}. "
            "No row was made. Pass one of them, or a function of (images, text, answer)."
        )
    token, video = image_text(processor), video_text(processor)
    if token is None or (row.videos and video is None):
        what = "image" if token is None else "video"
        raise BadInput(
            f"Rows of the kind {kind} have the processor's {what} token in their text, and "
            f"{described(processor)} names none. Pass processor=, or a function as the kind."
        )
    marks = [token] * len(row.images) + [str(video)] * len(row.videos or ())
    marked = " ".join([*marks, row.text])
    if kind == "processed":
        return _processed(processor, f"{marked} {row.answer}", row)
    if kind == "text":
        return {"text": f"{marked} {row.answer}", **row.columns}
    return {"prompt": marked, "completion": f" {row.answer}", **row.columns}


def _drawn(place: int, spec: RowSpec) -> Drawn:
    images = [draw(10 * place + at, SIZES[size]) for at, size in enumerate(spec.images)]
    videos = None
    if spec.videos is not None:
        videos = [draw_video(10 * place + 5 + at, size) for at, size in enumerate(spec.videos)]
    words = [_WORDS[(place + at) % len(_WORDS)] for at in range(WORDS[spec.words])]
    return Drawn(images, videos, f"Row {place}: {' '.join(words)}?", f"It is number {place}.")


def draw_video(number: int, size: int = 0) -> np.ndarray:
    """Frames that differ, `(frame, height, width, 3)`."""
    frames, pixels = VIDEOS[size]
    return np.stack([np.asarray(draw(number, pixels, seed=frame)) for frame in range(frames)])


def video_text(processor: Any) -> str | None:
    """The text that represents a video; None if the processor takes none."""
    token = getattr(processor, "video_token", None)
    takes = getattr(processor, "video_processor", None) is not None
    return token if takes and isinstance(token, str) else None


def takes_videos(make: Callable[..., Any]) -> bool:
    """Whether a function that makes a row takes `videos=`."""
    try:
        inspect.signature(make).bind(images=[], videos=[], text="", answer="")
    except (TypeError, ValueError):
        return False
    return True


def _own_row(make: Callable[..., Any], row: Drawn) -> Any:
    videos = {"videos": row.videos or []} if takes_videos(make) else {}
    if row.videos and not videos:
        raise BadInput(
            "The function that makes rows takes no videos, but some were asked for. No row was "
            "made. Give it a parameter videos=, or leave videos_per_row= out."
        )
    try:
        return make(images=row.images, text=row.text, answer=row.answer, **videos)
    except Exception as error:  # the user's own
        also = "" if not videos else f" and {number(len(videos['videos']), 'video')}"
        raise BadInput(
            f"The function that makes rows raised {type(error).__name__} for "
            f"{number(len(row.images), 'image')}{also}: "
            f"{one_line(error, 300)}. No row was made. It is called as rows(images=[…], text='…', "
            "answer='…'), with images of PIL, and videos=[…] of arrays if it takes them."
        ) from error


def _processed(processor: Any, text: str, row: Drawn) -> dict[str, Any]:
    """What `dataset.map` of a processor keeps for one row."""
    given: dict[str, Any] = {"images": [row.images] if row.images else None}
    given |= {"videos": row.videos} if row.videos else {}
    made = processor(text=[text], return_tensors="pt", **given)
    return {key: value[0] if key in TOKEN_KEYS else value for key, value in made.items()}


def _numbers(
    name: str, given: Sequence[int] | None, due: int, most: int, noun: str
) -> tuple[int, ...]:
    found = (0,) * due if given is None else tuple(given)
    good = all(type(one) is int and 0 <= one < most for one in found)
    if len(found) != due or not good:
        raise BadInput(
            f"{name} is [{listed(found)}], but it has one number per {noun}, {due} in all, each "
            f"from 0 to {most - 1}. No row was made. Pass such a list, or leave it out."
        )
    return found
