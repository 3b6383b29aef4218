"""A cascade: a policy that runs. Rows that are answered leave the batch; the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from understudy.deferral import LEARNED, DeferralScore, scores_of
from understudy.ensemble import Ensemble, ensemble_of
from understudy.errors import DataError, ModelError, PolicyError, listed, unknown
from understudy.nn.confidence import acceptance_floor, confidence_functions
from understudy.nn.deferral import deferral_score
from understudy.nn.ensemble import Models, assembled
from understudy.nn.images import Images, on_device, select
from understudy.nn.stage import EMPTY, Stage, StageOutput, State, check_classes, logits_key
from understudy.operating_point import OperatingPoint, operating_points_of
from understudy.policy import DEFAULT_CONFIDENCE, Policy, PolicyStage
from understudy.runtime.answers import Answers, gathered
from understudy.runtime.cascade import BaseCascade
from understudy.runtime.protocol import Array, RunnerOutput, decided

if TYPE_CHECKING:
    from understudy.result import Result


@dataclass(frozen=True)
class StageRunner:
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

    def run_stage(self, images: Images, state: State) -> RunnerOutput:
        """What the stage says, and which rows it leaves to the next.

        NaN reaches no floor, so such rows are left where there is a next stage.
        """
        return self.hear(images, state)[0]

    @torch.inference_mode()
    def hear(self, images: Images, state: State) -> tuple[RunnerOutput, Tensor]:
        """The same with the logits, on the stage's device."""
        images = on_device(images, self.stage.device)
        output = self._output(images, state)
        prediction, confidence = _on_host(output.logits.argmax(1), output.confidence)
        left, classes = decided(confidence, self.floor), output.logits.shape[1]
        said = RunnerOutput(prediction, confidence, left, images, output.state, classes)
        return said, output.logits

    def stack(self, samples: Sequence[Tensor]) -> Tensor:
        """Single images of one shape and dtype as one batch, where they are."""
        return torch.stack([torch.as_tensor(sample) for sample in samples])

    def buffer(self, size: int, like: Any) -> Tensor:
        """A tensor of `size` rows like those of another, laid out alike, on the stage's device."""
        like = torch.as_tensor(like)
        return torch.empty(
            (size, *like.shape[1:]),
            dtype=like.dtype,
            device=self.stage.device,
            memory_format=_layout(like),
        )

    @torch.inference_mode()
    def gather(self, source: Any, rows: Array, target: Tensor) -> None:
        """Copy rows of a tensor or array into a slice of a buffer."""
        source = torch.as_tensor(source)
        index = torch.from_numpy(rows).to(source.device)
        if source.device == target.device:
            torch.index_select(source, 0, index, out=target)
        else:
            target.copy_(source.index_select(0, index), non_blocking=target.is_cuda)

    def ran_out(self, error: Exception) -> bool:
        """Whether an error says that memory ran out, on a device or on the host."""
        told = isinstance(error, MemoryError | torch.OutOfMemoryError)
        return told or any(text in str(error) for text in OUT_OF_MEMORY)

    def _output(self, images: Images, state: State) -> StageOutput:
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
        return output


def _layout(value: Tensor) -> torch.memory_format:
    """Channels-last where a batch of maps lies so."""
    last = value.ndim == 4 and not value.is_contiguous()
    if last and value.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
"""What errors say that have no type of their own: allocators of the host, libraries of devices."""


class _Visit(NamedTuple):
    """What a stage said about the rows that reached it."""

    rows: Array
    said: RunnerOutput
    logits: Tensor
    runner: StageRunner


class Cascade(nn.Module, BaseCascade[StageRunner]):
    """Executes a policy; a drop-in for its last model, which can switch the policy while running.

    Args:
        stages: exit name -> what runs there; a plain module gets tensors as they are, an `Ensemble`
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
        frontier: Sequence[OperatingPoint] = (),
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
        self.policy = policy

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages by name."""
        return dict(zip(self.exits, self._stages, strict=True))  # type: ignore[arg-type]

    @torch.inference_mode()
    def forward(self, images: Images) -> Tensor:
        """The logits of the exit that answered, (N, C) float32, on the last stage's device.

        Raises:
            DataError: no image, or images that a stage cannot take.
            ModelError: a stage that returns no logits, or stages that differ in their classes.
        """
        runners = self.runners
        device = runners[-1].stage.device
        first, *visits = _visits(runners, images)
        logits = first.logits.to(device, torch.float32, copy=True)
        for rows, _, others, _ in visits:
            at = torch.from_numpy(rows).to(device)
            logits.index_copy_(0, at, others.to(device, torch.float32))
        return logits

    @torch.inference_mode()
    def answer(self, images: Images) -> Answers:
        """The answers, how sure they are, and which exit gave each.

        Raises:
            DataError: no image, or images that a stage cannot take.
            ModelError: a stage that returns no logits, or stages that differ in their classes.
        """
        visits = ((v.rows, v.said, v.runner) for v in _visits(self.runners, images))
        return gathered(visits, len(images), self.exits)

    def _judged(self, policy: Policy) -> tuple[StageRunner, ...]:
        return tuple(
            self._judge(step, later=policy.exits[number + 1 :])
            for number, step in enumerate(policy.stages)
        )

    def _judge(self, step: PolicyStage, *, later: Sequence[str]) -> StageRunner:
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
        return StageRunner(
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

    Averages and learned scores come from the result; beside a bare policy an `Ensemble` stands
    among the models.

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
    settings: Sequence[OperatingPoint] = ()
    if isinstance(plan, Policy):
        policy, scores = plan, {}
    else:
        policy, scores = plan.choice(max_drop).policy, scores_of(plan.table.get("provenance", {}))
        settings = operating_points_of(plan)
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


def _averages(result: Result, names: Sequence[str]) -> dict[str, Ensemble]:
    """The averaged exits of a result that exits in memory make up."""
    recipes = {single.name: ensemble_of(single.origin) for single in result.singles}
    return {
        name: recipe
        for name, recipe in recipes.items()
        if recipe is not None and name not in names and set(recipe.exits) <= set(names)
    }


def select_state(state: State, rows: Tensor) -> State:
    """The state of some of the rows."""
    return {name: value.index_select(0, rows.to(value.device)) for name, value in state.items()}


def _visits(runners: Sequence[StageRunner], images: Images) -> Iterator[_Visit]:
    """The stages one after another, each with the rows that reach it."""
    if not len(images):
        raise DataError("a batch has at least one image, found none")
    rows, state, classes = np.arange(len(images)), EMPTY, 0
    for runner in runners:
        said, logits = runner.hear(images, state)
        classes = classes or said.classes
        check_classes(runners[0].name, classes, runner.name, said.classes)
        yield _Visit(rows, said, logits, runner)
        if not len(said.left):
            return
        images, state = said.images, said.state
        if len(said.left) < len(rows):
            rows, left = rows[said.left], torch.from_numpy(said.left)
            images, state = select(images, left), select_state(state, left)


def _on_host(prediction: Tensor, confidence: Tensor) -> tuple[Array, Array]:
    """Both as arrays, int64 and float32, in one transfer."""
    both = torch.stack([prediction.to(torch.int32), confidence.float().view(torch.int32)])
    host = both.cpu().numpy()
    return host[0].astype(np.int64), host[1].view(np.float32)
