"""Slicing code is read, not run: what is right passes, what is wrong is named with its layouts."""

from __future__ import annotations

import inspect
import json
import textwrap

import pytest

import vlmdebug as vd
from vlmdebug import review, slicers
from vlmdebug.cli import main
from vlmdebug.families import FAMILIES
from vlmdebug.review.trials import trials


def read(body: str, **options) -> review.Review:
    """The review of a loop over chunks with this body, in a function of the batch `inputs`."""
    loop = textwrap.indent(textwrap.dedent(body).strip(), " " * 8)
    return review.source(
        "def cut(model, inputs, size, num_images=None, num_tiles=None):\n"
        '    input_ids = inputs["input_ids"]\n'
        "    for start in range(0, len(input_ids), size):\n"
        "        stop = start + size\n"
        '        chunk = {"input_ids": input_ids[start:stop]}\n'
        f"{loop}\n"
        "        model(**chunk)\n",
        **options,
    )


def wrong_layouts(found: review.Review, code: str) -> set[str]:
    return {name for remark in found.findings if remark.code == code for name in remark.wrong}


RIGHT = {
    "cut by running totals of images": """
        images = torch.tensor([0] + inputs["num_images"]).cumsum(0)
        if "image_position_ids" in inputs:
            chunk["pixel_values"] = inputs["pixel_values"][images[start] : images[stop]]
    """,
    "cut by patches of the grid": """
        grid = inputs.get("image_grid_thw")
        if grid is not None:
            ends = [0, *accumulate(grid.prod(-1).tolist())]
            images = [0, *accumulate(num_images)]
            patches = [ends[image] for image in images]
            chunk["pixel_values"] = inputs["pixel_values"][patches[start] : patches[stop]]
            chunk["image_grid_thw"] = grid[images[start] : images[stop]]
    """,
    "one row per sample where rows count samples": """
        if "aspect_ratio_ids" in inputs:
            chunk["pixel_values"] = inputs["pixel_values"][start:stop]
            chunk["aspect_ratio_ids"] = inputs["aspect_ratio_ids"][start:stop]
    """,
    "split by the counts themselves": """
        if "spatial_shapes" in inputs:
            parts = torch.split(inputs["pixel_values"], num_tiles, dim=0)
    """,
    "every key of a dictionary that the code made itself": """
        rows = {"input_ids": input_ids, "attention_mask": inputs["attention_mask"]}
        chunk = {key: value[start:stop] for key, value in rows.items()}
    """,
    "one row per sample with images": """
        owners = [0, *accumulate(int(count > 0) for count in num_images)]
        if "batch_num_images" in inputs:
            chunk["batch_num_images"] = inputs["batch_num_images"][owners[start] : owners[stop]]
    """,
    "a cut of another dimension": """
        parts = torch.split(inputs["pixel_values"], size, dim=1)
    """,
    "a name of its own, and a look into something else": """
        sizes = info["image_rows"][0] if info is not None else None
        text = name.split("-")
    """,
    "an old name beside the new one": """
        positions = inputs.get("image_position_ids", inputs.get("pixel_position_ids"))
        if inputs.get("pixel_position_ids") is not None:
            positions = inputs["pixel_position_ids"]
    """,
    "a name that some round assigned": """
        if start > 0:
            print(last)
        last = stop
    """,
    "a name that every way assigns": """
        if "image_grid_thw" in inputs:
            first = 0
        else:
            first = 1
        print(first)
    """,
    "a name assigned where it is used, by the same test": """
        if inputs.get("image_grid_thw") is not None:
            first = 0
        if "image_grid_thw" in inputs:
            print(first)
    """,
}


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in RIGHT.items()])
def test_right_code_has_no_finding(body):
    found = read(body)

    assert found.findings == ()
    assert found.remarks == ()


