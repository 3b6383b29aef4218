"""Odd and broken images, in every kind of source: read alike, left out alike."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from understudy.zoo.batches import array_batches
from understudy.zoo.data import DataSet, open_data

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (40, 30, 3), dtype=np.uint8)
FRAMES = [Image.new("RGB", (6, 4), (shade, 0, 0)) for shade in (200, 0)]


def file_of(image: Image.Image, kind: str, *more: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **({"save_all": True, "append_images": list(more)} if more else {}))
    return buffer.getvalue()


DEEP = RANDOM.integers(0, 65536, (8, 8)).astype(np.uint16)
GOOD = {
    "grey.jpg": file_of(Image.fromarray(NOISE).convert("L"), "JPEG"),
    "cmyk.jpg": file_of(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
    "deep.png": file_of(Image.fromarray(DEEP), "PNG"),
    "moves.gif": file_of(FRAMES[0], "GIF", *FRAMES[1:]),
    "still.webp": file_of(FRAMES[0], "WEBP", *FRAMES[1:]),
    "other.jpg": file_of(FRAMES[0], "PNG"),  # the content decides
}
BAD = {
    "empty.jpg": b"",
    "cut.jpg": file_of(Image.fromarray(NOISE), "JPEG")[:400],
    "page.png": b"<html>404</html>",
    "giant.png": b"P5 20000 20000 255\n",
    "noise.jpg": NOISE.tobytes(),
}
FILES = {**GOOD, **BAD}


def in_folder(root: Path) -> str:
    for name, content in FILES.items():
        (root / name).write_bytes(content)
    return f"folder:{root}"


def in_parquet(root: Path) -> str:
    columns = {"name": list(FILES), "image": list(FILES.values())}
    pl.DataFrame(columns).write_parquet(root / "x.parquet")
    return f"parquet:{root / 'x.parquet'}"


def in_tar(root: Path) -> str:
    with tarfile.open(root / "x.tar", "w") as tar:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return f"wds:{root / 'x.tar'}"


def saved(root: Path) -> str:
    datasets = pytest.importorskip("datasets")
    rows = {
        "name": list(FILES),
        "image": [{"bytes": content, "path": None} for content in FILES.values()],
    }
    features = datasets.Features(name=datasets.Value("string"), image=datasets.Image())
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(root / "saved")
    return f"hf:{root / 'saved'}"


def stem(id: str) -> str:
    return id.rpartition("/")[2].partition(".")[0]


def pixels_of(data: DataSet) -> tuple[dict[str, np.ndarray], list[str]]:
    """The images that can be decoded, and messages about the others."""
    (batch,) = array_batches(data, workers=2)
    names = [stem(data.ids[position]) for position in batch.positions]
    return dict(zip(names, batch.images, strict=True)), list(batch.corrupt)


@pytest.mark.parametrize("make", [in_folder, in_parquet, in_tar, saved])
def test_images_are_read_alike_in_every_source(tmp_path: Path, make: Callable[[Path], str]) -> None:
    pixels, corrupt = pixels_of(open_data(make(tmp_path)))
    assert set(pixels) == {stem(name) for name in GOOD}
    assert sorted(stem(message.split("'")[1]) for message in corrupt) == sorted(map(stem, BAD))
    assert all(len(message) < 300 and "\n" not in message for message in corrupt)
    assert all(image.shape[0] == 3 and image.dtype == np.uint8 for image in pixels.values())
    assert np.array_equal(pixels["deep"], np.repeat((DEEP >> 8)[None], 3, axis=0))
    assert np.array_equal(pixels["moves"][:, 0, 0], [200, 0, 0]), "the first frame"
    assert np.array_equal(pixels["other"][:, 0, 0], [200, 0, 0])
