"""Processes that train exits, and are killed at any moment."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from exit_digits import big, train
from training_processes import (
    Training,
    check_killed_at_random,
    check_second_is_refused,
    started,
)

TRAIN = """
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


def start(weights: Path, into: Path) -> Training:
    return started(TRAIN.format(weights=weights, into=str(into)))


def outcome(folder: Path) -> bytes:
    return (folder / "exits.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_ends_as_an_undisturbed_one(
    weights: Path, tmp_path: Path
) -> None:
    check_killed_at_random(partial(start, weights), outcome, tmp_path, most_steps=6)


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_trains(weights: Path, tmp_path: Path) -> None:
    check_second_is_refused(partial(start, weights), tmp_path / "exits")
