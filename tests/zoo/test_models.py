from __future__ import annotations

import copy
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from understudy.errors import MissingExtra, ModelError
from understudy.zoo.library_models import preprocess_of
from understudy.zoo.models import build_stage, load_stage, named_models

FACTORIES = """
import torch
from torch import nn
from understudy.nn.stage import Preprocess, Stage


def net(**attributes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3, 4))
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def full():
    return net(input_size=(1, 2, 3), mean=[0.5], std=[0.25], scale=16)


def square():
    return net(input_size=8, mean=0.5, std=0.25, scale=16)


def lacking():
    return net(input_size=8, mean=0.5)


def odd():
    return net(input_size=(8,), mean=0.5, std=0.25, scale=1)


def staged():
    return Stage(net(), preprocess=Preprocess((2, 3), (0.0,), (1.0,)), origin={"by": "hand"})


def nothing():
    return None


NUMBER = 3
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of factories in the current directory."""
    name = "factories_in_the_current_directory"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_a_factory_in_the_current_directory(factories: str) -> None:
    path = list(sys.path)
    stage = load_stage(f"py:{factories}:full")
    assert sys.path == path
    assert stage.origin == {"spec": f"py:{factories}:full"}
    assert stage.preprocess is not None
    assert stage.preprocess.size == (2, 3)
    assert stage(torch.zeros(5, 1, 2, 3, dtype=torch.uint8)).shape == (5, 4)
    square = load_stage(f"py:{factories}:square").preprocess
    assert square is not None
    assert (square.size, square.mean, square.scale) == ((8, 8), (0.5,), 16.0)


def test_a_factory_that_returns_a_stage_keeps_its_preprocessing(factories: str) -> None:
    stage = load_stage(f"py:{factories}:staged")
    assert stage.origin == {"by": "hand", "spec": f"py:{factories}:staged"}
    assert stage.preprocess is not None
    assert stage.preprocess.scale == 255.0


def test_random_weights_are_always_the_same_and_leave_the_generator_alone(factories: str) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = load_stage(f"py:{factories}:full?weights=random")
    assert torch.equal(torch.get_rng_state(), before)
    assert first.weights_hash == load_stage(f"py:{factories}:full").weights_hash


def test_a_checkpoint_is_loaded_but_never_when_building(factories: str, tmp_path: Path) -> None:
    state = {"1.weight": torch.ones(4, 6), "1.bias": torch.zeros(4)}
    save_file(state, tmp_path / "full.safetensors")
    stage = load_stage(f"py:{factories}:full?checkpoint=full.safetensors")
    assert torch.equal(stage.model.state_dict()["1.weight"], state["1.weight"])
    built = build_stage(f"py:{factories}:full?checkpoint=gone.safetensors")
    assert built.preprocess == stage.preprocess
    assert built.origin["spec"] == f"py:{factories}:full?checkpoint=gone.safetensors"


def test_stages_can_be_copied(factories: str) -> None:
    stage = load_stage(f"py:{factories}:full")
    copied = copy.deepcopy(stage)
    assert copied.origin == stage.origin
    assert copied.weights_hash == stage.weights_hash


def test_another_way_to_run_a_model(factories: str) -> None:
    plain = load_stage(f"py:{factories}:full")
    fast = load_stage(f"py:{factories}:full?run=channels_last+bfloat16")
    images = torch.randint(256, (3, 1, 2, 3), dtype=torch.uint8)
    assert torch.allclose(fast(images), plain(images), atol=0.1)
    assert not torch.equal(fast(images), plain(images))
    assert fast.weights_hash != plain.weights_hash
    assert fast.spec == f"py:{factories}:full?run=channels_last+bfloat16"
    with pytest.raises(ModelError, match="no execution mode 'fast'"):
        load_stage(f"py:{factories}:full?run=fast")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("lacking", "has no std, scale"),
        ("odd", r"input_size is a number, \(H, W\) or \(C, H, W\)"),
        ("nothing", "returned NoneType"),
        ("ful", "did you mean 'full'"),
        ("NUMBER", "no factory 'NUMBER' in"),
    ],
)
def test_what_a_factory_must_return(factories: str, factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_stage(f"py:{factories}:{factory}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("py:nowhere_at_all:net", "cannot be imported"),
        ("py:module", "reads py:module:factory"),
        ("py:", "a model has a name"),
        ("timm:resnet81", "no timm model 'resnet81'; did you mean 'resnet18"),
        (
            "timm:resnet18.a1_in2k",
            "no timm model 'resnet18.a1_in2k'; did you mean 'resnet18.a1_in1k'",
        ),
        ("timm:resnet18?classes=ten", "whole number above 0, found 'ten'"),
        ("timm:resnet18?classes=10", "have 1000 classes, not 10"),
        ("timm:resnet18?weights=best", "weights='best'|weights=best"),
        ("timm:resnet18?weights=random&checkpoint=a.pt", "names two"),
        ("torchvision:resnet81", "no torchvision model 'resnet81'; did you mean 'resnet18'"),
        ("torchvision:resnet18?classes=10", "have 1000 classes, not 10"),
        ("jax:resnet", "no model scheme 'jax'"),
    ],
)
def test_models_that_cannot_be_had(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_stage(spec)


def test_a_failed_download_says_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(torchvision.models, "get_model", offline)
    for spec in ("timm:resnet18", "torchvision:resnet18"):
        with pytest.raises(ModelError, match=r"no route.*\?checkpoint=FILE or \?weights=random"):
            load_stage(spec)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_names_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match="zoo"):
        load_stage(f"{library}:resnet18")


