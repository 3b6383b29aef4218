"""Images that change, or are decoded otherwise, between two runs of `score` are noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from progress import InterruptedRunError, after
from understudy import Cascade, Policy, load_table, save_cascade, save_table
from understudy.app.run_cascade import decoding_warnings
from understudy.errors import DataError, TableError
from understudy.scoring.on_disk import score_into
from understudy.zoo import encoded, parquet_column
from understudy.zoo.data import open_data
from understudy.zoo.encoded import EncodedImages
from understudy.zoo.models import load_stages

FIRST, MORE = {"pixels": "py:digit_nets:pixels"}, {"more": "py:digit_nets:pixels"}


def picture(file: Path, shade: int, *, orientation: int = 1) -> None:
    """A file whose size does not depend on its pixels."""
    image = Image.new("RGB", (9, 7), (shade, 0, 0))
    exif = image.getexif()
    exif[0x0112] = orientation
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, compress_level=0, exif=exif)


def pictures(root: Path, *, orientation: int = 1) -> str:
    for number in range(9):
        picture(root / "abc"[number % 3] / f"{number}.png", number, orientation=orientation)
    return f"folder:{root}"


def scored(table: Path, models: dict[str, str], data: str, **more: Any) -> dict[str, Any]:
    made = score_into(table, models, data, batch=1, measure_batches=(), **more)
    return dict(made.provenance)


def forget(table: Path, *keys: str) -> None:
    """Make a table what an older version wrote."""
    scores = load_table(table)
    kept = {key: value for key, value in scores.provenance.items() if key not in keys}
    save_table(replace(scores, provenance=kept), table)


@pytest.mark.parametrize("option", ["", "?fingerprint=all"])
def test_a_table_is_extended_on_the_same_pixels(tmp_path: Path, option: str) -> None:
    data, table = pictures(tmp_path / "images"), tmp_path / "table"
    before = open_data(data).fingerprint
    scored(table, FIRST, data + option)
    picture(tmp_path / "images" / "b" / "4.png", 99)
    assert open_data(data).fingerprint == before, "ids, labels and sizes are the same"
    with pytest.raises(TableError, match=r"files have changed since .*table' .*\('b/4.png'\)"):
        scored(table, MORE, data)
    picture(tmp_path / "images" / "b" / "4.png", 4)
    assert len(scored(table, MORE, data)["runs"]) == 2


def test_work_is_resumed_on_the_same_pixels(tmp_path: Path) -> None:
    data, table = pictures(tmp_path / "images"), tmp_path / "table"
    with pytest.raises(InterruptedRunError):
        scored(table, FIRST, data, on_progress=after(9))
    picture(tmp_path / "images" / "a" / "3.png", 99)
    with pytest.raises(DataError, match=r"files have changed .*unfinished.*\('a/3.png'\)"):
        scored(table, FIRST, data)
    picture(tmp_path / "images" / "a" / "3.png", 3)
    assert scored(table, FIRST, data)["decoding"] == {"version": 1, "orientation": "exif"}


def test_a_table_without_hashes_is_extended_where_nothing_is_decoded_otherwise(
    tmp_path: Path,
) -> None:
    for orientation, allowed in ((1, True), (6, False)):
        data = pictures(tmp_path / f"images{orientation}", orientation=orientation)
        table = tmp_path / f"table{orientation}"
        scored(table, FIRST, data + "?orientation=ignore")
        forget(table, "content", "decoding")
        if not allowed:
            with pytest.raises(TableError, match=r"9 images are decoded otherwise .*'a/0.png'"):
                scored(table, MORE, data)
            data += "?orientation=ignore"
        assert len(scored(table, MORE, data)["runs"]) == 2


def test_a_table_is_extended_with_its_orientation(tmp_path: Path) -> None:
    data, table = pictures(tmp_path / "images"), tmp_path / "table"
    scored(table, FIRST, data + "?orientation=ignore")
    with pytest.raises(TableError, match=r"give the data with [?]orientation=ignore"):
        scored(table, MORE, data)


def files(contents: list[bytes], *, hash_all: bool = False) -> EncodedImages:
    return EncodedImages(lambda i: contents[i], len(contents), "exif", hash_all=hash_all)


def test_a_sample_is_hashed_at_even_distances_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [bytes([n % 251]) for n in range(5000)]
    sample, everything = files(contents).hash(), files(contents, hash_all=True).hash()
    assert (sample.images, len(sample.marks)) == (256, 8 * 256)
    assert (everything.images, len(everything.marks)) == (5000, 8 * 256)
    changed = [*contents[:1000], b"changed", *contents[1001:]]
    assert 1000 in files(changed).changed_since(everything)
    assert len(files(changed).changed_since(everything)) <= 20
    assert files(changed).changed_since(sample) in ([], [1000])
    assert files([b"?"] * 5000).changed_since(sample)[-1] == 4999
    monkeypatch.setattr(encoded, "SAMPLE", 16)
    read: set[int] = set()

    def counted(position: int) -> bytes:
        read.add(position // 100)
        return contents[position]

    assert EncodedImages(counted, 5000, "exif", hash_all=False, block=100).hash().images == 16
    assert len(read) == encoded.BLOCKS


def test_parquet_files_are_sampled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"image": [bytes([n]) for n in range(20)]}
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    whole = open_data(f"parquet:{tmp_path / 'a.parquet'}").encoded
    monkeypatch.setattr(parquet_column, "HELD_WHOLE", 0)
    monkeypatch.setattr(parquet_column, "BLOCK_ROWS", 2)
    blocks = open_data(f"parquet:{tmp_path / 'a.parquet'}?fingerprint=all").encoded
    assert whole is not None
    assert blocks is not None
    assert (whole.block, blocks.block) == (20, 2)
    assert whole.hash() == blocks.hash(), "all of 20 either way"


def test_run_notes_images_decoded_otherwise(tmp_path: Path) -> None:
    data, cascade = pictures(tmp_path / "images"), tmp_path / "cascade"
    stages = load_stages("py:digit_nets:pixels", "pixels")
    scored_by = {"table": {"provenance": {"decoding": {"version": 1, "orientation": "exif"}}}}
    save_cascade(Cascade(stages, Policy.single("pixels")), cascade, provenance=scored_by)
    assert decoding_warnings(cascade, open_data(data)) == []
    (note,) = decoding_warnings(cascade, open_data(data + "?orientation=ignore"))
    assert "give the data with ?orientation=exif" in note


def test_all_files_of_a_sample_may_be_unreadable() -> None:
    def gone(position: int) -> bytes:
        raise OSError(position)

    images = EncodedImages(gone, 3, "exif", hash_all=False)
    assert images.changed_since(images.hash()) == []
    assert list(images.decoded_otherwise()) == []
