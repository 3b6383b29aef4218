"""An Exit Sequence Network without attention in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from exit_nets import images, stage_of
from understudy.early_exit.exit_sequence import SequenceSize
from understudy.early_exit.network import attach
from understudy.nn.cascade import Cascade
from understudy.onnx import load_onnx
from understudy.onnx.export import export_onnx
from understudy.policy import Policy, PolicyStage


@pytest.mark.slow
def test_tokens_that_do_not_attend_to_each_other(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = attach(
            stage_of("net:8"),
            {"blocks.0": {}, "blocks.1": {}},
            saver={"saver": stage_of("net:2")},
            sequence=SequenceSize(0, 16, 8),
        )
        branch = network.saver_branch
        assert branch is not None
        for exit in branch.sequence.exits.parameters():
            torch.nn.init.normal_(exit)
    stages = ("saver", 0.25), ("net/blocks.0/esn", 0.4), ("net/blocks.1/esn", None)
    cascade = Cascade(
        {"net": network}, Policy(tuple(PolicyStage(name, limit) for name, limit in stages))
    )
    export_onnx(cascade, tmp_path / "exported", image=images(1)[0])
    expected, found = (
        cascade.answer(images(40)),
        load_onnx(tmp_path / "exported").answer(images(40).numpy()),
    )
    assert len(set(expected.exit.tolist())) == 3
    np.testing.assert_array_equal(found.exit, expected.exit)
    np.testing.assert_array_equal(found.prediction, expected.prediction)
