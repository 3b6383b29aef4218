"""The verb `export`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from command_line import Run, refused
from understudy.app.cli.export import parity_text
from understudy.nn.cascade import Cascade
from understudy.nn.stage import Preprocess, Stage
from understudy.onnx import agreement, export_onnx
from understudy.onnx.bundle import is_onnx_bundle
from understudy.onnx.cascade import load_onnx
from understudy.onnx.parity import Agreement
from understudy.policy import Policy
from understudy.zoo.models import load_stage
from understudy.zoo.saved_cascades import save_cascade

NETS = """
from torch import nn

class Net(nn.Module):
    input_size, scale = (8, 8), 16.0

    def __init__(self, width, channels=1):
        super().__init__()
        self.mean, self.std = (0.5,) * channels, (0.25,) * channels
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, width), nn.ReLU(),
                                    nn.Linear(width, 10))

    def forward(self, x):
        return self.layers(x)

def tiny():
    return Net(4)

def big():
    return Net(32)

def rgb():
    return Net(4, channels=3)

def wide():
    return Net(32, channels=3)
"""

EXPORT = ("export", "cascade", "--onnx", "out", "--allow-code", "onnx_digit_nets")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a cascade of two networks with random weights, for digits."""
    monkeypatch.chdir(tmp_path)
    Path("onnx_digit_nets.py").write_text(NETS)
    stages: dict[str, Stage] = {
        name: load_stage(f"py:onnx_digit_nets:{name}?weights=random") for name in ("tiny", "big")
    }
    save_cascade(Cascade(stages, Policy.pair("tiny", "big", 0.16)), "cascade")
    return tmp_path


def test_export_and_check(here: Path, run: Run) -> None:
    data = run(*EXPORT, "--check", "digits:heldout", "--json").json
    assert data["images"] == {"name": "images", "dtype": "uint8", "shape": [1, 8, 8]}
    assert data["exits"] == ["tiny", "big"]
    assert data["check"]["samples"] > 300
    assert data["check"]["unexplained"] == 0
    assert is_onnx_bundle("out")
    answers = load_onnx("out", threads=1).answer(np.zeros((3, 1, 8, 8), np.uint8))
    assert len(answers) == 3


def test_check_on_images_of_several_sizes(here: Path, run: Run) -> None:
    """They are resized to the size of the export as its largest stage does."""
    stages: dict[str, Stage] = {
        name: load_stage(f"py:onnx_digit_nets:{name}?weights=random") for name in ("rgb", "wide")
    }
    save_cascade(Cascade(stages, Policy.pair("rgb", "wide", 0.16)), "cascade")
    check = f"folder:{photographs(here)}"
    found = run(*EXPORT, "--check", check, "--batch", "7", "--json").json["check"]
    assert (found["samples"], found["differing"]) == (20, 0)


def photographs(folder: Path) -> Path:
    """Images of several sizes."""
    generator, place = np.random.default_rng(0), folder / "photographs"
    place.mkdir()
    for number, size in enumerate([(8, 8), (8, 11), (17, 9), (30, 40), (5, 6)] * 4):
        Image.fromarray(generator.integers(0, 256, size, np.uint8)).save(place / f"{number}.png")
    return place


def test_smaller_stages_that_see_other_pixels_are_counted(tmp_path: Path) -> None:
    """The exported tiny stage resizes from the size of the big one, PyTorch's from the image."""
    torch.manual_seed(0)
    sizes = {"tiny": (4, 4), "big": (12, 12)}
    stages = {
        name: Stage(
            nn.Sequential(nn.Flatten(), nn.Linear(size[0] * size[1], 10)),
            preprocess=Preprocess(size, (0.5,), (0.02,), crop=0.75, interpolation="bicubic"),
        )
        for name, size in sizes.items()
    }
    cascade = Cascade(stages, Policy.pair("tiny", "big", 0.5))
    export_onnx(cascade, tmp_path / "onnx")
    exported = load_onnx(tmp_path / "onnx")
    images = torch.randint(256, (200, 1, 40, 50), dtype=torch.uint8)
    found = agreement(cascade, exported, [images, list(images[:9])])
    assert found.samples == 209
    assert 0 < found.unexplained <= found.differing < 209
    cascade.policy = exported.policy = Policy.single("big")
    assert agreement(cascade, exported, [images]).unexplained == 0


def test_export_for_people(here: Path, run: Run) -> None:
    save_cascade(
        Cascade({"tiny": load_stage("py:onnx_digit_nets:tiny")}, Policy.single("tiny")), "cascade"
    )
    other_size = run(*EXPORT, "--size", "10x9", "--check", "digits:heldout")
    assert "from any threshold or tie" in " ".join(other_size.stdout.split()), other_size.stderr
    wrong_channels = run(*EXPORT, "--check", f"folder:{photographs(here)}")
    refused(wrong_channels, "found uint8 (3, 8, 8): resize or convert them")
    command = run(*EXPORT)
    assert command.exit_code == 0, command.stderr
    assert "1 ONNX model for images uint8 1x8x8" in command.stdout


@pytest.mark.parametrize(
    ("differing", "unexplained", "words"),
    [
        (0, 0, "1,000 of 1,000 images are answered alike"),
        (3, 0, "997 of 1,000 images are answered alike; 3 differ, all near a threshold or a tie"),
        (3, 2, "alike; 3 differ, 2 of them away from any threshold or tie"),
    ],
)
def test_the_text_of_a_comparison(differing: int, unexplained: int, words: str) -> None:
    assert words in parity_text(Agreement(1000, differing, unexplained, 1e-6, 1e-3))


def test_a_size_that_cannot_be_read(here: Path, run: Run) -> None:
    command = run("export", "cascade", "--onnx", "out", "--size", "big")
    refused(command, "--size reads HxW in pixels, found 'big'")
