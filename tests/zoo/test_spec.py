from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import Run, refused
from understudy.errors import DataError, ModelError
from understudy.nn.execution_mode import ExecutionMode
from understudy.nn.mode_options import OPTIONS
from understudy.zoo.data import open_data
from understudy.zoo.data_specs import parse_data_spec
from understudy.zoo.hub_names import check_name, model_names
from understudy.zoo.model_specs import check_found, named_specs, parse_model_spec
from understudy.zoo.spec import parse_spec

SCHEMES = {"timm": ("classes", "checkpoint"), "digits": ()}
WORD = st.text(st.characters(exclude_characters="?&="), min_size=1)


@given(target=WORD, classes=WORD, file=WORD)
def test_a_spec_keeps_every_character(target: str, classes: str, file: str) -> None:
    spec = parse_spec(
        f"timm:{target}?classes={classes}&checkpoint={file}=",
        SCHEMES,
        what="model",
        error=ModelError,
    )
    assert (spec.scheme, spec.target) == ("timm", target)
    assert spec.options == {"classes": classes, "checkpoint": f"{file}="}


def test_a_target_may_be_empty() -> None:
    assert parse_spec("digits:", SCHEMES, what="data", error=DataError).target == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet18", "model specs read SCHEME:NAME, found 'resnet18'"),
        ("tim:resnet18", "no model scheme 'tim' in 'tim:resnet18'; did you mean 'timm'"),
        ("timm:a?class=3", "no option 'class' in 'timm:a[?]class=3'; did you mean 'classes'"),
        ("timm:a?classes", "options read key=value"),
        ("timm:a?classes=1&classes=2", "each key once"),
    ],
)
def test_what_is_no_spec(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_spec(text, SCHEMES, what="model", error=ModelError)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with one of each that may be named without a scheme."""
    (tmp_path / "val" / "a").mkdir(parents=True)
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "exits.json").write_text("{}")
    for name in ("x.parquet", "x.csv", "x.bin", "best.pt", "net.onnx", "nets_here.py"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("val", "folder:val"),
        ("val/?fingerprint=all", "folder:val/?fingerprint=all"),
        ("x.parquet?label=y", "parquet:x.parquet?label=y"),
        ("digits:train", "digits:train"),
    ],
)
def test_data_that_are_there_need_no_scheme(here: Path, text: str, spec: str) -> None:
    assert parse_data_spec(text).text == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vall", "no folder or file 'vall'; did you mean 'val'"),
        ("/nowhere/at/all", "which is no folder or file: begin with one of folder:"),
        ("x.csv", "is a table: import predictions with `understudy import`"),
        ("x.bin", "is a file: name its folder, or write parquet:FILE"),
        ("fodler:val", "no data scheme 'fodler' in 'fodler:val'; did you mean 'folder'"),
        ("folder:gone", "'gone' is none: check the path"),
        ("parquet:val", "'val' is none: check the path"),
        ("folder:val?fingerprint=some", "no fingerprint 'some'"),
        ("digits:test", "no part 'test' in digits:"),
    ],
)
def test_data_that_are_not_there(here: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        open_data(text)
    assert message in str(caught.value)


def test_a_folder_may_be_called_as_a_scheme_is(here: Path) -> None:
    with pytest.raises(DataError, match="data specs read SCHEME:NAME, found 'digits'"):
        parse_data_spec("digits")
    (here / "digits").mkdir()
    assert parse_data_spec("digits").text == "folder:digits"
    assert parse_data_spec("digits:heldout").target == "heldout"


def test_a_folder_of_exits_needs_no_scheme(here: Path) -> None:
    assert parse_model_spec("trained").text == "exits:trained"
    assert named_specs(["net=trained?run=folded"])["net"].text == "exits:trained?run=folded"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet18", "found 'resnet18': write timm:resnet18 or torchvision:resnet18"),
        ("resnt18.a1_in1k", "write timm:resnet18"),
        ("nets_here:tiny", "write py:nets_here:tiny"),
        ("best.pt", "as in timm:NAME?checkpoint=best.pt"),
        ("net.onnx", 'write "onnx:net.onnx?mean='),
        ("nets_here.py", "write py:nets_here:FACTORY"),
        ("val", "begin with one of timm:"),
        ("timm:resnt18", "no timm model 'resnt18'; did you mean 'resnet18'"),
        ("torchvision:resnet", "no torchvision model 'resnet'"),
        ("timm:resnet18?checkpoint=gone.pt", "'gone.pt' is none: check the path"),
        ("timm:resnet18?run=fold", "no execution mode 'fold'"),
        ("timm:resnet18?classes=x", "classes is a whole number above 0"),
        ("py:no_such_module:tiny", "names the module 'no_such_module', which is not there"),
        ("py:tiny", "a Python model reads py:module:factory"),
        ("exits:gone", "'gone' does not exist: check the path"),
        ("exits:val", "'val' has no exits.json: check the path"),
    ],
)
def test_models_that_are_not_there(here: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_found(parse_model_spec(text))
    assert message in str(caught.value)


def test_names_of_models_are_those_that_their_libraries_list() -> None:
    timm, models = pytest.importorskip("timm"), pytest.importorskip("torchvision.models")
    assert set(model_names("timm")) == set(timm.list_models())
    assert set(model_names("torchvision")) >= set(models.list_models(module=models))
    for name in ("resnet18", "resnet18.a1_in1k", "vit_tiny_patch16_224_in21k"):
        check_name("timm", name)  # the last one is a deprecated name


def test_execution_modes_are_all_known_by_name() -> None:
    for option in OPTIONS:
        assert ExecutionMode.parse(option).name == option


@pytest.mark.parametrize(
    "words",
    [
        ("score", "timm:resnt18", "--data", "val", "--into", "table"),
        ("score", "timm:resnet18", "--data", "vall", "--into", "table"),
        ("score", "timm:resnet18", "--data", "val", "--into", "x.csv"),
        ("score", "exits:gone", "--data", "val", "--into", "table"),
        ("score", "net=exits:gone", "--data", "val", "--into", "table"),
        ("taps", "timm:resnt18"),
        ("train-exits", "timm:resnt18", "--data", "val", "--into", "exits"),
        (
            "train-exits",
            "timm:resnet18",
            "--saver",
            "py:gone:f",
            "--data",
            "val",
            "--into",
            "exits",
        ),
        ("run", "cascade", "--data", "vall"),
        ("run", "cascade", "--data", "val"),
        ("bench", "cascade", "--data", "vall"),
        ("bench", "cascade", "--data", "val"),
        ("export", "cascade", "--onnx", "onnx"),
        ("build", "val", "--into", "cascade"),
    ],
)
def test_what_is_wrong_is_seen_before_torch_is_imported(here: Path, words: tuple[str, ...]) -> None:
    code = "import sys; from understudy.app.cli.main import main\nmain()"
    probe = (
        "import sys, runpy, atexit\natexit.register(lambda: print('torch' in sys.modules))\n" + code
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (2, "False"), done.stderr


def test_a_folder_is_scored_as_it_stands(here: Path, run: Run) -> None:
    refused(run("score", "resnet18", "--data", "val/", "--into", "t"), "write timm:resnet18")
