from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from command_line import Run
from progress import Call, InterruptedRunError, RecordedProgress, after
from table_files import content
from understudy.errors import DataError, ModelError, TableError, UnderstudyError
from understudy.looks import log_look
from understudy.nn.cascade import build
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.scoring.on_disk import score_into
from understudy.searching.search import search
from understudy.store import load_table
from understudy.zoo.data import open_data
from understudy.zoo.models import load_stages

MODELS = {"tiny": "py:digit_nets:tiny", "big": "py:digit_nets:big"}
PIXELS = {"pixels": "py:digit_nets:pixels"}
DIGITS = "digits:heldout"


def scored(path: Path, **more: Any) -> ScoreTable:
    settings = {"batch": 32, "measure_batches": (), **more}
    models = settings.pop("models", MODELS)
    return score_into(path, models, settings.pop("data", DIGITS), **settings)


def partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def parquet_of(images: str, labels: list[int]) -> str:
    """The 15 images of an `image_folder` as a Parquet file, whose classes have no names."""
    root = Path(images.removeprefix("folder:"))
    frame = {"image": [file.read_bytes() for file in sorted(root.rglob("*.png"))], "label": labels}
    file = root.with_suffix(".parquet")
    pl.DataFrame(frame).write_parquet(file)
    return f"parquet:{file}"


def image_folder(root: Path, corrupt: list[str]) -> str:
    generator = np.random.default_rng(0)
    for label in "abc":
        (root / label).mkdir(parents=True)
        for number in range(5):
            buffer = BytesIO()
            size = (5 + number, 7, 3)
            Image.fromarray(generator.integers(0, 256, size, np.uint8)).save(buffer, "PNG")
            name = f"{label}/{number}.png"
            (root / name).write_bytes(b"rubbish" if name in corrupt else buffer.getvalue())
    return f"folder:{root}"


def test_a_table_has_what_was_requested(tmp_path: Path) -> None:
    table = scored(tmp_path / "table", measure_batches=(1, 4))
    assert (table.names, len(table)) == (("tiny", "big"), 900)
    assert table.costs["MACs"] == {"tiny": 640.0, "big": 2368.0}
    assert list(table.times) == ["ms@1", "ms@4"]
    assert all(ms > 0 for parts in table.times.values() for ms in parts.values())
    assert table.classes == tuple("0123456789")
    logits = table.details["big"].logits
    assert logits is not None
    assert logits.dtype == np.dtype(np.float16)
    assert logits.shape == (900, 10)
    origin = table.exits[1].origin
    assert {"spec", "weights_hash", "preprocess", "classes", "parameters", "uncounted"} <= set(
        origin
    )
    provenance = table.provenance
    assert (provenance["data"], provenance["corrupt"]) == (DIGITS, {"count": 0, "ids": []})
    (run,) = provenance["runs"]
    assert (run["exits"], run["batch"], run["device"]) == (["tiny", "big"], 32, "cpu")
    assert {"python", "torch", "numpy", "understudy"} <= set(run["libraries"])
    assert not partial(tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("classes", "keep_logits", "kept"),
    [(100, None, True), (101, None, False), (100, False, False), (101, True, True)],
)
def test_logits_are_kept_for_up_to_100_classes_unless_given(
    tmp_path: Path, classes: int, keep_logits: bool | None, kept: bool
) -> None:
    models = {"pixels": f"py:digit_nets:pixels_of_{classes}_classes"}
    data = parquet_of(image_folder(tmp_path / "images", []), [0, 1, 2] * 5)
    table = scored(tmp_path / "table", models=models, data=data, keep_logits=keep_logits)
    logits = table.details["pixels"].logits
    assert (None if logits is None else logits.shape) == ((15, classes) if kept else None)


