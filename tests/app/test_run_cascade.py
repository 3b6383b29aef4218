"""`run_cascade` leaves out images that no stage can process, and reports which and why."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from understudy.app.run_cascade import RunSummary, run_cascade
from understudy.errors import DataError
from understudy.nn.cascade import Cascade
from understudy.policy import Policy
from understudy.zoo.data import open_data

DATA = open_data("digits:train")


class FailsOnSome(nn.Module):
    """The model of digits that raises on one image, and has NaN logits for another or for all."""

    def __init__(self, *, raises_on: int = 11, always_nan: bool = False) -> None:
        super().__init__()
        self.raises_on = DATA.image(raises_on)
        self.nan_on = DATA.image(7)
        self.always_nan = always_nan

    def forward(self, images: Tensor) -> Tensor:
        if any(torch.equal(image, self.raises_on) for image in images):
            raise RuntimeError("cannot process this")
        logits = images.flatten(1)[:, 20:30].float()
        nan = [self.always_nan or torch.equal(image, self.nan_on) for image in images]
        return logits.masked_fill(torch.tensor(nan)[:, None], torch.nan)


def run(model: nn.Module, out: Path) -> RunSummary:
    cascade = Cascade({"net": model}, Policy.single("net"))
    return run_cascade(cascade, DATA, out, batch=64, workers=0, on_progress=lambda *_: None)


def test_a_first_image_that_cannot_be_processed(tmp_path: Path) -> None:
    summary = run(FailsOnSome(raises_on=0), tmp_path / "a.parquet")
    assert DATA.ids[0] in summary.failed
    assert summary.samples == len(DATA) - 2


def test_failed_images_are_left_out_and_reported(tmp_path: Path) -> None:
    summary = run(FailsOnSome(), tmp_path / "a.parquet")
    nan, raised = DATA.ids[[7, 11]].tolist()
    assert summary.failed.keys() == {nan, raised}
    assert "found NaN in the logits of 'net'" in summary.failed[nan]
    assert summary.failed[raised] == "RuntimeError: cannot process this"
    assert summary.to_dict()["failed"] == 2
    assert summary.samples == len(DATA) - 2
    assert summary.shares == {"net": 1.0}
    table = pl.read_parquet(tmp_path / "a.parquet")
    assert table["id"].to_list() == [one for one in DATA.ids.tolist() if one not in (nan, raised)]
    assert (table["prediction"] >= 0).all()


def test_a_run_without_any_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"was answered: the last stage .* found NaN"):
        run(FailsOnSome(always_nan=True), tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()
