from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import Run
from understudy.errors import DataError
from understudy.zoo import decoding
from understudy.zoo.data import open_data
from understudy.zoo.decoding import Array, decode_image, decodes_otherwise

RAMP: Array = (256 * np.arange(256)).astype(np.uint16).reshape(16, 16)
CORNER = np.zeros((4, 6, 3), np.uint8)
CORNER[0, 0] = 255  # upper left


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(orientation: int, kind: str = "PNG") -> bytes:
    image = Image.fromarray(CORNER)
    exif = image.getexif()
    exif[0x0112] = orientation
    return file_of(image, kind, exif=exif)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_keeps_the_upper_8(kind: str) -> None:
    found = decode_image(file_of(Image.fromarray(RAMP), kind))
    assert np.array_equal(found, np.repeat((RAMP >> 8)[..., None], 3, axis=2))


def test_grey_of_floats_goes_from_0_to_1() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    found = decode_image(file_of(Image.fromarray(values), "TIFF"))
    assert found[..., 0].ravel().tolist() == list(range(256))
    for wrong in (values * 255, values - 1, np.full((2, 2), np.nan, np.float32)):
        with pytest.raises(ValueError, match="from 0 to 1"):
            decode_image(file_of(Image.fromarray(wrong), "TIFF"))


def test_grey_of_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="no defined white"):
        decode_image(file_of(Image.fromarray(RAMP.astype(np.int32)), "TIFF"))


@pytest.mark.parametrize(
    ("orientation", "white"),
    [(1, (0, 0)), (2, (0, 5)), (3, (3, 5)), (4, (3, 0)), (5, (0, 0)), (6, (0, 3)), (8, (5, 0))],
)
def test_images_are_turned_as_people_see_them(orientation: int, white: tuple[int, int]) -> None:
    found = decode_image(oriented(orientation))
    assert found.shape[:2] == ((4, 6) if orientation < 5 else (6, 4))
    assert tuple(np.argwhere(found[..., 0] == 255)[0]) == white


def test_orientation_can_be_ignored_by_the_spec(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(oriented(6, "JPEG"))
    assert open_data(f"folder:{tmp_path}").image(0).shape == (3, 6, 4)
    assert open_data(f"folder:{tmp_path}?orientation=ignore").image(0).shape == (3, 4, 6)
    with pytest.raises(DataError, match=r"no orientation 'ignored'.*did you mean 'ignore'"):
        open_data(f"folder:{tmp_path}?orientation=ignored")


def test_damaged_metadata_turn_nothing() -> None:
    encoded = file_of(Image.fromarray(CORNER), "PNG", exif=b"Exif\0\0nonsense")
    assert np.array_equal(decode_image(encoded), CORNER)


def test_an_image_turned_in_bands_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (57, 31, 3), dtype=np.uint8)
    grey = Image.fromarray(RAMP)
    before = [decode_image(file_of(image, "PNG")) for image in (Image.fromarray(pixels), grey)]
    monkeypatch.setattr(decoding, "_BAND", 100)
    after = [decode_image(file_of(image, "PNG")) for image in (Image.fromarray(pixels), grey)]
    assert np.array_equal(before[0], pixels)
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True]


def rgb(image: Image.Image, kind: str, **options: object) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decode_image(file_of(image, kind, **options))


def test_other_modes_become_rgb_without_a_warning() -> None:
    red = np.array([200, 10, 20], np.uint8)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([*red.tolist(), 0, 0, 0])
    assert (rgb(palette, "PNG", transparency=bytes([0, 255])) == red).all()
    clear = Image.new("RGBA", (2, 2), (*red.tolist(), 0))
    assert (rgb(clear, "PNG") == red).all(), "transparency is dropped"
    assert (rgb(Image.new("LA", (2, 2), (7, 0)), "PNG") == 7).all()
    assert (rgb(Image.new("1", (2, 2), 1), "PNG") == 255).all()
    assert (rgb(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG") == 255).all()


def test_the_content_decides_the_format_and_postscript_is_none() -> None:
    postscript = file_of(Image.fromarray(CORNER), "EPS")
    with pytest.raises(ValueError, match="none of the formats PNG, JPEG"):
        decode_image(postscript)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"])
def test_truncated_files_are_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    encoded = file_of(Image.fromarray(noise), kind)
    with pytest.raises((OSError, ValueError, SyntaxError)):
        decode_image(encoded[: len(encoded) * 2 // 3])


def test_bombs_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(b"P5 20000 20000 255\n")
    with pytest.raises(DataError, match=r"'bomb.png' of .* cannot .*exceeds limit"):
        open_data(f"folder:{tmp_path}").image(0)


def test_what_is_decoded_otherwise_than_before_is_found() -> None:
    assert decodes_otherwise(oriented(6), orientation="exif")
    assert not decodes_otherwise(oriented(6), orientation="ignore")
    assert not decodes_otherwise(oriented(1), orientation="exif")
    assert not decodes_otherwise(b"no image", orientation="exif")
    assert decodes_otherwise(file_of(Image.fromarray(RAMP), "PNG"), orientation="ignore")


def test_the_command_line_shows_no_remarks_of_pillow(run: Run, tmp_path: Path) -> None:
    encoded = file_of(Image.fromarray(CORNER), "PNG")
    animation = struct.pack(">I4sII", 8, b"acTL", 0, 0)  # of no frame: Pillow warns
    odd = encoded[:33] + animation + struct.pack(">I", zlib.crc32(animation[4:])) + encoded[33:]
    for label in "abc":
        (tmp_path / "images" / label).mkdir(parents=True)
        (tmp_path / "images" / label / "odd.png").write_bytes(odd)
    data = ["--data", f"folder:{tmp_path / 'images'}", "--into", tmp_path / "table"]
    done = run("score", "py:digit_nets:pixels", *data, "--json")
    assert done.json["samples"] == 3
    assert "APNG" not in done.stderr
