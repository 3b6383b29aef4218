"""`apply` and `report --on`: results and cascades on other tables, and exit code 2."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import doc_models
from command_line import Run, refused
from tables import synthetic
from understudy import build, save_cascade, score, search
from understudy.app.policies_at import policies_at
from understudy.documents import HASH, write_document
from understudy.looks import count_looks
from understudy.policy import Policy
from understudy.result import Result
from understudy.shift import ShiftCard
from understudy.store import load_table, save_table


@pytest.fixture(scope="module")
def found() -> Result:
    return search(synthetic(4000), max_drop=[1.0, 5.0])


@pytest.fixture
def result(found: Result, tmp_path: Path) -> Path:
    found.save(tmp_path / "result.json")
    return tmp_path / "result.json"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    save_table(synthetic(1500, seed=1), tmp_path / "other")
    return tmp_path / "other"


def test_a_result_on_other_tables(run: Run, result: Path, table: Path, other: Path) -> None:
    card = other.parent / "card.json"
    data = run("apply", result, other, f"mine={table}", "--out", card, "--json").json
    assert [one["name"] for one in data["tables"]] == ["other", "mine"]
    assert data == ShiftCard.load(card).to_dict()
    assert data["plans"][0]["on"]["other"]["promise"] == "void"
    assert data["plans"][0]["on"]["mine"]["promise"] == "holds"
    assert count_looks(other, ["0"]) == 1
    printed = run("apply", result, other).stdout
    assert "as searched" in printed
    assert f"understudy report {result} --on {other}" in printed


def test_the_report_has_a_section(run: Run, result: Path, other: Path) -> None:
    page = other.parent / "page.html"
    save_table(replace(load_table(other), label=None), other.parent / "bare")
    words = ("report", result, "--out", page, "--on", other, "--on", other.parent / "bare")
    assert run(*words, "--json").exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert 'id="h-shift"' in text
    assert "The drop of every plan on other tables" in text
    assert "<strong>bare.</strong>" in text
    assert run("report", result, "--out", page, "--json").exit_code == 0
    assert 'id="h-shift"' not in page.read_text(encoding="utf-8")


def test_a_cascade_on_other_tables(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its operating points are measured as the result's are, without PyTorch's models."""
    monkeypatch.setitem(sys.modules, "nets", doc_models)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {"small": doc_models.small(), "large": doc_models.large()}
    for name, stage in models.items():
        stage.origin = {"spec": f"py:nets:{name}"}
    images, labels = doc_models.digits("heldout")
    table = score(models, DataLoader(TensorDataset(images, labels), batch_size=300))
    found = search(table, reference="large", max_drop=[90.0, 95.0], without=["ensembles"])
    save_cascade(build(found, models), tmp_path / "cascade")
    half = table.rows(slice(0, 450))
    save_table(half, tmp_path / "half")
    data = run("apply", tmp_path / "cascade", tmp_path / "half", "--split", "all", "--json").json
    outcomes = {plan["max_drop"]: plan["on"]["half"]["outcome"] for plan in data["plans"]}
    expected = found.apply({"half": half}, split="all")
    proved = [plan for plan in expected.plans if plan.proof is not None]
    assert proved
    for plan in proved:
        assert plan.max_drop is not None
        assert outcomes[plan.max_drop] == plan.on["half"].outcome.to_dict()
    strange = [replace(e, origin={**e.origin, "weights_hash": "0"}) for e in half.exits]
    save_table(replace(half, exits=tuple(strange)), tmp_path / "strange")
    refused(run("apply", tmp_path / "cascade", tmp_path / "strange"), "other weights")
    certificate = found.choice(90.0).certificate
    assert certificate is not None
    proof = {"certificate": certificate.to_dict()}
    save_cascade(build(found, models), tmp_path / "proved", provenance=proof)
    file = tmp_path / "proved" / "cascade.json"
    data = json.loads(file.read_text())
    data["policy"] = Policy.single("large").to_dict()
    write_document(file, {key: value for key, value in data.items() if key != HASH})
    refused(run("apply", tmp_path / "proved", tmp_path / "half"), "policy of a saved cascade")


def test_what_is_none_of_these_is_a_sentence(
    run: Run, result: Path, table: Path, other: Path, tmp_path: Path
) -> None:
    refused(run("apply", table, other), "is a score table: `understudy search` it")
    refused(run("apply", tmp_path / "none.json", other), "none.json")
    refused(run("apply", result, tmp_path / "none"), "a score table is a folder")
    refused(run("apply", result, other, other), "'other' repeats: write NAME=")
    refused(run("apply", result, other, "--split", "tset"), "no split 'tset'")
    save_table(synthetic(900, exits=2), tmp_path / "two")
    refused(run("apply", result, tmp_path / "two"), "no exit 'net2' in 'two'")
    (tmp_path / "cascade").mkdir()
    (tmp_path / "cascade" / "cascade.json").write_text("{}")
    refused(run("apply", tmp_path / "cascade", other), "cascade.json")


def test_policies_know_their_exits(result: Path) -> None:
    assert policies_at(result).exits == ("net0", "net1", "net2")
