from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mac_counts import macs_of
from understudy.early_exit.heads import (
    LAYOUTS,
    PRESETS,
    ConvHead,
    Head,
    HeadSpec,
    Layout,
    PlainHead,
    PooledHead,
    make_head,
    pool,
)
from understudy.errors import ModelError
from understudy.nn.stage import Stage

SHAPES = {"NCHW": (6, 9, 12), "NHWC": (9, 12, 6), "NTC": (5, 6), "NC": (6,)}
MAPS = ("NCHW", "NHWC")


def made(
    kind: str,
    layout: Layout = "NC",
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    classes: int = 4,
) -> Head:
    torch.manual_seed(seed)
    return make_head(kind, shape=shape or SHAPES[layout], layout=layout, classes=classes)


def feature(layout: Layout, samples: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, *SHAPES[layout], generator=generator)


def settled(head: Head, x: Tensor) -> Head:
    """The head in eval mode after a few steps of statistics."""
    head.train()
    for _ in range(3):
        head(head.reduce(x))
    return head.eval()


class Whole(nn.Module):
    """A head as a model: both halves."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head.reduce(x))


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        *((kind, layout) for kind in ("linear", "mlp1x7", "mlp3x5") for layout in LAYOUTS),
        *(("conv8", layout) for layout in MAPS),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_shapes(kind: str, layout: Layout, training: bool) -> None:
    head = made(kind, layout).train(training)
    reduced = head.reduce(feature(layout))
    assert reduced.shape == ((3, 6, 8, 8) if kind == "conv8" else (3, 6))
    assert not reduced.requires_grad
    assert head(reduced).shape == (3, 4)


@pytest.mark.parametrize("kind", ["linear", "mlp2x5"])
def test_the_same_values_in_any_layout_give_the_same_logits(kind: str) -> None:
    nchw = feature("NCHW")
    alike: dict[Layout, torch.Tensor] = {
        "NCHW": nchw,
        "NHWC": nchw.permute(0, 2, 3, 1),
        "NTC": nchw.flatten(2).transpose(1, 2),
        "NC": nchw.mean((2, 3)),
    }
    logits = [settled(made(kind, name, tuple(x.shape[1:])), x)(pool(x, name))
              for name, x in alike.items()]  # fmt: skip
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0])


def test_a_convolutional_head_sees_the_same_map_in_both_layouts() -> None:
    x = feature("NCHW")
    nchw, nhwc = made("conv8", "NCHW"), made("conv8", "NHWC")
    y = x.permute(0, 2, 3, 1)
    torch.testing.assert_close(nhwc(nhwc.reduce(y)), nchw(nchw.reduce(x)))


@pytest.mark.parametrize("side", [(1, 1), (2, 3), (8, 8), (7, 40)])
def test_a_convolutional_head_takes_maps_of_any_size(side: tuple[int, int]) -> None:
    head = made("conv8", "NCHW", (6, *side)).eval()
    reduced = head.reduce(torch.randn(1, 6, *side))
    assert reduced.shape == (1, 6, min(side[0], 8), min(side[1], 8))
    assert head(reduced).shape == (1, 4)


@pytest.mark.parametrize("kind", [kind for kind in PRESETS if not kind.endswith("+saver")])
def test_presets_are_made_with_depth_and_width(kind: str) -> None:
    head = made(kind, "NCHW", (3, 4, 4))
    linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    if kind.startswith("mlp"):
        depth, width = map(int, kind[3:].split("x"))
        assert [layer.out_features for layer in linear] == [width] * (depth - 1) + [4]
    else:
        assert len(linear) == 1
    assert isinstance(head, ConvHead if kind.startswith("conv") else PooledHead)


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("lineer", "did you mean 'linear'"),
        ("mlp3x50O", "did you mean 'mlp3x500'"),
        ("conv", "did you mean 'conv"),
        ("mlp0x5", "mlpDxW"),
        ("plain", "no kind of head 'plain'"),
        ("", "no kind of head ''"),
    ],
)
def test_an_unknown_kind_is_an_error_with_the_nearest_names(kind: str, hint: str) -> None:
    with pytest.raises(ModelError, match=hint):
        made(kind)


@pytest.mark.parametrize("layout", ["NTC", "NC"])
def test_convolutions_are_for_maps(layout: Layout) -> None:
    with pytest.raises(ModelError, match=f"'conv8' on the layout {layout}.*use 'linear'"):
        made("conv8", layout)


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ModelError, match="no layout 'NWHC'; did you mean"):
        make_head("linear", shape=(3, 4, 4), layout="NWHC", classes=4)
    with pytest.raises(ModelError, match=r"2 sides .* found the shape \(3, 4, 4\)"):
        make_head("linear", shape=(3, 4, 4), layout="NTC", classes=4)
    with pytest.raises(ModelError, match="at least 1"):
        make_head("linear", shape=(0,), layout="NC", classes=4)
    with pytest.raises(ModelError, match="at least one class, found 0"):
        make_head("linear", shape=(3,), layout="NC", classes=0)
    with pytest.raises(ModelError, match=r"3 dimensions, found the shape \(2, 5\)"):
        pool(torch.zeros(2, 5), "NTC")
    with pytest.raises(ModelError, match="no layout"):
        pool(torch.zeros(2, 5), "CN")


@pytest.mark.parametrize("kind", ["linear", "mlp3x5", "conv8"])
def test_round_trip_through_json(kind: str) -> None:
    head = made(kind, "NHWC")
    again = HeadSpec.from_dict(json.loads(json.dumps(head.to_dict()))).build()
    assert again.spec == head.spec
    again.load_state_dict(head.state_dict())
    x = feature("NHWC")
    assert torch.equal(again.eval()(again.reduce(x)), head.eval()(head.reduce(x)))


@pytest.mark.parametrize(("kind", "macs"), [("mlp1x1000", 40_000), ("mlp3x500", 770_000)])
def test_kinds_are_those_of_dyce(kind: str, macs: int) -> None:
    """The MACs that its documentation gives for 40 channels and 1,000 classes."""
    head = make_head(kind, shape=(40,), layout="NC", classes=1000)
    assert macs_of(Stage(Whole(head)), torch.zeros(40)).total == macs


@pytest.mark.parametrize(
    ("old", "new"), [("mlp1x5", "mlp2x5"), ("mlp3x5", "mlp4x5"), ("mlp9x5+saver", "mlp10x5+saver")]
)
def test_heads_of_older_files_keep_their_layers(old: str, new: str) -> None:
    """Their `mlpDxW` had D hidden layers."""
    data = {"kind": old, "shape": [3], "layout": "NC", "classes": 2}
    spec = HeadSpec.from_dict(data | ({"told": 4} if "saver" in old else {}))
    assert (spec.kind, spec.build().kind) == (new, new)
    assert HeadSpec.from_dict(spec.to_dict()) == spec


def test_kinds_of_a_newer_version_are_an_error() -> None:
    with pytest.raises(ModelError, match="versions 1 to 2, found 3: update understudy"):
        HeadSpec("linear", (3,), "NC", 2, kinds=3)


def test_a_damaged_description_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"a head has the field 'shape' at \$, found none"):
        HeadSpec.from_dict({"kind": "linear"})
    with pytest.raises(ModelError, match=r"a whole number at \$\.shape\[0\], found 'x'"):
        HeadSpec.from_dict({"kind": "linear", "shape": ["x"], "layout": "NC", "classes": 2})
    with pytest.raises(ModelError, match="no kind of head"):
        HeadSpec.from_dict({"kind": "liner", "shape": [3], "layout": "NC", "classes": 2}).build()


def test_an_own_module() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(6 * 9 * 12, 4))
    head, x = PlainHead(module), feature("NCHW")
    assert head.reduce(x) is x
    assert torch.equal(head(x), module(x))
    assert head.reduction == "whole"
    assert (head.spec, head.to_dict()) == (None, {"kind": "plain"})
    with pytest.raises(ModelError, match="a head has the field 'shape'"):
        HeadSpec.from_dict(head.to_dict())


def test_equal_reductions_have_one_name_and_one_result() -> None:
    linear, deep, conv = (made(kind, "NCHW") for kind in ("linear", "mlp3x5", "conv8"))
    x = feature("NCHW")
    assert linear.reduction == deep.reduction != conv.reduction
    assert torch.equal(linear.reduce(x), deep.reduce(x))
    assert made("conv64", "NCHW").reduction == conv.reduction


@pytest.mark.parametrize("kind", ["linear", "mlp1x5", "conv8"])
def test_initial_values_are_the_callers(kind: str) -> None:
    same, other = made(kind, "NCHW", seed=0), made(kind, "NCHW", seed=7)
    x = feature("NCHW")
    first = made(kind, "NCHW", seed=0)
    assert torch.equal(first(first.reduce(x)), same(same.reduce(x)))
    assert not torch.equal(first(first.reduce(x)), other(other.reduce(x)))


@pytest.mark.parametrize("kind", ["linear", "mlp1x5", "conv8"])
def test_in_eval_mode_a_row_is_treated_alike_whatever_its_neighbours(kind: str) -> None:
    x = feature("NCHW", samples=5)
    head = settled(made(kind, "NCHW"), x)
    whole = head(head.reduce(x))
    torch.testing.assert_close(head(head.reduce(x[2:3])), whole[2:3])
    assert head(head.reduce(x[:0])).shape == (0, 4)


@pytest.mark.parametrize("kind", ["linear", "mlp1x5", "conv8"])
def test_the_scale_of_a_channel_does_not_matter(kind: str) -> None:
    x = feature("NCHW", samples=16)
    gain, offset = torch.logspace(-1, 3, 6).view(-1, 1, 1), 100.0
    plain, scaled = made(kind, "NCHW").train(), made(kind, "NCHW").train()
    found = scaled(scaled.reduce(x * gain + offset))
    torch.testing.assert_close(found, plain(plain.reduce(x)), rtol=0, atol=0.05)


def test_a_stored_feature_may_be_of_half_precision() -> None:
    head = made("mlp1x5", "NCHW").eval()
    reduced = head.reduce(feature("NCHW").half())
    assert reduced.dtype == torch.float16
    assert head(reduced).dtype == torch.float32
    assert head.double()(reduced).dtype == torch.float64


MACS = {
    "linear": 6 * 4,
    "mlp3x5": 6 * 5 + 5 * 5 + 5 * 4,
    "conv8": 16 * 6 * 8 * 9 + 16 * 8 * 16 * 9 + 32 * 4,
}


@pytest.mark.parametrize("layout", MAPS)
@pytest.mark.parametrize("kind", MACS)
def test_macs_are_counted_completely(kind: str, layout: Layout) -> None:
    head = made(kind, layout)
    found = macs_of(Stage(Whole(head)), torch.zeros(SHAPES[layout]))
    assert (found.total, found.uncounted) == (MACS[kind], ())


def parameters(head: Head) -> int:
    return sum(p.numel() for p in head.parameters())


def test_parameters() -> None:
    assert parameters(made("linear")) == 7 * 4
    assert parameters(made("mlp3x5")) == 7 * 5 + 6 * 5 + 6 * 4
    assert parameters(made("conv8", "NCHW")) == 6 * 8 * 9 + 16 + 8 * 16 * 9 + 32 + 33 * 4


@pytest.mark.parametrize("kind", ["linear", "mlp1x5", "conv8"])
def test_a_conditioned_head(kind: str) -> None:
    torch.manual_seed(0)
    given: dict[str, Any] = {"shape": SHAPES["NCHW"], "layout": "NCHW", "classes": 4}
    head = make_head(f"{kind}+saver", **given, saver_width=7).eval()
    assert (head.kind, head.saver_width) == (f"{kind}+saver", 7)
    assert head.reduction == head.base.reduction
    reduced, saver = head.reduce(feature("NCHW")), torch.randn(3, 7)
    alone = head.base(reduced)
    with torch.no_grad():
        expected = alone + (saver / (1 + 1e-5) ** 0.5) @ head.side[1].weight.T
    torch.testing.assert_close(head(reduced, saver), expected)
    again = HeadSpec.from_dict(json.loads(json.dumps(head.to_dict()))).build()
    again.load_state_dict(head.state_dict())
    assert torch.equal(again.eval()(reduced, saver), head(reduced, saver))


def test_a_conditioned_head_without_a_saver() -> None:
    with pytest.raises(ModelError, match="found no saver: name one, or use 'conv8'"):
        made("conv8+saver", "NCHW")
    head = make_head("linear+saver", shape=(4,), layout="NC", classes=3, saver_width=2)
    with pytest.raises(ModelError, match="takes saver features, found none"):
        head(torch.zeros(2, 4))
