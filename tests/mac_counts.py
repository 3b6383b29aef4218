"""The MACs of one model, for tests of models and heads."""

from __future__ import annotations

from torch import Tensor

from understudy.nn.cost import MacCount, count_macs
from understudy.nn.stage import Stage


def macs_of(stage: Stage, image: Tensor) -> MacCount:
    """The MACs of a stage's model, which may return anything; its preprocessing is left out."""
    ready = stage.prepare([image])
    with count_macs() as meter:
        stage.model.eval()(ready)
    return MacCount(float(meter.macs), tuple(sorted(meter.uncounted)))
