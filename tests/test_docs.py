"""The documentation holds: its Python runs, its commands and options exist, its links work."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
import yaml  # type: ignore[import-untyped]
from typer.core import TyperGroup
from typer.main import get_command

from doc_pages import (
    NOT_RUN,
    OF_SCRIPT,
    OUTPUT,
    PAGES,
    ROOT,
    Block,
    anchors,
    blocks,
    commands,
    inline_commands,
    links,
    read,
    shape,
)
from understudy.app.cli.main import app
from understudy.app.cli.options import with_ray_address

PYTHON_PAGES = [page for page in PAGES if any(b.language == "python" for b in blocks(page))]
LANGUAGES = {"", "python", "text", "toml", "yaml"}
THEMES, LARGEST_PICTURE = ("light", "dark"), 150_000


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads of PyTorch wait for each other for longer than such small models compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_blocks_run_in_order(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from doc_models import namespace

    names, printed = namespace(tmp_path), ""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples" / "notebooks")  # `networks`, a user's module
    for block in (b for b in blocks(page) if b.language == "python" or b.above == OUTPUT):
        if block.above == OUTPUT:
            same = str.strip if installed_as_pinned() else shape
            assert same(printed) == same(block.text), f"{page}:{block.line}"
        elif not (skipped := NOT_RUN.fullmatch(block.above)):
            capsys.readouterr()
            execute(block, page, names)
            printed = capsys.readouterr().out
        else:
            ast.parse(block.text)
            assert len(skipped[1]) > 10, f"{page}:{block.line}: give the reason"


@cache
def installed_as_pinned() -> bool:
    """Whether figures are those of the pinned libraries: others may fit a model otherwise."""
    pins = {line.partition(" ;")[0] for line in read("requirements.txt").splitlines()}
    return all(f"{name}=={version(name)}" in pins for name in ("numpy", "scikit-learn", "scipy"))


def test_outputs_say_what_printed_them() -> None:
    for page in PAGES:
        before = ""
        for block in blocks(page):
            if block.language == "text":
                script = OF_SCRIPT.fullmatch(block.above)
                assert script or (block.above == OUTPUT and before), f"{page}:{block.line}"
            before = block.language if block.language in ("python", "text") else ""


def execute(block: Block, page: str, names: dict[str, Any]) -> None:
    """Run a block as if it stood in its page, `await` included."""
    source = "\n" * (block.line - 1) + block.text
    code = compile(source, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)


def test_every_block_is_of_a_language_that_is_checked() -> None:
    found = {block.language for page in PAGES for block in blocks(page)}
    assert found <= LANGUAGES


def test_reasons_stand_above_python_blocks_alone() -> None:
    for page in PAGES:
        marked = [block for block in blocks(page) if NOT_RUN.fullmatch(block.above)]
        assert len(marked) == len(NOT_RUN.findall(read(page)))
        assert {block.language for block in marked} <= {"python"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_existing_verbs_and_options(page: str) -> None:
    for line, words in commands(page):
        check_command(words, complete=True, where=f"{page}:{line}")
    for words in inline_commands(page):
        check_command(words, complete=False, where=page)


@cache
def verbs() -> TyperGroup:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def check_command(words: list[str], *, complete: bool, where: str) -> None:
    """Parse a command without running it; `complete` if nothing that it requires is left out."""
    group = verbs()
    context = typer.Context(group, info_name="understudy")
    if words[0].startswith("-"):
        known = {opt for param in group.get_params(context) for opt in param.opts}
        assert words[0] in known, f"{where}: understudy has no option {words[0]}"
        return
    verb = group.get_command(context, words[0])
    assert verb is not None, f"{where}: understudy has no verb {words[0]}"
    if isinstance(verb, TyperGroup) and words[1:] and not words[1].startswith("-"):
        context = typer.Context(verb, info_name=words[0], parent=context)
        words = words[1:]
        verb = verb.get_command(context, words[0])
        assert verb is not None, f"{where}: no such command {words[0]}"
    inner = typer.Context(verb, parent=context, resilient_parsing=not complete)
    values, _, _ = verb.make_parser(inner).parse_args(with_ray_address(words)[1:])
    missing = [p.name for p in verb.params if p.required and values.get(p.name or "") is None]
    assert not (complete and missing), f"{where}: understudy {words[0]} needs {missing}"


def test_new_names_of_the_changelog_exist() -> None:
    rows = re.findall(r"^\| `.*\| `(understudy\.[\w.]+)`", read("CHANGELOG.md"), re.MULTILINE)
    assert len(rows) > 30
    for name in rows:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name
    from understudy import Cascade

    members = re.findall(r"\| `Cascade\.(\w+)[^|]*\|$", read("CHANGELOG.md"), re.MULTILINE)
    assert members == ["set_operating_point", "runners"]
    assert all(hasattr(Cascade, member) for member in members)


def test_configurations_of_serve_are_the_application_that_builds() -> None:
    found = [yaml.safe_load(b.text) for page in PAGES for b in blocks(page) if b.language == "yaml"]
    assert found
    for application in (one for config in found for one in config["applications"]):
        assert application["import_path"] == "understudy.cluster.serve_app:build"
        assert application["args"]["cascade"]


def test_every_verb_is_documented() -> None:
    named = {words[0] for page in PAGES for _, words in commands(page)}
    group = verbs()
    assert set(group.list_commands(typer.Context(group))) <= named


def test_settings_of_training_are_documented(tmp_path: Path) -> None:
    from understudy.training.config import TrainingConfig
    from understudy.training.named_config import read_config
    from understudy.training.saver_config import SaverConfig, read_saver_config

    places = [(page, b) for page in PAGES for b in blocks(page) if b.language == "toml"]
    for place, block in places:
        (tmp_path / "training.toml").write_text(block.text)
        read_settings = read_saver_config if place == "docs/teaching.md" else read_config
        read_settings(tmp_path / "training.toml")
    for page, config, others in (
        ("docs/exits.md", TrainingConfig, set()),
        ("docs/teaching.md", SaverConfig, {"teaching"}),
    ):
        rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", read(page), re.MULTILINE)
        found = {
            key: json.loads(value) for key, value in rows if key not in others and value != "|"
        }
        defaults = {field.name: field.default for field in fields(config)}
        assert found == {key: value for key, value in defaults.items() if key not in others}


@pytest.mark.parametrize("page", PAGES)
def test_links_work(page: str) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT).as_posix()), link


def test_errors_in_the_questions_are_those_of_the_package() -> None:
    table = read("docs/faq.md").partition("## Errors")[2]
    found = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(found) > 10
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    texts = "\n".join(
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    assert [sentence for sentence in found if sentence not in texts] == []


def test_the_readme_example_has_at_most_ten_lines() -> None:
    first = next(block for block in blocks("README.md") if block.language == "python")
    assert len([line for line in first.text.splitlines() if line.strip()]) <= 10


def demo_excerpt() -> list[str]:
    """The lines of the README's demo output."""
    (excerpt,) = (b for b in blocks("README.md") if b.above == "<!-- demo -->")
    return [line.rstrip() for line in excerpt.text.splitlines()]


