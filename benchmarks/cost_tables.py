"""Write the tables of docs/cluster.md from the record: ``python benchmarks/cost_tables.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import harness

RECORD = harness.RESULTS / "cluster_costs.json"
PAGE = harness.ROOT / "docs" / "cluster.md"


def checks_table(record: Mapping[str, Any]) -> list[str]:
    """What was predicted and what was measured, a line per check."""
    lines = ["| part | work | predicted | measured | error |", "|---|---|---|---|---|"]
    for part, found in record["parts"].items():
        checks = [(one, "core") for one in found["checks"]]
        checks += [(one, "by the clock") for one in found.get("checks_by_the_clock", ())]
        for one, unit in checks:
            predicted, measured = (_seconds(one[name]) for name in ("predicted", "measured"))
            what = one["what"] if unit == "core" else f"{one['what']}, by the clock"
            lines.append(
                f"| {part} | {what} | {predicted} | {measured} | {_percent(one['error'])} |"
            )
    return lines


def examples_table(record: Mapping[str, Any]) -> list[str]:
    """Scoring ImageNet's train images: hours, groups, decoding, a line per set of models."""
    lines = [
        "| models | GPU hours | on 8 GPUs | on 64 GPUs | groups | cores per GPU that decode |",
        "|---|---|---|---|---|---|",
    ]
    example = record["examples"].get("scoring ImageNet's train images", {})
    for name, one in example.items():
        if isinstance(one, dict):
            hours = one["hours_on_gpus"]
            lines.append(
                f"| {name} | {one['gpu_hours']:,} | {hours['8']:g} hours | {hours['64']:g} hours | "
                f"{one['groups']} | {one['cores_per_gpu']:g} |"
            )
    return lines


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{1e3 * value:.2f} ms"


def _percent(error: float) -> str:
    return f"{100 * error:+.0f} %".replace("-", "−")


def filled(page: str, record: Mapping[str, Any]) -> str:
    """The page with the tables of a record between their marks."""
    for name, table in (("checks", checks_table), ("examples", examples_table)):
        marks = f"<!-- {name}: python benchmarks/cost_tables.py -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(marks[0])
        _, _, after = rest.partition(marks[1])
        page = "\n".join([f"{before}{marks[0]}", *table(record), f"{marks[1]}{after}"])
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), json.loads(RECORD.read_text())))
