"""One writer at a time per file or folder: a lock file beside it, held with flock.

PARENT/.NAME.lock   there while NAME is written; a killed process's lock file holds nobody up

The system drops a lock with the process that held it, however that ended. `flock` itself is used
rather than the filelock package, which leaves its files behind and takes 50 ms to import.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from understudy.errors import UnderstudyError

try:
    import fcntl
except ImportError:  # no flock on this system: its writers are not kept apart
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
_held: ContextVar[frozenset[Path]] = ContextVar("_held", default=frozenset())
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # some network file systems


class InUse(UnderstudyError):
    """Another process is at work in the same place."""


@contextmanager
def locked(path: str | Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file or folder, whether it is there yet or not.

    Locks of one thread nest. Links are followed, so that a link and its target have one lock.

    Args:
        path: the file or folder; its parent is there.
        wait: wait for another process, with a line in the log, rather than raise.

    Yields:
        Whether other writers are kept out; False where the file system has no locks.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, locked(Path(folder) / "table") as alone:
    ...     alone
    True

    Raises:
        InUse: another process holds it, without `wait`.
        OSError: the parent cannot be written.
    """
    real = Path(os.path.realpath(path))
    lock = real.with_name(f".{real.name}.lock")
    if fcntl is None or lock in _held.get():
        yield fcntl is not None
        return
    handle = _acquire(lock, Path(path), wait=wait)
    if handle is None:
        yield False
        return
    _held.set(_held.get() | {lock})
    try:
        yield True
    finally:
        _held.set(_held.get() - {lock})
        with suppress(OSError):
            lock.unlink()  # while it is held: those who wait for it notice, and make a new one
        os.close(handle)


def _acquire(lock: Path, path: Path, *, wait: bool) -> int | None:
    """An open, locked lock file; None where the file system has no locks."""
    while True:
        handle = _open(lock)
        try:
            _lock(handle, path, wait=wait)
            if _is_at(handle, lock):
                with suppress(OSError):  # for the messages of others
                    os.ftruncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {os.uname().nodename}".encode())
                return handle
        except OSError as error:
            os.close(handle)
            if error.errno in _WITHOUT_LOCKS:
                lock.unlink(missing_ok=True)
                return None
            raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _open(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        if not lock.exists():
            raise
        return os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)  # another user's, left behind


def _lock(handle: int, path: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        if not wait:
            raise InUse(
                f"one process at a time works in {str(path)!r}, {holder} does: wait until it ends"
            ) from None
        logger.warning("waiting for %s, which writes %s", holder, path)
        fcntl.flock(handle, fcntl.LOCK_EX)


def _is_at(handle: int, lock: Path) -> bool:
    """Whether the open lock file is still the one at its path, and not one that was given back."""
    try:
        return os.path.samestat(os.fstat(handle), lock.stat())
    except FileNotFoundError:
        return False
