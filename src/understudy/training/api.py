"""From specs to a folder of trained exits; resumable."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from understudy.early_exit.network import ExitNetwork, attach, example_image
from understudy.early_exit.serialization import check_replaceable, save_exits
from understudy.early_exit.taps import Tap, even_taps, list_taps, tap_at
from understudy.nn.device import usable_device
from understudy.nn.stage import Stage
from understudy.training.checks import first_image
from understudy.training.config import TrainingConfig
from understudy.training.trainer import PLAIN, Note, Progress, fit_exits, silent
from understudy.zoo.data import open_data
from understudy.zoo.models import load_network, load_stage, named_models

USUAL_TAPS = 6


def train_exits(
    model: str,
    data: str,
    into: str | Path,
    *,
    taps: int | Sequence[str] | None = None,
    heads: Sequence[str] = ("linear",),
    saver: str | None = None,
    classifier: bool = False,
    recipe: TrainingConfig = PLAIN,
    cache_gb: float = 8.0,
    workers: int = 2,
    device: str | None = None,
    on_progress: Progress = silent,
    on_note: Note = silent,
) -> ExitNetwork:
    """Train exits for the model that a spec names, write them into a folder, and read it back.

    Unfinished work lies in ``INTO.partial``: the same call goes on where it was interrupted, and
    ends with the weights of an undisturbed run. The exits are scored as ``exits:INTO``, on other
    data than these: exits know what they were trained on.

    Args:
        model: model spec (`zoo.load_stage`); NAME=SPEC names the network.
        data: data spec (`zoo.open_data`).
        into: the folder; a folder of exits that is there is replaced.
        taps: module paths, or how many places, spread evenly over the network's cost; by default 6,
            or as many as it has.
        heads: kinds of heads (`nn.heads.make_head`); one of each at every tap.
        saver: model spec of a saver, which an Exit Sequence Network refines at every tap.
        classifier: train the backbone's last linear layer anew, on the labels, first.
        recipe: how exits are trained.
        cache_gb: the most room that features may take on disk, in 10^9 bytes; with less, the
            network runs anew in every epoch.
        workers: threads that decode ahead.
        device: where to run, as torch names it; an NVIDIA GPU if there is one, else the CPU.
        on_progress: called as work proceeds.
        on_note: called with remarks.

    Raises:
        ModelError: models that cannot be loaded or split, an unknown tap or kind of head, a saver
            of other classes, and what `fit_exits` raises.
        DataError: data that cannot be used, or unfinished work of another plan.
        UnderstudyError: `into` is something else, or cannot be written.
    """
    target = Path(into)
    check_replaceable(target)
    images = open_data(data)
    image = first_image(images)
    ((name, spec),) = named_models([model]).items()
    with _seeded(recipe.seed):
        network = _network(load_stage(spec), image, taps=taps, heads=heads, saver=saver)
    network.stages(name)  # refuses a saver of the same name
    _ = network.trunk  # refuses what cannot be split, before hours of work
    folder = target.with_name(f"{target.name}.partial")
    trained = fit_exits(
        network.to(usable_device(device)),
        images,
        recipe=recipe,
        classifier=classifier,
        folder=folder,
        cache_gb=cache_gb,
        workers=workers,
        on_progress=on_progress,
        on_note=on_note,
    )
    save_exits(
        network.cpu(),
        target,
        name=name,
        classifier=trained.classifier,
        training=trained.to_dict(),
    )
    shutil.rmtree(folder, ignore_errors=True)
    return load_network(f"exits:{target}")


def _network(
    stage: Stage,
    image: Tensor,
    *,
    taps: int | Sequence[str] | None,
    heads: Sequence[str],
    saver: str | None,
) -> ExitNetwork:
    sample = _sample(stage, image)
    wanted = {tap.path: {kind: kind for kind in heads} for tap in _places(stage, sample, taps)}
    beside = None if saver is None else named_models([saver])
    return attach(
        stage,
        wanted,
        image=sample,
        saver=None if beside is None else {n: load_stage(s) for n, s in beside.items()},
    )


def _sample(stage: Stage, image: Tensor) -> Tensor:
    """One sample of the size that the stage takes."""
    preprocess = stage.preprocess
    return image if preprocess is None or preprocess.size is None else example_image(stage)


def _places(stage: Stage, sample: Tensor, taps: int | Sequence[str] | None) -> tuple[Tap, ...]:
    if taps is not None and not isinstance(taps, int):
        return tap_at(stage, sample, taps)
    places = list_taps(stage, sample)
    useful = sum(tap.macs < places[-1].macs for tap in places)
    return even_taps(places, max(min(USUAL_TAPS, useful), 1) if taps is None else taps)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
