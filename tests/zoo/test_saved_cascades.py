from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bit_flips import bit_flips
from fakes import baseline_for
from understudy.certificate import Certificate
from understudy.documents import write_document
from understudy.errors import ModelError, PolicyError, UnderstudyError
from understudy.nn.cascade import Cascade, build
from understudy.nn.stage import Preprocess, Stage
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy
from understudy.zoo.saved_cascades import load_cascade, save_cascade

PREPROCESS = Preprocess(size=(4, 4), mean=(0.5,), std=(0.25,), crop=0.9)


class Tied(nn.Module):
    """Two layers that share a weight, and one of another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.last = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.second(self.first(images.flatten(1)))
        return self.last(hidden.to(self.last.weight.dtype))


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


MAKERS = {"py:nets:small": small, "py:nets:tied": Tied}


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds models with other weights: these come from the folder, as does preprocessing."""

    def build_model(spec: str, **_: object) -> nn.Module:
        return MAKERS[spec]()

    monkeypatch.setattr("understudy.zoo.saved_cascades.build_model", build_model)


def stage(spec: str, **origin: str) -> Stage:
    return Stage(MAKERS[spec](), preprocess=PREPROCESS, origin={"spec": spec, **origin})


@pytest.fixture
def cascade() -> Cascade:
    torch.manual_seed(3)
    stages = {"a/b.c": stage("py:nets:small", note="x"), "A/b.c": stage("py:nets:tied")}
    policy = Policy.pair("a/b.c", "A/b.c", 0.1 + 0.2, confidence="margin")
    point = OperatingPoint(policy, 0.5, 0.05, 1.5, "MACs", baseline=baseline_for(policy))
    return Cascade(stages, policy, operating_points=[point])


IMAGES = torch.arange(600, dtype=torch.uint8).reshape(20, 1, 6, 5)


def images(count: int = 20) -> Tensor:
    return torch.randint(0, 256, (count, 1, 6, 5), dtype=torch.uint8)


def test_round_trip(cascade: Cascade, tmp_path: Path) -> None:
    save_cascade(cascade, tmp_path / "c", provenance={"table": "abc"})
    loaded = load_cascade(tmp_path / "c")
    assert loaded.policy == cascade.policy
    assert loaded.exits == cascade.exits
    assert loaded.operating_points == cascade.operating_points
    assert dict(loaded.stages["a/b.c"].origin) == {"spec": "py:nets:small", "note": "x"}
    assert loaded.stages["A/b.c"].preprocess == PREPROCESS
    batch = images()
    assert torch.equal(loaded(batch), cascade(batch))
    assert loaded.answer(batch).exit_names() == cascade.answer(batch).exit_names()
    tied = loaded.stages["A/b.c"].model
    assert tied.first.weight is tied.second.weight


def test_what_the_folder_holds(cascade: Cascade, tmp_path: Path) -> None:
    save_cascade(cascade, tmp_path / "c", provenance={"table": "abc"})
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    weights = ["A_b.c-2.safetensors", "a_b.c.safetensors"]
    kept = [f"c/weights/{name}" for name in weights]
    assert files == ["c/README.md", "c/cascade.json", *kept]
    card = (tmp_path / "c" / "README.md").read_text()
    assert "allow_code=['nets']" in card
    assert "understudy run . --data folder:images/ --allow-code nets" in card
    data = json.loads((tmp_path / "c/cascade.json").read_text())
    assert (data["format"], data["version"]) == ("understudy.cascade", 3)
    assert data["provenance"] == {"table": "abc"}
    assert data["policy"] == cascade.policy.to_dict()
    sample = data["stages"]["a/b.c"].pop("sample")
    assert len(sample) == 3
    assert data["stages"]["a/b.c"] == {
        "spec": "py:nets:small",
        "note": "x",
        "weights_hash": cascade.stages["a/b.c"].weights_hash,
        "preprocess": PREPROCESS.to_dict(),
        "dtype": "float32",
        "weights": "weights/a_b.c.safetensors",
    }


