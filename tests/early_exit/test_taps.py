"""Taps: where a network passes through one tensor, in which layout, at which cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cifar_nets import resnet20
from mac_counts import macs_of
from understudy.early_exit.heads import Layout
from understudy.early_exit.taps import Tap, even_taps, layout_of, list_taps, tap_at
from understudy.errors import DataError, ModelError
from understudy.graph.partition import partition
from understudy.nn.stage import Preprocess, Stage


class Block(nn.Module):
    """A residual block, or the same without a shortcut."""

    def __init__(self, planes_in: int, planes: int) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(planes_in, planes, 1), nn.BatchNorm2d(planes))
        second = nn.Sequential(nn.Conv2d(planes, planes, 1), nn.BatchNorm2d(planes))
        self.body = nn.Sequential(nn.Sequential(first, nn.ReLU()), second)
        self.shortcut = planes_in == planes

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y if self.shortcut else y


class Net(nn.Module):
    input_size, mean, std, scale = (8, 8), (0.0,) * 3, (1.0,) * 3, 255.0

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.stages = nn.Sequential(
            nn.Sequential(Block(4, 4), Block(4, 4)), nn.Sequential(Block(4, 6), Block(6, 6))
        )
        self.neck = nn.Sequential(nn.Sequential(nn.Linear(6, 5)), nn.Dropout())
        self.head = nn.Linear(5, 3)
        self.idle = nn.Sequential(nn.Sequential(nn.Linear(6, 5)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.stages(self.stem(x)).mean((2, 3))))


def pixels(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def test_blocks_are_listed_with_their_costs() -> None:
    stage = Stage(Net(), preprocess=Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3))
    taps = list_taps(stage, pixels(3, 16, 16))
    done = [12, 12 + 32, 12 + 64, 12 + 64 + 24 + 36, 12 + 64 + 24 + 36 + 72]
    total = 64 * done[-1] + 6 * 5 + 5 * 3
    assert taps == (
        *(
            Tap(path, shape, "NCHW", 64.0 * macs, 64 * macs / total)
            for path, shape, macs in zip(
                ["stem.2", "stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1"],
                [(4, 8, 8)] * 3 + [(6, 8, 8)] * 2,
                done,
                strict=True,
            )
        ),
        Tap("neck.0.0", (5,), "NC", 64.0 * done[-1] + 30, (total - 15) / total),
    )
    assert total == macs_of(stage, pixels(3, 16, 16)).total
    partition(stage.model, torch.zeros(1, 3, 8, 8), [tap.path for tap in taps])


def test_a_cifar_resnet_passes_through_its_blocks_alone() -> None:
    taps = list_taps(Stage(resnet20()), torch.zeros(3, 32, 32))
    assert [tap.path for tap in taps] == [f"layer{s}.{b}" for s in (1, 2, 3) for b in (0, 1, 2)]
    assert [tap.path for tap in even_taps(taps, 3)] == ["layer1.1", "layer2.0", "layer3.0"]
    assert [tap.shape for tap in taps[::3]] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


class Streams(nn.Module):
    """Two streams until the end: it never passes through one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Sequential(nn.Sequential(nn.Linear(4, 4))) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) - self.two(x)


def test_no_place() -> None:
    stage = Stage(Streams())
    assert list_taps(stage, torch.zeros(4)) == ()
    with pytest.raises(ModelError, match="the 0 places"):
        even_taps((), 1)


def test_chosen_paths_may_lie_anywhere() -> None:
    stage = Stage(Net())
    taps = tap_at(stage, torch.zeros(3, 8, 8), ["stages.1", "stages.0.1.body.0.0.0", "stem"])
    assert [tap.path for tap in taps] == ["stem", "stages.0.1.body.0.0.0", "stages.1"]
    assert [tap.macs for tap in taps] == [64 * 12, 64 * (12 + 32 + 16), 64 * 208]


