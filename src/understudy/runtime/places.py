"""A limited number of places for the requests of an event loop, and the calls that use it."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice


@dataclass(eq=False, slots=True)
class Turn:
    """One who waits for places."""

    called: asyncio.Future[None]


class Places:
    """Places that are taken in the order of asking; used within one event loop.

    Unlike `asyncio.Semaphore` it gives several at a time.

    >>> places = Places(3)
    >>> asyncio.run(places.take(2)), asyncio.run(places.take(2))
    (2, 1)
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._turns: deque[Turn] = deque()

    def take_now(self, most: int) -> int:
        """Take so many places, or those that are free; none where others wait."""
        taken = 0 if self._turns else min(most, self._free)
        self._free -= taken
        return taken

    async def take(self, most: int) -> int:
        """Take so many places, or those that are free; waits for one of them at least."""
        if self._turns or not self._free:
            await self._wait()
        taken = min(most, self._free)
        self._free -= taken
        self._call()
        return taken

    def give_back(self, count: int) -> None:
        """Let others have some places."""
        self._free += count
        self._call()

    async def _wait(self) -> None:
        """Return when it is one's turn and a place is free."""
        loop = asyncio.get_running_loop()
        turn = Turn(loop.create_future())
        self._turns.append(turn)
        try:
            await turn.called
            while self._turns[0] is not turn or not self._free:  # others have taken several
                turn.called = loop.create_future()
                await turn.called
        except BaseException:
            self._turns.remove(turn)
            self._call()
            raise
        self._turns.popleft()

    def _call(self) -> None:
        """Call as many of those who wait as there are places, in their order."""
        for turn in islice(self._turns, self._free):
            if not turn.called.done():
                with suppress(RuntimeError):  # the event loop has ended
                    turn.called.set_result(None)


@dataclass(eq=False)
class Admission:
    """The calls of one event loop, a limited number of their requests in flight.

    Attributes:
        loop: the event loop.
        places: those of its requests.
        calls: those that have not ended; a set, because a coroutine that is collected may end its
            call in any thread.
    """

    loop: asyncio.AbstractEventLoop
    places: Places
    calls: set[object] = field(default_factory=set)

    @property
    def in_use(self) -> bool:
        """Whether a request is in flight or waits; none does once the event loop has ended."""
        return bool(self.calls) and not self.loop.is_closed()
