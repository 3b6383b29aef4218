"""The service: requests in front of an executor, and the operating point that answers them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from understudy.monitoring.decisions import Decision
from understudy.policy import Policy
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import (
    RequestFailed,
)
from understudy.serving.deadlines import within
from understudy.serving.execution import Execution, Found, Receiver
from understudy.serving.image_inputs import ImageInputs
from understudy.serving.latest_answers import Array
from understudy.serving.model_metadata import InferenceCounts
from understudy.serving.request_errors import (
    DeadlineExceeded,
    NotSupported,
    QueueFull,
    RequestError,
    StageError,
)
from understudy.serving.served_answers import Served
from understudy.serving.served_policies import ServedPolicies, ServedPolicy
from understudy.serving.settings import ServingSettings
from understudy.serving.traffic import TrafficCounts
from understudy.serving.watching import FALL_BACK, Watching, point_before

logger = logging.getLogger(__name__)

START, OPERATOR, WATCH = "start", "operator", "watch"


class ServedChoice(NamedTuple):
    """What a service answers by. Of the choices of several replicas the greatest, which is the
    latest, holds for all.

    Attributes:
        number: each choice is numbered one above the last that its replica knew.
        policy: the number of the policy that answers.
        chosen: the number of the one that was chosen before the watch fell back, if it has.
        by: who chose: `start`, `operator` or `watch`.
    """

    number: int
    policy: int
    chosen: int
    by: str


_FAILURES: dict[type[BaseException], str] = {
    DeadlineExceeded: "late",
    asyncio.CancelledError: "cancelled",
    StageError: "failed",
}
"""How requests end without an answer that the server could have given."""


class Admitted:
    """Images of a request that was let in, until it ends.

    Raises:
        QueueFull: as many images are in flight as may be.
        RequestError: more images than may ever be.
    """

    __slots__ = ("_images", "_service", "_since")

    def __init__(self, service: Service, images: int) -> None:
        service.check_room(images)
        service.in_flight += images
        self._service, self._images, self._since = service, images, time.monotonic()

    def end(self, error: BaseException | None = None) -> None:
        """The request has its answers, or an error."""
        service = self._service
        service.in_flight -= self._images
        if error is None:
            service.traffic.done(time.monotonic() - self._since)
        elif (how := _FAILURES.get(type(error))) is not None:
            service.traffic.fail(how)


class Service:
    """Answers requests with a cascade, a limited number of images at a time.

    Its methods belong to one event loop.

    Args:
        cascade: of any backend.
        settings: limits, and what is reported.
    """

    def __init__(self, cascade: Any, settings: ServingSettings) -> None:
        self.cascade, self.settings = cascade, settings
        self.policies = ServedPolicies(cascade)
        self.traffic = TrafficCounts(len(self.policies.all), cascade.exits)
        self.inputs = ImageInputs(cascade, settings)
        self.watching = Watching.of(self.policies, settings, self._decided)
        self.executor = Executor(
            cascade,
            max_waiting=settings.max_queue,
            max_background=settings.max_queue,
            observer=None if self.watching is None else self.watching.observe,
        )
        self.execution = Execution(cascade, self.executor, self.inputs, self.traffic, self.watching)
        self.classes, self.latest = self.execution.classes, self.execution.latest
        self.current = self.policies.first
        self.chosen_by = START
        self.chosen = self.current  # by the operator, whatever the watch has decided since
        self.switches = self._choices = 0
        self.fell_back: Callable[[], object] = lambda: None  # is called when the watch has
        self._restore()
        self.in_flight = 0
        self.ready = True
        self._prefix, self._numbers = secrets.token_hex(6), itertools.count(1)

    # Requests.

    def new_id(self) -> str:
        """An id for a request, unlike any other of any server."""
        return f"{self._prefix}-{next(self._numbers)}"

    async def answer(
        self, image: Any, *, logits: bool = False, request_id: str | None = None
    ) -> Served:
        """The answer to one image, as `Executor.answer` takes it.

        Args:
            image: (C, H, W).
            logits: whether the answer has the logits of the exit that answered.
            request_id: of the request; by default a new one.

        Raises:
            QueueFull: as many images are in flight as may be.
            DeadlineExceeded: it took longer than the deadline.
            RequestError: no image that the cascade takes.
            StageError: a model could not answer it.
        """
        [served] = await self.answer_all([image], logits=logits, request_id=request_id)
        return served

    async def answer_all(
        self, images: Sequence[Any], *, logits: bool = False, request_id: str | None = None
    ) -> list[Served]:
        """The answers to the images of one request, all by the same policy; as `answer`."""
        large = self.are_large(images)
        policy, number = self.current, request_id or self.new_id()

        async def answers() -> list[Served]:
            ready = [await self.inputs.resize(one) for one in images] if large else images
            return await self._executed(ready, policy, number, logits=logits)

        return await self._admitted(len(images), answers)

    async def answer_files(
        self, files: Sequence[bytes], *, logits: bool = False, request_id: str | None = None
    ) -> list[Served]:
        """The answers to encoded images, which are decoded in threads; as `answer_all`.

        Raises:
            RequestError: besides, an image that cannot be decoded or has too many pixels.
        """
        policy, number = self.current, request_id or self.new_id()

        async def answers() -> list[Served]:
            images = await self.inputs.decode_all(files)
            return await self._executed(images, policy, number, logits=logits)

        return await self._admitted(len(files), answers)

    def submit(
        self, images: Sequence[Any], done: Receiver, *, logits: bool, request_id: str
    ) -> Callable[[], None]:
        """As `answer_all`, without a task that waits; for images that need no work before.

        Args:
            images: which `are_large` does not find large.
            done: receives the answers, or why there are none.
            logits: as of `answer_all`.
            request_id: of the request.

        Returns:
            What cancels the request, to be called in the event loop; `done` is not called then.

        Raises:
            QueueFull: as many images are in flight as may be.
        """
        admitted = Admitted(self, len(images))

        def answered(found: Found) -> None:
            late.cancel()
            admitted.end(found if isinstance(found, Exception) else None)
            done(found)

        def give_up(error: BaseException) -> None:
            cancel()
            late.cancel()
            admitted.end(error)

        def too_late() -> None:
            error = self._deadline_exceeded()
            give_up(error)
            done(error)

        try:
            cancel = self.execution.start(
                images, self.current, request_id, answered, logits=logits, full=not self.has_room()
            )
        except BaseException as error:
            admitted.end(error)
            raise
        late = asyncio.get_running_loop().call_later(self.settings.deadline, too_late)
        return lambda: give_up(asyncio.CancelledError())

    def are_large(self, images: Sequence[Any]) -> bool:
        """Whether any of these images should be resized in a thread first.

        Raises:
            RequestError: one that the cascade does not take.
        """
        large = [self.inputs.is_large(image) for image in images]
        return any(large)

    async def _admitted(
        self, images: int, answers: Callable[[], Awaitable[list[Served]]]
    ) -> list[Served]:
        """The answers of a request if there is room for it now, within the deadline."""
        admitted = Admitted(self, images)
        try:
            found = await within(self.settings.deadline, answers())
        except TimeoutError:
            error = self._deadline_exceeded()
            admitted.end(error)
            raise error from None
        except BaseException as error:
            admitted.end(error)
            raise
        admitted.end()
        return found

    async def _executed(
        self, images: Sequence[Any], policy: ServedPolicy, number: str, *, logits: bool
    ) -> list[Served]:
        """The answers to images that were let in."""
        answered: asyncio.Future[list[Served]] = asyncio.get_running_loop().create_future()

        def done(found: Found) -> None:
            if answered.done():
                return
            if isinstance(found, Exception):
                answered.set_exception(found)
            else:
                answered.set_result(found)

        cancel = self.execution.start(
            images, policy, number, done, logits=logits, full=not self.has_room()
        )
        try:
            return await answered
        except BaseException:
            cancel()
            raise

    def _deadline_exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"a request is answered within {self.settings.deadline:g} s, found none by then: "
            "try again later"
        )

    def check_room(self, images: int = 1) -> None:
        """Refuse images that find no room; before their bytes are read, so that it costs little.

        Raises:
            QueueFull: as many images are in flight as may be.
            RequestError: more images than may ever be.
        """
        limit = self.settings.max_queue
        if not 0 < images <= limit:
            raise RequestError(
                f"a request has from 1 to {limit:,} images, found {images:,}: send several "
                "requests, or let the operator raise --max-queue"
            )
        if not self.has_room(images):
            self.traffic.fail("rejected")
            raise self.no_room(images)

    def has_room(self, images: int = 1) -> bool:
        """Whether so many images find room now."""
        return self.in_flight + images <= self.settings.max_queue

    def no_room(self, images: int = 1) -> QueueFull:
        """The error of images that find no room."""
        return QueueFull(
            f"at most {self.settings.max_queue:,} images are in flight, found {self.in_flight:,} "
            f"and {images:,} more: try again later"
        )

    # What has happened.

    def counts(self) -> InferenceCounts:
        """The counts since the start."""
        traffic = self.traffic
        exits = traffic.answered.sum(0).tolist()
        return InferenceCounts(
            images=sum(exits),
            requests=traffic.requests,
            seconds=traffic.seconds_total,
            failed=sum(traffic.failures.values()),
            last=traffic.last,
            exits=dict(zip(self.cascade.exits, exits, strict=True)),
        )

    def latest_image(self, request_id: str) -> Array | None:
        """The image (C, h, w) of a recent request; None where it is no longer kept."""
        kept = self.latest.find(request_id)
        return None if kept is None else kept.pixels

    # The operating point.

    def set_operating_point(self, wish: Mapping[str, Any]) -> ServedPolicy:
        """Answer requests from now on by the certified point of a name, within a drop or a cost.

        Args:
            wish: one of `name`, `max_drop` (points) and `cost`.

        Raises:
            PolicyError: no point fits, or not exactly one is given.
        """
        policy = self.policies.selected(wish)
        self._switch(policy, OPERATOR, reason="chosen")
        self.chosen = policy
        if self.watching is not None and policy.name is not None:
            self.watching.watch.choose_point(policy.name)
        return policy

    @property
    def choice(self) -> ServedChoice:
        """What answers now."""
        return ServedChoice(self._choices, self.current.number, self.chosen.number, self.chosen_by)

    def adopt(self, choice: ServedChoice) -> None:
        """Answer by what another replica of this service was told, if that was later."""
        if choice <= self.choice:
            return
        policy = self.policies.all[choice.policy]
        self._switch(policy, choice.by, reason="chosen at another replica")
        self.chosen, self._choices = self.policies.all[choice.chosen], choice.number
        if self.watching is not None and policy.name is not None:
            self.watching.watch.choose_point(policy.name)

    def reset_watch(self, *, to_traffic: bool = False) -> None:
        """Watch from now on as if nothing had been seen, and go back to what was chosen before the
        watch fell back.

        Args:
            to_traffic: compare with the traffic since the warning, because it is in order.

        Raises:
            NotSupported: there is no watch.
        """
        watching = self.watched()
        if self.chosen is not self.current:
            self._switch(self.chosen, OPERATOR, reason="reset")
        watching.watch.reset(point=self.current.name, to_traffic=to_traffic)
        logger.info("watch reset", extra={"to_traffic": to_traffic})

    def watched(self) -> Watching:
        """The watch.

        Raises:
            NotSupported: there is none.
        """
        if self.watching is None:
            raise NotSupported(
                "a watch compares certified operating points with what was normal of them, found "
                "none that knows it: search and build again with this version"
            )
        return self.watching

    def start_within(self, max_drop: float) -> None:
        """Answer by the cheapest certified point within a drop, whatever the file of the watch has;
        where the watch has fallen back, only after its reset.

        Raises:
            PolicyError: no point fits.
        """
        if self.chosen_by == WATCH:
            self.chosen = self.policies.selected({"max_drop": max_drop})
        elif self.policies.selected({"max_drop": max_drop}) is not self.current:
            self.set_operating_point({"max_drop": max_drop})

    def _restore(self) -> None:
        """Go on with the operating point of a watch that was kept over a restart."""
        if self.watching is None:
            return
        watch = self.watching.watch
        point, before = self.policies.named(watch.point), point_before(watch.decisions)
        if point is None or self.current.name is None:
            return
        if point.name != self.current.name:
            by = OPERATOR if before is None else WATCH
            self._switch(self.policies.of(point), by, reason="kept in --state")
        chosen = self.policies.named(before)
        self.chosen = self.current if chosen is None else self.policies.of(chosen)

    def _decided(self, decision: Decision) -> None:
        """Carry out a decision of the watch."""
        logger.warning("watch", extra={"decision": decision.to_dict()})
        point = self.policies.named(decision.after)
        moved = decision.after != decision.before  # not where the point was no longer in use
        if decision.kind == FALL_BACK and moved and point is not None:
            self._switch(self.policies.of(point), WATCH, reason=decision.reason)
            self.fell_back()

    def _switch(self, policy: ServedPolicy, by: str, *, reason: str) -> None:
        before, self.current, self.chosen_by = self.current, policy, by
        self._choices += 1
        if before is policy:
            return
        self.switches += 1
        logger.info(
            "operating point",
            extra={"from": before.name, "to": policy.name, "chosen_by": by, "reason": reason},
        )

    # The life of a service.

    async def start(self) -> None:
        """Answer an image of zeros by every exit, where it is known what images are.

        Raises:
            StageError: a model cannot answer it.
        """
        image = self.inputs.example()
        if image is None:
            return
        exits = dict.fromkeys(name for one in self.policies.all for name in one.policy.exits)
        for name in exits:
            runners = self.cascade.runners_of(Policy.single(name))
            try:
                await self.executor.answer(image, runners=runners, background=True)
            except RequestFailed as error:
                raise StageError(str(error)) from error

    async def close(self) -> None:
        """Refuse requests, and give up those in flight."""
        self.ready = False
        self.inputs.close()
        await asyncio.to_thread(self.executor.close, cancel=True)
        if self.watching is not None:
            await asyncio.to_thread(self.watching.close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
