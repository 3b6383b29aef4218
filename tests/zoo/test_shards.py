"""Data in several files: tar files of WebDataset, Parquet files, patterns that name them."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from image_files import encoded
from understudy.errors import DataError
from understudy.zoo import parquet_column, shards
from understudy.zoo.batches import batches
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.data_specs import parse_data_spec


def tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, BytesIO(content))
    return file


def sample(number: int, **more: bytes) -> dict[str, bytes]:
    """The files of a sample with a class number of one digit."""
    return {
        f"{number:04}.png": encoded(number),
        f"{number:04}.cls": b"%d\n" % (number % 3),
        **{f"{number:04}.{ending}": content for ending, content in more.items()},
    }


def two_tars(root: Path) -> None:
    for part in range(2):
        rows = range(4 * part, 4 * part + 4)
        tar(root / f"train-{part:03}.tar", {k: v for row in rows for k, v in sample(row).items()})


def shades(data: DataSet, order: list[int] | None = None) -> list[int]:
    rows = range(len(data)) if order is None else order
    return [int(data.array(row)[0, 0, 0]) for row in rows]


@pytest.mark.parametrize("target", ["train-{000..001}.tar", "train-*.tar", ""])
def test_tar_files_are_read_in_any_order(tmp_path: Path, target: str) -> None:
    two_tars(tmp_path)
    data = open_data(f"wds:{tmp_path / target}")
    assert data.ids.tolist() == [f"train-{n // 4:03}/{n:04}" for n in range(8)]
    assert data.labels is not None
    assert data.labels.tolist() == [n % 3 for n in range(8)]
    assert data.classes is None
    assert shades(data, [7, 0, 5]) == [7, 0, 5]
    assert [int(image[0, 0, 0]) for b in batches(data, size=3) for image in b.images] == [*range(8)]
    again = open_data(f"wds:{tmp_path / 'train-{000,001}.tar'}")
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("members", "options", "labels", "classes"),
    [
        ({"a.jpg": b"", "a.json": json.dumps({"label": 4}).encode()}, "", [4], None),
        ({"a.jpg": b"", "a.json": json.dumps({"label": "cat"}).encode()}, "", [0], ("cat",)),
        ({"a.jpg": b"", "a.json": json.dumps({"y": 3}).encode()}, "?label=y", [3], None),
        ({"a.jpg": b"", "a.json": json.dumps({"caption": "a cat"}).encode()}, "", None, None),
        ({"a.jpg": b"", "a.txt": b"dog"}, "?label=txt", [0], ("dog",)),
        ({"a.jpg": b"", "a.txt": b"dog"}, "", None, None),
        ({"d/a.left.jpg": b"1", "d/a.right.jpg": b"22"}, "?image=right.jpg", None, None),
    ],
)
def test_labels_of_tar_files(
    tmp_path: Path,
    members: dict[str, bytes],
    options: str,
    labels: list[int] | None,
    classes: tuple[str, ...] | None,
) -> None:
    file = tar(tmp_path / "x.tar", members)
    data = open_data(f"{file}{options}")
    assert data.spec == f"wds:{file}{options}"
    assert (None if data.labels is None else data.labels.tolist(), data.classes) == (
        labels,
        classes,
    )


def test_a_tar_that_ends_early_is_named(tmp_path: Path) -> None:
    members = {name: content for row in range(4) for name, content in sample(row).items()}
    whole = tar(tmp_path / "whole.tar", members).read_bytes()
    assert len(open_data(f"wds:{tmp_path / 'whole.tar'}")) == 4
    for end in (100, 512, 700, 1024, 2048, 512 * 11 + 5, 512 * 16):
        (tmp_path / "cut.tar").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"cut.tar' (ends early, at byte|is none)"):
            open_data(f"wds:{tmp_path / 'cut.tar'}")
    (tmp_path / "cut.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"cut.tar'"):
        open_data(f"wds:{tmp_path / 'cut.tar'}")


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ({"a.cls": b"1"}, "", r"1 of 1 .*have none \('x/a'; its files end in cls\)"),
        ({"a.png": b"", "a.cls": b"1", "b.png": b""}, "", r"a label in .cls, 1 of 2 .*\('x/b'\)"),
        ({"a.png": b""}, "?label=y", r"a label 'y' in .json, 1 of 1"),
        ({"a.png": b"", "a.json": b"[1"}, "?label=json", "a label 'label' in .json"),
        ({"README": b""}, "", "has no samples"),
        ({"a.png": b""}, "?image=jpg", "name the ending, [?]image=ENDING"),
    ],
)
def test_tar_files_that_break_a_rule(
    tmp_path: Path, members: dict[str, bytes], options: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_data(f"wds:{tar(tmp_path / 'x.tar', members)}{options}")


def test_names_are_given_once(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as opened:
        opened.addfile(tarfile.TarInfo("a.png"))
        opened.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match=r"has 'a.png' twice"):
        open_data(f"wds:{tmp_path / 'x.tar'}")


def test_compressed_tar_files_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz") as opened:
        opened.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match=r"not compressed, .* is none"):
        open_data(f"wds:{tmp_path / 'x.tar'}")


def test_braces_are_expanded_as_a_shell_does() -> None:
    assert shards.expanded("a{1..3}b") == ["a1b", "a2b", "a3b"]
    assert shards.expanded("{09..11}") == ["09", "10", "11"]
    assert shards.expanded("{2..1}{x,}") == ["2x", "2", "1x", "1"]
    with pytest.raises(DataError, match="at most 100,000 files"):
        shards.expanded("{0..99999}{0..99999}")
    with pytest.raises(DataError, match="at most 100,000 files"):
        shards.expanded("{0..99999999999999}")


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    two_tars(tmp_path)
    with pytest.raises(DataError, match=r"2 of 4 are not \(.*train-002.tar'"):
        open_data(f"wds:{tmp_path}/train-{{000..003}}.tar")
    with pytest.raises(DataError, match="check the path"):
        open_data(f"parquet:{tmp_path}")
    for name in ("train-00000-of-00003", "train-00002-of-00003"):
        pl.DataFrame({"image": [encoded(0)]}).write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"lacks 1 of 3 of 'train' \(00001\)"):
        open_data(f"parquet:{tmp_path}")
    pl.DataFrame({"image": [encoded(0)]}).write_parquet(tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(
        DataError, match=r"shards of 2 \(test, train\): name one, .*/test-\*.parquet"
    ):
        open_data(f"parquet:{tmp_path}")
    assert len(open_data(f"parquet:{tmp_path}/test-*.parquet")) == 1


def parquet_shards(root: Path, sizes: tuple[int, ...]) -> str:
    start = 0
    for part, size in enumerate(sizes):
        rows = range(start, start + size)
        columns = {
            "image": [encoded(row) for row in rows],
            "label": ["cd"[row % 2] for row in rows],
        }
        frame = pl.DataFrame(columns, schema={"image": pl.Binary, "label": pl.String})
        frame.write_parquet(root / f"{part}.parquet", row_group_size=3)
        start += size
    return f"parquet:{root}"


@pytest.mark.parametrize("held_whole", [0, 2**20])
def test_parquet_shards_are_one_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_whole: int
) -> None:
    monkeypatch.setattr(parquet_column, "HELD_WHOLE", held_whole)
    monkeypatch.setattr(parquet_column, "BLOCK_ROWS", 4)
    data = open_data(parquet_shards(tmp_path, (9, 0, 5, 16)))
    assert parse_data_spec(str(tmp_path)).scheme == "parquet"
    assert data.ids.tolist() == [str(row) for row in range(30)]
    assert data.labels is not None
    assert (data.labels.tolist(), data.classes) == ([row % 2 for row in range(30)], ("c", "d"))
    assert shades(data) == list(range(30))
    assert shades(data, [29, 0, 9, 8, 14]) == [29, 0, 9, 8, 14]


def test_shards_with_other_columns_are_named(tmp_path: Path) -> None:
    spec = parquet_shards(tmp_path, (2, 2))
    pl.DataFrame({"image": [encoded(0)], "what": [1]}).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"those of .* differ"):
        open_data(spec)
    pl.DataFrame({"image": [encoded(0)]}).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"no column 'label' in '.*2.parquet'"):
        open_data(f"{spec}?label=label")


@pytest.mark.parametrize("room", [True, False])
def test_at_random_a_block_is_decoded_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    monkeypatch.setattr(parquet_column, "HELD_WHOLE", 0)
    monkeypatch.setattr(parquet_column, "BLOCK_ROWS", 3)
    if not room:
        monkeypatch.setattr(parquet_column, "SPARE", 2**62)
    scans: list[Any] = []
    scan = pl.scan_parquet

    def counted(file: Path, **options: Any) -> pl.LazyFrame:
        scans.append(file)
        return scan(file, **options)

    monkeypatch.setattr(pl, "scan_parquet", counted)
    columns = {"image": [encoded(row) for row in range(89)] + [None]}
    pl.DataFrame(columns).write_parquet(tmp_path / "x.parquet", row_group_size=7)
    data = open_data(f"parquet:{tmp_path / 'x.parquet'}")
    blocks, order = 30, [row * 37 % 89 for row in range(89)]
    assert shades(data, list(range(89))) == list(range(89))
    in_order = len(scans)
    assert in_order <= blocks + 2
    assert shades(data, order) == order
    assert shades(data, order) == order
    with pytest.raises(DataError, match=r"'89' of .*the cell is empty"):
        data.array(89)
    read = len(scans) - in_order
    assert (read <= blocks + 8) == room


def test_class_names_of_hugging_face_s_parquet_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["b", "a"])
    )
    rows = {"image": [{"bytes": encoded(n), "path": None} for n in range(3)], "label": [0, 1, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "x.parquet")
    data = open_data(f"parquet:{tmp_path / 'x.parquet'}")
    assert data.labels is not None
    assert (data.labels.tolist(), data.classes, shades(data)) == ([0, 1, 1], ("b", "a"), [0, 1, 2])
    (tmp_path / "names.txt").write_text("a\nb")
    other = open_data(f"parquet:{tmp_path / 'x.parquet'}?classes={tmp_path / 'names.txt'}")
    assert other.labels is not None
    assert (other.labels.tolist(), other.classes) == ([1, 0, 0], ("a", "b"))
