"""`read_batch`: from what a processor returned to a `Batch` that knows its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import public
from vlmdebug.core.keys import TOKEN_KEYS
from vlmdebug.core.layout import VIDEO_AND_AUDIO, Axis, Layout
from vlmdebug.errors import BadInput, naming
from vlmdebug.families import find_family
from vlmdebug.families.assemble import assemble
from vlmdebug.families.checked import checked_tensors
from vlmdebug.families.choose import axes_given
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.families.given_counts import counts_given
from vlmdebug.families.metadata import read_metadata
from vlmdebug.families.packing import read_packing
from vlmdebug.families.probe import Probe, image_text, probe
from vlmdebug.families.unreadable import items_of
from vlmdebug.safe import one_line, spell_names


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
    counts: Mapping[str, Any] | None = None,
    layout: str | Layout | Probe | Mapping[str, Axis | str] | None = None,
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
        counts: Rows per sample of any other unit, by its name: `{"patch": [16, 0, 8]}`. A name of
            your own is fine: `layout={"bounds": "bound"}, counts={"bound": [2, 0, 1]}`.
        layout: A family's name, a `Layout`, a `Probe`, or `{key: Axis or unit}` for single keys;
            all other keys are read as without it.

    Returns:
        The batch. What cannot be known from what was given stands in `.ambiguities`; it is
        never guessed.

    Raises:
        BadInput: A key is missing, is no tensor, or contradicts another; the message says which.
    """
    given = dict(processor=processor, config=config, model=model)
    given |= dict(counts=counts, seq_lens=seq_lens, layout=layout)
    named = dict(
        num_images=num_images, num_tiles=num_tiles, num_videos=num_videos, num_audios=num_audios
    )
    batch = read_as_it_is(inputs, **given, **named)
    refused = [one.message for one in batch.contradictions if one.refused]
    if refused and batch is not inputs:
        raise BadInput(spell_names(refused[0], batch.inputs))
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
    counts: Mapping[str, Any] | None = None,
    layout: str | Layout | Probe | Mapping[str, Axis | str] | None = None,
) -> Batch:
    """`read_batch` for a batch that may contradict itself, as far as it can be read."""
    named = dict(
        num_images=num_images, num_tiles=num_tiles, num_videos=num_videos, num_audios=num_audios
    )
    if isinstance(inputs, Batch):
        given = dict(processor=processor, config=config, model=model, layout=layout)
        _refuse_second_reading(**given, **named, counts=counts, seq_lens=seq_lens)
        return inputs
    items = items_of(inputs)
    with naming(items):
        metadata = read_metadata(processor, config, model)
        return _read(items, named, counts, metadata, processor, layout, seq_lens)


def _read(
    inputs: Mapping[str, Any],
    named: Mapping[str, Any],
    counts: Mapping[str, Any] | None,
    metadata: ProcessorMetadata,
    processor: Any,
    layout: str | Layout | Probe | Mapping[str, Axis | str] | None,
    seq_lens: Any,
) -> Batch:
    """`read_batch` of a plain dict."""
    probed, unprobed = (layout, None) if isinstance(layout, Probe) else (None, None)
    layout = None if isinstance(layout, Probe) else layout
    if probed is None and not isinstance(layout, str | Layout):
        probed, unprobed = _probed(processor, metadata, inputs)
    lists = {*axes_given(layout, {*(counts or {})})}
    lists |= {key for key in inputs if probed is not None and key in probed.axes}
    tensors = checked_tensors(inputs, lists)
    single = any(_is_single(one) for one in (*named.values(), *map(inputs.get, named)))
    pad, tokens = metadata.pad_token_id, metadata.token_ids.values()
    packing = read_packing(tensors, seq_lens, pad, clips=tokens, single=single)
    samples = len(packing.spans or tensors["input_ids"])
    given = counts_given(inputs, named, counts, samples)
    clips = {unit: given.pop(unit, None) for unit in VIDEO_AND_AUDIO}
    images, tiles = given.pop("image", None), given.pop("tile", None)
    facts = BatchFacts(tensors, metadata, images, tiles, clips, given, unprobed, packing)
    return assemble(facts, layout, probed)


def _is_single(counts: Any) -> bool:
    """Whether it counts for one sample."""
    return hasattr(counts, "__len__") and len(counts) == 1


def _refuse_second_reading(**given: Any) -> None:
    """A batch that is read already would ignore them."""
    names = [f"{name}=" for name, value in given.items() if value is not None]
    if names:
        raise BadInput(
            f"{' and '.join(names)} came with a Batch, which is read already and would ignore it. "
            "Pass what the processor returned, or batch.inputs, to have it read again."
        )


def _probed(
    processor: Any, metadata: ProcessorMetadata, inputs: Mapping[str, Any]
) -> tuple[Probe | None, str | None]:
    """The probe of a processor that no family knows, or the reason why there is none."""
    known = metadata.model_type is not None and find_family(metadata.model_type) is not None
    if processor is None or known or inputs.keys() <= TOKEN_KEYS:
        return None, None
    try:
        return probe(processor), None
    except (BadInput, ImportError) as error:  # no image token, or it takes no such batch
        why, _, _ = one_line(error, 400).partition(" Pass placeholder=")
        if image_text(processor) is None:
            why += (
                " Pass layout=vlmdebug.probe(processor, placeholder=…), the text of one image, or"
            )
        return None, why
