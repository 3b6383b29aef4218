"""Small networks with exits for the tests, with random weights that are always the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.early_exit.network import ExitNetwork, Heads, attach
from understudy.nn.stage import Preprocess, Stage

GREY = Preprocess(size=(8, 8), mean=(0.5,), std=(0.25,))
RAW = Preprocess(size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
HEADS: Heads = {"blocks.0": "linear", "blocks.1": {"linear": "linear", "mlp1x16": "mlp1x16"}}


class Block(nn.Module):
    """A convolution with a shortcut and an activation in place."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(planes, planes, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.conv(x))


class Net(nn.Module):
    """A stem, three blocks, and a linear layer on global averages."""

    def __init__(self, planes: int = 8, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, planes, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(planes) for _ in range(3)))
        self.linear = nn.Linear(planes, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.blocks(self.stem(x)).mean((2, 3)))


def stage_of(spec: str) -> Stage:
    """The stage of a spec ``net:PLANES``, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Stage(Net(int(spec.split(":")[1])), preprocess=RAW, origin={"spec": spec})


def network(spec: str = "net:8") -> ExitNetwork:
    """Three plain exits in a network."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return _sharpened(attach(stage_of(spec), HEADS))


def refined() -> ExitNetwork:
    """The same with a saver, a conditioned head, and an Exit Sequence Network; all random."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        heads: Heads = {**HEADS, "blocks.0": {"linear": "linear", "told": "linear+saver"}}
        return _sharpened(attach(stage_of("net:8"), heads, saver={"saver": stage_of("net:4")}))


def _sharpened(made: ExitNetwork) -> ExitNetwork:
    """The network with exits as confident as trained ones."""
    with torch.no_grad():
        for weights in made.heads.parameters():
            weights.mul_(4)
        if made.saver_branch is not None:
            for weights in made.saver_branch.sequence.parameters():
                nn.init.normal_(weights, std=0.08)
    return made


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)


def eight() -> Stage:
    """The backbone for ``py:exit_nets:eight``, its weights drawn by the zoo."""
    return Stage(Net(8, classes=10, channels=1), preprocess=GREY)


def four() -> Stage:
    """A saver for ``py:exit_nets:four``."""
    return Stage(Net(4, classes=10, channels=1), preprocess=GREY)
