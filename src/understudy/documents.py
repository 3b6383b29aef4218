"""JSON documents: a format, its version, and a hash of the content, which is checked when read.

The hash is over the parsed content, so that another order of keys or other white space is the same
document; it finds damage and forgotten edits, it is no signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from understudy.errors import UnderstudyError
from understudy.files import check_version, read_json, write_json

HASH = "content_hash"
_LAST_UNHASHED = MappingProxyType({"understudy.cascade": 2})  # by format; 1 for all others


def write_document(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write plain JSON that has a format and a version, with the hash of its content, atomically.

    Raises:
        UnderstudyError: the place cannot be written.
    """
    plain = json.loads(json.dumps(data, allow_nan=False))
    write_json(path, {**plain, HASH: content_hash(plain)})


def read_document(
    path: str | Path,
    *,
    kind: str,
    newest: int,
    what: str,
    error: type[UnderstudyError],
    remedy: str,
) -> dict[str, Any]:
    """Read what `write_document` wrote.

    Args:
        path: the file.
        kind, newest: its format, and the newest version that is understood.
        what: what it is, for messages: "a search result".
        error: the type of the error where it cannot be read.
        remedy: the way out where its content was changed, for messages.

    Raises:
        UnderstudyError: no such file, another format, a newer version, or a content that is not the
            one that was written.
    """
    data = read_json(path, error, what)
    check_version(data, kind=kind, newest=newest, path=Path(path), error=error)
    reason = change_of(data)
    if reason:
        raise error(f"{str(path)!r} is {what} that was changed ({reason}): {remedy}")
    return dict(data)


def change_of(data: Mapping[str, Any]) -> str:
    """How a document's content differs from what was written, in words; empty where it does not.

    Documents of versions that had no hash may lack it.
    """
    written = data.get(HASH)
    if written is None and data["version"] <= _LAST_UNHASHED.get(data["format"], 1):
        return ""
    found = content_hash(data)
    if written == found:
        return ""
    return f"its content hashes to {found[:12]}, its {HASH} is {str(written)[:12]}"


def content_hash(data: Mapping[str, Any]) -> str:
    """SHA-256 of plain JSON without its own entry for it; neither order nor white space matter.

    >>> content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1, "content_hash": "?"})
    True
    """
    content = {key: value for key, value in data.items() if key != HASH}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
