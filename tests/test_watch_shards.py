"""Watched calls with some of the tokens of a batch: windows of a prefill, and shares of ranks."""

from __future__ import annotations

import gc
import json
import operator
from pathlib import Path

import pytest
import torch
from architectures import REFUSES_TEXT, architectures
from packers import SAME, Labs
from processes import run_ranks
from sharders import IGNORED, WAYS, WRONG, ShardLab, along, each, halve_pixels, shifted, split
from transformers import DynamicCache

import vlmdebug as vd
from vlmdebug.testing import assert_slices
from vlmdebug.tracking.window import Whole
from vlmdebug.watching import windows
from vlmdebug.watching.known import KNOWN

FEW = ["llava", "qwen2_5_vl", "gemma3", "internvl"]
FAMILIES = [one for one in architectures() if one not in REFUSES_TEXT]


@pytest.fixture(scope="module")
def labs(built):
    """`labs["llava"]`: a batch of that family with labels and positions, built once."""
    return Labs(lambda family: ShardLab(*built[family], family=family))


class Asked(torch.nn.Module):
    """A model whose calls are judged, and not computed: its kernels for ranks are elsewhere."""

    def __init__(self, model):
        super().__init__()
        self.config = model.config

    def forward(self, **call):
        return None


def watched(lab, calls, *, model=None, **options):
    """The trace of these calls."""
    model = Asked(lab.model) if model is None else model
    watching = vd.watch(model, processor=lab.processor, on_mismatch="record", **options)
    with torch.no_grad(), watching as trace:
        for call in calls:
            model(**call)
    return trace


def codes(trace):
    """Codes of what was found, and AMBIGUOUS where something was not known."""
    reports = [call.report for call in trace.calls if call.report is not None]
    found = {finding.code for report in reports for finding in report.findings}
    return found | {"AMBIGUOUS" for report in reports if report.ambiguities}


def said(trace):
    reports = [call.report for call in trace.calls if call.report is not None]
    texts = [one.message for report in reports for one in report.mismatches]
    return "\n".join([*texts, *(text for report in reports for text in report.ambiguities)])


# --- windows of a prefill ------------------------------------------------------------------------


def keys_along(lab):
    return [key for key in lab.batch.inputs if along(lab.batch, key) and key != "labels"]


def prefill(lab, cuts=None, change=lambda number, call: call):
    """Calls of windows with one cache; images come with the first, which has their tokens."""
    inputs, tokens = lab.batch.inputs, keys_along(lab)
    ends = [run[1] for runs in lab.batch.image.places for run in runs]
    wide = inputs["input_ids"].shape[1]
    cuts = cuts or [max(ends), max(ends) + 3, max(ends) + 6, wide]
    cache, begin = DynamicCache(config=lab.model.config), 0
    for number, end in enumerate(cuts):
        call = {key: inputs[key][..., begin:end] for key in tokens}
        call["attention_mask"] = inputs["attention_mask"][:, :end]
        if number == 0:
            call |= {key: inputs[key] for key in lab.batch.of_key}
        begin = end
        yield change(number, {**call, "past_key_values": cache, "use_cache": True})


def logits(lab, calls):
    """What the model makes of the real tokens, and the trace; None if it raises."""
    found = []
    with (
        torch.no_grad(),
        vd.watch(lab.model, processor=lab.processor, on_mismatch="record") as trace,
    ):
        try:
            found = [lab.model(**call).logits for call in calls]
        except (RuntimeError, ValueError, IndexError):
            return None, trace
    return torch.cat(found, 1), trace


def apart(lab, calls):
    """How far logits are from those of the whole, and the trace."""
    inputs = {k: v for k, v in lab.batch.inputs.items() if k != "labels"}
    with torch.no_grad():
        whole = lab.model(**inputs).logits
    found, trace = logits(lab, calls)
    if found is None or found.shape != whole.shape:
        return float("inf"), trace
    real = inputs["attention_mask"] != 0
    return float((found - whole)[real].abs().max()), trace


@pytest.mark.parametrize("family", FEW)
def test_windows_of_a_prefill_are_right_as_the_model_says(family, labs):
    lab = labs[family]
    off, trace = apart(lab, prefill(lab))

    assert trace.ok, said(trace)
    assert len(trace.calls) == 4
    assert off < SAME


def at(wanted, change):
    """The change of one window alone."""
    return lambda number, call: change(dict(call)) if number == wanted else call


def begin_later(by):
    """Window 2 begins later than window 1 ends, or earlier."""

    def calls(lab):
        inputs, tokens = lab.batch.inputs, keys_along(lab)
        windows = [*prefill(lab)]
        start = windows[0]["input_ids"].shape[1]
        stop = start + windows[1]["input_ids"].shape[1]
        own = {key: inputs[key][..., start + by : stop] for key in tokens}
        own["attention_mask"] = windows[1]["attention_mask"]
        if by < 0:
            del own["attention_mask"]
        yield windows[0]
        yield {**windows[1], **own}
        yield from windows[2:]

    return calls


def restart(call):
    first = call["position_ids"][..., :1]
    return {**call, "position_ids": call["position_ids"] - first}


def of_next(lab, key):
    """Window 1 has a key of window 2, of as many tokens."""
    windows = [*prefill(lab)]
    windows[1] = {**windows[1], key: windows[2][key]}
    return windows


def other_mask(call):
    """A mask of the samples in another order."""
    return {**call, "attention_mask": call["attention_mask"].flip(0)}


def own_mask(call):
    """The mask of the window's own tokens, without those in the cache."""
    return {**call, "attention_mask": call["attention_mask"][:, -call["input_ids"].shape[1] :]}


