"""Plots of results and tables as Altair charts: functions that return charts with all their data.

``chart.save("figure.svg")`` writes one, `write_chart` does so without network and atomically, and
a notebook shows it as it stands.
"""

from understudy.extras import require

require("altair", "vl_convert", "numba", "scipy", purpose=__name__)

from understudy.plots.deferral_chart import deferral  # noqa: E402
from understudy.plots.difficulty_chart import difficulty  # noqa: E402
from understudy.plots.frontier_chart import frontier  # noqa: E402
from understudy.plots.pairs_chart import pairs  # noqa: E402
from understudy.plots.rendering import write_chart  # noqa: E402

__all__ = ["deferral", "difficulty", "frontier", "pairs", "write_chart"]
