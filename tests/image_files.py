"""Small images as files, for tests of data."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image


def encoded(
    shade: int, *, size: tuple[int, int] = (6, 4), kind: str = "PNG", mode: str = "RGB"
) -> bytes:
    """An image (width, height) of one shade."""
    buffer = BytesIO()
    Image.new("RGB", size, (shade, 0, 255)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def write_images(root: Path, names: Iterable[str]) -> Path:
    """Images of these names in a folder; the shade of each is its number."""
    for shade, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(shade))
    return root
