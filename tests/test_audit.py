"""The audit of a data set: each row alone, whole files, both engines, questions and the page."""

from __future__ import annotations

import gc
import gzip
import importlib.util
import io
import json
import logging
import os
import socket
import subprocess
import sys
import tarfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from architectures import Built, architectures
from PIL import Image

import vlmdebug as vd
from vlmdebug.cli import main
from vlmdebug.fleet import engines
from vlmdebug.fleet.audit_row import AuditSettings
from vlmdebug.fleet.dialogue import NoRow
from vlmdebug.fleet.faults import MEANING, Kind
from vlmdebug.fleet.questions import QUESTIONS, ask
from vlmdebug.fleet.sources import blocks_of, rows_of

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% elif 'text' in c %}{{ c['text'] }}{% endif %}"
    "{% endfor %}\n{% endfor %}"
)
SIZES = ((64, 48), (97, 311), (320, 80))


def row(*images: Any, text: str = "What is it?", answer: str = "A cat.") -> dict[str, Any]:
    """A sound row with typed parts."""
    places = [{"type": "image"} for _ in images]
    return {
        "messages": [
            {"role": "user", "content": [*places, {"type": "text", "text": text}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
        "images": list(images),
    }


def size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


@pytest.fixture(scope="module")
def processor() -> Any:
    made = vd.tiny.build("llava_next")[1]
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def saved(processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processor")
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", architectures())
def test_row_has_as_many_tokens_as_the_processor_makes(name: str, built: Built) -> None:
    processor = built[name][1]
    if getattr(processor, "image_token", None) is None:
        with pytest.raises(vd.BadInput, match="has no placeholder token for images"):
            vd.audit_row({"text": "a"}, processor)
        return
    images = [Image.new("RGB", one) for one in SIZES]
    for given in (images[:1], images):
        text = "".join(f"{processor.image_token} then " for _ in given) + "what is it?"
        try:
            made = processor(text=[text], images=[given])["input_ids"][0]
        except (ValueError, IndexError, AttributeError):
            continue  # a processor of one image for each text
        audited = vd.audit_row({"prompt": text, "images": given}, processor)

        assert audited.faults == ()
        assert audited.tokens == len(made)
        assert audited.sizes == tuple(one.size for one in given)


def test_sound_row_has_no_fault_and_is_not_changed(processor: Any) -> None:
    given = row(size(64, 48), size(97, 311))
    before = json.dumps(given)

    audited = vd.audit_row(given, processor, max_length=500)

    assert audited.ok and audited.unknown == ()
    assert audited.places == audited.images == 2
    assert audited.tokens == audited.text_tokens + sum(one or 0 for one in audited.image_tokens)
    assert json.dumps(given) == before


def png(width: int = 64, height: int = 48) -> bytes:
    stored = io.BytesIO()
    Image.effect_noise((width, height), 80).convert("RGB").save(stored, "PNG")
    return stored.getvalue()


LONG = "the " * 400
FAULTY: dict[str, tuple[Kind, Callable[[], Any]]] = {
    "more-places": (
        Kind.PLACEHOLDERS,
        lambda: {**row(size(64, 48), size(64, 48)), "images": [size(64, 48)]},
    ),
    "more-images": (Kind.PLACEHOLDERS, lambda: {**row(size(9, 9)), "images": [size(64, 48)] * 2}),
    "literal-in-typed-prose": (Kind.LITERAL, lambda: row(size(64, 48), text="The tag <image>.")),
    "literal-without-image": (
        Kind.LITERAL,
        lambda: {"conversations": [{"from": "human", "value": "What does <image> do in HTML?"},
                                   {"from": "gpt", "value": "Nothing."}]},
    ),
    "no-file": (Kind.MISSING, lambda: row("nowhere.png")),
    "nothing": (Kind.MISSING, lambda: row({"bytes": None, "path": None})),
    "not-an-image": (Kind.BROKEN, lambda: row({"bytes": b"GIF", "path": None})),
    "base64": (Kind.BROKEN, lambda: row("data:image/png;base64,%%%")),
    "a-number": (Kind.BROKEN, lambda: row(7)),
    "more-pixels-than-open": (Kind.SIZE, lambda: row(size(10**12, 10**12))),
    "empty-path": (Kind.BROKEN, lambda: row("")),
    "folder": (Kind.BROKEN, lambda: row("/")),
    "text-that-is-no-size": (Kind.MISSING, lambda: row({"width": "64", "height": True})),
    "pixels-that-no-column-holds": (Kind.SIZE, lambda: row(size(2**40, 0))),
    "no-file-but-a-size": (Kind.MISSING, lambda: row({"path": "nowhere.png", **size(64, 48)})),
    "half-a-surrogate": (Kind.UNREADABLE, lambda: row(text="a \ud800 b")),
    "typed-place-without-image": (Kind.PLACEHOLDERS, lambda: {"messages": row(7)["messages"]}),
    "no-pixels": (Kind.SIZE, lambda: row(size(0, 48))),
    "cut": (Kind.CUT, lambda: row(size(320, 320), text="Look.", answer="No.")),
    "lost": (
        Kind.LOST,
        lambda: {"messages": [
            {"role": "user", "content": [{"type": "text", "text": LONG}, {"type": "image"}]},
            {"role": "assistant", "content": "Yes."}], "images": [size(64, 48)]},
    ),
    "no-answer": (Kind.NO_TARGET, lambda: {"messages": row()["messages"][:1]}),
    "blank-answer": (Kind.NO_TARGET, lambda: row(answer=" \n")),
    "answer-after-the-cut": (Kind.NO_TARGET, lambda: row(text=LONG)),
    "empty-completion": (Kind.NO_TARGET, lambda: {"prompt": "Why?", "completion": ""}),
    "no-text": (Kind.EMPTY, lambda: row(size(64, 48), text="", answer="")),
    "no-columns": (Kind.UNREADABLE, lambda: {"label": 3}),
    "no-dict": (Kind.UNREADABLE, lambda: ["What?"]),
    "messages-of-text": (Kind.UNREADABLE, lambda: {"messages": "What?"}),
    "message-of-a-number": (Kind.UNREADABLE, lambda: {"messages": [7]}),
    "content-of-a-number": (Kind.UNREADABLE, lambda: {"messages": [{"role": "a", "content": 7}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_fault_of_a_row_is_named_by_its_kind(name: str, processor: Any) -> None:
    kind, make = FAULTY[name]

    audited = vd.audit_row(make(), processor, max_length=30 if name == "cut" else 160)

    assert {fault.kind for fault in audited.faults} - {Kind.NO_TARGET} <= {kind}
    assert kind in {fault.kind for fault in audited.faults}


def test_every_kind_of_fault_is_tried_and_has_a_meaning() -> None:
    assert {kind for kind, _ in FAULTY.values()} == set(Kind) == MEANING.keys()


SOUND: dict[str, Callable[[], Any]] = {
    "llava-format": lambda: {
        "conversations": [{"from": "human", "value": "<image>\nWhat?"},
                          {"from": "gpt", "value": "A."}],
        "image": size(64, 48),
    },
    "places-left-to-the-trainer": lambda: {
        "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A."}],
        "images": [size(64, 48)] * 2,
    },
    "prompt-alone": lambda: {"prompt": [{"role": "user", "content": "What?"}], "image": size(9, 9)},
    "preference": lambda: {"prompt": "What?", "chosen": "A.", "rejected": "B.",
                           "images": [size(64, 48)]},
    "image-in-the-message": lambda: {
        "messages": [
            {"role": "user",
             "content": [{"type": "image", "image": png()}, {"type": "text", "text": "?"}]},
            {"role": "assistant", "content": "A."}]},
    "foreign-marker-in-typed-prose": lambda: row(size(64, 48), text="The token <|image_pad|>."),
    "text-only": lambda: row(),
    "answers-before-and-after-the-cut": lambda: {"messages": [
        *row(answer="Yes.")["messages"], *row(text=LONG)["messages"]]},
    "last-word-of-the-user-after-the-cut": lambda: {"messages": [
        *row()["messages"], *row(text=LONG)["messages"][:1]]},
    "last-answer-empty": lambda: {"messages": [*row()["messages"], *row(answer="")["messages"]]},
    "preference-without-prompt": lambda: {"chosen": row()["messages"], "rejected": []},
    "image-in-base64": lambda: row(b64encode(png()).decode()),
    "image-in-a-dict-in-a-dict": lambda: row({"image": {"bytes": png(), "path": None}}),
    "size-of-pandas": lambda: row({"width": 64.0, "height": 48.0}),
    "remote-image-with-a-size": lambda: row({"url": "https://example.com/a.png", **size(64, 48)}),
    "system-message": lambda: {
        "messages": [{"role": "system", "content": "Be kind."}, *row()["messages"]]},
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_sound_row_of_every_form_has_no_fault(name: str, processor: Any) -> None:
    audited = vd.audit_row(SOUND[name](), processor, max_length=500)

    assert audited.faults == ()
    assert audited.unknown == ()
    assert audited.tokens is not None


def test_photo_is_turned_as_the_processor_turns_it(processor: Any, tmp_path: Path) -> None:
    from transformers.image_utils import load_image

    turned = Image.Exif()
    turned[0x0112] = 6
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (320, 80)).save(path, exif=turned)

    audited = vd.audit_row(row(str(path)), processor)

    assert audited.sizes == (load_image(str(path)).size,) == ((80, 320),)
    assert vd.audit_row(row(Image.open(path)), processor).sizes == ((320, 80),)


def test_image_of_another_machine_is_not_fetched_and_said_to_be_unknown(processor: Any) -> None:
    audited = vd.audit_row(row("https://example.com/a.png"), processor, max_length=10)

    assert audited.ok and audited.tokens is None
    assert audited.unknown == (
        "image 1 is remote and was not fetched",
        "what max_length cuts, because the length is not known",
    )


def test_pixels_that_end_too_early_are_found_by_decoding(processor: Any) -> None:
    given = row({"bytes": png()[:-2000], "path": None})

    assert vd.audit_row(given, processor).ok
    assert [one.kind for one in vd.audit_row(given, processor, decode=True).faults] == [Kind.BROKEN]


def test_size_that_the_processor_refuses_is_a_fault(built: Built) -> None:
    processor = built["emu3"][1]

    audited = vd.audit_row({"prompt": "<image> what?", "image": size(4000, 10)}, processor)

    assert [one.kind for one in audited.faults] == [Kind.SIZE]
    assert "4000x10 pixels: absolute aspect ratio" in audited.faults[0].detail


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"content": None, "tool_calls": [{"function": {"name": "f"}}]}, "tool calls"),
        ({"content": [{"type": "audio"}, {"type": "text", "text": "?"}]}, "a part of type audio"),
        ({"content": [["nested"], {"type": "text", "text": "?"}]}, "a part that is list"),
    ],
)
def test_what_is_not_read_is_not_compared(given: Any, said: str, processor: Any) -> None:
    messages = [*row()["messages"][:1], {"role": "assistant", **given}]

    audited = vd.audit_row({"messages": messages}, processor, max_length=500)

    assert audited.faults == () and audited.tokens is None
    assert audited.unknown[0] == said


def test_marker_of_others_is_a_place_only_if_the_row_has_images(built: Built) -> None:
    processor = built["qwen3_vl"][1]
    said = {"prompt": "What does <image> do in HTML?", "completion": "It shows one."}

    assert vd.audit_row({**said, "image": size(64, 64)}, processor).places == 1
    alone = vd.audit_row(said, processor)
    assert alone.faults == ()
    assert alone.unknown == ("whether <image> is a place: the row has no image",)
    llava = {"conversations": [{"from": "human", "value": "<image>"}, *row()["messages"][1:]]}
    assert vd.audit_row(llava, processor).faults[0].kind == Kind.LITERAL


ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{{ m['content'] }}\n{% endfor %}"
)


def test_chat_template_of_a_text_model_gets_text_and_may_refuse_a_row() -> None:
    processor = vd.tiny.build("llava_next")[1]
    processor.chat_template = ALTERNATE
    sound, refused = row(size(64, 48)), {"messages": row()["messages"][::-1]}

    audited = vd.audit_row(sound, processor)
    assert audited.ok and audited.tokens is not None
    (fault,) = vd.audit_row(refused, processor).faults
    assert (fault.kind, fault.detail) == (
        Kind.UNREADABLE,
        "The chat template does not take the messages: Roles must alternate.",
    )


def test_row_is_audited_with_the_processor_as_it_is_now() -> None:
    processor = vd.tiny.build("idefics3")[1]
    given = {"prompt": f"{processor.image_token} what?", "images": [size(400, 300)]}
    cut = vd.audit_row(given, processor).image_tokens
    processor.image_processor.do_image_splitting = False
    (whole,) = vd.audit_row(given, processor).image_tokens
    made = processor(text=[given["prompt"]], images=[[Image.new("RGB", (400, 300))]])["input_ids"]
    assert (whole,) != cut
    assert vd.audit_row(given, processor).tokens == len(made[0])
    processor.chat_template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    (fault,) = vd.audit_row(row(size(400, 300)), processor).faults
    assert fault.kind == Kind.PLACEHOLDERS
    processor.chat_template = TEMPLATE
    assert vd.audit_row(row(size(400, 300)), processor).ok


def test_one_place_is_said_in_the_singular() -> None:
    given = {**row(size(9, 9)), "images": [size(64, 48)] * 2}
    (fault,) = vd.audit_row(given, vd.tiny.build("llava_next")[1]).faults
    assert fault.detail == "The text has 1 place for images, the row has 2."


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if %}", "cannot be read: Expected an expression"),
        ({"rag": "a"}, "none is named default"),
    ],
)
def test_chat_template_that_no_row_can_use_is_refused(template: Any, said: str) -> None:
    processor = vd.tiny.build("llava_next")[1]
    processor.chat_template = template

    with pytest.raises(vd.BadInput, match=said):
        vd.audit_row(row(), processor)


