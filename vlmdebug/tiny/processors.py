"""Processors for images only, as instances of transformers' own classes.

Many constructors also insist on a video processor or a feature extractor. Those need
torchvision or audio packages that images never touch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from transformers.processing_utils import ProcessorMixin

P = TypeVar("P", bound="ProcessorMixin")


def image_only(processor_class: type[P], **parts: Any) -> P:
    """Make a `processor_class` whose `parts` may be `None`, such as `video_processor=None`.

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
    # so that it pickles, and so that code which asks for its type gets the usual answer.
    processor.__class__ = processor_class
    return processor
