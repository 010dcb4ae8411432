"""The probe reads off the values what the families have written down."""

from __future__ import annotations

import numpy as np
import odd
import pytest
import torch
from architectures import UNMARKED, architectures
from doubts import features_unknown
from odd import all_patches, all_tiles, flat, lengths, one_each, pixels, tiles

import vlmdebug as vd
from vlmdebug.core.keys import PIXELS
from vlmdebug.families import find_family
from vlmdebug.tiny import registry
from vlmdebug.tiny.registry import find_recipe
from vlmdebug.tiny.unproven import RECIPES


@pytest.mark.parametrize("family", sorted({*architectures()} - UNMARKED))
def test_probe_and_table_agree(family):
    processor = vd.tiny.build(family)[1]
    recipe = find_recipe(family)
    found = vd.probe(processor, placeholder=recipe.placeholder, **recipe.call)
    probed, cuts = found.axes, "=True" in found.holds
    known = find_family(family)
    assert known is not None

    for key, axis in known.axes.items():
        if key in known.rules.sometimes_returned and key not in probed:
            continue
        # Whether a row is a tile or a patch, no number can tell.
        units = {probed[key].unit, axis.unit}
        assert (
            len(units) == 1 or units == {"tile", "patch"} or (cuts and units == {"image", "tile"})
        )
        assert key == "cross_attention_mask" or probed[key].padded == axis.padded
    assert {key for key in probed if key not in known.axes} <= {
        "input_ids",
        "attention_mask",
        "mm_token_type_ids",
        "token_type_ids",
        "moe_mm_token_type_ids",
        "labels",
    }
    assert all(probed[key] == vd.Axis("sample") for key in probed if key not in known.axes)


class Unheard:
    """A processor of a model that nobody told us about."""

    def __init__(self, family, change=lambda out: out):
        self._processor, self._change = vd.tiny.build(family)[1], change
        self.image_token = self._processor.image_token

    def __call__(self, **kwargs):
        return self._change(dict(self._processor(**kwargs)))


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl", "idefics3"])
def test_processor_that_no_family_knows_is_probed(family):
    images = [2, 0, 1]
    inputs = dict(vd.tiny.batch(family, images))
    if family != "llava":  # keep the keys alone from giving it away
        inputs = {"input_ids": inputs["input_ids"], "pixel_values": inputs["pixel_values"]}
    unheard = Unheard(family, lambda out: {k: v for k, v in out.items() if k in inputs})
    batch = vd.read_batch(inputs, processor=unheard, num_images=images)
    known = find_family(family)
    assert known is not None

    assert batch.layout["pixel_values"] == known.axes["pixel_values"]


@pytest.mark.parametrize("name", architectures(["phi4_multimodal"]))
def test_model_without_a_family_is_cut_by_its_probe(name):
    """Under sdpa its vision tower attends otherwise once a crop of the chunk is padded."""
    recipe, images = RECIPES[name], [2, 0, 1]
    processor = recipe.processor()
    model = recipe.model(processor).eval()
    pictures = vd.tiny.images(images, sizes=[(300, 300), (500, 300), (400, 400)])
    inputs = processor(
        text=["<|image|> and <|image|>", "Look.", "<|image|>"],
        images=pictures,
        padding=True,
        return_tensors="pt",
    )
    untold = vd.read_batch(inputs, processor=processor)
    batch = vd.read_batch(inputs, processor=processor, num_images=images)

    assert [one.message for one in untold.ambiguities] == [
        "image_pixel_values, image_sizes and image_attention_mask have one row per image, but "
        "nothing says how many images each sample has. They were not cut. "
        "Pass num_images=[…], one number per sample."
    ]
    for chunk_size in (1, 2):
        proof = vd.prove(lambda _, size: batch.chunks(size), batch, model, chunk_size=chunk_size)
        assert proof.max_abs_diff == 0


def test_probe_looks_at_values_and_not_only_at_numbers_of_rows():
    """As many rows as before, but not the samples' own: no reading fits."""

    def shuffled(out):
        if "pixel_values" in out:
            out["pixel_values"] = out["pixel_values"].flip(0)
        return out

    assert vd.probe(Unheard("llava", shuffled)).axes["pixel_values"].unit == "ambiguous"


