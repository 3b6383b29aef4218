from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exit_nets import images
from understudy.confidence import confidence_functions
from understudy.errors import DataError, MissingExtra, ModelError, PolicyError
from understudy.onnx.bundle import NAME, is_onnx_bundle, read_bundle
from understudy.onnx.cascade import load_onnx
from understudy.onnx.export.parity import agreement
from understudy.onnx.session import Session
from understudy.policy import Policy, PolicyStage

PIXELS = images(64, seed=5).numpy()


def same(cascade, other, count=64):
    """Both answer alike, and rows at any batch size as in one batch."""
    batch = PIXELS[:count]
    found, truth = other.answer(batch), cascade.answer(images(64, seed=5)[:count])
    assert found.prediction.tolist() == np.asarray(truth.prediction).tolist()
    assert found.exit_names() == truth.exit_names()
    np.testing.assert_allclose(found.confidence, truth.confidence, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_an_average_and_a_convolutional_exit(plain_export, count) -> None:
    cascade, folder = plain_export
    other = load_onnx(folder, threads=1)
    assert other.exits == ("tiny", "net/blocks.1/conv16", "net", "mean")
    same(cascade, other, count)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_a_saver_and_what_it_helps(saved_export, count) -> None:
    cascade, folder = saved_export
    other = load_onnx(folder, threads=1)
    same(cascade, other, count)
    assert len(set(other.answer(PIXELS).exit_names())) > 2


def policies(exits):
    """Any exits in any order, judged by anything."""

    def made(names, sures, thresholds):
        steps = [
            PolicyStage(name, threshold, sure)
            for name, sure, threshold in zip(names[:-1], sures, thresholds, strict=False)
        ]
        return Policy((*steps, PolicyStage(names[-1])))

    return st.builds(
        made,
        st.permutations(exits).flatmap(
            lambda order: st.integers(1, len(order)).map(lambda n: order[:n])
        ),
        st.lists(st.sampled_from([*confidence_functions]), min_size=4, max_size=4),
        st.lists(st.sampled_from([-0.8, 0.3, 0.4, 0.6, 1.2]), min_size=4, max_size=4),
    )


@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["plain_export", "saved_export"])
def test_any_policy(kind, request, data) -> None:
    cascade, folder = request.getfixturevalue(kind)
    other = load_onnx(folder, threads=1)
    before, policy = cascade.policy, data.draw(policies(other.exits))
    try:
        cascade.policy = other.policy = policy
        found = agreement(cascade, other, [images(40, seed=1), images(1, seed=2)])
    finally:
        cascade.policy = before
    assert (found.samples, found.unexplained) == (41, 0)
    assert found.difference < 1e-4


def test_a_learned_score(plain_export) -> None:
    cascade, folder = plain_export
    other, before = load_onnx(folder, threads=1), cascade.policy
    other.policy = Policy.pair("tiny", "net", -np.inf, confidence="deferral")
    sure = np.sort(other.answer(PIXELS).confidence)
    middle = float(sure[31] + sure[32]) / 2
    policy = Policy.pair("tiny", "net", middle, confidence="deferral")
    try:
        cascade.policy = other.policy = policy
        same(cascade, other)
    finally:
        cascade.policy = before
    assert len(set(other.answer(PIXELS).exit_names())) == 2
    other.policy = Policy((PolicyStage("net", None, "deferral"),))
    with pytest.raises(PolicyError, match="this cascade has for 'tiny'"):
        other.policy = Policy.pair("net", "tiny", 0.5, confidence="deferral")


def test_work_is_paid_once(saved_export, monkeypatch) -> None:
    other, done = load_onnx(saved_export[1], threads=1), []
    run = Session.__call__

    def counted(session, values):
        done.append(session.part)
        return run(session, values)

    monkeypatch.setattr(Session, "__call__", counted)
    other.answer(PIXELS)
    assert done == ["saver", "net/blocks.0", "net/blocks.0/told", "net/blocks.0/esn"]
    done.clear()
    other.policy = Policy((PolicyStage("net/blocks.0/esn", np.inf), PolicyStage("saver")))
    other.answer(PIXELS)
    assert sorted(done) == ["net/blocks.0", "net/blocks.0/esn", "saver"]


def test_only_what_is_needed_later_is_handed_on(saved_export) -> None:
    other = load_onnx(saved_export[1], threads=1)
    first, told, esn = other.runners
    assert first.keeps == {"logits of saver", "saver~0"}
    assert told.keeps == {"logits of saver", "saver~0", "net~0"}
    assert esn.keeps == frozenset()
    output = first.run(PIXELS, {})
    assert set(output.state) == first.keeps
    assert (output.classes, output.prediction.dtype) == (5, "int64")
    assert output.confidence.dtype == "float32"


def test_rows_are_gathered_as_they_are(saved_export) -> None:
    runner = load_onnx(saved_export[1], threads=1).runners[0]
    target = runner.buffer(5, PIXELS)
    runner.gather(PIXELS, np.array([3, 1]), target[1:3])
    assert target.shape == (5, 3, 8, 8)
    np.testing.assert_array_equal(target[1:3], PIXELS[[3, 1]])
    np.testing.assert_array_equal(runner.stack(list(images(2))), images(2).numpy())


