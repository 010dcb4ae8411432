"""Processors for images only, as instances of transformers' own classes.

Many constructors also require a video processor or a feature extractor. Those need torchvision or
audio packages, which images do not use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from transformers.processing_utils import ProcessorMixin

P = TypeVar("P", bound="ProcessorMixin")


def image_only(processor_class: type[P], **parts: Any) -> P:
    """Make a `processor_class` in which `parts` may be `None`, such as `video_processor=None`.

    It processes images and texts as usual. It cannot `save_pretrained`: upstream saves every
    part, the missing ones too.
    """

    class Lenient(processor_class):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument is None:
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    processor: Any = Lenient(**parts)
    # Only the constructor checks its parts. From here on it is the upstream class itself,
    # so that it can be pickled and has the usual type.
    processor.__class__ = processor_class
    return processor
