"""Error texts of models and processors: every one is known, and says how to go on."""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers

import vlmdebug as vd
from vlmdebug.cli import main
from vlmdebug.failing.explain import explanation
from vlmdebug.failing.texts import ANYWHERE, PAGES, TEXTS, Kind, recognised
from vlmdebug.tiny.registry import ONE_IMAGE

MODELS = Path(transformers.__file__).parent
DOCS = Path(__file__).parent.parent / "docs" / "codes"
RAISES = re.compile(r"(?:raise |(?=torch_compilable_check|torch\._check))([\w.]+\()")

TEXT_SIDE = re.compile(r"token|placeholder|prompt|\btexts?\b|span", re.IGNORECASE)
MEDIA_SIDE = re.compile(
    r"image|video|audio|frame|multimodal|modalit|feature|grid_thw", re.IGNORECASE
)
DIFFER = re.compile(
    r"match|same|but (no|received|have|are missing|`mm|\{\})|passed|divisible|fewer|more|"
    r"is missing|as much|no (image|audio|video)|each (sample|text|prompt)|detected|!=|1:1|truncate",
    re.IGNORECASE,
)
OTHER_CLASSES = {
    "slow_image_processor_class": "two classes of a processor",
    "Found {} texts vs {} audios": "a model that compares texts with sounds, without placeholders",
    "mututally exclusive": "two arguments that exclude each other",
    "composer_vocab_size": "the size of a vocabulary",
    "prompt depth images": "an image and its depth",
    "need to have the same batch size": "a model with one image for each text",
    "spatial tokens, got {}": "settings of a vision tower",
    "frame timestamps, but no `fps`": "an argument that is missing",
    "audio tokenizer, so": "a model without an encoder",
    "Make sure to pass as many prompt texts": "queries of a segmentation",
    "lists of text labels as images": "labels of a detection",
}
"""Texts with the words of this class, which are not of it."""


def text_of(node: ast.AST) -> str | None:
    """The text of an expression, `{}` for what it fills in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return None if left is None or right is None else left + right
    return None


def texts_of(source: str) -> Iterator[str]:
    """Texts of the exceptions that a source raises."""
    for begin in RAISES.finditer(source):
        call = call_at(source, begin.start(1))
        said = call.args if call is not None else []
        yield from (" ".join(text.split()) for one in said if (text := text_of(one)))


def call_at(source: str, start: int) -> ast.Call | None:
    """The call that begins there; parsing whole files would take half a minute."""
    for end in re.finditer(r"\)$", source[start : start + 4000], re.MULTILINE):
        try:
            node = ast.parse(source[start : start + end.end()], mode="eval").body
        except SyntaxError:
            continue
        return node if isinstance(node, ast.Call) else None
    return None


@cache
def raised() -> frozenset[str]:
    """Texts about placeholders and media in the models and processors of this release."""
    files = [MODELS / "processing_utils.py", *MODELS.glob("models/*/processing_*.py")]
    files += MODELS.glob("models/*/modeling_*.py")
    sources = (file.read_text(encoding="utf-8") for file in files)
    texts = {text for source in sources for text in texts_of(source)}
    signs = (TEXT_SIDE, MEDIA_SIDE, DIFFER)
    return frozenset(text for text in texts if all(sign.search(text) for sign in signs))


def test_every_text_of_this_release_is_known() -> None:
    texts = {text for text in raised() if not any(part in text for part in OTHER_CLASSES)}
    unknown = {text for text in texts if recognised(text.replace("{}", "7")) is None}

    assert len(texts) >= 30
    assert unknown == set()


def test_a_text_that_is_not_in_the_table_would_be_seen() -> None:
    source = 'raise ValueError(f"Frames ({n}) do not match " f"their tokens ({m})")'

    assert [*texts_of(source)] == ["Frames ({}) do not match their tokens ({})"]
    assert recognised("Frames (7) do not match their tokens (7)") is None


@pytest.mark.parametrize("kind", TEXTS)
def test_the_page_of_a_code_holds_its_texts(kind: Kind) -> None:
    page = " ".join((DOCS / f"{PAGES[kind]}.md").read_text(encoding="utf-8").split())

    assert [text for text in TEXTS[kind] if on_page(text) not in page] == []


def on_page(text: str) -> str:
    """A text as a page quotes it."""
    named = text.replace("{tokens}", "N").replace("{features}", "M")
    return " ".join(named.replace("{}", "…").split())


@pytest.mark.parametrize("text", [text for texts in TEXTS.values() for text in texts])
def test_each_text_is_recognised_with_its_own_kind(text: str) -> None:
    filled = text.replace("{tokens}", "12").replace("{features}", "9").replace("{}", "3")
    found = recognised(f"Traceback …\nValueError: {filled}\n")

    assert found is not None
    assert text in TEXTS[found.kind]
    assert (found.tokens == 12) == ("{tokens}" in text) or "MATCH" in text


@pytest.mark.parametrize(
    ("tokens", "features", "cause"),
    [
        (259, 256, "3 placeholders too many"),
        (23, 22, "1 placeholder too many"),
        (0, 6030, "without the chat template"),
        (5, 0, "a text-only sample has a placeholder"),
        (512, 256, "2 times as many tokens"),
        (64, 256, "4 is also the square of a usual merge size"),
        (256, 64, "4 times as many tokens"),
        (976, 1024, "48 placeholders are missing"),
        (31, 468480, "divide 468480 by the hidden size"),
        (1040, 784, "an image is missing in the media"),
    ],
)
def test_the_usual_cause_follows_from_the_ratio(tokens: int, features: int, cause: str) -> None:
    text = "Image features and image tokens do not match, tokens: {}, features: {}"

    assert cause in explanation(text.format(tokens, features)).usually


@pytest.mark.parametrize(
    ("said", "kind", "numbers"),
    [
        ("tokens 31, features 468480", Kind.TOTALS, (31, 468480)),
        ("I saw 976 of 1024 placeholders", Kind.TOTALS, (976, 1024)),
        (
            "The number of images in the text [1, 2] and images [1, 1] should be the same.",
            Kind.IN_TEXT,
            (3, 2),
        ),
        ("RuntimeError: shape '[2665, 4, -1]' is invalid for input of size 9", Kind.ROWS, None),
        ("TypeError: 'NoneType' object is not an iterator", Kind.NO_SIZES, None),
    ],
)
def test_texts_are_found_inside_other_words(
    said: str, kind: Kind, numbers: tuple[int, int] | None
) -> None:
    found = recognised(said)

    assert found is not None
    assert (found.kind, (found.tokens, found.features)) == (kind, numbers or (None, None))


def test_the_command_explains_a_text_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    text = "Image features and image tokens do not match, tokens: 259, features: 256"

    assert main(["explain", text]) == 0
    assert main(["explain", *text.split()]) == 0
    explained, _, again = capsys.readouterr().out.partition(f"{text}\n\nMeaning")[2].partition(text)
    assert "3 placeholders too many" in explained and "vlmdebug run train.py" in explained
    assert "3 placeholders too many" in again
    assert main(["explain", "vlm010"]) == 0
    assert capsys.readouterr().out.startswith("# VLM010")


def test_numbers_are_of_the_text_and_not_of_the_source_above_it() -> None:
    said = """Traceback (most recent call last):
  File "/usr/lib/python3.12/site-packages/transformers/models/llava/modeling_llava.py", line 213
    f"Image features and image tokens do not match, tokens: {n[0]}, features: {f.shape[0]}",
  File "/usr/lib/python3.12/site-packages/transformers/utils/import_utils.py", line 1684
    raise error_type(msg)
