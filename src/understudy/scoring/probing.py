"""Sources of exits, run on some images before they are scored; and the table of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from understudy.errors import ModelError, listed
from understudy.exit import Exit
from understudy.json_codec import StoredFile, stored
from understudy.nn.class_names import class_names_of
from understudy.nn.cost import count_parts
from understudy.nn.identity import answering, identity_of, note_input
from understudy.nn.preprocess import Resizing
from understudy.nn.stage import EMPTY, Images, Stage, resizings_of
from understudy.progress_bars import Advance
from understudy.scores import ScoreTable
from understudy.scoring.outputs import ExitOutputs
from understudy.scoring.repeatability import check_repeatable
from understudy.zoo.data import Array

_MANY = 10  # sources, from which on their probing shows progress


@dataclass(frozen=True)
class Probe(StoredFile, what="a probe", format="understudy.probe"):
    """What is known of one source of exits that was run on some images.

    Attributes:
        exits: its exits; their origins have the hashes of the weights.
        macs: of one sample, by part.
        classes: how many it tells apart.
        resizings: how it resizes images.
        bytes: the size of its weights.
        class_names: its names of the classes, where it has any.
    """

    exits: tuple[Exit, ...]
    macs: Mapping[str, float]
    classes: int
    resizings: frozenset[Resizing | None] = field(
        metadata=stored(shape=tuple[Resizing | None, ...], pack=list, unpack=frozenset)
    )
    bytes: int
    class_names: tuple[str, ...] | None = None


def probe(stages: Mapping[str, Stage], images: Images) -> Probe:
    """Run the stages of one source on some images, in order, and count the MACs of each part.

    Raises:
        ModelError: one returns no logits (N, C), or other classes than the others; its logits
            depend on chance, or on the rest of a batch.
        DataError: one cannot take such images.
    """
    image = images[0]
    with answering(next(iter(stages))):
        counts = count_parts(stages, image)
    exits: list[Exit] = []
    classes: dict[str, int] = {}
    state = EMPTY
    for name, stage in stages.items():
        logits, _, state = stage.run([image], state)
        classes[name] = int(logits.shape[1])
        parts = tuple(dict.fromkeys(part.part for part in stage.parts(name)))
        note_input(stage, image)
        origin = {
            **identity_of(stage),
            "classes": classes[name],
            "parameters": sum(parameter.numel() for parameter in stage.parameters()),
            "uncounted": sorted({name for part in parts for name in counts[part].uncounted}),
        }
        exits.append(Exit(name, parts, origin))
    check_repeatable(stages, images)
    macs = {part: count.total for part, count in counts.items()}
    return Probe(
        tuple(exits),
        macs,
        common_classes(classes),
        resizings_of(stages.values()),
        max(map(_bytes_of, stages.values())),
        class_names_of([*stages.values()][-1]),
    )


def probing_progress(on_progress: Advance, sources: int) -> Callable[[int], None]:
    """What shows how many sources are probed; a few are not worth a bar.

    >>> probing_progress(print, 1000)(3)
    probing models 3 1000
    """
    if sources < _MANY:
        return lambda _: None
    return lambda done: on_progress("probing models", done, sources)


def _bytes_of(stage: Stage) -> int:
    """The size of weights in bytes; of a model that PyTorch does not run they are buffers."""
    return sum(one.nbytes for one in (*stage.parameters(), *stage.buffers()))


def common_classes(classes: Mapping[str, int]) -> int:
    """The number of classes that all models have.

    Raises:
        ModelError: they differ.

    >>> common_classes({"tiny": 10, "big": 10, "other": 7})
    Traceback (most recent call last):
    understudy.errors.ModelError: all models of a table have the same classes, found 10 (tiny, big),
    7 (other): leave some out, or load them with ?classes=N and a fitting checkpoint
    """
    counts = dict.fromkeys(classes.values())
    if len(counts) > 1:
        found = (f"{n} ({listed(m for m, own in classes.items() if own == n)})" for n in counts)
        raise ModelError(
            f"all models of a table have the same classes, found {listed(found)}: leave some out, "
            "or load them with ?classes=N and a fitting checkpoint"
        )
    return next(iter(classes.values()))


def exits_of(probes: Mapping[str, Probe]) -> tuple[Exit, ...]:
    """The exits of all sources, in order."""
    return tuple(exit for probe in probes.values() for exit in probe.exits)


def table_of(
    probes: Mapping[str, Probe],
    outputs: Mapping[str, ExitOutputs],
    labels: Array | None,
    *,
    classes: Sequence[str] | None,
    costs: Mapping[str, Any] | None = None,
    **more: Any,
) -> ScoreTable:
    """The table of all exits' outputs, exit by exit.

    Args:
        probes: what is known of the exits, by source.
        outputs: their outputs, by exit.
        labels: (N,) class numbers, or (N, K) where samples have several; or None.
        classes: the names of the classes.
        costs: {unit: {part: cost}}; the MACs of the probes by default.
        more: ids, groups, split and provenance, as in `ScoreTable.from_predictions`.

    Raises:
        TableError: ids, groups or splits that do not fit.
    """
    exits = exits_of(probes)
    macs = {part: cost for probe in probes.values() for part, cost in probe.macs.items()}
    table = ScoreTable.from_predictions(
        {name: (rows.prediction, rows.confidence) for name, rows in outputs.items()},
        labels,
        costs={"MACs": macs} if costs is None else costs,
        parts={exit.name: exit.parts for exit in exits},
        **more,
    )
    return replace(
        table,
        exits=exits,
        classes=None if classes is None else tuple(classes),
        details={name: rows.detail for name, rows in outputs.items()},
    )
