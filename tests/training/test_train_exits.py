from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from exit_digits import big, small, train
from progress import InterruptedRunError, RecordedProgress, at
from understudy.early_exit.network import ExitNetwork, attach
from understudy.early_exit.serialization import ExitFolder
from understudy.errors import DataError, ModelError, UnderstudyError
from understudy.scoring.on_disk import score_into
from understudy.store import load_table
from understudy.training import checkpoint
from understudy.training.api import fit_exits, train_exits
from understudy.training.config import TrainingConfig
from understudy.training.named_config import read_config
from understudy.training.sampling import hold_out
from understudy.zoo.data import Array, DataSet, open_data
from understudy.zoo.models import load_network, load_stage

QUICK = TrainingConfig(epochs=4, batch=64, lr=1e-2, views=2, flip=False, held_out=0.2, patience=4)
DIGITS = "digits:train"
EVERYTHING = {"heads": ("mlp1x16",), "classifier": True}
Train = Callable[..., ExitNetwork]


@pytest.fixture(autouse=True)
def every_epoch_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little time an epoch takes beside saving it."""
    monkeypatch.setattr(checkpoint, "SHARE", 1.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Specs of trained networks, by name."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    train(big(), folder / "big.safetensors", epochs=12)
    train(small(), folder / "small.safetensors", epochs=4)
    return {
        name: f"py:exit_digits:{name}?checkpoint={folder}/{name}.safetensors"
        for name in ("big", "small")
    }


@pytest.fixture(scope="module")
def trained(weights: dict[str, str]) -> Train:
    """Trains exits of the big network; settings that are not given are quick."""

    def by(into: Path, **more: Any) -> ExitNetwork:
        model, data = more.pop("model", f"net={weights['big']}"), more.pop("data", DIGITS)
        settings = {"taps": ["blocks.0", "blocks.1"], "config": QUICK, "device": "cpu", **more}
        return train_exits(model, data, into, **settings)

    return by


@pytest.fixture(scope="module")
def whole(
    trained: Train, weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What an undisturbed run wrote."""
    folder = tmp_path_factory.mktemp("whole") / "exits"
    trained(folder, saver=f"tiny={weights['small']}", **EVERYTHING)
    return folder


def held_out(network: ExitNetwork) -> dict[str, float]:
    """The accuracy of every exit on digits that were not trained on."""
    data = open_data("digits:heldout")
    images = torch.stack([data.image(number) for number in range(len(data))])
    labels = torch.from_numpy(data.labels)
    return {
        name: float((stage(images).argmax(1) == labels).float().mean())
        for name, stage in network.stages("net").items()
    }


def states(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "exits.safetensors")


def training_of(folder: Path) -> dict[str, Any]:
    training = dict(ExitFolder.read(folder).training)
    del training["seconds"]
    return training


def test_exits_learn_and_deeper_ones_are_better(trained: Train, tmp_path: Path) -> None:
    network = trained(
        tmp_path / "exits",
        heads=("linear", "conv8"),
        config=TrainingConfig(**{**QUICK.to_dict(), "epochs": 12}),
    )
    right = held_out(network)
    first, second = right["net/blocks.0/linear"], right["net/blocks.1/linear"]
    assert 0.4 < first < second - 0.1
    assert min(second, right["net"]) > 0.75
    assert right["net/blocks.0/conv8"] > first + 0.1
    training = training_of(tmp_path / "exits")
    for name, score in training["exits"].items():
        assert score["accuracy"] == pytest.approx(right[f"net/{name}"], abs=0.1)
    digits = open_data(DIGITS)
    assert training["data"] == digits.fingerprint
    assert training["samples"] + training["held_out"] == len(digits)
    assert (training["corrupt"], training["cached"], training["classifier"]) == (0, True, None)
    assert not (tmp_path / "exits.partial").exists()


def test_the_folder_gives_the_same_network_again(
    trained: Train, weights: dict[str, str], tmp_path: Path
) -> None:
    network = trained(tmp_path / "exits", saver=f"tiny={weights['small']}", classifier=True)
    again = load_network(f"exits:{tmp_path / 'exits'}", allow_code=["exit_digits"])
    assert network.weights_hash == again.weights_hash
    assert all(not module.training for module in again.modules())
    images = torch.stack([open_data(DIGITS).image(number) for number in range(9)])
    mine, theirs = network.stages("net"), again.stages("net")
    assert list(mine) == [
        "tiny",
        "net/blocks.0/linear",
        "net/blocks.0/esn",
        "net/blocks.1/linear",
        "net/blocks.1/esn",
        "net",
    ]
    for name, stage in mine.items():
        assert torch.equal(stage(images), theirs[name](images))
    models = {"net": f"exits:{tmp_path / 'exits'}"}
    table = score_into(tmp_path / "table", models, "digits:heldout", allow_code=["exit_digits"])
    assert table.names == tuple(mine)


