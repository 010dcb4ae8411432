"""Packed rows as trainers make them: padding behind samples, ends, shifted labels and masks.

Right ones give the logits of each sample alone, as the tiny model says; wrong ones do not.
"""

import numpy as np
import pytest
import torch
from packers import IGNORED, SAME, codes, labs_of

import vlmdebug as vd
from vlmdebug.families import packing
from vlmdebug.families.restarts import restarted
from vlmdebug.views.sentences import opening_sentence
from vlmdebug.watching.slices import CallChecker
from vlmdebug.watching.watch import metadata_of

FAMILIES = ("internvl", "llava", "qwen2_5_vl")  # padded on the left, on the right, with M-RoPE
POSITIONS = {
    "zeros": lambda last, at, size: torch.zeros(size),
    "ones": lambda last, at, size: torch.ones(size),  # as `get_rope_index` gives padding
    "that start again": lambda last, at, size: torch.arange(size),
    "that go on": lambda last, at, size: last + 1 + torch.arange(size),
    "of their places": lambda last, at, size: at + torch.arange(size),
}


@pytest.fixture(scope="module")
def labs(built):
    return labs_of(built)


def plain(lab, order=(0, 1, 2)):
    """A packed row with `position_ids` alone."""
    kept = lab.packed(order=order).items()
    return {k: v for k, v in kept if not k.startswith(("cu_", "max_")) and k != "labels"}


def lengths(lab, order=(0, 1, 2)):
    return [len(lab.alone[sample]) for sample in order]


def padding_id(lab):
    ids, mask = lab.inputs["input_ids"], lab.inputs["attention_mask"]
    return int(ids[mask == 0][0])


def padded(lab, call, sizes, places, order=(0, 1, 2)):
    """The row with so much padding behind each sample, and where each sample begins in it."""
    wide, found, begins = call["input_ids"].shape[1], {}, []
    stops = np.cumsum(lengths(lab, order)).tolist()
    for key, value in call.items():
        if getattr(value, "ndim", 0) not in (2, 3) or value.shape[-1] != wide:
            found[key] = value
            continue
        pieces, start, begins = [], 0, []
        for stop, size in zip(stops, sizes, strict=True):
            begins.append(sum(piece.shape[-1] for piece in pieces))
            fill = torch.full((*value.shape[:-1], size), padding_id(lab) * (key == "input_ids"))
            if key == "position_ids" and size:
                fill = places(value[..., stop - 1 : stop], stop, size).expand(fill.shape)
            pieces += [value[..., start:stop], fill.to(value.dtype)]
            start = stop
        found[key] = torch.cat(pieces, -1)
    return found, begins


def checked(lab, call, **known):
    known = known or {"processor": lab.processor, "config": lab.model.config}
    return vd.check(vd.read_batch(call, **known))


def packed(lab, *calls):
    return vd.check(lambda inputs, size: iter(calls), lab.batch, chunk_size=3)


def watched(lab, call):
    with vd.watch(lab.model, processor=lab.processor, on_mismatch="record") as trace:
        lab.run(call)
    return trace.report()


# --- padding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", POSITIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_behind_samples_may_have_any_positions(family, how, labs):
    lab = labs[family]
    for sizes in ((0, 0, 1), (0, 0, 5), (3, 1, 8)):
        call, begins = padded(lab, plain(lab), sizes, POSITIONS[how])

        assert lab.off(lab.run(call), (0, 1, 2), begins) < SAME
        for report in (checked(lab, call), packed(lab, call), watched(lab, call)):
            assert report.ok, (sizes, str(report))


