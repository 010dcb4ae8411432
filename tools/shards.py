"""Test how trainers split tokens over ranks: `make test-trainers ARGS=shards`.

The libraries are installed without their dependencies into a temporary folder. Their functions run
unmodified, for one rank after another, in place of as many processes. The output is a Markdown
table: for each of them, the smallest batch with each verdict of `check`, and how far `prove` finds
the logits of a tiny real model with the joined ranks from those of the whole batch, in brackets
what rounding explains. Where a trainer embeds on each rank, the model itself is also called with
what each rank gets. A verdict that is not the one in `shards.json` fails; `--store` writes it.
`--few` tries the smallest batches only.
"""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import SimpleNamespace as Some
from typing import Any

import isolated
import torch

import vlmdebug as vd

packers: Any = import_module("packers")  # the tool next to this one
take, with_template = packers.take, packers.with_template
AXOLOTL, LLAMA_FACTORY = packers.AXOLOTL, packers.LLAMA_FACTORY
MS_SWIFT, VERL = packers.MS_SWIFT, packers.VERL

Inputs = dict[str, Any]
Split = Callable[[Inputs], list[Inputs]]
"""What each rank gets of one call."""

STORED = Path(__file__).with_suffix(".json")
"""The verdicts that each release gets: the smallest samples with each, and the codes."""
FAMILIES = ("llava", "internvl", "qwen2_5_vl", "qwen3_vl")
RANKS = 2
ROWS, ROW, PACKED = "padded rows", "one row", "a packed row"


