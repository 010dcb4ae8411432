"""Every key of a batch stands once, in `core/keys.py`; families name keys of it, others none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlmdebug
from vlmdebug.core import keys
from vlmdebug.core.keys import KEYS, Kind
from vlmdebug.core.layout import UNITS
from vlmdebug.families import EVERY, FAMILIES, Family
from vlmdebug.families.fuyu import OlderFuyu
from vlmdebug.families.llava import OlderVideoLlava
from vlmdebug.families.rules import TOKENS
from vlmdebug.families.unreadable import MEASURES, OF_EACH
from vlmdebug.families.video_audio import COMPRESSION, clip_axes

PACKAGE = Path(vlmdebug.__file__).parent
OWN_NAMES = ("families", "tiny")
"""Folders whose files name keys of their own models."""
FEW = 2
"""Keys that may stand side by side where the code is about just these."""


def keys_listed(source: str) -> list[list[str]]:
    """Keys of each list, set, tuple or dict display in some source that names more than a few.

    A dict whose values are computed is no list of keys: it is a batch, or gives each key its rule.
    """
    shown = [list(_keys_in(node)) for node in ast.walk(ast.parse(source))]
    return [found for found in shown if len({*found}) > FEW]


def _keys_in(node: ast.AST | None) -> Iterator[str]:
    match node:
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            for part in parts:
                yield from _keys_in(part.value if isinstance(part, ast.Starred) else part)
        case ast.Dict(keys=names, values=values) if any(map(_is_data, values)):
            for part in (*names, *values):
                yield from _keys_in(part)
        case ast.BinOp(left=left, right=right):
            yield from (*_keys_in(left), *_keys_in(right))
        case ast.Call(func=ast.Name("frozenset" | "set" | "tuple" | "list"), args=[part]):
            yield from _keys_in(part)
        case ast.Constant(value=str(name)) if name in KEYS:
            yield name


def _is_data(value: ast.expr) -> bool:
    """Whether it is a literal, or an object made of some: `2`, `("a", "b")`, `Axis("image")`."""
    if isinstance(value, ast.Call):
        made = isinstance(value.func, ast.Name) and value.func.id[:1].isupper()
        return made and all(map(_is_data, value.args))
    if isinstance(value, ast.Tuple | ast.List | ast.Set):
        return all(map(_is_data, value.elts))
    return isinstance(value, ast.Constant)


def keys_of(family: Family) -> set[str]:
    """All keys that a family and the rules of its models name."""
    found = {*family.axes, *family.media, *family.shapes, *family.also_takes, family.feature_key}
    for rules in (family.rules, *family.variants.values()):
        found |= {*rules.keys, *rules.tokens, *rules.ignored, *rules.raises_without}
        found |= rules.only_used_for_position_ids | rules.optional_if_all_ones
        found |= rules.sometimes_returned
    return found | {*clip_axes(family)}


def test_each_key_is_listed_once() -> None:
    assert len(keys._TABLE) == len(KEYS)


def test_keys_follow_from_keys_that_are_listed() -> None:
    assert {name for key in KEYS.values() for name in key.of} <= KEYS.keys()


def test_no_key_follows_from_itself() -> None:
    for name in KEYS:
        met, ahead = set[str](), [*KEYS[name].of]
        while ahead:
            met.add(ahead[-1])
            ahead += KEYS[ahead.pop()].of

        assert name not in met


def test_units_are_those_of_layouts() -> None:
    units = {unit for key in KEYS.values() for unit in (key.unit, key.counts)}

    assert units <= {*UNITS, None}


def test_media_belong_to_a_modality_and_tokens_to_none() -> None:
    for key in KEYS.values():
        assert (key.modality is None) <= (key.kind not in (Kind.MEDIA, Kind.COUNTS)), key
        assert (key.modality is not None) <= (key.kind is not Kind.TOKENS), key


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_families_name_listed_keys(family: Family) -> None:
    assert keys_of(family) <= KEYS.keys()
    assert {*family.axes} <= keys.MEDIA_KEYS


def test_media_are_those_of_some_family() -> None:
    variants = {*OlderVideoLlava.axes, *OlderFuyu.axes, COMPRESSION}

    found = {key for f in EVERY for key in (*f.axes, *clip_axes(f))}
    assert found | variants == keys.MEDIA_KEYS


@pytest.mark.parametrize("named", [TOKENS, MEASURES, OF_EACH], ids=["rows", "measures", "of each"])
def test_rules_of_all_families_name_listed_keys(named: dict[str, object]) -> None:
    assert named.keys() <= KEYS.keys()


def test_numbers_of_each_row_belong_to_the_key_that_they_describe() -> None:
    assert all(KEYS[key].of == (described,) for key, described in OF_EACH.items())


def test_kinds_of_media_are_told_by_name() -> None:
    assert keys.modality_of("pixel_values") == "image"
    assert keys.modality_of("video_grid_thw") == "video"
    assert keys.modality_of("feature_attention_mask") == "audio"
    assert keys.modality_of("num_videos") is None
    assert keys.modality_of("no_such_key") is None


@pytest.mark.parametrize(
    "source",
    [
        pytest.param('TWO = ("labels", "position_ids")', id="two keys"),
        pytest.param('WORDS = ("images", "videos", "audios")', id="other words"),
        pytest.param('{"input_ids": ids, "labels": ids, "advantages": ones()}', id="a batch"),
        pytest.param('{"input_ids": A.ids, "labels": A.labels, "use_cache": no}', id="rules"),
        pytest.param('f("input_ids", "labels", "position_ids")', id="arguments"),
    ],
)
def test_few_keys_and_batches_are_no_lists(source: str) -> None:
    assert keys_listed(source) == []


@pytest.mark.parametrize(
    "source",
    [
        pytest.param('("input_ids", "labels", "position_ids")', id="tuple"),
        pytest.param('["input_ids", "labels", "position_ids", "other"]', id="list"),
        pytest.param('{*("input_ids", "labels"), "position_ids"}', id="starred"),
        pytest.param('{"input_ids"} | {"labels", "position_ids"}', id="union"),
        pytest.param('frozenset(["input_ids", "labels"]) | {"num_images"}', id="frozenset"),
        pytest.param('{"num_images": "image", "num_tiles": 2, "labels": ()}', id="dict"),
        pytest.param('{"a": "input_ids", "b": "labels", "c": "use_cache"}', id="values of a dict"),
        pytest.param(
            '{"image_sizes": Axis("image"), **dict(a=1), "labels": Axis("sample"), '
            '"pixel_mask": Axis("tile", 1)}',
            id="axes",
        ),
        pytest.param('def f():\n    return {"image_sizes", "labels", "input_ids"}', id="nested"),
    ],
)
def test_a_list_of_keys_is_seen(source: str) -> None:
    assert keys_listed(source) != []


def test_no_other_module_lists_keys() -> None:
    listed = {
        str(path.relative_to(PACKAGE)): found
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "core" / "keys.py"
        and path.relative_to(PACKAGE).parts[0] not in OWN_NAMES
        and (found := keys_listed(path.read_text(encoding="utf-8")))
    }

    assert listed == {}
