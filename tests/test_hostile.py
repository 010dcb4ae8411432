"""Input from a stranger, or by mistake: our own error, a name escaped, never a command."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest
import torch

import vlmdebug as vd
from vlmdebug.cli import main
from vlmdebug.learn import predict
from vlmdebug.running.files import load_batch
from vlmdebug.views.markdown import to_markdown

HOSTILE = (
    "a\n::error file=x.py::not from vlmdebug\n",
    "::error::a name may begin so",
    "##[error]azure",
    "a\r\n::set-output name=x::y",
    "\x1b[2Jcleared",
    "<script>alert(1)</script>",
    "`|**b**|`[a](javascript:x)",
    "$\\frac{a}{b}$",
    "\u2028::error::x",
    "{key}%s",
    "\ud800",
    " ",
)


def by_sample(inputs, chunk_size):
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        yield {
            key: value[start : start + chunk_size]
            for key, value in inputs.items()
            if not key.startswith("num_")
        }


def commands(text: str) -> list[str]:
    """Lines that a CI system would act on."""
    return [
        line
        for line in text.splitlines()
        if line.strip().startswith("::") or "##[" in line or "\x1b" in line
    ]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_key_that_no_layout_knows_begins_no_line(name):
    inputs = {**vd.make_batch("gemma4", [2, 0, 1]).inputs, name: torch.zeros(3, 2)}
    batch = vd.read_batch(inputs, layout="gemma4", num_images=[2, 0, 1])

    (doubt,) = vd.check(batch).ambiguities
    assert "\n" not in doubt
    assert not commands(doubt)
    with pytest.raises(vd.BadInput) as caught:
        vd.read_batch({**inputs, name: torch.zeros(4, 2)}, layout={name: "image"})
    assert "\n" not in str(caught.value)
    assert not commands(str(caught.value))


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_key_acts_in_no_view(name):
    inputs = {**vd.make_batch("gemma4", [2, 0, 1]).inputs, name: torch.zeros(3, 2)}
    batch = vd.read_batch(inputs, layout={name: "sample"}, num_images=[2, 0, 1])

    def slicer(inputs, chunk_size):
        for chunk in by_sample(inputs, chunk_size):
            chunk.pop(name)
            yield {**chunk, f"{name}{name}": torch.zeros(1, 2)}

    slicer.__name__ = name
    report = vd.check(slicer, batch)
    html = report.to_html()

    assert not commands(str(report))
    assert not commands("\n".join(finding.message for finding in report.findings))
    assert not commands(to_markdown(report))
    assert "<script" not in html
    assert "\n::" not in html
    assert vd.Report.from_json(report.to_json()) == vd.Report.from_json(report.to_json())
    report.plot().figure.canvas.draw()
    report.plot_map().figure.canvas.draw()
    with pytest.raises(vd.MismatchError) as caught:
        report.raise_for_mismatch()
    assert not commands(str(caught.value))


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_key_begins_no_line_of_an_error(name):
    inputs = {**vd.make_batch("gemma4", [2, 0, 1]).inputs, name: {name: torch.ones(1)}}

    with pytest.raises(vd.BadInput) as caught:
        vd.read_batch(inputs)
    assert not commands(str(caught.value))

    listed = vd.read_batch({**inputs, name: [torch.ones(1)]})
    with pytest.raises(vd.AmbiguousError) as caught:
        listed.refuse_ambiguity()
    assert not commands(str(caught.value))


SAVED = [name for name in HOSTILE[:-2] if name.encode("utf-8", "ignore").decode() == name]
"""Those that a file can hold: lone surrogates have no bytes."""


@pytest.mark.parametrize("name", SAVED, ids=range(len(SAVED)))
def test_hostile_key_of_a_file_begins_no_line_of_the_command_line(tmp_path, name, capsys):
    torch.save({**vd.make_batch("gemma4", [1]).inputs, name: torch.zeros(5, 2)}, tmp_path / "b.pt")
    code = main(["check", f"{tmp_path}/b.pt", "--family", "gemma4", "--num-images", "1"])
    printed = capsys.readouterr()

    assert code == 2
    assert not commands(printed.out + printed.err)


def test_exception_of_a_slicer_begins_no_line():
    def slicer(inputs, chunk_size):
        raise ValueError("no\n::error::x\nyes")

    report = vd.check(slicer, vd.make_batch("llava", [1]))

    assert r"no\n::error::x\nyes" in report.findings[0].message
    assert not commands(str(report))


def test_review_escapes_what_it_quotes_for_github():
    text = "def f(batch, a, b):\n    return {'pixel_values': batch['pixel_values'][a:b]}\n"
    found = vd.review.source(text, "a,b:c\n::error::%.py")

    assert not [line for line in found.to_github().splitlines() if not line.startswith("::error f")]
    assert not commands(str(found))


# --- batches -------------------------------------------------------------------------------

ODD = {
    "sparse": (lambda value: value.to_sparse(), "a sparse tensor", "to_dense"),
    "nested": (
        lambda value: torch.nested.nested_tensor(list(value.float())),
        r"a nested \(jagged\) tensor",
        "unbind|to_padded_tensor",
    ),
    "jagged": (
        lambda value: torch.nested.nested_tensor(list(value.float()), layout=torch.jagged),
        r"a nested \(jagged\) tensor",
        "unbind|to_padded_tensor",
    ),
    "quantized": (
        lambda value: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        "a quantized tensor",
        "dequantize",
    ),
    "conjugate": (lambda value: torch.conj(value + 0j), "a complex tensor", "values as they were"),
    "negated": (lambda value: torch._neg_view(value.float()), "lazily negated", "resolve_neg"),
    "meta": (lambda value: value.to("meta"), "on the meta device", "before it is moved"),
    "objects": (lambda value: np.array([[1], None], dtype=object), "array of object", "tolist"),
    "words": (lambda value: np.array(["a", "b"]), "numpy array of <U1", "tolist"),
}


@pytest.mark.parametrize("key", ["pixel_values", "input_ids", "strange"])
@pytest.mark.parametrize(("make", "what", "todo"), ODD.values(), ids=ODD.keys())
def test_odd_tensor_of_a_batch_is_refused_by_its_name(key, make, what, todo):
    inputs = dict(vd.make_batch("gemma4", [2, 1]).inputs)
    inputs[key] = make(inputs.get(key, torch.ones(2, 2)))

    with pytest.raises(vd.BadInput, match=f"{key} is .*{what}.*{todo}"):
        vd.read_batch(inputs)


class Fails(dict):
    def __getitem__(self, key):
        raise RuntimeError("no\n::error::x")


LOOP: list = []
LOOP.append(LOOP)
MAPPINGS = {
    "items raise": (Fails(input_ids=1), r"raised RuntimeError .*: no\\n::error::x"),
    "a number as a key": ({3: torch.zeros(2)}, "has the key 3, a int"),
    "None as a key": ({None: 1}, "has the key None"),
    "bytes as a key": ({b"input_ids": 1}, "has the key b'input_ids'"),
    "a list that holds itself": ({"input_ids": LOOP}, "input_ids is a list of 1"),
    "unequal lists": ({"input_ids": [[1], [2, 3]]}, "input_ids is a list of 2"),
    "a generator": ((one for one in "ab"), "A generator was given"),
    "a class": (dict, "The class was given"),
    "a huge view": (
        {"input_ids": torch.zeros(1, dtype=torch.long).expand(2**20, 2**20)},
        "at most",
    ),
}


@pytest.mark.parametrize(("inputs", "message"), MAPPINGS.values(), ids=MAPPINGS.keys())
def test_odd_mapping_is_refused(inputs, message):
    with pytest.raises(vd.BadInput, match=message):
        vd.read_batch(inputs)


SIZES = {
    "negative": (
        "qwen2_5_vl",
        "image_grid_thw",
        [[-1, 4, 4]] * 3,
        r"image_grid_thw\[0\] is \[-1.0",
    ),
    "zero": ("qwen2_5_vl", "image_grid_thw", [[1, 0, 4]] * 3, "but sizes are whole numbers, 1 or"),
    "fractions": ("qwen2_5_vl", "image_grid_thw", [[1, 2.5, 4]] * 3, "whole numbers"),
    "no number": ("qwen2_5_vl", "image_grid_thw", [[1, float("nan"), 4]] * 3, "whole numbers"),
    "larger than memory": ("qwen2_5_vl", "image_grid_thw", [[2**62, 2, 2]] * 3, "than memory"),
    "a product beyond 64 bits": (
        "qwen2_5_vl",
        "image_grid_thw",
        [[2**22, 2**22, 2**22]] * 3,
        "than memory",
    ),
    "no size": ("llava_next", "image_sizes", [[0, 10]] * 3, r"image_sizes\[0\] is \[0.0, 10.0\]"),
    "one number": ("llava_next", "image_sizes", [[10]] * 3, "each row holds 2 numbers"),
}


@pytest.mark.parametrize(("family", "key", "rows", "message"), SIZES.values(), ids=SIZES.keys())
def test_sizes_that_no_image_has_are_refused(family, key, rows, message):
    inputs = {**vd.tiny.batch(family, [2, 1]), key: torch.tensor(rows)}

    with pytest.raises(vd.BadInput, match=message):
        vd.read_batch(inputs, processor=vd.tiny.build(family)[1])


def test_saved_objects_are_not_loaded_and_the_advice_works(tmp_path):
    """torch's own message would advise to run what is in the file."""
    made = vd.tiny.batch("gemma4", [2, 1])
    torch.save(made, tmp_path / "batch.pt")

    with pytest.raises(vd.BadInput, match="Python objects, which are not loaded") as caught:
        load_batch(tmp_path / "batch.pt")
    assert "weights_only" not in str(caught.value)
    assert "torch.save(dict(inputs), path)" in str(caught.value)

    torch.save(dict(made), tmp_path / "batch.pt")
    assert vd.check(load_batch(tmp_path / "batch.pt")).ok


