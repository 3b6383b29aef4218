"""Batch-norm folding in captured segments, and activations computed in place."""

from __future__ import annotations

import copy
import operator
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx

CONVOLUTIONS = (torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default)
FRESH = (*CONVOLUTIONS, torch.ops.aten.linear.default, torch.ops.aten.add.Tensor)
"""Operations whose result has memory of its own."""
IN_PLACE = {
    torch.ops.aten.relu.default: torch.ops.aten.relu_.default,
    torch.ops.aten.hardswish.default: torch.ops.aten.hardswish_.default,
    torch.ops.aten.silu.default: torch.ops.aten.silu_.default,
}


@torch.no_grad()
def fold(segment: fx.GraphModule) -> fx.GraphModule:
    """A copy of a segment with the same results, up to rounding, in fewer passes over memory.

    A batch norm after a convolution with no other reader becomes part of the convolution's weights,
    which are copied; an activation overwrites its input if that has no other reader.

    >>> from understudy.graph.partition import partition
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    >>> x = torch.rand(2, 3, 8, 8)
    >>> made = fold(partition(model, x, []).segments[0])
    >>> torch.allclose(made(x)[0], model(x), atol=1e-5)
    True
    """
    made = fx.GraphModule(segment, copy.deepcopy(segment.graph))
    for number, node in enumerate(list(made.graph.nodes)):
        if node.target is torch.ops.aten.batch_norm.default and _is_foldable(node):
            _fold_norm(made, node, f"folded_{number}")
    for node in made.graph.nodes:
        if node.target in IN_PLACE and _has_one_reader(node.args[0]):
            node.target = IN_PLACE[node.target]
    made.graph.eliminate_dead_code()
    made.delete_all_unused_submodules()
    made.recompile()
    return made


def _has_one_reader(value: Any) -> TypeGuard[fx.Node]:
    """Whether a value has memory of its own and is read once."""
    return isinstance(value, fx.Node) and value.target in FRESH and len(value.users) == 1


def _is_foldable(norm: fx.Node) -> bool:
    conv, weight, bias, mean, variance, training = norm.args[:6]
    if not (_has_one_reader(conv) and conv.target in CONVOLUTIONS) or training:
        return False
    needed, optional = (conv.args[1], mean, variance), (*conv.args[2:3], weight, bias)
    return all(map(_is_attribute, needed)) and all(
        one is None or _is_attribute(one) for one in optional
    )


def _is_attribute(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def _fold_norm(made: fx.GraphModule, norm: fx.Node, name: str) -> None:
    arguments: tuple[Any, ...] = norm.args
    conv, weight, bias, mean, variance, _, _, epsilon = arguments[:8]
    scale = (_tensor(made, variance).double() + epsilon).rsqrt()
    if weight is not None:
        scale = scale * _tensor(made, weight)
    kernel = _tensor(made, conv.args[1])
    shift = -_tensor(made, mean).double() * scale
    if len(conv.args) > 2 and conv.args[2] is not None:
        shift = shift + _tensor(made, conv.args[2]).double() * scale
    if bias is not None:
        shift = shift + _tensor(made, bias)
    shape = (-1, *[1] * (kernel.ndim - 1))
    made.register_buffer(f"{name}_weight", (kernel.double() * scale.view(shape)).to(kernel))
    made.register_buffer(f"{name}_bias", shift.to(kernel))
    with made.graph.inserting_before(conv):
        stored = [made.graph.get_attr(f"{name}_{part}") for part in ("weight", "bias")]
    conv.args = (conv.args[0], *stored, *conv.args[3:])
    norm.replace_all_uses_with(conv)
    made.graph.erase_node(norm)


def _tensor(made: fx.GraphModule, node: Any) -> Tensor:
    found: Tensor = operator.attrgetter(str(node.target))(made)
    return found.detach()
