"""axe-core: what is wrong with a page for those who hear it, or who have no pointer."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from typing import Any

import pytest

from browser import Page

AXE = "axe-core@4.10.3"
SHA256 = "880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb"


def script(config: pytest.Config) -> str:
    """The script of axe-core, from the registry of npm, kept in the cache of the tests."""
    assert config.cache is not None
    folder = config.cache.mkdir("axe-core")
    file = folder / "axe.min.js"
    if not file.exists():
        npm = shutil.which("npm")
        ran = npm and subprocess.run(
            [npm, "pack", "--silent", AXE],
            cwd=folder,
            capture_output=True,
            check=False,
            timeout=120,
        )
        if not ran or ran.returncode:
            pytest.skip(f"{AXE} is not here: npm could not fetch it")
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            file.write_bytes(member.read())
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SHA256
    return file.read_text(encoding="utf-8")


def violations(page: Page, script: str) -> list[Any]:
    """What axe finds on an open page: impact, rule, and the first places."""
    page.run(script + ";0")
    found: list[Any] = page.run(
        "axe.run().then(result => result.violations.map(one => [one.impact, one.id, "
        "one.nodes.slice(0, 3).map(node => node.html + ' ' + node.failureSummary)]))"
    )
    return found
