from __future__ import annotations

from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from understudy.errors import DataError
from understudy.split import SHARES_OF_MANY, assign_splits
from understudy.zoo import parquet_column as parquet
from understudy.zoo.batches import batches
from understudy.zoo.data import DataSet, open_data


def encoded(
    shade: int, *, size: tuple[int, int] = (6, 4), kind: str = "PNG", mode: str = "RGB"
) -> bytes:
    """An image (width, height) of one shade."""
    buffer = BytesIO()
    Image.new("RGB", size, (shade, 0, 255)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def folder(root: Path, files: dict[str, bytes]) -> DataSet:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return open_data(f"folder:{root}")


def table(path: Path, columns: dict[str, Any], options: str = "") -> DataSet:
    pl.DataFrame(columns).write_parquet(path, row_group_size=3)
    return open_data(f"parquet:{path}{options}")


def test_a_folder_per_class(tmp_path: Path) -> None:
    data = folder(
        tmp_path,
        {
            "dog/b.png": encoded(1),
            "cat/2020/a.jpeg": encoded(2, kind="JPEG"),
            "cat/z.GIF": encoded(3, kind="GIF"),
            "cat/notes.txt": b"no image",
            "cat/._z.png": b"no image",
            ".cache/x.png": b"no image",
        },
    )
    assert data.ids.tolist() == ["cat/2020/a.jpeg", "cat/z.GIF", "dog/b.png"]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1]
    assert data.classes == ("cat", "dog")
    assert data.image(2).shape == (3, 4, 6)
    assert data.image(2)[:, 0, 0].tolist() == [1, 0, 255]
    assert data.image(2).dtype == torch.uint8


def test_images_of_every_mode_become_rgb(tmp_path: Path) -> None:
    modes = ["RGB", "RGBA", "L", "P", "1", "LA"]
    data = folder(tmp_path, {f"x/{mode}.png": encoded(255, mode=mode) for mode in modes})
    assert {tuple(data.image(i).shape) for i in range(len(data))} == {(3, 4, 6)}


def test_images_alone_have_no_labels(tmp_path: Path) -> None:
    data = folder(tmp_path, {"a.png": encoded(1), "b.png": encoded(2)})
    assert (data.labels, data.classes, data.ids.tolist()) == (None, None, ["a.png", "b.png"])
    with pytest.raises(DataError, match=r"1 folders and 2 images next to them \(a.png, b.png\)"):
        folder(tmp_path, {"cat/c.png": encoded(3)})


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone' is none: check the path"):
        open_data(f"folder:{tmp_path / 'gone'}")
    with pytest.raises(DataError, match="has no images"):
        open_data(f"folder:{tmp_path}")


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    whole = encoded(1, size=(60, 60), kind="JPEG")
    data = folder(tmp_path, {"x/cut.jpg": whole[:-200], "x/empty.png": b"", "x/ok.jpg": whole})
    for index, name in enumerate(["x/cut.jpg", "x/empty.png"]):
        with pytest.raises(DataError, match=f"'{name}' of .* cannot"):
            data.image(index)
    (batch,) = batches(data)
    assert batch.positions.tolist() == [2]
    assert ["x/cut.jpg" in batch.corrupt[0], "x/empty.png" in batch.corrupt[1]] == [True, True]


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    files = {"cat/a.png": encoded(1), "dog/b.png": encoded(2)}
    first = folder(tmp_path / "here", files).fingerprint
    assert folder(tmp_path / "there", files).fingerprint == first
    assert folder(tmp_path / "there", {"cat/c.png": encoded(1)}).fingerprint != first
    assert folder(tmp_path / "here", {"dog/b.png": encoded(2) + b" "}).fingerprint != first
    columns = {"image": [encoded(1)], "label": [0]}
    marks = [table(tmp_path / f"{name}.parquet", columns).fingerprint for name in "ab"]
    assert marks[0] == marks[1]
    assert table(tmp_path / "b.parquet", {**columns, "label": [1]}).fingerprint != marks[0]


@pytest.mark.parametrize("key", ["name", "key", "id", "file_name"])
def test_parquet_columns_by_default(tmp_path: Path, key: str) -> None:
    columns = {"image": [encoded(1), encoded(2)], "label": [3, 0], key: ["a", "b"]}
    data = table(tmp_path / "data.parquet", columns)
    assert data.ids.tolist() == ["a", "b"]
    assert data.labels is not None
    assert data.labels.tolist() == [3, 0]
    assert data.classes is None
    assert data.image(1)[:, 0, 0].tolist() == [2, 0, 255]


def test_parquet_columns_by_option(tmp_path: Path) -> None:
    columns = {
        "img": [{"bytes": encoded(shade), "path": None} for shade in (1, 2, 3)],
        "what": ["dog", "cat", "dog"],
        "number": [7, 8, 9],
        "patient": ["p", "p", "q"],
    }
    options = "?image=img&label=what&key=number&group=patient"
    data = table(tmp_path / "data.parquet", columns, options)
    assert data.ids.tolist() == ["7", "8", "9"]
    assert (data.labels is not None and data.labels.tolist(), data.classes) == (
        [1, 0, 1],
        ("cat", "dog"),
    )
    assert data.groups == ("p", "p", "q")
    assert data.image(2)[0, 0, 0] == 3


