"""A little model that is taught by a large one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import saver_digits
from exit_digits import big, small, train
from progress import InterruptedRunError, RecordedProgress, at
from understudy.errors import DataError, ModelError, UnderstudyError
from understudy.nn.execution_mode import ExecutionMode, with_mode
from understudy.nn.stage import Stage
from understudy.training import checkpoint, saver
from understudy.training.config import TrainingConfig
from understudy.training.pair_saving import PairSaving
from understudy.training.saver import fit_saver, train_saver
from understudy.training.saver_config import SaverConfig
from understudy.training.saver_record import Pair, SaverFolder, SaverSummary
from understudy.training.trainables import losses_of
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.models import load_stage

TEACHING = TrainingConfig(
    epochs=3, batch=64, lr=3e-2, views=4, flip=False, held_out=0.2, patience=4,
    targets="both", share=0.5,
)  # fmt: skip
QUICK = SaverConfig(teaching=TEACHING, tuning_epochs=2, tuning_lr=1e-3, max_drop=5.0)
ALONE = replace(QUICK, objective="labels")
Teach = Callable[..., SaverFolder]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch is saved, however little time it takes, and judged by one small draw."""
    monkeypatch.setattr(checkpoint, "SHARE", 1.0)
    monkeypatch.setattr(saver, "PairSaving", partial(PairSaving, draws=1, samples=1000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in files of two sizes, some of them damaged, and the weights of a teacher."""
    root = tmp_path_factory.mktemp("saver")
    saver_digits.write_digits(root / "whole")
    saver_digits.write_digits(root / "digits", corrupt=True)
    torch.manual_seed(0)
    train(saver_digits.large(), root / "large.safetensors", epochs=8, data=f"folder:{root}/whole")
    return root


@pytest.fixture
def teach(folder: Path) -> Teach:
    """Teaches the little network; settings that are not given are quick."""

    def by(into: Path, **more: Any) -> SaverFolder:
        little = more.pop("little", "py:saver_digits:little?weights=random")
        large = f"py:saver_digits:large?checkpoint={folder}/large.safetensors"
        data = f"folder:{folder}/digits"
        return train_saver(little, large, data, into, **{"config": QUICK, "device": "cpu", **more})

    return by


@pytest.fixture(scope="module")
def digit_teacher(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A network trained on the digits."""
    file = tmp_path_factory.mktemp("weights") / "big.safetensors"
    torch.manual_seed(0)
    stage = big()
    train(stage, file, epochs=6)
    return stage


def digits(labelled: bool = True) -> DataSet:
    data = open_data("digits:train")
    return data if labelled else replace(data, labels=None)


def fresh(make: Callable[[], Stage] = small) -> Stage:
    torch.manual_seed(0)
    return make()


def savings(summary: SaverSummary) -> dict[tuple[str, str], float]:
    return {(pair.little, pair.large): pair.saving for pair in summary.pairs}


def timeless(record: SaverFolder) -> dict[str, Any]:
    """A record without what differs from run to run: the time and the path."""
    found = record.to_dict()
    del found["training"]["seconds"], found["spec"]
    return found


def test_a_taught_model_saves_more_and_its_teacher_stays(
    teach: Teach, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where sizes differ and files are damaged; the spec works from other directories."""
    weights = (folder / "large.safetensors").read_bytes()
    monkeypatch.chdir(tmp_path)
    notes: list[str] = []
    record = teach(Path("taught"), on_note=notes.append)
    found = record.training
    assert [(pair.little, pair.large) for pair in found.pairs] == [
        ("before", "as it is"), ("taught", "as it is"), ("taught", "last layer trained"),
    ]  # fmt: skip
    before, taught, _ = found.pairs
    assert taught.saving > before.saving + 0.1
    assert taught.accuracy > before.accuracy + 0.2
    assert {phase: len(epochs) for phase, epochs in found.epochs.items()} == {
        "teaching": 4, "tuning": 3,
    }  # fmt: skip
    best = max(metrics.saving or 0 for metrics in found.epochs["tuning"])
    assert taught.saving == pytest.approx(best)
    assert found.corrupt == 10
    assert found.samples + found.held_out + found.corrupt == 299
    assert 0 < found.macs[0] < found.macs[1]
    assert found.config == QUICK
    assert (folder / "large.safetensors").read_bytes() == weights
    assert "images are held out, too few" in notes[0]
    assert {path.name for path in tmp_path.iterdir()} == {"taught"}
    assert SaverFolder.load("taught/saver.json") == record
    assert record.spec.endswith(f"?checkpoint={tmp_path}/taught/weights.safetensors")
    with pytest.raises(ModelError, match=r"a taught model: take the spec in its saver\.json"):
        load_stage("taught")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load_stage(record.spec)
    data = open_data(f"folder:{folder}/whole")
    assert data.labels is not None
    answers = again([data.image(n) for n in range(len(data))]).argmax(1)
    assert float((answers == torch.from_numpy(data.labels)).float().mean()) > taught.accuracy - 0.15


def test_the_teacher_in_memory_stays(digit_teacher: Stage) -> None:
    weights = digit_teacher.weights_hash
    strides = {name: one.stride() for name, one in digit_teacher.model.state_dict().items()}
    flags = [one.requires_grad for one in digit_teacher.parameters()]
    config = replace(QUICK, teaching=replace(TEACHING, epochs=1), tuning_epochs=1)
    little = fresh()
    fit_saver(little, digit_teacher, digits(), config=config)
    assert digit_teacher.weights_hash == weights
    assert strides == {name: one.stride() for name, one in digit_teacher.model.state_dict().items()}
    assert flags == [one.requires_grad for one in digit_teacher.parameters()]
    assert not little.model.training


def test_labels_are_optional(digit_teacher: Stage) -> None:
    config = replace(QUICK, tuning_epochs=1)
    found = fit_saver(fresh(), digit_teacher, digits(labelled=False), config=config)
    before, taught = found.pairs  # no last layer is trained without labels
    assert found.config.teaching.targets == "backbone"
    assert (before.large_accuracy, taught.large_accuracy) == (1.0, 1.0)
    assert taught.accuracy > before.accuracy + 0.2


def test_with_labels_alone_the_teacher_answers_the_images_held_out_once(
    digit_teacher: Stage,
) -> None:
    answered: list[int] = []

    def note(_module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
        answered.append(len(args[0]))

    handle = digit_teacher.model.register_forward_hook(note)
    found = fit_saver(fresh(), digit_teacher, digits(), config=ALONE)
    handle.remove()
    assert sum(answered) < found.held_out + 10  # some images more, for classes, costs and format
    assert found.config.teaching.targets == "labels"
    assert [pair.large for pair in found.pairs] == ["as it is", "as it is"]
    assert found.pairs[1].accuracy > found.pairs[0].accuracy + 0.3


@pytest.mark.slow
def test_each_objective_learns_otherwise(digit_teacher: Stage) -> None:
    found = {
        objective: fit_saver(
            fresh(), digit_teacher, digits(), config=replace(QUICK, objective=objective)
        ).epochs
        for objective in ("labels", "distillation", "gatekeeper")
    }
    assert found["labels"]["teaching"][1].loss != found["distillation"]["teaching"][1].loss
    assert found["distillation"]["teaching"] == found["gatekeeper"]["teaching"]
    assert [list(phases) for phases in found.values()] == [
        ["teaching"], ["teaching"], ["teaching", "tuning"],
    ]  # fmt: skip
    first, *tuned = found["gatekeeper"]["tuning"]
    assert all(metrics.loss != first.loss for metrics in tuned)


def test_the_last_layer_learns_the_labels(digit_teacher: Stage) -> None:
    """A teacher whose last layer was drawn anew is right again with that trained alone."""
    torch.manual_seed(1)
    teacher = Stage(big().model, preprocess=digit_teacher.preprocess)
    teacher.model.load_state_dict(digit_teacher.model.state_dict())
    layer = teacher.model.get_submodule("linear")
    assert isinstance(layer, nn.Linear)
    layer.reset_parameters()
    weights = teacher.weights_hash
    config = replace(QUICK, objective="distillation", teaching=replace(TEACHING, share=1.0))
    found = fit_saver(fresh(), teacher, digits(), config=config)
    accuracy = {(pair.little, pair.large): pair.large_accuracy for pair in found.pairs}
    assert accuracy["taught", "as it is"] < 0.4
    assert accuracy["taught", "last layer trained"] > accuracy["taught", "as it is"] + 0.4
    assert teacher.weights_hash == weights


def test_a_last_layer_that_is_not_linear_is_left_out(folder: Path) -> None:
    notes: list[str] = []
    data = open_data(f"folder:{folder}/whole")
    config = replace(QUICK, objective="distillation", teaching=replace(TEACHING, epochs=1))
    found = fit_saver(
        saver_digits.little(), saver_digits.centred(), data, config=config, on_note=notes.append
    )
    assert [pair.large for pair in found.pairs] == ["as it is", "as it is"]
    assert any("last layer is not trained beside" in note for note in notes)


INTERRUPTED = [
    ("teaching", 0),
    ("teaching", 2),
    ("teaching", 3),
    ("tuning", 0),
    ("tuning", 1),
    ("tuning", 2),
]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """What an undisturbed run ended with, once it is there."""
    return {}


@pytest.mark.parametrize(
    "moment",
    [pytest.param(one, marks=[] if one[1] == 1 else pytest.mark.slow) for one in INTERRUPTED],
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    teach: Teach, tmp_path: Path, whole: dict[str, Any], moment: tuple[str, int]
) -> None:
    """The same weights and the same record, damaged files and curves of epochs included."""
    if not whole:
        whole["record"] = timeless(teach(tmp_path / "whole", workers=2))
        whole["weights"] = (tmp_path / "whole" / "weights.safetensors").read_bytes()
    with pytest.raises(InterruptedRunError):
        teach(tmp_path / "cut", workers=0, on_progress=at(*moment))
    rest = RecordedProgress()
    torch.rand(5)
    record = teach(tmp_path / "cut", workers=1, on_progress=rest)
    assert ("teaching", 1) in rest.steps or moment != ("teaching", 0)
    assert ("tuning", 2) in rest.steps
    assert timeless(record) == whole["record"]
    assert (tmp_path / "cut" / "weights.safetensors").read_bytes() == whole["weights"]
    assert not (tmp_path / "cut.partial").exists()


@pytest.mark.slow
def test_fresh_views_and_averages_resume_as_undisturbed(teach: Teach, tmp_path: Path) -> None:
    teaching = replace(TEACHING, crop=0.6, mixup=0.8, auto_augment="randaugment", ema=0.99)
    config = replace(QUICK, teaching=teaching)
    whole = teach(tmp_path / "whole", config=config)
    with pytest.raises(InterruptedRunError):
        teach(tmp_path / "cut", config=config, on_progress=at("teaching", 2))
    cut = teach(tmp_path / "cut", config=config)
    assert timeless(whole) == timeless(cut)
    files = [tmp_path / name / "weights.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_unfinished_work_of_another_plan_is_refused(teach: Teach, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        teach(tmp_path / "taught", on_progress=at("teaching", 1))
    with pytest.raises(DataError, match="has another for max_drop"):
        teach(tmp_path / "taught", config=replace(QUICK, max_drop=1.0))


@pytest.mark.parametrize("ema", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_a_loss_that_is_not_finite_keeps_the_last_good_weights(
    teach: Teach, folder: Path, tmp_path: Path, ema: float
) -> None:
    little = "py:saver_digits:exploding?weights=random"
    config = replace(ALONE, teaching=replace(TEACHING, ema=ema))
    with pytest.raises(ModelError, match=r"the learning rate 0\.03: lower it") as raised:
        teach(tmp_path / "taught", little=little, config=config)
    assert {path.name for path in tmp_path.iterdir()} == {"taught.partial"}
    kept = tmp_path / "taught.partial" / "weights.safetensors"
    assert str(kept) in str(raised.value)
    weights = load_file(kept)
    assert all(bool(one.isfinite().all()) for one in weights.values())
    assert 0 < float(weights["steps"]) <= 15
    again = teach(
        tmp_path / "other",
        little=f"py:saver_digits:little?checkpoint={without_steps(kept, folder)}",
        config=replace(ALONE, teaching=replace(TEACHING, lr=1e-3, epochs=1)),
    )
    assert len(again.training.epochs["teaching"]) == 2


def without_steps(file: Path, folder: Path) -> Path:
    """The weights without the count of steps, for the network that has none."""
    from safetensors.torch import save_file

    weights = {name: one for name, one in load_file(file).items() if name != "steps"}
    save_file(weights, folder / "kept.safetensors")
    return folder / "kept.safetensors"


def test_a_loss_that_is_not_finite_in_the_first_epoch_leaves_nothing(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_finite(config: TrainingConfig) -> Any:
        return (lambda logits, _: logits.sum(2) * torch.nan), losses_of(config)[1]

    monkeypatch.setattr(saver, "losses_of", not_finite)
    with pytest.raises(ModelError, match="after epoch 1"):
        teach(tmp_path / "taught", config=ALONE)
    assert not any(tmp_path.iterdir())


def test_a_model_that_fails_on_channels_last_is_taught(folder: Path, tmp_path: Path) -> None:
    data = open_data(f"folder:{folder}/whole")
    config = replace(ALONE, teaching=replace(TEACHING, epochs=1))
    stage = fresh(saver_digits.viewing)
    found = fit_saver(stage, saver_digits.large(), data, config=config)
    assert len(found.epochs["teaching"]) == 2
    assert all(one.is_contiguous() for one in stage.model.state_dict().values())


def test_weights_are_written_as_a_file_wants_them(teach: Teach, tmp_path: Path) -> None:
    """Those that a model has under two names, twice."""
    config = replace(ALONE, teaching=replace(TEACHING, epochs=1))
    record = teach(tmp_path / "taught", little="py:saver_digits:tied", config=config)
    weights = load_file(tmp_path / "taught" / "weights.safetensors")
    assert torch.equal(weights["first.weight"], weights["second.weight"])
    assert load_stage(record.spec).weights_hash


def test_a_model_is_taught_as_it_is_and_then_runs_in_its_mode(teach: Teach, tmp_path: Path) -> None:
    config = replace(ALONE, teaching=replace(TEACHING, epochs=1))
    little = "tiny=py:saver_digits:little?weights=random&run=folded+bfloat16"
    record = teach(tmp_path / "taught", little=little, config=config)
    assert record.spec.startswith("py:saver_digits:little?run=folded+bfloat16&checkpoint=/")
    assert record.little == little.removeprefix("tiny=")
    plain = teach(tmp_path / "plain", config=config)
    weights = [tmp_path / name / "weights.safetensors" for name in ("taught", "plain")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert plain.training.pairs == record.training.pairs
    assert load_stage(record.spec).origin["run"] == "folded+bfloat16"


@pytest.mark.slow
def test_a_teacher_may_run_in_a_mode(digit_teacher: Stage) -> None:
    """Where its last layer cannot be found then, it is left out."""
    config = replace(QUICK, objective="distillation", teaching=replace(TEACHING, epochs=1))
    for mode in ("folded", "bfloat16"):
        teacher = with_mode(digit_teacher, ExecutionMode.parse(mode))
        found = fit_saver(fresh(), teacher, digits(), config=config)
        assert found.pairs[0].large_accuracy > 0.8


@pytest.mark.parametrize(
    ("little", "large", "words"),
    [
        ("seven", "large", r"found 7 and 10: .* \?classes=10"),
        ("large", "little", "costs less than its teacher, found .* exchange them"),
        ("little", "little", "costs less than its teacher"),
        ("named_otherwise", "named", "found '3' as class 2 and class 3"),
        ("broken", "large", "finite numbers, found .* check its weights"),
        ("little", "broken_large", "a teacher's logits are finite numbers"),
        ("half", "large", "taught in float32, found weights in torch.float16"),
        ("softmax", "large", "one of the pair gives probabilities"),
        ("no_weights", "large", "has weights that PyTorch can train, found none"),
        ("folded", "large", "in the execution mode 'folded'"),
    ],
)
def test_models_that_are_no_pair_are_refused(
    folder: Path, little: str, large: str, words: str
) -> None:
    makers = {
        **vars(saver_digits),
        "folded": lambda: with_mode(saver_digits.little(), ExecutionMode.parse("folded")),
        "broken_large": lambda: broken(saver_digits.large()),
        "softmax": lambda: Stage(
            nn.Sequential(saver_digits.little().model, nn.Softmax(1)),
            preprocess=saver_digits.COLOUR,
        ),
    }
    data = open_data(f"folder:{folder}/whole")
    with pytest.raises(ModelError, match=words):
        fit_saver(makers[little](), makers[large](), data, config=QUICK)


def broken(stage: Stage) -> Stage:
    nn.init.constant_(stage.model.get_parameter("linear.bias"), torch.inf)
    return stage


def test_names_of_classes_of_another_vocabulary_say_nothing(folder: Path) -> None:
    data = open_data(f"folder:{folder}/whole")
    little, large = saver_digits.little(), saver_digits.named()
    saver_digits.name(little, "abcdefghij")
    config = replace(ALONE, teaching=replace(TEACHING, epochs=1))
    assert fit_saver(little, large, data, config=config).pairs


def test_data_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    seven, eight = saver_digits.seven(), saver_digits.seven_large()
    data = open_data(f"folder:{folder}/whole")
    with pytest.raises(DataError, match=r"10 names .* where the models have 7 classes"):
        fit_saver(seven, eight, data, config=QUICK)
    with pytest.raises(DataError, match="the objective 'labels' learns from labels"):
        fit_saver(fresh(), big(), digits(labelled=False), config=ALONE)
    few = replace(QUICK, teaching=replace(TEACHING, held_out=1e-9))
    with pytest.raises(DataError, match="training takes at least 2 images"):
        fit_saver(fresh(), big(), digits(), config=few)
    saver_digits.write_digits(tmp_path)
    keep = sorted(tmp_path.rglob("*.png"))[0]
    for file in tmp_path.rglob("*.png"):
        if file != keep:
            file.write_bytes(b"")
    with pytest.raises(DataError, match="training takes at least 2 images that can be decoded"):
        fit_saver(
            saver_digits.little(),
            saver_digits.large(),
            open_data(f"folder:{tmp_path}"),
            config=QUICK,
        )


def test_too_little_room_is_seen_before_work_begins(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "free_bytes", lambda _: 1000)
    with pytest.raises(UnderstudyError, match="checkpoints of this training take"):
        teach(tmp_path / "taught")
    assert not any(tmp_path.iterdir())


def test_a_place_that_no_spec_can_name_is_refused(teach: Teach, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="ends at '&'"):
        teach(tmp_path / "a&b")
    record = teach(
        tmp_path / "a b?c=d", config=replace(ALONE, teaching=replace(TEACHING, epochs=1))
    )
    assert load_stage(record.spec).weights_hash


def test_something_else_is_not_replaced(teach: Teach, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UnderstudyError, match="a taught model goes into a folder of its own"):
        teach(tmp_path / "notes")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "label"}, "no objective 'label'"),
        ({"alpha": 1.0}, "alpha lies between 0 and 1"),
        ({"max_drop": -1.0}, "max_drop lies between 0 and 100"),
        ({"tuning_epochs": 0}, "epochs lies between 1"),
        ({"teaching": TrainingConfig(weights="dyce")}, "has no exits, found weights = 'dyce'"),
        ({"teaching": TrainingConfig(targets="exits")}, "has no exits, found targets = 'exits'"),
        ({"teaching": TrainingConfig(backbone_lr=0.1)}, r"has no exits, found backbone_lr = 0\.1"),
        ({"teaching": TrainingConfig(targets="labels")}, "found the targets 'labels'"),
    ],
)
def test_settings_out_of_their_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        SaverConfig(**settings)


def test_a_pair_is_plain_json() -> None:
    pair = Pair("taught", "as it is", 0.9, 0.95, 0.5)
    assert Pair.from_dict(pair.to_dict()) == pair
