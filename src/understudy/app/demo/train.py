"""Training the demo's zoo: seconds per network, the same weights for the same seed and machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from understudy.app.demo.networks import ZOO, Digits
from understudy.files import replacing
from understudy.zoo.data import DataSet

EPOCHS = 30
BATCH = 64


def train_zoo(
    data: DataSet, folder: Path, *, on_progress: Callable[[str, int, int], None]
) -> dict[str, Path]:
    """Train every network of the zoo on labelled digits; weights go to `folder`, by name."""
    assert data.labels is not None
    images = torch.stack([data.image(i) for i in range(len(data))])
    labels = torch.from_numpy(np.asarray(data.labels, np.int64))
    files = {}
    with _one_thread():
        for name, factory in ZOO.items():
            torch.manual_seed(0)
            net = factory()
            train(net, images, labels, on_epoch=partial(_epoch, on_progress, name))
            files[name] = folder / f"{name}.safetensors"
            with replacing(files[name]) as temporary:
                save_file(net.state_dict(), temporary)
    return files


def train(net: Digits, images: Tensor, labels: Tensor, *, on_epoch: Callable[[int], None]) -> None:
    """AdamW under a one-cycle schedule; leaves the net in eval mode."""
    inputs = (images.float() / net.scale - net.mean[0]) / net.std[0]
    steps = EPOCHS * -(-len(inputs) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.01, total_steps=steps)
    net.train()
    for epoch in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(inputs)), BATCH):
            loss = F.cross_entropy(net(inputs[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        on_epoch(epoch + 1)
    net.eval()


def _epoch(on_progress: Callable[[str, int, int], None], name: str, epoch: int) -> None:
    on_progress(f"train {name}", epoch, EPOCHS)


@contextmanager
def _one_thread() -> Iterator[None]:
    """On networks this small, threads spend more time waiting for one another than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
