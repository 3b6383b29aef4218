"""The command line as a whole: every verb's help, how fast it starts, processes, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from inspect import cleandoc
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperOption

import understudy
from command_line import Run, refused
from tables import synthetic
from understudy.app.cli.main import app
from understudy.app.cli.score import score
from understudy.app.cli.terminal import answer_table
from understudy.nn.mode_options import OPTIONS
from understudy.zoo.data_specs import SCHEMES as DATA
from understudy.zoo.model_specs import SCHEMES as MODELS

COMMANDS: dict[str, TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
HEAVY = {"numpy", "polars", "torch", "numba", "scipy", "sklearn", "timm", "jinja2"}

HELP = f"""
import sys
sys.argv = ["understudy", *sys.argv[1:], "--help"]
from understudy.app.cli.main import main
try:
    main()
finally:
    loaded = {HEAVY} & set(sys.modules)
    assert not loaded, loaded
"""


def process(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("verb", ["", *COMMANDS])
def test_help_loads_nothing_heavy(tmp_path: Path, verb: str) -> None:
    ended = process("-c", HELP, *([verb] if verb else []), folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Usage: understudy" in ended.stdout
    assert "bool" not in ended.stdout.lower(), "flags take no value"
    assert str(2**63 - 1) not in ended.stdout


def test_a_seed_has_63_bits(run: Run) -> None:
    command = run("optimism", "table", "--max-drop", 1, "--seed", 2**63)
    assert command.exit_code == 2
    assert "has more than 63 bits" in " ".join(command.stderr.split())


def test_the_help_of_score_has_every_scheme_and_option_at_80_columns(tmp_path: Path) -> None:
    ended = process("-m", "understudy", "score", "--help", folder=tmp_path, COLUMNS="80")
    lines = [line.rstrip() for line in ended.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "…" not in ended.stdout
    for scheme, options in (*MODELS.items(), *DATA.items()):
        assert f"{scheme}:" in ended.stdout
        assert all(f"?{option}=" in ended.stdout for option in options)
    assert all(mode in ended.stdout for mode in OPTIONS)
    listed = [f" {line}" for line in cleandoc(score.__doc__ or "").splitlines() if line[:2] == "  "]
    assert len(listed) > 10
    assert set(listed) <= set(lines), "lists keep their lines"


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_takes_json_and_few_options(verb: str) -> None:
    options = [
        option
        for option in COMMANDS[verb].params
        if isinstance(option, TyperOption) and not option.hidden
    ]
    assert "--json" in {name for option in options for name in option.opts}
    most = {"serve": 17}.get(verb, 15)  # serve: those of a server, and where on a cluster it runs
    assert len(options) <= most
    assert all(option.help for option in options)


def test_a_process_ends_with_code_2_and_one_sentence(tmp_path: Path) -> None:
    words = ("-m", "understudy", "search", "x", "--max-drop", "1")
    ended = process(*words, folder=tmp_path, COLUMNS="40")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: a score table is a folder with a table.json, 'x' is")
    assert ended.stderr.count("\n") == 1


def test_verbs_are_completed(tmp_path: Path) -> None:
    ended = process(
        *("-c", "from understudy.app.cli.main import app; app(prog_name='understudy')"),
        folder=tmp_path,
        _UNDERSTUDY_COMPLETE="complete_bash",
        COMP_WORDS="understudy import",
        COMP_CWORD="1",
    )
    assert ended.stdout.split() == ["import", "import-exits", "import-labels"]


def test_the_version(run: Run) -> None:
    assert run("--version").stdout == f"understudy {understudy.__version__}\n"


def test_an_unknown_verb_is_refused(run: Run) -> None:
    command = run("serach")
    assert command.exit_code == 2
    assert "search" in command.stderr
    assert "Traceback" not in command.stderr


def test_a_missing_file_is_one_sentence(run: Run, tmp_path: Path) -> None:
    refused(run("report", tmp_path / "none.json"), "does not exist", tmp_path)
    refused(run("build", tmp_path / "none.json", "--into", tmp_path / "c"), "exist", tmp_path)


def test_a_table_whose_exits_are_measured_in_other_batches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exits that were scored later may have a time in another unit."""
    table = replace(synthetic(50), times={"ms@4": {"net0": 1.0}})
    answer_table(table, Path("table"), as_json=False)
    lines = filter(None, map(str.split, capsys.readouterr().out.splitlines()))
    rows = {words[0]: words[-1] for words in lines}
    assert (rows["net0"], rows["net1"]) == ("1", "–")
