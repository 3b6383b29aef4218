"""`understudy reproduce`: its plan, its run on a folder in ImageNet's layout, its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import Run, refused
from tables import synthetic
from understudy.app.report.reproduction_page import render_reproduction
from understudy.app.reproduction_views import reproduction_view
from understudy.display import plain
from understudy.errors import DataError
from understudy.reproduction.papers import (
    ExitSettings,
    Paper,
    PaperRow,
    PublishedFigure,
    load_paper,
)
from understudy.reproduction.procedures import RowTables, reproduce_row
from understudy.reproduction.record import Reproduction
from understudy.reproduction.run import reproduce
from understudy.reproduction.settings import RunSettings
from understudy.reproduction.workload import ModelSize, Rate, workload_of

FIGURES = (PublishedFigure(0.5, "abstract", saving=0.26, version="v3"),)


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve of ImageNet's classes with some images of noise each, in val/ and train/."""
    from understudy.zoo.imagenet_classes import wnids

    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("val", 4), ("train", 5)):
        for wnid in wnids()[:12]:
            (root / split / wnid).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (48, 64, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / wnid / f"{number}.JPEG")
    return root


def test_the_plan_needs_neither_data_nor_network(run: Run) -> None:
    command = run("reproduce", "dyce", "--plan", "--rate", 100, "--json")
    rows = {row["name"]: row for row in command.json["rows"]}
    resnet = ModelSize.of("torchvision:resnet152")
    assert resnet.macs is not None
    assert resnet.parameters is not None
    found = rows["resnet152"]
    assert found["bytes"] == 4 * resnet.parameters
    assert found["scoring_macs"] == 100_000 * resnet.macs
    assert found["training_macs"] == 50 * 1_281_167 * resnet.macs
    assert found["hours"] == pytest.approx(
        (found["scoring_macs"] + found["training_macs"]) / 1e11 / 3600
    )
    page = " ".join(run("reproduce", "little-big", "--plan", "--rate", 100).stdout.split())
    assert "internimage_g: InternImage-G is neither in timm nor in torchvision" in page
    assert "as given by --rate" in page
    assert "Not counted: decoding images" in page


