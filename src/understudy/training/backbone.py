"""How the frozen backbone runs while features are made: precision, memory format, parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import ModelError
from understudy.graph.model_output import logits_in
from understudy.nn.execution_mode import DTYPES, ExecutionMode
from understudy.nn.stage import Images, Stage
from understudy.nn.training_modes import modes_kept

PART = {"cpu": 32}
"""Images that run together at first: on a CPU more are slower, and memory does not run out there
with an error. Elsewhere all that come, and halves of them where memory runs out."""

SAME = 0.03
"""Logits of two formats differ by so much of the largest at most: by rounding alone."""

TENSOR_CORES, TF32 = (7, 0), (8, 0)
"""Compute capabilities of CUDA devices from which on half precision and TF32 have units."""


class BackboneSettings:
    """The precision and the memory format in which a frozen backbone runs on a device.

    By default products are in the precision in which the exits see the features when they run: that
    of the network's execution mode, else float32. Exits that are trained on features of a lower
    precision than they get later would fit its rounding. On CUDA devices that have it, products of
    float32 are in TF32: it rounds to 10 bits, as the float16 does in which features are stored.

    Args:
        mode: of the network; a precision that it names holds.
        device: where the network is.
        precision: "bfloat16" or "float16" for autocast all the same, or None.

    >>> settings = BackboneSettings(ExecutionMode(), torch.device("cpu"))
    >>> settings.dtype is None, settings.part
    (True, 32)

    Raises:
        ModelError: no such precision, another than that of the mode, or one for which the device
            has no units.
    """

    def __init__(
        self, mode: ExecutionMode, device: torch.device, *, precision: str | None = None
    ) -> None:
        if precision is not None:
            _check_precision(precision, mode, device)
        self.dtype = mode.dtype if precision is None else DTYPES[precision]
        self.device = device
        self.part = PART.get(device.type, 2**31)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context in which the backbone runs: in inference mode, in this precision."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.dtype is not None:
                stack.enter_context(torch.autocast(self.device.type, self.dtype))
            if _capability(self.device) >= TF32:
                stack.enter_context(tf32())
            yield

    def channels_last_pays(self, model: nn.Module) -> bool:
        """Whether convolutions are faster on images whose channels lie together.

        They are by a fifth and more on CPUs with oneDNN (`benchmarks/variants.py`), networks with
        few convolutions lose nothing; the units of CUDA devices for TF32 and half precision take
        this format alone, and others are transposed for them.
        """
        if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
            return False
        if self.device.type == "cuda":
            return _capability(self.device) >= (TF32 if self.dtype is None else TENSOR_CORES)
        onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return self.device.type == "cpu" and onednn


class ModelInput:
    """The input of a stage's model, in the memory format that is faster.

    Its weights stay as they are: convolutions follow the format of the images. A model that cannot
    take channels last, or answers otherwise then, gets images as they are.

    Args:
        stage: the model with its preprocessing.
        settings: how it runs.
    """

    def __init__(self, stage: Stage, settings: BackboneSettings) -> None:
        self._stage = stage
        self._settings = settings
        self._channels_last: bool | None = None

    def prepare(self, images: Images) -> Tensor:
        """The model's input; the first time, the model is tried on two images in both formats, in
        eval mode."""
        ready = self._stage.prepare(images)
        if self._channels_last is None:
            pays = ready.ndim == 4 and self._settings.channels_last_pays(self._stage.model)
            self._channels_last = pays and self._takes_channels_last(ready[:2])
        return channels_last(ready) if self._channels_last else ready

    @torch.no_grad()
    def _takes_channels_last(self, ready: Tensor) -> bool:
        model = self._stage.model
        with modes_kept([model]):
            model.eval()
            plain = logits_in(model(ready.clone())).float()
            try:
                found = logits_in(model(channels_last(ready.clone()))).float()
            except RuntimeError:  # of a view that this format does not have
                return False
        near = (found - plain).abs().amax() <= SAME * plain.abs().amax()
        return bool(near)


class FrozenModel:
    """A stage's model in eval mode, on images in the memory format that is faster.

    Args:
        stage: the model with its preprocessing.
        settings: how it runs.
    """

    def __init__(self, stage: Stage, settings: BackboneSettings) -> None:
        self.stage = stage
        self._input = ModelInput(stage, settings)

    def prepare(self, images: Images) -> Tensor:
        """The model's input (`ModelInput`)."""
        self.stage.model.eval()
        return self._input.prepare(images)

    def logits(self, ready: Tensor, images: Images) -> Tensor:
        """The model's logits for what `prepare` made of the images, which stay as they are."""
        return self.stage.run_model(ready, images)


@contextmanager
def tf32() -> Iterator[None]:
    """A context in which CUDA's matrix products of float32 are in TF32."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    if before == "tf32":
        yield
        return
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def channels_last(ready: Tensor) -> Tensor:
    """A batch of images (N, C, H, W) with the channels of a place together; others as they are.

    >>> channels_last(torch.zeros(2, 3, 4, 4)).stride()
    (48, 1, 12, 3)
    """
    return ready.contiguous(memory_format=torch.channels_last) if ready.ndim == 4 else ready


def _capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of a CUDA device; (0, 0) for any other, AMD's among them."""
    if device.type != "cuda" or torch.version.hip is not None:
        return (0, 0)
    return torch.cuda.get_device_capability(device)


def _check_precision(precision: str, mode: ExecutionMode, device: torch.device) -> None:
    if precision not in DTYPES:
        raise ModelError(
            f"a precision of features is one of {', '.join(DTYPES)}, found {precision!r}: "
            "correct it, or leave it out"
        )
    if mode.dtype not in (None, DTYPES[precision]):
        raise ModelError(
            f"a network runs in the precision of its execution mode {mode.name!r}, found "
            f"{precision!r} for its features: leave one out"
        )
    if not _has_units(device, precision):
        raise ModelError(
            f"features are made in a precision for which the device {str(device)!r} has units, "
            f"found {precision!r}, for which it has none: leave it out"
        )


def _has_units(device: torch.device, precision: str) -> bool:
    """Whether a device computes products in a precision, and does not only emulate it."""
    if device.type == "cuda":
        least = TENSOR_CORES if precision == "float16" else TF32
        return torch.version.hip is not None or _capability(device) >= least
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return precision == "bfloat16" and native
    return torch.amp.is_autocast_available(device.type)
