"""Code that packs, one right way and twelve wrong ones, and what the tiny model says to each call.

The slices of single samples are `batch.chunks(1)`; M-RoPE's positions are those of the model itself
(`get_rope_index`). `flash` computes attention as flash-attention would by `cu_seq_lens_q`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

import vlmdebug as vd
from vlmdebug.core.batch import Batch

Inputs = dict[str, Any]
ORDER = (2, 0, 1)
IGNORED = -100

WRONG = {
    "no positions": "VLM014",
    "positions run on": "VLM014",
    "no text plane": "VLM014",
    "one plane": "VLM014",
    "images in batch order": "VLM002",
    "an image lost": "VLM001",
    "seam off by one": "VLM014",
    "labels across a seam": "VLM013",
    "padding left in": "VLM015",
    "ends of the padded row": "VLM015",
    "media of another sample": "VLM002",
    "a sample twice": "VLM006",
}
"""The twelve wrong packers, and the code of the finding that each must give."""
OF_MROPE = {"no text plane", "one plane"}


class Labs(dict):
    """`labs["llava"]`: what `make("llava")` gives, made once."""

    def __init__(self, make):
        super().__init__()
        self._make = make

    def __missing__(self, family):
        self[family] = self._make(family)
        return self[family]


SAME = 1e-4
"""Far above rounding, which is 1e-6 here, and far below any other difference, which is 1e-2."""


def codes(report):
    """Codes of what a report finds."""
    return {finding.code for finding in report.findings}


def labs_of(built):
    """`labs["llava"]`: a batch of that family and its packers, made once."""

    def lab(family):
        model, processor = built[family]
        return Lab(model, processor, vd.tiny.batch(family, images_per_sample=[2, 0, 1], seed=0))

    return Labs(lab)


def attending(lab, name):
    """The batch with the config of a model that has this kind of attention."""
    config = deepcopy(lab.model.config)
    for one in (config, config.get_text_config()):
        one._attn_implementation_internal = name
    return vd.read_batch(lab.inputs, processor=lab.processor, config=config)


@dataclass
class Lab:
    """One tiny model, a batch of three samples with 2, 0 and 1 images, and its packers."""

    model: Any
    processor: Any
    inputs: Mapping[str, Any]

    @cached_property
    def batch(self) -> Batch:
        return vd.read_batch(self.inputs, processor=self.processor, config=self.model.config)

    @cached_property
    def parts(self) -> list[Inputs]:
        """The call of each sample alone, without padding and mask."""
        return [unpadded(chunk) for chunk in self.batch.chunks(1)]

    @cached_property
    def places(self) -> list[torch.Tensor]:
        """`position_ids` of each sample alone: `(seq,)`, or `(4, seq)` for M-RoPE."""
        base = getattr(self.model, "model", self.model)
        index = getattr(base, "get_rope_index", None)
        found = []
        for part in self.parts:
            order = torch.arange(part["input_ids"].shape[1])
            if index is not None:
                names = inspect.signature(index).parameters
                told = {**part, "attention_mask": torch.ones_like(part["input_ids"])}
                given = {n: told.get(n) for n in names if n in told or "grid" in n}
                order = torch.cat([order[None], index(**given)[0][:, 0]])
            found.append(order)
        return found

    @property
    def mrope(self) -> bool:
        return self.places[0].ndim == 2

    @cached_property
    def alone(self) -> list[torch.Tensor]:
        """The logits of each sample alone, `(seq, vocab)`."""
        with torch.no_grad():
            ones = [torch.ones_like(part["input_ids"]) for part in self.parts]
            calls = [{**p, "attention_mask": o} for p, o in zip(self.parts, ones, strict=True)]
            return [self.model(**call, use_cache=False).logits[0] for call in calls]

    def packed(self, wrong: str = "", order: Sequence[int] = ORDER) -> Inputs:
        """One packed row of these samples; `wrong`: a key of `WRONG`."""
        order = [*order, order[0]] if wrong == "a sample twice" else [*order]
        parts = [self.parts[sample] for sample in order]
        media = [self._media(sample, wrong) for sample in order]
        if wrong == "images in batch order":
            media = [self._media(sample, wrong) for sample in sorted(order)]
        lengths = [part["input_ids"].shape[1] for part in parts]
        call: Inputs = {
            key: torch.cat([part[key] for part in parts], 1)
            for key in parts[0]
            if key in along_tokens(parts[0])
        }
        for key in dict.fromkeys(key for one in media for key in one):
            rows = [one[key] for one in media if key in one]
            call[key] = torch.cat(rows, 0)
        call["labels"] = self._labels(call["input_ids"], lengths, wrong)
        places = torch.cat([self.places[sample] for sample in order], -1)
        call["position_ids"] = places[:, None] if self.mrope else places[None]
        call |= flash_arguments(lengths)
        return self._broken(call, wrong, lengths)

    def _media(self, sample: int, wrong: str) -> Inputs:
        part = self.parts[sample]
        found = {key: value for key, value in part.items() if key not in along_tokens(part)}
        if wrong == "media of another sample" and sample == 2:
            other = self.parts[0]
            found = {key: value[: len(found[key])] for key, value in other.items() if key in found}
        return found

    def _labels(self, ids: torch.Tensor, lengths: Sequence[int], wrong: str) -> torch.Tensor:
        labels = ids.clone()
        for token in self.batch.token_ids.values():
            labels[labels == token] = IGNORED
        if wrong != "labels across a seam":
            labels[0, [0, *torch.tensor(lengths[:-1]).cumsum(0).tolist()]] = IGNORED
        return labels

    def _broken(self, call: Inputs, wrong: str, lengths: Sequence[int]) -> Inputs:
        """The call after what is done to all of it."""
        total, second = sum(lengths), lengths[0]
        if wrong in ("no positions", "positions run on", "no text plane", "one plane"):
            call = {key: one for key, one in call.items() if not key.startswith(("cu_", "max_"))}
        positions = call["position_ids"]
        if wrong == "no positions":
            del call["position_ids"]
        elif wrong == "positions run on":
            on = torch.arange(total)[None]
            call["position_ids"] = torch.cat([on[None], positions[1:]]) if self.mrope else on
        elif wrong == "no text plane":
            call["position_ids"] = positions[1:]
        elif wrong == "one plane":
            call["position_ids"] = positions[0]
        elif wrong == "seam off by one":
            moved = positions.clone()
            moved[..., second] = moved[..., second - 1] + 1
            moved[..., second + 1 : second + lengths[1]] -= 1
            call["position_ids"] = moved
        elif wrong == "ends of the padded row":
            wide = max(lengths)
            call |= flash_arguments([wide] * len(lengths))
        elif wrong == "padding left in":
            call = self._with_padding(call, second)
        elif wrong == "an image lost":
            call = self._without_image(call)
        return call

    def _with_padding(self, call: Inputs, at: int, size: int = 3) -> Inputs:
        """Tokens of padding in front of the second sample, which counts them as its own."""
        pad = int(self.inputs["input_ids"][1][self.inputs["attention_mask"][1] == 0][0])
        fill = {"input_ids": pad, "labels": IGNORED}
        wide, found = call["input_ids"].shape[1], dict(call)
        for key, value in call.items():
            if getattr(value, "ndim", 0) in (2, 3) and value.shape[-1] == wide:
                shape = (*value.shape[:-1], size)
                inner = torch.full(shape, fill.get(key, 0), dtype=value.dtype)
                found[key] = torch.cat([value[..., :at], inner, value[..., at:]], -1)
        places = found["position_ids"]
        places[..., at : at + size] = torch.arange(size)
        stop = at + size + self.parts[ORDER[1]]["input_ids"].shape[1]
        places[..., at + size : stop] += size
        ends = found["cu_seq_lens_q"]
        ends[2:] += size
        longest = int(ends.diff().max())
        return found | {"cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}

    def _without_image(self, call: Inputs) -> Inputs:
        """The last image is lost, in every key of media."""
        last, found = self.batch.counts["image"].total - 1, dict(call)
        for key, axis in self.batch.layout.items():
            if key in self.batch.layout.media and key in call:
                rows = self.batch.image_offsets(axis.unit)
                lost = 1 if rows is None else rows[last + 1] - rows[last]
                found[key] = call[key][:-lost] if axis.unit != "sample" else call[key][:-1]
        return found

    def packer(self, wrong: str = "", order: Sequence[int] = ORDER):
        """The packer as a slicer."""

        def pack(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
            yield self.packed(wrong, order)

        return pack

    def run(self, call: Inputs) -> torch.Tensor:
        """The logits of a call, `(seq, vocab)`, with the default attention."""
        keys = call.keys() - {"labels", "cu_seq_lens_q", "cu_seq_lens_k"}
        keys = {key for key in keys if not key.startswith("max_length")}
        with torch.no_grad():
            return self.model(**{key: call[key] for key in keys}, use_cache=False).logits[0]

    def flash(self, call: Inputs) -> torch.Tensor:
        """The logits as flash-attention would compute them by `cu_seq_lens_q`."""
        total = call["input_ids"].shape[1]
        index = torch.bucketize(torch.arange(total), call["cu_seq_lens_q"][1:].long(), right=True)
        same = index[:, None] == index[None]
        mask = (same & torch.ones(total, total, dtype=torch.bool).tril())[None, None]
        return self.run({**call, "attention_mask": mask})

    def off(self, logits: torch.Tensor, order: Sequence[int] = ORDER, at: Sequence[int] = ()):
        """The largest difference to the samples alone; `at`: where each begins."""
        begins = at or [0, *torch.tensor([len(self.alone[s]) for s in order]).cumsum(0).tolist()]
        pairs = zip(order, begins, strict=False)
        return max(
            float((logits[begin:][: len(self.alone[s])] - self.alone[s]).abs().max())
            for s, begin in pairs
        )


def unpadded(chunk: Mapping[str, Any]) -> Inputs:
    """A chunk of one sample without its padding and mask."""
    keep = chunk["attention_mask"][0].bool()
    tokens = along_tokens(chunk)
    found = {key: one[:, keep] if key in tokens else one for key, one in chunk.items()}
    return {key: one for key, one in found.items() if key != "attention_mask"}


def along_tokens(call: Mapping[str, Any]) -> set[str]:
    """Keys of the shape of `input_ids`."""
    shape = call["input_ids"].shape
    return {key for key, one in call.items() if getattr(one, "shape", None) == shape}


def flash_arguments(lengths: Sequence[int]) -> Inputs:
    """What flash-attention needs to know of the samples of a row."""
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    longest = max(lengths)
    return {
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }
