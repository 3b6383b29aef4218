"""Processes that teach a little model, and are killed at any moment."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from exit_digits import big, train
from training_processes import (
    Training,
    check_killed_at_random,
    check_second_is_refused,
    started,
)
from understudy.training.saver_record import SaverFolder

TEACH = """
from dataclasses import replace
from functools import partial
from understudy.training import saver
from understudy.training.pair_saving import PairSaving
from understudy.training.saver_config import SaverConfig
saver.PairSaving = partial(PairSaving, draws=1, samples=1000)
config = SaverConfig(tuning_epochs=4, tuning_lr=1e-3, max_drop=5.0)
teaching = replace(config.teaching, epochs=8, batch=64, lr=3e-2, flip=False, held_out=0.2)
saver.train_saver(
    "py:exit_digits:small?weights=random", "py:exit_digits:big?checkpoint={weights}",
    "digits:train", {into!r}, config=replace(config, teaching=teaching), device="cpu", workers=1,
    on_progress=lambda *step: print(*step, flush=True),
)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "big.safetensors"
    torch.manual_seed(0)
    train(big(), file, epochs=4)
    return file


def start(weights: Path, into: Path) -> Training:
    return started(TEACH.format(weights=weights, into=str(into)))


def outcome(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """The weights, and the record without the time and the path."""
    record = SaverFolder.load(folder / "saver.json").to_dict()
    del record["training"]["seconds"], record["spec"]
    return (folder / "weights.safetensors").read_bytes(), record


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_ends_as_an_undisturbed_one(
    weights: Path, tmp_path: Path
) -> None:
    check_killed_at_random(partial(start, weights), outcome, tmp_path, most_steps=14)


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_teaches(weights: Path, tmp_path: Path) -> None:
    check_second_is_refused(partial(start, weights), tmp_path / "taught")
