from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agreement import agree, random_policy
from exit_nets import Net, images, network, refined, stage_of
from mac_counts import macs_of
from understudy.early_exit.network import ExitNetwork, Heads, attach
from understudy.ensemble import Ensemble
from understudy.errors import ModelError, PolicyError
from understudy.graph.partition import Trunk
from understudy.nn.cascade import Cascade, build
from understudy.nn.cost import count_parts, measure_parts
from understudy.nn.stage import EMPTY, Stage, stages_of
from understudy.operating_point import OperatingPoint
from understudy.outcome import evaluate
from understudy.policy import Policy, PolicyStage, midpoint
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import StateKey
from understudy.scoring.in_memory import score

PLAIN = ("net/blocks.0/linear", "net/blocks.1/linear", "net/blocks.1/mlp1x16", "net")
REFINED = ("saver", "net/blocks.0/told", "net/blocks.0/esn", "net/blocks.1/esn")


@pytest.fixture(scope="module")
def plain() -> ExitNetwork:
    return network()


@pytest.fixture(scope="module")
def full() -> ExitNetwork:
    return refined()


def test_exits_in_the_order_of_execution(plain: ExitNetwork, full: ExitNetwork) -> None:
    assert tuple(plain.stages("net")) == PLAIN
    assert set(full.stages("net")) == {*PLAIN, *REFINED}
    assert next(iter(full.stages("net"))) == "saver"


def test_the_network_is_a_drop_in_for_its_backbone(plain: ExitNetwork) -> None:
    expected = stage_of("net:8")(images(5))
    assert torch.equal(plain(images(5)), expected)
    torch.testing.assert_close(plain.stages("net")["net"](images(5)), expected)


def test_an_exit_is_its_head_on_the_feature_there(plain: ExitNetwork) -> None:
    net: Any = plain.stage.model
    taken: dict[str, Tensor] = {}
    hook = net.blocks[1].register_forward_hook(lambda _m, _a, out: taken.update(feature=out))
    plain(images(5))
    hook.remove()
    for point in plain.locations[1:]:
        head = plain.head(point)
        with torch.inference_mode():
            expected = head(head.reduce(taken["feature"]))
        found = plain.stages("net")[f"net/blocks.1/{point.head}"](images(5))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", [network, refined])
@pytest.mark.parametrize("seed", range(6))
def test_the_running_cascade_is_evaluate(make: Callable[[], ExitNetwork], seed: int) -> None:
    net, random = make(), np.random.default_rng(seed)
    pictures = images(300, seed)
    table = score({"net": net}, [(pictures, [0] * 300)])
    for _ in range(4):
        policy = random_policy(table, random)
        cascade = Cascade({"net": net}, policy)
        agree(table, policy, cascade.answer(pictures))
        answers = list(Executor(cascade, max_batch=64).map(pictures.split(70)))
        joined = np.concatenate([one.prediction for one in answers])
        assert np.array_equal(joined, cascade.answer(pictures).prediction)


