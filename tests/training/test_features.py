from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from exit_digits import DIGIT, big, centred
from understudy.early_exit.heads import pool
from understudy.early_exit.network import ExitNetwork, Heads, attach
from understudy.errors import DataError, ModelError, UnderstudyError
from understudy.nn.stage import Stage
from understudy.training import feature_cache
from understudy.training.augmentation import Augmentation
from understudy.training.feature_cache import CacheRows, FeatureCache, Kinds, kinds_of
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


def training_images(network: ExitNetwork, data: DataSet, *, logits: bool = True) -> TrainingImages:
    augmentation = Augmentation(shift=0.2, flip=True, seed=0)
    extract = FeatureExtractor(network, classifier=None, logits=logits)
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
    extract(digits.image(0)[None])  # the first time, both memory formats are tried
    runs.clear()
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
        network.stage.model.get_parameter("blocks.0.norm.weight")[3] = 3e38
        network.stage.model.get_parameter("blocks.0.norm.bias")[3] = 3e38
    with pytest.raises(ModelError, match=r"'blocks.0: mean' has 1 that are none \(NaN or infinite"):
        extract(digits.image(0)[None])


LOUD = 1e7
"""The gain of a layer whose features of digits are beyond float16, and of a grey image are not."""


@pytest.fixture
def loud() -> ExitNetwork:
    """A network with one feature beyond the range of float16, and one within."""
    torch.manual_seed(0)
    network = attach(big(), {"blocks.0": "linear", "blocks.1": "linear"})
    with torch.no_grad():
        network.stage.model.get_parameter("blocks.1.norm.weight")[:] = LOUD
    return network


def test_features_beyond_float16_stay_as_they_are(loud: ExitNetwork, digits: DataSet) -> None:
    images = torch.stack([digits.image(number) for number in range(5)])
    found = FeatureExtractor(loud, classifier=None, logits=False)(images)
    assert {name: value.dtype for name, value in found.items()} == {
        "blocks.0: mean": torch.float16,
        "blocks.1: mean": torch.float32,
    }
    values: tuple[torch.Tensor, ...] = (loud.prepare(images),)
    for number in range(2):
        values = loud.trunk.run(number, values)
    assert values[0].mean((2, 3)).max() > 65504
    torch.testing.assert_close(found["blocks.1: mean"], values[0].mean((2, 3)), rtol=1e-5, atol=1)


@pytest.fixture
def grey_first(digits: DataSet) -> DataSet:
    """The digits, of which the first 300 are grey."""

    def read(index: int) -> npt.NDArray[np.uint8]:
        return np.full((1, 8, 8), 128, np.uint8) if index < 300 else digits.array(index)

    return DataSet("grey", digits.ids, digits.labels, digits.classes, digits.fingerprint, read)


@pytest.mark.parametrize("place", ["note", "array", "block"])
def test_a_cached_feature_that_outgrows_float16_is_widened_and_said_once(
    loud: ExitNetwork,
    grey_first: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Wherever the work is interrupted, it ends with the bytes of work that was not."""
    images, parts = training_images(loud, grey_first, logits=False), split(grey_first)
    notes: list[str] = []
    whole = new_cache(tmp_path / "whole", images, parts)
    whole.fill(images, on_progress=lambda *_: None, on_note=notes.append)
    (note,) = notes
    assert "the feature 'blocks.1: mean' has " in note
    assert "beyond float16's 65,504 in 256 images: it is stored in float32" in note
    kept, streamed = (
        all_of(whole, epoch_of(parts)),
        all_of(StreamedFeatures(images), epoch_of(parts)),
    )
    assert {name: value.dtype for name, value in kept.items()} == {
        "blocks.0: mean": torch.float16,
        "blocks.1: mean": torch.float32,
    }
    for name, value in kept.items():
        torch.testing.assert_close(value.float(), streamed[name].float(), rtol=5e-3, atol=1e3)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def stop_at_block(done: int, _total: int) -> None:
        if place == "block" and done > 256:
            stop()

    cut = new_cache(tmp_path / "cut", images, parts)
    if place == "array":
        monkeypatch.setattr(feature_cache, "_new_array", stop)
    on_note = stop if place == "note" else notes.append
    with pytest.raises(KeyboardInterrupt):
        cut.fill(images, on_progress=stop_at_block, on_note=on_note)
    monkeypatch.undo()
    resumed = new_cache(tmp_path / "cut", images, parts)
    resumed.fill(images, on_progress=lambda *_: None, on_note=notes.append)
    for file in (tmp_path / "whole").glob("*.npy"):
        assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes()


class Greedy(nn.Module):
    """Raises what PyTorch raises where memory runs out, when it has room for some images alone."""

    room: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.linear = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if Greedy.room is not None and len(x) > Greedy.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        logits: torch.Tensor = self.linear(self.conv(x).mean((2, 3)))
        return logits


def test_parts_that_do_not_fit_are_halved(digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    network = attach(Stage(Greedy(), preprocess=DIGIT), {"conv": "linear"})
    images = torch.stack([digits.image(number) for number in range(70)])
    expected = FeatureExtractor(network, classifier=None, logits=True)(images)
    monkeypatch.setattr(Greedy, "room", 8)
    extract = FeatureExtractor(network, classifier=None, logits=True)
    for name, value in extract(images).items():
        torch.testing.assert_close(value, expected[name], rtol=2e-3, atol=1e-3)
    monkeypatch.setattr(Greedy, "room", 0)
    with pytest.raises(ModelError, match="found no memory for one on the device 'cpu'"):
        extract(images)


def test_heads_can_be_trained_on_features(network: ExitNetwork, digits: DataSet) -> None:
    """Tensors of inference mode could not be kept for a gradient."""
    images = torch.stack([digits.image(number) for number in range(40)])
    for value in FeatureExtractor(network, classifier="linear", logits=True)(images).values():
        assert not value.is_inference()
        weight = torch.ones_like(value, requires_grad=True)
        torch.autograd.backward((weight * value).sum())


class Doubling(nn.Module):
    """Writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.linear = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.first(x.mul_(2)))
        return logits


def test_images_stay_as_they_are() -> None:
    network = attach(Doubling(), {"first": "linear"}, image=torch.ones(4))
    images = torch.ones(40, 4)
    extract = FeatureExtractor(network, classifier=None, logits=True)
    first, second = extract(images), extract(images)
    assert torch.equal(images, torch.ones(40, 4))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_classifier_is_found() -> None:
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    assert find_classifier(big(), images) == "linear"
    with pytest.raises(ModelError, match="Centred has 1 linear layers and none is"):
        find_classifier(centred(), images)
    with pytest.raises(ModelError, match="has 0 linear layers"):
        find_classifier(Stage(nn.Flatten()), torch.zeros(2, 3))


def split(data: DataSet) -> HoldOut:
    return hold_out(data, share=0.2, seed=0)


def kinds(images: TrainingImages) -> Kinds:
    return kinds_of(images.extract(first_images(images.data, 1)))


def new_cache(
    folder: Path, images: TrainingImages, parts: HoldOut, *, views: int = 2
) -> FeatureCache:
    rows = CacheRows(parts, images=len(images.data), views=views)
    return FeatureCache(folder, kinds(images), rows)


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
    assert rows.bytes(kinds(images)) == pytest.approx(files, rel=0.01)


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
