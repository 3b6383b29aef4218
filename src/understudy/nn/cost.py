"""The cost of stages: MACs counted on the modules that run, and measured milliseconds."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils.flop_counter import flop_registry

from understudy.errors import ModelError
from understudy.nn.preprocess import Image
from understudy.nn.stage import EMPTY, Images, Stage
from understudy.runtime.protocol import StageState


@dataclass(frozen=True)
class MacCount:
    """The MACs of one sample: one fused multiply-add counts once.

    Attributes:
        total: MACs per sample.
        uncounted: operators that were called and may multiply, but have no formula here.
    """

    total: float
    uncounted: tuple[str, ...]


def count_parts(stages: Mapping[str, Stage], image: Image) -> dict[str, MacCount]:
    """The MACs of one sample for every part that some stages run: part -> count.

    The stages are run one after another, each on the state of those before it, so that work they
    share (segments of a trunk, tokens, a saver) is one part.

    MACs are the multiply-adds of matrix products, convolutions, attention and recurrent layers.
    By convention these are free: views and copies, elementwise work (activations among it), sums,
    extremes and orderings, normalisation, pooling and resampling (preprocessing among it), lookups.
    Every other operator is either counted or named in `uncounted`. Kernels that bypass PyTorch's
    dispatcher (raw Triton or pybind extensions) cannot be seen: count a plain module. A compiled
    one is run as it was.

    Args:
        stages: by exit.
        image: one sample, (C, H, W) for images.

    >>> count_parts({"tiny": Stage(torch.nn.Linear(4, 3))}, torch.zeros(4))
    {'tiny': MacCount(total=12.0, uncounted=())}

    Raises:
        DataError: an image that the preprocessing cannot take.
    """
    counts: dict[str, MacCount] = {}
    state: StageState = EMPTY
    for name, stage in stages.items():
        for part, run in stage.parts(name):
            with count_macs() as meter:
                state = run([image], state)
            count = MacCount(float(meter.macs), tuple(sorted(meter.uncounted)))
            counts.setdefault(part, count)
    return counts


def time_parts(stages: Mapping[str, Stage], images: Images) -> dict[str, float]:
    """Milliseconds per sample for every part, from one run of each.

    Preprocessing belongs to the part that does it. On an accelerator the time includes waiting for
    the work to finish.

    >>> list(time_parts({"tiny": Stage(torch.nn.Linear(4, 3))}, torch.zeros(2, 4)))
    ['tiny']
    """
    times: dict[str, float] = {}
    state: StageState = EMPTY
    for name, stage in stages.items():
        for part, run in stage.parts(name):
            if part in times:
                continue
            start = _now(stage.device)
            with torch.inference_mode():
                state = run(images, state)
            times[part] = 1000 * (_now(stage.device) - start) / len(images)
    return times


def measure_parts(
    stages: Mapping[str, Stage], images: Images, *, repeats: int = 5
) -> dict[str, float]:
    """Milliseconds per sample for every part: the median of some runs after one to warm up.

    >>> list(measure_parts({"tiny": Stage(torch.nn.Linear(4, 3))}, torch.zeros(2, 4)))
    ['tiny']
    """
    runs = [time_parts(stages, images) for _ in range(repeats + 1)]
    return {part: statistics.median(run[part] for run in runs[1:]) for part in runs[0]}


def run_eagerly() -> AbstractContextManager[object]:
    """Run compiled modules as they are meanwhile, so that nothing is compiled.

    Where the compiler was never imported there are none, and importing it takes seconds.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return eager


class DefinitionCost(NamedTuple):
    """What a model's definition costs.

    Attributes:
        parameters: how many numbers its weights are.
        macs: MACs of one sample.
        uncounted: as for `MacCount`.
    """

    parameters: int
    macs: int
    uncounted: tuple[str, ...]


