"""What an application of Ray Serve is told of the cascade that it serves."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from understudy.errors import DataError
from understudy.json_codec import Stored, stored
from understudy.serving.settings import MAX_QUEUE, TOKEN, ServingSettings
from understudy.written_places import check_runnable
from understudy.zoo.runnables import orientation_of

_REMEDY = "correct the arguments of the application"
_PIECE = 2**20  # bytes read at a time


@dataclass(frozen=True)
class ServeSpec(Stored, what="an application", error=DataError, remedy=_REMEDY):
    """A cascade to be served by replicas on a cluster.

    Attributes:
        cascade: its folder, at the same path on all nodes.
        name: of the model in paths; by default that of the folder.
        replicas, max_replicas: how many at least and at most; Serve scales between them.
        cores: of each replica, which are its threads too.
        gpus: of each replica.
        max_drop: the operating point at the start: the cheapest within this drop, in points.
        digest: of the folder; a replica refuses another. By default that of the folder here.
        max_queue, deadline, price, shadow, alpha, logged: as of `ServingSettings`, of each replica;
            `alpha` of all together.
        token: that changes need; by default that of the replica's environment, if any.
        device, allow_code: as of `understudy serve`.

    >>> ServeSpec.from_dict({"cascade": "digits", "replicas": 2}).most
    2

    Raises:
        DataError: fewer than one replica or core, or a maximum below the minimum.
    """

    cascade: str
    name: str = field(default="", metadata=stored(optional=True))
    replicas: int = field(default=1, metadata=stored(optional=True))
    max_replicas: int | None = field(default=None, metadata=stored(optional=True))
    cores: int = field(default=1, metadata=stored(optional=True))
    gpus: float = field(default=0.0, metadata=stored(optional=True))
    max_drop: float | None = field(default=None, metadata=stored(optional=True))
    digest: str = field(default="", metadata=stored(optional=True))
    max_queue: int = field(default=MAX_QUEUE, metadata=stored(optional=True))
    deadline: float = field(default=10.0, metadata=stored(optional=True))
    price: float | None = field(default=None, metadata=stored(optional=True))
    shadow: float = field(default=0.05, metadata=stored(optional=True))
    alpha: float = field(default=0.01, metadata=stored(optional=True))
    logged: float = field(default=0.0, metadata=stored(optional=True))
    token: str | None = field(default=None, repr=False, metadata=stored(optional=True))
    device: str | None = field(default=None, metadata=stored(optional=True))
    allow_code: tuple[str, ...] = field(default=(), metadata=stored(optional=True))

    def __post_init__(self) -> None:
        for name in ("replicas", "cores"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is 1 or more, found {getattr(self, name)}")
        if self.most < self.replicas:
            raise DataError(
                f"max_replicas is at least replicas ({self.replicas}), found {self.max_replicas}"
            )

    @property
    def folder(self) -> Path:
        """The folder of the cascade."""
        return Path(self.cascade)

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.name or self.folder.name

    @property
    def most(self) -> int:
        """Replicas at most."""
        return self.replicas if self.max_replicas is None else self.max_replicas

    def settings(self) -> ServingSettings:
        """Those of each replica. The watch of each looks at its own part of the traffic, so each
        has an equal part of the level."""
        return ServingSettings(
            name=self.model,
            max_queue=self.max_queue,
            deadline=self.deadline,
            token=self.token or os.environ.get(TOKEN),
            price=self.price,
            shadow=self.shadow,
            alpha=self.alpha / self.most,
            logged=self.logged,
            orientation=orientation_of(self.folder),
        )


def digest_of(folder: Path) -> str:
    """A hash of the names and the bytes of all files of a cascade's folder.

    Raises:
        UnderstudyError: there is no cascade.
    """
    check_runnable(folder)
    total = hashlib.sha256()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                total.update(piece)
    return total.hexdigest()


def check_folder(spec: ServeSpec, where: str) -> None:
    """Refuse a folder that is not that of the application.

    Args:
        spec: of the application.
        where: the machine, for the message.

    Raises:
        UnderstudyError: no cascade is there, or another.
    """
    found = digest_of(spec.folder)
    if found != spec.digest:
        raise DataError(
            f"a cascade is the same on all machines, {where} has another at {spec.cascade!r}: copy "
            "it there again, or put it where all machines read it"
        )
