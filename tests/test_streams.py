"""Video and audio clips: counted, cut and judged beside the images.

The tensors are laid out by hand as the processors' are, because video processors need
torchvision; audio comes from a real processor. The models are real.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vlmdebug as vd
from vlmdebug import slicers


def qwen(model, processor, samples, *, width=None):
    """A Qwen2.5-VL batch; a sample is a list of ("image" | "video", (t, h, w))."""
    t, noise = processor.tokenizer, torch.Generator().manual_seed(0)
    rows, grids = [], {"image": [], "video": []}
    for number, sample in enumerate(samples):
        row = [t.bos_token_id, 50 + number]
        for kind, grid in sample:
            token = t.video_token_id if kind == "video" else t.image_token_id
            tokens = [token] * (grid[0] * grid[1] * grid[2] // 4)
            row += [t.vision_bos_token_id, *tokens, t.vision_eos_token_id]
            grids[kind].append(grid)
        rows.append([*row, 60, 61])
    width = width or max(map(len, rows))
    ids = torch.tensor([row + [t.pad_token_id] * (width - len(row)) for row in rows])
    types = (ids == t.image_token_id).long() + 2 * (ids == t.video_token_id).long()
    inputs = {
        "input_ids": ids,
        "attention_mask": (ids != t.pad_token_id).long(),
        "mm_token_type_ids": types,
    }
    names = {"image": ("pixel_values", "image_grid_thw")}
    names["video"] = ("pixel_values_videos", "video_grid_thw")
    for kind, (pixels, grid) in names.items():
        if grids[kind]:
            inputs[grid] = torch.tensor(grids[kind])
            patches = int(inputs[grid].prod(1).sum())
            inputs[pixels] = torch.randn(patches, 1176, generator=noise)
    if grids["video"]:
        inputs["second_per_grid_ts"] = torch.ones(len(grids["video"]))
    return inputs


SAMPLES = [
    [("video", (1, 4, 4)), ("image", (1, 4, 4)), ("video", (2, 4, 4))],
    [],
    [("image", (1, 4, 8))],
    [("video", (1, 4, 8))],
]


@pytest.fixture(scope="module")
def tiny():
    return vd.tiny.build("qwen2_5_vl")


@pytest.fixture
def batch(tiny):
    model, processor = tiny
    return vd.read_batch(qwen(*tiny, SAMPLES), processor=processor, config=model.config)


def by_plan(batch, change=lambda chunk, index: chunk):
    def slicer(inputs, chunk_size):
        for index, chunk in enumerate(batch.chunks(chunk_size)):
            yield change(dict(chunk), index)

    return slicer


def test_videos_and_images_are_counted_apart(batch):
    assert batch.counts["video"] == (2, 0, 0, 1)
    assert batch.counts["image"] == (1, 0, 1, 0)
    assert batch.counts["video patch"] == (48, 0, 0, 32)
    assert batch.layout["pixel_values_videos"] == vd.Axis("video patch")
    assert not batch.ambiguities
    assert vd.check(batch).ok


def test_synthesized_videos_are_laid_out_as_these(batch):
    made = vd.make_batch(
        "qwen2_5_vl",
        [1, 0, 1, 0],
        [1, 2],
        videos_per_sample=[2, 0, 0, 1],
        frames=[1, 2, 1],
        second_per_grid_ts=[1.0, 1.0, 1.0],
    )

    assert dict(made.layout.axes) == dict(batch.layout.axes)
    assert {key: value.ndim for key, value in made.inputs.items()} == {
        key: value.ndim for key, value in batch.inputs.items()
    }
    assert set(made.counts) == set(batch.counts)
    assert vd.check(made).ok


def exported_from(batch):
    """Exported code, which counts the clips of what the processor returned by itself."""
    code = vd.export(batch).function
    for chunk, planned in zip(code(dict(batch.inputs), 1), batch.chunks(1), strict=True):
        assert chunk.keys() == planned.keys()
        assert all(torch.equal(chunk[key], value) for key, value in planned.items())
    return code


def test_right_chunks_leave_the_logits_as_they_are(batch, tiny):
    exported = exported_from(batch)
    for chunk_size in (1, 2, 3, 4):
        for slicer in (by_plan(batch), exported, slicers.corrected):
            assert vd.check(slicer, batch, chunk_size=chunk_size).ok
            assert vd.prove(slicer, batch, tiny[0], chunk_size=chunk_size).ok


def shifted(chunk, index):
    if "pixel_values_videos" in chunk:
        rows = chunk["pixel_values_videos"]
        chunk["pixel_values_videos"] = rows.roll(1, 0)
    return chunk


def without(key):
    def change(chunk, index):
        chunk.pop(key, None)
        return chunk

    return change


def cut_columns(chunk, index):
    """Of the first sample, whose last video it shortens."""
    tokens = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {key: value[:, :14] if key in tokens else value for key, value in chunk.items()}


@pytest.mark.parametrize(
    ("change", "code", "silent"),
    [
        (shifted, "VLM002", True),
        (without("pixel_values_videos"), "VLM003", True),
        (without("video_grid_thw"), "VLM003", False),
        (cut_columns, "VLM009", False),
    ],
)
def test_wrong_chunks_are_found_and_as_loud_as_the_model(batch, tiny, change, code, silent):
    report = vd.check(by_plan(batch, change), batch, chunk_size=1)

    assert code in {m.code for m in report.mismatches}
    assert {m.silent for m in report.mismatches} == {silent}
    assert (vd.prove(by_plan(batch, change), batch, tiny[0]).error is None) is silent


def test_clips_cut_per_sample_are_wrong(batch):
    report = vd.check(slicers.by_sample, batch, chunk_size=1)

    assert {"pixel_values_videos", "video_grid_thw"} <= {m.key for m in report.mismatches}


def test_video_keys_in_a_chunk_without_videos_must_go(batch):
    def empty(chunk, index):
        return {"pixel_values_videos": batch.inputs["pixel_values_videos"][:0], **chunk}

    report = vd.check(by_plan(batch, empty), batch, chunk_size=1)

    assert {m.code for m in report.mismatches} == {"VLM005"}
    assert {m.samples for m in report.mismatches} == {(1,), (2,)}


def test_wrong_image_beside_wrong_video_keeps_its_own_loudness(batch):
    """It stays silent when the video is mended."""

    def both(chunk, index):
        if "pixel_values" in chunk:
            chunk["pixel_values"] = chunk["pixel_values"].roll(1, 0)
        return shifted(chunk, index)

    report = vd.check(by_plan(batch, both), batch, chunk_size=1)

    assert {m.silent for m in report.mismatches if m.key == "pixel_values"} == {True}
    assert {m.silent for m in report.mismatches if "video" in (m.key or "")} == {True}


def test_grids_alone_do_not_say_whose_videos_they_are(tiny):
    inputs = qwen(*tiny, [[("video", (1, 4, 4))], [("video", (1, 4, 4))]])
    del inputs["mm_token_type_ids"]
    batch = vd.read_batch(inputs, layout="qwen2_5_vl")
    given = vd.read_batch(inputs, layout="qwen2_5_vl", num_videos=[1, 1])

    assert [a.unit for a in batch.ambiguities] == ["video"]
    assert "Pass num_videos=[…]" in batch.ambiguities[0].message
    assert given.counts["video"].evidence == "num_videos"
    assert not given.ambiguities


def test_number_of_videos_that_cannot_be_is_refused(tiny):
    inputs = qwen(*tiny, SAMPLES)

    with pytest.raises(vd.BadInput, match=r"num_videos adds up to 4 videos, but video_grid_thw"):
        vd.read_batch(inputs, processor=tiny[1], num_videos=[2, 0, 0, 2])


def test_truncated_video_is_named(tiny):
    model, processor = tiny
    inputs = qwen(model, processor, SAMPLES)
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[key] = inputs[key][:, :20]
    batch = vd.read_batch(
        inputs, processor=processor, num_images=[1, 0, 1, 0], num_videos=[2, 0, 0, 1]
    )
    report = vd.check(batch)

    assert "VLM010" in {m.code for m in report.mismatches}
    assert any(
        "video placeholder tokens but its videos become" in m.message for m in report.mismatches
    )


# --- frames: Gemma 4 -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def gemma():
    return vd.tiny.build("gemma4")


def frames(processor, per_video, samples):
    """A Gemma 4 batch of videos; frames per video, videos per sample, four soft tokens a frame."""
    t, token = processor.tokenizer, processor.video_token_id
    noise, videos = torch.Generator().manual_seed(0), iter(per_video)
    rows = []
    for number, count in enumerate(samples):
        row = [t.bos_token_id, 50 + number]
        for _ in range(count):
            for _ in range(next(videos)):
                row += [t.boi_token_id, *[token] * 4, t.eoi_token_id]
        rows.append([*row, 60])
    width = max(map(len, rows))
    ids = torch.tensor([row + [t.pad_token_id] * (width - len(row)) for row in rows])
    total, side = sum(per_video), 6  # 36 patches, pooled 3 x 3
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1)
    return {
        "input_ids": ids,
        "attention_mask": (ids != t.pad_token_id).long(),
        "mm_token_type_ids": 2 * (ids == token).long(),
        "pixel_values_videos": torch.rand(total, side * side, 768, generator=noise),
        "video_position_ids": grid.reshape(1, -1, 2).repeat(total, 1, 1),
        "num_frames_per_video": torch.tensor(per_video),
    }


def test_frames_are_counted_through_their_videos(gemma):
    model, processor = gemma
    batch = vd.read_batch(
        frames(processor, [2, 3, 1], [2, 0, 1]), processor=processor, config=model.config
    )

    assert batch.counts["video"] == (2, 0, 1)
    assert batch.counts["frame"] == (5, 0, 1)
    for chunk_size in (1, 2, 3):
        for slicer in (by_plan(batch), exported_from(batch)):
            assert vd.check(slicer, batch, chunk_size=chunk_size).ok
            assert vd.prove(slicer, batch, model, chunk_size=chunk_size).ok
    assert not vd.check(slicers.by_sample, batch, chunk_size=1).ok


def raised_by(model, inputs):
    """Whether the real model refuses the batch."""
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception:
        return True
    return False


def test_places_of_patches_in_floating_point_are_refused(gemma):
    model, processor = gemma
    inputs = frames(processor, [2, 3, 1], [2, 0, 1])
    cast = {k: v.float() if k == "video_position_ids" else v for k, v in inputs.items()}

    assert raised_by(model, cast)
    with pytest.raises(vd.BadInput, match=r"video_position_ids holds torch\.float32"):
        vd.check(cast, processor=processor, config=model.config)


MORE_OR_LESS = {
    "added": lambda v: v[None],
    "behind": lambda v: v[..., None],
    "lost": lambda v: v[0],
}


@pytest.mark.parametrize("change", MORE_OR_LESS.values(), ids=MORE_OR_LESS)
@pytest.mark.parametrize(
    "key", ["video_grid_thw", "num_frames_per_video", "video_position_ids", "pixel_values_videos"]
)
def test_keys_of_videos_have_their_dimensions(tiny, gemma, key, change):
    if key == "video_grid_thw":
        (model, processor), inputs = tiny, qwen(*tiny, SAMPLES)
    else:
        (model, processor), inputs = gemma, frames(gemma[1], [2, 3, 1], [2, 0, 1])
    changed = {**inputs, key: change(inputs[key])}
    known = {"processor": processor, "config": model.config}

    try:
        found = vd.check(changed, **known).verdict
    except vd.BadInput as error:
        found = str(error)
    assert found == "MISMATCH" or f"{key} " in found
    assert vd.check(inputs, **known).ok


# --- audio ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audio():
    """A tiny Qwen2-Audio and its real processor."""
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    from vlmdebug.tiny.from_config import small
    from vlmdebug.tiny.models import _seeded
    from vlmdebug.tiny.tokenizer import train_tokenizer

    tokens = {
        "audio_token": "<|AUDIO|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    tokenizer = train_tokenizer(tokens)
    processor = Qwen2AudioProcessor(
        WhisperFeatureExtractor(feature_size=16, chunk_length=2), tokenizer
    )
    audio_config = {
        "num_mel_bins": 16,
        "max_source_positions": 100,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "d_model": 32,
    }
    config = small(
        Qwen2AudioConfig,
        tokenizer,
        audio_config=audio_config,
        audio_token_index=tokenizer.audio_token_id,
    )
    with _seeded(0):
        return Qwen2AudioForConditionalGeneration(config).eval(), processor


def heard(processor, clips_per_sample):
    """What the real processor makes of noise of different lengths."""
    noise = np.random.default_rng(0)
    clips = [noise.normal(size=4000 + 3000 * n) for n in range(sum(clips_per_sample))]
    texts = [
        f"Sample {number}: " + "<|audio_bos|><|AUDIO|><|audio_eos|> " * count + "What is it?"
        for number, count in enumerate(clips_per_sample)
    ]
    return processor(
        text=texts, audio=clips or None, sampling_rate=16000, padding=True, return_tensors="pt"
    )


def test_audio_clips_are_counted_and_cut(audio):
    model, processor = audio
    batch = vd.read_batch(heard(processor, [2, 0, 1]), processor=processor, config=model.config)

    assert batch.counts["audio"] == (2, 0, 1)
    assert batch.layout["input_features"] == vd.Axis("audio")
    for chunk_size in (1, 2, 3):
        for slicer in (by_plan(batch), exported_from(batch)):
            assert vd.check(slicer, batch, chunk_size=chunk_size).ok
            assert vd.prove(slicer, batch, model, chunk_size=chunk_size).ok


CUT_SOUNDS = {
    "frames of sounds": ("input_features", lambda v: v[..., :90]),
    "a dimension added": ("input_features", lambda v: v[..., None]),
    "a dimension lost": ("input_features", lambda v: v[:, 0]),
}


@pytest.mark.parametrize(("key", "change"), CUT_SOUNDS.values(), ids=CUT_SOUNDS)
def test_sounds_and_their_mask_share_their_frames(audio, key, change):
    model, processor = audio
    inputs = dict(heard(processor, [2, 0, 1]))
    changed = {**inputs, key: change(inputs[key])}
    report = vd.check(changed, processor=processor, config=model.config)

    assert raised_by(model, changed)
    assert report.verdict == "MISMATCH"
    assert not {finding.loudness for finding in report.findings} & {"silent"}
    assert key in str(report)


def test_mask_that_is_summed_may_end_with_its_last_sound(audio):
    model, processor = audio
    inputs = dict(heard(processor, [2, 0, 1]))
    shorter = {**inputs, "feature_attention_mask": inputs["feature_attention_mask"][:, :90]}
    with torch.no_grad():
        off = (model(**inputs).logits - model(**shorter).logits).abs().max()

    assert off == 0
    assert vd.check(shorter, processor=processor, config=model.config).ok


def rows_beside(inputs):
    """Dimensions of the sounds and of their mask, and which of them is as long as the mask."""
    mask = next(key for key in inputs if key in ("feature_attention_mask", "input_features_mask"))
    sounds, heard = inputs["input_features"], inputs[mask]
    return mask, sounds.ndim, heard.ndim, sounds.shape.index(heard.shape[1])


def test_synthesized_audio_is_laid_out_as_the_processors_is(audio):
    from transformers import Gemma4AudioFeatureExtractor

    noise = np.random.default_rng(0)
    clips = [noise.normal(size=8000), noise.normal(size=16000)]
    gemma = Gemma4AudioFeatureExtractor()(clips, sampling_rate=16000, return_tensors="pt")
    qwen = heard(audio[1], [1, 1])
    for family, real in (("gemma4", gemma), ("qwen2_5_vl", qwen), ("nemotron_h_omni", gemma)):
        made = vd.make_batch(family, [0, 1], audios_per_sample=[1, 1])

        assert rows_beside(made.inputs) == rows_beside(real)
        assert made.counts["audio"] == (1, 1)
        assert vd.check(made).ok


def test_audio_cut_per_sample_is_wrong(audio):
    model, processor = audio
    batch = vd.read_batch(heard(processor, [2, 0, 1]), processor=processor, config=model.config)
    report = vd.check(slicers.by_sample, batch, chunk_size=1)

    assert {"input_features", "feature_attention_mask"} <= {m.key for m in report.mismatches}


def test_as_many_clips_as_samples_are_not_taken_for_one_each(audio):
    _, processor = audio
    inputs = heard(processor, [2, 0, 1])
    batch = vd.read_batch({key: value for key, value in inputs.items()})

    assert [a.unit for a in batch.ambiguities] == ["audio"]
