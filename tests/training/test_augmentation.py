from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from understudy.errors import DataError
from understudy.training.augmentation import Augmentation

IDS = ["a", "b", "c", "d"]


def images(height: int = 6, width: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = (len(IDS), 3, height, width)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def slow_view(image: Tensor, down: int, right: int, mirrored: bool) -> Tensor:
    """Pixel by pixel: shifted, the edge drawn out, then mirrored."""
    _, height, width = image.shape
    moved = torch.empty_like(image)
    for y in range(height):
        for x in range(width):
            source = image[:, min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)]
            moved[:, y, width - 1 - x if mirrored else x] = source
    return moved


@settings(max_examples=25)
@given(st.integers(0, 3), st.floats(0, 0.5), st.booleans())
def test_a_view_is_a_shifted_and_mirrored_image(seed: int, shift: float, flip: bool) -> None:
    before = images()
    seen = Augmentation(shift=shift, flip=flip, seed=seed).apply(
        before, IDS, np.array([0, 1, 2, 3])
    )
    assert torch.equal(seen[0], before[0])
    down, right = round(shift * 6), round(shift * 9)
    for image, view in zip(before, seen, strict=True):
        assert any(
            torch.equal(view, slow_view(image, dy, dx, mirrored))
            for dy in range(-down, down + 1)
            for dx in range(-right, right + 1)
            for mirrored in ((False, True) if flip else (False,))
        )


def test_all_moves_are_drawn() -> None:
    image = torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3)
    names = [str(number) for number in range(2000)]
    augmentation = Augmentation(shift=1 / 3, flip=True, seed=0)
    seen = augmentation.apply(image.expand(2000, -1, -1, -1), names, np.ones(2000, int))
    _, counts = torch.unique(torch.stack(list(seen)), dim=0, return_counts=True)
    assert len(counts) == 18
    assert counts.min() > 70


def test_a_view_depends_on_its_name_alone() -> None:
    augmentation, numbers = Augmentation(shift=0.4, flip=True, seed=1), np.array([1, 2, 1, 3])
    whole = torch.stack(list(augmentation.apply(images(), IDS, numbers)))
    assert not torch.equal(whole, images())
    for row in range(len(IDS)):
        alone = augmentation.apply(images()[row : row + 1], [IDS[row]], numbers[row : row + 1])
        assert torch.equal(alone[0], whole[row])
    listed = augmentation.apply(list(images()), IDS, numbers)
    assert torch.equal(torch.stack(list(listed)), whole)
    other = Augmentation(shift=0.4, flip=True, seed=2).apply(images(), IDS, numbers)
    assert not torch.equal(torch.stack(list(other)), whole)


def test_images_of_different_sizes() -> None:
    mixed = [images(4, 4)[0], images(8, 5)[1]]
    seen = Augmentation(shift=0.25, flip=True, seed=0).apply(mixed, ["a", "b"], np.array([1, 1]))
    assert [view.shape for view in seen] == [image.shape for image in mixed]


def test_only_images_have_views() -> None:
    rows = torch.zeros(2, 5)
    augmentation = Augmentation(shift=0.1, flip=True, seed=0)
    assert augmentation.apply(rows, ["a", "b"], np.zeros(2, int)) is rows
    with pytest.raises(DataError, match=r"found samples of the shape \(5,\)"):
        augmentation.apply(rows, ["a", "b"], np.array([0, 1]))
