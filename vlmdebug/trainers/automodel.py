"""NeMo Automodel cuts media into the micro-batches of its pipeline before a step begins."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.core.signature import Slicer
from vlmdebug.trainers.adapter import Adapter, Inputs, without_counts
from vlmdebug.trainers.source import Library

ADAPTER = Adapter("nemo_automodel", "nemo-automodel", ("0.5.0", "0.6.0", "0.7.0"))


@ADAPTER.slicer("pipeline", "prepare_vlm_media_for_pp")
def pipeline(library: Library) -> Slicer:
    """Samples per micro-batch are the chunk size; PyTorch's pipeline chunks the token keys."""
    module = library.module("nemo_automodel.components.datasets.vlm.pp_media")
    prepare, staged = module.prepare_vlm_media_for_pp, module.VLM_PP_MEDIA_KEY

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        batch = without_counts(inputs)
        counts, samples = inputs.get("num_images"), len(batch["input_ids"])
        if counts is not None:
            batch["n_images_per_sample"] = torch.as_tensor(counts)
        parts = -(-samples // chunk_size)
        kept = dict(prepare(dict(batch), batch_size=samples, n_microbatches=parts))
        media = kept.pop(staged, {})
        if "image_grid_hws" in media:  # whatever it is; the stage gives its model the own name
            grid = next(key for key in batch if key in MEDIA_KEYS and key not in {**kept, **media})
            media[grid] = media.pop("image_grid_hws")
        tokens = {key: value.chunk(parts) for key, value in kept.items() if key not in MEDIA_KEYS}
        for part in range(len(tokens["input_ids"])):
            rows = {key: chunks[part] for key, chunks in media.items()}
            yield {
                **{key: chunks[part] for key, chunks in tokens.items()},
                **{key: value for key, value in rows.items() if len(value)},
            }

    return slicer
