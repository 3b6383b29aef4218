from __future__ import annotations

import json
from typing import Any

import pytest

from understudy.errors import ModelError
from understudy.training.config import TrainingConfig


def test_it_goes_through_json() -> None:
    config = TrainingConfig(epochs=3, targets="both", weights="dyce", flip=False)
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_older_configurations_load() -> None:
    """They lack settings that came later, which have then no effect."""
    later = {"dtype", "crop", "auto_augment", "erase", "mixup", "cutmix", "ema"}
    older = {key: own for key, own in TrainingConfig().to_dict().items() if key not in later}
    assert TrainingConfig.from_dict(older) == TrainingConfig()


@pytest.mark.parametrize("name", ["crop", "erase", "mixup", "cutmix"])
def test_what_cannot_be_cached(name: str) -> None:
    assert not TrainingConfig(ema=0.9, flip=True, shift=0.5, views=9).fresh
    settings: dict[str, Any] = {name: 0.5}
    assert TrainingConfig(**settings).fresh
    assert TrainingConfig(auto_augment="autoaugment").fresh


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "epochs lies between 1"),
        ({"batch": 1}, "batch lies between 2"),
        ({"lr": float("nan")}, "lr lies between"),
        ({"warmup": 1.0}, "warmup lies between 0 and 1"),
        ({"views": 0}, "views lies between 1"),
        ({"held_out": 0.0}, "found 0.0"),
        ({"held_out": 1.0}, "found 1.0"),
        ({"share": 1.5}, "share lies between 0 and 1"),
        ({"seed": -1}, "found -1"),
        ({"crop": 0.0}, "crop lies between 0.001 and 1"),
        ({"erase": 1.1}, "erase lies between 0 and 1"),
        ({"mixup": -0.1}, "mixup lies between 0"),
        ({"cutmix": float("inf")}, "cutmix lies between 0"),
        ({"ema": 1.0}, "ema lies between 0 and 1"),
        ({"auto_augment": "randaug"}, "did you mean 'randaugment'"),
        ({"targets": "label"}, "did you mean 'labels'"),
        ({"weights": "dice"}, "did you mean 'dyce'"),
    ],
)
def test_settings_are_checked(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        TrainingConfig(**wrong)


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ModelError, match=r"has the fields epochs, .*found 'epoch'"):
        TrainingConfig.from_dict(TrainingConfig().to_dict() | {"epoch": 3})
    with pytest.raises(ModelError, match=r"a whole number at \$.epochs, found '3'"):
        TrainingConfig.from_dict(TrainingConfig().to_dict() | {"epochs": "3"})
