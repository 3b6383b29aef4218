"""``hf:``: classifiers of transformers with their processors, from a folder or the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from torch import Tensor

from hf_nets import save_resnet, save_vit
from understudy.early_exit.network import attach
from understudy.errors import DataError, ModelError
from understudy.nn.cascade import Cascade
from understudy.nn.identity import difference, identity_of
from understudy.nn.preprocess import Preprocess, resized_image
from understudy.nn.processor import ProcessorPreprocess, preprocess_from
from understudy.nn.stage import Stage
from understudy.onnx.export_preprocess import pixels_of
from understudy.policy import Policy
from understudy.scoring.on_disk import score_into
from understudy.zoo.hf_processor import preprocess_of_processor
from understudy.zoo.models import build_stage, load_stage
from understudy.zoo.saved_cascades import load_cascade, save_cascade


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit(tmp_path_factory.mktemp("hf") / "vit")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_resnet(tmp_path_factory.mktemp("hf") / "resnet")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def photograph(height: int = 427, width: int = 640) -> Tensor:
    pixels = np.ascontiguousarray(load_sample_image("china.jpg").transpose(2, 0, 1))
    return torch.from_numpy(pixels)[:, :height, :width]


def images(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (count, 3, 37, 51), dtype=torch.uint8, generator=generator)


PROCESSORS: dict[str, dict[str, Any]] = {
    "ConvNextImageProcessor": {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
    "ViTImageProcessor": {},
    "ViTImageProcessorPil": {},
    "DeiTImageProcessor": {},
    "BitImageProcessor": {},
    "LevitImageProcessor": {},
    "MobileNetV2ImageProcessor": {},
    "PoolFormerImageProcessor": {},
    "SiglipImageProcessor": {"do_rescale": False},
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(427, 640), (427, 301), (95, 60)])
def test_a_translated_processor_makes_the_same_pixels(name: str, size: tuple[int, int]) -> None:
    processor = getattr(transformers, name)(**PROCESSORS[name])
    found, image = preprocess_of_processor(processor), photograph(*size)
    assert type(found) is Preprocess
    expected = processor(images=[image.numpy()], return_tensors="pt")["pixel_values"]
    level = 1 / (found.scale * min(found.std))  # one of 256
    assert (found([image]) - expected).abs().max() <= (1.01 if "Pil" in name else 1e-3) * level
    ahead = resized_image(image, [found.resizing])  # where it is decoded
    assert torch.equal(found([ahead]), found([image]))


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("EfficientNetImageProcessor", "torchvision"),
        ("MobileViTImageProcessor", "torchvision"),
        ("BeitImageProcessorPil", "pil"),
    ],
)
def test_other_processors_run_themselves(name: str, backend: str) -> None:
    processor, image = getattr(transformers, name)(), photograph()
    found = preprocess_of_processor(processor)
    assert isinstance(found, ProcessorPreprocess)
    assert found.name == f"{name} ({backend})"
    assert found.resizing is None
    again = preprocess_from(json.loads(json.dumps(found.to_dict())))
    assert again == found
    expected = processor(images=[image.numpy()], return_tensors="pt")["pixel_values"]
    assert torch.allclose(again([image, image])[1:], expected, atol=1e-5)


def test_the_settings_of_a_processor_are_part_of_the_identity() -> None:
    first, second = (
        Stage(
            torch.nn.Flatten(),
            preprocess=preprocess_of_processor(
                transformers.EfficientNetImageProcessor(
                    size={"height": 8, "width": 8}, image_mean=[0.5, 0.5, mean]
                )
            ),
        )
        for mean in (0.5, 0.4)
    )
    assert difference(identity_of(first), first) is None
    assert "its preprocessing has" in str(difference(identity_of(first), second))


def test_a_processor_that_runs_itself_is_not_exported() -> None:
    preprocess = preprocess_of_processor(transformers.EfficientNetImageProcessor())
    stage = Stage(torch.nn.Flatten(), preprocess=preprocess)
    with pytest.raises(ModelError, match="'m' is prepared by EfficientNetImageProcessor"):
        pixels_of(stage, images(1)[0], "m")


def test_processors_that_cannot_be_used() -> None:
    with pytest.raises(ModelError, match="makes images of one size"):
        preprocess_of_processor(transformers.ViTImageProcessor(size={"shortest_edge": 32}))
    with pytest.raises(ModelError, match="raised ValueError"):
        preprocess_of_processor(transformers.ImageGPTImageProcessor())
    found = preprocess_of_processor(transformers.EfficientNetImageProcessor())
    with pytest.raises(DataError, match="C = 3"):
        found(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def test_a_folder_gives_the_logits_of_transformers(resnet: Path) -> None:
    stage = load_stage(f"hf:{resnet}")
    model = transformers.AutoModelForImageClassification.from_pretrained(resnet).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(resnet)
    with torch.no_grad():
        expected = model(**processor(images=list(images()), return_tensors="pt")).logits
    assert torch.allclose(stage(images()), expected, atol=1e-5)
    assert stage.spec == f"hf:{resnet}"


def test_weights_and_classes_by_options(vit: Path, tmp_path: Path) -> None:
    assert load_stage(f"hf:{vit}?weights=random&classes=7")(images()).shape == (4, 7)
    other = save_vit(tmp_path / "other", seed=1)
    given = load_stage(f"hf:{vit}?checkpoint={other / 'model.safetensors'}")
    assert given.weights_hash == load_stage(f"hf:{other}").weights_hash
    with pytest.raises(ModelError, match=r"2 of another shape \('classifier.bias'"):
        load_stage(f"hf:{vit}?classes=7&checkpoint={other / 'model.safetensors'}")
    with pytest.raises(ModelError, match="have 10 classes, not 7"):
        load_stage(f"hf:{vit}?classes=7")


def test_an_untrained_head_is_refused(vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    transformers.ViTModel.from_pretrained(vit).save_pretrained(folder)
    transformers.AutoImageProcessor.from_pretrained(vit).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"has none for 'classifier.bias', 'classifier.weight'"):
        load_stage(f"hf:{folder}")


def test_no_code_and_no_pickle_of_a_folder_is_read(vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strange"
    folder.mkdir()
    config = json.loads((vit / "config.json").read_text())
    code = {"AutoConfig": "own.Own", "AutoModelForImageClassification": "own.Model"}
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "own", "auto_map": code})
    )
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    torch.save(load_file(vit / "model.safetensors"), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickles are never read"):
        load_stage(f"hf:{folder}")
    save_file(load_file(vit / "model.safetensors"), folder / "model.safetensors")
    with pytest.raises(ModelError, match="code that comes with a model is never run"):
        load_stage(f"hf:{folder}")


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be made by transformers") as caught:
        load_stage(f"hf:{folder}")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("spec", ["hf:owner/name", "timm:hf-hub:owner/name@main"])
def test_a_hub_that_cannot_be_reached_says_the_way_out(spec: str) -> None:
    with pytest.raises(ModelError, match="'owner/name' is not in its cache") as caught:
        build_stage(spec)
    assert re.search(r"HF_HOME, with HF_HUB_OFFLINE=1", str(caught.value))


def test_a_cascade_needs_no_folder_to_run_and_notices_other_weights(tmp_path: Path) -> None:
    specs = {
        "small": f"hf:{save_vit(tmp_path / 'small')}",
        "large": f"hf:{save_resnet(tmp_path / 'large')}",
    }
    stages = {name: load_stage(spec) for name, spec in specs.items()}
    cascade = Cascade(stages, Policy.pair("small", "large", 0.3))
    save_cascade(cascade, tmp_path / "cascade")
    for name in specs:
        (tmp_path / name).rename(tmp_path / f"{name}-moved")
    loaded = load_cascade(tmp_path / "cascade")
    assert torch.equal(loaded(images()), cascade(images()))
    file = next((tmp_path / "cascade" / "weights").glob("small*"))
    tensors = load_file(file)
    save_file({**tensors, "classifier.bias": tensors["classifier.bias"] + 1}, file)
    with pytest.raises(ModelError, match=r"'small'.* is not the model that was saved"):
        load_cascade(tmp_path / "cascade")


def test_names_of_classes_are_kept_and_compared_with_the_data(tmp_path: Path) -> None:
    names = ["one", "two"]
    spec = f"hf:{save_vit(tmp_path / 'vit', names=names)}"
    for place, name in enumerate(names):
        (tmp_path / "data" / name).mkdir(parents=True)
        pixels = images(1)[0].permute(1, 2, 0).numpy() // (1 + place)
        Image.fromarray(pixels).save(tmp_path / "data" / name / "a.png")
        Image.fromarray(pixels).save(tmp_path / "data" / f"{name}.png")
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in names:
        (tmp_path / "data" / f"{name}.png").rename(flat / f"{name}.png")
    assert score_into(tmp_path / "a", {"m": spec}, f"folder:{flat}").classes == ("one", "two")
    table = score_into(tmp_path / "b", {"m": spec}, f"folder:{tmp_path / 'data'}")
    assert table.classes == ("one", "two")
    turned = f"hf:{save_vit(tmp_path / 'turned', names=names[::-1])}"
    with pytest.raises(DataError, match="'one' is class 0, and class 1 of the models"):
        score_into(tmp_path / "c", {"m": turned}, f"folder:{tmp_path / 'data'}")


@pytest.mark.slow
def test_exits_attach_to_a_model_of_transformers(vit: Path) -> None:
    stage = load_stage(f"hf:{vit}")
    network = attach(stage, {"vit.layers.0": "linear"})
    assert torch.allclose(network.stages("net")["net"](images()), stage(images()), atol=1e-5)


def test_timm_models_of_a_folder(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("test_vit", num_classes=10)
    timm.models.save_for_hf(model, tmp_path / "vit", safe_serialization=True)
    stage = load_stage(f"timm:local-dir:{tmp_path / 'vit'}")
    assert stage.preprocess is not None
    assert stage.preprocess.size == (160, 160)
    assert torch.equal(stage(images()), Stage(model, preprocess=stage.preprocess)(images()))
    save_cascade(Cascade({"vit": stage}, Policy.single("vit")), tmp_path / "cascade")
    (tmp_path / "vit").rename(tmp_path / "moved")
    assert torch.equal(load_cascade(tmp_path / "cascade")(images()), stage(images()))
