"""One source run on batches, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from understudy.errors import ModelError
from understudy.nn.stage import Images, Stage
from understudy.runtime.protocol import is_out_of_memory
from understudy.scoring.outputs import ExitOutputs, run_stages


class SourceRun:
    """The stages of one source, run on batches in parts that fit into memory.

    Where memory runs out the parts are halved, and stay so for later batches.

    Args:
        name: of the source, for the message.
        stages: by exit, on their device.
        size: the most samples of a part to begin with.

    Attributes:
        size: the most samples of a part.
    """

    def __init__(self, name: str, stages: Mapping[str, Stage], *, size: int) -> None:
        self.stages = dict(stages)
        self.size = size
        self._name = name

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
        found = self._outputs_if_fitting(images, ids, keep_logits)
        while found is None:
            size = min(len(images), self.size)
            if size == 1:
                raise ModelError(
                    f"a model runs on one sample at least, {self._name!r} runs out of memory: "
                    "score it alone, or on a device with more of it"
                )
            self.size = size // 2
            found = self._outputs_if_fitting(images, ids, keep_logits)
        return found

    def _outputs_if_fitting(
        self, images: Images, ids: Sequence[str], keep_logits: bool
    ) -> dict[str, ExitOutputs] | None:
        """The outputs; None where memory runs out, and nothing of the attempt is kept then."""
        pieces: dict[str, list[ExitOutputs]] = {name: [] for name in self.stages}
        try:
            for start in range(0, len(images), self.size):
                part = slice(start, start + self.size)
                for name, outputs in run_stages(
                    self.stages, images[part], ids=ids[part], keep_logits=keep_logits
                ):
                    pieces[name].append(outputs)
        except Exception as error:
            if is_out_of_memory(error):
                return None
            raise
        return {name: ExitOutputs.concatenate(own) for name, own in pieces.items()}


def smaller_batches(sizes: Mapping[str, int]) -> dict[str, Any]:
    """What a table's provenance has of exits whose batches did not fit: the sizes that ran.

    >>> smaller_batches({"big": 64}), smaller_batches({})
    ({'smaller_batches': {'big': 64}}, {})
    """
    return {"smaller_batches": dict(sizes)} if sizes else {}
