"""The record of how a little model was taught, and the folder of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from understudy.errors import ModelError
from understudy.json_codec import Stored, StoredFile
from understudy.training.loop import HeldOutMetrics
from understudy.training.saver_config import SaverConfig
from understudy.zoo.model_specs import TAUGHT, parse_model_spec

WEIGHTS, RECORD = "weights.safetensors", TAUGHT


@dataclass(frozen=True)
class Pair(Stored):
    """A little and a large model on the images held out.

    Attributes:
        little: which weights: "before" or "taught".
        large: which weights: "as it is", or "last layer trained" on the same images and labels.
        accuracy: of the little model; without labels its agreement with the large one.
        large_accuracy: of the large one.
        saving: the mean certified saving of draws of samples (`PairSaving`).
    """

    little: str
    large: str
    accuracy: float
    large_accuracy: float
    saving: float


@dataclass(frozen=True)
class SaverSummary(Stored):
    """The outcome of teaching.

    Attributes:
        config: how the little model was taught.
        data: the fingerprint of the data.
        samples: training images.
        held_out: images that were held out.
        corrupt: images that could not be decoded, and were left out.
        macs: of the little and of the large model, for one sample.
        pairs: before and after, with the large model as it is and with its last layer trained.
        epochs: phase -> metrics of the little model after every epoch, first those before.
        seconds: how long it took, since it was last resumed.
    """

    config: SaverConfig
    data: str
    samples: int
    held_out: int
    corrupt: int
    macs: tuple[float, float]
    pairs: tuple[Pair, ...]
    epochs: Mapping[str, tuple[HeldOutMetrics, ...]]
    seconds: float


@dataclass(frozen=True)
class SaverFolder(
    StoredFile,
    what="a taught model",
    error=ModelError,
    remedy="teach it again",
    format="understudy.saver",
):
    """What the folder of a taught model says of it, beside its weights.

    Attributes:
        spec: of the model with its taught weights, as `score` takes it, from any directory.
        little: the spec that it began as.
        large: the spec of its teacher.
        training: how it was taught, and what came of it.
    """

    spec: str
    little: str
    large: str
    training: SaverSummary


def taught_spec(little: str, folder: Path) -> str:
    """The spec of a model with the weights in a folder, by its whole path.

    >>> taught_spec("timm:resnet18?weights=random&classes=10", Path("/models/taught"))
    'timm:resnet18?classes=10&checkpoint=/models/taught/weights.safetensors'

    Raises:
        ModelError: a path that no spec can have.
    """
    spec, file = parse_model_spec(little), str(folder.absolute() / WEIGHTS)
    if "&" in file:
        raise ModelError(
            f"an option of a spec ends at '&', found one in {file!r}, where the weights would lie: "
            "choose another folder"
        )
    kept = {k: v for k, v in spec.options.items() if k not in ("weights", "checkpoint")}
    options = "&".join(f"{key}={value}" for key, value in {**kept, "checkpoint": file}.items())
    return f"{spec.scheme}:{spec.target}?{options}"
