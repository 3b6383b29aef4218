"""Training and eval modes of the user's modules: scoring and building leave them as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def modes_kept(models: Iterable[Any]) -> Iterator[None]:
    """Training and eval modes of all modules inside some models, as they were before.

    >>> net = nn.Linear(4, 3).train()
    >>> with modes_kept([net]):
    ...     net.eval().training
    False
    >>> net.training
    True
    """
    modules = (model for model in models if isinstance(model, nn.Module))
    before = [(module, module.training) for model in modules for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
