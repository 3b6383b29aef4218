"""The wheel and the sdist hold the package, whole and alone; the files about it agree."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from doc_pages import ROOT
from understudy import __version__
from understudy.extras import EXTRAS

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def built(source: Path, into: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of a tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(into)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(into.glob("*.whl")), next(into.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return built(ROOT, tmp_path_factory.mktemp("dist"))


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.mark.slow
def test_twine_has_nothing_to_say(built_once: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built_once)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built_once: tuple[Path, Path]) -> None:
    found = files_of(built_once[0])
    package = ROOT / "src" / "understudy"
    expected = {
        f"understudy/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in found if ".dist-info/" not in name} == expected
    assert sum(map(len, found.values())) < 8e6
    licenses = [name for name in found if "/licenses/" in name]
    assert any(name.endswith("licenses/LICENSE") for name in licenses)
    assert any("uplot" in name.lower() for name in licenses)


@pytest.mark.slow
def test_the_metadata_are_those_of_the_code(built_once: tuple[Path, Path]) -> None:
    files = files_of(built_once[0])
    [text] = [content for name, content in files.items() if name.endswith("/METADATA")]
    head = HeaderParser().parsestr(text.decode())
    assert head["Version"] == __version__
    assert set(head.get_all("Provides-Extra", [])) == set(EXTRAS)


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(built_once: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sdist = built_once
    with tarfile.open(sdist) as opened:
        names = opened.getnames()
        opened.extractall(tmp_path, filter="data")
    assert not [
        name for name in names if re.search(r"/(tests|benchmarks|docs|\.(?!gitignore$)\w)", name)
    ]
    [tree] = tmp_path.iterdir()
    again, _ = built(tree, tmp_path / "dist")
    assert files_of(again) == files_of(wheel)


def steps() -> Iterator[dict[str, Any]]:
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            yield from job["steps"]


def test_actions_are_pinned_by_their_commit() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action


def test_workflows_call_what_the_makefile_has() -> None:
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {
        target
        for step in steps()
        for target in re.findall(r"^\s*make (\w+)", step.get("run", ""), re.MULTILINE)
    }
    assert called == {"test", "lowest", "dist", "docs"} & made


def test_no_workflow_may_write_but_the_one_that_publishes() -> None:
    for path in WORKFLOWS:
        flow = yaml.safe_load(path.read_text())
        assert flow["permissions"] == {"contents": "read"}
        own = {
            name: job["permissions"] for name, job in flow["jobs"].items() if "permissions" in job
        }
        assert own in ({}, {"publish": {"id-token": "write"}})


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == __version__
    assert "cff-version" in cited
    readme = (ROOT / "README.md").read_text()
    for reference in cited["references"]:
        [arxiv] = reference["identifiers"]
        assert arxiv["value"].removeprefix("arXiv:") in readme
