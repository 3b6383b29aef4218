from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from understudy.errors import ModelError
from understudy.nn.preprocess import INTERPOLATIONS
from understudy.nn.stage import Preprocess, Stage
from understudy.onnx import export_preprocess as preprocess
from understudy.onnx.export_preprocess import Pixels, pixels_of

sides = st.tuples(st.integers(4, 60), st.integers(4, 60))


@settings(max_examples=60)
@given(
    size=sides,
    before=sides,
    crop=st.sampled_from([1.0, 0.95, 0.875]),
    interpolation=st.sampled_from(INTERPOLATIONS),
    squash=st.booleans(),
)
def test_resizing_is_exact_to_the_last_bit(
    size: tuple[int, int], before: tuple[int, int], crop: float, interpolation: str, squash: bool
) -> None:
    preprocess = Preprocess(
        size=size,
        mean=(0.5, 0.4),
        std=(0.25, 0.3),
        crop=crop,
        interpolation=interpolation,
        squash=squash,
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 2, *before), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        found = Pixels(preprocess, before, torch.float32)(images)
    assert (found - preprocess(images)).abs().max() < 1e-6


def test_large_reductions_keep_their_bits() -> None:
    preprocess = Preprocess(size=(16, 16), mean=(0.5,), std=(0.25,))
    images = torch.randint(256, (2, 1, 500, 600), dtype=torch.uint8)
    with torch.no_grad():
        found = Pixels(preprocess, (500, 600), torch.float32)(images)
    assert (found - preprocess(images)).abs().max() < 1e-6


def test_without_a_size_pixels_are_normalised_alone() -> None:
    stage = Stage(nn.Flatten(), preprocess=Preprocess(size=None, mean=(0.5,), std=(0.25,)))
    made = pixels_of(stage, torch.zeros(1, 5, 5, dtype=torch.uint8), "flat")
    assert made(torch.full((1, 1, 5, 5), 255, dtype=torch.uint8)).unique().tolist() == [2.0]


def test_resizing_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "TOLERANCE", -1.0)
    stage = Stage(nn.Flatten(), preprocess=Preprocess(size=(4, 4), mean=(0.5,), std=(0.25,)))
    with pytest.raises(
        ModelError, match=r"images must come in the size that 'flat' takes, \(4, 4\)"
    ):
        pixels_of(stage, torch.zeros(1, 9, 9, dtype=torch.uint8), "flat")


def test_images_of_other_channels_are_refused() -> None:
    stage = Stage(nn.Flatten(), preprocess=Preprocess(size=(4, 4), mean=(0.5,), std=(0.25,)))
    with pytest.raises(ModelError, match=r"'flat' cannot take images \(3, 4, 4\)"):
        pixels_of(stage, torch.zeros(3, 4, 4, dtype=torch.uint8), "flat")
