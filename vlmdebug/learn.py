"""Predict, then check: a reader predicts the rows of a chunk and sees to which samples they belong.

For notebooks and classes. `predict` asks about any batch, `exercise` draws a small one from a seed.
A wrong answer is not corrected at once: the first one names the owners of the predicted rows, the
second one adds a hint, and the third one the rule, so that there is something left to find out.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from numbers import Integral

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import described, public
from vlmdebug.core.layout import plural
from vlmdebug.core.owners import owners_of
from vlmdebug.core.presence import ExpectedRows, expected_rows
from vlmdebug.core.record import KeyReport, KeyState
from vlmdebug.core.rows import Rows, chunk_bounds
from vlmdebug.core.wording import image_name, letter, number
from vlmdebug.errors import BadInput
from vlmdebug.families.lessons import TOPICS
from vlmdebug.running.synthetic import make_batch
from vlmdebug.safe import escaped, harmless, one_line
from vlmdebug.views.strips import BLUE, VERMILION, strip

Said = slice | range | tuple[int, int] | str | None

NO_KEY = ("absent", "none", "no key")
MOST_TERMS = 8
"""Most numbers of a sum that are written out."""
BOX = "padding:.4em .9em;margin:.4em 0;line-height:1.5;max-width:48rem"
CELL = ' style="text-align:left;padding:.2em .9em .2em 0"'

MOST_QUESTIONS = 256
_wrong_answers: dict[Hashable, list[str]] = {}
"""The different wrong answers to each of the last questions. A cell that makes its batch again asks
the same question again."""


@dataclass(frozen=True, repr=False)
class Answer:
    """The result of a prediction; a notebook shows it as HTML.

    Attributes:
        right: Whether the chunk owns exactly these rows.
        owners: To which samples the predicted rows belong; empty if the prediction is right.
        hint: What to look at next, from the second wrong answer on.
        rule: How the rows are computed: of a right answer, and from the third wrong one on.
        picture: The predicted rows in the tensor as an HTML image; it comes with the rule.
    """

    right: bool
    owners: str = ""
    hint: str = ""
    rule: str = ""
    picture: str = ""

    @property
    def explanation(self) -> str:
        """All that is said, in one line."""
        return " ".join(part for part in (self.owners, self.hint, self.rule) if part)

    @property
    def _verdict(self) -> str:
        return "✓ Right." if self.right else "✗ Not yet."

    @property
    def _then(self) -> str:
        """What another wrong answer brings."""
        coming = "the rule" if self.hint else "a hint"
        return "" if self.rule else f"Try again. After another wrong answer you get {coming}."

    def __str__(self) -> str:
        said = (self.owners, self.hint, self.rule, self._then)
        return harmless("\n  ".join([self._verdict, *(part for part in said if part)]))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        said = (self.owners, self.hint, self.rule, self._then)
        line = BLUE if self.right else VERMILION
        return (
            f'<div style="border-left:5px solid {line};{BOX}"><strong>{self._verdict}</strong> '
            f"{'<br>'.join(escaped(part) for part in said if part)}"
            f"{'<br>' if self.picture else ''}{self.picture}</div>"
        )


@public
def predict(batch: Batch, key: str, rows: Said, *, chunk: int, chunk_size: int = 1) -> Answer:
    """Predict which rows of `key` a chunk owns, and see which samples own them.

    Three different wrong answers to the same question say more and more: to which samples the
    predicted rows belong, a hint, the rule. The same answer again says the same again.

    Args:
        batch: The batch.
        key: The tensor.
        rows: `slice(2, 3)`, `(2, 3)`, `range(2, 3)`, or None (also `"no key"`, `"none"`,
            `"absent"`, `slice(0, 0)`) for a key that the chunk must not be given.
        chunk: Number of the chunk, from 0.
        chunk_size: Samples per chunk.

    Raises:
        AmbiguousError: The rows of the key cannot be assigned to samples.
        BadInput: The batch has no such key or chunk, or `rows` is none of these.
    """
    if not isinstance(batch, Batch):
        raise BadInput(f"batch is {described(batch)}, but predict takes a Batch: read_batch(…).")
    bounds = chunk_bounds(len(batch), chunk_size)
    counted = [name for name, axis in batch.layout.items() if axis.unit in batch.counts]
    known = [*counted, *batch.unsettled]
    if key not in known or chunk not in range(len(bounds)):
        raise BadInput(
            f"{one_line(repr(key), 80)} in chunk {chunk} was asked for, but the batch has "
            f"{', '.join(one_line(name, 80) for name in known)} in "
            f"{number(len(bounds), 'chunk')}, from 0. Name one of these."
        )
    samples = range(*bounds[chunk])
    asked = _Question(batch, key, samples, expected_rows(batch, key, batch.part(samples)))
    said = _rows(rows)
    if asked.is_right(said, empty=isinstance(rows, slice)):
        return Answer(True, rule=asked.rule(), picture=asked.picture())
    place = _tries_before(asked, said)
    return Answer(
        False,
        asked.owners(said),
        asked.hint() if place >= 1 else "",
        f"Rule: {asked.rule()}" if place >= 2 else "",
        asked.picture(said) if place >= 2 else "",
    )


def _tries_before(asked: _Question, said: Rows | None) -> int:
    """Other wrong answers to the same question that came first."""
    batch, key = asked.batch, asked.key
    question = str(batch.layout), key, tuple(asked.counts), asked.samples
    tries = _wrong_answers.setdefault(question, [])
    if len(_wrong_answers) > MOST_QUESTIONS:
        del _wrong_answers[next(iter(_wrong_answers))]
    answer = str(said)
    if answer not in tries:
        tries.append(answer)
    return tries.index(answer)


def _rows(rows: Said) -> Rows | None:
    """The predicted rows; None for a key that is left out."""
    nothing = rows is None or (isinstance(rows, str) and rows.lower() in NO_KEY)
    if nothing or (isinstance(rows, slice) and rows == slice(0, 0)):
        return None
    pair: Sequence[object] = ()
    if isinstance(rows, (slice, range)) and rows.step in (None, 1):
        pair = (rows.start or 0, rows.stop)
    elif isinstance(rows, (tuple, list)):
        pair = rows
    whole = [int(one) for one in pair if isinstance(one, Integral) and not isinstance(one, bool)]
    if len(pair) == len(whole) == 2 and min(whole) >= 0 and max(whole) < 2**63:
        return Rows([(whole[0], max(whole))])
    raise BadInput(
        f"{one_line(repr(rows), 80)} was predicted, but rows are a slice(start, stop), or None for "
        "no key. Nothing was compared."
    )


@dataclass(frozen=True)
class _Question:
    """Which rows of `key` belong to a chunk of these samples."""

    batch: Batch
    key: str
    samples: range
    expected: ExpectedRows

    @property
    def unit(self) -> str:
        return self.batch.layout[self.key].unit

    @property
    def name(self) -> str:
        return one_line(self.key, 80)

    @property
    def row(self) -> str:
        return "column" if self.unit == "token" else "row"

    @property
    def counts(self) -> Sequence[int]:
        """Rows of each sample of the batch."""
        return self.batch.counts[self.unit]

    @property
    def media(self) -> str | None:
        """What a chunk must own to get the key: images, or their tiles; None if it always does."""
        given, counts = self.batch.layout.given_with(self.key), self.batch.counts
        modality = self.batch.of_key.get(self.key)
        if given is None or modality is None:
            return given
        some = modality.name in counts and any(counts[modality.name][s] for s in self.samples)
        return given if some else modality.name

    def is_right(self, said: Rows | None, *, empty: bool) -> bool:
        """`empty`: `slice(0, 0)` was said, which is also zero rows."""
        rows, presence, without_empty = self.expected
        if said is not None:
            return presence != "absent" and self._inside(said) in (rows, without_empty)
        if presence == "either" and self.media is not None:
            return True
        return presence == "absent" or (empty and not rows)

    def owners(self, said: Rows | None) -> str:
        """To which samples the predicted rows belong, and which samples the chunk has."""
        holds = f"This chunk holds {_named(self.samples)}."
        if said is None:
            lost = f" {plural(self.media)}" if self.media else f" {plural(self.row)}"
            return f"Without {self.name}, the chunk would lose its{lost}. {holds}"
        if not said:
            same = " The number is right, but a key with zero rows is still a key."
            zero = f"You predicted zero {plural(self.row)}. {holds}"
            return zero if self.expected.rows else f"{zero}{same}"
        inside = self._inside(said)
        total = number(sum(self.counts), self.row)
        beyond = f"{self.name} has {total} in the whole batch. " if inside != said else ""
        owned = owners_of(self.batch, self.key, inside)
        belong = (
            f"{plural(self.row).capitalize()} {inside} of {self.name} belong to {owned}. "
            if owned
            else ""
        )
        return f"{beyond}{belong}{holds}{self._share(inside)}"

    def _inside(self, said: Rows) -> Rows:
        """The rows that a slice reaches: it may end behind the last row."""
        total = sum(self.counts)
        return Rows([(start, min(stop, total)) for start, stop in said.ranges if start < total])

    def _share(self, said: Rows) -> str:
        own, given = set(self.expected.rows), set(said)
        if own and own < given:
            return " Its rows are among these, but there are too many."
        return " These rows are its own, but some are missing." if given and given < own else ""

    def hint(self) -> str:
        """What to look at, without the numbers."""
        if self.expected.presence == "absent":
            return (
                f"Hint: count the {plural(self.media or 'image')} of {_named(self.samples)}. "
                f"What does a chunk without any get?"
            )
        if self.unit == "sample":
            return f"Hint: one row of {self.name} is one sample, for any number of images."
        return (
            f"Hint: one {self.row} of {self.name} is one {self.unit}. The chunk begins after "
            f"the {plural(self.unit)} of all samples before it."
        )

    def rule(self) -> str:
        """How the rows are computed."""
        who, samples = _named(self.samples), self.samples
        if self.expected.presence == "absent":
            lone = len(samples) == 1
            return (
                f"{who.capitalize()} {'has' if lone else 'have'} no {self.media or 'image'}, so "
                f"the chunk must not have {self.name} at all: None. A key with zero rows is not "
                "the same as no key."
            )
        if not self.expected.rows:
            return (
                f"The chunk holds {who} without any {self.media or self.unit}: no key, or no rows."
            )
        rows = f"That is {self.name}[{self.expected.rows}]."
        if self.unit == "sample":
            kept = self.key in self.batch.layout.media and self.media is None
            always = " This model needs it with and without images." if kept else ""
            return f"One row of {self.name} is one sample, so the chunk gets {who}.{always} {rows}"
        own, before = self.counts[samples.start : samples.stop], self.counts[: samples.start]
        begins = f"No sample comes before, so the {plural(self.row)} begin at 0"
        if before:
            begins = f"The samples before have {self._sum(before)}, so the {plural(self.row)} "
            begins += f"begin at {sum(before)}"
        has = "has" if len(samples) == 1 else "have"
        return (
            f"One {self.row} of {self.name} is one {self.unit}. {begins}. "
            f"{who.capitalize()} {has} {self._sum(own)}. {rows}"
        )

    def _sum(self, counts: Sequence[int]) -> str:
        """`2 + 0 + 1 = 3 images`."""
        total = number(sum(counts), self.unit)
        if not 1 < len(counts) <= MOST_TERMS:
            return total
        return f"{' + '.join(map(str, counts))} = {total}"

    def picture(self, *wrong: Rows | None) -> str:
        """The chunk's rows, or the predicted ones that are wrong, among all of the tensor."""
        own = self.expected.rows
        found = KeyReport(KeyState.OK, own, own)
        if wrong:
            said = None if wrong[0] is None else self._inside(wrong[0])
            found = KeyReport(KeyState.WRONG_ROWS, own, said)
        return strip(found, self.key, sum(self.counts))


