"""`check`: run a slicer on a batch and judge the rows it passes to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from vlmdebug.checking.compare import compare
from vlmdebug.checking.report import Report
from vlmdebug.core.batch import Batch
from vlmdebug.core.given import public
from vlmdebug.core.observed import ObservedCall, SlicerRun
from vlmdebug.core.rows import Rows, chunk_bounds
from vlmdebug.core.signature import Slicer
from vlmdebug.errors import BadInput, NotJudged
from vlmdebug.families.pictures import in_order, scene_of
from vlmdebug.families.read import read_as_it_is
from vlmdebug.running.batch_report import batch_report, with_own_values
from vlmdebug.running.check_rows import as_collator, collated, report_on
from vlmdebug.running.collator import Collator
from vlmdebug.running.handed import handed, one_report
from vlmdebug.running.lists import with_lists
from vlmdebug.running.raised import place_of
from vlmdebug.running.record import bound
from vlmdebug.running.split import Call, split_of
from vlmdebug.safe import one_line
from vlmdebug.tracking.rows import RowFinder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL = 8
"""Largest samples and images of a batch for which images are drawn by default."""
MOST_IMAGES = 4
"""Images drawn on each side of a finding."""
FEW = 1
"""Images drawn on each side of the worst finding, where the batch is not small."""
MOST_CHUNKS = 10
"""Chunks per sample after which a slicer is not waited for any longer."""


@overload
def check(collator: Collator, rows: Sequence[Any], /) -> Report: ...
@overload
def check(
    slicer: Slicer | Callable[..., Any],
    batch: Any,
    /,
    *,
    chunk_size: int = 1,
    pictures: bool | Sequence[Any] | None = None,
    **reading: Any,
) -> Report: ...
@overload
def check(
    batch: Any, /, *, pictures: bool | Sequence[Any] | None = None, **reading: Any
) -> Report: ...
@public
def check(
    *args: Any,
    chunk_size: int = 1,
    pictures: bool | Sequence[Any] | None = None,
    **reading: Any,
) -> Report:
    """Judge a slicer on a batch, or a batch alone.

    `check(slicer, batch, chunk_size=2)` runs `slicer(inputs, chunk_size)`, which gives the model
    inputs of one chunk after another, and compares the rows of each tensor it yields with the rows
    that the chunk's samples own: which rows they are, not how many. The slicer gets a fresh dict of
    the batch's own tensors, with `num_images` (and `num_tiles`, where tiles are counted) as lists
    per sample.

    `check(batch)` only checks whether placeholder tokens and features match, per sample.

    `check(vd.collator(collate, processor), rows)` collates the rows together and each of them
    alone, and compares both: tokens, labels and media may differ by padding only. It also checks
    the batch itself.

    Args:
        *args: `slicer, batch` or `batch`. A batch is a `Batch` or what a processor returned.
            Alone, it may also be a path of a saved batch, a list or data set of processed samples,
            a DataLoader, or a trainer; of the last two, the collator and the first two batches are
            checked. A function with rows of a data set is a collator.
        chunk_size: Samples per chunk; the last chunk may hold fewer.
        pictures: Whether the report shows the images that its findings are about, restored from
            the pixel values. None: of a batch that is not small, the first images of the worst
            finding alone. Or the PIL images that the processor was given,
            flat or per sample, to be shown instead.
        **reading: `processor=`, `num_images=` and the other arguments of `read_batch`, where the
            batch is not read yet.

    A slicer that shuffles on purpose says so by an attribute, `slicer.any_order = True`; then only
    rows that do not follow their sample are mismatches. One that repeats each sample on purpose, as
    for beams or generations, says how often: `slicer.expand_size = 2`, or None for as often as it
    likes, each alike. One that splits the tokens of each chunk over ranks says over how many,
    `slicer.shards = 2`, and yields as many dicts per chunk; `slicer.embedded = True` says that
    tokens are embedded before the split.

    Raises:
        BadInput: The arguments are no slicer and batch, or the slicer yields no mappings.
    """
    args, reading = as_collator(args, reading)
    if args and isinstance(args[0], Collator):
        return collated(args, pictures, reading)
    listed: tuple[str, ...] = ()
    if len(args) == 1 and not isinstance(args[0], Batch):
        found = handed(args[0], reading)
        if len(found) > 1 or found[0].trial is not None:
            return one_report([(one, report_on(one, reading)) for one in found])
        listed, args = found[0].listed, (found[0].batch,)
    slicer, batch = _arguments(args, reading)
    chunk_bounds(len(batch), chunk_size)
    originals = None
    if pictures is not None and not isinstance(pictures, bool):
        originals = in_order(pictures, batch)
    report = (
        with_lists(batch_report(batch), listed, batch)
        if slicer is None
        else with_own_values(compare(batch, run(slicer, batch, chunk_size)), batch)
    )
    if pictures is None:
        if not report.mismatches or "image" not in batch.counts:
            return report
        return illustrated(report, batch, most=None if _is_small(batch) else FEW)
    return report if pictures is False else illustrated(report, batch, originals)


@public
def plot_layout(batch: Any, ax: Axes | None = None, **reading: Any) -> Axes:
    """Draw which tensor of a batch counts what: samples, images and media keys as lanes.

    Args:
        batch: A `Batch` or what a processor returned.
        ax: Axes to draw on; a new figure's by default.
        **reading: As for `check`.

    Raises:
        BadInput: Images per sample are not known, so that no row is anybody's.
        VlmDebugError: matplotlib is not installed.
    """
    return check(batch, pictures=True, **reading).plot_layout(ax)


def illustrated(
    report: Report,
    batch: Batch,
    originals: Sequence[Any] | None = None,
    *,
    most: int | None = None,
) -> Report:
    """The report with a scene: the batch's images where its findings need them.

    With `most`, only so many on each side, of the worst finding.
    """
    scene = scene_of(batch)
    if scene is None:
        return report
    wanted: list[int] = []
    parts: dict[str, tuple[int, Rows]] = {}
    shown = report.findings if most is None else report.findings[:1]
    most = MOST_IMAGES if most is None else most
    for worst in (finding.worst for finding in shown):
        for rows in (worst.expected, worst.actual) if worst.key is not None else ():
            wanted += scene.images_in(worst.key or "", rows)[:most]
        key, given = worst.key or "", worst.actual
        if key != "pixel_values" or given is None:
            continue
        for image in scene.images_in(key, given)[:most]:
            if scene.share(key, image, given) != scene.name(image):
                parts[scene.part(key, image, given)] = image, given
    return replace(report, scene=scene_of(batch, wanted, originals, parts) if wanted else scene)


def _is_small(batch: Batch) -> bool:
    """Whether drawing all images of its findings costs next to nothing."""
    return len(batch) <= SMALL and batch.counts["image"].total <= SMALL


def _arguments(args: tuple[Any, ...], reading: dict[str, Any]) -> tuple[Slicer | None, Batch]:
    if not 1 <= len(args) <= 2:
        raise BadInput(
            f"check was given {len(args)} arguments, but it takes a slicer and a batch, "
            "or a batch alone: check(slicer, batch, chunk_size=2) or check(batch)."
        )
    slicer = args[0] if len(args) == 2 else None
    if len(args) == 2 and not callable(slicer):
        raise BadInput(
            f"The slicer is a {type(slicer).__name__}, but a slicer is a function of (inputs, "
            "chunk_size) that gives the model inputs of each chunk. Call check(slicer, batch)."
        )
    slicer = None if slicer is None else bound(slicer)
    return slicer, read_as_it_is(args[-1], **reading)


def run(
    slicer: Slicer,
    batch: Batch,
    chunk_size: int,
    keep: Callable[[Call], None] = lambda call: None,
    *,
    plain: bool = False,
) -> SlicerRun:
    """SlicerRun the slicer and find the rows of everything it gives.

    `keep` is called with each chunk, as the slicer gave it. A slicer that raises at once gets the
    batch again as it is, `plain`, without the lists of counts: one that treats all keys as tensors,
    as `{key: value.to(device)}`, works on that.
    """
    batch.refuse_packed()
    bounds, chunk_size = chunk_bounds(len(batch), chunk_size), int(chunk_size)
    expand_size, split = _expand_size(slicer), split_of(slicer)
    finder = RowFinder(batch.inputs, batch.layout, by_value=True)
    inputs = TrackedInputs(batch.inputs if plain else batch.for_slicer(), batch.token_ids)
    chunks: list[ObservedCall] = []
    error: BaseException | None = None
    steps = split.calls(_steps(slicer, inputs, chunk_size, finder))
    while True:
        try:
            ranks = next(steps)
        except StopIteration:
            break
        except NotJudged:
            raise
        except SystemExit as end:
            raise NotJudged(
                f"The slicer ended the process: {_ended(end)}. Nothing was judged. "
                "Let it return, or raise an exception of its own."
            ) from end
        except Exception as raised:  # the slicer's own, kept with what came before it
            _refuse_gap(raised)
            error = raised
            break
        for given in ranks:
            _refuse_other(given, len(chunks))
        if len(chunks) > MOST_CHUNKS * len(batch) * (expand_size or 1):
            break  # its loop does not end; the samples that came again are in the report
        expected = range(*bounds[len(chunks)]) if len(chunks) < len(bounds) else range(0)
        call = split.seen(batch, finder, ranks, expected)
        chunks.append(call.used)
        keep(call)
    if error is not None and not (chunks or plain or finder.written()):
        again = _plainly(slicer, batch, chunk_size, keep)
        if again is not None:
            return again
    return SlicerRun(
        _judged_apart(chunks, finder.written()),
        chunk_size,
        slicer=getattr(slicer, "__name__", type(slicer).__name__),
        error=error,
        error_place=place_of(error) if error else None,
        missing_lookups=tuple(inputs.missing_lookups),
        any_order=getattr(slicer, "any_order", False),
        expand_size=expand_size,
        shards=split.shards,
    )


def _plainly(
    slicer: Slicer, batch: Batch, chunk_size: int, keep: Callable[[Call], None]
) -> SlicerRun | None:
    """The run on the batch as it is; None where it gives no chunk, or cannot be judged."""
    calls: list[Call] = []
    try:
        again = run(slicer, batch, chunk_size, calls.append, plain=True)
    except BadInput:  # or NotJudged, which is one
        return None
    for call in calls:
        keep(call)
    return again if again.chunks else None


def _refuse_other(given: Any, chunk: int) -> None:
    """Refuse a chunk that is no mapping."""
    if not isinstance(given, Mapping) and not hasattr(given, "keys"):
        raise BadInput(
            f"The slicer gave a {type(given).__name__} as chunk {chunk}, but a chunk is "
            "a mapping of names to tensors, as for model(**chunk). Nothing was judged. "
            "Yield one dict per chunk."
        )


def _judged_apart(chunks: list[ObservedCall], written: Sequence[str]) -> list[ObservedCall]:
    """The chunks without rows of keys that the slicer wrote into: they are not what they were."""
    return [
        replace(
            chunk,
            keys={k: u._replace(rows=None) if k in written else u for k, u in chunk.keys.items()},
        )
        if written
        else chunk
        for chunk in chunks
    ]


def _expand_size(slicer: Slicer) -> int | None:
    """How often the slicer says that each sample comes; None where it leaves that open."""
    size = getattr(slicer, "expand_size", 1)
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise BadInput(
            f"The slicer's expand_size is {size!r}, but it says how often each sample comes: a "
            "whole number, at least 1. Nothing was judged. Set slicer.expand_size = 2, or leave it."
        )
    return size


class TrackedInputs(dict[str, Any]):
    """The inputs a slicer gets; records the missing names that it looked up.

    Attributes, `.to` and `.data` work too, as on the `BatchFeature` that a processor returns.
    `token_ids` are the batch's placeholder tokens, for the config of a model that stands in.
    """

    def __init__(
        self, inputs: Mapping[str, Any], token_ids: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(inputs)
        self.__dict__.update(missing_lookups={}, token_ids=token_ids or {})

    @property
    def data(self) -> TrackedInputs:
        return self

    def copy(self) -> TrackedInputs:
        return self._with(self)

    def to(self, *args: Any, **kwargs: Any) -> TrackedInputs:
        """Every tensor on that device; those of floating point in that dtype."""
        place = kwargs.get("device", args[0] if args else None)
        names_device = isinstance(place, (str, int)) or type(place).__name__ == "device"

        def moved(value: Any) -> Any:
            if not hasattr(value, "is_floating_point"):
                return value
            if value.is_floating_point():
                return value.to(*args, **kwargs)
            return value.to(place) if names_device else value

        return self._with({key: moved(value) for key, value in self.items()})

    def _with(self, inputs: Mapping[str, Any]) -> TrackedInputs:
        """Other inputs; missing names that are looked up in them are recorded here."""
        made = TrackedInputs(inputs, self.token_ids)
        made.__dict__["missing_lookups"] = self.__dict__["missing_lookups"]
        return made

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._note(key)
        return super().__contains__(key)

    def __missing__(self, key: str) -> Any:
        self._note(key)
        raise KeyError(key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def _note(self, key: object) -> None:
        if isinstance(key, str) and not super().__contains__(key):
            self.__dict__["missing_lookups"][key] = None


def _named(given: object) -> str:
    name = type(given).__name__
    return "None" if given is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _steps(
    slicer: Slicer, inputs: TrackedInputs, chunk_size: int, finder: RowFinder
) -> Iterator[Any]:
    """The slicer's chunks one by one; copies are followed only while its own code runs."""
    following = _following(inputs, finder)
    with following:
        given = slicer(inputs, chunk_size)
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise NotJudged(
            f"The slicer returned {_named(given)}, but a slicer returns one chunk after another. "
            "Nothing was checked. Return a list of dicts, or yield each dict."
        )
    chunks = iter(given)
    while True:
        with following:
            try:
                chunk = next(chunks)
            except StopIteration:
                return
        yield chunk


def _following(inputs: Mapping[str, Any], finder: RowFinder) -> Any:
    """torch's function mode where there are torch tensors; numpy has no such hook."""
    if all(isinstance(value, (np.ndarray, list)) for value in inputs.values()):
        return nullcontext()
    from vlmdebug.tracking.copies import FollowCopies

    return FollowCopies(finder.known, finder.learn)


def _refuse_gap(error: BaseException) -> None:
    """Blame an attribute that a stand-in lacks on the trial, not on the code."""
    if not isinstance(error, AttributeError) or not isinstance(error.obj, SimpleNamespace):
        return
    raise NotJudged(
        f"The stand-in for self has no attribute {error.name}: {place_of(error)} asks a "
        "SimpleNamespace for it, and the code behind that line was never reached. Nothing was "
        f"judged. Give the stand-in that attribute: SimpleNamespace({error.name}=…)."
    ) from error


def _ended(end: SystemExit) -> str:
    """`SystemExit(0) at folder/file.py:12`."""
    place = place_of(end)
    return one_line(f"SystemExit({end.code!r}){f' at {place}' if place else ''}", 300)
