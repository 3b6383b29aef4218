"""What exits give for some samples: predictions, confidences, top classes and logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from understudy.errors import ModelError, listed
from understudy.exit import TOP, Detail
from understudy.nn.confidence_functions import confidence_functions
from understudy.nn.stage import EMPTY, Images, Stage
from understudy.zoo.data import Array

_FLOAT16 = torch.finfo(torch.float16)


@dataclass(frozen=True, eq=False)
class ExitOutputs:
    """Predictions, confidences, top classes and, where they are kept, logits of n samples.

    Shapes: `prediction` (n,) int32, `confidence` by name (n,) float32, `detail` (n, K) and (n, C).
    """

    prediction: Array
    confidence: dict[str, Array]
    detail: Detail

    def __len__(self) -> int:
        return len(self.prediction)

    @property
    def arrays(self) -> list[Array]:
        """All arrays, samples first."""
        detail = self.detail
        logits = [] if detail.logits is None else [detail.logits]
        rows = [self.prediction, *self.confidence.values()]
        return [*rows, detail.top_classes, detail.top_probabilities, *logits]

    def rows(self, index: Array | slice) -> ExitOutputs:
        """The same for some of the samples."""
        confidence = {name: values[index] for name, values in self.confidence.items()}
        return ExitOutputs(self.prediction[index], confidence, self.detail.rows(index))

    @staticmethod
    def concatenate(pieces: Sequence[ExitOutputs]) -> ExitOutputs:
        """Pieces one after another."""
        if len(pieces) == 1:
            return pieces[0]

        def join(of: Callable[[ExitOutputs], Array | None]) -> Array:
            return np.concatenate([np.asarray(of(piece)) for piece in pieces])

        kept = all(piece.detail.logits is not None for piece in pieces)
        return ExitOutputs(
            join(lambda outputs: outputs.prediction),
            {
                name: np.concatenate([outputs.confidence[name] for outputs in pieces])
                for name in pieces[0].confidence
            },
            Detail(
                join(lambda outputs: outputs.detail.top_classes),
                join(lambda outputs: outputs.detail.top_probabilities),
                join(lambda outputs: outputs.detail.logits) if kept else None,
            ),
        )


class GatheredOutputs:
    """The outputs of one exit, batch by batch, in memory that is taken once for all of them.

    Kept one by one they would lie between the large blocks that models take and give back, so that
    each batch of a model with many classes would need blocks of its own.

    Args:
        most: how many samples there are at most.

    >>> gathered = GatheredOutputs(8)
    >>> gathered.add(outputs_of(torch.eye(3), keep_logits=False))
    >>> gathered.whole.prediction.tolist()
    [0, 1, 2]
    """

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0
        self._room: ExitOutputs | None = None

    def add(self, outputs: ExitOutputs) -> None:
        """Add the outputs of further samples."""
        if self._room is None:
            self._room = outputs.rows(np.zeros(self._most, np.int64))
        rows = slice(self._count, self._count + len(outputs))
        for room, values in zip(self._room.arrays, outputs.arrays, strict=True):
            room[rows] = values
        self._count += len(outputs)

    @property
    def whole(self) -> ExitOutputs | None:
        """All outputs so far; None where there are none."""
        return None if self._room is None else self._room.rows(slice(0, self._count))


@torch.inference_mode()
def outputs_of(logits: Tensor, *, keep_logits: bool) -> ExitOutputs:
    """Prediction, all confidences, the top five classes and the logits, of finite logits (n, C).

    Logits are kept as float16, limited to its range.

    >>> outputs = outputs_of(torch.tensor([[0.0, 2.0, 1.0]]), keep_logits=False)
    >>> outputs.prediction.tolist(), outputs.detail.top_classes.tolist()
    ([1], [[1, 2, 0]])
    """
    probability, classes = _top(logits.float().softmax(1))
    half = logits.clamp(_FLOAT16.min, _FLOAT16.max).half() if keep_logits else None
    return ExitOutputs(
        prediction=logits.argmax(1).to(torch.int32).cpu().numpy(),
        confidence={
            name: function(logits).cpu().numpy() for name, function in confidence_functions.items()
        },
        detail=Detail(
            classes.to(torch.int32).cpu().numpy(),
            probability.cpu().numpy(),
            None if half is None else half.cpu().numpy(),
        ),
    )


def _top(probability: Tensor) -> tuple[Tensor, Tensor]:
    """The highest probabilities (n, K) and their classes, of ties the first class first."""
    rest = probability.clone()
    classes = torch.empty(len(rest), min(TOP, rest.shape[1]), dtype=torch.int64, device=rest.device)
    for place in range(classes.shape[1]):
        classes[:, place] = rest.argmax(1)  # the first of ties
        rest.scatter_(1, classes[:, place : place + 1], -1.0)
    return probability.gather(1, classes), classes


def run_stages(
    stages: Mapping[str, Stage], images: Images, *, ids: Sequence[str], keep_logits: bool
) -> Iterator[tuple[str, ExitOutputs]]:
    """The outputs of each stage of one source for a batch, in order; shared work is run once.

    Raises:
        ModelError: logits that are not finite; the message names the exit and the samples.
    """
    state = EMPTY
    for name, stage in stages.items():
        logits, _, state = stage.run(images, state)
        check_finite(logits, model=name, ids=ids)
        yield name, outputs_of(logits, keep_logits=keep_logits)


def check_finite(logits: Tensor, *, model: str, ids: Sequence[str]) -> None:
    """Refuse NaN and infinite logits, for which no confidence is defined.

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
