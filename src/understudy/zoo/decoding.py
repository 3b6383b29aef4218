"""Encoded images become pixels: the formats that are read, their channels, and which way is up."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from understudy.errors import MissingExtra, listed

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Array = npt.NDArray[Any]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF")
"""What is read, whatever the file is called; other formats may start other programs."""

VERSION = 1
"""Of the rules below: rises where an image would give other pixels than before."""

FOLLOW, IGNORE = "exif", "ignore"
ORIENTATIONS = (FOLLOW, IGNORE)

LARGE = 50_000_000
"""Pixels of an image from which on one is decoded at a time, whatever the number of threads."""

_ORIENTATION = 0x0112  # the EXIF tag
_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_BAND = 2**20  # pixels that are converted at a time
_DEEP = ("I", "F")  # modes of 16 bits and more per channel start so
_decoding_large = Lock()


def decode_image(
    encoded: bytes,
    *,
    orientation: str = FOLLOW,
    check_size: Callable[[int, int], None] | None = None,
) -> Array:
    """The pixels of an encoded image as RGB, uint8 (H, W, 3), the way people see it.

    An image is turned as its EXIF orientation says. Grey becomes three equal channels, of 16 bits
    the upper 8 are kept (as of 16-bit colours), and floats are scaled from [0, 1]. Palettes, CMYK
    and YCbCr are converted; transparency is dropped, and the colours below it show; an animation
    gives its first frame. Pillow's errors about damaged images are not caught. A thread takes up to
    7 bytes per pixel, 11 where an image is turned.

    Args:
        encoded: a file in one of `FORMATS`.
        orientation: `exif` turns the image, `ignore` leaves it as it is stored (a TIFF is always
            turned).
        check_size: called with the height and width that are stored, before any pixel is decoded;
            it may raise.

    >>> from PIL import Image
    >>> buffer = BytesIO()
    >>> Image.new("L", (3, 2), 7).save(buffer, "PNG")
    >>> decode_image(buffer.getvalue()).shape
    (2, 3, 3)

    Raises:
        ValueError: another format, grey of 32 bits, or floats outside [0, 1].
        MissingExtra: Pillow is not installed.
    """
    with _opened(encoded) as image:
        if check_size is not None:
            check_size(image.height, image.width)
        if image.width * image.height <= LARGE:
            return _pixels(image, orientation)
        with _decoding_large:
            return _pixels(image, orientation)


def decodes_otherwise(encoded: bytes, *, orientation: str) -> bool:
    """Whether an image gives other pixels than before version 1 of the rules.

    Then no image was turned, and grey of more than 8 bits was cut off at 255. False for what cannot
    be decoded.

    >>> decodes_otherwise(b"", orientation="exif")
    False
    """
    try:
        with _opened(encoded) as image:
            if image.format == "PNG":
                image.load()  # it may have its metadata behind its pixels
            turned = orientation == FOLLOW and image.format != "TIFF" and _turns(image)
            return turned or image.mode.startswith(_DEEP)
    except MissingExtra:
        raise
    except Exception:  # noqa: BLE001
        return False


def _opened(encoded: bytes) -> PillowImage:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("decoding images", "torch") from error
    try:
        return Image.open(BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError as error:  # its message names an object in memory
        raise ValueError(
            f"its {len(encoded)} bytes are none of the formats {listed(FORMATS, len(FORMATS))}"
        ) from error


def _turns(image: PillowImage) -> bool:
    """Whether the EXIF orientation says that the image is to be turned or mirrored."""
    if not any(key in image.info for key in _METADATA):
        return False
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # noqa: BLE001  damaged metadata say nothing about the pixels
        return False


def _pixels(image: PillowImage, orientation: str) -> Array:
    """The pixels (H, W, 3), converted in bands of rows, so that there is no whole copy between."""
    image.load()
    upright, kind = image, image.format
    if orientation == FOLLOW and _turns(image):
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(image)
        image.close()  # the memory of a photograph
    rows = max(1, _BAND // upright.width)
    if upright.height <= rows:
        return _rgb(upright, kind)
    pixels = np.empty((upright.height, upright.width, 3), np.uint8)
    for top in range(0, upright.height, rows):
        box = (0, top, upright.width, min(top + rows, upright.height))
        pixels[top : top + rows] = _rgb(upright.crop(box), kind)
    return pixels


def _rgb(image: PillowImage, kind: str | None) -> Array:
    """The pixels of an upright image as RGB, uint8 (H, W, 3)."""
    if image.mode == "RGB":
        return np.array(image)
    if image.mode.startswith(_DEEP):
        return np.repeat(_grey(image, kind)[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _grey(image: PillowImage, kind: str | None) -> Array:
    """Grey of more than 8 bits as uint8 (H, W)."""
    values: Array = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # also where there are NaN
            raise ValueError(
                f"grey of floats goes from 0 to 1, its values go from {values.min()} to "
                f"{values.max()}"
            )
        values = np.rint(values * 255)
        return values.astype(np.uint8)
    if image.mode == "I" and kind not in ("PNG", "PPM"):  # those hold 16 bits in it
        raise ValueError("grey of 32 bits has no defined white, convert it to 16 bits")
    values = values >> 8
    return values.astype(np.uint8)
