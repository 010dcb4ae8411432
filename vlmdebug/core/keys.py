"""Every key of a batch: what it holds, and what it is computed from or describes.

Other modules read sets of keys from this table; none lists keys of its own. A family's file gives
the axes of keys that are in this table. The keys come from the processors and forward methods of
transformers 5.23, in the data collators of its Trainer, and in the trainers of TRL.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Literal, NamedTuple

from vlmdebug.core.layout import VIDEO_FEATURE, VIDEO_PATCH

Modality = Literal["image", "video", "audio"]


class Kind(Enum):
    """What a key is to a slicer."""

    TOKENS = "a column per token"
    MEDIA = "rows that are copied from the batch"
    DERIVED = "a function of other keys"
    WHOLE = "not cut: one value for all samples"
    COUNTS = "media per sample, a list that no model takes"
    OPTION = "how the model answers; no rows"
    TRAINER = "a trainer's own, that no model takes"


class Key(NamedTuple):
    """One key of a batch, or one argument of a forward method.

    Attributes:
        name: The key.
        kind: What it is to a slicer.
        modality: The media that it belongs to; None for text and for keys of all media.
        of: Keys that it is a function of (`position_ids`), that it describes (`image_grid_thw`), or
            that it is a part of (`prompt_ids`).
        unit: What a row counts, or `token` where it also has a column per token, in each layout
            that has the key. None if the layout determines it, or if no batch has the key.
        holds: `mask`, 1 for what is real; `types` of tokens, 0 for text; `packing`, the starts of
            the sequences of a packed row; `cache`, the states of earlier tokens; `sides`, a height
            and a width.
        counts: The unit that it counts per sample (of kind COUNTS), image or video.
    """

    name: str
    kind: Kind
    modality: Modality | None = None
    of: tuple[str, ...] = ()
    unit: str | None = None
    holds: Literal["mask", "types", "packing", "cache", "sides"] | None = None
    counts: str | None = None


_TEXT = ("input_ids",)
_PIXELS = ("pixel_values",)
_VIDEOS = ("pixel_values_videos",)
_AUDIO = ("input_features",)

_TABLE = (
    # Tokens, and keys with the same rows: one row per sample.
    Key("input_ids", Kind.TOKENS, unit="token"),
    Key("attention_mask", Kind.DERIVED, of=_TEXT, unit="token", holds="mask"),
    Key("token_type_ids", Kind.DERIVED, of=_TEXT, unit="token", holds="types"),
    Key("mm_token_type_ids", Kind.DERIVED, of=_TEXT, unit="token", holds="types"),
    Key("moe_mm_token_type_ids", Kind.DERIVED, of=_TEXT, unit="token", holds="types"),
    Key("labels", Kind.TOKENS, of=_TEXT, unit="token"),
    Key("position_ids", Kind.DERIVED, of=("attention_mask",), unit="token"),
    Key("inputs_embeds", Kind.TOKENS, of=_TEXT, unit="token"),
    Key("rope_deltas", Kind.DERIVED, of=("position_ids",), unit="sample"),
    Key("decoder_input_ids", Kind.TOKENS, of=("labels",), unit="sample"),
    Key("decoder_attention_mask", Kind.DERIVED, of=("labels",), unit="sample", holds="mask"),
    # Computed for one call.
    Key("shift_labels", Kind.DERIVED, of=("labels",)),
    Key("per_layer_inputs", Kind.DERIVED, of=_TEXT),
    Key("mm_encoder_outputs", Kind.DERIVED, of=_PIXELS),
    Key("cross_attention_states", Kind.DERIVED, "image", of=_PIXELS),
    Key("cu_seqlens", Kind.DERIVED, of=("position_ids",), holds="packing"),
    Key("cu_seq_lens_q", Kind.DERIVED, of=("position_ids",), holds="packing"),
    Key("cu_seq_lens_k", Kind.DERIVED, of=("position_ids",), holds="packing"),
    Key("seq_idx", Kind.DERIVED, of=("position_ids",), holds="packing"),
    Key("cache_position", Kind.WHOLE, of=_TEXT),
    Key("past_key_values", Kind.WHOLE, of=_TEXT, holds="cache"),
    Key("cache", Kind.WHOLE, of=_TEXT, holds="cache"),  # its name from transformers 5.24 on
    # Images.
    Key("pixel_values", Kind.MEDIA, "image"),
    Key("pixel_values_images", Kind.MEDIA, "image"),
    Key("high_res_pixel_values", Kind.MEDIA, "image"),
    Key("flattened_patches", Kind.MEDIA, "image"),
    Key("image_patches", Kind.MEDIA, "image"),
    Key("width", Kind.MEDIA, "image", of=("flattened_patches",)),
    Key("height", Kind.MEDIA, "image", of=("flattened_patches",)),
    Key("pixel_mask", Kind.MEDIA, "image", of=_PIXELS, holds="mask"),
    Key("pixel_attention_mask", Kind.MEDIA, "image", of=_PIXELS, holds="mask"),
    Key("spatial_shapes", Kind.MEDIA, "image", of=_PIXELS, holds="sides"),
    Key("image_grid_thw", Kind.MEDIA, "image", of=_PIXELS, counts="patch", holds="sides"),
    Key("image_grid_hw", Kind.MEDIA, "image", of=_PIXELS, counts="patch", holds="sides"),
    Key("image_merge_sizes", Kind.MEDIA, "image", of=("image_grid_thw",)),
    Key("image_position_ids", Kind.MEDIA, "image", of=_PIXELS),
    Key("image_sizes", Kind.MEDIA, "image", of=_PIXELS),
    Key("batch_num_images", Kind.MEDIA, "image", of=_PIXELS),
    Key("aspect_ratio_ids", Kind.MEDIA, "image", of=_PIXELS, holds="sides"),
    Key("aspect_ratio_mask", Kind.MEDIA, "image", of=_PIXELS, holds="mask"),
    Key("cross_attention_mask", Kind.MEDIA, "image", of=(*_TEXT, *_PIXELS), holds="mask"),
    Key("num_local_patches", Kind.MEDIA, "image", of=_PIXELS, counts="patch"),
    Key("pixel_values_local", Kind.MEDIA, "image", of=_PIXELS),
    Key("image_attention_mask", Kind.MEDIA, "image", of=(*_TEXT, *_PIXELS), holds="mask"),
    Key("image_embeds_position_mask", Kind.MEDIA, "image", of=(*_TEXT, *_PIXELS), holds="mask"),
    Key("qformer_input_ids", Kind.MEDIA, "image", of=_TEXT),
    Key("qformer_attention_mask", Kind.MEDIA, "image", of=_TEXT, holds="mask"),
    # Videos; the layout determines what a row of the first key counts.
    Key("pixel_values_videos", Kind.MEDIA, "video"),
    Key(
        "video_grid_thw",
        Kind.MEDIA,
        "video",
        of=_VIDEOS,
        unit="video",
        holds="sides",
        counts=VIDEO_PATCH,
    ),
    Key("second_per_grid_ts", Kind.MEDIA, "video", of=("video_grid_thw",), unit="video"),
    Key("video_second_per_grid", Kind.MEDIA, "video", of=("video_grid_thw",), unit="video"),
    Key("num_frames_per_video", Kind.MEDIA, "video", of=_VIDEOS, unit="video", counts="frame"),
    Key(
        "video_compression_mask", Kind.MEDIA, "video", of=_VIDEOS, unit=VIDEO_FEATURE, holds="mask"
    ),
    Key("video_merge_sizes", Kind.MEDIA, "video", of=("video_grid_thw",), unit="video"),
    Key("video_position_ids", Kind.MEDIA, "video", of=_VIDEOS, unit="frame"),
    # Audio clips.
    Key("input_features", Kind.MEDIA, "audio", unit="audio"),
    Key("input_features_mask", Kind.MEDIA, "audio", of=_AUDIO, unit="audio", holds="mask"),
    Key("feature_attention_mask", Kind.MEDIA, "audio", of=_AUDIO, unit="audio", holds="mask"),
    # Counts that TRL and others keep with the tensors.
    Key("num_images", Kind.COUNTS, "image", counts="image"),
    Key("num_tiles", Kind.COUNTS, "image", counts="tile"),
    Key("num_videos", Kind.COUNTS, "video", counts="video"),
    Key("num_audios", Kind.COUNTS, "audio", counts="audio"),
    # Options.
    Key("use_cache", Kind.OPTION),
    Key("logits_to_keep", Kind.OPTION),
    Key("num_logits_to_keep", Kind.OPTION),
    Key("output_attentions", Kind.OPTION),
    Key("output_hidden_states", Kind.OPTION),
    Key("output_router_logits", Kind.OPTION),
    Key("return_dict", Kind.OPTION),
    Key("return_loss", Kind.OPTION),
    Key("num_items_in_batch", Kind.OPTION),
    Key("max_length_q", Kind.OPTION, holds="packing"),
    Key("max_length_k", Kind.OPTION, holds="packing"),
    Key("fused_lm_head", Kind.OPTION),
    Key("vision_feature_layer", Kind.OPTION),
    Key("vision_feature_select_strategy", Kind.OPTION),
    Key("vision_aspect_ratio", Kind.OPTION),
    Key("use_audio_in_video", Kind.OPTION),
    # Keys of trainers, with a row per sample.
    Key("prompt_ids", Kind.TRAINER, of=_TEXT, unit="sample"),
    Key("prompt_mask", Kind.TRAINER, of=("attention_mask",), unit="sample", holds="mask"),
    Key("completion_ids", Kind.TRAINER, of=_TEXT, unit="sample"),
    Key("completion_mask", Kind.TRAINER, of=("attention_mask",), unit="sample", holds="mask"),
    Key("advantages", Kind.TRAINER, unit="sample"),
    Key("rewards", Kind.TRAINER, unit="sample"),
    Key("returns", Kind.TRAINER, unit="sample"),
    Key("values", Kind.TRAINER, unit="sample"),
    Key("loss_scale", Kind.TRAINER, unit="sample"),
    Key("loss_mask", Kind.TRAINER, unit="sample", holds="mask"),
    Key("old_per_token_logps", Kind.TRAINER, unit="sample"),
    Key("ref_per_token_logps", Kind.TRAINER, unit="sample"),
    Key("sampling_per_token_logps", Kind.TRAINER, unit="sample"),
    Key("importance_sampling_ratio", Kind.TRAINER, unit="sample"),
    Key("tool_mask", Kind.TRAINER, unit="sample", holds="mask"),
    Key("response_mask", Kind.TRAINER, unit="sample", holds="mask"),
    Key("old_log_probs", Kind.TRAINER, unit="sample"),
)
KEYS: Mapping[str, Key] = {key.name: key for key in _TABLE}
"""Every key by its name."""


def _named(*kinds: Kind) -> tuple[Key, ...]:
    return tuple(key for key in _TABLE if key.kind in kinds)


_MEDIA = _named(Kind.MEDIA)
_BESIDE = tuple(key for key in _named(Kind.TOKENS, Kind.DERIVED, Kind.WHOLE) if key.of)
"""Functions of other keys."""

TYPE_IDS = tuple(key.name for key in _BESIDE if key.holds == "types")
"""The type of each token; zero for text."""
PROMPT_TYPES = TYPE_IDS[0]
"""Types that mark the tokens of the prompt in PaliGemma."""
ALONG_TOKENS = tuple(key.name for key in _BESIDE if key.unit == "token" and key.holds)
"""Masks and types of each token, `(sample, seq)` as `input_ids`."""
TOKEN_KEYS = frozenset(key.name for key in _named(Kind.TOKENS, Kind.DERIVED) if key.unit)
"""Keys of a batch with one row per sample in every layout."""
DERIVED = frozenset(key.name for key in _BESIDE)
"""Functions of other keys: a slicer may make them if the batch has none."""
TWO_TEXTS = frozenset(key.name for key in _BESIDE if key.of == ("labels",) and key.unit)
"""Keys of an encoder-decoder, which learns another text than `input_ids`."""
PACKED = tuple(key.name for key in _TABLE if key.holds == "packing")
"""Keys that give the starts of the sequences of a packed row."""
CACHES = tuple(key.name for key in _TABLE if key.holds == "cache")
"""Names of the cache of earlier tokens, in the releases of transformers."""

IMAGE_KEYS = tuple(key.name for key in _MEDIA if key.modality == "image")
VIDEO_KEYS = tuple(key.name for key in _MEDIA if key.modality == "video")
AUDIO_KEYS = tuple(key.name for key in _MEDIA if key.modality == "audio")
"""Keys of one modality; the key that the others describe comes first."""
CLIP_KEYS = frozenset({*VIDEO_KEYS, *AUDIO_KEYS})
MEDIA_KEYS = frozenset(key.name for key in _MEDIA)
OF_BOTH = tuple(key.name for key in _MEDIA if key.holds == "mask" and len(key.of) > 1)
"""Masks of tokens and images, `(sample, seq, …)`."""
PIXELS = tuple(key.name for key in _MEDIA if not key.of)
"""Keys of pixels and sounds, which the other media keys describe or are computed from."""
MEDIA_OF: Mapping[Modality, str] = {
    "image": IMAGE_KEYS[0],
    "video": VIDEO_KEYS[0],
    "audio": AUDIO_KEYS[0],
}
"""The main key of each modality, which the other keys describe."""
SIDES = tuple(key.name for key in _MEDIA if key.holds == "sides")
"""Keys with the height and width of each image or video."""
LENGTHS: Mapping[str, tuple[str, ...]] = {
    unit: tuple(key.name for key in _MEDIA if key.counts == unit)
    for unit in dict.fromkeys(key.counts for key in _MEDIA if key.counts)
}
"""Keys that give the number of rows of each image or video, by what these rows count."""
GRIDS = tuple(name for name in LENGTHS["patch"] if "grid" in name)

CUT_TO_IDS = ("cross_attention_mask",)
"""Masks of media that the model cuts to its tokens (`modeling_mllama.MllamaModel`, 5.24); other
masks have to be as long."""

LABELS = ("labels", "shift_labels")
"""Labels next to their tokens, and one ahead of them."""
IGNORED = -100
"""The label of a token that is not learned."""

IMAGES_SEEN = ("cross_attention_mask", "image_attention_mask")
"""Masks of the images that each token attends to, with the tokens on dim 1."""

AS_NUMBERS = frozenset(
    {
        *("image_sizes", "batch_num_images", "num_local_patches", "width", "height"),
        "second_per_grid_ts",
    }
)
"""Keys that models read number by number, so that lists of them do, which some trainers pass
(tried with the tiny models that take one, transformers 5.24)."""

MARKS_CLIPS = "mm_token_type_ids"
"""The types that say which tokens are of videos and audio clips."""

BOOKKEEPING: Mapping[str, str] = {key.name: str(key.counts) for key in _named(Kind.COUNTS)}
"""Per-sample lists that trainers keep with the tensors, and what they count."""
OPTIONS = frozenset(key.name for key in _named(Kind.OPTION))
"""Options of the model's output; they have no rows, and nothing is compared."""
TRAINERS_OWN = frozenset(key.name for key in _named(Kind.TRAINER))
"""Keys of trainers with a row per sample, which no model takes."""
ROWLESS = frozenset(key.name for key in _named(Kind.OPTION, Kind.WHOLE))
"""Arguments of a call that have no row per sample, whatever their shape."""
EXTRAS = OPTIONS | DERIVED
"""Arguments of forward methods that are allowed besides a layout's own keys."""
KNOWN = MEDIA_KEYS | TOKEN_KEYS
"""Keys with rows that a layout defines."""


def modality_of(key: str) -> Modality | None:
    """The media that a key of kind MEDIA belongs to; None for any other key.

    >>> modality_of("video_grid_thw")
    'video'
    """
    found = KEYS.get(key)
    return found.modality if found is not None and found.kind is Kind.MEDIA else None


def pixels_of(media: Collection[str]) -> str:
    """The key of the images' pixels among these keys of media.

    >>> pixels_of(["flattened_patches", "width", "height"])
    'flattened_patches'
    """
    return next((key for key in PIXELS if key in media and key in IMAGE_KEYS), IMAGE_KEYS[0])
