"""The journeys of new users: pages of the documentation, repeated word by word from the wheel.

Each script of examples/journeys consists of a page's commands and of a check that the goal is
reached. It runs in an environment that holds what the page installs, and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from clean_environments import Environment, clean, run
from doc_pages import OF_SCRIPT, PAGES, ROOT, blocks, read, section, shape
from journey_scripts import (
    JOURNEYS,
    LANGUAGES,
    NOTEBOOKS,
    documented,
    repeated,
    requirements,
    scripts,
)

STEPS = {
    "a notebook": ("own_modules.ipynb",),
    "a folder, and into production": ("folder.sh", "export.sh", "compiled.py", "onnx_only.sh"),
    "CSV files": ("csv_files.sh",),
    "exits": ("exits.sh",),
    "no labels": ("few_labels.sh",),
    "Hugging Face": ("hugging_face.py",),
    "scikit-learn": ("estimators.py",),
    "the report": ("report.sh",),
    "a server": ("serve.sh",),
}
ALSO = {"own_modules.ipynb": ("nbclient", "ipykernel")}
"""What a user has besides what is installed."""

MOVED = {"onnx_only.sh": ("onnx", "new")}
"""What is copied to another machine, and nothing else."""


@pytest.mark.parametrize("script", scripts(), ids=lambda script: str(script.name))
def test_a_script_repeats_its_page_word_by_word(script: Path) -> None:
    for place, lines in repeated(script).items():
        assert lines == documented(place, LANGUAGES[script.suffix]), place


def test_every_block_of_the_journeys_is_run() -> None:
    covered = {
        (place.partition("#")[0], block.line)
        for script in scripts()
        for place in repeated(script)
        for block in section(place)
        if block.language == LANGUAGES[script.suffix]
    }
    for page in (page for page in PAGES if page.startswith("docs/journeys/")):
        for block in blocks(page):
            skipped = block.text.startswith("pip install") or "not run" not in block.above
            assert skipped or (page, block.line) in covered, f"{page}:{block.line}"


def test_every_script_belongs_to_a_journey() -> None:
    named = [name for steps in STEPS.values() for name in steps] + ["onnx_only.py"]
    assert sorted([*named, "serve_client.py"]) == sorted(script.name for script in scripts())


def test_pages_install_extras_that_exist() -> None:
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    for page in PAGES:
        for named in re.findall(r"understudy\[([\w,]+)\]", read(page)):
            assert set(named.split(",")) <= set(extras), f"{page}: {named}"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What users bring, made once for all processes that test."""
    folder = tmp_path_factory.getbasetemp().parent / "journeys"
    with (folder.parent / "journeys.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            subprocess.run([sys.executable, JOURNEYS / "make_data.py", unfinished], check=True)
            unfinished.rename(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("journey", STEPS)
def test_a_journey_reaches_its_goal(
    journey: str, environment: Environment, data: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    shutil.copytree(data, here, copy_function=os.link)
    for name in STEPS[journey]:
        if name in MOVED:
            here = moved(MOVED[name], here, tmp_path / "elsewhere")
        programs = environment((*requirements(place_of(name)), *ALSO.get(name, ())))
        output = run(command(name, here), here, clean(programs, home=tmp_path))
        for excerpt in shown(f"examples/journeys/{name}"):
            assert shape(excerpt) in shape(output), excerpt
    assert "reached: " in output


def shown(script: str) -> list[str]:
    """The excerpts of a script's output in the documentation."""
    mark = f"<!-- output of {script} -->"
    return [b.text for page in PAGES for b in blocks(page) if b.above == mark]


def test_scripts_whose_output_is_shown_are_run() -> None:
    steps = {f"examples/journeys/{name}" for names in STEPS.values() for name in names}
    found = {mark for page in PAGES for mark in OF_SCRIPT.findall(read(page))}
    assert found <= steps


def place_of(name: str) -> Path:
    """Where a script or notebook lies."""
    return (NOTEBOOKS if name.endswith(".ipynb") else JOURNEYS) / name


def command(name: str, folder: Path) -> list[str]:
    """The command that runs a script in a folder; a notebook is executed there, as a copy."""
    script = place_of(name)
    if script.suffix == ".ipynb":
        shutil.copy(script, folder)
        return ["python", str(NOTEBOOKS / "execute.py"), name]
    return ["bash" if script.suffix == ".sh" else "python", str(script)]


def moved(names: tuple[str, ...], here: Path, there: Path) -> Path:
    """A folder that holds what was copied, and nothing else."""
    for name in names:
        shutil.copytree(here / name, there / name, copy_function=os.link)
    return there


@pytest.mark.slow
def test_the_documentation_runs_from_the_wheel(environment: Environment, tmp_path: Path) -> None:
    programs = environment(("understudy[all]", "pytest", "hypothesis"))
    words = ["pytest", "-q", "-p", "no:cacheprovider", "tests/test_docs.py"]
    run(words, ROOT, clean(programs, home=tmp_path))