def test_probe_that_cannot_run_says_why():
    class Mute:
        pass

    with pytest.raises(vd.BadInput, match="Mute names no image token"):
        vd.probe(Mute())
    with pytest.raises(vd.BadInput, match="could not be probed"):
        vd.probe(vd.tiny.build("gemma4")[1], placeholder="no image here")


# --- processors of one's own ------------------------------------------------------------------


def interleaved(samples):
    most = max(map(len, samples))
    return torch.stack([pixels(own[n]) for n in range(most) for own in samples if n < len(own)])


def by_size(samples):
    return sorted(flat(samples), key=lambda image: image.size)


def grouped(samples):
    """Images of one size together, as processors stack them; the order is lost."""
    groups = {}
    for image in flat(samples):
        groups.setdefault(image.size, []).append(image)
    return [image for group in groups.values() for image in group]


def in_front(tiles, most):
    return torch.stack([*tiles, *[torch.zeros_like(tiles[0])] * (most - len(tiles))])


def padded(samples):
    most = max(len(tiles(image)) for image in flat(samples))
    return torch.stack([in_front(tiles(image), most) for image in flat(samples)])


def padded_by_sample(samples, *, left=False):
    rows = [[tile for image in own for tile in tiles(image)] for own in samples]
    most, nothing = max(map(len, rows)), torch.zeros(3, 4, 4)
    fill = [[nothing] * (most - len(row)) for row in rows]
    pairs = zip(fill, rows, strict=True) if left else zip(rows, fill, strict=True)
    return torch.stack([torch.stack([*first, *last]) for first, last in pairs])


def owners(samples):
    return torch.tensor([sample for sample, own in enumerate(samples) for _ in own])


def thumbnails_last(samples):
    crops = [tile for image in flat(samples) for tile in tiles(image)[1:]]
    return torch.stack([*crops, *[tiles(image)[0] for image in flat(samples)]])


def crops(samples):
    found = [tile for image in flat(samples) for tile in tiles(image)[1:]]
    return torch.stack(found) if found else torch.zeros(0, 3, 4, 4)


def tile_counts(samples):
    return [len(tiles(image)) for image in flat(samples)]


def bounds(samples):
    return torch.tensor([0, *np.cumsum(lengths(samples))])


NO_READING = {
    "interleaved": lambda s: {"pixel_values": interleaved(s)},
    "sorted by size": lambda s: {"pixel_values": torch.stack([*map(pixels, by_size(s))])},
    "grouped by size": lambda s: {"pixel_values": torch.stack([*map(pixels, grouped(s))])},
    "all thumbnails last": lambda s: {"pixel_values": thumbnails_last(s)},
    "samples in reverse": lambda s: {"pixel_values": one_each(s[::-1])},
    "normalised over the batch": lambda s: {"pixel_values": one_each(s) - one_each(s).mean()},
    "two views, one after the other": lambda s: {
        "pixel_values": torch.cat([one_each(s), 2 * one_each(s)])
    },
    "a row more at the end": lambda s: {
        "pixel_values": torch.cat([one_each(s), torch.zeros(1, 3, 4, 4)])
    },
    "images on another dimension": lambda s: {"pixel_values": one_each(s).movedim(0, 1)},
    "equal masks of sorted rows": lambda s: {
        "pixel_mask": torch.ones(len(flat(s)), 4, 4),
        "pixel_values": torch.stack([*map(pixels, by_size(s))]),
    },
    "index of the sample": lambda s: {"image_to_sample": owners(s)},
    "numbers of rows of the batch": lambda s: {"rows": torch.arange(len(flat(s)))},
    "bounds": lambda s: {"pixel_values": all_patches(s), "image_bounds": bounds(s)},
    "vision cu_seqlens": lambda s: {"pixel_values": all_patches(s), "cu_seqlens": bounds(s)},
}


@pytest.mark.parametrize("media", NO_READING.values(), ids=NO_READING.keys())
def test_what_the_probe_calls_ambiguous_stays_so(media):
    """`num_images` adds up to the number of rows, which is no evidence."""
    processor, inputs = odd.batch(media)
    key = [*inputs][-1]
    batch = vd.read_batch(inputs, processor=processor, num_images=[2, 0, 1, 1])

    assert vd.probe(processor).axes[key].unit == "ambiguous"
    assert batch.layout[key].unit == "ambiguous"
    assert key in {name for one in batch.ambiguities for name in one.keys}


