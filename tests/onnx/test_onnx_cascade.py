"""Exported cascades in ONNX Runtime: the answers of PyTorch, policies, images, damaged files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bit_flips import bit_flips
from exit_nets import images
from exported_cascades import Exported
from sample_rows import Array
from understudy.certificate import Certificate
from understudy.confidence_functions import confidence_functions
from understudy.documents import write_document
from understudy.errors import DataError, MissingExtra, ModelError, PolicyError, UnderstudyError
from understudy.extras import EXTRAS
from understudy.nn.cascade import Cascade
from understudy.onnx.bundle import NAME, is_onnx_bundle, read_bundle
from understudy.onnx.cascade import OnnxCascade, load_onnx
from understudy.onnx.parity import agreement
from understudy.onnx.session import Session
from understudy.policy import Policy, PolicyStage

PIXELS = images(64, seed=5).numpy()


def assert_same_answers(cascade: Cascade, loaded: OnnxCascade, count: int = 64) -> None:
    """Both cascades answer alike, in batches of any size."""
    found, expected = loaded.answer(PIXELS[:count]), cascade.answer(images(64, seed=5)[:count])
    assert found.prediction.tolist() == np.asarray(expected.prediction).tolist()
    assert found.exit_names() == expected.exit_names()
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_an_ensemble_and_a_convolutional_exit(plain_export: Exported, count: int) -> None:
    loaded = plain_export.load()
    assert loaded.exits == ("tiny", "net/blocks.1/conv16", "net", "mean")
    assert_same_answers(plain_export.cascade, loaded, count)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_a_saver_and_the_exits_that_use_it(saved_export: Exported, count: int) -> None:
    loaded = saved_export.load()
    assert_same_answers(saved_export.cascade, loaded, count)
    assert len(set(loaded.answer(PIXELS).exit_names())) > 2


@st.composite
def policies(draw: st.DrawFn, exits: Sequence[str]) -> Policy:
    """Any exits in any order, accepted by any confidence."""
    names = draw(st.permutations(exits))[: draw(st.integers(1, len(exits)))]
    thresholds = st.sampled_from([-0.8, 0.3, 0.4, 0.6, 1.2])
    confidences = st.sampled_from([*confidence_functions])
    stages = [PolicyStage(name, draw(thresholds), draw(confidences)) for name in names[:-1]]
    return Policy((*stages, PolicyStage(names[-1])))


@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["plain_export", "saved_export"])
def test_any_policy(kind: str, request: pytest.FixtureRequest, data: st.DataObject) -> None:
    export: Exported = request.getfixturevalue(kind)
    cascade, loaded = export.cascade, export.load()
    before, policy = cascade.policy, data.draw(policies(loaded.exits))
    try:
        cascade.policy = loaded.policy = policy
        found = agreement(cascade, loaded, [images(40, seed=1), images(1, seed=2)])
    finally:
        cascade.policy = before
    assert (found.samples, found.unexplained) == (41, 0)
    assert found.difference < 1e-4


def test_a_learned_score(plain_export: Exported) -> None:
    cascade, loaded = plain_export.cascade, plain_export.load()
    before = cascade.policy
    loaded.policy = Policy.pair("tiny", "net", -np.inf, confidence="deferral")
    confidence = np.sort(loaded.answer(PIXELS).confidence)
    middle = float(confidence[31] + confidence[32]) / 2
    policy = Policy.pair("tiny", "net", middle, confidence="deferral")
    try:
        cascade.policy = loaded.policy = policy
        assert_same_answers(cascade, loaded)
    finally:
        cascade.policy = before
    assert len(set(loaded.answer(PIXELS).exit_names())) == 2
    loaded.policy = Policy((PolicyStage("net", None, "deferral"),))
    with pytest.raises(PolicyError, match="this cascade has for 'tiny'"):
        loaded.policy = Policy.pair("net", "tiny", 0.5, confidence="deferral")


def test_shared_parts_are_run_once(saved_export: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, done = saved_export.load(), list[str]()
    run = Session.__call__

    def recorded(session: Session, values: Sequence[Array]) -> list[Array]:
        done.append(session.part)
        return run(session, values)

    monkeypatch.setattr(Session, "__call__", recorded)
    loaded.answer(PIXELS)
    assert done == ["saver", "net/blocks.0", "net/blocks.0/told", "net/blocks.0/esn"]
    done.clear()
    loaded.policy = Policy((PolicyStage("net/blocks.0/esn", np.inf), PolicyStage("saver")))
    loaded.answer(PIXELS)
    assert sorted(done) == ["net/blocks.0", "net/blocks.0/esn", "saver"]


def test_only_values_that_later_stages_need_are_handed_on(saved_export: Exported) -> None:
    loaded = saved_export.load()
    first, conditioned, esn = loaded.runners
    assert first.keeps == {"logits of saver", "saver~0"}
    assert conditioned.keeps == {"logits of saver", "saver~0", "net~0"}
    assert esn.keeps == frozenset()
    output = first.run(PIXELS, {})
    assert set(output.state) == first.keeps
    assert output.classes == 5
    assert output.prediction.dtype == np.int64
    assert output.confidence.dtype == np.float32


def test_rows_are_gathered_without_a_change(saved_export: Exported) -> None:
    runner = saved_export.load().runners[0]
    target = runner.buffer(5, PIXELS)
    runner.gather(PIXELS, np.array([3, 1]), target[1:3])
    assert target.shape == (5, 3, 8, 8)
    np.testing.assert_array_equal(target[1:3], PIXELS[[3, 1]])
    np.testing.assert_array_equal(runner.stack(list(images(2))), images(2).numpy())


def test_images_as_a_list_or_as_tensors(plain_export: Exported) -> None:
    loaded = plain_export.load()
    expected = loaded.answer(PIXELS)
    for batch in (list(PIXELS), images(64, seed=5), list(images(64, seed=5)), PIXELS[::-1][::-1]):
        np.testing.assert_array_equal(loaded.answer(batch).confidence, expected.confidence)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (PIXELS[:0], "found none"),
        ([], "found none"),
        (PIXELS[:, :, 1:], r"found uint8 \(3, 7, 8\)"),
        ([PIXELS[0], PIXELS[0, :, 1:]], r"found uint8 \(3, 7, 8\)"),
        (PIXELS.astype(np.float32), r"found float32 \(3, 8, 8\)"),
    ],
)
def test_images_of_another_shape_or_type(plain_export: Exported, batch: Any, found: str) -> None:
    with pytest.raises(DataError, match=found):
        plain_export.load().answer(batch)


def test_setting_an_operating_point(plain_export: Exported) -> None:
    loaded = plain_export.load()
    assert loaded.set_operating_point(max_drop=0).policy == loaded.policy == Policy.single("net")
    first = plain_export.cascade.policy
    assert loaded.set_operating_point(cost=3.0).policy == loaded.policy == first
    with pytest.raises(PolicyError, match=r"0\.5 points at 2 MACs"):
        loaded.set_operating_point(cost=1.0)


def test_policies_that_do_not_fit(plain_export: Exported) -> None:
    loaded = plain_export.load()
    before = loaded.policy
    with pytest.raises(PolicyError, match="no stage 'big'"):
        loaded.policy = Policy.single("big")
    with pytest.raises(PolicyError, match="no confidence 'certainty'"):
        loaded.policy = Policy.pair("tiny", "net", 0.5, confidence="certainty")
    with pytest.raises(PolicyError, match="no stage 'big'"):
        loaded.logits("big", PIXELS)
    assert loaded.policy == before


def test_cascades_are_compared_under_one_policy(plain_export: Exported) -> None:
    cascade, loaded = plain_export.cascade, plain_export.load()
    with pytest.raises(DataError, match="found none"):
        agreement(cascade, loaded, [])
    loaded.set_operating_point(max_drop=0)
    with pytest.raises(PolicyError, match="one policy, found 'tiny when"):
        agreement(cascade, loaded, [images(2)])


def test_differences_away_from_thresholds_are_counted(plain_export: Exported) -> None:
    cascade, loaded = plain_export.cascade, plain_export.load()
    bias = cascade.stages["tiny"].model.get_parameter("linear.bias")
    before = bias.detach().clone()
    try:
        bias.data[0] += 1
        found = agreement(cascade, loaded, [images(50)])
    finally:
        bias.data.copy_(before)
    assert found.differing >= found.unexplained > 0
    assert json.dumps(found.to_dict())


WITHOUT_PYTORCH = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
import numpy as np
from understudy.onnx.cascade import load_onnx
loaded = load_onnx(sys.argv[1], threads=1)
answers = loaded.answer(np.load(sys.argv[2]))
np.save(sys.argv[3], answers.confidence)
point = loaded.set_operating_point(name="drop-0.5")
print(point.baseline.stages[0].cells(answers.confidence).tolist())
loaded.set_operating_point(max_drop=0)
import understudy.onnx
from understudy.errors import MissingExtra
try:
    understudy.onnx.export_onnx
except MissingExtra as error:
    assert "understudy[export]" in str(error)
else:
    raise AssertionError
"""


