"""Build the documentation site: `python docs/site/make.py`. Any warning or broken link fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from links import LinkCheck, check_links
from sources import write_sources

REPOSITORY = Path(__file__).resolve().parents[2]


def build(root: Path) -> Path:
    """Build the site of this repository in a folder that holds its configuration: ``root/site``.

    Raises:
        CalledProcessError: the build found fault with a page.
    """
    write_sources(REPOSITORY, root / "build" / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    subprocess.run(command, cwd=root, check=True)
    return root / "site"


def summary(found: LinkCheck) -> str:
    lines = [f"broken link: {line}" for line in found.broken]
    lines += [f"loaded from another host: {line}" for line in found.foreign]
    lines.append(
        f"{found.pages} pages, {found.links} internal links, {len(found.broken)} broken; "
        f"{len(found.external)} addresses on other hosts, not visited"
    )
    return "\n".join(lines)


def main() -> int:
    found = check_links(build(REPOSITORY))
    print(summary(found))
    return 1 if found.broken or found.foreign else 0


if __name__ == "__main__":
    sys.exit(main())
