"""The three papers as runs: their rows as data, what a run takes, and what it finds beside them."""
