"""The path of a new user: its commands stand on the pages, and its figures are those recorded."""

from __future__ import annotations

import json

import pytest

import new_user
from doc_pages import ROOT, blocks, read


def typed(page: str) -> set[str]:
    """The commands of a page's blocks, comments left out."""
    joined = (block.text.replace("\\\n", " ") for block in blocks(page) if not block.language)
    lines = (line.partition("   #")[0] for text in joined for line in text.splitlines())
    return {" ".join(line.split()) for line in lines}


def test_every_command_stands_on_its_page() -> None:
    for step in new_user.STEPS:
        assert step.command in typed(step.page), step


def test_the_steps_reach_a_server() -> None:
    verbs = [step.command.split()[1] for step in new_user.STEPS if "understudy" in step.command]
    assert verbs == ["score", "search", "report", "build", "run", "serve"]
    assert [step.title for step in new_user.STEPS if step.stays] == ["serve, until it answers"]


def test_the_table_of_the_page_is_that_of_the_record() -> None:
    record = ROOT / "benchmarks" / "results" / "new_user.json"
    if not record.exists():
        pytest.skip("nothing recorded: python benchmarks/new_user.py --record")
    for row in new_user.table(json.loads(record.read_text())):
        assert row in read("docs/benchmarks.md")


def test_a_record_becomes_a_table() -> None:
    step = new_user.row_of("make demo", "demo", 61.23, "")
    rows = new_user.table({"steps": [{**step, "page": "docs/quickstart.md"}], "seconds": 61.2})
    assert rows[2] == "| demo | `make demo` | [quickstart](quickstart.md) | 61.2 |"
    assert rows[-1].endswith("| 61.2 |")
