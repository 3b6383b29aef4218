"""What the rivals of serving.py share: the cascade in their processes, and its answers as JSON.

Settings come as one JSON document: folder, port, batch, wait (seconds), workers, threads.
"""

from __future__ import annotations

import json
import os
import sys
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

import numpy as np

SHAPE = (3, 32, 32)


def settings() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(os.environ.get("RIVAL", "") or sys.argv[1])
    return told


def cascade(told: dict[str, Any]) -> Any:
    """The same cascade, with the memory settings of the command line of understudy."""
    import torch

    from understudy import load_cascade
    from understudy.malloc import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(told["threads"])
    return load_cascade(told["folder"], allow_code=["cifar_nets"])


def pixels(encoded: str | bytes) -> Any:
    """(3, 32, 32) uint8 of base64."""
    return np.frombuffer(b64decode(encoded), np.uint8).reshape(SHAPE)


def answers(loaded: Any, images: Sequence[Any]) -> list[dict[str, Any]]:
    """The answers to a batch, one document per image."""
    import torch

    found = loaded.answer(torch.from_numpy(np.stack(images)))
    rows = zip(
        found.prediction.tolist(), found.confidence.tolist(), found.exit_names(), strict=True
    )
    return [{"prediction": p, "confidence": c, "exit": e} for p, c, e in rows]
