"""ImageNet and the sets with its classes, in the layouts in which they come."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from image_files import write_images
from understudy.errors import DataError
from understudy.zoo import imagenet_labels
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.imagenet_classes import class_names, real_labels, wnids

VAL = [f"ILSVRC2012_val_{number:08}.JPEG" for number in (1, 2, 3)]


def labels_of(data: DataSet) -> dict[str, int]:
    assert data.labels is not None
    return dict(zip(data.ids.tolist(), data.labels.tolist(), strict=True))


def shades(data: DataSet) -> list[int]:
    return [int(data.array(row)[0, 0, 0]) for row in range(len(data))]


def test_the_list_of_classes_is_that_of_timm() -> None:
    info = pytest.importorskip("timm.data").ImageNetInfo()
    assert list(wnids()) == info.label_names() == sorted(wnids())
    assert len(set(class_names())) == 1000
    assert class_names()[0] == info.index_to_description(0)
    assert len(real_labels()) == 50_000


def test_splits_in_folders_of_wordnet_ids(tmp_path: Path) -> None:
    for split in ("val", "train"):
        write_images(tmp_path, [f"{split}/{wnids()[n]}/{n}.JPEG" for n in (0, 2, 999)])
    write_images(tmp_path / "train", [f"{wnids()[1]}/more.JPEG"])
    val, train = open_data(f"imagenet:{tmp_path}"), open_data(f"imagenet:{tmp_path}?split=train")
    assert list(labels_of(val).values()) == [0, 2, 999]
    assert list(labels_of(train).values()) == [0, 1, 2, 999]
    assert (val.classes, shades(val)) == (class_names(), [0, 1, 2])
    val.check_classes(1000)
    with pytest.raises(DataError, match="take models whose last layer has ImageNet's 1,000"):
        val.check_classes(21843)


def test_the_layout_of_kaggle(tmp_path: Path) -> None:
    write_images(tmp_path / "ILSVRC/Data/CLS-LOC/val", VAL)
    boxes = "85 1 499 272"
    lines = [f"{Path(name).stem},{wnids()[7 - n]} {boxes} " for n, name in enumerate(VAL)]
    solution = "\n".join(["ImageId,PredictionString", *reversed(lines)])
    (tmp_path / "LOC_val_solution.csv").write_text(solution)
    data = open_data(f"imagenet:{tmp_path}")
    assert labels_of(data) == dict(zip(VAL, (7, 6, 5), strict=True))


def test_class_subsets_have_the_numbers_of_all_classes(tmp_path: Path) -> None:
    names = [f"{wnids()[n]}/{n}.png" for n in (6, 11, 13)]
    (tmp_path / "README.txt").write_text("of ImageNet-A")
    data = open_data(f"imagenet:{write_images(tmp_path, names)}")
    assert labels_of(data) == dict(zip(names, (6, 11, 13), strict=True))
    data.check_classes(1000)


def test_folders_called_by_class_numbers(tmp_path: Path) -> None:
    data = open_data(f"imagenet:{write_images(tmp_path, [f'{n}/a.jpeg' for n in (0, 9, 10, 100)])}")
    assert list(labels_of(data).values()) == [0, 9, 10, 100] == [int(i[:-7]) for i in data.ids]
    assert shades(data) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "\n".join(f"{name} {n + 3}" for n, name in enumerate(VAL))),
        (
            "names.csv",
            "\n".join(f"{Path(name).stem},{wnids()[n + 3]}" for n, name in enumerate(VAL)),
        ),
        ("order.txt", "3\n4\n5\n77\n"),
        ("wnids.txt", "\n".join(wnids()[3:6])),
        ("order.json", "[3, 4, 5]"),
    ],
)
def test_validation_images_with_a_label_file(tmp_path: Path, name: str, text: str) -> None:
    write_images(tmp_path / "flat", VAL)
    (tmp_path / name).write_text(text)
    data = open_data(f"imagenet:{tmp_path / 'flat'}?labels={tmp_path / name}")
    assert labels_of(data) == dict(zip(VAL, (3, 4, 5), strict=True))


def test_ground_truth_of_the_development_kit_is_translated_by_its_meta(tmp_path: Path) -> None:
    write_images(tmp_path / "val", VAL)
    truth = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1000\n1\n2\n")
    with pytest.raises(DataError, match=r"own order of classes.*put meta.mat there"):
        open_data(f"imagenet:{tmp_path}")
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    own = [(number, wnids()[1000 - number]) for number in range(1, 1001)]
    savemat(tmp_path / "meta.mat", {"synsets": np.array(own, dtype=kind)})
    assert list(labels_of(open_data(f"imagenet:{tmp_path}")).values()) == [0, 999, 998]
    (tmp_path / "meta.mat").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"meta.mat' does not .*take that of"):
        open_data(f"imagenet:{tmp_path}")


def test_several_right_answers_and_images_without_any(tmp_path: Path) -> None:
    write_images(tmp_path, VAL)
    (tmp_path / "real.json").write_text("[[970, 795, 970], [], [4]]")
    data = open_data(f"imagenet:{tmp_path}?labels={tmp_path / 'real.json'}")
    assert labels_of(data) == {VAL[0]: 970, VAL[2]: 4}
    assert data.label_sets is not None
    assert data.label_sets.dtype == np.int32
    assert data.label_sets.tolist() == [[970, 795], [4, -1]]
    assert (shades(data), data.left_out) == ([0, 2], 1)
    data.check_classes(1000)
    with pytest.raises(DataError, match="found 4 to 970"):
        DataSet.check_classes(_without_classes(data), 100)
    (tmp_path / "real.json").write_text("[[970, 796], [], [4]]")
    other = open_data(f"imagenet:{tmp_path}?labels={tmp_path / 'real.json'}")
    assert other.fingerprint != data.fingerprint


def _without_classes(data: DataSet) -> DataSet:
    from dataclasses import replace

    return replace(data, classes=None)


def test_real_labels_that_timm_brings(tmp_path: Path) -> None:
    names = [f"{wnids()[0]}/ILSVRC2012_val_{number:08}.JPEG" for number in (2, 50_000)]
    data = open_data(f"imagenet:{write_images(tmp_path / 'val', names).parent}?labels=real")
    assert data.label_sets is not None
    assert data.label_sets.tolist() == [[970, 795], [355, -1]]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["train/n01440764/a.png"], "", "has train/ and not val/: name one, [?]split=train"),
        (["n01440764/a.png"], "?split=val", "has no splits and not val/: leave [?]split= out"),
        (["n01440764/a.png", "cat/a.png"], "", r"1 of 2 in .* \('cat'\): leave them out"),
        (["n99999999/a.png"], "", r"\(WordNet ids of other classes\)"),
        (["1000/a.png"], "", r"\('1000'\)"),
        (["n01440764/a.png", "b.png"], "", "1 folders and 1 images next to them"),
        (["a.png"], "", r"has none of LOC_val_solution.csv.*[?]labels=FILE"),
        (["a.txt"], "", "has no images"),
        (["a.png"], "?labels=gone.txt", "'gone.txt' is none"),
        (["a.png"], "?split=test", "no split 'test'"),
    ],
)
def test_folders_that_are_no_imagenet(
    tmp_path: Path, files: list[str], options: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_data(f"imagenet:{write_images(tmp_path, files)}{options}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3\n4\n", r"has none for 1 of 3 images \('ILSVRC2012_val_00000003'\)"),
        ("3\ncat\nn01440764", r"has 2 others \('3', 'cat'\)"),
        ("3\n4\n1001", r"has 1 others \('1001'\)"),
        ("a.png 3\nb.png 3 4", "has lines of 2, 3 words"),
        ("", "has lines of no words"),
        (f"{VAL[0]} 1\n{VAL[0]} 2", "has 1 names twice"),
        (f"{VAL[0]} 1", "has none for 2 of 3 images"),
    ],
)
def test_label_files_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    write_images(tmp_path / "val", VAL)
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_data(f"imagenet:{tmp_path}?labels={tmp_path / 'labels.txt'}")


@pytest.mark.parametrize("found", [{"a": 1}, [], [[1000]], ["a"], [[True]], "{"])
def test_json_that_has_no_labels(tmp_path: Path, found: object) -> None:
    (tmp_path / "real.json").write_text(found if isinstance(found, str) else json.dumps(found))
    with pytest.raises(DataError, match=r"real.json' is n"):
        imagenet_labels.read_labels(str(tmp_path / "real.json"))


def test_labels_without_names_are_as_many_as_the_images(tmp_path: Path) -> None:
    write_images(tmp_path / "val", ["a.png", "b.png"])
    (tmp_path / "labels.txt").write_text("3\n4\n5")
    with pytest.raises(DataError, match="has 3 for 2 images: write a name before each label"):
        open_data(f"imagenet:{tmp_path}?labels={tmp_path / 'labels.txt'}")


def test_a_label_file_agrees_with_the_folders(tmp_path: Path) -> None:
    names = [f"{wnids()[n]}/{name}" for n, name in enumerate(VAL)]
    write_images(tmp_path / "val", names)
    (tmp_path / "labels.txt").write_text("0\n1\n5")
    with pytest.raises(DataError, match=r"differs on 1 of 3 .*\(.*003.JPEG: 5 in a folder of 2\)"):
        open_data(f"imagenet:{tmp_path}?labels={tmp_path / 'labels.txt'}")