def test_rows_that_are_answered_pay_for_no_later_segment(
    plain: ExitNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = images(200)
    table = score({"net": plain}, [(pictures, [0] * 200)])
    sure = np.sort(table.confidence["max_softmax"][0].astype(float))
    policy = Policy(
        (
            PolicyStage(PLAIN[0], float(midpoint(sure[99], sure[100]))),
            PolicyStage("net"),
        )
    )
    cascade = Cascade({"net": plain}, policy)
    ran = []
    whole = Trunk.run

    def noted(self: Any, segment: int, values: tuple[Tensor, ...]) -> Any:
        ran.append((segment, len(values[0])))
        return whole(self, segment, values)

    monkeypatch.setattr(Trunk, "run", noted)
    cascade.answer(pictures)
    assert ran == [(0, 200), (1, 100), (2, 100)]


def test_parts_are_paid_once_and_add_up_to_the_model(plain: ExitNetwork, full: ExitNetwork) -> None:
    backbone = macs_of(stage_of("net:8"), images(1)[0]).total
    counts = count_parts(plain.stages("net"), images(1)[0])
    trunk = {part: count.total for part, count in counts.items() if part.count("/") < 2}
    assert trunk.keys() == {"net/blocks.0", "net/blocks.1", "net/(rest)"}
    assert sum(trunk.values()) == backbone
    assert counts[PLAIN[0]].total == 8 * 5
    assert not any(count.uncounted for count in counts.values())
    table = score({"net": full}, [(images(8), [0] * 8)])
    parts = {exit.name: exit.parts for exit in table.exits}
    assert parts["saver"] == ("saver",)
    assert parts["net/blocks.1/esn"] == (
        "saver",
        "net/saver/token",
        "net/blocks.0",
        "net/blocks.0/token",
        "net/blocks.1",
        "net/blocks.1/token",
        "net/blocks.1/esn",
    )
    assert table.cost_of(["net"], "MACs") == backbone
    both = table.cost_of(["net/blocks.0/esn", "net/blocks.1/esn"], "MACs")
    second = table.cost_of(["net/blocks.1/esn"], "MACs")
    assert both == second + 128 * 5
    assert parts["net/blocks.0/told"] == ("saver", "net/blocks.0", "net/blocks.0/told")
    assert set(measure_parts(full.stages("net"), images(4), repeats=1)) == set(table.costs["MACs"])


def test_the_saver_and_its_tokens_run_once(
    full: ExitNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = images(40)
    tokens: list[tuple[int, int]] = []
    assert full.saver_branch is not None
    table = score({"net": full}, [(pictures, [0] * 40)])
    token = type(full.saver_branch.sequence).token

    def noted(self: Any, number: int, pooled: Tensor, cache: Tensor) -> Any:
        tokens.append((number, len(pooled)))
        return token(self, number, pooled, cache)

    monkeypatch.setattr(type(full.saver_branch.sequence), "token", noted)
    steps = [
        PolicyStage(name, np.inf) for name in ("saver", "net/blocks.0/esn", "net/blocks.1/linear")
    ]
    policy = Policy((*steps, PolicyStage("net/blocks.1/esn")))
    answers = Cascade({"net": full}, policy).answer(pictures)
    assert tokens == [(0, 40), (1, 40), (2, 40)]
    row = table.index("net/blocks.1/esn")
    assert answers.prediction.tolist() == table.prediction[row].tolist()


def test_an_exit_after_a_deeper_one_starts_again(full: ExitNetwork) -> None:
    pictures = images(30)
    stages = full.stages("net")
    for deep, shallow in [(PLAIN[1], PLAIN[0]), ("net/blocks.1/esn", "net/blocks.0/esn")]:
        state = stages[deep].run(pictures).state
        found = stages[shallow].run(pictures, state).logits
        torch.testing.assert_close(found, stages[shallow](pictures))


def test_two_heads_of_one_tap_share_its_feature(plain: ExitNetwork) -> None:
    stages = plain.stages("net")
    state = stages[PLAIN[1]].run(images(9)).state
    torch.testing.assert_close(
        stages[PLAIN[2]].run(images(9), state).logits, stages[PLAIN[2]](images(9))
    )


def test_an_average_of_exits(plain: ExitNetwork) -> None:
    pictures = images(50)
    mean = Ensemble((PLAIN[0], PLAIN[1]), (1.0, 0.5))
    policy = Policy((PolicyStage(PLAIN[0], np.inf), PolicyStage("mean")))
    found = Cascade({"net": plain, "mean": mean}, policy)(pictures)
    stages = plain.stages("net")
    assert StateKey("logits", PLAIN[0]) not in stages[PLAIN[0]].run(pictures).state
    torch.testing.assert_close(
        found,
        sum(stages[name](pictures) * w for name, w in zip(mean.exits, mean.weights, strict=True)),
    )


def test_savers_and_exits_in_one_table_and_one_cascade(plain: ExitNetwork) -> None:
    pictures = images(200)
    models = {"tiny": stage_of("net:2"), "net": plain}
    table = score(models, [(pictures, np.random.default_rng(0).integers(0, 5, 200))])
    assert table.names == ("tiny", *PLAIN)
    random = np.random.default_rng(1)
    for _ in range(4):
        policy = random_policy(table, random)
        agree(table, policy, Cascade(models, policy).answer(pictures))
        assert evaluate(table, policy, reference="net").cost["MACs"] > 0


def test_names_are_used_once(full: ExitNetwork) -> None:
    with pytest.raises(ModelError, match="'saver', which is there already"):
        stages_of({"saver": stage_of("net:2"), "net": full})
    with pytest.raises(ModelError, match="both are 'saver'"):
        full.stages("saver")


def test_a_policy_needs_exits_that_there_are(plain: ExitNetwork) -> None:
    with pytest.raises(ModelError, match=r"'net/blocks\.2/linear' has none"):
        build(Policy.pair("net/blocks.2/linear", "net", 0.5), {"net": plain})


def test_another_shape_of_input_is_refused() -> None:
    plain = attach(Stage(Net()), {"blocks.0": "linear"}, image=torch.zeros(3, 8, 8))
    assert plain.stages("net")["net"](torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(ModelError, match=r"\(3, 8, 8\), found \(3, 9, 9\)"):
        plain.stages("net")["net"](torch.zeros(2, 3, 9, 9))


class Flat(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))


def test_own_modules_as_heads() -> None:
    own = attach(stage_of("net:8"), {"blocks.0": Flat(5), "blocks.1": {"mine": Flat(5)}})
    assert list(own.stages("n")) == ["n/blocks.0/head", "n/blocks.1/mine", "n"]
    assert own.stages("n")["n/blocks.0/head"](images(2)).shape == (2, 5)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"blocks.0": Flat(4)}, "'the backbone' has 5 and 'blocks.0/head' has 4"),
        ({"blocks.0": nn.Linear(8, 5)}, "pool and flatten in the head"),
        ({"blocks.0": nn.Identity()}, r"returns the shape \(2, 8, 4, 4\) for N = 2"),
        ({"blocks.7": "linear"}, "blocks.7"),
        ({"blocks.0": "liner"}, "linear"),
    ],
)
def test_heads_that_do_not_fit(heads: Heads, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        attach(stage_of("net:8"), heads)


def test_a_stage_that_sets_no_shape_needs_an_image() -> None:
    with pytest.raises(ModelError, match="give `image`"):
        attach(Stage(Net()), {"blocks.0": "linear"})


def test_segments_are_captured_again_in_another_dtype() -> None:
    net = network()
    before = net.stages("net")["net"](images(3))
    trunk = net.trunk
    assert net.trunk is trunk
    net.to(torch.float64)
    assert net.trunk is not trunk
    after = net.stages("net")["net"](images(3))
    assert after.dtype == torch.float64
    torch.testing.assert_close(after.float(), before, atol=1e-4, rtol=1e-4)


def test_the_hash_is_kept_until_a_weight_changes() -> None:
    net = network()
    first = net.weights_hash
    assert net.weights_hash is first
    assert network().weights_hash == first
    with torch.no_grad():
        net.heads[0].layers[-1].bias.add_(1)
    assert net.weights_hash != first


def test_state_is_empty_after_the_last_stage(plain: ExitNetwork) -> None:
    output = plain.stages("net")["net"].run(images(2), EMPTY)
    assert not output.state


def setting(policy: Policy, max_drop: float, cost: float) -> OperatingPoint:
    return OperatingPoint(policy, max_drop, 0.05, cost, "MACs")


def test_changing_the_operating_point_while_it_runs(plain: ExitNetwork) -> None:
    """Every batch is answered by one policy, even if another thread changes it meanwhile."""
    settings = [
        setting(Policy((PolicyStage(PLAIN[0]),)), 2.0, 1.0),
        setting(Policy((PolicyStage(PLAIN[1]),)), 1.0, 2.0),
        setting(Policy((PolicyStage("net"),)), 0.0, 3.0),
    ]
    cascade = Cascade({"net": plain}, settings[2].policy, operating_points=settings)
    over = threading.Event()

    def turn() -> None:
        drops = iter(range(10**9))
        while not over.is_set():
            cascade.set_operating_point(max_drop=next(drops) % 3)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        seen = [set(cascade.answer(images(16)).exit_names()) for _ in range(60)]
    finally:
        over.set()
        thread.join()
    assert all(len(names) == 1 for names in seen)
    assert cascade.set_operating_point(max_drop=1.5) == settings[1]
    assert cascade.policy == settings[1].policy
    assert cascade.set_operating_point(cost=2.5).max_drop == 1.0
    assert cascade.set_operating_point(max_drop=5).cost == 1.0


def test_operating_points_that_do_not_exist(plain: ExitNetwork) -> None:
    settings = [setting(Policy((PolicyStage("net"),)), 0.5, 3.0)]
    cascade = Cascade({"net": plain}, settings[0].policy, operating_points=settings)
    with pytest.raises(PolicyError, match=r"0\.5 points at 3 MACs"):
        cascade.set_operating_point(max_drop=0.1)
    with pytest.raises(PolicyError, match="within a cost of 1"):
        cascade.set_operating_point(cost=1)
    with pytest.raises(PolicyError, match="give one"):
        cascade.set_operating_point()
    with pytest.raises(PolicyError, match="give one"):
        cascade.set_operating_point(max_drop=1, cost=1)
    with pytest.raises(PolicyError, match="has none"):
        Cascade({"net": plain}, settings[0].policy).set_operating_point(cost=1)
