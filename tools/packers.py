"""Test how trainers pack samples: `make test-trainers ARGS=packers`.

TRL and transformers are those that are installed. The other libraries are installed without their
dependencies into a temporary folder. Their packers run unmodified, on samples of several layouts
with texts and images. The output is a Markdown table: for each packer, the smallest batch with each
verdict of `check`, and how far `prove` finds the logits of a tiny real model from those of each
sample alone: with the default attention, and as flash-attention computes it from the arguments of
packed rows. In brackets is what rounding explains. `--few` tries the smallest batches only.
"""

from __future__ import annotations

import builtins
import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace as Some
from typing import Any
from unittest.mock import MagicMock

import isolated
import torch
from packaging import version

import vlmdebug as vd
from vlmdebug.trainers.source import Library

collators: Any = import_module("collators")  # the tool next to this one
LLAMA_FACTORY, MS_SWIFT, TEMPLATES = (
    collators.LLAMA_FACTORY,
    collators.MS_SWIFT,
    collators.TEMPLATES,
)
stub, take, with_template = collators.stub, collators.take, collators.with_template

Inputs = dict[str, Any]
Slicer = Callable[[Inputs, int], Iterator[Inputs]]
Packer = tuple[str, Callable[[Sequence[int]], tuple[Inputs, Slicer]]]
"""Its name, and what makes the padded batch and the packer of samples with so many images."""

FAMILIES = ("llava", "internvl", "idefics3", "qwen2_5_vl", "qwen3_vl", "gemma4")
AXOLOTL, VERL = "axolotl==0.19.0", "verl==0.9.1"
NEEDS = {VERL: ("tensordict", "pyvers", "cloudpickle", "orjson")}
SETS = ((1,), (0, 0), (1, 1), (0, 1), (1, 0), (0, 0, 0), (2, 0, 1), (1, 1, 2), (0, 2, 1, 0))
"""Images per sample, smallest first."""
IGNORED, MULTIPLE = -100, 64
OF_TEXT = {"input_ids", "attention_mask", "labels", "position_ids", "rope_deltas"}


def tensors(inputs: Mapping[str, Any]) -> Inputs:
    """The values that are tensors."""
    return {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}


def with_labels(inputs: Mapping[str, Any], media: Sequence[int]) -> Inputs:
    """Labels as for a text that is learned whole, its first token included."""
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)
    for token in media:
        labels = labels.masked_fill(labels == token, IGNORED)
    return {**tensors(inputs), "labels": labels}


def of_samples(
    family: str, processor: Any, model: Any, join: Callable[[list[Inputs]], Inputs]
) -> Callable[[Sequence[int]], tuple[Inputs, Slicer]]:
    """A packer that joins `chunk_size` samples at a time."""
    config = model.config
    media = [getattr(config, f"{name}_token_id", None) for name in ("image", "video")]

    def made(images: Sequence[int]) -> tuple[Inputs, Slicer]:
        inputs = vd.tiny.batch(family, list(images), processor=processor, seed=0)
        inputs = with_labels(inputs, [token for token in media if token is not None])
        batch = vd.read_batch(inputs, processor=processor, config=config)

        def slicer(given: Inputs, chunk_size: int) -> Iterator[Inputs]:
            rows = [alone(one) for one in batch.chunks(1)]
            for start in range(0, len(rows), chunk_size):
                yield join(rows[start : start + chunk_size])

        return inputs, slicer

    return made


def alone(chunk: Mapping[str, Any]) -> Inputs:
    """A sample without padding; tensors along its tokens have the shape `(seq,)`."""
    shape, keep = chunk["input_ids"].shape, chunk["attention_mask"][0].bool()
    along = {key for key, value in chunk.items() if getattr(value, "shape", None) == shape}
    return {key: value[0][keep] if key in along else value for key, value in chunk.items()}


def listed(rows: list[Inputs], *names: str) -> list[Inputs]:
    """The keys of each row as lists, as a dataset holds them."""
    return [{name: row[name].tolist() for name in names if name in row} for row in rows]


# --- the packers -------------------------------------------------------------------------------


