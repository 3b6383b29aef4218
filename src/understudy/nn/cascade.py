"""A cascade: a policy that runs. Rows that are answered leave the batch; the rest goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from understudy.average import Average, average_of
from understudy.deferral import LEARNED, DeferralScore, scores_of
from understudy.dial import Setting, dialled, settings_of
from understudy.errors import DataError, ModelError, PolicyError, listed, unknown
from understudy.nn.confidence import acceptance_floor, confidence_functions
from understudy.nn.deferral import deferral_score
from understudy.nn.derived import Models, assembled
from understudy.nn.images import Images, on_device, select
from understudy.nn.stage import EMPTY, Stage, StageOutput, State, check_classes, logits_key
from understudy.policy import DEFAULT_CONFIDENCE, Policy, Step

if TYPE_CHECKING:
    from understudy.result import Result


@dataclass(frozen=True, eq=False)
class Answers:
    """What a cascade answered, and which exit did. Tensors are on the CPU.

    Attributes:
        prediction: (N,) int64, the class.
        confidence: (N,) float32, the one that the exit which answered is judged by.
        exit: (N,) int64, positions in `exits`.
        exits: the names of the cascade's stages.
    """

    prediction: Tensor
    confidence: Tensor
    exit: Tensor
    exits: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prediction)

    def exit_names(self) -> list[str]:
        """The name of the exit that answered, per row."""
        return [self.exits[number] for number in self.exit.tolist()]


@dataclass(frozen=True)
class Judge:
    """A stage with the rule it is judged by; `number` is its place in the cascade.

    `floor` is the least confidence that answers; None answers whatever is left. `learned` is the
    score that takes the place of a confidence of the logits. `hands_on` says that a later stage
    averages with these logits, which the state then carries. A model that an average has run
    already is not run again.
    """

    number: int
    name: str
    stage: Stage
    confidence: str
    floor: float | None
    learned: DeferralScore | None
    hands_on: bool

    def ask(self, images: Images, state: State) -> tuple[StageOutput, Tensor]:
        """What the stage says, and which rows it leaves to the next: ascending, on its device.

        NaN reaches no floor, so such rows are left; where there is no floor they are answered.
        """
        told = state.get(logits_key(self.name))
        if told is None:
            output = self.stage.run(images, state, confidence=self.confidence)
        else:
            sure = confidence_functions[self.confidence](told)
            output = StageOutput(told, sure, state)
        if self.learned is not None:
            sure = deferral_score(self.learned, output.logits)
            output = output._replace(confidence=sure)
        if self.hands_on:
            handed = {**output.state, logits_key(self.name): output.logits}
            output = output._replace(state=handed)
        if self.floor is None:
            return output, output.confidence.new_empty(0, dtype=torch.int64)
        answered = output.confidence >= self.floor
        return output, answered.logical_not_().nonzero().squeeze(1)


@dataclass(frozen=True)
class _Plan:
    policy: Policy
    judges: tuple[Judge, ...]


class Cascade(nn.Module):
    """Executes a policy; a drop-in for its last model, which can switch the policy while running.

    Args:
        stages: exit name -> what runs there; a plain module gets tensors as they are, an `Average`
            is made of stages beside it and reuses what a sample has been told by them before.
        policy: which stages are asked, in which order, and how sure each must be.
        frontier: the certified settings that it can be dialled to.
        scores: exit name -> the learned score behind its confidence `deferral`.

    >>> tiny, big = nn.Linear(4, 3), nn.Linear(4, 3)
    >>> cascade = Cascade({"tiny": tiny, "big": big}, Policy.pair("tiny", "big", 0.9))
    >>> cascade(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    >>> cascade.policy = Policy.single("tiny")
    >>> cascade.answer(torch.zeros(2, 4)).exit_names()
    ['tiny', 'tiny']

    Raises:
        ModelError: no stage, or something that is no module.
        PolicyError: the policy names an exit or a confidence that there is not.
    """

    def __init__(
        self,
        stages: Models,
        policy: Policy,
        *,
        frontier: Sequence[Setting] = (),
        scores: Mapping[str, DeferralScore] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        if not stages:
            raise ModelError("a cascade has at least one stage, found none: give it the models")
        made = assembled(stages)
        self.exits = tuple(made)
        self.frontier = tuple(frontier)
        self.scores = dict(scores)
        self._stages = nn.ModuleList(made.values())
        self._plan = self._planned(policy)

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages by name."""
        return dict(zip(self.exits, self._stages, strict=True))  # type: ignore[arg-type]

    @property
    def policy(self) -> Policy:
        """What is executed. Setting it takes effect at the next batch, in whatever thread.

        A batch reads the policy once, when it starts, so none is answered by half of two.

        Raises:
            PolicyError: on setting, an exit or a confidence that there is not.
        """
        return self._plan.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._plan = self._planned(policy)

    def dial(self, *, max_drop: float | None = None, cost: float | None = None) -> Setting:
        """Switch to the cheapest certified setting within a drop (points), or the one with the
        least drop within a mean cost per sample; from the next batch on, in whatever thread.

        Raises:
            PolicyError: no setting of the frontier fits, or not exactly one of the two is given.
        """
        setting = dialled(self.frontier, max_drop=max_drop, cost=cost)
        self.policy = setting.policy
        return setting

    @property
    def judges(self) -> tuple[Judge, ...]:
        """The stages of the policy in the order they are asked, each with its rule."""
        return self._plan.judges

    @torch.inference_mode()
    def forward(self, images: Images) -> Tensor:
        """The logits of the exit that answered, (N, C) float32, on the last stage's device.

        Raises:
            DataError: no image, or images that a stage cannot take.
            ModelError: a stage that returns no logits, or stages that differ in their classes.
        """
        return self._run(images)[1]

    @torch.inference_mode()
    def answer(self, images: Images) -> Answers:
        """The answers, how sure they are, and which exit gave each.

        Raises:
            DataError: no image, or images that a stage cannot take.
            ModelError: a stage that returns no logits, or stages that differ in their classes.
        """
        return self._run(images)[0]

    def _run(self, images: Images) -> tuple[Answers, Tensor]:
        if not len(images):
            raise DataError("a batch has at least one image, found none")
        judges = self.judges
        found = _Found(len(images), judges[-1].stage.device)
        rows = torch.arange(len(images), device=found.device)
        state = EMPTY
        for judge in judges:
            images = on_device(images, judge.stage.device)
            output, left = judge.ask(images, state)
            found.write(rows, output, judge)
            if not len(left):
                break
            state = output.state
            if len(left) < len(images):
                images = select(images, left)
                rows = rows.index_select(0, left.to(rows.device))
                state = select_state(state, left)
        return found.answers(self.exits), found.logits

    def _planned(self, policy: Policy) -> _Plan:
        judges = tuple(
            self._judge(step, later=policy.exits[number + 1 :])
            for number, step in enumerate(policy.stages)
        )
        return _Plan(policy, judges)

    def _judge(self, step: Step, *, later: Sequence[str]) -> Judge:
        if step.exit not in self.exits:
            raise PolicyError(unknown("stage", step.exit, self.exits) + " in this cascade")
        learned = self.scores.get(step.exit) if step.confidence == LEARNED else None
        if step.confidence == LEARNED and learned is None and step.threshold is not None:
            raise PolicyError(
                f"the stage {step.exit!r} is judged by a learned score, which this cascade has for "
                f"{listed(map(repr, self.scores)) or 'no stage'}: build it from the search result"
            )
        confidence = DEFAULT_CONFIDENCE if step.confidence == LEARNED else step.confidence
        if confidence not in confidence_functions:
            raise PolicyError(unknown("confidence", confidence, confidence_functions))
        stages = self.stages
        return Judge(
            number=self.exits.index(step.exit),
            name=step.exit,
            stage=stages[step.exit],
            confidence=confidence,
            floor=None if step.threshold is None else acceptance_floor(step.threshold),
            learned=learned,
            hands_on=any(step.exit in stages[name].members for name in later if name in stages),
        )


def build(plan: Policy | Result, models: Models, *, max_drop: float | None = None) -> Cascade:
    """A cascade of models in memory that executes a policy, or what a search chose.

    Averages and learned scores come from the result; beside a bare policy an `Average` stands among
    the models.

    Args:
        plan: the policy, or a result with one choice per budget.
        models: exit name -> model; all of them become stages, so that the policy can be switched.
        max_drop: the budget in points whose choice is taken; by default the first.

    >>> build(Policy.single("tiny"), {"tiny": nn.Linear(4, 3)}).exits
    ('tiny',)

    Raises:
        ModelError: a model that the policy asks is missing.
        PolicyError: no choice for that budget.
    """
    settings: Sequence[Setting] = ()
    if isinstance(plan, Policy):
        policy, scores = plan, {}
    else:
        policy, scores = plan.choice(max_drop).policy, scores_of(plan.table.get("provenance", {}))
        settings = settings_of(plan)
        models = {**models, **_averages(plan, tuple(assembled(models)))}
    stages = assembled(models)
    missing = [name for name in policy.exits if name not in stages]
    if missing:
        raise ModelError(
            f"every exit of the policy needs its model, {listed(map(repr, missing))} has none; "
            f"given were {listed(map(repr, stages)) or 'none'}: add it under the name of the exit"
        )
    return Cascade(
        stages,
        policy,
        frontier=[setting for setting in settings if set(setting.policy.exits) <= set(stages)],
        scores={name: score for name, score in scores.items() if name in stages},
    )


def _averages(result: Result, names: Sequence[str]) -> dict[str, Average]:
    """The averaged exits of a result that exits in memory make up."""
    recipes = {single.name: average_of(single.origin) for single in result.singles}
    return {
        name: recipe
        for name, recipe in recipes.items()
        if recipe is not None and name not in names and set(recipe.exits) <= set(names)
    }


def select_state(state: State, rows: Tensor) -> State:
    """The state of some of the rows."""
    return {name: value.index_select(0, rows.to(value.device)) for name, value in state.items()}


class _Found:
    """Answers by row. Stages write all rows that they see; the one that answers writes last."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.device = device
        self.prediction = torch.empty(count, dtype=torch.int64, device=device)
        self.confidence = torch.empty(count, dtype=torch.float32, device=device)
        self.exit = torch.empty(count, dtype=torch.int64, device=device)
        self.logits = torch.empty(0)
        self._first = ""

    def write(self, rows: Tensor, output: StageOutput, judge: Judge) -> None:
        logits = output.logits.to(self.device)
        if not self._first:
            self._first = judge.name
            self.logits = torch.empty(
                len(self.exit), logits.shape[1], dtype=torch.float32, device=self.device
            )
        check_classes(self._first, self.logits.shape[1], judge.name, logits.shape[1])
        self.logits.index_copy_(0, rows, logits.float())
        self.prediction.index_copy_(0, rows, logits.argmax(1))
        self.confidence.index_copy_(0, rows, output.confidence.to(self.device))
        self.exit.index_fill_(0, rows, judge.number)

    def answers(self, exits: tuple[str, ...]) -> Answers:
        return Answers(self.prediction.cpu(), self.confidence.cpu(), self.exit.cpu(), exits)
