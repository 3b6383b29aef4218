from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from exit_nets import network, stage_of
from exported_cascades import Exported
from onnx_nets import plain
from understudy.errors import MissingExtra, ModelError, PolicyError, UnderstudyError
from understudy.nn.cascade import Cascade
from understudy.nn.stage import Preprocess, Stage
from understudy.onnx.bundle import OnnxBundle, Value, read_bundle
from understudy.onnx.cascade import load_onnx
from understudy.onnx.export import OPSET, export_onnx, exported_exits, image_of
from understudy.policy import Policy


def single(model: nn.Module, **options: Any) -> Cascade:
    return Cascade({"net": Stage(model, **options)}, Policy.single("net"))


def test_a_bundle_records_what_was_measured(plain_export: Exported) -> None:
    bundle = read_bundle(plain_export[1])
    assert OnnxBundle.from_dict(bundle.to_dict()) == bundle
    assert bundle.images == Value("images", "uint8", (3, 8, 8))
    assert [piece.part for piece in bundle.pieces] == [
        "net/blocks.1", "net/(rest)", "net/blocks.1/conv16", "tiny",
    ]  # fmt: skip
    assert set(bundle.differences) == set(bundle.exits)
    assert bundle.difference < 1e-5
    assert all(piece.difference < 1e-5 for piece in bundle.pieces)
    assert bundle.frontier == plain_export[0].operating_points
    assert bundle.scores == plain_export[0].scores
    assert set(bundle.made_with) == {"torch", "onnx", "onnxruntime"}


def test_pieces_hold_their_own_weights_alone(plain_export: Exported) -> None:
    import onnx

    folder = plain_export[1]
    names: list[str] = []
    for piece in read_bundle(folder).pieces:
        model = onnx.load(folder / piece.file)
        assert model.opset_import[0].version == OPSET
        assert [one.name for one in model.graph.input] == [value.name for value in piece.takes]
        assert all(one.type.tensor_type.shape.dim[0].dim_param for one in model.graph.input)
        names += [w.name for w in model.graph.initializer if w.name.endswith(("weight", "bias"))]
    convolutions = [name for name in names if "blocks.0.conv" in name]
    assert len(convolutions) == 4  # of the network once, of the small model once


def test_ready_tensors_and_a_batch_that_is_never_fixed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cascade = single(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)))
    with pytest.raises(ModelError, match="give `image`"):
        export_onnx(cascade, tmp_path / "onnx")
    with pytest.raises(ModelError, match=r"found `image` \(4,\) and size \(2, 2\): give one"):
        export_onnx(cascade, tmp_path / "onnx", image=torch.zeros(4), size=(2, 2))
    progress: list[tuple[str, int, int]] = []
    export_onnx(
        cascade,
        tmp_path / "onnx",
        image=torch.zeros(4),
        on_progress=lambda *step: progress.append(step),
    )
    assert progress == [("export", 0, 1), ("export", 1, 1)]
    other, rows = load_onnx(tmp_path / "onnx", threads=1), torch.randn(17, 4)
    np.testing.assert_allclose(other.logits("net", rows), cascade(rows), atol=1e-6)


def test_images_of_another_size_are_resized_in_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    preprocess = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3, crop=0.875)
    cascade = single(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), preprocess=preprocess)
    assert image_of(cascade, ["net"]).shape == (3, 9, 9)
    bundle = export_onnx(cascade, tmp_path / "onnx", size=(12, 20))
    assert bundle.images.shape == (3, 12, 20)
    pixels = torch.randint(256, (5, 3, 12, 20), dtype=torch.uint8)
    found = load_onnx(tmp_path / "onnx", threads=1).logits("net", pixels)
    np.testing.assert_allclose(found, cascade(pixels), atol=1e-5)


def test_exits_that_are_exported() -> None:
    cascade = plain()
    assert exported_exits(cascade) == ("tiny", "net/blocks.1/conv16", "net", "mean")
    cascade = Cascade({"net": network(), "tiny": stage_of("net:2")}, Policy.single("net"))
    assert exported_exits(cascade) == ("net",)
    assert exported_exits(cascade, ["tiny"]) == ("net", "tiny")
    with pytest.raises(PolicyError, match="no exit 'big' in this cascade"):
        exported_exits(cascade, ["big"])


class Bessel(nn.Module):
    """An operator that ONNX lacks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x.flatten(1))


class Branching(nn.Module):
    """Branches on the values of the images, which no graph can."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Mixing(nn.Module):
    """Has other results for other batch sizes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) - x.flatten(1).mean(0, keepdim=True) * (1 if len(x) == 3 else 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Bessel(), "the stage 'net' cannot be exported to ONNX"),
        (Branching(), "the stage 'net' cannot be exported to ONNX"),
        (Mixing(), "fails to run 'net' on 5 images, it was exported with 3"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    model: nn.Module, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message) as error:
        export_onnx(single(model), tmp_path / "onnx", image=torch.zeros(3))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert not list(tmp_path.iterdir())


def test_precisions_that_the_cpu_lacks(tmp_path: Path) -> None:
    cascade = single(nn.Sequential(nn.Linear(4, 3), nn.GELU()).to(torch.bfloat16))
    message = r"'net' was exported, but ONNX Runtime does not take it .*: export it in float32"
    with pytest.raises(ModelError, match=message):
        export_onnx(cascade, tmp_path / "onnx", image=torch.zeros(4, dtype=torch.bfloat16))
    assert not list(tmp_path.iterdir())


def test_differences_above_the_tolerance_are_refused(tmp_path: Path) -> None:
    cascade = single(nn.Linear(4, 3))
    with pytest.raises(ModelError, match=r"PyTorch up to -1 .*'net' is off by \d"):
        export_onnx(cascade, tmp_path / "onnx", image=torch.zeros(4), tolerance=-1)
    assert not list(tmp_path.iterdir())


def test_the_folder_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("years of work")
    with pytest.raises(UnderstudyError, match="something else"):
        export_onnx(single(nn.Linear(4, 3)), tmp_path, image=torch.zeros(4))
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize(("package", "extra"), [("onnxscript", "export"), ("onnxruntime", "onnx")])
def test_what_exporting_needs(
    package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'understudy\[{extra}\]'"):
        export_onnx(plain(), tmp_path / "onnx")


def test_an_exporting_name_that_is_not_there() -> None:
    import understudy.onnx

    with pytest.raises(AttributeError, match="'nonsense'"):
        understudy.onnx.nonsense  # type: ignore[attr-defined]  # noqa: B018
