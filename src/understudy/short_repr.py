"""Reprs that fit a line or a few: dataclasses as `Name(field=value, ...)`, long values cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

LONGEST = 300  # characters of a repr
_VALUE = 80  # of one value in it
_ENTRIES = 3  # of a collection


def short_repr(noun: Any) -> str:
    """The repr of a dataclass: that of Python where it is short, else with long values cut.

    >>> import numpy as np
    >>> from understudy.outcome import Decisions
    >>> from understudy.policy import Policy
    >>> Policy.single("tiny").stages[0]
    PolicyStage(exit='tiny', threshold=None, confidence='max_softmax')
    >>> Decisions(np.zeros(1000, int), np.zeros(1000, np.int32), np.zeros(1000))
    Decisions(stage=<1000 int64>, prediction=<1000 int32>, confidence=<1000 float64>)
    """
    name = type(noun).__name__
    entries = [f"{one.name}={_value(getattr(noun, one.name))}" for one in fields(noun) if one.repr]
    return f"{name}({shortened(entries, LONGEST - len(name) - 2)})"


def shortened(entries: Iterable[str], room: int, *, most: int | None = None) -> str:
    """As many entries as fit, joined by commas, and how many more there are.

    >>> shortened(["tiny", "mid", "big"], 14)
    'tiny, … 2 more'
    """
    texts = list(entries)
    text = ", ".join(texts)
    if len(text) <= room and (most is None or len(texts) <= most):
        return text
    kept = texts[:most]
    while kept and len(", ".join(kept)) + len(f", … {len(texts)} more") > room:
        kept.pop()
    return ", ".join([*kept, f"… {len(texts) - len(kept)} more"])


def clipped(text: str, most: int = 40) -> str:
    """A text with its middle left out where it is long.

    >>> clipped("resnet50.a1_in1k", 11)
    'resne…_in1k'
    """
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


def _value(value: Any) -> str:
    if hasattr(value, "dtype") and getattr(value, "shape", ()):  # an array or a tensor
        return f"<{' x '.join(map(str, value.shape))} {value.dtype}>"
    if isinstance(value, str):
        return repr(clipped(value))
    if isinstance(value, Mapping):
        entries = (f"{_value(key)}: {_value(value[key])}" for key in value)
        return "{" + shortened(entries, _VALUE, most=_ENTRIES) + "}"
    if isinstance(value, tuple | list):
        inside = shortened(map(_value, value), _VALUE, most=_ENTRIES)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    text = repr(value)
    if len(text) <= _VALUE:
        return text
    return f"{type(value).__name__}(…)" if is_dataclass(value) else clipped(text, _VALUE)
