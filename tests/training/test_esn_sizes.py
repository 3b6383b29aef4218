"""The Exit Sequence Network in all sizes of TinySaver's grid: trained, saved, loaded and run."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from agreement import agree, random_policy
from understudy.early_exit.exit_sequence import SequenceSize
from understudy.nn.cascade import Cascade
from understudy.scoring.in_memory import score
from understudy.training.api import train_exits
from understudy.training.config import TrainingConfig
from understudy.zoo.data import open_data
from understudy.zoo.models import load_network

GRID = [SequenceSize(*size, 8) for size in product((0, 1, 2, 3), (8, 32, 128, 512))]
OTHERS = [SequenceSize(1, 32, 1), SequenceSize(2, 12, 3), SequenceSize(3, 8, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [*GRID, *OTHERS], ids=lambda s: f"{s.layers}x{s.dim}x{s.heads}")
def test_a_sequence_of_any_size_runs_as_it_was_scored(size: SequenceSize, tmp_path: Path) -> None:
    trained = train_exits(
        "net=py:exit_digits:big?weights=random",
        "digits:train",
        tmp_path / "exits",
        taps=["blocks.0", "blocks.1"],
        heads=(),
        saver="tiny=py:exit_digits:small?weights=random",
        sequence=size,
        config=TrainingConfig(epochs=2, batch=64, lr=3e-3, views=1, held_out=0.2),
        device="cpu",
    )
    loaded = load_network(f"exits:{tmp_path / 'exits'}", allow_code=["exit_digits"])
    assert loaded.weights_hash == trained.weights_hash
    assert loaded.saver_branch is not None
    spec = loaded.saver_branch.sequence.spec
    assert (spec.layers, spec.dim, spec.heads) == (size.layers, size.dim, size.heads)
    digits = open_data("digits:heldout")
    images = torch.stack([digits.image(number) for number in range(200)])
    assert digits.labels is not None
    table = score({"net": loaded}, [(images, digits.labels[:200].tolist())])
    assert table.names == ("tiny", "net/blocks.0/esn", "net/blocks.1/esn", "net")
    saver, *exits = (table.confidence["max_softmax"][row] for row in range(3))
    assert all(not np.array_equal(saver, one) for one in exits)  # they learned something
    random = np.random.default_rng(0)
    for _ in range(4):
        policy = random_policy(table, random)
        agree(table, policy, Cascade({"net": loaded}, policy).answer(images))
