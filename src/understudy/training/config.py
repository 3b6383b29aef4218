"""How exits are trained: every setting that their weights depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.errors import ModelError, unknown
from understudy.json_codec import Stored, stored

TARGETS = ("labels", "backbone", "both", "exits")
WEIGHTS = ("even", "dyce", "tinysaver")
AUTO_AUGMENTS = ("none", "autoaugment", "randaugment")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainingConfig(
    Stored, what="a training configuration", error=ModelError, remedy="correct it"
):
    """How exits are trained.

    Labels are not smoothed by default: smoothing spoils the ranking of right before wrong answers
    that deferral lives on (Xia et al., ICLR 2025, arXiv 2403.14715).

    Images are augmented in one of two ways. By default each has a few `views`, which stay the same,
    so that the backbone runs over them once and its features are cached. With any of `crop`,
    `auto_augment`, `erase`, `mixup` and `cutmix` every image is augmented anew in every epoch: the
    backbone runs in each of them, and `views` is not used.

    Attributes:
        epochs: the most epochs; each uses every image once, in one of its views.
        batch: images per step; fewer (but 32) where an epoch would have less than 50 steps.
        lr: the highest learning rate of AdamW; it follows a cosine down to 0.
        backbone_lr: the same of the backbone's own weights; 0 leaves them as they are.
        hold: where the backbone is tuned, the weight of keeping its answers, an exit's being 1.
        weight_decay: of AdamW, on matrices and filters.
        warmup: the share of all steps in which the learning rate rises from 0.
        views: views of every image; the first is the plain image. Not used where images are
            augmented anew.
        shift: how far an image is shifted at most, as a share of its sides.
        flip: whether an image may be mirrored.
        crop: the least share of an image's area that a random crop keeps, resized to what the model
            takes; 1 for none.
        auto_augment: none, or one of torchvision's: autoaugment (the policy for ImageNet),
            randaugment (two operations of magnitude 9).
        erase: the probability that a rectangle of an image is erased, a 50th to a third of it.
        mixup: the two parameters of the Beta distribution of mixup; 0 for none. With mixup and
            cutmix either is drawn for a batch.
        cutmix: the same of cutmix.
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
        ema: the decay per step of a moving average of the weights, which is measured and kept
            instead of them; 0 for none. In step n it is at most (1 + n) / (10 + n), so that the
            first weights do not stay in it.
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
    dtype: str = field(default="auto", metadata=stored(optional=True))
    seed: int = 0
    crop: float = field(default=1.0, metadata=stored(optional=True))
    auto_augment: str = field(default="none", metadata=stored(optional=True))
    erase: float = field(default=0.0, metadata=stored(optional=True))
    mixup: float = field(default=0.0, metadata=stored(optional=True))
    cutmix: float = field(default=0.0, metadata=stored(optional=True))
    ema: float = field(default=0.0, metadata=stored(optional=True))

    def __post_init__(self) -> None:
        for name, value, known in (
            ("targets", self.targets, TARGETS),
            ("weights", self.weights, WEIGHTS),
            ("auto_augment", self.auto_augment, AUTO_AUGMENTS),
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

    @property
    def fresh(self) -> bool:
        """Whether images are augmented anew in every epoch, so that features cannot be cached."""
        drawn = (self.crop, self.auto_augment, self.erase, self.mixup, self.cutmix)
        return drawn != (1, "none", 0, 0, 0)


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
    "crop": (1e-3, 1),
    "erase": (0, 1),
    "mixup": (0, 1e3),
    "cutmix": (0, 1e3),
    "ema": (0, _BELOW_ONE),
}
