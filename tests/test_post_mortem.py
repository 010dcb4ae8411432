"""From an exception to the sample: the frames of the failed call, processor or collator."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vlmdebug as vd

SQUARE = Image.new("RGB", (64, 64))


def caught(program: Callable[[], Any]) -> Exception:
    try:
        program()
    except Exception as error:
        return error
    raise AssertionError("the program did not raise")


def one_too_many(family: str, built: Any, sample: int = 1) -> tuple[Any, dict[str, Any]]:
    """A model, and a batch with a placeholder too many in one sample."""
    model, _ = built[family]
    inputs = dict(vd.tiny.batch(family, [1, 1, 2], sizes=(160, 160), padding_side="right"))
    config = model.config
    token = getattr(config, "image_token_id", None) or config.image_token_index
    ids = inputs["input_ids"].clone()
    ids[sample, -1] = token
    return model, {**inputs, "input_ids": ids}


# --- a call of a model -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma4", "llava", "internvl", "idefics3"])
def test_the_sample_of_a_failed_call_is_named(family: str, built: Any) -> None:
    model, bad = one_too_many(family, built)
    found = vd.post_mortem(caught(lambda: model(**bad)))

    assert found.samples == (1,)
    assert not found.ok
    assert found.found == f"A call of {type(model).__name__}"
    assert found.site.startswith("tests/test_post_mortem.py:")
    assert "1 too many" in str(found)


def test_a_call_by_place_and_a_call_of_generate_are_found(built: Any) -> None:
    model, bad = one_too_many("llava", built)
    by_place = caught(lambda: model(bad["input_ids"], bad["pixel_values"], bad["attention_mask"]))
    generated = caught(lambda: model.generate(**bad, max_new_tokens=2))
    unhooked = caught(lambda: model.forward(**bad))

    for error in (by_place, generated, unhooked):
        assert vd.post_mortem(error).samples == (1,)


def test_a_chunk_is_compared_with_the_batch_that_it_was_cut_from(built: Any) -> None:
    model, _ = built["llava"]
    inputs = dict(vd.tiny.batch("llava", [2, 1, 1], padding_side="right"))
    chunks = [
        {key: value[start : start + 1] for key, value in inputs.items()} for start in range(3)
    ]
    found = vd.post_mortem(caught(lambda: model(**chunks[0])))

    assert "sample 0 was given pixel_values[0:1] (1 row: image A1 of sample 0) but owns" in str(
        found
    )


def test_an_exception_with_another_cause_blames_no_sample(built: Any) -> None:
    model, _ = built["llava"]
    inputs = dict(vd.tiny.batch("llava", [1, 1]))

    def loss() -> Any:
        rows = [{"pixel_values": torch.zeros(1)}, {"pixel_values": torch.zeros(2)}]
        return len(rows) / 0

    found = vd.post_mortem(caught(lambda: model(**inputs, logits_to_keep="all")))

    assert found.ok and found.samples == ()
    assert "features of this call agree" in str(found)
    assert "the exception has another cause" in str(found)


def test_what_agrees_is_called_what_it_is() -> None:
    inputs = dict(vd.tiny.batch("llava", [1, 1]))
    processor = vd.tiny.build("llava")[1]

    def loss(inputs: Any, processor: Any) -> Any:
        return len(inputs) / 0

    found = vd.post_mortem(caught(lambda: loss(inputs, processor)))

    assert found.ok and found.found == "A batch"
    assert "features of this batch agree" in str(found)
    assert vd.post_mortem(caught(loss)).ok


def test_the_last_exception_is_taken_without_an_argument(built: Any, monkeypatch: Any) -> None:
    model, bad = one_too_many("llava", built)
    error = caught(lambda: model(**bad))
    monkeypatch.setattr(sys, "last_value", error, raising=False)
    monkeypatch.delattr(sys, "last_exc", raising=False)

    assert vd.post_mortem().samples == (1,)
    assert vd.post_mortem(error.__traceback__).samples == (1,)
    try:
        raise RuntimeError("the step failed") from error
    except RuntimeError as wrapped:
        assert vd.post_mortem(wrapped).samples == (1,)
        assert vd.post_mortem().error == "RuntimeError: the step failed"


def test_what_is_no_exception_is_refused(monkeypatch: Any) -> None:
    for name in ("last_exc", "last_value"):
        monkeypatch.delattr(sys, name, raising=False)
    with pytest.raises(vd.BadInput, match="There is no exception"):
        vd.post_mortem()
    with pytest.raises(vd.BadInput, match="was given 'ValueError', but it takes an exception"):
        vd.post_mortem("ValueError")  # type: ignore[arg-type]


def test_a_mismatch_that_was_raised_keeps_its_own_report(built: Any) -> None:
    model, bad = one_too_many("llava", built)
    error = caught(lambda: vd.check(bad, model=model).raise_for_mismatch())
    found = vd.post_mortem(error)

    assert found.samples == (1,)
    assert found.report is error.report  # type: ignore[attr-defined]


def test_the_batch_is_not_kept_by_the_answer(built: Any) -> None:

    def looked_into() -> tuple[vd.PostMortem, weakref.ref[torch.Tensor]]:
        model, bad = one_too_many("llava", built)
        bad["pixel_values"] = bad["pixel_values"].clone()
        found = vd.post_mortem(caught(lambda: model(**bad)))
        return found, weakref.ref(bad["pixel_values"])

    found, gone = looked_into()
    gc.collect()

    assert not found.ok
    assert gone() is None


def test_64_samples_are_answered_in_two_seconds(built: Any) -> None:
    model, _ = built["qwen2_5_vl"]
    inputs = dict(vd.tiny.batch("qwen2_5_vl", [1] * 64, sizes=(112, 112), padding_side="right"))
    inputs["input_ids"][40, -1] = model.config.image_token_id
    error = caught(lambda: model(**inputs))
    begin = perf_counter()
    found = vd.post_mortem(error)
    took = perf_counter() - begin

    assert found.samples == (40,)
    assert took < 2


# --- before a batch exists -------------------------------------------------------------------


def processed(processor: Any, images: Any, texts: tuple[str, ...] = ("I", "II", "I")) -> Any:
    """The processor's answer to texts in which each `I` is an image."""
    marked = [text.replace("I", f"{processor.image_token} ") for text in texts]
    return processor(text=marked, images=images, return_tensors="pt")


