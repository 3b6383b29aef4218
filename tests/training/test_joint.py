"""Exits that are trained together, in a network that stays as it is or is tuned with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import Run
from exit_digits import big, small, train
from progress import InterruptedRunError, at
from understudy import ScoreTable, build, evaluate, load_table, search
from understudy.early_exit.network import ExitNetwork, attach
from understudy.early_exit.serialization import ExitFolder
from understudy.errors import ModelError
from understudy.nn.stage import Stage
from understudy.scoring.on_disk import score_into
from understudy.searching.search import search_in_sample
from understudy.training.api import train_exits
from understudy.training.config import TrainingConfig
from understudy.training.joint import JointLosses
from understudy.training.targets import Targets
from understudy.zoo.data import open_data
from understudy.zoo.models import load_network, load_stage

TAPS = ("blocks.0", "blocks.1")
FROZEN = TrainingConfig(
    epochs=5, batch=64, lr=1e-2, views=2, flip=False, held_out=0.2, targets="exits", dtype="float32"
)
TUNED = replace(FROZEN, backbone_lr=2e-3)
Train = Callable[..., ExitNetwork]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Specs of trained networks, by name."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    train(big(), folder / "big.safetensors", epochs=6)
    train(small(), folder / "small.safetensors", epochs=1)
    return {
        name: f"py:exit_digits:{name}?checkpoint={folder}/{name}.safetensors"
        for name in ("big", "small")
    }


@pytest.fixture(scope="module")
def trained(weights: dict[str, str]) -> Train:
    """Trains exits of the big network, which is tuned."""

    def by(into: Path, **more: Any) -> ExitNetwork:
        settings = {"taps": TAPS, "config": TUNED, "device": "cpu", "workers": 0, **more}
        return train_exits(f"net={weights['big']}", "digits:train", into, **settings)

    return by


@pytest.fixture(scope="module")
def tuned(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of exits whose network was tuned with them."""
    folder = tmp_path_factory.mktemp("tuned") / "exits"
    trained(folder)
    return folder


def network_of(folder: Path) -> ExitNetwork:
    return load_network(f"exits:{folder}", allow_code=["exit_digits"])


def answers(stage: Stage) -> torch.Tensor:
    """The classes that a stage gives for digits that nothing was trained on."""
    data = open_data("digits:heldout")
    return stage(torch.stack([data.image(number) for number in range(len(data))])).argmax(1)


def accuracy(stage: Stage) -> float:
    labels = torch.from_numpy(open_data("digits:heldout").labels)
    return float((answers(stage) == labels).float().mean())


def scored(models: dict[str, str], into: Path) -> ScoreTable:
    allowed = ["exit_digits"]
    score_into(into, models, "digits:heldout", measure_batches=(), allow_code=allowed)
    return load_table(into)


def test_tuning_improves_an_early_exit_and_keeps_the_network_s_answers(
    weights: dict[str, str], trained: Train, tuned: Path, tmp_path: Path
) -> None:
    old = load_stage(weights["big"])
    frozen = trained(tmp_path / "frozen", config=FROZEN)
    now = network_of(tuned)
    first = "net/blocks.0/linear"
    assert accuracy(now.stages("net")[first]) > accuracy(frozen.stages("net")[first]) + 0.02
    agreement = float((answers(now.stages("net")["net"]) == answers(old)).float().mean())
    assert 0.97 < agreement < 1  # it did change
    assert accuracy(now.stages("net")["net"]) > accuracy(old) - 0.02
    assert frozen.stage.weights_hash == old.weights_hash != now.stage.weights_hash
    assert [ExitFolder.read(one).backbone for one in (tuned, tmp_path / "frozen")] == [True, False]


def test_normalisation_keeps_its_statistics(weights: dict[str, str], tuned: Path) -> None:
    before = dict(load_stage(weights["big"]).model.named_buffers())
    network = network_of(tuned)
    assert before
    for name, value in network.stage.model.named_buffers():
        assert torch.equal(value, before[name]), name
    changed = dict(load_stage(weights["big"]).model.named_parameters())
    for name, parameter in network.stage.model.named_parameters():
        assert not torch.equal(parameter, changed[name]), name


