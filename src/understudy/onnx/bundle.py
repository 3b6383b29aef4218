"""An exported cascade on disk: a folder of one JSON file and ONNX models, each a piece of work."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from understudy.codec import Stored, StoredFile
from understudy.deferral import DeferralScore
from understudy.ensemble import Ensemble
from understudy.errors import ModelError, unknown
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy

NAME = "onnx.json"
PIECES = "pieces"
IMAGES = "images"
"""The value that all work starts from: a batch of images as they come."""


@dataclass(frozen=True)
class Value(Stored):
    """Rows of one shape that pieces hand to one another under a name; the shape is without N."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OnnxPart(Stored):
    """Work that a sample pays for once, as one ONNX model.

    Attributes:
        part: its name as a part of the cost.
        file: where the model lies in the folder.
        takes: what it needs; the names are those of the model's inputs.
        gives: what it makes; the names are those of the model's outputs.
        difference: how far it was from PyTorch when it was exported, as a share of the largest
            value.
    """

    part: str
    file: str
    takes: tuple[Value, ...]
    gives: tuple[Value, ...]
    difference: float


@dataclass(frozen=True)
class OnnxBundle(
    StoredFile,
    what="an exported cascade",
    error=ModelError,
    remedy="export the cascade again",
    keys=(
        *("images", "exits", "policy", "frontier", "averages", "scores", "pieces"),
        *("tolerance", "differences", "files", "made_with"),
    ),
    format="understudy.onnx",
):
    """What an exported cascade is made of.

    Attributes:
        images: what it takes: the dtype and shape of an image.
        exits: the names of its exits, in the order of the cascade it was made from.
        policy: what is executed at first.
        pieces: the work, in an order in which it can be done.
        averages: exit -> recipe, for those that are the average of others.
        frontier: the certified settings that it can be dialled to.
        scores: exit -> the learned score behind its confidence `deferral`.
        tolerance: how far a piece may have been from PyTorch.
        differences: exit -> how far its logits were from PyTorch's, everything being run.
        files: file in the folder -> its SHA-256.
        made_with: package -> version.
    """

    images: Value
    exits: tuple[str, ...]
    policy: Policy
    pieces: tuple[OnnxPart, ...]
    averages: Mapping[str, Ensemble]
    frontier: tuple[OperatingPoint, ...]
    scores: Mapping[str, DeferralScore]
    tolerance: float
    differences: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    made_with: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        given = {IMAGES, *(value.name for piece in self.pieces for value in piece.gives)}
        given |= {logits_of(name) for name in self.averages}
        for piece in self.pieces:
            for value in piece.takes:
                if value.name not in given:
                    raise ModelError(
                        unknown(
                            "value", value.name, sorted(given), where=f"what {piece.part} takes"
                        )
                    )
        for name in (*self.exits, *(one for a in self.averages.values() for one in a.exits)):
            if logits_of(name) not in given:
                raise ModelError(f"every exit has work that answers, found none for {name!r}")

    @property
    def difference(self) -> float:
        """How far the logits of any exit were from PyTorch's."""
        return max(self.differences.values(), default=0.0)


def logits_of(exit: str) -> str:
    """The name of an exit's logits among the values.

    >>> logits_of("tiny")
    'logits of tiny'
    """
    return f"logits of {exit}"


def is_onnx_bundle(path: str | Path) -> bool:
    """Whether a folder holds a cascade that was exported to ONNX."""
    return (Path(path) / NAME).is_file()


def read_bundle(path: str | Path) -> OnnxBundle:
    """Read what an exported cascade is made of, and check that its files are those written.

    Raises:
        ModelError: the folder is no exported cascade, a newer understudy wrote it, or a file is
            missing or was changed.
    """
    folder = Path(path)
    bundle = OnnxBundle.load(folder / NAME)
    _check_files(folder, bundle)
    return bundle


def file_of(folder: Path, name: str) -> Path:
    """Where a file of an exported cascade lies: in one folder, whatever its name says.

    >>> file_of(Path("cascade"), "../../tiny.onnx").as_posix()
    'cascade/pieces/tiny.onnx'
    """
    return folder / PIECES / Path(name).name


def hashes_of(folder: Path, files: Sequence[Path]) -> dict[str, str]:
    """File, relative to the folder and with forward slashes -> SHA-256 of its content."""
    return {file.relative_to(folder).as_posix(): _hash(file) for file in files}


def _check_files(folder: Path, bundle: OnnxBundle) -> None:
    for name in dict.fromkeys([*(piece.file for piece in bundle.pieces), *bundle.files]):
        file = file_of(folder, name)
        try:
            found = _hash(file)
        except OSError as error:
            raise ModelError(
                f"{str(folder)!r} lacks {name!r} ({error.strerror}): export the cascade again"
            ) from error
        if found != bundle.files.get(name):
            raise ModelError(
                f"{str(file)!r} is not the file that was exported (its hash is {found[:12]}, not "
                f"{str(bundle.files.get(name))[:12]}): export the cascade again"
            )


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