def test_images_as_a_list_or_as_tensors(plain_export) -> None:
    other = load_onnx(plain_export[1], threads=1)
    truth = other.answer(PIXELS)
    for batch in (list(PIXELS), images(64, seed=5), list(images(64, seed=5)), PIXELS[::-1][::-1]):
        np.testing.assert_array_equal(other.answer(batch).confidence, truth.confidence)


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
def test_other_images(plain_export, batch, found) -> None:
    with pytest.raises(DataError, match=found):
        load_onnx(plain_export[1], threads=1).answer(batch)


def test_dialling(plain_export) -> None:
    other = load_onnx(plain_export[1], threads=1)
    assert other.set_operating_point(max_drop=0).policy == other.policy == Policy.single("net")
    assert other.set_operating_point(cost=3.0).policy == other.policy == plain_export[0].policy
    with pytest.raises(PolicyError, match=r"0\.5 points at 2 MACs"):
        other.set_operating_point(cost=1.0)


def test_policies_that_do_not_fit(plain_export) -> None:
    other = load_onnx(plain_export[1], threads=1)
    before = other.policy
    with pytest.raises(PolicyError, match="no stage 'big'"):
        other.policy = Policy.single("big")
    with pytest.raises(PolicyError, match="no confidence 'sure'"):
        other.policy = Policy.pair("tiny", "net", 0.5, confidence="sure")
    with pytest.raises(PolicyError, match="no stage 'big'"):
        other.logits("big", PIXELS)
    assert other.policy == before


def test_policies_must_be_one_to_be_compared(plain_export) -> None:
    cascade, folder = plain_export
    other = load_onnx(folder, threads=1)
    with pytest.raises(DataError, match="found none"):
        agreement(cascade, other, [])
    other.set_operating_point(max_drop=0)
    with pytest.raises(PolicyError, match="one policy, found 'tiny when"):
        agreement(cascade, other, [images(2)])


def test_differences_away_from_thresholds_are_counted(plain_export) -> None:
    cascade, folder = plain_export
    other = load_onnx(folder, threads=1)
    before = cascade.stages["tiny"].model.linear.bias.detach().clone()
    try:
        cascade.stages["tiny"].model.linear.bias.data[0] += 1
        found = agreement(cascade, other, [images(50)])
    finally:
        cascade.stages["tiny"].model.linear.bias.data.copy_(before)
    assert found.differing >= found.unexplained > 0
    assert json.dumps(found.to_dict())


BLOCKED = """
import sys
for name in ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript"):
    sys.modules[name] = None
import numpy as np
from understudy.onnx.cascade import load_onnx
other = load_onnx(sys.argv[1], threads=1)
answers = other.answer(np.load(sys.argv[2]))
np.save(sys.argv[3], answers.confidence)
other.set_operating_point(max_drop=0)
import understudy.onnx
from understudy.errors import MissingExtra
try:
    understudy.onnx.export_onnx
except MissingExtra as error:
    assert "understudy[export]" in str(error)
else:
    raise AssertionError
"""


def test_pytorch_is_not_needed(saved_export, plain_export, tmp_path) -> None:
    np.save(tmp_path / "pixels.npy", PIXELS)
    words = [plain_export[1], tmp_path / "pixels.npy", tmp_path / "sure.npy"]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKED, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    truth = load_onnx(plain_export[1], threads=1).answer(PIXELS)
    np.testing.assert_array_equal(np.load(tmp_path / "sure.npy"), truth.confidence)


def test_onnx_runtime_is_missing(plain_export, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'understudy\[onnx\]'"):
        load_onnx(plain_export[1])


def test_what_can_be_asked_of_onnx_runtime(plain_export) -> None:
    with pytest.raises(ModelError, match="no execution provider 'Abacus'"):
        load_onnx(plain_export[1], providers=["Abacus"])
    with pytest.raises(ModelError, match="at least one thread, found 0"):
        load_onnx(plain_export[1], threads=0)


@pytest.fixture
def copied(plain_export, tmp_path):
    """A copy of the bundle to damage."""
    from shutil import copytree

    return copytree(plain_export[1], tmp_path / "onnx")


def edited(folder, edit):
    data = json.loads((folder / NAME).read_text())
    edit(data)
    (folder / NAME).write_text(json.dumps(data))


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
def test_a_damaged_bundle(copied, edit, message) -> None:
    edited(copied, edit)
    with pytest.raises(ModelError, match=message):
        load_onnx(copied)


def test_damaged_files(copied) -> None:
    file = copied / read_bundle(copied).pieces[0].file
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    with pytest.raises(ModelError, match="is not the file that was exported"):
        load_onnx(copied)
    file.unlink()
    with pytest.raises(ModelError, match="lacks 'pieces/00-"):
        load_onnx(copied)


def test_a_model_that_onnx_runtime_cannot_load(copied) -> None:
    import hashlib

    name = read_bundle(copied).pieces[0].file
    (copied / name).write_bytes(b"no model")
    digest = hashlib.sha256(b"no model").hexdigest()
    edited(copied, lambda data: data["files"].update({name: digest}))
    with pytest.raises(ModelError, match=r"cannot load '.*export again"):
        load_onnx(copied)


def test_what_is_a_bundle(plain_export, tmp_path) -> None:
    assert is_onnx_bundle(plain_export[1])
    assert not is_onnx_bundle(tmp_path)
    with pytest.raises(ModelError, match="does not exist"):
        load_onnx(tmp_path)
