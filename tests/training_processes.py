"""Processes that train, and are killed at any moment."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Training = subprocess.Popen[str]

KILLS = 20


def started(code: str) -> Training:
    """A process that runs Python code, which imports modules of the tests and prints its steps."""
    here = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", here + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed(process: Training, steps: int, seconds: float) -> bool:
    """Kill a training so long after a step; False where it ended before."""
    assert process.stdout is not None
    for _ in range(steps):
        if not process.stdout.readline():
            break
    time.sleep(seconds)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode in (0, -9), errors
    return process.returncode == -9


def finished(process: Training) -> None:
    """Wait for a training to end well."""
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def check_killed_at_random(
    start: Callable[[Path], Training],
    outcome: Callable[[Path], object],
    folder: Path,
    *,
    most_steps: int,
) -> None:
    """Runs that are killed `KILLS` times end as an undisturbed one, and leave nothing else.

    Those that come to their end before enough kills are compared, and followed by others.
    """
    finished(start(folder / "whole"))
    expected = outcome(folder / "whole")
    draw, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        runs += 1
        into = folder / f"cut{runs}"
        while not into.exists():
            process = start(into)
            if kills < KILLS:
                kills += killed(process, draw.randrange(1, most_steps), draw.uniform(0, 0.3))
            else:
                finished(process)
        assert outcome(into) == expected
        assert [path.name for path in folder.glob(f"cut{runs}*")] == [into.name]


def check_second_is_refused(start: Callable[[Path], Training], into: Path) -> None:
    """A second process is refused while the first trains, which ends well."""
    first = start(into)
    assert first.stdout is not None
    first.stdout.readline()
    first.send_signal(signal.SIGSTOP)  # it holds the folder meanwhile
    second = start(into)
    _, errors = second.communicate()
    first.send_signal(signal.SIGCONT)
    finished(first)
    assert second.returncode == 1
    assert "InUse" in errors.splitlines()[-1]