FILES = {
    "cut": (lambda whole: whole[: len(whole) // 2], "could not be read as a batch"),
    "empty": (lambda whole: b"", "could not be read as a batch: EOFError"),
    "text": (lambda whole: b"hello", "could not be read as a batch"),
}


@pytest.mark.parametrize(("change", "message"), FILES.values(), ids=FILES.keys())
def test_damaged_file_is_refused(tmp_path, change, message):
    torch.save(dict(vd.make_batch("gemma4", [1]).inputs), tmp_path / "batch.pt")
    (tmp_path / "batch.pt").write_bytes(change((tmp_path / "batch.pt").read_bytes()))

    with pytest.raises(vd.BadInput, match=message):
        load_batch(tmp_path / "batch.pt")


# --- reports -------------------------------------------------------------------------------

WRONG = [None, -1, 2, 2**80, 1.5, float("nan"), True, "x", "a\n::error::b", [], {}, [["a", 1]]]
WRONG += [[[5, 2]], "<script>alert(1)</script>", "data:image/svg+xml,<svg onload=x>"]


@pytest.fixture(scope="module")
def saved():
    made = (("gemma4", [2, 0, 1]), ("qwen2_5_vl", [2, 1]))
    slicers = vd.slicers.by_sample, vd.slicers.corrected
    return [
        json.loads(vd.check(slicer, vd.make_batch(*one), pictures=True).to_json())
        for one in made
        for slicer in slicers
    ]


def places(data, place=()):
    if place:
        yield place
    for name in (
        range(len(data)) if isinstance(data, list) else data if isinstance(data, dict) else ()
    ):
        yield from places(data[name], (*place, name))


def edited(data, pick):
    data = copy.deepcopy(data)
    *way, last = pick.choice(list(places(data)))
    holder = data
    for name in way:
        holder = holder[name]
    if pick.random() < 0.2:
        del holder[last]
    else:
        holder[last] = copy.deepcopy(pick.choice(WRONG))
    return json.dumps(data)


@pytest.mark.parametrize("seed", range(4))
def test_edited_report_is_refused_or_shown_by_every_view(saved, seed):
    pick = random.Random(seed)
    shown = 0
    for _ in range(80):
        try:
            report = vd.Report.from_json(edited(pick.choice(saved), pick))
        except vd.BadInput:
            continue
        shown += 1
        assert not commands(str(report))
        assert "cannot be shown" not in str(report)
        assert "<script" not in report.to_html()
        to_markdown(report)
        report.to_json()
        if shown % 8 == 0:
            report.plot(), report.plot_map()

    assert shown


def test_rows_that_are_no_numbers_are_refused_with_their_place(saved):
    data = copy.deepcopy(saved[0])
    data["chunks"][0]["keys"]["pixel_values"]["planned"] = [["a", 1]]

    with pytest.raises(
        vd.BadInput, match=r"chunks\[0\].keys\['pixel_values'\].planned is \['a', 1\]"
    ):
        vd.Report.from_json(json.dumps(data))


# --- arguments -----------------------------------------------------------------------------

CORRECTED = vd.slicers.corrected
CALLS = {
    "family": (lambda: vd.make_batch(None, [1]), "family is None|A family is None"),
    "images_per_sample": (lambda: vd.make_batch("llava", None), "images_per_sample is None"),
    "max_examples": (lambda: vd.falsify(CORRECTED, max_examples=2.5), "max_examples is 2.5"),
    "seconds": (lambda: vd.falsify(CORRECTED, seconds="x"), "seconds is 'x'"),
    "seed": (lambda: vd.falsify(CORRECTED, seed=[1]), "seed is a list"),
    "families": (lambda: vd.falsify(CORRECTED, families=3), "families is 3"),
    "tried": (lambda: vd.falsify(CORRECTED, tried=[]), "tried is a list"),
    "log": (lambda: vd.watch(torch.nn.Linear(1, 1), log=5), "log is 5"),
    "an axes": (lambda: vd.plot_layout(vd.make_batch("llava", [1]), 5), "ax is 5"),
    "unknown": (
        lambda: vd.check(vd.make_batch("llava", [1]), chunksize=2),
        "no argument chunksize=; did you mean chunk_size=?",
    ),
    "missing": (
        lambda: vd.prove(CORRECTED, vd.make_batch("llava", [1])),
        "prove was given no model",
    ),
    "a unit that nothing counts": (
        lambda: vd.read_batch(
            vd.make_batch("gemma4", [1]).inputs, layout={"pixel_values": "token"}, num_images=[1]
        ),
        r"layout\['pixel_values'\] is 'token', but nothing counts the tokens",
    ),
    "counts": (
        lambda: vd.read_batch(vd.make_batch("llava", [1]).inputs, num_images=[2**62]),
        r"num_images\[0\] is 4611686018427387904",
    ),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS.keys())
def test_wrong_argument_is_named(call, message):
    with pytest.raises(vd.BadInput, match=message):
        call()


@pytest.fixture(scope="module")
def llava():
    model, processor = vd.tiny.build("llava")
    return model, processor, vd.tiny.batch("llava", [2, 1])


MIXED = {
    "a tokenizer as processor": (
        lambda m, p, b: vd.read_batch(b, processor=p.tokenizer),
        "processor is .* which is a tokenizer, .* Pass the whole processor",
    ),
    "an image processor as processor": (
        lambda m, p, b: vd.read_batch(b, processor=p.image_processor),
        "processor is .* which is an image processor, .* Pass the whole processor",
    ),
    "a model as processor": (
        lambda m, p, b: vd.read_batch(b, processor=m),
        "processor is .* which is a model, .* Pass it as model=",
    ),
    "a model as config": (
        lambda m, p, b: vd.read_batch(b, config=m),
        "config is .* which is a model, .* Pass it as model=",
    ),
    "a processor as model": (
        lambda m, p, b: vd.read_batch(b, model=p),
        "model is .* which is a processor, .* Pass it as processor=",
    ),
    "a config as model": (
        lambda m, p, b: vd.read_batch(b, model=m.config),
        "model is .* which is a config, .* Pass it as config=",
    ),
    "a class as processor": (lambda m, p, b: vd.read_batch(b, processor=type(p)), "is the class"),
    "a number as processor": (lambda m, p, b: vd.read_batch(b, processor=5), "processor is 5"),
    "a processor by place": (
        lambda m, p, b: vd.read_batch(b, p),
        "2 arguments by place, but it takes 1: inputs. .* Pass it by name: processor=",
    ),
    "a processor to prove with": (
        lambda m, p, b: vd.prove(CORRECTED, vd.read_batch(b, processor=p), p),
        "The model is a LlavaProcessor, which is a processor",
    ),
    "a processor as batch": (lambda m, p, b: vd.check(p), "which is a processor, without a batch"),
    "a slicer and a batch swapped": (lambda m, p, b: vd.check(b, by_sample), "The slicer is a"),
}


@pytest.mark.parametrize(("call", "message"), MIXED.values(), ids=MIXED.keys())
def test_thing_in_the_wrong_place_is_told_where_it_belongs(llava, call, message):
    with pytest.raises(vd.BadInput, match=message):
        call(*llava)


class Trainer:
    def loss(self, inputs, chunk_size):
        yield from by_sample(inputs, chunk_size)


def loop(model, inputs, chunk_size):
    for chunk in by_sample(inputs, chunk_size):
        model(**chunk)


SHAPES = {
    "one argument": (
        lambda inputs: [],
        r"takes \(inputs\), but a slicer takes \(inputs, chunk_size\)",
    ),
    "swapped": (lambda chunk_size, inputs: [], "Give it the batch first: lambda inputs"),
    "a model by another name": (
        lambda first, inputs, chunk_size: [],
        r"It takes a model first. Wrap it: vlmdebug.record",
    ),
    "a method without its object": (Trainer.loss, "It is a method without its object"),
}


@pytest.mark.parametrize(("slicer", "message"), SHAPES.values(), ids=SHAPES.keys())
def test_function_of_another_shape_is_refused_before_it_is_called(slicer, message):
    with pytest.raises(vd.BadInput, match=message):
        vd.check(slicer, vd.make_batch("llava", [1]))
    with pytest.raises(vd.BadInput, match=message):
        vd.falsify(slicer, families=["llava"])


def test_record_of_a_slicer_says_that_it_is_one():
    with pytest.raises(vd.BadInput, match=r"It is a slicer already .* pass by_sample itself"):
        vd.record(by_sample)


def test_chunk_size_may_be_taken_by_name_only():
    def slicer(inputs, *, chunk_size):
        yield from CORRECTED(inputs, chunk_size)

    assert vd.check(slicer, vd.make_batch("gemma4", [2, 0, 1]), chunk_size=2).ok


def test_slicer_that_exits_is_not_judged():
    def slicer(inputs, chunk_size):
        raise SystemExit(0)

    with pytest.raises(vd.BadInput, match=r"ended the process: SystemExit\(0\) at "):
        vd.check(slicer, vd.make_batch("llava", [1]))


@pytest.mark.parametrize("nothing", [None, slice(0, 0), "none", "absent"], ids=repr)
def test_key_that_must_be_left_out_can_be_said_in_every_natural_way(nothing):
    batch = vd.make_batch("gemma4", [0, 1])

    assert predict(batch, "pixel_values", nothing, chunk=0).right
    assert not predict(batch, "pixel_values", nothing, chunk=1).right
