"""The README of a cascade on disk: what it saves, what was proved, its data, limits and loading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.certificate import several_guarantees
from understudy.display import cost_text, least_percent, percent
from understudy.ensemble import ensemble_of
from understudy.errors import listed
from understudy.operating_point import REFERENCE, OperatingPoint, reference_of
from understudy.outcome import points
from understudy.policy import Policy
from understudy.split import SPLITS

README = "README.md"
_LIMITS = """\
- The promise is about new samples like the certify samples. It ends when the data change: other
  cameras, classes, or shares of classes. Measure the policies on other data with `understudy
  apply`; `understudy serve` watches for it.
- It bounds what is lost against the reference, and says nothing of how often that is wrong.
- It holds for these weights and this preprocessing alone; a changed model is refused or has to be
  scored again.
- {unit} were counted or measured where the models were scored. What a cascade saves in time on your
  machine is told by `understudy bench`."""


@dataclass(frozen=True)
class ModelCard:
    """What a reader of a cascade's folder wants to know first.

    Attributes:
        policy: what it is set to.
        points: its operating points.
        models: exit -> its model, as `model_text` gives it.
        loading: Python code that loads it, and a command that runs it.
        classes: how many it tells apart; None where that is not known.
        table: of the result, as `Result.table`; empty where that is not known.

    >>> whole = OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")
    >>> small = OperatingPoint(Policy.pair("tiny", "big", 0.9), 0.5, 0.05, 2.0, "MACs")
    >>> card = ModelCard(small.policy, (small, whole), {"tiny": "timm:tiny"}, ("", ""))
    >>> print(card.markdown.splitlines()[5])
    # A cascade for big
    """

    policy: Policy
    points: Sequence[OperatingPoint]
    models: Mapping[str, str]
    loading: tuple[str, str]
    classes: int | None = None
    table: Mapping[str, Any] | None = None

    @property
    def markdown(self) -> str:
        """The card as Markdown, with the head that model hubs read."""
        head = "---\nlibrary_name: understudy\ntags: [cascade, early-exit]\n---\n"
        parts = [f"# {self._title}", self._lead, *self._points(), *self._proofs()]
        parts += ["## Models", self._models(), *self._data()]
        parts += ["## Limits", _LIMITS.format(unit=self._unit), "## Use", self._use()]
        return "\n".join([head, "\n\n".join(parts), ""])

    @property
    def _reference(self) -> str | None:
        return reference_of(self.points)

    @property
    def _unit(self) -> str:
        return self.points[0].unit if self.points else "Costs"

    @property
    def _title(self) -> str:
        return f"A cascade for {_text(self._reference or self.policy.exits[-1])}"

    @property
    def _lead(self) -> str:
        stages = [
            f"{_text(stage.exit)} answers where its {stage.confidence} is at least "
            f"{stage.threshold:.6g}"
            for stage in self.policy.stages[:-1]
        ]
        last = _text(self.policy.exits[-1])
        if not stages:
            return f"Written by understudy. {last} answers all samples."
        return f"Written by understudy. {', else '.join(stages)}; {last} answers the rest."

    def _points(self) -> Iterator[str]:
        """What its operating points cost and save."""
        if not self.points:
            return
        whole = next((one.cost for one in self.points if one.name == REFERENCE), None)
        rows = [
            "| operating point | exits | cost per sample | saved | saved at least | drop |",
            "|---|---|---|---|---|---|",
        ]
        for one in self.points:
            proof = one.certificate
            least = None if proof is None else proof.saving_bounds.get(one.unit)
            current = " (set)" if one.policy == self.policy else ""
            cells = (
                f"`{one.name}`{current}",
                " → ".join(map(_text, one.policy.exits)),
                f"{cost_text(one.cost, one.unit)} {one.unit}",
                "–" if not whole or one.name == REFERENCE else percent(1 - one.cost / whole),
                "–" if least is None else least_percent(least),
                "–" if one.name == REFERENCE else f"≤ {points(one.max_drop)}",
            )
            rows.append(f"| {' | '.join(cells)} |")
        yield "## What it saves"
        yield "\n".join(rows)

    def _proofs(self) -> Iterator[str]:
        """The certificates in words."""
        proofs = [(one.name, one.certificate) for one in self.points if one.certificate is not None]
        yield "## What is certified"
        if not proofs:
            yield "Nothing: no policy of this folder was proved on held-out samples."
        for name, proof in proofs:
            yield f"**`{name}`.** {_text(proof.words())}"
        if len(proofs) > 1:
            together = several_guarantees(len(proofs), max(proof.delta for _, proof in proofs))
            yield f"{together[0].upper()}{together[1:]}."

    def _models(self) -> str:
        rows = [f"| {_text(name)} | `{spec}` |" for name, spec in self.models.items()]
        return "\n".join(["| exit | model |", "|---|---|", *rows])

    def _data(self) -> Iterator[str]:
        table = self.table or {}
        counts, spec = table.get("samples", {}), table.get("provenance", {}).get("data")
        split = ", ".join(f"{counts[name]:,} {name}" for name in SPLITS if name in counts)
        words = [
            f"Scores on `{spec}`." if spec else "",
            f"Samples: {split}." if split else "",
            f"{self.classes:,} classes." if self.classes else "",
            f"Hash of the table: `{table['hash'][:16]}`." if table.get("hash") else "",
        ]
        if any(words):
            yield "## Data"
            yield " ".join(filter(None, words))

    def _use(self) -> str:
        code, command = self.loading
        return f"```python\n{code}\n```\n\n```\n{command}\n```"


def model_text(origin: Mapping[str, Any]) -> str:
    """Where the model of an exit is from, by its origin.

    >>> model_text({"spec": "timm:resnet18"})
    'timm:resnet18'
    """
    ensemble = ensemble_of(origin)
    if ensemble is not None:
        return f"the mean of {listed(ensemble.exits, 12)}"
    return str(origin.get("spec", "a module"))


def _text(text: str) -> str:
    """A text as it reads, whatever signs of Markdown or HTML it has."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in text)
