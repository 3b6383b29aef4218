"""The half that runs: stages, cascades, what they cost, and cascades on disk (`torch` extra)."""

from understudy.nn.bundle import load_cascade, save_cascade
from understudy.nn.cascade import Cascade, build
from understudy.nn.cost import MacCount, count_macs, count_parts, measure_parts
from understudy.nn.exit_folder import load_exits, save_exits
from understudy.nn.network import ExitNetwork, attach
from understudy.nn.preprocess import Preprocess
from understudy.nn.stage import Stage, StageOutput, as_stage

__all__ = [
    "Cascade",
    "ExitNetwork",
    "MacCount",
    "Preprocess",
    "Stage",
    "StageOutput",
    "as_stage",
    "attach",
    "build",
    "count_macs",
    "count_parts",
    "load_cascade",
    "load_exits",
    "measure_parts",
    "save_cascade",
    "save_exits",
]