READ = {
    "global image last of each image": (
        lambda s: {"pixel_values": torch.stack([t for i in flat(s) for t in tiles(i)[::-1]])},
        {"pixel_values": "tile"},
    ),
    "crops in a key of their own": (
        lambda s: {"pixel_values": one_each(s), "crops": crops(s)},
        {"pixel_values": "image", "crops": "tile"},
    ),
    "padded per image": (lambda s: {"pixel_values": padded(s)}, {"pixel_values": "image"}),
    "padded per sample": (
        lambda s: {"pixel_values": padded_by_sample(s)},
        {"pixel_values": "sample"},
    ),
    "padded per sample on the left": (
        lambda s: {"pixel_values": padded_by_sample(s, left=True)},
        {"pixel_values": "sample"},
    ),
    "flattened features": (
        lambda s: {"pixel_values": one_each(s).flatten(1)},
        {"pixel_values": "image"},
    ),
    "a list per image": (
        lambda s: {"pixel_values": [*map(pixels, flat(s))]},
        {"pixel_values": "image"},
    ),
    "a list per sample of lists": (
        lambda s: {"pixel_values": [[*map(pixels, own)] for own in s]},
        {"pixel_values": "sample"},
    ),
    "a list of unequal tensors": (
        lambda s: {"pixel_values": [torch.stack(tiles(image)) for image in flat(s)]},
        {"pixel_values": "image"},
    ),
    "patches and a list of their numbers": (
        lambda s: {"pixel_values": all_patches(s), "num_patches": lengths(s)},
        {"pixel_values": "patch", "num_patches": "image"},
    ),
    "tiles and their numbers": (
        lambda s: {"pixel_values": odd.all_tiles(s), "num_tiles_of": torch.tensor(tile_counts(s))},
        {"pixel_values": "tile", "num_tiles_of": "image"},
    ),
}


def alike(chunk, alone):
    """Whether a chunk's value holds the sample's own, padding aside."""
    if isinstance(alone, list) or isinstance(chunk, list):
        return len(chunk) == len(alone) and all(map(alike, chunk, alone))
    if not hasattr(alone, "shape"):
        return chunk == alone
    sizes = [min(a, b) for a, b in zip(chunk.shape, alone.shape, strict=True)]
    first = tuple(slice(size) for size in sizes)
    last = [
        tuple(slice(n - k, n) for n, k in zip(v.shape, sizes, strict=True)) for v in (chunk, alone)
    ]
    return len(chunk) == len(alone) and (
        torch.equal(chunk[first], alone[first]) or torch.equal(chunk[last[0]], alone[last[1]])
    )


@pytest.mark.parametrize(("media", "units"), READ.values(), ids=READ.keys())
def test_chunks_of_a_probed_layout_hold_what_each_sample_has_alone(media, units):
    processor, inputs = odd.batch(media)
    crop = {"crops": [1, 0, 3, 0]}.get([*units][-1])
    tile = crop or [sum(len(tiles(image)) for image in own) for own in odd.images()]
    given = {"num_images": [2, 0, 1, 1], "num_tiles": tile}
    batch = vd.read_batch(inputs, processor=processor, **given)
    alone = [processor([text], [own]) for text, own in zip(odd.TEXTS, odd.images(), strict=True)]

    assert not batch.ambiguities
    assert {key: batch.layout[key].unit for key in units} == units
    for chunk, own in zip(batch.chunks(1), alone, strict=True):
        for key in units:
            rows = own.get(key, inputs[key][:0])
            assert alike(chunk.get(key, inputs[key][:0]), rows)
    report = vd.check(lambda _, size: batch.chunks(size), batch, chunk_size=1)
    assert features_unknown(report) or report.ok


def test_lengths_that_the_processor_returns_count_the_rows():
    media, _ = READ["tiles and their numbers"]
    processor, inputs = odd.batch(media)
    batch = vd.read_batch(inputs, processor=processor, num_images=[2, 0, 1, 1])

    assert batch.counts["tile"] == (3, 0, 4, 1)
    assert batch.counts["tile"].evidence == "num_tiles_of, num_images"


