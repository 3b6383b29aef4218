"""A stage: preprocessing, model and confidence, the same code for scoring and for running."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from understudy.errors import DataError, ModelError, PolicyError, unknown
from understudy.graph.model_output import logits_in
from understudy.nn.confidence_functions import confidence_functions
from understudy.nn.input_guard import InputGuard
from understudy.nn.preprocess import Image, Resizing, on_device, pixels_of
from understudy.nn.preprocess import Images as Images  # noqa: PLC0414
from understudy.nn.preprocess import Preprocess as Preprocess  # noqa: PLC0414
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.runtime.protocol import SampleKind, StageState, StateKey

EMPTY: StageState = MappingProxyType({})
INPUT = "input"  # in the origin of a stage
COMPILED = "_orig_mod"  # the name of a module inside what `torch.compile` returns


class StagePart(NamedTuple):
    """Work that a sample pays for once: the name of the part in the cost, and its function.

    `run` takes images and state and returns the state with the values that it computed; where the
    state shows that the work is done it returns the state as it is.
    """

    part: str
    run: Callable[[Images, StageState], StageState]


class StageOutput(NamedTuple):
    """The output of a stage: logits (N, C), confidence (N,) float32, state for later stages."""

    logits: Tensor
    confidence: Tensor
    state: StageState


class InputKind(NamedTuple):
    """The shape and dtype of one ready sample, as a model was scored on it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(origin: Mapping[str, Any]) -> InputKind | None:
        """What an origin has recorded; None where nothing is, as for models that set a size.

        Raises:
            ModelError: no dtype of PyTorch.
        """
        known = origin.get(INPUT)
        if known is None:
            return None
        dtype = getattr(torch, str(known["dtype"]), None)
        if not isinstance(dtype, torch.dtype):
            raise ModelError(f"samples have a dtype, found {known['dtype']!r}: score them again")
        return InputKind(tuple(known["shape"]), dtype)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"shape": list(self.shape), "dtype": str(self.dtype).removeprefix("torch.")}


