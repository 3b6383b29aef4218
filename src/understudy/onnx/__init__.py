"""Cascades in ONNX Runtime: exported once, with PyTorch, and run without it."""

from understudy.lazy_imports import lazy_names

_MODULES = {
    "agreement": "understudy.onnx.parity",
    "export_onnx": "understudy.onnx.export",
    "load_onnx": "understudy.onnx.cascade",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605
__getattr__ = lazy_names(__name__, _MODULES, extra="export")
