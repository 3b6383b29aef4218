"""A certificate: a policy with a finite-sample bound on its gap, and all it takes to check it
again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from understudy.outcome import points
from understudy.policy import Policy, PolicyStage, threshold_from_json, threshold_to_json


@dataclass(frozen=True)
class ClassBound:
    """What was proved for the samples of one class; the fields are those of `Certificate`."""

    budget: float
    samples: int
    losses: int
    gains: int
    p_value: float | None


@dataclass(frozen=True)
class Certificate:
    """The proof that a policy's true gap lies within a budget, with probability 1 - delta.

    The path is a sequence of policies whose order was frozen on `tune`. They were tested on
    `certify` one after another, each at level delta, up to the first that could not be proved; the
    last proved one is certified. It is valid although models and thresholds were chosen, since
    nothing was chosen on the certify samples (fixed-sequence testing; Learn then Test, arXiv
    2110.01052, section 3).

    Attributes:
        policy: what is certified; the reference itself where nothing cheaper could be proved.
        reference: the exit that the gap is measured against.
        kind: "gap" (of accuracy) or "disagreement" (with the reference, without labels).
        budget: the bound on the gap, in points.
        delta: the chance that the bound is wrong.
        samples, losses, gains: what was counted on certify for `policy`.
        p_value: of the hypothesis that the gap exceeds the budget; None for the reference itself.
        path: the policies that were proved, in order; ends with `policy`, empty for the reference.
        steps: how many policies stood in the whole frozen path.
        samples_needed: about how many certify samples would prove the tuned optimum; None where the
            path was proved to its end or no number would do.
        classes: the classes with budgets of their own, by name.
        looks: how often the certify split had been read, this time included.
        table: the hash of the certify sub-table; `split`: how the samples were split.
    """

    policy: Policy
    reference: str
    kind: str
    budget: float
    delta: float
    samples: int
    losses: int
    gains: int
    p_value: float | None
    path: tuple[Policy, ...]
    steps: int
    samples_needed: int | None
    looks: int
    table: str
    split: Mapping[str, Any]
    classes: Mapping[str, ClassBound] = field(default_factory=dict)

    @property
    def falls_back(self) -> bool:
        """Whether nothing but the reference could be certified."""
        return not self.path

    def words(self) -> str:
        """What the certificate promises, and when the promise ends."""
        again = (
            "" if self.looks <= 1 else f" The certify samples have been read {self.looks} times."
        )
        if self.falls_back:
            more = (
                f" About {self.samples_needed:,} certify samples would do for the best plan found."
                if self.samples_needed and self.samples_needed > self.samples
                else ""
            )
            aim = (
                f"lose at most {points(self.budget)}"
                if self.budget >= 0
                else f"gain at least {points(-self.budget)}"
            )
            classes = " in all and in each named class" if self.classes else ""
            return (
                f"Nothing cheaper than {self.reference} could be proved to {aim}{classes} with "
                f"{self.samples:,} certify samples.{more}{again}"
            )
        return (
            f"With probability {1 - self.delta:g} the cascade {self._promise()} on new samples "
            f"like the {self.samples:,} certify samples ({self.losses:,} losses, {self.gains:,} "
            f"gains, p = {self.p_value:.3g}). "
            f"The promise ends when the data change.{again}"
        )

    def _promise(self) -> str:
        if self.kind == "disagreement":
            bound = f"disagrees with {self.reference} on at most {points(self.budget)}"
        elif self.budget < 0:
            bound = f"is at least {points(-self.budget)} more accurate than {self.reference}"
        else:
            bound = f"loses against {self.reference} by at most {points(self.budget)}"
        classes = [f"at most {points(b.budget)} in class {n}" for n, b in self.classes.items()]
        return ", and by ".join([bound, *classes])

    def to_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.to_dict(),
            "reference": self.reference,
            "kind": self.kind,
            "budget": self.budget,
            "delta": self.delta,
            "samples": self.samples,
            "losses": self.losses,
            "gains": self.gains,
            "p_value": self.p_value,
            "path": path_to_json(self.path),
            "steps": self.steps,
            "samples_needed": self.samples_needed,
            "looks": self.looks,
            "table": self.table,
            "split": dict(self.split),
            "classes": {name: dict(vars(bound)) for name, bound in self.classes.items()},
            "words": self.words(),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Certificate:
        fields = {key: value for key, value in data.items() if key != "words"}
        fields["policy"] = Policy.from_dict(data["policy"])
        fields["path"] = path_from_json(data["path"])
        fields["classes"] = {n: ClassBound(**bound) for n, bound in data.get("classes", {}).items()}
        return Certificate(**fields)


def path_to_json(path: Sequence[Policy]) -> list[dict[str, Any]]:
    """A path of policies in short: runs of policies that differ in their thresholds alone.

    >>> path = (Policy.pair("a", "b", 0.9), Policy.pair("a", "b", 0.5), Policy.single("a"))
    >>> path_to_json(path)[0]["thresholds"]
    [[0.9], [0.5]]
    >>> path_from_json(path_to_json(path)) == path
    True
    """

    def shape(policy: Policy) -> tuple[tuple[str, str], ...]:
        return tuple((step.exit, step.confidence) for step in policy.stages)

    return [
        {
            "stages": [{"exit": exit, "confidence": confidence} for exit, confidence in stages],
            "thresholds": [[threshold_to_json(s.threshold) for s in p.stages[:-1]] for p in run],
        }
        for stages, run in groupby(path, key=shape)
    ]


def path_from_json(data: Sequence[Mapping[str, Any]]) -> tuple[Policy, ...]:
    """The policies of a path that `path_to_json` wrote."""
    return tuple(
        Policy(
            tuple(
                PolicyStage(stage["exit"], threshold, stage["confidence"])
                for stage, threshold in zip(
                    run["stages"], [*map(threshold_from_json, row), None], strict=True
                )
            )
        )
        for run in data
        for row in run["thresholds"]
    )
