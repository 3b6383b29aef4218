"""Folders of classes: their order, and what is said where they are not the models' classes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from torch import nn

from command_line import Run, refused
from image_files import write_images
from understudy.errors import DataError
from understudy.zoo.data import open_data
from understudy.zoo.hf_models import label_names
from understudy.zoo.imagenet_classes import wnids


def labels_of(spec: str) -> list[int]:
    data = open_data(spec)
    assert data.labels is not None
    found: list[int] = data.labels.tolist()
    return found


def test_folders_called_by_numbers_are_in_their_order(tmp_path: Path) -> None:
    root = write_images(tmp_path, [f"{number}/a.png" for number in range(12)])
    data = open_data(f"folder:{root}")
    assert data.classes == tuple(map(str, range(12)))
    assert labels_of(f"folder:{root}") == list(range(12))
    assert [int(data.array(row)[0, 0, 0]) for row in range(12)] == list(range(12))


def test_one_name_that_is_no_number_makes_all_of_them_text(tmp_path: Path) -> None:
    root = write_images(tmp_path, ["10/a.png", "9/a.png", "other/a.png"])
    assert open_data(f"folder:{root}").classes == ("10", "9", "other")


def test_classes_are_numbered_by_a_file(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", ["cat/a.png", "dog/b.png"])
    (tmp_path / "names.txt").write_text("horse\ndog\n\ncat\n")
    spec = f"folder:{root}?classes={tmp_path / 'names.txt'}"
    data = open_data(spec)
    assert (data.classes, data.ids.tolist()) == (
        ("horse", "dog", "cat"),
        ["dog/b.png", "cat/a.png"],
    )
    assert labels_of(spec) == [1, 2]
    data.check_classes(3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("dog\nCat", r"1 of 2 are not \('cat'; no class 'cat' in"),
        ("", "has none"),
        ("dog\ncat\ndog", "has 'dog' twice"),
    ],
)
def test_a_file_of_classes_that_does_not_fit(tmp_path: Path, names: str, message: str) -> None:
    root = write_images(tmp_path / "images", ["cat/a.png", "dog/b.png"])
    (tmp_path / "names.txt").write_text(names)
    with pytest.raises(DataError, match=message):
        open_data(f"folder:{root}?classes={tmp_path / 'names.txt'}")
    with pytest.raises(DataError, match=r"classes= names a file, 'gone.txt' is none"):
        open_data(f"folder:{root}?classes=gone.txt")


@pytest.mark.parametrize(
    ("folders", "count", "way"),
    [
        (("cat", "dog"), 10, "?classes=FILE with all names of the models' classes"),
        (("cat", "dog"), 1, "give one name (one folder) per class"),
        (("images",), 10, "one folder alone is no label"),
        (("n01440764", "n01443537"), 1000, "write imagenet:DIR"),
        (("3", "17"), 1000, "write imagenet:DIR"),
        (("train",), 10, "one folder alone is no label, so go one further, folder:DIR/train"),
    ],
)
def test_folders_that_are_not_the_models_classes_have_a_way_out(
    tmp_path: Path, folders: tuple[str, ...], count: int, way: str
) -> None:
    root = write_images(tmp_path, [f"{name}/a.png" for name in folders])
    with pytest.raises(DataError) as caught:
        open_data(f"folder:{root}").check_classes(count)
    assert way in str(caught.value)
    assert f"where the models have {count} classes" in str(caught.value)


def test_folders_of_splits_are_no_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / "data" / split, ["cat/a.png", "dog/b.png"])
    with pytest.raises(DataError, match=r"those of train, val: name one, folder:.*/data/val"):
        open_data(f"folder:{tmp_path / 'data'}")
    vehicles = write_images(tmp_path / "vehicles", ["train/a.png", "train/b.png"])
    assert open_data(f"folder:{vehicles}").classes == ("train",)


def test_wordnet_ids_of_other_classes_are_named(tmp_path: Path) -> None:
    names = [f"{name}/a.png" for name in wnids()]
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    open_data(f"folder:{tmp_path}").check_classes(1000)
    (tmp_path / wnids()[0]).rename(tmp_path / "n99999999")
    with pytest.raises(DataError, match=r"1 in .* are not \(n99999999\)"):
        open_data(f"folder:{tmp_path}").check_classes(1000)


def test_names_of_the_models_are_compared(tmp_path: Path) -> None:
    data = open_data(f"folder:{write_images(tmp_path, ['cat/a.png', 'dog/b.png'])}")
    data.check_classes(2, names=("cat", "dog"))
    data.check_classes(2, names=("Katze", "Hund"))
    data.check_classes(2, names=("dog", "dog"))
    with pytest.raises(DataError, match="'cat' is class 0, and class 1 of the models"):
        data.check_classes(2, names=("dog", "cat"))


def test_models_of_transformers_have_names_of_classes() -> None:
    model = nn.Linear(4, 2)
    assert label_names(model) is None
    for named, names in (
        ({1: "dog", 0: "cat"}, ("cat", "dog")),
        ({0: "LABEL_0", 1: "LABEL_1"}, None),
        ({3: "cat"}, None),
    ):
        model.config = SimpleNamespace(id2label=named)  # type: ignore[assignment]
        assert label_names(model) == names


def test_a_flat_folder_is_said_to_have_no_labels(run: Run, tmp_path: Path) -> None:
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    words = ("score", "py:digit_nets:pixels", "--data", tmp_path / "images", "--measure", "none")
    done = run(*words, "--into", tmp_path / "table")
    assert "has no labels" in done.stderr
    inside = ("--data", tmp_path / "none", "--into", tmp_path / "other")
    (tmp_path / "none").mkdir()
    (tmp_path / "images").rename(tmp_path / "none" / "images")
    refused(run("score", "py:digit_nets:pixels", *inside), "one folder alone is no label")
