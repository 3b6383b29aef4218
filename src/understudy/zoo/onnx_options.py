"""The options of ``onnx:FILE``: what an ONNX model does not say of its input and output."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from understudy.errors import ModelError, unknown

KEYS = (
    *("mean", "std", "scale", "size", "crop", "interpolation", "squash", "layout", "output"),
    "outputs",
)
LAYOUTS, KINDS = ("nchw", "nhwc"), ("logits", "probabilities")
_CHOICES = {
    "layout": LAYOUTS,
    "outputs": KINDS,
    "interpolation": ("bilinear", "bicubic", "nearest"),
    "squash": ("yes", "no"),
}


@dataclass(frozen=True)
class OnnxOptions:
    """How images are prepared for an ONNX model, and which of its outputs is meant.

    Attributes:
        mean, std: per channel, or one number for all; None where the spec leaves them out.
        scale: pixels are divided by it first.
        size: (height, width); None where the model's own is taken.
        crop, interpolation, squash: as for `Preprocess`.
        layout: nchw or nhwc; None where the model tells.
        output: the name of the output; None where there is one alone.
        outputs: logits or probabilities; None where the model's last operator tells.

    >>> OnnxOptions.parse({"mean": "0.5", "std": "0.5,0.4,0.3", "size": "224"}, text="onnx:a.onnx")
    OnnxOptions(mean=(0.5,), std=(0.5, 0.4, 0.3), scale=255.0, size=(224, 224), crop=1.0, ...)
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float = 255.0
    size: tuple[int, int] | None = None
    crop: float = 1.0
    interpolation: str = "bilinear"
    squash: bool = False
    layout: str | None = None
    output: str | None = None
    outputs: str | None = None

    @staticmethod
    def parse(options: Mapping[str, str], *, text: str) -> OnnxOptions:
        """The options of a spec.

        Args:
            options: key -> value.
            text: the spec, for messages.

        Raises:
            ModelError: a value that an option does not take.
        """
        for key, choices in _CHOICES.items():
            if key in options and options[key] not in choices:
                raise ModelError(unknown(key, options[key], choices, where=repr(text)))
        return OnnxOptions(
            mean=_numbers("mean", options["mean"], text) if "mean" in options else None,
            std=_numbers("std", options["std"], text) if "std" in options else None,
            scale=_positive("scale", options.get("scale", "255"), text),
            size=_size(options["size"], text) if "size" in options else None,
            crop=_positive("crop", options.get("crop", "1"), text),
            interpolation=options.get("interpolation", "bilinear"),
            squash=options.get("squash") == "yes",
            layout=options.get("layout"),
            output=options.get("output"),
            outputs=options.get("outputs"),
        )


def _numbers(key: str, value: str, text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)) or (key == "std" and min(found) <= 0):
        above = " above 0" if key == "std" else ""
        raise ModelError(
            f"{key} is one number{above}, or one for each channel, found {value[:80]!r} in "
            f"{text!r}: write it like {key}=0.5 or {key}=0.485,0.456,0.406"
        )
    return found


def _positive(key: str, value: str, text: str) -> float:
    found = _numbers(key, value, text)
    if len(found) != 1 or found[0] <= 0 or (key == "crop" and found[0] > 1):
        rule = "above 0 and up to 1" if key == "crop" else "above 0"
        raise ModelError(f"{key} is one number {rule}, found {value[:80]!r} in {text!r}")
    return found[0]


def _size(value: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", value)
    if match is None:
        raise ModelError(
            f"size is a number of pixels or HxW, found {value[:80]!r} in {text!r}: write it like "
            "size=224 or size=192x256"
        )
    return int(match[1]), int(match[2] or match[1])
