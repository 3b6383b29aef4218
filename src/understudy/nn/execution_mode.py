"""Ways to run a model: the same weights with another memory layout, precision or program.

A variant is a stage of its own: it rounds otherwise, its weights have another hash, and so it is
scored by itself. ``?run=folded+channels_last`` behind a model spec asks for one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch as dispatch

from understudy.errors import ModelError, unknown
from understudy.graph.folding import fold
from understudy.graph.partition import partition
from understudy.nn.stage import Stage

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
WAYS = ("folded", "channels_last", *DTYPES, "compiled")


@dataclass(frozen=True)
class ExecutionMode:
    """What is done otherwise.

    Attributes:
        folded: batch norms become part of convolutions, activations are computed in place.
        channels_last: images and features lie in memory with the channels together.
        dtype: the precision of matrix products and convolutions (autocast), or None.
        compiled: `torch.compile`, on batches filled up to a power of two.
    """

    folded: bool = False
    channels_last: bool = False
    dtype: torch.dtype | None = None
    compiled: bool = False

    @staticmethod
    def parse(text: str) -> ExecutionMode:
        """From its name.

        >>> ExecutionMode.parse("folded+bfloat16").name
        'folded+bfloat16'

        Raises:
            ModelError: something that is no way to run a model, or twice the same kind.
        """
        ways = text.split("+")
        for way in ways:
            if way not in WAYS:
                raise ModelError(unknown("way to run a model", way, WAYS, where=repr(text)))
        precisions = [way for way in ways if way in DTYPES]
        if len(set(ways)) < len(ways) or len(precisions) > 1:
            raise ModelError(
                f"each way to run a model is named once, with one precision, found {text!r}: drop "
                "one"
            )
        return ExecutionMode(
            folded="folded" in ways,
            channels_last="channels_last" in ways,
            dtype=DTYPES[precisions[0]] if precisions else None,
            compiled="compiled" in ways,
        )

    @property
    def name(self) -> str:
        """The ways, joined by `+`; empty where there is none."""
        asked = {
            "folded": self.folded,
            "channels_last": self.channels_last,
            **{name: self.dtype is dtype for name, dtype in DTYPES.items()},
            "compiled": self.compiled,
        }
        return "+".join(way for way, wanted in asked.items() if wanted)

    def laid_out(self, ready: Tensor) -> Tensor:
        """A model's input in the layout of the variant; what is no batch of maps stays as it is."""
        if self.channels_last and ready.ndim == 4:
            return ready.contiguous(memory_format=torch.channels_last)
        return ready

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Where products are computed in the variant's dtype."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)


PLAIN = ExecutionMode()
"""The model as PyTorch runs it by itself."""


def varied(stage: Stage, variant: ExecutionMode) -> Stage:
    """The stage with its model run another way; logits are float32 whatever the precision.

    >>> stage = Stage(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()))
    >>> x = torch.rand(2, 3, 4, 4)
    >>> fast = varied(stage, ExecutionMode.parse("folded+channels_last"))
    >>> torch.allclose(fast(x), stage(x), atol=1e-5), fast.weights_hash == stage.weights_hash
    (True, False)
    """
    if variant == PLAIN:
        return stage
    model = Varied(stage.model, variant)
    return Stage(model, preprocess=stage.preprocess, origin=stage.origin)


class Varied(nn.Module):
    """A model that is run another way. What is made of its weights is made again when they change
    by `load_state_dict` or a move.

    Raises:
        ModelError: on the first batch, a network whose operations cannot be written down, where
            they are folded.
    """

    def __init__(self, model: nn.Module, variant: ExecutionMode) -> None:
        super().__init__()
        self.variant = variant
        if variant.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.add_module(self._held, model)  # its weights have names, and so a hash, of their own
        self._made: list[Callable[[Tensor], Tensor]] = []  # no module of this one
        self.register_load_state_dict_post_hook(lambda module, _: module.forget())  # type: ignore[no-untyped-call]

    @property
    def model(self) -> nn.Module:
        """The model as it came."""
        return self.get_submodule(self._held)

    @property
    def _held(self) -> str:
        return f"run {self.variant.name}"

    def forget(self) -> None:
        """Drop what was made of the weights."""
        self._made.clear()

    def forward(self, ready: Tensor) -> Tensor:
        """Logits (N, C), float32."""
        ready = self.variant.laid_out(ready)
        with self.variant.precision(ready.device):
            logits: Tensor = self._way(ready)(ready)
        return logits.float()

    def _way(self, ready: Tensor) -> Callable[[Tensor], Tensor]:
        if self.variant.compiled and dispatch._len_torch_dispatch_stack():  # type: ignore[attr-defined]
            return self.model  # a compiled program hides from whoever counts what runs
        if not self._made:
            with dispatch._disable_current_modes():
                self._made.append(self._make(ready))
        return self._made[0]

    def _make(self, ready: Tensor) -> Callable[[Tensor], Tensor]:
        run: Callable[[Tensor], Tensor] = self.model
        if self.variant.folded:
            segment = fold(partition(self.model, ready[:1], []).segments[0])
            run = lambda ready: cast("Tensor", segment(ready)[0])  # noqa: E731
        if not self.variant.compiled:
            return run
        mode = "reduce-overhead" if ready.is_cuda else None
        return _Bucketed(cast("Callable[[Tensor], Tensor]", torch.compile(run, mode=mode)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.forget()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class _Bucketed:
    """A compiled program on batches filled up to a power of two, so that it sees few sizes."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        self._run = run

    def __call__(self, ready: Tensor) -> Tensor:
        count = len(ready)
        missing = (1 << (count - 1).bit_length()) - count
        filled = (
            torch.cat([ready, ready[:1].expand(missing, *ready.shape[1:])]) if missing else ready
        )
        return self._run(filled)[:count].clone()
