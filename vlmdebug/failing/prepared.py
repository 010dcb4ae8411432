"""Texts and images before a batch exists: counted inside a processor or collator that raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import is_
from typing import Any, NamedTuple

from vlmdebug.core.given import kind_of
from vlmdebug.core.wording import number
from vlmdebug.failing.frames import Frame
from vlmdebug.safe import one_line

MEDIA = {"image": "images", "video": "videos", "audio": "audio"}
"""Arguments of a processor that hold the media of each modality."""
MOST = 4096
"""Samples that are looked at."""


class Counted(NamedTuple):
    """What was found: the sentences, and the samples that they name."""

    said: str
    samples: tuple[int, ...] = ()


def counted(frames: Sequence[Frame], *, shapes: bool, in_texts: bool = False) -> list[Counted]:
    """What a processor or collator of the frames had in hand, if it does not match.

    `shapes`: the exception is about shapes, so samples of another shape may be its cause;
    `in_texts`: it is about the media of each text.
    """
    for place, frame in enumerate(frames):
        if prepares(frame):
            found = _truncated(frames[place:])
            found = found or _in_texts(frame, frames[:place], nested=in_texts)
            found = [*_nothing(frame), *found]
            if found or (shapes and (found := _unpadded(frame))):
                return found
    return _unlike(frames) if shapes else []


def prepares(frame: Frame) -> bool:
    """Whether it is a call of a processor that makes a batch of texts."""
    return kind_of(frame.names.get("self")) == "processor" and frame.names.get("text") is not None


def _nothing(frame: Frame) -> list[Counted]:
    """None in the place of an image, video or clip."""
    found, texts = list[Counted](), _texts(frame.names["text"]) or ()
    for name, argument in MEDIA.items():
        media = frame.names.get(argument)
        if not isinstance(media, (list, tuple)):
            continue
        nested = any(isinstance(own, (list, tuple)) for own in media)
        by_sample = nested or len(media) == len(texts)
        for place, own in enumerate(media[:MOST]):
            inside = isinstance(own, (list, tuple))
            if None in map(_or_none, _flat(own) if inside else [own]):
                found.append(_none(place, name, argument, inside=inside, by_sample=by_sample))
    return found


def _or_none(one: Any) -> bool | None:
    """None for None; what else it is does not matter, and may not be compared."""
    return None if one is None else True


def _none(place: int, name: str, argument: str, *, inside: bool, by_sample: bool) -> Counted:
    noun = "audio clip" if name == "audio" else name
    return Counted(
        f"{f'sample {place}: ' if by_sample else ''}{argument}[{place}] "
        f"{'holds' if inside else 'is'} None, which is no {noun}. "
        f"Give a sample without any an empty list: {argument}=[[first], []].",
        (place,) if by_sample else (),
    )


def _unpadded(frame: Frame) -> list[Counted]:
    """Texts of different lengths that were not padded."""
    ids = _ids(frame.names.get("text_inputs"))
    lengths = [*map(len, ids or ())]
    if len(set(lengths)) < 2:
        return []
    odd = next(sample for sample, length in enumerate(lengths) if length != lengths[0])
    return [
        Counted(
            f"sample 0 has {number(lengths[0], 'token')} and sample {odd} has {lengths[odd]}: "
            "they were not padded, so no tensor holds both. Call the processor with padding=True."
        )
    ]


def _in_texts(frame: Frame, outer: Sequence[Frame], *, nested: bool) -> list[Counted]:
    """Placeholders in each text against the media it was given.

    `nested`: the processor counts the media of each text.
    """
    processor, found = frame.names["self"], list[Counted]()
    texts = None if _are_expanded(frame) else _texts(frame.names["text"])
    for name, argument in MEDIA.items():
        token, media = _token(processor, name), frame.names.get(argument)
        if texts is None or token is None:
            if texts and nested and media is not None and len(_flat(media)) != len(texts):
                found.append(_one_each(name, len(texts), len(_flat(media))))
            continue
        written = [text.count(token) for text in texts]
        if not any(written) and not nested:
            continue  # the processor may write them itself, as that of BLIP-2
        given = _per_sample(media, name, len(texts), outer)
        shift = _index_of(texts, media, outer) if len(texts) == 1 else 0
        if given is not None:
            found += [
                _differs(sample + shift, token, name, *pair)
                for sample, pair in enumerate(zip(written, given, strict=True))
                if pair[0] != pair[1]
            ]
        elif sum(written) != (total := len(_flat(media))) or nested:
            found.append(_totals(token, name, written, total))
    return found


def _are_expanded(frame: Frame) -> bool:
    """Whether the texts of the frame have as many placeholders as features by now.

    `processing_utils.ProcessorMixin` writes them over its argument before it tokenizes (5.24).
    """
    return "text_replacement_offsets" in frame.names or bool(frame.names.get("text_inputs"))


def _one_each(name: str, texts: int, media: int) -> Counted:
    noun = "audio clip" if name == "audio" else name
    return Counted(
        f"The processor was given {number(texts, 'text')} and {number(media, noun)}, but it "
        f"takes one {noun} with each text."
    )


def _differs(sample: int, token: str, name: str, written: int, given: int) -> Counted:
    noun = "audio clip" if name == "audio" else name
    gap = (
        f"{noun} {written} has no placeholder"
        if written < given
        else f"placeholder {given} has no {noun}"
    )
    return Counted(
        f"sample {sample}: its text has {number(written, 'placeholder')} {one_line(token, 80)} "
        f"but it was given {number(given, noun)}: {gap}.",
        (sample,),
    )


def _totals(token: str, name: str, written: Sequence[int], total: int) -> Counted:
    """If the media are a flat list: the counts of all texts, and which is wrong with one each."""
    noun = "audio clip" if name == "audio" else name
    odd = [sample for sample, count in enumerate(written) if count != 1]
    said = (
        f"The texts have {', '.join(map(str, written[:32]))}{'' if len(written) <= 32 else ' …'} "
        f"placeholders {one_line(token, 80)}, {sum(written)} in all, but {number(total, noun)} "
        f"{'was' if total == 1 else 'were'} given in one flat list."
    )
    if total == len(written) and odd:
        named = ", ".join(map(str, odd[:8]))
        said += f" If each sample has one {noun}, the text of sample {named} is wrong."
        return Counted(said, tuple(odd))
    return Counted(
        f"{said} Nest them per sample to see which sample is wrong: [[first, second], [third]]."
    )


def _texts(text: Any) -> list[str] | None:
    if isinstance(text, str):
        return [text]
    plain = isinstance(text, (list, tuple)) and len(text) <= MOST
    return list(text) if plain and text and all(isinstance(one, str) for one in text) else None


def _token(processor: Any, name: str) -> str | None:
    """What represents one image, video or audio clip in a text."""
    token = getattr(processor, f"{name}_token", None)
    token = getattr(token, "content", token)  # an AddedToken
    return token if isinstance(token, str) and token else None


def _per_sample(media: Any, name: str, samples: int, outer: Sequence[Frame]) -> list[int] | None:
    """Media of each sample, if they are nested, or as the rows that were collated have them."""
    if media is None:
        return [0] * samples
    if samples == 1:
        return [len(_flat(media))]
    nested = isinstance(media, (list, tuple)) and len(media) == samples
    flat = _flat(media)
    if nested and all(isinstance(own, (list, tuple)) for own in media):
        if not any(_is_list_of(flat, one) for frame in outer for one in [*frame.names.values()]):
            return [len(_flat(own)) for own in media]
    total = len(flat)
    for rows in _rows(outer):
        counts = [_of_row(row, name) for row in rows]
        if len(rows) == samples and None not in counts and sum(c or 0 for c in counts) == total:
            return [count or 0 for count in counts]
    return None


def _is_list_of(media: Sequence[Any], given: Any) -> bool:
    """Whether it is a flat list of the same media: some processors nest it by the texts."""
    plain = isinstance(given, (list, tuple)) and len(given) == len(media)
    return plain and all(map(is_, given, media))


def _of_row(row: Mapping[str, Any], name: str) -> int | None:
    """Media of a row of a data set; None if it does not say."""
    for key in (f"{name}s", name):
        if key in row:
            return 0 if row[key] is None else len(_flat(row[key]))
    return None


def _flat(media: Any) -> list[Any]:
    """All images, videos or clips of nested lists; a batch of frames or samples is one of them."""
    if media is None:
        return []
    if not isinstance(media, (list, tuple)):
        return [media]
    return [
        one for own in media for one in (_flat(own) if isinstance(own, (list, tuple)) else [own])
    ]


def _rows(frames: Sequence[Frame]) -> Iterable[Sequence[Mapping[str, Any]]]:
    """Lists of mappings that the frames name, as a collator gets them; the innermost first."""
    for frame in reversed(frames):
        for one in [*frame.names.values()]:
            if isinstance(one, (list, tuple)) and 1 < len(one) <= MOST:
                if all(isinstance(row, Mapping) for row in one):
                    yield one


def _index_of(texts: Sequence[str], media: Any, outer: Sequence[Frame]) -> int:
    """Where the only text stands in a list of texts, or its media in a list of rows; else 0."""
    for frame in reversed(outer):
        for one in [*frame.names.values()]:
            if isinstance(one, (list, tuple)) and 1 < len(one) <= MOST:
                for place, row in enumerate(one):
                    if _is_of(row, texts[0], media):
                        return place
    return 0


def _is_of(row: Any, text: str, media: Any) -> bool:
    if isinstance(row, str):
        return row == text
    if not isinstance(row, Mapping):
        return False
    inside = [*islice(row.values(), 64)]
    own = media[0] if isinstance(media, (list, tuple)) and len(media) == 1 else media
    return any(
        one is not None and (one is media or one is own or (isinstance(one, str) and one == text))
        for one in inside
    )


def _truncated(inner: Sequence[Frame]) -> list[Counted]:
    """Samples with fewer placeholder tokens in their ids than in their text, after truncation."""
    for frame in inner:
        ids, texts = _ids(frame.names.get("text_inputs")), _texts(frame.names.get("text"))
        processor = frame.names.get("self")
        if ids is None or texts is None or len(ids) != len(texts):
            continue
        found = list[Counted]()
        for name in MEDIA:
            token, own_id = _token(processor, name), getattr(processor, f"{name}_token_id", None)
            if token is None or not isinstance(own_id, int):
                continue
            pairs = [
                (t.count(token), sum(i == own_id for i in own))
                for t, own in zip(texts, ids, strict=True)
            ]
            found += [
                _cut(sample, name, *pair) for sample, pair in enumerate(pairs) if pair[0] > pair[1]
            ]
        if found:
            return found
    return []


def _cut(sample: int, name: str, written: int, kept: int) -> Counted:
    return Counted(
        f"sample {sample}: its text has {written} placeholder tokens of {name}s but its input_ids "
        f"have {kept}: truncation cut {written - kept} off at the end of the text.",
        (sample,),
    )


def _ids(text_inputs: Any) -> list[list[int]] | None:
    given: Any = text_inputs.get("input_ids") if hasattr(text_inputs, "get") else None
    ids = given.tolist() if hasattr(given, "tolist") else given
    rows = isinstance(ids, list) and all(isinstance(row, list) for row in ids)
    return ids if rows else None


def _unlike(frames: Sequence[Frame]) -> list[Counted]:
    """Samples with tensors of another shape than most, in the nearest list of samples.

    Samples with names come before bare tensors: a list of these says nothing about the key.
    """
    for rows in _rows(frames):
        if found := _shapes(rows):
            return found
    for frame in reversed(frames):
        for name, one in [*frame.names.items()]:
            if isinstance(one, (list, tuple)) and 1 < len(one) <= MOST:
                if all(kind_of(value) in ("tensor", "array") for value in one):
                    if found := _odd(name, [tuple(value.shape) for value in one]):
                        return found
    return []


def _shapes(samples: Sequence[Mapping[str, Any]]) -> list[Counted]:
    shared = [key for key in samples[0] if all(key in one for one in samples)]
    for key in shared:
        values = [one[key] for one in samples]
        if all(kind_of(value) in ("tensor", "array") for value in values):
            found = _odd(str(key), [tuple(value.shape) for value in values])
            if found and key != "input_ids":
                return found
    return []


def _odd(key: str, shapes: Sequence[tuple[int, ...]]) -> list[Counted]:
    """The samples with another shape than the usual one."""
    (usual, _), *others = Counter(shapes).most_common()
    if not others:
        return []
    odd = [sample for sample, shape in enumerate(shapes) if shape != usual]
    like = next(sample for sample, shape in enumerate(shapes) if shape == usual)
    named = "; ".join(f"sample {s}: {shapes[s]}" for s in odd[:8])
    return [
        Counted(
            f"{one_line(key, 80)} has another shape in {named}, but {usual} in sample {like}: they "
            "cannot be stacked. Concatenate rows of images, tiles or patches on dim 0, or process "
            "all samples in one call of the processor.",
            tuple(odd),
        )
    ]
