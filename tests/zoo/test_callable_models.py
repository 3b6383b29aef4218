"""``py:module:factory`` of estimators and functions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from understudy.early_exit.taps import list_taps
from understudy.errors import ModelError
from understudy.nn.cascade import Cascade
from understudy.nn.cost import count_parts
from understudy.nn.identity import check_identity, identity_of
from understudy.nn.stage import Stage
from understudy.policy import Policy
from understudy.scoring.on_disk import score_into
from understudy.zoo.data import open_data
from understudy.zoo.model_specs import parse_model_spec
from understudy.zoo.models import load_stage
from understudy.zoo.saved_cascades import load_cascade, save_cascade

MODULE = "estimators_here"
FACTORIES = """
import numpy as np
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SMOOTHING = 1e-3

def pixels():
    rows, labels = load_digits(return_X_y=True)
    return rows[:500] / 16, labels[:500]

def bayes():
    model = GaussianNB(var_smoothing=SMOOTHING).fit(*pixels())
    model.input_size, model.mean, model.std, model.scale = (1, 8, 8), 0.0, 1.0, 255
    return model

def ridge():
    return make_pipeline(StandardScaler(), RidgeClassifier()).fit(*pixels())

def function():
    model = bayes()
    return lambda images: model.predict_proba(images.reshape(len(images), -1) / 255)

def wrong():
    return lambda images: np.zeros((3, 2))

def number():
    return 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / f"{MODULE}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop(MODULE, None)


def digits(count: int = 6) -> Tensor:
    data = open_data("digits:heldout")
    return torch.stack([data.image(row) for row in range(count)])


@pytest.mark.usefixtures("here")
def test_estimators_and_functions_answer() -> None:
    declared = load_stage(f"py:{MODULE}:bayes?macs=1280")
    function = load_stage(f"py:{MODULE}:function?macs=1280")
    assert declared.preprocess is not None
    assert function.preprocess is None
    assert torch.allclose(declared(digits()), function(digits()), atol=1e-3)
    assert declared(digits()).exp().sum(1).allclose(torch.ones(6))
    assert count_parts({"m": function}, digits()[0])["m"].total == 1280
    linear = load_stage(f"py:{MODULE}:ridge")
    assert count_parts({"m": linear}, digits()[0])["m"].total == 640
    assert linear(digits()).shape == (6, 10)


def test_a_table_and_a_cascade_of_them(here: Path) -> None:
    specs = {"bayes": f"py:{MODULE}:bayes?macs=1280", "ridge": f"py:{MODULE}:ridge"}
    table = score_into(here / "table", specs, "digits:heldout", measure_batches=[])
    stages = {name: load_stage(spec) for name, spec in specs.items()}
    save_cascade(Cascade(stages, Policy.pair("ridge", "bayes", 0.9)), here / "cascade")
    sys.path.insert(0, str(here))
    try:
        cascade = load_cascade(here / "cascade", allow_code=[MODULE])
        alone = Cascade(cascade.stages, Policy.single("bayes"))
        expected = table.prediction[table.names.index("bayes")][:6]
        assert alone.answer(digits()).prediction.tolist() == expected.tolist()
        sys.modules[MODULE].SMOOTHING = 0.1  # type: ignore[attr-defined]
        with pytest.raises(ModelError, match=r"'bayes'.* its weights have the hash"):
            load_cascade(here / "cascade", allow_code=[MODULE])
    finally:
        sys.path.remove(str(here))


@pytest.mark.usefixtures("here")
def test_an_estimator_that_was_fitted_otherwise_is_noticed() -> None:
    stage = load_stage(f"py:{MODULE}:bayes?macs=1")
    recorded = identity_of(stage)
    check_identity("m", recorded, load_stage(f"py:{MODULE}:bayes?macs=1"), past="x", remedy="y")
    sys.modules[MODULE].SMOOTHING = 0.1  # type: ignore[attr-defined]
    other = load_stage(f"py:{MODULE}:bayes?macs=1")
    with pytest.raises(ModelError, match="its weights have the hash"):
        check_identity("m", recorded, other, past="scored", remedy="score it again")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("number", "an estimator or a function from images to probabilities"),
        ("bayes", "those of 'bayes' are not known: add \\?macs=N"),
        ("wrong?macs=1", "was given 6 and returned 3"),
    ],
)
def test_factories_of_other_things(factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_stage(f"py:{MODULE}:{factory}")(digits())


@pytest.mark.usefixtures("here")
def test_what_estimators_cannot_do() -> None:
    stage = load_stage(f"py:{MODULE}:ridge")
    with pytest.raises(ModelError, match="takes 64 and an image has 100"):
        Stage(stage.model)(torch.zeros(2, 1, 10, 10, dtype=torch.uint8))
    with pytest.raises(ModelError, match="exits are attached to networks that PyTorch runs"):
        list_taps(stage, digits()[0])
    with pytest.raises(ModelError, match="macs is a number from 0, found '-1'"):
        parse_model_spec(f"py:{MODULE}:ridge?macs=-1")
