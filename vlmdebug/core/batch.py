"""A batch that knows which rows of every tensor belong to which sample.

`read_batch` makes one from the output of a processor. The tensors remain the user's own: they are
sliced, never copied or changed, and pixel values are never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from vlmdebug.core.keys import BOOKKEEPING
from vlmdebug.core.layout import HANGS_ON, Layout, plural
from vlmdebug.core.lazy import lazy
from vlmdebug.core.modality import Modality, total
from vlmdebug.core.part import Part, Spans
from vlmdebug.core.rows import Counts, chunk_bounds
from vlmdebug.core.rules import ModelRules
from vlmdebug.core.wording import number
from vlmdebug.errors import AmbiguousError, BadInput


@dataclass(frozen=True)
class Ambiguity:
    """What the batch alone does not determine, and what to pass to determine it.

    `keys` cannot be cut until then; `unit` is the missing count.
    """

    keys: tuple[str, ...]
    unit: str | None
    message: str


@dataclass(frozen=True)
class Undecided(Ambiguity):
    """A row that may be one sample or several."""


@dataclass(frozen=True)
class Reshaped(Ambiguity):
    """Rows that are all there, behind a dimension that was added."""


@dataclass(frozen=True)
class Contradiction(Ambiguity):
    """A contradiction inside a batch, independent of any cut.

    `refused`: rows that are missing or left over, so that `read_batch` refuses the batch; `check`
    reports it. `silent` as for a `Mismatch`.
    """

    refused: bool = True
    silent: bool | None = False


class CountsByUnit(dict[str, Counts]):
    """Counts per unit; reading an undetermined one raises an error that says what to pass."""

    def __init__(self, counts: Mapping[str, Counts], ambiguities: Sequence[Ambiguity] = ()) -> None:
        super().__init__(counts)
        self._ambiguities = tuple(ambiguities)

    def __missing__(self, unit: str) -> Counts:
        for ambiguity in self._ambiguities:
            if unit == "ambiguous" or ambiguity.unit in (unit, HANGS_ON.get(unit, unit)):
                raise AmbiguousError(ambiguity.message)
        raise KeyError(f"{unit!r}: this batch counts {', '.join(self) or 'nothing'}")


@dataclass(frozen=True, eq=False)
class Batch:
    """One multimodal batch and its layout.

    Attributes:
        inputs: The tensors as they were given, by key.
        layout: What a row of each tensor counts.
        counts: Rows per sample of every unit: `counts["image"]` is `(2, 0, 1)`.
        spans: The tokens of each sample: a whole row of `input_ids`, or a part of a packed one.
        modalities: Always images, and video and audio if the batch has some, by name.
        per_image: Rows (by unit) and features (under `"feature"`) of each image, in order.
        unpadded: Whether a sample's mask may be left out: no token attends to one that it hides.
        ambiguities: What could not be determined.
        hidden: Tokens of each sample that `attention_mask` hides, but no padding; empty if unknown.
        unmasked: The same of padding tokens that no mask hides and that its text would attend to.
        behind: Padding behind the text of each sample; empty if not known, or there is a mask.
        behind_prompt: Tokens of each sample that are typed as its prompt but follow its end.
        before_prompt_ends: The same of a completion, in front of the end of its prompt.
        lost_masks: Masks of pixels that the processor returns and the batch lacks.
        marked: Placeholder tokens of each sample as keys of token types mark them, where known.
        known: Keys that some layout has; looking up one that is missing is no error.
        columns: Columns of tokens of each key that should have as many as `input_ids`.
        strays: Placeholder tokens of each sample for kinds of clips that the batch does not have.
        promised: Sums of the counts given for media that the batch does not have.
        lacks: Keys that the processor returns and the model takes, but the batch lacks.
    """

    inputs: Mapping[str, Any]
    layout: Layout
    counts: Mapping[str, Counts]
    spans: Spans
    modalities: Mapping[str, Modality] = field(default_factory=lambda: {"image": Modality("image")})
    per_image: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unpadded: tuple[bool, ...] | None = None
    ambiguities: tuple[Ambiguity, ...] = ()
    marked: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    hidden: tuple[int, ...] = ()
    unmasked: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()
    behind_prompt: tuple[int, ...] = ()
    before_prompt_ends: tuple[int, ...] = ()
    lost_masks: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()
    columns: Mapping[str, int] = field(default_factory=dict)
    strays: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    promised: Mapping[str, int] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.counts["sample"])

    def __repr__(self) -> str:
        held = ", ".join(
            f"{plural(unit)} per sample {list(count)}"
            for unit, count in self.counts.items()
            if unit != "sample"
        )
        more = "; ambiguous, see .ambiguities" if self.ambiguities else ""
        return f"Batch({self.layout.family}: {number(len(self), 'sample')}; {held or 'text'}{more})"

    def chunks(self, chunk_size: int) -> Iterator[dict[str, Any]]:
        """Yield the model inputs of each chunk of `chunk_size` samples, in order.

        A chunk owns its keys as well as its rows: if its samples have no images, it gets no image
        keys, unless the model accepts empty ones. The slices are views.

        Raises:
            AmbiguousError: The batch fits several layouts or counts.
            BadInput: `chunk_size` is not a whole number of 1 or more, or the batch is packed.
        """
        self.refuse_packed()
        self.refuse_ambiguity()
        return self._cut(chunk_bounds(len(self), chunk_size))

    def _cut(self, bounds: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
        whole, plain, counted = self._cuts
        for start, stop in bounds:
            chunk = {key: value[start:stop] for key, value in plain}
            for key, value, dim, offsets, needed in counted:
                if needed is None or needed[start] < needed[stop]:
                    rows = slice(offsets[start], offsets[stop])
                    chunk[key] = value[(slice(None),) * dim + (rows,)] if dim else value[rows]
            yield {**chunk, **whole} if whole else chunk

    @lazy
    def _cuts(self) -> tuple[dict[str, Any], list[Any], list[Any]]:
        """Keys passed whole, keys with one row per sample on dim 0, and all others."""
        whole, plain, counted = dict[str, Any](), list[Any](), list[Any]()
        for key, axis in self.layout.items():
            value = self.inputs[key]
            if axis.unit == "batch":
                whole[key] = value
            elif axis.unit == "sample" and axis.dim == 0 and key not in self.layout.media:
                plain.append((key, value))
            else:
                unit = self.layout.given_with(key)
                needed = None if unit is None else self.counts[unit].offsets
                counted.append((key, value, axis.dim, self.counts[axis.unit].offsets, needed))
        return whole, plain, counted

    @property
    def rules(self) -> ModelRules:
        """What the model does with a call."""
        return self.layout.rules

    @lazy
    def padded(self) -> frozenset[int] | None:
        """Samples that need their `attention_mask`; None if that is not known."""
        full = self.unpadded
        return None if full is None else frozenset(s for s, one in enumerate(full) if not one)

    @property
    def image(self) -> Modality:
        """The images of the batch and their placeholder tokens."""
        return self.modalities["image"]

    @lazy
    def of_key(self) -> dict[str, Modality]:
        """The modality of each media key."""
        return {key: one for one in self.modalities.values() for key in one.keys}

    @property
    def contradictions(self) -> list[Contradiction]:
        """The contradictions inside the batch."""
        return [one for one in self.ambiguities if isinstance(one, Contradiction)]

    @lazy
    def unsettled(self) -> dict[str, str]:
        """Keys that cannot be cut, and what to pass for each."""
        return {key: one.message for one in reversed(self.ambiguities) for key in one.keys}

    @lazy
    def token_dims(self) -> dict[str, int]:
        """The dimension along the columns of `input_ids`, for each key that has one."""
        found = {}
        for key, axis in self.layout.items():
            shape = [*getattr(self.inputs[key], "shape", ())]
            tokens = axis.unit == "sample" and key not in self.layout.media and len(shape) > 1
            if axis.columns or axis.unit == "token":
                found[key] = axis.dim + int(axis.columns)
            elif tokens and shape[-1] == self.inputs["input_ids"].shape[-1]:
                found[key] = len(shape) - 1
        return found

    def is_of_clips(self, key: str) -> bool:
        """Whether it is a key of videos or audio clips."""
        modality = self.of_key.get(key)
        return modality is not None and modality.name != "image"

    @property
    def token_ids(self) -> dict[str, int]:
        """Ids of the placeholder tokens by modality, as far as they are known."""
        ids = {name: one.token_id for name, one in self.modalities.items()}
        return {name: token for name, token in ids.items() if token is not None}

    def is_full(self, key: str, rows: Sequence[int]) -> bool:
        """Whether these rows of a mask hide no token; reads their values."""
        mask, axis = self.inputs[key], self.layout[key]
        counts = self.counts.get(axis.padded or "") if axis.unit == "sample" else None
        owned = (mask[row] if counts is None else mask[row][: counts[row]] for row in rows)
        return all(bool((one != 0).all()) for one in owned)

    def is_zero(self, key: str, rows: Sequence[int]) -> bool:
        """Whether these rows hold only zeros; reads their values."""
        return not any(bool((self.inputs[key][row] != 0).any()) for row in rows)

    def for_slicer(self) -> dict[str, Any]:
        """A new dict of the inputs as a slicer gets them.

        It has `num_images` and, if a tensor has one row per tile, `num_tiles` as lists per sample,
        as TRL's own batches do.
        """
        inputs = dict(self.inputs)
        cut_by = {"image", *(axis.unit for axis in self.layout.values())}
        for key, unit in BOOKKEEPING.items():
            if unit in cut_by and unit in self.counts:
                inputs[key] = list(self.counts[unit])
        return inputs

    def image_offsets(self, unit: str) -> Sequence[int] | None:
        """First row of each image in tensors that count `unit`; None where that is unknown."""
        if "image" not in self.counts or unit == "sample":
            return None
        if unit == "image":
            return range(self.counts["image"].total + 1)
        return self._offsets_per_image.get(unit)

    def rows_of_image(self, unit: str, image: int) -> tuple[int, int]:
        """Start and end of the rows of an image, numbered over the batch.

        Raises:
            KeyError: Rows of that unit are not counted per image.
        """
        offsets = self.image_offsets(unit)
        if offsets is None:
            raise KeyError(unit)
        return offsets[image], offsets[image + 1]

    @lazy
    def _offsets_per_image(self) -> dict[str, tuple[int, ...]]:
        return {unit: (0, *accumulate(rows)) for unit, rows in self.per_image.items()}

    @lazy
    def features_by_sample(self) -> dict[str, tuple[int, ...] | None]:
        """Features that the media rows of each sample become, by modality, if known."""
        found: dict[str, tuple[int, ...] | None] = {}
        for name, one in self.modalities.items():
            owned = self.counts.get(one.unit or "")
            found[name] = None if owned is None else one.features_by_sample(owned)
        if not self.image.keys and "image" in self.counts and not self.ambiguities:
            found["image"] = (0,) * len(self)  # no media key at all: nothing fills a placeholder
        return found

    @property
    def packed(self) -> Spans | None:
        """The tokens of each sample, if rows of `input_ids` hold several; None otherwise."""
        return self.spans if self.layout["input_ids"].unit == "token" else None

    def part(self, samples: Sequence[int]) -> Part:
        """What a call of these samples should process: all of their tokens."""
        return self.spans.part(samples)

    def tokens(self, key: str, sample: int) -> Any:
        """The values of one sample in a key of shape `(row, seq)`, such as `labels`: `(token,)`."""
        row, start, stop = self.spans[sample]
        return self.inputs[key][row][start:stop]

    def features_of(self, part: Part, modality: str = "image") -> int | None:
        """Features that the media rows of its samples become; None if that is not known."""
        return total(self.features_by_sample[modality], part.samples)

    def placeholders_of(self, part: Part, modality: str = "image") -> int | None:
        """Placeholder tokens of its samples; None if the placeholder id is not known."""
        return total(self.modalities[modality].placeholders, part.samples)

    def balance_of(self, part: Part, modality: str) -> tuple[int, int] | None:
        """Placeholder tokens and features of its samples; None if one of them is unknown."""
        written, made = self.placeholders_of(part, modality), self.features_of(part, modality)
        return None if written is None or made is None else (written, made)

    def refuse_packed(self) -> None:
        """Raise `BadInput` if a row of `input_ids` holds several samples: it cannot be cut yet."""
        if self.packed is not None:
            raise BadInput(_cannot_cut(len(self), self.counts["sample"].evidence))

    def refuse_ambiguity(self) -> None:
        """Raise `AmbiguousError` if some key cannot be cut."""
        blocking = [ambiguity for ambiguity in self.ambiguities if ambiguity.keys]
        if blocking:
            raise AmbiguousError("\n".join(ambiguity.message for ambiguity in blocking))


def _cannot_cut(samples: int, source: str) -> str:
    """What to do with a packed batch; `source` gives the samples."""
    return (
        f"The batch is packed: {samples} samples share rows of input_ids (see {source}), and "
        "packed rows cannot be cut yet. check(batch) judges them as they are. To cut chunks, pass "
        "the batch before packing (padding_free=False in TRL)."
    )
