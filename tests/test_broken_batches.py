"""Whole batches as collators and trainers break them, and their harmless twins: the model judges.

Each is checked as its owner would, without saying which images belong to which sample.
"""

from __future__ import annotations

import pytest
import torch
from differential.sound import Sound, run, sound

import vlmdebug as vd
from vlmdebug.errors import NotJudged

WITH_TEXT = (2, 0, 1)
GRIDS = ("qwen2_5_vl", "qwen3_vl", "glm4v", "ernie4_5_vl_moe")
MASKS = (("mllama", "cross_attention_mask"), ("idefics", "image_attention_mask"))


def batch(family: str, images: tuple[int, ...] = WITH_TEXT, side: str = "left") -> Sound:
    return sound(family, images, None, side, 0)


def checked(source: Sound, **changes) -> vd.Report:
    inputs = {**source.inputs, **changes}
    known = {"processor": source.processor, "config": source.model.config}
    return vd.check(inputs, pictures=False, **known)


def answer(source: Sound, **changes) -> torch.Tensor | None:
    """Logits of the tokens of the batch; None where the model raises."""
    try:
        return run(source.model, {**source.inputs, **changes})
    except Exception:
        return None


def differs(source: Sound, **changes) -> bool:
    logits = answer(source, **changes)
    assert logits is not None
    return float((logits - source.logits)[source.real].abs().max()) > 1e-3


def codes(report: vd.Report) -> list[tuple[str, str | None, str]]:
    return [(found.code, found.worst.key, found.loudness) for found in report.findings]


# --- masks of images for each token ----------------------------------------------------------


@pytest.mark.parametrize(("family", "key"), MASKS)
@pytest.mark.parametrize("images", [WITH_TEXT, (1, 1), (1, 2, 1)])
@pytest.mark.parametrize("by", [-3, 2])
def test_mask_of_images_that_moved_along_the_tokens_is_found(family, key, images, by):
    source = batch(family, images)
    moved = source.inputs[key].roll(by, 1)
    report = checked(source, **{key: moved})

    assert checked(source).ok
    assert differs(source, **{key: moved})
    assert codes(report) == [("VLM010", key, "silent")]
    side = "right" if by > 0 else "left"
    stands = f"it stands {abs(by)} columns to the {side} of them"
    if family == "mllama":  # whose images stand in front of their texts
        assert stands in report.findings[0].message


@pytest.mark.parametrize(("family", "key"), MASKS)
def test_mask_of_images_of_another_sample_is_found(family, key):
    source = batch(family)
    other = source.inputs[key].flip(0)

    assert differs(source, **{key: other})
    assert codes(checked(source, **{key: other})) == [("VLM010", key, "silent")]


def test_mask_of_images_that_shows_padded_tiles_is_found():
    source = batch("mllama")
    shown = source.inputs["cross_attention_mask"].amax(-1, keepdim=True)
    wide = shown.expand_as(source.inputs["cross_attention_mask"]).contiguous()

    assert differs(source, cross_attention_mask=wide)
    assert [code for code, _, _ in codes(checked(source, cross_attention_mask=wide))] == ["VLM010"]


