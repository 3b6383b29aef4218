"""How a cascade becomes ONNX models, and how far these are from PyTorch. This half loads it."""

from understudy.onnx.exporting.agreement import Agreement, agreement
from understudy.onnx.exporting.export import export_onnx

__all__ = ["Agreement", "agreement", "export_onnx"]