EVERY = set(trials(None))
PER_SAMPLE = {"idefics", "idefics2", "idefics3", "granite_docling", "mllama"}
WRONG = {
    "every key of the batch by sample": (
        "chunk = {key: value[start:stop] for key, value in inputs.items()}",
        "VLM001",
        EVERY - PER_SAMPLE,
    ),
    "every key but for text": (
        """
        for key, value in inputs.items():
            if isinstance(value, torch.Tensor) and key != "image_sizes":
                chunk[key] = value[start : start + size].to(device)
        """,
        "VLM001",
        EVERY - PER_SAMPLE,
    ),
    "a branch that two kinds of layouts share": (
        """
        pixels, grid = inputs["pixel_values"], inputs.get("image_grid_thw")
        if grid is not None:
            pass
        elif pixels is not None:
            chunk["pixel_values"] = pixels[start : min(stop, len(input_ids))]
        """,
        "VLM001",
        set(FAMILIES) - PER_SAMPLE - {"qwen2_5_vl"},
    ),
    "tiles cut by images": (
        """
        images = [0, *accumulate(inputs["num_images"])]
        if "spatial_shapes" in inputs:
            chunk["pixel_values"] = inputs["pixel_values"][images[start] : images[stop]]
        """,
        "VLM001",
        {"lfm2_vl"},
    ),
    "patches cut by images, summed on the spot": (
        """
        if "image_grid_thw" in inputs:
            first, last = sum(num_images[:start]), sum(num_images[:stop])
            chunk["pixel_values"] = inputs["pixel_values"][first:last]
        """,
        "VLM001",
        {"qwen2_5_vl"},
    ),
    "rows repeated like samples": (
        """
        ids = input_ids.repeat_interleave(size, dim=0)
        if (grid := inputs.get("image_grid_thw")) is not None:
            pixels = inputs["pixel_values"].repeat_interleave(size, dim=0)
        """,
        "VLM002",
        {"qwen2_5_vl"},
    ),
    "rows narrowed by sample": (
        """
        ids = input_ids.narrow(0, start, size)
        if "image_position_ids" in inputs:
            chunk["pixel_values"] = torch.narrow(inputs["pixel_values"], 0, start, size)
        """,
        "VLM001",
        {"gemma4"},
    ),
    "videos cut by sample": (
        """
        if inputs.get("video_position_ids") is not None:
            chunk["pixel_values_videos"] = inputs["pixel_values_videos"][start:stop]
            chunk["video_position_ids"] = inputs["video_position_ids"][start:stop]
        """,
        "VLM001",
        {"gemma4 with videos"},
    ),
    "one of two ways of an expression": (
        """
        grid = inputs.get("image_grid_thw")
        chunk["pixel_values"] = None if grid is None else inputs["pixel_values"][start:stop]
        chunk["image_grid_thw"] = None if grid is None else grid[start:stop]
        """,
        "VLM001",
        {"qwen2_5_vl"},
    ),
    "rows that are as many as samples by chance": (
        """
        if inputs["pixel_values"].size(0) != len(input_ids):
            continue
        chunk["pixel_values"] = inputs["pixel_values"][start:stop]
        """,
        "VLM001",
        {
            *("deepseek_ocr2", "gemma4", "llava", "llava_next", "llava_onevision", "mistral3"),
            "perception_lm",
        },
    ),
    "a key that never shipped": (
        """
        if inputs.get("pixel_position_ids") is not None:
            chunk["pixel_position_ids"] = inputs["pixel_position_ids"][start:stop]
        """,
        "VLM004",
        {"gemma4"},
    ),
    "a name that another branch assigns": (
        """
        if "image_grid_thw" in inputs:
            first = inputs["num_images"][start]
        if "image_position_ids" in inputs:
            chunk["image_position_ids"] = inputs["image_position_ids"][first:]
        """,
        "VLM008",
        {"gemma4"},
    ),
}


@pytest.mark.parametrize(
    ("body", "code", "layouts"), [pytest.param(*case, id=name) for name, case in WRONG.items()]
)
def test_wrong_code_is_found_in_the_layouts_where_it_is_wrong(body, code, layouts):
    found = read(body)

    assert wrong_layouts(found, code) == layouts
    assert {remark.code for remark in found.findings} == {code}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            """
            if self.is_padded:
                chunk["pixel_values"] = inputs["pixel_values"][start:stop]
            """,
            id="a test of theirs",
        ),
        pytest.param(
            """
            match model.config.model_type:
                case "idefics3":
                    chunk["pixel_values"] = inputs["pixel_values"][start:stop]
            """,
            id="a case",
        ),
        pytest.param(
            'pixels = inputs["pixel_values"][start:stop] if self.is_padded else None',
            id="an expression",
        ),
    ],
)
def test_what_depends_on_a_test_that_cannot_be_read_is_no_finding(body):
    found = read(body)

    assert found.ok and len(found.remarks) == 1
    assert found.remarks[0].unsure
    assert "depends on" in str(found)


