"""Exits that are trained together: each learns from later ones, and the backbone may be tuned too.

Where the backbone is tuned, its layers stay in eval mode: batch normalisation keeps its running
statistics, and learns its gains and biases; nothing is dropped. So what is tuned is what runs, the
network begins with the answers that it is held to, and nothing depends on the size of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from understudy.early_exit.network import ExitNetwork
from understudy.graph.capture import hooked
from understudy.graph.model_output import logits_in
from understudy.nn.stage import Images
from understudy.training.backbone import BackboneSettings
from understudy.training.config import TrainingConfig
from understudy.training.features import Features, SaverFeatures, reductions_of
from understudy.training.targets import Targets, losses
from understudy.training.teacher_answers import IMAGES, StudentImages, TeacherAnswers
from understudy.training.trainables import (
    Trainable,
    trainables_of,
)

WHOLE = "network"
"""The name of the network's own answer among the exits that are trained."""


class TuningInputs:
    """An extractor of what a network is tuned on: its input, its answers as they are now, and the
    features of its saver, which is not tuned.

    Args:
        network: a copy of its model gives the answers.
        dtype: of its products, as in training steps.
    """

    def __init__(self, network: ExitNetwork, dtype: torch.dtype) -> None:
        stage = network.stage
        self._answers = TeacherAnswers(deepcopy(stage), StudentImages(stage), dtype=dtype)
        self._settings = BackboneSettings(network.mode, stage.device)
        self._saver = SaverFeatures(network, self._settings)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._answers.device

    def __call__(self, images: Images) -> dict[str, Tensor]:
        """The input, the logits in float32, and the features of the saver.

        Raises:
            DataError: images that the network cannot take.
            ModelError: features or logits that are not finite.
        """
        with self._settings.running():
            saver = self._saver(images)
        copies = {name: value.clone() for name, value in saver.items()}  # no inference tensors
        return {**self._answers(images), **copies}


def trained_together(network: ExitNetwork, config: TrainingConfig) -> Trainable:
    """All exits of a network as one trainable, with the network itself where it is tuned.

    Its features are those of `FeatureExtractor`, or of `TuningInputs` where the network is tuned.
    """
    exits = trainables_of(network, config)
    names = tuple(name for one in exits for name in one.exits)
    tuned = config.backbone_lr > 0
    backbone = network.stage.model if tuned else None
    return Trainable(
        ExitModules([one.module for one in exits], backbone),
        (*names, WHOLE) if tuned else names,
        partial(_tuned_logits, network, exits) if tuned else partial(_logits, exits),
        JointLosses.of(network, names, config),
        partial(losses, config=config),
        backbone,
    )


class ExitModules(nn.Module):
    """The modules of exits, and the backbone where it is tuned, which stays in eval mode.

    >>> modules = ExitModules([nn.Linear(4, 3)], nn.BatchNorm1d(4)).train()
    >>> modules.exits.training, modules.backbone.training
    (True, False)
    """

    def __init__(self, exits: Sequence[nn.Module], backbone: nn.Module | None) -> None:
        super().__init__()
        self.exits = nn.ModuleList(exits)
        self.backbone = backbone

    def train(self, mode: bool = True) -> ExitModules:
        """Put the exits into training mode, or into eval mode."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self


@dataclass(frozen=True, eq=False)
class JointLosses:
    """The losses of exits that learn from later ones, and of the network's own answer.

    Attributes:
        later: (E, E + 1) the share of every answer in what each exit learns from; the network's own
            is last.
        config: the targets, how they are weighed, and whether the network is tuned.
    """

    later: Tensor
    config: TrainingConfig

    @staticmethod
    def of(network: ExitNetwork, exits: Sequence[str], config: TrainingConfig) -> JointLosses:
        """The losses of some exits TAP/HEAD: each learns from all at deeper taps, in equal parts.

        >>> from understudy.early_exit.network import attach
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
        >>> network = attach(model, {"0": "linear", "1": "linear"}, image=torch.zeros(4))
        >>> JointLosses.of(network, ["0/linear", "1/linear"], TrainingConfig()).later
        tensor([[0.0000, 0.5000, 0.5000],
                [0.0000, 0.0000, 1.0000]])
        """
        tap = {tap.path: number for number, tap in enumerate(network.taps)}
        depth = torch.tensor([*(tap[exit.rpartition("/")[0]] for exit in exits), len(tap)])
        deeper = (depth[None, :] > depth[:-1, None]).float()
        shares = deeper / deeper.sum(1, keepdim=True)
        return JointLosses(shares.to(network.stage.device), config)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """The loss of every sample at every exit, (N, E), and at the network's own answer where it
        is tuned, (N, E + 1), from as many logits (N, ..., C)."""
        count = len(self.later)
        exits, whole = logits[:, :count], logits[:, count:]
        smoothing = self.config.label_smoothing
        if self.config.targets != "exits":
            found = losses(exits, targets, self.config, smoothing=smoothing)
        else:
            found = self._taught(exits, targets, whole)
        if not whole.shape[1]:
            return found
        held = losses(whole, targets, replace(self.config, targets="backbone"))
        return torch.cat([found, self.config.hold * held], 1)

    def _taught(self, exits: Tensor, targets: Targets, whole: Tensor) -> Tensor:
        """The losses of exits against labels and the answers of later exits, as these are now."""
        assert targets.backbone is not None, "the network's answer is one of them"
        last = whole if whole.shape[1] else targets.backbone.unsqueeze(1)
        temperature = self.config.temperature
        answers = (torch.cat([exits, last], 1).detach().float() / temperature).softmax(2)
        taught = temperature * (self.later @ answers).clamp_min(_LEAST).log()
        own = replace(self.config, targets="both")
        return torch.cat(
            [
                losses(
                    exits[:, [exit]],
                    replace(targets, backbone=taught[:, exit]),
                    own,
                    smoothing=self.config.label_smoothing,
                )
                for exit in range(len(self.later))
            ],
            1,
        )


_LEAST = 1e-30  # of a probability whose logarithm is taken


def tapped_features(network: ExitNetwork, ready: Tensor) -> tuple[Features, Tensor]:
    """The features of a network's heads and its logits, from its model's input, with gradients.

    >>> from understudy.early_exit.network import attach
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> network = attach(model, {"1": "linear"}, image=torch.zeros(4))
    >>> features, logits = tapped_features(network, torch.zeros(2, 4))
    >>> list(features), logits.shape, logits.requires_grad
    (['1: mean'], torch.Size([2, 3]), True)
    """
    found: dict[str, Tensor] = {}
    reductions, model = reductions_of(network), network.stage.model

    def store(path: str, output: Tensor) -> None:
        for name, reduce in reductions[path].items():
            found[name] = reduce(output).clone()  # later layers may write in place

    with hooked(model, {path: partial(store, path) for path in reductions}):
        logits = logits_in(model(network.mode.to_memory_format(ready)))
    return found, logits


def _tuned_logits(network: ExitNetwork, exits: Sequence[Trainable], features: Features) -> Tensor:
    found, whole = tapped_features(network, features[IMAGES])
    return torch.cat([_logits(exits, {**features, **found}), whole.unsqueeze(1)], 1)


def _logits(exits: Sequence[Trainable], features: Features) -> Tensor:
    return torch.cat([one.logits(features) for one in exits], 1)
