"""What a little model saves in front of a large one: the measure by which it is taught."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.optimism import resampled
from understudy.searching.search import search
from understudy.training.targets import Targets

LITTLE, LARGE = "little", "large"
TUNED = 0.25  # of the samples of a draw: thresholds are chosen on them, certified on the others


@dataclass(frozen=True)
class PairSaving:
    """The mean certified saving of a pair over several draws of samples.

    Each draw takes samples with replacement; a threshold is searched on a quarter of them, with
    the learned deferral score, and certified on the others. As many samples are drawn as a user
    would certify on: with the few that training can hold out, hardly anything would be proved. It
    compares little models; it proves nothing itself.

    Attributes:
        costs: MACs of the little model and of the large one, for one sample.
        max_drop: the budget in points.
        delta: the level of each certificate.
        draws: how many.
        samples: of each draw.
    """

    costs: tuple[float, float]
    max_drop: float
    delta: float = 0.05
    draws: int = 4
    samples: int = 10_000

    def __call__(self, logits: Tensor, targets: Targets) -> float:
        """The saving, 0 to 1, of a little model with these logits, (N, 1, C).

        Args:
            logits: of the little model.
            targets: the large model's logits, and labels; without these the large model is right.
        """
        assert targets.backbone is not None, "a little model is compared with its teacher"
        return self.of(logits[:, 0], targets.backbone, targets.truth())

    def of(self, little: Tensor, large: Tensor, labels: Tensor) -> float:
        """The saving from the logits (N, C) of both models, and the correct classes (N,)."""
        table = ScoreTable.from_logits(
            {name: _numbers(logits) for name, logits in ((LITTLE, little), (LARGE, large))},
            labels.cpu().numpy(),
            costs=dict(zip((LITTLE, LARGE), self.costs, strict=True)),
            split=["tune"] * len(labels),
        )
        return float(np.mean([self._of_draw(table, seed) for seed in range(self.draws)]))

    def _of_draw(self, table: ScoreTable, seed: int) -> float:
        rows = np.random.default_rng(seed).integers(0, len(table), self.samples)
        splits = np.where(np.arange(self.samples) < TUNED * self.samples, 0, 1).astype(np.uint8)
        drawn = resampled(table, rows, splits)
        pair = ("ensembles", "chains")
        result = search(
            drawn, max_drop=self.max_drop, reference=LARGE, without=pair, delta=self.delta
        )
        (choice,) = result.choices
        if choice.policy == Policy.single(LARGE):
            return 0.0
        return float(choice.outcome.saving["MACs"])


def _numbers(logits: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return logits.detach().float().cpu().numpy()
