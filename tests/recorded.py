"""Real video and audio processors, tiny models that take their output, and batches of both.

Sizes are small: frames of 56 to 112 pixels, sounds of a second. A sample is a word with a letter
for each of its media: `i` an image, `v` a video, `a` a sound, in the order of the text.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

KINDS = {"i": "image", "v": "video", "a": "audio"}
SAMPLING_RATE = 16000


def made(path: str, **options: Any) -> Any:
    """An object of a class below `transformers.models`."""
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)(**options)


@dataclass(frozen=True)
class Recorder:
    """A processor with its parts for clips, and how its users call it.

    Attributes:
        name: Model type, with the variant behind a colon.
        build: Makes a tiny model and the processor.
        marks: What a user writes in the text for an image, a video, a sound.
        axes: What a row of each key of clips counts.
        frames: Frames of the videos, in turn.
        sides: Height and width of the videos, in turn.
        seconds: Lengths of the sounds, in turn.
        call: Further arguments of each call of the processor.
        batches: The media of each sample, for each batch that is tried.
        nested: Whether the processor takes images as a list for each sample.
        still: Whether every other video shows one frame again and again.
        uncounted: Letters of media that are not counted, because a frame is read as an image.
        torchvision: Whether its processor needs torchvision.
        process: Calls the processor, where that takes more than its `__call__`.
    """

    name: str
    build: Callable[[], tuple[Any, Any]]
    marks: Mapping[str, str]
    axes: Mapping[str, str]
    frames: Sequence[int] = (4, 2, 6)
    sides: Sequence[tuple[int, int]] = ((56, 56), (112, 56), (56, 84))
    seconds: Sequence[float] = (1.0, 0.5, 0.8)
    call: Mapping[str, Any] = field(default_factory=dict)
    batches: Sequence[Sequence[str]] = (("vv", "", "v"), ("v", "", "v"), ("iv", "", "v", "i"))
    still: bool = False
    nested: bool = True
    uncounted: str = ""
    torchvision: bool = True
    process: Callable[..., Any] | None = None

    def inputs(self, samples: Sequence[str], side: str = "right") -> dict[str, Any]:
        """What the processor returns for these samples."""
        _, processor = built(self.name)
        videos, sounds = self._videos(), self._sounds()
        media: dict[str, list[Any]] = {"i": [], "v": [], "a": []}
        texts = []
        for number, sample in enumerate(samples):
            images = [_image(number, place) for place in range(sample.count("i"))]
            media["i"] += [images] if self.nested else images
            media["v"] += [next(videos) for _ in range(sample.count("v"))]
            media["a"] += [next(sounds) for _ in range(sample.count("a"))]
            marks = " ".join(self.marks[letter] for letter in sample)
            texts.append(f"Sample {number}: {marks} {'What? ' * (number % 3 + 1)}")
        given: dict[str, Any] = {"images": media["i"] if "i" in "".join(samples) else None}
        given |= {"videos": media["v"] or None, "audio": media["a"] or None}
        given = {name: value for name, value in given.items() if value is not None}
        call = {"padding": True, "return_tensors": "pt", "padding_side": side, **self.call}
        run = self.process or type(processor).__call__
        return dict(run(processor, text=texts, **given, **call))

    def _videos(self) -> Iterator[np.ndarray]:
        noise, number = np.random.default_rng(0), 0
        while True:
            frames = self.frames[number % len(self.frames)]
            height, width = self.sides[number % len(self.sides)]
            video = noise.integers(1, 255, (frames, height, width, 3), dtype=np.uint8)
            number += 1
            yield np.repeat(video[:1], frames, axis=0) if self.still and number % 2 else video

    def _sounds(self) -> Iterator[np.ndarray]:
        noise, number = np.random.default_rng(0), 0
        while True:
            seconds = self.seconds[number % len(self.seconds)]
            yield noise.normal(size=int(SAMPLING_RATE * seconds)).astype("float32")
            number += 1


def _image(sample: int, place: int) -> Any:
    from PIL import Image

    noise = np.random.default_rng(10 * sample + place)
    height, width = ((100, 60), (60, 100), (80, 80))[(sample + place) % 3]
    return Image.fromarray(noise.integers(1, 255, (height, width, 3), dtype=np.uint8))


@cache
def built(name: str) -> tuple[Any, Any]:
    """The tiny model and the processor of a recorder, once per process."""
    return {**RECORDERS, PHI4.name: PHI4}[name].build()


def with_parts(name: str, **parts: tuple[str, dict[str, Any]]) -> Callable[[], tuple[Any, Any]]:
    """The tiny model of `vlmdebug.tiny`, with a processor that takes clips too."""

    def build() -> tuple[Any, Any]:
        from vlmdebug import tiny

        if name == "smolvlm":
            from transformers.models.smolvlm import processing_smolvlm

            processing_smolvlm.num2words = str  # an optional package that spells out a number
        model, processor = tiny.build(name)
        for part, (path, options) in parts.items():
            setattr(processor, part, made(path, **options))
        return model, processor

    return build


def of_config(
    config: str,
    model: str,
    processor: str,
    *,
    tokens: Mapping[str, str] | None = None,
    unnamed: Sequence[str] = (),
    extractor: Any = None,
    ids: Mapping[str, str] | None = None,
    parts: Mapping[str, Any] | None = None,
    **special: Any,
) -> Callable[[], tuple[Any, Any]]:
    """A model of audio and text, which `vlmdebug.tiny` does not have."""

    def build() -> tuple[Any, Any]:
        import transformers

        from vlmdebug.tiny.from_config import small
        from vlmdebug.tiny.models import _seeded, _wake
        from vlmdebug.tiny.tokenizer import train_tokenizer

        tokenizer = train_tokenizer(tokens or {}, unnamed=unnamed)
        heard = extractor() if extractor is not None else None
        found = getattr(transformers, processor)(heard, tokenizer, **(parts or {}))
        known = {
            name: tokenizer.convert_tokens_to_ids(token) for name, token in (ids or {}).items()
        }
        chosen = small(getattr(transformers, config), tokenizer, **known, **special)
        with _seeded(0):
            tiny = getattr(transformers, model)(chosen)
            _wake(tiny)
        return tiny.eval(), found

    return build


def whisper() -> Any:
    """An extractor of 2 seconds of 16 mel bands."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=16, chunk_length=2)


