"""The probe reads off the values what the families have written down."""

from __future__ import annotations

import pytest
from architectures import architectures

import vlmdebug as vd
from vlmdebug.families import find_family
from vlmdebug.tiny.registry import find_recipe
from vlmdebug.tiny.unproven import RECIPES


@pytest.mark.parametrize("family", architectures())
def test_probe_and_table_agree(family):
    processor = vd.tiny.build(family)[1]
    recipe = find_recipe(family)
    probed = vd.probe(processor, placeholder=recipe.placeholder, **recipe.call).axes
    known = find_family(family)
    assert known is not None

    for key, axis in known.axes.items():
        if key in known.rules.sometimes_returned and key not in probed:
            continue
        # Whether a row is a tile or a patch, no number can tell.
        assert probed[key] == axis or {probed[key].unit, axis.unit} == {"tile", "patch"}
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
