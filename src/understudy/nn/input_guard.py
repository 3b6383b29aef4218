"""Models that write into their input: the images of a batch stay as they are for all others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import ModelError


class InputGuard:
    """Runs one model on batches that others read too, and leaves those as they are.

    The first batch is run on a copy, which shows whether the model writes. If it does it gets a
    copy of every batch; if not, the batch itself, whose version counter is read before and after.

    >>> class Halving(nn.Module):
    ...     def forward(self, x):
    ...         return x.mul_(0.5)
    >>> guard, images = InputGuard(), torch.ones(1, 2)
    >>> guard.run(Halving(), images), images
    (tensor([[0.5000, 0.5000]]), tensor([[1., 1.]]))
    """

    def __init__(self) -> None:
        self._writes: bool | None = None

    def run(self, model: nn.Module, batch: Tensor) -> Any:
        """The output of the model; the batch stays as it is.

        Raises:
            ModelError: the model wrote into this batch, and into none before.
        """
        if self._writes is False:
            return self._run_watched(model, batch)
        copy = batch.clone()
        watched = _with_version(copy)
        before = watched._version
        output = model(watched)
        if self._writes is None:  # writes that the counter misses, such as NumPy's, change values
            self._writes = watched._version != before or not torch.equal(copy, batch)
        return output

    def _run_watched(self, model: nn.Module, batch: Tensor) -> Any:
        watched = _with_version(batch)
        before = watched._version
        output = model(watched)
        if watched._version != before:
            self._writes = True
            raise ModelError(
                f"a model writes into its input at every batch or at none, found "
                f"{type(model).__name__} writing into a later one alone: let it compute with a "
                "copy, or give its Stage a Preprocess"
            )
        return output


def _with_version(batch: Tensor) -> Tensor:
    """The batch with a version counter, which tensors made in inference mode lack."""
    if not batch.is_inference():
        return batch
    with torch.inference_mode(False):
        shared = torch.empty(0, dtype=batch.dtype, device=batch.device)
        storage = batch.untyped_storage()
        return shared.set_(storage, batch.storage_offset(), batch.size(), batch.stride())
