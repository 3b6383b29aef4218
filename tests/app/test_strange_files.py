"""Files of a stranger run no code: every kind of file that names models, through every verb."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from command_line import Run, refused
from understudy.app.build_cascade import build_cascade
from understudy.documents import write_document
from understudy.early_exit.network import attach
from understudy.early_exit.serialization import save_exits
from understudy.errors import ModelError, UnderstudyError
from understudy.files import read_json
from understudy.nn.cascade import Cascade
from understudy.nn.stage import Stage
from understudy.onnx.bundle import read_bundle
from understudy.policy import Policy
from understudy.result import Result
from understudy.scoring.on_disk import score_into
from understudy.searching.search import search
from understudy.store import load_table
from understudy.zoo.models import load_stage, load_stages
from understudy.zoo.saved_cascades import load_cascade, save_cascade

OWN, STRANGE = "digit_nets", "nets_of_a_stranger"
MARKED = f"from pathlib import Path\nPath('ran').touch()\nfrom {OWN} import *\n"
DATA = ("--data", "digits:heldout")


def rename(file: Path, old: str = OWN, new: str = STRANGE) -> None:
    """Name another module in a file, with a content hash that fits, as a stranger would."""
    write_document(file, json.loads(file.read_text().replace(f"py:{old}", f"py:{new}")))


@pytest.fixture(scope="module")
def gift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, a result, a cascade and exits whose specs name a module that lies beside them."""
    here = tmp_path_factory.mktemp("gift")
    models = {name: f"py:{OWN}:{name}" for name in ("tiny", "big")}
    table = score_into(here / "table", models, "digits:heldout", batch=256, measure_batches=())
    found = search(table, reference="big", max_drop=[50.0])
    found.save(here / "result.json")
    stages: dict[str, Stage] = {name: load_stage(spec) for name, spec in models.items()}
    save_cascade(Cascade(stages, Policy.pair("tiny", "big", 0.2)), here / "cascade")
    network = attach(stages["big"], {"1": "linear"})
    save_exits(network, here / "exits", name="net")
    for name in ("table/table.json", "result.json", "cascade/cascade.json", "exits/exits.json"):
        rename(here / name)
    nested = read_json(here / "cascade" / "cascade.json", ModelError, "a cascade")
    (here / "nested").mkdir()
    for entry in nested["stages"].values():
        entry["spec"] = "exits:exits"
    write_document(here / "nested" / "cascade.json", nested)
    of_exits = json.loads((here / "result.json").read_text())
    for single in of_exits["singles"]:
        single["origin"] = {"spec": "exits:exits"}
    write_document(here / "of_exits.json", of_exits)
    (here / f"{STRANGE}.py").write_text(MARKED)
    return here