@pytest.mark.parametrize(("family", "key"), MASKS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_may_show_what_it_likes(family, key, side):
    source = batch(family, side=side)
    mask = source.inputs[key].clone()
    mask[~source.real] = 1 - mask[~source.real]

    assert checked(source, **{key: mask}).ok


@pytest.mark.parametrize(("family", "key"), MASKS)
def test_report_says_what_a_mask_of_images_was_compared_with(family, key):
    assert f"{key} against images in input_ids" in " ".join(str(checked(batch(family))).split())


@pytest.mark.parametrize("family", ["idefics", "kosmos-2", "kosmos-2.5"])
def test_slicer_that_leaves_a_mask_longer_than_its_tokens_is_found(family):
    source = batch(family, (1, 1, 1), "right")
    key = "image_attention_mask" if family == "idefics" else "image_embeds_position_mask"

    def cut(*keys):
        def slicer(inputs, chunk_size):
            for start in range(len(inputs["input_ids"])):
                chunk = {name: inputs[name][start : start + 1] for name in source.inputs}
                yield {n: value[:, :-1] if n in keys else value for n, value in chunk.items()}

        return slicer

    tokens = ("input_ids", "attention_mask")
    wrong, right = cut(*tokens), cut(*tokens, key)
    known = {"processor": source.processor, "config": source.model.config}

    assert vd.check(right, source.inputs, **known).ok
    assert codes(vd.check(wrong, source.inputs, **known)) == [("VLM011", key, "unknown")]
    with pytest.raises((IndexError, RuntimeError)):
        run(source.model, next(wrong(source.inputs, 1)))


@pytest.mark.parametrize("by", [0, 3])
def test_mask_of_images_that_is_longer_than_its_tokens_is_not_said_to_be_compared(by):
    source = batch("mllama")
    mask = source.inputs["cross_attention_mask"]
    longer = torch.nn.functional.pad(mask, (0, 0, 0, 0, by, 3 - by))
    report = checked(source, cross_attention_mask=longer)
    said = {str(one) for one in report.compared}

    assert report.verdict == "AMBIGUOUS"
    assert "cross_attention_mask against images in input_ids" not in said
    assert differs(source, cross_attention_mask=longer) == (by > 0)


def test_mask_of_images_is_compared_where_pixels_are_not_finite():
    source = batch("mllama")
    pixels = source.inputs["pixel_values"].clone()
    pixels[0, 0, 0, 0, 0, 0] = float("nan")
    moved = source.inputs["cross_attention_mask"].roll(2, 1)
    report = checked(source, pixel_values=pixels, cross_attention_mask=moved)

    assert codes(report) == [("VLM010", "cross_attention_mask", "silent")]


# --- rows ------------------------------------------------------------------------------------


def test_dimension_in_front_of_patches_is_named_and_does_no_harm():
    source = batch("qwen2_5_vl")
    pixels = source.inputs["pixel_values"][None]
    report = checked(source, pixel_values=pixels)

    assert not differs(source, pixel_values=pixels)
    assert (report.verdict, report.findings) == ("AMBIGUOUS", ())
    assert [said for said in report.ambiguities if "a dimension was added in front" in said]


@pytest.mark.parametrize("family", ["ernie4_5_vl_moe", "hy_v4_vl"])
def test_dimension_of_patches_that_a_model_refuses_is_found(family):
    source = batch(family)
    for pixels in (source.inputs["pixel_values"][None], source.inputs["pixel_values"][:, None]):
        assert answer(source, pixel_values=pixels) is None
        assert codes(checked(source, pixel_values=pixels)) == [("VLM010", None, "loud")]


@pytest.mark.parametrize("family", ["idefics3", "idefics2", "granite_docling"])
def test_rows_of_samples_with_images_alone_are_no_mismatch(family):
    source = batch(family)
    kept = {key: source.inputs[key][[0, 2]] for key in source.owned}
    report = checked(source, **kept)

    assert not differs(source, **kept)
    assert (report.verdict, report.findings) == ("AMBIGUOUS", ())
    assert "none for the others" in report.ambiguities[0]


@pytest.mark.parametrize("family", ["idefics3", "smolvlm", "idefics2"])
def test_images_of_zeros_are_not_said_to_run(family):
    source = batch(family)
    zeros = torch.zeros_like(source.inputs["pixel_values"])
    report = checked(source, pixel_values=zeros)

    assert answer(source, pixel_values=zeros) is None
    assert {found.loudness for found in report.findings} == {"unknown"}


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_git_repeats_images_where_they_divide_the_texts(rows):
    source = batch("git", (1, 1, 1, 1), "right")
    pixels = source.inputs["pixel_values"][:rows]
    report = checked(source, pixel_values=pixels)
    runs = answer(source, pixel_values=pixels) is not None

    assert runs == (4 % rows == 0)
    assert codes(report) == [("VLM010", "pixel_values", "unknown" if runs else "loud")]


# --- tokens ----------------------------------------------------------------------------------


def with_a_row_of_padding(source: Sound) -> dict[str, torch.Tensor]:
    added = {
        key: torch.cat([source.inputs[key], torch.zeros_like(source.inputs[key][:1])])
        for key in source.tokens
    }
    added["input_ids"][-1] = source.processor.tokenizer.pad_token_id
    return added


@pytest.mark.parametrize("family", GRIDS)
def test_row_of_padding_alone_is_refused_where_the_model_refuses_it(family):
    source = batch(family)
    added = with_a_row_of_padding(source)
    report = checked(source, **added)

    assert answer(source, **added) is None
    assert codes(report) == [("VLM010", "attention_mask", "loud")]
    assert "shows no token of sample 3" in report.findings[0].message


def test_row_of_padding_alone_is_not_said_to_raise_where_nothing_is_laid_out():
    source = batch("qwen2_5_vl")
    inputs = {**source.inputs, **with_a_row_of_padding(source)}
    inputs.pop("mm_token_type_ids")
    report = vd.check(inputs, processor=source.processor, config=source.model.config)

    assert run(source.model, inputs) is not None
    assert codes(report) == [("VLM003", "mm_token_type_ids", "silent")]


@pytest.mark.parametrize("family", ["llava", "gemma3", "video_llama_3"])
def test_row_of_padding_alone_is_right_where_the_model_takes_it(family):
    source = batch(family)
    added = with_a_row_of_padding(source)

    assert answer(source, **added) is not None
    assert checked(source, **added).ok


@pytest.mark.parametrize("family", GRIDS)
def test_texts_in_another_order_than_their_types_are_not_said_to_raise(family):
    source = batch(family)
    ids = source.inputs["input_ids"].flip(0)
    report = checked(source, input_ids=ids)

    assert differs(source, input_ids=ids)
    assert report.verdict == "MISMATCH"
    assert "loud" not in {found.loudness for found in report.findings}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "paligemma"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_that_are_a_copy_of_the_padding_are_found(family, side):
    source = batch(family, (1, 2, 1), side)
    ids, media = (
        source.inputs["input_ids"],
        vd.read_batch(source.inputs, processor=source.processor).image.token_id,
    )
    labels = ids.masked_fill(ids == media, -100)
    if family == "paligemma":  # its prompts are not learned
        labels = labels.masked_fill(source.real, -100)
    right = labels.masked_fill(~source.real, -100)
    found = codes(checked(source, labels=labels))

    assert checked(source, labels=right).ok
    assert found == [("VLM013", "labels", "silent")]
    if family != "paligemma":
        with torch.no_grad():
            losses = [source.model(**source.inputs, labels=x).loss for x in (labels, right)]
        assert float(losses[0] - losses[1]) != 0


def ending(source: Sound, hidden: int) -> dict[str, torch.Tensor]:
    """The batch with texts that end in the padding token, which is learned, and nothing behind.

    `hidden`: how many of the last tokens of the longest text a mask of `ids != pad` hides.
    """
    inputs, pad = source.inputs, source.processor.tokenizer.pad_token_id
    media = vd.read_batch(inputs, processor=source.processor).image.token_id
    ids = torch.nn.functional.pad(inputs["input_ids"], (0, hidden), value=pad)
    labels = torch.full_like(ids, -100)
    for sample, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        text = ids[sample, : length + hidden]
        labels[sample, : length + hidden] = text.masked_fill(text == media, -100)
    more = {"input_ids": ids, "attention_mask": (ids != pad).long(), "labels": labels}
    types = inputs.get("mm_token_type_ids")
    pads = torch.nn.functional.pad
    return more if types is None else {**more, "mm_token_type_ids": pads(types, (0, hidden))}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_end_of_text_that_is_the_padding_token_may_be_learned(family):
    source = batch(family, (1, 2, 1), "right")

    assert checked(source, **ending(source, 1)).ok
    assert codes(checked(source, **ending(source, 2))) == [("VLM013", "labels", "silent")]


def test_labels_of_one_column_of_padding_in_front_are_never_read():
    source = batch("llava", (1, 1), "left")
    ids, media = (
        torch.nn.functional.pad(
            source.inputs["input_ids"], (1, 0), value=source.processor.tokenizer.pad_token_id
        ),
        vd.read_batch(source.inputs, processor=source.processor).image.token_id,
    )
    mask = torch.nn.functional.pad(source.inputs["attention_mask"], (1, 0))
    labels = ids.masked_fill(mask == 0, -100).masked_fill(ids == media, -100)
    labels[:, 0] = ids[:, 0]
    longest = int(mask.sum(1).argmax())
    first = labels.clone()
    first[longest, 0] = -100
    batches = [{"input_ids": ids, "attention_mask": mask, "labels": x} for x in (labels, first)]

    with torch.no_grad():
        losses = [float(source.model(**{**source.inputs, **one}).loss) for one in batches]
    assert losses[0] == losses[1]
    assert all(checked(source, **one).ok for one in batches)


def test_labels_of_tokens_that_a_mask_hides_on_purpose_are_a_doubt_alone():
    source = batch("llava", (1, 1), "right")
    mask, media = (
        source.inputs["attention_mask"].clone(),
        vd.read_batch(source.inputs, processor=source.processor).image.token_id,
    )
    ids = source.inputs["input_ids"]
    labels = ids.masked_fill(~source.real, -100).masked_fill(ids == media, -100)
    mask[:, -4:-2] = 0
    report = checked(source, attention_mask=mask, labels=labels)

    assert (report.verdict, report.findings) == ("AMBIGUOUS", ())


# --- slicers ---------------------------------------------------------------------------------


def test_slicer_that_treats_every_key_as_a_tensor_gets_the_batch_as_it_is():
    source = batch("llava")
    known = {"processor": source.processor, "config": source.model.config}

    def by_index(offset):
        def slicer(inputs, chunk_size):
            moved = {key: value.to("cpu") for key, value in inputs.items()}  # lists have no `to`
            pixels = moved.pop("pixel_values")
            for sample, rows in enumerate([[0, 1], [], [2]]):
                tokens = {key: value[[sample]] for key, value in moved.items()}
                own = pixels[[(row + offset) % 3 for row in rows]]
                yield {**tokens, "pixel_values": own} if rows else tokens

        return slicer

    assert vd.check(by_index(0), source.inputs, **known).ok
    wrong = vd.check(by_index(1), source.inputs, **known)
    assert [found.code for found in wrong.findings] == ["VLM002"]


def test_slicer_that_raises_on_any_batch_is_judged_by_its_first_run():
    source = batch("llava")
    seen = []

    def slicer(inputs, chunk_size):
        seen.append("num_images" in inputs)
        raise RuntimeError("boom")
        yield {}

    report = vd.check(slicer, source.inputs, processor=source.processor)

    assert [found.code for found in report.findings] == ["VLM008"]
    assert seen == [True, False]


def test_slicer_that_writes_into_the_batch_and_raises_is_not_run_again():
    source = batch("llava")
    inputs = {key: value.clone() for key, value in source.inputs.items()}

    def slicer(given, chunk_size):
        given["input_ids"].add_(1)
        raise RuntimeError("boom")
        yield {}

    vd.check(slicer, inputs, processor=source.processor)

    assert torch.equal(inputs["input_ids"], source.inputs["input_ids"] + 1)


@pytest.mark.parametrize("end", [SystemExit(2), NotJudged("not known")])
def test_slicer_that_raises_is_judged_where_its_second_run_cannot_be(end):
    source = batch("llava")

    def slicer(inputs, chunk_size):
        if "num_images" not in inputs:
            raise end
        raise RuntimeError("boom")
        yield {}

    report = vd.check(slicer, source.inputs, processor=source.processor)

    assert [found.code for found in report.findings] == ["VLM008"]
    assert "RuntimeError" in report.findings[0].message
