"""Tables and paragraphs of text: they fit their width, and no figure is lost or broken."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from understudy.display import columns, plain, signed, table_of
from understudy.text_table import Column, Paragraph, TextTable, short_names, wrapped

NAMES = tuple(f"convnextv2_huge.fcmae_ft_in22k_in1k_{size}" for size in (224, 256, 384, 512))
PLAN = f"{NAMES[0]} 61.2% → {NAMES[1]} 30.1% → {NAMES[2]} 8.5% → {NAMES[3]} 0.2%"
TABLE = table_of(
    "the cheapest plan per budget, measured on test",
    ("max\ndrop", Column("plan", "plan"), "MACs", "saving", "saving\nms@256", "95 %", "proof"),
    (
        ("0.5", PLAN, "29.7 M", "76.3 %\n≥ 73.2 %", "85.9 %", "[+0.01, +3.12]", "p = 0.036"),
        ("1", PLAN, "27.5 M", "78.1 %\n≥ 74.8 %", "within noise", "[+0.21, +3.41]", "fell back"),
    ),
)
FIGURES = ("29.7 M", "76.3 %", "≥ 73.2 %", "85.9 %", "[+0.01, +3.12]", "within noise", "8.5%")


def printed(table: TextTable, width: int) -> list[str]:
    return [str(line) for line in table.lines(width)]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 160, 400])
def test_a_table_fits_with_all_figures(width: int) -> None:
    lines = printed(TABLE, width)
    assert max(map(cell_len, lines)) <= width
    for figure in FIGURES:
        assert any(figure in line for line in lines), figure


def test_a_wide_table_stands_on_its_rows() -> None:
    row = next(line for line in printed(TABLE, 400) if line.startswith("  0.5"))
    for cell in ("0.5", PLAN, "29.7 M", "85.9 %", "p = 0.036"):
        assert cell in row


def test_plans_move_below_their_rows() -> None:
    lines = printed(TABLE, 100)
    row = next(number for number, line in enumerate(lines) if line.startswith("  0.5"))
    assert lines[row + 1].split() == ["≥", "73.2", "%"]
    plan = " ".join(line.strip() for line in lines[row + 2 : row + 6])
    assert plan.startswith(PLAN)


def test_columns_that_do_not_fit_follow_with_their_keys() -> None:
    rows = tuple(
        (big, budget, *(f"{n}.{at}" for n in range(9)))
        for at, (big, budget) in enumerate([("big", "1"), ("big", "2"), ("mid", "1")])
    )
    table = table_of("", ("model", "max\ndrop", *(f"figure{n}" for n in range(9))), rows)
    lines = printed(table, 50)
    assert sum(line.split()[:2] == ["big", "2"] for line in lines) == 3
    assert max(map(cell_len, lines)) <= 50
    words = Counter(word for line in lines for word in line.split())
    assert all(words[f"{n}.{at}"] == 1 for n in range(9) for at in range(3))


def test_a_style_and_wide_characters_keep_their_columns() -> None:
    table = table_of("", ("name", "holds"), [("数字", Text("yes", "green")), ("b", "no")])
    lines = list(table.lines(80))
    assert {cell_len(str(line)) for line in lines} == {0, 14}
    assert any("green" in str(span.style) for line in lines for span in line.spans)
    assert "数字     yes" in " ".join(map(str, lines))


@given(st.sets(st.text("ab1_", min_size=1, max_size=40), max_size=30), st.integers(3, 30))
def test_shortened_names_stay_different(names: set[str], width: int) -> None:
    short = short_names(names, width)
    assert set(short) == names
    assert len(set(short.values())) == len(names)
    for name, text in short.items():
        first, _, last = text.partition("…")
        assert name == text or (name.startswith(first) and name.endswith(last))


def test_names_are_cut_in_the_middle() -> None:
    assert set(short_names(NAMES, 20).values()) == {
        f"convnextv2_…in1k_{size}" for size in (224, 256, 384, 512)
    }
    alike = [f"{'a' * 20}{middle}{'z' * 20}" for middle in "123"]
    assert len(set(short_names(alike, 16).values())) == 3


@given(st.lists(st.sampled_from(["57.2", "%", "M", "of", "MACs,", "[−0.2,", "+1]", "x" * 30])))
def test_wrapped_text_keeps_its_words_and_figures(words: list[str]) -> None:
    lines = wrapped(" ".join(words), 20)
    assert " ".join(lines).split() == words
    for line in lines:
        assert cell_len(line) <= 20 or len(line.split()) == 1 or re.match(r"[\[−\d]", line)
    for first, second in pairwise(lines):
        assert not re.search(r"\d[.,\d]*$", first), (first, second)


def test_a_path_stays_whole_and_headings_are_bold() -> None:
    path = "/somewhere/" + "x" * 100
    note = Paragraph(f"written to {path}", heading="Note: ")
    lines = list(note.lines(60))
    assert [str(line) for line in lines] == ["  Note: written to", f"  {path}"]
    assert str(lines[0].spans[0].style) == "bold"
    assert path in plain(note, width=60)


def test_the_width_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert columns() == 100
    for value, width in (("72", 72), ("0", 100), ("wide", 100)):
        monkeypatch.setenv("COLUMNS", value)
        assert columns() == width
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(cell_len, plain(TABLE).splitlines())) <= 60


def test_one_kind_of_minus() -> None:
    assert [signed(value) for value in (-0.5, 0.0, -0.004, 1234.5)] == [
        *("−0.50", "0.00", "0.00", "+1,234.50")
    ]
