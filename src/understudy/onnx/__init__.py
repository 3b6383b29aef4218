"""Cascades in ONNX Runtime: exported once, with PyTorch, and run without it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from understudy.errors import MissingExtra
from understudy.onnx.bundle import is_onnx_bundle
from understudy.onnx.cascade import OnnxCascade, load_onnx

if TYPE_CHECKING:
    from understudy.onnx.exporting import Agreement, agreement, export_onnx

_EXPORTING = ("Agreement", "agreement", "export_onnx")  # these load PyTorch

__all__ = [
    "Agreement",
    "OnnxCascade",
    "agreement",
    "export_onnx",
    "is_onnx_bundle",
    "load_onnx",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTING:
        raise AttributeError(f"module 'understudy.onnx' has no attribute {name!r}")
    try:
        return getattr(import_module("understudy.onnx.exporting"), name)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "understudy":
            raise
        raise MissingExtra(f"`understudy.onnx.{name}`", "export") from error
