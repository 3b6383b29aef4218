"""The MACs of single operators: formulas for those that multiply, a list of those that are free."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import flop_registry


class Call(NamedTuple):
    """One call of an operator."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any


Formula = Callable[[Call], int]


def formula_of(operator: Any) -> Formula | None:
    """The MACs of one call of an operator, or None where no formula is known.

    Matrix products and convolutions are PyTorch's own formulas, FLOPs halved.
    """
    name = name_of(operator)
    if name in _FORMULAS:
        return _FORMULAS[name]
    if name.startswith("_scaled_dot_product"):
        return _attention
    flops = flop_registry.get(getattr(operator, "_overloadpacket", operator))
    if flops is None:
        return None
    return lambda call: int(flops(*call.args, **call.kwargs, out_val=call.result)) // 2


def is_free(operator: Any) -> bool:
    """Whether an operator costs no MACs by convention: a view, elementwise, or in `FREE`."""
    if getattr(operator, "is_view", False) or torch.Tag.pointwise in getattr(operator, "tags", ()):
        return True
    return name_of(operator).rstrip("_") in _FREE_NAMES


def name_of(operator: Any) -> str:
    """The operator's name without its overload, `aten` left out."""
    schema = getattr(operator, "_schema", None)
    return str(operator) if schema is None else str(schema.name).removeprefix("aten::")


def _attention(call: Call) -> int:
    """Every query meets every key (and value), masked or not."""
    query, key, value = call.args[:3]
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return int(pairs * (query.shape[-1] + value.shape[-1]))


def _recurrent(call: Call) -> int:
    """Every step of every sequence meets each weight matrix once (LSTM, GRU, plain RNN)."""
    inputs, first = call.args[:2]
    weights = first if isinstance(first, list | tuple) else call.args[1:5]
    steps = inputs.numel() // inputs.shape[-1]
    return int(steps * sum(weight.numel() for weight in weights if weight.ndim == 2))


def _vector_product(call: Call) -> int:
    return int(call.args[-2].numel())


def _summed_products(call: Call) -> int:
    return int(call.args[1].numel() * call.args[2].shape[-1])


_FORMULAS: Mapping[str, Formula] = {
    "mv": _vector_product,
    "addmv": _vector_product,
    "dot": _vector_product,
    "vdot": _vector_product,
    "addbmm": _summed_products,
    "mkldnn_rnn_layer": _recurrent,
    "_cudnn_rnn": _recurrent,
    "miopen_rnn": _recurrent,
}

FREE: Mapping[str, str] = {
    "made": """
        empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones
        ones_like new_ones full full_like new_full arange eye linspace scalar_tensor tril_indices
        triu_indices rand rand_like randn randn_like bernoulli native_dropout
    """,
    "moved": """
        _to_copy copy detach lift_fresh _unsafe_view as_strided resize cat stack repeat roll flip
        tril triu constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d
        replication_pad2d im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle
        repeat_interleave _local_scalar_dense _pack_padded_sequence _pad_packed_sequence
    """,
    "looked up": """
        index _unsafe_index index_select index_put _unsafe_index_put index_add index_copy index_fill
        gather scatter scatter_add embedding _embedding_bag nonzero masked_select bucketize
        searchsorted
    """,
    "activated": """
        hardswish glu _prelu_kernel _softmax _log_softmax logsumexp _thnn_fused_lstm_cell
        _thnn_fused_gru_cell
    """,
    "reduced and ordered": """
        sum mean prod amax amin max min argmax argmin any all var var_mean std std_mean norm
        linalg_vector_norm cumsum cumprod sort argsort topk kthvalue median unique_dim _unique2
    """,
    "normalised": """
        native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
        cudnn_batch_norm miopen_batch_norm native_layer_norm native_group_norm _fused_rms_norm
    """,
    "pooled and resampled": """
        avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices _adaptive_avg_pool2d
        _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d
        upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
        upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d
        _upsample_bicubic2d_aa upsample_trilinear3d
    """,
}
"""Operators that cost no MACs by convention, beside views and elementwise ones."""

_FREE_NAMES = frozenset(name for names in FREE.values() for name in names.split())
