"""What verbs print at 60 to 160 columns: no line is too long, no figure is lost, names differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import RenderableType

from command_line import Run
from understudy.app.cli.difficulty import difficulty_view
from understudy.app.cli.optimism import optimism_view
from understudy.app.cli.savers import savers_view
from understudy.app.cli.verify import checks_view
from understudy.deciles import difficulty
from understudy.display import plain
from understudy.scores import ScoreTable
from understudy.searching.best_savers import best_savers
from understudy.searching.optimism import optimism
from understudy.searching.search import search, search_in_sample
from understudy.searching.verify import verify
from understudy.split import SHARES_OF_MANY
from understudy.store import save_table

SIZES = (160, 192, 224, 256, 288, 320, 352, 384, 448, 512, 1024)
NAMES = tuple(f"convnextv2_huge.fcmae_ft_in22k_in1k_{size}" for size in SIZES)
WIDTHS = (60, 80, 100, 160)
FIGURE = re.compile(r"[(\[≥+−]*\d[\d.,]*%?[\]),;.]*")


@pytest.fixture(scope="module")
def zoo() -> ScoreTable:
    """11 exits with long names, better and dearer one after another, with times."""
    rng, count = np.random.default_rng(0), 3000
    hard = rng.random(count)
    predictions = {}
    for number, name in enumerate(NAMES):
        right = hard + 0.1 * rng.standard_normal(count) < 0.75 + 0.015 * number
        predictions[name] = (right.astype(int), np.round(1 - hard, 3))
    costs = {name: 1.7**number * 1.234e7 for number, name in enumerate(NAMES)}
    table = ScoreTable.from_predictions(
        predictions, np.ones(count, int), costs={"MACs": costs}, split=SHARES_OF_MANY
    )
    times = {name: 1.3**number for number, name in enumerate(NAMES)}
    return replace(table, times={"ms@1": times, "ms@256": times})


def views(table: ScoreTable) -> Iterator[RenderableType]:
    result = search(table, max_drop=[-0.5, 1.0, 2.0], looks=3)
    yield result.view()
    yield search_in_sample(table, max_drop=[0.5, 1.0]).view()
    yield difficulty_view(difficulty(table))
    yield savers_view(best_savers(table, [1.0, 2.0]))
    yield checks_view(verify(result, table))
    yield optimism_view(optimism(table, max_drop=1.0, resamples=1))


def figures(page: str) -> Counter[str]:
    return Counter(word for word in page.split() if FIGURE.fullmatch(word))


def test_every_view_fits_and_keeps_its_figures(zoo: ScoreTable) -> None:
    for view in views(zoo):
        whole = figures(plain(view, width=1000))
        assert whole
        for width in WIDTHS:
            page = plain(view, width=width)
            assert max(map(cell_len, page.splitlines())) <= width
            assert not whole - figures(page), (width, whole - figures(page))
            assert not re.search(r"^ *(%|[kMG]\b)", page, re.MULTILINE)
            assert "-0." not in page


def test_every_exit_has_a_line_of_its_own(zoo: ScoreTable) -> None:
    for width in WIDTHS:
        page = plain(difficulty_view(difficulty(zoo)), width=width)
        first = page[: page.index("(samples)")]
        assert len(set(re.findall(r"^  (convnext\S+)", first, re.MULTILINE))) == len(NAMES)


@pytest.mark.parametrize("width", WIDTHS)
def test_piped_output_has_the_width_of_columns(
    run: Run, tmp_path: Path, zoo: ScoreTable, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    save_table(zoo, tmp_path / "table")
    page = run("difficulty", tmp_path / "table").stdout
    assert width - 40 < max(map(cell_len, page.splitlines())) <= width
    assert "\x1b" not in page


VERBS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "search": lambda table: ("search", table, "--max-drop", "1,2"),
    "search, nothing proved": lambda table: ("search", table, "--max-drop", "0.001"),
    "search within a cost": lambda table: ("search", table, "--max-cost", 2e8),
    "search in-sample": lambda table: ("search", table, "--max-drop", 1, "--in-sample"),
    "savers": lambda table: ("savers", table, "--max-drop", 3),
    "difficulty": lambda table: ("difficulty", table),
    "optimism": lambda table: ("optimism", table, "--max-drop", 1, "--resamples", 1),
}


@pytest.mark.parametrize("verb", VERBS)
def test_without_labels_all_is_agreement(
    run: Run, tmp_path: Path, zoo: ScoreTable, verb: str
) -> None:
    few = zoo.only([NAMES[0], NAMES[5], NAMES[10]])
    save_table(replace(few, label=None), tmp_path / "table")
    command = run(*VERBS[verb](tmp_path / "table"))
    assert command.exit_code == 0, command.stderr
    page = " ".join(command.stdout.split())
    assert "agree" in page
    for word in ("accura", " drop", " lose", "right"):
        assert word not in page, word