def test_processor_that_does_not_take_its_own_placeholder_is_refused(built: Built) -> None:
    with pytest.raises(vd.BadInput, match="does not take a text with its own placeholder"):
        vd.audit_row({"text": "a"}, built["qianfan_ocr"][1])


def test_cut_at_the_left_leaves_the_end(processor: Any) -> None:
    given = row(size(320, 320))

    right = vd.audit_row(given, processor, max_length=30)
    left = vd.audit_row(given, processor, max_length=30, truncation_side="left")

    assert {one.kind for one in right.faults} == {Kind.CUT, Kind.NO_TARGET}
    assert {one.kind for one in left.faults} == {Kind.CUT}


def test_rows_are_the_same_only_if_text_and_images_are(processor: Any) -> None:
    one, same, other, elsewhere = (
        vd.audit_row(given, processor).identity
        for given in (row(png()), row(png(65)), row(png(65), text="Who?"), row(size(65, 48)))
    )

    assert len({one, same, other, elsewhere}) == 4
    assert vd.audit_row(row(size(65, 48)), processor).identity == elsewhere


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_length": 0}, "max_length=0, but a length is at least 1"),
        ({"truncation_side": "middle"}, "it is 'left' or 'right'"),
    ],
)
def test_option_out_of_range_is_refused(options: Any, said: str, processor: Any) -> None:
    with pytest.raises(vd.BadInput, match=said):
        vd.audit_row(row(), processor, **options)


