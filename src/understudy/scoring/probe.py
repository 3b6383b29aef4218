"""What is known of models before they are scored: classes, costs, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from understudy.errors import ModelError
from understudy.exit import Exit
from understudy.nn.cost import count_parts
from understudy.nn.stage import EMPTY, Stage


@dataclass(frozen=True)
class Probe:
    """One source of exits seen on one image: its exits, MACs per sample by part, classes."""

    exits: tuple[Exit, ...]
    macs: Mapping[str, float]
    classes: int


def probe(stages: Mapping[str, Stage], image: Tensor) -> Probe:
    """Run the stages of one source on one image, in order, and count what each part does.

    Raises:
        ModelError: one returns no logits (N, C), or other classes than the others.
        DataError: one cannot take such an image.
    """
    counts = count_parts(stages, image)
    exits: list[Exit] = []
    classes: dict[str, int] = {}
    state = EMPTY
    for name, stage in stages.items():
        logits, _, state = stage.run([image], state)
        classes[name] = int(logits.shape[1])
        parts = tuple(dict.fromkeys(piece.part for piece in stage.parts(name)))
        origin = {
            **stage.to_origin(),
            "classes": classes[name],
            "parameters": sum(parameter.numel() for parameter in stage.parameters()),
            "uncounted": sorted({name for part in parts for name in counts[part].uncounted}),
        }
        exits.append(Exit(name, parts, origin))
    macs = {part: count.total for part, count in counts.items()}
    return Probe(tuple(exits), macs, check_together(classes))


def check_together(classes: Mapping[str, int]) -> int:
    """The number of classes that all models tell.

    Raises:
        ModelError: they differ.
    """
    if len(set(classes.values())) > 1:
        raise ModelError(
            f"all models of a table tell the same classes, found {dict(classes)}: "
            "leave some out, or load them with ?classes=N and a fitting checkpoint"
        )
    return next(iter(classes.values()))