def trl(family: str, processor: Any, model: Any, folder: Path) -> Iterator[Packer]:
    """TRL's collator of texts without padding; that of vision models has no such option."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    for multiple in (None, MULTIPLE):
        collate = DataCollatorForLanguageModeling(0, padding_free=True, pad_to_multiple_of=multiple)

        def join(rows: list[Inputs], collate: Any = collate) -> Inputs:
            return collate(listed(rows, "input_ids", "labels"))

        said = f", pad_to_multiple_of={multiple}" if multiple else ""
        name = f"`DataCollatorForLanguageModeling`, padding_free=True{said}"
        yield name, of_samples(family, processor, model, join)


def transformers(family: str, processor: Any, model: Any, folder: Path) -> Iterator[Packer]:
    """transformers' collator without padding."""
    from transformers import DataCollatorWithFlattening

    for options in ({}, {"return_flash_attn_kwargs": True, "return_seq_idx": True}):
        collate = DataCollatorWithFlattening(**options)

        def join(rows: list[Inputs], collate: Any = collate) -> Inputs:
            return collate(listed(rows, "input_ids", "labels"))

        said = ", return_flash_attn_kwargs, return_seq_idx" if options else ""
        name = f"`DataCollatorWithFlattening`{said}"
        yield name, of_samples(family, processor, model, join)


def axolotl(family: str, processor: Any, model: Any, folder: Path) -> Iterator[Packer]:
    """axolotl's collators of its multipack sampler, on rows as it stores them."""
    library = Library("axolotl", AXOLOTL.replace("==", " "), folder / "axolotl")
    module = library.module("axolotl.utils.collators.batching")
    numbered = library.module("axolotl.utils.trainer").add_position_ids
    for name, mask in (
        ("V2BatchSamplerDataCollatorForSeq2Seq", False),
        ("V2BatchSamplerDataCollatorForSeq2Seq", True),
        ("BatchSamplerDataCollatorForSeq2Seq", True),
    ):
        collate = getattr(module, name)(processor.tokenizer, pad_to_multiple_of=MULTIPLE)
        names = ("input_ids", "labels", *(["attention_mask"] if mask else []))

        def join(rows: list[Inputs], collate: Any = collate, names: Any = names) -> Inputs:
            return dict(collate([[numbered(row) for row in listed(rows, *names)]]))

        said = "attention_mask" if mask else "attention_mask dropped"
        yield f"`{name}`, {said}", of_samples(family, processor, model, join)


def llama_factory(family: str, processor: Any, model: Any, folder: Path) -> Iterator[Packer]:
    """LLaMA-Factory's packed data set and its collator, on images; the batch is its padded one."""
    if family not in TEMPLATES:
        return
    stub("torchaudio", "torchaudio.functional")
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    data = "llamafactory.data"
    collating, supervised = (
        import_module(f"{data}.{name}") for name in ("collator", "processor.supervised")
    )
    template = import_module(f"{data}.template").TEMPLATES[TEMPLATES[family]]
    if getattr(processor, "video_processor", None) is None:
        processor.video_processor = processor.image_processor  # asked for, and never called
    for name, value in {
        "image_max_pixels": 768 * 768,
        "image_min_pixels": 32 * 32,
        "image_do_pan_and_scan": False,
        "crop_to_patches": False,
    }.items():
        setattr(processor, name, value)
    common = dict(tokenizer=processor.tokenizer, template=template, processor=processor)
    padded = collating.MultiModalDataCollatorForSeq2Seq(model=model, **common)
    for neat, attention in ((True, "sdpa"), (True, "flash_attention_2"), (False, "sdpa")):
        collate = collating.SFTDataCollatorWith4DAttentionMask(
            model=model,
            block_diag_attn=neat,
            neat_packing=neat,
            attn_implementation=attention,
            **common,
        )

        def made(images: Sequence[int], neat: Any = neat, collate: Any = collate) -> Any:
            options = Some(mask_history=False, cutoff_len=4096, train_on_prompt=False)
            options.neat_packing = neat
            arguments = (template, processor.tokenizer, processor, options)
            examples = as_examples(images, processor)
            rows = by_row(supervised.SupervisedDatasetProcessor(*arguments), examples)
            options.cutoff_len = sum(len(row["input_ids"]) for row in rows) + 8
            packed = supervised.PackedSupervisedDatasetProcessor(*arguments)
            inputs = texts_of(rows, processor)
            if any(images):
                made = tensors(padded(rows))
                inputs |= {key: made[key] for key in made if key not in OF_TEXT}

            def slicer(given: Inputs, chunk_size: int) -> Iterator[Inputs]:
                for row in by_row(packed, as_examples(images, processor)):
                    call = dict(collate([row]))
                    call.pop("rope_deltas", None)  # of no use without a cache
                    yield call

            return inputs, slicer

        name = "neat_packing" if neat else "packing"
        yield f"`SFTDataCollatorWith4DAttentionMask`, {name}, {attention}", made


