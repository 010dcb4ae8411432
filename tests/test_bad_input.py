"""Bad input gets our message: what was given, what belongs there, what to do. Never torch's own."""

from __future__ import annotations

import pytest
import torch

import vlmdebug as vd
from vlmdebug import slicers


@pytest.fixture(scope="module")
def qwen():
    return dict(vd.tiny.batch("qwen2_5_vl", [2, 0, 1])), vd.tiny.build("qwen2_5_vl")[1]


@pytest.fixture(scope="module")
def gemma():
    return dict(vd.tiny.batch("gemma4", [2, 0, 1])), vd.tiny.build("gemma4")[1]


def said(call) -> str:
    with pytest.raises(vd.BadInput) as caught:
        call()
    return str(caught.value)


TENSORS = {
    "input_ids missing": (
        {"input_ids": None},
        "input_ids is missing or None; the batch has attention_mask, mm_token_type_ids, "
        "pixel_values, image_grid_thw. Samples are the rows of input_ids, so nothing can be cut "
        "without it. Pass what the processor returned for text and images together.",
    ),
    "pixels missing": (
        {"pixel_values": None},
        "pixel_values is missing or None, but image_grid_thw (3, 3) is there; layout qwen2_5_vl "
        "needs both. A model would raise or, worse, see no images. "
        "Keep every key the processor returned.",
    ),
    "grid missing": (
        {"image_grid_thw": None},
        "image_grid_thw is missing or None, but pixel_values (152, 1176) is there; layout "
        "qwen2_5_vl needs both. A model would raise or, worse, see no images. "
        "Keep every key the processor returned.",
    ),
    "grid of other patches": (
        {"image_grid_thw": torch.tensor([[1, 2, 2], [1, 2, 2], [1, 2, 2]])},
        "image_grid_thw asks for 12 patches (3 images), but pixel_values has 152 rows. The two "
        "belong to different batches or one was cut without the other. "
        "Pass both as the processor returned them.",
    ),
    "grid without dimensions": (
        {"image_grid_thw": torch.tensor([1, 2, 2])},
        "image_grid_thw has shape (3,), but in layout qwen2_5_vl it is (image, 3). Rows would be "
        "counted on the wrong dimension. Pass it as the processor returned it.",
    ),
    "list": (
        {"input_ids": [[1, 2], [3, 4]]},
        "input_ids is a list of 2, but rows can be followed only in a tensor. Call the processor "
        'with return_tensors="pt" and padding=True, or leave the key out.',
    ),
    "one dimension": (
        {"input_ids": torch.tensor([1, 2, 3])},
        "input_ids has shape (3,), but a batch has one row of tokens per sample: (sample, seq), at "
        "least one of each. Nothing was cut. "
        "Pass the batch as the processor returned it, with padding=True.",
    ),
    "empty batch": (
        {"input_ids": torch.zeros(0, 63, dtype=torch.long)},
        "input_ids has shape (0, 63), but a batch has one row of tokens per sample: (sample, seq), "
        "at least one of each. Nothing was cut. "
        "Pass the batch as the processor returned it, with padding=True.",
    ),
    "floats": (
        {"input_ids": torch.zeros(3, 63)},
        "input_ids holds torch.float32, but token ids are whole numbers. An embedding would refuse "
        "them. Pass input_ids as the tokenizer returned them.",
    ),
    "mask of other samples": (
        {"attention_mask": torch.ones(2, 63, dtype=torch.long)},
        "attention_mask has 2 rows, but input_ids has 3, one per sample. One of the two was cut or "
        "padded without the other. Pass both as the processor returned them.",
    ),
    "no dimension": (
        {"pixel_values": torch.tensor(3)},
        "pixel_values is tensor(3), but it is a tensor with a row per sample, image, tile or "
        "patch. Pass it as the processor returned it, or leave it out.",
    ),
    "meta device": (
        {"pixel_values": torch.empty(152, 1176, device="meta")},
        "pixel_values is on the meta device: it has a shape (152, 1176) but no values, so rows "
        "cannot be identified. Pass the batch before it is moved to meta.",
    ),
}


