"""Test the data collators of trainers: `make test-trainers ARGS=collators`.

TRL's and transformers' are those that are installed. LLaMA-Factory and ms-swift are installed
without their dependencies into a temporary folder; modules that they import and that no batch needs
are replaced. The collators themselves run unmodified. The output is a Markdown table: what
`falsify_all` finds, and what a tiny real model does with the smallest rows: it raises, or its
logits of a sample differ from those of the row alone.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace as Some
from typing import Any
from unittest.mock import MagicMock

import isolated
import torch

import vlmdebug as vd
from vlmdebug.families.probe import image_text

FAMILIES = ("gemma4", "qwen2_5_vl", "llava", "llava_next", "internvl", "idefics3")
LLAMA_FACTORY, MS_SWIFT = "llamafactory==0.9.5", "ms-swift==4.6.0"
TEMPLATES = {"qwen2_5_vl": "qwen2_vl", "llava": "llava", "llava_next": "llava_next"}
"""Families, and the template of LLaMA-Factory for each."""
SWIFT = ("qwen2_5_vl", "llava", "internvl", "idefics3")
"""Families with a template in ms-swift that joins images as the base template does."""
AROUND = {"qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>")}
"""What the chat template of a checkpoint puts around an image."""
MEDIA = ("image_token_id", "video_token_id")

Trial = tuple[str, str, Any]


def take(path: Path, *names: str, **world: Any) -> Any:
    """Functions, classes and constants by name from a file that is not imported.

    `Class.method` gives the bare method. Their code is not changed; decorators of functions are
    removed, and annotations are not evaluated, because compile() inherits this file's
    `annotations`. `world` holds the globals they need.
    """
    world |= {"__name__": __name__, "torch": torch}
    for owner, node in _definitions(ast.parse(path.read_text(encoding="utf-8"))):
        called = [target.id for target in getattr(node, "targets", []) if hasattr(target, "id")]
        called += [f"{owner}{node.name}"] if hasattr(node, "name") else []
        if set(called) & set(names):
            if isinstance(node, ast.FunctionDef):
                node.decorator_list = []
            exec(compile(ast.Module([node], []), path, "exec"), world)
    return Some(**{(short := name.rpartition(".")[2]): world[short] for name in names})


def _definitions(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for node in tree.body:
        yield "", node
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.", inner) for inner in node.body)


def stub(*names: str) -> None:
    """Let a package import modules that it does not need for batches."""
    for name in names:
        sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None), __path__=[], __name__=name)


"""A family, the collator's name, and the collator under test."""


def with_template(family: str) -> tuple[Any, Any]:
    """A tiny model and its processor, with a chat template."""
    model, processor = vd.tiny.build(family)
    before, after = AROUND.get(family, ("", " "))
    image = f"{before}{image_text(processor)}{after}"
    processor.chat_template = processor.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
        f"{{% if c['type'] == 'image' %}}{image}{{% else %}}{{{{ c['text'] }}}}{{% endif %}}"
        "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return model, processor


def trl(family: str, processor: Any, model: Any) -> Iterator[Trial]:
    """TRL's collator for supervised training, with each kind of rows."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    ways: tuple[tuple[str, dict[str, Any]], ...] = (
        ("messages", {}),
        ("prompt_completion", {"completion_only_loss": True}),
        ("prompt_completion", {"completion_only_loss": True, "max_length": 48}),
    )
    for rows, options in ways:
        collate = DataCollatorForVisionLanguageModeling(processor, **options)
        said = "".join(f", {name}={value}" for name, value in options.items())
        yield (
            family,
            f"DataCollatorForVisionLanguageModeling, {rows}{said}",
            vd.collator(collate, processor, rows=rows, model=model),
        )


def transformers(family: str, processor: Any, model: Any) -> Iterator[Trial]:
    """Those of transformers, on rows that the processor made."""
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, default_data_collator

    for collate in (
        default_data_collator,
        DataCollatorWithPadding(processor.tokenizer),
        DataCollatorForSeq2Seq(processor.tokenizer),
    ):
        name = getattr(collate, "__name__", type(collate).__name__)
        yield family, name, vd.collator(collate, processor, rows="processed", model=model)


def llama_factory(family: str, processor: Any, model: Any) -> Iterator[Trial]:
    """LLaMA-Factory's multimodal collator, on rows that its own template encodes."""
    if family not in TEMPLATES:
        return
    stub("torchaudio", "torchaudio.functional")
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    data = "llamafactory.data"
    collator_of = import_module(f"{data}.collator").MultiModalDataCollatorForSeq2Seq
    processor_of = import_module(f"{data}.processor").SupervisedDatasetProcessor
    known = import_module(f"{data}.template").TEMPLATES

    if getattr(processor, "video_processor", None) is None:
        processor.video_processor = processor.image_processor  # asked for, and never called
    for name, value in {
        "image_max_pixels": 768 * 768,
        "image_min_pixels": 32 * 32,
        "image_do_pan_and_scan": False,
        "crop_to_patches": False,
    }.items():
        setattr(processor, name, value)
    template, tokenizer = known[TEMPLATES[family]], processor.tokenizer
    options = Some(mask_history=False, cutoff_len=4096, train_on_prompt=False)
    encoder = processor_of(template, tokenizer, processor, options)

    def rows(images: list[Any], text: str, answer: str) -> dict[str, Any]:
        prompt = [{"role": "user", "content": "<image>" * len(images) + text}]
        reply = [{"role": "assistant", "content": answer}]
        ids, labels = encoder._encode_data_example(prompt, reply, "", "", images, [], [])
        own = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
        return {**own, "images": images, "videos": [], "audios": []}

    collate = collator_of(tokenizer=tokenizer, model=model, template=template, processor=processor)
    yield family, type(collate).__name__, vd.collator(collate, processor, rows=rows, model=model)


