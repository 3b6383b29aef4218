"""Where a writer can be killed or lose power, and what the disk may then hold.

A kill keeps all that the system was given: it is done with real processes, before each call of the
`os` module that changes a disk, or before each such system call of any library (strace). A power
cut loses what was not synced: it is simulated from a record of those calls.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Work = Callable[[], object]

CALLS = ("open", "write", "fsync", "ftruncate", "rename", "replace", "unlink", "remove", "mkdir")
CALLS += ("rmdir", "chmod", "chown")
SYSTEM_CALLS = (
    "write,pwrite64,writev,pwritev,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "fsync,fdatasync,msync,truncate,ftruncate,fallocate,chmod,fchmod,fchmodat,chown,fchown,lchown,"
    "fchownat,link,linkat,symlink,symlinkat,flock,copy_file_range,sendfile"
)
KILLED = 99


@contextmanager
def watched(before: Callable[[str, tuple], None]) -> Iterator[None]:
    """Call `before` with the name and arguments of each call that changes a disk."""
    originals = {name: getattr(os, name) for name in CALLS}

    def wrapped(name: str) -> Callable:
        def call(*args, **more):
            if name != "open" or args[1] & os.O_CREAT:
                before(name, args)
            return originals[name](*args, **more)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def in_child(work: Work) -> int:
    """Run something in a forked process; its exit code, negative for a signal."""
    pid = os.fork()
    if not pid:
        _end_with(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_before_call(work: Work, number: int) -> bool:
    """Run something in a forked process that is killed before its nth call; False if it ended."""
    done = 0

    def before(name: str, args: tuple) -> None:
        nonlocal done
        done += 1
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched_work() -> None:
        with watched(before):
            work()

    return _killed(in_child(watched_work))


def killed_before_system_call(work: Work, number: int) -> bool:
    """The same, before the nth system call of any of its threads."""
    pid = os.fork()
    if not pid:
        os.kill(os.getpid(), signal.SIGSTOP)
        _end_with(work)
    os.waitpid(pid, os.WUNTRACED)
    options = ["-f", "-q", "-o", os.devnull, "-e", f"trace={SYSTEM_CALLS}"]
    inject = f"inject={SYSTEM_CALLS}:signal=SIGKILL:when={number}"
    tracer = subprocess.Popen(["strace", *options, "-e", inject, "-p", str(pid)])
    status = Path(f"/proc/{pid}/status")
    while "TracerPid:\t0\n" in status.read_text() and tracer.poll() is None:
        time.sleep(0.002)
    os.kill(pid, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    tracer.wait()
    return _killed(code)


def _end_with(work: Work) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)


def _killed(code: int) -> bool:
    if code not in {0, -signal.SIGKILL}:
        raise RuntimeError(f"a process is killed or ends well, this one ended with {code}")
    return code != 0


@dataclass(frozen=True)
class Disk:
    """A tree of folders: what each inode holds, also files that were removed."""

    root: int
    folders: dict[int, dict[str, int]]
    files: dict[int, bytes]


@dataclass(frozen=True)
class Moment:
    """A point of time: what is synced, and which changes of folders are not."""

    disk: Disk
    synced: Disk
    pending: tuple[tuple[int, dict[str, int | None]], ...]

    def after_a_cut(self, place: Path, seed: int) -> None:
        """Write what a disk may hold after a power cut at this moment.

        Any of the changes that were not synced may be missing, and any file that was not synced
        may be empty, or cut off.
        """
        draw = random.Random(seed)
        folders = {number: dict(names) for number, names in self.synced.folders.items()}
        for number, change in self.pending:
            if draw.random() < 0.5:
                names = folders.setdefault(number, {})
                names.update({name: one for name, one in change.items() if one is not None})
                for name in [name for name, one in change.items() if one is None]:
                    names.pop(name, None)
        self._write(place, self.disk.root, folders, draw)

    def _write(self, place: Path, number: int, folders: dict, draw: random.Random) -> None:
        if number in self.disk.files:
            now = self.disk.files[number]
            kept = self.synced.files.get(number)
            torn = [b"", now[: len(now) // 2], now]
            place.write_bytes(kept if kept == now else draw.choice([*torn, kept or b""]))
            return
        place.mkdir()
        for name, inside in folders.get(number, {}).items():
            self._write(place / name, inside, folders, draw)


def moments_of(work: Work, root: Path) -> list[Moment]:
    """Do something that changes a folder; all moments between its calls, the last after its end."""
    recorder = _Recorder(root)
    with watched(recorder.before):
        work()
    recorder.before("end", ())
    return recorder.moments


class _Recorder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.moments: list[Moment] = []
        self._numbers: dict[int, int] = {}
        self._made = 0
        self._ever: dict[int, bytes] = {}
        self._last = self._synced = self._now()
        self._ever.update(self._last.files)
        self._pending: list[tuple[int, dict[str, int | None]]] = []

    def before(self, name: str, args: tuple) -> None:
        now = self._now()
        for number, names in now.folders.items():
            older = self._last.folders.get(number, {})
            change = {key: one for key, one in names.items() if older.get(key) != one}
            change |= {key: None for key in older if key not in names}
            if change:
                self._pending.append((number, change))
        self._last = now
        self._ever.update(now.files)
        ever = Disk(now.root, now.folders, dict(self._ever))
        self.moments.append(Moment(ever, self._synced, tuple(self._pending)))
        if name == "fsync":
            self._sync(self._numbers.get(os.fstat(args[0]).st_ino), now)

    def _sync(self, number: int | None, now: Disk) -> None:
        folders, files = dict(self._synced.folders), dict(self._synced.files)
        if number in now.folders:
            folders[number] = now.folders[number]
            self._pending = [one for one in self._pending if one[0] != number]
        elif number in now.files:
            files[number] = now.files[number]
        self._synced = Disk(now.root, folders, files)

    def _now(self) -> Disk:
        folders: dict[int, dict[str, int]] = {}
        files: dict[int, bytes] = {}
        seen: dict[int, int] = {}

        def number_of(path: Path) -> int:
            inode = path.lstat().st_ino
            if inode not in self._numbers:
                self._made += 1
                self._numbers[inode] = self._made
            seen[inode] = self._numbers[inode]
            return seen[inode]

        for path in (self.root, *sorted(self.root.rglob("*"))):
            number = number_of(path)
            if path.is_dir():
                folders[number] = {one.name: number_of(one) for one in path.iterdir()}
            else:
                files[number] = path.read_bytes()
        self._numbers = seen  # a number is not given again where the system gives an inode again
        return Disk(seen[self.root.stat().st_ino], folders, files)


def content(folder: Path, without: Sequence[str] = ()) -> dict[str, bytes]:
    """The bytes of all files in a folder, by their paths in it."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in without
    }


def copied(folder: Path, into: Path) -> Path:
    """A copy of a folder in place of an older copy."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(folder, into, symlinks=True)
    return into
