"""A partitioned network has the results of the network, whatever crosses its cuts or leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from split_models import ARCHITECTURES, untrained
from understudy.early_exit.taps import even_taps, list_taps
from understudy.errors import ModelError
from understudy.graph.partition import Trunk, partition
from understudy.nn.stage import Stage


class Net(nn.Module):
    """Modules, and a function of them and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.bn(self.conv1(x)))))


def residual_net() -> nn.Sequential:
    torch.manual_seed(0)
    blocks = nn.Sequential(Residual(4), Residual(4), Residual(4))
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def run(
    trunk: Trunk, x: Tensor, leaving: dict[int, int] | None = None
) -> tuple[Tensor, Tensor, list[tuple[Tensor, ...]]]:
    """Logits of the rows that never leave, their positions, and all that crossed the cuts.

    `leaving` says which of the rows that are left leaves after which segment.
    """
    values: tuple[Tensor, ...] = (x.clone(),)
    crossed: list[tuple[Tensor, ...]] = []
    rows = torch.arange(len(x))
    for segment in range(len(trunk.segments)):
        values = trunk.run(segment, values)
        crossed.append(values)
        if leaving and segment in leaving and segment < len(trunk.paths):
            kept = torch.arange(len(rows)) != leaving[segment]
            rows, values = rows[kept], tuple(value[kept] for value in values)
    return values[0], rows, crossed


def held(model: nn.Module, x: Tensor, paths: list[str]) -> list[tuple[Tensor, ...]]:
    """Partition, compare with the whole network in many ways, and return what crossed the cuts."""
    trunk = partition(model, x[:1], paths)
    with torch.no_grad():
        whole = model(x.clone())
        single = model(x[1:2].clone())
    logits, _, crossed = run(trunk, x)
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run(trunk, x[1:2])[0], single, rtol=1e-4, atol=1e-5)
    for segment in range(len(trunk.paths)):
        for row in range(len(x)):
            logits, rows, _ = run(trunk, x, {segment: row})
            torch.testing.assert_close(logits, whole[rows], rtol=1e-4, atol=1e-5)
    assert all(len(value) == len(x) for values in crossed for value in values)
    return crossed[:-1]


