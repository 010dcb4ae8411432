"""One trial: what `check` says of a slicer or a batch, and what is true.

A pair is a batch and a slicer that cuts it correctly but for one mutation. The values say whether
anything was changed; where something was, the real tiny model says whether that matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from architectures import UNMARKED

import vlmdebug as vd
from differential.faults import Fault
from differential.mutations import (
    CHUNKS,
    KEYS,
    OF_ONE_KEY,
    ROWS,
    Chunk,
    Mutation,
    OfChunks,
    OfKeys,
    Place,
)
from differential.sound import Sound, run
from vlmdebug.errors import VlmDebugError

RAISES, DIFFERS, SAME, UNKNOWN = "raises", "differs", "the same", "unknown"
WRONG = "not asked, the values are wrong"


@dataclass(frozen=True)
class Outcome:
    """What came of one trial.

    Attributes:
        what: Batch and mutation, in words that tell how to do it again.
        verdict: `OK`, `MISMATCH`, `AMBIGUOUS`, or the exception that came.
        truth: What the model does: `raises`, `differs`, `the same`, `unknown`.
        changed: Whether what was handed over has other values than it should.
        fault: What is wrong with the verdict; empty where nothing is.
        said: The first finding.
    """

    what: str
    verdict: str
    truth: str
    changed: bool
    fault: str = ""
    said: str = ""

    def __str__(self) -> str:
        truth = f"{self.verdict} | model {self.truth}"
        return f"{self.fault or 'right'}: {self.what} | {truth} | {self.said}"


# --- slicers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A batch, how it is cut, and what is done to which chunk."""

    sound: Sound
    chunk_size: int
    mutation: Mutation | OfKeys | OfChunks
    key: str
    at: int
    order: tuple[int, ...]

    def __str__(self) -> str:
        where = "" if isinstance(self.mutation, OfChunks) else f" of {self.key} in chunk {self.at}"
        tokens = self.sound.inputs["input_ids"].shape[1]
        batch = f"{self.sound.family} {list(self.sound.images)} ({tokens} tokens)"
        return f"{batch}, size {self.chunk_size}: {self.mutation}{where}"

    def chunk(self, inputs: Mapping[str, Any], number: int) -> Chunk | None:
        """The chunk of that number as the slicer gives it; None where nothing can be changed."""
        samples = self.sound.chunks(self.chunk_size)[number]
        chunk = self.sound.chunk(samples, inputs)
        if number != self.at or isinstance(self.mutation, OfChunks):
            return chunk
        place = Place(self.sound, samples, self.key, inputs)
        if isinstance(self.mutation, OfKeys):
            return self.mutation.change(chunk, place)
        if self.key not in chunk:
            return None
        value = self.mutation.change(chunk[self.key], place)
        return None if value is None else {**chunk, self.key: value}

    def slicer(self, inputs: Mapping[str, Any], chunk_size: int) -> Iterator[Chunk]:
        for number in self.order:
            chunk = self.chunk(inputs, number)
            assert chunk is not None
            yield chunk


def drawn(sounds: Sequence[Sound], dice: Random) -> Pair:
    """A pair whose mutation applies."""
    while True:
        sound = dice.choice(sounds)
        size = dice.randint(1, len(sound.images))
        total = len(sound.chunks(size))
        mutation = dice.choice(
            (
                dice.choice(OF_ONE_KEY),
                *([dice.choice(OF_ONE_KEY)] * 4),
                dice.choice(KEYS),
                dice.choice(CHUNKS),
            )
        )
        order = mutation.change(total, dice) if isinstance(mutation, OfChunks) else range(total)
        key = dice.choice(_keys(sound, mutation))
        if order is None:
            continue
        pair = Pair(sound, size, mutation, key, dice.randrange(total), tuple(order))
        try:
            if pair.chunk(sound.inputs, pair.at) is not None:
                return pair
        except (RuntimeError, IndexError, TypeError, ValueError):
            continue  # torch refuses to do that to this tensor


def _keys(sound: Sound, mutation: Any) -> list[str]:
    if not isinstance(mutation, Mutation):
        return [*sound.inputs]
    return [
        key for key in sound.inputs if (mutation.media if key in sound.media else mutation.tokens)
    ] or [*sound.inputs]


