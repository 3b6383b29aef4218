"""The times of a table that is on disk already, measured again on this machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from understudy.errors import ModelError, TableError, UnderstudyError, listed
from understudy.exit import Exit
from understudy.files import only_writer
from understudy.measured_rounds import SECONDS, size_of
from understudy.nn.identity import check_identity
from understudy.nn.preprocess import Resizing
from understudy.nn.stage import Stage, resizings_of, usable_device
from understudy.progress_bars import Advance, no_bar
from understudy.scores import ScoreTable
from understudy.scoring.measuring import measure
from understudy.sitting import Sitting
from understudy.store import load_table, save_times
from understudy.zoo.batches import first_images
from understudy.zoo.data import open_data
from understudy.zoo.models import load_stages

SIZE = 256  # the most images of a batch where a table has no times yet


def measure_table(
    path: str | Path,
    *,
    batches: Sequence[int] = (),
    data: str | None = None,
    device: str | None = None,
    allow_code: Collection[str] = (),
    on_progress: Advance = no_bar,
) -> ScoreTable:
    """Measure the times of all exits of a table in one sitting, and store them in its folder.

    They take the place of older times of these units. Predictions, and so the hash of the table and
    what was certified, stay as they are.

    Args:
        path: a table of `scoring.on_disk.score_into`.
        batches: batch sizes; those that the table has times for unless given, or else the number of
            its samples, at most 256.
        data: a data spec of images to time; those that were scored unless given.
        device: where to run, as torch names it; an NVIDIA GPU if there is one, else the CPU.
        allow_code: the modules that specs ``py:module:factory`` in the table may import.
        on_progress: called after every round.

    Returns:
        The table with the new times.

    Raises:
        TableError: no table there, or one with exits that no spec names.
        ModelError: a model that is not the one that was scored, or a module that was not allowed.
        DataError: batches below 1, or images that cannot be read.
        UnderstudyError: the folder cannot be written.
    """
    table, on = load_table(path), usable_device(device)
    groups = _by_spec(table, path)
    images = open_data(_data_of(table, path) if data is None else data)
    load = partial(_load, path=path, device=on, allow_code=allow_code)
    sources = {root: partial(load, root, exits) for root, exits in groups.items()}
    resizings = frozenset[Resizing | None]().union(
        *(resizings_of(source().values()) for source in sources.values())
    )  # also checks all models before the first is timed
    sittings = [
        measure(
            sources,
            first_images(images, size, resizings=resizings),
            bytes_of={root: _bytes_of(exits) for root, exits in groups.items()},
            device=on,
            seconds=SECONDS,
            on_progress=on_progress,
        )
        for size in batches or _sizes(table)
    ]
    with only_writer(path):
        timed = with_sittings(load_table(path), sittings)  # another run may have added exits
        save_times(path, timed.times, timed.sittings)
    return timed


def with_sittings(table: ScoreTable, sittings: Sequence[Sitting]) -> ScoreTable:
    """The table with newer times; older sittings stay where they have more parts."""
    times = {unit: dict(parts) for unit, parts in table.times.items()}
    kept = list(table.sittings)
    for one in sittings:
        times.setdefault(one.unit, {}).update(one.median)
        kept = [old for old in kept if old.unit != one.unit or set(old.median) - set(one.median)]
    return replace(table, times=times, sittings=(*kept, *sittings))


def _by_spec(table: ScoreTable, path: str | Path) -> dict[str, list[Exit]]:
    """The exits of each source: those of one network together."""
    unknown = [exit.name for exit in table.exits if "spec" not in exit.origin]
    if unknown:
        raise TableError(
            f"models that a spec names are measured, {str(path)!r} knows {listed(unknown)} by "
            "predictions only: score the models with `understudy score`, or in Python with "
            "score(..., measure=256)"
        )
    groups: dict[str, list[Exit]] = {}
    for exit in table.exits:
        groups.setdefault(str(exit.origin.get("root", exit.name)), []).append(exit)
    return groups


def _data_of(table: ScoreTable, path: str | Path) -> str:
    data = table.provenance.get("data")
    if not isinstance(data, str):
        raise TableError(
            f"times are measured on images, {str(path)!r} does not say which were scored: name "
            "some with --data"
        )
    return data


def _load(
    root: str, exits: Sequence[Exit], *, path: str | Path, device: str, allow_code: Collection[str]
) -> Mapping[str, Stage]:
    """The stages of a source on the device, the same as when they were scored."""
    spec = str(exits[0].origin["spec"])
    try:
        loaded = load_stages(spec, root, allow_code=allow_code, found_in=path)
    except UnderstudyError as error:
        raise type(error)(str(error)) from error
    missing = [exit.name for exit in exits if exit.name not in loaded]
    if missing:
        raise ModelError(
            f"a table's exits are measured all together, {spec!r} has no {listed(missing)}: "
            "restore the folder, or score it again"
        )
    for exit in exits:
        check_identity(
            exit.name,
            exit.origin,
            loaded[exit.name],
            past="scored",
            remedy="restore it, or score it again into another table",
        )
    return {exit.name: loaded[exit.name].to(device) for exit in exits}


def _bytes_of(exits: Sequence[Exit]) -> int:
    return 4 * max(int(exit.origin.get("parameters", 0)) for exit in exits)


def _sizes(table: ScoreTable) -> list[int]:
    known = [size for size in map(size_of, table.times) if size is not None]
    return known or [min(SIZE, len(table))]
