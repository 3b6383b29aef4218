"""The README's Python runs, and is as short as it claims."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

README = Path(__file__).parent.parent / "README.md"


def block(name: str) -> str:
    match = re.search(rf"<!-- test: {name} -->\n```python\n(.*?)```", README.read_text(), re.S)
    assert match, name
    return match[1]


class Net(nn.Module):
    """Knows the class from the brightest quarter of an image, more or less blurred by noise."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        signal = images.float().mean((1, 3)).view(len(images), 4, 2).mean(2) / 255
        hidden = torch.frac(images[:, 0, :4, 0].float() * 12.9898).view(-1, 4)
        return 20 * (signal + self.noise * (hidden - 0.5))


def make_images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (count,), generator=generator)
    images = torch.randint(0, 128, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    for row, label in enumerate(labels.tolist()):
        images[row, :, 2 * label : 2 * label + 2] += 100
    return images, labels


def test_the_ten_lines_run() -> None:
    code = block("api")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    images, labels = make_images(3000)
    loader = [(images[i : i + 500], labels[i : i + 500]) for i in range(0, 3000, 500)]
    names = {"tiny": Net(0.6), "big": nn.Sequential(Net(0.1), nn.Linear(4, 4, bias=False))}
    with torch.no_grad():
        names["big"][1].weight.copy_(torch.eye(4))  # type: ignore[index, union-attr]
    space = {**names, "loader": loader, "images": images[:7]}
    exec(compile(code, str(README), "exec"), space)
    assert space["logits"].shape == (7, 4)
    assert len(space["answers"]) == 7
