"""What happened in one sentence, and the slices that fix it: what every view says first.

A sentence names samples and images as the pictures do, A and A2. Where a finding is not about rows
of images, its message already begins with such a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmdebug.core.mismatch import Finding, Mismatch
from vlmdebug.core.record import Record
from vlmdebug.core.rows import Rows
from vlmdebug.core.scene import Scene
from vlmdebug.core.wording import letter, number

MOST_NAMES = 3
MOST_SLICES = 3
ABOUT_ROWS = ("VLM001", "VLM002", "VLM003", "VLM005")
AT_SEAMS = {"labels": "VLM013", "position_ids": "VLM014"}
"""The code of a fault between two samples of a row, by its key; of any other key, VLM015."""
THEN: dict[bool | None, str] = {
    True: ", and the model does not notice.",
    False: ", and the model raises.",
    None: ".",
}


def opening_sentence(report: Record) -> str:
    """What a report says before all else: its worst finding, or that there is none."""
    if report.findings:
        return sentence(report, report.findings[0].worst)
    if not report.ok:
        return "Not everything could be checked."
    if report.chunk_size is None:
        return "Everything that was compared agrees."
    chunks = "The chunk has" if len(report.chunks) == 1 else f"All {len(report.chunks)} chunks have"
    return f"{chunks} the rows of {'its' if len(report.chunks) == 1 else 'their'} own samples."


def sentence(report: Record, mismatch: Mismatch) -> str:
    """`Sample B sees image A2 instead of B1, and the model does not notice.`"""
    said = _seen(report, mismatch) if mismatch.code in ABOUT_ROWS else ""
    said = said or _at_seam(report, mismatch)
    if said:
        return f"{named(mismatch.samples)} {said}{THEN[mismatch.silent]}"
    first = mismatch.message.partition("\n")[0]
    return first if "_" in first.partition(" ")[0] else first[:1].upper() + first[1:]


def _at_seam(report: Record, mismatch: Mismatch) -> str:
    """`goes on at position 39 instead of starting at 0`; empty where it is about no packed row."""
    key = mismatch.key or ""
    row = next(
        (
            row
            for row in report.packed
            if row.chunk == mismatch.chunk
            and key in row.wrong
            and {*mismatch.samples} <= {*row.samples}
        ),
        None,
    )
    if row is None or mismatch.code != AT_SEAMS.get(key.removeprefix("shift_"), "VLM015"):
        return ""  # the row has a fault, but this is another one
    own = [place for place in row.places if place.sample in mismatch.samples]
    columns = [fault.column for fault in row.faults if fault.key == key]
    inside = (at for at in columns if any(one.start <= at < one.stop for one in own))
    column = next(inside, columns[0])
    starts = any(one.start == column for one in own)
    match key:
        case "labels":  # or they are those of placeholder tokens
            learned = starts and f" column {column} " in mismatch.message
            return "learns its first token from another sample" if learned else ""
        case "shift_labels":
            ends = any(one.stop == column + 1 for one in own) and "behind it" in mismatch.message
            return "learns to go on with another sample" if ends and not row.ranks else ""
        case "input_ids":
            return "sees padding that its positions count"
        case "position_ids" if not row.given and not row.planes and len(mismatch.samples) > 1:
            return "share a row, but no position_ids start again with each of them"
        case "position_ids":
            due, given = row.at(row.due, column), row.at(row.given, column)
            if due is None or given is None or due == given:
                return ""
            if starts and row.at(row.given, column - 1) == given - 1:
                return f"goes on at position {given} instead of starting at {due}"
            plane = "" if row.plane in ("", "text") else f" in {row.plane}"
            return f"has position {given}{plane} instead of {due}"
        case _ if starts and column not in row.ends.get(key, (column,)):
            return f"begins where {key} has no end"
    return ""


def named(samples: Sequence[int]) -> str:
    """`Sample B`, `Samples A and B`, `Samples A to D`, `Samples A, C and 4 more`, `No sample`."""
    names = [letter(sample) for sample in samples]
    if not names:
        return "No sample"
    if len(names) == 1:
        return f"Sample {names[0]}"
    if len(names) > 2 and list(samples) == list(range(samples[0], samples[-1] + 1)):
        return f"Samples {names[0]} to {names[-1]}"
    return f"Samples {_and(names)}"


def _and(names: Sequence[str]) -> str:
    if len(names) > MOST_NAMES:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _seen(report: Record, mismatch: Mismatch) -> str:
    """`sees image A2 instead of B1`; empty where the rows are not those of images."""
    scene, key = scene_of(report), mismatch.key
    expected, actual = mismatch.expected or Rows(), mismatch.actual
    if scene is None or key is None or not mismatch.samples:
        return ""
    if actual.foreign if actual is not None else mismatch.code != "VLM003":
        return ""  # rows of nobody, or rows that could not be identified
    absent = mismatch.code == "VLM005"
    if (mismatch.expected is None and not absent) or not _of_images(report, scene, key):
        return ""
    right, given = (scene.images_in(key, some) for some in (expected, actual))
    sees = "sees" if key == "pixel_values" else f"gets {key} of"
    one = len(mismatch.samples) == 1
    if not one:
        sees = "see" if key == "pixel_values" else f"get {key} of"
    if not right and not (absent and not expected):
        return ""
    if not right:
        has = "has no image, but" if one else "have no images, but"
        empty = f"{'gets' if one else 'get'} {key} with {number(len(actual or ()), 'row')}"
        return f"{has} {f'{sees} {_images(scene, given)}' if given else empty}"
    if not given and actual:
        return ""
    if not given:
        return f"{'gets' if one else 'get'} no {key} of {_images(scene, right)}"
    return _instead(scene, mismatch, right, given, sees)


def _of_images(report: Record, scene: Scene, key: str) -> bool:
    """Whether the rows of a key are those of images."""
    if scene.units.get(key) == "sample":
        return key.startswith("pixel_values") and "video" not in key
    return report.kinds.get(key) == "media" and scene.bounds(key) is not None


def _instead(
    scene: Scene, mismatch: Mismatch, right: list[int], given: list[int], sees: str
) -> str:
    key = mismatch.key or ""
    shares = [scene.share(key, image, mismatch.actual) for image in given]
    whole = [image for image in given if scene.name(image) in shares]
    lost = [image for image in right if image not in given]
    strange = [image for image in given if image not in right]
    if whole != given:  # parts: say of each how much
        return f"{sees} {'' if strange else 'only '}{_and(shares)}" + (
            f" instead of {_short(scene, right)}" if strange else ""
        )
    if lost and strange:
        return f"{sees} {_images(scene, strange)} instead of {_short(scene, lost)}"
    if strange:
        return f"also {sees} {_images(scene, strange)}"
    if lost:
        return f"{sees} {_images(scene, given)}, but not {_short(scene, lost)}"
    return f"{sees} {_images(scene, given)} in another order" if given != right else ""


def _images(scene: Scene, images: Sequence[int]) -> str:
    return f"{'image' if len(images) == 1 else 'images'} {_short(scene, images)}"


def _short(scene: Scene, images: Sequence[int]) -> str:
    """`A1 and A2`, without the noun."""
    return _and([scene.name(image).removeprefix("image ") for image in images])


def scene_of(report: Record) -> Scene | None:
    """The report's scene, or as much of one as its counts tell; None without images."""
    if report.scene is not None or "image" not in report.counts:
        return report.scene
    units = {key: axis.unit for key, axis in report.axes.items()}
    return Scene(units, tuple(report.counts["image"]), {}, 0)


