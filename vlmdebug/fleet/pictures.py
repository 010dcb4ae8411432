"""Sizes of images, read from their headers; pixels are decoded only on request."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlmdebug.fleet.faults import Fault, Kind
from vlmdebug.safe import first_line, one_line

REMOTE = ("http://", "https://", "s3://", "gs://", "hf://")
LARGEST = 178_956_970
"""Pixels of an image; Pillow refuses to open a file with more (`Image.open`, Pillow 12)."""


ORIENTATION = 0x0112
"""The tag of Exif that says how a photo is turned."""
QUARTER_TURNS = (5, 6, 7, 8)
SMALLEST = 32
"""Bytes that no image has fewer of; a path without a dot can be read as base64, too."""
CONTENT = ("bytes", "path", "url", "image", "image_url", "base64")
"""Keys of a dict that hold the image itself, or where it is; the first that is not None."""


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
    size, given = _size(given), _content(given)
    if given is None and size is None:
        return Fault(Kind.MISSING, f"Image {number} is nothing.")
    if given is None or (isinstance(given, str) and given.startswith(REMOTE)):
        return _unseen(size, given, number)
    from PIL import Image, UnidentifiedImageError

    try:
        image = opened(given, root)
        if image is None:
            said = f"Image {number} is {type(given).__name__}, which is no image."
            return Fault(Kind.BROKEN, said)
        with image:
            if decode:
                image.load()
            width, height = image.size if isinstance(given, Image.Image) else _upright(image)
            return Picture(width, height, _identity(given, image))
    except FileNotFoundError:
        return Fault(Kind.MISSING, f"Image {number} is no file: {one_line(given, 120)}.")
    except UnidentifiedImageError:  # its text has an address in memory
        return Fault(Kind.BROKEN, f"Image {number} is in no format that Pillow knows.")
    except Exception as error:  # each image format of Pillow has its own
        said = first_line(error, 120)
        return Fault(Kind.BROKEN, f"Image {number} cannot be read: {said}.")


def _unseen(size: tuple[int, int] | None, url: str | None, number: int) -> Picture | Fault:
    """An image that is not here, by the size that the row gives and its URL."""
    width, height = size or (None, None)
    identity = (url or f"{width}x{height}").encode(errors="surrogatepass")
    if size and max(abs(size[0] * size[1]), *map(abs, size)) > LARGEST:
        said = f"Image {number} has {width}x{height} pixels: more than Pillow opens."
        return Fault(Kind.SIZE, said)
    return Picture(width, height, identity)


def opened(given: Any, root: Path) -> Any:
    """A PIL image of which the header is read, or None for what is no image."""
    from PIL import Image

    given = _content(given)
    if isinstance(given, str) and given.startswith("data:"):
        given = base64.b64decode(given.partition(",")[2])
    if (isinstance(given, str) and not given.startswith(REMOTE)) or isinstance(given, Path):
        try:
            return Image.open(root / str(given).removeprefix("file://"))
        except OSError as error:  # no such file, or a name that is too long for one
            given = _encoded(str(given), error)
    if isinstance(given, bytes | bytearray | memoryview):
        return Image.open(io.BytesIO(given))
    return given.copy() if isinstance(given, Image.Image) else None


def _upright(image: Any) -> tuple[int, int]:
    """Width and height as `image_utils.load_image` (transformers 5.24) and the `Image` of datasets
    turn a photo by its Exif orientation."""
    width, height = image.size
    turned = "exif" in image.info and image.getexif().get(ORIENTATION) in QUARTER_TURNS
    return (height, width) if turned else (width, height)


def _encoded(given: str, error: OSError) -> bytes:
    """The bytes of a text in base64, which `image_utils.load_image` takes if there is no such file
    (transformers 5.24).

    Raises:
        OSError: The error of the file, for any other text.
    """
    try:
        content = base64.b64decode(given, validate=True)
    except ValueError:
        content = b""
    if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG) or len(content) < SMALLEST:
        raise error
    return content


def _size(given: Any) -> tuple[int, int] | None:
    """Width and height that a dict gives in place of the image."""
    if not isinstance(given, Mapping):
        return None
    width, height = _whole(given.get("width")), _whole(given.get("height"))
    return None if width is None or height is None else (width, height)


def _whole(number: Any) -> int | None:
    """A whole number; JSON of pandas has 64.0 for 64."""
    if isinstance(number, float) and number.is_integer():
        return int(number)
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _content(given: Any) -> Any:
    """What a dict holds: the bytes or the path, as `datasets` has them, or else a URL or such."""
    for _ in range(3):  # `{"image_url": {"url": ...}}` is the deepest of use
        if not isinstance(given, Mapping):
            return given
        given = next((given[key] for key in CONTENT if given.get(key) is not None), None)
    return None


def _identity(given: Any, image: Any) -> bytes:
    """The path, or a hash of the content."""
    if isinstance(given, str | Path):
        return str(given).encode(errors="surrogatepass")
    if isinstance(given, bytes | bytearray | memoryview):
        return hashlib.blake2b(given, digest_size=16).digest()
    sample = image.resize((8, 8)).convert("RGB").tobytes()
    return hashlib.blake2b(sample, digest_size=16).digest()
