"""Scoring: models and images become a `ScoreTable`, in memory or on disk."""

from understudy.extras import require

require("torch", "polars", purpose=__name__)
