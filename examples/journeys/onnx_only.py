"""An exported cascade in a program without PyTorch. Run by onnx_only.sh."""

# -> docs/journeys/production.md#run-without-pytorch
import numpy as np
from PIL import Image
from understudy.onnx import load_onnx

cascade = load_onnx("onnx", threads=2)
_, height, width = cascade.images.shape
image = Image.open("image.png").convert("RGB").resize((width, height))
images = np.asarray(image).transpose(2, 0, 1)[None]  # uint8 (1, 3, H, W)
answers = cascade.answer(images)
print(answers.prediction, answers.confidence, answers.exit_names())
# <-

# Nothing of PyTorch was needed, and program and command agree.
import csv
import sys
from pathlib import Path

with Path("answers.csv").open(newline="") as file:
    by_command = {row["id"]: row for row in csv.DictReader(file)}
assert int(by_command[min(by_command)]["prediction"]) == answers.prediction[0]
assert "torch" not in sys.modules
print("reached: the exported cascade runs without PyTorch")
