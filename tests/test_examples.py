"""The examples run as they stand, in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("littlebig", "the little model answers"),
        ("dyce", "at most 4 points"),
        ("tinysaver", "answers"),
    ],
)
def test_an_example_of_each_paper(script: str, said: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", EXAMPLES / f"{script}.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert said in ran.stdout
    assert list(tmp_path.iterdir()) == []
