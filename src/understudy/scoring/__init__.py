"""Scoring: models and images become a `ScoreTable`, in memory or on disk. Needs torch."""