def tried(pair: Pair, batch: Any) -> Outcome:
    """The verdict on a pair, and what is true of it."""
    chunks = [pair.chunk(pair.sound.inputs, number) for number in pair.order]
    changed = _is_changed(pair, chunks)
    try:
        report = vd.check(pair.slicer, batch, chunk_size=pair.chunk_size, pictures=False)
    except VlmDebugError as error:
        return Outcome(
            str(pair),
            type(error).__name__,
            UNKNOWN,
            changed,
            "" if changed else "false alarm",
            str(error),
        )
    except Exception as error:
        return Outcome(
            str(pair), type(error).__name__, UNKNOWN, changed, "foreign exception", str(error)[:200]
        )
    said = "; ".join(f"{f.code} {f.loudness}: {f.message.splitlines()[0]}" for f in report.findings)
    said = said or " ".join(map(str, report.ambiguities))
    truth = _truth(pair, chunks) if changed else SAME
    outcome = Outcome(str(pair), str(report.verdict), truth, changed, said=said[:400])
    return replace(outcome, fault=_fault(pair, report, outcome))


def _fault(pair: Pair, report: Any, outcome: Outcome) -> str:
    verdict, truth = outcome.verdict, outcome.truth
    if not outcome.changed:
        if pair.mutation in ROWS and verdict == "MISMATCH":
            return ""  # other rows of equal values: harmless there, and cut wrongly all the same
        doubts = [str(one) for one in report.ambiguities]
        if doubts and all(one.startswith(pair.sound.unknown) for one in doubts):
            return ""  # of the batch itself, whoever cuts it
        return {"OK": "", "MISMATCH": "false alarm"}.get(verdict, "false doubt")
    if verdict == "OK" and truth in (RAISES, DIFFERS, WRONG):
        return "missed"
    if (
        verdict == "MISMATCH"
        and truth in (RAISES, SAME, DIFFERS)
        and not isinstance(pair.mutation, OfChunks)
    ):
        silent = {mismatch.silent for mismatch in report.mismatches}
        if (silent == {True} and truth == RAISES) or (silent == {False} and truth != RAISES):
            return "wrong loudness"
    return ""


def _is_changed(pair: Pair, chunks: Sequence[Chunk | None]) -> bool:
    """Whether some chunk has other keys or values than a right one, or they come otherwise."""
    sizes = pair.sound.chunks(pair.chunk_size)
    if list(pair.order) != list(range(len(sizes))):
        return True
    for number, chunk in zip(pair.order, chunks, strict=True):
        right = pair.sound.chunk(sizes[number])
        assert chunk is not None
        given = {key: value for key, value in chunk.items() if key in pair.sound.inputs}
        extra = chunk.keys() - given.keys() - HARMLESS_KEYS
        if extra or given.keys() != right.keys():
            return True
        if not all(_alike(given[key], right[key]) for key in right):
            return True
    return False


HARMLESS_KEYS = {"advantages", "use_cache"}


