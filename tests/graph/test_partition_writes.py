"""Segments of networks that overwrite: what a segment is given stays, so that it can run again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from understudy.graph.partition import partition


class Behind(nn.Module):
    """Writes into a feature right behind the module that made it."""

    def __init__(self, write: nn.Module) -> None:
        super().__init__()
        self.first, self.write, self.last = nn.Linear(4, 6), write, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.write(self.first(x)))


class Added(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return x


class Viewed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.unflatten(1, (2, 3))[:, 0].mul_(2)
        return x


@pytest.mark.parametrize(
    "write",
    [
        nn.Hardswish(inplace=True),
        nn.SiLU(inplace=True),
        Added(),
        Viewed(),
        nn.Sequential(nn.Dropout(), Added()),
        nn.Sequential(nn.Flatten(), Added()),
    ],
    ids=["hardswish", "silu", "add", "view", "dropout", "flatten"],
)
def test_what_a_segment_is_given_stays(write: nn.Module) -> None:
    torch.manual_seed(0)
    net = Behind(write).eval()
    x = torch.randn(5, 4)
    trunk = partition(net, x, ["first"])
    (feature,) = trunk.run(0, (x,))
    before = feature.clone()
    truth = net(x.clone())
    for _ in range(2):
        (logits,) = trunk.run(1, (feature,))
        torch.testing.assert_close(logits, truth)
        torch.testing.assert_close(feature, before, rtol=0, atol=0)


class Masked(nn.Module):
    """Needs a mask of the images behind the tap."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = x > 0
        return self.last(torch.where(mask, self.first(x.masked_fill(mask, 0)), 0))


def test_values_of_any_dtype_cross_a_cut() -> None:
    net, x = Masked().eval(), torch.randn(5, 4)
    trunk = partition(net, x, ["first"])
    handed = trunk.run(0, (x,))
    assert torch.bool in {value.dtype for value in handed}
    torch.testing.assert_close(trunk.run(1, handed)[0], net(x))


def test_the_batch_itself_stays() -> None:
    net = nn.Sequential(nn.Hardswish(inplace=True), nn.Linear(4, 3)).eval()
    x = torch.randn(5, 4)
    trunk, before = partition(net, x.clone(), ["1"]), x.clone()
    trunk.run(0, (x,))
    assert torch.equal(x, before)


def test_nothing_is_copied_where_nothing_is_written() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(inplace=True)).eval()
    trunk = partition(net, torch.randn(5, 4), ["0", "1"])
    assert not [n for s in trunk.segments for n in s.graph.nodes if n.target == "clone"]