def test_a_run_that_kept_no_logits_resumes_without_them(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        scored(tmp_path / "table", keep_logits=False, on_progress=after(20))
    with pytest.raises(DataError, match=r"another for logits \(False, now True\): use the same"):
        scored(tmp_path / "table")
    assert scored(tmp_path / "table", keep_logits=False).details["tiny"].logits is None


@pytest.mark.parametrize("calls", [2, 9, 10, 18, 30])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, calls: int) -> None:
    scored(tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        scored(tmp_path / "table", on_progress=after(calls))
    assert not (tmp_path / "table").exists()
    log = RecordedProgress()
    scored(tmp_path / "table", on_progress=log)
    full_shards = {2: 0, 9: 0, 10: 256, 18: 512, 30: 768}[calls]
    assert log.calls[0] == ("tiny and 1 more", full_shards, 900)
    assert log.calls[-1] == ("tiny and 1 more", 900, 900)
    assert content(tmp_path / "table") == content(tmp_path / "whole")


def emptied(content: bytes) -> bytes:
    return b""


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [emptied, cut, flipped])
def test_damaged_shards_are_scored_again_when_a_run_resumes(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    scored(tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        scored(tmp_path / "table", on_progress=after(30))
    file = sorted(partial(tmp_path / "table").glob("000/*.*"))[1]
    file.write_bytes(damage(file.read_bytes()))
    log = RecordedProgress()
    scored(tmp_path / "table", on_progress=log)
    assert log.calls[0] == ("tiny and 1 more", 512, 900)
    assert content(tmp_path / "table") == content(tmp_path / "whole")


def test_measured_times_survive_an_interruption(tmp_path: Path) -> None:
    def in_the_second_unit(calls: list[Call]) -> bool:
        return calls[-1][0] == "measuring ms@4"

    log = RecordedProgress(in_the_second_unit)
    with pytest.raises(InterruptedRunError):
        scored(tmp_path / "table", measure_batches=(2, 4), on_progress=log)
    kept = json.loads((partial(tmp_path / "table") / "ms@2.json").read_text())
    table = scored(tmp_path / "table", measure_batches=(2, 4))
    assert table.times["ms@2"] == kept["median"]
    assert [sitting.unit for sitting in table.sittings] == ["ms@2", "ms@4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 64}, r"another for batch \(32, now 64\)"),
        ({"data": "digits:train"}, "another for data"),
        ({"models": {"tiny": MODELS["tiny"]}}, "another for models"),
        ({"keep_logits": False}, r"another for logits \(True, now False\)"),
        (
            {"models": {"tiny": "py:digit_nets:restless", "big": MODELS["big"]}},
            "another for models",
        ),
    ],
)
def test_a_run_resumes_under_the_same_plan_alone(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InterruptedRunError):
        scored(tmp_path / "table", on_progress=after(20))
    with pytest.raises(DataError, match=f"{message}.*or delete that folder"):
        scored(tmp_path / "table", **change)


def test_changed_weights_are_not_mixed(tmp_path: Path) -> None:
    models = {"restless": "py:digit_nets:restless"}
    with pytest.raises(ModelError, match=r"same weights whenever it is loaded.*set a seed"):
        scored(tmp_path / "table", models=models)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images_are_left_out_and_named(tmp_path: Path, workers: int) -> None:
    corrupt = ["a/0.png", "b/3.png"]
    data = image_folder(tmp_path / "images", corrupt)
    table = scored(tmp_path / "table", models=PIXELS, data=data, batch=2, workers=workers)
    assert table.provenance["corrupt"] == {"count": 2, "ids": corrupt}
    assert len(table) == 13
    assert not set(corrupt) & set(table.ids)
    assert table.label is not None
    assert [f"{'abc'[label]}/" for label in table.label] == [name[:2] for name in table.ids]


def test_a_corrupt_image_is_an_error_with_strict(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "images", ["b/3.png"])
    with pytest.raises(DataError, match=r"'b/3.png' of .* cannot"):
        scored(tmp_path / "table", models=PIXELS, data=data, strict=True)
    assert not partial(tmp_path / "table").exists()


def test_a_run_that_dies_while_writing_the_table_has_nothing_to_score_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: object) -> None:
        raise InterruptedRunError

    data = image_folder(tmp_path / "images", ["b/3.png"])
    with monkeypatch.context() as patch:
        patch.setattr("understudy.scoring.on_disk.save_table", die)
        with pytest.raises(InterruptedRunError):
            scored(tmp_path / "table", models=PIXELS, data=data)
    with pytest.raises(DataError, match=r"1 of 15 cannot \('b/3.png'\)"):
        scored(tmp_path / "table", models=PIXELS, data=data, strict=True)
    log = RecordedProgress()
    assert len(scored(tmp_path / "table", models=PIXELS, data=data, on_progress=log)) == 14
    assert log.calls == [("pixels", 15, 15)]