def test_the_same_call_gives_the_same_weights(trained: Train, tmp_path: Path) -> None:
    one, two = (trained(tmp_path / name) for name in "ab")
    other = trained(tmp_path / "c", config=TrainingConfig(**{**QUICK.to_dict(), "seed": 1}))
    assert one.weights_hash == two.weights_hash != other.weights_hash
    trained(tmp_path / "c")  # replaces it
    assert training_of(tmp_path / "c") == training_of(tmp_path / "a")


@pytest.mark.parametrize(
    "place", [("features", 512), ("classifier", 2), ("exits", 0), ("exits", 2), ("exits", 4)]
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    trained: Train,
    weights: dict[str, str],
    whole: Path,
    tmp_path: Path,
    place: tuple[str, int],
) -> None:
    settings = {**EVERYTHING, "saver": f"tiny={weights['small']}"}
    with pytest.raises(InterruptedRunError):
        trained(tmp_path / "cut", on_progress=at(*place), **settings)
    assert not (tmp_path / "cut").exists()
    rest = RecordedProgress()
    torch.rand(5)  # whatever else draws random numbers meanwhile
    trained(tmp_path / "cut", on_progress=rest, **settings)
    assert ("features", 897) in rest.steps
    assert ("features", 256) not in rest.steps
    assert (("classifier", 1) in rest.steps) == (place[0] == "features")
    assert (("exits", 1) in rest.steps) == (place not in {("exits", 2), ("exits", 4)})
    files = [folder / "exits.safetensors" for folder in (whole, tmp_path / "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert training_of(whole) == training_of(tmp_path / "cut")


def test_an_interrupted_run_resumes_under_the_same_plan_alone(
    trained: Train, tmp_path: Path
) -> None:
    with pytest.raises(InterruptedRunError):
        trained(tmp_path / "cut", on_progress=at("exits", 2))
    for more, key in (
        ({"heads": ("linear", "conv8")}, "heads"),
        ({"taps": ["blocks.0"]}, "taps"),
        ({"config": TrainingConfig(**{**QUICK.to_dict(), "lr": 0.5})}, "lr"),
        ({"data": "digits:"}, "data"),
        ({"classifier": True}, "classifier"),
        ({"model": "py:exit_digits:big?weights=random"}, "backbone"),
    ):
        with pytest.raises(DataError, match=f"has another for {key} "):
            trained(tmp_path / "cut", **more)
    (tmp_path / "cut.partial" / "exits.pt").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"exits\.pt' is damaged"):
        trained(tmp_path / "cut")


def test_a_stream_learns_what_a_cache_learns(trained: Train, tmp_path: Path) -> None:
    notes: list[str] = []
    config = TrainingConfig(**{**QUICK.to_dict(), "epochs": 2})
    cached = trained(tmp_path / "cached", config=config)
    streamed = trained(tmp_path / "streamed", config=config, cache_gb=0.0, on_note=notes.append)
    assert "the network runs anew in every epoch" in notes[0]
    assert not training_of(tmp_path / "streamed")["cached"]
    assert training_of(tmp_path / "cached")["cached"]
    images = torch.stack([open_data(DIGITS).image(number) for number in range(50)])
    for name, stage in cached.stages("net").items():
        torch.testing.assert_close(
            streamed.stages("net")[name](images), stage(images), rtol=0.02, atol=0.02
        )


def test_the_classifier_alone_changes_in_the_backbone(
    trained: Train, weights: dict[str, str], tmp_path: Path
) -> None:
    network = trained(tmp_path / "exits", classifier=True)
    before = load_stage(weights["big"]).model.state_dict()
    after = network.stage.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"linear.weight", "linear.bias"}
    training = training_of(tmp_path / "exits")
    assert training["classifier"] == "linear"
    assert list(training["exits"]) == ["classifier", "blocks.0/linear", "blocks.1/linear"]
    assert training["exits"]["classifier"]["epoch"] > 0
    assert ExitFolder.read(tmp_path / "exits").classifier == "linear"
    assert held_out(network)["net"] > 0.9
    plain = states(tmp_path / "exits")
    trained(tmp_path / "without")
    assert all(
        torch.equal(value, plain[name]) for name, value in states(tmp_path / "without").items()
    )


