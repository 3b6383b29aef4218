"""Cascades in ONNX Runtime: exported once, with PyTorch, and run without it."""