@pytest.mark.parametrize(
    ("file", "site"),
    [
        ("/tmp/ipykernel_5385/154996543.py", "notebook cell:1"),
        (r"C:\Temp\ipykernel_5385\154996543.py", "notebook cell:1"),
        ("<ipython-input-5-aa08fc48fd71>", "notebook cell:1"),
        ("/home/me/ipykernel_5385/train.py", "ipykernel_5385/train.py:1"),
    ],
)
def test_call_in_a_notebook_is_at_its_cell_and_not_at_a_file_of_the_kernel(
    file: str, site: str, built: Any
) -> None:
    model, bad = one_too_many("llava", built)
    program = compile("model(**bad)", file, "exec")
    names = {"model": model, "bad": bad, "__name__": "__main__"}
    with vd.watch(model, on_mismatch="record") as trace:
        error = caught(lambda: exec(program, names))

    assert vd.post_mortem(error).site == site
    assert [call.site for call in trace.calls] == [site]


@pytest.mark.parametrize(
    "family", ["qwen2_5_vl", "gemma4", "llava", "internvl", "idefics3", "gemma3"]
)
def test_texts_and_images_are_counted_where_no_batch_exists(family: str, built: Any) -> None:
    _, processor = built[family]
    nested = vd.post_mortem(caught(lambda: processed(processor, [[SQUARE]] * 3)))
    flat = [SQUARE] * 3
    level = vd.post_mortem(caught(lambda: processed(processor, flat)))

    assert nested.samples == level.samples == (1,)
    assert "sample 1: its text has 2 placeholders" in nested.said[0]
    assert "was given 1 image: placeholder 1 has no image." in nested.said[0]
    assert "The texts have 1, 2, 1 placeholders" in level.said[0]


def test_images_that_no_text_names_are_found(built: Any) -> None:
    _, processor = built["llava"]
    images = [[SQUARE], [SQUARE], [SQUARE]]
    found = vd.post_mortem(caught(lambda: processed(processor, images, ("I", "", "I"))))

    assert found.samples == (1,)
    assert "has 0 placeholders <image> but it was given 1 image: image 0 has no" in found.said[0]