@pytest.mark.parametrize(("change", "message"), TENSORS.values(), ids=TENSORS.keys())
def test_wrong_tensors(qwen, change, message):
    inputs, processor = qwen

    assert said(lambda: vd.read_batch({**inputs, **change}, processor=processor)) == message


def test_tensors_on_two_devices(qwen):
    """As on a machine with an accelerator; a stand-in says where it lies."""

    class Elsewhere:
        shape, device, ndim, dtype = (152, 1176), "cuda:0", 2, torch.float32

        def __len__(self):
            return 152

    message = said(
        lambda: vd.read_batch({**qwen[0], "pixel_values": Elsewhere()}, processor=qwen[1])
    )

    assert message == (
        "The tensors are on 2 devices: input_ids on cpu, pixel_values on cuda:0. "
        "A model would refuse such a batch. Move all of it: inputs.to(device)."
    )


COUNTS = {
    "other sum": (
        [2, 0, 2],
        "num_images adds up to 4 images, but image_grid_thw has 3 rows, one per image. Every cut "
        "after the first wrong count would be shifted. "
        "If num_images is right, the batch lacks 1 image: pass it as the processor returned it. "
        "Otherwise give as num_images how many images of each sample are in the batch.",
    ),
    "other sum, less": (
        [1, 0, 1],
        "num_images adds up to 2 images, but image_grid_thw has 3 rows, one per image. Every cut "
        "after the first wrong count would be shifted. "
        "If num_images is right, the batch has 1 image too many: pass it as the processor returned "
        "it. Otherwise give as num_images how many images of each sample are in the batch.",
    ),
    "negative": (
        [2, -1, 2],
        "num_images[1] is -1, but a count is a whole number, 0 or more. Nothing was read. "
        "Pass 0 for a sample that has none.",
    ),
    "float": (
        [2, 0, 1.0],
        "num_images[2] is 1.0, but a count is a whole number, 0 or more. Nothing was read. "
        "Pass 0 for a sample that has none.",
    ),
    "truth value": (
        [True, 0, 2],
        "num_images[0] is True, but a count is a whole number, 0 or more. Nothing was read. "
        "Pass 0 for a sample that has none.",
    ),
    "other samples": (
        [2, 1],
        "num_images has 2 entries, but the batch has 3 samples (rows of input_ids). "
        "Give one number per sample, 0 for a text-only one.",
    ),
    "no list": (
        3,
        "num_images is 3, but it holds one whole number per sample. "
        "Pass a list of 3 numbers, such as num_images=[1, 1, 1].",
    ),
}


@pytest.mark.parametrize(("counts", "message"), COUNTS.values(), ids=COUNTS.keys())
def test_wrong_counts(qwen, counts, message):
    inputs, processor = qwen

    assert said(lambda: vd.read_batch(inputs, processor=processor, num_images=counts)) == message


def test_counts_inside_the_batch_are_read_and_checked_likewise(qwen):
    inputs, processor = qwen
    read = vd.read_batch({**inputs, "num_images": [2, 0, 1]}, processor=processor)

    assert read.counts["image"].evidence == "num_images"
    assert "adds up to 4" in said(
        lambda: vd.read_batch({**inputs, "num_images": [2, 1, 1]}, processor=processor)
    )


def test_tensor_of_counts_is_as_good_as_a_list(qwen):
    inputs, processor = qwen
    read = vd.read_batch(inputs, processor=processor, num_images=torch.tensor([2, 0, 1]))

    assert read.counts["image"] == (2, 0, 1)


def test_one_key_cut_without_the_other(gemma):
    inputs, processor = gemma
    message = said(
        lambda: vd.read_batch(
            {**inputs, "pixel_values": inputs["pixel_values"][:2]}, processor=processor
        )
    )

    assert message.startswith(
        "pixel_values has 2 rows on dim 0, but layout gemma4 has one row per image "
        "and the batch has 3 images"
    )


def test_processor_of_another_model(gemma, qwen):
    config = vd.tiny.build("gemma4")[0].config

    assert said(lambda: vd.read_batch(qwen[0], processor=qwen[1], config=config)) == (
        "The config is gemma4's (layout gemma4), the processor qwen2_5_vl's (layout qwen2_5_vl). "
        "Their tensors differ, so no batch fits both. Load both from the same checkpoint."
    )
    assert "image_position_ids is missing" in said(
        lambda: vd.read_batch(qwen[0], processor=gemma[1])
    )