@pytest.mark.parametrize(
    "bounds",
    ["a:b", "offsets(start):offsets(stop)", "self.images[start]:self.images[stop]"],
)
def test_bounds_that_cannot_be_read_are_listed_and_not_judged(bounds):
    found = read(f'chunk["pixel_values"] = inputs["pixel_values"][{bounds}]')

    assert found.remarks == ()
    assert len(found.not_judged) == 1 and "pixel_values" in found.not_judged[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_code_is_read_as_right(family):
    code = vd.export(vd.make_batch(family, [2, 0, 1]))
    found = review.source(code.source, families=[family])

    clips = ("videos[", "video_patches[", "frames[", "audios[", "owners[")  # it counts no such
    if family == "deepseek_ocr2":  # nor the tiles of num_local_patches
        clips += ("patches[",)
    unread = [line for line in found.not_judged if not any(name in line for name in clips)]

    assert found.remarks == ()
    assert unread == []
    like_text = family in ("mllama", "idefics")  # cut from one dictionary

    assert found.agreeing >= 1 or like_text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("slicer", slicers.STORY, ids=lambda slicer: slicer.__name__)
def test_what_is_read_as_wrong_is_wrong_when_it_runs(slicer, family):
    found = review.source(textwrap.dedent(inspect.getsource(slicer)), families=[family])
    wrong = [remark for remark in found.findings if family in remark.wrong]

    if wrong:
        assert vd.falsify(slicer, families=[family]) is not None
    else:
        assert slicer is not slicers.by_sample or family in PER_SAMPLE


@pytest.mark.parametrize(
    ("slicer", "codes"),
    [
        (slicers.by_sample, {"VLM001"}),
        (slicers.before_5452, {"VLM001", "VLM004"}),
        (slicers.first_5452_rloo, {"VLM001", "VLM008"}),
        (slicers.merged_5452, {"VLM001"}),
        (slicers.corrected, set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_story_is_told_from_its_source_alone(slicer, codes):
    found = review.source(inspect.getsource(slicer), families=["gemma4", "llava", "idefics3"])

    assert {remark.code for remark in found.findings} == codes


def test_batch_is_given_that_defeats_a_test_on_shapes():
    """TRL 1.16 takes as many rows as images for one row per image; Idefics 3 can have them, too."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer")
    (found,) = review.paths([inspect.getfile(trainer)]).findings

    assert found.text == "pixel_values[img_start:img_end]"
    assert {*found.wrong} == PER_SAMPLE
    assert found.batch == "images per sample [1, 0, 2], chunk size 2"


def test_nothing_is_run(tmp_path):
    (tmp_path / "bad.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n1 / 0\n")
    review.paths([tmp_path])

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["def f(:\n", "\0", "(" * 5000])
def test_what_is_no_python_is_refused_with_its_line(text):
    with pytest.raises(vd.BadInput, match=r"cut\.py is not Python source"):
        review.source(text, "cut.py")


def test_unknown_layout_is_refused():
    with pytest.raises(vd.BadInput, match="'gema4' is not a layout family; did you mean 'gemma4'"):
        review.source("", families=["gema4"])


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = inspect.getsource(slicers.by_sample) + "\n\n" + inspect.getsource(slicers.merged_5452)
    (tmp_path / "trainer.py").write_text(source)
    (tmp_path / "fine.py").write_text("def add(a, b):\n    return a + b\n")
    return tmp_path / "trainer.py"


def test_command_names_file_line_and_layouts(trainer, capsys):
    code = main(["review", "trainer.py", "fine.py"])
    printed = capsys.readouterr().out

    assert code == 1
    assert "trainer.py:5:21: VLM001 value[start:stop]\n" in printed
    assert "has one row per image in gemma4" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_command_answers_nothing_found_and_bad_input(trainer, capsys):
    assert main(["review", "fine.py"]) == 0
    assert "No function was found here" in capsys.readouterr().out
    assert main(["review", "nowhere.py"]) == 2
    assert "nowhere.py: No such file" in capsys.readouterr().err
    assert main(["review"]) == 2
    assert "Nothing to review was given" in capsys.readouterr().err


def test_one_path_is_as_good_as_a_list(trainer):
    assert review.paths("trainer.py").remarks == review.paths([trainer.name]).remarks


def test_layouts_can_be_narrowed(trainer):
    assert main(["review", "trainer.py", "--family", "idefics3"]) == 0
    assert main(["review", "trainer.py", "--family", "llava"]) == 1


DIFF = """\
diff --git a/trainer.py b/trainer.py
--- a/trainer.py
+++ b/trainer.py
@@ -3,2 +3,3 @@ def by_sample
     for start in range(0, len(inputs["input_ids"]), chunk_size):
+        stop = start + chunk_size
         yield {}
diff --git a/gone.py b/gone.py
--- a/gone.py
+++ /dev/null
@@ -1 +0,0 @@
-pass
"""


def test_a_diff_narrows_the_review_to_the_functions_it_touches(trainer, capsys):
    (trainer.parent / "pr.diff").write_text(DIFF)
    code = main(["review", "--diff", "pr.diff"])
    printed = capsys.readouterr().out

    assert code == 1
    assert "trainer.py:5:21: VLM001" in printed
    assert printed.count("VLM001") == 1


def test_a_diff_is_matched_with_paths_however_they_are_written(trainer, capsys):
    (trainer.parent / "pr.diff").write_text(DIFF)

    for path in ("trainer.py", "./trainer.py", str(trainer), "."):
        main(["review", path, "--diff", "pr.diff"])
        assert capsys.readouterr().out.count("VLM001") == 1


def test_a_diff_of_files_that_are_not_here_is_refused(trainer, capsys):
    (trainer.parent / "pr.diff").write_text(DIFF.replace("trainer.py", "other.py"))

    assert main(["review", "--diff", "pr.diff"]) == 2
    assert "The diff changes other.py, which is not here." in capsys.readouterr().err


def test_names_act_on_no_terminal(tmp_path, capsys):
    path = tmp_path / "cut\x1b[31m.py"
    for text in (
        "def cut(inputs, a, b):\n"
        "    return inputs['image_grid_thw'][a:b], inputs['pixel_values'][f(a) : f(b)]\n",
        "def cut(:",
    ):
        path.write_text(text)
        main(["review", str(path)])
    shown = capsys.readouterr()

    assert shown.out.count("cut\\x1b[31m.py") == 2 and "cut\\x1b[31m.py" in shown.err
    assert "\x1b" not in shown.out + shown.err


def test_formats_for_programs(trainer, capsys):
    main(["review", "trainer.py", "--format", "json"])
    data = json.loads(capsys.readouterr().out)
    main(["review", "trainer.py", "--format", "github"])
    first = capsys.readouterr().out.splitlines()[0]

    assert data["ok"] is False and data["remarks"][0]["line"] == 5
    place = "line=5,endLine=5,col=21,endColumn=38"
    assert first.startswith(f"::error file=trainer.py,{place},title=VLM001::pixel_values is cut")
    assert "%0A" in first


def test_name_that_depends_on_options_of_the_trainer_alone_is_not_remarked_on():
    """It is missing in every layout or in none: nothing that has to do with a batch's layout."""

    def unbound(test):
        code = f"""
        def cut(self, model, inputs, size):
            if {test}:
                pads = 1
            if self.packed:
                model(pads)
            for start in range(0, len(inputs["input_ids"]), size):
                model(pixel_values=inputs["pixel_values"][start : start + size])
        """
        remarks = review.source(textwrap.dedent(code)).remarks
        return [one.text for one in remarks if one.code == "VLM008"]

    assert unbound('"input_ids" not in inputs') == []
    assert unbound('"image_grid_thw" not in inputs') == ["pads"]


STEPS = {
    "step of a range": "for i in range(0, inputs['input_ids'].size(0), mb):\n"
    "        model(input_ids=inputs['input_ids'][i:i + mb], "
    "pixel_values=inputs['pixel_values'][i:i + mb])",
    "parts of tensor_split": "for ids, pixels in zip(torch.tensor_split(inputs['input_ids'], mb), "
    "torch.tensor_split(inputs['pixel_values'], mb)):\n"
    "        model(input_ids=ids, pixel_values=pixels)",
}


@pytest.mark.parametrize("body", STEPS.values(), ids=STEPS.keys())
def test_size_of_a_chunk_is_known_by_its_use_whatever_its_name(body):
    found = review.source(f"def loss(model, inputs, mb):\n    {body}\n")

    assert [remark.code for remark in found.findings] == ["VLM001"]
    assert "llava" in found.findings[0].wrong


def test_name_that_is_no_step_stays_unknown():
    found = review.source(
        "def loss(model, inputs, mb):\n"
        "    for i in range(mb):\n"
        "        model(input_ids=inputs['input_ids'][i:i + 1], "
        "pixel_values=inputs['pixel_values'][mb:mb + i])\n"
    )

    assert found.findings == ()
