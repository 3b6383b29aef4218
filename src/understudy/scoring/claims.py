"""Tasks that are claimed by processes without a coordinator: each is one process's at a time.

FOLDER/TASK.0   who has claimed a task: the name of the process
FOLDER/TASK.1   who has taken it over, after that process had ended

A claim is a file that is created exclusively, which every file system in common use does for one
process alone. Claims are never removed, so that no late process can take one for another, and one
that looks at an older list of the folder finds a task claimed when it tries.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.files import beside, make_folder, writing
from understudy.scoring.members import Members


class Claims:
    """Claims of tasks by the processes that work in a folder.

    Args:
        folder: for the claims; its parent is there.
        members: the processes, this one among them.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     one, other = Members(Path(folder) / "members"), Members(Path(folder) / "members")
    ...     with one.joined(), other.joined():
    ...         print(Claims(Path(folder) / "claims", one).take("task"))
    ...         print(Claims(Path(folder) / "claims", other).take("task"))
    True
    False
    """

    def __init__(self, folder: Path, members: Members) -> None:
        self._folder, self._members = folder, members
        self._owners: dict[str, str] = {}

    @property
    def held(self) -> dict[str, str]:
        """Who has which task, done or not, of the processes that are still at work."""
        found = {task: f"{task}.{number}" for task, number in self._latest().items()}
        owners = {task: self._owner(claim) for task, claim in found.items()}
        at_work = {name for name in set(owners.values()) if self._members.is_at_work(name)}
        return {
            task: owners[task]
            for task, claim in found.items()
            if owners[task] in at_work or (not owners[task] and self._is_held(claim))
        }

    @property
    def has_others(self) -> bool:
        """Whether another process has claimed anything, at work or not."""
        claims = (f"{task}.{number}" for task, number in self._latest().items())
        return any(self._owner(claim) not in ("", self._members.name) for claim in claims)

    def take(self, task: str) -> bool:
        """Claim a task that nobody at work has; whether this process has it now.

        Args:
            task: its name, as for a file.

        Raises:
            UnderstudyError: the place cannot be written.
        """
        number = self._latest().get(task)
        if number is not None and self._is_held(f"{task}.{number}"):
            return self._owner(f"{task}.{number}") == self._members.name
        file = self._folder / f"{task}.{0 if number is None else number + 1}"
        with writing(file):
            self._folder.mkdir(exist_ok=True)
            try:
                handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            try:
                os.write(handle, self._members.name.encode())
            except OSError:
                with suppress(OSError):
                    file.unlink()
                raise
            finally:
                os.close(handle)
        return True

    def _latest(self) -> dict[str, int]:
        """The highest number of each task's claims."""
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            return {}
        found: dict[str, int] = {}
        for name in names:
            task, _, number = name.rpartition(".")
            if number.isdecimal():
                found[task] = max(found.get(task, 0), int(number))
        return found

    def _is_held(self, claim: str) -> bool:
        """Whether the process that made a claim is at work, or may be writing it now."""
        owner = self._owner(claim)
        return self._members.is_at_work(owner) if owner else self._members.changes(claim, 0)

    def _owner(self, claim: str) -> str:
        """The process that made a claim; empty where it writes it now, or was killed then."""
        if claim not in self._owners:
            try:
                owner = (self._folder / claim).read_text()
            except OSError:
                return ""
            if not owner:
                return ""
            self._owners[claim] = owner
        return self._owners[claim]


def check_claimable(folder: Path) -> None:
    """Refuse a folder in which claims cannot work.

    Raises:
        UnderstudyError: its file system does not create files exclusively, rename them, list them,
            or note when they were changed.
    """
    with writing(folder):
        make_folder(folder)
        first, second = beside(folder / "probe"), beside(folder / "probe")
        try:
            missing = _lacking(first, second)
        finally:
            first.unlink(missing_ok=True)
            second.unlink(missing_ok=True)
    if missing:
        raise UnderstudyError(
            "processes join on a file system that creates files exclusively, renames them and "
            f"notes their changes, the one of {str(folder)!r} does not {missing}: choose a folder "
            "on another, or score without joining"
        )


def _lacking(first: Path, second: Path) -> str:
    """What a file system does not do; empty where it does all that claims need."""
    os.close(os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        os.close(os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        pass
    else:
        return "create them exclusively"
    before = first.stat().st_mtime_ns
    os.utime(first, (10**9, 10**9))
    if first.stat().st_mtime_ns == before:
        return "note when they were changed"
    first.rename(second)
    names = {file.name for file in second.parent.iterdir()}
    return "" if second.name in names and first.name not in names else "rename them"