def test_rows_of_a_data_set_say_which_images_are_theirs(built: Any) -> None:
    _, processor = built["llava"]

    def collate(rows: list[dict[str, Any]]) -> Any:
        flat = [image for row in rows for image in row["images"]]
        return processor(text=[row["text"] for row in rows], images=flat)

    rows = [
        {"text": "<image>", "images": [SQUARE]},
        {"text": "<image>", "images": [SQUARE, SQUARE]},
        {"text": "", "images": []},
    ]
    found = vd.post_mortem(caught(lambda: collate(rows)))

    assert found.samples == (1,)
    assert "image 1 has no placeholder" in found.said[0]


def test_a_sample_that_is_processed_alone_is_found_in_its_list(built: Any) -> None:
    _, processor = built["llava"]

    def collate(rows: list[dict[str, Any]]) -> Any:
        return [processor(text=row["text"], images=row["images"]) for row in rows]

    row = {"text": "<image>", "images": [SQUARE]}
    rows = [row, row, {"text": "<image><image> look", "images": [SQUARE]}]

    assert vd.post_mortem(caught(lambda: collate(rows))).samples == (2,)


@pytest.mark.parametrize("family", ["llava", "idefics3", "qwen2_5_vl", "kosmos-2"])
@pytest.mark.parametrize(("images", "sample"), [([[SQUARE], [None]], 1), ([None, SQUARE], 0)])
def test_nothing_in_the_place_of_an_image_is_named(
    family: str, images: Any, sample: int, built: Any
) -> None:
    _, processor = built[family]
    token = getattr(processor, "image_token", "")
    texts = [f"{token} What?"] * 2
    found = vd.post_mortem(caught(lambda: processor(text=texts, images=images)))

    assert found.samples == (sample,)
    assert f"sample {sample}: images[{sample}] " in found.said[0]
    assert "None, which is no image. Give a sample without any an empty list" in found.said[0]
    assert not found.ok


@pytest.mark.parametrize("family", ["llava", "idefics3", "paligemma", "mllama", "blip-2"])
def test_texts_that_are_not_padded_are_not_blamed_on_their_images(family: str, built: Any) -> None:
    """The processor wrote the placeholders, all of them, into its texts by then."""
    _, processor = built[family]
    token = "" if family == "blip-2" else processor.image_token
    texts = [f"{token} What?", f"{token} What is on the left of it?"]
    nested = [[SQUARE], [SQUARE]]
    call = {"images": nested, "return_tensors": "pt", "padding": False}
    found = vd.post_mortem(caught(lambda: processor(text=texts, **call)))

    assert found.samples == ()
    assert not [said for said in found.said if "placeholder" in said and "was given" in said]
    assert "padding=True" in found.summary()


@pytest.mark.parametrize("family", ["gemma3", "mllama"])
def test_flat_list_for_a_processor_that_counts_per_text_is_named(family: str, built: Any) -> None:
    _, processor = built[family]
    stale = dict(vd.tiny.batch(family, [1, 1]))  # of an earlier step, and no cause
    token = getattr(processor, "boi_token", None) or processor.image_token
    texts = [f"{token}{token} What?", f"{token} What?"]
    found = vd.post_mortem(caught(lambda: processor(text=texts, images=[SQUARE] * 3)))

    assert stale
    assert "3 images were given in one flat list. Nest them per sample" in found.said[0]


def test_another_number_of_images_than_texts_is_named(built: Any) -> None:
    _, processor = built["kosmos-2"]
    found = vd.post_mortem(caught(lambda: processor(text=["a", "b"], images=[SQUARE] * 3)))

    assert found.said == (
        "The processor was given 2 texts and 3 images, but it takes one image with each text.",
    )


def test_batch_of_an_earlier_step_is_not_blamed_for_a_processor_that_raises(built: Any) -> None:
    _, processor = built["gemma3"]

    def step() -> Any:
        inputs = dict(vd.tiny.batch("gemma3", [1, 1]))
        inputs.pop("token_type_ids")  # VLM003, if it were looked at
        return processor(text=[None], images=[[SQUARE]]), inputs

    found = vd.post_mortem(caught(step))

    assert (found.report, found.samples) == (None, ())
    assert "the exception has another cause" in found.said[0]


