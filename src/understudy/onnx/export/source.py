"""A piece of work as a PyTorch module, before it becomes an ONNX model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from understudy.nn.stage import Stage
from understudy.onnx.bundle import IMAGES, logits_of
from understudy.onnx.export.preprocess import pixels_of


@dataclass(frozen=True, eq=False)
class PartSource:
    """A piece of work: `module` makes the values `gives`, as a tuple, of the values `takes`."""

    part: str
    module: nn.Module
    takes: tuple[str, ...]
    gives: tuple[str, ...]


class Whole(nn.Module):
    """A model with its preprocessing, from images to logits."""

    def __init__(self, pixels: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.pixels, self.model = pixels, model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model(self.pixels(images)).float(),)


def source_of_model(name: str, stage: Stage, image: Tensor) -> PartSource:
    """The one piece of a model without exits.

    Raises:
        ModelError: its preprocessing cannot be put into the graph.
    """
    module = Whole(pixels_of(stage, image, name), stage.model)
    return PartSource(name, module, (IMAGES,), (logits_of(name),))
