"""Configurations by name: the papers' own, and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.early_exit.exit_sequence import SequenceSize
from understudy.errors import ModelError
from understudy.training import named_config
from understudy.training.config import TrainingConfig
from understudy.training.named_config import NAMES, read_config

DYCE_HEADS = ("mlp1x1000", "mlp3x500", "mlp3x1000", "mlp5x500", "mlp5x1000")


def test_the_papers_settings() -> None:
    """Those of the papers' code, which both share but for the epochs and the weights."""
    tinysaver, dyce = read_config("tinysaver"), read_config("dyce")
    for config, epochs in ((tinysaver.training, 10), (dyce.training, 50)):
        assert (config.epochs, config.patience, config.batch) == (epochs, epochs, 512)
        assert (config.lr, config.weight_decay, config.warmup) == (6.25e-4, 0.05, 0.1)
        assert (config.mixup, config.cutmix, config.label_smoothing) == (0.8, 1.0, 0.1)
        assert (config.crop, config.auto_augment, config.erase) == (0.08, "autoaugment", 0)
        assert (config.flip, config.shift, config.ema) == (True, 0, 0.9999)
        assert config.fresh
    assert tinysaver.training.weights == "tinysaver"
    assert (tinysaver.taps, tinysaver.heads) == ("all", ())
    assert tinysaver.sequence == SequenceSize(layers=2, dim=512, heads=8)
    assert (dyce.training.weights, dyce.taps, dyce.heads) == ("dyce", "all", DYCE_HEADS)
    assert dyce.sequence is None


def test_every_configuration_of_the_package_has_a_name() -> None:
    folder = Path(named_config.__file__).with_name("configs")
    assert tuple(sorted(file.stem for file in folder.glob("*.toml"))) == NAMES
    for name in NAMES:  # a user starts from a copy
        assert read_config(folder / f"{name}.toml") == read_config(name)


def test_a_file_of_your_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'epochs = 3\ntaps = "blocks.0,blocks.1"\nheads = ["linear"]\n'
        "[sequence]\nlayers = 1\ndim = 12\nheads = 4\n"
    )
    config = read_config(file)
    assert config.training == TrainingConfig(epochs=3)
    assert (config.taps, config.heads) == (["blocks.0", "blocks.1"], ("linear",))
    assert config.sequence == SequenceSize(layers=1, dim=12, heads=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("heads = 3", r"'.*mine.toml' has a list at \$.heads, found 3: correct the file"),
        ("taps = 3", r"has a text at \$.taps, found 3"),
        ("[sequence]\nlayers = 1", "has the field 'dim'"),
        ("[sequence]\nlayers = 1\ndim = 9\nheads = 8", "heads divide dim"),
        ("crop = 0", "crop lies between 0.001 and 1, found 0"),
        ('auto_augment = "rand"', "no auto_augment 'rand'"),
        ("epochs 2", "is a TOML file, '.*mine.toml' is not"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ModelError, match=message):
        read_config(tmp_path / "mine.toml")


def test_an_unknown_name() -> None:
    with pytest.raises(ModelError, match="is 'dyce' or 'tinysaver' or a TOML file, 'tinysever'"):
        read_config("tinysever")
