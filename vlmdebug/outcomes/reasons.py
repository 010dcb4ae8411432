"""What the model would make of a fault, as data: it raises, it runs, or that is unknown, and why.

The reason is a member of `Raises`, `Runs` or `Unknown`, so an outcome cannot contradict it. The
sentence for each reason is in `vlmdebug.checking.text`.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class Raises(Enum):
    """Why the model, or the loss, raises."""

    ALWAYS = auto()
    COUNTS_DIFFER = auto()  # placeholder tokens and features of the chunk
    LENGTHS_DIFFER = auto()  # of tensors of the chunk
    FEWER_FEATURES = auto()
    PADDING_DIFFERS = auto()
    REFUSES_KEY = auto()  # even with zero rows
    TOTALS_DIFFER = auto()
    ONLY_TOTALS = auto()  # the exception names no sample
    PER_SAMPLE = auto()  # images are laid out sample by sample
    NO_GRID = auto()
    NEEDS_KEY = auto()  # where there are pixels
    LOSS = auto()
    RUN_PER_IMAGE = auto()


class Runs(Enum):
    """Why the model runs, and what it computes."""

    WRONG_PIXELS = auto()
    WRONG_TOKENS = auto()
    OTHER_TOKENS = auto()
    NO_ROWS = auto()
    ADDS_UP = auto()
    OTHER_ANSWER = auto()
    TAKES_KEY = auto()
    NO_PIXELS = auto()
    NO_IMAGE = auto()
    TOTALS_AGREE = auto()
    MORE_FEATURES = auto()  # than placeholder tokens; the last ones are ignored
    TOKEN_AS_TEXT = auto()
    SEES_NONE = auto()
    OTHER_IMAGES = auto()
    OTHER_LABELS = auto()
    LEARNS_MEDIA = auto()
    LEARNS_PADDING = auto()
    LEARNS_PROMPT = auto()
    PER_CALL = auto()  # no single call shows the fault
    OTHER_ORDER = auto()
    MIXES = auto()  # tokens of a packed row attend to other samples
    OTHER_PLACES = auto()
    SEES_PADDING = auto()
    UNREAD = auto()  # the same as with the right values
    ACROSS = auto()  # learns the first token of a sample from another one


class Unknown(Enum):
    """Why it is unknown whether the model raises."""

    DEPENDS = auto()  # models differ
    NOT_IN_BATCH = auto()  # the batch does not say
    BY_MARKS = auto()  # models that identify images by token types differ from others
    SIGNATURE = auto()
    RUN_PER_IMAGE = auto()
    ATTENTION = auto()  # kinds of attention differ
    DELTAS = auto()  # forward passes compute their own, and only generation adds them


class Outcome(NamedTuple):
    """What the model would do.

    Attributes:
        reason: Why it raises or runs, or why that is unknown.
        counts: Placeholder tokens and features of the chunk, where these are the reason.
    """

    reason: Raises | Runs | Unknown
    counts: tuple[int, int] | None = None

    @property
    def silent(self) -> bool | None:
        """True where the model runs, False where it raises, None where that is unknown."""
        return None if isinstance(self.reason, Unknown) else isinstance(self.reason, Runs)


DEPENDS = Outcome(Unknown.DEPENDS)
LOUD = Outcome(Raises.ALWAYS)


def outcome(silent: bool | None, runs: Runs, raises: Raises = Raises.ALWAYS) -> Outcome:
    """The outcome for `silent`, with the reason that applies to it.

    >>> outcome(None, Runs.ADDS_UP) == DEPENDS
    True
    """
    return DEPENDS if silent is None else Outcome(runs if silent else raises)
