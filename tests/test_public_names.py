"""The public names: few, lazy, typed by the stub, and no name of a package among them."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from public_names import PACKAGES, members, public_names, python_blocks

import understudy
from doc_pages import ROOT as REPOSITORY

ROOT = Path(understudy.__file__).parent
PUBLIC = public_names(REPOSITORY)


def stubbed(package: Path) -> dict[str, str]:
    """Name -> module, in the stub of a package."""
    stub = ast.parse((package / "__init__.pyi").read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: str(node.module)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


STUBBED = stubbed(ROOT)


def test_the_public_names_are_few() -> None:
    assert understudy.__all__ == sorted(dir(understudy))
    assert len(STUBBED) <= 25
    assert (ROOT / "py.typed").exists()


@pytest.mark.parametrize("package", sorted(ROOT.rglob("__init__.pyi")), ids=str)
def test_a_stub_has_the_names_of_its_package(package: Path) -> None:
    module = ".".join(("understudy", *package.parent.relative_to(ROOT).parts))
    names = stubbed(package.parent)
    assert sorted(names) == import_module(module).__all__
    for name, defined in names.items():
        value = getattr(import_module(module), name)
        assert value is getattr(import_module(defined), name)
        assert value.__module__ == defined


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_hides_a_module(package: str) -> None:
    """Once the module is imported, the name would be the module."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    modules = {path.stem for path in folder.iterdir()} - {"__init__"}
    assert not modules & set(import_module(package).__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_is_documented_with_an_example_that_runs(name: str) -> None:
    """A doctest, or lines of a block of Python in docs/, which `test_docs` runs."""
    text = inspect.cleandoc(PUBLIC[name].__doc__ or "")
    assert len(text.split("\n")[0]) > 10
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if ">>> " not in text:
        assert examples, f"{name} has no example"
        documented = "\n".join(python_blocks(REPOSITORY))
        without_comments = re.sub(r"  # .*", "", documented)
        assert all(example in without_comments for example in examples)


def test_a_public_name_has_an_entry_among_the_pages_of_the_api() -> None:
    """`make docs` holds the built site to the same; this takes no build."""
    pages = {path.name: path.read_text() for path in (REPOSITORY / "docs" / "api").glob("*.md")}
    entries = set(re.findall(r"^::: (\S+)$", "\n".join(pages.values()), re.MULTILINE))
    assert sorted(PUBLIC.keys() - entries) == []
    listed = set(re.findall(r"`(\w+)`", pages["index.md"]))
    assert sorted(name for name in PUBLIC if name.rpartition(".")[2] not in listed) == []


@pytest.mark.parametrize("name", sorted(n for n, value in PUBLIC.items() if inspect.isclass(value)))
def test_the_members_of_a_public_class_are_documented(name: str) -> None:
    found = members(PUBLIC[name])
    assert [member for member, value in found.items() if not (value.__doc__ or "").strip()] == []


@pytest.mark.slow
def test_types_are_seen(tmp_path: Path) -> None:
    """A type checker knows what the lazy names are."""
    script = tmp_path / "typed.py"
    script.write_text(
        "from understudy import Policy, evaluate, search\n"
        "reveal_type(Policy.single)\nreveal_type(search)\nreveal_type(evaluate)\n"
    )
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", script],
        cwd=ROOT.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "-> understudy.policy.Policy" in checked.stdout
    assert "-> understudy.result.Result" in checked.stdout
    assert "-> understudy.outcome.Outcome" in checked.stdout
