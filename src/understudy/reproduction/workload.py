"""What a reproduction takes before it starts: bytes to download, MACs to compute, and hours.

Nothing is read or downloaded for it: parameters and MACs are those of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.catalogue import find_model, load_catalogue
from understudy.errors import ModelError
from understudy.json_codec import Stored, encode, stored
from understudy.reproduction.papers import LITTLE_BIG, Paper, PaperRow

VAL_IMAGES, TRAIN_IMAGES = 50_000, 1_281_167
"""The images of ImageNet-1k."""
RECORD_IMAGES = 50_000
"""How many train images savers are ranked and exits are searched on, at most."""
BYTES = 4
"""Of a parameter in a published file."""


@dataclass(frozen=True)
class ModelSize(Stored):
    """What a model takes: its parameters, and the MACs of one image; None where not known.

    >>> ModelSize("py:nets:big", parameters=1000, macs=None).parameters
    1000
    """

    spec: str
    parameters: int | None
    macs: int | None

    @staticmethod
    def of(spec: str) -> ModelSize:
        """The size that the catalogue has of a model.

        >>> ModelSize.of("torchvision:resnet152").parameters
        60192808
        """
        try:
            model = find_model(spec, load_catalogue())
        except ModelError:
            return ModelSize(spec, None, None)
        return ModelSize(spec, model.parameters, model.macs)


@dataclass(frozen=True)
class RowWorkload(
    Stored,
    keys=(
        *("name", "missing", "models", "images", "records", "trained", "epochs"),
        *("bytes", "scoring_macs", "training_macs", "unknown"),
    ),
):
    """What one row takes.

    Attributes:
        name: of the row.
        missing: why it cannot be run; empty where it can.
        models: what is downloaded and run.
        images: that figures are reported of.
        records: train images that savers are ranked or exits are searched on.
        trained, epochs: train images that exits are trained on, and how often the large model runs
            over them.

    >>> RowWorkload("a pair", models=(ModelSize.of("torchvision:resnet18"),), images=50_000).bytes
    46758048
    """

    name: str
    missing: str = ""
    models: tuple[ModelSize, ...] = ()
    images: int = 0
    records: int = 0
    trained: int = 0
    epochs: int = 0

    @property
    def bytes(self) -> int:
        """What is downloaded, 4 bytes a parameter."""
        return sum(BYTES * (one.parameters or 0) for one in self.models)

    @property
    def scoring_macs(self) -> int:
        """Of all models on all images that are scored."""
        return (self.images + self.records) * sum(one.macs or 0 for one in self.models)

    @property
    def training_macs(self) -> int:
        """Of all models on the train images, once per epoch: where features fit into the cache
        they run once per view instead. The heads' own are left out."""
        return self.trained * self.epochs * sum(one.macs or 0 for one in self.models)

    @property
    def unknown(self) -> list[str]:
        """The models that the catalogue does not have: sums are without them."""
        return [one.spec for one in self.models if one.macs is None]


@dataclass(frozen=True)
class Rate(Stored):
    """How fast a machine computes, and what that is known from, in words.

    >>> Rate(2e12, "measured on this machine").macs_per_second
    2000000000000.0
    """

    macs_per_second: float
    source: str


@dataclass(frozen=True)
class Workload(Stored, keys=("paper", "rows", "bytes", "macs", "rate", "hours", "downloads")):
    """What the rows of a paper take.

    Attributes:
        paper: its name.
        rows: one per row, those that cannot be run among them.
        downloads: whether weights are downloaded.
        rate: of the machine; None where it is not known.

    >>> row = RowWorkload("a pair", models=(ModelSize.of("torchvision:resnet18"),), images=50_000)
    >>> Workload("tinysaver", (row, row)).bytes  # a model is downloaded once
    46758048
    """

    paper: str
    rows: tuple[RowWorkload, ...]
    downloads: bool = True
    rate: Rate | None = field(default=None, metadata=stored(optional=True))

    @property
    def bytes(self) -> int:
        """What is downloaded: each model once."""
        sizes = {one.spec: BYTES * (one.parameters or 0) for row in self.rows for one in row.models}
        return sum(sizes.values()) if self.downloads else 0

    @property
    def macs(self) -> int:
        """Of all rows."""
        return sum(row.scoring_macs + row.training_macs for row in self.rows)

    @property
    def hours(self) -> float | None:
        """Of computing, without decoding; None where the machine's rate is not known."""
        return self.hours_of(self.macs)

    def hours_of(self, macs: float) -> float | None:
        """The hours that some MACs take."""
        return None if self.rate is None else macs / self.rate.macs_per_second / 3600

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, with the hours of every row."""
        data = super().to_dict()
        hours = [encode(self.hours_of(row.scoring_macs + row.training_macs)) for row in self.rows]
        rows = [row | {"hours": one} for row, one in zip(data["rows"], hours, strict=True)]
        return data | {"rows": rows}


def workload_of(
    name: str,
    paper: Paper,
    rows: Sequence[PaperRow],
    *,
    limit: int | None = None,
    epochs: int | None = None,
    downloads: bool = True,
    train: bool = True,
    rate: Rate | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Workload:
    """What some rows of a paper take.

    Args:
        name: of the paper.
        rows: of it.
        limit: the most images of each set.
        epochs: of training exits, in place of the paper's.
        downloads: whether weights are downloaded.
        train: whether there are train images.
        rate: of the machine.
        left_out: row -> why it is not run, besides those that never can be.

    >>> from understudy.reproduction.papers import load_paper
    >>> paper = load_paper("dyce")
    >>> found = workload_of("dyce", paper, paper.select(["resnet152"]), limit=1000)
    >>> found.bytes, found.rows[0].images, found.rows[0].epochs
    (240771232, 1000, 50)
    """
    found = []
    for row in rows:
        missing = row.missing or (left_out or {}).get(row.name, "")
        if missing:
            found.append(RowWorkload(row.name, missing))
            continue
        trains = row.exits is not None
        records = train and (trains or name != LITTLE_BIG)
        found.append(
            RowWorkload(
                name=row.name,
                models=tuple(ModelSize.of(spec) for spec in (*row.savers, row.big)),
                images=_limited(VAL_IMAGES, limit),
                records=_limited(RECORD_IMAGES, limit) if records else 0,
                trained=_limited(TRAIN_IMAGES, limit) if trains else 0,
                epochs=(epochs or int(paper.training["epochs"])) if trains else 0,
            )
        )
    return Workload(name, tuple(found), downloads, rate)


def _limited(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)