@pytest.mark.parametrize("how", POSITIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bin_of_one_sample_may_have_padding_behind_it(family, how, labs):
    lab = labs[family]
    for sample in (1, 2):
        call, begins = padded(lab, plain(lab, (sample,)), (6,), POSITIONS[how], (sample,))
        rest = [plain(lab, (other,)) for other in range(3) if other != sample]

        assert lab.off(lab.run(call), (sample,), begins) < SAME
        assert checked(lab, call).ok
        assert packed(lab, call, *rest).ok, str(packed(lab, call, *rest))


@pytest.mark.parametrize("how", POSITIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_ends_may_count_padding_or_leave_it_out(family, how, labs):
    lab, sizes = labs[family], (3, 1, 8)
    call, begins = padded(lab, plain(lab), sizes, POSITIONS[how])
    stops = [begin + size for begin, size in zip(begins, lengths(lab), strict=True)]
    wide = call["input_ids"].shape[1]
    right = {"of padded samples": [*begins, wide], "of all pieces": sorted({*begins, *stops, wide})}
    for ends in right.values():
        told = {**call, "cu_seqlens": torch.tensor(ends)}

        assert checked(lab, told).ok
        assert packed(lab, told).ok
    unpadded = {**call, "cu_seqlens": torch.tensor([0, *np.cumsum(lengths(lab))])}
    assert codes(packed(lab, unpadded)) == {"VLM015"}
    with pytest.raises(vd.VlmDebugError, match="cu_seqlens and position_ids disagree"):
        checked(lab, unpadded)


def test_a_last_sample_with_other_positions_is_found_in_spite_of_padding(labs):
    lab = labs["llava"]
    call, begins = padded(lab, plain(lab), (0, 0, 4), POSITIONS["ones"])
    call["position_ids"][0, -6:-4] += 3  # the last two tokens of the text

    assert lab.off(lab.run(call), (0, 1, 2), begins) > SAME
    assert codes(checked(lab, call)) == codes(packed(lab, call)) == {"VLM014"}


def test_padding_that_is_not_known_is_no_finding(labs):
    lab = labs["llava"]
    call, _ = padded(lab, plain(lab), (3, 1, 8), POSITIONS["ones"])

    assert checked(lab, call, config=lab.model.config).ok  # which has the padding token
    report = checked(lab, call, num_images=[2, 0, 1])
    assert report.verdict == "AMBIGUOUS"
    assert not report.findings
    assert any("nothing says that they are padding" in one for one in report.ambiguities)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_constant_in_positions_is_the_same_until_floats_round_it(family, labs):
    lab = labs[family]
    call = plain(lab)
    for added, right in ((7, True), (1000, True), (2**24, False), (2**31, False)):
        moved = {**call, "position_ids": call["position_ids"] + added}
        off = lab.off(lab.run(moved), (0, 1, 2))

        assert (off < SAME) is right
        assert codes(packed(lab, moved)) == (set() if right else {"VLM014"})
    inputs = {**lab.inputs, "position_ids": lab.inputs["attention_mask"].cumsum(1) - 1 + 2**24}
    if family == "llava":
        assert codes(checked(lab, inputs)) == {"VLM014"}


# --- ends, lists and lost tokens -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("rows", [False, True], ids=["flat", "one row"])
@pytest.mark.parametrize("filled", [0, 3], ids=["bare", "filled with -1"])
def test_cumulative_lengths_may_be_a_row_and_filled(dtype, rows, filled, labs):
    lab = labs["llava"]
    for moved, code in ((0, None), (1, "VLM015")):
        ends = torch.tensor([0, *np.cumsum(lengths(lab))], dtype=dtype)
        ends[1] += moved
        ends = torch.cat([ends, torch.full((filled,), -1, dtype=dtype)])
        call = {**plain(lab), "cu_seqlens": ends[None] if rows else ends}

        assert codes(packed(lab, call)) == ({code} if code else set())
        if code is None:
            assert packed(lab, call).ok
            assert checked(lab, call).ok


def test_packed_rows_in_lists_are_not_taken_for_another_chunk(labs):
    lab = labs["llava"]
    call = plain(lab)
    listed = {key: call[key].tolist() for key in ("input_ids", "position_ids")}
    report = packed(lab, {**call, **listed})

    assert report.verdict == "AMBIGUOUS"
    assert not report.findings
    assert "no tensor of numbers" in report.ambiguities[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_of_each_sample_is_missed(family, labs):
    lab = labs[family]
    begins = [0, *np.cumsum(lengths(lab))[:-1].tolist()]
    call = plain(lab)
    wide = call["input_ids"].shape[1]
    kept = torch.tensor([column for column in range(wide) if column not in begins])
    lost = {
        key: value[..., kept] if getattr(value, "shape", (0,))[-1] == wide else value
        for key, value in call.items()
    }

    assert "VLM006" in codes(packed(lab, lost))


# --- labels --------------------------------------------------------------------------------------


def shifted(lab, call, *, across=False):
    """`shift_labels` of a packed row: the token behind each, and -100 at the end of a sample."""
    labels = torch.nn.functional.pad(
        lab.packed(order=(0, 1, 2))["labels"][:, 1:], (0, 1), value=IGNORED
    )
    ends = np.cumsum(lengths(lab)) - 1
    if across:
        labels[0, ends[:-1]] = call["input_ids"][0, ends[:-1] + 1]
    return {**call, "shift_labels": labels}


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_that_are_one_ahead_end_with_their_sample(family, labs):
    lab = labs[family]
    right, wrong = (shifted(lab, plain(lab), across=across) for across in (False, True))

    assert all(
        report.ok for report in (checked(lab, right), packed(lab, right), watched(lab, right))
    )
    assert codes(watched(lab, wrong)) == {"VLM013"}
    for report in (checked(lab, wrong), packed(lab, wrong)):
        assert codes(report) == {"VLM013"}
        said = report.findings[0].message.splitlines()
        assert said[0].startswith("the last token of sample 0, at column ")
        assert said[-1] == "Set the last of shift_labels of each sample to -100."
        assert opening_sentence(report) == (
            "Sample A learns to go on with another sample, and the model does not notice."
        )
        assert "shift_labels: learned across the seam, token" in report.to_html()


def test_labels_that_are_not_the_next_token_are_found(labs):
    lab = labs["llava"]
    call = shifted(lab, plain(lab))
    ends = np.cumsum(lengths(lab)) - 1
    call["shift_labels"] = lab.packed(order=(0, 1, 2))["labels"].clone()  # not shifted
    call["shift_labels"][0, ends] = IGNORED
    report = checked(lab, call)

    assert codes(report) == {"VLM013"}
    assert "shift_labels that differ from the next token" in report.findings[0].message


@pytest.mark.parametrize("column", [0, 1])
def test_only_the_first_label_may_be_hidden(column, labs):
    lab = labs["llava"]
    labels = lab.inputs["input_ids"].clone()
    labels[labels == lab.batch.token_ids["image"]] = IGNORED
    inputs = {**lab.inputs, "labels": labels}
    batch = vd.read_batch(inputs, processor=lab.processor, config=lab.model.config)

    def slicer(inputs, chunk_size):
        for chunk in batch.chunks(chunk_size):
            hidden, first = chunk["labels"].clone(), chunk["attention_mask"].argmax(1)
            hidden[torch.arange(len(hidden)), first + column] = IGNORED
            yield {**chunk, "labels": hidden}

    for size in (1, 2, 3):
        assert codes(vd.check(slicer, batch, chunk_size=size)) == ({"VLM011"} if column else set())


# --- masks of four dimensions --------------------------------------------------------------------


def blocks(sizes):
    parts = [torch.ones(size, size, dtype=torch.bool).tril() for size in sizes]
    return torch.block_diag(*parts).bool()[None, None]


@pytest.mark.parametrize("family", FAMILIES)
def test_watch_judges_masks_of_blocks(family, labs):
    lab = labs[family]
    first, second, third = lengths(lab)
    right = {**plain(lab), "attention_mask": blocks([first, second, third])}
    wrong = {**plain(lab), "attention_mask": blocks([first + 1, second - 1, third])}

    assert lab.off(lab.run(right), (0, 1, 2)) < SAME < lab.off(lab.run(wrong), (0, 1, 2))
    assert watched(lab, right).ok
    assert codes(watched(lab, wrong)) == {"VLM015"}


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_a_mask_of_blocks_alone_says_where_samples_are(family, labs):
    lab = labs[family]
    call = {**plain(lab), "attention_mask": blocks(lengths(lab))}
    del call["position_ids"]  # rotary embeddings look at differences only

    assert lab.off(lab.run(call), (0, 1, 2)) < SAME
    batch = vd.read_batch(call, processor=lab.processor, config=lab.model.config)
    assert tuple(batch.counts["token"]) == tuple(lengths(lab))
    assert vd.check(batch).ok


def test_a_mask_of_blocks_over_one_sample_is_compared(labs):
    lab = labs["llava"]
    call = plain(lab, (0,))
    size = lengths(lab)[0]
    near = blocks([size]) & torch.ones(size, size, dtype=torch.bool).triu(-8)  # a sliding window

    assert checked(lab, {**call, "attention_mask": blocks([size])}).ok
    report = checked(lab, {**call, "attention_mask": near})
    assert report.verdict == "AMBIGUOUS"
    assert "more than two dimensions" in report.ambiguities[0]
    assert checked(lab, {**call, "attention_mask": near[0]}).verdict == "AMBIGUOUS"
    assert lab.off(lab.run({**call, "attention_mask": near}), (0,)) > SAME


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mask_of_blocks_that_shows_padding_in_front_is_not_ok(side, labs):
    lab = labs["llava"]
    batch = vd.tiny.batch("llava", [2, 0], padding_side=side)
    hidden, wide = batch["attention_mask"] == 0, batch["input_ids"].shape[1]
    shows = {**batch, "attention_mask": blocks([wide]).expand(2, -1, -1, -1)}
    with torch.no_grad():
        found, due = lab.model(**shows).logits, lab.model(**batch).logits
    report = checked(lab, shows)

    assert (float((found - due)[~hidden].abs().max()) < SAME) == report.ok == (side == "right")
    said = f"attention_mask shows {int(hidden.sum())} padding tokens in front of the text of"
    assert any(said in " ".join(text.split()) for text in report.ambiguities) == (side == "left")


def test_a_mask_of_blocks_from_which_no_positions_are_computed_is_not_ok(labs):
    lab = labs["qwen2_5_vl"]
    batch = vd.tiny.batch("qwen2_5_vl", [1, 1])
    mask = blocks([batch["input_ids"].shape[1]]).expand(2, -1, -1, -1)
    shows = {**batch, "attention_mask": mask}

    with pytest.raises(IndexError):
        lab.model(**shows)
    assert checked(lab, shows).verdict == "AMBIGUOUS"


def test_watch_and_check_agree_that_one_bare_row_may_hold_several_samples(labs):
    lab = labs["llava"]
    call = plain(lab)
    del call["position_ids"]

    assert lab.off(lab.run(call), (0, 1, 2)) > SAME
    for report in (checked(lab, call), watched(lab, call)):
        assert report.verdict == "AMBIGUOUS"
        assert "may hold several samples" in report.ambiguities[0]
        assert "Pass attention_mask with it" in report.ambiguities[0]
    masked = {**plain(lab, (0,)), "attention_mask": torch.ones(1, lengths(lab)[0])}
    del masked["position_ids"]
    for answer in (masked, plain(lab)):
        assert watched(lab, answer).ok
        assert checked(lab, answer).ok


def test_watch_calls_no_row_bare_that_has_a_mask_or_comes_of_a_table(labs):
    lab = labs["llava"]
    one = plain(lab, (0,))
    del one["position_ids"]
    shown = watched(lab, {**one, "attention_mask": blocks(lengths(lab)[:1])})
    assert "may hold several samples" not in "".join(shown.ambiguities)

    ids = one["input_ids"].repeat(2, 1)
    assert watched(lab, {**one, "input_ids": ids[:1]}).ok  # its images are copies


# --- what no trainer should pass -----------------------------------------------------------------

ODD = {
    "a mask of one row too many": lambda size: {"attention_mask": torch.ones(2, 1, size, size)},
    "a mask without a number": lambda size: {
        "attention_mask": torch.full((1, 1, size, size), torch.nan)
    },
    "a mask of whole numbers": lambda size: {"attention_mask": blocks([size]).long()},
    "an empty mask": lambda size: {"attention_mask": torch.zeros(1, 1, 0, 0)},
    "a list as mask": lambda size: {"attention_mask": blocks([size]).tolist()},
    "labels that are no numbers": lambda size: {"shift_labels": "all"},
    "labels of three dimensions": lambda size: {"shift_labels": torch.zeros(1, size, 2)},
    "no ends": lambda size: {"cu_seqlens": torch.zeros(1, 0, dtype=torch.int32)},
    "ends of -1": lambda size: {"cu_seqlens": torch.full((1, 4), -1)},
    "two lengths": lambda size: {"max_length_q": torch.tensor([1, 2])},
    "a length that is no number": lambda size: {"max_length_q": "longest"},
}


@pytest.mark.parametrize("odd", [name for name in ODD if name != "labels that are no numbers"])
def test_odd_arguments_of_packed_rows_are_not_ok_and_raise_nothing_foreign(odd, labs):
    lab = labs["llava"]
    call = plain(lab)
    call |= ODD[odd](call["input_ids"].shape[1])

    assert not packed(lab, call).ok
    try:
        assert not checked(lab, call).ok
    except vd.VlmDebugError as error:
        assert "Pass " in str(error) or "Call " in str(error)


@pytest.mark.parametrize("odd", ODD)
def test_odd_arguments_of_one_sample_raise_nothing_foreign(odd, labs):
    lab = labs["llava"]
    call = plain(lab, (0,))
    call |= ODD[odd](call["input_ids"].shape[1])
    try:
        report = checked(lab, call)
    except vd.VlmDebugError:
        return

    assert not report.ok or odd == "labels that are no numbers"


def changed(call, pad, rng):
    """The call with a few random changes to its positions, tokens and keys."""
    call = {key: value.clone() if hasattr(value, "clone") else value for key, value in call.items()}
    ids, places = call["input_ids"], call["position_ids"]
    for change in rng.choice(9, size=rng.integers(0, 3), replace=False):
        at = int(rng.integers(0, ids.shape[-1]))
        match change:
            case 0:
                places[..., at] = int(rng.integers(-1, 4))
            case 1:
                places[..., at:] -= places[..., at : at + 1].clone()  # it starts again here
            case 2:
                ids[:, at] = pad
            case 3:
                ids[:, at:] = pad
            case 4:
                call["position_ids"] = places = places.to(torch.int32)
            case 5:
                call["attention_mask"] = torch.ones_like(ids)
            case 6:
                places += 1
            case 7:
                places[(rng.integers(0, len(places)), ..., at)] += 1
            case 8:
                call["cu_seqlens"] = torch.tensor([0, at, ids.shape[-1]], dtype=torch.int32)
    return call


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_that_start_again_are_read_in_one_step_as_in_many(family, labs, monkeypatch):
    lab, rng, short = labs[family], np.random.default_rng(7), 0
    metadata = metadata_of(lab.model, lab.processor)
    for _ in range(150):
        order = tuple(rng.permutation(3)[: rng.integers(1, 4)].tolist())
        call = changed(plain(lab, order), padding_id(lab), rng)
        tensors = {key: value for key, value in call.items() if hasattr(value, "shape")}
        found = []
        for step in (restarted, lambda *given: None):
            monkeypatch.setattr(packing, "restarted", step)
            verdict = CallChecker(metadata)(lambda given=tensors: given)
            found.append(verdict["judged"].report() if "judged" in verdict else verdict)
        assert found[0] == found[1]
        planes = tensors["position_ids"].numpy().reshape(-1, *tensors["input_ids"].shape)
        ids = tensors["input_ids"].numpy()
        short += restarted(tensors, planes, ids, metadata.pad_token_id) is not None
    assert 20 < short < 130


@pytest.mark.parametrize(
    ("places", "starts"),
    [
        ([[0, 1, 2, 0, 1]], [0, 3]),
        ([[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]], [0, 3, 5, 7]),
        ([[0, 1, 2, 0, 1], [2, 3, 0, 1, 2]], None),  # a sample goes on in the next row
        ([[0, 1, -1, 0, 1]], None),
        ([[0, 1, 1, 0, 1]], None),
        ([[1, 2, 3, 0, 1]], None),
        ([[0, 1, 2, 0, 0]], None),  # padding, or a sample of one token
        ([[0, 1, 2, 3, 4]], None),  # one sample
    ],
)
def test_positions_are_read_in_one_step_only_where_each_sample_has_its_own(places, starts):
    planes = np.array([places])
    spans = restarted({}, planes, np.ones(planes.shape[1:], dtype=np.int64), 0)
    wide = planes.shape[2]
    assert (None if spans is None else [row * wide + at for row, at, _ in spans]) == starts