@pytest.mark.parametrize("inputs", [None, 3, "batch.pt", torch.ones(2, 2)], ids=repr)
def test_no_batch_at_all(inputs):
    assert "a batch is a mapping of names to tensors" in said(lambda: vd.read_batch(inputs))


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None, "2"], ids=repr)
def test_chunk_size_that_is_none(gemma, size):
    batch = vd.read_batch(gemma[0], processor=gemma[1])
    message = (
        f"chunk_size is {size!r}, but a chunk holds a whole number of samples, at least 1. "
        "Nothing was cut. Pass chunk_size=1 or more."
    )

    assert said(lambda: batch.chunks(size)) == message
    assert said(lambda: vd.check(slicers.corrected, batch, chunk_size=size)) == message


LAYOUTS = {
    "unknown family": (
        "gemma5",
        "'gemma5' is not a layout family; did you mean 'gemma4'? Or pass layout=",
    ),
    "a number": (3, "layout is 3, but it is a family's name, a Layout, or {key: unit}."),
    "unknown unit": (
        {"pixel_values": "pixel"},
        "layout['pixel_values'] is Axis(unit='pixel', dim=0, padded=None), but a row counts one of "
        "sample, sample with images, image, tile, patch, feature, video, video patch, frame, video "
        "feature, audio, window, token, batch.",
    ),
}