def test_reduced_and_mixed_precision_come_back(cascade: Cascade, tmp_path: Path) -> None:
    cascade.stages["a/b.c"].model.to(torch.bfloat16)
    cascade.stages["A/b.c"].model.first.to(torch.float16)
    cascade.stages["A/b.c"].model.second.to(torch.float16)
    save_cascade(cascade, tmp_path / "c")
    loaded = load_cascade(tmp_path / "c")
    assert loaded.stages["a/b.c"].dtype == torch.bfloat16
    assert loaded.stages["A/b.c"].model.second.weight.dtype == torch.float16
    assert loaded.stages["A/b.c"].model.last.weight.dtype == torch.float32
    batch = images()
    assert torch.equal(loaded(batch), cascade(batch))


def test_an_older_cascade_is_replaced_and_nothing_else(cascade: Cascade, tmp_path: Path) -> None:
    for _ in range(2):
        save_cascade(cascade, tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(UnderstudyError, match="something else: choose another place"):
            save_cascade(cascade, taken)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_nothing_half_written(
    cascade: Cascade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.zoo.saved_cascades.save_model", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_cascade(cascade, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_a_stage_without_a_spec_cannot_be_saved(tmp_path: Path) -> None:
    cascade = Cascade({"tiny": small()}, Policy.single("tiny"))
    with pytest.raises(ModelError, match="'tiny' has none: put a function"):
        save_cascade(cascade, tmp_path / "c")
    assert not (tmp_path / "c").exists()


READY = """
from torch import nn
def tiny(): return nn.Linear(16, 3)
def big(): return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
"""


def test_modules_that_take_ready_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They declare no input; the folder says that they need no preprocessing."""
    monkeypatch.undo()
    (tmp_path / "ready_nets.py").write_text(READY)
    monkeypatch.syspath_prepend(tmp_path)
    nets, images = importlib.import_module("ready_nets"), torch.randn(20, 16)
    names = ("tiny", "big")
    models = {
        name: Stage(getattr(nets, name)(), origin={"spec": f"py:ready_nets:{name}"})
        for name in names
    }
    cascade = build(Policy.pair("tiny", "big", 0.5), models)
    save_cascade(cascade, tmp_path / "c")
    loaded = load_cascade(tmp_path / "c", allow_code=["ready_nets"])
    assert torch.equal(loaded(images), cascade(images))
    assert [stage.preprocess for stage in loaded.stages.values()] == [None, None]


@pytest.fixture
def saved(cascade: Cascade, tmp_path: Path) -> Path:
    save_cascade(cascade, tmp_path / "c")
    return tmp_path / "c"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / "cascade.json").read_text())
    edit(data)
    write_document(folder / "cascade.json", data)


def fails(folder: Path, message: str, error: type[UnderstudyError] = ModelError) -> None:
    with pytest.raises(error, match=message):
        load_cascade(folder)


def test_damaged_weights(saved: Path) -> None:
    file = saved / "weights" / "a_b.c.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    fails(saved, "weights of 'a/b.c' cannot be read")
    file.write_bytes(b"\x80\x04pickle")
    fails(saved, "weights of 'a/b.c' cannot be read")
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    fails(saved, "is not the model that was saved, its weights")
    file.unlink()
    fails(saved, "weights of 'a/b.c' cannot be read")


def test_flipped_bits_are_refused_or_harmless(saved: Path) -> None:
    """Those of the text that safetensors keeps beside the tensors change nothing."""
    cascade, harmless = load_cascade(saved), []
    for flip in bit_flips(saved, 45):
        try:
            found = load_cascade(saved)
        except UnderstudyError:
            continue
        harmless.append(flip)
        assert found.policy == cascade.policy
        assert torch.equal(found(IMAGES), cascade(IMAGES)), flip
    assert len(harmless) < 6


def test_code_that_changed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder has the preprocessing; what a factory builds otherwise now is refused."""
    monkeypatch.setattr(nn.BatchNorm1d, "forward", lambda self, x: x.relu() * self.weight)
    fails(saved, r"'a/b.c' from 'py:nets:small' is not the model that was saved, its code answers")


def test_weights_that_do_not_fit(saved: Path) -> None:
    file = saved / "weights" / "a_b.c.safetensors"
    state = load_file(file)
    save_file({name: value for name, value in state.items() if name != "1.bias"}, file)
    fails(saved, "do not fit .*1.bias")
    save_file({**state, "1.weight": torch.zeros(8, 17)}, file)
    fails(saved, "do not fit .*1.weight")


def test_weights_are_read_from_the_folder_alone(saved: Path) -> None:
    (saved / "weights" / "a_b.c.safetensors").rename(saved.parent / "a_b.c.safetensors")
    change(saved, lambda d: d["stages"]["a/b.c"].update(weights="../a_b.c.safetensors"))
    fails(saved, "cannot be read")


def test_cascades_of_version_1(saved: Path) -> None:
    """They knew no networks, and the points of their frontier were not certified."""
    point = {"cost": 1.0, "accuracy": 0.5, "drop": 0.0, "policy": {}}
    change(saved, lambda d: d.update(version=1, frontier=[point]))
    change(saved, lambda d: d.pop("networks"))
    assert load_cascade(saved).operating_points == ()


def test_operating_points_of_before_baselines(saved: Path) -> None:
    change(saved, lambda d: [d["frontier"][0].pop(key) for key in ("name", "baseline")])
    (point,) = load_cascade(saved).operating_points
    assert (point.name, point.baseline) == ("drop-0.5", None)


def test_the_baseline_of_another_policy(saved: Path) -> None:
    change(saved, lambda d: d["frontier"][0]["baseline"]["stages"].pop())
    fails(saved, "an operating point is damaged .*a baseline has the stages", PolicyError)


def certificate_of(policy: Policy) -> Certificate:
    return Certificate(
        *(policy, "A/b.c", "gap", 0.5, 0.05, 900, 3, 1, 0.01, (policy,), 1, None, 1, "", {})
    )


def test_a_policy_that_its_certificate_does_not_prove(cascade: Cascade, tmp_path: Path) -> None:
    proof = certificate_of(cascade.policy)
    point = replace(cascade.operating_points[0], certificate=proof)
    certified = Cascade(cascade.stages, cascade.policy, operating_points=[point])
    save_cascade(certified, tmp_path / "c", provenance={"certificate": proof.to_dict()})
    loaded = load_cascade(tmp_path / "c")
    assert loaded.operating_points == (point,)
    words = r">= 0\.30000000000000004.* was proved: "
    change(tmp_path / "c", lambda d: d["policy"]["stages"][0].update(threshold=0.25))
    fails(tmp_path / "c", f"the policy of a saved cascade .*{words}build it again", PolicyError)
    change(tmp_path / "c", lambda d: d.update(policy=cascade.policy.to_dict()))
    change(tmp_path / "c", lambda d: d["frontier"][0]["policy"]["stages"][0].update(threshold=1.0))
    fails(tmp_path / "c", f"an operating point is damaged .*{words}take it", PolicyError)
    loaded.policy = Policy.single("A/b.c")
    save_cascade(loaded, tmp_path / "changed")
    assert load_cascade(tmp_path / "changed").policy == loaded.policy
    with pytest.raises(PolicyError, match=r"found A/b\.c where a/b\.c when"):
        save_cascade(loaded, tmp_path / "c", provenance={"certificate": proof.to_dict()})
    with pytest.raises(PolicyError, match=r"0\.3 points where 0\.5 were"):
        replace(point, max_drop=0.3)


def test_damaged_json(saved: Path, tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", "does not exist")
    change(saved, lambda d: d["policy"]["stages"][0].update(exit="tiny"))
    fails(saved, "no stage 'tiny'", PolicyError)
    change(saved, lambda d: d.pop("policy"))
    fails(saved, "is damaged")
    change(saved, lambda d: d.update(version=4))
    fails(saved, "upgrade understudy")
    change(saved, lambda d: d.update(format="understudy.table"))
    fails(saved, "is no understudy.cascade file")
    (saved / "cascade.json").write_text("{")
    fails(saved, "is a JSON file")


def test_a_link_to_itself_is_refused(cascade: Cascade, tmp_path: Path) -> None:
    save_cascade(cascade, tmp_path / "c")
    head = tmp_path / "c" / "cascade.json"
    head.unlink()
    head.symlink_to(head.name)
    with pytest.raises(ModelError, match="cascade"):
        load_cascade(tmp_path / "c")