def test_pytorch_is_not_needed(plain_export: Exported, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", PIXELS)
    blocked = sorted(EXTRAS["all"] - EXTRAS["onnx"])
    arguments = [plain_export.folder, tmp_path / "pixels.npy", tmp_path / "confidence.npy"]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_PYTORCH, ",".join(blocked), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    expected = plain_export.load().answer(PIXELS).confidence
    np.testing.assert_array_equal(np.load(tmp_path / "confidence.npy"), expected)
    baseline = plain_export.cascade.operating_points[0].baseline
    assert baseline is not None
    assert ran.stdout.strip() == str(baseline.stages[0].cells(expected).tolist())


def test_onnx_runtime_is_missing(plain_export: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'understudy\[onnx\]'"):
        load_onnx(plain_export.folder)


def test_invalid_options_of_onnx_runtime(plain_export: Exported) -> None:
    with pytest.raises(ModelError, match="no execution provider 'Abacus'"):
        load_onnx(plain_export.folder, providers=["Abacus"])
    with pytest.raises(ModelError, match="at least one thread, found 0"):
        load_onnx(plain_export.folder, threads=0)


@pytest.fixture
def copied(plain_export: Exported, tmp_path: Path) -> Path:
    """A copy of the bundle to damage."""
    return copytree(plain_export.folder, tmp_path / "onnx")


def edit_bundle(folder: Path, edit: Callable[[Any], object]) -> None:
    """Change the description of a bundle in place."""
    data = json.loads((folder / NAME).read_text())
    edit(data)
    write_document(folder / NAME, data)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(version=99), "version 99"),
        (lambda data: data.update(format="understudy.cascade"), "is no understudy.onnx file"),
        (lambda data: data.pop("pieces"), "has the field 'pieces' at"),
        (lambda data: data["pieces"].pop(), "is damaged at .* \\(every exit has a part"),
        (lambda data: data["pieces"].pop(0), "is damaged at .* \\(no value 'net@0.0'"),
        (lambda data: data["pieces"][1]["takes"][0].update(name="x"),
         "is damaged at .* \\(no value 'x'"),
        (lambda data: data.update(policy={}), "has the field 'stages' at .*policy"),
        (lambda data: data["files"].clear(), "is not the file that was exported"),
    ],
)  # fmt: skip
def test_a_damaged_bundle(copied: Path, edit: Callable[[Any], object], message: str) -> None:
    edit_bundle(copied, edit)
    with pytest.raises(ModelError, match=message):
        load_onnx(copied)


