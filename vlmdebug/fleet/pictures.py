"""Sizes of images, read from their headers; pixels are decoded only on request."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlmdebug.fleet.faults import Fault, Kind
from vlmdebug.safe import one_line

REMOTE = ("http://", "https://", "s3://", "gs://", "hf://")
LARGEST = 178_956_970
"""Pixels of an image; Pillow refuses to open a file with more (`Image.open`, Pillow 12)."""


class Picture(NamedTuple):
    """One image: width and height in pixels, if known, and what identifies it."""

    width: int | None
    height: int | None
    identity: bytes


def picture_of(given: Any, number: int, root: Path, decode: bool) -> Picture | Fault:
    """One image of a row.

    Args:
        given: A PIL image; a path, or a URL, which is not fetched; bytes; `{"bytes": ...,
            "path": ...}` as `datasets` stores images; or `{"width": ..., "height": ...}`.
        number: Which image of the row, from 1, for messages.
        root: The folder that paths are relative to.
        decode: Whether to decode the pixels too, which finds files that end too early.
    """
    if isinstance(given, Mapping) and "width" in given and "height" in given:
        width, height = given["width"], given["height"]
        if isinstance(width, int) and isinstance(height, int):
            if width * height > LARGEST:
                said = f"Image {number} has {width}x{height} pixels: more than Pillow opens."
                return Fault(Kind.SIZE, said)
            return Picture(width, height, f"{width}x{height}".encode())
    given = _content(given)
    if given is None:
        return Fault(Kind.MISSING, f"Image {number} is nothing.")
    if isinstance(given, str) and given.startswith(REMOTE):
        return Picture(None, None, given.encode(errors="surrogatepass"))
    from PIL import UnidentifiedImageError

    try:
        image = opened(given, root)
        if image is None:
            said = f"Image {number} is {type(given).__name__}, which is no image."
            return Fault(Kind.BROKEN, said)
        with image:
            if decode:
                image.load()
            width, height = image.size
            return Picture(width, height, _identity(given, image))
    except FileNotFoundError:
        return Fault(Kind.MISSING, f"Image {number} is no file: {one_line(given, 120)}.")
    except UnidentifiedImageError:  # its text has an address in memory
        return Fault(Kind.BROKEN, f"Image {number} is in no format that Pillow knows.")
    except Exception as error:  # each image format of Pillow has its own
        said = one_line(str(error).partition("\n")[0].rstrip("."), 120) or type(error).__name__
        return Fault(Kind.BROKEN, f"Image {number} cannot be read: {said}.")


def opened(given: Any, root: Path) -> Any:
    """A PIL image of which the header is read, or None for what is no image."""
    from PIL import Image

    given = _content(given)
    if isinstance(given, str) and given.startswith("data:"):
        given = base64.b64decode(given.partition(",")[2], validate=True)
    if (isinstance(given, str) and not given.startswith(REMOTE)) or isinstance(given, Path):
        return Image.open(root / str(given).removeprefix("file://"))
    if isinstance(given, bytes | bytearray | memoryview):
        return Image.open(io.BytesIO(given))
    return given.copy() if isinstance(given, Image.Image) else None


def _content(given: Any) -> Any:
    """What a dict of `datasets` holds: the bytes, or else the path."""
    if not isinstance(given, Mapping):
        return given
    return next((given[key] for key in ("bytes", "path") if given.get(key) is not None), None)


def _identity(given: Any, image: Any) -> bytes:
    """The path, or a hash of the content."""
    if isinstance(given, str | Path):
        return str(given).encode(errors="surrogatepass")
    if isinstance(given, bytes | bytearray | memoryview):
        return hashlib.blake2b(given, digest_size=16).digest()
    sample = image.resize((8, 8)).convert("RGB").tobytes()
    return hashlib.blake2b(sample, digest_size=16).digest()
