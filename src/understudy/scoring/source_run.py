"""One source run on batches, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from understudy.nn.stage import Images, Stage
from understudy.runtime.fitting_parts import FittingParts
from understudy.scoring.outputs import ExitOutputs, run_stages


class SourceRun:
    """The stages of one source, run on batches in parts that fit into memory.

    Where memory runs out the parts are halved, and stay so for later batches.

    Args:
        name: of the source, for the message.
        stages: by exit, on their device.
        size: the most samples of a part to begin with.
    """

    def __init__(self, name: str, stages: Mapping[str, Stage], *, size: int) -> None:
        self.stages = dict(stages)
        self._parts = FittingParts(
            size=size,
            too_large=f"a model runs on one sample at least, {name!r} runs out of memory: score it "
            "alone, or on a device with more of it",
        )

    @property
    def size(self) -> int:
        """The most samples of a part."""
        return self._parts.size

    def limit(self, size: int) -> None:
        """From here on parts have at most so many samples."""
        self._parts.size = min(self._parts.size, size)

    def outputs(
        self, images: Images, *, ids: Sequence[str], keep_logits: bool
    ) -> dict[str, ExitOutputs]:
        """The outputs of each exit for a batch; work that exits share is run once.

        >>> import torch
        >>> run = SourceRun("tiny", {"tiny": Stage(torch.nn.Linear(4, 3))}, size=2)
        >>> len(run.outputs(torch.zeros(5, 4), ids="abcde", keep_logits=True)["tiny"])
        5

        Raises:
            ModelError: logits that are not finite, or a single sample that does not fit.
        """

        def of(part: slice) -> dict[str, ExitOutputs]:
            return dict(
                run_stages(self.stages, images[part], ids=ids[part], keep_logits=keep_logits)
            )

        pieces = self._parts.run(len(images), of)
        return {
            name: ExitOutputs.concatenate([piece[name] for piece in pieces]) for name in self.stages
        }


def smaller_batches(sizes: Mapping[str, int]) -> dict[str, Any]:
    """What a table's provenance has of exits whose batches did not fit: the sizes that ran.

    >>> smaller_batches({"big": 64}), smaller_batches({})
    ({'smaller_batches': {'big': 64}}, {})
    """
    return {"smaller_batches": dict(sizes)} if sizes else {}
