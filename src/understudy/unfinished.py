"""Unfinished work on disk, which the same call resumes.

TARGET.partial     what one run has done so far
TARGET.partial.2   what another run has done, which works on something else beside it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from understudy.errors import DataError, UnderstudyError
from understudy.files import check_version, only_writer, read_json, write_json
from understudy.folders import recover, replacing_folder

_MANIFEST = "manifest.json"
_MOST = 100  # unfinished runs beside one another

Plan = Mapping[str, Any]
"""The arguments that decide an outcome, as plain JSON."""


@contextmanager
def own_folder(
    target: Path, plan: Plan, *, beside: Callable[[Plan, Plan], bool] = lambda *_: False
) -> Iterator[Path]:
    """A folder for unfinished work on `target`, locked while the block runs.

    It is the one that holds work of this plan already, or else a new one.

    Args:
        target: what will be made of the work; its lock is held while the folder is chosen.
        plan: the arguments of the work.
        beside: whether work of two plans can go on at the same time.

    Raises:
        InUse: another process does the same work, or some that this cannot go on beside.
        UnderstudyError: the place cannot be written.
    """
    with ExitStack() as stack:
        with only_writer(target):
            folder = _folder_of(target, plan, beside)
            stack.enter_context(only_writer(folder, wait=False))
        yield folder


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
        if folder.exists() and any(folder.iterdir()):
            raise DataError(
                f"unfinished work lies in {str(folder)!r}, where something else is: move it"
            )
        with replacing_folder(folder) as new:
            write_json(new / _MANIFEST, {"format": kind, "version": newest, "plan": dict(plan)})
        return
    data = read_json(manifest, DataError, what)
    check_version(data, kind=kind, newest=newest, path=manifest, error=DataError)
    now, found = json.loads(json.dumps(plan)), data.get("plan")
    if found == now:
        return
    older = found if isinstance(found, dict) else {}
    check(older)
    key = next((key for key in now if older.get(key) != now[key]), "plan")
    raise DataError(
        f"{what} goes on under the same plan, {str(folder)!r} has another for {key} "
        f"({str(older.get(key))[:200]}, now {str(now.get(key))[:200]}): use the same arguments, or "
        "delete that folder"
    )


def _folder_of(target: Path, plan: Plan, beside: Callable[[Plan, Plan], bool]) -> Path:
    """The first folder with work that this plan continues or collides with, or the first free."""
    names = [f"{target.name}.partial", *(f"{target.name}.partial.{n}" for n in range(2, _MOST + 1))]
    folders = [recover(target.with_name(name)) for name in names]
    used = [folder for folder in folders if folder.exists()]
    for folder in used:
        other = _plan_in(folder)
        if other is None or not beside(plan, other):
            return folder
    free = next((folder for folder in folders if folder not in used), None)
    if free is None:
        raise UnderstudyError(
            f"at most {_MOST} unfinished runs lie beside {str(target)!r}, found {len(used)}: "
            "delete those that nobody will resume"
        )
    return free


def _plan_in(folder: Path) -> Plan | None:
    """The plan in a folder; None where there is none."""
    try:
        data = read_json(folder / _MANIFEST, DataError, "an unfinished run")
    except DataError:
        return None
    plan = data.get("plan") if isinstance(data, dict) else None
    return plan if isinstance(plan, dict) else None