WINDOWS = {
    "a token lost": (begin_later(1), "VLM006"),
    "a token twice": (begin_later(-1), "VLM006"),
    "positions restart": (lambda lab: prefill(lab, change=at(1, restart)), "VLM014"),
    "positions of the next window": (lambda lab: of_next(lab, "position_ids"), "VLM014"),
    "mask of other samples": (lambda lab: prefill(lab, change=at(3, other_mask)), "VLM011"),
    "mask of its own tokens": (lambda lab: prefill(lab, change=at(1, own_mask)), "VLM011"),
    "a window twice": (
        lambda lab: [window for n, window in enumerate(prefill(lab)) for _ in range(1 + (n == 1))],
        "VLM006",
    ),
    "windows in another order": (
        lambda lab: operator.itemgetter(0, 2, 1, 3)([*prefill(lab)]),
        "VLM006",
    ),
}


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("wrong", WINDOWS)
def test_each_wrong_window_is_found_and_the_model_agrees(family, wrong, labs):
    lab = labs[family]
    calls, code = WINDOWS[wrong]
    off, trace = apart(lab, calls(lab))

    assert code in codes(trace), said(trace)
    assert off > SAME


def one_image_each(lab, pixels):
    """One sample of two images in two windows, each with the rows `pixels` of the images."""
    batch = lab.batch
    begin = batch.image.places[0][1][0]
    cache = DynamicCache(config=lab.model.config)
    for window, (start, stop) in enumerate(((0, begin), (begin, None))):
        call = {key: batch.inputs[key][..., start:stop] for key in keys_along(lab)}
        call["attention_mask"] = batch.inputs["attention_mask"][:, :stop]
        for key in batch.layout.media:
            ends, image = batch.image_offsets(batch.layout[key].unit), pixels[window]
            if image is not None:
                call[key] = batch.inputs[key][ends[image] : ends[image + 1]]
        yield {**call, "past_key_values": cache, "use_cache": True}


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl", "lighton_ocr"])
def test_images_of_another_window_are_found_and_the_model_agrees(family, built):
    lab = ShardLab(*built[family], images=(2,), family=family)
    right, trace = apart(lab, one_image_each(lab, (0, 1)))

    assert trace.ok, said(trace)
    assert right < SAME
    for pixels in ((0, 0), (1, 1), (0, None)):
        off, trace = apart(lab, one_image_each(lab, pixels))

        assert codes(trace) & {"VLM002", "VLM009", "VLM010", "VLM003"}, said(trace)
        assert off > SAME


@pytest.mark.parametrize("family", ["gemma3", "gemma4", "shieldgemma2", "llava"])
def test_images_behind_a_cache_are_not_ok_where_the_model_sees_them_otherwise(family, built):
    lab = ShardLab(*built[family], images=(2,), family=family)
    off, trace = apart(lab, one_image_each(lab, (0, 1)))

    assert trace.ok == (off < SAME) == (family == "llava"), (off, said(trace))
    assert trace.ok or codes(trace) == {"AMBIGUOUS"}


@pytest.mark.parametrize("family", ["ovis2", "paligemma", "diffusion_gemma", "qwen3_5"])
def test_windows_are_not_ok_where_the_model_needs_the_whole_prompt(family, built):
    lab = ShardLab(*built[family], images=(1, 1), family=family)
    off, trace = apart(lab, prefill(lab))

    assert trace.ok == (off < SAME) == (family == "qwen3_5"), (off, said(trace))
    assert trace.ok or codes(trace) == {"AMBIGUOUS"}


def test_tokens_that_no_window_has_are_named_at_the_end(labs):
    lab = labs["llava"]
    cuts = [call["attention_mask"].shape[1] for call in prefill(lab)]
    trace = watched(lab, prefill(lab, cuts[:-1]), model=lab.model)
    left = int(lab.batch.inputs["attention_mask"][:, cuts[-2] :].sum())

    assert trace.report().verdict == "AMBIGUOUS"
    assert said(trace).startswith(f"{left} tokens of the batch, from column {cuts[-2]} on, came in")


def test_a_copy_of_the_next_tokens_goes_on(labs):
    lab = labs["llava"]
    windows = [*prefill(lab)]
    last = {**windows[-1], "input_ids": windows[-1]["input_ids"].clone()}

    assert watched(lab, [*windows[:-1], last], model=lab.model).ok


def test_a_cache_that_was_taken_back_and_a_new_one_begin_where_they_are(labs):
    lab = labs["llava"]
    with torch.no_grad(), vd.watch(lab.model, processor=lab.processor) as trace:
        for _ in range(2):
            windows = [*prefill(lab)]
            for window in windows[:2]:
                lab.model(**window)
            windows[1]["past_key_values"].crop(-windows[1]["input_ids"].shape[1])
            for window in windows[1:]:
                lab.model(**window)

    assert trace.ok, said(trace)


@pytest.mark.parametrize("family", FEW)
def test_a_mask_that_reaches_behind_an_empty_cache_is_found(family, labs):
    """A loop that makes a new cache for each window."""
    lab = labs[family]

    def emptied(number, call):
        return {**call, "past_key_values": DynamicCache(config=lab.model.config)}

    columns = next(iter(prefill(lab)))["input_ids"].shape[1]
    cuts = [columns, columns + 2, lab.batch.inputs["input_ids"].shape[1]]
    off, trace = apart(lab, prefill(lab, cuts, emptied))

    assert off > SAME
    assert codes(trace) == {"VLM011"}
    assert f"attention_mask with {columns + 2} columns, but there are 2 tokens with" in said(trace)


class Cache:
    """A cache of so many tokens."""

    def __init__(self, length):
        self.length = length

    def get_seq_length(self, *layer):
        return self.length


@pytest.mark.parametrize("step", [2, 4, 6], ids=["overlap", "side by side", "apart"])
def test_windows_behind_copies_of_one_prefix_are_no_windows_of_one_prefill(step, labs):
    lab = labs["llava"]
    tokens = lab.batch.inputs["input_ids"]
    wide = tokens.shape[1]
    begins = range(wide - 16, wide - 6, step)
    calls = ({"input_ids": tokens[:, a : a + 4], "past_key_values": Cache(9)} for a in begins)

    assert watched(lab, calls).ok  # each cache is gone when the next one comes


def test_positions_behind_other_tokens_than_the_batch_s_are_undecided(labs):
    lab = labs["llava"]
    tokens = lab.batch.inputs["input_ids"]
    start = tokens.shape[1] - 8
    places = torch.arange(start + 1, start + 5).repeat(len(tokens), 1)
    call = {"input_ids": tokens[:, start : start + 4], "position_ids": places}

    assert codes(watched(lab, [{**call, "past_key_values": Cache(start)}])) == {"VLM014"}
    behind = watched(lab, [{**call, "past_key_values": Cache(9)}])
    assert codes(behind) == {"AMBIGUOUS"}
    assert f"the cache has 9 tokens, and window 0 begins at column {start}" in said(behind)