def texts_of(rows: Sequence[Inputs], processor: Any) -> Inputs:
    """The padded tokens of rows, and what they mean: a collator may add those of a dummy image."""
    wide = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": processor.tokenizer.pad_token_id or 0, "labels": IGNORED}
    found = {
        key: torch.tensor([row[key] + [fill.get(key, 0)] * (wide - len(row[key])) for row in rows])
        for key in ("input_ids", "attention_mask", "labels")
    }
    if "mm_token_type_ids" in processor.model_input_names:
        types = (found["input_ids"] == processor.image_token_id).long()
        found["mm_token_type_ids"] = types
    return found


def as_examples(images: Sequence[int], processor: Any) -> dict[str, list[Any]]:
    """Samples as LLaMA-Factory's converters give them, with texts of several lengths."""
    words = [number % 3 for number in range(len(images))]
    rows = vd.make_rows("prompt_completion", list(images), words=words, processor=processor)
    found: dict[str, list[Any]] = {name: [] for name in ("_prompt", "_response", "_images")}
    for row in rows:
        parts = row["prompt"][0]["content"]
        text = "".join(one.get("text", "<image>") for one in parts)
        answer = "".join(one["text"] for one in row["completion"][0]["content"])
        found["_prompt"].append([{"role": "user", "content": text}])
        found["_response"].append([{"role": "assistant", "content": answer}])
        found["_images"].append(list(row["images"]))
    empty = ("_system", "_tools", "_videos", "_audios")
    return found | {name: ["" if name in empty[:2] else []] * len(rows) for name in empty}


def by_row(encoder: Any, examples: dict[str, list[Any]]) -> list[Inputs]:
    """The rows of the data set that an encoder makes of examples."""
    columns = encoder.preprocess_dataset(examples)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def swift(family: str, processor: Any, model: Any, folder: Path) -> Iterator[Packer]:
    """ms-swift's templates with padding_free, on rows as their encoding leaves them."""
    name, kind_of = {
        "llava": ("base.Template", ""),
        "internvl": ("templates.internvl.InternvlTemplate", ""),
        "qwen2_5_vl": ("templates.qwen.Qwen2_5VLTemplate", "v2_5"),
        "qwen3_vl": ("templates.qwen.Qwen3VLTemplate", "v3"),
    }.get(family, ("", ""))
    if not name:
        return
    file, _, kind = name.rpartition(".")
    template: Any = object.__new__(templates(folder / "swift", file, kind))
    state = dict(padding_side="right", is_training=True, padding_free=True, use_megatron=False)
    state |= dict(sequence_parallel_size=1, packing=False, processor=processor, mode="train")
    state |= dict(tokenizer=processor.tokenizer)
    state |= dict(transformers_version=release(), transformers_5_3=True, _get_model=lambda: model)
    vars(template).update(state, get_base_model=lambda _: model, transformers_5_9=True)

    def join(rows: list[Inputs]) -> Inputs:
        batch = list[Inputs]()
        for row in rows:
            one = {key: value for key, value in row.items() if key != "attention_mask"}
            lists = listed([row], "input_ids", "labels")[0]
            lists["labels"][0] = IGNORED  # as Template._encode_truncated leaves them
            if kind_of and not bool((row["mm_token_type_ids"] != 0).any()):
                one.pop("mm_token_type_ids", None)  # as Qwen2VLTemplate._encode leaves them
            batch.append({**one, **lists, "length": len(row["input_ids"])})
        call = template._data_collator(batch)
        call.pop("text_position_ids", None)  # as Seq2SeqTrainer does
        return call

    yield f"`{kind}._data_collator`, padding_free", of_samples(family, processor, model, join)


def templates(swift: Path, file: str, kind: str) -> Any:
    """A template of ms-swift, with its base class; what they need to make prompts is replaced."""
    packed = take(
        swift / "utils/transformers_utils.py", "get_packed_seq_params"
    ).get_packed_seq_params
    replaced = MagicMock(retry_decorator=lambda _: lambda function: function)
    world: Inputs = dict(vars(builtins), math=math, F=torch.nn.functional, inspect=inspect)
    world |= dict(pad_sequence=torch.nn.utils.rnn.pad_sequence, ProcessorMixin=object)
    world |= dict(get_packed_seq_params=packed, version=version, contextmanager=contextmanager)
    for name in ("logger", "get_env_args", "register_template", "get_logger"):
        world[name] = replaced
    world["retry_decorator"] = replaced.retry_decorator
    base = take(swift / "template/base.py", "Template", **world).Template
    if kind == "Template":
        return base
    path = swift / f"template/{file.replace('.', '/')}.py"
    own = [kind] if kind.startswith("Intern") else ["Qwen2VLTemplate", "Qwen2_5VLTemplate"]
    own += ["Qwen3VLTemplate"] if kind == "Qwen3VLTemplate" else []
    return getattr(take(path, *own, **world, Template=base), kind)


