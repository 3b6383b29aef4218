"""Who scores whom: models and images become a `ScoreTable`, in memory or on disk. Needs torch."""
