"""Fixes: right ones are offered and proven, the rest of the file stays, and nothing is guessed."""

from __future__ import annotations

import re
import subprocess
import textwrap

import pytest

from vlmdebug import review
from vlmdebug.cli import main
from vlmdebug.errors import BadInput
from vlmdebug.review import fixing
from vlmdebug.review.edits import Edit, Source, moved, unified

LOOP = """
def cut(model, inputs, size):
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    positions = inputs["image_position_ids"]
    images = [0, *accumulate(inputs["num_images"])]
    for start in range(0, len(ids), size):
        stop = min(start + size, len(ids))
        model(
            input_ids=ids[start:stop],
            pixel_values={pixels},
            image_position_ids={positions},
            mm_token_type_ids=inputs["mm_token_type_ids"][start:stop],
        )
"""
OWN = "images[start]:images[stop]"
SUMS = "sum(inputs['num_images'][:start]):sum(inputs['num_images'][:stop])"
FIXES = {
    "bounds of another slice": (
        LOOP.format(pixels="pixels[start:stop]", positions=f"positions[{OWN}]"),
        [("pixels[start:stop]", f"pixels[{OWN}]")],
    ),
    "two slices": (
        LOOP.format(pixels="pixels[start:stop, :]", positions="positions[start:stop]"),
        [
            ("pixels[start:stop, :]", f"pixels[{OWN}, :]"),
            ("positions[start:stop]", f"positions[{OWN}]"),
        ],
    ),
    "sums of counts": (
        """
def cut(model, inputs, size):
    ids, count = inputs["input_ids"], inputs['num_images']
    for start in range(0, len(ids), size):
        stop = start + size
        model(input_ids=ids[start:stop], pixel_values=inputs["pixel_values"][start:stop],
              image_position_ids=inputs["image_position_ids"][sum(count[:start]):sum(count[:stop])])
""",
        [('"pixel_values"][start:stop]', '"pixel_values"][sum(count[:start]):sum(count[:stop])]')],
    ),
    "a key that a list lacks": (
        """
KEYS = ["input_ids", 'pixel_values', ]


def step(model, inputs):
    grid = inputs["image_grid_thw"]
    model(**{key: inputs[key] for key in KEYS})
""",
        [("'pixel_values', ]", "'pixel_values', 'image_grid_thw', ]")],
    ),
    "a name that no processor returns": (
        LOOP.replace("image_position_ids", "pixel_position_ids")
        .replace('inputs["pixel_position_ids"]', 'inputs.get("pixel_position_ids")')
        .format(pixels=f"pixels[{OWN}]", positions=f"positions[{OWN}]"),
        [("pixel_position_ids", "image_position_ids")],
    ),
    "blocks in place of each row twice": (
        """
def twice(model, inputs):
    ids, pixel_values = inputs["input_ids"].repeat(2, 1), inputs["pixel_values"]
    places = inputs["image_position_ids"].repeat(2, 1, 1)
    model(ids, pixel_values=pixel_values.repeat_interleave(2, dim=0), image_position_ids=places)
""",
        [
            (
                "pixel_values.repeat_interleave(2, dim=0)",
                "pixel_values.repeat(2, *[1] * (pixel_values.ndim - 1))",
            )
        ],
    ),
}


@pytest.fixture
def read_only(monkeypatch):
    """Proves by reading alone, as where torch is not installed."""
    monkeypatch.setattr(fixing, "_has_torch", lambda: False)


def fixed(path) -> review.Fixed:
    (found,) = review.fixes(path)
    return found


def changed(source: str, changes: list[tuple[str, str]]) -> str:
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return source


@pytest.mark.usefixtures("read_only")
@pytest.mark.parametrize(("source", "changes"), FIXES.values(), ids=FIXES.keys())
def test_finding_is_fixed_and_a_second_time_changes_nothing(tmp_path, source, changes):
    path = tmp_path / "cut.py"
    path.write_text(source)
    found = fixed(path)
    found.write()

    assert path.read_text() == changed(source, changes)
    assert found.left == ()
    assert review.source(path.read_text()).ok
    assert review.fixes(path) == ()
    assert "not run: torch is not installed" in str(found.fixes[0])


