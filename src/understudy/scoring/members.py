"""The processes that work in one folder, on any machines: which of them are still at work.

FOLDER/NAME.json   one per process: where it runs. The process touches the file every few seconds,
                   and removes it when it ends

A process that was killed is known by its file, which stays as it is. How long is measured by the
clock of the process that watches it, so that clocks which differ mislead nobody; on the same
machine the system is asked as well, which answers at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from understudy.errors import UnderstudyError
from understudy.files import make_folder, read_json, write_json, writing
from understudy.json_codec import Stored
from understudy.locks import InUse

logger = logging.getLogger(__name__)

LEASE = 60.0
"""Seconds without a sign of life after which a process counts as ended."""
BEAT = 10.0
"""Seconds between two signs of life."""

_PROC = Path("/proc")


@dataclass(frozen=True)
class WorkProcess(Stored, what="a process"):
    """A process and where it runs.

    Attributes:
        host: the name of its machine.
        machine: what tells apart machines, their boots, and containers that number their processes
            otherwise; empty where the system does not say.
        pid: its number there.
        started: when the process started, as the system counts; numbers are given anew.
    """

    host: str
    machine: str
    pid: int
    started: str

    def __str__(self) -> str:
        """As in messages."""
        return f"process {self.pid} on {self.host}"

    @staticmethod
    def current() -> WorkProcess:
        """This process."""
        pid = os.getpid()
        return WorkProcess(os.uname().nodename, _machine(), pid, _started(pid))

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine; False where that cannot be known."""
        return bool(self.machine) and (self.host, self.machine) == (os.uname().nodename, _machine())

    @property
    def ended_here(self) -> bool:
        """Whether it ran on this machine and has ended; False where that cannot be known."""
        return self.is_here and _started(self.pid) != self.started


class Members:
    """The processes that work in a folder, seen from this one.

    Args:
        folder: for their files; its parent is there.
        lease: seconds without a sign of life after which a process counts as ended.
        clock: seconds that pass here.

    Attributes:
        name: of this process in the folder.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     one, other = Members(Path(folder) / "processes"), Members(Path(folder) / "processes")
    ...     with one.joined():
    ...         print(other.is_at_work(one.name))
    ...     print(other.is_at_work(one.name))
    True
    False
    """

    def __init__(
        self, folder: Path, *, lease: float = LEASE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = os.urandom(8).hex()
        self._folder, self._lease, self._clock = folder, lease, clock
        self._signs: dict[str, tuple[int, float]] = {}

    @contextmanager
    def joined(self, beat: float = BEAT) -> Iterator[None]:
        """Be one of them while the block runs.

        Args:
            beat: seconds between two signs of life.

        Raises:
            UnderstudyError: the folder cannot be written.
        """
        file, ended = self._file(self.name), Event()
        with writing(file):
            make_folder(self._folder)
        write_json(file, WorkProcess.current().to_dict())

        def touch() -> None:
            while not ended.wait(beat):
                try:
                    os.utime(file)
                except FileNotFoundError:  # the work is finished, and its folder removed
                    return
                except OSError as error:
                    logger.warning("%s cannot be touched (%s)", file, error.strerror)

        thread = Thread(target=touch, name="understudy-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OSError):
                file.unlink(missing_ok=True)

    def is_at_work(self, name: str) -> bool:
        """Whether a process is still at work; one that was killed elsewhere seems so for a while.

        Whoever calls this again and again sees a process end `lease` seconds after its last sign of
        life at the latest.
        """
        if name == self.name:
            return True
        sign = self.sign(name)
        process = self.process(name)
        if sign is None or (process is not None and process.ended_here):
            return False
        return self.changes(name, sign)

    def sign(self, name: str) -> int | None:
        """The last sign of life of a process: when its file was changed; None where it is gone."""
        try:
            with self._file(name).open("rb") as file:  # opened: network file systems look anew
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None

    def changes(self, what: str, sign: int) -> bool:
        """Whether a sign of something is another than `lease` seconds ago, as far as was seen.

        Args:
            what: of which the sign is.
            sign: as it is now.
        """
        now = self._clock()
        last, since = self._signs.get(what, (None, now))
        if last != sign:
            self._signs[what] = (sign, now)
            return True
        return now - since < self._lease

    def process(self, name: str) -> WorkProcess | None:
        """Where a process runs; None where its file is gone or damaged."""
        try:
            return WorkProcess.from_dict(read_json(self._file(name), UnderstudyError, "a process"))
        except UnderstudyError:
            return None

    @property
    def others(self) -> list[str]:
        """All other processes that have not removed their files, at work or killed."""
        try:
            found = sorted(self._folder.glob("*.json"))
        except OSError:
            return []
        return [file.stem for file in found if file.stem != self.name]

    @property
    def at_work(self) -> list[str]:
        """The other processes that are still at work."""
        return [name for name in self.others if self.is_at_work(name)]

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def check_nobody_joined(
    folder: Path,
    *,
    lease: float = LEASE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Refuse to work alone where others are at work; those of other machines are watched a while.

    Args:
        folder: of `Members`, there or not.
        lease, clock: as for `Members`.
        sleep: lets seconds pass.

    Raises:
        InUse: one of them is at work.
    """
    members = Members(folder, lease=lease, clock=clock)
    before: dict[str, int | None] = {}
    while at_work := members.at_work:
        for name in at_work:
            process, sign = members.process(name), members.sign(name)
            if process is not None and (process.is_here or sign != before.get(name, sign)):
                raise InUse(
                    f"one process works alone or all of them join, {process} has joined in "
                    f"{str(folder.parents[1])!r}: join too, with --join, or wait until it ends"
                )
            if name not in before:
                logger.warning("watching for %.0f s whether %s is still at work", lease, process)
            before[name] = sign
        sleep(1)


def _machine() -> str:
    """The boot of this machine, and the space of process numbers in it."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in ticks since the boot; empty where it has ended.

    Source: man 5 proc_pid_stat, fields 3 and 22.
    """
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
