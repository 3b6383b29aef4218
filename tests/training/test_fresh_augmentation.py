"""Views that are drawn anew, mixed batches, and the labels that come of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from exit_digits import big, small
from understudy.early_exit.network import attach
from understudy.errors import DataError
from understudy.nn.preprocess import Preprocess, ResizedImage, Resizing
from understudy.nn.stage import Stage
from understudy.training.augmentation import (
    Augmentation,
    FreshAugmentation,
    fresh_augmentation,
)
from understudy.training.config import TrainingConfig
from understudy.training.features import FeatureExtractor, StreamedFeatures, TrainingImages
from understudy.training.sampling import SampleOrder
from understudy.training.targets import TargetSet
from understudy.zoo.data import DataSet, open_data

EVERYTHING = TrainingConfig(crop=0.2, auto_augment="randaugment", erase=0.5, mixup=0.8, cutmix=1.0)
SIZE = (12, 10)


def photograph(height: int = 40, width: int = 30) -> Tensor:
    """Smooth, with no two pixels alike."""
    generator = torch.Generator().manual_seed(height)
    noise = torch.randint(0, 256, (3, 5, 5), dtype=torch.uint8, generator=generator)
    image: Tensor = functional.resize(noise, [height, width])
    return image


def augmentation(config: TrainingConfig, *resizings: Resizing | None) -> FreshAugmentation:
    return FreshAugmentation(config, resizings or (Resizing(SIZE),), (9.0, 8.0, 7.0))


@pytest.mark.parametrize(
    "settings",
    [{"crop": 0.1}, {"auto_augment": "autoaugment"}, {"auto_augment": "randaugment"}, {"erase": 1}],
)
def test_a_view_depends_on_its_name_alone(settings: dict[str, Any]) -> None:
    own, image = augmentation(TrainingConfig(**settings)), photograph()
    state = torch.get_rng_state()
    views = [own.image(image, "a", view=view) for view in range(1, 30)]
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the global generator
    torch.rand(3)
    assert torch.equal(own.image(image, "a", view=7), views[6])
    assert len({view.numpy().tobytes() for view in views}) > 5
    assert {(view.dtype, tuple(view.shape)) for view in views} == {(torch.uint8, (3, *SIZE))}
    others = [
        own.image(image, "b", view=7),
        augmentation(TrainingConfig(**settings, seed=1)).image(image, "a", view=7),
    ]
    changed = [view for view in others if not torch.equal(view, views[6])]
    assert len(changed) >= (0 if "auto_augment" in settings else 2)
    assert own.image(image, "a", view=0) is image


def test_a_crop_keeps_at_least_its_share() -> None:
    """On a ramp the range of the values tells the width and the height of the crop."""
    ramp = torch.arange(200, dtype=torch.uint8)
    rows, columns = ramp[:, None].expand(200, 200), ramp[None].expand(200, 200)
    image = torch.stack([rows, columns, rows])
    own = augmentation(TrainingConfig(crop=0.25), Resizing((50, 50)))
    shares = []
    for view in range(1, 200):
        seen = own.image(image, "a", view=view).double()
        height, width = (float(seen[n].max() - seen[n].min()) / 0.98 for n in range(2))
        shares.append(height * width / 200**2)
    assert 0.22 < min(shares) < 0.3
    assert 0.95 < max(shares) < 1.05


def test_the_erased_rectangle_has_the_mean_colour() -> None:
    own = augmentation(TrainingConfig(erase=1.0), None)
    seen = own.image(torch.full((3, 30, 30), 200, dtype=torch.uint8), "a", view=1)
    colours = {tuple(pixel) for pixel in seen.flatten(1).T.tolist()}
    assert colours == {(200, 200, 200), (9, 8, 7)}
    share = float((seen[0] == 9).float().mean())
    assert 0.015 < share < 0.36
    stage = Stage(torch.nn.Flatten(), preprocess=Preprocess(None, (0.5, 0.1), (1, 1)))
    found = fresh_augmentation(TrainingConfig(erase=0.1), [stage])
    assert found is not None
    assert found.colour == (127.5, 25.5)


def test_without_a_crop_images_are_resized_as_the_model_does_it() -> None:
    how = Resizing((16, 16), crop=0.8)
    image = photograph()
    assert torch.equal(
        augmentation(TrainingConfig(mixup=1), how).image(image, "a", view=1), how(image)
    )
    assert augmentation(TrainingConfig(mixup=1), None).image(image, "a", view=1) is image


def test_images_of_any_size_and_of_one_or_three_channels() -> None:
    for image in (photograph(64, 9), photograph(8, 50)[:1]):
        seen = augmentation(TrainingConfig(crop=0.3, auto_augment="randaugment")).image(
            image, "a", view=3
        )
        assert seen.shape == (len(image), *SIZE)
        own = augmentation(TrainingConfig(crop=0.3), None).image(image, "a", view=3)
        assert own.shape == image.shape
    with pytest.raises(DataError, match="have 1 or 3 channels, found 2"):
        augmentation(TrainingConfig(crop=0.3)).image(photograph()[:2], "a", view=1)


def batch_of(count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=generator)


def mixed(own: FreshAugmentation, images: Tensor, *, view: int, number: int) -> Tensor:
    seen, _ = own.batch(images, view=view, number=number)
    assert isinstance(seen, Tensor)
    return seen


def test_mixup_mixes_images_as_labels() -> None:
    images = batch_of()
    seen, mixture = augmentation(TrainingConfig(mixup=0.8)).batch(images, view=1, number=0)
    assert isinstance(seen, Tensor)
    assert mixture is not None
    torch.testing.assert_close(mixture.sum(1), torch.ones(6))
    expected = torch.einsum("ij,jchw->ichw", mixture, images.float())
    assert float((seen.float() - expected).abs().max()) <= 0.51
    assert seen.dtype == torch.uint8
    assert 0 < float(mixture.diagonal()[0]) < 1


def test_cutmix_mixes_images_by_area() -> None:
    images = batch_of()
    seen, mixture = augmentation(TrainingConfig(cutmix=1.0)).batch(images, view=2, number=1)
    assert isinstance(seen, Tensor)
    assert mixture is not None
    kept = (seen == images).all(1).double().mean((1, 2))
    torch.testing.assert_close(mixture.diagonal().double(), kept)
    assert 0 < kept[0] < 1
    moved = ~(seen == images).all(1)
    assert torch.equal(seen.movedim(1, -1)[moved], images.roll(1, 0).movedim(1, -1)[moved])


def test_each_batch_is_mixed_in_one_of_both_ways_by_its_number_alone() -> None:
    images, own = batch_of(), augmentation(TrainingConfig(mixup=0.8, cutmix=1.0))
    state = torch.get_rng_state()
    found = [mixed(own, images, view=1, number=number) for number in range(40)]
    assert torch.equal(torch.get_rng_state(), state)
    cut = [bool(((one == images) | (one == images.roll(1, 0))).all()) for one in found]
    assert 10 < sum(cut) < 35
    assert torch.equal(mixed(own, images, view=1, number=11), found[11])
    assert not torch.equal(mixed(own, images, view=2, number=11), found[11])
    with pytest.raises(DataError, match="images that are mixed have one size"):
        own.batch([images[0], photograph()], view=1, number=0)


def test_models_of_other_sizes_take_the_same_pixels() -> None:
    """No model crops the centre of what was cropped at random."""
    first, second = Resizing((12, 12), crop=0.875), Resizing((6, 6), crop=0.9)
    own = augmentation(TrainingConfig(crop=0.5), first, second)
    image = own.image(photograph(), "a", view=1)
    seen, mixture = own.batch(torch.stack([image, image]), view=1, number=0)
    assert mixture is None
    stages = [
        Stage(
            torch.nn.Flatten(), preprocess=Preprocess(how.size, (0,) * 3, (1,) * 3, crop=how.crop)
        )
        for how in (first, second)
    ]
    large, little = (stage.prepare(seen)[0] * 255 for stage in stages)
    torch.testing.assert_close(large, image.float())
    expected = functional.resize(image, [6, 6]).float()
    assert float((little - expected).abs().max()) <= 1.01
    kept = augmentation(TrainingConfig(crop=0.5), None, second).batch([image], view=1, number=0)[0]
    assert isinstance(kept[0], ResizedImage)
    assert kept[0].pixels is image


def photographs(count: int = 24) -> DataSet:
    ids = np.array([str(number) for number in range(count)], object)

    def read(index: int) -> Any:
        return np.full((1, 8 + index % 3, 9), 10 * index, np.uint8)

    return DataSet("memory", ids, np.arange(count) % 3, ("a", "b", "c"), "mine", read)


def test_a_stream_is_the_same_for_any_number_of_threads() -> None:
    data = photographs()
    network = attach(big(), {"blocks.1": "conv4"}, saver={"tiny": small()})
    extract = FeatureExtractor(network, classifier=None, logits=True)
    plain = Augmentation(shift=0.1, flip=True, seed=0)

    def stream(workers: int, order: SampleOrder) -> list[Any]:
        fresh = fresh_augmentation(EVERYTHING, [network.stage, small()])
        images = TrainingImages(data, plain, extract, workers, fresh)
        return list(StreamedFeatures(images).batches(order, size=10))

    order = SampleOrder(np.arange(24)[::-1].copy(), np.zeros(24, int))
    once, again, other = (
        stream(workers, order.in_view(view)) for workers, view in ((3, 1), (0, 1), (1, 2))
    )
    for one, two, three in zip(once, again, other, strict=True):
        assert one.positions.tolist() == two.positions.tolist() == three.positions.tolist()
        assert torch.equal(one.mixture, two.mixture)
        for name, value in one.features.items():
            assert torch.equal(value, two.features[name])
            assert not torch.equal(value, three.features[name])
    for batch in stream(2, order):  # held out: the images as they are
        assert batch.mixture is None
        image = torch.stack([functional.resize(data.image(n), [8, 8]) for n in batch.positions])
        assert torch.equal(batch.features["logits"], extract(image)["logits"])


def test_labels_of_mixed_images_are_probabilities() -> None:
    data = open_data("digits:train")
    network = attach(big(), {"blocks.1": "linear"})
    config = TrainingConfig(mixup=0.8)
    images = TrainingImages(
        data,
        Augmentation(shift=0, flip=False, seed=0),
        FeatureExtractor(network, classifier=None, logits=True),
        0,
        fresh_augmentation(config, [network.stage]),
    )
    order = SampleOrder(np.arange(8), np.ones(8, int))
    targets = TargetSet(
        StreamedFeatures(images),
        data.labels,
        lambda features: features["logits"],
        torch.device("cpu"),
        classes=10,
    )
    (batch,) = targets.batches(order, size=8)
    (streamed,) = StreamedFeatures(images).batches(order, size=8)
    assert batch.labels is not None
    assert streamed.mixture is not None
    assert data.labels is not None
    labels = torch.from_numpy(data.labels[:8]).long()
    own, other = streamed.mixture.diagonal(), 1 - streamed.mixture.diagonal()
    expected = torch.zeros(8, 10)
    expected[torch.arange(8), labels] += own
    expected[torch.arange(8), labels.roll(1)] += other
    torch.testing.assert_close(batch.labels, expected)
    assert batch.truth().tolist() == expected.argmax(1).tolist()
    assert batch.backbone is not None
    assert images.fresh is not None
    plain = torch.stack([data.image(number) for number in range(8)])
    answers = network(mixed(images.fresh, plain, view=1, number=0))
    torch.testing.assert_close(batch.backbone.float(), answers, rtol=2e-3, atol=1e-3)
