"""Benchmarks of cascades on disk."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import torch

from understudy.app.running import load_runnable
from understudy.errors import DataError
from understudy.execution.bench import Bench, Progress, bench
from understudy.zoo import batches, open_data


def bench_cascade(
    cascade: Path,
    data: str,
    *,
    images: int,
    batch: int,
    rounds: int,
    clients: int,
    max_drop: float | None = None,
    on_progress: Progress | None = None,
) -> Bench:
    """Measure a cascade on the first images of a data set, which are decoded before.

    Raises:
        DataError: no image that can be decoded.
        ModelError: the folder is no cascade.
        PolicyError: no plan within `max_drop`.
    """
    loaded = load_runnable(cascade)
    if max_drop is not None:
        loaded.dial(max_drop=max_drop)
    return bench(
        loaded,
        _decoded(data, images),
        batch=batch,
        rounds=rounds,
        clients=clients,
        on_progress=on_progress,
    )


def _decoded(spec: str, count: int) -> Any:
    """So many images, or all there are: uint8 (N, C, H, W), or a list where sizes differ."""
    data = open_data(spec)
    found: list[torch.Tensor] = []
    for block in batches(data, size=256):
        found.extend(islice(block.images, count - len(found)))
        if len(found) == count:
            break
    if not found:
        raise DataError(f"no image of {spec!r} can be decoded: check the files")
    same = all(image.shape == found[0].shape for image in found)
    return torch.stack(found) if same else found
