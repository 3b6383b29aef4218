"""``onnx:FILE``: ONNX classifiers as stages."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onnx
from onnx import TensorProto, helper, numpy_helper
from understudy.errors import ModelError
from understudy.nn.cascade import Cascade
from understudy.nn.cost import count_parts
from understudy.nn.identity import check_identity, identity_of
from understudy.nn.stage import Preprocess, Stage
from understudy.policy import Policy
from understudy.scoring.probing import probe
from understudy.zoo.model_specs import check_found, named_specs, parse_model_spec
from understudy.zoo.models import load_stage
from understudy.zoo.saved_cascades import load_cascade, save_cascade

PREPARED = "mean=0.5&std=0.25"


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        ).eval()


def write(path: Path, model: nn.Module, *, batch: int | str = "n", softmax: bool = False) -> Path:
    """The model of `net` as ONNX, for any number of images or for a fixed one."""
    values = {name: value.numpy() for name, value in model.state_dict().items()}
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "2.weight", "2.bias"], ["c"], group=4),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "5.weight", "5.bias"], ["f" if softmax else "y"], transB=1),
        *([helper.make_node("Softmax", ["f"], ["y"])] if softmax else []),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in values.items()]
    return graph(path, [batch, 3, 16, 16], nodes, weights=weights)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("onnx") / "tiny.onnx", net())


def graph(
    path: Path,
    shape: list[Any],
    nodes: list[Any],
    *,
    weights: Any = (),
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A graph of some nodes from `x` to `y`."""
    x = helper.make_tensor_value_info("x", kind, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "g", [x], [y], list(weights))
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path
    )
    return path


def images(count: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (count, 3, 24, 30), dtype=torch.uint8, generator=generator)


PREPROCESS = Preprocess((16, 16), (0.5,) * 3, (0.25,) * 3)


def test_an_onnx_model_answers_and_counts_as_in_pytorch(file: Path) -> None:
    stage, plain = load_stage(f"onnx:{file}?{PREPARED}"), Stage(net(), preprocess=PREPROCESS)
    assert stage.preprocess == PREPROCESS
    assert torch.allclose(stage(images()), plain(images()), atol=1e-5)
    assert torch.allclose(copy.deepcopy(stage)(images()), stage(images()))
    image = images()[0]
    assert count_parts({"m": stage}, image) == count_parts({"m": plain}, image)
    weights = sum(weight.nbytes for weight in plain.parameters())
    assert weights < probe({"m": stage}, images()).bytes < weights + 10_000


def test_a_fixed_batch_and_probabilities(tmp_path: Path) -> None:
    fixed = write(tmp_path / "fixed.onnx", net(), batch=4, softmax=True)
    found = load_stage(f"onnx:{fixed}?{PREPARED}")
    plain = Stage(net(), preprocess=PREPROCESS)
    assert torch.allclose(found(images()), plain(images()).log_softmax(1), atol=1e-5)
    image = images()[0]
    assert count_parts({"m": found}, image)["m"] == count_parts({"m": plain}, image)["m"]
    as_they_are = load_stage(f"onnx:{fixed}?{PREPARED}&outputs=logits")
    assert torch.allclose(as_they_are(images()), plain(images()).softmax(1), atol=1e-5)


def test_weights_beside_the_file(file: Path, tmp_path: Path) -> None:
    beside = tmp_path / "beside.onnx"
    onnx.save(onnx.load(file), beside, save_as_external_data=True, size_threshold=0)
    expected = load_stage(f"onnx:{file}?{PREPARED}")(images())
    assert torch.equal(load_stage(f"onnx:{beside}?{PREPARED}")(images()), expected)
    for other in tmp_path.iterdir():
        if other != beside:
            other.unlink()
    with pytest.raises(ModelError, match="files of weights that it names"):
        load_stage(f"onnx:{beside}?{PREPARED}")


def test_raw_pixels_with_channels_last(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f", "axes"], ["y"], keepdims=0),
    ]
    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    file = graph(
        tmp_path / "raw.onnx", ["n", 24, 30, 3], nodes, weights=[axes], kind=TensorProto.UINT8
    )
    stage = load_stage(f"onnx:{file}")
    assert torch.allclose(stage(images()), images().float().mean((2, 3)), atol=1e-3)
    with pytest.raises(ModelError, match="normalises by itself"):
        load_stage(f"onnx:{file}?{PREPARED}")


def test_operators_without_a_formula_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Einsum", ["m", "w"], ["e"], equation="nc,ck->nk"),
        helper.make_node("Softmax", ["e"], ["p"]),
        helper.make_node("Identity", ["p"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([2, 3]), "axes"),
        numpy_helper.from_array(np.ones((3, 4), np.float32), "w"),
    ]
    file = graph(tmp_path / "odd.onnx", ["n", 3, "h", "w"], nodes, weights=weights)
    stage = load_stage(f"onnx:{file}?{PREPARED}&size=8x12")
    assert stage.preprocess is not None
    assert stage.preprocess.size == (8, 12)
    assert count_parts({"m": stage}, images()[0])["m"].uncounted == ("Einsum",)
    assert stage(images()).exp().sum(1).allclose(torch.ones(7))


def test_a_cascade_holds_the_model_and_notices_another(file: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(file.read_bytes())
    stage = load_stage(f"onnx:{own}?{PREPARED}")
    recorded = identity_of(stage)
    save_cascade(Cascade({"own": stage}, Policy.single("own")), tmp_path / "cascade")
    expected = stage(images())
    write(own, net(1))
    changed = load_stage(f"onnx:{own}?{PREPARED}")
    with pytest.raises(ModelError, match="its weights have the hash"):
        check_identity("own", recorded, changed, past="scored", remedy="score it again")
    own.unlink()
    assert torch.equal(load_cascade(tmp_path / "cascade")(images()), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "lacks mean and std: add"),
        ("?mean=0.5", "lacks mean and std"),
        ("?mean=0.5,0.5&std=1", "one for each of 3 channels, found 2"),
        (f"?{PREPARED}&size=32", "takes 16x16"),
        (f"?{PREPARED}&output=logit", "no output 'logit'"),
        (f"?{PREPARED}&layout=nhwc", "in the layout nhwc .* takes 16"),
    ],
)
def test_options_that_do_not_fit_the_model(file: Path, options: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_stage(f"onnx:{file}{options}")(images())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("mean=a", "mean is one number"),
        ("std=0", "std is one number above 0"),
        ("scale=-1", "scale is one number above 0"),
        ("crop=1.5", "crop is one number above 0 and up to 1"),
        ("size=0", "size is a number of pixels or HxW"),
        ("layout=chw", "no layout 'chw'"),
        ("squash=maybe", "no squash 'maybe'"),
        ("classes=10", "no option 'classes'"),
    ],
)
def test_options_are_checked_without_the_file(options: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_model_spec(f"onnx:net.onnx?{options}")


def test_files_that_are_no_models(file: Path, tmp_path: Path) -> None:
    assert list(named_specs([f"onnx:{file}"])) == ["tiny"]
    with pytest.raises(ModelError, match="an ONNX model is a file"):
        check_found(parse_model_spec("onnx:nowhere.onnx"))
    with pytest.raises(ModelError, match=r"write \"onnx:.*tiny.onnx\?mean="):
        parse_model_spec(str(file))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(file.read_bytes()[:400])
    with pytest.raises(ModelError, match="whole ONNX file"):
        load_stage(f"onnx:{broken}?{PREPARED}")
    rows = graph(tmp_path / "rows.onnx", ["n", 64], [helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(ModelError, match="images have four sides"):
        load_stage(f"onnx:{rows}?{PREPARED}")
