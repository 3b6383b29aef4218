"""What determines the scores of a run: an unfinished one is resumed, or joined, under the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from understudy.errors import DataError
from understudy.library_versions import library_versions
from understudy.nn.identity import SAMPLE
from understudy.scoring.shards import SHARD_BATCHES
from understudy.scoring.sources import Sources
from understudy.zoo.data import DataSet
from understudy.zoo.encoded import check_unchanged


def settings_of(batch: int, device: str) -> dict[str, Any]:
    """What else the last bits of the scores depend on, besides the models and the data.

    Of a device they depend on its kind and name, whichever of several equal ones it is.
    """
    kind = torch.device(device).type
    name = {"device_name": torch.cuda.get_device_name(device)} if kind == "cuda" else {}
    return {
        "batch": batch,
        "device": kind,
        **name,
        "threads": torch.get_num_threads(),
        "libraries": library_versions(),
    }


def plan_of(
    images: DataSet, models: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain JSON that determines the scores, as far as it is known before models are loaded; an
    error names the first key that differs."""
    return {
        "data": images.fingerprint,
        "models": dict(models),
        "order": list(models),  # by which exits are numbered; that of an object does not count
        "shard": SHARD_BATCHES,
        **settings,
    }


def found_of(sources: Sources, *, keep_logits: bool) -> dict[str, Any]:
    """Plain JSON of what determines the scores besides, when all models are known."""
    exits = sources.exits
    return {
        "weights": {exit.name: exit.origin["weights_hash"] for exit in exits},
        "logits": keep_logits,
        "origin": {exit.name: {**exit.origin, SAMPLE: None} for exit in exits},  # it may round
    }


def table_arguments(
    *,
    measured: Sequence[int] | None,
    split: Mapping[str, float] | Sequence[str] | None,
    groups: Sequence[str] | None,
    strict: bool,
) -> dict[str, Any]:
    """Plain JSON of what determines a table besides its scores: whoever is last makes the table.

    Args:
        measured, split, groups, strict: arguments of `on_disk.score_into`.
    """
    return {
        "measure_batches": None if measured is None else list(measured),
        "split": dict(split) if isinstance(split, Mapping) else _hash(split),
        "groups": _hash(groups),
        "strict": strict,
    }


def _hash(names: Sequence[str] | None) -> str | None:
    return None if names is None else hashlib.sha256(repr(list(names)).encode()).hexdigest()


class OtherThreads(DataError):
    """An unfinished run has begun with another number of threads.

    Args:
        threads: that number.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(
            "an unfinished run goes on with as many threads of PyTorch as it began with, that is "
            f"{threads}, found {torch.get_num_threads()}: give --threads {threads}, or delete it"
        )
        self.threads = threads


def check_resumable(images: DataSet, plan: Mapping[str, Any]) -> None:
    """Refuse to resume work on files that have changed, or with other threads.

    Args:
        images: the data now.
        plan: of the unfinished run.

    Raises:
        OtherThreads: PyTorch has another number of threads now.
        DataError: the message names the files.
    """
    if plan.get("threads", 0) not in (0, torch.get_num_threads()):
        raise OtherThreads(plan["threads"])
    if images.encoded is not None and "content" in plan and plan["data"] == images.fingerprint:
        check_unchanged(images.encoded, images.ids, plan, where="the unfinished part")


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let PyTorch compute with so many threads while the block runs."""
    before = torch.get_num_threads()
    if number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number != before:
            torch.set_num_threads(before)
