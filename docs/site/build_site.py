"""Build the documentation site: `make docs`. Any warning or broken link fails."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from navigation import navigation_faults
from public_names import public_names
from site_links import Document, LinkCheck, check_links
from site_sources import MissingTarget, write_sources

REPOSITORY = Path(__file__).resolve().parents[2]
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_STRICT = re.compile(r"Traceback \(most recent call last\):\n(?: .*\n)+RuntimeError: Aborted.*")
_UNKNOWN = re.compile(r"Could not collect '([\w.]+)'")


class BuildFailed(Exception):
    """What the site generator said of a build that did not go through without a warning."""


def build(root: Path) -> Path:
    """Build the site of this repository in a folder with its configuration and `src`.

    Raises:
        BuildFailed: a page, a link or a docstring has a fault.
        MissingTarget: a page links to a file that is not there.
    """
    write_sources(REPOSITORY, root / "build" / "docs")
    ran = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ran.returncode or "griffe: " in ran.stdout:  # what Griffe warns of is not counted as strict
        raise BuildFailed(reason(_COLOUR.sub("", ran.stdout), root / "build" / "docs"))
    return root / "site"


def reason(output: str, sources: Path) -> str:
    """What the site generator says of a failure, without a traceback where it is understood."""
    if unknown := _UNKNOWN.search(output):
        entry = re.compile(rf"^::: {re.escape(unknown[1])}$", re.MULTILINE)
        pages = (page for page in sorted(sources.rglob("*.md")) if entry.search(page.read_text()))
        where = ", ".join(page.relative_to(sources).as_posix() for page in pages)
        return f"{where}: there is no {unknown[1]} to document"
    return _STRICT.sub("", output).strip()


def undocumented(site: Path) -> list[str]:
    """The public names without an entry among the pages of the API."""
    pages = Document()
    for page in sorted((site / "api").rglob("*.html")):
        pages.feed(page.read_text(encoding="utf-8"))
    return sorted(public_names(REPOSITORY).keys() - pages.anchors)


def summary(found: LinkCheck, missing: list[str]) -> str:
    """What was found in a site that was built, fault by fault."""
    lines = [f"broken link: {line}" for line in found.broken]
    lines += [f"loaded from another host: {line}" for line in found.foreign]
    lines += [f"without an entry in docs/api: {name}" for name in missing]
    lines.append(
        f"{found.pages} pages, {found.links} internal links, {len(found.broken)} broken; "
        f"{len(found.external)} addresses on other hosts, not visited"
    )
    return "\n".join(lines)


def main() -> int:
    """Build into `site/` and check; 1 where anything is wrong."""
    if faults := navigation_faults(REPOSITORY):
        print("zensical.toml:", "; ".join(faults))
        return 1
    try:
        site = build(REPOSITORY)
    except (BuildFailed, MissingTarget) as failed:
        print(failed)
        return 1
    found, missing = check_links(site), undocumented(site)
    print(summary(found, missing))
    return 1 if found.broken or found.foreign or missing else 0


if __name__ == "__main__":
    sys.exit(main())
