"""Choosing: every search takes a table and returns a frontier or a result."""

from understudy.search.choose import search, search_in_sample
from understudy.search.pairs import PairCurve, pair_curve, search_pairs

__all__ = ["PairCurve", "pair_curve", "search", "search_in_sample", "search_pairs"]
