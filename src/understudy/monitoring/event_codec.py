"""Events as bytes: a list in JSON, and the cells of all observations one after another."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from understudy.monitoring.events import (
    Event,
    Labelled,
    Observed,
    PointChosen,
    Shadowed,
    WatchReset,
)

_KINDS: dict[str, type[Any]] = {
    "observed": Observed,
    "shadowed": Shadowed,
    "labelled": Labelled,
    "point": PointChosen,
    "reset": WatchReset,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_LENGTH = struct.Struct("<I")


def pack_events(events: Iterable[Event]) -> bytes:
    """Events, in order, as bytes.

    >>> packed = pack_events([Observed(1.5, 0, True, np.array([3, 7], np.uint8))])
    >>> [event] = unpack_events(packed)
    >>> event.cells.tolist(), event.time
    ([3, 7], 1.5)
    """
    rows, cells = [], []
    for event in events:
        fields = list(event)
        if isinstance(event, Observed):
            cells.append(event.cells.tobytes())
            fields[-1] = len(event.cells)
        rows.append([_NAMES[type(event)], *fields])
    text = json.dumps(rows, separators=(",", ":")).encode()
    return zlib.compress(_LENGTH.pack(len(text)) + text + b"".join(cells), 1)


def unpack_events(packed: bytes) -> list[Event]:
    """The events that `pack_events` packed.

    Raises:
        ValueError: bytes that it did not make.
    """
    try:
        whole = zlib.decompress(packed)
        (length,) = _LENGTH.unpack_from(whole)
        rows = json.loads(whole[_LENGTH.size : _LENGTH.size + length])
        cells = np.frombuffer(whole, np.uint8, offset=_LENGTH.size + length)
        events, start = [], 0
        for name, *fields in rows:
            if name == "observed":
                start, size = start + fields[-1], fields[-1]
                fields[-1] = cells[start - size : start]
            events.append(_KINDS[name](*fields))
    except (zlib.error, struct.error, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"no events of a watch: {error}") from error
    return events
