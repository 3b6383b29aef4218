"""`understudy run` leaves out the rows without an answer, and reports which and why."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from understudy import Cascade, Policy
from understudy.app.running import Run, run_cascade
from understudy.errors import DataError
from understudy.zoo.data import open_data

DATA = open_data("digits:train")
NAN, FAULTY = DATA.image(7), DATA.image(11)


class Failing(nn.Module):
    """Returns NaN for one image, or for all, and raises on another."""

    def __init__(self, *, always: bool = False) -> None:
        super().__init__()
        self.always = always

    def forward(self, images: Tensor) -> Tensor:
        if any(torch.equal(image, FAULTY) for image in images):
            raise RuntimeError("cannot read this")
        logits = images.flatten(1)[:, 20:30].float()
        nan = torch.tensor([self.always or torch.equal(image, NAN) for image in images])
        return logits.masked_fill(nan[:, None], torch.nan)


def run_model(model: nn.Module, out: Path) -> Run:
    """Run a cascade of one model on the digits."""
    cascade = Cascade({"net": model}, Policy.single("net"))
    return run_cascade(cascade, DATA, out, batch=64, workers=0, on_progress=lambda *_: None)


def test_a_first_image_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FAULTY", DATA.image(0))
    done = run_model(Failing(), tmp_path / "a.parquet")
    assert DATA.ids[0] in done.failed
    assert done.samples == len(DATA) - 2


def test_failed_rows_are_left_out_and_reported(tmp_path: Path) -> None:
    done = run_model(Failing(), tmp_path / "a.parquet")
    nan, faulty = DATA.ids[[7, 11]].tolist()
    assert done.failed.keys() == {nan, faulty}
    assert "found NaN in the logits of 'net'" in done.failed[nan]
    assert done.failed[faulty] == "RuntimeError: cannot read this"
    assert done.to_dict()["failed"] == 2
    assert done.samples == len(DATA) - 2
    assert done.shares == {"net": 1.0}
    table = pl.read_parquet(tmp_path / "a.parquet")
    assert table["id"].to_list() == [one for one in DATA.ids.tolist() if one not in (nan, faulty)]
    assert min(table["prediction"].to_list()) >= 0


def test_a_run_without_any_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"was answered: the last stage .* found NaN"):
        run_model(Failing(always=True), tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()