def test_exits_learn_the_answers_of_the_new_classifier(trained: Train, tmp_path: Path) -> None:
    config = TrainingConfig(**{**QUICK.to_dict(), "targets": "backbone"})
    spoilt = "py:exit_digits:big?weights=random"
    old = trained(tmp_path / "old", model=f"net={spoilt}", config=config, heads=("conv8",))
    new = trained(
        tmp_path / "new", model=f"net={spoilt}", config=config, heads=("conv8",), classifier=True
    )
    assert states(tmp_path / "old").keys() < states(tmp_path / "new").keys()
    assert held_out(old)["net/blocks.1/conv8"] < 0.3
    assert old.weights_hash != new.weights_hash


@pytest.mark.parametrize(
    ("targets", "weighing"), [("both", "even"), ("labels", "dyce"), ("backbone", "tinysaver")]
)
def test_all_targets_and_weights_teach(
    trained: Train, weights: dict[str, str], tmp_path: Path, targets: str, weighing: str
) -> None:
    changes = {"targets": targets, "weights": weighing, "temperature": 2.0, "epochs": 8}
    network = trained(
        tmp_path / "exits",
        saver=f"tiny={weights['small']}",
        heads=("conv8",),
        config=TrainingConfig(**{**QUICK.to_dict(), **changes}),
    )
    right = held_out(network)
    assert right["net/blocks.0/conv8"] > 0.5
    assert right["net/blocks.1/conv8"] > 0.7
    assert right["net/blocks.1/esn"] > right["tiny"]


FRESH: dict[str, Any] = {
    "crop": 0.5,
    "auto_augment": "randaugment",
    "erase": 0.2,
    "mixup": 0.8,
    "cutmix": 1.0,
}


