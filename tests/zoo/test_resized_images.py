"""Images that are resized while they are decoded give the same inputs, in memory of their size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from understudy.early_exit.network import attach
from understudy.ensemble import Ensemble
from understudy.errors import DataError
from understudy.nn.cascade import build_stages
from understudy.nn.preprocess import (
    INTERPOLATIONS,
    Preprocess,
    ResizedImage,
    Resizing,
    on_device,
    resized_image,
)
from understudy.nn.stage import Stage, resizings_of
from understudy.zoo.batches import batches, first_images
from understudy.zoo.data import DataSet, open_data

SMALL = Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3, crop=0.875)
LARGE = replace(SMALL, size=(24, 20), interpolation="bicubic")
AS_IT_IS = replace(SMALL, size=None, crop=1.0)


def photographs(folder: Path, sizes: Sequence[tuple[int, int]]) -> DataSet:
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(sizes):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        (folder / f"{number:03}.png").write_bytes(buffer.getvalue())
    return open_data(f"folder:{folder}")


@pytest.mark.parametrize(("interpolation", "squash"), list(product(INTERPOLATIONS, [False, True])))
def test_the_input_is_that_of_the_whole_image(
    tmp_path: Path, interpolation: str, squash: bool
) -> None:
    data = photographs(tmp_path, [(61, 47), (30, 200), (61, 47), (8, 8), (9, 7), (300, 31)])
    whole = [data.image(position) for position in range(len(data))]
    models = [replace(one, interpolation=interpolation, squash=squash) for one in (SMALL, LARGE)]
    resizings = [model.resizing for model in models]
    for size in (1, 4, 6):
        for batch in batches(data, size=size, resizings=resizings):
            images = [whole[position] for position in batch.positions]
            for model in models:
                assert torch.equal(model(batch.images), model(images))


def test_pixels_are_dropped_unless_a_model_takes_them(tmp_path: Path) -> None:
    data = photographs(tmp_path, [(61, 47), (20, 20), (61, 47)])
    (batch,) = batches(data, resizings={SMALL.resizing, LARGE.resizing})
    first, second, _ = batch.images
    assert isinstance(first, ResizedImage)
    assert (first.pixels, first.nbytes) == (None, 3 * (8 * 8 + 24 * 20))
    assert first.shape == (3, 61, 47)
    assert isinstance(second, ResizedImage)
    assert second.pixels is not None, "the large model makes it larger"
    with pytest.raises(DataError, match="other models alone"):
        AS_IT_IS([first])
    (batch,) = batches(data, [0, 2], resizings={SMALL.resizing, AS_IT_IS.resizing})
    assert AS_IT_IS(batch.images).shape == (2, 3, 61, 47)
    assert SMALL(on_device(batch.images, torch.device("cpu"))).shape == (2, 3, 8, 8)


def test_small_images_stay_as_they_are(tmp_path: Path) -> None:
    data = photographs(tmp_path, [(8, 8)] * 3)
    (batch,) = batches(data, resizings=[SMALL.resizing])
    assert isinstance(batch.images, Tensor)


def test_memory_does_not_grow_with_the_photographs(tmp_path: Path) -> None:
    held = []
    for side in (20, 120):
        (tmp_path / str(side)).mkdir()
        data = photographs(tmp_path / str(side), [(side, side)] * 20)
        (batch,) = batches(data, resizings=[SMALL.resizing])
        first = first_images(data, 30, resizings=[SMALL.resizing])
        assert len(first) == 30
        held.append([sum(image.nbytes for image in images) for images in (batch.images, first)])
    assert held[0] == held[1] == [20 * 3 * 64, 30 * 3 * 64]


def test_a_strip_is_refused_by_its_name() -> None:
    read = {"a": np.zeros((3, 1, 200_000), np.uint8), "b": np.zeros((3, 9, 9), np.uint8)}
    ids = np.array(["a", "b"], object)
    data = DataSet("strips", ids, None, None, "", lambda index: read[ids[index]])
    (batch,) = batches(data, resizings=[Resizing((224, 224))])
    assert batch.positions.tolist() == [1]
    assert "'a' of 'strips' cannot (1 x 200000 pixels are too long a strip" in batch.corrupt[0]


def test_stages_know_how_they_resize() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    small, large = (Stage(net, preprocess=one) for one in (SMALL, LARGE))
    stages = build_stages({"a": small, "b": large, "ab": Ensemble(("a", "b"), (1.0, 1.0))})
    assert stages["a"].resizings == {SMALL.resizing}
    assert stages["ab"].resizings == {SMALL.resizing, LARGE.resizing}
    assert resizings_of([Stage(net)]) == {None}
    network = attach(large, {"0": "linear"}, saver={"a": small}).stages("net")
    assert network["net"].resizings == {LARGE.resizing}
    assert network["net/0/esn"].resizings == {SMALL.resizing, LARGE.resizing}


def test_an_image_is_resized_once_per_size() -> None:
    pixels = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image = resized_image(pixels, [SMALL.resizing, replace(SMALL, mean=(0.1,) * 3).resizing])
    assert isinstance(image, ResizedImage)
    assert len(image.sizes) == 1
