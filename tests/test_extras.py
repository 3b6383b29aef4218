"""Without an extra every verb and every public name ends in one sentence that names it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from PIL import Image

from extra_modules import BASE, FILES, extra_of
from understudy.extras import EXTRAS

ROOT = Path(__file__).resolve().parent.parent


def imported_at_once(nodes: list[ast.stmt]) -> Iterator[str]:
    """The modules that are imported with a module; not those for types, and late ones."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            full = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in FILES else str(node.module) for name in full)
        elif isinstance(node, ast.With | ast.Try):
            yield from imported_at_once(node.body)


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_what_its_extra_installs(module: str) -> None:
    extra = extra_of(module)
    allowed = BASE | EXTRAS.get(extra, frozenset()) | sys.stdlib_module_names
    allowed |= {"markupsafe"} if extra == "search" else set()
    for name in imported_at_once(ast.parse(FILES[module].read_text(encoding="utf-8")).body):
        if name in FILES:
            needs = EXTRAS.get(extra_of(name), frozenset())
            assert needs <= EXTRAS.get(extra, frozenset()), f"{module} imports {name}"
        else:
            assert name.partition(".")[0] in allowed, f"{module} imports {name}"


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    modules_of: dict[str, set[str]] = {}
    for module, packages in packages_distributions().items():
        for package in packages:
            modules_of.setdefault(package.lower().replace("_", "-"), set()).add(module)

    def installed_by(extra: str) -> set[str]:
        found: set[str] = set()
        for requirement in extras[extra]:
            name = re.split(r"[\[>=<]", requirement)[0]
            if name == "understudy":
                found.update(*map(installed_by, requirement[11:-1].split(",")))
            else:
                found |= modules_of[name] & EXTRAS["all"]
        return found

    assert set(extras) == set(EXTRAS)
    assert {extra: installed_by(extra) for extra in extras} == EXTRAS


WITHOUT = """
import json, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
"""


def without(extras: str, code: str, folder: Path, *arguments: str) -> dict[str, str]:
    """What a program finds where the modules of some extras are not installed."""
    kept = {module for extra in extras.split() for module in EXTRAS[extra]}
    blocked = ",".join(sorted(EXTRAS["all"] - kept))
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT + code, blocked, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    return found


VERBS = """
import contextlib, io, shlex
from understudy.app.cli.failures import one_sentence
from understudy.app.cli.main import app
ends = {}
for line in sys.argv[2].splitlines():
    shown = io.StringIO()
    code = 0
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
        try:
            with one_sentence():
                app(shlex.split(line), standalone_mode=False)
        except SystemExit as end:
            code = end.code
    ends[line] = f"{code} {shown.getvalue().strip()}"
print(json.dumps(ends))
"""

COMMANDS = {
    "demo": "torch",
    "reproduce dyce --imagenet a": "zoo",
    "taps torchvision:resnet18": "torch",
    "taps timm:resnet18": "zoo",
    "train-exits torchvision:resnet18 --data folder:a --into b": "torch",
    "train-exits timm:resnet18 --data folder:a --into b": "zoo",
    "train-saver torchvision:alexnet --from torchvision:vgg11 --data folder:a --into b": "torch",
    "train-saver timm:resnet18 --from timm:resnet34 --data folder:a --into b": "zoo",
    "score torchvision:resnet18 --data folder:a --into b": "torch",
    "score a=timm:resnet18 --data folder:a --into b": "zoo",
    "score a=hf:owner/name --data folder:a --into b": "hf",
    "score a=hf:owner/name timm:resnet18 --data folder:a --into b": "all",
    "measure a": "torch",
    "import b --labels a.csv --key id --exit a=a.csv --cost a=1": "search",
    "import-exits a.npz --macs a.json --into b": "search",
    "import-labels a.csv --into b": "search",
    "ask a --max-drop 1": "search",
    "search a --max-drop 1": "search",
    "verify a.json a": "search",
    "apply a.json a": "search",
    "savers a --max-drop 1": "search",
    "difficulty a": "search",
    "optimism a --max-drop 1": "search",
    "build a.json --max-drop 1 --into b": "torch",
    "run c --data folder:a": "torch",
    "serve c": "serve",
    "bench c --data folder:a": "torch",
    "export c --onnx b": "export",
    "report a.json --out b.html": "search",
    "plot a.json --kind frontier --out b.svg": "plot",
}
NEED_NONE = {"watch"}
OTHERWISE = {"demo": ", or uvx --from 'understudy[torch]' understudy demo"}


