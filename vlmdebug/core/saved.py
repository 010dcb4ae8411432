"""Validates a report from a file before a view uses it.

A report may be edited by hand or come from an untrusted source. Values that a view computes with
(rows, counts, chunk numbers, places of images) must have the right type and be within the numbers
of the report itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

MOST_ROWS = 2**53
"""Largest number in a report, the largest that JSON represents exactly."""
MOST_IMAGES = 1_000_000
CODE = re.compile(r"VLM\d{3}")
TEXT = "text"
NUMBER = f"a whole number, 0 to {MOST_ROWS}"


def checked(data: Any) -> dict[str, Any]:
    """The data of a report, as `Report.to_dict` writes it.

    Raises:
        BadInput: Some part is missing, has another type, or is outside the numbers of the report.
    """
    _mapping(data, "the report")
    for name in ("layout", "evidence"):
        for key, value in _mapping(_part(data, name), name).items():
            _is(isinstance(value, str), f"{name}[{key!r}]", value, TEXT)
    for key, axis in _mapping(data.get("axes", {}), "axes").items():
        _axis(axis, f"axes[{key!r}]")
    _text(data, "family")
    _text_or_none(data, "slicer")
    counts = _mapping(_part(data, "counts"), "counts")
    for unit, count in counts.items():
        _numbers(count, f"counts[{unit!r}]")
    samples = len(_list(_part(counts, "sample", "counts"), "counts['sample']"))
    for unit, count in counts.items():
        _is(len(count) == samples, f"counts[{unit!r}]", count, f"{samples} numbers, one per sample")
    size = _part(data, "chunk_size")
    _is(size is None or (_whole(size) and size > 0), "chunk_size", size, "a whole number or null")
    chunks = _list(_part(data, "chunks"), "chunks")
    for index, chunk in enumerate(chunks):
        _chunk(chunk, f"chunks[{index}]", samples)
    for index, mismatch in enumerate(_list(_part(data, "mismatches"), "mismatches")):
        _mismatch(mismatch, f"mismatches[{index}]", samples)
    for text in _list(_part(data, "ambiguities"), "ambiguities"):
        _is(isinstance(text, str), "ambiguities", text, TEXT)
    for index, row in enumerate(_list(data.get("packed", []), "packed")):
        _packed(row, f"packed[{index}]", samples, len(chunks))
    if "scene" in data:
        _scene(_mapping(data["scene"], "scene"), samples)
    return data


def _axis(axis: Any, at: str) -> None:
    _only(_mapping(axis, at), at, ("unit", "dim", "padded"))
    _text(axis, "unit", at)
    dim, padded = axis.get("dim", 0), axis.get("padded")
    _is(_whole(dim), f"{at}.dim", dim, NUMBER)
    _is(padded is None or isinstance(padded, str), f"{at}.padded", padded, TEXT)


def _chunk(chunk: Any, at: str, samples: int) -> None:
    _mapping(chunk, at)
    _only(chunk, at, ("samples", "images", "placeholders", "features", "keys"))
    _samples(_part(chunk, "samples", at), at, samples)
    for name in ("images", "placeholders", "features"):
        value = _part(chunk, name, at)
        _is(value is None or _whole(value), f"{at}.{name}", value, NUMBER)
    for key, found in _mapping(_part(chunk, "keys", at), f"{at}.keys").items():
        where = f"{at}.keys[{key!r}]"
        state = _part(_mapping(found, where), "state", where)
        _is(isinstance(state, str), f"{where}.state", state, TEXT)  # perhaps of a newer version
        for name in ("planned", "used"):
            _rows(_part(found, name, where), f"{where}.{name}")


def _mismatch(one: Any, at: str, samples: int) -> None:
    _mapping(one, at)
    names = ("code", "message", "key", "chunk", "samples", "planned", "used", "silent", "cause")
    _only(one, at, names)
    code = _text(one, "code", at)
    _is(CODE.fullmatch(code) is not None, f"{at}.code", code, "a code such as VLM001")
    _text(one, "message", at)
    _text_or_none(one, "key", at)
    _text_or_none(one, "cause", at)
    chunk, silent = _part(one, "chunk", at), _part(one, "silent", at)
    _is(chunk is None or _whole(chunk), f"{at}.chunk", chunk, NUMBER)
    _is(silent is None or isinstance(silent, bool), f"{at}.silent", silent, "true, false or null")
    _samples(_part(one, "samples", at), at, samples)
    for name in ("planned", "used"):
        _rows(_part(one, name, at), f"{at}.{name}")


def _scene(scene: Any, samples: int) -> None:
    for key, unit in _mapping(_part(scene, "units", "scene"), "scene.units").items():
        _is(isinstance(unit, str), f"scene.units[{key!r}]", unit, TEXT)
    images = _numbers(_part(scene, "images", "scene"), "scene.images")
    many = f"{samples} numbers, at most {MOST_IMAGES} images in all"
    _is(len(images) == samples and sum(images) <= MOST_IMAGES, "scene.images", images, many)
    for unit, rows in _mapping(_part(scene, "per_image", "scene"), "scene.per_image").items():
        at = f"scene.per_image[{unit!r}]"
        fits = len(_numbers(rows, at)) == sum(images)
        _is(fits, at, rows, f"{sum(images)} numbers, one per image")
    tokens = _part(scene, "tokens", "scene")
    _is(_whole(tokens), "scene.tokens", tokens, NUMBER)
    places = _list(_part(scene, "places", "scene"), "scene.places")
    _is(len(places) in (0, samples), "scene.places", places, f"{samples} lists, one per sample")
    for run in (run for own in places for run in _list(own, "scene.places")):
        good = (
            isinstance(run, (list, tuple)) and len(run) == 3 and all(_int(number) for number in run)
        )
        good = good and 0 <= run[0] <= run[1] <= tokens and -1 <= run[2] < sum(images)
        _is(good, "scene.places", run, "[start, stop, image] within the tokens and images")
    for image, uri in _mapping(_part(scene, "thumbnails", "scene"), "scene.thumbnails").items():
        good = image.isascii() and image.isdigit() and int(image[:9]) < sum(images)
        _is(good and isinstance(uri, str), "scene.thumbnails", image, "the number of an image")


def _packed(row: Any, at: str, samples: int, chunks: int) -> None:
    numbers = ("row", "tokens", "planes")
    names = ("places", "given", "due", "plane", "off", "ends", "faults", "chunk", "ranks", "held")
    _only(_mapping(row, at), at, (*numbers, *names))
    for name in numbers:
        _is(_whole(_part(row, name, at)), f"{at}.{name}", row[name], NUMBER)
    _text(row, "plane", at)
    chunk, tokens = _part(row, "chunk", at), row["tokens"]
    _is(
        chunk is None or (_whole(chunk) and chunk < chunks),
        f"{at}.chunk",
        chunk,
        "a chunk's number",
    )
    for name, size in (("places", 5), ("given", 4), ("due", 4), ("off", 2)):
        last = -1
        for one in _list(_part(row, name, at), f"{at}.{name}"):
            good = isinstance(one, (list, tuple)) and len(one) == size and all(map(_int, one))
            start, stop = (one[1:3] if name == "places" else one[:2]) if good else (0, 0)
            good = good and last <= start < stop <= tokens and max(map(abs, one)) <= MOST_ROWS
            good = good and (name != "places" or (0 <= one[0] < samples and min(one[3:]) >= 0))
            _is(
                good, f"{at}.{name}", one, f"{size} whole numbers, in order, within {tokens} tokens"
            )
            last = stop
    for key, ends in _mapping(_part(row, "ends", at), f"{at}.ends").items():
        for column in _numbers(ends, f"{at}.ends[{key!r}]"):
            _is(column <= tokens, f"{at}.ends[{key!r}]", column, f"a column, 0 to {tokens}")
    for one in _list(_part(row, "faults", at), f"{at}.faults"):
        good = isinstance(one, (list, tuple)) and len(one) == 2 and isinstance(one[0], str)
        good = good and _whole(one[1]) and one[1] <= tokens
        _is(good, f"{at}.faults", one, "a key and a column")
    _held(row, at)


def _held(row: dict[str, Any], at: str) -> None:
    """The tokens of each rank."""
    ranks, tokens = row.get("ranks", 0), row["tokens"]
    _is(_whole(ranks) and ranks <= MOST_ROWS, f"{at}.ranks", ranks, NUMBER)
    for one in _list(row.get("held", []), f"{at}.held"):
        good = isinstance(one, (list, tuple)) and len(one) == 4 and all(map(_int, one))
        good = good and 0 <= one[0] < ranks and 0 <= one[1] < one[2] <= tokens
        good = good and 0 < one[3] <= tokens
        wanted = f"[rank, start, stop, step] of {ranks} ranks, within {tokens} tokens"
        _is(good, f"{at}.held", one, wanted)


def _rows(rows: Any, at: str) -> None:
    if rows is None:
        return
    for pair in _list(rows, at):
        good = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(_int(end) for end in pair)
        good = good and (pair == [-1, 0] or 0 <= pair[0] <= pair[1] <= MOST_ROWS)
        _is(good, at, pair, "[start, stop] with 0 <= start <= stop, or [-1, 0]")


def _samples(given: Any, at: str, samples: int) -> None:
    for sample in _numbers(given, f"{at}.samples"):
        _is(sample < samples, f"{at}.samples", sample, f"one of the {samples} samples")


def _numbers(values: Any, at: str) -> list[int]:
    for value in _list(values, at):
        _is(_whole(value), at, value, NUMBER)
    return values


def _list(value: Any, at: str) -> list[Any]:
    _is(isinstance(value, (list, tuple)), at, value, "a list")
    return value


def _mapping(value: Any, at: str) -> dict[str, Any]:
    _is(isinstance(value, dict), at, value, "an object")
    _is(all(isinstance(key, str) for key in value), at, value, "an object of names")
    return value


def _text(holder: dict[str, Any], name: str, at: str = "the report") -> str:
    value = _part(holder, name, at)
    _is(isinstance(value, str), f"{at}.{name}", value, TEXT)
    return value


def _text_or_none(holder: dict[str, Any], name: str, at: str = "the report") -> None:
    if _part(holder, name, at) is not None:
        _text(holder, name, at)


def _part(holder: dict[str, Any], name: str, at: str = "the report") -> Any:
    if name not in holder:
        _refuse(at, f"without {name}", f"an object with {name}")
    return holder[name]


def _only(holder: dict[str, Any], at: str, names: Collection[str]) -> None:
    for name in holder:
        _is(name in names, at, name, f"an object of {', '.join(names)}")


def _whole(value: Any) -> bool:
    return _int(value) and 0 <= value <= MOST_ROWS


def _int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is(holds: bool, at: str, value: Any, wanted: str) -> None:
    if not holds:
        _refuse(at, one_line(repr(value), 80), wanted)


def _refuse(at: str, value: str, wanted: str) -> None:
    raise BadInput(
        f"This is not a report of vlmdebug: {one_line(at, 120)} is {value}, but it is "
        f"{wanted}. Nothing of it is shown. Write one with report.to_json(path)."
    )
