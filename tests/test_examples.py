"""The examples run unchanged, and write no files."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def own_chance() -> Iterator[None]:
    """One thread, and a generator of random numbers that other tests do not see."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("own_chance")
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("littlebig", "the little model answers"),
        ("dyce", "at most 4 points"),
        ("tinysaver", "answers"),
        ("estimators", "<Answers to 97 samples"),
        pytest.param("teach", "taught: The cascade taught", marks=pytest.mark.slow),
        pytest.param("cascade_classifier", "of the time is saved", marks=pytest.mark.slow),
    ],
)
def test_the_example_of_each_paper(
    script: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, which has imported PyTorch and scikit-learn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)  # as the folder of a script is
    runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
    assert expected in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