def test_parquet_without_names_and_labels(tmp_path: Path) -> None:
    data = table(tmp_path / "data.parquet", {"image": [encoded(1), None]})
    assert (data.ids.tolist(), data.labels) == (["0", "1"], None)
    with pytest.raises(DataError, match=r"'1' of .*the cell is empty"):
        data.image(1)


def test_large_parquet_files_are_read_by_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "HELD_WHOLE", 0)
    monkeypatch.setattr(parquet, "BLOCK_ROWS", 4)
    data = table(tmp_path / "data.parquet", {"image": [encoded(shade) for shade in range(30)]})
    shades = [int(image[0, 0, 0]) for b in batches(data, size=7, workers=3) for image in b.images]
    assert shades == list(range(30))
    assert int(data.image(0)[0, 0, 0]) == 0


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"img": [b""]}, "", "no column 'image' in .*; did you mean 'img'.*[?]image=COLUMN"),
        ({"image": ["text"]}, "", "'image' is String"),
        ({"image": [b""], "label": [0.5]}, "", "column 'label' is Float64"),
        ({"image": [b""] * 2, "label": [0, None]}, "", "column 'label' has 1 empty cells"),
        ({"image": [b""] * 2, "key": ["a", None]}, "", "column 'key' has 1 empty cells"),
        ({"image": [b""] * 2, "key": ["a", "a"]}, "", r"ids are unique, 1 in .* repeat \(a\)"),
        ({"image": [b""]}, "?label=truth", "no column 'truth'"),
        ({"image": [b""]}, "?lable=truth", "did you mean 'label'"),
        ({"image": pl.Series([], dtype=pl.Binary)}, "", "at least one image"),
    ],
)
def test_parquet_files_that_break_a_rule(
    tmp_path: Path, columns: dict[str, Any], options: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path / "data.parquet", columns, options)


def test_what_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_bytes(b"nonsense of some length")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_data(f"parquet:{tmp_path / 'data.parquet'}")
    with pytest.raises(DataError, match="check the path"):
        open_data("parquet:")


def test_digits_in_two_fixed_halves() -> None:
    whole, train, heldout = (open_data(f"digits:{part}") for part in ("", "train", "heldout"))
    assert [len(data) for data in (whole, train, heldout)] == [1797, 897, 900]
    assert sorted([*train.ids, *heldout.ids]) == whole.ids.tolist()
    assert len({data.fingerprint for data in (whole, train, heldout)}) == 3
    assert whole.image(0).shape == (1, 8, 8)
    assert max(int(heldout.image(i).max()) for i in range(20)) == 255
    assert heldout.labels is not None
    assert set(Counter(heldout.labels.tolist())) == set(range(10))
    position = whole.ids.tolist().index(heldout.ids[17])
    assert torch.equal(whole.image(position), heldout.image(17))
    with pytest.raises(DataError, match="did you mean 'train'"):
        open_data("digits:tain")


def test_halves_of_the_digits_do_not_decide_their_splits() -> None:
    codes, _ = assign_splits(open_data("digits:heldout").ids, SHARES_OF_MANY)
    shares = np.bincount(codes, minlength=3) / len(codes)
    assert np.allclose(shares, [0.2, 0.6, 0.2], atol=0.05)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_in_order_and_fixed(tmp_path: Path, workers: int) -> None:
    files = {f"x/{number:02}.png": encoded(number) for number in range(11)}
    files["x/01.png"] = b"corrupt"
    files["x/04.png"] = encoded(4, size=(9, 9))
    data = folder(tmp_path, files)
    found = list(batches(data, size=3, workers=workers))
    assert [batch.positions.tolist() for batch in found] == [[0, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
    assert [len(batch.corrupt) for batch in found] == [1, 0, 0, 0]
    assert isinstance(found[0].images, torch.Tensor)
    assert [image.shape[-1] for image in found[1].images] == [6, 9, 6]
    some = list(batches(data, [9, 0], size=5, workers=workers))
    assert [batch.positions.tolist() for batch in some] == [[9, 0]]


def test_batches_may_be_left_early() -> None:
    assert len(next(iter(batches(open_data("digits:"), size=8)))) == 8


def test_batches_have_a_size() -> None:
    with pytest.raises(DataError, match="found 0 and 2"):
        batches(open_data("digits:"), size=0)


def test_a_limit_takes_images_in_turn_from_the_classes(tmp_path: Path) -> None:
    files = {
        f"{name}/{n}.png": encoded(n) for name, count in (("a", 4), ("b", 2)) for n in range(count)
    }
    folder(tmp_path, files)
    found = [open_data(f"folder:{tmp_path}?limit={most}") for most in (1, 3, 5, 99)]
    assert [data.ids.tolist() for data in found] == [
        ["a/0.png"],
        ["a/0.png", "a/1.png", "b/0.png"],
        ["a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png"],
        list(files),
    ]
    assert found[1].classes == ("a", "b")
    assert found[1].image(2)[0, 0, 0] == 0
    assert found[2].image(4)[0, 0, 0] == 1
    assert len({data.fingerprint for data in found}) == 4
    for wrong in ("0", "-1", "1e3", "many"):
        with pytest.raises(DataError, match="limit is the largest number of images"):
            open_data(f"folder:{tmp_path}?limit={wrong}")
