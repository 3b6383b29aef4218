"""A cascade and what was exported from it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from understudy.nn.cascade import Cascade
from understudy.onnx.cascade import OnnxCascade, load_onnx


class Exported(NamedTuple):
    """A cascade of PyTorch models, and the folder that it was exported to."""

    cascade: Cascade
    folder: Path

    def load(self) -> OnnxCascade:
        """The exported cascade, anew."""
        return load_onnx(self.folder, threads=1)
