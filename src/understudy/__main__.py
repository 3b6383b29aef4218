"""The process of a command: `python -m understudy`, and `understudy` where it is installed.

Its stdout carries the answer alone, and Ctrl-C ends it with one line from its first moment on.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

_INTERRUPTED = 130  # the exit code that Typer gives Ctrl-C


def main() -> None:
    """Run the command line as a process of its own."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
        _open_standard_streams()
        _reserve_stdout()
        from understudy.app.cli.main import main as command

        command()
    except KeyboardInterrupt:  # outside of the command
        _end_interrupted()
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # threads that import or decode are not waited for
            os._exit(_INTERRUPTED)
        raise


def _interrupt(_: int, frame: FrameType | None) -> NoReturn:
    """End at once while something is imported, where some libraries lose the exception."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _end_interrupted()
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_interrupted() -> NoReturn:
    if os.isatty(2):
        os.write(2, b"\r\x1b[K\x1b[?25h")  # clears a bar's line, and shows the cursor that it hides
    os.write(2, b"error: interrupted; finished work is kept\n")
    os._exit(_INTERRUPTED)


def _open_standard_streams() -> None:
    """Open those of stdin, stdout and stderr that the caller closed, onto nothing."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _reserve_stdout() -> None:
    """Keep stdout for `sys.stdout` alone: what C libraries print goes to stderr.

    Characters that the terminal's encoding lacks are written as escapes.
    """
    own = os.dup(1)
    os.dup2(2, 1)
    encoding = sys.stdout.encoding
    sys.stdout = open(own, "w", encoding=encoding, errors="backslashreplace")  # noqa: PTH123, SIM115
    sys.__stdout__ = sys.stdout  # type: ignore[misc]  # what /dev/stdout means to `files`


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory, where `-m` looks for modules first
    main()