def _named(samples: range) -> str:
    """`sample 2`, `samples 2 and 3`, `samples 2 to 4`."""
    if len(samples) == 1:
        return f"sample {samples[0]}"
    return f"samples {samples[0]} {'and' if len(samples) == 2 else 'to'} {samples[-1]}"


# --- exercises -------------------------------------------------------------------------------

HOW = (
    "Samples, chunks and rows are numbered from 0. Answer with predict(slice(start, stop)), or "
    "predict(None) if the chunk must not have this key."
)


@dataclass(frozen=True, eq=False, repr=False)
class Exercise:
    """A question about one chunk of a small batch; a notebook shows it as HTML.

    Attributes:
        batch: The batch, without a model: `(sample, seq)` tokens and numbered media rows.
        key: The tensor that is asked about.
        chunk: Number of the chunk, from 0.
        chunk_size: Samples per chunk.
    """

    batch: Batch
    key: str
    chunk: int
    chunk_size: int

    def predict(self, rows: Said) -> Answer:
        """Answer it: `slice(start, stop)`, or None if the chunk must not have the key.

        Raises:
            BadInput: `rows` is none of these.
        """
        return predict(self.batch, self.key, rows, chunk=self.chunk, chunk_size=self.chunk_size)

    @property
    def _head(self) -> str:
        return f"{self.batch.layout.family}: {number(len(self.batch), 'sample')}"

    @property
    def _facts(self) -> list[str]:
        """What a row of the tensor is, and the sizes of the images as the batch has them."""
        inputs, feature_key = self.batch.inputs, self.batch.layout.feature_key or ""
        shape = tuple(inputs[self.key].shape)
        found = [f"{self.key}: {self.batch.layout[self.key]}, shape {shape}"]
        sizes = inputs.get(feature_key)
        if sizes is not None and sizes.ndim == 2 and sizes.shape[1] <= 3:  # (image, 2 or 3)
            found.append(f"{feature_key}: {sizes.tolist()}")
        return found

    @property
    def _question(self) -> str:
        size = "1 sample" if self.chunk_size == 1 else f"up to {self.chunk_size} samples"
        return f"Each chunk has {size}. Which rows of {self.key} does chunk {self.chunk} get?"

    def _images(self, sample: int) -> str:
        """`A1, A2`, with their tiles where images have some."""
        offsets = self.batch.counts["image"].offsets
        tiles = self.batch.per_image.get("tile")
        images = range(offsets[sample], offsets[sample + 1])
        names = [image_name(sample, image - offsets[sample]) for image in images]
        if tiles is not None:
            parts = [number(tiles[image], "tile") for image in images]
            names = [f"{name} ({part})" for name, part in zip(names, parts, strict=True)]
        return ", ".join(names) or "no image"

    def __str__(self) -> str:
        lines = [
            f"  sample {sample} ({letter(sample)}): {self._images(sample)}"
            for sample in range(len(self.batch))
        ]
        return "\n".join([self._head, *lines, *self._facts, self._question, HOW])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        body = "".join(
            f'<tr><th scope="row"{CELL}>{sample} ({letter(sample)})</th>'
            f"<td{CELL}>{self._images(sample)}</td></tr>"
            for sample in range(len(self.batch))
        )
        facts = "<br>".join(escaped(fact) for fact in self._facts)
        return (
            f'<div style="{BOX}"><table style="table-layout:auto;border-collapse:collapse">'
            f'<caption style="text-align:left;white-space:nowrap"><strong>{escaped(self._head)}'
            "</strong></caption>"
            f'<thead><tr><th scope="col"{CELL}>sample</th><th scope="col"{CELL}>images</th></tr>'
            f"</thead><tbody>{body}</tbody></table>"
            f'<p style="margin:.4em 0">{facts}</p>'
            f'<p style="margin:.4em 0"><strong>{escaped(self._question)}</strong><br>'
            f"{escaped(HOW)}</p></div>"
        )


