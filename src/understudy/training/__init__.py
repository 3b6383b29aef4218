"""Training the exits of a network: its backbone stays frozen, only heads learn."""

from understudy.training.fit import Score
from understudy.training.recipe import Recipe
from understudy.training.run import train_exits
from understudy.training.session import Training, fit_exits

__all__ = ["Recipe", "Score", "Training", "fit_exits", "train_exits"]
