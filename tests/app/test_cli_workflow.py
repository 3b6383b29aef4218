"""Verbs in sequence: a folder of images is scored, searched, built, run, benchmarked, reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from command_line import Run, refused
from understudy.documents import write_document
from understudy.store import load_table

CLASSES = ("dark", "grey", "light")
NETS = """
import torch
from torch import nn

class Shades(nn.Module):
    '''Classifies by the mean of the first rows: few of them, or all.'''
    input_size, mean, std, scale = (8, 8), (0.0,) * 3, (1.0,) * 3, 255.0

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.pool = nn.Conv2d(3, 1, (rows, 8), bias=False)
        self.pool.weight.data.fill_(1 / (rows * 24))
        self.centres = nn.Parameter(torch.tensor([0.25, 0.5, 0.75]))

    def forward(self, x):
        shade = self.pool(x[:, :, : self.rows]).flatten(1)
        return -40 * (shade - self.centres).abs()

def tiny():
    print("printed by a factory")
    return Shades(1)

def big():
    return Shades(8)

def other():
    return Shades(7)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with noisy grey PNGs and JPEGs in a folder per class, and two nets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # where specs in files are looked for
    monkeypatch.delitem(sys.modules, "shade_nets", raising=False)
    (tmp_path / "shade_nets.py").write_text(NETS)
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(200):
            shade = 64 * (label + 1) + random.normal(0, 25, (8, 1, 1)) + np.zeros((8, 8, 3))
            image = Image.fromarray(shade.clip(0, 255).astype(np.uint8))
            kind = "png" if number % 2 else "jpg"
            image.save(tmp_path / "images" / name / f"{number:03}.{kind}")
    (tmp_path / "images" / "grey" / "broken.png").write_bytes(b"\x89PNG and no more")
    return tmp_path


SCORE = ("score", "py:shade_nets:tiny", "py:shade_nets:big", "--data", "folder:images")
ALLOWED = ("--allow-code", "shade_nets")
SCORED = (*SCORE, "--into", "table", "--batch", 32, "--measure", 1)


def test_from_images_to_a_report(here: Path, run: Run) -> None:
    scored = run(*SCORED, "--json")
    assert scored.json["samples"] == 600
    assert "1 corrupt image was left out: grey/broken.png" in scored.stderr
    assert "printed by a factory" in scored.stderr

    words = ("search", "table", "--max-drop", 8, "--out", "r.json", "--json")
    (found,) = run(*words).json["results"]
    assert [stage["exit"] for stage in found["policy"]["stages"]] == ["tiny", "big"]

    built = run("build", "r.json", "--max-drop", 8, "--into", "cascade", *ALLOWED, "--json").json
    assert built["policy"] == found["policy"]
    refused(run("build", "r.json", "--max-drop", 7, "--into", "c2"), "no choice for a drop of 7")
    refused(run("build", "r.json", "--into", "c2", "--model", "bug=py:a:b"), "did you mean 'big'")
    refused(run("build", "r.json", "--into", "images", *ALLOWED), "a folder of its own")
    refused(
        run("build", "r.json", "--into", "c2", "--model", "big=py:shade_nets:other", *ALLOWED),
        "'big' from 'py:shade_nets:other' is not the model that was scored, its weights",
    )

    command = run(
        "run", "cascade", "--data", "folder:images", "--out", "a.parquet", *ALLOWED, "--json"
    )
    summary = command.json
    assert (summary["samples"], summary["corrupt"]) == (600, 1)
    answers = pl.read_parquet("a.parquet")
    certify = load_table("table").on("certify")  # without a test split
    rows = answers.filter(pl.col("id").is_in(certify.ids.tolist()))
    assert (rows["exit"] == "tiny").mean() == pytest.approx(found["shares"]["tiny"])
    assert (rows["prediction"] == rows["label"]).mean() == pytest.approx(
        found["on"]["certify"]["accuracy"]
    )
    assert (
        run("run", "cascade", "--data", "folder:images", "--out", "a.csv", *ALLOWED).exit_code == 0
    )
    assert pl.read_csv("a.csv")["class"].to_list() == answers["class"].to_list()

    run("search", "table", "--max-drop", 90, "--out", "loose.json")
    built = run("build", "loose.json", "--into", "loose", *ALLOWED, "--json").json
    assert [stage["exit"] for stage in built["policy"]["stages"]] == ["tiny"]
    assert list(built["stages"]) == ["tiny", "big"]  # a server compares with the reference
    assert [one["max_drop"] for one in built["frontier"]] == [90, 0]

    report = run("report", "r.json", "--out", "r.html", "--json").json
    assert report["bytes"] == Path("r.html").stat().st_size
    assert not list(here.glob(".*"))


