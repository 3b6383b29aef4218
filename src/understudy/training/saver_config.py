"""How a little model is taught to be the saver of a large one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from understudy.errors import ModelError, unknown
from understudy.json_codec import Stored, decode
from understudy.training.config import TrainingConfig
from understudy.training.named_config import read_toml

LABELS, DISTILLATION, GATEKEEPER = "labels", "distillation", "gatekeeper"
OBJECTIVES = (LABELS, DISTILLATION, GATEKEEPER)
TEACHING = TrainingConfig(
    epochs=30, batch=256, lr=1e-3, views=1000, targets="both", share=0.9, temperature=2.0,
    held_out=0.1, patience=10,
)  # fmt: skip


@dataclass(frozen=True)
class SaverConfig(Stored, what="a saver's configuration", error=ModelError, remedy="correct it"):
    """How a little model is taught.

    Attributes:
        objective: what it learns. labels: the labels alone. distillation: the large model's
            answers, and the labels as `teaching.share` says. gatekeeper: distillation, then
            Gatekeeper's loss (arXiv 2502.19335).
        teaching: how it is trained.
        tuning_epochs: the most epochs with Gatekeeper's loss, from the best weights of before.
        tuning_lr: the highest learning rate of these.
        alpha: the weight of right answers in Gatekeeper's loss, wrong ones have the rest.
        max_drop: the budget in points at which the certified saving chooses the best epoch.

    >>> config = SaverConfig(max_drop=1.0)
    >>> config.objective, config.teaching.epochs, config.tuning.lr
    ('gatekeeper', 30, 0.0001)

    Raises:
        ModelError: a setting out of its range, or targets that are not those of the objective.
    """

    objective: str = GATEKEEPER
    teaching: TrainingConfig = TEACHING
    tuning_epochs: int = 6
    tuning_lr: float = 1e-4
    alpha: float = 0.5
    max_drop: float = 0.5

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ModelError(unknown("objective", self.objective, OBJECTIVES))
        if not 0 < self.alpha < 1:
            raise ModelError(f"alpha lies between 0 and 1, found {self.alpha!r}: correct it")
        if not 0 <= self.max_drop <= 100:
            raise ModelError(
                f"max_drop lies between 0 and 100 points, found {self.max_drop!r}: correct it"
            )
        _check_no_exits(self.teaching)
        if self.objective != LABELS and self.teaching.targets == "labels":
            raise ModelError(
                f"the objective {self.objective!r} learns the large model's answers, found the "
                "targets 'labels': choose the objective 'labels', or the targets 'both' or "
                "'backbone'"
            )
        _ = self.tuning

    @property
    def tuning(self) -> TrainingConfig:
        """How it is trained with Gatekeeper's loss."""
        return replace(self.teaching, epochs=self.tuning_epochs, lr=self.tuning_lr)

    def for_data(self, *, labelled: bool) -> SaverConfig:
        """The same with the targets that the objective has on such data: without labels the large
        model's answers alone.

        >>> SaverConfig().for_data(labelled=False).teaching.targets
        'backbone'
        """
        if self.objective == LABELS:
            targets = "labels"
        else:
            targets = self.teaching.targets if labelled else "backbone"
        return replace(self, teaching=replace(self.teaching, targets=targets))


def _check_no_exits(teaching: TrainingConfig) -> None:
    """Refuse settings that only the training of exits has."""
    of_exits = {
        "weights": teaching.weights != "even",
        "targets": teaching.targets == "exits",
        "backbone_lr": teaching.backbone_lr != 0,
    }
    for name, found in of_exits.items():
        if found:
            raise ModelError(
                f"a little model has no exits, found {name} = {getattr(teaching, name)!r}, which "
                "is for them: leave it out"
            )


def read_saver_config(file: str | Path) -> SaverConfig:
    """The configuration in a TOML file: fields of `SaverConfig`, the table `teaching` with those of
    `TrainingConfig`; what is left out has its default.

    Raises:
        ModelError: a file that cannot be read, an unknown setting, or one out of its range.
    """
    default, read = SaverConfig().to_dict(), read_toml(Path(file))
    teaching = read.get("teaching", {})
    if isinstance(teaching, Mapping):
        read["teaching"] = default["teaching"] | teaching
    what = f"the configuration in {str(file)!r}"
    return decode(
        default | read, SaverConfig, what=what, error=ModelError, remedy="correct the file"
    )
