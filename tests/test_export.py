"""The exported code: standalone, only its own branches, and falsified before it is handed out."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
import torch
from doubts import features_unknown

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.cli import main
from vlmdebug.families import FAMILIES
from vlmdebug.running.export import Code
from vlmdebug.running.synthetic import with_every_key

OTHERS = {
    "gemma4": ["image_grid_thw", "image_sizes", "tiles =", "pixel_attention_mask"],
    "qwen2_5_vl": ["image_position_ids", "image_sizes", "tiles =", "pixel_attention_mask"],
    "idefics3": ["image_position_ids", "image_grid_thw", "image_sizes", "tiles ="],
    "internvl": ["image_position_ids", "image_grid_thw", "image_sizes", "images ="],
    "llava_next": ["image_position_ids", "image_grid_thw", "tiles ="],
    "mllama": ["images =", "tiles =", "image_sizes", "accumulate"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_code_needs_nothing_but_itself(family):
    tree = ast.parse(vd.export(family).source)
    imported = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]

    assert {n.module for n in imported} <= {"__future__", "itertools", "typing"}
    assert functions[0] == "slice_inputs"
    assert all(name.startswith("_") for name in functions[1:])


@pytest.mark.parametrize("family", OTHERS)
def test_code_has_only_the_branches_of_its_layout(family):
    source = vd.export(family).source

    assert not [name for name in OTHERS[family] if name in source]
    assert all(key in source for key in FAMILIES[family].axes)


@pytest.mark.parametrize("family", FAMILIES)
def test_code_survives_generated_batches(family):
    assert vd.export(family).verify() > 80


def test_offsets_are_computed_once_and_not_for_each_chunk():
    tree = ast.parse(vd.export("qwen2_5_vl").source)
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    before, loop = ast.unparse(main).split("    for start in range")

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


def test_layout_of_no_family_is_exported_and_tried_on_its_own_batch():
    made = vd.make_batch("internvl", [2, 0, 2])
    batch = vd.read_batch(dict(made.inputs), num_tiles=[2, 0, 2])
    code = vd.export(batch)

    assert code.family == "unknown"
    assert features_unknown(vd.check(code.function, batch))
    assert code.verify() == 0


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


# --- every key ---------------------------------------------------------------------------------


def cuts_like_the_plan(code, batch, inputs):
    """Whether the code, or a slicer, gives the keys and rows of `Batch.chunks`."""
    slicer = code.function if isinstance(code, Code) else code
    for size in (1, 2, len(batch)):
        chunks, planned = list(slicer(inputs, size)), list(batch.chunks(size))
        assert [chunk.keys() for chunk in chunks] == [chunk.keys() for chunk in planned]
        for chunk, right in zip(chunks, planned, strict=True):
            for key, value in right.items():
                assert chunk[key] is value or torch.equal(chunk[key], value), key
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_code_passes_every_key_that_models_of_its_family_take(family):
    batch = with_every_key(FAMILIES[family])

    assert {"moe_mm_token_type_ids", "position_ids", "token_type_ids"} <= batch.layout.keys()
    assert cuts_like_the_plan(vd.export(family), batch, batch.for_slicer())
    assert cuts_like_the_plan(vd.export(batch), batch, batch.for_slicer())


@pytest.mark.parametrize("family", FAMILIES)
def test_corrected_slicer_passes_every_key_of_every_family(family):
    batch = with_every_key(FAMILIES[family])

    assert cuts_like_the_plan(slicers.corrected, batch, batch.for_slicer())


def test_corrected_slicer_passes_options():
    batch = vd.read_batch(
        {**vd.make_batch("gemma4", [1, 0]).inputs, "use_cache": False},
        layout="gemma4",
        num_images=[1, 0],
    )

    assert vd.check(slicers.corrected, batch).ok
    assert [c["use_cache"] for c in slicers.corrected(batch.for_slicer(), 1)] == [False, False]


def test_code_by_name_leaves_the_logits_of_a_rare_model_as_they_are():
    model, processor = vd.tiny.build("ernie4_5_vl_moe")
    inputs = vd.tiny.batch("ernie4_5_vl_moe", [1, 1])
    batch = vd.read_batch(inputs, processor=processor)
    code = vd.export("ernie4_5_vl_moe")

    assert vd.check(code.function, batch).ok
    assert vd.prove(code.function, batch, model).ok


def test_code_of_a_batch_of_images_passes_the_videos_of_another():
    code = vd.export(vd.make_batch("qwen2_5_vl", [1, 1]))
    batch = vd.make_batch("qwen2_5_vl", [1, 1], videos_per_sample=[1, 0], position_ids=True)

    assert cuts_like_the_plan(code, batch, batch.for_slicer())


def test_options_are_passed_on_by_code_that_never_saw_them():
    batch = vd.make_batch("llava", [1, 0])
    chunks = vd.export("llava").function({**batch.for_slicer(), "use_cache": False, "mode": "a"}, 1)

    assert [(chunk["use_cache"], chunk["mode"]) for chunk in chunks] == [(False, "a")] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crops": torch.zeros(2, 3)}, r"a row of \['crops'\] counts"),
        ({"prompts": ["a", "b"]}, r"a row of \['prompts'\] counts"),
        ({"pixel_values": None}, r"\['image_grid_thw'\] came without 'pixel_values'"),
        ({"num_images": [1, 1]}, "num_images is .1, 1., but there are 2 samples and 3 rows"),
        ({"num_images": [3]}, "num_images is .3., but"),
        ({"num_images": [4, -1]}, "num_images is .4, -1., but"),
        ({"num_images": None}, r"inputs\['num_images'\] is missing"),
        ({"pixel_values": torch.zeros(11, 6)}, "'pixel_values' has 11 rows, but 12 belong"),
        ({"attention_mask": torch.ones(1, 9)}, "'attention_mask' has 1 rows for 2 samples"),
        ({"position_ids": torch.ones(1, 9)}, "position_ids are .1, 9. for 2 samples"),
    ],
    ids=[
        *("unknown tensor", "unknown list", "grids alone", "too few", "too short", "negative"),
        *("nothing says it", "short pixels", "short mask", "shared positions"),
    ],
)
def test_code_raises_where_it_would_drop_or_shift_something(changes, message):
    inputs = {**vd.make_batch("qwen2_5_vl", [2, 1]).for_slicer(), **changes}

    with pytest.raises(ValueError, match=message):
        list(vd.export("qwen2_5_vl").function(inputs, 1))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "ernie4_5_vl_moe"])
@pytest.mark.parametrize("key", ["moe_mm_token_type_ids", "labels", "video_second_per_grid"])
def test_code_that_does_not_know_a_key_of_its_family_is_not_verified(name, key):
    code = vd.export(name)

    with pytest.raises(vd.MismatchError, match=key):
        Code(code.family, code.source.replace(f'"{key}"', '"another"')).verify(max_examples=30)


@pytest.mark.parametrize("unit", ["audios", "videos"])
def test_code_that_spares_itself_the_clips_is_not_verified(unit):
    source = vd.export("gemma4").source
    used = f"{unit}[start] < {unit}[stop]"
    assert used in source

    with pytest.raises(vd.MismatchError, match=unit[:-1]):
        Code("gemma4", source.replace(used, "False")).verify()


def test_tiles_of_a_video_are_passed_though_the_sample_has_no_image():
    inputs = dict(vd.make_batch("internvl", [1, 1]).inputs)
    batch = vd.read_batch(inputs, layout="internvl", num_images=[0, 1], num_tiles=[1, 1])
    code = vd.export(batch)

    assert cuts_like_the_plan(code, batch, batch.for_slicer())
    assert cuts_like_the_plan(slicers.corrected, batch, batch.for_slicer())
    assert all("pixel_values" in chunk for chunk in code.function(batch.for_slicer(), 1))


# --- counts ------------------------------------------------------------------------------------


def first_line(code):
    return next(
        ast.get_docstring(node).splitlines()[0]
        for node in ast.parse(code.source).body
        if isinstance(node, ast.FunctionDef)
    )


@pytest.mark.parametrize("images", [(2, 0, 1), (1, 1), (0, 3), (1,), (0, 0)], ids=str)
@pytest.mark.parametrize(
    "name", ["gemma4", "qwen2_5_vl", "idefics3", "internvl", "llava", "llava_next"]
)
def test_code_runs_on_what_the_processor_returned(name, images):
    _, processor = vd.tiny.build(name)
    inputs = vd.tiny.batch(name, images)
    batch = vd.read_batch(inputs, processor=processor)

    assert cuts_like_the_plan(vd.export(batch), batch, inputs)


@pytest.mark.parametrize("name", ["gemma4", "qwen2_5_vl", "idefics3", "internvl", "llava"])
def test_code_counts_the_images_of_other_batches(name):
    _, processor = vd.tiny.build(name)
    first, other = vd.tiny.batch(name, [2, 0, 1]), vd.tiny.batch(name, [1, 2, 0, 1], seed=3)
    code = vd.export(first, processor=processor)

    assert "num_images" not in first_line(code)
    assert cuts_like_the_plan(code, vd.read_batch(other, processor=processor), other)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("llava", ["num_images"]),
        ("internvl", ["num_tiles"]),
        ("gemma4", ["num_images", "num_videos", "num_audios"]),
        ("mllama", []),
    ],
)
def test_first_line_names_the_counts_that_the_code_reads(family, names):
    said = first_line(vd.export(family))

    assert [
        name for name in ("num_images", "num_tiles", "num_videos", "num_audios") if name in said
    ] == names


def test_counts_that_the_text_contradicts_are_read_and_not_counted():
    inputs = dict(vd.make_batch("gemma4", [2, 1]).inputs)
    code = vd.export(inputs, layout="gemma4", num_images=[1, 2])

    assert "num_images" in first_line(code)


def test_broken_text_is_not_shared_out():
    made = vd.make_batch("gemma4", [2, 1], sizes=[1, 2, 3])
    ids = made.inputs["input_ids"].clone()
    ids[0, (ids[0] == 3).nonzero()[0]] = 99  # a placeholder token is lost

    with pytest.raises(ValueError, match="num_images"):
        list(vd.export(made).function({**made.inputs, "input_ids": ids}, 1))


# --- names are data ----------------------------------------------------------------------------

HOSTILE = {
    "quote": '"',
    "single quote": "'",
    "both quotes": "'\"",
    "line break": "a\nraise SystemExit",
    "carriage return": "a\rraise SystemExit",
    "docstring": '"""\nraise SystemExit\n"""',
    "backslash": "\\",
    "braces": "{boom}{0}{!r}",
    "line separator": "a\u2028b\u2029c\x85d\x0ce",
    "nul": "a\x00b",
    "keyword": "class",
    "dunder": "__import__('os')",
    "builtin": "len",
    "own name": "slice_inputs",
    "emoji": "🧨",
    "direction": "\u202egnp",
    "surrogate": "\ud800",
    "long": "a" * 20_000,
    "empty": "",
    "expression": '" + str(1 / 0) + "',
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("unit", ["sample", "batch"])
def test_name_of_a_key_is_no_code(name, unit):
    value = torch.arange(2) if unit == "sample" else torch.tensor(7)
    inputs = {**vd.make_batch("gemma4", [1, 0]).inputs, name: value}
    code = vd.export(
        inputs,
        layout={name: unit, "pixel_values": "image", "image_position_ids": "image"},
        num_images=[1, 0],
    )
    by_family = vd.export(vd.read_batch({**inputs, name: 7}, layout="gemma4", num_images=[1, 0]))
    chunks = list(code.function({**inputs, "num_images": [1, 0]}, 1))

    assert [chunk[name].tolist() for chunk in chunks] == (
        [[0], [1]] if unit == "sample" else [7, 7]
    )
    assert code.source.isascii() and "\0" not in code.source
    assert [c[name] for c in by_family.function({**inputs, name: 7, "num_images": [1, 0]}, 1)] == [
        7,
        7,
    ]


def test_data_file_runs_no_code_when_it_is_exported(tmp_path, capsys):
    from safetensors.torch import save_file

    flag, path = tmp_path / "ran", tmp_path / "batch.safetensors"
    key = f'" + str(open({str(flag)!r}, "w")) + "'
    save_file({**vd.make_batch("gemma4", [2, 1]).inputs, key: torch.tensor(1.0)}, path)

    assert main(["export", str(path), "--family", "gemma4", "--num-images", "2,1"]) == 0
    assert "def slice_inputs" in capsys.readouterr().out
    assert not flag.exists()


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_name_of_a_layout_is_no_code(name):
    layout = vd.Layout(name, {"input_ids": vd.Axis("sample"), "x": vd.Axis("sample", 1)})
    chunks = list(
        vd.export(layout).function({"input_ids": torch.ones(2, 3), "x": torch.ones(4, 2)}, 1)
    )

    assert [tuple(chunk["x"].shape) for chunk in chunks] == [(4, 1), (4, 1)]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_name_of_media_is_no_code(name):
    axes = {"input_ids": vd.Axis("sample"), name: vd.Axis("image", padded=name)}
    code = vd.export(vd.Layout("own", axes, {name: "image"}))
    inputs = {"input_ids": torch.ones(2, 3), name: torch.arange(3), "num_images": [2, 1]}

    assert [chunk[name].tolist() for chunk in code.function(inputs, 1)] == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("axis", "media"),
    [
        (vd.Axis("image"), None),
        (vd.Axis("patch"), "image"),
        (vd.Axis("image"), "patch"),
        (vd.Axis("token"), "image"),
        (vd.Axis("image", 1), "image"),
        (vd.Axis('"""\nraise SystemExit'), "image"),
    ],
    ids=["no media", "no grid", "no count", "tokens", "another dimension", "no unit"],
)
def test_layout_that_does_not_say_where_rows_begin_is_refused(axis, media):
    layout = vd.Layout(
        "own", {"input_ids": vd.Axis("sample"), "x": axis}, {"x": media} if media else {}
    )

    with pytest.raises(vd.BadInput, match="x has"):
        vd.export(layout)


def test_key_that_is_no_text_is_refused():
    inputs = {**vd.make_batch("gemma4", [1]).inputs, 5: True}

    with pytest.raises(vd.BadInput, match="the key 5, a int"):
        vd.export(inputs, layout="gemma4", num_images=[1])
