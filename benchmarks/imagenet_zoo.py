"""The predictions of 21 torchvision networks on the 50,000 ImageNet validation images, as a table.

MACs per image at 224 x 224 (inception_v3: 299 x 299), on torchvision's definitions.
"""

from __future__ import annotations

from pathlib import Path

from understudy import ScoreTable
from understudy.import_predictions import LabelFile, import_predictions

GMACS = {
    "squeezenet1_1": 0.35,
    "alexnet": 0.71,
    "squeezenet1_0": 0.82,
    "resnet18": 1.81,
    "densenet121": 2.83,
    "densenet169": 3.36,
    "resnet34": 3.66,
    "resnet50": 4.09,
    "densenet201": 4.29,
    "inception_v3": 5.71,
    "vgg11_bn": 7.61,
    "vgg11": 7.61,
    "densenet161": 7.73,
    "resnet101": 7.80,
    "vgg13_bn": 11.31,
    "vgg13": 11.31,
    "resnet152": 11.51,
    "vgg16_bn": 15.47,
    "vgg16": 15.47,
    "vgg19_bn": 19.63,
    "vgg19": 19.63,
}


def imagenet_zoo(data: Path) -> ScoreTable:
    """The table, from the folder of real data, with the default splits."""
    file = data / "imagenet_zoo" / "predictions.parquet"
    return import_predictions(
        LabelFile(file, "file_name", "label"),
        dict.fromkeys(GMACS, file),
        costs={name: 1e9 * cost for name, cost in GMACS.items()},
        prediction="{exit}_prediction",
        confidence="{exit}_confidence",
    )
