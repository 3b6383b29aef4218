"""Models that cannot be scored: an image's logits depend on chance, or on the rest of a batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from understudy.early_exit.network import attach
from understudy.errors import ModelError
from understudy.scoring.in_memory import score
from understudy.scoring.on_disk import score_into

RANDOM = "in every run, 'net' does not"
DEPENDENT = "whatever the rest of its batch is, 'net' does not"


class Function(nn.Module):
    """Logits by a function, without parameters."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def images(count: int = 20) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


def mirrored(x: Tensor) -> Tensor:
    return x.flip(1) if torch.rand(()) < 0.5 else x


def seeded(x: Tensor) -> Tensor:
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "dropout": (lambda x: nn.functional.dropout(x, 0.1), RANDOM),
    "noise": (lambda x: x + 0.01 * torch.randn_like(x), RANDOM),
    "a coin per batch": (mirrored, RANDOM),
    "noise from a seed": (seeded, DEPENDENT),
    "probabilities": (lambda x: x.softmax(1), "'net' gives probabilities .*leave out its softmax"),
    "the batch's mean": (lambda x: x - x.mean(0), DEPENDENT),
    "its first row": (lambda x: x - 0.01 * x[:1], DEPENDENT),
    "its neighbour": (lambda x: x + x.roll(1, 0), DEPENDENT),
    "its position": (lambda x: x + torch.arange(len(x))[:, None], DEPENDENT),
    "the number of rows": (lambda x: x / len(x), DEPENDENT),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("batch", [7, 20])
def test_it_is_refused_and_named(name: str, batch: int) -> None:
    function, message = REFUSED[name]
    torch.manual_seed(1)
    with pytest.raises(ModelError, match=message):
        score({"plain": nn.Identity(), "net": Function(function)}, images().split(batch))


def test_parts_in_training_mode_are_named() -> None:
    class Stubborn(nn.Sequential):
        """Keeps its dropout on in eval mode."""

        def train(self, mode: bool = True) -> Stubborn:
            super().train(mode)
            self[1].training = True
            return self

    net = Stubborn(nn.Linear(6, 6), nn.Dropout())
    with pytest.raises(ModelError, match="in training mode: '1'"):
        score({"net": net}, [images()])


@pytest.mark.parametrize("spec", ["jittered", "standardised"])
def test_tables_on_disk_refuse_them_before_work(tmp_path: Path, spec: str) -> None:
    models = {"tiny": "py:digit_nets:tiny", "net": f"py:digit_nets:{spec}"}
    with pytest.raises(ModelError, match="'net' does not"):
        score_into(tmp_path / "table", models, "digits:heldout", measure_batches=())
    assert list(tmp_path.iterdir()) == []


def test_rounding_is_no_difference() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(8)))
    given = torch.randn(40, 64)
    autocast = Function(lambda x: _in_bfloat16(deep, x))
    models = {"half": Function(lambda x: deep.to(x.dtype)(x)), "bfloat16": autocast}
    assert len(score(models, given.split(16))) == 40


def _in_bfloat16(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = model(x)
    return logits.float()


def test_one_image_at_a_time() -> None:
    assert len(score({"net": nn.Linear(6, 3)}, images(3).split(1))) == 3
    with pytest.raises(ModelError, match=DEPENDENT):
        score({"net": Function(lambda x: x / len(x))}, images(3).split(1))


def test_exits_of_a_network_are_checked_where_they_run() -> None:
    head = nn.Sequential(nn.Linear(8, 4), Function(lambda x: x - x.mean(0)))
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    network = attach(model, {"1": head}, image=torch.zeros(6))
    with pytest.raises(ModelError, match="'net/1/head' does not"):
        score({"net": network}, [images()])


def test_models_are_scored_in_eval_mode_and_get_theirs_back() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout()).train()
    net[2].eval()
    table = score({"net": net}, images().split(5))
    assert [module.training for module in net.modules()] == [True, True, True, False]
    with torch.no_grad():
        assert table.prediction[0].tolist() == net.eval()(images()).argmax(1).tolist()
    with pytest.raises(ModelError):
        score({"net": net.train(), "other": Function(nn.functional.dropout)}, [images()])
    assert net.training


def test_a_probe_does_not_load_the_compiler() -> None:
    """Importing it takes longer than most probes."""
    code = """
import sys
import torch
from understudy.nn.stage import Stage
from understudy.scoring.probing import probe

probe({"tiny": Stage(torch.nn.Linear(4, 3))}, torch.randn(8, 4))
print("torch._dynamo" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
