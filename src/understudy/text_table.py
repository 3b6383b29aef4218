"""Tables and paragraphs of text that fit a width: names are shortened, figures stay whole.

Rich is imported when something is laid out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

ARROW = " → "  # between the stages of a plan
MARGIN, PLAN_INDENT = 2, 6  # spaces in front of every line, and of plans below their rows
SHORT_NAME, SHORT_WORDS = 16, 20  # the least columns of what can be narrower
LONGEST_LINE = 100  # of a paragraph, however wide the terminal is
_NUMBER = re.compile(r"[(\[±+−≥≤~]*\d[\d.,]*")

Kind = Literal["name", "figure", "plan", "words"]


@dataclass(frozen=True)
class Column:
    """A column of a table; a line break in its head is a space where there is room.

    Attributes:
        head: what stands above it.
        kind: a "name" is shortened in the middle where it does not fit, a "plan" moves below its
            row, "words" are wrapped; a "figure" stays as it is, at the right of its column.
    """

    head: str
    kind: Kind = "figure"


@dataclass(frozen=True)
class TextTable:
    """A table that is laid out when it is printed.

    Where it is too wide for the lines of its medium, columns move together, heads are wrapped,
    plans are printed below their rows, names are shortened, and at last the columns are spread over
    several tables below one another, each with the first columns in front. No figure is lost.

    Attributes:
        title: printed above it.
        columns: from left to right; the first ones tell the rows apart.
        rows: one cell per column; a Rich `Text` brings a style of its own.

    >>> table = TextTable("costs", (Column("exit", "name"), Column("MACs")), (("tiny", "1 M"),))
    >>> [str(line) for line in table.lines(80)]
    ['costs', '', '  exit   MACs', '  ───────────', '  tiny    1 M', '']
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str | Text, ...], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        return self.lines(options.max_width)

    def lines(self, width: int) -> Iterator[Text]:
        """The lines of the table, none longer than `width` where that is possible at all."""
        for line in wrapped(self.title, width):
            yield _line(line, "bold")
        if self.title:
            yield _line("")
        for panel in self._panels(width):
            yield from panel.lines()
            yield _line("")

    def _panels(self, width: int) -> Iterator[_Panel]:
        """One table, or several with some of the columns each."""
        everything = [*range(len(self.columns))]
        for style in _STYLES:
            if (panel := _Panel(self, everything, style, width)).fits():
                yield panel
                return
        keys, rest = everything[: self._keys()], everything[self._keys() :]
        plans = [n for n in rest if self.columns[n].kind == "plan"]
        figures = [n for n in rest if n not in plans]
        for count in range(2, len(figures) + 1):
            size = -(-len(figures) // count)
            parts = [figures[at : at + size] for at in range(0, len(figures), size)]
            parts[0] = [*plans, *parts[0]]
            panels = [_Panel(self, [*keys, *part], _NARROW, width) for part in parts]
            if count == len(figures) or all(panel.fits() for panel in panels):
                yield from panels
                return
        yield _Panel(self, everything, _NARROW, width)

    def _keys(self) -> int:
        """How many of the first columns it takes to tell the rows apart."""
        rows = [tuple(map(str, row)) for row in self.rows]
        for count in range(1, len(self.columns)):
            if len({row[:count] for row in rows}) == len(rows):
                return count
        return 1


@dataclass(frozen=True)
class Paragraph:
    """An indented paragraph, with a bold heading in front; long words, such as paths, stay whole.

    >>> note = Paragraph("saves 57.2 % of the MACs", heading="Verdict: ")
    >>> [str(line) for line in note.lines(22)]
    ['  Verdict: saves', '  57.2 % of the MACs']
    """

    text: str
    heading: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        return self.lines(options.max_width)

    def lines(self, width: int) -> Iterator[Text]:
        """The wrapped lines."""
        width = min(width, LONGEST_LINE) - 2 * MARGIN
        for number, line in enumerate(wrapped(self.heading + self.text, width)):
            text = _line(" " * MARGIN + line if line else "")
            if self.heading and not number:
                text.stylize("bold", MARGIN, MARGIN + len(self.heading))
            yield text


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns; a number and its unit, and longer words, stay together.

    >>> wrapped("it saves 57.2 % here", 14)
    ['it saves', '57.2 % here']
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines += _joined(_glued(paragraph.split(" ")), " ", width)
    return lines


def short_names(names: Iterable[str], width: int) -> dict[str, str]:
    """Every name -> the same in at most `width` columns, cut in its middle; all remain different.

    Names that can only be told apart at more columns are that long.

    >>> name = "convnextv2_huge.fcmae_ft_in22k_in1k_512"
    >>> short_names([name, "resnet18"], 20)
    {'convnextv2_huge.fcmae_ft_in22k_in1k_512': 'convnextv2_…in1k_512', 'resnet18': 'resnet18'}
    """
    found = dict.fromkeys(names, "")
    used = {name for name in found if _columns(name) <= width}
    for name in found:
        found[name] = name if name in used else _cut(name, width, used)
        used.add(found[name])
    return found


class _Style(NamedTuple):
    """How close a table is set.

    Attributes:
        gap: spaces between columns.
        full_heads: whether heads stand on one line.
        plans_below: whether plans stand below their rows, not in a column.
        full_names: whether names stand in full.
    """

    gap: int
    full_heads: bool
    plans_below: bool
    full_names: bool


_STYLES = (
    _Style(3, full_heads=True, plans_below=False, full_names=True),
    _Style(2, full_heads=False, plans_below=False, full_names=True),
    _Style(3, full_heads=True, plans_below=True, full_names=True),
    _Style(2, full_heads=False, plans_below=True, full_names=True),
    _Style(2, full_heads=False, plans_below=True, full_names=False),
    _Style(1, full_heads=False, plans_below=True, full_names=False),
)
_NARROW = _STYLES[-2]


@dataclass(frozen=True)
class _Panel:
    """Some columns of a table in a style.

    Attributes:
        table: the whole table.
        columns: the positions of the columns; plans among them may stand below the rows.
        style: how close it is set.
        limit: the width to fit.
    """

    table: TextTable
    columns: Sequence[int]
    style: _Style
    limit: int

    @property
    def _below(self) -> list[int]:
        """The columns whose cells stand below the rows."""
        kinds = {n: self.table.columns[n].kind for n in self.columns}
        return [n for n, kind in kinds.items() if kind == "plan" and self.style.plans_below]

    @property
    def _beside(self) -> list[int]:
        return [n for n in self.columns if n not in self._below]

    def _cells(self, number: int) -> list[str]:
        return [str(row[number]) for row in self.table.rows]

    def _head(self, number: int) -> str:
        head = self.table.columns[number].head
        return head.replace("\n", " ") if self.style.full_heads else head

    def fits(self) -> bool:
        """Whether the least sizes of all columns are within the limit."""
        return self._spare([self._least(n) for n in self._beside]) >= 0

    def _spare(self, sizes: Sequence[int]) -> int:
        return self.limit - MARGIN - sum(sizes) - self.style.gap * (len(sizes) - 1)

    def _natural(self, number: int) -> int:
        """The columns that all cells need in full."""
        return max(map(_widest, [self._head(number), *self._cells(number)]))

    def _least(self, number: int) -> int:
        """The columns that a column needs at least."""
        kind, natural = self.table.columns[number].kind, self._natural(number)
        head = _widest(self._head(number))
        if kind == "words":
            return max(head, min(natural, SHORT_WORDS))
        if kind == "name" and not self.style.full_names:
            return max(head, min(natural, SHORT_NAME))
        if kind == "plan":  # about two lines, each of whole stages
            stages = (stage for cell in self._cells(number) for stage in _stages(cell))
            return max(head, -(-natural // 2), *map(_columns, stages))
        return natural

    def _sizes(self) -> list[int]:
        """The columns of every column: what is to spare goes to names, plans and words in turn."""
        numbers = self._beside
        sizes = {n: self._least(n) for n in numbers}
        for kind in ("name", "plan", "words"):
            for n in numbers:
                if self.table.columns[n].kind == kind:
                    spare = max(self._spare([*sizes.values()]), 0)
                    sizes[n] += min(spare, self._natural(n) - sizes[n])
        return [*sizes.values()]

    def lines(self) -> Iterator[Text]:
        """The head, a rule, and the rows with the plans below them."""
        sizes, numbers = self._sizes(), self._beside
        heads = [self._head(n).split("\n") for n in numbers]
        most = max(map(len, heads))
        lowest = [[""] * (most - len(head)) + head for head in heads]
        yield from self._row(lowest, sizes, ["bold"] * len(sizes))
        yield _line(" " * MARGIN + "─" * (sum(sizes) + self.style.gap * (len(sizes) - 1)))
        fitted = [
            _fitted(self._cells(n), self.table.columns[n].kind, size)
            for n, size in zip(numbers, sizes, strict=True)
        ]
        for at, row in enumerate(self.table.rows):
            styles = [str(getattr(row[n], "style", "")) for n in numbers]
            yield from self._row([cells[at] for cells in fitted], sizes, styles)
            for n in self._below:
                for line in _plan_lines(str(row[n]), self.limit - PLAN_INDENT):
                    yield _line(" " * PLAN_INDENT + line)

    def _row(
        self, cells: Sequence[list[str]], sizes: Sequence[int], styles: Sequence[str]
    ) -> Iterator[Text]:
        """The lines of a row, by the lines of its cells."""
        from rich.text import Text

        for at in range(max(map(len, cells))):
            line = Text(" " * MARGIN, no_wrap=True, overflow="ignore")
            for n, (number, size, style) in enumerate(
                zip(self._beside, sizes, styles, strict=True)
            ):
                text = cells[n][at] if at < len(cells[n]) else ""
                pad = " " * (size - _columns(text))
                right = self.table.columns[number].kind == "figure"
                line.append(pad if right else "")
                line.append(text, style)
                line.append("" if right else pad)
                line.append(" " * self.style.gap)
            line.rstrip()
            yield line


def _fitted(cells: Sequence[str], kind: Kind, size: int) -> list[list[str]]:
    """Row -> the lines of its cell."""
    if kind == "name":
        short = short_names(cells, size)
        return [[short[cell]] for cell in cells]
    if kind == "plan":
        return [_plan_lines(cell, size) for cell in cells]
    if kind == "words":
        return [[part for line in wrapped(c, size) for part in _folded(line, size)] for c in cells]
    return [cell.split("\n") for cell in cells]


def _stages(plan: str) -> list[str]:
    *earlier, last = plan.split(ARROW)
    return [*(stage + ARROW.rstrip() for stage in earlier), last]


def _plan_lines(plan: str, width: int) -> list[str]:
    """The stages in lines; names that are too long by themselves are shortened."""
    stages = [stage.rpartition(" ") for stage in plan.split(ARROW)]
    share = max(_columns(f" {share}{ARROW}") for _, _, share in stages) - 1
    short = short_names([name for name, _, _ in stages], max(width - share, SHORT_NAME))
    cut = ARROW.join(f"{short[name]}{space}{share}" for name, space, share in stages)
    return _joined(_stages(cut), " ", width)


def _glued(words: Iterable[str]) -> list[str]:
    """Words, with what follows a number joined to it."""
    found: list[str] = []
    number = False
    for word in words:
        if number:
            found[-1] += f" {word}"
        else:
            found.append(word)
        number = _NUMBER.fullmatch(word) is not None
    return found


def _joined(words: Iterable[str], space: str, width: int) -> list[str]:
    """Words in lines of at most `width` columns."""
    lines: list[str] = []
    for word in words:
        if lines and _columns(lines[-1] + space + word) <= width:
            lines[-1] += space + word
        else:
            lines.append(word)
    return lines


def _folded(text: str, width: int) -> list[str]:
    """A line in pieces of at most `width` characters."""
    return [text[at : at + width] for at in range(0, len(text), width)] or [""]


def _cut(name: str, width: int, used: set[str]) -> str:
    """A name with "…" in its middle, of at most `width` columns unless all those are used."""
    for size in range(max(width, 3), len(name) + 1):
        first = round(0.6 * size) - 1
        for head in sorted(range(size), key=lambda head: abs(head - first)):
            text = f"{name[:head]}…{name[len(name) - (size - 1 - head) :]}"
            if text not in used and _columns(text) <= max(width, size):
                return text
    return name


def _widest(text: str) -> int:
    return max(map(_columns, text.split("\n")))


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def _line(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style, no_wrap=True, overflow="ignore")
