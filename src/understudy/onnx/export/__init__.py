"""How a cascade becomes ONNX models, and how far these are from PyTorch. This half loads it."""
