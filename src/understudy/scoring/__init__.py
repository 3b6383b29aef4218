"""Who scores whom: models and images become a `ScoreTable`, in memory or on disk. Needs torch."""

from understudy.scoring.memory import score
from understudy.scoring.runner import score_into

__all__ = ["score", "score_into"]