def test_chosen_paths_are_checked() -> None:
    class Deep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, None]

    stage = Stage(nn.Sequential(Deep(), nn.Identity(), nn.Flatten(), nn.Linear(4, 3)))
    sample = torch.zeros(1, 2, 2)
    with pytest.raises(ModelError, match=r"'0' gives \(N, 1, 1, 2, 2\)"):
        tap_at(stage, sample, ["0"])
    with pytest.raises(ModelError, match="no module '4'"):
        tap_at(stage, sample, ["4"])
    with pytest.raises(ModelError, match="named twice"):
        tap_at(stage, sample, ["2", "2"])
    with pytest.raises(DataError, match="uint8"):
        tap_at(Stage(Net(), preprocess=Preprocess(None, (0.0,), (1.0,))), sample, ["stem"])


def test_a_network_without_costs() -> None:
    stage = Stage(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4), nn.ReLU()))
    assert [(tap.path, tap.share) for tap in tap_at(stage, torch.zeros(4), ["0", "1"])] == [
        ("0", 0.0),
        ("1", 0.0),
    ]


def test_attention_is_counted_as_in_the_whole_model() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x).mean(1))

    stage, sample = Stage(Attending()), torch.zeros(5, 8)
    one, two = list_taps(stage, sample)
    assert (one.path, two.path) == ("encoder.layers.0", "encoder.layers.1")
    assert (one.shape, one.layout) == ((5, 8), "NTC")
    total = macs_of(stage, sample).total
    assert (one.macs, two.macs) == ((total - 24) / 2, total - 24)


@given(
    costs=st.lists(st.integers(0, 50), min_size=2, max_size=12).map(sorted),
    count=st.integers(-1, 12),
)
def test_even_taps(costs: list[int], count: int) -> None:
    taps = [Tap(str(n), (8,), "NC", cost, cost / 50) for n, cost in enumerate(costs)]
    useful = [tap for tap in taps if tap.macs < costs[-1]]
    if not 1 <= count <= len(useful):
        with pytest.raises(ModelError, match=f"the {len(useful)} places .* {count}"):
            even_taps(taps, count)
        return
    picked = even_taps(taps, count)
    assert len(picked) == count
    assert list(picked) == [tap for tap in useful if tap in picked]
    if count == 1:
        assert abs(picked[0].share - 0.5) == min(abs(tap.share - 0.5) for tap in useful)


@pytest.mark.parametrize(
    ("model", "shape", "layout"),
    [
        (nn.Identity(), (9,), "NC"),
        (nn.Identity(), (9, 4), "NTC"),
        (nn.Identity(), (7, 7, 96), "NHWC"),
        (nn.Identity(), (96, 7, 7), "NCHW"),
        (nn.Identity(), (8, 8, 8), "NCHW"),
        (nn.Identity(), (6, 5, 8), "NCHW"),
        (nn.LayerNorm(8), (8, 8, 8), "NHWC"),
        (nn.Linear(8, 9), (6, 5, 8), "NHWC"),
        (nn.Linear(6, 9), (6, 5, 8), "NCHW"),
        (nn.Sequential(nn.Conv2d(8, 8, 1), nn.Linear(8, 3)), (8, 8, 8), "NCHW"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Linear(8, 3)), (8, 8, 8), "NHWC"),
        (nn.Sequential(nn.GroupNorm(1, 6), nn.Linear(8, 3)), (6, 4, 8), "NCHW"),
    ],
)
def test_layouts(model: nn.Module, shape: tuple[int, ...], layout: Layout) -> None:
    assert layout_of(model, shape) == layout


def test_layouts_have_one_to_three_dimensions() -> None:
    for shape in [(), (1, 2, 3, 4)]:
        with pytest.raises(ModelError, match="one to three dimensions"):
            layout_of(nn.Identity(), shape)


def test_round_trip() -> None:
    tap = Tap("a.b", (3, 4, 4), "NCHW", 1e9, 0.1)
    assert Tap.from_dict(tap.to_dict()) == tap
    for broken in [{}, {**tap.to_dict(), "shape": 3}, {**tap.to_dict(), "macs": "many"}]:
        with pytest.raises(ModelError, match="a tap has"):
            Tap.from_dict(broken)
    with pytest.raises(ModelError, match="no layout 'NHCW'"):
        Tap.from_dict({**tap.to_dict(), "layout": "NHCW"})
