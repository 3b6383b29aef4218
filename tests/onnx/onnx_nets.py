"""Cascades of small random networks, and what ONNX tests compare."""

from __future__ import annotations

import torch

from exit_nets import network, refined, stage_of
from understudy.average import Average
from understudy.deferral import DeferralScore
from understudy.dial import Setting
from understudy.nn.cascade import Cascade
from understudy.nn.network import ExitNetwork, attach
from understudy.policy import Policy, Step

LEARNED = DeferralScore("tiny", "net", 0.2, 0.8, 0.5, first=(0.1, -0.4), second=(0.0, 0.3, -0.2))


def convolutional() -> ExitNetwork:
    """One exit with convolutions inside a network."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return attach(stage_of("net:8"), {"blocks.1": "conv16"})


def plain() -> Cascade:
    """A small model with a learned score, a network with one exit, and an average of the two."""
    policy = Policy((Step("tiny", 0.2376), Step("net/blocks.1/conv16", 0.2236), Step("mean")))
    return Cascade(
        {
            "tiny": stage_of("net:2"),
            "net": convolutional(),
            "mean": Average(("tiny", "net"), (2.0, 0.7)),
        },
        policy,
        frontier=[
            Setting(policy, 0.5, 0.05, 2.0, "MACs"),
            Setting(Policy.single("net"), 0.0, 0.0, 9.0, "MACs"),
        ],
        scores={"tiny": LEARNED},
    )


def saved() -> Cascade:
    """A network with a saver: the saver, a head that it helps, and an exit that refines it."""
    policy = Policy(
        (Step("saver", 0.2426), Step("net/blocks.0/told", 0.3662), Step("net/blocks.0/esn"))
    )
    return Cascade({"net": refined()}, policy)


def everything() -> Cascade:
    """All exits of two networks."""
    return Cascade({"net": refined(), "other": network()}, Policy.single("net"))