@pytest.mark.parametrize("name", ["bounds of another slice", "a key that a list lacks"])
def test_fix_is_proven_by_running_before_and_after(tmp_path, name):
    source, changes = FIXES[name]
    path = tmp_path / "cut.py"
    path.write_text("from itertools import accumulate\n" + source)
    found = fixed(path)

    assert found.after.decode() == changed(path.read_text(), changes)
    assert found.left == ()
    assert "run with generated batches" in str(found.fixes[0])
    assert path.read_bytes() == found.before  # nothing is written


LEFT = {
    "it cannot be run": (
        LOOP.format(pixels="pixels[start:stop]", positions=f"positions[{OWN}]").replace(
            "    images", "    self_scale = int(scale_of_nobody.value)\n    images"
        ),
        "falsify cannot judge it: cut .*scale_of_nobody",
    ),
    "it is never called with images": (
        LOOP.format(pixels="pixels[start:stop]", positions=f"positions[{OWN}]").replace(
            "    images", "    if not hasattr(ids, 'nothing'):\n        return\n    images"
        ),
        "no change is known|cannot judge it|finds nothing wrong",
    ),
}


@pytest.mark.parametrize(("source", "why"), LEFT.values(), ids=LEFT.keys())
def test_what_running_does_not_confirm_is_left_with_the_reason(tmp_path, source, why):
    path = tmp_path / "cut.py"
    path.write_text(
        "from itertools import accumulate\nfrom nowhere_x import scale_of_nobody\n" + source
    )
    found = review.fixes(path)
    for one in found:
        assert one.fixes == ()
        assert one.after == one.before
        assert one.diff == b""
        (said,) = one.left
        assert said.startswith(f"not fixed: {path.as_posix()}:")
        assert re.search(why, said)


NO_FIX = {
    "right": LOOP.format(pixels=f"pixels[{OWN}]", positions=f"positions[{OWN}]"),
    "offsets that nothing computes": """
def cut(model, inputs, size):
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    for start in range(0, len(ids), size):
        model(input_ids=ids[start : start + size], pixel_values=pixels[start : start + size])
""",
    "right in one layout would be wrong in another": """
def cut(inputs, size):
    images = [0, *accumulate(inputs["num_images"])]
    for start in range(0, len(inputs["input_ids"]), size):
        yield {key: value[start : start + size] for key, value in inputs.items()}
""",
    "a name that is a parameter": """
def cut(model, input_ids, pixel_values, pixel_position_ids=None):
    if pixel_position_ids is not None:
        model(input_ids[:1], pixel_values=pixel_values, pixel_position_ids=pixel_position_ids)
""",
    "the order of all keys": """
def twice(model, inputs):
    model(**{key: value.repeat_interleave(2, dim=0) for key, value in inputs.items()})
""",
}


@pytest.mark.usefixtures("read_only")
@pytest.mark.parametrize("source", NO_FIX.values(), ids=NO_FIX.keys())
def test_what_is_not_certain_is_not_touched(tmp_path, source):
    path = tmp_path / "cut.py"
    path.write_text(source)

    assert not [fix for one in review.fixes(path) for fix in one.fixes]


# --- bytes -----------------------------------------------------------------------------------

PLAIN = LOOP.format(pixels="pixels[start:stop]", positions=f"positions[{OWN}]")
MADE = changed(PLAIN, FIXES["bounds of another slice"][1])
BYTES = {
    "line ends of Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "mixed line ends": lambda text: text.replace("\n", "\r\n", 7).encode(),
    "tabs": lambda text: text.replace("    ", "\t").encode(),
    "blanks at ends": lambda text: text.replace("\n", "  \n").encode(),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "Latin-1": lambda text: f"# -*- coding: latin-1 -*-\n# \xe4\xf6\n{text}".encode("latin-1"),
    "no line end at the end": lambda text: text.rstrip("\n").encode(),
    "a form feed": lambda text: text.replace("\ndef", "\n\f\ndef").encode(),
    "other letters before it": lambda text: text.replace(
        "            pixel_values",
        "            # ä\u2028ö\n            **dict(é='日本'), pixel_values",
    ).encode(),
    "a line that is not Python's": lambda text: text.replace(
        "ids, p", "x = '\x1c'; ids, p"
    ).encode(),
}


