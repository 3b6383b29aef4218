"""One process of joined scoring, which writes down what it has scored.

    python benchmarks/joined_worker.py LOG MODELS DATA TABLE

LOG gets a line per batch, "images NUMBER", and per shard that was kept, "shard NUMBER". MODELS are
specs by name, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from understudy.scoring.on_disk import score_into
from understudy.scoring.shard_scorer import Keeper, ScoredShard, ShardScorer, ShardTask
from understudy.scoring.source_run import SourceRun
from understudy.zoo.batches import Batch

BATCH = 8


class LoggedKeeper:
    """Keeps shards, and writes down which."""

    def __init__(self, keeper: Keeper, log: Callable[[str], None]) -> None:
        self._keeper, self._log = keeper, log

    def keep_size(self, source: str, size: int, /) -> None:
        self._keeper.keep_size(source, size)

    def keep(self, scored: ScoredShard, /) -> None:
        self._keeper.keep(scored)
        self._log(f"shard {scored.shard}")


def logged_scoring(log: Path) -> None:
    """Let this process write down what it scores from now on."""
    score = ShardScorer.score

    def line(text: str) -> None:
        with log.open("a") as file:
            file.write(f"{text}\n")

    def logged(
        scorer: ShardScorer,
        tasks: Iterable[ShardTask],
        runs: Mapping[str, SourceRun],
        keeper: Keeper,
        *,
        group: Sequence[str],
        advance: Callable[[Batch], None] = lambda _: None,
    ) -> None:
        def count(batch: Batch) -> None:
            line(f"images {len(batch)}")
            advance(batch)

        score(scorer, tasks, runs, LoggedKeeper(keeper, line), group=group, advance=count)

    ShardScorer.score = logged  # type: ignore[method-assign]


def work(log: str, models: Mapping[str, str], data: str, table: str) -> None:
    """Score with all that join, and write it down."""
    torch.set_num_threads(1)
    logged_scoring(Path(log))
    score_into(table, models, data, join=True, batch=BATCH, measure_batches=(BATCH,), threads=1)


if __name__ == "__main__":
    log, models, data, table = sys.argv[1:]
    work(log, json.loads(models), data, table)
