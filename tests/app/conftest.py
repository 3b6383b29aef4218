"""A saved table for the verbs that read one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tables import synthetic
from understudy.store import save_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of 4,000 samples and the exits net0, net1 and net2, the reference."""
    save_table(synthetic(4000), tmp_path / "table")
    return tmp_path / "table"