@pytest.mark.parametrize("epoch", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_fresh_views_and_averages_resume_as_undisturbed(
    trained: Train, weights: dict[str, str], tmp_path: Path, epoch: int
) -> None:
    settings = {
        "saver": f"tiny={weights['small']}",
        "heads": ("mlp3x16", "conv8"),
        "config": TrainingConfig(
            **{**QUICK.to_dict(), **FRESH, "epochs": 3, "ema": 0.999, "weights": "dyce"}
        ),
    }
    whole = trained(tmp_path / "whole", workers=2, **settings)
    with pytest.raises(InterruptedRunError):
        trained(tmp_path / "cut", workers=0, on_progress=at("exits", epoch), **settings)
    rest = RecordedProgress()
    torch.rand(5)
    cut = trained(tmp_path / "cut", workers=1, on_progress=rest, **settings)
    assert (("exits", 1) in rest.steps) == (epoch == 0)
    assert whole.weights_hash == cut.weights_hash
    files = [tmp_path / name / "exits.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert training_of(tmp_path / "whole") == training_of(tmp_path / "cut")
    assert not training_of(tmp_path / "whole")["cached"]


@pytest.mark.slow
def test_exits_learn_from_fresh_views(trained: Train, tmp_path: Path) -> None:
    notes: list[str] = []
    fresh: dict[str, Any] = {"crop": 0.8, "mixup": 0.2, "cutmix": 0.2, "shift": 0.0}
    network = trained(
        tmp_path / "exits",
        heads=("conv8",),
        config=TrainingConfig(**{**QUICK.to_dict(), **fresh, "epochs": 12, "ema": 0.99}),
        on_note=notes.append,
    )
    assert "images are augmented anew in every epoch" in notes[0]
    right = held_out(network)
    assert right["net/blocks.1/conv8"] > 0.75


def test_averaged_weights_are_measured_and_kept(weights: dict[str, str], tmp_path: Path) -> None:
    """What is kept is the average of the checkpoint, and its accuracy is that of the average."""
    digits = open_data(DIGITS)
    torch.manual_seed(0)
    network = attach(load_stage(weights["big"]), {"blocks.1": "mlp2x16"})
    config = TrainingConfig(**{**QUICK.to_dict(), "ema": 0.99, "epochs": 3})
    summary = fit_exits(network, digits, config=config, folder=tmp_path / "work")
    state = torch.load(tmp_path / "work" / "exits.pt", weights_only=True)
    assert summary.exits["blocks.1/mlp2x16"].epoch == 3
    ((point),) = network.locations
    kept = network.head(point).state_dict()
    average = {
        name.removeprefix("module.0."): own
        for name, own in state["average"].items()
        if name.startswith("module.0.")
    }
    assert set(average) == set(kept)
    assert all(torch.equal(own, average[name]) for name, own in kept.items())
    assert not torch.equal(kept["layers.1.weight"], state["modules"][0]["layers.1.weight"])
    assert not torch.equal(
        kept["layers.0.running_var"], state["modules"][0]["layers.0.running_var"]
    )
    apart = hold_out(digits, share=config.held_out, seed=0).held_out
    images = torch.stack([digits.image(int(n)) for n in apart])
    assert digits.labels is not None
    labels = torch.from_numpy(digits.labels[apart])
    (stage, *_) = network.stages("net").values()
    right = float((stage(images).argmax(1) == labels).float().mean())
    assert summary.exits["blocks.1/mlp2x16"].accuracy == pytest.approx(right, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp1x1000", "mlp3x500", "mlp3x1000", "mlp5x500", "mlp5x1000"])
def test_every_head_of_dyce_learns_by_its_configuration(weights: dict[str, str], kind: str) -> None:
    """After a few epochs, at a higher rate, with crops and without flips, which digits bear."""
    torch.manual_seed(0)
    network = attach(load_stage(weights["big"]), {"blocks.0": kind, "blocks.1": kind})
    config = replace(
        read_config("dyce").training, epochs=8, lr=3e-3, crop=0.8, flip=False, auto_augment="none"
    )
    summary = fit_exits(network, open_data(DIGITS), config=config)
    found = [summary.exits[f"blocks.{n}/{kind}"] for n in range(2)]
    assert found[0].accuracy > 0.3  # the first exit is trained as well
    assert found[1].accuracy > 0.6


def memory(data: DataSet, labels: Array | None) -> DataSet:
    return DataSet("memory", data.ids, labels, data.classes, "mine", data.read)


def test_nothing_is_trained_on_what_is_held_out(weights: dict[str, str], tmp_path: Path) -> None:
    digits = open_data(DIGITS)
    apart = hold_out(digits, share=QUICK.held_out, seed=0).held_out
    assert digits.labels is not None
    spoilt = digits.labels.copy()
    spoilt[apart] = (spoilt[apart] + 1) % 10
    last = []
    for name, labels in (("right", digits.labels), ("spoilt", spoilt)):
        torch.manual_seed(0)
        network = attach(load_stage(weights["big"]), {"blocks.1": "conv8"})
        fit_exits(network, memory(digits, labels), config=QUICK, folder=tmp_path / name)
        state = torch.load(tmp_path / name / "exits.pt", weights_only=True)
        assert len(state["epochs"]) - 1 == QUICK.epochs
        last.append(state["modules"][0])
    for name, value in last[0].items():
        assert torch.equal(value, last[1][name])
    only = open_data(DIGITS)

    def read(index: int) -> npt.NDArray[np.uint8]:
        if index in set(apart.tolist()):
            return np.zeros((1, 8, 8), np.uint8)
        return only.array(index)

    torch.manual_seed(0)
    network = attach(load_stage(weights["big"]), {"blocks.1": "conv8"})
    black = DataSet("black", only.ids, only.labels, only.classes, "mine", read)
    fit_exits(network, black, config=QUICK, folder=tmp_path / "black")
    state = torch.load(tmp_path / "black" / "exits.pt", weights_only=True)
    assert all(torch.equal(value, state["modules"][0][name]) for name, value in last[0].items())


def test_modules_of_your_own_are_trained_in_memory(weights: dict[str, str]) -> None:
    digits = open_data(DIGITS)
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 64, 10))
    network = attach(load_stage(weights["big"]), {"blocks.0": head})
    before = network.stage.weights_hash
    summary = fit_exits(network, memory(digits, digits.labels), config=QUICK)
    assert summary.exits["blocks.0/head"].accuracy > 0.7
    assert network.stage.weights_hash == before
    assert not network.training
    assert all(p.grad is None for p in network.parameters())


def test_training_stops_when_nothing_gets_better(weights: dict[str, str]) -> None:
    digits = open_data(DIGITS)
    progress = RecordedProgress()
    noise = np.random.default_rng(0).integers(10, size=len(digits))
    network = attach(load_stage(weights["big"]), {"blocks.1": "conv32"})
    config = TrainingConfig(
        epochs=60, batch=32, lr=1e-2, views=1, held_out=0.2, patience=2, warmup=0
    )
    summary = fit_exits(
        network,
        memory(digits, noise),
        config=config,
        on_progress=progress,
    )
    last = max(done for name, done in progress.steps if name == "exits")
    assert last < 20
    assert summary.exits["blocks.1/conv32"].epoch == last - 2


def test_without_labels_exits_learn_from_the_backbone(weights: dict[str, str]) -> None:
    digits = open_data(DIGITS)
    network = attach(load_stage(weights["big"]), {"blocks.1": "conv8"})
    config = TrainingConfig(**{**QUICK.to_dict(), "targets": "backbone"})
    summary = fit_exits(network, memory(digits, None), config=config)
    assert summary.exits["blocks.1/conv8"].accuracy > 0.7
    with pytest.raises(DataError, match="'memory' has none"):
        fit_exits(network, memory(digits, None), config=QUICK)
    with pytest.raises(DataError, match="'memory' has none"):
        fit_exits(network, memory(digits, None), config=config, classifier=True)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(897, int), "all 897 labels in 'memory' are 0"),
        (np.arange(897) % 11, "lie outside \\(found 0 to 10\\)"),
        (np.arange(897) % 3 - 1, "lie outside \\(found -1 to 1\\)"),
    ],
)
def test_labels_are_checked(weights: dict[str, str], labels: Array, words: str) -> None:
    network = attach(load_stage(weights["big"]), {"blocks.1": "linear"})
    with pytest.raises(DataError, match=words):
        fit_exits(network, memory(open_data(DIGITS), labels), config=QUICK)


