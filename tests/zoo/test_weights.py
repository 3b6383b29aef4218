from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from understudy.errors import ModelError
from understudy.zoo.weights import load_weights, read_weights


class Explosive:
    """Deletes something when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path("nowhere").unlink, ("never",)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def state() -> dict[str, Tensor]:
    return {name: value + 1 for name, value in net().state_dict().items()}


@pytest.mark.parametrize("nesting", ["plain", "state_dict", "model", "module."])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_nested_and_wrapped_checkpoints(tmp_path: Path, nesting: str, suffix: str) -> None:
    tensors = state()
    saved: dict[str, object] = {
        "plain": tensors,
        "module.": {f"module.{name}": value for name, value in tensors.items()},
    }.get(nesting, {nesting: tensors, "epoch": 3})  # type: ignore[assignment]
    torch.save(saved, tmp_path / f"net{suffix}")
    model = net()
    load_weights(model, tmp_path / f"net{suffix}")
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())


def test_safetensors_without_batch_counters(tmp_path: Path) -> None:
    tensors = {name: value for name, value in state().items() if "num_batches" not in name}
    save_file(tensors, tmp_path / "net.safetensors")
    model = net()
    load_weights(model, tmp_path / "net.safetensors")
    assert torch.equal(model.state_dict()["0.weight"], tensors["0.weight"])


def test_weights_that_do_not_fit_are_named_and_counted(tmp_path: Path) -> None:
    tensors = state()
    del tensors["0.bias"]
    tensors |= {
        "0.weight": torch.zeros(3, 5),
        "head.weight": torch.zeros(2),
        "head.bias": torch.zeros(1),
    }
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(ModelError) as caught:
        load_weights(net(), tmp_path / "net.safetensors")
    assert "1 is missing ('0.bias')" in str(caught.value)
    assert "2 are not in the model ('head.bias', 'head.weight')" in str(caught.value)
    assert "1 is of another shape ('0.weight' is (3, 5) where the model has (3, 4))" in str(
        caught.value
    )


def test_a_pickle_is_never_unpickled(tmp_path: Path) -> None:
    with (tmp_path / "net.pt").open("wb") as file:
        pickle.dump({"weight": Explosive()}, file)
    torch.save({"weight": Explosive()}, tmp_path / "zip.pt")
    for name in ("net.pt", "zip.pt"):
        with pytest.raises(ModelError, match=r"never unpickled.*convert it to safetensors"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.pt", None, "is none: check the path"),
        ("net.safetensors", b"\x08\0\0\0\0\0\0\0nonsense", "a whole safetensors file"),
        ("net.pt", b"", "fetch it again"),
        ("net.pt", b"nonsense", "never unpickled"),
    ],
)
def test_files_that_are_no_checkpoints(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_weights(tmp_path / name)


def test_a_checkpoint_holds_named_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match="holds dict 'epoch'"):
        read_weights(tmp_path / "net.pt")
    torch.save([torch.zeros(1)], tmp_path / "net.pt")
    with pytest.raises(ModelError, match="holds list"):
        read_weights(tmp_path / "net.pt")
