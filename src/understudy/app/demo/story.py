"""The whole job on digits: train a zoo, score, search, certify, build, run, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.outcome import decide
from understudy.result import Choice, Result
from understudy.scores import ScoreTable
from understudy.searching.baselines import best_single
from understudy.searching.search import search
from understudy.store import log_look, read_answers

if TYPE_CHECKING:
    from understudy.nn.cascade import Cascade
    from understudy.zoo.data import Progress

DROPS = (2.0, 3.0, 5.0)


@dataclass(frozen=True)
class DemoRun:
    """What the demo found: the table, the result, and how the running cascade compares with it."""

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
        outcome = self.choice.outcome
        return {
            "folder": str(self.folder),
            "reference": self.result.reference,
            "max_drop": self.choice.max_drop,
            "policy": self.choice.policy.to_dict(),
            "saving": outcome.saving["MACs"],
            "drop": outcome.drop,
            "shares": dict(outcome.shares),
            "certified": self.choice.certificate is not None
            and not self.choice.certificate.falls_back,
            "agreeing": self.agreeing,
            "compared": self.compared,
            "seconds": self.seconds,
            "singles": [single.to_dict() for single in self.result.singles],
        }


def tell(folder: Path, *, say: Callable[[str], None], on_progress: Progress) -> DemoRun:
    """Do the whole job in `folder`, saying what is done and with which command to do it by hand."""
    from understudy.app.demo.networks import ZOO
    from understudy.app.demo.train import train_zoo
    from understudy.app.running import build_cascade, run_cascade
    from understudy.scoring.on_disk import score_into
    from understudy.zoo.cascades import load_cascade
    from understudy.zoo.data import open_data

    clock = _Clock()
    say(f"[bold]1 train[/] {len(ZOO)} networks on half of scikit-learn's digits")
    files = train_zoo(open_data("digits:train"), folder / "zoo", on_progress=on_progress)
    clock.lap("train")

    specs = {
        n: f"py:understudy.app.demo.networks:{n}?checkpoint={file}" for n, file in files.items()
    }
    say(
        "[bold]2 score[/] them on the other half\n"
        f"  $ understudy score MODEL... --data digits:heldout --into {folder / 'table'}"
    )
    table = score_into(
        _cleared(folder / "table"),
        specs,
        "digits:heldout",
        measure_batches=(256,),
        on_progress=on_progress,
    )
    clock.lap("score")

    reference = best_single(table.on("tune"), reference=table.names[-1], unit="MACs", cost=np.inf)
    assert reference is not None
    drops = ",".join(f"{drop:g}" for drop in DROPS)
    say(
        f"[bold]3 search[/] for the cheapest plan that keeps up with {reference}, the best network "
        "that no cheaper one matches (on tune), and certify it\n"
        f"  $ understudy search {folder / 'table'} --reference {reference} --max-drop {drops} "
        f"--out {folder / 'result.json'}"
    )
    looks = log_look(folder / "table", why="demo")
    result = search(table, reference=reference, max_drop=DROPS, looks=looks)
    result.save(folder / "result.json")
    clock.lap("search")

    say(
        f"[bold]4 build[/] the cascade for {DROPS[0]:g} points and [bold]run[/] it on all held-out "
        f"images\n  $ understudy build {folder / 'result.json'} --into {folder / 'cascade'}\n"
        f"  $ understudy run {folder / 'cascade'} --data digits:heldout --out "
        f"{folder / 'answers.parquet'}"
    )
    build_cascade(result, folder / "cascade", max_drop=DROPS[0], specs={})
    cascade = load_cascade(folder / "cascade")
    answers = folder / "answers.parquet"
    run_cascade(
        cascade, open_data("digits:heldout"), answers, batch=256, workers=2, on_progress=on_progress
    )
    agreeing, compared = compare(table.on("test"), cascade, answers)
    clock.lap("build and run")

    say(
        f"[bold]5 report[/]\n  $ understudy report {folder / 'result.json'} --out "
        f"{folder / 'report.html'}"
    )
    from understudy.app.report.page import write_report

    write_report(result, folder / "report.html")
    clock.lap("report")
    return DemoRun(table, result, folder, agreeing, compared, clock.laps)


def compare(table: ScoreTable, cascade: Cascade, answers: Path) -> tuple[int, int]:
    """How many of the table's samples the running cascade answered as `evaluate` predicts."""
    predicted = decide(table, cascade.policy)
    exits = np.array(cascade.policy.exits, dtype=object)[predicted.stage]
    found = read_answers(answers)
    same = sum(
        found[key] == (int(said), by)
        for key, said, by in zip(table.ids.tolist(), predicted.prediction, exits, strict=True)
    )
    return same, len(table)


def _cleared(table: Path) -> Path:
    """The demo scores freshly trained networks, so an older table of its own is removed."""
    import shutil

    for folder in (table, table.with_name(table.name + ".partial")):
        if folder.is_dir():
            shutil.rmtree(folder)
    return table


class _Clock:
    """Seconds per step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.laps[step], self._last = round(now - self._last, 2), now