def test_a_turn_after_other_tokens_than_the_batch_s_leaves_nothing_out(labs):
    lab = labs["llava"]
    tokens, cache = lab.batch.inputs["input_ids"], Cache(0)
    wide = tokens.shape[1]
    answer = torch.full((len(tokens), 5), 7)
    cuts = [(wide - 12, wide - 8), (wide - 8, wide - 6), None, (wide - 4, wide)]

    def calls():
        for cut in cuts:
            ids = answer if cut is None else tokens[:, slice(*cut)]
            yield {"input_ids": ids, "past_key_values": cache}
            cache.length += ids.shape[1]

    assert "VLM006" not in codes(watched(lab, calls()))
    cuts.remove(None)
    cache.length = 0
    assert "VLM006" in codes(watched(lab, calls()))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_copies_of_masks_and_types_in_windows_are_compared_with_tokens(family, labs):
    lab = labs[family]
    copies = {key: lab.batch.inputs[key].clone() for key in keys_along(lab) if "pos" not in key}
    copies.pop("input_ids")
    for wrong in (None, *copies):
        given = {key: value.clone() for key, value in copies.items()}
        if wrong is not None:
            given[wrong][:, -4] = 1 - given[wrong][:, -4]

        def copied(number, call, given=given):
            stop = call["attention_mask"].shape[1]
            start = stop - call["input_ids"].shape[1]
            ends = {key: 0 if key == "attention_mask" else start for key in given}
            return {**call, **{key: given[key][:, ends[key] : stop].clone() for key in given}}

        trace = watched(lab, prefill(lab, change=copied), model=lab.model)

        assert trace.ok == (wrong is None), (wrong, said(trace))
        due = {"AMBIGUOUS"} if wrong == "attention_mask" else {"VLM010", "VLM011"}
        assert wrong is None or (codes(trace) == due and wrong in said(trace))


def test_a_mask_that_reaches_back_names_a_token_before_the_window(labs):
    lab = labs["llava"]

    def hidden(number, call):
        if number == 1:
            call["attention_mask"] = call["attention_mask"].clone()
            call["attention_mask"][0, 5] = 0
        return call

    windows = [*prefill(lab)]
    start = windows[0]["attention_mask"].shape[1]
    trace = watched(lab, prefill(lab, change=hidden), model=lab.model)

    text = f"the token {start - 5} columns before window 1 (sample 0) has attention_mask 0"
    assert text in said(trace)


FRONT = 4
"""Columns of padding that are put in front of a batch, or of other tokens in the cache."""


def masks_of(way, mask, stop):
    """The masks of two windows, of which the first one ends at `stop`; None for none."""
    ones = torch.ones(len(mask), FRONT, dtype=mask.dtype)
    return {
        "from the first column": (mask[:, :stop], mask),
        "from the first token": (mask[:, FRONT:stop], mask[:, FRONT:]),
        "none behind the first": (mask[:, :stop], None),
        "none": (None, None),
        "without the prefix": (mask[:, :stop], mask),
        "from the prefix on": (torch.cat([ones, mask[:, :stop]], 1), torch.cat([ones, mask], 1)),
    }[way]


@pytest.mark.parametrize("family", ["llava", "internvl"])
@pytest.mark.parametrize(
    ("way", "code"),
    [
        ("from the first column", None),
        ("from the first token", None),  # the padding is in no call
        ("none behind the first", "VLM003"),
        ("none", "AMBIGUOUS"),
    ],
)
def test_masks_of_windows_hide_the_padding_in_front(way, code, family, labs):
    lab, fill = labs[family], torch.nn.functional.pad
    inputs = {k: lab.batch.inputs[k] for k in ("input_ids", "attention_mask", *lab.batch.of_key)}
    ids = fill(inputs["input_ids"], (FRONT, 0), value=lab.processor.tokenizer.pad_token_id)
    mask = fill(inputs["attention_mask"], (FRONT, 0))
    stop = ids.shape[1] - 4
    begin = FRONT if way == "from the first token" else 0
    cache = {"past_key_values": DynamicCache(config=lab.model.config)}
    first, last = ({} if m is None else {"attention_mask": m} for m in masks_of(way, mask, stop))
    media = {key: inputs[key] for key in lab.batch.of_key}
    calls = [
        {"input_ids": ids[:, begin:stop], **first, **media, **cache},
        {"input_ids": ids[:, stop:], **last, **cache},
    ]
    with torch.no_grad():
        whole = lab.model(input_ids=ids, attention_mask=mask, **media).logits[:, begin:]
    found, trace = logits(lab, calls)
    off = float((found - whole)[mask[:, begin:] != 0].abs().max())

    assert codes(trace) == ({code} if code else set()), said(trace)
    assert (off > SAME) == (code is not None)


def test_a_mask_over_other_tokens_in_the_cache_is_compared_from_the_window_on(labs):
    lab = labs["llava"]
    ids, mask = (lab.batch.inputs[key].clone() for key in ("input_ids", "attention_mask"))
    mask[:, :FRONT] = 0
    stop = ids.shape[1] - FRONT
    turn = torch.ones(len(ids), FRONT + 1, dtype=mask.dtype)
    shown = torch.cat([mask[:, :stop], turn, mask[:, stop:]], 1)

    def calls(shown):
        cache = Cache(0)
        for tokens, hidden in (
            (ids[:, :stop], mask[:, :stop]),
            (torch.full_like(turn, 7), shown[:, : stop + FRONT + 1]),
            (ids[:, stop:], shown),
        ):
            yield {"input_ids": tokens, "attention_mask": hidden, "past_key_values": cache}
            cache.length += tokens.shape[1]

    assert "VLM011" not in codes(watched(lab, calls(shown))), said(watched(lab, calls(shown)))
    shown[0, -1] = 1 - shown[0, -1]
    assert "VLM011" in codes(watched(lab, calls(shown)))


