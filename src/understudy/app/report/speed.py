"""The chart of a benchmark: images per second of the cascade and of what it competes with."""

from __future__ import annotations

import altair as alt

from understudy.app.bench.result import EXECUTOR, IDEAL, LARGE, NAIVE, Bench
from understudy.app.report.axes import Axis
from understudy.app.report.drawing import chart_of, horizontal, scale, svg
from understudy.app.report.palette import INK, ORACLE, PLAN, SINGLE

SHOWN = {LARGE: SINGLE, NAIVE: SINGLE, EXECUTOR: PLAN, IDEAL: ORACLE}
ROW, NAMES = 34.0, 140.0


def speed(bench: Bench, *, width: float) -> str:
    """A bar for each; the first stage alone, which is out of the race, is left to the table."""
    inner, height = width - NAMES - 10, ROW * len(SHOWN)
    rates = {name: bench.rate(name) for name in SHOWN}
    x = Axis(0.0, 1.1 * max(rates.values()), inner)
    rows = Axis(-0.5, len(SHOWN) - 0.5, height)
    names = "[" + ",".join(f"'{name}'" for name in SHOWN) + "]"
    y = alt.Y(
        "y:Q",
        scale=scale(rows, flipped=True),
        axis=alt.Axis(
            values=list(range(len(SHOWN))),
            labelExpr=f"{names}[datum.value]",
            labelLimit=NAMES,
            minExtent=NAMES,
            title=None,
            grid=False,
        ),
    )
    across = horizontal(x, "images per second", si=True)
    layers = []
    for row, (name, rate) in enumerate(rates.items()):
        bar = chart_of([{"x": 0.0, "x2": rate, "y": row - 0.3, "y2": row + 0.3}])
        layers.append(
            bar.mark_rect(color=SHOWN[name], opacity=1).encode(x=across, x2="x2:Q", y=y, y2="y2:Q")
        )
        told = chart_of([{"x": rate, "y": row, "t": f"{rate:,.0f}"}])
        layers.append(
            told.mark_text(align="left", dx=5, color=INK, fontSize=12).encode(
                x=across, y=y, text="t:N"
            )
        )
    return svg(layers, inner, height)
