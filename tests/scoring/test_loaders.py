"""The loaders that everybody has: tuples, dictionaries, data sets of Hugging Face, arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from understudy import Executor, Policy, build, score
from understudy.errors import DataError
from understudy.runtime.loader_batch import class_names_in

NAMES = ["cat", "dog", "owl"]
IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))


class Named(Dataset[tuple[Tensor, int]]):
    """Rows as of torchvision's data sets of folders, which name their classes."""

    def __init__(self, classes: list[Any]) -> None:
        self.classes = classes

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return IMAGES[row], int(LABELS[row])


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (DataLoader(TensorDataset(IMAGES, LABELS), batch_size=5), None),
        (DataLoader(TensorDataset(IMAGES, LABELS, torch.arange(12)), batch_size=5), None),
        ([(IMAGES, LABELS, ["path"] * 12)], None),
        ([{"pixel_values": IMAGES, "labels": LABELS}], None),
        (IMAGES, LABELS),
        (IMAGES.numpy(), LABELS.tolist()),
        (list(IMAGES), LABELS.numpy()),
    ],
    ids=["loader", "and rows", "and paths", "dictionary", "tensors", "array", "list"],
)
def test_every_loader_gives_one_table(data: Any, labels: Any) -> None:
    table = score({"net": network()}, data, labels, batch_size=5)
    with torch.no_grad():
        assert table.prediction[0].tolist() == network()(IMAGES).argmax(1).tolist()
    assert table.label is not None
    assert table.label.tolist() == LABELS.tolist()


def test_class_names_of_the_data_set_are_kept() -> None:
    loader = DataLoader(Named(NAMES), batch_size=5)
    assert score({"net": network()}, loader).classes == tuple(NAMES)
    assert class_names_in(DataLoader(Subset(Named(NAMES), [1, 2]))) == tuple(NAMES)
    assert score({"net": network()}, loader, classes=["a", "b", "c"]).classes == ("a", "b", "c")
    for other in (NAMES[:2], [("cat", "felis"), ("dog",), ("owl",)]):
        assert score({"net": network()}, DataLoader(Named(other), batch_size=5)).classes is None


def test_labels_may_be_names() -> None:
    named = [NAMES[label] for label in LABELS.tolist()]
    table = score({"net": network()}, [(IMAGES, named)], classes=NAMES)
    assert table.label is not None
    assert table.label.tolist() == LABELS.tolist()
    with pytest.raises(ValueError, match=r"names together with classes=\[...\]"):
        score({"net": network()}, [(IMAGES, named)])


def test_single_samples_and_pictures_are_refused_in_a_sentence() -> None:
    pictures = [Image.new("RGB", (8, 8))] * 3
    with pytest.raises(DataError, match="found a list of Image, Image, Image"):
        score({"net": network()}, [(pictures, [0, 1, 2])])
    with pytest.raises(DataError, match=r"let the loader yield \(images, labels\) in batches"):
        score({"net": network()}, Named(NAMES))
    with pytest.raises(DataError, match="found 11 labels for 12 images"):
        score({"net": network()}, IMAGES, LABELS[:11])


def test_hugging_face_as_it_is() -> None:
    """Data set, class names, batches with dictionaries, and outputs that are objects."""
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    features = datasets.Features({
        "pixel_values": datasets.Array3D((3, 8, 8), "float32"),
        "label": datasets.ClassLabel(names=NAMES),
    })  # fmt: skip
    rows = {"pixel_values": IMAGES.numpy(), "label": LABELS.tolist()}
    data = datasets.Dataset.from_dict(rows, features=features).with_format("torch")
    size: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2, "image_size": 8, "patch_size": 4, "num_labels": 3}
    torch.manual_seed(0)
    kind = transformers.ViTForImageClassification
    models = {name: kind(transformers.ViTConfig(**size)) for name in ("tiny", "big")}
    loader = DataLoader(data, batch_size=5)
    table = score(models, loader)
    assert table.classes == score(models, data).classes == tuple(NAMES)
    assert table.label is not None
    assert table.label.tolist() == LABELS.tolist()
    cascade = build(Policy.single("big"), models)
    with Executor(cascade) as executor:
        found = np.concatenate([one.prediction for one in executor.map(loader)])
    assert found.tolist() == table.prediction[1].tolist()
    assert cascade.answer(next(iter(loader))).prediction.tolist() == found[:5].tolist()