def test_texts_without_placeholders_that_were_not_counted_are_not_said_to_agree(built: Any) -> None:
    _, processor = built["gemma3"]
    given = {"text": ["a", "b"], "images": [[SQUARE], ["no such file"]]}
    found = vd.post_mortem(caught(lambda: processor(**given)))

    assert (found.differs, found.samples) == (False, ())
    assert " agree" not in found.said[0]


def test_one_image_of_a_flat_list_was_given(built: Any) -> None:
    _, processor = built["gemma3"]
    texts = [processor.image_token * 2, "b"]
    found = vd.post_mortem(caught(lambda: processor(text=texts, images=[SQUARE])))

    assert "2 in all, but 1 image was given in one flat list." in found.said[0]


def test_truncation_in_the_processor_names_the_sample(built: Any) -> None:
    _, processor = built["gemma3"]
    texts = [f"{processor.image_token} a", f"{'word ' * 30} {processor.image_token}"]

    def truncated() -> Any:
        images = [[SQUARE], [SQUARE]]
        return processor(text=texts, images=images, truncation=True, max_length=30, padding=True)

    found = vd.post_mortem(caught(truncated))

    assert found.samples == (1,)
    assert "truncation cut" in found.said[0]


@pytest.mark.parametrize("stack", [torch.utils.data.default_collate, np.stack, torch.stack])
def test_samples_that_cannot_be_stacked_are_named(stack: Any) -> None:
    def collate(features: list[dict[str, Any]]) -> Any:
        if stack is torch.utils.data.default_collate:
            return stack(features)
        return stack([feature["pixel_values"] for feature in features])

    shapes = ((4, 8), (4, 8), (6, 8))
    rows = [{"pixel_values": torch.zeros(*shape)} for shape in shapes]
    if stack is np.stack:
        rows = [{key: value.numpy() for key, value in row.items()} for row in rows]
    found = vd.post_mortem(caught(lambda: collate(rows)))

    assert found.samples == (2,)
    assert "pixel_values has another shape in sample 2: (6, 8), but (4, 8) in sample 0" in str(
        found
    )


def test_a_batch_in_the_frames_is_checked(built: Any) -> None:
    """The exception is in the loop, before the model is called."""
    model, bad = one_too_many("llava", built)

    def step(model: Any, batch: dict[str, Any]) -> Any:
        return batch["num_images"]

    found = vd.post_mortem(caught(lambda: step(model, bad)))

    assert found.found == "A batch"
    assert found.samples == (1,)


def test_a_batch_that_was_read_before_is_checked(built: Any) -> None:
    """As in a notebook, where `read_batch` was called in an earlier cell."""
    model, bad = one_too_many("llava", built)
    read = vd.read_batch(bad, config=model.config)

    def step(model: Any, batch: Any, batches: Any) -> Any:
        raise RuntimeError("sizes of tensors must match")

    found = vd.post_mortem(caught(lambda: step(model, read, [read, read])))

    assert found.found == "A batch"
    assert found.samples == (1,)


def test_exceptions_of_other_code_are_not_explained_by_images() -> None:
    found = vd.post_mortem(caught(lambda: list[int]()[0]))

    assert found.error == "IndexError: list index out of range"
    assert found.explained is None and found.ok


def test_exceptions_of_a_model_are_explained() -> None:
    names: dict[str, Any] = {"__name__": "transformers.models.llava.modeling_llava"}
    exec("def forward(): [][0]", names)
    found = vd.post_mortem(caught(names["forward"]))

    assert found.explained is not None and found.explained.code == "VLM010"


def test_totals_that_differ_are_not_ok_without_a_sample(built: Any) -> None:
    _, processor = built["qwen2_5_vl"]
    token = processor.image_token

    def processor_call(self: Any, text: list[str], images: list[Any]) -> None:
        raise ValueError("some text of its own")

    texts = [token, token * 2]
    found = vd.post_mortem(caught(lambda: processor_call(processor, texts, [SQUARE] * 4)))

    assert "3 in all, but 4 images were given in one flat list" in found.said[0]
    assert found.samples == ()
    assert not found.ok


def test_exception_whose_text_cannot_be_made_is_named() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    found = vd.post_mortem(Broken())

    assert found.error == "Broken, which raises when its text is asked for"


