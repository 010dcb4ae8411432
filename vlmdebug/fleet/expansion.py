"""How many tokens one image becomes in the text, by the processor's own count."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.safe import first_line, one_line

PROBES = ((64, 48), (48, 64), (336, 336), (200, 56), (97, 311), (1024, 640))
"""Widths and heights on which the formula of a processor is compared with what it returns."""
CACHED = 65_536
"""Sizes that are remembered; each is a few bytes."""
SHORTEST, LONGEST = 28, 50
"""Sides in pixels, and ratios of sides, beyond which a processor is asked and not its formula:
formulas give numbers there for images that the processor refuses."""


class Refused(Exception):
    """The processor does not take an image of this size."""


class Expansion:
    """Tokens that the processor puts in place of one placeholder.

    They depend on the size of the image, and for some on whether it is alone in its row:
    LLaVA-OneVision cuts tiles only then (`processing_llava_onevision`, transformers 5.24).

    A processor has a formula (`ProcessorMixin._get_num_multimodal_tokens`, transformers 5.24),
    which costs microseconds. It counts features; the text can have more tokens, such as row
    separators. The formula is used if it differs from what the processor returns for `PROBES` by
    one constant. Otherwise a blank image of each new size is processed.

    Attributes:
        around: Tokens that the processor adds once to a text with images.
        joined: Tokens that it leaves out between two images without text between (Idefics 2 joins
            their borders).
    """

    def __init__(self, processor: Any, placeholder: str) -> None:
        self.processor = processor
        self.placeholder = placeholder
        first = _blank(*PROBES[0])
        apart = [self._added("{0} a" * images, images, first) for images in (2, 3)]
        self.around: int = apart[0] - 2 * (apart[1] - apart[0])
        self.joined: int = apart[0] - self._added("{0}{0} a", 2, first)
        self.more: dict[bool, int | None] = {
            alone: self._constant(alone) for alone in (True, False)
        }
        self.of: Callable[[int, int, bool], int] = lru_cache(CACHED)(self._tokens)

    def _tokens(self, width: int, height: int, alone: bool) -> int:
        """Tokens of an image of this size in pixels.

        Raises:
            Refused: The processor does not take such an image.
        """
        short, long = sorted((width, height))
        more = self.more[alone]
        usual = short >= SHORTEST and long <= LONGEST * short
        try:
            if usual and more is not None:
                tokens = self._formula(width, height) + more
            else:
                tokens = self._measured(width, height, alone)
        except Exception as error:  # whatever a processor raises at a size that it refuses
            raise Refused(first_line(error, 160)) from error
        if tokens < 1:
            raise Refused("the image becomes no tokens")
        return tokens

    def _constant(self, alone: bool) -> int | None:
        """What the formula lacks; None if that is not one number, or there is no formula."""
        lacks = set()
        for width, height in PROBES:
            try:
                measured = self._measured(width, height, alone)
            except Exception:  # refused: no size to compare
                continue
            try:
                lacks.add(measured - self._formula(width, height))
            except Exception:  # no formula, or one that needs more than sizes
                return None
        return lacks.pop() if len(lacks) == 1 else None

    def _formula(self, width: int, height: int) -> int:
        given = self.processor._get_num_multimodal_tokens(image_sizes=[[height, width]])
        return int(given["num_image_tokens"][0])

    def _measured(self, width: int, height: int, alone: bool) -> int:
        images = 1 if alone else 2
        added = self._added("{0} a" * images, images, _blank(width, height))
        return (added - self.around) // images + 1

    def _added(self, pattern: str, images: int, image: Any) -> int:
        """Tokens that the processor has beyond those of the text as it is."""
        text = pattern.format(self.placeholder)
        made = self.processor(text=[text], images=[[image] * images])["input_ids"][0]
        return len(made) - len(self.processor.tokenizer(text)["input_ids"])


def expansion_of(processor: Any, placeholder: str) -> Expansion:
    """The `Expansion` of a processor.

    Raises:
        BadInput: The processor does not take texts with one, two and three placeholders.
    """
    try:
        return Expansion(processor, placeholder)
    except Exception as error:  # whatever a processor raises
        said = first_line(error, 160)
        raise BadInput(
            f"{type(processor).__name__} does not take a text with its own placeholder "
            f"{one_line(placeholder, 40)!r} and a blank image for each: {said}. No row was "
            "audited. Call it with such a text yourself, for instance to see what is missing."
        ) from error


def _blank(width: int, height: int) -> Any:
    from PIL import Image

    return Image.new("RGB", (width, height))


def placeholder_of(processor: Any, modality: str) -> tuple[str, int] | None:
    """The token that the processor replaces, as text and as id; None if it has none."""
    text = getattr(processor, f"{modality}_token", None)
    text = getattr(text, "content", text)
    tokenizer = getattr(processor, "tokenizer", None)
    if not isinstance(text, str) or tokenizer is None:
        return None
    number = tokenizer.convert_tokens_to_ids(text)
    return (text, number) if isinstance(number, int) and number >= 0 else None


def require_tokenizer(processor: Any) -> Any:
    """The tokenizer of a processor that takes text and images.

    Raises:
        BadInput: The processor has none, or none for images.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or getattr(processor, "image_processor", None) is None:
        raise BadInput(
            f"processor= is {type(processor).__name__}, but a processor of images and text belongs "
            "there. No row was audited. Pass what AutoProcessor.from_pretrained returns."
        )
    if placeholder_of(processor, "image") is None:
        raise BadInput(
            f"{type(processor).__name__} has no placeholder token for images, so what a row "
            "becomes cannot be counted. No row was audited."
        )
    return tokenizer