def test_timm_prepares_images_as_timm_does() -> None:
    stage = load_stage("timm:test_resnet?weights=random&classes=7")
    assert stage.preprocess is not None
    pixels = np.random.default_rng(0).integers(0, 256, (190, 240, 3), np.uint8)
    image = Image.fromarray(pixels).resize((480, 380), Image.Resampling.BICUBIC)
    config = timm.data.resolve_model_data_config(stage.model)
    theirs = timm.data.create_transform(**config, is_training=False)(image)
    ours = stage.prepare([torch.from_numpy(np.array(image)).permute(2, 0, 1)])
    assert ours.shape == (1, *theirs.shape)
    assert float((ours[0] - theirs).abs().max()) < 0.03
    assert stage([torch.zeros(3, 90, 70, dtype=torch.uint8)]).shape == (1, 7)


@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_b0", "mobilenet_v3_small", "inception_v3"]
)
def test_torchvision_prepares_images_as_torchvision_does(name: str) -> None:
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    noise = torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(0)) * 255
    image = F.interpolate(noise, size=(300, 400), mode="bilinear")[0].to(torch.uint8)
    theirs, ours = transforms(image), preprocess_of(transforms)([image])
    assert ours.shape == (1, *theirs.shape)
    assert float((ours[0] - theirs).abs().max()) < 0.03  # one shade of 255


def test_torchvision_with_random_weights() -> None:
    stage = load_stage("torchvision:squeezenet1_1?weights=random&classes=5")
    assert stage([torch.zeros(3, 90, 70, dtype=torch.uint8)]).shape == (1, 5)
    assert stage.weights_hash == load_stage(stage.spec or "").weights_hash


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "vit_h_14"])
def test_torchvision_builds_the_architecture_of_the_published_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    weights = torchvision.models.get_model_weights(name).DEFAULT

    def load(model: torch.nn.Module, state: object, **kwargs: object) -> None:
        states.append({key: value.shape for key, value in model.state_dict().items()})

    monkeypatch.setattr(type(weights), "get_state_dict", lambda *args, **kwargs: {})
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", load)
    with torch.device("meta"):
        published = load_stage(f"torchvision:{name}")
        built = build_stage(f"torchvision:{name}")
    assert states
    shapes = {key: value.shape for key, value in built.model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in published.model.state_dict().items()}
    flags = [getattr(stage.model, "transform_input", None) for stage in (published, built)]
    assert flags[0] == flags[1]


def test_exits_are_named_after_models_unless_named() -> None:
    assert named_models(["py:nets:tiny", "big=timm:resnet50?classes=3"]) == {
        "tiny": "py:nets:tiny",
        "big": "timm:resnet50?classes=3",
    }
    with pytest.raises(ModelError, match="both 'tiny'"):
        named_models(["py:nets:tiny?checkpoint=a.pt", "py:nets:tiny?checkpoint=b.pt"])
    with pytest.raises(ModelError, match="SCHEME:NAME"):
        named_models(["big=resnet50"])


def test_weights_of_torchvision_are_named() -> None:
    """As NAME.WEIGHTS; without, the default ones."""
    default = build_stage("torchvision:vit_b_32")
    assert build_stage("torchvision:vit_b_32.IMAGENET1K_V1").preprocess == default.preprocess
    with pytest.raises(ModelError, match=r"did you mean 'vit_b_32.IMAGENET1K_V1'"):
        build_stage("torchvision:vit_b_32.IMAGENET1K_V9")
    with pytest.raises(ModelError, match="no torchvision model"):
        build_stage("torchvision:vgg16.IMAGENET1K_FEATURES")  # which are no classifier's
