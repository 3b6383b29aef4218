"""Execution modes: the same results up to rounding, and a hash of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mac_counts import macs_of
from understudy import attach
from understudy.early_exit.serialization import Architecture
from understudy.errors import ModelError
from understudy.graph.batch_norm_folding import fold
from understudy.graph.partition import partition
from understudy.nn.execution_mode import PLAIN, ExecutionMode, with_mode
from understudy.nn.stage import EMPTY, Preprocess, Stage

PIXELS = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


class Block(nn.Module):
    """Two convolutions with batch norms, and a shortcut around them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def trained() -> nn.Module:
    """A network whose batch norms have statistics, weights and biases of their own."""
    stem = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish())
    end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model = nn.Sequential(*stem, Block(), Block(), end)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for value in filter(torch.is_tensor, (module.weight, module.bias)):
                nn.init.normal_(value, 0.5)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def pictures(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("folded", 1e-4), ("channels_last", 1e-4), ("folded+channels_last", 1e-4), ("bfloat16", 0.1)],
)
def test_a_mode_has_the_same_results_up_to_rounding(name: str, tolerance: float) -> None:
    stage = Stage(trained(), preprocess=PIXELS, origin={"spec": "py:nets:net"})
    truth, before = stage(pictures(5)), stage.weights_hash
    fast = with_mode(stage, ExecutionMode.parse(name))
    for count in (5, 1, 3):
        logits = fast(pictures(5)[:count])
        assert logits.dtype == torch.float32
        assert (logits - truth[:count]).abs().max() < tolerance * truth.abs().max()
    assert fast.weights_hash != before
    assert fast.spec == stage.spec
    assert macs_of(fast, pictures(1)[0]).total == macs_of(stage, pictures(1)[0]).total


def test_the_default_mode_is_the_stage_itself() -> None:
    stage = Stage(trained(), preprocess=PIXELS)
    assert with_mode(stage, PLAIN) is stage
    assert ExecutionMode.parse("channels_last+folded").name == "folded+channels_last"


def test_new_weights_are_folded_anew() -> None:
    fast, other = with_mode(Stage(trained()), ExecutionMode(folded=True)), trained()
    x = torch.rand(2, 3, 8, 8)
    fast(x)
    named = {f"run folded.{key}": value for key, value in other.state_dict().items()}
    fast.model.load_state_dict(named)
    assert torch.allclose(fast(x), Stage(other)(x), atol=1e-4)


def test_values_with_other_readers_are_kept() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            seen = self.conv(x)
            both = x + seen
            return (self.norm(seen) + both.relu() + both + seen.relu()).flatten(1)

    net, x = Net().eval(), torch.randn(2, 3, 4, 4)
    kept = x.clone()
    segment = fold(partition(net, x, []).segments[0])
    assert torch.allclose(segment(x)[0], net(x), atol=1e-5)
    assert torch.equal(x, kept)
    assert any(node.target is torch.ops.aten.batch_norm.default for node in segment.graph.nodes)


def test_exits_of_a_network_in_another_mode() -> None:
    stage = Stage(trained(), preprocess=PIXELS, origin={"spec": "py:nets:net"})
    network = attach(stage, {"3": "conv8", "4": "linear"})
    fast = network.with_mode(ExecutionMode.parse("folded+channels_last"))
    slow, quick = network.stages("net"), fast.stages("net")
    for name, exit in slow.items():
        truth = exit(pictures(5))
        assert torch.allclose(quick[name](pictures(5)), truth, atol=1e-3 * truth.abs().max().item())
    assert fast.weights_hash != network.weights_hash
    saved = Architecture.from_dict(Architecture.of(fast).to_dict())
    assert saved.build(lambda _: stage).mode == fast.mode


@pytest.mark.parametrize("name", ["fold", "folded+folded", "bfloat16+float16", ""])
def test_modes_that_do_not_exist(name: str) -> None:
    with pytest.raises(ModelError, match="execution mode"):
        ExecutionMode.parse(name)


def test_segments_in_half_precision() -> None:
    network = attach(Stage(trained(), preprocess=PIXELS), {"3": "linear"})
    half = network.with_mode(ExecutionMode.parse("bfloat16"))
    for name, stage in half.stages("net").items():
        found, exact = stage(pictures(5)), network.stages("net")[name](pictures(5))
        assert found.dtype == torch.float32
        assert not torch.equal(found, exact)
        assert torch.allclose(found, exact, atol=0.05 * float(exact.abs().max()))
    state, parts = EMPTY, half.stages("net")
    for name in ("net/3/linear", "net"):
        logits, _, state = parts[name].run(pictures(5), state)
    assert torch.equal(logits, parts["net"](pictures(5)))


def test_segments_are_not_compiled() -> None:
    network = attach(Stage(trained(), preprocess=PIXELS), {"3": "linear"})
    with pytest.raises(ModelError, match="run the model whole"):
        network.with_mode(ExecutionMode.parse("compiled"))


@pytest.mark.slow
def test_a_compiled_model() -> None:
    stage = Stage(trained(), preprocess=PIXELS)
    truth, fast = stage(pictures(5)), with_mode(stage, ExecutionMode.parse("folded+compiled"))
    for count in (5, 3, 1):
        assert torch.allclose(fast(pictures(5)[:count]), truth[:count], atol=1e-3)
    assert macs_of(fast, pictures(1)[0]).total == macs_of(stage, pictures(1)[0]).total