class Stage(nn.Module):
    """A model with its preprocessing, from raw images to logits.

    The model is put into eval mode, and back into it before every run; it runs without gradients.
    Images are moved to its device first. Without `preprocess` the model gets tensors as they are (a
    list is stacked): for modules that take ready tensors. Images stay as they are, also where the
    model writes into its input.

    Args:
        model: returns logits (N, C), or an object, dictionary or tuple with its `logits`.
        preprocess: what is done to uint8 images first, or None.
        origin: plain JSON: where the model comes from; `spec` names how to make it again.

    >>> stage = Stage(nn.Linear(4, 3), origin={"spec": "py:nets:tiny"})
    >>> stage(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocess: Preprocess | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.preprocess = preprocess
        self.origin: Mapping[str, Any] = dict(origin or {})
        self._guard = InputGuard()
        self._evaluating = False  # whether the model has been put into eval mode to run

    def forward(self, images: Images) -> Tensor:
        """Logits (N, C), everything being run.

        Raises:
            DataError: images that the preprocessing cannot take, or none at all.
            ModelError: the model does not return logits (N, C).
        """
        return self.resume(images, EMPTY)[0]

    @torch.inference_mode()
    def resume(self, images: Images, state: StageState) -> tuple[Tensor, StageState]:
        """Logits (N, C), and the state for later stages; work that the state holds is not repeated.

        Raises:
            DataError: images that the preprocessing cannot take, or none at all.
            ModelError: the model does not return logits (N, C).
        """
        if self.model.training or not self._evaluating:
            self.model.eval()
            self._evaluating = True
        return _checked(self.run_model(self.prepare(images), images), len(images)), state

    def run_model(self, ready: Tensor, images: Images) -> Tensor:
        """The model's logits for its input, on a copy where that is the images themselves and the
        model writes into it."""
        return logits_in(
            self._guard.run(self.model, ready) if ready is images else self.model(ready)
        )

    def run(
        self, images: Images, state: StageState = EMPTY, *, confidence: str = DEFAULT_CONFIDENCE
    ) -> StageOutput:
        """Logits, the named confidence, and the state for later stages.

        Raises:
            PolicyError: no such confidence.
            DataError: images that the preprocessing cannot take.
            ModelError: the model does not return logits (N, C).
        """
        if confidence not in confidence_functions:
            raise PolicyError(unknown("confidence", confidence, confidence_functions))
        logits, state = self.resume(images, state)
        with torch.inference_mode():
            return StageOutput(logits, confidence_functions[confidence](logits), state)

    def parts(self, name: str) -> tuple[StagePart, ...]:
        """The work until this stage can answer, in order: here one part, the model.

        After the last part the state holds the logits under `StateKey("logits", name)`.
        """

        def whole(images: Images, state: StageState) -> StageState:
            return {**state, StateKey("logits", name): self(images)}

        return (StagePart(name, whole),)

    @property
    def members(self) -> Mapping[str, Stage]:
        """The stages by exit whose logits this one takes from the state, or else runs itself."""
        return {}

    def prepare(self, images: Images) -> Tensor:
        """The model's input: the batch on its device, preprocessed, in its dtype.

        Raises:
            DataError: images that the preprocessing cannot take.
        """
        device = self.device
        if self.preprocess is None:
            batch = (images if isinstance(images, Tensor) else _stacked(images)).to(device)
            self._check_ready(batch)
            return batch
        return self.preprocess(on_device(images, device)).to(self.dtype)

    def _check_ready(self, batch: Tensor) -> None:
        """Refuse raw pixels where the model was scored on ready tensors, and the reverse."""
        known = InputKind.of(self.origin)
        if known is not None and known.dtype.is_floating_point != batch.is_floating_point():
            raise DataError(
                f"this model was scored on ready tensors, {known.dtype} {known.shape} each, found "
                f"{batch.dtype} {tuple(batch.shape[1:])}: give it what it was scored on, or its "
                "Stage a Preprocess"
            )

    @property
    def sample_kind(self) -> SampleKind | None:
        """The type and shape of a sample; None where that is not known."""
        if self.preprocess is not None:
            sized = self.preprocess.size is not None
            return SampleKind("uint8", (len(self.preprocess.mean), None, None), resized=sized)
        known = InputKind.of(self.origin)
        if known is None:
            return None
        return SampleKind(str(known.dtype).removeprefix("torch."), known.shape)

    @property
    def resizings(self) -> frozenset[Resizing | None]:
        """How it resizes images, by itself and in stages that it runs; None takes them as are."""
        return frozenset({None if self.preprocess is None else self.preprocess.resizing})

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter or buffer is; CPU where it has none."""
        first = next(chain(self.model.parameters(), self.model.buffers()), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's first floating parameter or buffer; float32 without one."""
        tensors = chain(self.model.parameters(), self.model.buffers())
        return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)

    @property
    def spec(self) -> str | None:
        """How the model can be made again, or None for one that exists in memory alone."""
        spec = self.origin.get("spec")
        return None if spec is None else str(spec)

    @property
    def weights_hash(self) -> str:
        """SHA-256 over the model's state: names (sorted), dtypes, shapes and bytes."""
        return hash_of(self.model)

    def to_origin(self) -> dict[str, Any]:
        """Plain JSON that identifies what runs: origin, weights hash, preprocessing and dtype."""
        return {
            **self.origin,
            "weights_hash": self.weights_hash,
            "preprocess": None if self.preprocess is None else self.preprocess.to_dict(),
            "dtype": str(self.dtype).removeprefix("torch."),
        }


class StageGroup(nn.Module, ABC):
    """A module that is several stages at once: a network with exits."""

    @abstractmethod
    def stages(self, name: str) -> dict[str, Stage]:
        """The stages by exit, in the order of execution; `name` is that of the whole network."""