def slices(report: Record, finding: Finding) -> list[tuple[str, str]]:
    """The corrected slices of the worst chunk, as lines of a diff with their sign.

    Only where rows are cut wrongly: `-` is what was passed, `+` what belongs there.
    """
    worst, found = finding.worst, list[tuple[str, str, str]]()
    alike = [m for m in finding.mismatches if m.chunk == worst.chunk and m.key is not None]
    for one in sorted(alike, key=lambda m: m is not worst)[:MOST_SLICES]:
        if one.code == "VLM005" or (one.code in ABOUT_ROWS and one.expected != one.actual):
            found += _lines(report, one, one.key or "")
    wide = max((len(code) for _, code, _ in found), default=0)
    return [(sign, f"{code.ljust(wide)}  # {said}" if said else code) for sign, code, said in found]


def _lines(report: Record, mismatch: Mismatch, key: str) -> list[tuple[str, str, str]]:
    if mismatch.code == "VLM005":
        return [("-", key, "leave it out")]
    lines = []
    for sign, some in (("-", mismatch.actual), ("+", mismatch.expected)):
        if some is None or some.foreign or not some:
            continue
        dim = report.axes[key].dim if key in report.axes else 0
        where = str(Rows(some.ranges[:2]))
        more = f" … {number(len(some), 'row')}" if len(some.ranges) > 2 else ""
        code = f"{key}[{':, ' * dim}{where}{more}]"
        lines.append((sign, code, _comment(report, key, some)))
    return lines


def _comment(report: Record, key: str, some: Rows) -> str:
    scene = scene_of(report)
    images = scene.images_in(key, some) if scene is not None else []
    if scene is None or not images:
        return ""
    if len(images) == 1:
        return scene.share(key, images[0], some)
    return _images(scene, images)
