"""One row of a data set as a dialogue: who says what, with the places of its media."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from vlmdebug.safe import one_line

MARKERS = {"<image>": "image", "<video>": "video"}
"""What LLaVA's format, ShareGPT's and many converted sets write where a media item belongs."""
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
COLUMNS = {"image": ("images", "image"), "video": ("videos", "video")}
"""Columns of a row that hold media, by modality."""
AUDIO = ("audios", "audio")
READ = {
    *("messages", "conversations", "prompt", "completion", "chosen", "text", *AUDIO),
    *(name for names in COLUMNS.values() for name in names),
}
"""All columns of a row that are read."""
MEDIA_TYPES = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}
"""Types of the parts of a message that are media, as chat templates know them."""


class NoRow(str):
    """What stands in the place of a row that could not be read: the sentence that says why."""


class Turn(NamedTuple):
    """One message. A part is text, or the name of a modality in a tuple of one."""

    role: str
    parts: tuple[str | tuple[str], ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))


class Dialogue(NamedTuple):
    """The messages of a row and its media, each in the order of the text.

    A text without any place for media leaves them to the trainer: they are put before the first
    user text, as TRL's `prepare_multimodal_messages` does.
    """

    turns: tuple[Turn, ...]
    media: Mapping[str, tuple[Any, ...]]
    wants_answer: bool
    """Whether the row needs an answer to learn from; prompts alone need none."""
    first_answer: int | None
    """The turn of the first answer; None if there is none."""
    literals: tuple[str, ...] = ()
    """Placeholders that are spelled in the prose of messages with typed parts."""
    typed: bool = False
    """Whether parts of messages are places for media."""
    unread: tuple[str, ...] = ()
    """What a trainer may give the model, and is not read here."""
    unsure: Mapping[str, str] = MappingProxyType({})
    """By modality, why another number of media than of places is no fault."""

    def places(self, modality: str) -> int:
        return sum(part == (modality,) for turn in self.turns for part in turn.parts)


def dialogue_of(row: Mapping[str, Any], tokens: Mapping[str, str]) -> Dialogue | str:
    """The dialogue of a row, or a sentence that says why there is none.

    Args:
        row: Columns by name: `messages`, `conversations`, `prompt` with `completion` or `chosen`,
            or `text`; and `images`, `image`, `videos`, `video`.
        tokens: The placeholder that the processor replaces, by modality.
    """
    read = _turns(row)
    if isinstance(read, str):
        return read
    messages, asked, wants_answer = read
    builder = _Builder({text: modality for modality, text in tokens.items()}, row)
    for message in messages:
        problem = builder.add(message)
        if problem:
            return problem
    return builder.dialogue(asked, wants_answer)


def _turns(row: Mapping[str, Any]) -> tuple[list[Any], int, bool] | str:
    """The messages, how many of them are the prompt, and whether the row needs an answer."""
    whole = ("chosen",) if row.get("prompt") is None else ()  # the prompt is in it
    for name in ("messages", "conversations", *whole):
        if row.get(name) is not None:
            if not _is_list(row[name]):
                return f"{name} is {type(row[name]).__name__}, not a list of messages."
            return list(row[name]), 0, True
    for name in ("prompt", "text"):
        if row.get(name) is None:
            continue
        answer = next((row[key] for key in ("completion", "chosen") if row.get(key)), None)
        wants = any(key in row for key in ("completion", "chosen"))
        asked = _as_turns(row[name], "user")
        return [*asked, *_as_turns(answer, "assistant")], len(asked), wants
    return "The row has none of messages, conversations, prompt and text."


def _as_turns(value: Any, role: str) -> list[Any]:
    if value is None:
        return []
    return list(value) if _is_list(value) else [{"role": role, "content": value}]


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or (
        isinstance(value, Sequence) and not isinstance(value, str | bytes)
    )


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict | Mapping)  # dict first: the check of an ABC costs more


class _Builder:
    """Turns, media and misspelled placeholders, message by message."""

    def __init__(self, tokens: Mapping[str, str], row: Mapping[str, Any]) -> None:
        self.tokens = tokens
        self.spelled = {**MARKERS, **tokens}
        self.columns = {modality: _column(row, names) for modality, names in COLUMNS.items()}
        self.by_marker = row.get("messages") is None and row.get("conversations") is not None
        self.unread: list[str] = [*getattr(row, "unread", ())]
        if _column(row, AUDIO):
            self.unread.append("audio")
        self.unsure: Mapping[str, str] = getattr(row, "unsure", {})
        self.calls: list[int] = []
        self.turns: list[Turn] = []
        self.media: dict[str, list[Any]] = {modality: [] for modality in COLUMNS}
        self.literals: list[str] = []
        self.marked = False
        self.typed = False

    def add(self, message: Any) -> str | None:
        """Take one message; the sentence says why it cannot be taken."""
        if not _is_dict(message):
            return f"A message is {type(message).__name__}, not a dict of role and content."
        said = message.get("content", message.get("value"))
        role = message.get("role", message.get("from"))
        role = SPEAKERS.get(str(role), str(role))
        if message.get("tool_calls"):
            self.unread.append("tool calls")
            self.calls.append(len(self.turns))
        if said is None:
            self.turns.append(Turn(role, ()))
        elif isinstance(said, str):
            self.turns.append(Turn(role, self._split(said)))
        elif _is_list(said):
            parts = [self._part(part) for part in said]
            self.turns.append(Turn(role, tuple(part for part in parts if part is not None)))
        else:
            return f"The content of a message is {type(said).__name__}, not text or a list."
        return None

    def _split(self, text: str) -> tuple[str | tuple[str], ...]:
        """Text in which a marker is the place of a media item."""
        parts: list[str | tuple[str]] = [text]
        for spelled, modality in self.spelled.items():
            if spelled not in text:
                continue
            if not (spelled in self.tokens or self.columns[modality] or self.by_marker):
                self.unread.append(f"whether {spelled} is a place: the row has no {modality}")
                continue
            self.marked = True
            parts = [
                new
                for part in parts
                for new in (_cut(part, spelled, modality) if isinstance(part, str) else [part])
            ]
        return tuple(part for part in parts if part)

    def _part(self, part: Any) -> str | tuple[str] | None:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not _is_dict(part):
            self.unread.append(f"a part that is {type(part).__name__}")
            return None
        modality = MEDIA_TYPES.get(str(part.get("type")))
        if modality is None:
            text = part.get("text")
            if not isinstance(text, str):
                if part.get("type") != "text":
                    self.unread.append(f"a part of type {one_line(part.get('type'), 40)}")
                return None
            self.literals += [spelled for spelled in self.tokens if spelled in text]
            return text
        self.typed = True
        given = next((part[key] for key in _keys(modality) if part.get(key) is not None), None)
        if isinstance(given, Mapping) and "url" in given:
            given = given["url"]
        if given is not None:
            self.media[modality].append(given)
        return (modality,)

    def dialogue(self, asked: int, wants_answer: bool) -> Dialogue:
        """The whole, with media of the row's own columns; the first turns `asked` are a prompt."""
        media = {
            modality: tuple(column) or tuple(self.media[modality])
            for modality, column in self.columns.items()
        }
        turns = self.turns
        if not self.marked and not self.typed:
            turns = _placed(turns, media)
        answers = [
            at
            for at, turn in enumerate(turns)
            if at >= asked and turn.role == "assistant" and (turn.text.strip() or at in self.calls)
        ]
        return Dialogue(
            tuple(turns),
            media,
            wants_answer,
            answers[0] if answers else None,
            tuple(self.literals),
            self.typed,
            tuple(dict.fromkeys(self.unread)),
            self.unsure,
        )


def _keys(modality: str) -> tuple[str, ...]:
    return (modality, f"{modality}_url", "url", "path", "base64")


def _cut(text: str, spelled: str, modality: str) -> list[str | tuple[str]]:
    first, *rest = text.split(spelled)
    return [first, *(one for part in rest for one in ((modality,), part))]


def _column(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    for name in names:
        value = row.get(name)
        if value is not None:
            return list(value) if _is_list(value) else [value]
    return []


def _placed(turns: list[Turn], media: Mapping[str, Sequence[Any]]) -> list[Turn]:
    """Media before the first user text, as `trl.data_utils.prepare_multimodal_messages`."""
    items = tuple((modality,) for modality, given in media.items() for _ in given)
    for at, turn in enumerate(turns):
        if items and turn.role == "user":
            return [*turns[:at], Turn(turn.role, (*items, *turn.parts)), *turns[at + 1 :]]
    return turns
