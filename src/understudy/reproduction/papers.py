"""The papers as data: their rows, published figures with their sources, and what stands in for
what is not known of them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from understudy.errors import DataError, ModelError, unknown
from understudy.json_codec import Stored, decode, stored

FILE = Path(__file__).with_name("papers.toml")
LITTLE_BIG, TINYSAVER, DYCE = NAMES = ("little-big", "tinysaver", "dyce")
OURS = "ours"
"""The source of what this project chose."""


@dataclass(frozen=True)
class PublishedFigure(Stored, what="a published figure", error=DataError):
    """An operating point that a paper publishes; what is None is not known.

    Attributes:
        max_drop: the drop that it allows, in points.
        source: a key of the sources.
        saving: the fraction of the MACs that is saved.
        top1: the accuracy in %.
        gmacs: the mean cost in 10^9 MACs.
        version: of the paper, where its versions differ.
        base_top1, base_gmacs: of the large model alone, from `base_source`.
    """

    max_drop: float
    source: str
    saving: float | None = field(default=None, metadata=stored(optional=True))
    top1: float | None = field(default=None, metadata=stored(optional=True))
    gmacs: float | None = field(default=None, metadata=stored(optional=True))
    version: str = field(default="", metadata=stored(optional=True))
    base_top1: float | None = field(default=None, metadata=stored(optional=True))
    base_gmacs: float | None = field(default=None, metadata=stored(optional=True))
    base_source: str = field(default="", metadata=stored(optional=True))

    @property
    def drop(self) -> float | None:
        """The published drop in points; None where one of the accuracies is not known."""
        if self.top1 is None or self.base_top1 is None:
            return None
        return round(self.base_top1 - self.top1, 6)


@dataclass(frozen=True)
class ExitSettings(Stored, what="the exits of a row", error=DataError):
    """Exits inside the large model, at every block where it can be cut.

    Attributes:
        heads: the kinds of heads at each; none for an Exit Sequence Network on the saver alone.
        sequence: the size of that network, LAYERSxDIM; empty for none.
    """

    heads: tuple[str, ...]
    sequence: str = field(default="", metadata=stored(optional=True))


@dataclass(frozen=True)
class PaperRow(Stored, what="a row of a paper", error=DataError):
    """One large model of a paper, with what it publishes and what it is run with.

    Attributes:
        name: of the row.
        figures: what is published of it.
        big: the spec of the large model; empty where it cannot be run.
        savers: the specs of the small models.
        big_source, savers_source: where the choice of these comes from; `OURS` for this project.
        exits: exits inside the large model, or None.
        note: what is not known, and what stands in for it.
        missing: why it cannot be run; empty where it can.
    """

    name: str
    figures: tuple[PublishedFigure, ...]
    big: str = field(default="", metadata=stored(optional=True))
    savers: tuple[str, ...] = field(default=(), metadata=stored(optional=True))
    big_source: str = field(default="", metadata=stored(optional=True))
    savers_source: str = field(default="", metadata=stored(optional=True))
    exits: ExitSettings | None = field(default=None, metadata=stored(optional=True))
    note: str = field(default="", metadata=stored(optional=True))
    missing: str = field(default="", metadata=stored(optional=True))

    def __post_init__(self) -> None:
        if bool(self.big) == bool(self.missing):
            raise DataError(
                f"a row has a large model or the reason why it has none, {self.name!r} has "
                f"{'both' if self.big else 'neither'}: correct it"
            )
        if self.big and not self.savers and self.exits is None:
            raise DataError(
                f"a row has savers or exits, {self.name!r} has neither: add what answers early"
            )

    @property
    def budgets(self) -> tuple[float, ...]:
        """The drops that its figures allow, in points; no loss where none is published."""
        return tuple(sorted({figure.max_drop for figure in self.figures})) or (0.0,)

    def models(self, weights: str = "") -> dict[str, str]:
        """Exit name -> spec: the savers, and the large model behind them.

        Args:
            weights: "random" for models without their published weights.
        """
        return {name_of(spec): _weighted(spec, weights) for spec in (*self.savers, self.big)}

    @property
    def reference(self) -> str:
        """The name of the large model among the exits."""
        return name_of(self.big)


@dataclass(frozen=True)
class Paper(Stored, what="a paper", error=DataError):
    """A paper: what it does, where its figures are optimistic, where a run here differs, its rows.

    Attributes:
        title, arxiv: of the paper.
        procedure: how it chooses, in words.
        optimism: which of its choices saw the images that it reports.
        claims: what it publishes that belongs to no row.
        differences: between its experiments and these runs.
        rows: its large models.
        training: how exits are trained: fields of `training.config.TrainingConfig`.
    """

    title: str
    arxiv: str
    procedure: str
    optimism: str
    claims: tuple[str, ...]
    differences: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    training: Mapping[str, Any] = field(default_factory=dict, metadata=stored(optional=True))

    def select(self, names: Iterable[str] = ()) -> tuple[PaperRow, ...]:
        """The rows of these names, in the paper's order; all of them for no name.

        >>> [row.name for row in load_paper("dyce").select(["davit_base"])]
        ['davit_base']

        Raises:
            DataError: an unknown name.
        """
        wanted = list(names)
        known = [row.name for row in self.rows]
        for name in wanted:
            if name not in known:
                raise DataError(unknown("row", name, known))
        return tuple(row for row in self.rows if not wanted or row.name in wanted)


@dataclass(frozen=True)
class Papers(Stored, what="the papers", error=DataError):
    """All papers by name, and what the keys of sources stand for."""

    sources: Mapping[str, str]
    papers: Mapping[str, Paper]

    def __post_init__(self) -> None:
        for paper in self.papers.values():
            _check_sources(paper, self.sources)
            names = [row.name for row in paper.rows]
            if len(set(names)) < len(names):
                raise DataError(f"rows of a paper have names of their own, found {names}")


@cache
def load_papers() -> Papers:
    """The papers, read strictly: an unknown field, source or type is an error.

    >>> sorted(load_papers().papers)
    ['dyce', 'little-big', 'tinysaver']

    Raises:
        DataError: the file is damaged.
    """
    text = FILE.read_text(encoding="utf-8")
    return decode(tomllib.loads(text), Papers, what=FILE.name, error=DataError)


def load_paper(name: str) -> Paper:
    """The paper of a name of `NAMES`.

    >>> load_paper("dyce").rows[0].figures[0].saving
    0.262

    Raises:
        DataError: an unknown name.
    """
    papers = load_papers().papers
    if name not in papers:
        raise DataError(unknown("paper", name, NAMES))
    return papers[name]


def name_of(spec: str) -> str:
    """The name of a model among the exits: that of its architecture.

    >>> name_of("timm:efficientvit_l3.r384_in1k"), name_of("torchvision:resnet152")
    ('efficientvit_l3.r384_in1k', 'resnet152')
    """
    return spec.partition(":")[2].partition("?")[0]


def _weighted(spec: str, weights: str) -> str:
    if weights not in {"", "random"}:
        raise ModelError(f"weights are published or random, found {weights!r}: leave it out")
    return f"{spec}?weights={weights}" if weights else spec


def _check_sources(paper: Paper, known: Sequence[str] | Mapping[str, str]) -> None:
    figures = [figure for row in paper.rows for figure in row.figures]
    used = [figure.source for figure in figures]
    used += [figure.base_source for figure in figures if figure.base_source]
    used += [one for row in paper.rows if row.big for one in (row.big_source, row.savers_source)]
    for source in used:
        if source not in known:
            raise DataError(unknown("source", source, list(known), where=paper.title))
