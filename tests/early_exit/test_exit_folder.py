from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bit_flips import bit_flips
from exit_nets import images, network, refined, stage_of
from understudy.documents import write_document
from understudy.early_exit.network import ExitNetwork, attach
from understudy.early_exit.serialization import NAME, WEIGHTS, ExitFolder, load_exits, save_exits
from understudy.ensemble import Ensemble
from understudy.errors import ModelError, UnderstudyError
from understudy.nn.cascade import Cascade
from understudy.nn.stage import Stage
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy, PolicyStage
from understudy.zoo.saved_cascades import load_cascade, save_cascade


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds the models of saved cascades from the specs of these tests."""
    monkeypatch.setattr(
        "understudy.zoo.saved_cascades.build_model", lambda spec, **_: stage_of(spec).model
    )


def origin_of(origin: Mapping[str, Any]) -> Stage:
    return stage_of(origin["spec"])


def outputs(net: ExitNetwork) -> dict[str, Tensor]:
    return {name: stage(images(6)) for name, stage in net.stages("net").items()}


@pytest.mark.parametrize("make", [network, refined])
def test_what_is_saved_loads_to_the_same_outputs(
    make: Callable[[], ExitNetwork], tmp_path: Path
) -> None:
    net = make()
    save_exits(net, tmp_path / "exits", name="net", training={"epochs": 3})
    loaded = load_exits(tmp_path / "exits", stage_of=origin_of)
    before, after = outputs(net), outputs(loaded)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.weights_hash == net.weights_hash
    assert loaded.taps == net.taps
    saved = ExitFolder.read(tmp_path / "exits")
    assert (saved.name, saved.training, saved.classifier) == ("net", {"epochs": 3}, None)


def test_the_backbone_stays_out_but_for_a_classifier_trained_anew(tmp_path: Path) -> None:
    net = network()
    save_exits(net, tmp_path / "plain", name="net")
    assert all(key.startswith("heads.") for key in load_file(tmp_path / "plain" / WEIGHTS))
    with torch.no_grad():
        net.stage.model.linear.weight.add_(1)
    save_exits(net, tmp_path / "exits", name="net", classifier="linear")
    loaded = load_exits(tmp_path / "exits", stage_of=origin_of)
    assert torch.equal(loaded(images(5)), net(images(5)))
    assert not torch.equal(loaded(images(5)), stage_of("net:8")(images(5)))


def test_other_weights_of_the_backbone(tmp_path: Path) -> None:
    save_exits(network(), tmp_path / "exits", name="net")

    def other(origin: Mapping[str, Any]) -> Stage:
        stage = stage_of(origin["spec"])
        with torch.no_grad():
            stage.model.stem.bias.add_(1)
        return stage

    with pytest.raises(
        ModelError, match=r"the backbone' from 'net:8' is not the model .* its weights"
    ):
        load_exits(tmp_path / "exits", stage_of=other)


def test_another_architecture(tmp_path: Path) -> None:
    save_exits(network(), tmp_path / "exits", name="net")
    with pytest.raises(
        ModelError, match=r"the backbone' from 'net:6' is not the model .* its weights"
    ):
        load_exits(tmp_path / "exits", stage_of=lambda _: stage_of("net:6"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.pop("name"), r"has the field 'name' at \$, found none: train the"),
        (lambda data: data.update(version=99), "version 99"),
        (lambda data: data["network"].pop("taps"), r"has the field 'taps' at \$\.network"),
        (lambda data: data["network"]["taps"][1].update(macs="x"), r"\$\.network\.taps\[1\]\.macs"),
        (lambda data: data["network"]["image"].update(dtype="save"), "images have a dtype"),
        (lambda data: data["network"]["heads"].pop(), "do not fit the heads"),
        (lambda data: data["network"]["heads"][0]["made"].update(kind="mlp"), "mlp"),
    ],
)
def test_a_damaged_folder(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    save_exits(network(), tmp_path / "exits", name="net")
    file = tmp_path / "exits" / NAME
    data = json.loads(file.read_text())
    edit(data)
    write_document(file, data)
    with pytest.raises(ModelError, match=message):
        load_exits(tmp_path / "exits", stage_of=origin_of)


def test_damaged_weights(tmp_path: Path) -> None:
    save_exits(network(), tmp_path / "exits", name="net")
    file = tmp_path / "exits" / WEIGHTS
    saved = load_file(file)
    key = next(key for key in saved if saved[key].ndim)
    save_file({**saved, key: saved[key][..., :1].contiguous()}, file)
    with pytest.raises(ModelError, match=r"not those that were saved .*train the exits again"):
        load_exits(tmp_path / "exits", stage_of=origin_of)
    head = json.loads((tmp_path / "exits" / NAME).read_text())
    del head["weights_hash"]  # as in older folders
    write_document(tmp_path / "exits" / NAME, head)
    with pytest.raises(ModelError, match=f"1 differ, such as '{key}'"):
        load_exits(tmp_path / "exits", stage_of=origin_of)
    file.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        load_exits(tmp_path / "exits", stage_of=origin_of)


def test_flipped_bits_are_refused(tmp_path: Path) -> None:
    save_exits(network(), tmp_path / "exits", name="net")
    for flip in bit_flips(tmp_path / "exits", 40):
        with pytest.raises(ModelError) as raised:
            load_exits(tmp_path / "exits", stage_of=origin_of)
        assert "\n" not in str(raised.value), flip


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_exits(tmp_path, stage_of=origin_of)
    (tmp_path / "mine.txt").write_text("years of work")
    with pytest.raises(UnderstudyError, match="something else"):
        save_exits(network(), tmp_path, name="net")
    assert (tmp_path / "mine.txt").exists()


def test_what_cannot_be_made_again_cannot_be_saved(tmp_path: Path) -> None:
    own = attach(stage_of("net:8"), {"blocks.0": nn.Sequential(nn.Flatten(), nn.Linear(128, 5))})
    with pytest.raises(ModelError, match=r"'blocks\.0/head' is a module of your own"):
        save_exits(own, tmp_path / "exits", name="net")
    bare = attach(stage_of("net:8").model, {"blocks.0": "linear"}, image=torch.zeros(3, 8, 8))
    with pytest.raises(ModelError, match="exists in memory alone"):
        save_exits(bare, tmp_path / "exits", name="net")
    assert not (tmp_path / "exits").exists()


@pytest.mark.parametrize("make", [network, refined])
def test_a_cascade_of_exits_on_disk(make: Callable[[], ExitNetwork], tmp_path: Path) -> None:
    """One file of weights for the network, whatever the number of its exits."""
    net = make()
    pictures, first, last = images(50), list(net.stages("net"))[-4], "net"
    sure = net.stages("net")[first].run(pictures).confidence.median().item()
    policy = Policy((PolicyStage(first, sure), PolicyStage("mean")))
    models: dict[str, nn.Module | Ensemble] = {
        "tiny": stage_of("net:2"),
        "net": net,
        "mean": Ensemble((first, last), (1.0, 1.0)),
    }
    settings = [OperatingPoint(policy, 0.5, 0.05, 2.0, "MACs")]
    cascade = Cascade(models, policy, operating_points=settings)
    save_cascade(cascade, tmp_path / "cascade")
    files = sorted(file.name for file in (tmp_path / "cascade" / "weights").iterdir())
    assert files == ["net.safetensors", "tiny.safetensors"]
    loaded = load_cascade(tmp_path / "cascade")
    assert (loaded.exits, loaded.policy) == (cascade.exits, cascade.policy)
    assert loaded.operating_points == cascade.operating_points
    assert torch.equal(loaded(pictures), cascade(pictures))
    assert loaded.answer(pictures).exit_names() == cascade.answer(pictures).exit_names()
    assert len(np.unique(loaded.answer(pictures).exit_names())) == 2
    nets = {id(s.network) for s in loaded.stages.values() if s.origin.get("root") == "net"}
    assert len(nets) == (1 if make is network else 2)


def test_weights_of_a_network_that_were_changed(tmp_path: Path) -> None:
    save_cascade(Cascade({"net": network()}, Policy.single("net")), tmp_path / "cascade")
    file = tmp_path / "cascade" / "weights" / "net.safetensors"
    saved = load_file(file)
    key = next(key for key in saved if key.startswith("heads.") and saved[key].is_floating_point())
    save_file({**saved, key: saved[key] + 1}, file)
    with pytest.raises(ModelError, match="is not the model that was saved, its weights"):
        load_cascade(tmp_path / "cascade")


def test_names_of_saved_weights_stay(tmp_path: Path) -> None:
    """Cascades of earlier versions load by these names, and the hash of weights goes over them."""
    save_cascade(Cascade({"net": refined()}, Policy.single("net")), tmp_path / "cascade")
    names = load_file(tmp_path / "cascade" / "weights" / "net.safetensors")
    parts = {".".join(name.split(".")[:2]) for name in names}
    assert parts == {"stage.model", "heads.0", "heads.1", "heads.2", "heads.3",
                     "companion.saver", "companion.sequence"}  # fmt: skip