def test_a_plan_is_for_what_is_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    command = run("reproduce", "dyce", "--plan", "--rate", 9, "--imagenet", tmp_path, "--json")
    assert all("has no train/" in row["missing"] for row in command.json["rows"])
    whole = load_paper("tinysaver")
    rows = whole.select(["efficientformerv2_l"])
    with_train = workload_of("tinysaver", whole, rows, limit=100)
    without = workload_of("tinysaver", whole, rows, limit=100, train=False, downloads=False)
    assert with_train.rows[0].records == 100
    assert without.rows[0].records == without.bytes == 0
    assert without.hours is None
    assert replace(without, rate=Rate(1e9, "here")).hours == without.macs / 1e9 / 3600


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dyce",), "add --imagenet DIR, or --plan"),
        (("msdnet", "--plan"), "no paper 'msdnet'"),
        (("dyce", "--only", "vgg", "--plan"), "no row 'vgg'"),
        (("dyce", "--imagenet", "nowhere"), "'nowhere' is none: check the path"),
        (("dyce", "--plan", "--weights", "none"), "found 'none'"),
        (("dyce", "--plan", "--rate", 0), "a number above 0"),
        (("dyce", "--rate", 5), "without --plan"),
        (("dyce", "--plan", "--rate", 4e10), "in 10^9 MACs per second"),
    ],
)
def test_wrong_options_are_one_sentence(
    run: Run, words: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    refused(run("reproduce", *words, "--into", tmp_path / "into"), message, tmp_path)


def test_rows_that_cannot_be_run_are_refused_alone(
    run: Run, imagenet: Path, tmp_path: Path
) -> None:
    into = tmp_path / "into"
    command = run(
        "reproduce", "little-big", "--imagenet", imagenet, "--only", "internimage_g", "--into", into
    )
    refused(command, "no row can be run, found 'internimage_g'", tmp_path)
    (tmp_path / "bare" / "val").mkdir(parents=True)
    bare = run("reproduce", "dyce", "--imagenet", tmp_path / "bare", "--into", into)
    refused(bare, "has no train/", tmp_path, ["bare"])


@pytest.mark.parametrize("width", [60, 100, 160])
def test_published_stands_beside_measured(width: int) -> None:
    table = synthetic(3_000, seed=3)
    row = PaperRow("pairs", FIGURES, "timm:net2", ("timm:net0", "timm:net1"), note="Made up.")
    found, _ = reproduce_row("tinysaver", row, RowTables(table))
    whole = load_paper("tinysaver")
    for weights in ("", "random"):
        record = Reproduction("tinysaver", "imagenet:a", 100, weights, (found,), {"gone": "why"})
        page = plain(reproduction_view(record, whole, [found]), width=width)
        assert max(map(len, page.splitlines())) <= width
        joined = " ".join(page.split())
        assert "26.0 %" in joined
        assert "in-sample" in joined
        assert "savers by ΔC on tune" in joined
        assert ("MEANINGLESS" in joined) == bool(weights)
        html = render_reproduction(record, whole)
        assert ("Random weights." in html) == bool(weights)
        assert "published (abstract, v3)" in html
        assert "<script" not in html


def settings_of(imagenet: Path, into: Path) -> RunSettings:
    return RunSettings(imagenet, into, limit=24, weights="random", batch=12, workers=1)


@pytest.mark.slow
def test_a_paper_from_end_to_end(imagenet: Path, tmp_path: Path) -> None:
    """Pairs, an Exit Sequence Network and exits in real networks with random weights; resumed."""
    big, saver = "torchvision:resnet18", ("torchvision:mobilenet_v3_small",)
    rows = (
        PaperRow("pair", FIGURES, big, saver),
        PaperRow("sequence", FIGURES, big, saver, exits=ExitSettings((), "1x16")),
        PaperRow("exits", FIGURES, big, exits=ExitSettings(("mlp1x1000",))),
        PaperRow("gone", FIGURES, missing="it is gone"),
    )
    training = {"epochs": 1, "patience": 1, "batch": 12}
    paper = Paper("Title", "0000.00000", "p", "o", (), (), rows, training)
    settings, notes = settings_of(imagenet, tmp_path), list[str]()
    record = reproduce("tinysaver", paper, rows, settings, on_note=notes.append)
    assert [one.row.name for one in record.rows] == ["pair", "sequence", "exits"]
    assert record.left_out == {"gone": "it is gone"}
    assert record.meaningless
    assert [one.samples for one in record.rows] == [24] * 3
    assert Reproduction.load(tmp_path / "tinysaver.json") == record
    for one in record.rows:
        assert (tmp_path / one.result).is_file()
        assert one.ranked_on == "train images"
        assert "MACs" in one.base_cost
        assert any(unit.startswith("ms@") for unit in one.base_cost)
    again = reproduce("tinysaver", paper, rows[:2], settings)
    assert again.rows == record.rows
    for changed, message in (
        (replace(settings, weights=""), "has the weights 'random' and not 'published'"),
        (replace(settings, limit=9), "has the images"),
        (replace(settings, epochs=2), "trained with other settings"),
    ):
        with pytest.raises(DataError, match=message):
            reproduce("tinysaver", paper, rows[1:2], changed)


@pytest.mark.slow
def test_a_real_row_on_the_command_line(run: Run, imagenet: Path, tmp_path: Path) -> None:
    words = ("--imagenet", imagenet, "--only", "efficientnet_b2", "--weights", "random")
    more = ("--limit", 24, "--batch", 12, "--into", tmp_path / "into")
    command = run("reproduce", "little-big", *words, *more)
    assert "RANDOM WEIGHTS" in command.stdout
    assert "efficientnet_b2.ra_in1k" in command.stdout
    data = run("reproduce", "little-big", *words, *more, "--json").json
    assert data["weights"] == "random"
    assert json.loads((tmp_path / "into" / "little-big.json").read_text())["rows"] == data["rows"]
    page = (tmp_path / "into" / "little-big.html").read_text(encoding="utf-8")
    assert "efficientnet_b2/report.html" in page
    assert (tmp_path / "into" / "efficientnet_b2" / "report.html").is_file()
