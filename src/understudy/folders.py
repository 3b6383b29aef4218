"""Folders that are written whole or not at all, and exchanged at once.

PARENT/.NAME.old   the older folder, where a writer was killed on a system that cannot exchange two
                   folders at once: `recover` puts it back
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

from understudy.errors import UnderstudyError
from understudy.files import (
    behind_links,
    beside,
    hand_on_mode,
    make_folder,
    new_folder,
    remove_leftovers,
    sync,
    unwritable,
    writing,
)
from understudy.locks import locked

Content = TypeVar("Content")

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h> of Linux
_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder next to `path` that takes its place, durably, when the block ends well.

    An older folder stays whole until then, and hands on the modes and owners of all that is in it
    under the same names; what is new follows the umask. A link stays, and the folder that it leads
    to is replaced.

    Raises:
        UnderstudyError: the folder cannot be written, for example because the disk is full.
    """
    with writing(path):
        target = behind_links(path)
        if target.exists() and not target.is_dir():
            raise unwritable(path, os.strerror(errno.ENOTDIR))
        make_folder(target.parent)
        with locked(target) as alone:
            if alone:
                remove_leftovers(target)
                recover(target)
                shutil.rmtree(_older(target), ignore_errors=True)
            temporary = beside(target)
            temporary.mkdir(mode=0o700 if target.exists() else 0o777)
            outer = new_folder.get()
            new_folder.set(temporary)
            try:
                yield temporary
                _settle(temporary, target)
                _swap(temporary, target)
            finally:
                new_folder.set(outer)
                shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def adding_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `path`, durably, when the block ends well.

    Where another process has put a folder there meanwhile, that one stays.

    Raises:
        UnderstudyError: the folder cannot be written.
    """
    with writing(path):
        target = behind_links(path)
        make_folder(target.parent)
        temporary = beside(target)
        temporary.mkdir()
        try:
            yield temporary
            sync(temporary)
            try:
                temporary.rename(target)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: str | Path) -> None:
    """Remove a folder: it is gone at once, also where the process is killed meanwhile.

    Raises:
        UnderstudyError: it cannot be removed.
    """
    target = behind_links(path)
    with writing(path):
        if target.is_dir():
            with locked(target):
                temporary = beside(target)
                target.rename(temporary)
                sync(target.parent)
                shutil.rmtree(temporary, ignore_errors=True)


def recover(path: str | Path) -> Path:
    """Put back a folder whose writer was killed between two renames; the path itself.

    Raises:
        UnderstudyError: it cannot be put back.
    """
    target = Path(os.path.realpath(path))
    older = _older(target)
    if not target.exists() and older.is_dir():
        with writing(path), locked(target):
            if not target.exists() and older.is_dir():
                older.rename(target)
                sync(target.parent)
    return Path(path)


def read_unchanged(path: str | Path, read: Callable[[Path], Content]) -> Content:
    """What `read` gives for a folder; once more where a writer exchanged the folder meanwhile.

    So what was read is of one state, whoever writes.
    """
    while True:
        folder = recover(path)
        before = _identity(folder)
        try:
            content = read(folder)
        except UnderstudyError:
            if _identity(folder) == before:
                raise
            continue
        if _identity(folder) == before:
            return content


def check_own_folder(path: str | Path, *, mark: str, rule: str) -> None:
    """Refuse to replace a folder that is something else: replacing it removes all that is in it.

    Args:
        path: nothing yet, an empty folder, or one that holds the file `mark`.
        mark: the file by which a folder of that kind is known.
        rule: for the message, such as "a cascade goes into a folder of its own".

    Raises:
        UnderstudyError: something else is there.
    """
    place = recover(path)
    free = not place.exists() or (place.is_dir() and not any(place.iterdir()))
    if not free and not (place / mark).is_file():
        raise UnderstudyError(f"{rule}, {str(path)!r} is something else: choose another place")


def _settle(temporary: Path, target: Path) -> None:
    """Give all that was written its modes, and wait until it is on the disk."""
    for folder, _, files in os.walk(temporary, topdown=False):
        for new in (*(Path(folder) / name for name in files), Path(folder)):
            hand_on_mode(target / new.relative_to(temporary), new)
            sync(new)
    sync(temporary.parent)


def _swap(temporary: Path, target: Path) -> None:
    """Put a folder in the place of another, which ends under the temporary name or is removed."""
    if not target.exists():
        temporary.rename(target)
        sync(target.parent)
    elif _exchange(temporary, target):
        sync(target.parent)
    else:
        target.rename(_older(target))
        temporary.rename(target)
        sync(target.parent)
        shutil.rmtree(_older(target), ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths at once; False where the system or the file system cannot.

    Source: man 2 renameat2.
    """
    from ctypes import get_errno

    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise unwritable(other, os.strerror(number))


@cache
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    from ctypes import CDLL

    libc = CDLL(None if os.name == "posix" else "msvcrt", use_errno=True)
    found: Callable[[int, bytes, int, bytes, int], int] | None = getattr(libc, "renameat2", None)
    return found


def _older(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _identity(folder: Path) -> tuple[int, int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns
