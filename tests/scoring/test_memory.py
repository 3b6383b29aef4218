"""Sources that share memory: images are decoded once for all, and batches fit or are halved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from digit_nets import MockOfFullDevice, greedy, mock_of_full_device, tiny
from progress import Call, InterruptedRunError, RecordedProgress, after
from understudy.errors import ModelError
from understudy.scores import ScoreTable
from understudy.scoring import measuring
from understudy.scoring.in_memory import score
from understudy.scoring.on_disk import score_into
from understudy.zoo.data import DataSet

MODELS = {name: f"py:digit_nets:{name}" for name in ("tiny", "greedy", "big")}


def scored(path: Path, *names: str, **more: Any) -> ScoreTable:
    models = {name: f"py:digit_nets:{name}" for name in names}
    settings = {"batch": 32, "measure_batches": (), **more}
    return score_into(path, models, "digits:heldout", **settings)


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MockOfFullDevice, "full", False)


def test_an_image_is_decoded_once_for_all_models_that_fit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each group decodes every image once; the probes take 8 images per model."""
    decoded: list[int] = []
    read = DataSet.resized

    def counted(data: DataSet, index: int, **more: Any) -> Any:
        decoded.append(index)
        return read(data, index, **more)

    monkeypatch.setattr(DataSet, "resized", counted)
    together = scored(tmp_path / "together", "tiny", "big")
    assert len(decoded) == 900 + 2 * 8
    decoded.clear()
    monkeypatch.setattr(measuring, "MEMORY", 1)
    apart = scored(tmp_path / "apart", "tiny", "big")
    assert len(decoded) == 2 * (900 + 8)
    assert apart.hash == together.hash


def test_a_batch_that_does_not_fit_is_halved(tmp_path: Path) -> None:
    table = scored(tmp_path / "table", "tiny", "greedy", batch=64)
    (run,) = table.provenance["runs"]
    assert (run["batch"], run["smaller_batches"]) == (64, {"greedy": 16})
    sixteen = scored(tmp_path / "sixteen", "greedy", batch=16)
    assert "smaller_batches" not in sixteen.provenance["runs"][0]
    kept, expected = table.details["greedy"].logits, sixteen.details["greedy"].logits
    assert np.array_equal(np.asarray(kept), np.asarray(expected))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ScoreTable:
    """A run that was not interrupted."""
    return scored(tmp_path_factory.mktemp("whole") / "table", "tiny", "greedy")


@pytest.mark.parametrize("calls", [2, 11, 30])
def test_a_run_that_was_halved_resumes_to_the_same_scores(
    whole: ScoreTable, tmp_path: Path, calls: int
) -> None:
    with pytest.raises(InterruptedRunError):
        scored(tmp_path / "table", "tiny", "greedy", on_progress=after(calls))
    table = scored(tmp_path / "table", "tiny", "greedy")
    assert (table.hash, table.provenance) == (whole.hash, whole.provenance)


def test_a_model_whose_batches_fit_no_longer_is_scored_again_in_smaller_ones(
    tmp_path: Path,
) -> None:
    """A device fills up within the second shard: all scores of the model are of one size."""

    def fills(calls: list[Call]) -> bool:
        MockOfFullDevice.full = len(calls) > 12
        return False

    log, names = RecordedProgress(fills), ("tiny", "mock_of_full_device")
    table = scored(tmp_path / "table", *names, on_progress=log)
    assert len(log.calls) == 1 + 29 + 16  # the first two shards again
    small = scored(tmp_path / "small", *names, batch=8)
    assert table.provenance["runs"][0]["smaller_batches"] == {"mock_of_full_device": 8}
    kept, expected = (one.details["mock_of_full_device"].logits for one in (table, small))
    assert np.array_equal(np.asarray(kept), np.asarray(expected))


def test_times_are_measured_in_batches_that_fit(tmp_path: Path) -> None:
    table = scored(tmp_path / "table", "tiny", "greedy", measure_batches=None)
    assert list(table.times) == ["ms@16"]
    with pytest.raises(ModelError, match=r"'greedy' runs out of memory.*of 32: .*smaller"):
        scored(tmp_path / "more", "tiny", "greedy", measure_batches=(16, 32))


def test_batches_of_a_loader_are_halved() -> None:
    images = torch.randint(256, (96, 1, 8, 8), dtype=torch.uint8)
    models = {"tiny": tiny(), "greedy": greedy()}
    table = score(models, images.split(48), keep_logits=False)
    expected = score(models, images.split(12), keep_logits=False)
    assert table.provenance["smaller_batches"] == {"greedy": 12}
    assert table.hash == expected.hash
    assert "smaller_batches" not in expected.provenance


def test_a_single_image_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    class MockOfNoMemory(MockOfFullDevice):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if MockOfFullDevice.full:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    def images() -> Any:
        yield torch.zeros(8, 64)
        MockOfFullDevice.full = True
        yield torch.zeros(8, 64)

    with pytest.raises(ModelError, match="'full' runs out of memory: score it alone, or"):
        score({"full": MockOfNoMemory()}, images())
    assert mock_of_full_device().model.training is False
