"""The notebooks: what is stored is what their code shows, and nothing of a machine."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import nbformat
import pytest

from doc_pages import ROOT, anchors
from journey_scripts import NOTEBOOKS

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
LARGEST = 300_000
OF_A_MACHINE = re.compile(r"/(?:home|root|tmp|work|usr|var|opt|Users)/|\b0x[0-9a-f]{6,}\b")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(outputs: list[Any]) -> str:
    """All that outputs show."""
    shown = (output.get("text") or "".join(output.data.values()) for output in outputs)
    return "\n".join(shown)


def words(outputs: list[Any]) -> set[str]:
    """The words that outputs show, without tags, figures and hashes."""
    plain = re.sub(r"<[^>]*>|\w*\d\w*", " ", text(outputs))
    return set(re.findall(r"[^\W\d_]{3,}", plain))


@pytest.fixture
def execution(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program that executes the notebooks."""
    monkeypatch.syspath_prepend(NOTEBOOKS)
    return import_module("execute")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
class TestStored:
    """What lies in the file."""

    def test_every_cell_ran_in_order_and_without_error(self, path: Path, execution: Any) -> None:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        cells = code_cells(notebook)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        for cell in cells:
            assert cell.outputs, cell.source
            assert {one.output_type for one in cell.outputs} <= {"execute_result", "stream"}
            assert all(one.get("name", "stdout") == "stdout" for one in cell.outputs)
        assert notebook.metadata["executed"] == execution.code_hash(notebook), "make notebooks"

    def test_nothing_is_of_a_machine(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        assert path.stat().st_size <= LARGEST
        assert set(notebook.metadata) == {"kernelspec", "language_info", "executed"}
        assert all(set(cell.metadata) <= {"page"} for cell in notebook.cells)
        for cell in code_cells(notebook):
            assert not OF_A_MACHINE.search(cell.source + text(cell.outputs))
            assert all(not one.get("metadata") for one in cell.outputs)

    def test_it_shows_tables_a_chart_and_how_to_go_on(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        shown = [one.data for cell in code_cells(notebook) for one in cell.outputs if "data" in one]
        tables = " ".join(one["text/html"] for one in shown if "text/html" in one)
        for noun in ("ScoreTable: ", "single exits", "<b>certificate</b>"):
            assert noun in tables, noun
        assert "<script" not in tables
        assert sum("image/svg+xml" in one for one in shown) == 1
        code = "\n".join(cell.source for cell in code_cells(notebook))
        assert "verify(result, table)" in code
        assert 'result.report("report.html")' in code
        assert notebook.cells[-1].source.startswith("## What to do next")

    def test_its_links_work(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        sources = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        found = LINK.findall("\n".join(sources))
        assert len(found) > 3
        for target, anchor in found:
            page = (path.parent / target).resolve()
            assert page.exists(), target
            assert not anchor or anchor in anchors(page.relative_to(ROOT).as_posix()), anchor


def test_there_are_two() -> None:
    assert [path.stem for path in PATHS] == ["only_a_csv", "own_modules"]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_executed_anew_it_shows_the_same(
    path: Path, execution: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words in every cell; figures may differ between machines."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    stored, anew = (nbformat.read(path, as_version=4) for _ in range(2))
    execution.execute(anew)
    execution.strip(anew)
    for before, after in zip(code_cells(stored), code_cells(anew), strict=True):
        assert words(after.outputs) == words(before.outputs), before.source
        assert [set(one.get("data", {})) for one in after.outputs] == [
            set(one.get("data", {})) for one in before.outputs
        ]


@pytest.mark.slow
def test_a_cell_that_warns_is_an_error(execution: Any) -> None:
    cell = nbformat.v4.new_code_cell("import sys; print('careful', file=sys.stderr)")
    with pytest.raises(AssertionError, match="careful"):
        execution.execute(nbformat.v4.new_notebook(cells=[cell]))