def test_damaged_files(copied: Path) -> None:
    file = copied / read_bundle(copied).pieces[0].file
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    with pytest.raises(ModelError, match="is not the file that was exported"):
        load_onnx(copied)
    file.unlink()
    with pytest.raises(ModelError, match="lacks 'pieces/00-"):
        load_onnx(copied)


def test_flipped_bits_are_refused(copied: Path) -> None:
    for flip in bit_flips(copied, 60):
        with pytest.raises(UnderstudyError) as raised:
            load_onnx(copied)
        assert "\n" not in str(raised.value), flip


def test_the_policy_is_that_of_its_certificate(copied: Path) -> None:
    policy = read_bundle(copied).policy
    proof = Certificate(
        *(policy, "net", "gap", 0.5, 0.05, 900, 3, 1, 0.01, (policy,), 1, None, 1, "", {})
    )
    edit_bundle(copied, lambda data: data.update(certificate=proof.to_dict()))
    assert load_onnx(copied).policy == policy
    edit_bundle(copied, lambda data: data["policy"]["stages"][0].update(threshold=0.25))
    with pytest.raises(ModelError, match=r"found tiny when max_softmax >= 0\.25, .* was proved"):
        load_onnx(copied)


def test_a_model_that_onnx_runtime_cannot_load(copied: Path) -> None:
    name = read_bundle(copied).pieces[0].file
    (copied / name).write_bytes(b"no model")
    digest = hashlib.sha256(b"no model").hexdigest()
    edit_bundle(copied, lambda data: data["files"].update({name: digest}))
    with pytest.raises(ModelError, match=r"cannot load '.*export again"):
        load_onnx(copied)


def test_is_onnx_bundle(plain_export: Exported, tmp_path: Path) -> None:
    assert is_onnx_bundle(plain_export.folder)
    assert not is_onnx_bundle(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        load_onnx(tmp_path)
