"""The names that a model has for its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from understudy.nn.execution_mode import ModelInMode
from understudy.nn.stage import Stage, uncompiled


def class_names_of(stage: Stage) -> tuple[str, ...] | None:
    """The names of a model's classes by number; None where it has none, or two classes share one.

    They are its attribute `class_names`, or the `id2label` of its configuration, as models of
    transformers have; names such as LABEL_0 are none.

    >>> net = nn.Linear(4, 2)
    >>> net.class_names = ("cat", "dog")
    >>> class_names_of(Stage(net))
    ('cat', 'dog')
    """
    model = _plain(stage.model)
    own = getattr(model, "class_names", None)
    labels = getattr(getattr(model, "config", None), "id2label", None)
    if own is None and isinstance(labels, Mapping):
        own = [labels.get(number) for number in range(len(labels))]
    if not isinstance(own, list | tuple) or not all(isinstance(name, str) for name in own):
        return None
    unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in own)
    return None if unnamed or len(set(own)) < len(own) else tuple(own)


def _plain(model: nn.Module) -> nn.Module:
    """The module itself, behind execution modes, compilers, and the exits of its network."""
    model = uncompiled(model)
    inner = model.model if isinstance(model, ModelInMode) else getattr(model, "stage", None)
    if isinstance(inner, Stage):
        inner = inner.model
    return _plain(inner) if isinstance(inner, nn.Module) else model
