"""`run_cascade` leaves out images that no stage can process, and reports which and why."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from understudy.app.run_cascade import RunSummary, run_cascade
from understudy.errors import DataError, UnderstudyError
from understudy.import_predictions import LabelFile, read_labels
from understudy.nn.cascade import Cascade
from understudy.policy import Policy
from understudy.zoo.data import DataSet, open_data

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


def run(model: nn.Module, out: Path, data: DataSet = DATA) -> RunSummary:
    cascade = Cascade({"net": model}, Policy.single("net"))
    return run_cascade(cascade, data, out, batch=64, workers=0, on_progress=lambda *_: None)


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
    with pytest.raises(
        DataError, match=r"was answered [(]897 tried[)]: the last stage .* found NaN"
    ):
        run(FailsOnSome(always_nan=True), tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("the disk is gone"), OSError(5)])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_run_that_ends_early_keeps_its_answers(
    tmp_path: Path, error: BaseException, suffix: str
) -> None:
    def stop(_: str, done: int, total: int) -> None:
        if done >= 128:
            raise error

    cascade = Cascade({"net": FailsOnSome()}, Policy.single("net"))
    out, place = tmp_path / f"a.{suffix}", tmp_path / f"a.partial.{suffix}"
    with pytest.raises(type(error)) as raised:
        run_cascade(cascade, DATA, out, batch=64, workers=0, on_progress=stop)
    if isinstance(error, DataError):
        assert f"gone; the 128 answers before are in {str(place)!r}" in str(raised.value)
    assert {file.name for file in tmp_path.iterdir()} == {place.name}
    read = {
        "csv": partial(pl.read_csv, schema_overrides={"id": pl.String}),
        "parquet": pl.read_parquet,
    }
    assert len(read[suffix](place)) == 126  # two of them fail
    assert read[suffix](place)["id"].to_list()[0] == DATA.ids[0]


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = FailsOnSome()
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    for out in (tmp_path, tmp_path / "file" / "a.csv"):
        with pytest.raises(UnderstudyError, match="cannot be written"):
            run(model, out)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_all_right_answers_are_written(tmp_path: Path, suffix: str) -> None:
    assert DATA.labels is not None
    other = np.where(np.arange(len(DATA)) % 2, (DATA.labels + 1) % 10, -1)
    sets = np.stack([DATA.labels, other], axis=1).astype(np.int32)
    file = tmp_path / f"a.{suffix}"
    run(FailsOnSome(), file, replace(DATA, label_sets=sets))
    labels = read_labels(LabelFile(file, "id", "label"))
    for key, *answers in zip(DATA.ids[:6].tolist(), *sets[:6].T.tolist(), strict=True):
        assert labels[key] == [one for one in answers if one >= 0]
