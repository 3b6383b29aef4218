"""A cascade whose later models answer by calls gives the answers of the whole cascade."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from online_requests import run_async, send, until
from served_cascades import random_images, saved_cascade, served_cascade, stages
from understudy import Executor
from understudy.cluster.serve_calls import ReplicaGone
from understudy.cluster.serve_spec import ServeSpec, StageSpec, check_stages, later_models
from understudy.cluster.stage_calls import (
    RemoteStage,
    StageAnswers,
    StageCall,
    StageReply,
    resizing_of,
)
from understudy.ensemble import Ensemble
from understudy.errors import DataError, ModelError
from understudy.nn.cascade import Cascade
from understudy.nn.split_cascade import ModelElsewhere, SplitCascade, released
from understudy.nn.stage import Stage
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy, PolicyStage
from understudy.runtime.protocol import RequestFailed
from understudy.serving.request_errors import DeadlineExceeded, QueueFull, StageError
from understudy.serving.service import Service
from understudy.serving.settings import ServingSettings

IMAGES = random_images(60, seed=3)
ENSEMBLE = Ensemble(("tiny", "big"), (2.0, 1.0))
QUIET = ServingSettings(shadow=0)


@dataclass
class Replicas:
    """The replicas of a stage in this process, which fail on demand, or answer when they are let.

    Attributes:
        answers: of the only one.
        failures: what happens to the next calls.
        gate: lets calls through.
        calls: what was asked.
    """

    answers: StageAnswers
    failures: list[Exception] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[StageCall] = field(default_factory=list)

    async def logits(self, call: StageCall) -> StageReply:
        self.calls.append(call)
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return await self.answers.logits(call)


def with_split(
    work: Callable[[SplitCascade, Replicas], Awaitable[None]],
    make: Callable[[], Cascade] = served_cascade,
    *,
    max_queue: int = 96,
    deadline: float = 20.0,
    held: bool = False,
) -> None:
    """Do something with a cascade whose stage `big` is elsewhere."""

    async def run() -> None:
        whole = make()
        big = released(make(), "big")
        replicas = Replicas(StageAnswers(big, max_queue=max_queue))
        if not held:
            replicas.gate.set()
        remote = RemoteStage(
            replicas,
            resizing_of(whole.stages["big"]),
            deadline=deadline,
            loop=asyncio.get_running_loop(),
        )
        await work(SplitCascade(whole, {"big": remote}), replicas)

    run_async(run())


def with_ensemble() -> Cascade:
    models: dict[str, Stage | Ensemble] = {**stages(), "both": ENSEMBLE}
    sure, surer = PolicyStage("tiny", 0.4), PolicyStage("both", 0.02, "margin")
    chain = Policy((sure, surer, PolicyStage("big")))
    points = [
        OperatingPoint(policy, drop, 0.05 if drop else 0.0, 1.0, "MACs")
        for policy, drop in (
            (chain, 1.0),
            (Policy.pair("tiny", "both", 0.5), 0.5),
            (Policy.pair("tiny", "big", 0.5), 0.25),
            (Policy.single("both"), 0.1),
            (Policy.single("big"), 0.0),
        )
    ]
    return Cascade(models, chain, operating_points=points)


@pytest.mark.parametrize("make", [served_cascade, with_ensemble])
def test_answers_are_those_of_the_whole_cascade(make: Callable[[], Cascade]) -> None:
    async def work(split: SplitCascade, replicas: Replicas) -> None:
        whole = make()
        async with Executor(split, max_batch=16, max_wait_ms=0.5) as executor:
            for point in whole.operating_points:
                whole.policy = split.policy = point.policy
                expected = whole.answer(torch.from_numpy(IMAGES))
                answers = await asyncio.gather(*send(executor, IMAGES, logits=True))
                assert [one.prediction for one in answers] == expected.prediction.tolist()
                assert [one.exit for one in answers] == expected.exit_names()
                found = np.array([one.confidence for one in answers])
                np.testing.assert_allclose(found, expected.confidence, rtol=1e-5)
                assert all(one.logits is not None for one in answers)
        assert isinstance(split.stages["big"].model, ModelElsewhere)
        assert replicas.answers.in_flight == 0

    with_split(work, make)


def test_a_row_is_sent_once_in_a_cascade_with_an_ensemble() -> None:
    async def work(split: SplitCascade, replicas: Replicas) -> None:
        async with Executor(split) as executor:
            answers = await asyncio.gather(*send(executor, IMAGES))
        deferred = sum(one.exit != "tiny" for one in answers)
        assert {one.exit for one in answers} == {"tiny", "both", "big"}
        assert sum(len(call.shapes) for call in replicas.calls) == deferred

    with_split(work, with_ensemble)


def test_large_images_travel_in_the_size_of_the_model() -> None:
    async def work(split: SplitCascade, replicas: Replicas) -> None:
        large = random_images(6, seed=5, side=300)
        service = Service(split, QUIET)
        service.set_operating_point({"name": "reference"})
        found = await service.answer_all(list(large))
        whole = served_cascade()
        whole.set_operating_point(name="reference")
        expected = whole.answer(torch.from_numpy(large))
        assert [one.answer.prediction for one in found] == expected.prediction.tolist()
        [call] = replicas.calls
        assert {one.shape for one in call.images} == {(3, 4, 4)}
        assert set(call.shapes) == {(3, 300, 300)}
        await service.close()

    with_split(work)


def test_shadows_go_in_the_background_and_are_compared() -> None:
    async def work(split: SplitCascade, replicas: Replicas) -> None:
        service = Service(split, ServingSettings(shadow=1.0))
        await service.start()
        await asyncio.gather(*(service.answer(one) for one in IMAGES))
        watching = service.watched()
        await until(lambda: watching.shadows["answered"] == len(IMAGES))
        sent = dict.fromkeys((False, True), 0)
        for call in replicas.calls:
            sent[call.background] += len(call.shapes)
        assert sent[False] + sent[True] == len(IMAGES)
        assert sent[True] > 0
        await service.close()

    with_split(work)


def test_a_call_whose_replica_ends_is_repeated() -> None:
    async def work(split: SplitCascade, replicas: Replicas) -> None:
        replicas.failures = [ReplicaGone("died"), ReplicaGone("died")]
        split.set_operating_point(name="reference")
        async with Executor(split) as executor:
            answers = await asyncio.gather(*send(executor, IMAGES[:8]))
        assert {one.exit for one in answers} == {"big"}

    with_split(work)


@pytest.mark.parametrize(
    ("failures", "error", "sentence"),
    [
        ([ReplicaGone("died")] * 3, QueueFull, "a replica that lives at each stage"),
        ([QueueFull("none has room")], QueueFull, "none has room"),
        ([ValueError("a bug")], StageError, "ValueError: a bug"),
    ],
)
def test_a_stage_that_does_not_answer_is_said(
    failures: list[Exception], error: type[Exception], sentence: str
) -> None:
    async def work(split: SplitCascade, replicas: Replicas) -> None:
        service = Service(split, QUIET)
        service.set_operating_point({"name": "reference"})
        replicas.failures = list(failures)
        with pytest.raises(error, match=sentence):
            await service.answer(IMAGES[0])
        assert (await service.answer(IMAGES[0])).answer.exit == "big"
        assert service.in_flight == 0
        await service.close()

    with_split(work)


def test_what_finds_no_room_at_a_stage_is_refused_at_once_and_the_rest_is_answered() -> None:
    async def work(split: SplitCascade, replicas: Replicas) -> None:
        service = Service(split, QUIET)
        small = Service(split, QUIET)
        for one in (service, small):
            one.set_operating_point({"name": "reference"})
        await replicas.answers.logits(StageCall(IMAGES[:4], [None] * 4, False))
        replicas.answers.in_flight = 90  # of others
        refused = await asyncio.gather(service.answer_all(list(IMAGES[:7])), return_exceptions=True)
        [error] = refused
        assert isinstance(error, QueueFull)
        assert "at most 96 images are in flight at a later stage, found 90" in str(error)
        assert len(await small.answer_all(list(IMAGES[:6]))) == 6
        for one in (service, small):
            await one.close()

    with_split(work)


def test_a_stage_that_is_slow_is_given_up() -> None:
    async def work(split: SplitCascade, replicas: Replicas) -> None:
        service = Service(split, QUIET)
        service.set_operating_point({"name": "reference"})
        with pytest.raises(DeadlineExceeded):
            await service.answer(IMAGES[0])
        assert service.in_flight == replicas.answers.in_flight == 0
        await service.close()

    with_split(work, deadline=0.05, held=True)


class Picky(nn.Module):
    """Refuses images that begin with 7, and gives NaN for those that begin with 9."""

    def forward(self, images: Tensor) -> Tensor:
        first = images[:, 0]
        if (first == 7).any():
            raise ValueError("a seven")
        logits = torch.stack([first, first * 0], 1)
        return logits.where(first[:, None] != 9, torch.nan)


def picky_cascade() -> Cascade:
    models = {"tiny": Stage(nn.Linear(2, 2)), "big": Stage(Picky())}
    return Cascade(models, Policy.single("big"))


def test_rows_that_fail_at_a_stage_fail_alone() -> None:
    async def work(split: SplitCascade, _: Replicas) -> None:
        rows = np.array([[value, 0] for value in (1, 7, 3, 9, 5)], np.float32)
        async with Executor(split) as executor:
            found = await asyncio.gather(*send(executor, rows), return_exceptions=True)
            whole = picky_cascade()
            async with Executor(whole) as other:
                expected = await asyncio.gather(*send(other, rows), return_exceptions=True)
        for one, same in zip(found, expected, strict=True):
            if isinstance(same, RequestFailed):
                assert str(one) == str(same)
            else:
                assert one == same
        assert [isinstance(one, RequestFailed) for one in found] == [
            False,
            True,
            False,
            True,
            False,
        ]

    with_split(work, picky_cascade)


def test_what_is_no_whole_model_stays() -> None:
    unused: Any = None
    with pytest.raises(ModelError, match="'both' is none"):
        SplitCascade(with_ensemble(), {"both": unused})
    split = SplitCascade(served_cascade(), {"big": unused})
    with pytest.raises(ModelError, match="is not run here"):
        split.stages["big"](torch.from_numpy(IMAGES))


def test_the_later_models_of_a_folder(tmp_path: Path) -> None:
    saved_cascade(tmp_path / "cascade")
    folder = str(tmp_path / "cascade")
    assert later_models(tmp_path / "cascade") == ("big",)
    assert check_stages(ServeSpec(folder)) == ()
    assert check_stages(ServeSpec(folder, stages=(StageSpec(2),))) == ("big",)
    with pytest.raises(DataError, match=r"'cascade' has 1 \(big\), found 2"):
        check_stages(ServeSpec(folder, stages=(StageSpec(), StageSpec())))
    found = ServeSpec.from_dict({"cascade": folder, "stages": [{"replicas": 1, "max_replicas": 3}]})
    assert found.stages[0].most == 3
    assert ServeSpec.from_dict(found.to_dict()) == found


class Counting(nn.Module):
    """Notes the sizes of its batches, the first of which is held until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.reached, self.release = threading.Event(), threading.Event()

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        self.reached.set()
        assert self.release.wait(30)
        return images


def test_rows_of_several_replicas_in_front_are_answered_in_one_batch() -> None:
    async def run() -> None:
        counting = Counting()
        large = Cascade({"big": Stage(counting)}, Policy.single("big"))
        answers = StageAnswers(large, max_queue=96)
        replicas = Replicas(answers)
        replicas.gate.set()
        loop = asyncio.get_running_loop()
        fronts = []
        for _ in range(3):
            remote = RemoteStage(replicas, None, deadline=20.0, loop=loop)
            fronts.append(Executor(SplitCascade(picky_cascade(), {"big": remote})))
        rows = np.arange(24, dtype=np.float32).reshape(12, 2)
        tasks = send(fronts[0], rows[:2])
        await until(counting.reached.is_set)
        tasks += [*send(fronts[1], rows[2:7]), *send(fronts[2], rows[7:])]
        await until(lambda: answers.in_flight == len(rows))
        counting.release.set()
        assert [one.prediction for one in await asyncio.gather(*tasks)] == [1] * len(rows)
        assert sum(counting.sizes) == len(rows)
        assert max(counting.sizes) == 12 - counting.sizes[0] > 5
        for front in fronts:
            await asyncio.to_thread(front.close)

    run_async(run())