def test_a_benchmark_goes_into_the_report(here: Path, run: Run) -> None:
    run(*SCORE, "--into", "t")
    run("search", "t", "--max-drop", 8, "--out", "r.json")
    run("build", "r.json", "--into", "cascade", *ALLOWED)
    words = ("bench", "cascade", "--data", "folder:images", "--rounds", 1, "--batch", 16, *ALLOWED)
    figures = run(*words, "--images", 60, "--clients", 3, "--out", "b.json", "--json").json
    assert figures["measured"]["reached"]["tiny"] == 60
    written = json.loads(Path("b.json").read_text())
    assert written.pop("content_hash")
    assert figures == written
    assert figures["accuracy"]["large model alone"] > 0.5
    assert set(figures["peak_memory_bytes"]) == {"large model alone", "executor"}
    assert min(figures["peak_memory_bytes"].values()) > 2**20
    shown = run(*words, "--clients", 0)
    assert "1 round: medians of the ratios" in shown.stdout
    assert " memory" in shown.stdout
    assert "600 images, batches of at most 16" in shown.stdout
    assert run("report", "r.json", "--bench", "b.json").exit_code == 0
    assert "How fast it runs" in Path("report.html").read_text()
    refused(run(*words, "--max-drop=-50"), "-50")
    refused(run("bench", "images", "--data", "folder:images"), "is a folder of something else")
    refused(run("report", "r.json", "--bench", "r.json"), "is no understudy.bench file")


def test_where_to_compute(here: Path, run: Run) -> None:
    refused(run(*SCORE, "--into", "t", "--device", "abacus"), "device 'abacus' cannot be used")
    refused(run(*SCORE, "--into", "t", "--measure", "16,0"), "whole numbers from 1 up")
    assert run(*SCORE, "--into", "t", "--device", "cpu", "--measure", "1,16").exit_code == 0
    assert load_table("t").units == ("MACs", "ms@1", "ms@16")
    search = run("search", "t", "--max-drop", 8, "--cost", "ms@16", "--out", "r.json")
    assert search.exit_code == 0
    run("build", "r.json", "--into", "cascade", *ALLOWED)
    for verb in ("run", "bench"):
        refused(
            run(verb, "cascade", "--data", "folder:images", "--device", "abacus", *ALLOWED),
            "'abacus'",
        )
    words = ("run", "cascade", "--data", "folder:images", "--device", "cpu", *ALLOWED, "--json")
    assert "certified on" not in run(*words).stderr
    record = json.loads(Path("cascade/cascade.json").read_text())
    (scoring,) = record["provenance"]["table"]["provenance"]["runs"]
    scoring["device"] = "cuda"
    scoring["libraries"] |= {"torch": "1.13.1", "timm": "0.4.12", "numpy": "1.0"}
    write_document("cascade/cascade.json", record)
    refused(run(*words), "unless --out names one, 'answers.csv' exists: add --out answers.csv")
    elsewhere = run(*words, "--out", "answers.csv")
    assert elsewhere.json["samples"] == 600
    assert "certified on cuda and runs on cpu" in elsewhere.stderr
    assert "scored with torch 1.13.1 (here " in elsewhere.stderr
    assert "), timm 0.4.12 (here " in elsewhere.stderr
    assert "numpy" not in elsewhere.stderr


