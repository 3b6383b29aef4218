"""deferral: accuracy against the share that a little model defers, beside random and oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from understudy.chart_layout import Axis, Mark, place
from understudy.display import percent
from understudy.errors import TableError
from understudy.plots.layers import HEIGHT, PLAIN, WIDTH, Frame, data_of, framed
from understudy.plots.palette import Palette
from understudy.scores import ScoreTable
from understudy.searching.deferral_curves import Deferral, DeferralCurves, deferral_curves

DRAWN = 200  # points of a curve
ORACLE, RANDOM = "oracle", "at random"
MOST = 8  # confidences that can be told apart


def deferral(
    table: ScoreTable,
    *,
    little: str | None = None,
    reference: str | None = None,
    confidences: Sequence[str] | None = None,
    unit: str | None = None,
    dark: bool = False,
) -> Any:
    """Accuracy of little -> reference against the share of samples that the little model defers.

    Beside the curve of every confidence are those of deferral at random and of an oracle, which
    knows who is right. Without labels it is the agreement with the reference.

    Args:
        table: the samples; all of them are used, so take `table.on("tune")` where the rest is to
            decide.
        little, reference: the two exits; by default the cheapest and the table's reference.
        confidences: by default all that are stored.
        unit: the cost by which the cheapest exit is found.
        dark: on dark ground.

    Returns:
        An Altair chart. Rows of its data have `kind` (the confidence, "at random" or "oracle"),
        `deferred` and `accuracy`, in percent.

    Raises:
        TableError: unknown names, the same exit twice, or more than eight confidences.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 0, 1, 0], [.9, .8, .7, .6]), "big": ([0, 0, 0, 0], [.9] * 4)}, [0] * 4,
    ...     costs={"tiny": 1, "big": 9})
    >>> rows = [row for rows in deferral(table).to_dict()["datasets"].values() for row in rows]
    >>> [(row["deferred"], row["accuracy"]) for row in rows if row.get("kind") == "oracle"]
    [(0.0, 75.0), (25.0, 100.0), (100.0, 100.0), (100.0, 100.0)]
    """
    palette = Palette.of(dark=dark)
    found = deferral_curves(table, little=little, big=reference, confidences=confidences, unit=unit)
    if len(found.by_confidence) > MOST:
        raise TableError(
            f"a plot has at most {MOST} confidences, found {len(found.by_confidence)}: name some"
        )
    frame = _frame(found, "accuracy" if table.labelled.any() else f"agreement with {found.big}")
    names = [*found.by_confidence, ORACLE, RANDOM]
    colours = [*palette.series[: len(names) - 2], palette.soft, palette.soft]
    dashes = [[1, 0]] * (len(names) - 2) + [[7, 3], [2, 3]]
    legend = alt.Legend(title="deferred by", orient="bottom", direction="horizontal", columns=4)
    curves = (
        alt.Chart(
            data_of(_rows({**found.by_confidence, ORACLE: found.oracle, RANDOM: found.random}))
        )
        .mark_line(strokeWidth=2.2)
        .encode(
            x=frame.across(),
            y=frame.up(),
            color=alt.Color("kind:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
            strokeDash=alt.StrokeDash(
                "kind:N", scale=alt.Scale(domain=names, range=dashes), legend=legend
            ),
        )
    )
    ends = [
        {"name": f"{found.little} alone", "deferred": 0.0, "accuracy": _ends(found)[0]},
        {"name": f"{found.big} alone", "deferred": 100.0, "accuracy": _ends(found)[1]},
    ]
    dots = (
        alt.Chart(data_of(ends))
        .mark_point(filled=True, size=70, color=palette.ink, opacity=1)
        .encode(x=frame.across(), y=frame.up())
    )
    texts = frame.texts(_labels(frame, found, ends), palette)
    return framed(
        alt.layer(curves, dots, *texts).properties(width=frame.x.length, height=frame.y.length),
        palette,
        title=f"{found.little} in front of {found.big}",
        subtitle=[f"{len(table):,} samples; {_gain(found)}"],
    )


def _ends(found: DeferralCurves) -> tuple[float, float]:
    first, last = (100 * found.random.accuracy).tolist()
    return first, last


def _gain(found: DeferralCurves) -> str:
    """The least share whose deferral equals the big model, by the best confidence."""
    enough = found.random.accuracy[1] - 1e-12
    shares = {
        name: float(one.deferred[np.flatnonzero(one.accuracy >= enough)[0]])
        for name, one in found.by_confidence.items()
    }
    best = min(shares, key=shares.__getitem__)
    return f"as accurate as {found.big} from {percent(shares[best])} deferred on, by {best}"


def _frame(found: DeferralCurves, measure: str) -> Frame:
    curves = [*found.by_confidence.values(), found.oracle, found.random]
    values = [100 * float(edge(one.accuracy)) for one in curves for edge in (np.min, np.max)]
    around = Axis.around(values, length=HEIGHT)
    return Frame(
        x=Axis(-2.0, 102.0, WIDTH),
        y=Axis(around.low, min(around.high, 100.5), HEIGHT),
        fields=("deferred", "accuracy"),
        titles=(f"samples that {found.little} defers to {found.big}, %", f"{measure}, %"),
        formats=(PLAIN, PLAIN),
    )


def _rows(curves: Mapping[str, Deferral]) -> list[dict[str, Any]]:
    """The points of all curves, of long ones those nearest to evenly spaced shares."""
    rows = []
    for name, one in curves.items():
        places: Any = np.arange(len(one.deferred))
        if len(places) > DRAWN:
            wanted = np.linspace(0, 1, DRAWN + 1)
            places = np.unique(np.searchsorted(one.deferred, wanted).clip(max=len(places) - 1))
        rows += [
            {"kind": name, "deferred": 100 * share, "accuracy": 100 * accuracy}
            for share, accuracy in zip(
                one.deferred[places].tolist(), one.accuracy[places].tolist(), strict=True
            )
        ]
    return rows


def _labels(frame: Frame, found: DeferralCurves, ends: Sequence[Mapping[str, Any]]) -> Any:
    """The names of both models at the ends, off the curves where that is possible."""
    marks = [Mark(one["name"], *frame.at(one["deferred"], one["accuracy"])) for one in ends]
    curves = [*found.by_confidence.values(), found.oracle, found.random]
    places = [
        frame.at(100 * share, 100 * float(np.interp(share, one.deferred, one.accuracy)))
        for one in curves
        for share in np.linspace(0, 1, 160).tolist()
    ]
    beside = [(x - 2, y - 2, x + 2, y + 2) for x, y in places]
    return place(marks, width=frame.x.length, height=frame.y.length, beside=beside)
