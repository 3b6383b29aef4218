"""The half that runs: stages, cascades, what they cost, and cascades on disk (`torch` extra)."""

from understudy.nn.bundle import load_cascade, save_cascade
from understudy.nn.cascade import Answers, Cascade, build
from understudy.nn.cost import MacCount, count_macs, measure_ms
from understudy.nn.preprocess import Preprocess
from understudy.nn.queue import answer_stream
from understudy.nn.stage import Stage, StageOutput, as_stage

__all__ = [
    "Answers",
    "Cascade",
    "MacCount",
    "Preprocess",
    "Stage",
    "StageOutput",
    "answer_stream",
    "as_stage",
    "build",
    "count_macs",
    "load_cascade",
    "measure_ms",
    "save_cascade",
]
