"""pairs: what every small model saves in front of every larger one, as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from understudy.errors import TableError
from understudy.outcome import points
from understudy.plots.layers import data_of, framed
from understudy.plots.palette import Palette
from understudy.policy import DEFAULT_CONFIDENCE
from understudy.scores import ScoreTable
from understudy.searching.pair_savings import PairSavings, pair_savings

MOST_NAMED, MOST_WRITTEN = 60, 30  # models with names, and with figures in their cells
MOST_DRAWN = 400  # models; a file with more cells can hardly be opened
_SIDE, _LARGEST, _LEAST = 760.0, 30.0, 11.0  # pixels: of the map, and of a cell with names


def pairs(
    table: ScoreTable,
    *,
    max_drop: float,
    confidence: str = DEFAULT_CONFIDENCE,
    unit: str | None = None,
    dark: bool = False,
) -> Any:
    """What the best cascade little -> big saves of the big model's cost, for all pairs, ordered by
    cost.

    Thresholds are chosen and measured on all samples of `table`, so nothing is certified: take
    `table.on("tune")` where the rest is to decide. Up to 60 models have names, up to 30 figures in
    their cells.

    Args:
        table: the models.
        max_drop: the budget of every pair against its own big model, in points.
        confidence: the stored confidence that thresholds apply to.
        unit: the cost that is saved; the table's first by default.
        dark: on dark ground.

    Returns:
        An Altair chart. Rows of its data have `little`, `big`, `saving` and `answered` (the share
        of the samples that the little model answers), both in percent.

    Raises:
        TableError: as for `pair_savings`, and more than 400 models.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 0, 1, 1], [.9, .8, .6, .5]), "big": ([0, 0, 0, 1], [.9] * 4)}, [0] * 4,
    ...     costs={"tiny": 1, "big": 10})
    >>> rows, = pairs(table, max_drop=0).to_dict()["datasets"].values()
    >>> [(row["little"], row["big"], round(row["saving"])) for row in rows]
    [('tiny', 'big', 40)]
    """
    if len(table.exits) > MOST_DRAWN:
        raise TableError(
            f"a map of pairs has at most {MOST_DRAWN} models, this table has {len(table.exits):,}: "
            "choose some (`table.only`), or list the best ones (`understudy savers`)"
        )
    palette = Palette.of(dark=dark)
    found = pair_savings(table, max_drop=max_drop, confidence=confidence, unit=unit)
    rows = _rows(found)
    named, written = len(found.names) <= MOST_NAMED, len(found.names) <= MOST_WRITTEN
    littles = [name for name in found.names if any(row["little"] == name for row in rows)]
    bigs = [name for name in reversed(found.names) if any(row["big"] == name for row in rows)]
    cell = min(_LARGEST, _SIDE / max(len(littles), 1))
    cell = max(cell, _LEAST) if named else cell
    base = alt.Chart(data_of(rows)).encode(
        x=alt.X("little:N", **_across("little model, by rising cost", littles, named=named)),
        y=alt.Y("big:N", **_across("big model, by rising cost", bigs, named=named, upright=True)),
    )
    shares = alt.Scale(domain=[0, 100], scheme=palette.scheme)
    bar = alt.Legend(
        title=f"{found.unit} saved, %",
        gradientLength=min(240.0, cell * len(bigs)),
        format=".3~g",
        values=[0, 20, 40, 60, 80, 100],
    )
    layers = [
        # A description for screen readers in each cell of a large map would be megabytes.
        base.mark_rect(aria=named).encode(
            color=alt.Color("saving:Q", scale=shares, legend=bar),
            tooltip=["little:N", "big:N", "saving:Q", "answered:Q"],
        )
    ]
    if written:
        light = "datum.saving > 55" if not dark else "datum.saving <= 55"
        layers.append(
            base.mark_text(fontSize=11)
            .encode(
                text=alt.Text("saving:Q", format=".0f"),
                color=alt.condition(light, alt.value("#ffffff"), alt.value("#1c2126")),
            )
            .transform_filter("datum.saving >= 0.5")
        )
    return framed(
        alt.layer(*layers).properties(width=cell * len(littles), height=cell * len(bigs)),
        palette,
        title=f"{found.unit} saved by every pair at a drop of at most {points(found.max_drop)}",
        subtitle=[
            f"{len(found.names)} models; thresholds chosen and measured on the same "
            f"{len(table):,} samples: nothing is certified"
        ],
    )


def _rows(found: PairSavings) -> list[dict[str, Any]]:
    """A row per pair, cheapest first."""
    return [
        {
            "little": found.names[little],
            "big": found.names[big],
            "saving": 100 * float(found.saving[little, big]),
            "answered": 100 * float(found.answered[little, big]),
        }
        for little, big in np.argwhere(~np.isnan(found.saving)).tolist()
    ]


def _across(
    title: str, order: Sequence[str], *, named: bool, upright: bool = False
) -> dict[str, Any]:
    """A band per model, with its name where there are not too many."""
    axis = alt.Axis(
        labels=named,
        ticks=False,
        domain=False,
        labelOverlap=False,
        labelFontSize=12 if len(order) <= MOST_WRITTEN else 10,
        labelAngle=0 if upright else -45 if len(order) <= MOST_WRITTEN else -90,
    )
    return {"sort": list(order), "title": title, "axis": axis}