@pytest.mark.parametrize(("layout", "message"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts_that_are_none(gemma, layout, message):
    assert said(lambda: vd.read_batch(gemma[0], layout=layout)).startswith(message)


SLICERS = {
    "a dict": (
        lambda i, c: dict(i),
        "The slicer returned a dict, but a slicer returns one chunk after",
    ),
    "nothing": (
        lambda i, c: None,
        "The slicer returned None, but a slicer returns one chunk after",
    ),
    "tensors": (
        lambda i, c: [i["input_ids"]],
        "The slicer gave a Tensor as chunk 0, but a chunk is a mapping of names to tensors",
    ),
}


@pytest.mark.parametrize(("slicer", "message"), SLICERS.values(), ids=SLICERS.keys())
def test_slicers_that_give_no_chunks(gemma, slicer, message):
    assert said(lambda: vd.check(slicer, gemma[0], processor=gemma[1])).startswith(message)


def test_slicer_that_is_no_function(gemma):
    model, processor = vd.tiny.build("gemma4")

    assert said(lambda: vd.check(3, gemma[0], processor=processor)).startswith(
        "The slicer is a int, but a slicer is a function of (inputs, chunk_size)"
    )
    assert "not a function" in said(lambda: vd.prove(3, gemma[0], model))
    assert said(lambda: vd.prove(slicers.corrected, gemma[0], None)).startswith(
        "The model is a NoneType, but prove calls it"
    )


def test_report_that_is_none(tmp_path):
    (tmp_path / "no.json").write_text('{"a": 1}')

    assert "This is not a report" in said(lambda: vd.Report.from_json(tmp_path / "no.json"))
    assert "This is not a report" in said(lambda: vd.Report.from_json("{nope"))
    assert "neither a file nor JSON" in said(lambda: vd.Report.from_json(tmp_path / "none.json"))


def test_synthetic_batch_with_numbers_that_do_not_fit():
    assert said(lambda: vd.make_batch("gemma4", [1], sizes=[1, 2])) == (
        "sizes is [1, 2], but the samples have 1 image. Give one whole number above 0 per image."
    )
    assert "at least one sample" in said(lambda: vd.make_batch("gemma4", []))


@pytest.mark.parametrize("images", [[1], [0], [0, 0], [3]], ids=str)
def test_small_batches_are_no_bad_input(images):
    batch = vd.read_batch(vd.tiny.batch("gemma4", images), processor=vd.tiny.build("gemma4")[1])

    assert batch.counts["image"] == tuple(images)
    assert vd.check(batch).ok
    assert vd.check(slicers.corrected, batch, chunk_size=5).ok


def test_batch_that_is_read_already_ignores_nothing_in_silence(gemma):
    batch = vd.read_batch(gemma[0], processor=gemma[1])

    assert said(lambda: vd.check(slicers.corrected, batch, num_images=[2, 0, 1])) == (
        "num_images= came with a Batch, which is read already and would ignore it. "
        "Pass what the processor returned, or batch.inputs, to have it read again."
    )


REPORTS = {
    "a long word": "x" * 5000,
    "a list": "[1]",
    "no text": "\x00",
    "another format": '{"vlmdebug_report": 99}',
    "no fields": '{"vlmdebug_report": 1}',
    "other fields": '{"vlmdebug_report": 1, "family": "a", "slicer": null, "layout": {}, "counts": []}',  # noqa: E501
    "no numbers": '{"vlmdebug_report":1,"family":"a","slicer":null,"layout":{},"counts":{"image":3}}',  # noqa: E501
}


@pytest.mark.parametrize("text", REPORTS.values(), ids=REPORTS.keys())
def test_text_that_is_no_report(text):
    message = said(lambda: vd.Report.from_json(text))

    assert message.startswith("This is not a report") or "neither a file nor JSON" in message
    assert message.count("This is not a report") <= 1


def test_file_that_holds_no_text(tmp_path):
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00{")

    assert "neither a file nor JSON" in said(lambda: vd.Report.from_json(tmp_path / "report.json"))
    assert "neither a file nor JSON" in said(lambda: vd.Report.from_json(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [("processor", "Qwen/Qwen2.5-VL-3B-Instruct"), ("config", {"merge_size": 2}), ("model", "q")],
)
def test_a_name_in_place_of_the_thing_is_not_ignored(qwen, name, value):
    with pytest.raises(vd.BadInput, match=rf"^{name} is a \w+, but nothing is loaded"):
        vd.read_batch(qwen[0], **{name: value})


def test_falsify_and_record_say_what_they_take():
    with pytest.raises(vd.BadInput, match=r"^falsify was given a str, but a slicer is"):
        vd.falsify("grpo")
    with pytest.raises(vd.BadInput, match=r"^record was given a Linear, but it takes"):
        vd.record(torch.nn.Linear(1, 1))


def test_object_with_tensors_is_refused_by_its_name(gemma):
    class Media:
        def __init__(self):
            self.pixels = torch.rand(3, 2)

    text = said(lambda: vd.read_batch({**gemma[0], "media": Media()}))

    assert text.startswith(
        "media is a Media with the tensors pixels, but rows can be followed only"
    )


# --- counts of other units --------------------------------------------------------------------

COUNTS = {
    "no dict": ([4, 0, 3], {}, "counts is [4, 0, 3], but it holds counts per sample by unit."),
    "a unit that is no name": ({3: [1, 1, 1]}, {}, "counts names the unit 3, which cannot be"),
    "samples": ({"sample": [1, 1, 1]}, {}, "counts names the unit 'sample', which cannot be"),
    "too few": ({"row": [1]}, {}, 'counts["row"] has 1 entries, but the batch has 3 samples'),
    "a name that acts": (
        {"a\n::error::": [1, 1, 1]},
        {},
        "counts names the unit 'a\\n::error::', which cannot be counted per sample, or is no short",
    ),
    "twice, and not alike": (
        {"image": [1, 1, 1]},
        {"num_images": [2, 0, 1]},
        'counts["image"] is [1, 1, 1], but num_images is [2, 0, 1]. Both count the images of each',
    ),
    "other than the batch": (
        {"patch": [1, 0, 2]},
        {},
        'counts["patch"] is [1, 0, 2], but image_grid_thw, placeholder tokens in input_ids',
    ),
}


@pytest.mark.parametrize(("counts", "given", "message"), COUNTS.values(), ids=COUNTS.keys())
def test_counts_that_are_none(qwen, counts, given, message):
    inputs, processor = qwen

    assert said(
        lambda: vd.read_batch(inputs, processor=processor, counts=counts, **given)
    ).startswith(message)


def test_counts_by_unit_are_those_of_the_named_arguments(qwen):
    inputs, processor = qwen
    named = vd.read_batch(inputs, processor=processor, num_images=[2, 0, 1])
    batch = vd.read_batch(inputs, processor=processor, counts={"image": [2, 0, 1]})

    assert batch.counts == named.counts