@pytest.mark.slow
def test_an_interrupted_tuning_ends_as_an_undisturbed_one(
    trained: Train, tuned: Path, tmp_path: Path
) -> None:
    for epoch in (0, 2, 4):
        with pytest.raises(InterruptedRunError):
            trained(tmp_path / "cut", on_progress=at("exits", epoch))
    torch.rand(3)  # whatever else draws random numbers meanwhile
    trained(tmp_path / "cut")
    files = [folder / "exits.safetensors" for folder in (tuned, tmp_path / "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_saver_that_refines_is_not_tuned(
    trained: Train, weights: dict[str, str], tmp_path: Path
) -> None:
    network = trained(
        tmp_path / "exits",
        saver=f"tiny={weights['small']}",
        heads=("conv4+saver",),
        config=replace(TUNED, epochs=1),
    )
    names = ["blocks.0/conv4+saver", "blocks.1/conv4+saver", "blocks.0/esn", "blocks.1/esn"]
    found = ExitFolder.read(tmp_path / "exits").training["exits"]
    assert [*found] == [*names, "network"]
    assert network.saver_branch is not None
    assert (
        network.saver_branch.saver.stage.weights_hash == load_stage(weights["small"]).weights_hash
    )


@pytest.mark.parametrize("config", [FROZEN, TUNED])
def test_exits_learn_from_later_ones_and_teach_without_learning(config: TrainingConfig) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3))
    network = attach(model, {"0": "linear", "1": "linear"}, image=torch.zeros(4))
    config = replace(config, share=1.0, temperature=2.0, hold=3.0)
    learned = JointLosses.of(network, ["0/linear", "1/linear"], config)
    own = torch.randn(5, 3 if config.backbone_lr else 2, 3, requires_grad=True)
    old = torch.randn(5, 3)
    found = learned(own, Targets({}, torch.zeros(5, dtype=torch.long), old))
    whole = own[:, 2] if config.backbone_lr else old
    taught = ((own[:, 1] / 2).softmax(1) + (whole / 2).softmax(1)) / 2
    expected = -(taught * (own[:, 0] / 2).log_softmax(1)).sum(1) * 4
    torch.testing.assert_close(found[:, 0], expected)
    (gradient,) = torch.autograd.grad(found[:, 0].sum(), own, retain_graph=True)
    assert not gradient[:, 1:].any()
    assert gradient[:, 0].any()
    if config.backbone_lr:
        held = -3 * ((old / 2).softmax(1) * (own[:, 2] / 2).log_softmax(1)).sum(1) * 4
        torch.testing.assert_close(found[:, 2], held)


@pytest.mark.slow
def test_the_drop_is_certified_against_the_network_as_it_was(
    weights: dict[str, str], tuned: Path, tmp_path: Path
) -> None:
    models = {"old": weights["big"], "net": f"exits:{tuned}"}
    table = scored(models, tmp_path / "table")
    assert table.names == ("old", "net/blocks.0/linear", "net/blocks.1/linear", "net")
    result = search(table, reference="old", max_drop=6.0)
    (choice,) = result.choices
    assert choice.certificate is not None
    assert (result.reference, choice.certificate.reference) == ("old", "old")
    assert choice.policy.exits[0].startswith("net/")
    some = table.only(["old", "net/blocks.0/linear", "net"])
    in_sample = search_in_sample(some, reference="old", max_drop=0.5).choices[0]
    assert in_sample.policy.exits == ("net/blocks.0/linear", "net")
    found = evaluate(some, in_sample.policy, reference="old")
    assert found.drop <= 0.5
    assert found.saving["MACs"] > 0
    cascade = build(result, network_of(tuned).stages("net") | {"old": load_stage(weights["big"])})
    images = torch.stack([open_data("digits:heldout").image(number) for number in range(50)])
    assert cascade(images).shape == (50, 10)


@pytest.mark.slow
def test_what_was_proved_of_the_old_network_is_refused_for_the_new_one(
    weights: dict[str, str], trained: Train, tuned: Path, tmp_path: Path
) -> None:
    trained(tmp_path / "frozen", config=FROZEN)
    models = {"net": f"exits:{tmp_path / 'frozen'}"}
    table = scored(models, tmp_path / "table")
    result = search(table, max_drop=8.0)
    assert build(result, {"net": network_of(tmp_path / "frozen")})
    with pytest.raises(ModelError, match="is not the model that was scored, its weights"):
        build(result, {"net": network_of(tuned)})


def test_weights_that_were_tampered_with_are_refused(tuned: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tuned, tmp_path / "copy")
    file = copy / "exits.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="are not those that were saved"):
        network_of(copy)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"classifier": True}, "found 'its last layer to be trained anew first'"),
        ({"config": replace(TUNED, weights="dyce")}, "found 'dyce'"),
    ],
)
def test_what_tuning_leaves_no_place_for_is_refused(
    trained: Train, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        trained(tmp_path / "exits", **more)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_says_how_to_score_both_networks(
    run: Run, weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Path("tune.toml").write_text(
        'targets = "exits"\nbackbone_lr = 0.001\nepochs = 1\nviews = 1\nheld_out = 0.2\n'
    )
    words = ("train-exits", f"net={weights['big']}", "--data", "digits:train", "--into", "exits")
    command = run(*words, "--config", "tune.toml", "--taps", 1)
    assert command.exit_code == 0, command.stderr
    said = " ".join(command.stdout.split())
    assert "--reference old" in said
    assert "exits:exits --allow-code exit_digits" in said
    assert "old=py:exit_digits:big?checkpoint=" in said
    assert network_of(tmp_path / "exits").stage.weights_hash