def refused(model: nn.Module, x: Tensor, paths: list[str], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        partition(model, x, paths)
    assert not any(module._forward_hooks for module in model.modules())


def test_between_and_inside_residual_blocks() -> None:
    one, two, three = held(residual_net(), noise(5, 3, 8, 8), ["1.0", "1.1.bn", "1.1"])
    assert [len(values) for values in (one, two, three)] == [1, 2, 1]
    assert two[0].shape == two[1].shape == (5, 4, 6, 6)


def test_paths_are_in_the_order_in_which_the_modules_end() -> None:
    trunk = partition(
        residual_net(), torch.zeros(1, 3, 8, 8), ["1.2", "1", "0", "1.0.conv1", "1.0"]
    )
    assert trunk.paths == ("0", "1.0.conv1", "1.0", "1.2", "1")
    assert len(trunk.segments) == 6
    assert not [node for node in trunk.segments[4].graph.nodes if node.op == "call_function"]


def test_the_first_value_is_the_feature_even_where_nothing_needs_it() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        net.aside(x)
        return net.head(x)

    ((feature, other),) = held(
        Net(run, aside=nn.Linear(4, 2), head=nn.Linear(4, 3)), noise(3, 4), ["aside"]
    )
    assert (feature.shape, other.shape) == ((3, 2), (3, 4))


def test_without_taps_there_is_one_segment() -> None:
    model, x = residual_net(), noise(2, 3, 8, 8)
    trunk = partition(model, x, [])
    assert (trunk.paths, len(trunk.segments)) == ((), 1)
    torch.testing.assert_close(trunk.run(0, (x,))[0], model(x).detach())


def test_windows_are_handed_on_by_image() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        windows = x.view(-1, 2, 4, 2, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 3)
        feature = net.tapped(x.mean((1, 2)))
        return net.head(windows).reshape(x.shape[0], -1, 5).mean(1) + feature

    net = Net(run, tapped=nn.Linear(3, 5), head=nn.Linear(3, 5))
    ((_, windows),) = held(net, noise(5, 8, 8, 3), ["tapped"])
    assert windows.shape == (5, 4, 16, 3)


def test_a_batch_that_is_not_first_is_moved_there() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        tokens = net.inner(x.transpose(0, 1))  # (T, N, C)
        heads = tokens.reshape(7, x.shape[0] * 2, 2)  # (T, N * 2, C / 2)
        feature = net.tapped(x)
        mixed = tokens + heads.view(7, x.shape[0], 4)
        return net.head(mixed.transpose(0, 1)).mean(1) + feature.mean(1)

    net = Net(run, inner=nn.Linear(4, 4), tapped=nn.Linear(4, 3), head=nn.Linear(4, 3))
    ((_, tokens),) = held(net, noise(5, 7, 4), ["tapped"])
    assert tokens.shape == (5, 7, 4)  # the heads are a view of it


def test_heads_beside_a_batch_that_is_not_first() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        heads = (x.transpose(0, 1) * 2).reshape(7, x.shape[0] * 2, 2).exp()
        feature = net.tapped(x)
        return net.head(heads.sum(2).view(7, x.shape[0], 2).mean(0)) + feature.mean(1)

    net = Net(run, tapped=nn.Linear(4, 3), head=nn.Linear(2, 3))
    ((_, heads),) = held(net, noise(5, 7, 4), ["tapped"])
    assert heads.shape == (5, 7, 2, 2)


def test_sizes_are_those_of_the_rows_that_are_left() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        rows, columns = x.shape
        feature = net.tapped(x)
        position = torch.arange(rows, device=x.device)
        ones = torch.ones(2 * rows, 3).view(rows, 6)
        picked = feature.reshape(-1)[position * 6] + ones.sum(1) / (columns + rows * 0)
        return net.head(feature) + picked.view(rows, 1).expand(rows, 3)

    net = Net(run, tapped=nn.Linear(4, 6), head=nn.Linear(6, 3))
    ((feature,),) = held(net, noise(5, 4), ["tapped"])
    assert feature.shape == (5, 6)


class Table(nn.Module):
    """A table that is made of a parameter, a buffer and a plain tensor, and used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(noise(6, 4))
        self.register_buffer("index", torch.tensor([5, 0, 3, 3]), persistent=False)
        self.plain = torch.tensor([1.0, 2.0, 3.0, 4.0])
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table[self.get_buffer("index")] * self.plain
        bias[0] += 1
        weights = bias.softmax(0)
        x = self.first(x @ weights)
        return self.second(x @ weights) + torch.tensor([0.0, 1.0, 2.0, 3.0])


def test_constants_are_made_anew_and_follow_the_parameters() -> None:
    model, x = Table().eval(), noise(5, 4)
    ((feature,),) = held(model, x, ["first"])
    trunk = partition(model, x, ["first"])
    with torch.no_grad():
        model.table.add_(1)
        model.table.mul_(2)
        model.load_state_dict({k: v + 0.5 for k, v in model.state_dict().items()}, assign=True)
        torch.testing.assert_close(run(trunk, x)[0], model(x))
    assert feature.shape == (5, 4)


def test_parameters_are_the_network_s_own() -> None:
    model = residual_net()
    trunk = partition(model, torch.zeros(1, 3, 8, 8), ["1.1"])
    assert not isinstance(trunk, nn.Module)
    own = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    for segment in trunk.segments:
        assert {id(tensor) for tensor in [*segment.parameters(), *segment.buffers()]} <= own


def test_writing_in_place() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        x = net.first(x)
        shortcut = x
        x = net.relu(x)  # writes into the feature, and into the shortcut
        y = torch.zeros(x.shape[0], 4)
        y[:, 0] = net.tapped(x).mean(1)
        y[:, 1] += 1
        x += 1
        return net.head(x + shortcut) + y[:, :3]

    net = Net(
        run,
        first=nn.Linear(4, 4),
        relu=nn.ReLU(inplace=True),
        tapped=nn.Linear(4, 4),
        head=nn.Linear(4, 3),
    )
    one, two, three = held(net, noise(5, 4), ["first", "relu", "tapped"])
    assert [len(values) for values in (one, two, three)] == [1, 1, 3]


def test_the_input_may_be_written_to() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(net.tapped(x.mul_(2)) + x)

    held(Net(run, tapped=nn.Linear(4, 4), head=nn.Linear(4, 3)), noise(5, 4), ["tapped"])


def test_views_that_are_written_to_behind_the_cut_are_refused() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        y = torch.cat([x, x], 1)
        left, right = y[:, :6], y[:, 2:]
        feature = net.tapped(x)
        left += 1
        return net.head(right) + feature + left.sum()

    net = Net(run, tapped=nn.Linear(4, 3), head=nn.Linear(6, 3))
    refused(net, noise(5, 4), ["tapped"], "rows depend on each other .* memory")


def test_numbers_may_be_the_input() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Flatten(), nn.Linear(12, 3))
    held(model.eval(), torch.arange(15).view(5, 3) % 9, ["0", "1"])


def test_other_dtypes() -> None:
    model = residual_net().to(torch.bfloat16)
    x = noise(5, 3, 8, 8).to(torch.bfloat16)
    trunk = partition(model, x, ["1.0"])
    torch.testing.assert_close(run(trunk, x)[0], model(x).detach())


def test_training_mode_is_left_and_randomness_untouched() -> None:
    model = residual_net().train()
    before = torch.random.get_rng_state()
    partition(model, torch.zeros(1, 3, 8, 8), ["1.0"])
    assert not model.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_works_in_inference_mode() -> None:
    model = residual_net()
    with torch.inference_mode():
        x = noise(2, 3, 8, 8)
        trunk = partition(model, x, ["1.0"])
        torch.testing.assert_close(run(trunk, x)[0], model(x))


def test_a_branch_that_is_no_tap() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        x = net.tapped(x)
        x = torch.cond(x.shape[1] > 2, lambda a: a + 1, lambda a: a - 1, (x,))
        return net.head(x)

    held(Net(run, tapped=nn.Linear(4, 4), head=nn.Linear(4, 3)), noise(5, 4), ["tapped"])


@lru_cache
def trunk_of_residuals() -> tuple[nn.Module, Trunk]:
    model = residual_net()
    return model, partition(model, torch.zeros(1, 3, 8, 8), ["0", "1.0.bn", "1.1", "1.2.conv1"])


@settings(max_examples=40)
@given(
    batch=st.integers(1, 5),
    leaving=st.dictionaries(st.integers(0, 3), st.integers(0, 4), max_size=4),
)
def test_rows_may_leave_anywhere(batch: int, leaving: dict[int, int]) -> None:
    model, trunk = trunk_of_residuals()
    x = noise(5, 3, 8, 8)[:batch]
    left, possible = batch, {}
    for segment, row in sorted(leaving.items()):
        if left > 1:
            possible[segment] = row % left
            left -= 1
    logits, rows, _ = run(trunk, x, possible)
    torch.testing.assert_close(logits, model(x).detach()[rows], rtol=1e-4, atol=1e-5)


def test_unknown_paths() -> None:
    x = torch.zeros(1, 3, 8, 8)
    refused(residual_net(), x, ["1.1.conv"], r"no module '1.1.conv' .* did you mean '1.\d.conv\d'")
    refused(residual_net(), x, [""], "no module ''")
    refused(residual_net(), x, ["1.1", "0", "1.1"], "'1.1' is named twice")


def test_modules_that_run_never_or_twice() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(net.shared(net.shared(x)))

    net = Net(run, shared=nn.Linear(4, 4), idle=nn.Linear(4, 4), head=nn.Linear(4, 3))
    refused(net, noise(2, 4), ["idle"], "'idle' never runs")
    refused(net, noise(2, 4), ["head", "shared"], "'shared' runs 2 times")


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x + 1


def test_modules_that_give_something_else() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        both = net.pair(x)
        net.turned(both[0].T)
        net.whole(x.argmax(1))
        return net.head(both[1])

    net = Net(run, pair=Pair(), turned=nn.Identity(), whole=nn.Identity(), head=nn.Linear(4, 3))
    refused(net, noise(2, 4), ["pair"], "'pair' gives a tuple")
    refused(net, noise(2, 4), ["turned"], r"'turned' gives the shape \(4, N\)")
    refused(net, noise(2, 4), ["whole"], "'whole' gives a tensor of torch.int64")


def test_taps_inside_a_branch() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return torch.cond(x.shape[0] > 2, net.head, net.other, (x,))

    net = Net(run, head=nn.Linear(4, 3), other=nn.Linear(4, 3))
    refused(net, noise(2, 4), ["head"], "'head' runs inside a branch")


def test_control_flow_on_data_names_the_line() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x + 1
        return net.head(x)

    line = run.__code__.co_firstlineno + 1
    refused(Net(run, head=nn.Linear(4, 3)), noise(2, 4), ["head"], rf"test_partition.py:{line}\)")


def test_a_fixed_batch_is_refused() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(x.view(3, -1))

    refused(Net(run, head=nn.Linear(4, 3)), noise(3, 4), ["head"], "torch.export")


def test_rows_that_depend_on_each_other() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        x = net.tapped(x)
        return net.head(x - x.mean(0))

    net = Net(run, tapped=nn.Linear(4, 4), head=nn.Linear(4, 3))
    refused(net, noise(5, 4), ["tapped"], "3 of 4 rows it is off by .* behind 'tapped'")


def test_values_without_rows_cannot_cross() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        scale = x.abs().mean()
        return net.head(net.tapped(x)) * scale

    net = Net(run, tapped=nn.Linear(4, 4), head=nn.Linear(4, 3))
    refused(net, noise(5, 4), ["tapped"], r"behind 'tapped' it needs a tensor of the shape \(\)")


def test_views_of_the_batch_that_are_not_by_image() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        both = torch.cat([x, -x])
        feature = net.tapped(x)
        return net.head(both)[: x.shape[0]] + feature

    net = Net(run, tapped=nn.Linear(4, 3), head=nn.Linear(4, 3))
    refused(net, noise(5, 4), ["tapped"], "3 of 4 rows it is off by .* behind 'tapped'")


def test_networks_that_return_more() -> None:
    refused(nn.Sequential(nn.Linear(4, 3), Pair()), noise(2, 4), ["0"], "logits alone")
    refused(residual_net(), torch.zeros(0, 3, 8, 8), ["0"], "at least one row")


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str) -> None:
    model, size = untrained(name)
    x = noise(5, 3, size, size)
    with torch.no_grad():
        whole = model(x)
    largest = whole.abs().max()
    assert (whole - whole.mean(0)).abs().max() > 1e-2 * largest  # rows differ
    taps = even_taps(list_taps(Stage(model), x[0]), 3)
    trunk = partition(model, x[:1], [tap.path for tap in taps])
    for batch, leaving in [(2, {}), (1, {}), (5, {0: 1, 1: 3, 2: 0}), (2, {1: 0})]:
        logits, rows, crossed = run(trunk, x[:batch], leaving)
        assert (logits - whole[:batch][rows]).abs().max() < 1e-4 * largest
    assert [values[0].shape[1:] for values in crossed[:-1]] == [tap.shape for tap in taps]
