"""What a little model saves in front of a large one: the measure by which it is taught."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from understudy.outcome import evaluate
from understudy.scores import ScoreTable
from understudy.searching.certify import certify
from understudy.searching.optimism import resampled
from understudy.searching.pairs import pair_curves
from understudy.searching.policy_sequences import pair_sequence
from understudy.searching.search_data import SearchData, SearchOptions
from understudy.searching.strategies import cheapest_expected
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
        return float(np.mean([self.of_draw(self.drawn(table, n)) for n in range(self.draws)]))

    def drawn(self, table: ScoreTable, number: int) -> ScoreTable:
        """Samples of a table of both models, drawn with replacement, with their splits."""
        rows = np.random.default_rng(number).integers(0, len(table), self.samples)
        certify = np.arange(self.samples) >= TUNED * self.samples
        return resampled(table, rows, certify.astype(np.uint8))

    def of_draw(self, drawn: ScoreTable) -> float:
        """The certified saving on one draw: that of `search` among pairs alone, which also makes
        what is reported of a result."""
        options = SearchOptions(LARGE, without=("ensembles", "chains"))
        data = SearchData.of(drawn, (self.max_drop,), delta=self.delta, options=options)
        curves = pair_curves(data.searched, **data.spec.names)
        sequences = [pair_sequence(curve) for curve in curves]
        sequence = cheapest_expected(sequences, data.spec, self.max_drop)
        certify_on = data.splits["certify"]
        proof = certify(
            sequence, certify_on, reference=LARGE, max_drop=self.max_drop, delta=self.delta
        )
        saving = evaluate(certify_on, proof.policy, reference=LARGE).saving[data.spec.unit]
        return max(float(saving), 0.0)


def _numbers(logits: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return logits.detach().float().cpu().numpy()