def test_tokenizer_in_place_of_the_processor_is_refused(processor: Any) -> None:
    with pytest.raises(vd.BadInput, match="a processor of images and text belongs"):
        vd.audit_row(row(), processor.tokenizer)


# Whole data sets: in this process, but for the engines


audit = partial(vd.audit, workers=1)


ROWS = [row(size(64, 48)), row("nowhere.png"), row(), row(size(64, 48), text="The tag <image>.")]
EXPECTED = [[], ["missing"], [], ["literal"]]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def write_parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = [
        {**one, "images": [{"bytes": png(), "path": None} for _ in one["images"]]} for one in ROWS
    ]
    rows[1]["images"] = [{"bytes": None, "path": "nowhere.png"}]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=3)
    return folder / "a.parquet"


def write_arrow(folder: Path) -> Path:
    from datasets import Dataset

    rows = [
        {"messages": one["messages"], "images": [str(x) for x in one["images"]]} for one in ROWS
    ]
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    for one in rows:
        one["images"] = ["nowhere.png" if x == "nowhere.png" else "a.png" for x in one["images"]]
    Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder


def write_gzip(folder: Path) -> Path:
    lines = "".join(json.dumps(one) + "\n" for one in ROWS)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder / "a.jsonl.gz"


def pack(path: Path, files: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_tar(folder: Path) -> Path:
    files: dict[str, bytes] = {}
    for number, one in enumerate(ROWS):
        name = f"shard/{number:04d}"
        files[f"{name}.json"] = json.dumps({"messages": one["messages"]}).encode()
        if one["images"] and one["images"][0] != "nowhere.png":
            files[f"{name}.png"] = png()
    pack(folder / "00.tar", files)
    return folder


@pytest.mark.parametrize("form", [write_parquet, write_arrow, write_gzip, write_tar])
def test_every_form_of_a_data_set_is_read(form: Any, saved: Path, tmp_path: Path) -> None:
    given = tmp_path / "data"
    given.mkdir()

    found = audit(form(given), saved, tmp_path / "out")

    # an archive has no path in place of the image that is missing: the text has a place too many
    gone = ["placeholders"] if form is write_tar else ["missing"]
    assert [one[0] for one in found.ask("select faults from rows order by row").rows] == [
        [],
        gone,
        [],
        ["literal"],
    ]


def test_line_that_is_no_json_is_listed_and_passed_over(saved: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "a.jsonl", ROWS[:1])
    data.write_text(data.read_text() + '{"messages": [\n\n' + json.dumps(ROWS[2]))

    found = audit(data, saved, tmp_path / "out")

    assert (found.rows, found.faulty, found.kinds) == (3, 1, {Kind.UNREADABLE: 1})
    assert found.worst[0][0] == 1 and "is no JSON" in found.worst[0][-1][0]


def test_archive_that_ends_too_early_is_a_fault_of_its_last_row(
    saved: Path, tmp_path: Path
) -> None:
    data = write_gzip(tmp_path)
    data.write_bytes(data.read_bytes()[:-20])

    found = audit(data, saved, tmp_path / "out")

    assert "cannot be read from here on" in found.ask("select details from rows").rows[-1][0][0]


PIECES: dict[str, tuple[dict[str, bytes], list[str], list[str]]] = {
    "row-names-its-file": ({"json": b'"images": ["a.png"]', "png": png()}, [], []),
    "row-names-its-ending": ({"png": png(), "json": b'"image": "png"'}, [], []),
    "row-names-files-in-its-own-order": (
        {"1.png": png(9, 9), "0.png": png(), "json": b'"images": ["a.0.png"]'}, [], [],
    ),
    "numbers-are-a-list": ({"json": b"", "0.png": png(), "1.jpg": png()}, ["placeholders"], []),
    "mask": (
        {"json": b"", "jpg": png(), "mask.png": png()}, [],
        ["which of .jpg, .mask.png the row has"],
    ),
    "row-names-more": (
        {"json": b'"images": ["x.png", "y.png"]', "png": png()}, [],
        ["which images of the archive the row has"],
    ),
    "other-formats": ({"JSON": b"", "GIF": png()}, [], []),
    "image-that-is-not-read": (
        {"json": b"", "npy": b"?"}, [],
        ["a file that ends in .npy", "whether it is a media item: a file that ends in .npy"],
    ),
    "audio": ({"json": b"", "png": png(), "wav": b"RIFF"}, [], ["audio"]),
    "label": ({"json": b"", "png": png(), "cls": b"3"}, [], []),
    "no-image": ({"json": b""}, ["placeholders"], []),
    "no-json": ({"json": b"{", "png": png()}, ["unreadable"], []),
}  # fmt: skip


@pytest.mark.parametrize("name", PIECES)
def test_files_of_an_archive_are_the_row_that_a_loader_makes(
    name: str, saved: Path, tmp_path: Path
) -> None:
    pieces, faults, unknown = PIECES[name]
    messages = json.dumps(row(size(64, 48))["messages"]).encode()
    files = {
        f"a.{ending}": b'{"messages": ' + messages + b", " * bool(content) + content + b"}"
        if ending.lower() == "json" and content != b"{" else content
        for ending, content in pieces.items()
    }  # fmt: skip

    found = audit(pack(tmp_path / "a.tar", files), saved, tmp_path / "out")

    assert found.ask("select faults, unknown from rows").rows == [(faults, unknown)]


def test_videos_of_an_archive_are_counted(saved: Path, tmp_path: Path) -> None:
    said = {"messages": [{"role": "user", "content": [{"type": "video"}]}, *row()["messages"]]}
    files = {
        "a.json": json.dumps(said).encode(),
        "a.mp4": b"?",
        "b.json": json.dumps(said).encode(),
    }

    found = audit(pack(tmp_path / "a.tgz", files, "w:gz"), saved, tmp_path / "out")

    assert found.ask("select faults from rows order by row").rows == [([],), (["placeholders"],)]


def test_row_that_an_archive_ends_in_is_not_blamed_for_what_is_cut_off(tmp_path: Path) -> None:
    files = {f"{number}.{one}": b"{}" for number in "01" for one in ("json", "txt")}
    data = pack(tmp_path / "a.tar", files)
    data.write_bytes(data.read_bytes()[: 3 * 1_024 + 100])  # in the header of 1.txt

    (first, last) = rows_of(blocks_of(data, tmp_path)[0])

    assert first == {"text": "{}"}
    assert isinstance(last, NoRow)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archive_that_is_cut_between_two_files_is_a_fault(
    mode: str, saved: Path, tmp_path: Path
) -> None:
    said = row(size(64, 48))
    images = said.pop("images")
    assert len(images) == 1
    files = {
        f"{name}.{ending}": content
        for name in "ab"
        for ending, content in (("json", json.dumps(said).encode()), ("png", png()))
    }
    data = pack(tmp_path / "a.tar", files, mode)
    assert audit(data, saved, tmp_path / "whole").ok
    stored = gzip.decompress(data.read_bytes()) if mode == "w:gz" else data.read_bytes()
    with tarfile.open(data) as archive:
        *_, last = archive.getmembers()
    cut = stored[: last.offset]
    data.write_bytes(gzip.compress(cut) if mode == "w:gz" else cut)

    found = audit(data, saved, tmp_path / "cut")

    assert found.ask("select faults, details from rows order by row").rows == [
        ([], []),
        (
            ["unreadable"],
            [
                "The file cannot be read from here on: the archive is cut off between two files, "
                "or its writer was not closed: it lacks the zeros at its end."
            ],
        ),
    ]


def test_archive_of_webdataset_is_whole_once_its_writer_is_closed(tmp_path: Path) -> None:
    """`webdataset.TarWriter` writes to a stream of `tarfile`, which it closes."""
    data = tmp_path / "a.tar"
    with data.open("wb") as opened, tarfile.open(fileobj=opened, mode="w|") as writer:
        for number in range(30):
            info = tarfile.TarInfo(f"{number}.txt")
            info.size = 1
            writer.addfile(info, io.BytesIO(b"a"))
        opened.flush()
        (*_, cut) = rows_of(blocks_of(data, tmp_path)[0])
    whole = list(rows_of(blocks_of(data, tmp_path)[0]))

    assert isinstance(cut, NoRow) and whole == [{"text": "a"}] * 30


def test_an_archive_of_any_size_is_read_in_little_memory(tmp_path: Path) -> None:
    data = pack(tmp_path / "a.tar", {f"{number}.txt": b"a" for number in range(300)})

    for number, _ in enumerate(rows_of(blocks_of(data, tmp_path)[0])):
        if number == 250:
            assert sum(type(one) is tarfile.TarInfo for one in gc.get_objects()) < 10


def test_archive_with_a_damaged_header_is_a_fault(saved: Path, tmp_path: Path) -> None:
    said = {"a.json": json.dumps(row()).encode(), "b.json": json.dumps(row()).encode()}
    data = pack(tmp_path / "a.tar", said)
    stored = data.read_bytes()
    data.write_bytes(stored[: stored.index(b"b.json") + 100])

    found = audit(data, saved, tmp_path / "out")

    assert "the archive ends too early" in found.ask("select details from rows").rows[-1][0][0]


def test_column_that_is_not_read_does_no_harm(saved: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    far = pa.array([2**62], pa.timestamp("us"))  # a date that Python does not have
    hostile = "'; drop table rows; --"
    table = pa.table({"text": ["Why?"], "at": far, hostile: [1], "rows": [2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    parquet.write_table(pa.table({"at": far}), tmp_path / "b.parquet")

    assert audit(tmp_path / "a.parquet", saved, tmp_path / "out").ok
    assert audit(tmp_path / "b.parquet", saved, tmp_path / "other").kinds == {Kind.UNREADABLE: 1}


def test_file_of_another_format_is_named_and_small_letters_are_not_needed(
    saved: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_lines(data / "a.JSONL", ROWS[:1])
    for name in ("b.jsonl.zst", "c.csv", "<b>.zip"):
        (data / name).write_bytes(b"?")
    (data / "d.json").write_text("[]")
    for name in ("dataset_info.json", "readme.md", "cache-0.arrow", "a.png"):
        (data / name).write_text("{}")

    found = audit(data, saved, tmp_path / "out")

    assert [Path(name).name for name in found.not_read] == [
        "<b>.zip",
        "b.jsonl.zst",
        "c.csv",
        "d.json",
    ]
    assert str(found).endswith(
        "not read: 4 files in another format: <b>.zip, b.jsonl.zst, c.csv, d.json"
    )
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "c.csv" in page and "<b>.zip" not in page


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take only UTF-8")
def test_name_of_a_file_that_is_no_utf8_is_spelled(saved: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_lines(data / os.fsdecode(b"\xff.jsonl"), ROWS[1:2])

    found = audit(data, saved, tmp_path / "out")

    assert found.ask("select file from rows").rows[0][0].endswith("\\xff.jsonl")
    assert "\\xff.jsonl" in str(found)


def test_data_without_a_row_are_refused(saved: Path, tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {})

    with pytest.raises(vd.BadInput, match="has no rows: each file in it is empty"):
        audit(tmp_path / "a.tar", saved, tmp_path / "out")


def test_folder_that_links_to_itself_is_read_once(saved: Path, tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    for folder in (data, other):
        folder.mkdir()
        write_lines(folder / "a.jsonl", ROWS[:1])
    (data / "again").symlink_to(data)
    (data / "other").symlink_to(other)

    assert audit(data, saved, tmp_path / "out").rows == 2


def test_array_of_json_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\n" + json.dumps(ROWS, indent=1))

    with pytest.raises(vd.BadInput, match="is one JSON array"):
        audit(tmp_path / "a.json", saved, tmp_path / "out")


def test_audit_below_its_data_goes_on_and_asks_no_other_table(saved: Path, tmp_path: Path) -> None:
    data = tmp_path / "a[1]"
    data.mkdir()
    write_lines(data / "a.jsonl", ROWS)
    (data / "cache-0.arrow").write_bytes(b"what datasets computed")
    write_lines(tmp_path / "other.jsonl", ROWS[:1])
    audit(tmp_path / "other.jsonl", saved, tmp_path / "a1" / "out")

    out = data / ".." / data.name / "out"
    assert [audit(data, saved, one).rows for one in (out, out, data / "out")] == [4, 4, 4]
    assert audit(data, saved, data / "second").rows == audit(data, saved, tmp_path / "b").rows == 4


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Three files, and an image beside them that one row names."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (50, 70), "teal").save(folder / "there.png")
    write_lines(folder / "a.jsonl", ROWS * 5)
    write_lines(folder / "b.jsonl", [row("there.png")] * 3)
    write_lines(folder / "c.jsonl", [ROWS[1], ROWS[2]])
    return folder


def test_both_engines_write_the_same_bytes(saved: Path, several: Path, tmp_path: Path) -> None:
    local = vd.audit(several, saved, tmp_path / "local", max_length=200, workers=2)
    alone = vd.audit(several, saved, tmp_path / "alone", max_length=200, workers=1)
    ray = vd.audit(several, saved, tmp_path / "ray", max_length=200, workers=2, engine="ray")

    assert local.path.read_bytes() == alone.path.read_bytes() == ray.path.read_bytes()
    assert (ray.rows, ray.faulty) == (25, 11)
    assert ray.ask("select number from rows where file like '%c.jsonl' order by row").rows == [
        (0,),
        (1,),
    ]


def test_node_that_does_not_see_the_data_is_named_and_the_rest_is_kept(
    saved: Path, several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def moved(left: Any) -> Any:
        (*rest, (number, last)) = left
        return items([*rest, (number, replace(last, file="/nowhere/c.jsonl"))])

    out, items = tmp_path / "out", engines._items
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        engines._require_answer(ray.get_runtime_context().gcs_address)
        shown = ray.data.DataContext.get_current().enable_progress_bars
        with monkeypatch.context() as patched:
            patched.setattr(engines, "_items", moved)
            with pytest.raises(vd.BadInput, match=r"On the machine .*: /nowhere/c.jsonl is not th"):
                vd.audit(several, saved, out, engine="ray", workers=2)
        found = vd.audit(several, saved, out, engine="ray")

        assert found.path.read_bytes() == audit(several, saved, tmp_path / "a").path.read_bytes()
        assert ray.is_initialized()
        assert ray.data.DataContext.get_current().enable_progress_bars == shown
    finally:
        ray.shutdown()


def test_folder_that_the_nodes_do_not_share_is_refused(
    saved: Path, several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "SEEN_AFTER", 0.0)
    settings = AuditSettings(root=str(several))
    job = engines.Job(str(saved), settings, str(tmp_path / "parts"))
    ((_, block), *_) = left = list(enumerate(blocks_of(several, tmp_path)))
    (item, *_) = engines._items(left)

    assert engines._Actor(job)(item)["problem"] == ""
    engines._require_shared(job.part(0), "node-1")
    with pytest.raises(vd.BadInput, match=r"node-1 wrote .*2\.parquet, and it is not on"):
        engines._require_shared(job.part(2), "node-1")
    for lacking in (
        replace(job, processor="/no"),
        replace(job, settings=AuditSettings(root="/no")),
    ):
        assert "/no is" in engines._Actor(lacking)(item)["problem"]
    assert block.file == str(several / "a.jsonl")


@pytest.mark.parametrize("address", ["auto", "nonsense"])
def test_ray_that_does_not_answer_is_said(
    address: str, saved: Path, several: Path, tmp_path: Path
) -> None:
    with pytest.raises(vd.BadInput, match=f"Ray could not be reached at {address}"):
        vd.audit(several, saved, tmp_path / "out", engine="ray", address=address)


@pytest.fixture
def ear() -> Iterator[socket.socket]:
    """A port of this machine at which nothing answers until it accepts."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        yield opened


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "Connection refused"),
        ("", "nothing answered in 0 seconds"),
        ("HTTP/1.1 400 Bad Request", "what answers there is no Ray cluster"),
    ],
    ids=["closed", "silent", "another server"],
)
@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_ray_at_an_address_without_a_cluster_is_soon_said(
    form: str,
    answer: str | None,
    said: str,
    ear: socket.socket,
    saved: Path,
    several: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "ANSWERS_WITHIN", 0.4)
    monkeypatch.setattr("ray._private.services.resolve_ip_for_localhost", lambda host: host)
    address = form.format(f"127.0.0.1:{ear.getsockname()[1]}")
    if answer is not None:
        ear.listen()
        serve = Thread(target=_answer, args=(ear, answer), daemon=True)
        serve.start()
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()

    with pytest.raises(vd.BadInput, match=said) as caught:
        vd.audit(several, saved, tmp_path / "out", engine="ray")

    assert time.monotonic() - began < 60
    assert f"reached at {address}, the value of RAY_ADDRESS: " in str(caught.value)
    assert "Pass the address of a running cluster" in str(caught.value)


def _answer(ear: socket.socket, answer: str) -> None:
    with ear.accept()[0] as opened:
        opened.sendall(answer.encode())
        opened.recv(1_000)
        while not answer and opened.recv(1_000):
            pass


def test_audit_goes_on_where_it_stopped(saved: Path, several: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = audit(several, saved, out).path.read_bytes()
    kept, ended = sorted((out / "parts").iterdir())[:2]
    ended.unlink()
    before = kept.stat().st_mtime_ns

    assert audit(several, saved, out).path.read_bytes() == whole
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(("lacks", "extra"), [("pyarrow", "fleet"), ("ray", "ray")])
def test_package_that_is_missing_is_said_before_anything_is_done(
    lacks: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == lacks else find(name)
    )
    data = write_lines(tmp_path / "a.jsonl", ROWS[:1])

    with pytest.raises(vd.BadInput, match=rf"{lacks}, which is .*install 'vlmdebug\[{extra}\]'"):
        vd.audit(data, tmp_path / "nowhere", tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


KILLED = """
import sys
import vlmdebug as vd
if __name__ == "__main__":
    vd.audit(*sys.argv[1:], workers=2)
"""


def test_audit_that_is_killed_leaves_no_process_and_goes_on(saved: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(24):
        write_lines(data / f"{number:02d}.jsonl", ROWS * 20)
    out, parts = tmp_path / "out", tmp_path / "out" / "parts"
    file = tmp_path / "program.py"
    file.write_text(KILLED)
    with subprocess.Popen([sys.executable, file, data, saved, out]) as running:
        until = time.monotonic() + 120
        while not (parts.is_dir() and any(parts.glob("*.parquet"))) and time.monotonic() < until:
            time.sleep(0.05)
        children = psutil.Process(running.pid).children()
        running.kill()
    left = [file for file in parts.glob("*.parquet")]

    assert 0 < len(left) < 24 and len(children) >= 2
    until = time.monotonic() + 60
    while any(child.is_running() for child in children):
        assert time.monotonic() < until, "a worker lives on without the process that started it"
        time.sleep(0.1)
    resumed = vd.audit(data, saved, out)
    assert resumed.path.read_bytes() == vd.audit(data, saved, tmp_path / "whole").path.read_bytes()
    assert {*left} <= {*parts.glob("*.parquet")} and resumed.rows == 24 * 20 * len(ROWS)


def test_folder_of_another_audit_is_refused(saved: Path, several: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    audit(several, saved, out)

    with pytest.raises(vd.BadInput, match="holds the audit of other data, or with other options"):
        audit(several, saved, out, max_length=10)
    os.utime(several / "a.jsonl", ns=(1, 1))
    with pytest.raises(vd.BadInput, match="holds the audit of other data"):
        audit(several, saved, out)
    with pytest.raises(vd.BadInput, match="holds other files"):
        vd.audit(several, saved, several)
    with pytest.raises(vd.BadInput, match=r"a\.jsonl is a file"):
        vd.audit(several, saved, several / "a.jsonl")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"data": "nowhere.jsonl"}, "is not there"),
        ({"processor": "nowhere"}, "is no folder on this machine"),
        ({"engine": "spark"}, "is one of local, ray"),
        ({"workers": 0}, "at least 1 is needed"),
        ({"address": "auto"}, "is of a Ray cluster"),
        ({"root": "nowhere"}, "nowhere is not there"),
    ],
)
def test_wrong_argument_of_an_audit_is_refused(
    wrong: dict[str, Any], said: str, saved: Path, several: Path, tmp_path: Path
) -> None:
    given = {"data": several, "processor": saved, "out": tmp_path / "out", **wrong}

    with pytest.raises(vd.BadInput, match=said):
        audit(**given)


def test_folder_without_rows_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no rows")

    with pytest.raises(vd.BadInput, match="has no rows of a known format"):
        vd.audit(tmp_path, saved, tmp_path / "out")


def test_questions_are_answered_and_others_refused(
    saved: Path, several: Path, tmp_path: Path
) -> None:
    found = audit(several, saved, tmp_path / "out")

    for name in QUESTIONS:
        assert found.ask(name).columns
    assert found.ask("faults").rows == [("missing", 6, 1), ("literal", 5, 3)]
    assert found.ask("duplicates").rows[0][1] == 6
    with pytest.raises(vd.BadInput, match="DuckDB does not take the question"):
        ask(found.path, "selec")


def test_page_has_the_faults_and_a_picture_and_no_text_of_the_data_as_code(
    saved: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (50, 70), "teal").save(data / "there.png")
    write_lines(data / "<b>.jsonl", [row("there.png", text="<image>"), row("<script>.png")])

    found = audit(data, saved, tmp_path / "out")
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")

    assert "2 rows with a fault in 2 rows" in page
    assert 'alt="image 1" width="50" height="70" src="data:image/jpeg;base64,' in page
    assert "<script" not in page and "<b>" not in page
    assert str(found).startswith("2 rows, 2 with a fault\n")


def test_command_prints_the_summary_and_answers_questions(
    saved: Path, several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["audit", str(several), "--out", str(tmp_path / "out")]

    assert main([*given, "--processor", str(saved), "--workers", "1"]) == 1
    assert "25 rows, 11 with a fault" in capsys.readouterr().out
    assert main([*given, "--ask", "images"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["images  rows", "0       6"]
    assert main(given) == 2
    assert "--processor is missing" in capsys.readouterr().err
