"""understudy: certified model cascades.

A tiny model, or an early exit inside a large one, answers the easy inputs; the large model answers
the rest. The NumPy half (tables, search, certificates) is imported at once; the torch half
(`score`, `build`, `Cascade`, `Stage`) on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from understudy.average import Average, average_pairs, with_average
from understudy.certificate import Certificate
from understudy.deferral import DeferralScore, with_deferral
from understudy.dial import Setting
from understudy.difficulty import Difficulty, difficulty
from understudy.errors import (
    DataError,
    MissingExtra,
    ModelError,
    PolicyError,
    TableError,
    UnderstudyError,
)
from understudy.frontier import Frontier, Point
from understudy.memory import keep_freed_memory
from understudy.outcome import Decisions, Outcome, decide, evaluate
from understudy.policy import Policy, Step
from understudy.predictions import LabelFile, import_predictions
from understudy.records import import_record
from understudy.result import Choice, Result
from understudy.scores import Exit, ScoreTable
from understudy.search import (
    search,
    search_all_pairs,
    search_chains,
    search_exits,
    search_in_sample,
    search_jointly,
    search_pairs,
    search_within_cost,
    verify,
)
from understudy.store import load_table, save_table

if TYPE_CHECKING:
    from understudy.execution import Answer, Answers, Executor
    from understudy.nn import (
        Cascade,
        ExitNetwork,
        Preprocess,
        Stage,
        attach,
        build,
        save_cascade,
    )
    from understudy.scoring import score
    from understudy.zoo import load_cascade

__version__ = "0.1.0"

_LATE = {
    "Answer": "understudy.execution",
    "Answers": "understudy.execution",
    "Cascade": "understudy.nn",
    "Executor": "understudy.execution",
    "ExitNetwork": "understudy.nn",
    "Preprocess": "understudy.nn",
    "Stage": "understudy.nn",
    "attach": "understudy.nn",
    "build": "understudy.nn",
    "load_cascade": "understudy.zoo",
    "save_cascade": "understudy.nn",
    "score": "understudy.scoring",
}

__all__ = [
    "Answer",
    "Answers",
    "Average",
    "Cascade",
    "Certificate",
    "Choice",
    "DataError",
    "Decisions",
    "DeferralScore",
    "Difficulty",
    "Executor",
    "Exit",
    "ExitNetwork",
    "Frontier",
    "LabelFile",
    "MissingExtra",
    "ModelError",
    "Outcome",
    "Point",
    "Policy",
    "PolicyError",
    "Preprocess",
    "Result",
    "ScoreTable",
    "Setting",
    "Stage",
    "Step",
    "TableError",
    "UnderstudyError",
    "attach",
    "average_pairs",
    "build",
    "decide",
    "difficulty",
    "evaluate",
    "import_predictions",
    "import_record",
    "keep_freed_memory",
    "load_cascade",
    "load_table",
    "save_cascade",
    "save_table",
    "score",
    "search",
    "search_all_pairs",
    "search_chains",
    "search_exits",
    "search_in_sample",
    "search_jointly",
    "search_pairs",
    "search_within_cost",
    "verify",
    "with_average",
    "with_deferral",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'understudy' has no attribute {name!r}")
    try:
        return getattr(import_module(_LATE[name]), name)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "understudy":
            raise
        raise MissingExtra(f"`understudy.{name}`", "torch") from error


def __dir__() -> list[str]:
    return sorted(__all__)
