"""Data sets of Hugging Face, in folders: there is no hub in a test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from image_files import encoded, write_images
from understudy.errors import DataError, MissingExtra
from understudy.zoo.data import DataSet, open_data

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def saved(
    place: Path,
    features: dict[str, Any] | None = None,
    *,
    splits: tuple[str, ...] = (),
    **columns: list[Any],
) -> Path:
    """What `save_to_disk` writes: three images, and more columns."""
    images = [{"bytes": encoded(shade), "path": None} for shade in range(3)]
    kinds = datasets.Features({"image": datasets.Image(), **(features or {})})
    found = datasets.Dataset.from_dict({"image": images, **columns}, features=kinds)
    whole = datasets.DatasetDict(dict.fromkeys(splits, found)) if splits else found
    whole.save_to_disk(place)
    return place


def labels_of(data: DataSet) -> list[int] | None:
    return None if data.labels is None else data.labels.tolist()


def shades(data: DataSet) -> list[int]:
    return [int(data.array(row)[0, 0, 0]) for row in range(len(data))]


def test_columns_are_found_by_their_types(tmp_path: Path) -> None:
    features = {"fine": datasets.ClassLabel(names=["dog", "cat"]), "id": datasets.Value("string")}
    place = saved(tmp_path / "data", features, fine=[1, 0, 1], id=["x", "y", "z"])
    data = open_data(f"hf:{place}")
    assert (labels_of(data), data.classes) == ([1, 0, 1], ("dog", "cat"))
    assert (data.ids.tolist(), shades(data)) == (["x", "y", "z"], [0, 1, 2])
    assert open_data(str(place)).spec == f"hf:{place}"
    other = saved(tmp_path / "other", features, fine=[1, 0, 1], id=["x", "y", "z"])
    assert open_data(f"hf:{other}").fingerprint == data.fingerprint
    (tmp_path / "names.txt").write_text("cat\ndog")
    assert labels_of(open_data(f"hf:{place}?classes={tmp_path / 'names.txt'}")) == [0, 1, 0]


def test_splits_are_named(tmp_path: Path) -> None:
    place = saved(tmp_path / "data", splits=("train", "validation"))
    assert open_data(f"hf:{place}?split=validation").labels is None
    with pytest.raises(DataError, match=r"has train, validation: name one, [?]split=train"):
        open_data(f"hf:{place}")
    with pytest.raises(DataError, match="no split 'val' in"):
        open_data(f"hf:{place}?split=val")


def test_a_folder_of_images_as_imagefolder_takes_it(tmp_path: Path) -> None:
    root = write_images(tmp_path / "pets", ["cat/a.png", "dog/b.png"])
    data = open_data(f"hf:{root}")
    assert (labels_of(data), data.classes, shades(data)) == ([0, 1], ("cat", "dog"), [0, 1])


@pytest.mark.parametrize(
    ("features", "columns", "options", "message"),
    [
        (
            {"label": datasets.Value("float32")},
            {"label": [0.0] * 3},
            "",
            "'label' of .* holds Value",
        ),
        ({"label": datasets.Value("int64")}, {"label": [0, 1, -1]}, "", "1 in column 'label'"),
        ({"y": datasets.Value("int64")}, {"y": [0] * 3}, "?label=x", "no column 'x' in"),
        ({"y": datasets.Value("int64")}, {"y": [0] * 3}, "?key=y", r"ids are unique, 2 .* repeat"),
    ],
)
def test_columns_that_break_a_rule(
    tmp_path: Path, features: Any, columns: Any, options: str, message: str
) -> None:
    place = saved(tmp_path / "data", features, **columns)
    with pytest.raises(DataError, match=message):
        open_data(f"hf:{place}{options}")


def test_labels_that_are_all_missing_are_none(tmp_path: Path) -> None:
    label = {"label": datasets.ClassLabel(names=["a", "b"])}
    data = open_data(f"hf:{saved(tmp_path / 'data', label, label=[-1, -1, -1])}")
    assert (data.labels, data.classes) == (None, ("a", "b"))


def test_data_without_images(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "data")
    with pytest.raises(DataError, match="has text: name one that holds encoded images"):
        open_data(f"hf:{tmp_path / 'data'}")


def test_images_whose_files_are_gone_are_corrupt(tmp_path: Path) -> None:
    root = write_images(tmp_path / "pets", ["cat/a.png", "dog/b.png"])
    data = open_data(f"hf:{root}")
    (root / "cat" / "a.png").unlink()
    with pytest.raises(DataError, match=r"'0' of .*cat/a.png' is not there"):
        data.array(0)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    offline = []

    def no_session() -> None:
        raise ConnectionError

    def refuse(*_: Any, **__: Any) -> None:
        offline.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        raise ConnectionError("Couldn't reach 'who/what' on the Hub (ConnectError)")

    monkeypatch.setattr(huggingface_hub, "get_session", no_session)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"'who/what' cannot be loaded \(ConnectionError: Couldn't"):
        open_data("hf:who/what")
    assert offline == [True], "its client would retry for half a minute"
    with pytest.raises(DataError, match="write hf:OWNER/NAME"):
        open_data("hf:")


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'understudy\[hf\]'"):
        open_data("hf:who/what")
