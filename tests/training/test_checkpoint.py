"""States of a training on disk: whole, at bounded cost, and never lost to the next one."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from exit_digits import big
from progress import RecordedProgress
from understudy.early_exit.network import attach
from understudy.errors import DataError, ModelError, UnderstudyError
from understudy.files import only_writer
from understudy.locks import InUse
from understudy.training import api, checkpoint
from understudy.training.api import fit_exits, train_exits
from understudy.training.checkpoint import WEIGHTS, BestWeights, Checkpoint, state_bytes
from understudy.training.config import TrainingConfig
from understudy.zoo.data import open_data

QUICK = TrainingConfig(epochs=3, batch=64, views=1, flip=False, held_out=0.2)


def best(*epochs: int, size: int = 4) -> list[BestWeights]:
    """Weights that are full of their epoch."""
    return [BestWeights(epoch, {"weight": torch.full((size,), float(epoch))}) for epoch in epochs]


def weights(saved: Checkpoint) -> list[float]:
    state = saved.load("exits")
    assert state is not None
    return [float(one["weight"][0]) for one in state[WEIGHTS]]


def test_a_state_is_loaded_with_the_best_weights(tmp_path: Path) -> None:
    saved = Checkpoint(tmp_path / "work", {"lr": 1})
    assert saved.load("exits") is None
    saved.save("exits", {"epoch": 2, "modules": [{"a": torch.ones(3)}]}, best=best(1, 2))
    state = Checkpoint(tmp_path / "work", {"lr": 1}).load("exits")
    assert state is not None
    assert (state["epoch"], weights(saved)) == (2, [1.0, 2.0])
    assert torch.equal(state["modules"][0]["a"], torch.ones(3))


def test_best_weights_are_written_when_they_change_alone(tmp_path: Path) -> None:
    saved = Checkpoint(tmp_path, {})

    def written() -> dict[str, int]:
        return {file.name: file.stat().st_ino for file in (tmp_path / "exits.best").iterdir()}

    saved.save("exits", {"epoch": 1}, best=best(1, 1, 0))
    first = written()
    assert set(first) == {"0000-1.pt", "0001-1.pt", "0002-0.pt"}
    saved = Checkpoint(tmp_path, {})
    saved.load("exits")  # a run that goes on knows what is there
    saved.save("exits", {"epoch": 2}, best=best(1, 2, 0))
    second = written()
    assert set(second) == {"0000-1.pt", "0001-2.pt", "0002-0.pt"}
    assert all(second[name] == first[name] for name in ("0000-1.pt", "0002-0.pt"))
    assert weights(saved) == [1.0, 2.0, 0.0]


def test_what_a_killed_run_left_is_not_taken_for_the_best(tmp_path: Path) -> None:
    saved = Checkpoint(tmp_path, {})
    saved.save("exits", {"epoch": 1}, best=best(1))
    stray = tmp_path / "exits.best" / "0000-2.pt"
    torch.save({"weight": torch.full((4,), 99.0)}, stray)
    saved.save("exits", {"epoch": 2}, best=best(2))
    assert weights(saved) == [2.0]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write files beyond a size, as it does where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("large", ["best", "state"])
def test_a_disk_that_fills_loses_nothing_of_the_last_state(tmp_path: Path, large: str) -> None:
    saved = Checkpoint(tmp_path, {})
    saved.save("exits", {"epoch": 1}, best=best(1, 1))
    before = {file: file.read_bytes() for file in tmp_path.glob("**/*.pt")}
    assert len(before) == 3
    sizes = {"best": 4, "state": 4, large: 10**6}
    state = {"epoch": 2, "modules": torch.ones(sizes["state"])}
    weights_of_two = best(2, 2, size=sizes["best"])
    words = r"cannot be written \(File too large\).*its last state"
    with files_of_at_most(10**6), pytest.raises(UnderstudyError, match=words):
        saved.save("exits", state, best=weights_of_two)
    assert {file: file.read_bytes() for file in tmp_path.glob("**/*.pt")} == before
    assert not any(tmp_path.glob("**/.*.tmp"))
    assert weights(Checkpoint(tmp_path, {})) == [1.0, 1.0]


def test_saving_takes_a_bounded_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    write, seconds = checkpoint._write, [2.0]

    def slow(file: Path, content: dict[str, object]) -> None:
        clock[0] += seconds[0]
        write(file, content)

    monkeypatch.setattr(checkpoint, "_write", slow)
    saved = Checkpoint(tmp_path, {})

    def share_of_saving(epoch: float, epochs: int) -> float:
        start, spent = clock[0], 0.0
        for number in range(epochs):
            clock[0] += epoch
            if saved.due():
                saved.save("exits", {"epoch": number})
                spent += seconds[0]
        return spent / (clock[0] - start)

    assert saved.due()  # the first state at once
    assert 0.03 < share_of_saving(0.5, 1000) <= 0.054
    assert share_of_saving(100.0, 20) == pytest.approx(2 / 102)  # every epoch
    seconds[0] = 120.0
    saved.save("exits", {"epoch": 0})
    clock[0] += 599
    assert not saved.due()
    clock[0] += 1
    assert saved.due()  # after ten minutes, however long it takes


def test_the_size_of_a_state_is_known_before_training(tmp_path: Path) -> None:
    network = attach(big(), {"blocks.0": "mlp3x256", "blocks.1": "mlp3x256"})
    fit_exits(network, open_data("digits:train"), config=QUICK, folder=tmp_path)
    states = sum(file.stat().st_size for file in tmp_path.glob("**/*.pt"))
    assert state_bytes(network.heads) == pytest.approx(states, rel=0.05)


def test_no_room_for_checkpoints_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = attach(big(), {"blocks.1": "mlp5x1000"})
    needed = 2 * state_bytes(network.heads)
    for module in (api, checkpoint):
        monkeypatch.setattr(module, "free_bytes", lambda _: needed - 1)
    progress = RecordedProgress()
    words = r"checkpoints of this training take 0\.10 GB, found 0\.10 free .* or train less"
    with pytest.raises(UnderstudyError, match=words):
        fit_exits(
            network,
            open_data("digits:train"),
            config=QUICK,
            folder=tmp_path / "work",
            on_progress=progress,
        )
    assert not progress.calls
    assert not (tmp_path / "work").exists()


def test_room_for_checkpoints_is_not_given_to_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = attach(big(), {"blocks.1": "mlp5x1000"})
    needed = 2 * state_bytes(network.heads)
    for module in (api, checkpoint):
        monkeypatch.setattr(module, "free_bytes", lambda _: needed + 1000)
    notes: list[str] = []
    one = TrainingConfig(**{**QUICK.to_dict(), "epochs": 1})
    summary = fit_exits(
        network, open_data("digits:train"), config=one, folder=tmp_path, on_note=notes.append
    )
    assert not summary.cached
    assert "the network runs anew in every epoch" in notes[0]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """Locks of one thread nest, so that another thread stands for the other process."""
    words = ("net=py:exit_digits:big?weights=random", "digits:train", tmp_path / "exits")
    other = only_writer(tmp_path / "exits.partial")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(other.__enter__).result()
        with pytest.raises(InUse, match=r"exits\.partial"):
            train_exits(*words, taps=1, config=QUICK, device="cpu")
        pool.submit(other.__exit__, None, None, None).result()
    assert not (tmp_path / "exits").exists()


def test_a_loss_that_is_no_number_keeps_the_last_good_state(tmp_path: Path) -> None:
    data = open_data("digits:train")
    torch.manual_seed(0)
    network = attach(big(), {"blocks.1": "linear"})
    first = {name: value.clone() for name, value in network.heads.state_dict().items()}

    def spoil(name: str, done: int, total: int) -> None:
        if (name, done) == ("exits", 1):
            with torch.no_grad():
                next(network.heads.parameters()).fill_(torch.nan)

    with pytest.raises(ModelError, match="after epoch 2"):
        fit_exits(network, data, config=QUICK, folder=tmp_path / "work", on_progress=spoil)
    kept = torch.load(tmp_path / "work" / "exits.pt", weights_only=True)
    assert len(kept["epochs"]) == 2
    assert all(value.isfinite().all() for value in kept["modules"][0].values())
    network.heads.load_state_dict(first)
    progress = RecordedProgress()
    fit_exits(network, data, config=QUICK, folder=tmp_path / "work", on_progress=progress)
    assert [done for name, done in progress.steps if name == "exits"] == [1, 2, 3]


def test_damaged_best_weights_name_the_state_to_delete(tmp_path: Path) -> None:
    saved = Checkpoint(tmp_path, {})
    saved.save("exits", {"epoch": 1}, best=best(1))
    (tmp_path / "exits.best" / "0000-1.pt").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"0000-1\.pt' is damaged .*delete exits\.pt, and training"):
        saved.load("exits")
