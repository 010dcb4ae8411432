"""`falsify`: find the smallest batch that breaks a slicer."""

from __future__ import annotations

from collections.abc import Callable, Collection, MutableMapping, Sequence
from typing import Any, overload

from vlmdebug.core.given import public
from vlmdebug.core.signature import Slicer
from vlmdebug.core.tensors import in_host_memory
from vlmdebug.errors import MismatchError
from vlmdebug.families import family_named
from vlmdebug.running.collator import Collator
from vlmdebug.running.counterexample import Counterexample, Tried
from vlmdebug.running.row_search import RowsCounterexample, RowSearch
from vlmdebug.running.search import Search
from vlmdebug.running.settings import DEFAULTS, FalsifySettings, documented


@overload
def falsify(slicer: Collator, /, **options: Any) -> RowsCounterexample | None: ...
@overload
def falsify(
    slicer: Slicer | Callable[[Any, Any, Any], Any], /, **options: Any
) -> Counterexample | None: ...
@documented
@public
def falsify(
    slicer: Slicer | Callable[..., Any] | Collator,
    *,
    families: Sequence[str] | None = DEFAULTS.families,
    max_examples: int = DEFAULTS.max_examples,
    seconds: float | None = DEFAULTS.seconds,
    seed: int = DEFAULTS.seed,
    text_only: bool = DEFAULTS.text_only,
    clips: bool | Collection[str] = DEFAULTS.clips,
    position_ids: bool = DEFAULTS.position_ids,
    padding_side: str | None = DEFAULTS.padding_side,
    tried: MutableMapping[str, int] | None = None,
) -> Counterexample | RowsCounterexample | None:
    """The smallest batch that `slicer` cuts wrongly; None if no such batch was found.

    Batches have up to 5 samples of up to 3 images; one in ten has up to 8 samples of up to 4. Chunk
    sizes go up to one more than the samples. If models of a family take videos or audio, some
    batches have clips, at most 2 per sample and of one kind; some have `labels`, or M-RoPE's
    `position_ids`. A slicer that never passes a key of clips, or `position_ids`, is not blamed for
    leaving it out. A slicer that makes its own `labels` or `position_ids` gets batches without
    them. A batch that it refuses even as a single chunk is reported last, because no cut is the
    cause.

    For a collator, `vd.collator(collate, processor)`, it draws rows of a dataset: up to 4 with 0 to
    3 images, of several sizes, and short to very long texts. `max_examples` counts sets of rows.

    Args:
        slicer: As for `check`, or a `Collator`.
        options: As `FalsifySettings` describes them.
        tried: Filled with the number of cases judged per family, the evidence behind a `None`. Each
            is a `Tried`; its `left_out` names keys that the slicer never passed, such as those of
            audio. They were not checked.

    Returns:
        The counterexample, or None if every case tried was cut correctly.

    Raises:
        BadInput: A family is unknown, or the slicer gives no chunks.
        AmbiguousError: No case was found to be cut wrongly, but some could not be judged; the
            message names the smallest of these.
    """
    settings = FalsifySettings(
        families, max_examples, seconds, seed, text_only, clips, position_ids, padding_side
    )
    if isinstance(slicer, Collator):
        return RowSearch(slicer, settings, tried).first()
    with in_host_memory():  # as the batches, and what code makes next to them
        return Search(slicer, settings, tried).first()


@overload
def falsify_all(slicer: Collator, /, **options: Any) -> tuple[RowsCounterexample, ...]: ...
@overload
def falsify_all(
    slicer: Slicer | Callable[[Any, Any, Any], Any], /, **options: Any
) -> tuple[Counterexample, ...]: ...
@documented
@public
def falsify_all(
    slicer: Slicer | Callable[..., Any] | Collator,
    *,
    families: Sequence[str] | None = DEFAULTS.families,
    max_examples: int = DEFAULTS.max_examples,
    seconds: float | None = DEFAULTS.seconds,
    seed: int = DEFAULTS.seed,
    text_only: bool = DEFAULTS.text_only,
    clips: bool | Collection[str] = DEFAULTS.clips,
    position_ids: bool = DEFAULTS.position_ids,
    padding_side: str | None = DEFAULTS.padding_side,
    tried: MutableMapping[str, int] | None = None,
) -> tuple[Counterexample, ...] | tuple[RowsCounterexample, ...]:
    """As `falsify`, but one result for every family and kind of mismatch; no case is repeated.

    Args:
        slicer: As for `check`.
        options: As `FalsifySettings` describes them.
        tried: As for `falsify`.

    Raises:
        BadInput: As for `falsify`.
        AmbiguousError: As for `falsify`.
    """
    settings = FalsifySettings(
        families, max_examples, seconds, seed, text_only, clips, position_ids, padding_side
    )
    if isinstance(slicer, Collator):
        return RowSearch(slicer, settings, tried).all()
    with in_host_memory():
        return Search(slicer, settings, tried).all()


def survived(slicer: Slicer, family: str, *, max_examples: int, seed: int) -> Tried:
    """The number of cases of one family that a slicer passes, if it passes all keys of its models.

    Raises:
        MismatchError: The smallest batch that it cuts wrongly.
        AmbiguousError: None was found to be cut wrongly, but some could not be judged.
    """
    name, tried = family_named(family).name, dict[str, int]()
    settings = FalsifySettings([name], max_examples, seed=seed)
    with in_host_memory():
        found = Search(slicer, settings, tried, spares=False).first()
    if found is not None:
        details = "\n".join(finding.message for finding in found.report.findings)
        raise MismatchError(f"{found!r}\n{details}", found.report) from found.error
    return Tried(tried[name])