def count_definition(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> DefinitionCost:
    """Parameters and MACs of a model that is made and run on the meta device.

    Neither weights nor activations take memory, so that models of any size are counted in about a
    second (those that read values of tensors while they are made take the memory of their weights).
    Models that branch on values while they run cannot be counted so: use `count_parts`.

    Args:
        make: makes the model, without weights.
        shape: of one sample as the model takes it, such as (3, 224, 224).

    >>> count_definition(lambda: torch.nn.Linear(4, 3), (4,))
    DefinitionCost(parameters=15, macs=12, uncounted=())
    """
    model = _on_meta(make).eval()
    with torch.device("meta"):  # for tensors that are made while it runs
        sample = torch.empty(1, *shape)
        with count_macs() as meter:
            model(sample)
    parameters = sum(weights.numel() for weights in model.parameters())
    return DefinitionCost(parameters, meter.macs, tuple(sorted(meter.uncounted)))


def _on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """A model on the meta device; one that reads values of tensors while it is made comes from the
    CPU."""
    try:
        with torch.device("meta"):
            return make()
    except (RuntimeError, ModelError):  # a meta tensor has no values
        return make().to("meta")


@contextmanager
def count_macs() -> Iterator[MacMeter]:
    """Count the MACs of everything that runs in the context, without gradients.

    The fast path of `nn.MultiheadAttention` is off meanwhile, because it hides its products.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with run_eagerly(), torch.inference_mode(), MacMeter() as meter:
            yield meter
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def add_macs(count: Callable[[], MacCount], *, samples: int) -> None:
    """Add what a model computes outside of PyTorch to the meters that are on, if any.

    Args:
        count: the MACs of one sample; it is called only where a meter is on.
        samples: how many samples the model computes.

    >>> with count_macs() as meter:
    ...     add_macs(lambda: MacCount(5.0, ("Einsum",)), samples=2)
    >>> meter.macs, meter.uncounted
    (10, {'Einsum'})
    """
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(mode, MacMeter):
            found = count()
            mode.macs += round(found.total * samples)
            mode.uncounted.update(found.uncounted)


class MacMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that PyTorch dispatches while it is on.

    Attributes:
        macs: multiply-adds so far.
        uncounted: names of operators without a formula so far.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to load the compiler, which takes seconds; what it has compiled runs eagerly."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.uncounted: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = _formula_of(func)
        if formula is None and not _is_free(func):
            if hasattr(func, "decompose"):
                with self:
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            self.uncounted.add(_name_of(func))
        result = func(*args, **kwargs)
        if formula is not None:
            self.macs += formula(_Call(args, kwargs, result))
        return result


def _now(device: torch.device) -> float:
    """The clock in seconds, after all work on the device has finished."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


class _Call(NamedTuple):
    """A call of an operator."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any


_Formula = Callable[[_Call], int]


def _formula_of(operator: Any) -> _Formula | None:
    """The MACs of one call of an operator, or None where no formula is known.

    Matrix products and convolutions are PyTorch's own formulas, FLOPs halved.
    """
    name = _name_of(operator)
    if name in _FORMULAS:
        return _FORMULAS[name]
    if name.startswith("_scaled_dot_product"):
        return _attention
    flops = flop_registry.get(getattr(operator, "_overloadpacket", operator))
    if flops is None:
        return None
    return lambda call: int(flops(*call.args, **call.kwargs, out_val=call.result)) // 2


def _is_free(operator: Any) -> bool:
    """Whether an operator has no MACs by convention: a view, elementwise, or a free operator."""
    if getattr(operator, "is_view", False) or torch.Tag.pointwise in getattr(operator, "tags", ()):
        return True
    return _name_of(operator).rstrip("_") in _FREE_NAMES


def _name_of(operator: Any) -> str:
    """The operator's name without its overload, `aten` left out."""
    schema = getattr(operator, "_schema", None)
    return str(operator) if schema is None else str(schema.name).removeprefix("aten::")


def _attention(call: _Call) -> int:
    """Products of all pairs of queries and keys, and of queries and values, masked or not."""
    query, key, value = call.args[:3]
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return int(pairs * (query.shape[-1] + value.shape[-1]))


def _recurrent(call: _Call) -> int:
    """One product with each weight matrix per step and sequence (LSTM, GRU, plain RNN)."""
    inputs, first = call.args[:2]
    weights = first if isinstance(first, list | tuple) else call.args[1:5]
    steps = inputs.numel() // inputs.shape[-1]
    return int(steps * sum(weight.numel() for weight in weights if weight.ndim == 2))


def _vector_product(call: _Call) -> int:
    return int(call.args[-2].numel())


def _summed_products(call: _Call) -> int:
    return int(call.args[1].numel() * call.args[2].shape[-1])


_FORMULAS: Mapping[str, _Formula] = {
    "mv": _vector_product,
    "addmv": _vector_product,
    "dot": _vector_product,
    "vdot": _vector_product,
    "addbmm": _summed_products,
    "mkldnn_rnn_layer": _recurrent,
    "_cudnn_rnn": _recurrent,
    "miopen_rnn": _recurrent,
}

_FREE_OPERATORS: Mapping[str, str] = {
    "creation": """
        fill zero empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like
        new_zeros ones ones_like new_ones full full_like new_full arange eye linspace
        scalar_tensor tril_indices triu_indices rand rand_like randn randn_like bernoulli
        native_dropout
    """,
    "copies": """
        _to_copy copy detach lift_fresh _unsafe_view as_strided resize cat stack repeat roll flip
        tril triu constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d
        replication_pad2d im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle
        repeat_interleave _local_scalar_dense _pack_padded_sequence _pad_packed_sequence
    """,
    "lookups": """
        index _unsafe_index index_select index_put _unsafe_index_put index_add index_copy index_fill
        gather scatter scatter_add embedding _embedding_bag nonzero masked_select bucketize
        searchsorted
    """,
    "activations": """
        hardswish glu _prelu_kernel _softmax _log_softmax logsumexp _thnn_fused_lstm_cell
        _thnn_fused_gru_cell
    """,
    "integers and checks": """
        floor_divide _assert_async
    """,
    "reductions and orderings": """
        sum mean prod amax amin max min argmax argmin any all var var_mean std std_mean norm
        linalg_vector_norm cumsum cumprod sort argsort topk kthvalue median unique_dim _unique2
    """,
    "normalisation": """
        native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
        cudnn_batch_norm miopen_batch_norm native_layer_norm native_group_norm _fused_rms_norm
    """,
    "pooling and resampling": """
        avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d
        _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d
        upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
        upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d
        _upsample_bicubic2d_aa upsample_trilinear3d
    """,
}
"""Operators without MACs by convention, in addition to views and elementwise ones."""

_FREE_NAMES = frozenset(name for names in _FREE_OPERATORS.values() for name in names.split())