def release() -> Any:
    """The installed release of transformers, as a version."""
    return version.parse(metadata.version("transformers"))


def verl(family: str, processor: Any, model: Any, folder: Path) -> Iterator[Packer]:
    """verl's positions of each sample, its samples without padding, and the engine's inputs."""
    library = Library("verl", VERL.replace("==", " "), folder / "verl")
    dictionaries = library.module("verl.utils.tensordict_utils")
    index = getattr(getattr(model, "model", model), "get_rope_index", None)
    known = dict(tokenizer=processor.tokenizer, image_token_id=model.config.image_token_id)
    known |= {"get_rope_index": index, "video_token_id": getattr(model.config, "video_token_id", 0)}
    if index is None:
        del known["get_rope_index"]
    loop = library.module("verl.experimental.agent_loop.agent_loop").instance(
        "AgentLoopWorker", processor=Some(**known)
    )
    unpad = library.module("verl.workers.utils.padding").left_right_2_no_padding
    engine_of = library.module("verl.workers.engine.fsdp.transformer_impl")
    for multiple, ends in ((1, False), (MULTIPLE, True)):
        engine = engine_of.instance(
            "FSDPEngineWithLMHead",
            use_ulysses_sp=False,
            pad_to_length=multiple > 1,
            pass_packed_cu_seqlens=ends,
            _get_packed_pad_size=lambda size, multiple=multiple: -size % multiple,
        )

        def join(rows: list[Inputs], engine: Any = engine) -> Inputs:
            wide = max(len(row["input_ids"]) for row in rows)
            held: Inputs = {"response_mask": torch.ones(len(rows), 3, dtype=torch.long)}
            texts, media = list[Inputs](), list[Any]()
            for row in rows:
                ids, left = row["input_ids"], wide - len(row["input_ids"])
                mask = torch.ones(1, len(ids), dtype=torch.long)
                ids, mask = (torch.nn.functional.pad(one, (left, 0)) for one in (ids[None], mask))
                own = {k: v for k, v in row.items() if k not in ("input_ids", "labels")}
                own.pop("attention_mask", None)
                own = {k: v[None] if v.ndim == 1 else v for k, v in own.items()}
                places = loop._compute_position_ids(ids, mask, own)
                texts.append({"input_ids": ids, "attention_mask": mask, "position_ids": places})
                media.append(own)
            held |= {key: torch.cat([one[key] for one in texts]) for key in texts[0]}
            data = dictionaries.get_tensordict(
                {
                    **held,
                    "multi_modal_inputs": dictionaries.NonTensorStack.from_list(
                        [dictionaries.NonTensorData(one) for one in media]
                    ),
                },
                {"temperature": 1.0},
            )
            return engine.prepare_model_inputs(unpad(data))[0]

        said = f", padded to {multiple}, cu_seqlens" if ends else ""
        name = f"`left_right_2_no_padding`, `prepare_model_inputs`{said}"
        yield name, of_samples(family, processor, model, join)


PACKERS: dict[str, Callable[[str, Any, Any, Path], Iterator[Packer]]] = {
    "trl": trl,
    "transformers": transformers,
    AXOLOTL: axolotl,
    LLAMA_FACTORY: llama_factory,
    MS_SWIFT: swift,
    VERL: verl,
}


# --- verdicts and proofs -----------------------------------------------------------------------