def test_a_learning_rate_that_is_too_high_is_refused(weights: dict[str, str]) -> None:
    digits = open_data(DIGITS)
    network = attach(load_stage(weights["big"]), {"blocks.1": "mlp3x16"})
    config = TrainingConfig(**{**QUICK.to_dict(), "lr": 1e3, "weight_decay": 1e3})
    with pytest.raises(ModelError, match="with the learning rate 1000: lower it"):
        fit_exits(network, memory(digits, digits.labels), config=config)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"taps": ["blocks.9"]}, "blocks.9"),
        ({"taps": 9}, "found the count 9"),
        ({"heads": ("linar",)}, "did you mean 'linear'"),
        ({"heads": ()}, "found neither heads nor a saver"),
        ({"saver": "py:exit_digits:seven"}, "has 7 where the network has 10"),
        ({"saver": "net=py:exit_digits:small"}, "both are 'net'"),
        ({"model": "py:exit_digits:seven"}, "10 names .* where the models have 7 classes"),
        ({"model": "py:exit_digits:centred", "classifier": True}, "and none is"),
        ({"config": TrainingConfig(weights="tinysaver")}, "found no saver"),
        ({"config": TrainingConfig(held_out=1e-7)}, "change the share"),
        ({"model": "net=py:exit_digits:big?run=compiled"}, "in any mode but compiled"),
        ({"data": "digits:trian"}, "did you mean 'train'"),
        ({"device": "tpu9"}, "device 'tpu9' cannot be used"),
    ],
)
def test_mistakes_are_refused_before_any_work(
    trained: Train, tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnderstudyError, match=words):
        trained(tmp_path / "exits", **wrong)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["bfloat16", "folded+channels_last"])
def test_a_network_in_another_mode(
    trained: Train, weights: dict[str, str], tmp_path: Path, mode: str
) -> None:
    """It is stored in that mode, and its exits run in it."""
    spec = f"{weights['big']}&run={mode}"
    network = trained(tmp_path / "exits", model=f"net={spec}", taps=2)
    again = load_network(f"exits:{tmp_path}/exits", allow_code={"exit_digits"})
    assert (network.mode.name, again.mode.name) == (mode, mode)
    found, whole = held_out(again), held_out(load_network_in(tmp_path, "channels_last"))
    assert found.keys() == whole.keys()
    assert all(abs(found[name] - whole[name]) < 0.02 for name in found)
    score_into(
        tmp_path / "table",
        {"net": f"exits:{tmp_path}/exits"},
        "digits:heldout",
        allow_code={"exit_digits"},
        measure_batches=(),
    )
    table = load_table(tmp_path / "table")
    accuracy = dict(zip(table.names, (table.prediction == table.label).mean(1), strict=True))
    assert accuracy == pytest.approx(found, abs=5e-3)


def load_network_in(folder: Path, mode: str) -> ExitNetwork:
    """The exits of a folder in another mode than the one that is stored."""
    return load_network(f"exits:{folder}/exits?run={mode}", allow_code={"exit_digits"})


def test_the_folder_is_nothing_else(trained: Train, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(UnderstudyError, match="is something else"):
        trained(tmp_path / "mine")
    (tmp_path / "exits.partial").mkdir()
    (tmp_path / "exits.partial" / "diary.txt").write_text("dear diary")
    with pytest.raises(DataError, match="something else is: move it"):
        trained(tmp_path / "exits")
    assert (tmp_path / "exits.partial" / "diary.txt").exists()
