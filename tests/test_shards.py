"""Slicers that split the tokens of chunks over ranks, judged next to the tiny real model."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from architectures import REFUSES_TEXT, architectures
from packers import SAME, Lab, Labs, codes
from sharders import (
    IGNORED,
    WAYS,
    WRONG,
    ShardLab,
    each,
    halve_pixels,
    part,
    shift_on_rank,
    shifted,
    whole_on_each,
)

import vlmdebug as vd
from vlmdebug.families import FAMILIES as LAYOUTS
from vlmdebug.testing import assert_slices
from vlmdebug.tracking.orders import zigzags_of_samples

FAMILIES = [one for one in architectures() if one not in REFUSES_TEXT]
FEW = ["llava", "qwen2_5_vl", "idefics3", "internvl"]
BY_SAMPLE = {"idefics3", "smolvlm", "idefics2", "mllama", "granite_docling"}
"""Layouts with a row of pixels per sample: which rank needs which of them is not known."""


@pytest.fixture(scope="module")
def labs(built):
    """`labs["llava"]`: a batch of that family with labels and positions, built once."""
    return Labs(lambda family: ShardLab(*built[family], family=family))


@pytest.fixture(scope="module")
def packs(built):
    """`packs["llava"]`: a batch of that family and its packers, built once."""
    images = [2, 0, 1]
    return Labs(lambda f: Lab(*built[f], vd.tiny.batch(f, images_per_sample=images, seed=0)))


# --- right and wrong ways ------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_right_ways_pass(family, way, labs):
    lab = labs[family]
    for ranks, chunk_size in ((2, 1), (3, 3)):
        report = vd.check(lab.sharder(ranks, way), lab.batch, chunk_size=chunk_size)

        assert report.ok, str(report)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_wrong_way_falls_with_its_code(family, labs):
    lab = labs[family]
    for name, (change, code, shift) in WRONG.items():
        divided = change is halve_pixels
        if divided and family in BY_SAMPLE:
            continue
        slicer = lab.sharder(2, shift=shift, embedded=not divided, change=change)
        report = vd.check(slicer, lab.batch, chunk_size=3)

        if shift or learns_first_token_of_rank(lab):
            assert code in codes(report), (name, str(report))
        else:
            assert report.ok, (name, str(report))


def learns_first_token_of_rank(lab):
    """Whether some sample learns the first token of rank 1 of two."""
    labels = part(lab.batch.inputs["labels"], "labels", 1, 1, 2, "contiguous")
    return bool((labels[:, 0] != IGNORED).any())


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("way", WAYS)
def test_the_model_agrees_with_right_ways(family, way, labs):
    lab = labs[family]
    proof = vd.prove(lab.sharder(2, way), lab.batch, lab.model, chunk_size=3)

    assert proof.ok, str(proof)
    assert proof.max_abs_diff < SAME
    assert len(proof.losses) == 1
    for loss in proof.losses:
        assert loss.samples == (0, 1, 2)
        assert loss.whole == pytest.approx(loss.ranks, abs=loss.tolerance)
        assert 0 < loss.gradient_tolerance < 1e-2


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("wrong", [one for one in WRONG if WRONG[one][0] is not halve_pixels])
def test_the_model_agrees_with_each_finding(family, wrong, labs):
    change, _, shift = WRONG[wrong]
    lab = labs[family]
    slicer = lab.sharder(2, shift=shift, change=change)

    assert not vd.prove(slicer, lab.batch, lab.model, chunk_size=3).ok


# --- no positions --------------------------------------------------------------------------------


def whole_on_a_rank(lab, *, last=False, embedded=False):
    """Each sample on one of two ranks; the other has padding alone. No positions are given."""
    tokens = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")

    def slicer(inputs, chunk_size):
        for call in lab.batch.chunks(chunk_size):
            whole = {k: v for k, v in call.items() if k not in ("labels", "position_ids")}
            empty = {k: torch.zeros_like(v) for k, v in whole.items() if k in tokens}
            yield from (empty, whole) if last else (whole, empty)

    slicer.shards, slicer.embedded = 2, embedded
    return slicer


@pytest.mark.parametrize("family", ["llava", "internvl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
@pytest.mark.parametrize("last", [False, True], ids=["on the first", "on the last"])
def test_rank_with_a_whole_sample_lays_it_out_itself(family, last, labs):
    lab = labs[family]
    slicer = whole_on_a_rank(lab, last=last)

    assert vd.check(slicer, lab.batch, chunk_size=1).ok
    assert vd.prove(slicer, lab.batch, lab.model, chunk_size=1).ok


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_vectors_of_images_have_no_planes_without_positions(family, labs):
    lab = labs[family]
    slicer = whole_on_a_rank(lab, embedded=True)
    report = vd.check(slicer, lab.batch, chunk_size=1)
    right = family == "llava"

    assert codes(report) == (set() if right else {"VLM014"})
    assert vd.prove(slicer, lab.batch, lab.model, chunk_size=1).ok == right


# --- media ---------------------------------------------------------------------------------------


def own_media(lab, change=lambda calls: calls):
    """A slicer of one sample with two images: each rank has the tokens and pixels of one."""
    batch = lab.batch
    begin = batch.image.places[0][1][0]

    def shard(inputs, chunk_size):
        for sample, call in enumerate(map(shifted, batch.chunks(1))):
            ranges = ((0, begin), (begin, None)) if sample == 0 else ((0, None), (None, 0))
            ranks = []
            for rank, (start, stop) in enumerate(ranges):
                tokens = {k: v[..., start:stop] for k, v in call.items() if k in TOKENS}
                ranks.append(tokens | media_of(call, sample, rank))
            yield from change(ranks) if sample == 0 else ranks

    def media_of(call, sample, rank):
        rows = {}
        for key in batch.layout.media:
            offsets = batch.image_offsets(batch.layout[key].unit)
            if sample == 0:
                first = offsets[0]
                rows[key] = call[key][offsets[rank] - first : offsets[rank + 1] - first]
            elif rank == 0 and key in call:
                rows[key] = call[key]
        return rows

    shard.shards = 2
    return shard


TOKENS = {"input_ids", "attention_mask", "position_ids", "mm_token_type_ids", "shift_labels"}


def swap(key):
    def change(calls):
        return [{**one, key: other[key]} for one, other in zip(calls, calls[::-1], strict=True)]

    return change


def without(key):
    return lambda calls: [calls[0], {k: v for k, v in calls[1].items() if k != key}]


def one_row_less(calls):
    return [calls[0], {**calls[1], "pixel_values": calls[1]["pixel_values"][:-1]}]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl", "lighton_ocr"])
def test_each_rank_may_have_just_the_images_of_its_tokens(family, labs):
    lab = labs[family]
    report = vd.check(own_media(lab), lab.batch)

    assert report.ok, str(report)
    assert vd.prove(own_media(lab), lab.batch, lab.model).ok


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (swap("pixel_values"), "VLM002"),
        (without("pixel_values"), "VLM003"),
        (one_row_less, "VLM001"),
    ],
)
def test_images_of_another_rank_are_named(change, code, labs):
    lab = labs["llava"]
    report = vd.check(own_media(lab, change), lab.batch)

    assert codes(report) == {code}, str(report)
    assert not vd.prove(own_media(lab, change), lab.batch, lab.model).ok


@pytest.mark.parametrize("embedded", [True, False])
def test_images_of_samples_with_equal_texts_are_told_apart(embedded, built):
    model, processor = built["llava"]
    inputs = dict(vd.tiny.batch("llava", images_per_sample=[1, 1], seed=0))
    for key in ("input_ids", "attention_mask"):
        inputs[key] = inputs[key][:1].repeat(2, 1)
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    behind = batch.image.places[0][0][1]  # all placeholder tokens are on rank 0

    def slicer(change=lambda pixels: pixels):
        def shard(_, chunk_size):
            for call in batch.chunks(chunk_size):
                ids, mask = call["input_ids"], call["attention_mask"]
                places = mask.cumsum(1) - 1
                own = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
                pixels = {"pixel_values": change(call["pixel_values"])}
                yield {k: v[:, :behind] for k, v in own.items()} | pixels
                yield {k: v[:, behind:] for k, v in own.items()}

        shard.shards, shard.embedded = 2, embedded
        return shard

    assert vd.check(slicer(), batch, chunk_size=2).ok
    assert vd.prove(slicer(), batch, model, chunk_size=2).ok
    assert codes(vd.check(slicer(lambda p: p[:1]), batch, chunk_size=2)) == {"VLM001"}
    assert codes(vd.check(slicer(lambda p: p.flip(0)), batch, chunk_size=2)) == {"VLM007"}
    assert codes(vd.check(slicer(lambda p: p[:1].repeat(2, 1, 1, 1)), batch, chunk_size=2)) == {
        "VLM006"
    }


def test_ranks_of_a_packed_row_may_have_just_their_images_in_its_order(built):
    lab = Lab(*built["llava"], vd.tiny.batch("llava", images_per_sample=[2, 0, 1], seed=0))
    row = lab.packed()  # samples 2, 0 and 1: images 2, 0 and 1 of the batch
    cut = int(lab.batch.inputs["attention_mask"][2].sum())  # behind sample 2

    def slicer(pixels):
        def shard(_, chunk_size):
            for rank, (start, stop) in enumerate(((0, cut), (cut, row["input_ids"].shape[1]))):
                own = {k: row[k][..., start:stop] for k in ("input_ids", "position_ids")}
                yield {**own, "pixel_values": pixels[rank]}

        shard.shards = 2
        return shard

    first, second = row["pixel_values"][:1], row["pixel_values"][1:]
    right = vd.check(slicer([first, second]), lab.batch, chunk_size=3)

    assert right.ok, str(right)
    wrong = vd.check(slicer([first, second.flip(0)]), lab.batch, chunk_size=3)
    assert codes(wrong) == {"VLM002"}, str(wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_media_and_some_placeholders_are_right_only_if_embedded_before(family, labs):
    lab = labs[family]
    report = vd.check(lab.sharder(2, embedded=False), lab.batch, chunk_size=3)

    if family == "mllama":  # it attends to images, and compares no tokens
        assert report.ok
        return
    assert report.verdict == "AMBIGUOUS"
    (text,) = report.ambiguities
    assert "slicer.embedded = True" in text
    assert "it has " in text and "placeholder tokens of " in text
    token, whole = lab.batch.image.token_id, sum(lab.batch.image.placeholders)
    for call in lab.sharder(2)(lab.batch.inputs, 3):
        call.pop("shift_labels")
        if (call["input_ids"] == token).sum() != whole:
            with pytest.raises(ValueError, match="tokens do not match"), torch.no_grad():
                lab.model(**call)


def test_ranks_without_any_media_are_not_ok(labs):
    lab = labs["llava"]

    def drop(rank, call):
        return {key: value for key, value in call.items() if key != "pixel_values"}

    embedded = vd.check(lab.sharder(change=each(drop)), lab.batch)
    not_embedded = vd.check(lab.sharder(change=each(drop), embedded=False), lab.batch)

    assert embedded.verdict == "AMBIGUOUS"
    assert "No rank has pixel_values" in embedded.ambiguities[0]
    assert codes(not_embedded) == {"VLM003"}


def test_ranks_may_share_the_images_if_tokens_are_embedded_before(labs):
    lab = labs["qwen2_5_vl"]  # 3 images: 88 rows of pixels for two of them, and 64

    def share(rows, images):
        def change(calls):
            at = ((0, rows), (rows, None)), ((0, images), (images, None))
            return [
                one
                | {
                    "pixel_values": one["pixel_values"][slice(*at[0][rank])],
                    "image_grid_thw": one["image_grid_thw"][slice(*at[1][rank])],
                }
                for rank, one in enumerate(calls)
            ]

        return lab.sharder(change=change)

    assert vd.check(share(88, 2), lab.batch, chunk_size=3).ok
    assert codes(vd.check(share(80, 2), lab.batch, chunk_size=3)) == {"VLM001"}
    assert codes(vd.check(share(88, 1), lab.batch, chunk_size=3)) == {"VLM001"}


def test_columns_of_pixels_that_were_split_are_named(labs):
    lab = labs["qwen2_5_vl"]

    def split(calls):
        cut = [one["pixel_values"].chunk(2, -1)[rank] for rank, one in enumerate(calls)]
        return [{**one, "pixel_values": own} for one, own in zip(calls, cut, strict=True)]

    (finding,) = vd.check(lab.sharder(change=split), lab.batch, chunk_size=3).findings

    assert finding.code == "VLM011"
    assert "rank 0 was given pixel_values of shape (152, 588)" in finding.message


# --- embeddings, packed rows, windows ------------------------------------------------------------


def test_embeddings_that_are_split_are_compared_with_those_of_the_batch(labs):
    lab = labs["llava"]
    with torch.no_grad():
        vectors = lab.model.get_input_embeddings()(lab.batch.inputs["input_ids"]).clone()
        vectors[lab.batch.inputs["input_ids"] == lab.batch.image.token_id] = torch.randn(
            int(sum(lab.batch.image.placeholders)), vectors.shape[-1]
        )
    inputs = {**lab.batch.inputs, "inputs_embeds": vectors}
    batch = vd.read_batch(inputs, processor=lab.processor, config=lab.model.config)

    def slicer(change=lambda calls: calls):
        def shard(inputs, chunk_size):
            whole = {"inputs_embeds": vectors, "position_ids": lab.batch.inputs["position_ids"]}
            calls = [
                {
                    "inputs_embeds": whole["inputs_embeds"].chunk(2, 1)[rank],
                    "position_ids": whole["position_ids"].chunk(2, 1)[rank],
                }
                for rank in (0, 1)
            ]
            yield from change(calls)

        shard.shards = 2
        return shard

    def swap_features(calls):
        first = calls[0]["inputs_embeds"].clone()
        columns = lab.batch.inputs["input_ids"][0, : first.shape[1]] == lab.batch.image.token_id
        at = columns.nonzero()[:2, 0]
        first[0, at] = first[0, at.flip(0)]
        return [{**calls[0], "inputs_embeds": first}, calls[1]]

    right = vd.check(slicer(), batch, chunk_size=3)
    assert "Not compared" not in str(right) or right.verdict != "OK"
    assert right.ok, str(right)
    assert not vd.check(slicer(swap_features), batch, chunk_size=3).ok
    assert codes(vd.check(slicer(each_restart), batch, chunk_size=3)) == {"VLM014"}
    unknown = vd.check(slicer(), lab.batch, chunk_size=3)
    assert unknown.verdict == "AMBIGUOUS"
    assert "inputs_embeds in place of input_ids" in unknown.ambiguities[0]


def each_restart(calls):
    return WRONG["positions restart"][0](calls)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_packed_rows_may_be_split(family, built):
    lab = Lab(*built[family], vd.tiny.batch(family, images_per_sample=[2, 0, 1], seed=0))

    def slicer(ranks, change=lambda call: call):
        def shard(inputs, chunk_size):
            call = change({k: v for k, v in lab.packed().items() if k != "labels"})
            keys = {"input_ids", "position_ids", "mm_token_type_ids"} & call.keys()
            for rank in range(ranks):
                own = {
                    k: part(call[k], k, call[k].ndim - 1, rank, ranks, "contiguous") for k in keys
                }
                yield {**call, **own}

        shard.shards, shard.embedded = ranks, True
        return shard

    def drop_positions(call):
        return {key: value for key, value in call.items() if key != "position_ids"}

    def run_on(call):
        wide = call["input_ids"].shape[1]
        call = {key: one for key, one in call.items() if not key.startswith(("cu_", "max_"))}
        return {**call, "position_ids": torch.arange(wide).expand_as(call["position_ids"])}

    def lose(call):
        keys = ("input_ids", "position_ids", "mm_token_type_ids")
        return {k: v[..., :-1] if k in keys else v for k, v in call.items()}

    for ranks in (2, 3, 4):
        report = vd.check(slicer(ranks), lab.batch, chunk_size=3)
        assert report.ok, str(report)
    assert vd.prove(slicer(2), lab.batch, lab.model, chunk_size=3).ok
    for change, code in ((drop_positions, "VLM014"), (run_on, "VLM014"), (lose, "VLM006")):
        assert code in codes(vd.check(slicer(2, change), lab.batch, chunk_size=3))
        assert not vd.prove(slicer(2, change), lab.batch, lab.model, chunk_size=3).ok


def test_windows_of_a_prefill_are_ranks_in_time(labs):
    lab = labs["llava"]
    begin = lab.batch.image.places[0][1][0]  # between the two images of sample 0
    whole = next(lab.batch.chunks(1))
    whole.pop("labels")
    calls = [
        {
            "input_ids": whole["input_ids"][:, start:stop],
            "attention_mask": whole["attention_mask"][:, :stop],
            "position_ids": whole["position_ids"][:, start:stop],
            "pixel_values": whole["pixel_values"][image : image + 1],
        }
        for image, (start, stop) in enumerate(((0, begin), (begin, whole["input_ids"].shape[1])))
    ]
    batch = vd.read_batch(whole, processor=lab.processor, config=lab.model.config)

    def windows(inputs, chunk_size):
        yield from calls

    windows.shards = 2
    with torch.no_grad():
        first = lab.model(**calls[0], use_cache=True)
        second = lab.model(**calls[1], past_key_values=first.past_key_values, use_cache=True)
        alone = lab.model(**whole).logits

    assert vd.check(windows, batch).ok, str(vd.check(windows, batch))
    assert (torch.cat([first.logits, second.logits], 1) - alone).abs().max() < SAME


# --- each sample of a packed row on its own ------------------------------------------------------


def zigzag_of_samples(lab, rings, inner=1, multiple=None, below_zero=False, change=lambda c: c):
    """Each sample in 2 * rings pieces, as ring attention takes them; groups of `inner` ranks."""
    lengths = [lab.parts[sample]["input_ids"].shape[1] for sample in (2, 0, 1)]
    multiple = multiple or 2 * rings * inner

    def padded(key, one):
        size = -one.shape[-1] % multiple
        if key != "position_ids":
            return torch.nn.functional.pad(one, (0, size))
        on = one[..., -1:] * 0 - 1 if below_zero else one[..., -1:] + 1 + torch.arange(size)
        return torch.cat([one, on.expand(*one.shape[:-1], size)], -1)

    def shard(inputs, chunk_size):
        call = change({k: v for k, v in lab.packed().items() if k in TOKENS})
        media = {k: v for k, v in lab.packed().items() if k in lab.batch.layout.media}
        ranks = [dict(media) for _ in range(rings * inner)]
        for key, value in call.items():
            pieces = [padded(key, one).chunk(2 * rings, -1) for one in value.split(lengths, -1)]
            for ring in range(rings):
                own = [one[at] for one in pieces for at in (ring, 2 * rings - 1 - ring)]
                for at, held in enumerate(torch.cat(own, -1).chunk(inner, -1)):
                    ranks[ring * inner + at][key] = held
        yield from ranks

    shard.shards, shard.embedded = rings * inner, True
    return shard


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize(
    ("rings", "inner", "multiple"), [(2, 1, 4), (4, 1, 8), (2, 2, 8), (2, 1, 64)]
)
def test_zigzag_of_each_sample_passes_and_the_model_agrees(family, rings, inner, multiple, packs):
    lab = packs[family]
    slicer = zigzag_of_samples(lab, rings, inner, multiple)
    report = vd.check(slicer, lab.batch, chunk_size=3)

    assert report.ok, str(report)
    assert vd.prove(slicer, lab.batch, lab.model, chunk_size=3).ok


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_faults_in_a_zigzag_of_each_sample_are_named(family, packs):
    lab = packs[family]

    def moved(call):
        return {**call, "position_ids": call["position_ids"].roll(1, -1)}

    def turned(call):
        return {**call, "position_ids": call["position_ids"].flip(-1)}

    def without(call):
        return {key: value for key, value in call.items() if key != "position_ids"}

    for change in (moved, turned, without):
        slicer = zigzag_of_samples(lab, 2, change=change)

        assert "VLM014" in codes(vd.check(slicer, lab.batch, chunk_size=3))
        assert not vd.prove(slicer, lab.batch, lab.model, chunk_size=3).ok


def test_tokens_lost_in_a_zigzag_of_each_sample_are_not_ok(packs):
    lab = packs["llava"]
    right = zigzag_of_samples(lab, 2)

    def lose(inputs, chunk_size):
        for call in right(inputs, chunk_size):
            yield {k: v[..., :-1] if k in TOKENS else v for k, v in call.items()}

    lose.shards, lose.embedded = 2, True
    lost = vd.check(lose, lab.batch, chunk_size=3)

    assert codes(lost) == {"VLM006"} or lost.verdict == "AMBIGUOUS"


def test_tokens_that_are_on_no_rank_are_said_to_be_compared(labs):
    lab = labs["llava"]

    def lose(inputs, chunk_size):
        for chunk in lab.batch.chunks(chunk_size):
            for start, stop in ((0, 20), (22, None)):
                yield {k: v[..., start:stop] if k in TOKENS else v for k, v in chunk.items()}

    lose.shards, lose.embedded = 2, True
    report = vd.check(lose, lab.batch, chunk_size=3)
    against = {one.what: one.against for one in report.compared}

    assert report.findings[0].code == "VLM006"
    assert against["tokens of 2 ranks"] == "those of the batch"
    assert against[f"rows of {len(lab.batch.layout)} keys in 1 chunk"] is None


def test_padding_below_zero_is_right_only_where_each_zero_begins_a_sample(packs):
    lab = packs["llava"]

    def later(call):
        positions = call["position_ids"].clone()
        positions[..., -3:] += 1  # in the last sample
        return {**call, "position_ids": positions}

    slicer = zigzag_of_samples(lab, 2, below_zero=True)
    report = vd.check(slicer, lab.batch, chunk_size=3)
    wrong = zigzag_of_samples(lab, 2, below_zero=True, change=later)

    assert report.verdict == "AMBIGUOUS"
    assert "Right only if attention begins a sample at each 0" in report.ambiguities[0]
    assert {line.first for row in report.packed for line in row.given if line.first < 0} == {-1}
    assert not vd.prove(slicer, lab.batch, lab.model, chunk_size=3).ok
    assert codes(vd.check(wrong, lab.batch, chunk_size=3)) == {"VLM014"}


@pytest.mark.parametrize("start", [0, -1])
@pytest.mark.parametrize("own", [True, False], ids=["of the batch", "of the slicer"])
def test_ranks_without_a_mask_keep_padding_apart_by_positions(own, start, built):
    model, processor = built["llava"]
    inputs = dict(vd.tiny.batch("llava", images_per_sample=[2, 0], seed=0, padding_side="left"))
    places = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=start)
    given = {**inputs, "position_ids": places} if own else inputs
    batch = vd.read_batch(given, processor=processor, config=model.config)

    def shard(_, chunk_size):
        for sample, call in enumerate(batch.chunks(1)):
            call = {"input_ids": call["input_ids"], "position_ids": places[sample][None]}
            pixels = {"pixel_values": inputs["pixel_values"]} if sample == 0 else {}
            for rank in (0, 1):
                yield pixels | {k: part(v, k, 1, rank, 2, "contiguous") for k, v in call.items()}

    shard.shards, shard.embedded = 2, True
    report = vd.check(shard, batch)

    assert report.ok == vd.prove(shard, batch, model).ok == (start == 0), str(report)


@pytest.mark.parametrize("padding", [0, 7])
def test_zigzag_of_samples_is_found_behind_any_padding(padding):
    rng = np.random.default_rng(0)
    texts = [rng.integers(10, 40, size) for size in (5, 16, 5, 9, 1)]
    for rings in (2, 3, 4):
        multiple = 2 * rings
        rows = [np.pad(one, (0, padding * multiple + -len(one) % multiple)) for one in texts]
        rows = [row.reshape(2 * rings, -1) for row in rows]
        ranks = [
            np.concatenate([part for row in rows for part in (row[r], row[2 * rings - 1 - r])])
            for r in range(rings)
        ]
        found = [
            order.joined([rank[None] for rank in ranks], 1)[0]
            for order in zigzags_of_samples(
                np.concatenate(ranks), [len(rank) for rank in ranks], texts
            )
        ]
        whole = np.concatenate([row.ravel() for row in rows])

        assert any(np.array_equal(one[one > 0], whole[whole > 0]) for one in found)


# --- labels and padding --------------------------------------------------------------------------


def test_labels_next_to_their_tokens_are_lost_by_a_loss_on_each_rank(labs):
    lab = labs["llava"]
    slicer = lab.sharder(shift=False)
    report = vd.check(slicer, lab.batch, chunk_size=3)
    proof = vd.prove(slicer, lab.batch, lab.model, chunk_size=3)

    assert report.verdict == "AMBIGUOUS"
    assert "Shift labels before the split" in report.ambiguities[0]
    assert proof.silent_samples == ()
    assert not proof.ok
    assert proof.losses[0].ranks < proof.losses[0].whole
    assert "the loss summed over the ranks" in str(proof)


def test_labels_that_were_shifted_before_may_keep_their_name(labs):
    lab = labs["llava"]

    def rename(rank, call):
        call["labels"] = call.pop("shift_labels")
        return call

    slicer = lab.sharder(change=each(rename))

    assert vd.check(slicer, lab.batch, chunk_size=3).ok
    assert vd.prove(slicer, lab.batch, lab.model, chunk_size=3).ok


def test_labels_that_the_slicer_makes_are_those_of_the_tokens(labs):
    lab = labs["llava"]
    inputs = {key: value for key, value in lab.batch.inputs.items() if key != "labels"}
    batch = vd.read_batch(inputs, processor=lab.processor, config=lab.model.config)
    wide = inputs["input_ids"].shape[1]

    def slicer(make):
        def shard(_, chunk_size):
            call = next(batch.chunks(3))
            labels = call["input_ids"].masked_fill(call["attention_mask"] == 0, IGNORED)
            for rank in range(3):
                own = {k: v.chunk(3, 1)[rank] for k, v in call.items() if k in TOKENS}
                yield {**call, **own, "shift_labels": make(labels).chunk(3, 1)[rank]}

        shard.shards, shard.embedded = 3, True
        return shard

    def ahead(labels):
        return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)

    def on_ranks(labels):
        return torch.cat([ahead(third) for third in labels.chunk(3, 1)], 1)

    assert wide % 3 == 0
    assert vd.check(slicer(ahead), batch, chunk_size=3).ok
    assert codes(vd.check(slicer(on_ranks), batch, chunk_size=3)) == {"VLM013"}
    assert codes(vd.check(slicer(lambda labels: labels), batch, chunk_size=3)) == {"VLM013"}


def test_labels_of_padding_that_are_the_batch_s_own_are_right(labs):
    lab = labs["llava"]
    ids = lab.batch.inputs["input_ids"]
    labels = ids.masked_fill(ids == lab.batch.image.token_id, IGNORED)  # padding is learned
    inputs = {**lab.batch.inputs, "labels": labels}
    own = ShardLab(lab.model, lab.processor)
    own.batch = vd.read_batch(inputs, processor=lab.processor, config=lab.model.config)

    def other(calls):
        labels = calls[0]["shift_labels"].clone()
        labels[1, calls[0]["attention_mask"][1].sum() - 1] = 9  # the last token of sample 1
        return [{**calls[0], "shift_labels": labels}, *calls[1:]]

    assert (ids == 0).any() and (labels[ids == 0] == 0).all()
    for way in WAYS:
        assert vd.check(own.sharder(2, way), own.batch, chunk_size=3).ok
    assert codes(vd.check(own.sharder(change=other), own.batch, chunk_size=3)) == {"VLM013"}
    slicer = own.sharder(shift=False, change=each(shift_on_rank))
    assert codes(vd.check(slicer, own.batch, chunk_size=3)) == {"VLM013"}


def test_one_rank_without_positions_leaves_them_to_the_model(labs):
    lab = labs["qwen2_5_vl"]
    inputs = {key: value for key, value in lab.batch.inputs.items() if key != "position_ids"}
    batch = vd.read_batch(inputs, processor=lab.processor, config=lab.model.config)

    def shard(_, chunk_size):
        yield from map(shifted, batch.chunks(chunk_size))

    shard.shards = 1

    assert vd.check(shard, batch, chunk_size=3).ok
    assert vd.prove(shard, batch, lab.model, chunk_size=3).ok


def test_padding_that_a_mask_shows_is_named_where_tokens_attend_to_later_ones(labs):
    causal, other = labs["llava"], labs["t5gemma2"]

    def show(lab):
        wide = lab.batch.inputs["input_ids"].shape[1]
        ranks = next(one for one in (2, 3, 5, 7) if wide % one)

        def change(calls):
            mask = torch.cat([one["attention_mask"] for one in calls], 1)
            mask[:, wide:] = 1
            halves = mask.chunk(ranks, 1)
            return [{**a, "attention_mask": b} for a, b in zip(calls, halves, strict=True)]

        return vd.check(lab.sharder(ranks, change=change), lab.batch, chunk_size=3)

    assert causal.batch.rules.causal and not other.batch.rules.causal
    assert show(causal).ok
    assert codes(show(other)) == {"VLM015"}


# --- orders --------------------------------------------------------------------------------------


def test_ranks_in_another_order_are_not_ok(labs):
    lab = labs["llava"]
    slicer = lab.sharder(4, change=lambda calls: [calls[2], calls[0], calls[3], calls[1]])
    report = vd.check(slicer, lab.batch, chunk_size=3)

    assert report.verdict == "AMBIGUOUS"
    assert report.ambiguities == (
        "The ranks could not be joined (first in chunk 0): their tokens are those of the batch in "
        "no known order (contiguous, zigzag of equal pieces, or striped). Nothing else of these "
        "chunks was checked. Split input_ids in one of these orders, and pass them on.",
    )
    assert not vd.prove(slicer, lab.batch, lab.model, chunk_size=3).ok


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_one_token_twice_is_named_without_a_mask_if_the_others_have_a_known_order(
    way, family, labs
):
    lab = labs[family]
    wide = lab.batch.inputs["input_ids"].shape[1] // 2

    def twice(at, *, masked):
        def change(calls):
            cut = [{k: v for k, v in c.items() if masked or k != "attention_mask"} for c in calls]
            first, own = cut[0], cut[0]["input_ids"].shape[1]
            more = {
                key: torch.cat([one[..., : at + 1], one[..., at:]], -1)
                for key, one in first.items()
                if getattr(one, "ndim", 0) > 1 and one.shape[-1] == own and "pixel" not in key
            }
            return [{**first, **more}, *cut[1:]]

        return lab.sharder(2, way, change=change)

    for at in range(0, wide - 1, 3):
        for masked in (True, False):
            report = vd.check(twice(at, masked=masked), lab.batch, chunk_size=1)
            if at:
                assert "VLM006" in codes(report), (at, masked, str(report))
            else:  # the second one may begin the text, and what is in front is padding
                assert report.mismatches, (masked, str(report))


def test_padding_of_one_token_in_an_unknown_order_is_no_token_twice(labs):
    lab = labs["llava"]
    token = int(lab.batch.inputs["input_ids"][0, 0])

    def change(calls):
        calls = [{k: v for k, v in one.items() if k != "attention_mask"} for one in calls]
        ids = [torch.nn.functional.pad(one["input_ids"], (0, 1), value=token) for one in calls]
        keys = ("input_ids", "pixel_values")
        calls = [
            {k: {**c, "input_ids": i}[k] for k in keys if k in c}
            for c, i in zip(calls, ids, strict=True)
        ]
        return [calls[2], calls[0], calls[3], calls[1]]

    report = vd.check(lab.sharder(4, change=change), lab.batch, chunk_size=1)

    assert report.verdict == "AMBIGUOUS"
    assert any("in no known order" in " ".join(one.split()) for one in report.ambiguities)


@pytest.mark.parametrize("way", WAYS)
def test_positions_tell_orders_of_equal_tokens_apart(way):
    inputs = {
        "input_ids": torch.full((1, 8), 7),
        "attention_mask": torch.ones(1, 8, dtype=torch.long),
    }
    batch = vd.read_batch(inputs)
    places = torch.arange(8)[None]

    def slicer(positions):
        def shard(_, chunk_size):
            for rank in (0, 1):
                call = {**inputs, "position_ids": positions}
                yield {k: part(v, k, 1, rank, 2, way) for k, v in call.items()}

        shard.shards = 2
        return shard

    assert "VLM014" not in codes(vd.check(slicer(places), batch))
    assert codes(vd.check(slicer(places % 4), batch)) == {"VLM014"}


# --- falsify, assert_slices, the command line ----------------------------------------------------


def sharder(inputs, chunk_size):
    """Two ranks, as trainers cut them: positions if there are none, labels shifted before."""
    call = {key: value for key, value in inputs.items() if torch.is_tensor(value)}
    rows, wide = call["input_ids"].shape
    call.setdefault("position_ids", torch.arange(wide).repeat(rows, 1))
    call = shifted(call) if "labels" in call else call
    for rank in (0, 1):
        yield {
            key: part(value, key, dim, rank, 2, "contiguous") if dim else value
            for key, value in call.items()
            for dim in [dim_of(key, value, wide)]
        }


def dim_of(key, value, wide):
    """The dimension of the tokens; 0 for keys that have none."""
    if key in ("cross_attention_mask", "image_attention_mask"):
        return 1
    of_media = "pixel" in key or "grid" in key or "feature" in key
    return value.ndim - 1 if value.ndim > 1 and value.shape[-1] == wide and not of_media else 0


sharder.shards = 2
sharder.embedded = True


def restarts(inputs, chunk_size):
    for rank, call in enumerate(sharder(inputs, chunk_size)):
        yield {**call, "position_ids": call["position_ids"] - call["position_ids"][..., :1] * rank}


restarts.shards = 2
restarts.embedded = True


@pytest.mark.parametrize("family", LAYOUTS)
def test_falsify_finds_nothing_in_a_right_way(family):
    tried = {}

    assert vd.falsify(sharder, families=[family], max_examples=40, tried=tried) is None
    assert tried[family] == 40


def test_falsify_and_assert_slices_find_the_smallest_wrong_split():
    found = vd.falsify(restarts, families=["llava"], max_examples=100)

    assert found is not None
    assert codes(found.report) == {"VLM014"}
    assert found.case.spec.images_per_sample == (0,)
    with pytest.raises(vd.MismatchError, match="VLM014"):
        assert_slices(restarts, families=["qwen2_5_vl"], max_examples=40)


def test_the_command_line_honours_what_a_slicer_declares(tmp_path):
    file = tmp_path / "trainer.py"
    file.write_text(
        "def shard(inputs, chunk_size):\n"
        "    wide = inputs['input_ids'].shape[1] // 2\n"
        "    for rank in (0, 1):\n"
        "        yield {key: value[:, rank * wide : (rank + 1) * wide] if key in ('input_ids', "
        "'attention_mask') else value\n"
        "               for key, value in inputs.items() if hasattr(value, 'shape')}\n"
        "shard.shards = 2\n"
        "shard.embedded = True\n"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "vlmdebug", "falsify", f"{file}:shard", "--family", "llava"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1, ran.stderr
    assert "VLM006" in ran.stdout or "VLM014" in ran.stdout
    assert "rank" in ran.stdout


# --- bad and odd input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("shards", 0), ("shards", "2"), ("shards", True), ("embedded", "yes")]
)
def test_bad_declarations_are_refused(name, value, labs):
    lab = labs["llava"]
    slicer = lab.sharder()
    setattr(slicer, name, value)

    with pytest.raises(vd.BadInput, match=f"The slicer's {name} is {value!r}"):
        vd.check(slicer, lab.batch)


@pytest.mark.parametrize(
    "odd",
    [
        lambda calls: [{}, {}],
        lambda calls: [{k: None for k in one} for one in calls],
        lambda calls: [calls[0], {}],
        lambda calls: [{**one, "input_ids": one["input_ids"][0]} for one in calls],
        lambda calls: [{**one, "input_ids": one["input_ids"].tolist()} for one in calls],
        lambda calls: [{**one, "input_ids": one["input_ids"].float()} for one in calls],
        lambda calls: [{**one, "input_ids": one["input_ids"].to("meta")} for one in calls],
        lambda calls: [{k: v[:0] for k, v in one.items()} for one in calls],
        lambda calls: [{**one, "input_ids": one["input_ids"][:, :0]} for one in calls],
        lambda calls: [calls[0], {k: v[:1] for k, v in calls[1].items()}],
        lambda calls: [{**one, "position_ids": None} for one in calls],
        lambda calls: [
            {**one, "position_ids": one["position_ids"].float() * torch.nan} for one in calls
        ],
        lambda calls: [{**one, "position_ids": one["position_ids"].to("meta")} for one in calls],
        lambda calls: [{**one, "shift_labels": one["shift_labels"].to("meta")} for one in calls],
        lambda calls: [
            {**one, "attention_mask": one["attention_mask"].to("meta")} for one in calls
        ],
        lambda calls: [{**one, "shift_labels": one["shift_labels"][:, None]} for one in calls],
        lambda calls: [{**one, "position_ids": one["position_ids"].to_sparse()} for one in calls],
        lambda calls: [{**one, "pixel_values": [1, 2]} for one in calls],
        lambda calls: [
            {**one, "attention_mask": one["attention_mask"][:, None, None]} for one in calls
        ],
        lambda calls: [calls[0], {**calls[1], "pixel_values": "none"}],
        lambda calls: [{"inputs_embeds": torch.zeros(3, 5, 4)} for _ in calls],
    ],
)
@pytest.mark.parametrize("embedded", [True, False])
def test_odd_ranks_are_never_ok_and_raise_nothing_foreign(odd, embedded, labs):
    lab = labs["llava"]
    report = vd.check(lab.sharder(change=odd, embedded=embedded), lab.batch, chunk_size=3)

    assert not report.ok, str(report)
    report.to_html()


def test_reports_of_splits_are_written_and_read(labs, tmp_path):
    lab = labs["llava"]
    report = vd.check(lab.sharder(change=WRONG["a token lost"][0]), lab.batch, chunk_size=3)
    report.to_json(tmp_path / "report.json")

    assert str(vd.Report.from_json(tmp_path / "report.json")) == str(report)


def four_dimensions(rank, call):
    mask = call["attention_mask"].bool()
    return {**call, "attention_mask": mask[:, None, None].expand(-1, 1, mask.shape[1], -1)}


def test_masks_of_four_dimensions_are_not_compared(labs):
    lab = labs["llava"]
    report = vd.check(lab.sharder(change=each(four_dimensions)), lab.batch, chunk_size=3)

    assert report.verdict == "AMBIGUOUS"
    assert "attention_mask has 4 dimensions" in report.ambiguities[0]


def test_a_mask_of_all_tokens_on_each_rank_is_not_ok(labs):
    lab = labs["llava"]
    report = vd.check(lab.sharder(change=whole_on_each("attention_mask")), lab.batch, chunk_size=3)

    assert report.verdict == "AMBIGUOUS"
    assert "Each rank has the attention_mask of all tokens" in report.ambiguities[0]


def test_a_slicer_may_use_one_dict_and_its_buffers_for_all_ranks(labs):
    lab = labs["llava"]
    right = lab.sharder()

    def reused(inputs, chunk_size):
        call = {}
        for rank in right(inputs, chunk_size):
            for key, value in rank.items():
                if key in call and call[key].shape == value.shape and value.ndim == 2:
                    call[key].copy_(value)
                else:
                    call[key] = value.clone()
            call["rank"] = object()
            yield call

    reused.shards, reused.embedded = 2, True

    assert vd.check(reused, lab.batch, chunk_size=3).ok


def test_numbers_of_numpy_are_joined():
    batch = vd.make_batch("llava", [1, 1])

    def shard(inputs, chunk_size):
        ids = inputs["input_ids"].numpy()
        places = torch.arange(ids.shape[1]).repeat(2, 1)
        for rank in (0, 1):
            own = {"input_ids": ids, "position_ids": places}
            own = {
                key: part(torch.as_tensor(v), key, 1, rank, 2, "zigzag") for key, v in own.items()
            }
            yield {
                **own,
                "input_ids": own["input_ids"].numpy(),
                "pixel_values": inputs["pixel_values"],
            }

    shard.shards, shard.embedded = 2, True

    assert vd.check(shard, batch, chunk_size=2).ok


def test_a_loop_that_calls_the_model_of_each_rank_is_recorded(labs):
    lab = labs["llava"]
    right = lab.sharder()

    def loop(model, inputs, chunk_size):
        for call in right(inputs, chunk_size):
            model(**call)

    loop.shards, loop.embedded = 2, True

    assert vd.check(loop, lab.batch, chunk_size=3).ok
    assert vd.check(vd.record(loop), lab.batch, chunk_size=3).ok


def test_an_exception_between_ranks_is_the_slicer_s_own(labs):
    lab = labs["llava"]

    def raising(calls):
        yield calls[0]
        raise RuntimeError("rank 1 is down")

    report = vd.check(lab.sharder(change=raising), lab.batch)

    assert codes(report) == {"VLM008"}
    assert "rank 1 is down" in str(report)


def test_the_finding_of_an_undeclared_split_names_the_attribute(labs):
    lab = labs["llava"]
    declared = lab.sharder(2)

    def undeclared(inputs, chunk_size):
        yield from declared(inputs, chunk_size)

    batch = vd.make_batch("qwen2_5_vl", [1, 1], sizes=[2, 2])

    def halves(inputs, chunk_size):
        half = inputs["input_ids"].shape[1] // 2
        keys = ("input_ids", "attention_mask")
        for at in (slice(0, half), slice(half, 2 * half)):
            yield {**next(batch.chunks(2)), **{key: inputs[key][:, at] for key in keys}}

    report = vd.check(halves, batch, chunk_size=2)

    assert not vd.check(undeclared, lab.batch, chunk_size=3).ok
    assert "slicer.shards = 2" in report.mismatches[-1].message
