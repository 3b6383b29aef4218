"""One process's share of running models on some images before they are scored, with others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from understudy.errors import UnderstudyError
from understudy.progress_bars import Advance
from understudy.scoring.claims import Claims
from understudy.scoring.members import Members
from understudy.scoring.probing import Probe, probing_progress
from understudy.scoring.shards import Shards

PAUSE = 0.5
"""Seconds between two looks at what others have found."""


class JoinedProbing:
    """The probing of sources that several processes share: each source is probed by one of them.

    A process claims a source, probes it and keeps what it found, which the others read. One that
    fails leaves its source to another, which fails as well, or goes on where it does not.

    Args:
        shards: the folder of the run, with what was found so far.
        members: the processes, this one among them.
        on_progress: called after every source.
    """

    def __init__(self, shards: Shards, members: Members, on_progress: Advance) -> None:
        self._shards = shards
        self._show = probing_progress(on_progress, len(shards.sources))
        self._own = members.name
        self._claims = Claims(shards.probe_claims, members)
        self._found: dict[str, Probe] = {}

    def probes(self, probe: Callable[[str], Probe]) -> dict[str, Probe] | None:
        """What was found of all sources; None where the folder has been removed meanwhile.

        Args:
            probe: probes a source.

        Raises:
            ModelError, DataError: what `probe` raises.
            UnderstudyError: the folder cannot be written.
        """
        try:
            while self._shards.exist:
                missing = self._missing()
                if not missing:
                    return {name: self._found[name] for name in self._shards.sources}
                name = self._taken(missing)
                if name is None:
                    time.sleep(PAUSE)
                elif self._shards.probe(name) is None:  # it may have been finished meanwhile
                    self._shards.keep_probe(name, probe(name))
        except UnderstudyError:
            if self._shards.exist:
                raise
        return None

    def _missing(self) -> list[str]:
        """The sources of which nothing is known so far."""
        for name in self._shards.probed - self._found.keys():
            found = self._shards.probe(name)
            if found is not None:
                self._found[name] = found
        self._show(len(self._found))
        return [name for name in self._shards.sources if name not in self._found]

    def _taken(self, missing: Sequence[str]) -> str | None:
        """A source that is this process's to probe now; None where others have all of them.

        Where a file is damaged whoever reads it makes it anew: its process may think it done.
        """
        damaged = self._shards.probed
        held = self._claims.held
        for name in missing:
            key = f"{self._shards.sources.index(name):03}"
            free = held.get(key, self._own) == self._own
            if name in damaged or (free and self._claims.take(key)):
                return name
        return None
