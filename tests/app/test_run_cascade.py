"""`understudy run` leaves rows out that nobody could answer, and says which and why."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from understudy import Cascade, Policy
from understudy.app.run import run_cascade
from understudy.errors import DataError
from understudy.zoo.data import open_data

DATA = open_data("digits:train")
SICK, POISON = DATA.image(7), DATA.image(11)


class Touchy(nn.Module):
    """Says NaN of one image, or of all, and raises on another."""

    def __init__(self, *, always: bool = False) -> None:
        super().__init__()
        self.always = always

    def forward(self, images: Tensor) -> Tensor:
        if any(torch.equal(image, POISON) for image in images):
            raise RuntimeError("cannot look at this")
        logits = images.flatten(1)[:, 20:30].float()
        sick = torch.tensor([self.always or torch.equal(image, SICK) for image in images])
        return logits.masked_fill(sick[:, None], torch.nan)


def answered(model: nn.Module, out: Path):
    cascade = Cascade({"net": model}, Policy.single("net"))
    return run_cascade(cascade, DATA, out, batch=64, workers=0, on_progress=lambda *_: None)


def test_a_first_image_that_cannot_be_looked_at(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "POISON", DATA.image(0))
    done = answered(Touchy(), tmp_path / "a.parquet")
    assert DATA.ids[0] in done.failed
    assert done.samples == len(DATA) - 2


def test_failed_rows_are_left_out_and_told(tmp_path: Path) -> None:
    done = answered(Touchy(), tmp_path / "a.parquet")
    sick, poison = DATA.ids[[7, 11]].tolist()
    assert done.failed.keys() == {sick, poison}
    assert "found NaN in the logits of 'net'" in done.failed[sick]
    assert done.failed[poison] == "RuntimeError: cannot look at this"
    assert done.to_dict()["failed"] == 2
    assert done.samples == len(DATA) - 2
    assert done.shares == {"net": 1.0}
    table = pl.read_parquet(tmp_path / "a.parquet")
    assert table["id"].to_list() == [one for one in DATA.ids.tolist() if one not in (sick, poison)]
    assert table["prediction"].min() >= 0


def test_a_run_without_any_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"was answered: the last stage .* found NaN"):
        answered(Touchy(always=True), tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()
