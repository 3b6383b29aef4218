"""Choosing: every search takes a table and returns a frontier or a result."""

from understudy.search.allpairs import AllPairs, search_all_pairs
from understudy.search.betting import GapMonitor, betting_p_value, betting_upper_bound
from understudy.search.chains import search_chains
from understudy.search.choose import (
    search,
    search_in_sample,
    search_jointly,
    search_within_cost,
)
from understudy.search.exits import search_exits
from understudy.search.optimism import Optimism, optimism
from understudy.search.pairs import PairCurve, pair_curve, search_pairs
from understudy.search.published import published_rules
from understudy.search.savers import Savers, best_savers
from understudy.search.verify import Check, verify

__all__ = [
    "AllPairs",
    "Check",
    "GapMonitor",
    "Optimism",
    "PairCurve",
    "Savers",
    "best_savers",
    "betting_p_value",
    "betting_upper_bound",
    "optimism",
    "pair_curve",
    "published_rules",
    "search",
    "search_all_pairs",
    "search_chains",
    "search_exits",
    "search_in_sample",
    "search_jointly",
    "search_pairs",
    "search_within_cost",
    "verify",
]
