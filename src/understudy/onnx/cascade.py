"""A cascade that runs in ONNX Runtime, without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.confidence import confidence_functions
from understudy.deferral import LEARNED, DeferralScore, deferral_score
from understudy.ensemble import Ensemble
from understudy.errors import ModelError, PolicyError, listed, unknown
from understudy.onnx.bundle import IMAGES, OnnxBundle, Value, file_of, logits_of, read_bundle
from understudy.onnx.flow import Computation, ValueGraph
from understudy.onnx.runner import OnnxRunner, taken
from understudy.onnx.session import CPU, Session, check_providers
from understudy.operating_point import OperatingPoint
from understudy.policy import DEFAULT_CONFIDENCE, Policy, PolicyStage
from understudy.runtime.answers import Answers, gathered
from understudy.runtime.cascade import BaseCascade
from understudy.runtime.protocol import RunnerOutput

Array = npt.NDArray[Any]


class OnnxCascade(BaseCascade[OnnxRunner]):
    """Executes a policy in ONNX Runtime, and can switch it while running; see `load_onnx`.

    It decides like the cascade it was exported from, away from the thresholds by more than
    rounding. Work that exits share is done once per sample: an exit takes up what those before it
    have made. One cascade may be used from several threads.

    Attributes:
        images: what it takes: the dtype and shape of an image.
        exits: the names of its exits.
        frontier: the certified settings that it can be dialled to.

    Raises:
        PolicyError: the policy names an exit or a confidence that there is not.
    """

    def __init__(
        self,
        flow: ValueGraph,
        policy: Policy,
        *,
        images: Value,
        exits: Sequence[str],
        frontier: Sequence[OperatingPoint] = (),
        scores: Mapping[str, DeferralScore] | None = None,
    ) -> None:
        self.images = images
        self.exits = tuple(exits)
        self.frontier = tuple(frontier)
        self.scores = dict(scores or {})
        self._flow = flow
        self.policy = policy

    def answer(self, images: Any) -> Answers:
        """The answers, how sure they are, and which exit gave each.

        Args:
            images: an array (N, ...) of the dtype and shape in `images`, or a list of images.

        Raises:
            DataError: no image, or images of another shape or dtype.
        """
        batch = taken(images, self.images)
        return gathered(_visits(self.runners, batch), len(batch), self.exits)

    def logits(self, exit: str, images: Any) -> Array:
        """The logits of one exit, (N, C) float32, everything being run.

        Raises:
            DataError: no image, or images of another shape or dtype.
            PolicyError: no such exit.
        """
        self._check_exit(exit)
        return self._flow.value(logits_of(exit), {IMAGES: taken(images, self.images)})

    def _judged(self, policy: Policy) -> tuple[OnnxRunner, ...]:
        for rule in policy.stages:
            self._check_exit(rule.exit)
        goals = [logits_of(name) for name in policy.exits]
        known, runners = frozenset({IMAGES}), []
        for place, rule in enumerate(policy.stages):
            known = self._flow.made(goals[place], known)
            later = (self._flow.needed(goal, known) for goal in goals[place + 1 :])
            keeps = frozenset().union(*later) - {IMAGES}
            known = keeps | {IMAGES}
            runners.append(self._judge(rule, keeps))
        return tuple(runners)

    def _judge(self, rule: PolicyStage, keeps: frozenset[str]) -> OnnxRunner:
        sure = confidence_functions.get(rule.confidence)
        if rule.confidence == LEARNED:
            sure = self._learned(rule)
        if sure is None:
            raise PolicyError(unknown("confidence", rule.confidence, confidence_functions))
        return OnnxRunner(
            number=self.exits.index(rule.exit),
            name=rule.exit,
            sure=sure,
            threshold=rule.threshold,
            flow=self._flow,
            takes=self.images,
            keeps=keeps,
        )

    def _learned(self, rule: PolicyStage) -> Any:
        score = self.scores.get(rule.exit)
        if score is not None:
            return partial(deferral_score, score)
        if rule.threshold is None:
            return confidence_functions[DEFAULT_CONFIDENCE]
        raise PolicyError(
            f"the stage {rule.exit!r} is judged by a learned score, which this cascade has for "
            f"{listed(map(repr, self.scores)) or 'no stage'}: build it from the search result"
        )

    def _check_exit(self, exit: str) -> None:
        if exit not in self.exits:
            raise PolicyError(unknown("stage", exit, self.exits) + " in this cascade")


def _visits(
    runners: Sequence[OnnxRunner], batch: Array
) -> Iterator[tuple[Array, RunnerOutput, OnnxRunner]]:
    """The stages one after another, each with the rows that reach it."""
    rows, state = np.arange(len(batch)), dict[str, Array]()
    for runner in runners:
        said = runner.run_stage(batch, state)
        yield rows, said, runner
        if not len(said.left):
            return
        rows, batch = rows[said.left], said.images[said.left]
        state = {name: value[said.left] for name, value in said.state.items()}


def load_onnx(
    path: str | Path, *, providers: Sequence[str] = (CPU,), threads: int | None = None
) -> OnnxCascade:
    """Read a cascade that `export_onnx` or `understudy export` wrote; PyTorch is not needed.

    Args:
        path: the folder.
        providers: ONNX Runtime's execution providers, the preferred first.
        threads: how many one operator runs on; by default as many as there are cores.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        ModelError: the folder is no exported cascade, a newer understudy wrote it, a file is
            missing or damaged, or there is no such provider.
    """
    if threads is not None and threads < 1:
        raise ModelError(f"work runs on at least one thread, found {threads}: leave it out")
    check_providers(providers)
    bundle = read_bundle(path)
    steps = [
        *_work(Path(path), bundle, providers=providers, threads=threads),
        *(_average(name, recipe) for name, recipe in bundle.averages.items()),
    ]
    return OnnxCascade(
        ValueGraph(steps),
        bundle.policy,
        images=bundle.images,
        exits=bundle.exits,
        frontier=bundle.frontier,
        scores=bundle.scores,
    )


def _work(
    folder: Path, bundle: OnnxBundle, *, providers: Sequence[str], threads: int | None
) -> list[Computation]:
    steps = []
    for piece in bundle.pieces:
        takes = tuple(value.name for value in piece.takes)
        gives = tuple(value.name for value in piece.gives)
        session = Session(
            file_of(folder, piece.file),
            piece.part,
            takes=takes,
            gives=gives,
            providers=providers,
            threads=threads,
        )
        steps.append(Computation(takes, gives, session))
    return steps


def _average(name: str, recipe: Ensemble) -> Computation:
    """The weighted sum of members' logits, in float32 and their order, as in `with_ensemble`."""

    def run(logits: Sequence[Array]) -> list[Array]:
        total: Array = logits[0] * np.float32(recipe.weights[0])
        for rows, weight in zip(logits[1:], recipe.weights[1:], strict=True):
            total = total + rows * np.float32(weight)
        return [total]

    return Computation(tuple(map(logits_of, recipe.exits)), (logits_of(name),), run)
