"""axe-core: what a page lacks for those who cannot see it, or use no mouse."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile

import pytest

from browser import Page

AXE = "axe-core@4.10.3"
AXE_SHA256 = "880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb"


def axe_core(config: pytest.Config) -> str:
    """The script of axe-core, from the registry of npm, kept in the cache of the tests. Skips the
    test where it cannot be had."""
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
    assert hashlib.sha256(file.read_bytes()).hexdigest() == AXE_SHA256
    return file.read_text(encoding="utf-8")


def violations(page: Page, axe: str) -> list[list[str]]:
    """What axe finds in a page that is open: how bad, which rule, and where."""
    page.run(axe + ";0")
    found: list[list[str]] = page.run(
        "axe.run().then(result => result.violations.map(one => [one.impact, one.id, "
        "one.nodes.slice(0, 3).map(node => node.html + ' ' + node.failureSummary).join()]))"
    )
    return found