def test_data_without_one_whole_image(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "images", [f"{c}/{n}.png" for c in "abc" for n in range(5)])
    with pytest.raises(DataError, match=r"no image of .* can be decoded \(15 tried\)"):
        scored(tmp_path / "table", models=PIXELS, data=data)


def test_further_models_become_further_exits(tmp_path: Path) -> None:
    path = tmp_path / "table"
    data = image_folder(tmp_path / "images", ["c/1.png"])
    split = ["tune", "certify", "test"] * 5
    first = scored(path, models=PIXELS, data=data, split=split, measure_batches=(1,))
    log_look(path, first.on("certify").ids, why="a search")
    further = {"more": "py:digit_nets:more_pixels"}
    table = scored(path, models=further, data=data, measure_batches=(1,))
    together = scored(tmp_path / "both", models=PIXELS | further, data=data, split=split)
    assert table.names == ("pixels", "more")
    assert table.hash == together.hash
    assert table.split.tolist() == first.split.tolist()
    assert set(table.times["ms@1"]) == {"pixels", "more"}
    assert table.times["ms@1"]["pixels"] == first.times["ms@1"]["pixels"]
    assert [run["exits"] for run in table.provenance["runs"]] == [["pixels"], ["more"]]
    assert log_look(path, table.on("certify").ids, why="another search") == 2
    assert table.details["pixels"].top_classes.shape == (14, 3)


def test_further_models_keep_logits_where_the_older_ones_have_none(tmp_path: Path) -> None:
    path = tmp_path / "table"
    scored(path, models={"tiny": MODELS["tiny"]}, keep_logits=False)
    scored(path, models={"big": MODELS["big"]})
    table = load_table(path)
    assert [table.details[name].logits is not None for name in table.names] == [False, True]
    search(table, reference="big", max_drop=50.0)


def test_further_models_need_the_same_data_and_other_names(tmp_path: Path) -> None:
    path = tmp_path / "table"
    scored(path)
    before = content(path)
    with pytest.raises(TableError, match=r"scored on the same data.*choose another folder"):
        scored(path, data="digits:train")
    with pytest.raises(TableError, match=r"another model 'tiny' \(its weights .*name this"):
        scored(path, models={"tiny": MODELS["big"]})
    assert content(path) == before
    assert [file.name for file in tmp_path.iterdir()] == ["table"]


@pytest.mark.parametrize(
    "more", [{}, {"batch": 64}, {"workers": 1}, {"measure_batches": (2,)}, {"keep_logits": False}]
)
def test_a_finished_table_stays_as_it_is(tmp_path: Path, more: dict[str, Any]) -> None:
    path = tmp_path / "table"
    whole = scored(path)
    before, log = content(path), RecordedProgress()
    assert scored(path, on_progress=log, **more).hash == whole.hash
    assert (content(path), log.calls) == (before, [])
    assert [file.name for file in tmp_path.iterdir()] == ["table"]


