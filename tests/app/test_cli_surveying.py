"""optimism, search --all and the import of a record, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from command_line import Run, Said
from tables import synthetic
from test_import_exits import MACS, record_of, written
from understudy.app.cli import optimism as optimism_verb
from understudy.errors import PolicyError
from understudy.import_exits import import_record
from understudy.searching.optimism import optimism
from understudy.searching.savers import best_savers
from understudy.store import count_looks, load_table, save_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    save_table(synthetic(1500), tmp_path / "table")
    return tmp_path / "table"


def refused(said: Said, words: str) -> None:
    """Exit code 2 and one sentence."""
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert words in said.err


# -- optimism ---------------------------------------------------------------------------------

app = typer.Typer()
app.callback()(lambda: None)
optimism_verb.register(app)


def test_optimism_answers_in_json_and_leaves_the_looks_alone(table: Path) -> None:
    words = ["optimism", str(table), "--max-drop", "1,2", "--resamples", "3", "--seed", "5"]
    said = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    expected = optimism(load_table(table), max_drop=[1.0, 2.0], resamples=3, seed=5)
    assert json.loads(said.stdout) == json.loads(json.dumps(expected.to_dict()))
    assert count_looks(table) == 0


def test_optimism_answers_people(table: Path) -> None:
    words = ["optimism", str(table), "--max-drop", "1", "--resamples", "2"]
    said = CliRunner().invoke(app, words, catch_exceptions=False)
    assert said.exit_code == 0


def test_optimism_refuses_what_makes_no_sense(table: Path) -> None:
    words = ["optimism", str(table), "--max-drop", "nan"]
    said = CliRunner().invoke(app, words)
    assert isinstance(said.exception, PolicyError)


# -- search --all -----------------------------------------------------------------------------


def test_all_shows_the_best_saver_of_every_model(run: Run, table: Path) -> None:
    said = run("search", table, "--max-drop", "0.5,2", "--all", "--json")
    assert (said.code, said.err) == (0, "")
    expected = best_savers(load_table(table), [0.5, 2.0]).to_dict()
    assert json.loads(said.out) == json.loads(json.dumps(expected))
    assert count_looks(table) == 0
    page = run("search", table, "--max-drop", "2", "--all").out
    for word in ("the best saver of every model", "net2", "net1", "nothing is certified"):
        assert word in page


@pytest.mark.parametrize(
    "words",
    [
        ("--out", "result.json"),
        ("--frontier", "frontier.json"),
        ("--in-sample",),
        ("--reference", "net2"),
    ],
)
def test_all_stands_alone(run: Run, table: Path, words: tuple[str, ...]) -> None:
    said = run("search", table, "--max-drop", "2", "--all", *words)
    refused(said, words[0])
    assert not Path("result.json").exists()


def test_all_needs_a_budget(run: Run, table: Path) -> None:
    refused(run("search", table, "--all"), "at least one budget")


# -- import --dyce-record ---------------------------------------------------------------------


def test_a_record_becomes_a_table(run: Run, tmp_path: Path) -> None:
    record, macs = written(tmp_path, record_of(400), MACS)
    said = run("import", tmp_path / "t", "--dyce-record", record, "--macs", macs, "--json")
    assert said.code == 0, said.err
    data = json.loads(said.out)
    assert data["exits"][-1] == "base"
    assert data["hash"] == import_record(record, macs).hash == load_table(tmp_path / "t").hash
    said = run("search", tmp_path / "t", "--max-drop", "5", "--json")
    assert json.loads(said.out)["reference"] == "base"


def test_a_record_takes_shares(run: Run, tmp_path: Path) -> None:
    record, macs = written(tmp_path, record_of(400), MACS)
    words = ("--dyce-record", record, "--macs", macs, "--split", "tune=.5,certify=.5")
    assert run("import", tmp_path / "t", *words).code == 0
    assert not (load_table(tmp_path / "t").split == 2).any()


def test_the_two_kinds_of_import_do_not_mix(run: Run, tmp_path: Path) -> None:
    record, macs = written(tmp_path, record_of(), MACS)
    both = ("--dyce-record", record, "--macs", macs)
    for option, value in (("--labels", "a.csv"), ("--cost", "a=1"), ("--unit", "ms")):
        refused(run("import", tmp_path / "t", *both, option, value), option)
    refused(run("import", tmp_path / "t", *both[:2]), "--macs")
    refused(run("import", tmp_path / "t", *both[2:]), "--dyce-record")
    refused(run("import", tmp_path / "t", "--labels", "a.csv"), "no --key, --exit, --cost")
    assert not (tmp_path / "t").exists()


def test_a_pickled_record_is_one_sentence(run: Run, tmp_path: Path) -> None:
    record, macs = written(tmp_path, record_of(), MACS)
    record.write_bytes(b"\x80\x04N.")
    refused(run("import", tmp_path / "t", "--dyce-record", record, "--macs", macs), "unpickled")
