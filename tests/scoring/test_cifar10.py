"""The five CIFAR-10 networks on real images: published figures that scoring has to reproduce."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from understudy.scoring.on_disk import score_into

WEIGHTS = {"resnet8": "resnet8_mlperftiny"} | {f"resnet{d}": f"resnet{d}" for d in (20, 32, 44, 56)}
ACCURACY = {
    "resnet8": 75.48,
    "resnet20": 81.03,
    "resnet32": 82.56,
    "resnet44": 82.67,
    "resnet56": 83.20,
}
MMACS = {
    "resnet8": 12.502,
    "resnet20": 40.551,
    "resnet32": 68.863,
    "resnet44": 97.174,
    "resnet56": 125.486,
}
PARAMETERS = {
    "resnet8": 78186,
    "resnet20": 269722,
    "resnet32": 464154,
    "resnet44": 658586,
    "resnet56": 853018,
}


@pytest.mark.slow
def test_accuracies_macs_and_parameters(shared: Path, tmp_path: Path) -> None:
    folder = shared / "cifar10"
    models = {
        name: f"py:cifar_nets:{name}?checkpoint={folder}/weights/{file}.safetensors"
        for name, file in WEIGHTS.items()
    }
    table = score_into(
        tmp_path / "table", models, f"parquet:{folder}/test.parquet", measure_batches=()
    )
    assert len(table) == 10_000
    assert table.label is not None
    accuracy = 100 * (table.prediction == table.label).mean(1)
    np.testing.assert_allclose(accuracy, list(ACCURACY.values()), atol=0.05)
    macs = [table.costs["MACs"][name] / 1e6 for name in ACCURACY]
    np.testing.assert_allclose(macs, list(MMACS.values()), rtol=1e-3)
    assert {exit.name: exit.origin["parameters"] for exit in table.exits} == PARAMETERS
    assert all(exit.origin["uncounted"] == [] for exit in table.exits)
