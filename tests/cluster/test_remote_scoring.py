"""A process elsewhere scores the same images with the same models, or says that it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.cluster.remote_scoring import RemoteScoring
from understudy.cluster.shard_actor import ShardActor
from understudy.cluster.shard_news import Failed, News
from understudy.errors import DataError
from understudy.scoring.sources import Sources
from understudy.zoo.data import open_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    for number, image in enumerate(pixels):
        (tmp_path / "val" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "val" / f"{number % 2}" / f"{number}.png")
    return tmp_path


@pytest.fixture
def scoring(folder: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteScoring:
    monkeypatch.chdir(folder)
    images = open_data("folder:val")
    assert images.encoded is not None
    return RemoteScoring(
        data="folder:val",
        fingerprint=images.fingerprint,
        content=images.encoded.hash().to_dict(),
        sources=Sources({}, {}, "cpu"),
        batch=4,
        workers=None,
        keep_logits=True,
        strict=False,
        threads=torch.get_num_threads(),
        folder=str(folder),
    )


def test_relative_paths_begin_where_they_do_here(
    scoring: RemoteScoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert len(scoring.scorer().images) == 6


def test_missing_images_are_named(scoring: RemoteScoring, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match=r"val"):
        replace(scoring, folder=str(tmp_path / "elsewhere")).scorer()


def test_other_images_are_refused(scoring: RemoteScoring, folder: Path) -> None:
    with pytest.raises(DataError, match=r"every node has the same images.*names, labels or sizes"):
        replace(scoring, fingerprint="0" * 64).scorer()
    image = folder / "val" / "1" / "3.png"
    changed = bytearray(image.read_bytes())
    changed[-1] ^= 1  # of the same size
    image.write_bytes(changed)
    with pytest.raises(DataError, match=r"differs there \('1/3.png'\): copy or mount"):
        scoring.scorer()


def news_of(actor: ShardActor) -> News:
    while not (news := actor.work([])):
        pass
    return news[-1]


def test_an_actor_says_what_is_wrong_with_its_node(scoring: RemoteScoring) -> None:
    actor = ShardActor()
    actor.begin(replace(scoring, data="folder:nowhere"))
    failed = news_of(actor)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.starting) == ("DataError", True)
    assert "nowhere" in failed.message