@pytest.mark.usefixtures("read_only")
@pytest.mark.parametrize("made", BYTES.values(), ids=BYTES.keys())
def test_rest_of_the_file_stays_byte_for_byte_and_git_applies_the_diff(tmp_path, made, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my cut.py"
    path.write_bytes(made(PLAIN))
    found = fixed(path)
    (tmp_path / "a.diff").write_bytes(found.diff)
    subprocess.run(["git", "init", "-q", "."], check=True)
    subprocess.run(
        ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", "a.diff"], check=True
    )

    assert found.after == made(MADE)
    assert path.read_bytes() == found.after


def test_edits_are_at_the_places_of_the_tree_and_never_overlap():
    source = Source("é = a[1:2]\r\n")

    assert source.edited([Edit(4, 5, "bb"), Edit(6, 9, "x")]).text == "é = bb[x]\r\n"
    with pytest.raises(AssertionError, match="overlap"):
        source.edited([Edit(0, 5, "x"), Edit(4, 6, "y")])
    assert moved([(8, 9)], [Edit(0, 2, "abcd")]) == [(10, 11), (0, 4)]


@pytest.mark.parametrize("name", ['a"b.py', "ä.py", "a\tb.py", "back\\slash.py"])
def test_odd_names_of_files_reach_git(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"a\nb")
    (tmp_path / "x.diff").write_bytes(unified(tmp_path / name, b"a\nb", b"a\nc\n"))
    subprocess.run(["git", "init", "-q", "."], check=True)
    subprocess.run(["git", "apply", "x.diff"], check=True)

    assert (tmp_path / name).read_bytes() == b"a\nc\n"


@pytest.mark.usefixtures("read_only")
def test_file_that_changed_meanwhile_is_left(tmp_path):
    path = tmp_path / "cut.py"
    path.write_text(PLAIN)
    found = fixed(path)
    path.write_text("# mine\n")
    with pytest.raises(BadInput, match="was changed meanwhile"):
        found.write()

    assert path.read_text() == "# mine\n"


# --- the command line ------------------------------------------------------------------------


@pytest.mark.usefixtures("read_only")
def test_patch_prints_a_diff_and_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.py").write_text(PLAIN)
    (tmp_path / "odd.py").write_text("def f(:\n")
    status = main(["review", "--patch", "."])
    printed = capsys.readouterr()

    assert status == 0
    assert printed.out.startswith("--- a/cut.py\n+++ b/cut.py\n@@ ")
    assert f"fixed: cut.py:10: VLM001 start:stop -> {OWN} (read in 1 layout" in printed.err
    assert (tmp_path / "cut.py").read_text() == PLAIN


@pytest.mark.usefixtures("read_only")
def test_fix_writes_the_files_with_a_line_for_each(tmp_path, capsys):
    path = tmp_path / "cut.py"
    path.write_text(PLAIN + NO_FIX["offsets that nothing computes"].replace("cut", "other"))

    assert main(["review", "--fix", str(path)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("\nnot fixed: ") == 1
    assert path.read_text().startswith(MADE)
    assert main(["review", "--fix", str(path)]) == 1
    assert "fixed: " not in capsys.readouterr().out.replace("not fixed: ", "")


@pytest.mark.usefixtures("read_only")
def test_only_functions_that_a_diff_touches_are_fixed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cut.py"
    path.write_text(PLAIN + PLAIN.replace("cut", "second"))
    (found,) = review.fixes(path, lines={"cut.py": frozenset({22})})

    assert [fix.function for fix in found.fixes] == ["second"]


def test_finding_says_how_to_run_it(tmp_path):
    path = tmp_path / "my cut.py"
    path.write_text(textwrap.dedent(PLAIN))
    (found,) = review.paths(path).findings

    assert str(found).endswith(f"Run it: vlmdebug falsify '{path.as_posix()}:cut'")
    assert review.source(PLAIN).findings[0].command is None
