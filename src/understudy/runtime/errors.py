"""What can go wrong while a cascade runs, and how it is said."""

from __future__ import annotations

from understudy.errors import UnderstudyError


class ExecutionError(UnderstudyError):
    """A request cannot be taken or answered."""


class ExecutorClosed(ExecutionError):
    """The executor is closed, or was closed before this request had its answer."""


class RequestFailed(ExecutionError):
    """A stage could not answer this sample; the cause is chained where it raised."""


class NotANumber(ExecutionError):
    """The last stage that could answer a sample said NaN."""

    def __init__(self, exit: str) -> None:
        super().__init__(
            f"the last stage answers all samples that reach it, found NaN in the logits of "
            f"{exit!r}: look at the sample's values, or at the weights and dtype of the model"
        )


def cause_of(error: Exception) -> str:
    """An error as a cause in one line: understudy's own as they are, others with their type.

    >>> cause_of(ZeroDivisionError("division by zero"))
    'ZeroDivisionError: division by zero'
    """
    if isinstance(error, UnderstudyError):
        return str(error)
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    return text.splitlines()[0]