@pytest.fixture
def here(gift: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(gift)
    monkeypatch.delitem(sys.modules, STRANGE, raising=False)
    (gift / "ran").unlink(missing_ok=True)
    return gift


VERBS = {
    "run a cascade": ("run", "cascade", *DATA),
    "bench a cascade": ("bench", "cascade", *DATA),
    "export a cascade": ("export", "cascade", "--onnx", "onnx"),
    "build a result": ("build", "result.json", "--into", "built"),
    "build a result of exits": ("build", "of_exits.json", "--into", "built"),
    "score exits": ("score", "exits:exits", *DATA, "--into", "scored"),
    "score exits into a table": ("score", "exits:exits", *DATA, "--into", "table"),
}


@pytest.mark.parametrize("case", VERBS)
def test_what_a_file_names_is_not_imported(here: Path, run: Run, case: str) -> None:
    words = VERBS[case]
    before = sorted(map(str, here.rglob("*")))
    command = run(*words)
    refused(command, f"would import the module {STRANGE!r} and call its ")
    assert re.search(r"'\S*(cascade/cascade|result|exits/exits)\.json' would", command.stderr)
    assert command.stderr.rstrip().endswith(
        f"add --allow-code {STRANGE} (allow_code=[{STRANGE!r}] in Python)"
    )
    refused(run(*words, "--allow-code", "another.module"), "allowed are 'another.module'")
    assert not (here / "ran").exists()
    assert sorted(map(str, here.rglob("*"))) == before


@pytest.mark.parametrize("case", VERBS)
def test_the_working_directory_is_no_import_path_for_files(here: Path, run: Run, case: str) -> None:
    command = run(*VERBS[case], "--allow-code", STRANGE)
    refused(command, f"No module named {STRANGE!r}")
    assert "PYTHONPATH=. for this one" in command.stderr
    assert not (here / "ran").exists()


def test_verbs_that_need_no_model_import_none(here: Path, run: Run) -> None:
    run("run", "nested", *DATA)
    run("search", "table", "--reference", "big", "--max-drop", 40, "--in-sample")
    run("verify", "result.json", "table")
    run("report", "result.json", "--out", "report.html")
    run("difficulty", "table")
    run("train-exits", "exits:exits", *DATA, "--into", "more")
    run("taps", "exits:exits")
    assert not (here / "ran").exists()
    assert STRANGE not in sys.modules


def test_a_module_that_is_allowed_is_imported(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(here)
    command = run(*VERBS["run a cascade"], "--allow-code", STRANGE, "--json")
    assert command.json["samples"] == 900
    assert (here / "ran").exists()


def test_code_is_allowed_in_python_too(here: Path) -> None:
    with pytest.raises(ModelError, match=r"'cascade/cascade.json' would import the module"):
        load_cascade("cascade")
    with pytest.raises(ModelError, match=r"a list of modules, found the text"):
        load_cascade("cascade", allow_code=STRANGE)
    with pytest.raises(ModelError, match=r"'exits/exits.json' would import the module"):
        load_stages("exits:exits", "net")
    result = Result.load("result.json")
    with pytest.raises(ModelError, match="'the result' would import the module"):
        build_cascade(result, here / "built", max_drop=None, specs={})
    assert not (here / "ran").exists()


def test_specs_that_you_write_need_no_leave(here: Path, run: Run) -> None:
    own = {name: f"py:{STRANGE}:{name}" for name in ("tiny", "big")}
    models = (word for name, spec in own.items() for word in ("--model", f"{name}={spec}"))
    assert run("build", "result.json", "--into", here / "built", *models).exit_code == 0
    assert (here / "ran").exists()


def test_python_m_does_not_look_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    command = [sys.executable, "-m", "understudy", "--version"]
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "ran").exists()


def test_links_do_not_lead_out_of_a_folder(here: Path, run: Run, tmp_path: Path) -> None:
    cascade = tmp_path / "cascade"
    (cascade / "weights").mkdir(parents=True)
    for file in (here / "cascade").rglob("*.*"):
        if file.is_file():
            (cascade / file.relative_to(here / "cascade")).write_bytes(file.read_bytes())
    rename(cascade / "cascade.json", STRANGE, OWN)
    weights = cascade / "weights" / "tiny.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"tiny.safetensors' is a link to .*elsewhere"):
        load_cascade(cascade, allow_code=[OWN])
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ModelError, match="is a pipe or a device"):
        load_cascade(cascade, allow_code=[OWN])
    weights.unlink()
    (tmp_path / "elsewhere").rename(cascade / "weights" / "real")
    weights.symlink_to("real")
    (tmp_path / "link").symlink_to(cascade)
    assert load_cascade(tmp_path / "link", allow_code=[OWN])(
        torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    ).shape == (2, 10)


def test_links_of_tables_and_exported_cascades(here: Path, tmp_path: Path) -> None:
    for name, read in (("table", load_table), ("onnx", read_bundle)):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("table.json", "onnx.json"):
            (folder / file).write_text("{}")
        (folder / "samples").symlink_to(here / "result.json")
        with pytest.raises(UnderstudyError, match=r"samples' is a link to .*result.json"):
            read(folder)
        (folder / "samples").unlink()
        os.mkfifo(folder / "samples")
        with pytest.raises(UnderstudyError, match="is a pipe or a device"):
            read(folder)
