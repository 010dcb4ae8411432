"""The size of modules, classes and functions, and which of them name a model."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlmdebug
from vlmdebug.core.keys import MEDIA_KEYS, MEDIA_OF, TYPE_IDS
from vlmdebug.families import FAMILIES
from vlmdebug.review.trials import trials

PACKAGE = Path(vlmdebug.__file__).parent

LONGEST_MODULE, LONGEST_CLASS, LONGEST_FUNCTION = 450, 249, 40
"""Lines; of a function, those below its docstring."""

LONG_FUNCTIONS = {
    "running/check.py:run": "one loop over a slicer, with what each way to fail means",
    "trainers/trl_trainer.py:_parts": "one dictionary of what TRL's trainers read",
}

NAMES_A_KEY = {
    "fleet/pictures.py": "width and height of an image in a row; one model has keys of these names",
    "running/pasted_packer.py": "M-RoPE's positions of an exported packer follow from its grid",
    "slicers.py": "the slicers of TRL's history, and a right one, written by hand as in a trainer",
    "checking/compared.py": "sizes without padding are all that shows height from width",
    "checking/masks.py": "Idefics' mask and Mllama's ids describe padding that only they have",
    "checking/lacking.py": "Mllama's ids of aspect ratios are the only count of its images",
    "outcomes/clips.py": "videos of patches are the only ones that models compare with their text",
    "outcomes/forecast.py": "sizes with another dimension, and videos of patches, are looked at",
    "outcomes/tokens.py": "get_rope_index places images by this mask of types",
    "outcomes/whole_batch.py": "get_rope_index asks for a grid where these types mark a video",
    "review/keys.py": "names that are ordinary words, too",
    "running/search.py": "falsify tries frames with their seconds and without",
    "running/synthetic.py": "falsify makes the seconds of frames, and the types of tokens",
    "tracking/copied.py": "these types are recomputed, so their values are read",
    "tracking/made.py": "the rule of each key that follows from others",
    "tracking/packed_rows.py": "planes of M-RoPE are named after what they count",
    "tracking/places.py": "M-RoPE's positions follow from grids, and the seconds of videos",
}
"""Modules outside the families that name a key of some families, and for which fact."""


# --- sizes ---------------------------------------------------------------------------------


def modules() -> list[tuple[str, str]]:
    """Path within the package and source of every module."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [(p.relative_to(PACKAGE).as_posix(), p.read_text(encoding="utf-8")) for p in paths]


def long_classes(source: str, most: int = LONGEST_CLASS) -> list[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return [node.name for node in nodes if lines_of(node, node.lineno) > most]


def long_functions(source: str, most: int = LONGEST_FUNCTION) -> list[str]:
    """Functions with more lines below their docstring."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None and len(node.body) > 1
            if lines_of(node, node.body[documented].lineno) > most:
                found.append(node.name)
    return found


def lines_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, first: int) -> int:
    return (node.end_lineno or first) - first + 1


def test_no_module_is_too_long() -> None:
    long = {path: source.count("\n") for path, source in modules()}

    assert {path: lines for path, lines in long.items() if lines > LONGEST_MODULE} == {}


def test_no_class_is_too_long() -> None:
    assert [(path, long) for path, source in modules() if (long := long_classes(source))] == []


def test_no_function_is_too_long_but_those_with_a_reason() -> None:
    long = {f"{path}:{name}" for path, source in modules() for name in long_functions(source)}

    assert long == LONG_FUNCTIONS.keys()


def test_a_long_class_or_function_would_be_seen() -> None:
    source = (
        'class A:\n    """Doc."""\n\n    def f(self):\n        """Doc."""\n        1\n        2\n'
    )

    assert (long_classes(source, 6), long_classes(source, 7)) == (["A"], [])
    assert (long_functions(source, 1), long_functions(source, 2)) == (["f"], [])


# --- models --------------------------------------------------------------------------------

MODELS = {name for one in FAMILIES.values() for name in (one.name, *one.models, *one.processors)}
NAMED = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(MODELS)))})(?![\w-])")


def models_named(source: str) -> Iterator[str]:
    """Families and types of models named in code: in a text that is no docstring, or as a name."""
    tree = ast.parse(source)
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    docstrings = {id(node) for node in strings if isinstance(node, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from () if id(node) in docstrings else NAMED.findall(node.value)
        elif isinstance(node, ast.Name | ast.Attribute | ast.alias):
            parts = [getattr(node, part, None) for part in ("id", "attr", "name")]
            yield from (part for whole in parts if whole for part in NAMED.findall(whole))


def test_nothing_but_families_and_tiny_models_names_a_model() -> None:
    named = {path for path, source in modules() if any(models_named(source))}
    outside = {path for path in named if path.partition("/")[0] not in ("families", "tiny")}

    assert outside == set()
    assert {"families/qwen2_5_vl.py", "tiny/gemma4.py"} <= named


def keys_named(source: str) -> set[str]:
    """Keys in code that only some families have: all media keys but the first of each modality."""
    own = {*MEDIA_KEYS, *TYPE_IDS} - {*MEDIA_OF.values()}
    tree = ast.parse(source)
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    docstrings = {id(node) for node in strings if isinstance(node, ast.Constant)}
    named = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in named if id(node) not in docstrings and node.value in own}


def test_keys_of_a_family_are_named_elsewhere_only_for_a_fact() -> None:
    named = {path for path, source in modules() if keys_named(source)}
    folders = ("families", "tiny", "core")

    assert {path for path in named if path.partition("/")[0] not in folders} == NAMES_A_KEY.keys()
    assert {path for path in named if path.startswith("core/")} == {"core/keys.py"}


def test_keys_named_in_code_are_found() -> None:
    assert keys_named('"""image_sizes."""\nx["image_sizes"] + x["pixel_values"]') == {"image_sizes"}


@pytest.mark.parametrize(
    ("source", "named"),
    [
        pytest.param('"""Read in llava."""', [], id="a docstring"),
        pytest.param("# llava\nx = 'aria-label'", [], id="a comment, and a word of HTML"),
        pytest.param("if family.name == 'llava': ...", ["llava"], id="a comparison"),
        pytest.param("f'{key} of gemma4, as a rule'", ["gemma4"], id="a message"),
        pytest.param("from vlmdebug.families import mllama", ["mllama"], id="an import"),
        pytest.param("families.gemma4.Gemma4()", ["gemma4"], id="an attribute"),
    ],
)
def test_models_named_in_code_are_found(source: str, named: list[str]) -> None:
    assert list(models_named(source)) == named


def test_review_reads_the_clips_that_each_family_takes() -> None:
    names = {f"{one.name} with {clips}" for one in FAMILIES.values() for clips in one.clips}
    found = {name.replace("with videos", "with video") for name in trials()}

    assert found == FAMILIES.keys() | names
