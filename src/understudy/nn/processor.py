"""Preprocessing by an image processor of transformers, where `Preprocess` cannot express it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from understudy.errors import DataError, ModelError, brief
from understudy.extras import needing
from understudy.nn.preprocess import Images, Preprocess, pixels_of

PROCESSOR = "processor"
"""The key of a processor's settings in a stored preprocessing."""


@dataclass(frozen=True)
class ProcessorPreprocess(
    Preprocess, what="the preprocessing of a processor of transformers", error=ModelError
):
    """A processor of transformers as preprocessing; each image is prepared by itself.

    Attributes:
        size: (height, width) of what the processor makes.
        mean, std: the processor's own; their length is the number of channels of an image.
        processor: its settings as JSON, with its class and its backend (torchvision or pil).
    """

    processor: str = field(kw_only=True)

    def __call__(self, images: Images) -> Tensor:
        """Ready float32 input (N, C, H, W), on the device of the images.

        Args:
            images: uint8, (N, C, H, W), or a list of (C, H, W) that may differ in size.

        Raises:
            DataError: another dtype or number of channels, or images that the processor refuses.
            MissingExtra: transformers is not installed.
        """
        rows = [pixels_of(image) for image in images]
        for image in rows:
            self._check(image, dims=3)
        if not rows:
            raise DataError("a batch has at least one image, found none")
        return torch.cat([self._prepared(image) for image in rows])

    @property
    def resizing(self) -> None:
        """Images stay in their own sizes: the processor changes them."""
        return

    @property
    def name(self) -> str:
        """The class of the processor, and its backend."""
        settings = json.loads(self.processor)
        return f"{settings['image_processor_type']} ({settings['backend']})"

    def _prepared(self, image: Tensor) -> Tensor:
        try:
            ready = run_processor(processor_of(self.processor), image)
        except Exception as error:
            raise DataError(
                f"a processor prepares images of any size, {self.name} raised {brief(error)} for "
                f"{tuple(image.shape)}: give images that it takes"
            ) from error
        if tuple(ready.shape[-2:]) != self.size:
            raise DataError(
                f"a processor makes images of one size, {self.name} made {tuple(ready.shape[-2:])} "
                f"where it made {self.size} before: give it a size of height and width"
            )
        return ready.to(image.device)


def preprocess_from(data: Mapping[str, Any]) -> Preprocess:
    """The preprocessing that `to_dict` made plain, of either kind.

    >>> preprocess_from(Preprocess((8, 8), (0.5,), (0.5,)).to_dict()).size
    (8, 8)

    Raises:
        ModelError: a field is missing, unknown or of another type.
    """
    by_processor = isinstance(data, Mapping) and PROCESSOR in data
    return (ProcessorPreprocess if by_processor else Preprocess).from_dict(data)


def run_processor(processor: Any, image: Tensor) -> Tensor:
    """What a processor of transformers makes of an image (C, H, W) uint8: (1, C, height, width)."""
    pixels = image if processor.backend == "torchvision" else image.cpu().numpy()
    ready = processor(images=[pixels], return_tensors="pt", **_channels_first(processor))
    values: Tensor = ready["pixel_values"]
    return values.to(torch.float32)


def settings_of(processor: Any) -> str:
    """The settings of a processor as JSON, with its class and its backend."""
    known = {"image_processor_type": type(processor).__name__, "backend": processor.backend}
    return json.dumps({**processor.to_dict(), **known}, sort_keys=True)


@lru_cache(maxsize=16)
def processor_of(settings: str) -> Any:
    """The processor with some settings, from the classes of transformers alone.

    Raises:
        ModelError: transformers has no such processor, or it does not take these settings.
        MissingExtra: transformers is not installed.
    """
    with needing("a processor of transformers", extra="hf"):
        from transformers import AutoImageProcessor
    data = json.loads(settings)
    backend = data.pop("backend", None)
    with TemporaryDirectory() as folder:
        Path(folder, "preprocessor_config.json").write_text(json.dumps(data), encoding="utf-8")
        try:
            return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                folder, backend=backend, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:
            raise ModelError(
                "images are prepared by a processor of transformers, "
                f"{data.get('image_processor_type')!r} cannot be made ({brief(error)}): install "
                "the version of transformers that the model was scored with"
            ) from error


def _channels_first(processor: Any) -> dict[str, Any]:
    """The option that says where channels are, for processors that have one."""
    return (
        {}
        if type(processor).__name__.startswith("Timm")
        else {"input_data_format": "channels_first"}
    )
