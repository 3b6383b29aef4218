"""The policies of a search result, a cascade or an exported cascade on disk, without its models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from understudy.cascade_file import CascadeFile
from understudy.certificate import Certificate
from understudy.ensemble import ensemble_of
from understudy.onnx.bundle import is_onnx_bundle, read_bundle
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy
from understudy.policy_set import PolicySet
from understudy.result import Result
from understudy.shift import AppliedPlan, Proof
from understudy.split import headline_split
from understudy.written_places import check_runnable


def policies_at(path: str | Path) -> PolicySet:
    """The policies of what stands at a path: those of a result's budgets, or a cascade's operating
    points.

    Raises:
        UnderstudyError: it is none of these, is damaged, or has no certified policy but the
            reference.
    """
    place = Path(path)
    if not place.is_dir():
        return Result.load(place).policy_set
    check_runnable(place)
    return _of_bundle(place) if is_onnx_bundle(place) else _of_cascade(place)


def _of_cascade(folder: Path) -> PolicySet:
    file = CascadeFile.read(folder)
    ensembles = {name: ensemble_of(one) for name, one in file.stages.items()}
    source = dict(file.provenance.get("table", {}))
    plans = _plans(
        file.operating_points,
        file.policy,
        file.certificate,
        seen_on=headline_split(source.get("samples", ())),
    )
    return PolicySet(
        reference=_reference(file.operating_points, plans),
        unit=file.operating_points[0].unit if file.operating_points else "MACs",
        plans=plans,
        origins={name: one for name, one in file.stages.items() if ensembles[name] is None},
        scores=file.scores,
        ensembles={name: one for name, one in ensembles.items() if one is not None},
        classes=file.classes,
        source=source,
    )


def _of_bundle(folder: Path) -> PolicySet:
    bundle = read_bundle(folder)
    plans = _plans(bundle.frontier, bundle.policy, bundle.certificate, seen_on="certify")
    return PolicySet(
        reference=_reference(bundle.frontier, plans),
        unit=bundle.frontier[0].unit if bundle.frontier else "MACs",
        plans=plans,
        origins={},
        scores=bundle.scores,
        ensembles=bundle.averages,
        classes=bundle.classes,
    )


def _plans(
    points: Sequence[OperatingPoint],
    policy: Policy,
    certificate: Certificate | None,
    *,
    seen_on: str,
) -> tuple[AppliedPlan, ...]:
    """The operating points but the reference alone, and the policy that is set."""
    found = [
        _plan(point.policy, point.certificate, seen_on)
        for point in sorted(points, key=lambda one: one.max_drop)
        if point.certificate is not None
    ]
    if all(plan.policy != policy for plan in found):
        found.append(_plan(policy, certificate, seen_on))
    return tuple(found)


def _plan(policy: Policy, certificate: Certificate | None, seen_on: str) -> AppliedPlan:
    return AppliedPlan(
        max_drop=None if certificate is None else certificate.budget,
        policy=policy,
        proof=Proof.of(certificate),
        seen=None,
        seen_on=seen_on,
        kind="gap" if certificate is None else certificate.kind,
    )


def _reference(points: Sequence[OperatingPoint], plans: Sequence[AppliedPlan]) -> str:
    """The exit that the cascade was compared with: that of its certificates, or its last stage."""
    known = [one.certificate.reference for one in points if one.certificate is not None]
    return known[0] if known else plans[0].policy.exits[-1]
