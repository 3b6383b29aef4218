"""Estimators and functions of ``py:module:factory`` as modules that stages take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from understudy.callables.stage import CallableStage
from understudy.class_logits import counted_from_0
from understudy.errors import ModelError, brief
from understudy.extras import needing
from understudy.nn.cost import MacCount, add_macs


class CallableModel(nn.Module):
    """An estimator of scikit-learn's interface, or a function, as a module.

    A function gets the batch as an array (N, C, H, W), an estimator rows of numbers (N, C * H * W):
    uint8 pixels, or float32 where there is preprocessing. What they return is read by
    `class_logits`. The hash of a fitted estimator is its state; a function has none.

    Args:
        stage: the function or estimator.
        name: its name, for messages.
        macs: multiply-adds per image; by default those of a linear model or a perceptron.

    Raises:
        ModelError: the multiply-adds are neither given nor known.
    """

    fitted: Tensor

    def __init__(self, stage: CallableStage, *, name: str, macs: float | None = None) -> None:
        super().__init__()
        self.stage, self.name = stage, name
        self.macs = _macs(stage, name) if macs is None else macs
        self.register_buffer("fitted", _fitted(stage.estimator))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes; None where they are numbered only."""
        names = self.stage.class_names
        return None if names is None or counted_from_0(names) else names

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) float32."""
        refuse_capture(f"the function {self.name!r}")
        rows = images.cpu().numpy()
        if self.stage.estimator is not None:
            rows = rows.reshape(len(rows), -1)
            self._check_width(rows.shape[1])
        add_macs(lambda: MacCount(self.macs, ()), samples=len(rows))
        logits = self.stage.logits(rows, name=self.name)
        return torch.from_numpy(np.asarray(logits, np.float32)).to(images.device)

    def _check_width(self, width: int) -> None:
        expected = getattr(self.stage.estimator, "n_features_in_", width)
        if expected != width:
            raise ModelError(
                f"an estimator gets the numbers that it was fitted to, {self.name!r} takes "
                f"{expected} and an image has {width}: give it the attributes input_size, mean, "
                "std and scale, by which images are prepared"
            )

    def _load_from_state_dict(self, *_: Any) -> None:
        """Keep the hash of what is there: it is compared with what was saved."""


def refuse_capture(what: str) -> None:
    """Refuse to be captured as a graph: what runs outside of PyTorch has no parts.

    Args:
        what: the model, for the message.

    Raises:
        ModelError: a network is being captured.
    """
    if torch.compiler.is_exporting() or torch.compiler.is_compiling():
        raise ModelError(
            "exits are attached to networks that PyTorch runs, and these alone are exported, "
            f"{what} runs outside of it: name the network itself, or use this model whole"
        )


def _macs(stage: CallableStage, name: str) -> float:
    """The multiply-adds of one sample, as they were given or from the sizes of weights.

    Raises:
        ModelError: neither is known.
    """
    cost = stage.cost.get("MACs") if isinstance(stage.cost, Mapping) else stage.cost
    if cost is not None:
        return float(cost)
    steps = getattr(stage.estimator, "steps", [("", stage.estimator)])
    last = steps[-1][1]
    weights = getattr(last, "coefs_", None) or [getattr(last, "coef_", None)]
    linear = not hasattr(last, "support_vectors_") and all(one is not None for one in weights)
    if not linear:
        raise ModelError(
            f"the MACs of functions cannot be counted, those of {name!r} are not known: add "
            "?macs=N, the multiply-adds for one image (0 for decision trees and the like)"
        )
    return float(sum(np.size(one) for one in weights))


def _fitted(estimator: Any) -> Tensor:
    """The hash of an estimator's state; empty for functions."""
    if estimator is None:
        return torch.empty(0, dtype=torch.uint8)
    with needing("estimators"):
        import joblib
    try:
        digest = joblib.hash(estimator)
    except Exception as error:
        raise ModelError(
            f"a fitted estimator has a state that can be hashed, that of "
            f"{type(estimator).__name__} has none ({brief(error)}): return its method, such as "
            "estimator.predict_proba, in a function"
        ) from error
    return torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8)
