"""The verb `taps`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from command_line import Run, refused

NETS = """
import torch
from torch import nn
from understudy.nn.stage import Preprocess
from understudy.nn.stage import Stage

def net():
    print("printed by a factory")
    blocks = [nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()) for _ in range(4)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))

def sized():
    return Stage(net(), preprocess=Preprocess((4, 6), (0.5,) * 2, (0.5,) * 2))

def any_size():
    return Stage(net(), preprocess=Preprocess(None, (0.5,) * 2, (0.5,) * 2))

def bare():
    return Stage(net())
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tapped_nets", raising=False)
    (tmp_path / "tapped_nets.py").write_text(NETS)


def test_places_as_json(run: Run) -> None:
    command = run("taps", "py:tapped_nets:sized", "--count", 2, "--json")
    found = command.json
    assert found["image"] == [2, 4, 6]
    assert [tap["path"] for tap in found["taps"]] == ["0.1", "1.1", "2.1", "3.1"]
    assert [tap["even"] for tap in found["taps"]] == [True, False, True, False]
    assert found["taps"][0] == {
        "path": "0.1",
        "shape": [2, 4, 6],
        "layout": "NCHW",
        "macs": 96.0,
        "share": 96 / 390,
        "even": True,
    }
    assert "printed by a factory" in command.stderr


def test_places_for_people(run: Run) -> None:
    command = run("taps", "py:tapped_nets:any_size", "--size", "4x6", "--count", 2)
    assert command.exit_code == 0
    assert "images of 4x6: 4 places" in command.stdout
    assert [line.split()[1] for line in command.stdout.splitlines() if "●" in line] == [
        "0.1",
        "2.1",
    ]
    assert "--taps 0.1,2.1" in command.stdout
    assert "--taps" not in run("taps", "py:tapped_nets:sized").stdout


def test_what_is_refused(run: Run) -> None:
    refused(run("taps", "py:tapped_nets:any_size"), "found none: add the option")
    refused(run("taps", "py:tapped_nets:any_size", "--size", "4"), "reads HxW")
    refused(run("taps", "py:tapped_nets:any_size", "--size", "0x4"), "reads HxW")
    refused(run("taps", "py:tapped_nets:sized", "--size", "4x4"), "drop the option")
    refused(run("taps", "py:tapped_nets:bare"), "has no preprocessing")
    refused(run("taps", "py:tapped_nets:sized", "--count", 5), "the 3 places")
    refused(run("taps", "tapped_nets"), "SCHEME:NAME")
