"""unsloth's GRPO cuts the media of a batch into chunks; its callers cut the tokens."""

from __future__ import annotations

from collections.abc import Iterator

from vlmdebug.core.signature import Slicer
from vlmdebug.trainers.adapter import TEXT, Adapter, Inputs
from vlmdebug.trainers.source import Library

ADAPTER = Adapter(
    "unsloth_zoo",
    "unsloth_zoo",
    (
        "2026.10.1",
        "2026.10.2",
        "2026.10.3",
        "2026.10.4",
        "2026.10.5",
        "2026.10.6",
        "2026.10.7",
        "2026.10.8",
        "2026.10.9",
    ),
)


@ADAPTER.slicer("grpo", "grpo_vision_chunks")
def grpo(library: Library) -> Slicer:
    """The chunks of the log-prob loop."""
    module = library.module("unsloth_zoo.rl_replacements")
    collect, cut = module.grpo_get_vision_inputs, module.grpo_vision_chunks

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        samples = len(inputs["input_ids"])
        for i, media in enumerate(cut(collect(inputs), samples, chunk_size)):
            rows = slice(i * chunk_size, (i + 1) * chunk_size)
            yield {key: inputs[key][rows] for key in TEXT} | media

    return slicer
