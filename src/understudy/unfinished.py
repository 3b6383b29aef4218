"""Unfinished work on disk, which the same call resumes.

TARGET.partial     what one run has done so far
TARGET.partial.2   what another run has done, which works on something else beside it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from understudy.errors import DataError, UnderstudyError
from understudy.files import check_version, only_writer, read_json, write_json
from understudy.folders import adding_folder, recover, remove_folder
from understudy.locks import InUse

_MANIFEST, _FURTHER = "manifest.json", "further"
_MOST = 100  # unfinished runs beside one another

Plan = Mapping[str, Any]
"""The arguments that decide an outcome, as plain JSON."""
Opened = TypeVar("Opened")


@contextmanager
def own_folder(
    target: Path,
    plan: Plan,
    open_folder: Callable[[Path, Plan], Opened],
    *,
    beside: Callable[[Plan, Plan], bool],
) -> Iterator[Opened]:
    """A folder for unfinished work on `target`, opened, and locked while the block runs.

    It is the one that holds work of this plan already, or else a new one.

    Args:
        target: what will be made of the work; its lock is held until the folder is open.
        plan: the arguments of the work.
        open_folder: makes the folder, with the plan in it (`keep_plan`), or resumes what it holds.
        beside: whether work of two plans can go on at the same time.

    Raises:
        InUse: another process does the same work, or some that this cannot go on beside.
        UnderstudyError: the place cannot be written.
    """
    with ExitStack() as stack:
        with only_writer(target):
            places = _places(target, plan, beside)
            opened = open_folder(_locked_first(places, stack), plan)
        yield opened


def shared_folder(
    target: Path,
    plan: Plan,
    open_folder: Callable[[Path, Plan], Opened],
    *,
    beside: Callable[[Plan, Plan], bool],
) -> Opened:
    """A folder for unfinished work on `target` in which several processes work, opened.

    The arguments are those of `own_folder`; the folder is locked while it is opened.

    Raises:
        InUse: a process works in it alone.
        UnderstudyError: the place cannot be written.
    """
    with only_writer(target), ExitStack() as stack:
        return open_folder(_locked_first(_places(target, plan, beside), stack), plan)


def plans_of(target: Path) -> list[Plan]:
    """The plans of all unfinished work on `target`."""
    found = (_plan_in(folder) for folder in _folders(target) if folder.exists())
    return [plan for plan in found if plan is not None]


def holds_work(folder: Path) -> bool:
    """Whether a folder holds unfinished work, which the one that finishes it removes."""
    return (folder / _MANIFEST).exists()


def remove_finished(target: Path, finished: Callable[[Plan], bool]) -> None:
    """Delete the folders of work on `target` that is finished and that nobody is at."""
    with only_writer(target):
        for folder in _folders(target):
            plan = _plan_in(folder) if folder.exists() else None
            if plan is not None and finished(plan):
                with suppress(InUse), only_writer(folder, wait=False):
                    remove_folder(folder)


def keep_plan(
    folder: Path,
    plan: Plan,
    *,
    kind: str,
    newest: int,
    what: str,
    check: Callable[[Plan], None] = lambda _: None,
) -> None:
    """Write the arguments of unfinished work into its folder, or check that they are the same.

    Args:
        folder: made where it is missing.
        plan: the arguments of the work.
        kind, newest: the format and version of the file.
        what: what is unfinished, for the message.
        check: called with the arguments of older work before they are compared, to refuse some
            with a message of its own.

    Raises:
        DataError: work with other arguments, or something else, is in the way.
        UnderstudyError: the place cannot be written.
    """
    manifest = folder / _MANIFEST
    if not manifest.exists():
        if folder.exists() and any(folder.iterdir()) and not manifest.exists():
            raise DataError(
                f"unfinished work lies in {str(folder)!r}, where something else is: move it"
            )
        with adding_folder(folder) as new:
            write_json(new / _MANIFEST, {"format": kind, "version": newest, "plan": dict(plan)})
    data = _read(manifest, kind, newest, what)
    _compare(folder, data.get("plan"), plan, what=what, check=check)


def add_to_plan(folder: Path, further: Plan, *, kind: str, newest: int, what: str) -> None:
    """Write what was not known when work began beside its plan, or check that it is the same.

    Args:
        folder: with a plan; nobody else adds to it meanwhile.
        further: of the same kind as a plan.
        kind, newest, what: as for `keep_plan`.

    Raises:
        DataError: something else was added before.
        UnderstudyError: the place cannot be written.
    """
    manifest = folder / _MANIFEST
    data = _read(manifest, kind, newest, what)
    if _FURTHER in data:
        _compare(folder, data[_FURTHER], further, what=what)
    else:
        write_json(manifest, {**data, _FURTHER: dict(further)})


def _read(manifest: Path, kind: str, newest: int, what: str) -> dict[str, Any]:
    data: dict[str, Any] = read_json(manifest, DataError, what)
    check_version(data, kind=kind, newest=newest, path=manifest, error=DataError)
    return data


def _compare(
    folder: Path,
    found: Any,
    plan: Plan,
    *,
    what: str,
    check: Callable[[Plan], None] = lambda _: None,
) -> None:
    """Refuse a plan that differs from the one that was found.

    Raises:
        DataError: the message has the first entry that differs.
    """
    now = json.loads(json.dumps(plan))
    if found == now:
        return
    older = found if isinstance(found, dict) else {}
    check(older)
    key, before, after = _difference("", older, now)
    raise DataError(
        f"{what} goes on under the same plan, {str(folder)!r} has another for {key or 'plan'} "
        f"({str(before)[:200]}, now {str(after)[:200]}): use the same arguments, or delete that "
        "folder where nobody is at work in it"
    )


def _difference(name: str, before: Any, after: Any) -> tuple[str, Any, Any]:
    """The first entry that differs, within entries of entries: its name, and what it was and is.

    >>> _difference("", {"libraries": {"torch": "1"}}, {"libraries": {"torch": "2"}})
    ('libraries torch', '1', '2')
    """
    both = isinstance(before, dict) and isinstance(after, dict)
    keys = (*after, *before) if both else ()
    key = next((one for one in keys if before.get(one) != after.get(one)), None)
    if key is None:
        return name, before, after
    return _difference(f"{name} {key}".strip(), before.get(key), after.get(key))


def _places(target: Path, plan: Plan, beside: Callable[[Plan, Plan], bool]) -> list[Path]:
    """The folder with work that this plan continues or collides with, or else all free ones."""
    folders = _folders(target)
    used = [folder for folder in folders if folder.exists()]
    for folder in used:
        other = _plan_in(folder)
        if other is None or not beside(plan, other):
            return [folder]
    if len(used) == len(folders):
        raise UnderstudyError(
            f"at most {_MOST} unfinished runs lie beside {str(target)!r}, found {len(used)}: "
            "delete those that nobody will resume"
        )
    return [folder for folder in folders if folder not in used]


def _folders(target: Path) -> list[Path]:
    """All places for unfinished work on `target`, used or not."""
    names = [f"{target.name}.partial", *(f"{target.name}.partial.{n}" for n in range(2, _MOST + 1))]
    return [recover(target.with_name(name)) for name in names]


def _locked_first(folders: Sequence[Path], stack: ExitStack) -> Path:
    """The first folder that no other process is at work in; its lock is kept by the stack."""
    for folder in folders:
        try:
            stack.enter_context(only_writer(folder, wait=False))
        except InUse:  # also a free one, where a run that ended has just removed it
            if folder is folders[-1]:
                raise
        else:
            break
    return folder


def _plan_in(folder: Path) -> Plan | None:
    """The plan in a folder, with what was added to it; None where there is none."""
    try:
        data = read_json(folder / _MANIFEST, DataError, "an unfinished run")
    except DataError:
        return None
    if not isinstance(data, dict):
        return None
    plan, further = data.get("plan"), data.get(_FURTHER, {})
    return {**plan, **further} if isinstance(plan, dict) and isinstance(further, dict) else None