@pytest.mark.parametrize("way", ["without the prefix", "from the prefix on"])
def test_masks_begin_with_the_first_token_in_the_cache(way, labs):
    lab = labs["llava"]
    ids, mask = (lab.batch.inputs[key] for key in ("input_ids", "attention_mask"))
    stop = ids.shape[1] - FRONT - 1  # so that no mask has as many columns as the batch
    cache = DynamicCache(config=lab.model.config)
    with torch.no_grad():
        lab.model(input_ids=ids[:, :FRONT].clone(), past_key_values=cache)
    first, last = masks_of(way, mask, stop)
    media = {key: lab.batch.inputs[key] for key in lab.batch.of_key}
    calls = [
        {"input_ids": ids[:, :stop], "attention_mask": first, **media},
        {"input_ids": ids[:, stop:], "attention_mask": last},
    ]
    trace = watched(lab, [{**one, "past_key_values": cache} for one in calls], model=lab.model)

    assert ("VLM011" in codes(trace)) == (way == "without the prefix"), said(trace)


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("options", [{}, {"prefill_chunk_size": 16}], ids=["whole", "in chunks"])
def test_generate_is_no_false_alarm(family, options, labs):
    lab = labs[family]
    inputs = vd.tiny.batch(family, images_per_sample=[2, 1], seed=0)
    with vd.watch(lab.model, processor=lab.processor, on_mismatch="record") as trace:
        lab.model.generate(**inputs, max_new_tokens=3, do_sample=False, **options)

    assert all(call.ok or "already encoded" in call.unread for call in trace.calls), said(trace)


# --- ranks, in one process -----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_of_all_ranks_are_right(family, labs):
    lab = labs[family]
    for way in WAYS:
        for ranks, chunk_size in ((2, 3), (3, 2)):
            chunks = map(shifted, lab.batch.chunks(chunk_size))
            calls = [one for chunk in chunks for one in split(lab.batch, chunk, ranks, way)]
            trace = watched(lab, calls, shards=ranks, embedded=True)

            masked = family == "mllama" and codes(trace) == {"AMBIGUOUS"}  # by more dimensions
            assert trace.ok or masked, (way, ranks, said(trace))


MAY_BE_OPEN = {"labels shifted on ranks", "mask of another rank", "rows of pixels divided"}
"""Wrong ways that one rank, or copies, do not prove."""


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_shares_are_not_ok(wrong, way, family, labs):
    change, code, shift = WRONG[wrong]
    lab = labs[family]
    chunk = next(lab.batch.chunks(3))
    calls = change(split(lab.batch, shifted(chunk) if shift else chunk, 2, way))
    trace = watched(lab, calls, shards=2, embedded=change is not halve_pixels)
    broken = {"a token lost", "a token twice"}  # the copies that are left show other faults, too
    due = {code} | ({"AMBIGUOUS"} if wrong in MAY_BE_OPEN else set())

    assert not trace.ok
    assert due & codes(trace) or wrong in broken, said(trace)


def views(lab, ends):
    """Shares that are slices of the batch, with all media on each."""
    inputs = shifted(lab.batch.inputs)
    keys = [key for key in inputs if along(lab.batch, key)]
    for begin, end in ends:
        own = {key: inputs[key][..., begin:end] for key in keys}
        yield {**inputs, **own}


@pytest.mark.parametrize("family", FEW)
def test_slices_of_the_batch_need_each_token_once(family, labs):
    lab = labs[family]
    wide = lab.batch.inputs["input_ids"].shape[1]
    half = wide // 2
    cases = {
        "right": [(0, half), (half, wide)],
        "on no rank": [(0, half), (half + 2, wide)],
        "on more than one rank": [(0, half + 2), (half, wide)],
        "of samples 0:3 are on no rank": [(0, half), (half, wide - 2)],
    }
    for text, ends in cases.items():
        trace = watched(lab, views(lab, ends), shards=2, embedded=True)

        assert trace.ok == (text == "right"), said(trace)
        assert text == "right" or (text in said(trace) and codes(trace) == {"VLM006"})


