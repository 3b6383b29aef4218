from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from exit_digits import big, centred
from understudy.early_exit.heads import pool
from understudy.early_exit.network import ExitNetwork, Heads, attach
from understudy.errors import DataError, ModelError, UnderstudyError
from understudy.nn.stage import Stage
from understudy.training.augmentation import Augmentation
from understudy.training.checkpoint import CacheRows, FeatureCache, Shapes
from understudy.training.features import (
    CLASSIFIER_INPUT,
    LOGITS,
    FeatureExtractor,
    FeatureSource,
    StreamedFeatures,
    TrainingImages,
    find_classifier,
)
from understudy.training.sampling import HoldOut, SampleOrder, hold_out
from understudy.zoo.batches import Batch, first_images
from understudy.zoo.data import DataSet, open_data

HEADS: Heads = {
    "blocks.0.norm": "linear",  # an activation in place follows
    "blocks.1": {"linear": "linear", "mlp1x8": "mlp1x8", "conv4": "conv4"},
}


@pytest.fixture(scope="module")
def network() -> ExitNetwork:
    return attach(big(), HEADS)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return open_data("digits:train")


def training_images(network: ExitNetwork, data: DataSet, *, flip: bool = True) -> TrainingImages:
    augmentation = Augmentation(shift=0.2, flip=flip, seed=0)
    extract = FeatureExtractor(network, classifier=None, logits=True)
    return TrainingImages(data, augmentation, extract, workers=0)


def test_features_are_those_of_the_network(network: ExitNetwork, digits: DataSet) -> None:
    images = torch.stack([digits.image(number) for number in range(5)])
    found = FeatureExtractor(network, classifier="linear", logits=True)(images)
    assert set(found) == {
        "blocks.0.norm: mean",
        "blocks.1: mean",
        "blocks.1: map8",
        LOGITS,
        CLASSIFIER_INPUT,
    }
    assert {value.dtype for value in found.values()} == {torch.float16}
    values: tuple[torch.Tensor, ...] = (network.prepare(images),)
    for number, tap in enumerate(network.taps):
        values = network.trunk.run(number, values)
        expected = pool(values[0], tap.layout)
        torch.testing.assert_close(
            found[f"{tap.path}: mean"].float(), expected, rtol=2e-3, atol=1e-3
        )
    linear = network.stage.model.get_submodule("linear")
    torch.testing.assert_close(
        linear(found[CLASSIFIER_INPUT].float()), network(images), rtol=2e-3, atol=1e-3
    )
    torch.testing.assert_close(found[LOGITS].float(), network(images), rtol=2e-3, atol=1e-3)


def test_no_more_is_run_than_needed(digits: DataSet) -> None:
    stage = big()
    network = attach(stage, {"blocks.0": "linear"})
    runs: list[torch.Tensor] = []
    stage.model.get_submodule("blocks.1").register_forward_hook(
        lambda _module, _input, output: runs.append(output)
    )
    extract = FeatureExtractor(network, classifier=None, logits=False)
    assert set(extract(digits.image(0)[None])) == {"blocks.0: mean"}
    assert not runs
    assert stage(digits.image(0)[None]).shape == (1, 10)  # no hook of the extractor is left
    assert len(runs) == 1


def test_features_are_numbers(digits: DataSet) -> None:
    network = attach(big(), {"blocks.0": "linear"})
    with torch.no_grad():
        network.stage.model.get_parameter("blocks.0.norm.weight")[3] = torch.nan
    extract = FeatureExtractor(network, classifier=None, logits=False)
    with pytest.raises(ModelError, match=r"'blocks.0: mean' has 1 that are none"):
        extract(digits.image(0)[None])
    with torch.no_grad():
        network.stage.model.get_parameter("blocks.0.norm.weight")[3] = 1e9
    assert extract(digits.image(0)[None])["blocks.0: mean"].isfinite().all()


def test_the_classifier_is_found() -> None:
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    assert find_classifier(big(), images) == "linear"
    with pytest.raises(ModelError, match="Centred has 1 linear layers and none is"):
        find_classifier(centred(), images)
    with pytest.raises(ModelError, match="has 0 linear layers"):
        find_classifier(Stage(nn.Flatten()), torch.zeros(2, 3))


def split(data: DataSet) -> HoldOut:
    return hold_out(data, share=0.2, seed=0)


def shapes_of(images: TrainingImages) -> Shapes:
    features = images.extract(first_images(images.data, 1))
    return {name: tuple(value.shape[1:]) for name, value in features.items()}


def new_cache(
    folder: Path, images: TrainingImages, parts: HoldOut, *, views: int = 2
) -> FeatureCache:
    rows = CacheRows(parts, images=len(images.data), views=views)
    return FeatureCache(folder, shapes_of(images), rows)


def epoch_of(parts: HoldOut) -> SampleOrder:
    return parts.training_order(np.random.default_rng(0), views=2)


def all_of(source: FeatureSource, order: SampleOrder) -> dict[str, torch.Tensor]:
    samples = list(source.batches(order, size=64))
    assert np.concatenate([s.positions for s in samples]).tolist() == order.positions.tolist()
    names = samples[0].features
    return {name: torch.cat([s.features[name] for s in samples]) for name in names}


