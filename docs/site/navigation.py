"""The navigation of the site, as zensical.toml lists it: every page once, and no other."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from site_sources import PAGES, place_of


def navigation_faults(repository: Path) -> list[str]:
    """Pages that the navigation lacks, repeats or invents, a sentence each."""
    text = (repository / "zensical.toml").read_text(encoding="utf-8")
    listed = Counter(_listed(tomllib.loads(text)["project"]["nav"]))
    docs = (page.relative_to(repository) for page in sorted((repository / "docs").rglob("*.md")))
    sources = (*map(Path, PAGES), *docs)
    pages = {place_of(repository / page, repository).as_posix(): page for page in sources}
    return [
        *(
            f"{pages[at]} is not in the navigation: add {at} to nav"
            for at in sorted(pages.keys() - listed.keys())
        ),
        *(
            f"nav has {at}, and there is no such page"
            for at in sorted(listed.keys() - pages.keys())
        ),
        *(f"nav has {at} {count} times" for at, count in listed.items() if count > 1),
    ]


def _listed(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else _listed(value)
