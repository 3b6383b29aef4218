"""Choosing: every search takes a table and returns a frontier or a result."""

from understudy.extras import require

require("numba", "scipy", purpose=__name__)
