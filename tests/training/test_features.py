from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from exit_digits import big, centred
from torch import nn

from understudy.early_exit.heads import pool
from understudy.early_exit.network import ExitNetwork, attach
from understudy.errors import DataError, ModelError, UnderstudyError
from understudy.nn.stage import Stage
from understudy.training import cache as caching
from understudy.training.augmentation import Augmentation
from understudy.training.cache import Cache, Rows, estimated
from understudy.training.classifier import find_classifier
from understudy.training.features import CLASSIFIED, LOGITS, FeatureExtractor
from understudy.training.hold_out import HoldOut, Order, part
from understudy.training.source import Streamed, TrainingImages
from understudy.zoo.data import Batch, DataSet, open_data

HEADS = {
    "blocks.0.norm": "linear",  # an activation in place follows
    "blocks.1": {"linear": "linear", "mlp1x8": "mlp1x8", "conv4": "conv4"},
}


@pytest.fixture(scope="module")
def network() -> ExitNetwork:
    return attach(big(), HEADS)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return open_data("digits:train")


def seen_by(network: ExitNetwork, data: DataSet, *, flip: bool = True) -> TrainingImages:
    views = Augmentation(shift=0.2, flip=flip, seed=0)
    return TrainingImages(data, views, FeatureExtractor(network, classifier=None, logits=True), 0)


def test_features_are_those_of_the_network(network: ExitNetwork, digits: DataSet) -> None:
    images = torch.stack([digits.image(number) for number in range(5)])
    found = FeatureExtractor(network, classifier="linear", logits=True)(images)
    assert set(found) == {
        "blocks.0.norm: mean",
        "blocks.1: mean",
        "blocks.1: map8",
        LOGITS,
        CLASSIFIED,
    }
    assert {value.dtype for value in found.values()} == {torch.float16}
    values: tuple[torch.Tensor, ...] = (network.prepare(images),)
    for number, tap in enumerate(network.taps):
        values = network.trunk.run(number, values)
        expected = pool(values[0], tap.layout)
        torch.testing.assert_close(
            found[f"{tap.path}: mean"].float(), expected, rtol=2e-3, atol=1e-3
        )
    linear = network.stage.model.linear
    torch.testing.assert_close(
        linear(found[CLASSIFIED].float()), network(images), rtol=2e-3, atol=1e-3
    )
    torch.testing.assert_close(found[LOGITS].float(), network(images), rtol=2e-3, atol=1e-3)


def test_no_more_is_run_than_needed(digits: DataSet) -> None:
    network = attach(big(), {"blocks.0": "linear"})
    network.stage.model.blocks[1] = nn.LazyLinear(1)  # cannot run
    take = FeatureExtractor(network, classifier=None, logits=False)
    assert set(take(digits.image(0)[None])) == {"blocks.0: mean"}
    assert not network.stage.model.blocks[0]._forward_hooks


def test_features_are_numbers(digits: DataSet) -> None:
    network = attach(big(), {"blocks.0": "linear"})
    with torch.no_grad():
        network.stage.model.blocks[0].norm.weight[3] = torch.nan
    take = FeatureExtractor(network, classifier=None, logits=False)
    with pytest.raises(ModelError, match=r"'blocks.0: mean' has 1 that are none"):
        take(digits.image(0)[None])
    with torch.no_grad():
        network.stage.model.blocks[0].norm.weight[3] = 1e9
    assert take(digits.image(0)[None])["blocks.0: mean"].isfinite().all()


def test_the_classifier_is_found() -> None:
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    assert find_classifier(big(), images) == "linear"
    with pytest.raises(ModelError, match="Centred has 1 linear layers and none is"):
        find_classifier(centred(), images)
    with pytest.raises(ModelError, match="has 0 linear layers"):
        find_classifier(Stage(nn.Flatten()), torch.zeros(2, 3))


def small_parts(data: DataSet) -> HoldOut:
    return part(data, held_out=0.2, seed=0)


def made(folder: Path, seen: TrainingImages, parts: HoldOut, *, views: int = 2) -> Cache:
    shapes = {
        name: tuple(value.shape[1:]) for name, value in seen.take(seen.data.image(0)[None]).items()
    }
    rows = Rows.of(parts, images=len(seen.data), views=views)
    return Cache(folder, shapes, rows)


def everything(parts: HoldOut) -> Order:
    return parts.epoch(np.random.default_rng(0), views=2)


def all_of(cache: Cache | Streamed, order: Order) -> dict[str, torch.Tensor]:
    samples = list(cache.batches(order, size=64))
    assert np.concatenate([s.positions for s in samples]).tolist() == order.positions.tolist()
    names = samples[0].features
    return {name: torch.cat([s.features[name] for s in samples]) for name in names}


