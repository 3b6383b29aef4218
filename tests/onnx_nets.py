"""Cascades of small random networks, and what ONNX tests compare."""

from __future__ import annotations

import torch

from exit_nets import network, refined, stage_of
from fakes import baseline_for
from understudy.deferral import DeferralScore
from understudy.early_exit.network import ExitNetwork, attach
from understudy.ensemble import Ensemble
from understudy.nn.cascade import Cascade
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy, PolicyStage

LEARNED = DeferralScore("tiny", "net", 0.2, 0.8, 0.5, first=(0.1, -0.4), second=(0.0, 0.3, -0.2))


def convolutional() -> ExitNetwork:
    """One exit with convolutions inside a network."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return attach(stage_of("net:8"), {"blocks.1": "conv16"})


def plain() -> Cascade:
    """A small model with a learned score, a network with one exit, and an average of the two."""
    policy = Policy(
        (
            PolicyStage("tiny", 0.2376),
            PolicyStage("net/blocks.1/conv16", 0.2236),
            PolicyStage("mean"),
        )
    )
    return Cascade(
        {
            "tiny": stage_of("net:2"),
            "net": convolutional(),
            "mean": Ensemble(("tiny", "net"), (2.0, 0.7)),
        },
        policy,
        operating_points=[
            OperatingPoint(policy, 0.5, 0.05, 2.0, "MACs", baseline=baseline_for(policy)),
            OperatingPoint(Policy.single("net"), 0.0, 0.0, 9.0, "MACs"),
        ],
        scores={"tiny": LEARNED},
    )


def saved() -> Cascade:
    """A network with a saver: the saver, a head that it helps, and an exit that refines it."""
    policy = Policy(
        (
            PolicyStage("saver", 0.2426),
            PolicyStage("net/blocks.0/told", 0.3662),
            PolicyStage("net/blocks.0/esn"),
        )
    )
    return Cascade({"net": refined()}, policy)


def everything() -> Cascade:
    """All exits of two networks."""
    return Cascade({"net": refined(), "other": network()}, Policy.single("net"))
