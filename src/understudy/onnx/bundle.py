"""An exported cascade on disk: a folder of one JSON file and one ONNX model per part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from understudy.certificate import Certificate
from understudy.contained_files import check_contained
from understudy.deferral import DeferralScore
from understudy.ensemble import Ensemble
from understudy.errors import ModelError, unknown
from understudy.json_codec import Stored, StoredFile, stored
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy
from understudy.runtime.value_graph import IMAGES, logits_of

NAME = "onnx.json"
PIECES = "pieces"


@dataclass(frozen=True)
class Value(Stored):
    """A named tensor between parts: its dtype, and the shape of one row."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OnnxPart(Stored):
    """A part of the cost as one ONNX model, computed at most once per sample.

    Attributes:
        part: the name of the part.
        file: the model in the folder.
        takes: the model's inputs, by their names.
        gives: the model's outputs, by their names.
        difference: the largest difference from PyTorch at export, as a share of the largest
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
        *("tolerance", "differences", "files", "made_with", "certificate", "classes"),
    ),
    format="understudy.onnx",
    version=2,
):
    """The description of an exported cascade.

    Attributes:
        images: the dtype and shape of an image.
        exits: the names of its exits, in the order of the cascade it was made from.
        policy: the initial policy.
        pieces: the parts, in an order in which they can be computed.
        averages: exit -> ensemble, for those that combine others.
        frontier: its certified operating points.
        scores: exit -> the learned score behind its confidence `deferral`.
        tolerance: the largest `difference` that was allowed.
        differences: exit -> the difference of its logits from PyTorch's.
        files: file in the folder -> its SHA-256.
        made_with: package -> version.
        certificate: of the initial policy, where it is one of the operating points.
        classes: the names of the classes, where they are known.
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
    certificate: Certificate | None = field(default=None, metadata=stored(optional=True))
    classes: tuple[str, ...] | None = field(default=None, metadata=stored(optional=True))

    def __post_init__(self) -> None:
        if self.certificate is not None:
            what, remedy = "the policy of an exported cascade", "export the cascade again"
            budget = self.certificate.budget
            self.certificate.check(self.policy, budget, what=what, remedy=remedy)
        given = {IMAGES, *(value.name for piece in self.pieces for value in piece.gives)}
        given |= {logits_of(name) for name in self.averages}
        for piece in self.pieces:
            for value in piece.takes:
                if value.name not in given:
                    raise ModelError(
                        unknown(
                            "value", value.name, sorted(given), where=f"the inputs of {piece.part}"
                        )
                    )
        for name in (*self.exits, *(one for a in self.averages.values() for one in a.exits)):
            if logits_of(name) not in given:
                raise ModelError(
                    f"every exit has a part that computes its logits, found none for {name!r}"
                )

    @property
    def difference(self) -> float:
        """The largest difference of any exit's logits from PyTorch's."""
        return max(self.differences.values(), default=0.0)


def is_onnx_bundle(path: str | Path) -> bool:
    """Whether a folder holds a cascade that was exported to ONNX."""
    return (Path(path) / NAME).is_file()


def read_bundle(path: str | Path) -> OnnxBundle:
    """Read the description of an exported cascade, and check the hashes of its files.

    Raises:
        ModelError: the folder is no exported cascade, a newer understudy wrote it, or a file is
            missing or was changed.
    """
    folder = Path(path)
    check_contained(folder, error=ModelError)
    bundle = OnnxBundle.load(folder / NAME)
    _check_files(folder, bundle)
    return bundle


def file_of(folder: Path, name: str) -> Path:
    """The path of a file of an exported cascade: always in one folder, whatever its name.

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