@public
def exercise(topic: str | None = None, *, seed: int = 0) -> Exercise:
    """A question about a small batch that a seed draws: each student can have another one.

        question = exercise("tiles", seed=3)
        question.predict(slice(2, 5))

    Args:
        topic: `"images"`, `"patches"`, `"tiles"`, `"padded"` (one padded row per sample) or
            `"text-only"` (some chunks have no image). None takes them in turn, by the seed.
        seed: The same number draws the same question.

    Raises:
        BadInput: There is no such topic.
    """
    if topic is not None and topic not in list(TOPICS):
        raise BadInput(
            f"topic is {described(topic)}, but exercises are about {', '.join(TOPICS)}. "
            "Nothing was drawn. Name one of these, or none."
        )
    draw = random.Random(f"{topic} {seed}")
    turn, place = (seed, seed) if topic else (seed // len(TOPICS), seed % len(TOPICS))
    about = topic or list(TOPICS)[place]
    family = TOPICS[about][turn % len(TOPICS[about])]
    samples, size = draw.randint(4, 6), draw.randint(1, 3)
    images = [draw.choice((0, 1, 1, 2, 3)) for _ in range(samples)]
    images[0] = draw.choice((2, 3))  # so that images and samples are never numbered alike
    chunks = chunk_bounds(samples, size)
    chunk = draw.randrange(1, len(chunks))
    own = range(*chunks[chunk])
    if about == "text-only":  # the chunk, and the sample before it
        bare = {*own, own[0] - 1} - {0}
        images = [0 if sample in bare else count for sample, count in enumerate(images)]
    if about != "text-only" or draw.random() < 1 / 3:
        images[own[-1]] = images[own[-1]] or draw.choice((1, 2))
    batch = make_batch(family, images, [draw.randint(1, 4) for _ in range(sum(images))])
    media = [key for key in batch.layout.media if about == "patches" or key == "pixel_values"]
    return Exercise(batch, draw.choice(media), chunk, size)
