"""Every step on scikit-learn's digits: train, score, search and certify, build, run, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from understudy.answer_files import read_answers
from understudy.app.build_cascade import build_cascade
from understudy.app.report.page import write_report
from understudy.app.run_cascade import run_cascade
from understudy.choice import Choice
from understudy.files import replacing
from understudy.folders import remove_folder
from understudy.looks import count_looks, log_look, looking
from understudy.nn.stage import usable_device
from understudy.outcome import decide
from understudy.policy import Policy
from understudy.progress_bars import Advance
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.scoring.on_disk import score_into
from understudy.searching.search import search
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.saved_cascades import load_cascade

DATA = "digits:heldout"
MODULE = "understudy.app.demo"  # where the networks of the demo are: this file
DROPS = (2.0, 3.0, 5.0)

OnStep = Callable[[str, tuple[str, ...]], None]
"""Called before each step with its title and the commands that do the same by hand."""


@dataclass(frozen=True)
class DemoRun:
    """The table and the result of the demo, and how its running cascade compares with them.

    Attributes:
        agreeing: held-out images with the predicted answer from the predicted exit.
        compared: all held-out images.
        seconds: wall time per step.
    """

    table: ScoreTable
    result: Result
    folder: Path
    agreeing: int
    compared: int
    seconds: dict[str, float]

    @property
    def choice(self) -> Choice:
        return self.result.choices[0]

    def to_dict(self) -> dict[str, Any]:
        outcome, certificate = self.choice.outcome, self.choice.certificate
        return {
            "folder": str(self.folder),
            "reference": self.result.reference,
            "max_drop": self.choice.max_drop,
            "policy": self.choice.policy.to_dict(),
            "saving": outcome.saving["MACs"],
            "drop": outcome.drop,
            "shares": dict(outcome.shares),
            "certified": certificate is not None and not certificate.falls_back,
            "agreeing": self.agreeing,
            "compared": self.compared,
            "seconds": self.seconds,
            "singles": [single.to_dict() for single in self.result.singles],
        }


def run_demo(
    folder: Path, *, device: str | None = None, on_step: OnStep, on_progress: Advance
) -> DemoRun:
    """Run every step in `folder`; older files of the demo there are replaced.

    Args:
        folder: where everything is written.
        device: where the networks are trained, scored and run, as torch names it; by default an
            NVIDIA GPU if there is one, else the CPU.
        on_step: called before each step.
        on_progress: called with the part of a step, how much is done, and of how much.

    Raises:
        ModelError: there is no such device.
    """
    seconds: dict[str, float] = {}
    table_path, result_path, report_path = (
        folder / name for name in ("table", "result.json", "report.html")
    )
    with _timed(seconds, "train"):
        on_step(f"1 train {len(ZOO)} networks on half of scikit-learn's digits", ())
        weights = train_zoo(
            open_data("digits:train"), folder / "zoo", device=device, on_progress=on_progress
        )
    with _timed(seconds, "score"):
        command = f"understudy score MODEL... --data {DATA} --into {table_path}{_typed(device)}"
        on_step("2 score them on the other half", (command,))
        table = _score(weights, table_path, device, on_progress)
    with _timed(seconds, "search"):
        drops = ",".join(f"{drop:g}" for drop in DROPS)
        on_step(
            f"3 search for the cheapest policies with a certified drop from {table.reference()}, "
            "the network that is most accurate on tune",
            (f"understudy search {table_path} --max-drop {drops} --out {result_path}",),
        )
        read = table.on("certify").ids
        with looking(table_path):
            looks = count_looks(table_path, read) + 1
            result = search(table, max_drop=DROPS, looks=looks)
            log_look(table_path, read, why="demo", search=result.search_record)
        result.save(result_path)
    with _timed(seconds, "build and run"):
        agreeing, compared = _build_and_run(
            result, table, folder, device=device, on_step=on_step, on_progress=on_progress
        )
    with _timed(seconds, "report"):
        command = f"understudy report {result_path} --table {table_path} --data {DATA}"
        on_step("5 report", (f"{command} --out {report_path}",))
        write_report(result, report_path, table=result.searched(table), images=DATA)
    return DemoRun(table, result, folder, agreeing, compared, seconds)


def _score(
    weights: Mapping[str, Path], path: Path, device: str | None, on_progress: Advance
) -> ScoreTable:
    for old in (path, path.with_name(f"{path.name}.partial")):
        remove_folder(old)
    specs = {name: f"py:{MODULE}:{name}?checkpoint={file}" for name, file in weights.items()}
    return score_into(
        path, specs, DATA, device=device, measure_batches=(256,), on_progress=on_progress
    )


def _build_and_run(
    result: Result,
    table: ScoreTable,
    folder: Path,
    *,
    device: str | None,
    on_step: OnStep,
    on_progress: Advance,
) -> tuple[int, int]:
    """Build and run the cascade of the first budget, and `compare` it with the table."""
    path, answers, drop = folder / "cascade", folder / "answers.parquet", DROPS[0]
    on_step(
        f"4 build the cascade for {drop:g} points and run it on all held-out images",
        (
            f"understudy build {folder / 'result.json'} --max-drop {drop:g} --into {path} "
            f"--allow-code {MODULE}",
            f"understudy run {path} --data {DATA} --out {answers} --allow-code {MODULE}"
            f"{_typed(device)}",
        ),
    )
    build_cascade(result, path, max_drop=drop, specs={}, allow_code=[MODULE])
    cascade = load_cascade(path, allow_code=[MODULE]).to(usable_device(device))
    run_cascade(cascade, open_data(DATA), answers, batch=256, workers=None, on_progress=on_progress)
    return compare(result.with_fitted(table), cascade.policy, answers)


def _typed(device: str | None) -> str:
    """What chooses a device in a command."""
    return "" if device is None else f" --device {device}"


def compare(table: ScoreTable, policy: Policy, answers: Path) -> tuple[int, int]:
    """How many samples have the answer and the exit that `decide` gives, and the number of samples.

    Args:
        table: the samples, scored.
        policy: the policy of the cascade that ran.
        answers: the file of its answers.
    """
    predicted = decide(table, policy)
    exits = np.array(policy.exits, dtype=object)[predicted.stage]
    found = read_answers(answers)
    same = sum(
        found[key] == (int(prediction), exit)
        for key, prediction, exit in zip(
            table.ids.tolist(), predicted.prediction, exits, strict=True
        )
    )
    return same, len(table)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note how long a step takes."""
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 2)


