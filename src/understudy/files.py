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
    """Read strict JSON: each key once, finite numbers of at most 64 bits, whole characters.

    Raises:
        UnderstudyError: of the type given: the file is missing or is no such JSON.
    """
    try:
        return _strict_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(
            f"{what} is read from a file, {str(path)!r} does not exist: check the path"
        ) from cause
    except OSError as cause:
        raise error(f"{what} cannot be read from {str(path)!r}: {cause.strerror}") from cause
    except (ValueError, RecursionError) as cause:
        raise error(f"{what} is a JSON file, {str(path)!r} is not: {cause}") from cause


def _strict_json(text: str) -> Any:
    data = json.loads(
        text,
        object_pairs_hook=_each_key_once,
        parse_int=_whole_number,
        parse_float=_finite_number,
        parse_constant=_finite_number,
    )
    if "\\u" in text:  # half a character can only be an escape
        json.dumps(data, ensure_ascii=False).encode()
    return data


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} repeats")
    return entries


def _whole_number(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:20]}… is beyond 64 bits")
    return int(text)


def _finite_number(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return float(text)


def check_version(
    data: Any, *, kind: str, newest: int, path: Path, error: type[UnderstudyError]
) -> None:
    """Refuse a file of another kind, or one that a newer understudy wrote."""
    found = data.get("format") if isinstance(data, dict) else None
    if found != kind:
        raise error(f"{str(path)!r} is no {kind} file: its format is {found!r}")
    version = data.get("version")
    if not isinstance(version, int) or version > newest:
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
