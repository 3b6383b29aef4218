"""The public names: few, lazy, typed by the stub, and no name of a package among them."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import understudy

ROOT = Path(understudy.__file__).parent
STUB = ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))
STUBBED = {
    alias.asname or alias.name: str(node.module)
    for node in STUB.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def test_the_stub_has_the_public_names() -> None:
    assert sorted(STUBBED) == understudy.__all__ == sorted(dir(understudy))
    assert len(STUBBED) <= 25
    assert (ROOT / "py.typed").exists()


@pytest.mark.parametrize("name", sorted(STUBBED))
def test_a_name_is_the_one_in_its_module(name: str) -> None:
    value = getattr(understudy, name)
    assert value is getattr(import_module(STUBBED[name]), name)
    assert value.__module__ == STUBBED[name]


def test_no_public_name_hides_a_module() -> None:
    modules = {path.stem for path in ROOT.iterdir()} - {"__init__"}
    assert not modules & set(STUBBED)


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
