"""The half that runs: stages, cascades, what they cost, and cascades on disk (`torch` extra)."""