def test_the_command_again_has_nothing_to_do(tmp_path: Path, run: Run) -> None:
    words = ("score", "tiny=py:digit_nets:tiny", "--data", DIGITS, "--into", tmp_path / "table")
    first = run(*words, "--measure", "none", "--json")
    assert (first.json["scored"], "nothing to do" in first.stderr) == (["tiny"], False)
    again = run(*words, "--workers", "1", "--json")
    assert again.json == {**first.json, "scored": []}
    assert again.stderr.startswith("nothing to do: ")
    assert "unchanged in" in run(*words).stdout


def test_models_that_a_table_has_are_not_scored_again(tmp_path: Path) -> None:
    path, log = tmp_path / "table", RecordedProgress()
    scored(path, models={"tiny": MODELS["tiny"]})
    assert scored(path, on_progress=log).names == ("tiny", "big")
    assert {name for name, *_ in log.calls} == {"big"}
    assert [run["exits"] for run in load_table(path).provenance["runs"]] == [["tiny"], ["big"]]


def test_what_cannot_work_fails_first_and_leaves_nothing(tmp_path: Path) -> None:
    def refused(kind: type[Exception], message: str, **more: Any) -> None:
        with pytest.raises(kind, match=message):
            scored(tmp_path / "table", **more)
        assert list(tmp_path.iterdir()) == []

    seven = {"seven": "py:digit_nets:seven"}
    refused(ModelError, "at least one model", models={})
    refused(ModelError, "same classes", models=MODELS | seven)
    refused(DataError, "has 10 names .* where the models have 7", models=seven)
    refused(ModelError, "'poisoned' gives NaN", models={"poisoned": "py:digit_nets:poisoned"})
    refused(DataError, "C = 3", models=PIXELS)
    refused(ModelError, "did you mean 'tiny'", models={"tiny": "py:digit_nets:tinny"})
    refused(DataError, "found 0 and", batch=0)
    refused(ModelError, "device 'gpu' cannot be used", device="gpu")
    refused(TableError, "one split per sample, found 2 for 900", split=["tune", "test"])
    refused(TableError, "one group per sample, found 1 for 900", groups=["one"])
    refused(TableError, "sum to 1", split={"tune": 0.5})


def test_labels_out_of_range_are_counted(tmp_path: Path) -> None:
    data = parquet_of(image_folder(tmp_path / "images", []), [*range(12), 0, 1, 2])
    with pytest.raises(DataError, match=r"0 to 2, 9 of 15 in .* \(found 0 to 11\)"):
        scored(tmp_path / "table", models=PIXELS, data=data)


def test_places_where_no_table_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "other").write_text("something")
    for name in ("file", "folder"):
        with pytest.raises(TableError, match="neither: choose another name"):
            scored(tmp_path / name)
    with pytest.raises(UnderstudyError, match="cannot be written"):
        scored(tmp_path / "file" / "table")
    partial(tmp_path / "table").mkdir()
    (partial(tmp_path / "table") / "mine").write_text("something")
    with pytest.raises(DataError, match="something else is"):
        scored(tmp_path / "table")


def test_the_same_run_twice_is_the_same_table(tmp_path: Path) -> None:
    scored(tmp_path / "first")
    scored(tmp_path / "second", workers=0)
    assert content(tmp_path / "first") == content(tmp_path / "second")
    assert load_table(tmp_path / "first").hash == load_table(tmp_path / "second").hash


def test_half_precision_is_scored_and_built_by_spec(tmp_path: Path) -> None:
    """The answers of the cascade are those of the table, and not those of full precision."""
    models = {"big": MODELS["big"], "half": f"{MODELS['big']}?run=bfloat16"}
    table = scored(tmp_path / "table", models=models)
    full, half = (table.details[name].logits for name in models)
    assert not np.array_equal(np.asarray(full), np.asarray(half))
    cascade = build(Policy.single("half"), {"half": load_stages(models["half"], "half")["half"]})
    data = open_data(DIGITS)
    answers = cascade.answer(torch.stack([data.image(index) for index in range(32)]))
    assert answers.prediction.tolist() == table.prediction[1][:32].tolist()
    assert np.array_equal(answers.confidence, table.confidence["max_softmax"][1][:32])