def test_a_cache_holds_what_a_stream_gives(
    network: ExitNetwork, digits: DataSet, tmp_path: Path
) -> None:
    images, parts = training_images(network, digits), split(digits)
    cache = new_cache(tmp_path / "cache", images, parts)
    progress: list[tuple[int, int]] = []
    cache.fill(images, on_progress=lambda *how: progress.append(how))
    assert progress == [(0, 897), (256, 897), (512, 897), (768, 897), (897, 897)]
    for order in (epoch_of(parts), parts.held_out_order()):
        kept, streamed = all_of(cache, order), all_of(StreamedFeatures(images), order)
        assert kept.keys() == streamed.keys()
        for name, value in kept.items():
            torch.testing.assert_close(value, streamed[name], rtol=5e-3, atol=2e-3)
    rows = CacheRows(parts, images=len(digits), views=2)
    files = sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.npy"))
    assert rows.bytes(shapes_of(images)) == pytest.approx(files, rel=0.01)


def test_a_cache_goes_on_where_it_was_interrupted(
    network: ExitNetwork, digits: DataSet, tmp_path: Path
) -> None:
    images, parts = training_images(network, digits), split(digits)

    def interrupted(done: int, total: int) -> None:
        if done >= 512:
            raise KeyboardInterrupt

    broken = new_cache(tmp_path / "cache", images, parts)
    with pytest.raises(KeyboardInterrupt):
        broken.fill(images, on_progress=interrupted)
    assert FeatureCache.begun(tmp_path / "cache")
    progress: list[int] = []
    resumed = new_cache(tmp_path / "cache", images, parts)
    resumed.fill(images, on_progress=lambda done, total: progress.append(done))
    assert progress == [512, 768, 897]
    whole = new_cache(tmp_path / "other", images, parts)
    whole.fill(images, on_progress=lambda *_: None)
    for name, value in all_of(whole, epoch_of(parts)).items():
        assert torch.equal(all_of(resumed, epoch_of(parts))[name], value)


def test_a_damaged_cache_is_an_error(network: ExitNetwork, digits: DataSet, tmp_path: Path) -> None:
    images, parts = training_images(network, digits), split(digits)
    new_cache(tmp_path, images, parts).fill(images, on_progress=lambda *_: None)
    with pytest.raises(DataError, match="is damaged"):
        new_cache(tmp_path, images, parts, views=3)
    (tmp_path / "00.npy").write_bytes(b"rubbish")
    with pytest.raises(UnderstudyError, match=r"cannot be kept in .*00\.npy"):
        new_cache(tmp_path, images, parts)


def test_a_full_disk_is_an_error(
    network: ExitNetwork, digits: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UnderstudyError, match="No space left"):
        new_cache(tmp_path, training_images(network, digits), split(digits))


@pytest.fixture
def holed(digits: DataSet) -> DataSet:
    """The digits, of which the first, some others, and a whole batch are corrupt."""
    broken = {0, 5, 300, *range(512, 768)}

    def read(index: int) -> npt.NDArray[np.uint8]:
        if index in broken:
            raise OSError("cut short")
        return digits.array(index)

    return DataSet("holed", digits.ids, digits.labels, digits.classes, digits.fingerprint, read)


def test_corrupt_images_are_noted(network: ExitNetwork, holed: DataSet, tmp_path: Path) -> None:
    images, parts = training_images(network, holed), split(holed)
    cache = new_cache(tmp_path, images, parts)
    cache.fill(images, on_progress=lambda *_: None)
    assert cache.corrupt().tolist() == [0, 5, 300, *range(512, 768)]
    stream = StreamedFeatures(images)
    positions = np.arange(len(holed))
    samples = list(stream.batches(SampleOrder(positions, positions % 2), size=100))
    assert stream.corrupt().tolist() == cache.corrupt().tolist()
    left = parts.without(cache.corrupt())
    assert sum(len(s.positions) for s in samples) == len(left.train) + len(left.held_out)
    kept = all_of(cache, left.held_out_order())
    streamed = all_of(stream, left.held_out_order())
    for name, value in kept.items():
        torch.testing.assert_close(value, streamed[name], rtol=5e-3, atol=2e-3)


def test_images_of_different_sizes_are_cached(tmp_path: Path, digits: DataSet) -> None:
    def read(index: int) -> npt.NDArray[np.uint8]:
        return digits.array(index)[:, : 8 - index % 2]

    data = DataSet("cut", digits.ids, digits.labels, digits.classes, digits.fingerprint, read)
    network = attach(big(), {"blocks.0": "linear"})
    images, parts = training_images(network, data), split(data)
    batch = next(images.decoded(np.arange(4), size=4))
    assert isinstance(batch, Batch)
    assert isinstance(batch.images, list)
    cache = new_cache(tmp_path, images, parts)
    cache.fill(images, on_progress=lambda *_: None)
    assert all_of(cache, epoch_of(parts))["blocks.0: mean"].isfinite().all()
