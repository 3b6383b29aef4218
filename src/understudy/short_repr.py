"""Reprs that fit a line or a few: dataclasses as `Name(field=value, ...)`, long values cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

LONGEST = 300  # characters of a repr
_VALUE = 80  # of one value in it
_ENTRIES = 3  # of a collection in one that is cut


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
    values = {one.name: getattr(noun, one.name) for one in fields(noun) if one.repr}
    room = LONGEST - len(name) - 2
    whole = ", ".join(f"{key}={_value(value, LONGEST)}" for key, value in values.items())
    if len(whole) > room:
        whole = cut_list((f"{key}={_value(value, _VALUE)}" for key, value in values.items()), room)
    return f"{name}({whole})"


def cut_list(entries: Iterable[str], room: int, *, most: int | None = None) -> str:
    """As many entries as fit, joined by commas, and how many more there are.

    >>> cut_list(["tiny", "mid", "big"], 14, most=1)
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


def _value(value: Any, room: int) -> str:
    """A value in about so many characters."""
    if hasattr(value, "dtype") and getattr(value, "shape", None):  # an array or a tensor
        return f"<{' x '.join(map(str, value.shape))} {value.dtype}>"
    if isinstance(value, str):
        return repr(clipped(value, room // 2))
    most = None if room > _VALUE else _ENTRIES
    if isinstance(value, Mapping):
        entries = (f"{_value(key, room)}: {_value(value[key], room)}" for key in value)
        return "{" + cut_list(entries, room, most=most) + "}"
    if isinstance(value, tuple | list):
        inside = cut_list((_value(one, room) for one in value), room, most=most)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    text = repr(value)
    if len(text) <= room:
        return text
    return f"{type(value).__name__}(…)" if is_dataclass(value) else clipped(text, room)
