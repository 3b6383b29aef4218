"""Running cascades of any backend: many batches offline, single requests online (NumPy)."""

from understudy.execution.answers import Answer, Answers
from understudy.execution.executor import Executor
from understudy.execution.faults import ExecutionError, ExecutorClosed, RequestFailed
from understudy.execution.stats import Stats

__all__ = [
    "Answer",
    "Answers",
    "ExecutionError",
    "Executor",
    "ExecutorClosed",
    "RequestFailed",
    "Stats",
]
