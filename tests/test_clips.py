"""Real video and audio processors: read, cut, judged, exported, and held to the real tiny models."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest
import torch
from architectures import VARIABLE
from recorded import KINDS, RECORDERS, Recorder, built

import vlmdebug as vd
from vlmdebug import slicers

CLOSE = 1e-3
HERE = [
    recorder for recorder in RECORDERS.values() if recorder.torchvision == (VARIABLE in os.environ)
]
CASES = [(recorder, samples) for recorder in HERE for samples in recorder.batches]


def label(case):
    recorder, samples = case
    return f"{recorder.name} {'|'.join(samples)}"


@pytest.fixture(params=CASES, ids=label)
def case(request):
    return request.param


def read(recorder: Recorder, samples, side: str = "right") -> vd.Batch:
    model, processor = built(recorder.name)
    return vd.read_batch(recorder.inputs(samples, side), processor=processor, config=model.config)


def shuffled(rows: torch.Tensor, first: int, stop: int) -> torch.Tensor:
    """As many rows as `first:stop`, of others where there are others."""
    begin = stop if 2 * stop - first <= len(rows) else max(0, first - (stop - first))
    return rows[begin : begin + stop - first]


ROWS = {
    "of a neighbour": shuffled,
    "shifted by one": lambda t, a, b: t[min(a + 1, len(t)) : min(b + 1, len(t))],
    "one too many": lambda t, a, b: torch.cat([t[a:b], t[a : a + 1]]),
    "one too few": lambda t, a, b: t[a : b - 1],
    "reversed": lambda t, a, b: t[a:b].flip(0),
    "of the whole batch": lambda t, a, b: t,
    "none": lambda t, a, b: t[:0],
}


def sabotages(batch):
    """Every change of the rows of one modality, of its pixels or sounds alone, and of one key."""
    for name, modality in batch.modalities.items():
        keys = modality.keys
        groups = {f"{name}: all": keys, **{key: (key,) for key in keys}}
        if len(keys) == 1:
            groups.pop(f"{name}: all")
        for label, group in groups.items():
            for how, change in ROWS.items():
                yield f"{label} {how}", changed(batch, group, change)
            yield f"{label} left out", without(group)
    yield "video for audio", None


def changed(batch, keys, change):
    def sabotage(chunk, first, stop):
        for key in keys:
            unit = batch.layout[key].unit
            offsets = batch.counts[unit].offsets
            if key in chunk or change is ROWS["of the whole batch"] or change is ROWS["none"]:
                chunk[key] = change(batch.inputs[key], offsets[first], offsets[stop])
        return chunk

    return sabotage


def without(keys):
    def sabotage(chunk, first, stop):
        return {key: value for key, value in chunk.items() if key not in keys}

    return sabotage


def wrong(batch, sabotage):
    def slicer(inputs, chunk_size):
        for index, chunk in enumerate(batch.chunks(chunk_size)):
            first = index * chunk_size
            yield sabotage(dict(chunk), first, min(first + chunk_size, len(batch)))

    return slicer


def does(model, batch, chunk, first, whole):
    try:
        with torch.no_grad():
            logits = model(**chunk).logits
    except Exception:
        return "raises"
    for row, own in enumerate(logits):
        real = batch.inputs["attention_mask"][first + row].bool()
        if (own[real] - whole[first + row][real]).abs().max() > CLOSE:
            return "differs"
    return "same"


def test_keys_and_counts_are_those_the_processor_was_given(case):
    recorder, samples = case
    for side in ("right", "left"):
        batch = read(recorder, samples, side)
        here = {key: unit for key, unit in recorder.axes.items() if key in batch.inputs}

        assert {key: batch.layout[key].unit for key in here} == here
        assert not batch.ambiguities
        for letter, kind in KINDS.items():
            owned = [sample.count(letter) for sample in samples]
            if any(owned) and letter not in recorder.uncounted:
                assert list(batch.counts[kind]) == owned
        assert vd.check(batch).ok


def test_right_chunks_leave_the_logits_as_they_are(case):
    recorder, samples = case
    batch, model = read(recorder, samples), built(recorder.name)[0]
    exported = vd.export(batch).function
    for chunk_size in range(1, len(samples) + 1):
        for slicer in (lambda _, size: batch.chunks(size), exported):
            assert vd.check(slicer, batch, chunk_size=chunk_size).ok
            proof = vd.prove(slicer, batch, model, chunk_size=chunk_size)
            assert proof.ok, proof
    for chunk, planned in zip(exported(dict(batch.inputs), 1), batch.chunks(1), strict=True):
        assert chunk.keys() == planned.keys()
        assert all(
            torch.equal(torch.as_tensor(chunk[k]), torch.as_tensor(v)) for k, v in planned.items()
        )


def test_model_raises_where_check_says_loud_and_runs_where_it_says_silent(case):
    recorder, samples = case
    batch, model = read(recorder, samples), built(recorder.name)[0]
    with torch.no_grad():
        whole = torch.cat([model(**chunk).logits for chunk in batch.chunks(1)])
    judged, bad = Counter(), []
    for name, sabotage in sabotages(batch):
        if sabotage is None:
            continue
        for chunk_size in (1, 2):
            slicer = wrong(batch, sabotage)
            report = vd.check(slicer, batch, chunk_size=chunk_size)
            for index, chunk in enumerate(slicer(None, chunk_size)):
                found = [m for m in report.mismatches if m.chunk == index]
                did = does(model, batch, chunk, index * chunk_size, whole)
                said = {m.silent for m in found}
                where = (name, chunk_size, index, did, [(m.code, m.key, m.silent) for m in found])
                judged["unknown" if None in said else "told"] += bool(found)
                if not (found or did == "same"):
                    bad.append(("SILENCE", where))
                elif not (None in said or not found or (False in said) == (did == "raises")):
                    bad.append(("LOUDNESS", where))
                elif None in said:
                    judged["unknown " + did] += 1
                    bad.append(("unknown", where)) if os.environ.get("SHOW") else None
    print(label(case), dict(judged))
    for one in bad:
        print("  ", one)
    assert not [b for b in bad if b[0] != "unknown"]