def test_a_rank_that_never_comes_is_named_at_the_end(labs):
    lab = labs["llava"]
    wide = lab.batch.inputs["input_ids"].shape[1]
    trace = watched(lab, views(lab, [(0, wide // 2)]), shards=2, embedded=True)

    assert codes(trace) == {"VLM006"}
    assert "on no rank" in said(trace)
    assert len(trace.calls) == 2


def test_ranks_that_do_not_come_for_an_exception_of_the_program_are_no_fault(labs):
    lab = labs["llava"]
    wide = lab.batch.inputs["input_ids"].shape[1]

    def stopped():
        yield from views(lab, [(0, wide // 2)])
        raise KeyError("of the program")

    model = Asked(lab.model)
    watching = vd.watch(model, processor=lab.processor, shards=2, embedded=True)
    with pytest.raises(KeyError), watching as trace:
        for call in stopped():
            model(**call)

    assert trace.ok
    assert len(trace.calls) == 1


def test_the_whole_mask_on_each_rank_is_undecided(labs):
    lab = labs["llava"]
    wide = lab.batch.inputs["input_ids"].shape[1]
    mask = {"attention_mask": lab.batch.inputs["attention_mask"]}
    calls = [one | mask for one in views(lab, [(0, wide // 2), (wide // 2, wide)])]
    trace = watched(lab, calls, shards=2, embedded=True)

    assert codes(trace) == {"AMBIGUOUS"}
    assert "Each rank has the attention_mask of all tokens" in said(trace)


def test_all_media_need_the_word_that_tokens_were_embedded(labs):
    lab = labs["llava"]
    wide = lab.batch.inputs["input_ids"].shape[1]
    halves = [(0, wide // 2), (wide // 2, wide)]

    assert watched(lab, views(lab, halves), shards=2, embedded=True).ok
    trace = watched(lab, views(lab, halves), shards=2)
    assert codes(trace) == {"AMBIGUOUS"}
    assert "embedded=True" in said(trace)


def test_wrong_labels_of_the_batch_do_not_hide_its_media(labs):
    lab = labs["llava"]
    wide = lab.batch.inputs["input_ids"].shape[1]
    calls = [*views(lab, [(0, wide // 2), (wide // 2, wide)])]
    learned = lab.batch.inputs["input_ids"].clone()  # placeholders and padding, too
    for call, begin in zip(calls, (0, wide // 2), strict=True):
        call["labels"] = learned[:, begin : begin + call["input_ids"].shape[1]]
        call.pop("shift_labels", None)
    trace = watched(lab, calls, shards=2, embedded=True)

    assert "VLM013" in codes(trace)
    assert "placeholder tokens among its labels" in said(trace)
    assert "of their own" not in said(trace)


def test_copies_of_a_row_that_may_be_packed_are_undecided():
    ids = torch.arange(10, 34)[None]
    lab = ShardLab(*vd.tiny.build("llava"))
    halves = [ids[:, :12].clone(), ids[:, 12:].clone()]
    calls = [{"input_ids": half, "position_ids": torch.arange(12)[None]} for half in halves]

    assert codes(watched(lab, calls, shards=2)) == {"AMBIGUOUS"}
    masked = [{**one, "attention_mask": torch.ones(1, 12, dtype=torch.long)} for one in calls]
    assert "VLM014" in codes(watched(lab, masked, shards=2))
    assert "VLM014" in codes(watched(lab, [{"input_ids": half} for half in halves], shards=2))
    grown = [
        {"input_ids": half, "position_ids": torch.arange(begin, begin + 12)[None]}
        for begin, half in zip((0, 12), halves, strict=True)
    ]
    assert watched(lab, grown, shards=2).ok


def test_columns_of_one_row_without_mask_are_one_sample(labs):
    lab = labs["llava"]
    batch = vd.tiny.batch("llava", [1])
    wide = batch["input_ids"].shape[1]
    halves = [(0, wide - 4), (wide - 4, wide)]  # the image is in the first
    media = [{"pixel_values": batch["pixel_values"]}, {}]
    calls = [{"input_ids": batch["input_ids"][:, begin:end]} for begin, end in halves]
    placed = [
        {**call, **media[0], "position_ids": torch.arange(*ends)[None]}
        for call, ends in zip(calls, halves, strict=True)
    ]
    cache = {"past_key_values": DynamicCache(config=lab.model.config), "use_cache": True}
    windows = [{**call, **own, **cache} for call, own in zip(calls, media, strict=True)]

    assert watched(lab, placed, shards=2, embedded=True).ok
    unplaced = [{**call, **media[0]} for call in calls]
    assert codes(watched(lab, unplaced, shards=2, embedded=True)) == {"VLM014"}
    assert watched(lab, windows, model=lab.model).ok


def test_packed_rows_are_split_with_their_own_positions(built):
    lab = ShardLab(*built["llava"])
    ids, places = torch.arange(10, 34)[None], torch.cat([torch.arange(9), torch.arange(15)])[None]
    calls = [
        {"input_ids": ids[:, begin : begin + 12], "position_ids": places[:, begin : begin + 12]}
        for begin in (0, 12)
    ]
    swapped = [{**calls[0], "position_ids": calls[1]["position_ids"]}, calls[1]]

    assert watched(lab, calls, shards=2).ok
    assert codes(watched(lab, swapped, shards=2)) == {"AMBIGUOUS"}
    joined = {key: torch.cat([one[key] for one in swapped], 1) for key in swapped[0]}
    with torch.no_grad():  # two samples may have such positions
        second = lab.model(**joined, use_cache=False).logits[:, 12:]
        alone = lab.model(input_ids=ids[:, 12:], use_cache=False).logits
    assert float((second - alone).abs().max()) < SAME


# --- one rank of several -------------------------------------------------------------------------


@pytest.mark.parametrize("family", FEW)
def test_a_rank_with_slices_is_judged_by_its_batch(family, labs):
    lab = labs[family]
    wide = lab.batch.inputs["input_ids"].shape[1]
    ends = [(0, wide // 2), (wide // 2, wide)]
    for rank, share in enumerate(views(lab, ends)):
        options = {"embedded": True, "coordinates": {"dp": 0, "cp": rank}}

        assert watched(lab, [share, share], **options).ok
        other = [*views(lab, ends)][1 - rank]["position_ids"]
        wrong = {**share, "position_ids": other[..., : share["input_ids"].shape[1]]}
        if other.shape[-1] >= share["input_ids"].shape[1]:
            assert codes(watched(lab, [wrong], **options)) == {"VLM014"}


def test_a_rank_with_a_copy_of_its_tokens_is_not_asked_for_all_media(labs):
    lab = labs["llava"]
    wide = lab.batch.inputs["input_ids"].shape[1]
    (share,) = views(lab, [(0, wide // 2)])  # with all media
    copy = {key: value.clone() for key, value in share.items()}
    trace = watched(lab, [copy], embedded=True, shards=2, coordinates={"dp": 0, "cp": 0})

    assert codes(trace) == {"AMBIGUOUS"}
    assert "Rank 0 has a copy of its tokens" in said(trace)
    assert "Give all media" not in said(trace)


def test_coordinates_of_whole_calls_change_nothing(labs):
    lab = labs["llava"]
    coordinates = {"dp": 0, "tp": 0, "cp": 0, "pp": 0}

    assert watched(lab, lab.batch.chunks(1), coordinates=coordinates).ok


def test_traces_of_ranks_say_which_tokens_are_missing(labs, tmp_path):
    lab = labs["qwen2_5_vl"]
    wide = lab.batch.inputs["input_ids"].shape[1]
    for name, last in (("right", wide), ("lost", wide - 2)):
        folder = tmp_path / name
        folder.mkdir()
        for rank, share in enumerate(views(lab, [(0, wide // 2), (wide // 2, last)])):
            coordinates, log = {"dp": 0, "cp": rank}, folder / f"run{rank}.jsonl"
            trace = watched(lab, [share], embedded=True, coordinates=coordinates, log=log)
            line = json.loads(log.read_text())
            log.write_text(json.dumps({**line, "rank": rank}) + "\n")

            assert trace.ok
            assert line["identities"] == [one.digits for one in vd.identities(lab.batch)]
        merged = vd.merge(folder)

        assert merged.faults.keys() == (set() if name == "right" else {"tokens"}), str(merged)


def test_as_many_shards_as_ranks_are_one_call_of_all_ranks(labs, tmp_path, monkeypatch):
    lab = labs["llava"]
    wide = lab.batch.inputs["input_ids"].shape[1]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, share in enumerate(views(lab, [(0, wide // 2), (wide // 2, wide - 2)])):
        monkeypatch.setenv("RANK", str(rank))
        trace = watched(lab, [share], embedded=True, shards=2, log=tmp_path / "run.jsonl")
        assert trace.ok

    assert vd.merge(tmp_path).faults.keys() == {"tokens"}


def test_two_processes_of_torch_s_context_parallel(tmp_path):
    run_ranks(Path(__file__).with_name("context_parallel.py"), tmp_path)
    lines = {
        way.name: [json.loads(one.read_text()) for one in sorted(way.glob("*.jsonl"))]
        for way in tmp_path.iterdir()
    }

    assert [line["verdict"] for line in lines["right"]] == ["AMBIGUOUS", "AMBIGUOUS"]
    assert lines["right"][0]["tokens"][0]["runs"] == [[0, 16, 1], [48, 16, 1]]
    assert vd.merge(tmp_path / "right").ok
    assert "tokens" in vd.merge(tmp_path / "restart").faults
    for way, code in (("other_labels", "VLM013"), ("labels_not_split", "VLM011")):
        found = [{one["code"] for one in line["mismatches"]} for line in lines[way]]
        assert found == [{code}, {code}]


# --- packers and sharders in a trainer's own test ------------------------------------------------


def pack(inputs, chunk_size):
    """All samples in one row, without padding, and each with positions of its own."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"] != 0
    counts = mask.sum(1).tolist()
    media = {key: inputs[key] for key in ("pixel_values", "image_sizes") if key in inputs}
    yield {
        "input_ids": ids[mask][None],
        "position_ids": torch.cat([torch.arange(count) for count in counts])[None],
        **media,
    }


def pack_without_positions(inputs, chunk_size):
    for row in pack(inputs, chunk_size):
        row.pop("position_ids")
        yield row


def shard(inputs, chunk_size):
    """Two ranks with stretches of the tokens."""
    rows, wide = inputs["input_ids"].shape
    places = torch.arange(wide).repeat(rows, 1)
    media = {key: inputs[key] for key in ("pixel_values", "image_sizes") if key in inputs}
    for begin, end in ((0, wide // 2), (wide // 2, wide)):
        own = {key: inputs[key][:, begin:end] for key in ("input_ids", "attention_mask")}
        yield {**own, "position_ids": places[:, begin:end], **media}


def lose_a_column(inputs, chunk_size):
    first, second = shard(inputs, chunk_size)
    keys = ("input_ids", "attention_mask", "position_ids")
    yield first
    yield {**second, **{key: second[key][:, 1:] for key in keys}}


for sharder in (shard, lose_a_column):
    sharder.shards, sharder.embedded = 2, True


def test_assert_slices_takes_packers_and_sharders():
    for slicer in (pack, shard):
        assert_slices(slicer, families=["llava", "lighton_ocr"], max_examples=30)
    with pytest.raises(vd.MismatchError, match="VLM014"):
        assert_slices(pack_without_positions, families=["llava"], max_examples=60)
    with pytest.raises(vd.MismatchError, match="VLM006"):
        assert_slices(lose_a_column, families=["llava"], max_examples=60)


# --- tensors on a device -------------------------------------------------------------------------


@pytest.fixture
def away(monkeypatch):
    """Tensors are copied as from a device, and judged later."""
    monkeypatch.setattr("vlmdebug.watching.watch.all_on_cpu", lambda tensors: False)


@pytest.mark.parametrize("family", FEW)
def test_windows_and_shares_on_a_device_are_judged_alike(family, labs, away):
    lab = labs[family]
    wide = lab.batch.inputs["input_ids"].shape[1]
    ends = [(0, wide // 2), (wide // 2, wide)]

    assert apart(lab, prefill(lab))[1].ok
    assert "VLM006" in codes(apart(lab, begin_later(1)(lab))[1])
    assert watched(lab, views(lab, ends), shards=2, embedded=True).ok
    lost = [ends[0], (wide // 2 + 1, wide)]
    assert codes(watched(lab, views(lab, lost), shards=2, embedded=True)) == {"VLM006"}


def test_one_row_of_a_tensor_of_one_dimension_is_split_alike_on_a_device(built, away):
    lab = ShardLab(*built["llava"])
    ids, places = torch.arange(10, 33), torch.arange(23)
    calls = [
        {"input_ids": ids[None][:, begin:end], "position_ids": places[None][:, begin:end]}
        for begin, end in ((0, 12), (12, 23))
    ]

    assert watched(lab, calls, shards=2).ok
    restart = [calls[0], {**calls[1], "position_ids": places[None, :11]}]
    assert "VLM006" in codes(watched(lab, restart, shards=2))  # or rank 1 came, and is wrong
    assert not watched(lab, [calls[0], calls[0]], shards=2).ok


# --- bad and odd input ---------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [0, -1, True, "2", 2.0])
def test_bad_shards_are_refused(shards, labs):
    with (
        pytest.raises(vd.BadInput, match=r"shards is .*, but it says over how many ranks"),
        vd.watch(labs["llava"].model, shards=shards),
    ):
        pass


def test_a_bad_word_on_embedding_is_refused(labs):
    with (
        pytest.raises(vd.BadInput, match="embedded is 'yes', but it says whether"),
        vd.watch(labs["llava"].model, embedded="yes"),
    ):
        pass


ODD = {
    "other rows": lambda calls: [calls[0], {k: v[:1] for k, v in calls[1].items()}],
    "no positions": lambda calls: [{**one, "position_ids": None} for one in calls],
    "meta positions": lambda calls: [
        {**one, "position_ids": one["position_ids"].to("meta")} for one in calls
    ],
    "float positions": lambda calls: [
        {**one, "position_ids": one["position_ids"].float() * torch.nan} for one in calls
    ],
    "labels of three dimensions": lambda calls: [
        {**one, "shift_labels": one["shift_labels"][:, None]} for one in calls
    ],
    "a mask of four dimensions": lambda calls: [
        {**one, "attention_mask": one["attention_mask"][:, None, None]} for one in calls
    ],
    "no tokens": lambda calls: [{**one, "input_ids": one["input_ids"][:, :0]} for one in calls],
    "float tokens": lambda calls: [{**one, "input_ids": one["input_ids"].float()} for one in calls],
    "pixels in a list": lambda calls: [{**one, "pixel_values": [1, 2]} for one in calls],
    "one rank": lambda calls: calls[:1],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_shares_are_never_ok_and_raise_nothing(odd, way, labs):
    lab = labs["llava"]
    calls = split(lab.batch, shifted(next(lab.batch.chunks(3))), 2, way)
    for options in ({}, {"coordinates": {"cp": 1}}):
        trace = watched(lab, ODD[odd](calls), shards=2, embedded=True, **options)

        lonely = odd == "one rank" and options
        assert lonely or not trace.ok, said(trace)
        assert not [one.unread for one in trace.calls if "vlmdebug failed" in str(one.unread)]


def test_nothing_of_the_program_is_kept_alive(labs):
    lab = labs["llava"]
    from weakref import ref

    model = Asked(lab.model)
    with vd.watch(model, processor=lab.processor, on_mismatch="record", shards=2) as trace:
        pixels = lab.batch.inputs["pixel_values"].clone()
        ids = lab.batch.inputs["input_ids"].clone()
        kept = ref(pixels), ref(ids)
        model(input_ids=ids[:, :9], pixel_values=pixels)
        copy = ids[:, :9].clone()
        kept = *kept, ref(copy)
        model(input_ids=copy, pixel_values=pixels)
        del pixels, ids, copy

        assert [one() for one in kept] == [None, None, None]
    assert not trace.ok


def test_a_rank_keeps_no_tensor_of_its_last_call(labs):
    from weakref import ref

    lab = labs["llava"]
    model, rank = Asked(lab.model), {"cp": 0}
    watching = vd.watch(model, processor=lab.processor, coordinates=rank, shards=2, embedded=True)
    with watching as trace:
        call = {key: lab.batch.inputs[key].clone() for key in ("input_ids", "pixel_values")}
        kept = [ref(tensor) for tensor in call.values()]
        model(**call)
        del call

        assert [one() for one in kept] == [None, None]
    assert "AMBIGUOUS" in codes(trace)


def test_batches_of_earlier_windows_are_forgotten(labs, monkeypatch):
    monkeypatch.setattr(windows, "OPEN", 2)
    lab = labs["llava"]
    model = Asked(lab.model)
    with vd.watch(model, processor=lab.processor, on_mismatch="record"):
        for _ in range(12):
            ids, cache = lab.batch.inputs["input_ids"].clone(), Cache(0)
            for begin in (0, 4):
                model(input_ids=ids[:, begin : begin + 4], past_key_values=cache)
                cache.length += 4
        gc.collect()
        held = sum(type(one) is Whole for one in gc.get_objects())

    assert held <= 2 + KNOWN


def test_media_that_are_gone_are_said_to_be(labs):
    lab = labs["llava"]

    def calls():
        for one in split(lab.batch, shifted(next(lab.batch.chunks(3))), 2, "zigzag"):
            yield {**one, "pixel_values": one["pixel_values"].clone()}

    trace = watched(lab, calls(), shards=2, embedded=True)

    assert codes(trace) == {"AMBIGUOUS"}
    assert "gone before the last of them was called" in said(trace)


def test_media_that_are_gone_are_not_called_missing(labs):
    """The second batch shows that the calls before it are wrong shares; their pixels are gone."""
    lab = labs["llava"]

    def calls():
        for _ in range(2):
            for one in split(lab.batch, next(lab.batch.chunks(3)), 2, "contiguous"):
                places = torch.arange(one["input_ids"].shape[1]).expand(one["input_ids"].shape)
                yield {key: value.clone() for key, value in one.items()} | {"position_ids": places}

    trace = watched(lab, calls(), shards=2, embedded=True)

    assert codes(trace) == {"VLM014", "AMBIGUOUS"}, said(trace)


def test_tokens_that_copies_lack_are_said_to_be_on_no_rank(labs):
    lab = labs["llava"]
    calls = split(lab.batch, next(lab.batch.chunks(3)), 2, "contiguous")
    along = ("input_ids", "attention_mask", "position_ids")
    calls = [{key: value.clone() for key, value in one.items()} for one in calls]
    calls[1] |= {key: calls[1][key][..., 2:] for key in along}
    trace = watched(lab, calls, shards=2, embedded=True)
    finding = trace.report().findings[0]

    assert finding.code == "VLM014"
    assert "If tokens before it are on no rank, put each token on one rank." in finding.message


def test_a_label_of_padding_and_a_cut_label_are_found_on_one_rank(labs):
    lab = labs["llava"]
    shares = split(lab.batch, shifted(next(lab.batch.chunks(3))), 2, "contiguous")
    cut = each(lambda rank, call: {**call, "shift_labels": _cut(call["shift_labels"])})(shares)

    assert codes(watched(lab, cut[:1], coordinates={"cp": 0}, embedded=True)) == {"AMBIGUOUS"}
    assert "-100" in said(watched(lab, cut[:1], coordinates={"cp": 0}, embedded=True))


def _cut(labels):
    found = labels.clone()
    found[:, -1] = IGNORED
    return found


def test_a_buffer_that_is_wider_than_its_text_leaves_nothing(labs):
    lab = labs["llava"]
    ids = torch.cat([torch.arange(10, 30), torch.zeros(8, dtype=torch.long)])[None].clone()
    cache = DynamicCache(config=lab.model.config)
    windows = [ids[:, :9], ids[:, 9:20]]
    calls = [{"input_ids": one, "past_key_values": cache} for one in windows]

    assert watched(lab, calls, model=lab.model).ok
    again = [{**calls[0], "past_key_values": DynamicCache(config=lab.model.config)}]
    short = [{**one, "past_key_values": again[0]["past_key_values"]} for one in again]
    short.append({**short[0], "input_ids": ids[:, 9:18]})
    assert codes(watched(lab, short, model=lab.model)) == {"AMBIGUOUS"}


# --- whole calls between shares ------------------------------------------------------------------


def between(lab, shares, images, where):
    """The calls of shares, and whole ones of other samples before, behind or among them."""
    whole = vd.tiny.batch(lab.family, images_per_sample=images, seed=5)
    orders = {
        "before": [whole, *shares],
        "behind": [*shares, whole],
        "among": [shares[0], whole, *shares[1:]],
        "between": [whole, *shares, whole, *shares],
    }
    return orders[where]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("way", ["contiguous", "zigzag", "slices"])
@pytest.mark.parametrize("where", ["before", "behind", "among", "between"])
@pytest.mark.parametrize("images", [(1, 1), (1, 0, 1)], ids=["other rows", "as many rows"])
def test_whole_calls_between_right_shares_are_right(images, where, way, family, labs):
    lab = labs[family]
    wide = lab.batch.inputs["input_ids"].shape[1]
    if way == "slices":
        shares = [*views(lab, [(0, wide // 2), (wide // 2, wide)])]
    else:
        shares = split(lab.batch, shifted(next(lab.batch.chunks(3))), 2, way)
    trace = watched(lab, between(lab, shares, images, where), shards=2, embedded=True)

    assert trace.ok, said(trace)


@pytest.mark.parametrize("where", ["before", "behind", "among"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("way", ["zigzag"])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_shares_are_found_next_to_whole_calls(wrong, way, family, where, labs):
    change, code, shift = WRONG[wrong]
    lab, chunk = labs[family], next(labs[family].batch.chunks(3))
    shares = change(split(lab.batch, shifted(chunk) if shift else chunk, 2, way))
    options = {"shards": 2, "embedded": change is not halve_pixels}
    for images in ((1, 1), (1, 0, 1)):
        trace = watched(lab, between(lab, shares, images, where), **options)
        due = {code} | ({"AMBIGUOUS"} if wrong in MAY_BE_OPEN else set())
        broken = {"a token lost", "a token twice", "a rank lost"}  # what is left is wrong otherwise

        assert codes(trace) - {"AMBIGUOUS"} or wrong in MAY_BE_OPEN, said(trace)
        assert due & codes(trace) or wrong in broken, said(trace)


def test_rows_of_a_batch_between_shares_are_whole_calls(labs):
    lab = labs["llava"]
    shares = split(lab.batch, shifted(next(lab.batch.chunks(3))), 2, "zigzag")
    inputs = vd.tiny.batch("llava", images_per_sample=[1, 1, 0], seed=5)
    rows = [*vd.read_batch(inputs, processor=lab.processor).chunks(1)]
    trace = watched(lab, [*rows, *shares, *rows], shards=2, embedded=True)

    assert trace.ok, said(trace)


def two_shares(lab, way):
    """The batch in slices, in copies of these, or in a zigzag."""
    shares = split(lab.batch, shifted(next(lab.batch.chunks(3))), 2, way.replace("copies", WAYS[0]))
    return [{k: v.clone() for k, v in one.items()} if way == "copies" else one for one in shares]


@pytest.mark.parametrize("way", ["contiguous", "copies", "zigzag"])
@pytest.mark.parametrize("modes", [(False, True), (False, False), (True, True, True)])
@pytest.mark.parametrize("images", [(2, 0, 1), (0, 0, 0)], ids=["images", "text"])
def test_models_may_have_each_share_in_turn(images, modes, way, built):
    """As a policy with gradients, and its reference without; or both without, by one model."""
    lab = ShardLab(*built["llava"], images=images)
    model = Asked(lab.model)
    options = {"processor": lab.processor, "on_mismatch": "record", "shards": 2, "embedded": True}
    with vd.watch(model, **options) as trace:
        for share in two_shares(lab, way) * 2:
            for grads in modes:
                with torch.set_grad_enabled(grads):
                    model(**share)

    assert trace.ok, said(trace)


@pytest.mark.parametrize("way", ["contiguous", "copies", "zigzag"])
@pytest.mark.parametrize("images", [(2, 0, 1), (0, 0, 0)], ids=["images", "text"])
def test_a_share_that_comes_for_another_is_not_taken_for_one_in_turn(images, way, built):
    lab = ShardLab(*built["llava"], images=images)
    shares = two_shares(lab, way)
    may_be_whole = not any(images) and way == "copies"  # the first half of a text
    for calls in ([shares[0]] * 2, [*shares, shares[0], shares[0]]):
        trace = watched(lab, calls, shards=2, embedded=True)

        assert ("VLM006" in codes(trace)) != may_be_whole, said(trace)
        assert not may_be_whole or codes(trace) == {"AMBIGUOUS"}


def test_calls_that_are_whole_or_wrong_shares_are_undecided(labs):
    """As many whole calls one after another as there are ranks, next to right shares."""
    lab = labs["llava"]
    shares = split(lab.batch, shifted(next(lab.batch.chunks(3))), 2, "zigzag")
    wholes = [dict(vd.tiny.batch("llava", images_per_sample=[1, 1], seed=n)) for n in range(2)]
    trace = watched(lab, [*shares, *wholes], shards=2, embedded=True)

    assert codes(trace) == {"AMBIGUOUS"}
    assert said(trace).startswith(
        "2 calls may be whole, and right, or share the tokens of one batch, and then be wrong "
        "(first in chunk 0). Watch calls"
    )
    assert "in a block of their own, vlmdebug.watch(model, shards=…)" in said(trace)


def test_one_whole_call_alone_is_undecided(labs):
    lab = labs["llava"]
    trace = watched(lab, [vd.tiny.batch("llava", [1, 1])], shards=2, embedded=True)

    assert codes(trace) == {"AMBIGUOUS"}
    assert "1 call may be whole" in said(trace)


def test_a_wrong_whole_call_is_named_by_its_own_fault(labs):
    lab = labs["llava"]
    shares = split(lab.batch, shifted(next(lab.batch.chunks(3))), 2, "zigzag")
    whole = dict(vd.tiny.batch("llava", images_per_sample=[1, 1], seed=5))
    whole["pixel_values"] = whole["pixel_values"][:1]
    trace = watched(lab, [whole, *shares], shards=2, embedded=True)

    assert codes(trace) == {"VLM006", "VLM001"}, said(trace)  # or one whose others never came
    assert [call.ok for call in trace.calls] == [True, True, True, False]
