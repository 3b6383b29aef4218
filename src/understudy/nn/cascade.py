"""Cascades of PyTorch models: they execute a policy, each stage on the rows deferred to it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from understudy.deferral import DeferralScore
from understudy.ensemble import Ensemble, ensemble_of
from understudy.errors import ModelError
from understudy.exit import ENSEMBLE
from understudy.nn.confidence_functions import confidence_functions, deferral_score
from understudy.nn.identity import check_identity
from understudy.nn.preprocess import (
    Image,
    ResizedImage,
    Resizing,
    as_tensor,
    on_device,
    resized_image,
)
from understudy.nn.stage import INPUT, Images, Stage, resizings_of, stages_of
from understudy.nn.training_modes import modes_kept
from understudy.operating_point import OperatingPoint, checked_points
from understudy.policy import Policy
from understudy.runtime.base_cascade import AcceptanceRule, BaseCascade, checked_names
from understudy.runtime.loader_batch import taken_apart
from understudy.runtime.pipeline import Pipeline, check_classes
from understudy.runtime.planned import (
    check_complete,
    check_members,
    ensembles_within,
    planned_within,
)
from understudy.runtime.protocol import (
    Answers,
    Array,
    RunnerOutput,
    SampleKind,
    StageRunner,
    StageState,
    StateKey,
    deferred_rows,
)

if TYPE_CHECKING:
    from understudy.result import Result

Of = ParamSpec("Of")
T = TypeVar("T")

Loaded = Images | tuple[Images, Any] | Mapping[str, Any]
"""A batch as a loader yields it: images, alone or with labels."""

Models = Mapping[str, nn.Module | Ensemble]
"""Exit name -> model; an ensemble names others, a network stands for all its exits."""


class EnsembleStage(Stage):
    """The ensemble of other stages: it runs those that a sample has not visited yet.

    The logits of stages that ran before are taken from the state. Members are shared with the
    cascade, not copied; images go to each as they came.

    Args:
        ensemble: the exits of the members, and their temperatures.
        members: the stage of each of these exits.

    >>> stages = {"tiny": Stage(nn.Identity()), "big": Stage(nn.Identity())}
    >>> EnsembleStage(Ensemble(("tiny", "big"), (1.0, 0.5)), stages)(torch.ones(1, 2))
    tensor([[1.5000, 1.5000]])
    """

    def __init__(self, ensemble: Ensemble, members: Mapping[str, Stage]) -> None:
        stages = nn.ModuleList(members[name] for name in ensemble.exits)
        super().__init__(stages, origin={ENSEMBLE: ensemble.to_dict()})
        self.ensemble = ensemble

    @property
    def members(self) -> dict[str, Stage]:
        """The member stages by exit."""
        stages = cast("nn.ModuleList", self.model)
        return dict(zip(self.ensemble.exits, stages, strict=True))  # type: ignore[arg-type]

    @property
    def resizings(self) -> frozenset[Resizing | None]:
        """How the members resize images."""
        return resizings_of(self.members.values())

    @property
    def device(self) -> torch.device:
        """Where the last member runs: the one that in general is left to run."""
        return self.members[self.ensemble.exits[-1]].device

    @torch.inference_mode()
    def resume(self, images: Images, state: StageState) -> tuple[Tensor, StageState]:
        """The weighted mean of logits (N, C) float32, and the state with all members' logits."""
        for name, member in self.members.items():
            if StateKey("logits", name) not in state:
                logits, state = member.resume(images, state)
                state = {**state, StateKey("logits", name): logits}
        return self._mean([state[StateKey("logits", name)] for name in self.members]), state

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        """The weighted sum (N, C) float32, in the order of the members, as in `with_ensemble`."""
        for name, rows in zip(self.members, logits, strict=True):
            check_classes(self.ensemble.exits[0], logits[0].shape[1], name, rows.shape[1])
        terms = [
            rows.to(self.device).float() * weight
            for rows, weight in zip(logits, self.ensemble.weights, strict=True)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


def build_stages(models: Models) -> dict[str, Stage]:
    """The stages by name: models as they are, the exits of networks, and ensembles of them.

    Raises:
        ModelError: not a module, or an ensemble whose member is missing or an ensemble itself.
    """
    plain = stages_of({n: m for n, m in models.items() if not isinstance(m, Ensemble)})
    stages = dict(plain)
    for name, model in models.items():
        if isinstance(model, Ensemble):
            check_members(name, model, plain)
            stages[name] = EnsembleStage(model, plain)
    return stages


@dataclass(frozen=True)
class TorchRunner:
    """A stage with its acceptance rule.

    `keeps_logits` means that a later stage uses these logits, which the state then holds. A model
    that an ensemble has run already is not run again.
    """

    rule: AcceptanceRule
    stage: Stage
    keeps_logits: bool

    @property
    def number(self) -> int:
        """The position of the stage in the cascade's `exits`."""
        return self.rule.number

    @property
    def name(self) -> str:
        """The name of the exit."""
        return self.rule.name

    @torch.inference_mode()
    def run(self, images: Images, state: StageState) -> RunnerOutput:
        """The output of the stage, and the rows that it defers; NaN is deferred if possible."""
        images = on_device(images, self.stage.device)
        key = StateKey("logits", self.name)
        if key in state:
            logits = state[key]
        else:
            logits, state = self.stage.resume(images, state)
        if self.keeps_logits:
            state = {**state, key: logits}
        prediction, confidence = _on_host(logits.argmax(1), self.rule.confidence(logits))
        deferred = deferred_rows(confidence, self.rule.floor)
        classes = logits.shape[1]
        return RunnerOutput(prediction, confidence, deferred, images, state, classes, logits)

    def stack(self, samples: Sequence[Any]) -> Images:
        """Single images of one shape and dtype as one batch, on their device."""
        if isinstance(samples[0], ResizedImage):
            return samples
        if all(isinstance(sample, np.ndarray) for sample in samples):
            return as_tensor(np.stack(samples))
        return torch.stack([as_tensor(sample) for sample in samples])

    def buffer(self, size: int, like: Any) -> Tensor:
        """A tensor of `size` rows like those of another, in its layout, on the stage's device."""
        like = as_tensor(like)
        return torch.empty(
            (size, *like.shape[1:]),
            dtype=like.dtype,
            device=self.stage.device,
            memory_format=_memory_format(like),
        )

    @torch.inference_mode()
    def gather(self, source: Any, rows: Array, target: Tensor) -> None:
        """Copy rows of a tensor or array into a slice of a buffer."""
        source = as_tensor(source)
        index = torch.from_numpy(rows).to(source.device)
        if source.device == target.device:
            torch.index_select(source, 0, index, out=target)
        else:
            target.copy_(source.index_select(0, index), non_blocking=target.is_cuda)

    @torch.inference_mode()
    def host_logits(self, logits: Tensor, rows: Array) -> Array:
        """Some rows of logits in float32 on the host, which no others are copied to."""
        index = torch.from_numpy(rows).to(logits.device)
        host: Array = logits.index_select(0, index).float().cpu().numpy()
        return host


def outside_graphs(run: Callable[Of, T]) -> Callable[Of, T]:
    """A method of a cascade that `torch.compile` leaves as it is: values decide which rows go on.

    Raises:
        ModelError: while `torch.export` or `torch.jit` records.
    """

    @wraps(run)
    def gated(*args: Of.args, **kwargs: Of.kwargs) -> T:
        if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise ModelError(
                "a cascade is no single graph, since values decide which rows go on, found one "
                "that is being exported: write it with understudy.onnx.export_onnx, or export the "
                "models in `stages`"
            )
        if torch.compiler.is_compiling():
            eager: Callable[Of, T] = torch.compiler.disable(partial(_warned, run))  # type: ignore[no-untyped-call]
            return eager(*args, **kwargs)
        return run(*args, **kwargs)

    return gated


def _warned(run: Callable[Of, T], *args: Of.args, **kwargs: Of.kwargs) -> T:
    """Run what was to be compiled, and tell what can be."""
    warnings.warn(
        "torch.compile leaves a cascade as it is, since values decide which rows go on: "
        "cascade.compile() compiles its models",
        stacklevel=2,
    )
    return run(*args, **kwargs)


class Cascade(nn.Module, BaseCascade[TorchRunner]):
    """Executes a policy; a drop-in for its last model, which can switch the policy while running.

    Args:
        stages: exit name -> model; a plain module gets tensors as they are, an `Ensemble` names
            stages of the same cascade and reuses the logits that they have computed for a sample.
        policy: which stages are run, in which order, and the threshold of each.
        operating_points: the certified points that it can be set to.
        scores: exit name -> the learned score behind its confidence `deferral`.
        classes: the names of the classes, by their numbers.

    >>> tiny, big = nn.Linear(4, 3), nn.Linear(4, 3)
    >>> cascade = Cascade({"tiny": tiny, "big": big}, Policy.pair("tiny", "big", 0.9))
    >>> cascade(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    >>> cascade.policy = Policy.single("tiny")
    >>> cascade.answer(torch.zeros(2, 4)).exit_names()
    ['tiny', 'tiny']

    Raises:
        ModelError: no stage, or something that is no module.
        PolicyError: the policy names an exit or a confidence that the cascade lacks.
    """

    confidence_functions = confidence_functions
    deferral_score = staticmethod(deferral_score)
    __repr__ = BaseCascade.__repr__

    def __init__(
        self,
        stages: Models,
        policy: Policy,
        *,
        operating_points: Sequence[OperatingPoint] = (),
        scores: Mapping[str, DeferralScore] = MappingProxyType({}),
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not stages:
            raise ModelError("a cascade has at least one stage, found none: give it the models")
        built = build_stages(stages)
        self.exits = tuple(built)
        self.operating_points = checked_points(operating_points)
        self.scores = dict(scores)
        self.classes = checked_names(classes)
        self._stages = nn.ModuleList(built.values())
        self.policy = policy

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages by name."""
        return dict(zip(self.exits, self._stages, strict=True))  # type: ignore[arg-type]

    @property
    def sample_kind(self) -> SampleKind | None:
        """The type and shape of what all stages take; None where they do not say, or differ."""
        stages = [s for s in self.stages.values() if not isinstance(s, EnsembleStage)]
        kinds = {stage.sample_kind for stage in stages}
        return kinds.pop() if len(kinds) == 1 else None

    def resized_request(self, pixels: Array) -> Image:
        """An image (C, H, W) in the sizes that the stages take, where they are smaller; for any
        policy. May be called from any thread.

        Raises:
            ValueError: a strip that would be too large before it is cropped.
        """
        return resized_image(as_tensor(pixels), resizings_of(self.stages.values()))

    @outside_graphs
    @torch.inference_mode()
    def forward(self, images: Loaded) -> Tensor:
        """The logits of the exit that answered, (N, C) float32, on the last stage's device.

        Args:
            images: as the stages take them, or what a loader yields; labels are not used.

        Raises:
            DataError: no image, or images that a stage cannot take.
            ModelError: a stage that returns no logits, or stages that differ in their classes.
        """
        images = taken_apart(images).images
        runners = self.runners
        sink = _LogitsSink(len(images), runners[-1].stage.device)
        Pipeline(runners, sink).run_batch(images)
        return sink.logits

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the models, each by itself and in place: `nn.Module.compile` with the arguments.

        What decides between them stays as it is. Exits inside a network are not compiled.
        """
        for stage in self.stages.values():
            if type(stage) is Stage:
                stage.model.compile(*args, **kwargs)

    @outside_graphs
    @torch.inference_mode()
    def answer(self, images: Loaded) -> Answers:
        """The answers with their confidences, and the exit that gave each.

        Args:
            images: as the stages take them, or what a loader yields, such as ``{"pixel_values":
                images, "labels": labels}``; labels are not used.

        Raises:
            DataError: no image, or images that a stage cannot take.
            ModelError: a stage that returns no logits, or stages that differ in their classes.
        """
        return self._answer(taken_apart(images).images)

    def _runners(self, rules: Sequence[AcceptanceRule], policy: Policy) -> tuple[TorchRunner, ...]:
        stages = self.stages
        return tuple(
            TorchRunner(
                rule,
                stages[rule.name],
                any(rule.name in stages[name].members for name in policy.exits[position + 1 :]),
            )
            for position, rule in enumerate(rules)
        )


def build(plan: Policy | Result, models: Models, *, max_drop: float | None = None) -> Cascade:
    """A cascade of models in memory that executes a policy, or the choice of a search.

    Ensembles and learned scores are those of the result; with a bare policy an `Ensemble` is given
    among the models. Training and eval modes stay as they are until the cascade runs, which puts
    its models into eval mode. Models may be compiled, before or after: `model.compile()`.

    Args:
        plan: the policy, or a result with one choice per budget.
        models: exit name -> model; all of them become stages, so that the policy can be switched.
        max_drop: the budget in points whose choice is taken; by default the first.

    >>> build(Policy.single("tiny"), {"tiny": nn.Linear(4, 3)}).exits
    ('tiny',)

    Raises:
        ModelError: a model that the policy names is missing, or is not the one that was scored: in
            weights, preprocessing, precision or execution mode, as far as the result records them.
        PolicyError: no choice for that budget.
    """
    with modes_kept(models.values()):
        stages = build_stages(models)
        if isinstance(plan, Policy):
            check_complete(plan, stages)
            return Cascade(stages, plan)
        stages = build_stages({**models, **ensembles_within(plan, tuple(stages))})
        return cascade_of(plan, plan.choice(max_drop).policy, stages)


def cascade_of(result: Result, policy: Policy, models: Models) -> Cascade:
    """A cascade of these models, with the learned scores and operating points that fit them, and
    the names of the classes.

    Raises:
        ModelError: a model that the policy names is missing, or is not the one that was scored.
    """
    stages = build_stages(models)
    check_complete(policy, stages)
    _check_scored(result, stages)
    return Cascade(stages, policy, **planned_within(result, stages))


class _LogitsSink:
    """Collects the logits of a batch, whose ids are its row numbers."""

    logits: Tensor

    def __init__(self, count: int, device: torch.device) -> None:
        self._count, self._device = count, device

    def visited(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> None:  # noqa: ARG002
        """Write the logits of the stage; a later stage overwrites the rows that were deferred."""
        if len(ids) == self._count:
            self.logits = output.logits.to(self._device, torch.float32, copy=True)
        else:
            rows = torch.from_numpy(ids).to(self._device)
            self.logits.index_copy_(0, rows, output.logits.to(self._device, torch.float32))

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        """Rows of NaN keep their logits."""


def _check_scored(result: Result, stages: Mapping[str, Stage]) -> None:
    """Check that the stages are the exits that the table of a result was scored with, and record
    the kind of their samples."""
    for single in result.singles:
        stage, ensemble = stages.get(single.name), ensemble_of(single.origin)
        if isinstance(stage, EnsembleStage):
            if ensemble is not None and ensemble != stage.ensemble:
                raise ModelError(
                    f"{single.name!r} is not the ensemble that was searched, it is "
                    f"{stage.ensemble} and was {ensemble}: leave it out, the result brings its own"
                )
        elif stage is not None:
            check_identity(
                single.name,
                single.origin,
                stage,
                past="scored",
                remedy="restore it, or score it again",
            )
            if INPUT in single.origin:
                stage.origin = {**stage.origin, INPUT: single.origin[INPUT]}


def _memory_format(value: Tensor) -> torch.memory_format:
    """Channels-last where a batch of feature maps is stored so."""
    last = value.ndim == 4 and not value.is_contiguous()
    if last and value.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _on_host(prediction: Tensor, confidence: Tensor) -> tuple[Array, Array]:
    """Both as arrays, int64 and float32, in one transfer."""
    both = torch.stack([prediction.to(torch.int32), confidence.float().view(torch.int32)])
    host = both.cpu().numpy()
    return host[0].astype(np.int64), host[1].view(np.float32)
