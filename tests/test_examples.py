"""The examples run unchanged, and write no files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("littlebig", "the little model answers"),
        ("dyce", "at most 4 points"),
        ("tinysaver", "answers"),
        ("estimators", "<Answers to 97 samples"),
    ],
)
def test_the_example_of_each_paper(script: str, expected: str, tmp_path: Path) -> None:
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
    assert expected in ran.stdout
    assert list(tmp_path.iterdir()) == []
