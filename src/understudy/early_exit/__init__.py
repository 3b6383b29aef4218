"""Exits inside a network."""

from understudy.extras import require

require("torch", purpose=__name__)
