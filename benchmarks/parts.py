"""Benchmarks of several parts: `--only` measures one of them anew, the rest stays as recorded."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import harness

Part = Callable[[], dict[str, Any]]
"""Measures; its answer says under `met` whether the goal was reached."""


def add_only(parser: argparse.ArgumentParser, parts: Collection[str]) -> None:
    """The option that names one part."""
    help = f"one of {', '.join(parts)}; the rest stays as recorded"
    parser.add_argument("--only", default="", choices=["", *parts], metavar="PART", help=help)


def measured(parts: Mapping[str, Part], only: str) -> dict[str, Any]:
    """All parts, or one of them beside the others as recorded, and which missed their goals.

    Each has the seconds that it took, and the load of the machine before it.

    Args:
        parts: in order.
        only: the one to measure; empty for all.
    """
    found = _recorded() if only else {}
    for name, part in parts.items():
        if only in ("", name):
            load, begun = round(os.getloadavg()[0], 2), time.monotonic()
            told = part()
            took = round(time.monotonic() - begun)
            found[name] = {**told, "seconds": took, "load_before": load}
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    missed = [name for name, told in found.items() if not told["met"]]
    return {"parts": found, "missed": missed, "met": not missed}


def _recorded() -> dict[str, Any]:
    file = harness.RESULTS / f"{Path(sys.argv[0]).stem}.json"
    return dict(json.loads(file.read_text())["parts"]) if file.exists() else {}