def test_text_of_the_data_is_harmless() -> None:
    rows = [{"\x1b[31m\n::error::": torch.zeros(size)} for size in (1, 1, 2)]
    found = vd.post_mortem(caught(lambda: torch.utils.data.default_collate(rows)))

    assert "\x1b" not in found.summary()
    assert "\n::error" not in found.summary()


def test_objects_that_cannot_be_looked_at_do_not_raise() -> None:
    class Lazy(dict[str, Any]):
        def __iter__(self) -> Any:
            raise RuntimeError("not yet")

    def step(batch: Any) -> Any:
        return batch["missing"]

    found = vd.post_mortem(caught(lambda: step(Lazy(input_ids=torch.ones(1)))))

    assert found.ok
    assert "vlmdebug failed to look into the frames: RuntimeError: not yet" in str(found)


# --- pytest and notebooks ---------------------------------------------------------------------

FAILING = """
import torch
import vlmdebug as vd


def collate(features):
    return torch.utils.data.default_collate(features)


def test_collator():
    collate([{"pixel_values": torch.zeros(n)} for n in (1, 1, 2)])


def test_other():
    assert 1 == 2
"""


def test_pytest_adds_a_section_to_a_failing_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FAILING)
    line = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-n0", "test_it.py"]
    plugin = [] if has_plugin() else ["-p", "vlmdebug.pytest_plugin"]
    said = [
        subprocess.run([*line, *plugin, *more], cwd=tmp_path, capture_output=True, text=True).stdout
        for more in ([], ["--vlmdebug"])
    ]

    assert "vlmdebug" not in said[0].partition("FAILURES")[2].replace("import vlmdebug", "")
    assert said[1].count(" vlmdebug ---") == 1
    assert "pixel_values has another shape in sample 2: (2,), but (1,) in sample 0" in said[1]


def has_plugin() -> bool:
    from importlib.metadata import entry_points

    return any(one.name == "vlmdebug" for one in entry_points(group="pytest11"))


@pytest.fixture
def shell() -> Any:
    pytest.importorskip("IPython")
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlmdebug")
    return shell


def test_a_failed_cell_is_explained(shell: Any, built: Any, capsys: Any) -> None:
    model, bad = one_too_many("llava", built)
    shell.push({"model": model, "bad": bad})
    shell.run_cell("model(**bad)")
    capsys.readouterr()
    found = shell.run_cell("%vlmdebug").result
    printed = capsys.readouterr().out

    assert found.samples == (1,)
    assert "A call of LlavaForConditionalGeneration" in printed
    assert "VLM010" in printed


def test_one_cell_is_watched(shell: Any, built: Any, capsys: Any) -> None:
    from transformers import PreTrainedModel

    model, bad = one_too_many("llava", built)
    call = PreTrainedModel.__call__
    inputs = dict(vd.tiny.batch("llava", [1, 1]))
    shell.push({"model": model, "bad": bad, "inputs": inputs})
    shell.run_cell("%%vlmdebug\nx = model(**inputs).logits.shape[0]")
    right = capsys.readouterr().out
    shell.run_cell("%%vlmdebug\nmodel(**bad)")
    wrong = capsys.readouterr().out

    assert shell.user_ns["x"] == 2
    assert right == ("vlmdebug: 1 call of LlavaForConditionalGeneration judged, nothing found.\n")
    assert "1 call of LlavaForConditionalGeneration judged, 1 of them wrong." in wrong
    assert "sample 1 has 17 placeholder tokens" in wrong
    assert PreTrainedModel.__call__ is call


def test_magics_say_what_is_missing(shell: Any, capsys: Any, monkeypatch: Any) -> None:
    for name in ("last_exc", "last_value"):
        monkeypatch.delattr(sys, name, raising=False)
    shell.run_cell("%vlmdebug")
    shell.run_cell("%vlmdebug now")
    said = capsys.readouterr().err
    shell.run_cell("%%vlmdebug\n1 + 1")
    cell = capsys.readouterr().out
    shell.run_line_magic("unload_ext", "vlmdebug")

    assert "There is no exception" in said and "takes nothing behind it" in said
    assert "no call of a transformers model" in cell
    assert shell.find_magic("vlmdebug") is None
