"""Measuring models: ms per sample of every part, in rounds over all models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch

from understudy.errors import ModelError
from understudy.measured_rounds import SECONDS, RoundTimes, rounds, unit_of
from understudy.nn.cost import time_parts
from understudy.nn.stage import Images, Stage
from understudy.progress_bars import Advance, no_bar
from understudy.runtime.protocol import is_out_of_memory
from understudy.sitting import Sitting

MEMORY = 2 << 30  # bytes of weights that are in memory at once
PASSES = 3  # over the groups of models that are not in memory at once

Sources = Mapping[str, Callable[[], Mapping[str, Stage]]]


def measure(
    sources: Sources,
    images: Images,
    *,
    bytes_of: Mapping[str, int],
    device: str,
    seconds: float = SECONDS,
    on_progress: Advance = no_bar,
) -> Sitting:
    """The times of all parts of some sources, for batches of these images.

    Every round runs each source once, so that all of them feel a load that changes, and it shows as
    spread. The rounds end when all times are precise, or have taken long. Sources whose weights
    exceed `MEMORY` are loaded in groups, several times, so that no group has a sitting for itself.

    Args:
        sources: name -> what loads its stages, on their device.
        images: one batch.
        bytes_of: name -> the size of its weights.
        device: for the record.
        seconds: after which `FEW` rounds have to do.
        on_progress: called after every round with the rounds that are done, and those that there
            are at most.

    Raises:
        ModelError: a source runs out of memory in batches of this size.

    >>> sources = {"tiny": lambda: {"tiny": Stage(torch.nn.Linear(4, 3))}}
    >>> measure(sources, torch.zeros(2, 4), bytes_of={"tiny": 60}, device="cpu").unit
    'ms@2'
    """
    unit = unit_of(len(images))
    groups = list(groups_in_memory(bytes_of))
    passes = PASSES if len(groups) > 1 else 1
    loads = groups * passes
    record, before = RoundTimes(), 0
    for number, group in enumerate(loads):
        loaded = {name: sources[name]() for name in group}
        timers = {name: partial(_times, name, stages, images) for name, stages in loaded.items()}
        for done, left, found in rounds(timers, passes=passes, seconds=seconds):
            record.add(found)
            most = before + (done + left) * (len(loads) - number)
            on_progress(f"measuring {unit}", before + done, most)
        before += done
    return record.sitting(unit, device=device, threads=torch.get_num_threads())


def _times(name: str, stages: Mapping[str, Stage], images: Images) -> dict[str, float]:
    """The times of one source, from one run."""
    try:
        return time_parts(stages, images)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"times are measured in batches that fit into memory, {name!r} runs out of memory in "
            f"batches of {len(images)}: measure in smaller ones"
        ) from error


def groups_in_memory(bytes_of: Mapping[str, int]) -> Iterator[Sequence[str]]:
    """Names in groups whose weights fit into `MEMORY`, in order; a larger one is a group alone.

    >>> list(groups_in_memory({"tiny": 10**6, "big": 10**9, "huge": 10**10}))
    [['tiny', 'big'], ['huge']]
    """
    group: list[str] = []
    held = 0
    for name, size in bytes_of.items():
        if group and held + size > MEMORY:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group
