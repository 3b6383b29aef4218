"""Models that return logits among other things: scored, built, run, tapped and exported as is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from understudy.early_exit.network import attach
from understudy.nn.cascade import Cascade, build
from understudy.nn.execution_mode import ExecutionMode, with_mode
from understudy.nn.stage import Stage
from understudy.onnx import export_onnx, load_onnx
from understudy.policy import Policy
from understudy.runtime.executor import Executor
from understudy.scoring.in_memory import score
from understudy.searching.search import search


@dataclass
class ClassifierOutput:
    """Like the output of Hugging Face's classifiers."""

    logits: Tensor
    loss: Tensor | None = None


class Named(NamedTuple):
    """Like the output of torchvision's GoogLeNet."""

    logits: Tensor
    aux: Tensor | None


FORMS: dict[str, Any] = {
    "object": ClassifierOutput,
    "dictionary": lambda logits: {"hidden": logits[:, :2], "logits": logits},
    "named tuple": lambda logits: Named(logits, logits + 1),
    "tuple": lambda logits: (logits, logits[:, :, None], logits.argmax(1), None),
    "tuple of one": lambda logits: (logits,),
}


class Net(nn.Module):
    """Two layers, whose output has a form."""

    def __init__(self, form: str | None, width: int = 16) -> None:
        super().__init__()
        self.first, self.last, self.form = nn.Linear(8, width), nn.Linear(width, 3), form

    def forward(self, x: Tensor) -> Any:
        logits = self.last(self.first(x).relu())
        return logits if self.form is None else FORMS[self.form](logits)


@pytest.fixture
def rows() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(200, 8)


def plain(net: Net) -> Net:
    """The same that returns logits alone."""
    found = Net(None, net.first.out_features)
    found.load_state_dict(net.state_dict())
    return found


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_taken_from_any_output(form: str, rows: Tensor) -> None:
    tiny, big = Net(form, 4), Net(form)
    labels = plain(big)(rows).argmax(1)
    table = score({"tiny": tiny, "big": big}, [{"pixel_values": rows, "labels": labels}])
    other = score({"tiny": plain(tiny), "big": plain(big)}, [(rows, labels)])
    assert np.array_equal(table.prediction, other.prediction)
    cascade = build(search(table, reference="big", max_drop=90.0), {"tiny": tiny, "big": big})
    (answers,) = Executor(cascade).map([(rows, labels)])
    for batch in (rows, (rows, labels), {"pixel_values": rows}):
        assert torch.equal(cascade(batch).argmax(1), torch.from_numpy(answers.prediction))
        assert np.array_equal(cascade.answer(batch).exit, answers.exit)


@pytest.mark.parametrize("form", FORMS)
def test_execution_modes_take_them_too(form: str, rows: Tensor) -> None:
    net = Net(form)
    for mode in ("folded", "bfloat16"):
        found = with_mode(Stage(net), ExecutionMode.parse(mode))(rows)
        assert torch.allclose(found, plain(net)(rows), atol=0.05)


@pytest.mark.parametrize("form", FORMS)
def test_exits_inside_such_a_network(form: str, rows: Tensor) -> None:
    net = Net(form)
    stages = attach(net, {"first": "linear"}, image=rows[0]).stages("net")
    assert torch.allclose(stages["net"](rows), plain(net)(rows), atol=1e-6)


def test_exported_to_onnx(rows: Tensor, tmp_path: Path) -> None:
    cascade = Cascade({"net": Net("object")}, Policy.single("net"))
    export_onnx(cascade, tmp_path / "onnx", image=rows[0])
    assert np.array_equal(
        load_onnx(tmp_path / "onnx").answer(rows.numpy()).prediction,
        cascade.answer(rows).prediction,
    )
