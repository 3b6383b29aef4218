"""What a network returns: logits alone, or logits among other things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from understudy.errors import ModelError, listed


def logits_in(output: Any) -> Tensor:
    """The logits in the output of a network.

    They are the output itself; its attribute or entry `logits`, as in the outputs of Hugging Face's
    classifiers; or the one floating (N, C) tensor of a tuple.

    >>> import torch
    >>> logits_in({"logits": torch.ones(1, 2), "features": torch.zeros(1, 9)})
    tensor([[1., 1.]])

    Raises:
        ModelError: there are none, or a tuple has several tensors that could be logits.
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else None
    found = getattr(output, "logits", named)
    if isinstance(found, Tensor):
        return found
    if isinstance(output, tuple | list):
        possible: list[Tensor] = [one for one in output if _is_like_logits(one)]
        if len(possible) == 1:
            return possible[0]
    raise ModelError(
        "a model returns logits (N, C), or an object, dictionary or tuple with its `logits`, found "
        f"{_kind_of(output)}: wrap it in a module that returns the logits alone"
    )


def _is_like_logits(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point()


def _kind_of(output: Any) -> str:
    if isinstance(output, tuple | list):
        shapes = (tuple(one.shape) if isinstance(one, Tensor) else type(one) for one in output)
        return f"{type(output).__name__} of {listed(shapes) or 'nothing'}"
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with {listed(map(repr, output)) or 'nothing'}"
    return type(output).__name__
