"""Saved cascades, with their architectures made again by the zoo."""

from __future__ import annotations

from pathlib import Path

from understudy.nn import serialization
from understudy.nn.cascade import Cascade
from understudy.zoo.models import build_stage


def load_cascade(path: str | Path) -> Cascade:
    """Read a cascade that `save_cascade` or `understudy build` wrote, on the CPU.

    Architectures come from the specs in the folder, weights from its safetensors; nothing is
    downloaded.

    Raises:
        ModelError: the folder is no cascade, a newer understudy wrote it, or weights are missing,
            damaged, or do not fit the architecture that the spec makes.
        PolicyError: the policy is damaged.
    """
    return serialization.load_cascade(path, build_stage=build_stage)