def as_stage(model: nn.Module) -> Stage:
    """The stage itself, or a plain stage around any other module, which gets tensors as they are.

    Raises:
        ModelError: not a module, or a compiled stage.
    """
    if isinstance(model, Stage):
        return model
    if isinstance(uncompiled(model), Stage | StageGroup):
        raise ModelError(
            f"a {type(uncompiled(model)).__name__} is compiled inside, found one behind "
            "torch.compile: compile the model that it is made of"
        )
    if isinstance(model, nn.Module):
        return Stage(model)
    raise ModelError(f"a model is a Stage or a torch.nn.Module, found {type(model).__name__}")


def stages_of(models: Mapping[str, nn.Module]) -> dict[str, Stage]:
    """The stages by exit: one per model, and every exit of a network.

    >>> list(stages_of({"tiny": nn.Linear(4, 3)}))
    ['tiny']

    Raises:
        ModelError: not a module, or two exits of one name.
    """
    stages: dict[str, Stage] = {}
    for name, model in models.items():
        own = model.stages(name) if isinstance(model, StageGroup) else {name: as_stage(model)}
        twice = [exit for exit in own if exit in stages]
        if twice:
            raise ModelError(
                f"exits have names of their own, {name!r} brings {twice[0]!r}, which is there "
                "already: leave one out, or rename it"
            )
        stages |= own
    return stages


def resizings_of(stages: Iterable[Stage]) -> frozenset[Resizing | None]:
    """How some stages resize images, for `batches`.

    >>> resizings_of([Stage(nn.Linear(4, 3))])
    frozenset({None})
    """
    return frozenset[Resizing | None]().union(*(stage.resizings for stage in stages))


def usable_device(name: str | None) -> str:
    """The device, as torch names it; by default an NVIDIA GPU if there is one, else the CPU.

    >>> usable_device("cpu")
    'cpu'

    Raises:
        ModelError: it cannot be used on this machine.
    """
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=chosen).item()  # the device `meta` computes nothing
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ModelError(
            f"device {chosen!r} cannot be used ({str(error).splitlines()[0]}): try 'cpu'"
        ) from error
    return chosen


def uncompiled(model: nn.Module) -> nn.Module:
    """The module itself, where it was passed through `torch.compile`.

    >>> net = nn.Linear(4, 3)
    >>> uncompiled(net) is net
    True
    """
    inner = getattr(model, COMPILED, None)
    return inner if isinstance(inner, nn.Module) else model


def hash_of(model: nn.Module) -> str:
    """SHA-256 over a module's state: names (sorted), dtypes, shapes and bytes.

    Names are those of the module before `torch.compile`, which puts its own between them.
    """
    digest = hashlib.sha256()
    named = model.state_dict().items()
    state = {name.replace(f"{COMPILED}.", ""): value for name, value in named}
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _stacked(samples: Sequence[Image]) -> Tensor:
    shapes = dict.fromkeys(tuple(sample.shape) for sample in samples)
    if not shapes:
        raise DataError("a batch has at least one sample, found none")
    if len(shapes) > 1:
        raise DataError(
            "a model without preprocessing takes samples of one shape, found "
            f"{', '.join(map(str, shapes))}: give its Stage a Preprocess with a size"
        )
    return torch.stack([pixels_of(sample) for sample in samples])


def _checked(logits: Tensor, samples: int) -> Tensor:
    if logits.ndim != 2 or not logits.is_floating_point() or len(logits) != samples:
        raise ModelError(
            f"a model returns floating logits (N, C), here N = {samples}, found the shape "
            f"{tuple(logits.shape)} of {logits.dtype}: return one row of class scores per sample"
        )
    if not logits.shape[1]:
        raise ModelError(f"logits have at least one class, found the shape {tuple(logits.shape)}")
    return logits
