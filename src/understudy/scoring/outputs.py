"""What exits said about some samples, from their logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.errors import ModelError, listed
from understudy.nn.confidence import confidence_functions
from understudy.nn.device import Images
from understudy.nn.stage import EMPTY, Stage
from understudy.scores import Detail

Array = npt.NDArray[Any]
TOP = 5
_FLOAT16 = torch.finfo(torch.float16)


@dataclass(frozen=True, eq=False)
class ExitOutputs:
    """Answers, confidences, top classes and, where they are kept, logits of n samples.

    Shapes: `prediction` (n,) int32, `confidence` by name (n,) float32, `detail` (n, K) and (n, C).
    """

    prediction: Array
    confidence: dict[str, Array]
    detail: Detail

    def __len__(self) -> int:
        return len(self.prediction)

    def rows(self, index: Array) -> ExitOutputs:
        """The same for some of the samples."""
        confidence = {name: values[index] for name, values in self.confidence.items()}
        return ExitOutputs(self.prediction[index], confidence, self.detail.rows(index))

    @staticmethod
    def joined(pieces: Sequence[ExitOutputs]) -> ExitOutputs:
        """Pieces one after another."""

        def join(of: Callable[[ExitOutputs], Array]) -> Array:
            return np.concatenate([of(piece) for piece in pieces])

        kept = all(piece.detail.logits is not None for piece in pieces)
        return ExitOutputs(
            join(lambda said: said.prediction),
            {
                name: np.concatenate([said.confidence[name] for said in pieces])
                for name in pieces[0].confidence
            },
            Detail(
                join(lambda said: said.detail.top_classes),
                join(lambda said: said.detail.top_probabilities),
                join(lambda said: np.asarray(said.detail.logits)) if kept else None,
            ),
        )


def said_by_all(
    stages: Mapping[str, Stage], images: Images, *, ids: Sequence[str], keep_logits: bool
) -> Iterator[tuple[str, ExitOutputs]]:
    """What each stage of one source says about a batch, in order; what they share is run once.

    Raises:
        ModelError: logits that are not finite; the message names the exit and the samples.
    """
    state = EMPTY
    for name, stage in stages.items():
        logits, _, state = stage.run(images, state)
        check_finite(logits, model=name, ids=ids)
        yield name, said_by(logits, keep_logits=keep_logits)


@torch.inference_mode()
def said_by(logits: Tensor, *, keep_logits: bool) -> ExitOutputs:
    """What finite logits (n, C) say: the top class, every confidence, the top five, the logits.

    Logits are kept as float16, limited to its range.

    >>> said = said_by(torch.tensor([[0.0, 2.0, 1.0]]), keep_logits=False)
    >>> said.prediction.tolist(), said.detail.top_classes.tolist()
    ([1], [[1, 2, 0]])
    """
    probability, order = logits.float().softmax(1).sort(dim=1, descending=True, stable=True)
    top = min(TOP, logits.shape[1])
    half = logits.clamp(_FLOAT16.min, _FLOAT16.max).half() if keep_logits else None
    return ExitOutputs(
        prediction=logits.argmax(1).to(torch.int32).cpu().numpy(),
        confidence={
            name: function(logits).cpu().numpy() for name, function in confidence_functions.items()
        },
        detail=Detail(
            order[:, :top].to(torch.int32).cpu().numpy(),
            probability[:, :top].cpu().numpy(),
            None if half is None else half.cpu().numpy(),
        ),
    )


def check_finite(logits: Tensor, *, model: str, ids: Sequence[str]) -> None:
    """Refuse NaN and infinite logits, which no confidence can judge.

    Raises:
        ModelError: the message names the model and the samples.
    """
    wrong = (~torch.isfinite(logits).all(1)).nonzero().flatten().tolist()
    if wrong:
        raise ModelError(
            f"logits are finite, {model!r} gives NaN or infinity for {len(wrong)} of {len(ids)} "
            f"samples of a batch ({listed([ids[row] for row in wrong])}): check its weights, its "
            "preprocessing, or run it in float32"
        )
