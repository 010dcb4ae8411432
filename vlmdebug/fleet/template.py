"""The chat template of a processor, and the form of messages that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line


class Template:
    """A chat template.

    Attributes:
        takes_parts: Whether the content of a message is a list of typed parts. A template that
            was written for a text model takes text, and prints or refuses a list.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:
        self._tokenizer = tokenizer
        self._source = source
        self.takes_parts: bool = self._shows([{"type": "text", "text": _WORD}]) or not self._shows(
            _WORD
        )

    def rendered(self, messages: Sequence[dict[str, Any]]) -> str:
        """The text of a conversation; the template may raise anything."""
        return self._tokenizer.apply_chat_template(
            list(messages), chat_template=self._source, tokenize=False
        )

    def _shows(self, content: Any) -> bool:
        """Whether a message with this content is written, and its list is not."""
        from jinja2 import TemplateSyntaxError

        try:
            text = self.rendered([{"role": "user", "content": content}])
        except TemplateSyntaxError as error:
            raise BadInput(
                f"The chat template cannot be read: {one_line(error.message, 160)}, in line "
                f"{error.lineno}. No row was audited. Correct it in the folder of the processor."
            ) from error
        except Exception:  # a template raises what it likes
            return False
        return _WORD in text and "'type'" not in text


_WORD = "vlmdebug"


def template_of(processor: Any) -> Template | None:
    """The template that `processor.apply_chat_template` uses; None if there is none.

    Raises:
        BadInput: It cannot be read, or there are several and none is named `default`.
    """
    tokenizer = processor.tokenizer
    found = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        if "default" not in found:
            raise BadInput(
                f"The processor has the chat templates {one_line(', '.join(found), 120)}, and none "
                "is named default. No row was audited. Set processor.chat_template to one of them."
            )
        found = found["default"]
    return Template(tokenizer, found) if found else None
