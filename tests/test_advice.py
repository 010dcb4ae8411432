"""Each remedy that is printed is carried out here on what it was printed for, and helps.

A row: what brings the message up, the remedy in it, and what happens once it was followed. A new
remedy is a new row.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import odd
import pytest
import torch

import vlmdebug as vd


@cache
def llava():
    return dict(vd.tiny.batch("llava", [2, 0, 1])), vd.tiny.build("llava")[1]


@cache
def internvl():
    return dict(vd.tiny.batch("internvl", [2, 1]))


def made():
    return dict(vd.make_batch("gemma4", [2, 0, 1]).inputs)


@cache
def bounds():
    """Patches and their bounds, and the processor that returns them."""

    def media(samples):
        ends = torch.tensor([0, *np.cumsum(odd.lengths(samples))])
        return {"pixel_values": odd.all_patches(samples), "bounds": ends}

    processor, inputs = odd.batch(media)
    return inputs, processor


@cache
def shuffled():
    processor, inputs = odd.batch(lambda s: {"pixel_values": odd.one_each(s).flip(0)})
    return inputs, processor


def without(inputs, key):
    return {name: value for name, value in inputs.items() if name != key}


def odd_text():
    return without(without(bounds()[0], "bounds"), "pixel_values")


def nested():
    rows = [torch.rand(2, 3, 4, 4), torch.rand(0, 3, 4, 4), torch.rand(1, 3, 4, 4)]
    rows.append(rows[-1])
    return {**odd_text(), "pixel_values": torch.nested.nested_tensor(rows, layout=torch.jagged)}


def said(call) -> str:
    """What the call prints: its report, or its error."""
    try:
        answer = call()
    except vd.VlmDebugError as error:
        return str(error)
    return " ".join(str(answer).split())


def right(inputs, chunk_size):
    yield from vd.make_batch("gemma4", [2, 0, 1]).chunks(chunk_size)


def backwards(inputs, chunk_size):
    yield from reversed(list(right(inputs, chunk_size)))


def twice(inputs, chunk_size):
    for chunk in right(inputs, chunk_size):
        yield from (chunk, chunk)


def no_pixels(inputs, chunk_size):
    for chunk in right(inputs, chunk_size):
        yield {key: value for key, value in chunk.items() if key != "image_position_ids"}


def swapped(chunk_size, inputs):
    yield from vd.slicers.corrected(inputs, chunk_size)


def loop(model, inputs, chunk_size):
    for chunk in vd.slicers.corrected(inputs, chunk_size):
        model(**chunk)


def declared(slicer, **said):
    """The slicer, with what it says of itself."""

    def same(inputs, chunk_size):
        yield from slicer(inputs, chunk_size)

    for name, value in said.items():
        setattr(same, name, value)
    return same


def checked(slicer, family="gemma4"):
    return vd.check(slicer, vd.make_batch(family, [2, 0, 1]))


def proved(slicer):
    """Of a real batch, on its tiny model."""
    model, processor = vd.tiny.build("gemma4")
    return vd.prove(slicer, vd.tiny.batch("gemma4", [2, 0, 1]), model, processor=processor)


def read(inputs, **options):
    return vd.check(vd.read_batch(inputs, **options))


def llava_read(**options):
    return read(llava()[0], **options)


ADVICE = {
    "images not known: num_images": (
        lambda: read(vd.make_batch("llava", [2, 0, 1]).inputs, layout="llava"),
        "num_images=[",
        lambda: (
            vd.read_batch(
                vd.make_batch("llava", [2, 0, 1]).inputs, layout="llava", num_images=[2, 0, 1]
            ).counts["image"]
            == (2, 0, 1)
        ),
    ),
    "images not known: processor": (
        lambda: llava_read(),
        "Pass processor=",
        lambda: llava_read(processor=llava()[1]).ok,
    ),
    "layout not known: layout and num_images": (
        lambda: llava_read(),
        'layout={"pixel_values": "image"} with num_images=',
        lambda: (
            not vd.read_batch(
                llava()[0], layout={"pixel_values": "image"}, num_images=[2, 0, 1]
            ).ambiguities
        ),
    ),
    "images given, layout not known: layout alone": (
        lambda: llava_read(num_images=[2, 0, 1]),
        'say it: layout={"pixel_values": "image"} or layout={"pixel_values": "sample"}',
        lambda: (
            not vd.read_batch(
                llava()[0], layout={"pixel_values": "image"}, num_images=[2, 0, 1]
            ).ambiguities
        ),
    ),
    "images given that pixels do not count: tiles": (
        lambda: read(internvl(), num_images=[2, 1]),
        'layout={"pixel_values": "tile"} with num_tiles=[…]',
        lambda: (
            not vd.read_batch(
                internvl(), layout={"pixel_values": "tile"}, num_images=[2, 1], num_tiles=[7, 5]
            ).ambiguities
        ),
    ),
    "strange key: left out": (
        lambda: read({**made(), "strange": torch.zeros(3, 1)}),
        "Leave it out",
        lambda: read(made()).ok,
    ),
    "strange key: layout": (
        lambda: read({**made(), "strange": torch.zeros(3, 1)}),
        'layout={"strange": "sample"}',
        lambda: (
            not vd.read_batch(
                {**made(), "strange": torch.zeros(3, 1)}, layout={"strange": "sample"}
            ).ambiguities
        ),
    ),
    "strange key: a unit of one's own": (
        lambda: read({**made(), "strange": torch.zeros(7, 1)}),
        'layout={"strange": "row"} with counts={"row": […]}',
        lambda: (
            not vd.read_batch(
                {**made(), "strange": torch.zeros(7, 1)},
                layout={"strange": "row"},
                counts={"row": [4, 0, 3]},
            ).ambiguities
        ),
    ),
    "unit that nothing counts: counts": (
        lambda: read({**made(), "mask": torch.ones(7)}, layout={"mask": "token"}),
        'pass counts={"token": […]}',
        lambda: (
            not vd.read_batch(
                {**made(), "mask": torch.ones(7)},
                layout={"mask": "token"},
                counts={"token": [4, 0, 3]},
            ).ambiguities
        ),
    ),
    "tiles that nothing counts: num_tiles": (
        lambda: read({**made(), "mask": torch.ones(7)}, layout={"mask": "tile"}),
        "num_tiles=[…]",
        lambda: (
            not vd.read_batch(
                {**made(), "mask": torch.ones(7)}, layout={"mask": "tile"}, num_tiles=[4, 0, 3]
            ).ambiguities
        ),
    ),
    "patches of a probe: counts": (
        lambda: read(bounds()[0], processor=bounds()[1], num_images=[2, 0, 1, 1]),
        'from the rows of pixel_values, and pass counts={"patch": [5, 0, 67, 2]}.',
        lambda: (
            not vd.read_batch(
                without(bounds()[0], "bounds"),
                processor=bounds()[1],
                num_images=[2, 0, 1, 1],
                counts={"patch": [5, 0, 67, 2]},
            ).ambiguities
        ),
    ),
    "bounds without a processor": (
        lambda: read(bounds()[0], num_images=[2, 0, 1, 1]),
        'pass layout={"pixel_values": "patch"} with counts={"patch": [5, 0, 67, 2]}.',
        lambda: (
            not vd.read_batch(
                without(bounds()[0], "bounds"),
                layout={"pixel_values": "patch"},
                counts={"patch": [5, 0, 67, 2]},
            ).ambiguities
        ),
    ),
    "rows in no order: left out": (
        lambda: read(shuffled()[0], processor=shuffled()[1]),
        "Leave it out of the batch, and compute it for each chunk",
        lambda: (
            not vd.read_batch(
                without(shuffled()[0], "pixel_values"), processor=shuffled()[1]
            ).ambiguities
        ),
    ),
    "nested": (
        lambda: read(nested()),
        "Pass [*value.unbind()], a list with a tensor per row",
        lambda: (
            not vd.read_batch(
                {**nested(), "pixel_values": [*nested()["pixel_values"].unbind()]},
                layout={"pixel_values": "sample"},
            ).ambiguities
        ),
    ),
    "dict of tensors": (
        lambda: read({**odd_text(), "media": {"pixels": torch.rand(4, 3, 4, 4)}}),
        'Pass its entries as keys: {**inputs, **inputs["media"]} without media itself',
        lambda: (
            not vd.read_batch(
                {**odd_text(), "pixels": torch.rand(4, 3, 4, 4)},
                layout={"pixels": "image"},
                num_images=[2, 0, 1, 1],
            ).ambiguities
        ),
    ),
    "list of tensors": (
        lambda: read({**odd_text(), "pixels": [torch.rand(3, 4, 4)] * 4}, num_images=[2, 0, 1, 1]),
        'layout={"pixels": "image"} or layout={"pixels": "sample"}, whichever a row counts',
        lambda: (
            not vd.read_batch(
                {**odd_text(), "pixels": [torch.rand(3, 4, 4)] * 4},
                layout={"pixels": "image"},
                num_images=[2, 0, 1, 1],
            ).ambiguities
        ),
    ),
    "sparse": (
        lambda: read({**made(), "input_ids": made()["input_ids"].to_sparse()}),
        "Pass value.to_dense()",
        lambda: read({**made(), "input_ids": made()["input_ids"].to_sparse().to_dense()}).ok,
    ),
    "negated": (
        lambda: read({**made(), "pixel_values": torch._neg_view(made()["pixel_values"])}),
        "Pass value.resolve_neg()",
        lambda: (
            read(
                {**made(), "pixel_values": torch._neg_view(made()["pixel_values"]).resolve_neg()}
            ).ok
        ),
    ),
    "objects": (
        lambda: read({**made(), "prompt": np.array(["a", None, "b"], dtype=object)}),
        "Pass value.tolist(), one entry per sample",
        lambda: read({**made(), "prompt": ["a", None, "b"]}).ok,
    ),
    "tokenizer": (
        lambda: llava_read(processor=llava()[1].tokenizer),
        "Pass the whole processor",
        lambda: llava_read(processor=llava()[1]).ok,
    ),
    "VLM001 and VLM002": (
        lambda: checked(vd.slicers.by_sample),
        "vlmdebug.export(batch) writes that code",
        lambda: checked(vd.export(vd.make_batch("gemma4", [2, 0, 1])).function).ok,
    ),
    "VLM003": (lambda: checked(no_pixels), "Pass image_position_ids on", lambda: checked(right).ok),
    "VLM006": (
        lambda: checked(twice),
        "slicer.expand_size = 2",
        lambda: checked(declared(twice, expand_size=2)).ok,
    ),
    "VLM007": (
        lambda: checked(backwards),
        "slicer.any_order = True",
        lambda: checked(declared(backwards, any_order=True)).ok,
    ),
    "a model first": (
        lambda: proved(loop),
        "Wrap it: vlmdebug.record(loop)",
        lambda: proved(vd.record(loop)).ok,
    ),
    "arguments swapped": (
        lambda: checked(swapped),
        "lambda inputs, chunk_size: swapped(chunk_size, inputs)",
        lambda: checked(lambda inputs, chunk_size: swapped(chunk_size, inputs)).ok,
    ),
}


@pytest.mark.parametrize(("printed", "remedy", "helps"), ADVICE.values(), ids=ADVICE.keys())
def test_remedy_that_is_printed_helps(printed, remedy, helps):
    assert remedy in said(printed)
    assert helps()
