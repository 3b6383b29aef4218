from __future__ import annotations

import sys
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from digit_nets import big, seven, tiny
from understudy.confidence_functions import CONFIDENCES
from understudy.errors import DataError, ModelError, TableError
from understudy.scoring.in_memory import score
from understudy.zoo.data import open_data


@pytest.fixture(scope="module")
def images() -> Tensor:
    data = open_data("digits:heldout")
    return torch.stack([data.image(index) for index in range(100)])


@pytest.fixture(scope="module")
def labels() -> Tensor:
    values = open_data("digits:heldout").labels
    assert values is not None
    return torch.from_numpy(values[:100])


def test_models_on_a_data_loader(images: Tensor, labels: Tensor) -> None:
    models = {"tiny": tiny(), "big": big()}
    table = score(models, DataLoader(TensorDataset(images, labels), batch_size=32))
    assert table.names == ("tiny", "big")
    assert table.label is not None
    assert table.label.tolist() == labels.tolist()
    assert table.costs == {"MACs": {"tiny": 640.0, "big": 64 * 32 + 320.0}}
    assert tuple(table.confidence) == CONFIDENCES
    assert table.prediction[1].tolist() == models["big"](images).argmax(1).tolist()
    assert table.ids.tolist()[:3] == ["0", "1", "2"]
    origin = table.exits[0].origin
    assert (origin["classes"], origin["parameters"], origin["uncounted"]) == (10, 650, [])
    assert origin["weights_hash"] == models["tiny"].weights_hash
    logits = table.details["tiny"].logits
    assert logits is not None
    assert np.array_equal(logits, models["tiny"](images).half().numpy())


def test_batches_of_every_form_say_the_same(images: Tensor, labels: Tensor) -> None:
    models = {"tiny": tiny()}
    known = score(models, [(images, labels)])
    forms: list[list[Any]] = [
        [images],
        [[images]],
        [list(images)],
        [list(images[:2]), list(images[2:3]), images[3:]],
    ]
    for form in forms:
        table = score(models, form)
        assert table.label is None
        assert table.prediction.tolist() == known.prediction.tolist()
    for form in ([[images, labels.tolist()]], [(list(images), labels.numpy())]):
        assert score(models, form).hash == known.hash


def test_plain_modules_get_tensors_as_they_are() -> None:
    table = score({"linear": nn.Linear(4, 3)}, [torch.randn(5, 4), torch.randn(2, 4)])
    assert len(table) == 7
    assert table.exits[0].origin["preprocess"] is None


def test_names_groups_splits_and_costs_are_taken(images: Tensor, labels: Tensor) -> None:
    table = score(
        {"tiny": tiny()},
        [(images, labels)],
        costs={"joules": {"tiny": 3}},
        classes=[f"digit {number}" for number in range(10)],
        ids=[f"image {number}" for number in range(100)],
        groups=["left", "right"] * 50,
        split={"tune": 0.5, "test": 0.5},
        keep_logits=False,
    )
    assert table.costs == {"joules": {"tiny": 3.0}}
    assert (table.classes or ())[3] == "digit 3"
    assert table.ids[99] == "image 99"
    assert len(set(table.split[::2].tolist())) == 1
    assert table.provenance["split"]["by"] == "group"
    assert table.details["tiny"].logits is None


def test_what_cannot_be_scored(images: Tensor, labels: Tensor) -> None:
    def refused(kind: type[Exception], message: str, models: Any, loader: Any, **more: Any) -> None:
        with pytest.raises(kind, match=message):
            score(models, loader, **more)

    one, two = {"tiny": tiny()}, {"tiny": tiny(), "seven": seven()}
    refused(ModelError, "at least one model", {}, [images])
    refused(ModelError, "given by name", [nn.Linear(4, 3)], [images])
    refused(DataError, "at least one image", one, [])
    refused(ModelError, r"same classes, found 10 \(tiny\), 7 \(seven\)", two, [images])
    refused(DataError, "0 to 6, .* lie outside", {"seven": seven()}, [(images, labels)])
    refused(
        DataError, r"\(100,\), found the shape \(100, 10\)", one, [(images, torch.zeros(100, 10))]
    )
    refused(DataError, "100 labels for 200 images", one, [(images, labels), images])
    refused(DataError, "found 'ids', 'mask': models of", one, [{"ids": images, "mask": images}])
    refused(DataError, "2 names .* where the models have 10", one, [images], classes=["a", "b"])
    refused(TableError, "ids", one, [images], ids=["a"] * 100)
    refused(
        ModelError, "'nan' gives NaN", {"nan": nn.Linear(4, 3)}, [torch.full((2, 4), torch.nan)]
    )


def test_a_loader_of_dictionaries_is_scored(images: Tensor, labels: Tensor) -> None:
    models = {"tiny": tiny()}
    pairs = score(models, [(images, labels)])
    named = score(models, [{"pixel_values": images, "labels": labels}])
    assert np.array_equal(named.prediction, pairs.prediction)
    assert named.label is not None
    assert np.array_equal(named.label, labels.numpy())


def test_a_loader_of_arrays_is_scored() -> None:
    images = np.random.default_rng(0).random((8, 4), np.float32)
    labels = np.arange(8) % 3
    models = {"tiny": nn.Linear(4, 3), "big": nn.Linear(4, 3)}
    table = score(models, [(torch.from_numpy(images), labels)])
    turned = score(models, [(images[::-1], labels[::-1])])
    assert np.array_equal(turned.prediction[:, ::-1], table.prediction)
    assert score(models, [[images]]).label is None


def test_milliseconds_in_memory_are_measured_on_request(images: Tensor, labels: Tensor) -> None:
    models = {"tiny": tiny(), "big": big()}
    plain = score(models, [(images, labels)])
    assert (plain.times, plain.sittings) == ({}, ())
    table = score(models, [(images[:60], labels[:60]), (images[60:], labels[60:])], measure=[4, 80])
    assert set(table.times) == {"ms@4", "ms@80"}
    assert all(set(one.median) == {"tiny", "big"} for one in table.sittings)
    assert table.times["ms@4"] == table.sittings[0].median
    assert [*score(models, [images[:2]], measure=5).times] == ["ms@5"]  # more than there are
    with pytest.raises(DataError, match="batches of 1 sample and more, found"):
        score(models, [images], measure=0)


class Terminal(StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "progress", "shown"),
    [(Terminal, True, True), (Terminal, False, False), (StringIO, True, False)],
)
def test_a_bar_is_shown_in_a_terminal(
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    stream: type[StringIO],
    progress: bool,
    shown: bool,
) -> None:
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    score({"tiny": tiny()}, [images, images], progress=progress, measure=4)
    text = stderr.getvalue()
    assert ("scoring" in text, "2/2" in text) == (shown, shown)
    assert ("batches/s" in text, "measuring ms@4" in text, "rounds/s" in text) == (shown,) * 3
