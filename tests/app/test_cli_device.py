"""`--device`: every verb that runs networks takes it, and refuses one that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from torch import Tensor
from typer.core import TyperCommand

from command_line import Run
from doc_pages import read
from understudy.app import demo
from understudy.app.cli.main import app
from understudy.progress_bars import no_bar
from understudy.zoo.data import open_data

COMMANDS: dict[str, TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
ON_DEVICES = {
    "score",
    "measure",
    "run",
    "bench",
    "serve",
    "train-exits",
    "train-saver",
    "reproduce",
    "demo",
}


def test_the_verbs_that_run_networks_take_a_device_and_the_docs_name_them() -> None:
    taken = {
        verb
        for verb, command in COMMANDS.items()
        if any("--device" in option.opts for option in command.params)
    }
    assert taken == ON_DEVICES
    section = read("docs/running.md").partition("\n## Devices\n")[2].partition("\n## ")[0]
    assert all(f"`{verb}`" in section for verb in taken)


def test_the_demo_refuses_a_device_before_it_trains(run: Run, tmp_path: Path) -> None:
    command = run("demo", "--into", tmp_path / "demo", "--device", "nowhere")
    assert command.stderr.splitlines()[-1].startswith("error: device 'nowhere' cannot be used")
    assert (command.exit_code, command.stdout) == (2, "")
    assert not (tmp_path / "demo").exists()


def test_the_networks_of_the_demo_are_trained_where_they_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, str, str]] = []

    def note(net: demo.Digits, images: Tensor, labels: Tensor, **_: object) -> None:
        weights = next(net.parameters())
        trained.append((weights.device.type, images.device.type, labels.device.type))

    monkeypatch.setattr(demo, "_train", note)
    monkeypatch.setattr(demo, "ZOO", {"linear": demo.linear})
    monkeypatch.setattr(demo, "usable_device", lambda name: {"there": "meta"}[name])
    monkeypatch.setattr(demo, "save_file", lambda _weights, path: Path(path).touch())
    demo.train_zoo(open_data("digits:train"), tmp_path, device="there", on_progress=no_bar)
    assert trained == [("meta", "meta", "meta")]
