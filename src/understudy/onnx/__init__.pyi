"""The public names of this package and where they are defined."""

from understudy.onnx.cascade import load_onnx as load_onnx
from understudy.onnx.export import export_onnx as export_onnx
from understudy.onnx.parity import agreement as agreement

__all__: list[str]
