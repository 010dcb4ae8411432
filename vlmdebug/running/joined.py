"""The media that rows give when each is collated alone, joined as one batch has them.

Rows of tensors are concatenated along their own axis. Other dimensions are padded to those of the
batch that the collator made, with the value that it padded with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vlmdebug.checking.collate_tokens import Unit, shown, text_of
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import BOOKKEEPING, IGNORED, KEYS, TOKEN_KEYS
from vlmdebug.families.read import read_as_it_is

PADDING = (0, -1)
"""What processors pad media with."""
TEXT = "input_ids"


def media_of(unit: Unit) -> dict[str, Any]:
    """The rows of each media key that one sample of a row owns; none if only dummies are there.

    Some collators add an image to a batch of texts, with placeholder tokens that `attention_mask`
    hides, so that every process of a distributed run calls the vision tower.
    """
    batch, sample = unit
    if is_dummy(unit):
        return {}
    found = {}
    for key in batch.layout.media:
        axis = batch.layout[key]
        counts = batch.counts.get(axis.unit)
        value = batch.inputs[key]
        if axis.unit == "batch" or isinstance(value, list):
            continue
        if len(batch) == 1:
            found[key] = value
        elif counts is not None:
            start, stop = counts.offsets[sample], counts.offsets[sample + 1]
            if start < stop:
                found[key] = value.narrow(axis.dim, start, stop - start)
    return found


def is_dummy(unit: Unit) -> bool:
    """Whether all placeholder tokens of a sample are hidden by `attention_mask`, and some are."""
    batch, sample = unit
    tokens = [*batch.token_ids.values()]
    row, start, stop = batch.spans[sample]
    ids = batch.inputs[TEXT][row]
    every = sum(int((ids[start:stop] == token).sum()) for token in tokens)
    seen = ids[torch.from_numpy(shown(batch, sample))]
    return every > 0 and not any(bool((seen == token).any()) for token in tokens)


def joined(whole: Mapping[str, Any], units: Sequence[Unit]) -> dict[str, Any]:
    """The batch that the collator made, with the media that each sample has alone."""
    made = {key: value for key, value in whole.items() if key in TOKEN_KEYS}
    media = [media_of(unit) for unit in units]
    for key in dict.fromkeys(key for own in media for key in own):
        made[key] = _joined(key, units, [own.get(key) for own in media], whole)
    return made


def numbers_of(units: Sequence[Unit]) -> dict[str, list[int]]:
    """`num_images=` and the like, as each row gives them alone."""
    found: dict[str, list[int]] = {}
    for name, what in BOOKKEEPING.items():
        counts = list[int]()
        for batch, sample in units:
            own = batch.counts.get(what)
            no_media = not any(batch.of_key[key].name == _modality(what) for key in batch.of_key)
            if own is None and not no_media:
                break
            hidden = is_dummy(Unit(batch, sample))
            counts.append(0 if own is None or hidden else own[sample])
        if len(counts) == len(units) and any(counts):
            found[name] = counts
    return found


def _modality(unit: str) -> str:
    return "image" if unit == "tile" else unit


def all_its_own(batch: Batch) -> dict[str, list[int]]:
    """`num_images=` and the like for a batch of one sample, which owns all media in it."""
    if len(batch) != 1 or not batch.ambiguities:
        return {}
    return {
        name: [len(batch.inputs[key])]
        for name, unit in BOOKKEEPING.items()
        for key, axis in batch.layout.items()
        if axis.unit == unit and not axis.dim and unit not in batch.counts
    }


def unpacked(whole: Batch) -> dict[str, Any]:
    """The batch with a row per sample, where rows of `input_ids` hold several."""
    if whole.packed is None:
        return dict(whole.inputs)
    shape = whole.inputs[TEXT].shape
    made = {key: value for key, value in whole.inputs.items() if key in whole.layout.media}
    columns = [shown(whole, sample) for sample in range(len(whole))]
    wide = max(map(len, columns))
    for key in [key for key in whole.inputs if key in TOKEN_KEYS]:
        value = whole.inputs[key]
        if value.shape == shape:
            rows = [value[whole.spans[s][0], torch.from_numpy(c)] for s, c in enumerate(columns)]
            made[key] = torch.stack([_padded(row, wide, 0) for row in rows])
    made.pop("position_ids", None)  # judged with the tokens
    ids = whole.inputs[TEXT]
    ones = [ids.new_ones(len(own), dtype=torch.long) for own in columns]
    made["attention_mask"] = torch.stack([_padded(own, wide, 0) for own in ones])
    return made


def _joined(
    key: str, units: Sequence[Unit], values: Sequence[Any], whole: Mapping[str, Any]
) -> Any:
    """One key of all samples; a sample without it has a row of padding, or no row."""
    first, batch = next(
        (value, unit.batch) for unit, value in zip(units, values, strict=True) if value is not None
    )
    axis, like = batch.layout[key], whole.get(key)
    if not isinstance(like, torch.Tensor) or like.ndim != first.ndim:
        like = None
    if like is not None and _is_along_tokens(key, batch, first):
        return _along_tokens(units, values, like, whole)
    own = [value for value in values if value is not None]
    shape = [max(value.shape[d] for value in own) for d in range(first.ndim)]
    if like is not None:
        shape = [*like.shape]
    every = values if axis.unit == "sample" else own
    fill, start, rows = _fill(every, like, axis.dim), 0, list[Any]()
    beyond = like if KEYS[key].holds == "mask" else None  # models have masks of padding, too
    for value in every:
        shape[axis.dim] = 1 if value is None else value.shape[axis.dim]
        blank = first.new_full(shape, fill)
        if beyond is not None and start + shape[axis.dim] <= beyond.shape[axis.dim]:
            blank = beyond.narrow(axis.dim, start, shape[axis.dim]).clone()
        rows.append(blank if value is None else _fitted(value, blank))
        start += shape[axis.dim]
    return torch.cat(rows, axis.dim)


def _fitted(value: Any, blank: Any) -> Any:
    """The rows in the shape of `blank`, which has the padding; what is cut off must be padding."""
    sizes = zip(value.shape, blank.shape, strict=True)
    kept = tuple(slice(0, min(have, size)) for have, size in sizes)
    if _is_padding(value, kept):
        blank[kept] = value[kept].to(blank.dtype)
    return blank


def _is_padding(value: Any, kept: tuple[slice, ...]) -> bool:
    """Whether nothing but padding is outside of a part."""
    outside = torch.ones_like(value, dtype=torch.bool)
    outside[kept] = False
    cut = value[outside]
    return not len(cut) or any(bool((cut == pad).all()) for pad in PADDING)


def _fill(values: Sequence[Any], like: Any, dim: int) -> float:
    """The value that the collator padded with: the one that most padded rows end with."""
    if like is None:
        return 0
    ends, start = Counter[float](), 0
    for value in values:
        stop = min(start + (1 if value is None else value.shape[dim]), like.shape[dim])
        rows = like.narrow(dim, start, stop - start) if start < stop else like[:0]
        start = stop
        padded = value is None or any(
            rows.shape[d] > value.shape[d] for d in range(value.ndim) if d != dim
        )
        if rows.numel() and padded:
            ends[float(rows.flatten()[-1])] += 1
    return ends.most_common(1)[0][0] if ends else 0


def _is_along_tokens(key: str, batch: Batch, value: Any) -> bool:
    """Whether dim 1 of a media key is along the tokens, as of a mask from texts to images."""
    seq = batch.inputs[TEXT].shape[-1]
    return TEXT in KEYS[key].of and value.ndim >= 2 and value.shape[1] == seq


def _along_tokens(
    units: Sequence[Unit], values: Sequence[Any], like: Any, whole: Mapping[str, Any]
) -> Any:
    """The key as the collator made it; other values for samples that do not have those alone."""
    made, mask = like.clone(), whole.get("attention_mask")
    if len(like) != len(units) or like.shape[1] != whole[TEXT].shape[-1]:
        return made[:0]
    for row, (unit, value) in enumerate(zip(units, values, strict=True)):
        given = like[row] if mask is None else like[row][mask[row] != 0]
        due = None if value is None else value[0][torch.from_numpy(shown(*unit))]
        if due is not None and not _begins_as(given, due):
            made[row] = (like[row] == 0).to(like.dtype)
    return made


def _begins_as(given: Any, due: Any) -> bool:
    """Whether both have the same tokens, with the same values up to padding."""
    if given.shape[0] != due.shape[0]:
        return False
    sizes = [min(a, b) for a, b in zip(given.shape[1:], due.shape[1:], strict=True)]
    part = (slice(None), *(slice(0, size) for size in sizes))
    return torch.equal(given[part], due[part])


def pieces(whole: Mapping[str, Any], batch: Batch) -> list[dict[str, Any]]:
    """The batch that the collator made, cut into samples by what each owns alone.

    Rows that are left over go to the last sample.
    """
    samples = len(batch)
    found = [dict[str, Any]() for _ in range(samples)]
    for key, value in whole.items():
        axis = batch.layout.get(key)
        if axis is None or axis.unit == "batch" or not isinstance(value, torch.Tensor):
            continue
        counts = batch.counts.get(axis.unit)
        if counts is None or value.ndim <= axis.dim:
            continue
        have = value.shape[axis.dim]
        for sample in range(samples):
            start, stop = counts.offsets[sample], counts.offsets[sample + 1]
            stop = have if sample == samples - 1 else min(stop, have)
            start = min(start, stop)
            needed = batch.layout.given_with(key)
            if start < stop or needed is None or batch.counts[needed][sample]:
                found[sample][key] = value.narrow(axis.dim, start, stop - start)
    return found


def apart_by_media(whole: Batch, units: Sequence[Unit], order: Sequence[int]) -> list[int]:
    """The unit of each sample, where those of equal texts are distinguished by their media.

    Args:
        whole: The batch.
        units: What each row gives alone.
        order: The unit of each sample by its text.
    """
    texts = [text_of(*unit).tobytes() for unit in units]
    if len({*texts}) == len(texts) or whole.packed is not None:
        return [*order]
    left, made = [*order], list[int]()
    for sample, own in enumerate(pieces(whole.inputs, whole)):
        alike = [place for place in left if texts[place] == texts[order[sample]]]
        fit = [place for place in alike if _begin_alike(own, media_of(units[place]))]
        chosen = next((place for place in (order[sample], *fit) if place in fit), alike[0])
        made.append(chosen)
        left.remove(chosen)
    return made


def _begin_alike(given: Mapping[str, Any], due: Mapping[str, Any]) -> bool:
    """Whether all media due are there, up to padding."""
    for key, value in due.items():
        other = given.get(key)
        if not isinstance(other, torch.Tensor) or other.ndim != value.ndim:
            return False
        sizes = zip(other.shape, value.shape, strict=True)
        part = tuple(slice(0, min(pair)) for pair in sizes)
        if not torch.equal(other[part], value[part].to(other.dtype)):
            return False
    return True


def samples_joined(
    samples: Sequence[Mapping[str, Any]], reading: Mapping[str, Any]
) -> dict[str, Any]:
    """One batch of samples that were processed one by one, padded on the right.

    Args:
        samples: Tensors by name; those along the tokens with or without a dimension of rows.
        reading: `processor=` and the like, as for `read_batch`.
    """
    known = _single(reading)
    batches = list[Batch]()
    for sample in map(_with_rows, samples):
        read = read_as_it_is(sample, **known)
        given: dict[str, Any] = {**known, **all_its_own(read)}
        batches.append(read_as_it_is(sample, **given) if given != known else read)
    pad = getattr(getattr(reading.get("processor"), "tokenizer", None), "pad_token_id", None)
    wide = max(batch.inputs[TEXT].shape[-1] for batch in batches)
    keys = dict.fromkeys(key for batch in batches for key in batch.inputs if key in TOKEN_KEYS)
    whole: dict[str, Any] = {}
    for key in (*keys, *([] if "attention_mask" in keys else ["attention_mask"])):
        fill = {TEXT: pad or 0, "labels": IGNORED}.get(key, 0)
        rows = [_padded(_own(batch, key), wide, fill) for batch in batches]
        whole[key] = torch.cat(rows, 1 if rows[0].ndim == 3 else 0)
    units = [Unit(batch, sample) for batch in batches for sample in range(len(batch))]
    return {**joined(whole, units), **numbers_of(units)}


def _with_rows(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The sample as a batch of one row, where its tokens have no dimension of rows."""
    made = {key: tensor_of(v) if hasattr(v, "dtype") else v for key, v in sample.items()}
    if getattr(made.get(TEXT), "ndim", 2) != 1:
        return made
    return {
        key: value[None] if key in TOKEN_KEYS and getattr(value, "ndim", 0) == 1 else value
        for key, value in made.items()
    }


def tensor_of(value: Any) -> torch.Tensor:
    """A tensor as it is; anything else in host memory, whatever the program's default device."""
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value, device="cpu")


def _single(reading: Mapping[str, Any]) -> dict[str, Any]:
    """What reads one sample: no counts of all of them."""
    return {key: reading[key] for key in ("processor", "config", "model") if key in reading}


def _own(batch: Batch, key: str) -> Any:
    """A key of one sample: ones for a mask, zeros for types that it does not have."""
    if key in batch.inputs:
        return batch.inputs[key]
    like = torch.ones_like if key == "attention_mask" else torch.zeros_like
    return like(batch.inputs[TEXT])


def _padded(value: Any, wide: int, fill: int) -> Any:
    shape = (*value.shape[:-1], wide - value.shape[-1])
    return torch.cat([value, value.new_full(shape, fill)], -1)
