"""Files that are written whole or not at all; JSON with its format and version."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

from understudy.errors import UnderstudyError
from understudy.locks import locked

_MOST_LINKS = 40  # as many as Linux follows
new_folder: ContextVar[Path | None] = ContextVar("new_folder", default=None)
"""The folder that `folders.replacing_folder` is writing."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path`, durably, when the block ends well.

    A link stays, and the file that it leads to is replaced. An older file hands on its mode and
    owner; a new one follows the umask. A device, a pipe or an open file (/dev/stdout, /dev/fd/3) is
    written into when the block ends well. In a folder that is being replaced the file is written as
    it is: the folder is there whole or not at all.

    Raises:
        UnderstudyError: the file cannot be written, for example because the disk is full.
    """
    with writing(path):
        if new_folder.get() in Path(path).parents:
            yield Path(path)
            return
        if is_stream(path):
            with _poured_into(Path(path)) as temporary:
                yield temporary
            return
        target = behind_links(path)
        make_folder(target.parent)
        with locked(target) as alone:
            if alone:
                remove_leftovers(target)
            temporary = beside(target)
            mode = 0o600 if target.exists() else 0o666
            try:
                os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
                yield temporary
                hand_on_mode(target, temporary)
                sync(temporary)
                temporary.replace(target)
                sync(target.parent)
            finally:
                temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the system refuses while `path` is written into one sentence.

    Raises:
        UnderstudyError: an OSError, or the error of a library that quotes one, was raised.
    """
    try:
        yield
    except UnderstudyError:
        raise
    except Exception as error:
        reason = _system_error(error)
        if reason is None:
            raise
        raise unwritable(path, reason) from error


def unwritable(path: str | Path, reason: str) -> UnderstudyError:
    """The error for a path that the system does not let be written, for a reason in its words."""
    way_out = "make room" if "space" in reason or "quota" in reason else "choose another place"
    return UnderstudyError(f"{str(path)!r} cannot be written ({reason}): {way_out}")


@contextmanager
def only_writer(path: str | Path, *, wait: bool = True) -> Iterator[None]:
    """Keep other writers of a file or folder out, across several steps; its parent is made.

    What a writer that was killed has left behind is removed.

    Args:
        path: the file or folder, there or not.
        wait: wait for another writer rather than raise.

    Raises:
        InUse: there is another writer, without `wait`.
        UnderstudyError: the place cannot be written.
    """
    with ExitStack() as stack:
        with writing(path):
            target = behind_links(path)
            make_folder(target.parent)
            if stack.enter_context(locked(target, wait=wait)):
                remove_leftovers(target)
        yield


def is_stream(path: str | Path) -> bool:
    """Whether a path is a device, a pipe or an open file of this process: none is ever replaced.

    >>> is_stream("/dev/null"), is_stream("/dev/stdout"), is_stream("result.json")
    (True, True, False)
    """
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        mode = stat.S_IFREG
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or _descriptor(Path(path)) is not None


def behind_links(path: str | Path) -> Path:
    """The file or folder that a path leads to through links, whether it is there yet or not.

    Raises:
        OSError: links that lead in a circle.
    """
    with suppress(FileNotFoundError):
        os.stat(path)  # noqa: PTH116
    return Path(os.path.realpath(path))


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they are missing, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def beside(target: Path) -> Path:
    """A new temporary name in the same folder."""
    return target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")


def remove_leftovers(target: Path) -> None:
    """Remove the temporaries of killed writers of a file or folder, whose lock is held here."""
    temporary = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp")
    with os.scandir(target.parent) as entries:
        left = [entry for entry in entries if temporary.fullmatch(entry.name)]
    for entry in left:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


def hand_on_mode(older: Path, newer: Path) -> None:
    """Give a file or folder the mode of an older one, and its owner where that is permitted."""
    try:
        status = older.stat()
    except FileNotFoundError:
        return
    with suppress(PermissionError):
        if newer.stat().st_gid != status.st_gid:
            os.chown(newer, -1, status.st_gid)
        if newer.stat().st_uid != status.st_uid:
            os.chown(newer, status.st_uid, -1)
    with suppress(PermissionError):  # some file systems have no modes
        newer.chmod(stat.S_IMODE(status.st_mode))


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _poured_into(path: Path) -> Iterator[Path]:
    """A temporary file elsewhere, whose content is written into a stream."""
    with tempfile.TemporaryDirectory(prefix="understudy-") as folder:
        temporary = Path(folder) / "content"
        temporary.touch()
        yield temporary
        with temporary.open("rb") as source, _open_stream(path) as sink:
            shutil.copyfileobj(source, sink)


def _open_stream(path: Path) -> BinaryIO:
    number = _descriptor(path)
    if number == 1 and sys.__stdout__ is not None:  # a command keeps it under another number
        number = sys.__stdout__.fileno()
    return path.open("wb") if number is None else os.fdopen(os.dup(number), "wb")


def _descriptor(path: Path) -> int | None:
    """The number of the open file of this process that a path such as /dev/stdout leads to."""
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(path.parent)
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", folder) and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _system_error(error: Exception) -> str | None:
    """Why the system refused, in its words; None for errors of another kind.

    Libraries written in Rust quote it: "... No space left on device (os error 28)".
    """
    quoted = re.search(r"\(os error (\d+)\)", str(error))
    if quoted is not None:
        return os.strerror(int(quoted[1]))
    return (error.strerror or str(error)) if isinstance(error, OSError) else None


def write_json(path: str | Path, data: Any) -> None:
    """Write strict JSON (no NaN, no Infinity), atomically, the same bytes for the same data."""
    text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path, error: type[UnderstudyError], what: str) -> Any:
    """Read JSON.

    Raises:
        UnderstudyError: of the type given: the file is missing or is no strict JSON.
    """
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(
            f"{what} is read from a file, {str(path)!r} does not exist: check the path"
        ) from cause
    except OSError as cause:
        raise error(f"{what} cannot be read from {str(path)!r}: {cause.strerror}") from cause
    except ValueError as cause:
        raise error(f"{what} is a JSON file, {str(path)!r} is not: {cause}") from cause


def parse_json(text: str) -> Any:
    """Strict JSON: each key once, finite numbers of at most 64 bits, whole characters.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}

    Raises:
        ValueError: anything else.
    """
    try:
        data = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_int,
            parse_float=_float,
            parse_constant=_no_number,
        )
        if "\\u" in text:  # half a character can only be an escape
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"it has the key {twice!r} twice")
    return found


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        _no_number(digits)
    return number


def _int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"it has {digits[:40]!r} where JSON has numbers of 64 bits")
    return int(digits)


def _no_number(text: str) -> None:
    raise ValueError(f"it has {text[:40]!r} where JSON has finite numbers")


def check_version(
    data: Any, *, kind: str, newest: int, path: Path, error: type[UnderstudyError]
) -> None:
    """Refuse a file of another kind, or one that a newer understudy wrote."""
    found = data.get("format") if isinstance(data, dict) else None
    if found != kind:
        raise error(f"{str(path)!r} is no {kind} file: its format is {found!r}")
    version = data.get("version")
    if type(version) is not int or version < 1:
        raise error(f"{str(path)!r} is damaged: {kind} versions count from 1, found {version!r}")
    if version > newest:
        raise error(
            f"{str(path)!r} has {kind} version {version!r}, this understudy reads up to {newest}: "
            "upgrade understudy"
        )
