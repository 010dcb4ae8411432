"""Media that are trimmed alike in the whole batch: one row is smaller than the model takes.

The real tiny models are the judge: no such batch is OK that a model refuses or reads otherwise.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from architectures import UNMARKED, architectures, built

import vlmdebug as vd
from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.tiny.registry import ONE_IMAGE

REFUSES_TEXT = {*ONE_IMAGE, *UNMARKED, "paligemma"}
HIDDEN = {
    ("deepseek_ocr2", "config", "pixel_values_local"),
    ("step3p7", "config", "pixel_values_local"),
    *((name, "config", "pixel_values") for name in ("florence2", "gemma3n", "fast_vlm")),
    ("inkling_mm_model", "processor", "pixel_values"),
}
"""What one of the two cannot know: sizes that only a processor sets, frames that it does not name.
"""
EACH = pytest.mark.parametrize("name", [*architectures(), *architectures(ONE_IMAGE)])


def inputs_of(name, **options):
    images = [1, 1, 1] if name in REFUSES_TEXT else [2, 0, 1]
    return dict(vd.tiny.batch(name, images, **options))


def run(model, inputs):
    """Logits, or None where the model raises."""
    try:
        with torch.no_grad():
            return model(**inputs).logits
    except Exception:
        return None


def trimmed(inputs):
    """Batches of which one media key is shorter on one dimension in all rows alike."""
    for key in sorted(MEDIA_KEYS & inputs.keys()):
        value = inputs[key]
        for dim in range(1, value.ndim):
            size = value.shape[dim]
            for to in sorted({2, size // 2, size - 1} & {*range(1, size)}):
                yield key, f"{key}, dim {dim}: {size} to {to}", value.narrow(dim, 0, to)


def verdict(inputs, **known):
    """The report, or None where the batch is refused by name."""
    try:
        return vd.check(inputs, pictures=False, **known)
    except vd.BadInput:
        return None


@EACH
def test_trimmed_media_are_not_ok_where_the_model_refuses_or_misreads_them(name):
    model, processor = built(name)
    inputs = inputs_of(name)
    right = run(model, inputs)
    ways = {"processor": {"processor": processor}, "config": {"config": model.config}}
    missed, tried = [], 0
    for key, what, value in trimmed(inputs):
        wrong = {**inputs, key: value}
        logits = run(model, wrong)
        alike = logits is not None and logits.shape == right.shape
        if alike and torch.allclose(logits, right, atol=1e-4):
            continue
        tried += 1
        for way, known in ways.items():
            report = verdict(wrong, **known)
            if report is None:
                continue
            if report.ok and (name, way, key) not in HIDDEN:
                missed.append(f"{way}: {what}")
            loud = {one.silent for one in report.mismatches}
            assert not (loud == {False} and logits is not None), what

    assert missed == []
    assert tried >= 2


def test_patches_are_compared_without_processor_and_config():
    inputs = inputs_of("gemma4")

    assert vd.check(inputs).ok
    report = vd.check({**inputs, "pixel_values": inputs["pixel_values"][..., :2]})
    assert report.mismatches[0].message.splitlines()[0] == (
        "pixel_values was cut to 2 columns, but no square patch has as many."
    )


def test_message_names_the_side_and_what_belongs_there():
    model, processor = built("gemma3")
    inputs = inputs_of("gemma3")
    wrong = {**inputs, "pixel_values": inputs["pixel_values"][..., :28]}

    (found,) = vd.check(wrong, processor=processor, config=model.config).mismatches
    assert found.silent is False
    assert found.message == (
        "pixel_values has shape (3, 3, 56, 28): its width is 28, but gemma3 takes 56.\n"
        "The model raises. Trim and pad only keys along the tokens, and pass the media as the "
        "processor returned them."
    )


def of_size(processor, side):
    other = deepcopy(processor)
    other.image_processor.size = {"height": side, "width": side}
    return other


def images(side):
    from vlmdebug.tiny.drawing import draw

    return [draw(number, (side, side)) for number in range(2)]


def test_images_of_another_size_are_doubted_and_the_processor_that_made_them_settles_it():
    _, processor = built("blip")
    other = of_size(processor, 28)
    inputs = dict(
        other(images=images(28), text=["a dog", "a cat"], return_tensors="pt", padding=True)
    )

    (doubt,) = vd.check(inputs, processor=processor).ambiguities
    assert doubt == (
        "pixel_values has shape (2, 3, 28, 28): its height is 28 and its width is 28, but the "
        "processor or config of blip says 56 and 56. The model runs with some other sizes, too, so "
        "it is not known whether pixels were cut off. Pass the media as the processor returned "
        "them, or the processor that makes this size."
    )
    assert vd.check(inputs, processor=other).ok


def test_tower_that_is_asked_to_interpolate_takes_other_sizes():
    model, processor = built("kosmos-2")
    inputs = inputs_of("kosmos-2")
    larger = {**inputs, "pixel_values": torch.randn(3, 3, 84, 84)}
    asked = {**larger, "interpolate_pos_encoding": True}

    assert run(model, larger) is None
    assert run(model, asked) is not None
    assert vd.check(larger, processor=processor, config=model.config).verdict == "MISMATCH"
    assert vd.check(asked, processor=processor, config=model.config).ok


def test_sizes_that_were_right_once_are_not_right_for_another_call():
    """`watch` remembers the sizes of rows that were right, not of those that were asked for."""
    model, processor = built("kosmos-2")
    inputs = inputs_of("kosmos-2")
    larger = {**inputs, "pixel_values": torch.randn(3, 3, 84, 84)}
    asked = {**larger, "interpolate_pos_encoding": True}
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        for call in (inputs, asked, larger, inputs):
            run(model, call)

    assert [call.report.verdict for call in trace.calls] == ["OK", "OK", "MISMATCH", "OK"]


@pytest.mark.parametrize(("name", "tokens"), [("internvl", 16), ("qianfan_ocr", 16)])
def test_tower_that_takes_other_sizes_is_not_said_to_raise_where_only_its_config_is_known(
    name, tokens
):
    model, processor = built(name)
    other = of_size(processor, 112)
    other.image_seq_length = tokens
    inputs = dict(vd.tiny.batch(name, (1, 2), processor=other))
    alone = vd.check(inputs, config=model.config, pictures=False)

    assert run(model, inputs) is not None
    assert vd.check(inputs, processor=other, config=model.config, pictures=False).ok
    assert (alone.verdict, alone.mismatches) == ("AMBIGUOUS", ())
    assert "The model runs with some other sizes" in " ".join(alone.ambiguities)