ValueError: Image features and image tokens do not match, tokens: 259, features: 256
"""
    found = recognised(said)

    assert found is not None
    assert (found.tokens, found.features) == (259, 256)


@pytest.mark.parametrize("kind", TEXTS)
def test_what_any_code_may_raise_is_said_to_be_so(kind: Kind) -> None:
    found = explanation(TEXTS[kind][0].format(*"3333", tokens=3, features=4))

    assert found.anywhere == (kind in ANYWHERE)
    assert found.anywhere == ("Any code of torch or Python may raise this." in str(found))


def test_another_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(vd.BadInput, match="neither a mismatch code nor an error text"):
        explanation("CUDA out of memory")

    assert main(["explain", "CUDA out\x1b[31m of memory"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_long_text_is_read_in_no_time() -> None:
    assert recognised("Found " * 20_000 + "tokens: " * 20_000) is None


def _answer(family: str, change: Callable[[dict[str, Any]], dict[str, Any]], built: Any) -> str:
    """The traceback of a tiny model that is called with a changed batch."""
    images = [1, 1] if family in ONE_IMAGE else [2, 1]
    inputs = dict(vd.tiny.batch(family, images, padding_side="right"))
    try:
        built[family][0](**change(inputs))
    except Exception as error:
        return "".join(traceback.format_exception(error))
    raise AssertionError("the model did not raise")


def _with(key: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda inputs: {**inputs, key: change(inputs[key])}


@pytest.mark.parametrize(
    ("family", "change", "code"),
    [
        ("qwen2_5_vl", _with("image_grid_thw", lambda v: v.flip(0)), "VLM009"),
        ("qwen2_5_vl", _with("attention_mask", lambda v: v[:, :-1]), "VLM011"),
        ("llava", lambda b: {**b, "labels": b["input_ids"][:, :-2]}, "VLM013"),
        ("llava", _with("pixel_values", lambda v: v[None]), "VLM011"),
        ("llava", _with("pixel_values", lambda v: v.movedim(1, -1)), "VLM011"),
        ("llava_next", _with("pixel_values", lambda v: v[:-1]), "VLM001"),
        ("ernie4_5_vl_moe", _with("pixel_values", lambda v: v[:, :-2]), "VLM001"),
        ("blip-2", _with("pixel_values", lambda v: v[:1]), "VLM010"),
        ("kosmos-2", lambda b: {k: b[k] for k in b if k != "pixel_values"}, "VLM003"),
    ],
)
def test_what_a_real_model_says_of_parts_that_differ_is_known(
    family: str, change: Any, code: str, built: Any
) -> None:
    found = explanation(_answer(family, change, built))

    assert (found.code, found.anywhere) == (code, family != "kosmos-2")