def as_flash(slicer: Slicer) -> Slicer:
    """The same calls with a mask that hides what flash-attention does not see by its arguments."""

    def masked(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        for call in slicer(inputs, chunk_size):
            total, ends = call["input_ids"].shape[1], begins_for_flash(call) or []
            mask = torch.zeros(total, total, dtype=torch.bool)
            for start, stop in pairwise([*ends, total]):
                mask[start:stop, start:stop] = True
            yield {**call, "attention_mask": mask.tril()[None, None]}

    return masked


def begins_for_flash(call: Inputs) -> list[int] | None:
    """Where flash-attention sees samples begin; None where that is as for the default attention.

    By its arguments, or by the lowest number in the first of four planes.
    """
    places = call.get("position_ids")
    if "cu_seq_lens_q" in call:
        return call["cu_seq_lens_q"].tolist()
    if places is None or len(places) != 4 or call.get("attention_mask") is not None:
        return None
    return (places[0, 0] == places[0].min()).nonzero()[:, 0].tolist()


def proof(slicer: Slicer, batch: Any, model: Any, size: int) -> str:
    """How far the logits of the tiny model are from those of each sample alone."""
    said = off(vd.prove(kept(slicer, model), batch, model, chunk_size=size))
    if begins_for_flash(next(iter(slicer(batch.for_slicer(), size)))) is not None:
        flash = off(vd.prove(kept(as_flash(slicer), model), batch, model, chunk_size=size))
        return said if said == flash else f"{said}; with flash-attention {flash}"
    return said


def loss_off(slicer: Slicer, batch: Any, model: Any, size: int) -> float:
    """How far the mean loss of the packed rows is from that of the samples alone."""

    def mean(calls: Any) -> float:
        total, learned = torch.zeros(()), 0
        for call in calls:
            known = {key: value for key, value in call.items() if key != "labels"}
            with torch.no_grad():
                logits = model(**known, use_cache=False).logits[:, :-1].flatten(0, 1)
            labels = call["labels"][:, 1:].flatten()
            total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            learned += int((labels != IGNORED).sum())
        return float(total / learned)

    calls = kept(slicer, model, "labels")(batch.for_slicer(), size)
    return abs(mean(calls) - mean(kept(lambda *_: batch.chunks(1), model, "labels")({}, 1)))


def kept(slicer: Slicer, model: Any, *others: str) -> Slicer:
    """The same calls without what tells flash-attention alone, and what no forward takes."""
    known = {*inspect.signature(model.forward).parameters} - {"labels"} | {*others}

    def calls(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        for call in slicer(inputs, chunk_size):
            yield {key: value for key, value in call.items() if key in known}

    return calls


def off(proven: Any) -> str:
    """The largest difference of logits, and in brackets what rounding explains."""
    if proven.error is not None:
        return f"raises {type(proven.error).__name__}"
    if proven.max_abs_diff is None:
        return "no logits to compare"
    return f"off by {proven.max_abs_diff:.1e} ({proven.tolerance:.0e})"


def verdict(report: Any) -> str:
    """The codes of the findings, or why it is ambiguous."""
    if report.ok:
        return "OK"
    if not report.mismatches:
        return f"AMBIGUOUS: {report.ambiguities[0].partition(chr(10))[0]}"
    found = {one.code: f"{one.code} ({one.loudness})" for one in report.findings}
    first = report.findings[0].message.partition("\n")[0]
    return f"{' '.join(found.values())}: {first}"


def lines(requirement: str, folder: Path, sets: Sequence[Sequence[int]]) -> Iterator[str]:
    """Lines of the table: the smallest batch with each verdict, for each packer and layout."""
    for family in FAMILIES:
        model, processor = with_template(family)
        model.eval()
        for name, make in PACKERS[requirement](family, processor, model, folder):
            head, seen = f"| {requirement.replace('==', ' ')} | {name} | {family} |", set[Any]()
            for images in sets:
                try:
                    inputs, slicer = make(images)
                    batch = vd.read_batch(inputs, processor=processor, config=model.config)
                    report = vd.check(slicer, batch, chunk_size=len(images))
                    proven = proof(slicer, batch, model, len(images))
                    if [one.code for one in report.findings] == ["VLM013"]:
                        moved = loss_off(slicer, batch, model, len(images))
                        proven = f"{proven}, the loss by {moved:.2g}"
                except vd.VlmDebugError as error:
                    yield f"{head} {list(images)} | not judged: {error} | |".replace("\n", " ")
                    break
                kind = report.verdict, tuple(one.code for one in report.findings)
                if kind not in seen:
                    seen.add(kind)
                    yield f"{head} {list(images)} | {verdict(report)} | {proven} |"


def main(arguments: list[str]) -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    sets = SETS[:5] if "--few" in arguments else SETS
    names = [argument for argument in arguments if argument != "--few"]
    if names[:1] == ["--in"]:
        sys.path.insert(0, names[1])
        for line in lines(names[2], Path(names[1]), sets):
            print(line, flush=True)
        return
    print("| library | packer | layout | images per sample | verdict | tiny real model |")
    print(f"|{'---|' * 6}", flush=True)
    for requirement in PACKERS:
        if names and requirement.partition("==")[0] not in names:
            continue
        few = ["--few"] if "--few" in arguments else []
        isolated.run(__file__, requirement, requirement, *few, needs=NEEDS.get(requirement, ()))


if __name__ == "__main__":
    main(sys.argv[1:])