class Sharder:
    """A trainer's code that splits a call, and which calls it is given.

    Attributes:
        name: The code.
        split: What each rank gets of one call.
        calls: `ROWS` of all samples, `ROW` by row, or all of them in `PACKED`.
        embedded: Whether the trainer embeds tokens before it splits them.
        ranks: How many ranks there are.
        planes: Whether the trainer gives it positions of several planes.
    """

    def __init__(
        self,
        name: str,
        split: Split,
        calls: str,
        *,
        embedded: bool,
        ranks: int = RANKS,
        planes: bool = True,
    ) -> None:
        self.name, self.split, self.calls = name, split, calls
        self.embedded, self.ranks, self.planes = embedded, ranks, planes

    def slicer(self, batch: Any, packed: Any) -> Callable[[Inputs, int], Iterator[Inputs]]:
        """The slicer to be judged."""

        def shards(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
            given = packed(inputs, chunk_size) if packed else batch.chunks(chunk_size)
            for call in given:
                known = packers.tensors(call)
                yield from self.split(known)

        shards.shards, shards.embedded = self.ranks, self.embedded  # type: ignore[attr-defined]
        return shards


class Group:
    """One process after another, in place of a group of them: its number, and how many."""

    def __init__(self, ranks: int = RANKS) -> None:
        self.rank, self.ranks = 0, ranks

    def each(self, split: Callable[[], Inputs]) -> list[Inputs]:
        """What each process gets."""
        found = list[Inputs]()
        for rank in range(self.ranks):
            self.rank = rank
            found.append(split())
        return found

    @property
    def dist(self) -> Any:
        """The functions of `torch.distributed` that are asked here."""

        def all_gather(found: list[torch.Tensor], given: torch.Tensor, group: Any = None) -> None:
            for one in found:
                one.copy_(given)

        return Some(
            get_world_size=lambda group=None: self.ranks,
            get_rank=lambda group=None: self.rank,
            all_gather=all_gather,
        )


# --- the sharders --------------------------------------------------------------------------------


def verl(folder: Path) -> Iterator[Sharder]:
    """verl's inputs of Ulysses: texts, and embeddings, for which token ids stand here."""
    group = Group()
    names = ("_pad_tensor", "slice_input_tensor", "ulysses_pad", "ulysses_pad_and_slice_inputs")
    known: Inputs = dict(
        dist=group.dist,
        get_ulysses_sequence_parallel_group=lambda: "group",
        get_ulysses_sequence_parallel_rank=lambda: group.rank,
        get_ulysses_sequence_parallel_world_size=lambda: group.ranks,
    )
    its = take(folder / "verl/utils/ulysses.py", *names, **known)

    def texts(call: Inputs) -> list[Inputs]:
        def one() -> Inputs:
            ids, places, _ = its.ulysses_pad_and_slice_inputs(
                call["input_ids"], call["position_ids"], group.ranks
            )
            return {**media_of(call), "input_ids": ids, "position_ids": places}

        return group.each(one)

    patch = take(
        folder / "verl/models/transformers/monkey_patch.py",
        "patch_vlm_for_ulysses_input_slicing",
        slice_input_tensor=its.slice_input_tensor,
        **known,
    ).patch_vlm_for_ulysses_input_slicing

    def decoder(call: Inputs) -> list[Inputs]:
        class Decoder:
            def forward(self, **given: Any) -> Inputs:
                return given

        with redirect_stdout(StringIO()):
            patch(Decoder)
        ids, places, _ = its.ulysses_pad(call["input_ids"], call["position_ids"], group.ranks)

        def one() -> Inputs:
            given = Decoder().forward(inputs_embeds=ids, position_ids=places)
            ours = {"input_ids": given["inputs_embeds"], "position_ids": given["position_ids"]}
            return {**media_of(call), **ours}

        return group.each(one)

    yield Sharder("`ulysses_pad_and_slice_inputs`", texts, PACKED, embedded=True, planes=False)
    name = "`ulysses_pad`, `patch_vlm_for_ulysses_input_slicing`"
    yield Sharder(name, decoder, PACKED, embedded=True)


def media_of(call: Inputs) -> Inputs:
    """What is not along the tokens."""
    shape = call["input_ids"].shape
    along = {key for key, value in call.items() if tuple(value.shape[-2:]) == tuple(shape)}
    flash = {key for key in call if key.startswith(("cu_", "max_"))}
    return {key: value for key, value in call.items() if key not in along | flash}


def swift(folder: Path) -> Iterator[Sharder]:
    """ms-swift's sequence parallelism: Ulysses, ring attention, and both."""
    ends = take(
        folder / "swift/utils/transformers_utils.py", "get_cu_seqlens_from_position_ids"
    ).get_cu_seqlens_from_position_ids
    names = ("pad", "split", "_split_packed", "pad_and_split_inputs")
    its = take(
        folder / "swift/sequence_parallel/sequence_parallel.py",
        *(f"SequenceParallel.{name}" for name in names),
        math=math,
        get_cu_seqlens_from_position_ids=ends,
    )
    kind = type("SequenceParallel", (), {name: getattr(its, name) for name in names})
    for ring, ulysses, calls in (
        (1, 2, ROWS),
        (1, 2, PACKED),
        (2, 1, PACKED),
        (2, 2, PACKED),
    ):
        group = Group(ring * ulysses)

        def split(
            call: Inputs, group: Group = group, ring: int = ring, ulysses: int = ulysses
        ) -> list[Inputs]:
            def one() -> Inputs:
                own: Any = kind()
                state = dict(world_size=group.ranks, rp_world_size=ring, sp_world_size=ulysses)
                state |= dict(rp_rank=group.rank // ulysses, sp_rank=group.rank % ulysses)
                vars(own).update(state, tokenizer=Some(pad_token_id=0), extra_kwargs={})
                places = call["position_ids"]
                text = places if places.ndim == 2 else places[0]
                if len(call["input_ids"]) > 1:  # as many planes as get_rope_index gives
                    text = torch.arange(places.shape[-1]).expand(len(call["input_ids"]), -1)
                ids, _, labels, places, mask, *_ = own.pad_and_split_inputs(
                    *(call["input_ids"], None, call.get("labels"), places),
                    *(call.get("attention_mask"), None, None, text),
                )
                found = {"input_ids": ids, "labels": labels, "position_ids": places}
                found["attention_mask"] = mask
                return {**media_of(call), **{k: v for k, v in found.items() if v is not None}}

            return group.each(one)

        name = f"`pad_and_split_inputs`, ring {ring}, Ulysses {ulysses}"
        yield Sharder(name, split, calls, embedded=True, ranks=group.ranks)


def axolotl(folder: Path) -> Iterator[Sharder]:
    """axolotl's context parallelism, which splits what the model is called with."""
    split_call = take(
        folder / "axolotl/utils/ctx_managers/sequence_parallel.py",
        "apply_sequence_parallelism",
        update_ring_attn_params=lambda **_: None,
    ).apply_sequence_parallelism
    group = Group()

    def split(call: Inputs) -> list[Inputs]:
        return group.each(lambda: split_call(dict(call), group.rank, group.ranks, 1, None)[0])

    for calls in (ROWS, ROW):
        yield Sharder("`apply_sequence_parallelism`", split, calls, embedded=False)


def llama_factory(folder: Path) -> Iterator[Sharder]:
    """LLaMA-Factory's context parallelism, which splits what the model is called with."""
    group = Group()
    plugins = folder / "llamafactory/v1/plugins/model_plugins"
    split_call = take(
        plugins / "parallelization/sequence_parallel.py",
        "padding_and_split_data",
        F=torch.nn.functional,
        dist=group.dist,
    ).padding_and_split_data
    part = Some(
        size=lambda: group.ranks, get_local_rank=lambda: group.rank, get_group=lambda: "group"
    )

    def split(call: Inputs) -> list[Inputs]:
        return group.each(lambda: split_call(dict(call), {"cp": part}))

    for calls in (ROWS, ROW):
        yield Sharder("`padding_and_split_data`", split, calls, embedded=False)


SHARDERS: dict[str, Callable[[Path], Iterator[Sharder]]] = {
    AXOLOTL: axolotl,
    LLAMA_FACTORY: llama_factory,
    MS_SWIFT: swift,
    VERL: verl,
}


# --- verdicts and proofs -------------------------------------------------------------------------


def batch_of(family: str, processor: Any, model: Any, images: Sequence[int]) -> Any:
    """A padded batch of these samples, with labels and the model's own positions."""
    config = model.config
    inputs = vd.tiny.batch(family, list(images), processor=processor, seed=0)
    media = [getattr(config, f"{name}_token_id", None) for name in ("image", "video")]
    inputs = packers.with_labels(inputs, [token for token in media if token is not None])
    inputs["labels"][:, 0] = packers.IGNORED
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    index = getattr(getattr(model, "model", model), "get_rope_index", None)
    if index is not None:
        names = inspect.signature(index).parameters
        given = {name: inputs.get(name) for name in names if name in inputs or "grid" in name}
        inputs["position_ids"] = index(**given)[0]
    return vd.read_batch(inputs, processor=processor, config=config)


def packed_of(batch: Any, processor: Any, model: Any) -> Any:
    """The same batch without positions, and its packed row."""
    inputs = {key: value for key, value in batch.inputs.items() if key != "position_ids"}
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    return batch, vd.export(batch, packed=True).function


def proof(slicer: Any, batch: Any, model: Any, size: int, *, embedded: bool) -> str:
    """How far the logits are from those of the whole batch, and what a rank alone does."""
    said = packers.off(vd.prove(slicer, batch, model, chunk_size=size))
    if embedded:
        return said
    known = {*inspect.signature(model.forward).parameters} - {"labels"}
    for number, call in enumerate(slicer(batch.for_slicer(), size)):
        try:
            with torch.no_grad():
                model(**{key: value for key, value in call.items() if key in known})
        except Exception as error:
            return f"{said}; rank {number % slicer.shards} raises {type(error).__name__}"
    return said


def found_in(
    requirement: str, folder: Path, sets: Sequence[Sequence[int]]
) -> Iterator[dict[str, Any]]:
    """The smallest batch with each verdict, for each sharder and layout."""
    for family in FAMILIES:
        model, processor = with_template(family)
        model.eval()
        mrope = hasattr(getattr(model, "model", model), "get_rope_index")
        for one in SHARDERS[requirement](folder):
            if mrope and not one.planes:
                continue
            head, seen = f"{requirement} {one.name}, {one.calls}, {family}", set[Any]()
            for images in sets:
                batch, packed = batch_of(family, processor, model, images), None
                size = 1 if one.calls == ROW else len(images)
                if one.calls == PACKED:
                    batch, packed = packed_of(batch, processor, model)
                slicer = one.slicer(batch, packed)
                report = vd.check(slicer, batch, chunk_size=size)
                verdict = [report.verdict.value, *(found.code for found in report.findings)]
                if (*verdict,) in seen:
                    continue
                seen.add((*verdict,))
                said = proof(slicer, batch, model, size, embedded=one.embedded)
                line = f"| {head} | {list(images)} | {packers.verdict(report)} | {said} |"
                yield {"of": head, "images": [*images], "verdict": verdict, "line": line}


def main(arguments: list[str]) -> None:
    """Print the table, and fail where a verdict is not the one that is stored."""
    warnings.simplefilter("ignore")
    sets = packers.SETS[:5] if "--few" in arguments else packers.SETS
    names = [argument for argument in arguments if not argument.startswith("--")]
    if arguments[:1] == ["--in"]:
        sys.path.insert(0, names[0])
        for found in found_in(names[1], Path(names[0]), sets):
            print(json.dumps(found), flush=True)
        return
    print("| library, sharder, layout | images per sample | verdict | tiny real model |")
    print(f"|{'---|' * 4}", flush=True)
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    other = list[str]()
    for requirement in SHARDERS:
        if names and requirement.partition("==")[0] not in names:
            continue
        few = ["--few"] if "--few" in arguments else []
        ran = isolated.run(
            __file__, requirement, requirement, *few, stdout=subprocess.PIPE, text=True, check=True
        )
        verdicts: dict[str, list[Any]] = {}
        for found in map(json.loads, ran.stdout.splitlines()):
            print(found["line"], flush=True)
            verdicts.setdefault(found["of"], []).append([found["images"], found["verdict"]])
        due = {of: own for of, own in stored.items() if of.startswith(f"{requirement} ")}
        if "--store" in arguments:
            stored = {of: own for of, own in stored.items() if of not in due} | verdicts
        elif not few:
            keys = dict.fromkeys([*due, *verdicts])
            other += [of for of in keys if due.get(of) != verdicts.get(of)]
    if "--store" in arguments:
        lines = (f" {json.dumps(of)}: {json.dumps(own)}" for of, own in sorted(stored.items()))
        STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    if other:
        print(f"other verdicts than in {STORED.name}:", *other, sep="\n  ")
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