_WHISPER = {
    "num_mel_bins": 16,
    "max_source_positions": 100,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "d_model": 32,
}
_PIXELS = 28 * 28
_QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
_QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
_GRIDS = {"pixel_values_videos": "video patch", "video_grid_thw": "video"}
_NO_SAMPLING = {"do_sample_frames": False}
_SQUARE = {"height": 56, "width": 56}


def _qwen_videos(patch: int = 14) -> tuple[str, dict[str, Any]]:
    edge = (2 * patch) ** 2
    size = {"shortest_edge": 4 * edge, "longest_edge": 64 * edge}
    return (
        "qwen2_vl.video_processing_qwen2_vl.Qwen2VLVideoProcessor",
        {"patch_size": patch, "size": size, "min_frames": 2},
    )


_QWEN3_VIDEOS = (
    "qwen3_vl.video_processing_qwen3_vl.Qwen3VLVideoProcessor",
    {"size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 64 * 32 * 32}},
)
_GLM_VIDEOS = (
    "glm4v.video_processing_glm4v.Glm4vVideoProcessor",
    {"size": {"shortest_edge": 8 * _PIXELS, "longest_edge": 64 * _PIXELS}},
)
_OMNI_EXTRACTOR = (
    "whisper.feature_extraction_whisper.WhisperFeatureExtractor",
    {"feature_size": 16, "chunk_length": 2},
)
_SOUNDS = {"input_features": "audio", "feature_attention_mask": "audio"}
_OMNI_MARKS = {
    "i": "<|vision_bos|><|IMAGE|><|vision_eos|>",
    "v": "<|vision_bos|><|VIDEO|><|vision_eos|>",
    "a": "<|audio_bos|><|AUDIO|><|audio_eos|>",
}
_OMNI_CALL = {
    **_NO_SAMPLING,
    "videos_kwargs": {
        "fps": 2.0,
        "size": {"shortest_edge": 4 * _PIXELS, "longest_edge": 64 * _PIXELS},
    },
}
_ALL = (
    ("vv", "", "v"),
    ("v", "", "v"),
    ("iv", "", "v", "i"),
    ("aa", "", "a"),
    ("iva", "", "av", "a"),
)
_HEARD = (("aa", "", "a"), ("", "a", "aaa"))
_GLM = {
    "i": "<|begin_of_image|><|image|><|end_of_image|>",
    "v": "<|begin_of_video|><|video|><|end_of_video|>",
}


def _voxtral(processor: Any, text: Sequence[str], audio: Sequence[Any] = (), **call: Any) -> Any:
    """As `apply_chat_template`: each sound is cut into windows, and each window into tokens.

    The tokenizer of `mistral_common`, which writes the tokens, needs a download.
    """
    import torch

    window, tokens = 200, 25
    heard = [
        processor._retrieve_input_features(
            [sound],
            window,
            sampling_rate=SAMPLING_RATE,
            padding=True,
            truncation=False,
            pad_to_multiple_of=2 * SAMPLING_RATE,
            return_tensors="pt",
        )
        for sound in audio
    ]
    sounds = iter(heard)
    written = []
    for one in text:
        first, *rest = one.split("[AUDIO]")
        written.append(
            first + "".join("[AUDIO]" * (tokens * len(next(sounds))) + part for part in rest)
        )
    inputs = dict(processor.tokenizer(written, **call))
    inputs.pop("token_type_ids", None)
    return {**inputs, **({"input_features": torch.cat(heard)} if heard else {})}


def _with_sound(processor: Any, videos: Sequence[Any] = (), **call: Any) -> Any:
    """Each video has a sound of its own."""
    noise, seconds = np.random.default_rng(1), (1.0, 2.0)
    sounds = [
        noise.normal(size=int(SAMPLING_RATE * seconds[number % 2])).astype("float32")
        for number in range(len(videos))
    ]
    inputs = processor(
        videos=videos,
        audio=sounds,
        load_audio_from_video=True,
        audio_from_video_indices=[*range(len(videos))],
        **call,
    )
    return {**inputs, "use_audio_in_video": True}


def _gemma4() -> tuple[Any, Any]:
    """The tiny Gemma 4 with an audio tower, and a processor with all its parts."""
    from transformers import Gemma4AudioConfig, Gemma4ForConditionalGeneration

    from vlmdebug import tiny
    from vlmdebug.tiny.models import _seeded, _wake

    model, processor = tiny.build("gemma4")
    processor.feature_extractor = made(
        "gemma4.feature_extraction_gemma4.Gemma4AudioFeatureExtractor"
    )
    processor.video_processor = made(
        "gemma4.video_processing_gemma4.Gemma4VideoProcessor", max_soft_tokens=70
    )
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    audio = Gemma4AudioConfig(**sizes, subsampling_conv_channels=(128, 8), output_proj_dims=32)
    model.config.audio_config = audio
    with _seeded(0):
        model = Gemma4ForConditionalGeneration(model.config)
        _wake(model)
    return model.eval(), processor


def _phi4() -> tuple[Any, Any]:
    """The tiny model and processor of the list of unproven models."""
    from vlmdebug.tiny.models import _seeded, _wake
    from vlmdebug.tiny.unproven import RECIPES

    recipe = RECIPES["phi4_multimodal"]
    processor = recipe.processor()
    with _seeded(0):
        model = recipe.model(processor)
        _wake(model)
    return model.eval(), processor


_LIST = (
    Recorder(
        "qwen2_vl",
        with_parts("qwen2_vl", video_processor=_qwen_videos()),
        {"i": _QWEN, "v": _QWEN_VIDEO},
        _GRIDS,
        call=_NO_SAMPLING,
    ),
    Recorder(
        "qwen2_5_vl",
        with_parts("qwen2_5_vl", video_processor=_qwen_videos()),
        {"i": _QWEN, "v": _QWEN_VIDEO},
        {**_GRIDS, "second_per_grid_ts": "video"},
        call={**_NO_SAMPLING, "fps": 2.0},
    ),
    Recorder(
        "qwen3_vl",
        with_parts("qwen3_vl", video_processor=_QWEN3_VIDEOS),
        {"i": _QWEN, "v": _QWEN_VIDEO},
        _GRIDS,
        sides=((64, 64), (128, 64), (64, 96)),
        call=_NO_SAMPLING,
    ),
    Recorder(
        "qwen3_5",
        with_parts("qwen3_5", video_processor=_QWEN3_VIDEOS),
        {"i": _QWEN, "v": _QWEN_VIDEO},
        _GRIDS,
        sides=((64, 64), (128, 64), (64, 96)),
        call=_NO_SAMPLING,
    ),
    Recorder(
        "glm4v",
        with_parts("glm4v", video_processor=_GLM_VIDEOS),
        _GLM,
        _GRIDS,
        call=_NO_SAMPLING,
        # Its model takes no images and videos in one call: they share a placeholder token.
        batches=(("vv", "", "v"), ("v", "", "v")),
    ),
    Recorder(
        "qwen2_5_omni",
        with_parts(
            "qwen2_5_omni_thinker",
            video_processor=_qwen_videos(),
            feature_extractor=_OMNI_EXTRACTOR,
        ),
        _OMNI_MARKS,
        {**_GRIDS, "video_second_per_grid": "video", **_SOUNDS},
        call=_OMNI_CALL,
        batches=_ALL,
    ),
    Recorder(
        "qwen3_omni",
        with_parts(
            "qwen3_omni_moe_thinker",
            video_processor=_qwen_videos(16),
            feature_extractor=_OMNI_EXTRACTOR,
        ),
        _OMNI_MARKS,
        {**_GRIDS, "video_second_per_grid": "video", **_SOUNDS},
        sides=((64, 64), (128, 64), (64, 96)),
        seconds=(1.0, 2.0),
        call=_OMNI_CALL,
        batches=_ALL,
    ),
    Recorder(
        "llava_onevision",
        with_parts(
            "llava_onevision",
            video_processor=(
                "llava_onevision.video_processing_llava_onevision.LlavaOnevisionVideoProcessor",
                {"size": _SQUARE},
            ),
        ),
        {"i": "<image>", "v": "<video>"},
        {"pixel_values_videos": "video"},
        frames=(3,),
    ),
    Recorder(
        "llava_next_video",
        with_parts(
            "llava_next_video",
            video_processor=(
                "llava_next_video.video_processing_llava_next_video.LlavaNextVideoVideoProcessor",
                {"size": {"shortest_edge": 56}, "crop_size": _SQUARE},
            ),
        ),
        {"i": "<image>", "v": "<video>"},
        {"pixel_values_videos": "video"},
        frames=(3,),
    ),
    Recorder(
        "gemma4",
        _gemma4,
        {"i": "<|image|>", "v": "<|video|>", "a": "<|audio|>"},
        {
            "pixel_values_videos": "frame",
            "video_position_ids": "frame",
            "num_frames_per_video": "video",
            "input_features": "audio",
            "input_features_mask": "audio",
        },
        call=_NO_SAMPLING,
        batches=_ALL,
    ),
    Recorder(
        "gemma3n",
        with_parts(
            "gemma3n",
            feature_extractor=(
                "gemma3n.feature_extraction_gemma3n.Gemma3nAudioFeatureExtractor",
                {},
            ),
        ),
        {"i": "<image_soft_token>", "a": "<audio_soft_token>"},
        {"input_features": "audio", "input_features_mask": "audio"},
        batches=(("aa", "", "a"), ("ia", "", "a", "i")),
    ),
    Recorder(
        "qwen2_audio",
        of_config(
            "Qwen2AudioConfig",
            "Qwen2AudioForConditionalGeneration",
            "Qwen2AudioProcessor",
            tokens={
                "audio_token": "<|AUDIO|>",
                "audio_bos_token": "<|audio_bos|>",
                "audio_eos_token": "<|audio_eos|>",
            },
            extractor=whisper,
            ids={"audio_token_index": "<|AUDIO|>"},
            audio_config=_WHISPER,
        ),
        {"a": "<|audio_bos|><|AUDIO|><|audio_eos|>"},
        _SOUNDS,
        batches=_HEARD,
        torchvision=False,
    ),
    Recorder(
        "voxtral",
        of_config(
            "VoxtralConfig",
            "VoxtralForConditionalGeneration",
            "VoxtralProcessor",
            unnamed=[*(f"<special {number}>" for number in range(20)), "[AUDIO]"],
            extractor=whisper,
            ids={"audio_token_id": "[AUDIO]"},
            audio_config={
                "num_mel_bins": 16,
                "max_source_positions": 100,
                "intermediate_size": 128,
            },
        ),
        {"a": "[AUDIO]"},
        {"input_features": "window"},
        seconds=(3.0, 1.0, 5.0),
        batches=_HEARD,
        torchvision=False,
        process=_voxtral,
    ),
    Recorder(
        "glmasr",
        of_config(
            "GlmAsrConfig",
            "GlmAsrForConditionalGeneration",
            "GlmAsrProcessor",
            unnamed=["<|pad|>"],
            extractor=whisper,
            ids={"audio_token_id": "<|pad|>"},
            audio_config={
                "num_mel_bins": 16,
                "max_position_embeddings": 100,
                "intermediate_size": 128,
            },
        ),
        {"a": "<|pad|>"},
        {"input_features": "window", "input_features_mask": "window"},
        seconds=(3.0, 1.0, 5.0),
        batches=(("a", "a", "a"),),
        torchvision=False,
    ),
    Recorder(
        "audioflamingo3",
        of_config(
            "AudioFlamingo3Config",
            "AudioFlamingo3ForConditionalGeneration",
            "AudioFlamingo3Processor",
            unnamed=["<sound>"],
            extractor=whisper,
            ids={"audio_token_id": "<sound>"},
            audio_config={**_WHISPER, "hidden_size": 32},
        ),
        {"a": "<sound>"},
        {"input_features": "window", "input_features_mask": "window"},
        seconds=(3.0, 1.0, 5.0),
        batches=(("a", "a", "a"),),
        torchvision=False,
    ),
    Recorder(
        "qwen2_5_omni:audio in video",
        with_parts(
            "qwen2_5_omni_thinker",
            video_processor=_qwen_videos(),
            feature_extractor=_OMNI_EXTRACTOR,
        ),
        {**_OMNI_MARKS, "w": _OMNI_MARKS["v"]},
        {**_GRIDS, "video_second_per_grid": "video", **_SOUNDS},
        call=_OMNI_CALL,
        batches=(("v", "", "v"), ("vv", "i", "v")),
        process=_with_sound,
    ),
    Recorder(
        "qwen3_omni:audio in video",
        with_parts(
            "qwen3_omni_moe_thinker",
            video_processor=_qwen_videos(16),
            feature_extractor=_OMNI_EXTRACTOR,
        ),
        {**_OMNI_MARKS, "w": _OMNI_MARKS["v"]},
        {**_GRIDS, "video_second_per_grid": "video", **_SOUNDS},
        sides=((64, 64), (128, 64), (64, 96)),
        seconds=(1.0, 2.0),
        call=_OMNI_CALL,
        batches=(("v", "", "v"), ("vv", "i", "v")),
        process=_with_sound,
    ),
    Recorder(
        "smolvlm",
        with_parts(
            "smolvlm",
            video_processor=(
                "smolvlm.video_processing_smolvlm.SmolVLMVideoProcessor",
                {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 56}},
            ),
        ),
        {"i": "<image>", "v": "<video>"},
        {"pixel_values": "video", "pixel_attention_mask": "video"},
        call=_NO_SAMPLING,
        batches=(("vv", "", "v"), ("v", "", "v"), ("", "vvv")),
    ),
    Recorder(
        "internvl",
        with_parts(
            "internvl",
            video_processor=(
                "internvl.video_processing_internvl.InternVLVideoProcessor",
                {"size": _SQUARE},
            ),
        ),
        {"i": "<IMG_CONTEXT>", "v": "<video>"},
        {"pixel_values": "tile"},
        frames=(3,),
        uncounted="iv",
        call=_NO_SAMPLING,
    ),
    Recorder(
        "video_llava",
        with_parts(
            "video_llava",
            video_processor=(
                "video_llava.video_processing_video_llava.VideoLlavaVideoProcessor",
                {"size": {"shortest_edge": 56}, "crop_size": _SQUARE},
            ),
        ),
        {"i": "<image>", "v": "<video>"},
        {"pixel_values_videos": "video"},
        frames=(3,),
        call={"return_legacy_image_output": False},
    ),
    Recorder(
        "video_llava:legacy",
        with_parts(
            "video_llava",
            video_processor=(
                "video_llava.video_processing_video_llava.VideoLlavaVideoProcessor",
                {"size": {"shortest_edge": 56}, "crop_size": _SQUARE},
            ),
        ),
        {"i": "<image>", "v": "<video>"},
        {"pixel_values_videos": "video"},
        frames=(3,),
    ),
    Recorder(
        "video_llama_3",
        with_parts(
            "video_llama_3",
            video_processor=(
                "video_llama_3.video_processing_video_llama_3.VideoLlama3VideoProcessor",
                {
                    "patch_size": 14,
                    "temporal_patch_size": 1,
                    "merge_size": 2,
                    "size": {"shortest_edge": 784, "longest_edge": 112 * 112 * 8},
                },
            ),
        ),
        {"i": _QWEN, "v": _QWEN_VIDEO},
        {**_GRIDS, "video_merge_sizes": "video", "video_compression_mask": "video feature"},
        still=True,
        call=_NO_SAMPLING,
    ),
)
RECORDERS = {recorder.name: recorder for recorder in _LIST}
PHI4 = Recorder(
    "phi4_multimodal",
    _phi4,
    {"i": "<|image|>", "a": "<|audio|>"},
    dict.fromkeys(("audio_input_features", "audio_embed_sizes", "audio_attention_mask"), "audio"),
    batches=(("aa", "", "a"), ("ia", "", "a", "i")),
)
"""No family knows it, and the probe of a processor has no sounds."""
