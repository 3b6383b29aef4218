"""Specs that name no usable model: each is refused in one sentence, whatever the factory does."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from command_line import Run, refused
from understudy.errors import ModelError, UnderstudyError
from understudy.scoring.probing import probe
from understudy.zoo.models import load_stage, load_stages

FACTORIES = """
import sys
import torch
from torch import nn
from understudy.nn.stage import Preprocess, Stage

DIGIT = Preprocess((8, 8), (0.5,), (0.5,))

def net(**attributes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    declared = {"input_size": 8, "mean": (0.5,), "std": 0.5, "scale": 255, **attributes}
    for name, value in declared.items():
        setattr(model, name, value)
    return model

class Property(nn.Linear):
    mean = std = scale = 1.0
    @property
    def input_size(self):
        raise RuntimeError("no size")

class Forward(nn.Module):
    input_size, mean, std, scale = 8, 0.5, 0.5, 255
    def __init__(self, error):
        super().__init__()
        self.error = error
    def forward(self, x):
        raise self.error

def raises(error):
    raise error

def on_meta():
    with torch.device("meta"):
        return net()

"""
MAKE = {
    "raises(RuntimeError('first line\\nsecond line'))": "raised RuntimeError: first line: correct",
    "raises(KeyError())": "raised KeyError: correct",
    "raises(SystemExit())": "raised SystemExit: correct",
    "raises(SystemExit(0))": "raised SystemExit: 0",
    "raises(StopIteration())": "raised StopIteration",
    "raises(MemoryError())": "raised MemoryError",
    "1 / 0": "raised ZeroDivisionError: division by zero",
    "torch.empty(10**15)": "raised RuntimeError",
    "Stage('text')": "raised AttributeError",
    "Stage(net(), origin=[1, 2])": "raised TypeError",
    "Stage(net(), preprocess='none')": "a stage has a Preprocess or none",
    "Stage(net(), preprocess=DIGIT, origin={'x': {1}})": "the origin of a stage is plain JSON",
    "'model'": "returned str",
    "None": "returned NoneType",
    "nn.Linear": "returned type",
    "{'model': net()}": "returned dict",
    "(model for model in [net()])": "returned generator",
    "net(input_size='big')": "input_size is a number, (H, W) or (C, H, W), up to 65,535 pixels",
    "net(input_size=0)": "has 0: correct it",
    "net(input_size=-8)": "has -8: correct it",
    "net(input_size=float('nan'))": "has nan: correct it",
    "net(input_size=(float('inf'), 8))": "has (inf, 8): correct it",
    "net(input_size=8.5)": "has 8.5: correct it",
    "net(input_size=None)": "has None: correct it",
    "net(input_size=True)": "has True: correct it",
    "net(input_size=('8', '8'))": "has ('8', '8'): correct it",
    "net(input_size=())": "has (): correct it",
    "net(input_size=10**9)": "has 1000000000: correct it",
    "net(input_size={'h': 8})": "has {'h': 8}: correct it",
    "net(input_size=(1, 1, 8, 8))": "has (1, 1, 8, 8): correct it",
    "net(mean=(0.5, 0.5))": "one number per channel",
    "net(mean=())": "one number per channel",
    "net(mean='half')": "mean is made of finite numbers",
    "net(mean=float('nan'))": "mean is made of finite numbers",
    "net(mean=None)": "mean is made of finite numbers",
    "net(mean=((0.5,),))": "mean is made of finite numbers",
    "net(std=0)": "std is above 0",
    "net(std=-1.0)": "std is above 0",
    "net(std=float('inf'))": "std is made of finite numbers",
    "net(scale=0)": "scale is above 0",
    "net(scale=float('nan'))": "scale is made of finite numbers",
    "net(scale='255')": "scale is made of finite numbers",
    "net(scale=None)": "scale is made of finite numbers",
    "net(scale=(1, 2))": "cannot be read (TypeError",
    "net(scale=10**400)": "cannot be read (OverflowError",
    "Property(4, 4)": "cannot be read (RuntimeError: no size)",
    "on_meta()": "are on the device 'meta'",
    "Forward(RuntimeError('in forward'))": "answers an image of its size, 'x' raised RuntimeError",
    "Forward(SystemExit(0))": "answers an image of its size, 'x' raised SystemExit: 0",
    "net(input_size=7)": "answers an image of its size, 'x' raised RuntimeError",
}
MODULES = {
    "def broken(:": "cannot be imported (SyntaxError",
    "import sys; sys.exit(0)": "cannot be imported (SystemExit: 0)",
    "raise ValueError('at import')": "cannot be imported (ValueError: at import)",
    "import nowhere_at_all": "cannot be imported (ModuleNotFoundError",
    "x = '\x00'": "cannot be imported (SyntaxError",
    "make = 3": "no factory 'make'",
    "def make(needed): ...": "raised TypeError: make() missing 1 required",
}
SPECS = {
    "py:.odd:x": "cannot be imported (TypeError",
    "py:..:x": "cannot be imported (TypeError",
    "py:a..b:x": "cannot be imported (ModuleNotFoundError",
    "py::x": "reads py:module:factory",
    "py:nets:": "reads py:module:factory",
    "py:x\x00y:z": "cannot be imported",
    "py:../odd:x": "cannot be imported",
    "timm:resnet18?classes=1000000000&weights=random": "above 0, found '1000000000'",
    f"timm:resnet18?classes={'9' * 5000}": "classes is a whole number",
    "timm:resnet18?classes=\u0663": "classes is a whole number",
    "timm:resnet18?classes=-1": "classes is a whole number",
    "timm:hf-hub:someone/model": "'someone/model' is not in its cache",
    "timm:hf_hub:someone/model?weights=random": "'someone/model' is not in its cache",
    "timm:local-dir:.": "a model of timm has a config.json",
    "torchvision:../x": "no torchvision model",
    "torchvision:quantized_resnet18": "no torchvision model",
    "exits:x\x00y": "without null bytes",
    "exits:~nobody_at_all/x": "does not exist",
    "http://x/y": "no model scheme 'http'",
    "": "begin with one of timm:",
}
CHECKPOINTS = {
    "text.pt": "cannot be read (KeyError",
    "text.safetensors": "whole safetensors file",
    "empty.pt": "cannot be read (EOFError)",
    "empty.safetensors": "whole safetensors file",
    "cut.pt": "cannot be read (RuntimeError",
    "cut.safetensors": "whole safetensors file",
    "evil.pt": "are never unpickled",
    "evil.pkl": "are never unpickled",
    "module.pt": "are never unpickled",
    "list.pt": "holds named tensors, ",
    "number.pt": "holds named tensors, ",
    "shape.pt": "1 is of another shape ('1.bias' is (11,)",
    "complex.pt": "2 are of another kind",
    "sparse.pt": "2 are of another kind",
    "folder.pt": "is none: check the path",
    "pipe.pt": "is none: check the path",
    "/dev/zero": "is none: check the path",
    "~nobody_at_all/x.pt": "is none: check the path",
    "a\x00b.pt": "is none: check the path",
    "x" * 5000: "is none: check the path",
}


class Evil:
    """Makes a file where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("ran", "w")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_nets", raising=False)
    return tmp_path


def one_sentence(spec: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        probe(load_stages(spec, "x"), torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize("case", [*MAKE, *MODULES])
def test_factories(here: Path, case: str) -> None:
    made = f"{FACTORIES}\ndef make():\n    return {case}\n"
    (here / "odd_nets.py").write_text(case if case in MODULES else made)
    one_sentence("py:odd_nets:make", {**MAKE, **MODULES}[case])


@pytest.mark.parametrize("spec", SPECS)
def test_specs(spec: str) -> None:
    one_sentence(spec, SPECS[spec])


def test_checkpoints(here: Path) -> None:
    (here / "odd_nets.py").write_text(FACTORIES)
    state = {"1.weight": torch.zeros(10, 64), "1.bias": torch.zeros(10)}
    save_file(state, "good.safetensors")
    torch.save(state, "good.pt")
    for kind in ("pt", "safetensors"):
        whole = Path(f"good.{kind}").read_bytes()
        Path(f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
        Path(f"text.{kind}").write_text("just text\n")
        Path(f"empty.{kind}").touch()
    torch.save({"a": Evil()}, "evil.pt")
    Path("evil.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    torch.save(torch.nn.Linear(2, 2), "module.pt")
    torch.save([1, 2], "list.pt")
    torch.save({1: torch.zeros(2)}, "number.pt")
    torch.save({**state, "1.bias": torch.zeros(11)}, "shape.pt")
    torch.save({name: value.to(torch.complex64) for name, value in state.items()}, "complex.pt")
    torch.save({name: value.to_sparse() for name, value in state.items()}, "sparse.pt")
    Path("folder.pt").mkdir()
    os.mkfifo("pipe.pt")
    for file, message in CHECKPOINTS.items():
        one_sentence(f"py:odd_nets:net?checkpoint={file}", message)
    for file in ("good.pt", "good.safetensors"):
        assert load_stage(f"py:odd_nets:net?checkpoint={file}").dtype == torch.float32


@pytest.mark.parametrize("size", ["8", "(8, 8)", "(1, 8, 8)", "torch.tensor([8, 8])"])
def test_numbers_of_any_kind(here: Path, size: str) -> None:
    numbers = "mean=torch.tensor(0.5), std=torch.tensor([0.25]), scale=torch.tensor(16)"
    made = f"def make():\n    return net(input_size={size}, {numbers})\n"
    (here / "odd_nets.py").write_text(FACTORIES + made)
    found = load_stage("py:odd_nets:make").preprocess
    assert found is not None
    assert (found.size, found.mean, found.std, found.scale) == ((8, 8), (0.5,), (0.25,), 16.0)


@pytest.mark.parametrize("case", ["raises(SystemExit(0))", "Forward(SystemExit(0))"])
def test_a_factory_that_exits_is_no_success(here: Path, run: Run, case: str) -> None:
    (here / "odd_nets.py").write_text(f"{FACTORIES}\ndef make():\n    return {case}\n")
    command = run("score", "py:odd_nets:make", "--data", "digits:heldout", "--into", "table")
    refused(command, "raised SystemExit: 0")
    assert not (here / "table").exists()


def test_an_error_of_ours_stays_as_it_is(here: Path) -> None:
    made = "from understudy.errors import DataError\n\ndef make():\n    raise DataError('mine')\n"
    (here / "odd_nets.py").write_text(made)
    with pytest.raises(UnderstudyError, match=r"^mine$"):
        load_stage("py:odd_nets:make")