def _alike(given: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether values and kind of numbers are the same, but for rounding to 16 bits."""
    if given.shape != right.shape or given.is_floating_point() != right.is_floating_point():
        return False
    if not right.is_floating_point():
        return given.dtype == right.dtype and torch.equal(given, right)
    precisions = (torch.float32, torch.float16, torch.bfloat16)
    return any(torch.equal(given.float(), right.to(one).float()) for one in precisions)


def _truth(pair: Pair, chunks: Sequence[Chunk | None]) -> str:
    """What the model makes of the chunks."""
    sizes = pair.sound.chunks(pair.chunk_size)
    if isinstance(pair.mutation, OfChunks):
        return SAME if list(pair.order) == list(range(len(sizes))) else DIFFERS
    chunk = chunks[pair.at]
    assert chunk is not None
    if pair.sound.model is None:
        return _by_values(pair, chunk)
    return of_chunk(pair.sound, sizes[pair.at], chunk)


PIXELS = ("pixel_values", "pixel_values_videos", "input_features")


def _by_values(pair: Pair, chunk: Chunk) -> str:
    """What is certain without a model: a chunk with other media than its samples' own is wrong."""
    if not isinstance(pair.mutation, Mutation):
        return UNKNOWN
    right = pair.sound.chunk(pair.sound.chunks(pair.chunk_size)[pair.at])[pair.key]
    given = chunk[pair.key]
    if given.shape == right.shape:
        off = given.double() != right.double()
        if pair.key == "input_ids" and off.shape == chunk["attention_mask"].shape:
            off &= chunk["attention_mask"].bool()  # what is hidden may hold anything
        if not off.any():
            return UNKNOWN  # in another precision, or of padding
    media = pair.key in pair.sound.media and pair.mutation in ROWS
    return WRONG if media or pair.key in PIXELS or pair.key == "input_ids" else UNKNOWN


def of_chunk(sound: Sound, samples: range, chunk: Chunk) -> str:
    """What the model makes of one chunk that should hold these samples."""
    inputs = {key: value for key, value in chunk.items() if key != "advantages"}
    try:
        logits = run(sound.model, inputs)
    except Exception:
        return RAISES
    theirs = sound.logits[samples.start : samples.stop]
    if logits.shape != theirs.shape:
        return UNKNOWN if logits.shape[0] == theirs.shape[0] else DIFFERS
    real = sound.real[samples.start : samples.stop]
    if not real.any():
        return SAME
    off = (logits - theirs)[real].abs().max()
    scale = max(1.0, float(theirs.abs().max()))
    return SAME if bool(off <= 1e-4 * scale) else DIFFERS


# --- whole batches ---------------------------------------------------------------------------

LABELS = ("labels shifted", "labels short", "labels of placeholders")
"""Faults that show in no logits: the loss alone is wrong."""


def tried_alone(source: Sound, fault: Fault, dice: Random) -> Outcome | None:
    """The verdict on a faulty batch, and what the model makes of it; None if nothing was."""
    inputs = fault.change(source, dice)
    if inputs is None:
        return None
    reading, how = _reading(source, dice, by_config=fault.by_config)
    what = f"{source.family} {list(source.images)}: {fault}, {how}"
    try:
        report = vd.check(inputs, pictures=False, **reading)
        verdict = str(report.verdict)
        said = "; ".join(
            f"{f.code} {f.loudness}: {f.message.splitlines()[0]}" for f in report.findings
        )
        said = (
            said
            or " ".join(map(str, report.ambiguities))
            or _not_compared(report, source.inputs, inputs)
        )
    except VlmDebugError as error:
        verdict, said = type(error).__name__, str(error)
    except Exception as error:
        return Outcome(
            what, type(error).__name__, UNKNOWN, True, "foreign exception", str(error)[:200]
        )
    truth = SAME if fault.harmless else _truth_alone(source, inputs)
    if fault.name in LABELS:
        truth = DIFFERS
    wrong = verdict == "OK" and truth in (RAISES, DIFFERS)
    alarm = fault.harmless and verdict != "OK"
    doubt = "false doubt" if verdict == "AMBIGUOUS" else "false alarm"
    name = "missed" if wrong else doubt if alarm else ""
    return Outcome(what, verdict, truth, not fault.harmless, name, said[:400])


def _not_compared(report: Any, right: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The changed keys, if the report names all of them as not compared."""
    left = {one.what for one in report.compared if one.against is None and not one.beyond}
    changed = {
        key
        for key in right.keys() | given.keys()
        if key not in right or key not in given or not _alike(given[key], right[key])
    }
    return f"not compared: {', '.join(sorted(changed))}" if changed and changed <= left else ""


def _reading(source: Sound, dice: Random, *, by_config: bool) -> tuple[dict[str, Any], str]:
    """What `check` is told of the batch."""
    given: dict[str, Any] = {}
    ways = ("config", "both") if by_config else ("processor", "config", "both")
    if source.family in UNMARKED:
        ways = ("both",) if by_config else ("processor", "both")
    how = dice.choice(ways)
    if how != "config":
        given["processor"] = source.processor
    if how != "processor":
        given["config"] = source.model.config
    if dice.random() < 0.4:
        given["num_images"] = list(source.images)
        how += " and num_images"
    return given, how


def _truth_alone(source: Sound, inputs: Mapping[str, Any]) -> str:
    try:
        logits = run(source.model, inputs)
    except Exception:
        return RAISES
    if logits.shape != source.logits.shape:
        return DIFFERS
    off = (logits - source.logits)[source.real].abs().max()
    return SAME if bool(off <= 1e-4 * max(1.0, float(source.logits.abs().max()))) else DIFFERS
