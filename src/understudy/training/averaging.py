"""The moving average of weights, which is measured and kept in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_Tensors = tuple[Tensor, ...] | list[Tensor]


class AveragedWeights:
    """The exponential moving average of a module's weights and of its statistics.

    In step n the decay is at most (1 + n) / (10 + n): the average of a short training is one of its
    last tenth, not mostly of the first weights.

    Args:
        module: it is averaged as it is now.
        decay: per step.

    >>> module = nn.BatchNorm1d(1)
    >>> average = AveragedWeights(module, 0.9)
    >>> _ = nn.init.constant_(module.bias, 11.0)
    >>> average.update(module)
    >>> with average.applied(module):
    ...     print(module.bias.detach().numpy())
    [9.]
    >>> module.bias.detach().numpy()
    array([11.], dtype=float32)
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._most = decay
        self._average = AveragedModel(module, multi_avg_fn=self._step, use_buffers=True)
        self._average.update_parameters(module)  # the first update copies

    @property
    def decay(self) -> float:
        """That of the next step."""
        steps = int(self._average.n_averaged)
        return min(self._most, (steps + 1) / (steps + 10))

    def update(self, module: nn.Module) -> None:
        """Take the weights after a step."""
        self._average.update_parameters(module)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with the averaged weights."""
        own = deepcopy(module.state_dict())
        module.load_state_dict(self._average.module.state_dict())
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """The average and its steps, for `load_state_dict`."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from an earlier average."""
        self._average.load_state_dict(state)

    def _step(self, averaged: _Tensors, own: _Tensors, steps: Tensor | int) -> None:
        average: Callable[..., None] = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
        average(averaged, own, steps)
