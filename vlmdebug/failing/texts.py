"""What models and processors say when text and media do not match, as they say it.

Read in the sources of transformers 4.56.2, 4.57.6, 5.6.2, 5.12.1 and 5.24.0: every text that
raises because placeholder tokens and media differ. `{tokens}` and `{features}` are numbers of
placeholder tokens and of what replaces them, `{}` is anything else.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from typing import NamedTuple


class Kind(Enum):
    """What a text complains about."""

    TOTALS = "the model compared placeholder tokens with features"
    IN_TEXT = "the processor compared placeholders in the text with the media it was given"
    NO_MEDIA = "the text has placeholders, but no media were given"
    NO_PLACEHOLDER = "media were given, but the text has no placeholders"
    TRUNCATED = "the text was truncated inside an image"
    TYPES = "the types of tokens are missing"
    RUNS = "runs of placeholder tokens do not match the sizes of the images"
    ROWS = "rows of media do not have the shape that their sizes say"
    STACK = "media of several samples have different shapes"
    NO_SIZES = "the sizes of the media are missing"
    EMPTY = "media with zero rows were given"
    INDEX = "the text names more media than were given"
    SCATTER = "fewer features than placeholder tokens were written into the text"
    LAID_OUT = "positions made from sizes are not as many as the tokens of a sample"
    LABELS = "labels and tokens have different lengths"
    COLUMNS = "keys that go token by token, or row by row, have different lengths"
    SHAPE = "media have another number of dimensions, or channels elsewhere"
    NO_PIXELS = "the call has no pixel values"
    NOTHING = "nothing in the place of an image"
    VOCABULARY = "a token or position is beyond the embedding"


PAGES = {
    Kind.TOTALS: "VLM010",
    Kind.IN_TEXT: "VLM010",
    Kind.NO_MEDIA: "VLM003",
    Kind.NO_PLACEHOLDER: "VLM010",
    Kind.TRUNCATED: "VLM009",
    Kind.TYPES: "VLM003",
    Kind.RUNS: "VLM009",
    Kind.ROWS: "VLM001",
    Kind.STACK: "VLM011",
    Kind.NO_SIZES: "VLM003",
    Kind.EMPTY: "VLM005",
    Kind.INDEX: "VLM010",
    Kind.SCATTER: "VLM010",
    Kind.LAID_OUT: "VLM009",
    Kind.LABELS: "VLM013",
    Kind.COLUMNS: "VLM011",
    Kind.SHAPE: "VLM011",
    Kind.NO_PIXELS: "VLM003",
    Kind.NOTHING: "VLM010",
    Kind.VOCABULARY: "VLM010",
}
"""The page of docs/codes that has the texts of a kind."""

TEXTS: dict[Kind, tuple[str, ...]] = {
    Kind.TOTALS: (
        "Image features and image tokens do not match, tokens: {tokens}, features: {features}",
        "Image features and image tokens do not match: tokens: {tokens}, features {features}",
        "Video features and video tokens do not match, tokens: {tokens}, features: {features}",
        "Videos features and video tokens do not match: tokens: {tokens}, features {features}",
        "Videos features and image tokens do not match: tokens: {tokens}, features {features}",
        "Audio features and audio tokens do not match, tokens: {tokens}, features: {features}",
        "Audio features and audio tokens do not match: tokens: {tokens}, features {features}",
        "Audio features and image tokens do not match: tokens: {tokens}, features {features}",
        "Multimodal features and placeholder tokens do not match, "
        "tokens: {tokens}, features: {features}",
        "Multimodal features and tokens do not match, tokens: {tokens}, features: {features}",
        "Placeholder tokens ({tokens}) and features ({features}) do not match for token id {}.",
        "Number of image placeholder tokens ({tokens}) does not match number of image tokens from "
        "VQVAE ({features})",
        "The number of image tokens does not match the number of image features.",
        "The number of video tokens does not match the number of video features.",
        "Number of audio tokens does not match number of audio features",
        "The number of audio tokens is {tokens} while the number of audio given to the model is "
        "{features}.",
        "Audio chunks must match the audio placeholder tokens in each sample",
    ),
    Kind.IN_TEXT: (
        "The number of {} tokens in each prompt should be the same as the number of images passed.",
        "The total number of {} tokens in the prompts should be the same as the number of {} "
        "passed. Found {}",
        "The number of images in the text {tokens} and images {features} should be the same.",
        "The number of videos in the text {tokens} and videos {features} should be the same.",
        "Number of image placeholders in the prompt does not match the number of images.",
        "Number of video placeholders in the prompt does not match the number of videos.",
        "Number of `{}` placeholders does not match the number of `{}` inputs",
        "Prompt contained {tokens} image tokens but received {features} images.",
        "Found {tokens} placeholders across the batch, but have {features} flattened images.",
        "Found {tokens} {} token{} in provided text but received {features} audio",
        "The number of image tokens in each text ({}) should be the same as the number of provided "
        "images per batch ({}).",
        "The number of audio tokens in each text ({}) should be the same as the number of provided "
        "audios ({}).",
        "You should add as much image tokens `{}` in your prompt as you pass `images` to the "
        "processor.",
        "You should add as much audio tokens `{}` in your prompt as you pass `audios` to the "
        "processor.",
        "Input contains {tokens} tokens != {features} images",
        "If a batch of text is provided, there should be either no images or at least one image "
        "per sample",
        "When providing both images and text arguments, the number of text prompts should be the "
        "same as the number of images.",
        "Number of images ({features}) must match number of texts ({tokens}).",
        "The number of examples in `texts` and `images` should be the same.",
        "Got {tokens} text but {features} audios; they must match 1:1.",
        "Got {tokens} transcript(s) but {features} audio(s); they must match 1:1.",
        "Received {tokens} prompt(s) for {features} audio sample(s); counts must match.",
        "Received {tokens} {} for {features} audio sample(s); counts must match.",
        "Received {features} images for {tokens} prompts.",
        "Received {features} image samples for {tokens} prompts.",
        "Need the same amount of samples for both text and audio",
    ),
    Kind.NO_MEDIA: (
        "Found {tokens} {} tokens in the text but no {} were passed.",
        "We detected {tokens} tokens in the text but no {} were passed",
        "No image were provided, but there are image tokens in the prompt",
        "No audio were provided, but there are audio tokens in the prompt",
    ),
    Kind.NO_PLACEHOLDER: (
        "Audio were provided, but there are no audio tokens in the prompt",
        "The image token should be present in the text.",
        "pixel_values provided but no source images found in input_ids.",
    ),
    Kind.TRUNCATED: (
        "Mismatch in `{}` token count between text and `input_ids`. Got ids={} and text={}.",
        "NeoMME image inputs contain an invalid or truncated token layout.",
    ),
    Kind.TYPES: ("Multimodal data was passed {} but `mm_token_type_ids` is missing.",),
    Kind.RUNS: (
        "Found fewer image placeholder spans than entries in `image_grid_thw`",
        "Found more image placeholder spans than entries in `image_grid_thw`.",
        "Image placeholder span length does not match `image_grid_thw`",
        "At least one sample has <image> tokens not divisible by patch_size.",
    ),
    Kind.ROWS: (
        "shape '[{}]' is invalid for input of size {}",
        "The packed visual patch count does not match `grid_thw`.",
        "split_with_sizes expects split_sizes to sum exactly to {} (input tensor's size at "
        "dimension 0), but got split_sizes={}",
        "mat1 and mat2 shapes cannot be multiplied ({} and {})",
    ),
    Kind.STACK: (
        "stack expects each tensor to be equal size, but got {}",
        "Unable to create tensor, you should probably activate truncation and/or padding",
        "expected sequence of length {} at dim {} (got {})",
        "Sizes of tensors must match except in dimension {}.",
    ),
    Kind.SCATTER: ("Number of elements of source < number of ones in mask",),
    Kind.LAID_OUT: (
        "shape mismatch: value tensor of shape [{}] cannot be broadcast to indexing result of "
        "shape [{}]",
    ),
    Kind.LABELS: ("Expected input batch_size ({}) to match target batch_size ({}).",),
    Kind.COLUMNS: (
        "The shape of the mask [{}] at index {} does not match the shape of the indexed tensor "
        "[{}] at index {}",
        "The size of tensor a ({}) must match the size of tensor b ({}) at non-singleton "
        "dimension {}",
    ),
    Kind.SHAPE: (
        "expected input[{}] to have {} channels, but got {} channels instead",
        "Make sure that the channel dimension of the pixel values match with the one set in the "
        "configuration.",
        "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [{}]",
        "expect to be of 4 or 5 dimensions",
        "Input image size ({}) doesn't match model ({}).",
        "too many values to unpack (expected {})",
    ),
    Kind.NO_PIXELS: (
        "missing 1 required positional argument: 'pixel_values'",
        "You have to specify either `pixel_values` or `image_embeds`.",
    ),
    Kind.NOTHING: (
        "only a single or a list of entries is supported but got type=<class 'NoneType'>",
    ),
    Kind.VOCABULARY: ("index out of range in self",),
    Kind.NO_SIZES: (
        "'NoneType' object is not an iterator",
        "'NoneType' object is not iterable",
        "'NoneType' object is not subscriptable",
    ),
    Kind.EMPTY: ("cannot reshape tensor of 0 elements into shape {}",),
    Kind.INDEX: (
        "index {features} is out of bounds for dimension 0 with size {}",
        "list index out of range",
    ),
}
"""The texts of each kind."""

ANYWHERE = frozenset(
    {
        *(Kind.ROWS, Kind.STACK, Kind.NO_SIZES, Kind.EMPTY, Kind.INDEX, Kind.SCATTER),
        *(Kind.LAID_OUT, Kind.LABELS, Kind.COLUMNS, Kind.SHAPE, Kind.VOCABULARY),
    }
)
"""Texts of torch and Python, which any code may raise; in a model or processor of images, this is
their first cause."""

LONGEST = 10_000
"""Characters that are read."""
LOOSE = (
    re.compile(r"tokens?\W{0,3}\s*(?P<tokens>\d+)\D{1,20}features?\W{0,3}\s*(?P<features>\d+)"),
    re.compile(r"(?P<tokens>\d+) of (?P<features>\d+) (?:image |video )?placeholder"),
)
"""Texts of other libraries that give both numbers."""


class Recognised(NamedTuple):
    """A text of the table, and the numbers in it; None if it has none."""

    kind: Kind
    text: str
    tokens: int | None = None
    features: int | None = None


def recognised(said: str) -> Recognised | None:
    """What kind of text it is; None if it is none of the table, wherever it stands in `said`.

    >>> recognised("TypeError: 'NoneType' object is not iterable").kind.name
    'NO_SIZES'
    """
    flat = " ".join(said.split())[-LONGEST:]  # the text of a traceback is at its end
    for kind, text, pattern in _patterns():
        found = pattern.search(flat)
        if found is not None:
            return Recognised(kind, text, *_numbers(found))
    for pattern in LOOSE:
        found = pattern.search(flat)
        if found is not None:
            return Recognised(Kind.TOTALS, found[0], *_numbers(found))
    return None


@cache
def _patterns() -> tuple[tuple[Kind, str, re.Pattern[str]], ...]:
    return tuple((kind, text, _pattern(text)) for kind, texts in TEXTS.items() for text in texts)


def _pattern(text: str) -> re.Pattern[str]:
    """The text with numbers and words in its gaps; its end may be cut off.

    No number is in braces: that is the line of source in a traceback, not the text.
    """
    spelled = re.escape(" ".join(text.split()))
    spelled = re.sub(r"\\{(tokens|features)\\}", r"(?P<\1>[^{}]{0,200}?)", spelled)
    spelled = spelled.replace(r"\{\}", r".{0,200}?")
    spelled = re.sub(r"\[\^\{\}\]\{0,200\}\?\)$", r"\\d+)", spelled)  # the last number ends with it
    return re.compile(spelled)


def _numbers(found: re.Match[str]) -> tuple[int | None, int | None]:
    """Numbers of tokens and of features; several of a text are added up."""
    named = found.groupdict()
    counts = [_total(named.get(name)) for name in ("tokens", "features")]
    return counts[0], counts[1]


def _total(said: str | None) -> int | None:
    digits = re.findall(r"\d{1,18}", said or "")
    return sum(map(int, digits)) if digits else None