def test_a_cascade_on_images_of_other_classes(here: Path, run: Run) -> None:
    run(*SCORED)
    run("search", "table", "--max-drop", 8, "--out", "r.json")
    run("build", "r.json", "--into", "cascade", *ALLOWED)
    (here / "images" / "black").mkdir()
    image = here / "images" / "dark" / "000.jpg"
    (here / "images" / "black" / "000.jpg").write_bytes(image.read_bytes())
    command = run("run", "cascade", "--data", "folder:images", "--out", "a.csv", *ALLOWED)
    refused(command, "has 4 names (black, dark, grey and 1 more) where the models have 3")
    refused(run("bench", "cascade", "--data", "folder:images", *ALLOWED), "where the models have 3")
    refused(run("run", "cascade", "--data", "folder:nowhere", *ALLOWED), "'nowhere' is none")
    head = json.loads((here / "cascade" / "cascade.json").read_text())
    (here / "cascade" / "cascade.json").write_text(json.dumps(head | {"version": 99}))
    refused(run("run", "cascade", "--data", "folder:images"), "version 99")
    (here / "cascade" / "cascade.json").write_text(json.dumps(head))
    (here / "cascade" / "weights" / "big.safetensors").unlink()
    refused(
        run("run", "cascade", "--data", "folder:images", *ALLOWED),
        "the weights of 'big' cannot be read",
    )
    refused(
        run("run", "table", "--data", "folder:images"),
        "'table' is a score table: `understudy search`",
    )


def test_a_corrupt_image_is_an_error_under_strict(here: Path, run: Run) -> None:
    command = run(*SCORED, "--strict")
    message = "'grey/broken.png' of 'folder:images' cannot (its 16 bytes are none of the formats"
    refused(command, message)
    assert not (here / "table").exists()


WRONG_SCORES = {
    "shares": (["--split", "tune=.5"], "sum to 1"),
    "no shares": (["--split", "half"], "--split reads NAME=VALUE, found 'half'"),
    "a file in the way": (["--into", "shade_nets.py"], "'shade_nets.py' is neither"),
    "below a file": (["--into", "shade_nets.py/table"], "cannot be written"),
    "no such factory": (["py:shade_nets:tin"], "no factory 'tin' in 'shade_nets'"),
}


@pytest.mark.parametrize("case", WRONG_SCORES)
def test_a_wrong_score_is_one_sentence(here: Path, run: Run, case: str) -> None:
    changes, words = WRONG_SCORES[case]
    left = {path.name for path in here.iterdir()}
    refused(run(*SCORED, *changes), words)
    assert {path.name for path in here.iterdir()} - {"__pycache__"} == left


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
renamed = []

def interrupt_after_two_shards(event, details):
    if event == "os.rename" and str(details[1]).endswith(".parquet"):
        renamed.append(details)
        if len(renamed) == 3:
            os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt_after_two_shards)
from understudy.app.cli.main import main
main()
"""


@pytest.mark.slow
def test_an_interrupted_score_resumes(here: Path, run: Run) -> None:
    words = [*map(str, SCORED)]
    words[words.index("--batch") + 1] = "1"
    interrupted = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *words], capture_output=True, text=True, check=False
    )
    assert interrupted.returncode == 130, interrupted.stderr
    assert "error: interrupted; finished work is kept" in interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    assert list(here.glob("table.partial/000/*.parquet"))
    assert not (here / "table").exists()
    assert run(*words).exit_code == 0
    assert run(*(word.replace("table", "undisturbed") for word in words)).exit_code == 0
    for file in sorted((here / "undisturbed").rglob("*.parquet")):
        twin = here / "table" / file.relative_to(here / "undisturbed")
        assert twin.read_bytes() == file.read_bytes(), file.name
    assert not list(here.glob("*.partial"))
