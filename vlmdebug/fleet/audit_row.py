"""One row of a data set, before it is a batch: its text, its images and what they become."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlmdebug.core.given import public
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.fleet.dialogue import Dialogue, NoRow, Turn, dialogue_of
from vlmdebug.fleet.expansion import (
    Expansion,
    Refused,
    expansion_of,
    placeholder_of,
    require_tokenizer,
)
from vlmdebug.fleet.faults import Fault, Kind
from vlmdebug.fleet.pictures import Picture, picture_of
from vlmdebug.fleet.template import Template, template_of
from vlmdebug.fleet.tokens_of_row import faults_of_cut, joined, kept, runs_of
from vlmdebug.safe import one_line


@dataclass(frozen=True)
class AuditedRow:
    """What one row of a data set becomes.

    Attributes:
        faults: What is wrong, in the order in which it was found.
        places: Places for images in the text.
        images: Images of the row.
        text_tokens: Tokens of the text, without what images become.
        image_tokens: Tokens that each image becomes; None for one without a known size.
        tokens: Tokens of the row as the processor makes them; None if an image is not known.
        sizes: Width and height of each image in pixels; None where not known.
        identity: 16 hexadecimal digits of a hash of the text and of what identifies the images.
        unknown: What was not compared, and why.
    """

    faults: tuple[Fault, ...] = ()
    places: int = 0
    images: int = 0
    text_tokens: int = 0
    image_tokens: tuple[int | None, ...] = ()
    tokens: int | None = None
    sizes: tuple[tuple[int, int] | None, ...] = ()
    identity: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.faults


@dataclass(frozen=True)
class AuditSettings:
    """How rows are audited; equal settings give equal tables.

    Attributes:
        max_length: Tokens after which the trainer cuts a row; None if it does not.
        truncation_side: The side that is cut, `"right"` or `"left"`.
        root: The folder that paths of images are relative to.
        decode: Whether pixels are decoded, which finds image files that end too early.
    """

    max_length: int | None = None
    truncation_side: str = "right"
    root: str = "."
    decode: bool = False

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise BadInput(
                f"max_length={self.max_length}, but a length is at least 1. No row was audited. "
                "Pass the length at which your trainer cuts, or leave it out."
            )
        if self.truncation_side not in ("left", "right"):
            raise BadInput(
                f"truncation_side={self.truncation_side!r}, but it is 'left' or 'right'. "
                "No row was audited. Pass what your tokenizer has."
            )


@public
def audit_row(
    row: Mapping[str, Any],
    processor: Any,
    *,
    max_length: int | None = None,
    truncation_side: str = "right",
    root: str | Path = ".",
    decode: bool = False,
) -> AuditedRow:
    """Say what is wrong with one row of a data set, and what its images become.

    Only the headers of images are read. The row is not changed.

    Args:
        row: `messages` or `conversations`, or `prompt` with `completion` or `chosen`, or `chosen`
            alone, or `text`; and the images in `images` or `image`, or in the messages. An image is
            a PIL image, a path, bytes, `{"bytes": ..., "path": ...}` or
            `{"width": ..., "height": ...}`.
        processor: A transformers processor of images and text.
        max_length: Tokens after which the trainer cuts a row.
        truncation_side: The side that is cut, `"right"` or `"left"`.
        root: The folder that paths of images are relative to.
        decode: Whether to decode pixels, which finds image files that end too early.

    Raises:
        BadInput: The processor takes no images, or an option is out of range. A row that cannot
            be read is no error, but the fault `unreadable`.
    """
    settings = AuditSettings(max_length, truncation_side, str(root), decode)
    return _auditor(processor, _options_of(processor)).rows([row], settings)[0]


@lru_cache(maxsize=4)
def _auditor(processor: Any, options: str) -> Auditor:
    """The auditor of a processor with these options; one that was changed is read again."""
    return Auditor(processor)


def _options_of(processor: Any) -> str:
    """What a user can set on a processor, its image processor and its tokenizer."""
    template = getattr(require_tokenizer(processor), "chat_template", None)
    own = {name: one for name, one in vars(processor).items() if not hasattr(one, "__dict__")}
    return repr((own, vars(processor.image_processor), template))


class Auditor:
    """A processor, and what was learned about it, for many rows."""

    def __init__(self, processor: Any) -> None:
        self.tokenizer: Any = require_tokenizer(processor)
        self.processor = processor
        found = {name: placeholder_of(processor, name) for name in ("image", "video")}
        self.tokens: dict[str, tuple[str, int]] = {
            name: given for name, given in found.items() if given is not None
        }
        self.expansion: Expansion = expansion_of(processor, self.tokens["image"][0])
        self.template: Template | None = template_of(processor)

    def rows(self, rows: Sequence[Any], settings: AuditSettings) -> list[AuditedRow]:
        """All rows; texts are tokenized together, which is faster."""
        read = [self._read(row) for row in rows]
        texts = ["" if isinstance(one, AuditedRow) else one[1] for one in read]
        ids = self.tokenizer(texts, add_special_tokens=self.template is None)["input_ids"]
        return [
            one if isinstance(one, AuditedRow) else _Row(self, *one, of, settings).audited()
            for one, of in zip(read, ids, strict=True)
        ]

    def _read(self, row: Any) -> tuple[Dialogue, str] | AuditedRow:
        """The dialogue of a row and its text, or the row with the fault that it has neither."""
        read = self._dialogue(row)
        try:
            text = read if isinstance(read, str) else self._text(read)
            text.encode()
        except UnicodeEncodeError:
            read = "The text has half of a surrogate pair, which is no character."
        except Exception as error:  # a template raises what it likes
            said = one_line(str(error).partition("\n")[0].rstrip("."), 160)
            read = f"The chat template does not take the messages: {said}."
        else:
            if not isinstance(read, str):
                return read, text
        return AuditedRow((Fault(Kind.UNREADABLE, read),))

    def _dialogue(self, row: Any) -> Dialogue | str:
        if isinstance(row, NoRow):
            return str(row)
        if not isinstance(row, Mapping):
            return f"The row is {type(row).__name__}, not a dict of columns."
        return dialogue_of(row, {modality: text for modality, (text, _) in self.tokens.items()})

    def text(self, row: Mapping[str, Any]) -> str:
        """The text of a row that can be read, as the processor gets it."""
        read = self._read(row)
        return "" if isinstance(read, AuditedRow) else read[1]

    def _text(self, dialogue: Dialogue) -> str:
        """The text that the processor gets, with a placeholder for each media item."""
        if self.template is None:
            return "".join(self._plain(turn) for turn in dialogue.turns)
        content = self._parts if self.template.takes_parts else self._plain
        return self.template.rendered(
            [{"role": turn.role, "content": content(turn)} for turn in dialogue.turns]
        )

    def _parts(self, turn: Turn) -> list[dict[str, str]]:
        return [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": part[0]}
            for part in turn.parts
        ]

    def _plain(self, turn: Turn) -> str:
        return "".join(
            part if isinstance(part, str) else self.tokens.get(part[0], ("", 0))[0]
            for part in turn.parts
        )


class _Row:
    """One dialogue, compared part by part."""

    def __init__(
        self,
        auditor: Auditor,
        dialogue: Dialogue,
        text: str,
        ids: list[int],
        settings: AuditSettings,
    ) -> None:
        self.auditor = auditor
        self.dialogue = dialogue
        self.text = text
        self.ids = ids
        self.settings = settings
        self.faults: list[Fault] = []
        self.unknown: list[str] = list(dialogue.unread)

    def audited(self) -> AuditedRow:
        dialogue = self.dialogue
        places = dialogue.places("image")
        pictures = self._pictures(dialogue.media["image"])
        self._count(places)
        self._answer()
        sizes = [self._image_tokens(nth, one) for nth, one in enumerate(pictures, start=1)]
        tokens = self._length(places, sizes)
        return AuditedRow(
            faults=tuple(self.faults),
            places=places,
            images=len(pictures),
            text_tokens=len(self.ids) - places,
            image_tokens=tuple(sizes),
            tokens=tokens,
            sizes=tuple(_size(one) for one in pictures),
            identity=self._identity(pictures),
            unknown=tuple(self.unknown),
        )

    def _pictures(self, given: Sequence[Any]) -> list[Picture | None]:
        root, decode = Path(self.settings.root), self.settings.decode
        pictures: list[Picture | None] = []
        for nth, one in enumerate(given, start=1):
            read = picture_of(one, nth, root, decode)
            if isinstance(read, Fault):
                self.faults.append(read)
            elif read.width is None:
                self.unknown.append(f"image {nth} is remote and was not fetched")
            pictures.append(None if isinstance(read, Fault) else read)
        return pictures

    def _count(self, places: int) -> None:
        dialogue = self.dialogue
        for spelled in dict.fromkeys(dialogue.literals):
            self.faults.append(Fault(Kind.LITERAL, f"The prose of a message spells {spelled!r}."))
        for modality, media in dialogue.media.items():
            there = dialogue.places(modality)
            has = f"The text has {number(there, 'place')}"
            if there == len(media):
                if media and modality != "image":
                    self.unknown.append(f"{modality}s are counted, their tokens are not")
            elif modality in dialogue.unsure:
                self.unknown.append(dialogue.unsure[modality])
            elif not media:
                said = f"{has} for {modality}s, and the row has none."
                kind = Kind.PLACEHOLDERS if dialogue.typed else Kind.LITERAL
                self.faults.append(Fault(kind, said))
            else:
                said = f"{has} for {modality}s, the row has {len(media)}."
                self.faults.append(Fault(Kind.PLACEHOLDERS, said))

    def _answer(self) -> None:
        dialogue = self.dialogue
        if not any(turn.text.strip() for turn in dialogue.turns) and not dialogue.unread:
            self.faults.append(Fault(Kind.EMPTY, "No message has any text."))
        elif dialogue.wants_answer and dialogue.first_answer is None:
            self.faults.append(Fault(Kind.NO_TARGET, "No message of the assistant has any text."))

    def _image_tokens(self, nth: int, picture: Picture | None) -> int | None:
        if picture is None or picture.width is None or picture.height is None:
            return None
        size = f"{picture.width}x{picture.height} pixels"
        if min(picture.width, picture.height) < 1:
            self.faults.append(Fault(Kind.SIZE, f"Image {nth} has {size}."))
            return None
        try:
            alone = len(self.dialogue.media["image"]) == 1
            return self.auditor.expansion.of(picture.width, picture.height, alone)
        except Refused as error:
            self.faults.append(Fault(Kind.SIZE, f"Image {nth} has {size}: {error}."))
            return None

    def _length(self, places: int, sizes: Sequence[int | None]) -> int | None:
        """Tokens of the whole row; faults of `max_length` if it is longer."""
        known = [size for size in sizes if size is not None]
        placeholder = self.auditor.tokens["image"][1]
        spelled = self.ids.count(placeholder)
        known_places = not (self.dialogue.literals or self.dialogue.places("video"))
        if spelled != places and known_places:
            images = number(places, "image")
            said = f"The chat template writes {number(spelled, 'placeholder')} for {images}."
            self.faults.append(Fault(Kind.PLACEHOLDERS, said))
        unread = self.dialogue.places("video") or self.dialogue.unread
        if not len(known) == len(sizes) == spelled or unread:
            if self.settings.max_length is not None:
                self.unknown.append("what max_length cuts, because the length is not known")
            return None
        known = joined(self.ids, placeholder, known, self.auditor.expansion.joined)
        around = self.auditor.expansion.around if known else 0
        length = len(self.ids) - spelled + sum(known) + around
        most = self.settings.max_length
        if most is not None and length > most:
            left = kept(length, most, self.settings.truncation_side)
            self.faults += faults_of_cut(runs_of(self.ids, placeholder, known), left, length)
            self._answer_left(known, left)
        return length

    def _answer_left(self, sizes: Sequence[int], left: tuple[int, int]) -> None:
        """Whether a cut at the right leaves any of the first answer."""
        turns, first, at = self.dialogue.turns, self.dialogue.first_answer, 0
        if not self.dialogue.wants_answer or first is None:
            return
        for turn in turns[:first]:  # the answer is after all that was said before it
            at = self._after(turn, at)
        at = self.text.find(turns[first].text.strip(), at)
        if at < 0:
            return
        before = self.auditor.tokenizer(self.text[:at], add_special_tokens=False)["input_ids"]
        images = before.count(self.auditor.tokens["image"][1])
        start = len(before) - images + sum(sizes[:images])
        if start >= left[1]:
            self.faults.append(
                Fault(Kind.NO_TARGET, f"The answer begins at token {start}, after the cut.")
            )

    def _after(self, turn: Turn, at: int) -> int:
        """Where a turn ends in the text, at or after a place; that place if it is not found."""
        for part in turn.parts:
            said = part.strip() if isinstance(part, str) else ""
            found = self.text.find(said, at)
            at = at if found < 0 else found + len(said)
        return at

    def _identity(self, pictures: Sequence[Picture | None]) -> str:
        hashed = hashlib.blake2b(self.text.encode(errors="surrogatepass"), digest_size=8)
        for one in pictures:
            hashed.update(b"\0" + (one.identity if one else b"?"))
        return hashed.hexdigest()


def _size(picture: Picture | None) -> tuple[int, int] | None:
    if picture is None or picture.width is None or picture.height is None:
        return None
    return picture.width, picture.height
