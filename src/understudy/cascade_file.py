"""The JSON file of a saved cascade: its policies, and what its models are; without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.certificate import Certificate
from understudy.contained_files import check_contained
from understudy.deferral import DeferralScore
from understudy.documents import read_document
from understudy.errors import ModelError
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy
from understudy.written_places import CASCADE, check_cascade

FORMAT, VERSION = "understudy.cascade", 3
AGAIN = "build the cascade again"


@dataclass(frozen=True)
class CascadeFile:
    """What the file of a cascade says; weights lie beside it.

    Attributes:
        policy: the one that is set; where there is a certificate, the one that it proves.
        certificate: of that policy, or None.
        operating_points: the certified ones.
        networks: name of a network with exits -> its architecture and the file of its weights.
        stages: exit -> the origin of its model, and the file of its weights.
        scores: exit -> its learned score.
        classes: the names of the classes, or None.
        provenance: plain JSON: the origin of the scores and the certificate.
    """

    policy: Policy
    certificate: Certificate | None
    operating_points: tuple[OperatingPoint, ...]
    networks: Mapping[str, Mapping[str, Any]]
    stages: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, DeferralScore]
    classes: tuple[str, ...] | None
    provenance: Mapping[str, Any]

    @staticmethod
    def read(folder: str | Path) -> CascadeFile:
        """Read the file in the folder of a cascade.

        Raises:
            ModelError: the folder is no cascade, is damaged, or a newer understudy wrote it.
            PolicyError: the policy is damaged, or not the one that its certificate proves.
        """
        place = Path(folder)
        check_cascade(place)
        check_contained(place, error=ModelError)
        data = read_document(
            place / CASCADE,
            kind=FORMAT,
            newest=VERSION,
            what="a cascade",
            error=ModelError,
            remedy=AGAIN,
        )
        try:
            return _decoded(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise damaged(place, error) from error


def damaged(folder: Path, error: Exception) -> ModelError:
    """The error for a file whose content is not what it should be."""
    return ModelError(f"{str(folder / CASCADE)!r} is damaged ({error!r}): {AGAIN}")


def certificate_in(policy: Policy, provenance: Mapping[str, Any]) -> Certificate | None:
    """The certificate of a policy, where its provenance has one.

    Raises:
        PolicyError: it is that of another policy.
    """
    proof = provenance.get("certificate")
    if not isinstance(proof, Mapping):
        return None
    certificate = Certificate.from_dict(proof)
    what, remedy = "the policy of a saved cascade", "build it again from the search result"
    certificate.check(policy, certificate.budget, what=what, remedy=remedy)
    return certificate


def _decoded(data: Mapping[str, Any]) -> CascadeFile:
    policy, provenance = Policy.from_dict(data["policy"]), data.get("provenance", {})
    # operating points of version 1 were not certified
    points = data["frontier"] if data["version"] > 1 else ()
    classes = data.get("classes")
    return CascadeFile(
        policy=policy,
        certificate=certificate_in(policy, provenance),
        operating_points=tuple(OperatingPoint.from_dict(point) for point in points),
        networks={str(name): entry for name, entry in data.get("networks", {}).items()},
        stages={str(name): entry for name, entry in data["stages"].items()},
        scores={n: DeferralScore.from_dict(one) for n, one in data.get("scores", {}).items()},
        classes=None if classes is None else tuple(classes),
        provenance=provenance,
    )
