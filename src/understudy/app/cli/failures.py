"""How a command ends that cannot do its work: one sentence on stderr, and an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from understudy.app.cli.terminal import fail
from understudy.errors import UnderstudyError

MISTAKE, BUG, INTERRUPTED = 2, 70, 130  # 130 is the exit code that Typer gives Ctrl-C
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the process with one sentence where the block raises: code 2 where the user, the data or
    the machine is the cause, 130 after Ctrl-C, and 70 for a bug, whose traceback goes to a file."""
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted; finished work is kept", code=INTERRUPTED)
    except BrokenPipeError:  # who read the answer has seen enough
        _discard_stdout()
        sys.exit(1)
    except Exception as error:  # noqa: BLE001
        if isinstance(error, OSError):
            _discard_stdout()
        message = sentence(error)
        if message is None:
            fail(_reported(error), code=BUG)
        fail(message, code=MISTAKE)


def sentence(error: Exception) -> str | None:
    """What went wrong and the way out; None where nobody but understudy can be the cause.

    >>> sentence(OSError(28, "No space left on device", "a.csv"))
    "'a.csv' cannot be read or written (No space left on device): make room, or choose another
    place"
    >>> sentence(KeyError("exit")) is None
    True
    """
    if isinstance(error, UnderstudyError):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        found = error.object[error.start : error.end]
        return f"names are UTF-8 text, found {error.object!r} with {found!r}: rename it"
    if isinstance(error, RecursionError):
        return (
            "files and models nest less deeply than Python can follow, found one beyond that "
            f"({error}): correct the file or the model"
        )
    if isinstance(error, MemoryError) or any(t in str(error).lower() for t in OUT_OF_MEMORY):
        return (
            f"the work needs more memory than there is ({_first_line(error)}): "
            "take a smaller --batch, or fewer samples or models"
        )
    if isinstance(error, OSError):
        place = "stdout" if error.filename is None else repr(str(error.filename))
        return (
            f"{place} cannot be read or written ({error.strerror or error}): make room, or choose "
            "another place"
        )
    return None


def _reported(error: Exception) -> str:
    """The sentence for a bug, whose traceback is written to a file."""
    command = " ".join(map(repr, sys.argv))
    trace = "".join(traceback.format_exception(error))
    place = "no file could be written"
    with suppress(OSError):
        handle, place = tempfile.mkstemp(prefix="understudy-bug-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
            file.write(f"{command}\nPython {sys.version}\n\n{trace}")
    return (
        f"this is a bug in understudy ({type(error).__name__}: {_first_line(error)}): please "
        f"report it with the details in {place}"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _discard_stdout() -> None:
    """Let go of what stdout could not take, so that Python does not try again as it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