@pytest.mark.parametrize("extras", ["", "search onnx"])
def test_every_verb_names_the_extra_that_it_needs(extras: str, tmp_path: Path) -> None:
    kept = {module for extra in extras.split() for module in EXTRAS[extra]}
    expected = {line: extra for line, extra in COMMANDS.items() if not EXTRAS[extra] <= kept}
    for name in ("a", "c"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "a.png")
    (tmp_path / "c" / "cascade.json").write_text("{}")
    ends = without(extras, VERBS, tmp_path, "\n".join(expected))
    for line, extra in expected.items():
        assert ends[line].startswith("2 error: "), ends[line]
        way_out = f"pip install 'understudy[{extra}]'{OTHERWISE.get(line, '')}"
        assert ends[line].endswith(
            f" needs the `{extra}` extra, which is not installed: {way_out}"
        ), ends[line]
        assert "\n" not in ends[line]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c"}


@pytest.mark.parametrize("extras", ["", "search"])
def test_images_of_a_report_name_the_extra_that_decodes_them(extras: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    line = "report a.json --table b --data folder:a --out b.html"
    end = without(extras, VERBS, tmp_path, line)[line]
    assert end == (
        "2 error: `understudy report --data` needs the `torch` extra, which is not installed: "
        "pip install 'understudy[torch]'"
    )


def test_every_verb_is_tried() -> None:
    from understudy.app.cli.main import app

    tried = {line.split()[0] for line in COMMANDS} | NEED_NONE
    assert tried == {one.name for one in app.registered_commands}


NAMES = """
import understudy, understudy.onnx
from importlib import import_module
from understudy.errors import MissingExtra
ends = {}
def extra_for(find, name):
    try:
        find()
    except MissingExtra as error:
        assert isinstance(error, ImportError) and "\\n" not in str(error), error
        return error.extra
    return ""
for name in understudy.__all__:
    ends[name] = extra_for(lambda: getattr(understudy, name), name)
for name in understudy.onnx.__all__:
    ends["onnx." + name] = extra_for(lambda: getattr(understudy.onnx, name), name)
for name in sys.argv[2].split(","):
    ends[name] = extra_for(lambda: import_module(name), name)
print(json.dumps(ends))
"""
PUBLIC = {
    "search": ("CascadeClassifier", "load_table", "save_table", "search", "verify"),
    "torch": (
        *("Cascade", "ExitNetwork", "Preprocess", "Stage", "attach", "load_cascade"),
        "save_cascade",
    ),
    "export": ("onnx.agreement", "onnx.export_onnx"),
}


MIXED = ("understudy.zoo.", "understudy.onnx.", "understudy.reproduction")
"""Packages that the base can import; what needs PyTorch in them has public names."""


def test_every_module_names_the_extra_that_it_needs(tmp_path: Path) -> None:
    modules = [
        name
        for name in FILES
        if not name.startswith(("understudy.app", "understudy.__main__"))
        and not (name.startswith(MIXED) and extra_of(name) == "torch")
    ]
    ends = without("", NAMES, tmp_path, ",".join(modules))
    expected = {name: extra for extra, names in PUBLIC.items() for name in names}
    for name, extra in ends.items():
        known = extra_of(name) if name in FILES else expected.get(name, "")
        assert extra == known, name
