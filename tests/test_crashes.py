"""A writer that is killed, or whose computer loses power, leaves the older or the newer state."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crash_points import content, copied, moments_of
from tables import synthetic
from understudy.files import write_json
from understudy.store import save_labels, save_table

ROOT = Path(__file__).parent.parent
NEWER = synthetic(60)
OLDER = replace(synthetic(40), label=np.array([-1, *[0] * 39], np.int32))
LABELLED = OLDER.with_labels({OLDER.ids[0]: 0})


def write_table(folder: Path) -> None:
    save_table(NEWER, folder / "table")


def write_labels(folder: Path) -> None:
    save_labels(folder / "table", LABELLED)


def write_result(folder: Path) -> None:
    write_json(folder / "result.json", {"newer": 1})


@pytest.mark.parametrize("write", [write_table, write_labels, write_result])
def test_a_power_cut_leaves_the_older_or_the_newer_state(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    save_table(OLDER, start / "table")
    write_json(start / "result.json", {"older": 1})
    disk = copied(start, tmp_path / "disk")
    moments = moments_of(lambda: write(disk), disk)
    older, newer = content(start), content(disk)
    assert older != newer
    assert len(moments) > 5
    for number, moment in enumerate(moments):
        for seed in range(2):
            cut = tmp_path / f"cut{number}.{seed}"
            moment.after_a_cut(cut, seed)
            found = {key: data for key, data in content(cut).items() if "/." not in f"/{key}"}
            assert found in ([newer] if moment is moments[-1] else [older, newer])
            write(cut)
            assert content(cut) == newer, "nothing is blocked, and no litter is left"


def test_a_writer_that_is_killed_before_any_call_leaves_the_older_or_the_newer_state() -> None:
    script = ROOT / "benchmarks" / "crashes.py"
    ran = subprocess.run(
        [sys.executable, script, "--quick", "--every", "5", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    kills = json.loads(ran.stdout)["kills before calls"]
    assert all(counts["points"] > 2 for counts in kills.values())
