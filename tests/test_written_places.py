from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Run, refused
from understudy.errors import ModelError
from understudy.zoo.saved_cascades import load_cascade


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with one of each that is written, known by its mark alone."""
    for folder, mark in (
        ("table", "table.json"),
        ("cascade", "cascade.json"),
        ("onnx", "onnx.json"),
        ("exits", "exits.json"),
        ("images", "a.png"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / mark).write_text("{}")
    (tmp_path / "result.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASCADES = {
    "result.json": "'result.json' is a file: `understudy build` it first if it is a search result",
    "table": "'table' is a score table: `understudy search` it and `understudy build` the result",
    "exits": "'exits' is a folder of exits: `understudy score` it",
    "images": "'images' is a folder of something else: check the path",
    "gone": "'gone' does not exist: check the path",
}


@pytest.mark.parametrize("place", CASCADES)
def test_what_is_no_cascade_is_named(here: Path, run: Run, place: str) -> None:
    left = {path.name for path in here.iterdir()}
    for verb in ("run", "bench"):
        refused(run(verb, place, "--data", "images"), CASCADES[place], here, left)
    refused(run("export", place, "--onnx", "new"), CASCADES[place], here, left)
    with pytest.raises(ModelError) as caught:
        load_cascade(place)
    assert CASCADES[place] in str(caught.value)


def test_an_exported_cascade_is_not_exported_again(here: Path, run: Run) -> None:
    command = run("export", "onnx", "--onnx", "new")
    refused(command, "'onnx' is an exported cascade: name what it was exported from")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("table", "'table' is a score table: `understudy search` it first"),
        ("exits", "'exits' is a folder of exits: `understudy score` it and search the table first"),
        ("cascade", "'cascade' is a cascade: name the file"),
    ],
)
def test_what_is_no_result_is_named(here: Path, run: Run, place: str, message: str) -> None:
    refused(run("build", place, "--into", "new"), message)
    refused(run("report", place), message)
