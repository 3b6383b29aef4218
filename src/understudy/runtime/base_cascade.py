"""What the cascades of all backends share: how a policy becomes stages, and how it is switched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from understudy.confidence_functions import LEARNED
from understudy.deferral import DeferralScore
from understudy.errors import ModelError, PolicyError, listed, unknown
from understudy.html_views import html_table
from understudy.operating_point import OperatingPoint, select_operating_point
from understudy.policy import DEFAULT_CONFIDENCE, Policy, PolicyStage
from understudy.runtime.loader_batch import ImageInput
from understudy.runtime.pipeline import AnswerSink, Pipeline
from understudy.runtime.protocol import Answers, StageRunner, acceptance_floor
from understudy.short_repr import clipped

Runner = TypeVar("Runner", bound=StageRunner)


def checked_names(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of the classes, if they are known.

    Raises:
        ModelError: they are no texts.
    """
    if classes is None:
        return None
    odd = [name for name in classes if not isinstance(name, str)]
    if odd or isinstance(classes, str):
        raise ModelError(f"the names of classes are a list of texts, found {odd or classes!r}")
    return tuple(classes)


def _counted(count: int, one: str, several: str) -> list[str]:
    return [f"{count:,} {one if count == 1 else several}"] if count else []


@dataclass(frozen=True)
class AcceptanceRule:
    """A stage of a policy, resolved for a cascade.

    Attributes:
        number: the position of the stage in the cascade's `exits`.
        name: the name of the exit.
        confidence: logits (n, C) -> confidence (n,) float32, in the array library of the backend.
        floor: the least confidence that answers; None accepts all rows.
    """

    number: int
    name: str
    confidence: Callable[[Any], Any]
    floor: float | None


class BaseCascade(ImageInput, ABC, Generic[Runner]):
    """Executes a policy, and can switch it while running.

    Attributes:
        exits: the names of all stages.
        operating_points: the certified points that it can be set to.
        scores: exit -> the learned score behind its confidence `deferral`.
        classes: the names of the classes, or None where they are not known.
    """

    confidence_functions: ClassVar[Mapping[str, Callable[[Any], Any]]]
    """Confidence by name: logits (n, C) -> (n,) float32."""

    exits: tuple[str, ...]
    operating_points: tuple[OperatingPoint, ...]
    scores: Mapping[str, DeferralScore]
    classes: tuple[str, ...] | None
    _resolved: tuple[Policy, tuple[Runner, ...]]

    @staticmethod
    @abstractmethod
    def deferral_score(score: DeferralScore, logits: Any) -> Any:
        """A learned score of logits (n, C), (n,) float32."""

    @abstractmethod
    def _runners(self, rules: Sequence[AcceptanceRule], policy: Policy) -> tuple[Runner, ...]:
        """The stages of a policy with their rules."""

    @property
    def policy(self) -> Policy:
        """The policy that is executed. Setting it takes effect at the next batch, in any thread.

        A batch reads the policy once, when it starts, so it is never answered by parts of two.

        Raises:
            PolicyError: on setting, an exit or a confidence that the cascade lacks.
        """
        return self._resolved[0]

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._resolved = policy, self.runners_of(policy)

    @property
    def runners(self) -> tuple[Runner, ...]:
        """The stages of the policy in order, each with its acceptance rule."""
        return self._resolved[1]

    def runners_of(self, policy: Policy) -> tuple[Runner, ...]:
        """The stages of any policy, without switching to it: for `Executor.answer(runners=...)`.

        Raises:
            PolicyError: an exit or a confidence that the cascade lacks.
        """
        return self._runners([self._rule(stage) for stage in policy.stages], policy)

    def runner(self, exit: str) -> Runner:
        """An exit by itself, which accepts all samples.

        Raises:
            PolicyError: no such exit.
        """
        return self.runners_of(Policy.single(exit))[0]

    def set_operating_point(
        self,
        *,
        max_drop: float | None = None,
        cost: float | None = None,
        name: str | None = None,
    ) -> OperatingPoint:
        """Switch to the cheapest certified point within a drop (points), to the one with the least
        drop within a mean cost per sample, or to the one of that name (`OperatingPoint.name`); from
        the next batch on, in any thread.

        Raises:
            PolicyError: no operating point fits, or not exactly one of the three is given.
        """
        points = self.operating_points
        point = select_operating_point(points, max_drop=max_drop, cost=cost, name=name)
        self.policy = point.policy
        return point

    def __repr__(self) -> str:
        others = len(self.exits) - len(self.policy.exits)
        facts = [
            clipped(self.policy.describe(), 300),
            *_counted(others, "further exit", "further exits"),
            *_counted(len(self.classes or ()), "class", "classes"),
            *_counted(len(self.operating_points), "operating point", "operating points"),
        ]
        return f"<{type(self).__name__}: {'; '.join(facts)}>"

    def _repr_html_(self) -> str:
        rows = [
            (stage.exit, stage.confidence, "–" if floor is None else f"{floor:.6g}")
            for stage, floor in ((one, one.threshold) for one in self.policy.stages)
        ]
        head = ("exit", "confidence", "answers from")
        return html_table(repr(self)[1:-1], head, rows, left=[True, True, False])

    def _answer(self, images: Any) -> Answers:
        sink = AnswerSink(len(images), self.exits, self.classes)
        Pipeline(self.runners, sink).run_batch(images)
        return sink.answers()

    def _check_exit(self, exit: str) -> None:
        if exit not in self.exits:
            raise PolicyError(unknown("stage", exit, self.exits) + " in this cascade")

    def _rule(self, stage: PolicyStage) -> AcceptanceRule:
        self._check_exit(stage.exit)
        return AcceptanceRule(
            number=self.exits.index(stage.exit),
            name=stage.exit,
            confidence=self._confidence(stage),
            floor=None if stage.threshold is None else acceptance_floor(stage.threshold),
        )

    def _confidence(self, stage: PolicyStage) -> Callable[[Any], Any]:
        name = stage.confidence
        if name == LEARNED:
            score = self.scores.get(stage.exit)
            if score is not None:
                return partial(self.deferral_score, score)
            if stage.threshold is not None:
                raise PolicyError(
                    f"the stage {stage.exit!r} is accepted by a learned score, which this cascade "
                    f"has for {listed(map(repr, self.scores)) or 'no stage'}: build it from the "
                    "search result"
                )
            name = DEFAULT_CONFIDENCE
        if name not in self.confidence_functions:
            raise PolicyError(unknown("confidence", name, self.confidence_functions))
        return self.confidence_functions[name]
