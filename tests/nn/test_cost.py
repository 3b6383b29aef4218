from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mac_counts import macs_of
from understudy.nn.cost import MacCount, measure_parts
from understudy.nn.stage import Preprocess, Stage


def count(model: nn.Module, *shape: int, dtype: torch.dtype = torch.float32) -> MacCount:
    return macs_of(Stage(model), torch.zeros(shape, dtype=dtype))


class Net(nn.Module):
    """Modules, and a function of them and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


CONVOLUTIONS = {
    "plain, with bias and stride": (nn.Conv2d(3, 8, 3, stride=2, padding=1), 4 * 4 * 8 * 3 * 9),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2, padding=1), 8 * 8 * 8 * 2 * 9),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), 8 * 8 * 4 * 9),
    "dilated": (nn.Conv2d(3, 5, 3, dilation=2), 4 * 4 * 5 * 3 * 9),
    "one by one": (nn.Conv2d(4, 5, 1), 8 * 8 * 4 * 5),
    "transposed": (nn.ConvTranspose2d(3, 5, 2, stride=2), 8 * 8 * 3 * 5 * 4),
    "transposed and grouped": (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), 8 * 8 * 4 * 3 * 4),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case: str) -> None:
    layer, macs = CONVOLUTIONS[case]
    found = count(layer, layer.in_channels, 8, 8)
    assert (found.total, found.uncounted) == (macs, ())


def test_nested_modules_and_normalisation_for_free() -> None:
    inner = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model = nn.Sequential(inner, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    found = count(model, 2, 5, 5)
    assert found.total == 9 * 4 * 2 * 9 + 4 * 3
    assert found.uncounted == ()


def test_a_shared_module_counts_as_often_as_it_runs() -> None:
    layer = nn.Linear(4, 4)
    found = count(nn.Sequential(layer, layer, nn.Linear(4, 2)), 4)
    assert found.total == 2 * 16 + 8


def test_a_module_that_does_not_run_counts_nothing() -> None:
    found = count(Net(lambda net, x: net.used(x), used=nn.Linear(4, 2), idle=nn.Linear(4, 99)), 4)
    assert found.total == 8


def test_a_module_that_calls_itself_counts_once() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, depth: int = 2) -> Tensor:
            return self.layer(x if depth == 0 else self(x, depth - 1))

    found = count(Loop(), 4)
    assert found.total == 3 * 16


PRODUCTS = {
    "matmul": (lambda x: x @ x.mT, 3 * 4 * 3),
    "einsum": (lambda x: torch.einsum("bij,bkj->bik", x, x), 3 * 4 * 3),
    "baddbmm": (lambda x: torch.baddbmm(torch.zeros(1, 3, 3), x, x.mT), 3 * 4 * 3),
    "addbmm": (lambda x: torch.addbmm(torch.zeros(3, 3), x, x.mT), 3 * 4 * 3),
    "linear without bias": (lambda x: F.linear(x, torch.ones(5, 4)), 3 * 4 * 5),
    "matrix times vector": (lambda x: x @ torch.ones(4), 3 * 4),
    "addmv": (lambda x: torch.addmv(torch.zeros(3), x[0], torch.ones(4)), 3 * 4),
    "dot": (lambda x: torch.dot(x[0, 0], x[0, 1]), 4),
    "elementwise": (lambda x: (x * x + x).sum(), 0),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products(case: str) -> None:
    function, macs = PRODUCTS[case]
    found = count(Net(lambda net, x: function(x)), 3, 4)
    assert (found.total, found.uncounted) == (macs, ())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_dot_product_attention(masked: bool, dtype: torch.dtype) -> None:
    """Two heads, 5 queries, 7 keys of width 8, values of width 8."""
    mask = torch.zeros(5, 7, dtype=dtype) if masked else None

    def run(net: Any, x: Tensor) -> Tensor:
        keys = torch.zeros(1, 2, 7, 8, dtype=dtype)
        return F.scaled_dot_product_attention(x, keys, keys, attn_mask=mask)

    found = count(Net(run), 2, 5, 8, dtype=dtype)
    assert (found.total, found.uncounted) == (2 * 5 * 7 * (8 + 8), ())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention_has_no_hiding_place(training: bool, weights: bool) -> None:
    """The fast path of eval mode runs as one operator with no formula."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True).train(training)
    net = Net(lambda net, x: net.a(x, x, x, need_weights=weights)[0], a=attention)
    found = count(net, 5, 8)
    assert found.total == 5 * 8 * 3 * 8 + 2 * 5 * 5 * (4 + 4) + 5 * 8 * 8
    assert found.uncounted == ()
    assert torch.backends.mha.get_fastpath_enabled()


def test_transformer_encoder() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    found = count(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), 5, 8)
    one = 5 * 8 * 3 * 8 + 2 * 5 * 5 * (4 + 4) + 5 * 8 * 8 + 2 * 5 * 8 * 16
    assert (found.total, found.uncounted) == (3 * one, ())


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("both_ways", [False, True])
def test_recurrent_layers(kind: Any, gates: int, both_ways: bool) -> None:
    layer = kind(6, 5, num_layers=2, batch_first=True, bidirectional=both_ways)
    found = count(Net(lambda net, x: net.layer(x)[0], layer=layer), 7, 6)
    ways = 2 if both_ways else 1
    steps = gates * 5 * ways * ((6 + 5) + (5 * ways + 5))
    assert (found.total, found.uncounted) == (7 * steps, ())


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("_fft_r2c", torch.fft.rfft),
        ("_cdist_forward", lambda x: torch.cdist(x, x)),
        ("cholesky_inverse", lambda x: torch.cholesky_inverse(x[:, :3, :3] + torch.eye(3))),
    ],
)
def test_what_has_no_formula_is_named(name: str, function: Callable[[Tensor], Tensor]) -> None:
    found = count(Net(lambda net, x: function(x)), 3, 4)
    assert found.uncounted == (name,)


def test_a_custom_operator_is_named() -> None:
    library = torch.library.Library("understudy_test", "DEF")
    library.define("secret(Tensor x) -> Tensor")
    library.impl("secret", lambda x: x @ x.mT, "CPU")
    found = count(Net(lambda net, x: torch.ops.understudy_test.secret(x)), 3, 4)
    assert found.uncounted == ("understudy_test::secret",)


def test_an_error_in_the_model_leaves_nothing_behind() -> None:
    def fail(net: Any, x: Tensor) -> Tensor:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        count(Net(fail), 3)
    assert torch.backends.mha.get_fastpath_enabled()
    assert count(nn.Linear(4, 2), 4).total == 8


def test_preprocessing_is_not_counted() -> None:
    preprocess = Preprocess(size=(4, 4), mean=(0.5,), std=(0.5,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    stage = Stage(model, preprocess=preprocess)
    found = macs_of(stage, torch.zeros(1, 99, 99, dtype=torch.uint8))
    assert (found.total, found.uncounted) == (48, ())


def test_measured_time_is_per_sample() -> None:
    calls: list[int] = []

    def noted(net: Net, x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return x

    model = Net(noted)
    assert measure_parts({"m": Stage(model)}, torch.zeros(4, 2), repeats=3)["m"] > 0
    assert calls == [4] * 4
