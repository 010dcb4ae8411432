"""Functions that exported code is made of: `export` writes their source into what it hands out.

So they need nothing but the standard library and what the written module defines (`SAMPLE_KEYS`,
`WHOLE_KEYS`, `MEDIA_KEYS`, `MOVED_KEYS`, `COUNTS`). They raise ValueError where the code would
otherwise drop a key or shift rows in silence.
"""

# The functions take tensors of any library.
# pyright: basic, reportMissingTypeArgument=false, reportAttributeAccessIssue=false

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

SAMPLE_KEYS: tuple = ()
MOVED_KEYS: tuple = ()
WHOLE_KEYS: tuple = ()
MEDIA_KEYS: dict = {}
COUNTS: tuple = ()


def _known(inputs: dict) -> dict:
    """The inputs that hold something; raises if the code would drop one, or shift its rows."""
    given = {key: value for key, value in inputs.items() if value is not None}
    beside = [key for keys in MEDIA_KEYS.values() for key in keys]
    known = {*SAMPLE_KEYS, *WHOLE_KEYS, *MEDIA_KEYS, *beside, *COUNTS, *MOVED_KEYS}
    others = [key for key in given if key not in known and _has_rows(given[key])]
    if others:
        raise ValueError(
            f"slice_inputs does not know what a row of {others} counts, so nothing was cut. "
            "Leave these keys out, or export the code again from a batch that has them."
        )
    for first, keys in MEDIA_KEYS.items():
        left = [key for key in keys if key in given and first not in given]
        if left:
            raise ValueError(f"{left} came without {first!r}, so nothing was cut. Give both.")
    samples = len(given["input_ids"])
    for key in SAMPLE_KEYS:
        if key in given and len(given[key]) != samples:
            raise ValueError(f"{key!r} has {len(given[key])} rows for {samples} samples.")
    return given


def _has_rows(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or bool(getattr(value, "shape", ()))


def _is_whole(key: str, value: Any) -> bool:
    """Whether each chunk gets all of it: options such as use_cache, and what counts nothing."""
    return key in WHOLE_KEYS or not (key in COUNTS or _has_rows(value))


def _is_by_row(places: Any, samples: int) -> bool:
    """Whether position_ids are (sample, seq), not M-RoPE's (3, sample, seq)."""
    if places is None or (len(places.shape) > 2 and places.shape[1] == samples):
        return False
    if len(places) != samples:
        raise ValueError(f"position_ids are {tuple(places.shape)} for {samples} samples.")
    return True


def _counts(inputs: dict, name: str, rows: Any, found: Any = None) -> list:
    """How many of `rows` each sample owns: `inputs[name]`, else what its text says."""
    samples = len(inputs["input_ids"])
    given = inputs.get(name)
    counts: list | None = None
    if given is not None:
        counts = [int(count) for count in given]
    elif rows is not None and samples == 1:
        counts = [len(rows)]
    elif found is not None:
        counts = found(inputs)
    if counts is None:
        raise ValueError(
            f"inputs[{name!r}] is missing, and the text does not say it. Nothing was cut. "
            f"Set it to a list of {samples} numbers, one per sample."
        )
    total = sum(counts) if rows is None else len(rows)
    if len(counts) != samples or min(counts) < 0 or sum(counts) != total:
        raise ValueError(
            f"{name} is {counts}, but there are {samples} samples and {total} rows to share out. "
            "Nothing was cut. Give each sample its own number."
        )
    return counts


def _check_rows(inputs: dict, offsets: dict) -> None:
    """Raise if a tensor is longer or shorter than its counts say."""
    for key, ends in offsets.items():
        if key in inputs and len(inputs[key]) != ends[-1]:
            raise ValueError(
                f"{key!r} has {len(inputs[key])} rows, but {ends[-1]} belong to the samples. "
                "Nothing was cut. Give all keys of one batch."
            )


def _shared(features: list, tokens: list) -> list | None:
    """Rows of each sample, such that their features are as many as its placeholder tokens."""
    ends = {end: row for row, end in enumerate(accumulate(features, initial=0))}
    stops = [0, *(ends.get(end, -1) for end in accumulate(tokens))]
    if 0 in features or -1 in stops or stops[-1] != len(features):
        return None
    return [stop - start for start, stop in pairwise(stops)]


def _runs(tokens: Any) -> list:
    """Unbroken runs of True in each row, `(sample, seq)`."""
    begins = tokens[:, 1:] & ~tokens[:, :-1]
    return [
        int(first) + int(more) for first, more in zip(tokens[:, 0], begins.sum(-1), strict=True)
    ]


def _dealt(owned: list, tokens: list) -> list:
    """Images of each sample, from those of the samples that have placeholder tokens."""
    rows = iter(owned)
    return [next(rows, 0) if count else 0 for count in tokens]


def _heard(mask: Any) -> list:
    """Frames of each row of audio without padding."""
    return (mask != 0).sum(-1).tolist()


def _shown(inputs: dict) -> list:
    """Frames of each video, `(video, frame, …)`, that are not all zero."""
    frames = inputs["pixel_values"]
    return (frames.reshape(*frames.shape[:2], -1) != 0).any(-1).sum(-1).tolist()


def _summed(values: list, lengths: list) -> list:
    """Sums of so many values each."""
    ends = list(accumulate(lengths, initial=0))
    return [sum(values[start:stop]) for start, stop in pairwise(ends)]
