"""How exits are trained: every setting that their weights depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from understudy.errors import ModelError, unknown
from understudy.json_codec import Stored

TARGETS = ("labels", "backbone", "both", "exits")
WEIGHTS = ("even", "dyce", "tinysaver")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainingConfig(
    Stored, what="a training configuration", error=ModelError, remedy="correct it"
):
    """How exits are trained.

    Labels are not smoothed by default: smoothing spoils the ranking of right before wrong answers
    that deferral lives on (Xia et al., ICLR 2025, arXiv 2403.14715).

    Attributes:
        epochs: the most epochs; each uses every image once, in one of its views.
        batch: images per step; fewer (but 32) where an epoch would have less than 50 steps.
        lr: the highest learning rate of AdamW; it follows a cosine down to 0.
        backbone_lr: the same of the backbone's own weights; 0 leaves them as they are.
        hold: where the backbone is tuned, the weight of keeping its answers, an exit's being 1.
        weight_decay: of AdamW, on matrices and filters.
        warmup: the share of all steps in which the learning rate rises from 0.
        views: views of every image; the first is the plain image.
        shift: how far a view is shifted at most, as a share of the image's sides.
        flip: whether a view may be mirrored.
        targets: of the exits: the labels, the backbone's answers, both, or (exits) the labels and
            the mean answer of all later exits, of which the network's own is the last.
        temperature: of answers, where these are a target.
        share: the weight of answers, where labels have the rest.
        weights: of samples. even: all 1. tinysaver: 2 (1 - the saver's largest
            probability) (arXiv 2403.17726). dyce: 2 (1 - the first exit's largest probability)
            for all exits behind the first (arXiv 2403.01695), 1 for the first.
        label_smoothing: of the labels, 0 to 1.
        held_out: the share of images that no exit is trained on: they choose its best epoch.
        patience: training ends after so many epochs in which no exit improves.
        dtype: of products in training steps; auto takes bfloat16 where the device has units for
            it (NVIDIA GPUs, processors with AMX), else float32. Weights are float32.
        seed: of the first weights, the views and the order of samples.

    >>> TrainingConfig(epochs=10, weights="dyce").warmup
    0.1

    Raises:
        ModelError: a setting out of its range.
    """

    epochs: int = 12
    batch: int = 256
    lr: float = 2e-3
    backbone_lr: float = 0.0
    hold: float = 1.0
    weight_decay: float = 0.05
    warmup: float = 0.1
    views: int = 2
    shift: float = 0.125
    flip: bool = True
    targets: str = "labels"
    temperature: float = 1.0
    share: float = 0.5
    weights: str = "even"
    label_smoothing: float = 0.0
    held_out: float = 0.05
    patience: int = 5
    dtype: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("targets", self.targets, TARGETS),
            ("weights", self.weights, WEIGHTS),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in known:
                raise ModelError(unknown(name, value, known))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ModelError(
                    f"{name} lies between {low:g} and {high:g}, found {value!r}: correct it"
                )


_BELOW_ONE = 1 - 1e-9
_MANY = 10**9
_RANGES: Mapping[str, tuple[float, float]] = {
    "epochs": (1, _MANY),
    "batch": (2, _MANY),
    "lr": (1e-12, 1e3),
    "backbone_lr": (0, 1e3),
    "hold": (0, 1e6),
    "weight_decay": (0, 1e3),
    "warmup": (0, _BELOW_ONE),
    "views": (1, 1000),
    "shift": (0, _BELOW_ONE),
    "temperature": (1e-3, 1e3),
    "share": (0, 1),
    "label_smoothing": (0, _BELOW_ONE),
    "held_out": (1e-9, _BELOW_ONE),
    "patience": (1, _MANY),
    "seed": (0, 2**63 - 1),
}
