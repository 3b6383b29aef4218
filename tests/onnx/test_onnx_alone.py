"""An exported cascade runs with the `onnx` extra alone: in Python, and by `run` and `bench`."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from install_sizes import LIMIT, NotFetched, build_wheel, install, megabytes
from understudy.extras import EXTRAS
from understudy.nn.cascade import Cascade
from understudy.nn.preprocess import Preprocess
from understudy.nn.stage import Stage
from understudy.onnx.export import export_onnx
from understudy.policy import Policy
from understudy.zoo.data import open_data

PREPROCESS = Preprocess((8, 8), (0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
BLOCKED = sorted(EXTRAS["all"] - EXTRAS["onnx"])


def network(width: int) -> Stage:
    with torch.random.fork_rng():
        torch.manual_seed(width)
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 3))
    return Stage(net.eval(), preprocess=PREPROCESS)


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return Cascade({"tiny": network(4), "big": network(16)}, Policy.pair("tiny", "big", 0.45))


@pytest.fixture(scope="module")
def here(cascade: Cascade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the exported cascade, and images in a folder per class."""
    folder = tmp_path_factory.mktemp("alone")
    draw = np.random.default_rng(0)
    for number in range(30):
        file = folder / "images" / f"class{number % 3}" / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    export_onnx(cascade, folder / "onnx")
    return folder


RUN = ("run", "onnx", "--data", "folder:images", "--out", "answers.csv", "--json")
BENCH = (
    *("bench", "onnx", "--data", "folder:images", "--rounds", "1", "--clients", "2"),
    *("--batch", "8", "--json"),
)
LIGHT = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
sys.argv[0] = "understudy"
if __name__ == "__main__":
    from understudy.app.cli.main import main
    main()
"""
PYTHON = """
import sys
from understudy.onnx import load_onnx
from understudy.runtime.executor import Executor
from understudy.zoo.batches import array_batches
from understudy.zoo.data import open_data
data = open_data("folder:images")
blocks = (block.images for block in array_batches(data, size=8))
answers = list(Executor(load_onnx("onnx")).map(blocks))
loaded = sorted({name.split(".")[0] for name in sys.modules} & set(sys.argv[1].split(",")))
print([int(one) for answer in answers for one in answer.prediction], loaded)
"""


def finished(words: Sequence[str | Path], folder: Path, hidden: Collection[str] = ()) -> str:
    """What a program prints that ends well, without some variables of the environment."""
    ran = subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name not in hidden},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def answers(folder: Path) -> list[dict[str, str]]:
    with (folder / "answers.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_answers(cascade: Cascade, folder: Path) -> None:
    """The file of answers has the predictions and exits of PyTorch."""
    data = open_data(f"folder:{folder / 'images'}")
    images = torch.stack([data.image(row) for row in range(len(data))])
    expected = cascade.answer(images)
    rows = answers(folder)
    assert [row["id"] for row in rows] == data.ids.tolist()
    assert [int(row["prediction"]) for row in rows] == expected.prediction.tolist()
    assert [row["exit"] for row in rows] == list(expected.exit_names())
    assert [row["class"] for row in rows] == [f"class{p}" for p in expected.prediction]
    assert len({row["exit"] for row in rows}) == 2
    found = [float(row["confidence"]) for row in rows]
    np.testing.assert_allclose(found, expected.confidence, rtol=1e-5)


def test_run_and_bench_need_the_onnx_extra_alone(cascade: Cascade, here: Path) -> None:
    light = [sys.executable, "-c", LIGHT, ",".join(BLOCKED)]
    assert json.loads(finished([*light, *RUN], here))["samples"] == 30
    check_answers(cascade, here)


@pytest.mark.slow
def test_the_onnx_extra_is_small_and_enough(cascade: Cascade, here: Path, tmp_path: Path) -> None:
    try:
        python = install(build_wheel(tmp_path), "onnx", tmp_path / "environment")
    except NotFetched as reason:
        pytest.skip(f"the packages of the extra cannot be fetched: {reason}")
    assert megabytes(python) <= LIMIT
    command, own = python.with_name("understudy"), ("PYTHONPATH",)
    assert json.loads(finished([command, *RUN], here, own))["samples"] == 30
    check_answers(cascade, here)
    assert json.loads(finished([command, *BENCH], here, own))["format"] == "understudy.bench"
    printed = finished([python, "-c", PYTHON, ",".join(BLOCKED)], here, own)
    assert printed.strip() == f"{[int(row['prediction']) for row in answers(here)]} []"
