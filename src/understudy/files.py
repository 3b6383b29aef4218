"""Files and folders that are written whole or not at all; JSON with its format and version."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.errors import DataError, UnderstudyError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file next to `path` that takes its place when the block ends well.

    Raises:
        UnderstudyError: the folder cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise _unwritable(target, error) from error
    temporary = Path(name)
    try:
        temporary.chmod(0o644)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder next to `path` that takes its place when the block ends well.

    An older folder stays whole until the new one is complete.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        temporary.chmod(0o755)
        yield temporary
        _swap(temporary, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_own_folder(path: str | Path, *, mark: str, rule: str) -> None:
    """Refuse to replace a folder that is something else: replacing it removes all that is in it.

    Args:
        path: nothing yet, an empty folder, or one that holds the file `mark`.
        mark: the file by which a folder of that kind is known.
        rule: for the message, such as "a cascade goes into a folder of its own".

    Raises:
        UnderstudyError: something else is there.
    """
    place = Path(path)
    free = not place.exists() or (place.is_dir() and not any(place.iterdir()))
    if not free and not (place / mark).is_file():
        raise UnderstudyError(f"{rule}, {str(path)!r} is something else: choose another place")


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
    """Strict JSON: no NaN or Infinity, no key twice, no number beyond float64, no endless nesting.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}

    Raises:
        ValueError: anything else.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_float=_float, parse_constant=_no_number
        )
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


def keep_plan(folder: Path, plan: Mapping[str, Any], *, kind: str, newest: int, what: str) -> None:
    """Write the arguments of unfinished work into its folder, or check that they are the same.

    Args:
        folder: made where it is missing.
        plan: the arguments that decide the outcome, as plain JSON.
        kind, newest: the format and version of the file.
        what: what is unfinished, for the message.

    Raises:
        DataError: work with other arguments, or something else, is in the way.
        UnderstudyError: the place cannot be written.
    """
    manifest = folder / "manifest.json"
    if not manifest.exists():
        if folder.exists() and any(folder.iterdir()):
            raise DataError(
                f"unfinished work lies in {str(folder)!r}, where something else is: move it"
            )
        write_json(manifest, {"format": kind, "version": newest, "plan": dict(plan)})
        return
    data = read_json(manifest, DataError, what)
    check_version(data, kind=kind, newest=newest, path=manifest, error=DataError)
    now, found = json.loads(json.dumps(plan)), data.get("plan")
    if found == now:
        return
    older = found if isinstance(found, dict) else {}
    key = next((key for key in now if older.get(key) != now[key]), "plan")
    raise DataError(
        f"{what} goes on under the same plan, {str(folder)!r} has another for {key} "
        f"({str(older.get(key))[:200]}, now {str(now.get(key))[:200]}): use the same arguments, or "
        "delete that folder"
    )


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.replace(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)) / "old"
    target.replace(old)
    temporary.replace(target)
    shutil.rmtree(old.parent, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> UnderstudyError:
    reason = error.strerror or str(error)
    return UnderstudyError(f"{str(target)!r} cannot be written ({reason}): choose another place")
