"""The MACs of an ONNX model, by the shapes that one run of it shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from understudy.errors import ModelError
from understudy.nn.cost import MacCount
from understudy.onnx.session import Session, first_line

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
_Formula = Callable[[Any, Sequence[Shape], Shape], int]


def count_onnx(graph: bytes, images: Array) -> MacCount:
    """The MACs of one sample: multiply-adds of convolutions, matrix products and attention.

    All other operators of ONNX count nothing but recurrent layers, control flow, `Einsum` and the
    like, and the operators of other domains, which are named.

    Args:
        graph: an ONNX model with one input.
        images: (N, ...) as the model takes them.

    Raises:
        ModelError: the model cannot be run.
    """
    import onnx
    from onnx import inliner

    model = onnx.load_model_from_string(graph)
    if model.functions:
        model = inliner.inline_local_functions(model)
    nodes = [node for node in model.graph.node if _key(node) in _FORMULAS]
    shapes = _shapes(model, nodes, images)
    total = 0
    for node in nodes:
        formula, taken = _FORMULAS[_key(node)]
        inputs = [shapes[node.input[place]] for place in taken]
        total += formula(node, inputs, shapes[node.output[0]])
    uncounted = {_key(node) for node in model.graph.node if _may_multiply(node)}
    return MacCount(total / len(images), tuple(sorted(uncounted)))


def _shapes(model: Any, nodes: Sequence[Any], images: Array) -> Mapping[str, Shape]:
    """The shapes of what some nodes take and give, from one run that returns all of them."""
    import onnx

    known = {one.name: tuple(one.dims) for one in model.graph.initializer}
    (taken,) = [one.name for one in model.graph.input if one.name not in known]
    known[taken] = images.shape
    own = {one.name for one in model.graph.output}
    wanted = dict.fromkeys(
        name
        for node in nodes
        for name in (node.output[0], *(node.input[place] for place in _FORMULAS[_key(node)][1]))
        if name not in known
    )
    if not wanted:
        return known
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in own)
    session = Session(
        model.SerializeToString(), "its MACs", inputs=[taken], outputs=list(wanted), threads=1
    )
    try:
        found = session([images])
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime runs a model to count its MACs, it raised {first_line(error)}: export "
            "it again, or use `understudy import` for its predictions"
        ) from error
    return known | {name: value.shape for name, value in zip(wanted, found, strict=True)}


def _key(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _may_multiply(node: Any) -> bool:
    key = _key(node)
    return key not in _FORMULAS and (key in _WITHOUT_FORMULA or "." in key)


def _convolution(_: Any, inputs: Sequence[Shape], output: Shape) -> int:
    return math.prod(output) * math.prod(inputs[0][1:])


def _transposed(_: Any, inputs: Sequence[Shape], _output: Shape) -> int:
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _product(_: Any, inputs: Sequence[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][-1]


def _general_product(node: Any, inputs: Sequence[Shape], output: Shape) -> int:
    transposed = any(one.name == "transA" and one.i for one in node.attribute)
    return math.prod(output) * inputs[0][0 if transposed else -1]


def _attention(_: Any, inputs: Sequence[Shape], output: Shape) -> int:
    return (math.prod(inputs[0]) + math.prod(output)) * inputs[1][-2]


# Operator -> its formula, and the places of the inputs whose shapes that takes.
_FORMULAS: Mapping[str, tuple[_Formula, tuple[int, ...]]] = {
    "Conv": (_convolution, (1,)),
    "ConvInteger": (_convolution, (1,)),
    "QLinearConv": (_convolution, (3,)),
    "com.microsoft.FusedConv": (_convolution, (1,)),
    "ConvTranspose": (_transposed, (0, 1)),
    "MatMul": (_product, (0,)),
    "MatMulInteger": (_product, (0,)),
    "QLinearMatMul": (_product, (0,)),
    "Gemm": (_general_product, (0,)),
    "com.microsoft.FusedGemm": (_general_product, (0,)),
    "com.microsoft.QGemm": (_general_product, (0,)),
    "Attention": (_attention, (0, 1)),
}
_WITHOUT_FORMULA = frozenset(
    (
        *("CausalConvWithState", "DFT", "DeformConv", "Det", "Einsum", "GRU", "If", "LSTM"),
        *("LinearAttention", "Loop", "RNN", "STFT", "Scan", "SequenceMap"),
    )
)