def test_a_cache_holds_what_a_stream_gives(
    network: ExitNetwork, digits: DataSet, tmp_path: Path
) -> None:
    seen, parts = seen_by(network, digits), small_parts(digits)
    cache = made(tmp_path / "cache", seen, parts)
    told: list[tuple[int, int]] = []
    cache.fill(seen, on_progress=lambda *how: told.append(how))
    assert told == [(0, 897), (256, 897), (512, 897), (768, 897), (897, 897)]
    for order in (everything(parts), parts.check()):
        kept, streamed = all_of(cache, order), all_of(Streamed(seen), order)
        assert kept.keys() == streamed.keys()
        for name, value in kept.items():
            torch.testing.assert_close(value, streamed[name], rtol=5e-3, atol=2e-3)
    rows = Rows.of(parts, images=len(digits), views=2)
    files = sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.npy"))
    shapes = {name: tuple(value.shape[1:]) for name, value in kept.items()}
    assert estimated(shapes, rows) == pytest.approx(files, rel=0.01)


def test_a_cache_goes_on_where_it_was_interrupted(
    network: ExitNetwork, digits: DataSet, tmp_path: Path
) -> None:
    seen, parts = seen_by(network, digits), small_parts(digits)

    def interrupted(done: int, total: int) -> None:
        if done >= 512:
            raise KeyboardInterrupt

    broken = made(tmp_path / "cache", seen, parts)
    with pytest.raises(KeyboardInterrupt):
        broken.fill(seen, on_progress=interrupted)
    assert Cache.begun(tmp_path / "cache")
    told: list[int] = []
    resumed = made(tmp_path / "cache", seen, parts)
    resumed.fill(seen, on_progress=lambda done, total: told.append(done))
    assert told == [512, 768, 897]
    whole = made(tmp_path / "other", seen, parts)
    whole.fill(seen, on_progress=lambda *_: None)
    for name, value in all_of(whole, everything(parts)).items():
        assert torch.equal(all_of(resumed, everything(parts))[name], value)


def test_a_damaged_cache_is_an_error(network: ExitNetwork, digits: DataSet, tmp_path: Path) -> None:
    seen, parts = seen_by(network, digits), small_parts(digits)
    made(tmp_path, seen, parts).fill(seen, on_progress=lambda *_: None)
    with pytest.raises(DataError, match="is damaged"):
        made(tmp_path, seen, parts, views=3)
    (tmp_path / "00.npy").write_bytes(b"rubbish")
    with pytest.raises(UnderstudyError, match=r"cannot be kept in .*00\.npy"):
        made(tmp_path, seen, parts)


def test_a_full_disk_is_an_error(
    network: ExitNetwork, digits: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.os, "posix_fallocate", full, raising=False)
    with pytest.raises(UnderstudyError, match="No space left"):
        made(tmp_path, seen_by(network, digits), small_parts(digits))


@pytest.fixture
def holed(digits: DataSet) -> DataSet:
    """The digits, of which the first, some others, and a whole batch are corrupt."""
    broken = {0, 5, 300, *range(512, 768)}

    def read(index: int) -> torch.Tensor:
        if index in broken:
            raise OSError("cut short")
        return digits.image(index)

    return DataSet("holed", digits.ids, digits.labels, digits.classes, digits.fingerprint, read)


def test_corrupt_images_are_noted(network: ExitNetwork, holed: DataSet, tmp_path: Path) -> None:
    seen, parts = seen_by(network, holed), small_parts(holed)
    rows = Rows.of(parts, images=len(holed), views=2)
    shapes = {
        name: tuple(value.shape[1:]) for name, value in seen.take(holed.image(1)[None]).items()
    }
    cache = Cache(tmp_path, shapes, rows)
    cache.fill(seen, on_progress=lambda *_: None)
    assert cache.corrupt().tolist() == [0, 5, 300, *range(512, 768)]
    stream = Streamed(seen)
    positions = np.arange(len(holed))
    samples = list(stream.batches(Order(positions, positions % 2), size=100))
    assert stream.corrupt().tolist() == cache.corrupt().tolist()
    left = parts.without(cache.corrupt())
    assert sum(len(s.positions) for s in samples) == len(left.train) + len(left.held_out)
    kept = all_of(cache, left.check())
    streamed = all_of(stream, left.check())
    for name, value in kept.items():
        torch.testing.assert_close(value, streamed[name], rtol=5e-3, atol=2e-3)


def test_images_of_different_sizes_are_cached(tmp_path: Path, digits: DataSet) -> None:
    def read(index: int) -> torch.Tensor:
        return digits.image(index)[:, : 8 - index % 2]

    data = DataSet("cut", digits.ids, digits.labels, digits.classes, digits.fingerprint, read)
    network = attach(big(), {"blocks.0": "linear"})
    seen, parts = seen_by(network, data), small_parts(data)
    batch = next(seen.decoded(np.arange(4), size=4))
    assert isinstance(batch, Batch)
    assert isinstance(batch.images, list)
    cache = made(tmp_path, seen, parts)
    cache.fill(seen, on_progress=lambda *_: None)
    assert all_of(cache, everything(parts))["blocks.0: mean"].isfinite().all()
