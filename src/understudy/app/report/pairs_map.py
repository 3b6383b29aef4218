"""The map of pairs as SVG: a row per big model, a column per little one, names on the diagonal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from understudy.app.report.drawing import element, label_svg, svg
from understudy.chart_layout import LEADING, Label, text_width
from understudy.searching.pair_savings import PairSavings
from understudy.text_table import short_names

SHADES = ((0, 0), (1, 20), (21, 40), (41, 60), (61, 80), (81, 100))
"""The savings of every shade in whole percent, from least to most."""
_LARGEST, _WRITTEN = 44.0, 27.0  # the width of a cell: at most, and from where on it has a figure
_TALL = 22.0  # the height of a row of a map that is not crowded
_CROWDED = 6.0  # the width of a cell from which on it has a gap to its neighbours
_BESIDE = 7.0
_WIDE, _LONG, _SHORT = 600.0, 32, 17  # characters of a name, on wide and on narrow maps


@dataclass(frozen=True)
class _Cell:
    """A pair: the positions of its models and its saving in whole percent."""

    little: int
    big: int
    saving: int

    @property
    def shade(self) -> int:
        return next(number for number, (_, most) in enumerate(SHADES) if self.saving <= most)


def pairs_map(found: PairSavings, *, width: float) -> str:
    """What every pair saves: the darker the more, with an outline around the best of each row."""
    cells = list(_cells(found))
    short = short_names(found.names, _LONG if width > _WIDE else _SHORT)
    names = [short[name] for name in found.names]
    across = min(
        _LARGEST,
        *((width - _BESIDE - text_width(name)) / max(row, 1) for row, name in enumerate(names)),
    )
    up = _TALL if across >= _TALL else LEADING
    inside = [
        element("path", kind=f"c-heat{shade}", d=found_cells, fill="currentColor")
        for shade in range(len(SHADES))
        if (found_cells := "".join(_box(c, across, up) for c in cells if c.shade == shade))
    ]
    outlines = "".join(_box(cell, across, up) for cell in _best(cells))
    if outlines:
        inside += [
            element("path", kind=kind, d=outlines, fill="none", stroke="currentColor")
            for kind in (("c-card halo", "c-ink bar") if across >= _CROWDED else ("c-ink",))
        ]
    if across >= _WRITTEN:
        for cell in cells:
            if cell.saving:
                at = Label(
                    (f"{cell.saving}",),
                    (cell.little + 0.5) * across,
                    (cell.big + 0.5) * up,
                    "middle",
                )
                inside.append(label_svg(at, f"on{cell.shade}"))
    for row, name in enumerate(names):
        inside.append(label_svg(Label((name,), row * across + _BESIDE, (row + 0.5) * up, "start")))
    about = f"{found.unit} that every little model saves in front of every big one."
    height = up * len(names)
    return svg("".join(inside), width, height, about=f"{about} The figures are in the table.")


def _cells(found: PairSavings) -> Iterator[_Cell]:
    for little, big in np.argwhere(~np.isnan(found.saving)).tolist():
        yield _Cell(little, big, round(100 * float(found.saving[little, big])))


def _best(cells: list[_Cell]) -> Iterator[_Cell]:
    """The cell of the largest saving in every row that has one; of equals the cheapest model."""
    best: dict[int, _Cell] = {}
    for cell in cells:
        if cell.saving > (best[cell.big].saving if cell.big in best else 0):
            best[cell.big] = cell
    yield from best.values()


def _box(cell: _Cell, across: float, up: float) -> str:
    """A cell as part of a path, with a gap to its neighbours where there is room."""
    gap = 1.0 if across >= _CROWDED else 0.0
    x, y = cell.little * across + gap / 2, cell.big * up + gap / 2
    wide, high = across - gap, up - gap
    return f"M{x:.4g} {y:.4g}h{wide:.3g}v{high:.3g}h-{wide:.3g}z"