def swift(family: str, processor: Any, model: Any) -> Iterator[Trial]:
    """The collator of ms-swift's base template, on rows as its encoding leaves them."""
    if family not in SWIFT:
        return
    folder = next(Path(path) for path in sys.path if (Path(path) / "swift").is_dir())
    names = ("_data_collator", "_data_collator_mm_data", "_pad_3d_position_ids", "_pad_sequence")
    names += ("concat_tensor", "_handle_megatron_cp")
    its = take(
        folder / "swift/template/base.py",
        *(f"Template.{name}" for name in names),
        math=__import__("math"),
        F=torch.nn.functional,
        pad_sequence=torch.nn.utils.rnn.pad_sequence,
    )
    state = dict(tokenizer=processor.tokenizer, padding_side="right", is_training=True)
    state |= dict(padding_free=False, use_megatron=False, sequence_parallel_size=1, packing=False)
    methods = {name: getattr(its, name) for name in names}
    methods["concat_tensor"] = staticmethod(its.concat_tensor)
    template: Any = type("Template", (), methods)()
    vars(template).update(state)
    media = [getattr(model.config, name, None) for name in MEDIA]

    def rows(images: list[Any], text: str, answer: str) -> dict[str, Any]:
        marked = f"{' '.join([image_text(processor) or ''] * len(images))} {text} {answer}"
        made = processor(text=[marked], images=[images] if images else None, return_tensors="pt")
        left_out = ("attention_mask", "pixel_attention_mask")  # as Idefics3Template._encode does
        row = {key: value for key, value in made.items() if key not in left_out}
        for key in ("input_ids", "mm_token_type_ids", "token_type_ids"):
            if key in row:
                row[key] = row[key][0].tolist()
        row["labels"] = [-100 if token in media else token for token in row["input_ids"]]
        return row

    yield (
        family,
        "Template._data_collator",
        vd.collator(template._data_collator, processor, rows=rows, model=model),
    )


COLLATORS: dict[str, Callable[[str, Any, Any], Iterator[Trial]]] = {
    "trl": trl,
    "transformers": transformers,
    LLAMA_FACTORY: llama_factory,
    MS_SWIFT: swift,
}


def proof(model: Any, trial: Any, rows: list[Any]) -> str:
    """What the model does with the rows together: it raises, or its logits differ from alone."""

    def logits(of: list[Any]) -> list[torch.Tensor]:
        made = {key: value for key, value in trial(of).items() if hasattr(value, "shape")}
        mask = made.get("attention_mask", torch.ones_like(made["input_ids"]))
        with torch.no_grad():
            found = model(**made).logits
        return [one[own != 0] for one, own in zip(found, mask, strict=True)]

    try:
        together = logits(rows)
    except Exception as error:
        return f"raises {type(error).__name__}"
    try:
        alone = [one for row in rows for one in logits([row])]
    except Exception as error:
        return f"runs; alone it raises {type(error).__name__}"
    pairs = [*zip(together, alone, strict=False)]
    if len(together) != len(alone) or any(a.shape != b.shape for a, b in pairs):
        return "runs, with other tokens"
    most = max(float((a - b).abs().max()) for a, b in pairs)
    return f"runs; logits differ by {most:.2g}" if most > 1e-4 else "runs; the same logits"


def lines(requirement: str) -> Iterator[str]:
    """A line of the table for each finding of each collator."""
    for family in FAMILIES:
        model, processor = with_template(family)
        model.eval()
        for of, name, trial in COLLATORS[requirement](family, processor, model):
            head = f"| {requirement.replace('==', ' ')} | `{name}` | {of} |"
            tried: dict[str, int] = {}
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    found = vd.falsify_all(trial, max_examples=60, tried=tried)
            except vd.VlmDebugError as error:
                yield f"{head} not judged: {str(error).partition(chr(10))[0]} | | |"
                continue
            for one in found:
                said = proof(model, trial, list(one.rows))
                codes = " ".join(f"{f.code} ({f.loudness})" for f in one.report.findings)
                message = one.report.findings[0].message.partition("\n")[0]
                yield f"{head} {one!r}: {codes} {message} | {said} | {sum(tried.values())} |"
            if not found:
                yield f"{head} – | | {sum(tried.values())} |"


def main(arguments: list[str]) -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    if arguments[:1] == ["--in"]:
        sys.path.insert(0, arguments[1])
        for line in lines(arguments[2]):
            print(line, flush=True)
        return
    print("| trainer | collator | layout | smallest rows and finding | tiny real model | sets |")
    print(f"|{'---|' * 6}", flush=True)
    for requirement in COLLATORS:
        if arguments and requirement.partition("==")[0] not in arguments:
            continue
        isolated.run(__file__, requirement, requirement)


if __name__ == "__main__":
    main(sys.argv[1:])
