"""What a stage costs: MACs counted on the very module that runs, and measured milliseconds."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode

from understudy.nn.device import Images
from understudy.nn.operators import Call, formula_of, is_free, name_of
from understudy.nn.stage import EMPTY, Stage
from understudy.runtime.state import StageState


@dataclass(frozen=True)
class MacCount:
    """The MACs of one sample: one fused multiply-add counts once.

    Attributes:
        total: MACs per sample.
        by_operator: the same, by operator.
        by_module: the same, by path of the module inside the model; a module's count includes its
            children's, "" is the model itself. A module that is known by two paths has the first.
        uncounted: operators that were called and may multiply, but have no formula here.
    """

    total: float
    by_operator: Mapping[str, float]
    by_module: Mapping[str, float]
    uncounted: tuple[str, ...]


def count_macs(stage: Stage, image: Tensor) -> MacCount:
    """Count the MACs that the stage's model runs for one image, its preprocessing left out.

    MACs are the multiply-adds of matrix products, convolutions, attention and recurrent layers.
    By convention these are free: views and copies, elementwise work (activations among it), sums,
    extremes and orderings, normalisation, pooling and resampling, lookups. Every other operator is
    either counted or named in `uncounted`. Kernels that bypass PyTorch's dispatcher (raw Triton or
    pybind extensions, graphs that `torch.compile` fused) cannot be seen: count the plain module.

    The fast path of `nn.MultiheadAttention` is off while counting, because it hides its products.

    Args:
        image: one sample, (C, H, W) for images.

    >>> count = count_macs(Stage(nn.Linear(4, 3)), torch.zeros(4))
    >>> count.total, dict(count.by_operator), count.uncounted
    (12.0, {'addmm': 12.0}, ())

    Raises:
        DataError: an image that the preprocessing cannot take.
    """
    ready = stage.prepare([image])
    meter = Meter()
    with torch.inference_mode(), mha_products_visible(), _paths(stage.model, meter), meter:
        stage.model.eval()(ready)
    return meter.count(stage.model)


def count_parts(stages: Mapping[str, Stage], image: Tensor) -> dict[str, MacCount]:
    """The MACs of one sample for every part that some stages run: part -> count.

    The stages are run one after another, each going on from what those before it did, so that
    what they share (segments of a trunk, tokens, a saver) is one part. Parts of a whole model have
    its preprocessing left out, as in `count_macs`; otherwise `by_module` is empty.

    >>> list(count_parts({"tiny": Stage(nn.Linear(4, 3))}, torch.zeros(4)))
    ['tiny']

    Raises:
        DataError: an image that the preprocessing cannot take.
    """
    counts: dict[str, MacCount] = {}
    state: StageState = EMPTY
    for name, stage in stages.items():
        for piece in stage.parts(name):
            meter = Meter()
            with torch.inference_mode(), mha_products_visible(), meter:
                state = piece.run([image], state)
            counts.setdefault(piece.part, meter.count(None))
    return counts


def measure_parts(
    stages: Mapping[str, Stage], images: Images, *, repeats: int = 5
) -> dict[str, float]:
    """Milliseconds per sample for every part: the median of some runs after one to warm up.

    Preprocessing belongs to the part that does it, and on an accelerator the wait until the work is
    done.

    >>> list(measure_parts({"tiny": Stage(nn.Linear(4, 3))}, torch.zeros(2, 4)))
    ['tiny']
    """
    times: dict[str, float] = {}
    state: StageState = EMPTY
    for name, stage in stages.items():
        for piece in stage.parts(name):
            if piece.part in times:
                continue
            elapsed = []
            for _ in range(repeats + 1):
                start = _now(stage.device)
                with torch.inference_mode():
                    after = piece.run(images, state)
                elapsed.append(_now(stage.device) - start)
            state = after
            times[piece.part] = 1000 * statistics.median(elapsed[1:]) / len(images)
    return times


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what goes through PyTorch's dispatcher while it is on."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_operator: dict[str, int] = defaultdict(int)
        self.by_module: dict[str, int] = defaultdict(int)
        self.uncounted: set[str] = set()
        self.inside: list[str] = []

    def count(self, model: nn.Module | None) -> MacCount:
        """What was counted; by module where a model is given."""
        paths = () if model is None else (path for path, _ in model.named_modules())
        return MacCount(
            total=float(sum(self.by_operator.values())),
            by_operator={name: float(macs) for name, macs in self.by_operator.items()},
            by_module={path: float(self.by_module.get(path, 0)) for path in paths},
            uncounted=tuple(sorted(self.uncounted)),
        )

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = formula_of(func)
        if formula is None and not is_free(func):
            if hasattr(func, "decompose"):
                with self:
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            self.uncounted.add(name_of(func))
        result = func(*args, **kwargs)
        if formula is not None:
            self._add(name_of(func), formula(Call(args, kwargs, result)))
        return result

    def _add(self, operator: str, macs: int) -> None:
        self.by_operator[operator] += macs
        for path in set(self.inside):
            self.by_module[path] += macs


@contextmanager
def _paths(model: nn.Module, meter: Meter) -> Iterator[None]:
    """Keep `meter.inside` at the modules that are running, outermost first."""
    paths = {module: path for path, module in model.named_modules()}

    def enter(module: nn.Module, _args: Any) -> None:
        if module in paths:
            meter.inside.append(paths[module])

    def leave(module: nn.Module, _args: Any, _result: Any) -> None:
        if module in paths:
            meter.inside.pop()

    handles = (
        hooks.register_module_forward_pre_hook(enter),
        hooks.register_module_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def mha_products_visible() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _now(device: torch.device) -> float:
    """The clock in seconds, when all work on the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
