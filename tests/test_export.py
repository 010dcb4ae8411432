"""The exported code: standalone, only its own branches, and falsified before it is handed out."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import vlmdebug as vd
from vlmdebug.codegen import Code
from vlmdebug.families import FAMILIES

OTHERS = {
    "gemma4": ["image_grid_thw", "image_sizes", "num_tiles", "pixel_attention_mask"],
    "qwen2_5_vl": ["image_position_ids", "image_sizes", "num_tiles", "pixel_attention_mask"],
    "idefics3": ["image_position_ids", "image_grid_thw", "image_sizes", "num_tiles"],
    "internvl": ["image_position_ids", "image_grid_thw", "image_sizes"],
    "llava_next": ["image_position_ids", "image_grid_thw", "num_tiles"],
    "mllama": ["num_images", "num_tiles", "image_sizes", "accumulate"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_code_needs_nothing_but_itself(family):
    tree = ast.parse(vd.export(family).source)
    imported = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]

    assert [n.module for n in imported] in (["itertools"], [])
    assert functions == ["slice_inputs"]


@pytest.mark.parametrize("family", OTHERS)
def test_code_has_only_the_branches_of_its_layout(family):
    source = vd.export(family).source

    assert not [name for name in OTHERS[family] if name in source]
    assert all(key in source for key in FAMILIES[family].axes)


@pytest.mark.parametrize("family", FAMILIES)
def test_code_survives_generated_batches(family):
    assert vd.export(family).verify() > 80


def test_offsets_are_computed_once_and_not_for_each_chunk():
    source = vd.export("qwen2_5_vl").source
    before, loop = source.split("    for start in range")

    assert ".tolist()" in before
    assert not [word for word in (".tolist", "accumulate", "sum(", ".item()") if word in loop]


@pytest.mark.parametrize(
    ("family", "right", "wrong", "smallest"),
    [
        ("gemma4", "images[start] : images[stop]", "start:stop", "images per sample [2]"),
        ("gemma4", "images[start] < images[stop]", "True", "images per sample [0, 1]"),
        ("qwen2_5_vl", "patches[start]", "images[start]", "images per sample [1, 1]"),
    ],
    ids=["cut by sample", "empty media", "patches taken for images"],
)
def test_sabotaged_code_is_not_verified(family, right, wrong, smallest):
    source = vd.export(family).source
    assert right in source

    with pytest.raises(vd.MismatchError) as caught:
        Code(family, source.replace(right, wrong)).verify()

    assert smallest in str(caught.value).splitlines()[0]


def test_saved_code_runs_where_vlmdebug_is_not(tmp_path):
    path = vd.export("gemma4").save(tmp_path / "slice_inputs.py")
    program = (
        "import sys, numpy as np; sys.modules['vlmdebug'] = None; sys.path.insert(0, sys.argv[1])\n"
        "from slice_inputs import slice_inputs\n"
        "a = np.arange(6).reshape(3, 2)\n"
        "b = dict.fromkeys(['input_ids', 'pixel_values', 'image_position_ids'], a)\n"
        "b['num_images'] = [2, 0, 1]\n"
        "print([len(c.get('pixel_values', ())) for c in slice_inputs(b, 1)])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(path.parent)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout.strip() == "[2, 0, 1]"


def test_layout_of_no_family_is_not_exported():
    batch = vd.read_batch(
        {k: v for k, v in vd.make_batch("internvl", [1, 1]).inputs.items()}, num_tiles=[1, 1]
    )

    with pytest.raises(vd.BadInput, match="no family's"):
        vd.export(batch)


def test_ambiguous_batch_is_not_exported():
    with pytest.raises(vd.AmbiguousError):
        vd.export(vd.tiny.batch("llava_next", [2, 0, 1]))


def test_key_that_the_code_would_drop_is_refused():
    batch = vd.make_batch("gemma4", [1, 1, 0])
    inputs = {**batch.inputs, "crops": batch.inputs["pixel_values"].clone()}
    read = vd.read_batch(inputs, num_images=[1, 1, 0], layout={"crops": "image"})

    with pytest.raises(vd.BadInput, match="crops has one row per image, but layout gemma4 has no"):
        vd.export(read)


def test_values_that_are_not_cut_are_passed_on():
    batch = vd.make_batch("gemma4", [1, 0])
    read = vd.read_batch({**batch.inputs, "use_cache": False}, num_images=[1, 0], layout="gemma4")
    chunks = list(vd.export(read).function(read.for_slicer(), 1))

    assert [chunk["use_cache"] for chunk in chunks] == [False, False]


def test_code_for_keys_that_come_with_some_batches_survives_those_without():
    made = vd.make_batch("qwen2_5_vl", [1, 0], position_ids=True)
    read = vd.read_batch(
        {**made.inputs, "use_cache": False}, num_images=[1, 0], layout="qwen2_5_vl"
    )
    code = vd.export(read)
    chunks = list(code.function(read.for_slicer(), 1))

    assert [tuple(chunk["position_ids"].shape[:2]) for chunk in chunks] == [(3, 1), (3, 1)]
    assert [chunk["use_cache"] for chunk in chunks] == [False, False]
    assert code.verify() == 100
