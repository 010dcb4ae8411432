"""`read_batch`: from what a processor returned to a `Batch` that knows its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import public
from vlmdebug.core.keys import TOKEN_KEYS
from vlmdebug.core.layout import Axis, Layout
from vlmdebug.core.rows import as_counts
from vlmdebug.errors import BadInput, naming
from vlmdebug.families.assemble import assemble
from vlmdebug.families.checked import checked_tensors
from vlmdebug.families.choose import family_of
from vlmdebug.families.facts import BatchFacts
from vlmdebug.families.metadata import read_metadata
from vlmdebug.families.packing import read_packing
from vlmdebug.families.probe import probe
from vlmdebug.families.unreadable import items_of


@public
def read_batch(
    inputs: Mapping[str, Any],
    *,
    processor: Any = None,
    config: Any = None,
    model: Any = None,
    num_images: Any = None,
    num_tiles: Any = None,
    num_videos: Any = None,
    num_audios: Any = None,
    seq_lens: Any = None,
    layout: str | Layout | Mapping[str, Axis | str] | None = None,
) -> Batch:
    """Read which rows of every tensor belong to which sample.

    Args:
        inputs: What a processor or collator returned: `BatchFeature`, `BatchEncoding` or
            dict of torch or numpy tensors, with `input_ids` of shape `(sample, seq)`. `num_images`
            and `num_tiles`, lists per sample, may be in it as in TRL's batches.
        processor: The processor that made it; settles family, placeholder token and counts. One
            that no family knows is run on a few noise images to read its layout off (`probe`).
        config: The model's config; settles the same where the processor is not at hand.
        model: The model; its `config` is read, it is not run.
        num_images: Images per sample, 0 for a text-only one.
        num_tiles: Tiles per sample, for layouts with one row per tile.
        num_videos: Videos per sample, 0 for one without.
        num_audios: Audio clips per sample, 0 for one without.
        seq_lens: Tokens of each sample, if rows of `input_ids` are packed: a list for one row, a
            list per row for several. `cu_seqlens`, `cu_seq_lens_q`, `cu_seq_lens_k`, `seq_idx`
            and `position_ids` that start again at 0 say it too.
        layout: A family's name, a `Layout`, or `{key: Axis or unit}` for keys that no family
            knows.

    Returns:
        The batch. What cannot be known from what was given stands in `.ambiguities`; it is
        never guessed.

    Raises:
        BadInput: A key is missing, is no tensor, or contradicts another; the message says which.
    """
    given = dict(processor=processor, config=config, model=model, seq_lens=seq_lens, layout=layout)
    counts = dict(
        num_images=num_images, num_tiles=num_tiles, num_videos=num_videos, num_audios=num_audios
    )
    batch = read_as_it_is(inputs, **given, **counts)
    refused = [one.message for one in batch.contradictions if one.refused]
    if refused and batch is not inputs:
        raise BadInput(refused[0])
    return batch


@public
def read_as_it_is(
    inputs: Mapping[str, Any],
    *,
    processor: Any = None,
    config: Any = None,
    model: Any = None,
    num_images: Any = None,
    num_tiles: Any = None,
    num_videos: Any = None,
    num_audios: Any = None,
    seq_lens: Any = None,
    layout: str | Layout | Mapping[str, Axis | str] | None = None,
) -> Batch:
    """`read_batch` for a batch that may contradict itself, as far as it can be read."""
    counts = dict(
        num_images=num_images, num_tiles=num_tiles, num_videos=num_videos, num_audios=num_audios
    )
    if isinstance(inputs, Batch):
        _refuse_second_reading(
            processor=processor,
            config=config,
            model=model,
            **counts,
            seq_lens=seq_lens,
            layout=layout,
        )
        return inputs
    given = items_of(inputs)
    with naming(given):
        return _read(given, counts, processor, config, model, layout, seq_lens)


def _read(
    inputs: Mapping[str, Any],
    given: Mapping[str, Any],
    processor: Any,
    config: Any,
    model: Any,
    layout: str | Layout | Mapping[str, Axis | str] | None,
    seq_lens: Any,
) -> Batch:
    """`read_batch` of a plain dict."""
    tensors = checked_tensors(inputs)
    metadata = read_metadata(processor, config, model)
    given = {name: inputs.get(name) if own is None else own for name, own in given.items()}
    single = any(hasattr(one, "__len__") and len(one) == 1 for one in given.values())
    packing = read_packing(tensors, seq_lens, metadata.pad_token_id, single=single)
    samples = len(packing.spans or tensors["input_ids"])
    counted = {
        name: None if value is None else as_counts(value, name=name, samples=samples)
        for name, value in given.items()
    }
    clips = {"video": counted["num_videos"], "audio": counted["num_audios"]}
    facts = BatchFacts(
        tensors, metadata, counted["num_images"], counted["num_tiles"], clips, packing
    )
    if layout is None and processor is not None and family_of(facts, None) is None:
        layout = _probed(processor, tensors)
    return assemble(facts, layout)


def _refuse_second_reading(**given: Any) -> None:
    """A batch that is read already would ignore them."""
    names = [f"{name}=" for name, value in given.items() if value is not None]
    if names:
        raise BadInput(
            f"{' and '.join(names)} came with a Batch, which is read already and would ignore it. "
            "Pass what the processor returned, or batch.inputs, to have it read again."
        )


def _probed(processor: Any, tensors: Mapping[str, Any]) -> dict[str, Axis] | None:
    """Axes read off the output of a processor that no family knows; None where that fails."""
    try:
        axes = probe(processor).axes
    except (BadInput, ImportError):  # no image token, or it takes no such batch: ask the user
        return None
    return {
        key: axis
        for key, axis in axes.items()
        if key in tensors and key not in TOKEN_KEYS and axis.unit != "ambiguous"
    }
