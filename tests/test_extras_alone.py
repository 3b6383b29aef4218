"""Every extra alone, from the wheel: what it promises can be imported and used, and what it lacks
is named in one sentence.

Extras that a journey installs alone are not repeated here: PyTorch takes long to be imported from
a new environment.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
import torch

from clean_environments import Environment, clean, run
from extra_modules import FILES, extra_of
from journey_scripts import JOURNEYS, requirements
from served_cascades import png, random_images, saved_cascade
from understudy.extras import EXTRAS
from understudy.nn.cascade import Cascade
from understudy.onnx import export_onnx
from understudy.zoo.saved_cascades import load_cascade

TESTS = Path(__file__).resolve().parent
IMPORT = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
TABLE = (
    "understudy import table --labels labels.csv --key id --label class "
    "--exit small=small.csv --exit large=large.csv --cost small=0.2 --cost large=5",
    "understudy search table --reference large --max-drop 5 --out result.json",
)
OWN = "--allow-code digit_nets"
DIGITS = "py:digit_nets:tiny py:digit_nets:big --data digits:heldout --into digits"


class Use(NamedTuple):
    """What an extra is for, as commands that work; and one that needs `lacks`."""

    works: tuple[str, ...]
    refused: str
    lacks: str


USES = {
    "": Use(("understudy zoo --json",), "understudy demo", "torch"),
    "onnx": Use(
        ("understudy run exported --data folder:images --out answers.csv",),
        "understudy search table --max-drop 1",
        "search",
    ),
    "serve": Use((), "understudy serve exported", "onnx"),
    "plot": Use(
        (*TABLE, "understudy plot result.json --kind frontier --out figure.png"),
        "understudy build result.json --into new",
        "torch",
    ),
    "export": Use(
        (f"understudy export cascade --onnx new --size 4x4 {OWN}",),
        "understudy serve cascade",
        "serve",
    ),
    "ray": Use(
        (f"understudy score {DIGITS} --measure none --ray",),
        "understudy taps timm:test_resnet",
        "zoo",
    ),
}
JOURNEYS_OF = {"search": "csv_files.sh", "zoo": "few_labels.sh", "hf": "hugging_face.py"}
ELSEWHERE = {"torch": "`uvx`, below", "all": "the documentation, in tests/test_journeys.py"}


def test_every_extra_is_tried_alone() -> None:
    assert {*USES, *JOURNEYS_OF, *ELSEWHERE} == {"", *EXTRAS}
    for extra, name in JOURNEYS_OF.items():
        assert requirements(JOURNEYS / name)[0] == f"understudy[{extra}]"


@pytest.fixture(scope="session")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has before: a cascade, its export, images, predictions, and a module."""
    folder = tmp_path_factory.mktemp("brought")
    saved_cascade(folder / "cascade")
    cascade = load_cascade(folder / "cascade", allow_code=["digit_nets"])
    assert isinstance(cascade, Cascade)
    export_onnx(cascade, folder / "exported", image=torch.zeros(3, 4, 4, dtype=torch.uint8))
    (folder / "images").mkdir()
    for number, pixels in enumerate(random_images(5)):
        (folder / "images" / f"{number}.png").write_bytes(png(pixels))
    shutil.copy(TESTS / "digit_nets.py", folder)
    write_predictions(folder)
    return folder


def write_predictions(folder: Path) -> None:
    """labels.csv, and small.csv and large.csv, right on 90 and on 95 % of 2,000 samples."""
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 10, 2000)
    (folder / "labels.csv").write_text(
        "id,class\n" + "".join(f"{row},{label}\n" for row, label in enumerate(labels))
    )
    for name, accuracy in (("small", 0.9), ("large", 0.95)):
        right = chance.random(2000) < accuracy
        answers = np.where(right, labels, (labels + 1) % 10)
        confidences = chance.uniform(0.2, 0.7, 2000) + 0.3 * right
        rows = zip(answers.tolist(), confidences.tolist(), strict=True)
        (folder / f"{name}.csv").write_text(
            "id,prediction,confidence\n"
            + "".join(f"{row},{said},{sure:.6f}\n" for row, (said, sure) in enumerate(rows))
        )


@pytest.fixture
def here(brought: Path, tmp_path: Path) -> Path:
    """The folder of one user."""
    return shutil.copytree(brought, tmp_path / "here", copy_function=os.link)


def variables_of(environment: Environment, extras: str, here: Path) -> Mapping[str, str]:
    """The variables of a user who has installed some extras; `digit_nets` is on the path."""
    programs = environment((f"understudy[{extras}]" if extras else "understudy",))
    return {**clean(programs, home=here), "PYTHONPATH": str(here)}


@pytest.mark.slow
@pytest.mark.parametrize("extra", USES, ids=lambda extra: extra or "none")
def test_an_extra_alone(extra: str, environment: Environment, here: Path) -> None:
    variables = variables_of(environment, extra, here)
    promised = EXTRAS.get(extra, frozenset())
    modules = [name for name in FILES if EXTRAS.get(extra_of(name), frozenset()) <= promised]
    modules = [name for name in modules if name != "understudy.__main__"]
    run(["python", "-W", "ignore", "-c", IMPORT, *sorted(promised), *modules], here, variables)
    use = USES[extra]
    for line in use.works:
        run(line.split(), here, variables)
    if use.refused:
        refuses(use, here, variables)


def refuses(use: Use, here: Path, variables: Mapping[str, str]) -> None:
    """The command ends with exit code 2 and one sentence that names the extra."""
    ran = subprocess.run(
        use.refused.split(),
        cwd=here,
        env={**variables, "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.count("\n") == 1
    assert f"needs the `{use.lacks}` extra, which is not installed: pip install" in ran.stderr


@pytest.mark.slow
def test_serving_needs_no_pytorch(environment: Environment, here: Path) -> None:
    variables = variables_of(environment, "serve,onnx", here)
    words = ["understudy", "serve", "exported", "--port", "0", "--json"]
    with subprocess.Popen(
        words, cwd=here, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            files = {"image": (here / "images" / "0.png").read_bytes()}
            answer = httpx.post(f"{url}/classify", files=files, timeout=30)
            assert answer.status_code == 200, answer.text
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 0
        finally:
            server.kill()


@pytest.mark.slow
def test_uvx_says_what_to_type_and_that_works(uv: str, wheel: Path, tmp_path: Path) -> None:
    """What the README says, with the wheel in place of the index."""
    base = subprocess.run(
        [uv, "tool", "run", "--quiet", "--from", str(wheel), "understudy", "demo"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert base.returncode == 2, base.stderr
    told = base.stderr.strip().partition(", or ")[2]
    assert told == "uvx --from 'understudy[torch]' understudy demo"
    assert told in (TESTS.parent / "README.md").read_text(encoding="utf-8")
    with_torch = f"understudy[torch] @ {wheel.as_uri()}"
    words = [uv, "tool", "run", "--quiet", "--from", with_torch, "understudy", "demo"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert "held-out images have the predicted answer" in run(words, tmp_path, variables)
    assert (tmp_path / "demo" / "report.html").exists()
