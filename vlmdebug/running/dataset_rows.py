"""Rows of a dataset as trainers keep them, drawn: a few words, and images that differ.

Each kind is a function of the images, the text and the answer of one row. `falsify` of a collator
draws such rows, and `make_rows` makes the same ones again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmdebug.core.given import described, public
from vlmdebug.core.keys import TOKEN_KEYS
from vlmdebug.core.wording import listed
from vlmdebug.errors import BadInput
from vlmdebug.families.probe import image_text
from vlmdebug.safe import one_line
from vlmdebug.tiny.drawing import checked_counts, draw

SIZES = ((64, 64), (112, 56), (56, 112), (168, 168))
"""Width and height of drawn images, smallest first."""
WORDS = (3, 40, 400)
"""Words of drawn texts, shortest first."""
_WORDS = ("which", "number", "do", "you", "see", "and", "what", "colour", "is", "the", "shape")


@dataclass(frozen=True)
class RowSpec:
    """One drawn row: the number of a size for each image, and of a length of its text."""

    images: tuple[int, ...] = ()
    words: int = 0


def _messages(images: Sequence[Any], text: str, answer: str) -> dict[str, Any]:
    return {
        "messages": _turns([{"type": "image"}] * len(images), text, answer),
        "images": [*images],
    }


def _embedded(images: Sequence[Any], text: str, answer: str) -> dict[str, Any]:
    own = [{"type": "image", "image": image} for image in images]
    return {"messages": _turns(own, text, answer)}


def _prompt_completion(images: Sequence[Any], text: str, answer: str) -> dict[str, Any]:
    question, reply = _turns([{"type": "image"}] * len(images), text, answer)
    return {"prompt": [question], "completion": [reply], "images": [*images]}


def _turns(images: Sequence[Any], text: str, answer: str) -> list[dict[str, Any]]:
    content = [*map(dict, images), {"type": "text", "text": text}]
    return [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


CONVERSATIONS: Mapping[str, Callable[..., dict[str, Any]]] = {
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
    processor: Any = None,
) -> list[Any]:
    """Rows of a dataset, with drawn images and texts; equal arguments make equal rows.

    Args:
        kind: `"messages"`: a conversation under `messages`, its images under `images`.
            `"embedded"`: a conversation that holds its images. `"prompt_completion"`: a
            conversation as `prompt` and `completion`, and `images`. `"prompt"` and `"text"`: a
            text under that name with the processor's image tokens in it, and `images`.
            `"processed"`: what the processor returns for one row, without the batch dimension of
            tokens. Or a function of `images=`, `text=` and `answer=` that makes one row.
        images_per_row: One number per row, 0 for a text.
        sizes: One number per image, from 0: an index of `SIZES`, all 0 by default.
        words: One number per row, from 0: short, long or very long; all 0 by default.
        processor: The processor; only for `"prompt"`, `"text"` and `"processed"`.

    Raises:
        BadInput: The numbers do not fit together, or there is no such kind.
    """
    counts = checked_counts(images_per_row)
    chosen = _numbers("sizes", sizes, sum(counts), len(SIZES), "image")
    lengths = _numbers("words", words, len(counts), len(WORDS), "row")
    left = iter(chosen)
    specs = [
        RowSpec(tuple(next(left) for _ in range(count)), length)
        for count, length in zip(counts, lengths, strict=True)
    ]
    return [row_of(kind, place, spec, processor) for place, spec in enumerate(specs)]


def row_of(kind: str | Callable[..., Any], place: int, spec: RowSpec, processor: Any) -> Any:
    """Row number `place`, with text and images that no other row has."""
    images = [draw(10 * place + at, SIZES[size]) for at, size in enumerate(spec.images)]
    words = [_WORDS[(place + at) % len(_WORDS)] for at in range(WORDS[spec.words])]
    text, answer = f"Row {place}: {' '.join(words)}?", f"It is number {place}."
    if callable(kind):
        return _own_row(kind, images, text, answer)
    if kind in CONVERSATIONS:
        return CONVERSATIONS[kind](images, text, answer)
    if kind not in KINDS:
        raise BadInput(
            f"rows is {described(kind)}, but the kinds of rows are {', '.join(KINDS)}. "
            "No row was made. Pass one of them, or a function of (images, text, answer)."
        )
    token = image_text(processor)
    if token is None:
        raise BadInput(
            f"Rows of the kind {kind} have the processor's image token in their text, and "
            f"{described(processor)} names none. Pass processor=, or a function as the kind."
        )
    marked = " ".join([*[token] * len(images), text])
    if kind == "processed":
        return _processed(processor, f"{marked} {answer}", images)
    if kind == "text":
        return {"text": f"{marked} {answer}", "images": images}
    return {"prompt": marked, "completion": f" {answer}", "images": images}


def _own_row(make: Callable[..., Any], images: list[Any], text: str, answer: str) -> Any:
    try:
        return make(images=images, text=text, answer=answer)
    except Exception as error:  # the user's own
        raise BadInput(
            f"The function that makes rows raised {type(error).__name__} for {len(images)} images: "
            f"{one_line(error, 300)}. No row was made. It is called as rows(images=[…], text='…', "
            "answer='…'), with images of PIL."
        ) from error


def _processed(processor: Any, text: str, images: Sequence[Any]) -> dict[str, Any]:
    """What `dataset.map` of a processor keeps for one row."""
    made = processor(text=[text], images=[[*images]] if images else None, return_tensors="pt")
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
