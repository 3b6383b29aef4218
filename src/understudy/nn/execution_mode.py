"""Execution modes: the same weights with another memory layout, precision or graph.

A model in another mode rounds differently, so it is another stage with another hash of its weights,
and scored separately. ``?run=folded+channels_last`` at the end of a model spec selects a mode.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch as dispatch

from understudy.graph.batch_norm_folding import fold
from understudy.graph.model_output import logits_in
from understudy.graph.partition import partition
from understudy.nn.mode_options import PRECISIONS, parse_options
from understudy.nn.stage import Stage

DTYPES = {name: getattr(torch, name) for name in PRECISIONS}


@dataclass(frozen=True)
class ExecutionMode:
    """How a model is executed.

    Attributes:
        folded: batch norms are folded into convolutions, activations are computed in place.
        channels_last: the memory format of images and features.
        dtype: the precision of matrix products and convolutions (autocast), or None.
        compiled: `torch.compile`, on batches padded to a power of two.
    """

    folded: bool = False
    channels_last: bool = False
    dtype: torch.dtype | None = None
    compiled: bool = False

    @staticmethod
    def parse(text: str) -> ExecutionMode:
        """The mode of that name.

        >>> ExecutionMode.parse("folded+bfloat16").name
        'folded+bfloat16'

        Raises:
            ModelError: an unknown option, an option twice, or two precisions.
        """
        options = parse_options(text)
        precisions = [option for option in options if option in PRECISIONS]
        return ExecutionMode(
            folded="folded" in options,
            channels_last="channels_last" in options,
            dtype=DTYPES[precisions[0]] if precisions else None,
            compiled="compiled" in options,
        )

    @property
    def name(self) -> str:
        """The options joined by `+`; empty for the default mode."""
        options = {
            "folded": self.folded,
            "channels_last": self.channels_last,
            **{name: self.dtype is dtype for name, dtype in DTYPES.items()},
            "compiled": self.compiled,
        }
        return "+".join(option for option, on in options.items() if on)

    def to_memory_format(self, ready: Tensor) -> Tensor:
        """A model's input in the memory format of the mode, if it has four dimensions."""
        if self.channels_last and ready.ndim == 4:
            return ready.contiguous(memory_format=torch.channels_last)
        return ready

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """A context in which products are computed in the mode's dtype."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)


PLAIN = ExecutionMode()
"""The default mode: the model as it is."""


def with_mode(stage: Stage, mode: ExecutionMode) -> Stage:
    """The stage with its model in another execution mode; logits are float32 in any precision.

    >>> stage = Stage(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()))
    >>> x = torch.rand(2, 3, 4, 4)
    >>> fast = with_mode(stage, ExecutionMode.parse("folded+channels_last"))
    >>> torch.allclose(fast(x), stage(x), atol=1e-5), fast.weights_hash == stage.weights_hash
    (True, False)
    """
    if mode == PLAIN:
        return stage
    model = ModelInMode(stage.model, mode)
    origin = {**stage.origin, "run": mode.name}
    return Stage(model, preprocess=stage.preprocess, origin=origin)


class ModelInMode(nn.Module):
    """A model in an execution mode. Folded weights and compiled graphs are made on the first batch,
    and again after `load_state_dict` or a move.

    Raises:
        ModelError: on the first batch, a network that cannot be captured for folding.
    """

    def __init__(self, model: nn.Module, mode: ExecutionMode) -> None:
        super().__init__()
        self.mode = mode
        if mode.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.add_module(self._key, model)  # its weights have names, and so a hash, of their own
        self._prepared: list[Callable[[Tensor], Any]] = []  # a list, to be no submodule
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]

    @property
    def model(self) -> nn.Module:
        """The model as it was given."""
        return self.get_submodule(self._key)

    @property
    def _key(self) -> str:
        return f"run {self.mode.name}"

    def reset(self) -> None:
        """Drop folded weights and compiled graphs."""
        self._prepared.clear()

    def forward(self, ready: Tensor) -> Tensor:
        """Logits (N, C), float32."""
        ready = self.mode.to_memory_format(ready)
        with self.mode.autocast(ready.device):
            return logits_in(self._function(ready)(ready)).float()

    def _function(self, ready: Tensor) -> Callable[[Tensor], Any]:
        if self.mode.compiled and dispatch._len_torch_dispatch_stack():  # type: ignore[attr-defined]
            return self.model  # operators inside a compiled graph could not be counted
        if not self._prepared:
            with dispatch._disable_current_modes():
                self._prepared.append(self._prepare(ready))
        return self._prepared[0]

    def _prepare(self, ready: Tensor) -> Callable[[Tensor], Any]:
        run: Callable[[Tensor], Any] = self.model
        if self.mode.folded:
            segment = fold(partition(self.model, ready[:1], []).segments[0])
            run = lambda ready: cast("Tensor", segment(ready)[0])  # noqa: E731
        if not self.mode.compiled:
            return run
        kind = "reduce-overhead" if ready.is_cuda else None
        return _Bucketed(torch.compile(run, mode=kind))

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made again on the first batch: a copy has weights of its own."""
        return {**super().__getstate__(), "_prepared": []}  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.reset()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _after_loading(module: ModelInMode, _keys: Any) -> None:
    module.reset()


class _Bucketed:
    """A compiled function on batches padded to powers of two, so that few sizes are compiled."""

    def __init__(self, run: Callable[[Tensor], Any]) -> None:
        self._run = run

    def __call__(self, ready: Tensor) -> Tensor:
        count = len(ready)
        missing = (1 << (count - 1).bit_length()) - count
        filled = (
            torch.cat([ready, ready[:1].expand(missing, *ready.shape[1:])]) if missing else ready
        )
        return logits_in(self._run(filled))[:count].clone()
