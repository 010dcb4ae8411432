"""The probe reads off the values what the families have written down."""

from __future__ import annotations

import pytest
from architectures import architectures

import vlmdebug as vd
from vlmdebug.families import find_family
from vlmdebug.tiny.registry import find_recipe


@pytest.mark.parametrize("family", architectures())
def test_probe_and_table_agree(family):
    processor = vd.tiny.build(family)[1]
    recipe = find_recipe(family)
    probed = vd.probe(processor, placeholder=recipe.placeholder, **recipe.call).axes
    known = find_family(family)
    assert known is not None

    for key, axis in known.axes.items():
        if key in known.optional and key not in probed:
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