def test_lengths_that_do_not_add_up_count_nothing():
    media, _ = READ["tiles and their numbers"]
    processor, inputs = odd.batch(media)
    inputs["num_tiles_of"] = inputs["num_tiles_of"] + 1
    batch = vd.read_batch(inputs, processor=processor, num_images=[2, 0, 1, 1])

    assert [one.unit for one in batch.ambiguities] == ["tile"]


def test_probe_looks_at_large_images_and_says_what_it_saw():
    found = vd.probe(odd.Odd(lambda s: {"pixel_values": crops_above(s, 1500)}))

    assert found.axes["pixel_values"].unit == "tile"
    assert str(found).endswith("Seen with images of 90 to 1600 pixels a side.")


def crops_above(samples, pixels_a_side):
    """Two rows of an image that is larger."""
    rows = [
        pixels(image) * (row + 1)
        for image in flat(samples)
        for row in range(1 + (max(image.size) > pixels_a_side))
    ]
    return torch.stack(rows)


def test_as_many_rows_as_images_are_one_each_where_no_image_has_none():
    """Tiles of large images only; the batch has small ones."""

    processor, inputs = odd.batch(lambda s: {"pixel_values": crops_above(s, 700)})
    batch = vd.read_batch(inputs, processor=processor, num_images=[2, 0, 1, 1])

    assert batch.layout["pixel_values"].unit == "tile"
    assert batch.counts["tile"] == (2, 0, 1, 1)


def test_images_of_other_sizes_than_the_probe_saw_are_ambiguous():
    """One row per image in every round of the probe, two for an image of 2000 pixels."""

    sizes = (((9, 9), (9, 8)), (), ((2000, 9),), ((9, 7),))
    processor, inputs = odd.batch(lambda s: {"pixel_values": crops_above(s, 1999)}, sizes)
    given = {"processor": processor, "num_images": [2, 0, 1, 1]}
    batch = vd.read_batch(inputs, **given)
    settled = vd.read_batch(
        inputs, **given, layout={"pixel_values": "tile"}, num_tiles=[2, 0, 2, 1]
    )

    assert "images of 90 to 1600 pixels a side" in batch.ambiguities[0].message
    assert 'layout={"pixel_values": "tile"} with num_tiles=' in batch.ambiguities[0].message
    assert not settled.ambiguities


def test_option_that_cuts_images_is_switched_on():
    class Cropping(odd.Odd):
        class image_processor:
            crop_to_patches = False

        def __call__(self, *args, crop_to_patches=False, **kwargs):
            return {
                key: value.repeat(2, 1, 1, 1)
                if crop_to_patches and key == "pixel_values"
                else value
                for key, value in super().__call__(*args, **kwargs).items()
            }

    def twice(samples):
        return {"pixel_values": one_each(samples)}

    found = vd.probe(Cropping(twice))

    assert found.axes["pixel_values"].unit == "ambiguous"  # all images once more: no one's rows
    assert "crop_to_patches=True" in found.holds


def test_names_of_keys_do_not_overrule_the_probe():
    """Named as Mistral 3's keys are, with one row per tile."""

    def media(samples):
        sizes = [[image.height, image.width] for image in flat(samples)]
        return {"pixel_values": odd.all_tiles(samples), "image_sizes": torch.tensor(sizes)}

    processor, inputs = odd.batch(media)
    given = {"num_images": [2, 0, 1, 1], "num_tiles": [3, 0, 4, 1]}
    batch = vd.read_batch(inputs, processor=processor, **given)

    assert batch.layout.family == "unknown"
    assert not batch.ambiguities
    assert {batch.layout[key].unit for key in ("pixel_values", "image_sizes")} == {"tile", "image"}


def test_config_that_no_family_knows_does_not_hide_the_processor():
    processor = vd.tiny.build("qwen2_5_vl")[1]
    inputs = vd.tiny.batch("qwen2_5_vl", [2, 0, 1], processor=processor)

    class Config:
        model_type, image_token_id = "my_vlm", processor.tokenizer.image_token_id

    alone = vd.read_batch(inputs, processor=processor)
    batch = vd.read_batch(inputs, processor=processor, config=Config())

    assert batch.layout.axes == alone.layout.axes
    assert batch.counts == alone.counts
    assert not batch.rules.predict  # another model may say something else
    assert alone.rules.predict


