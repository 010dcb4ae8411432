"""Run every image-text-to-text architecture of transformers: `make coverage`.

Writes `vlmdebug/families/coverage.json` and `docs/architectures.md`; with `--page`, only the page,
from the existing file. An architecture is *proven* if its tiny model gives the same logits for
every chunk size as for the whole batch, text-only samples among them; *probed* if its processor
could be run on samples alone and together; otherwise *not covered*, with the reason below. An
architecture without a list entry or a reason ends the run, which names all of these. In another
release than that of the existing file, the outcomes and keys of the existing file are kept, and
the page says what changed.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architectures.md"
sys.path.insert(0, str(ROOT / "tests"))
os.environ["VLMDEBUG_TORCHVISION"] = "1"

from architectures import use_torchvision  # noqa: E402

# Why a model is not proven although its processor is probed.
UNPROVEN = {
    "hunyuan_vl": "the model numbers the images of a whole call and puts the numbers into its "
    "positions, so that a chunk's logits differ however it is cut",
    "molmo2": "image_token_pooling holds indices into the whole batch, so that chunks need other "
    "values than the batch has",
    "unlimited_ocr": "its processor returns num_local_patches and patches_grid as lists with one "
    "entry per image, its model takes no tensors of them, and only rows of tensors are followed",
    **dict.fromkeys(
        ["minicpmv4_6", "minicpmv4_7", "minicpm_ocr"],
        "the slices of all images are concatenated along the last dimension of pixel_values",
    ),
}
NO_MODEL = "no tiny model yet"

NOT_COVERED = {
    **dict.fromkeys(
        ["pix2struct", "pp_formulanet", "vision-encoder-decoder"],
        "it writes text from an image alone, so that a batch has no input_ids",
    ),
    "udop": "its tokenizer also takes the words and boxes of a page",
    "pi0": "it takes the cameras of a robot, as many for every sample",
    "evolla": "it takes proteins, not images",
    "mistral4": "it takes no images: its batch is one of text, which is read without a family",
}
# What can be done with a model that is not proven: a call that the tests carry out.
_TOKENS_ONLY = "read_batch({key: inputs[key] for key in ('input_ids', 'attention_mask')})"
_BY_SAMPLE = "read_batch(inputs, layout={{{}}})"
_ANSWERS = (
    "read_batch({**inputs, 'input_ids': inputs['decoder_input_ids']}, layout={'%s': 'sample'})"
)


def _per_sample(*keys: str) -> str:
    return _BY_SAMPLE.format(", ".join(f"{key!r}: 'sample'" for key in keys))


STILL_WORKS = "what you can still do"
STILL = {
    "llama4": "read_batch(inputs, layout={'pixel_values': 'tile'}, num_tiles=num_tiles)",
    "hunyuan_vl": "read_batch(inputs, layout='qwen2_5_vl', num_images=num_images)",
    "unlimited_ocr": "read_batch({key: inputs[key] for key in ('input_ids', 'attention_mask', "
    "'pixel_values')}, layout={'pixel_values': 'image'}, num_images=num_images)",
    **dict.fromkeys(["molmo2", "minicpmv4_6", "minicpmv4_7", "minicpm_ocr"], _TOKENS_ONLY),
    "pix2struct": _ANSWERS % "flattened_patches",
    "pp_formulanet": _ANSWERS % "pixel_values",
    "vision-encoder-decoder": _ANSWERS % "pixel_values",
    "udop": _per_sample("pixel_values", "bbox"),
    "pi0": _per_sample("pixel_values", "state", "actions"),
    "evolla": _per_sample("protein_input_ids", "protein_attention_mask"),
    "mistral4": "read_batch(inputs)",
}
OTHER_TASKS = "other tasks"
# Audio-text models that the recorded processors of the tests belong to, and those without one.
SPEECH = ("qwen2_audio", "voxtral", "glmasr", "audioflamingo3")
NOT_RUN = {
    "granite_speech": (
        "read_batch(inputs, layout={'input_features': 'audio', 'input_features_mask': 'audio'}, "
        "num_audios=num_audios)",
        "its feature extractor needs torchaudio",
    )
}
BATCHES = ((2, 0, 1), (1, 2, 1, 0))
ONE_IMAGE = ((1, 1, 1), (1, 1, 1, 1))


def prove(model_type: str) -> str | None:
    """Name of its layout family, or None if some chunk's logits differ from the whole batch's."""
    import vlmdebug as vd
    from vlmdebug.tiny import registry

    family = None
    model, processor = vd.tiny.build(model_type)
    for images in ONE_IMAGE if model_type in registry.ONE_IMAGE else BATCHES:
        inputs = vd.tiny.batch(model_type, images, processor=processor)
        batch = vd.read_batch(inputs, processor=processor, config=model.config, num_images=images)
        family = batch.layout.family

        def by_plan(_: Any, chunk_size: int, batch: Any = batch) -> Any:
            return batch.chunks(chunk_size)

        for chunk_size in range(1, len(images) + 1):
            proof = vd.prove(by_plan, batch, model, chunk_size=chunk_size)
            if not proof.ok:
                print(f"{model_type}: {proof}", file=sys.stderr)
                return None
    return family


def probe(model_type: str) -> dict[str, str]:
    """What a row of each key counts, keys of tokens too."""
    import vlmdebug as vd
    from vlmdebug.tiny.registry import recipe_of
    from vlmdebug.tiny.unproven import RECIPES

    recipe = RECIPES[model_type] if model_type in RECIPES else recipe_of(model_type)
    axes = vd.probe(recipe.processor(), placeholder=recipe.placeholder).axes
    return {key: str(axis) for key, axis in axes.items()}


def other_models() -> dict[str, Any]:
    """Audio-text and retrieval models: what a row counts, the call that reads them, why not run."""
    import recorded
    import retrieval

    import vlmdebug as vd

    found: dict[str, Any] = {}

    def add(name: str, task: str, call: str, batch: Any, model: Any) -> None:
        def by_plan(_: Any, size: int) -> Any:
            return batch.chunks(size)

        sizes = range(1, len(batch) + 1)
        proofs = [vd.prove(by_plan, batch, model, chunk_size=size) for size in sizes]
        axes = {key: str(axis) for key, axis in batch.layout.items() if key in batch.layout.media}
        axes |= {key: str(batch.layout[key]) for key in batch.inputs if "pixel" in key}
        why = None if all(proof.ok for proof in proofs) else "chunks gave other outputs"
        found[name] = [task, axes, call, why]

    for name in SPEECH:
        recorder, (model, processor) = recorded.RECORDERS[name], recorded.built(name)
        for samples in recorder.batches:
            inputs = recorder.inputs(samples)
            batch = vd.read_batch(inputs, processor=processor, config=model.config)
            call = "read_batch(inputs, processor=processor, config=config)"
            add(name, "audio and text", call, batch, model)
            if found[name][3] is not None:
                break
    for name, one in retrieval.RETRIEVERS.items():
        model, processor = retrieval.built(name)
        given = {"inputs": retrieval.inputs_of(name), "processor": processor}
        known = {"read_batch": vd.read_batch, "num_images": [1, 1, 1]}
        add(name, "retrieval", one.reading, eval(one.reading, {**given, **known}), model)
    for name, (call, why) in NOT_RUN.items():
        found[name] = ["audio and text", {}, call, why]
    return dict(sorted(found.items()))


def page_of_others() -> list[str]:
    """The table of models with other tasks."""
    from vlmdebug.families.coverage import read_coverage

    lines = [
        "",
        "## Audio and retrieval",
        "",
        "These models are in other mappings of transformers, so they are not counted above.",
        "*Proven* means the same; a retrieval model gives embeddings in place of logits, and CLIP",
        "and SigLIP are run with as many texts as images.",
        "",
        "| architecture | task | what one row represents | the call that reads a batch | outcome |",
        "|---|---|---|---|---|",
    ]
    for name, one in read_coverage().others.items():
        said = "; ".join(f"`{key}` {axis}" for key, axis in one.axes.items()) or "not run"
        outcome = "proven" if one.why is None else f"not proven: {one.why}"
        lines.append(f"| `{name}` | {one.task} | {said} | `{one.call}` | {outcome} |")
    return lines


def page() -> str:
    """The lists as a page of the docs."""
    from vlmdebug.families.coverage import read_coverage

    found = read_coverage()
    lines = [
        "# Supported architectures",
        "",
        "<!-- Written by `make coverage`; do not edit. -->",
        "",
        str(found),
        "",
        "- *Proven*: a tiny model of transformers' own classes was run. Chunks of every size, also",
        "  with text-only samples, give the logits of the whole batch.",
        "- *Probed*: the processor was run on samples alone and together. The values show what one",
        "  row of each tensor represents.",
        "- *Not covered*: neither, for the reason in the table.",
        "",
        "For the other two, a column has the call of `vlmdebug.read_batch` that works for a batch",
        "of the model: `check`, `falsify` and `export` then work as for any other. `num_images`",
        "and `num_tiles` hold one number per sample. The tests carry out each call.",
        "",
        f"## What changed since transformers {found.before.transformers}",
        "",
        *([f"- {line}" for line in found.changes()] or ["Nothing."]),
        "",
        "## Proven",
        "",
        "| architecture | layout |",
        "|---|---|",
        *(f"| `{name}` | {layout} |" for name, layout in found.proven.items()),
        "",
        "## Probed",
        "",
        "| architecture | what one row represents | what you can still do "
        "| why its model is not proven |",
        "|---|---|---|---|",
    ]
    for name, (axes, reason) in found.probed.items():
        said = "; ".join(f"`{key}` {axis}" for key, axis in axes.items())
        lines.append(f"| `{name}` | {said} | `{found.still[name]}` | {reason} |")
    lines += ["", "## Not covered", "", "| architecture | what you can still do | why |"]
    lines += ["|---|---|---|"]
    lines += [
        f"| `{name}` | `{found.still[name]}` | {reason} |"
        for name, reason in found.not_covered.items()
    ]
    lines += page_of_others()
    return "\n".join(lines) + "\n"


def run(name: str, found: dict[str, Any]) -> bool:
    """Add one architecture to what was found; False if it is in no list."""
    from vlmdebug import tiny
    from vlmdebug.core.keys import TOKEN_KEYS
    from vlmdebug.tiny.registry import broken
    from vlmdebug.tiny.unproven import RECIPES

    family = prove(name) if name in tiny.families() else None
    reason = broken(name)
    if family is not None:
        found["proven"][name] = family
        found["keys"][name] = sorted(tiny.batch(name, [1]))
    elif name in RECIPES or reason:
        axes = probe(name)
        media = {key: axis for key, axis in axes.items() if key not in TOKEN_KEYS}
        found["probed"][name] = [media, reason or UNPROVEN.get(name, NO_MODEL)]
        found["keys"][name] = sorted(axes)
    elif name in NOT_COVERED:
        found["not covered"][name] = NOT_COVERED[name]
    else:
        return False
    return True


def before(release: str) -> dict[str, Any]:
    """The outcomes of the release before: those of the file, or those that the file keeps."""
    from vlmdebug.families.coverage import read_coverage

    kept = read_coverage()
    return asdict(kept.before if kept.transformers == release else kept.outcomes)


def main() -> None:
    """Run all of them and write the file and the page."""
    if sys.argv[1:] == ["--page"]:
        PAGE.write_text(page(), encoding="utf-8")
        return
    use_torchvision()
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as architectures,
    )

    from vlmdebug.families.coverage import FILE, read_coverage

    release = transformers.__version__
    found: dict[str, Any] = {"transformers": release, "proven": {}, "probed": {}}
    found |= {"not covered": {}, STILL_WORKS: {}, "keys": {}, OTHER_TASKS: other_models()}
    found["before"] = before(release)
    new = [name for name in sorted(architectures) if not run(name, found)]
    left = [name for name in sorted(architectures) if name not in found["proven"]]
    found[STILL_WORKS] = {name: STILL[name] for name in left if name in STILL}
    if new:
        sys.exit(
            f"new in {release}: {', '.join(new)}. Add recipes to vlmdebug/tiny, or reasons to "
            f"{__file__}"
        )
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    read_coverage.cache_clear()
    PAGE.write_text(page(), encoding="utf-8")
    print(read_coverage(), *read_coverage().changes(), sep="\n")


if __name__ == "__main__":
    main()
