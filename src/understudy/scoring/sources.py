"""Sources of exits: the specs of models, and what a probe found out about them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from understudy.errors import ModelError, listed
from understudy.exit import Exit
from understudy.json_codec import encode
from understudy.nn.preprocess import Resizing
from understudy.nn.stage import Stage
from understudy.scoring.measuring import groups_in_memory
from understudy.scoring.probing import Probe, exits_of
from understudy.zoo.models import load_stages


@dataclass(frozen=True)
class Sources:
    """The sources of exits that are scored. A source is a model, or a network with all its exits.

    Attributes:
        specs: name of a source -> its model spec.
        probes: what is known of the exits, by source.
        device: where to run, as torch names it.
        allow_code: the modules that specs in folders of exits may import.
    """

    specs: Mapping[str, str]
    probes: Mapping[str, Probe]
    device: str
    allow_code: Collection[str] = ()

    @property
    def exits(self) -> tuple[Exit, ...]:
        """The exits of all sources, in order."""
        return exits_of(self.probes)

    @property
    def bytes(self) -> dict[str, int]:
        """The size of the weights of each source."""
        return {name: probed.bytes for name, probed in self.probes.items()}

    @property
    def groups(self) -> list[Sequence[str]]:
        """The sources in groups whose weights fit into memory together, in order."""
        return list(groups_in_memory(self.bytes))

    def resizings(self, names: Iterable[str]) -> frozenset[Resizing | None]:
        """How some sources resize images."""
        return frozenset[Resizing | None]().union(*(self.probes[one].resizings for one in names))

    def load(self, name: str) -> dict[str, Stage]:
        """The stages of a source on the device, the same as when it was probed.

        Raises:
            ModelError: it cannot be loaded, or is another model now.
        """
        loaded = load_stages(self.specs[name], name, allow_code=self.allow_code)
        stages = {exit: stage.to(self.device) for exit, stage in loaded.items()}
        _check_same(stages, self.probes[name], self.specs[name])
        return stages


def _check_same(stages: Mapping[str, Stage], probed: Probe, spec: str) -> None:
    """Refuse other stages than those that were probed, by this process or another.

    Raises:
        ModelError: the message has the first entry of an origin that differs.
    """
    known = [exit.name for exit in probed.exits]
    if [*stages] != known:
        raise ModelError(
            f"a network has the same exits wherever it is loaded, {spec!r} has {listed(stages)} "
            f"here, where {listed(known)} were found: use the same files everywhere"
        )
    for exit, (name, stage) in zip(probed.exits, stages.items(), strict=True):
        before, now = exit.origin, stage.to_origin()
        if now["weights_hash"] != before["weights_hash"]:
            raise ModelError(
                f"a model has the same weights whenever it is loaded, {spec!r} has not at {name!r} "
                f"(hash {now['weights_hash'][:12]}, before {before['weights_hash'][:12]}): let the "
                "factory set a seed, give ?checkpoint=FILE, or use the same files everywhere"
            )
        for key in now:
            if encode(now[key]) != encode(before.get(key)):
                raise ModelError(
                    f"a model is the same wherever it is loaded, {spec!r} is not at {name!r}, its "
                    f"{key} is {str(now[key])[:200]} and was {str(before.get(key))[:200]}: use the "
                    "same files everywhere"
                )
