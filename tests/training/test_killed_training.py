"""Processes that train exits, and are killed at any moment."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from exit_digits import big, train

HERE = Path(__file__).parent.parent
KILLS = 20
TRAIN = """
import sys
sys.path.insert(0, {here!r})
from understudy.training.api import train_exits
from understudy.training.config import TrainingConfig
config = TrainingConfig(epochs=10, batch=64, lr=1e-2, flip=False, held_out=0.2, patience=10)
train_exits(
    "net=py:exit_digits:big?checkpoint={weights}", "digits:train", {into!r},
    taps=["blocks.0", "blocks.1"], heads=("mlp2x64",), classifier=True, config=config,
    device="cpu", workers=1, on_progress=lambda *step: print(*step, flush=True),
)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "big.safetensors"
    torch.manual_seed(0)
    train(big(), file, epochs=2)
    return file


def started(weights: Path, into: Path) -> subprocess.Popen[str]:
    code = TRAIN.format(here=str(HERE), weights=weights, into=str(into))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed(process: subprocess.Popen[str], steps: int, seconds: float) -> bool:
    """Kill a training so long after a step; False where it ended before."""
    assert process.stdout is not None
    for _ in range(steps):
        if not process.stdout.readline():
            break
    time.sleep(seconds)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode in (0, -9), errors
    return process.returncode == -9


def finished(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_ends_as_an_undisturbed_one(
    weights: Path, tmp_path: Path
) -> None:
    """Runs that come to their end before enough kills are compared, and followed by others."""
    finished(started(weights, tmp_path / "whole"))
    expected = (tmp_path / "whole" / "exits.safetensors").read_bytes()
    draw, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        runs += 1
        into = tmp_path / f"cut{runs}"
        while not into.exists():
            process = started(weights, into)
            if kills < KILLS:
                kills += killed(process, draw.randrange(1, 6), draw.uniform(0, 0.3))
            else:
                finished(process)
        assert (into / "exits.safetensors").read_bytes() == expected
        assert [path.name for path in tmp_path.glob(f"cut{runs}*")] == [into.name]


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_trains(weights: Path, tmp_path: Path) -> None:
    first = started(weights, tmp_path / "exits")
    assert first.stdout is not None
    first.stdout.readline()
    first.send_signal(signal.SIGSTOP)  # it holds the folder meanwhile
    second = started(weights, tmp_path / "exits")
    _, errors = second.communicate()
    first.send_signal(signal.SIGCONT)
    finished(first)
    assert second.returncode == 1
    assert "InUse" in errors.splitlines()[-1]
