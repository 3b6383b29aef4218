"""The names of timm's and torchvision's models, read from their source files: importing these
libraries takes seconds, which a misspelt name is not worth."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from understudy.errors import ModelError, unknown

HUBS = ("timm", "torchvision")
"""The libraries; their models lie in a folder `models`."""

_REGISTERED = re.compile(r"^@register_model(?:\(.*?\))?\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


def hubs_with(name: str) -> list[str]:
    """The installed libraries that have a model of this name.

    >>> hubs_with("no_such_model")
    []
    """
    return [hub for hub in HUBS if name.partition(".")[0] in model_names(hub)]


def near_names(name: str) -> list[str]:
    """The specs of models whose names are near one, of all installed libraries."""
    architecture = name.partition(".")[0]
    return [
        f"{hub}:{one}"
        for hub in HUBS
        for one in get_close_matches(architecture, model_names(hub), 1)
    ]


@cache
def model_names(hub: str) -> tuple[str, ...]:
    """The models that the source of a library registers; none where it is not installed."""
    return tuple(sorted(_REGISTERED.findall(_source(hub))))


def check_name(hub: str, name: str) -> None:
    """Refuse a name that the source of an installed library has nowhere.

    Raises:
        ModelError: the message has the nearest names.
    """
    architecture = name.partition(".")[0]
    names = model_names(hub)
    if (
        names
        and architecture not in names
        and not re.search(rf"[\"']{re.escape(architecture)}[\"']", _source(hub))
    ):  # a deprecated name stands in quotes
        raise ModelError(unknown(f"{hub} model", architecture, names))


@cache
def _source(hub: str) -> str:
    found = find_spec(hub)  # which does not import it
    roots = [] if found is None else list(found.submodule_search_locations or ())
    files = [file for root in roots for file in sorted(Path(root, "models").glob("*.py"))]
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