EPOCHS = 30
BATCH = 64


class Digits(nn.Module):
    """A body for (N, 1, 8, 8) inputs, with the input that it expects."""

    input_size = (8, 8)
    mean = (0.3,)
    std = (0.37,)
    scale = 255.0

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return logits


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def linear() -> Digits:
    """One linear layer."""
    return Digits(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def mlp() -> Digits:
    """One hidden layer of 64."""
    return Digits(nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))


def cnn_tiny() -> Digits:
    """Two narrow convolutions."""
    return Digits(nn.Sequential(_conv(1, 8), nn.MaxPool2d(2), _conv(8, 16), *_head(16)))


def cnn_small() -> Digits:
    """Three convolutions."""
    return Digits(
        nn.Sequential(_conv(1, 16), _conv(16, 16), nn.MaxPool2d(2), _conv(16, 32), *_head(32))
    )


def resnet_medium() -> Digits:
    """Two residual blocks, 24 and 48 wide."""
    return _resnet(24, 1)


def resnet_large() -> Digits:
    """Four residual blocks, 32 and 64 wide."""
    return _resnet(32, 2)


ZOO = {
    factory.__name__: factory
    for factory in (linear, mlp, cnn_tiny, cnn_small, resnet_medium, resnet_large)
}


def train_zoo(
    data: DataSet, folder: Path, *, device: str | None = None, on_progress: Advance
) -> dict[str, Path]:
    """Train every network of the zoo on labelled digits.

    Args:
        data: the digits.
        folder: where the weights are written.
        device: where to train, as torch names it; as for `run_demo`.
        on_progress: called with the network, the epochs that are done, and of how many.

    Returns:
        Name -> the file of its weights, in `folder`.

    Raises:
        ModelError: there is no such device.
    """
    assert data.labels is not None
    on = usable_device(device)
    images = torch.stack([data.image(i) for i in range(len(data))]).to(on)
    labels = torch.from_numpy(np.asarray(data.labels, np.int64)).to(on)
    files = {}
    with _one_thread():
        for name, factory in ZOO.items():
            torch.manual_seed(0)
            net = factory().to(on)
            epochs = partial(on_progress, f"train {name}")
            _train(net, images, labels, on_epoch=epochs)
            files[name] = folder / f"{name}.safetensors"
            with replacing(files[name]) as temporary:
                save_file(net.state_dict(), temporary)
    return files


def _resnet(width: int, blocks: int) -> Digits:
    return Digits(
        nn.Sequential(
            _conv(1, width),
            *(_Residual(width) for _ in range(blocks)),
            _conv(width, 2 * width, stride=2),
            *(_Residual(2 * width) for _ in range(blocks)),
            *_head(2 * width),
        )
    )


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, 10)]


def _train(
    net: Digits, images: Tensor, labels: Tensor, *, on_epoch: Callable[[int, int], None]
) -> None:
    """AdamW under a one-cycle schedule; leaves the net in eval mode."""
    inputs = (images.float() / net.scale - net.mean[0]) / net.std[0]
    steps = EPOCHS * -(-len(inputs) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.01, total_steps=steps)
    net.train()
    for epoch in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(inputs)), BATCH):
            loss = F.cross_entropy(net(inputs[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        on_epoch(epoch + 1, EPOCHS)
    net.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch: networks this small are faster without a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