def words(text: str) -> set[str]:
    """The words and names in a text, without figures."""
    return set(re.findall(r"[^\W\d]{2,}", text))


def test_the_demo_excerpt_is_short_and_has_the_recorded_figures() -> None:
    excerpt = demo_excerpt()
    record = json.loads(read("benchmarks/results/demo.json"))
    assert len(excerpt) <= 15
    text = " ".join(excerpt)
    assert f"saves {100 * record['saving']:.1f} % of the MACs of {record['reference']}" in text
    assert f"{record['agreeing']} of {record['compared']} held-out images" in text
    for name, share in record["shares"].items():
        assert f"{name} {100 * share:.1f} %" in text


@pytest.mark.slow
def test_the_demo_prints_the_lines_of_the_excerpt(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "understudy", "demo", "--into", "demo"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
        timeout=600,
        check=True,
    )
    excerpt = demo_excerpt()
    sentences = next(n for n, line in enumerate(excerpt) if "The cascade saves" in line)
    for line in excerpt[:sentences]:  # the table has another layout where figures are wider
        assert words(line) <= words(ran.stdout), line
    for line in excerpt[sentences:]:
        assert shape(line) in shape(ran.stdout), line


def test_the_readme_states_the_figures_of_its_pictures() -> None:
    certified = json.loads(read("docs/images/figures.json"))["certified"]
    half, one, _ = (f"{100 * choice['saving']:.1f} % of" for choice in certified)
    assert half in read("README.md")
    assert one in read("README.md")
    assert f"{-certified[0]['drop']:g} points more accurate" in read("README.md")


def test_pictures_are_small_and_come_in_light_and_dark() -> None:
    pictures = sorted((ROOT / "docs/images").glob("*.svg"))
    names = {path.name for path in pictures}
    assert names == {f"{what}-{how}.svg" for what in ("frontier", "report") for how in THEMES}
    for path in pictures:
        assert path.stat().st_size < LARGEST_PICTURE
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert f"docs/images/{path.name}" in links("README.md")


def test_the_pictures_of_the_concepts_are_those_of_their_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "images")
    drawn, record = import_module("concepts"), json.loads(read("docs/images/figures.json"))
    pictures = sorted((ROOT / "docs/images/concepts").glob("*.svg"))
    drawings = ("cascade", "splits", "steps")
    assert [path.name for path in pictures] == [
        f"{d}-{t}.svg" for d in drawings for t in sorted(THEMES)
    ]
    for path in pictures:
        assert path.stat().st_size < LARGEST_PICTURE
        what, _, theme = path.stem.partition("-")
        assert path.read_text(encoding="utf-8") == getattr(drawn, what)(record, theme)
        assert f"images/concepts/{path.name}" in links("docs/concepts.md")


def test_the_imagenet_page_has_the_figures_of_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "images")
    drawn = import_module("imagenet")
    record, page = (
        json.loads(read("benchmarks/results/imagenet_zoo.json")),
        read("docs/imagenet.md"),
    )
    for row in (*drawn.models_table(record), *drawn.tinysaver_table(record)):
        assert row in page
    main = record["resnet152"]
    assert f"{100 * main['saving']:.1f} %" in page
    pictures = sorted((ROOT / "docs/images/imagenet").glob("*.svg"))
    drawings = ("difficulty", "pairs", "savings")
    assert [path.name for path in pictures] == [
        f"{d}-{t}.svg" for d in drawings for t in sorted(THEMES)
    ]
    for path in pictures:
        assert path.stat().st_size < LARGEST_PICTURE
        theme = path.stem.rpartition("-")[2]
        what = getattr(drawn, path.stem.partition("-")[0])
        assert path.read_text(encoding="utf-8") == what(record, theme)
        assert f"images/imagenet/{path.name}" in links("docs/imagenet.md")