def test_layout_of_one_key_leaves_the_others_to_the_probe():
    def media(samples):
        return {"pixel_values": one_each(samples), "extra": torch.ones(9)}

    processor, inputs = odd.batch(media)
    layout = {"extra": "row"}
    batch = vd.read_batch(
        inputs,
        processor=processor,
        num_images=[2, 0, 1, 1],
        layout=layout,
        counts={"row": [4, 1, 0, 4]},
    )

    assert not batch.ambiguities
    assert batch.layout["pixel_values"].unit == "image"
    assert [len(chunk.get("extra", ())) for chunk in batch.chunks(1)] == [4, 1, 0, 4]


def test_probe_can_be_passed_as_layout():
    """`Mute` names no image token; `placeholder` says what stands for an image."""

    class Mute(odd.Odd):
        image_token = image_token_id = None

    def padded(samples):
        rows = [[*map(pixels, own)] + [torch.zeros(3, 4, 4)] * (2 - len(own)) for own in samples]
        return {"pixel_values": torch.stack([torch.stack(own) for own in rows])}

    processor = Mute(padded)
    inputs = processor(["a <image><image>", "text", "b <image>"], odd.images(odd.SIZES[:3]))
    unsure = vd.read_batch(inputs, processor=processor, num_images=[2, 0, 1])
    probed = vd.probe(processor, placeholder="<image>")
    batch = vd.read_batch(inputs, processor=processor, num_images=[2, 0, 1], layout=probed)

    assert "Mute names no image token" in unsure.ambiguities[0].message
    assert (
        "Pass layout=vlmdebug.probe(processor, placeholder=…), the text of one image, or say it:"
        in unsure.ambiguities[0].message
    )
    assert not batch.ambiguities
    assert batch.layout["pixel_values"].unit == "sample"


def test_processor_that_cannot_be_probed_is_read_by_counts():
    class OneEach(odd.Odd):
        def __call__(self, text, images=None, **options):
            if any(len(own) != 1 for own in images or ()):
                raise ValueError("One image for each text.")
            return super().__call__(text, images, **options)

    processor = OneEach(lambda samples: {"pixel_values": all_tiles(samples)})
    inputs = processor(["a <image>", "b <image>"], odd.images((((300, 100),), ((60, 60),))))
    unsure = vd.read_batch(inputs, processor=processor)
    batch = vd.read_batch(
        inputs, processor=processor, layout={"pixel_values": "tile"}, num_tiles=[2, 1]
    )

    assert "One image for each text" in unsure.ambiguities[0].message
    assert "placeholder" not in unsure.ambiguities[0].message
    assert not batch.ambiguities
    assert [len(chunk["pixel_values"]) for chunk in batch.chunks(1)] == [2, 1]


# --- real processors --------------------------------------------------------------------------


@pytest.mark.parametrize("name", architectures(registry.ONE_IMAGE))
def test_probe_of_one_image_per_sample_refuses_or_gives_its_rows(name):
    """A probe has samples with other numbers of images, which few of these processors take."""
    recipe = find_recipe(name)
    try:
        axes = vd.probe(recipe.processor(), placeholder=recipe.placeholder).axes
    except vd.BadInput as error:
        assert "Pass placeholder=" in str(error)
    else:
        assert {axes[key].unit for key in axes if key in PIXELS} == {"image"}


@pytest.mark.parametrize("name", architectures(["step3p7"]))
def test_local_crops_are_counted_by_their_own_key(name):
    recipe, sizes = find_recipe(name), (((90, 180),), (), ((30, 30), (20, 100)))
    processor, image = recipe.processor(), recipe.placeholder
    inputs = processor(
        text=[f"a {image}", "text", f"b {image} {image}"],
        images=odd.images(sizes),
        padding=True,
        return_tensors="pt",
    )
    probed = vd.probe(processor, placeholder=image)
    batch = vd.read_batch(inputs, num_images=[1, 0, 2], layout=probed)
    each = inputs["num_local_patches"].tolist()

    assert not batch.ambiguities
    assert batch.counts["tile"] == (each[0], 0, each[1] + each[2])
