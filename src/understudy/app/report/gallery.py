"""The gallery: pictures of what the plans answer early, defer, rescue and lose, with captions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from understudy.app.report.pictures import Picture, ScoredImages
from understudy.app.report.sample_kinds import KINDS, MOST_PICTURES, PlanSamples, samples_shown
from understudy.choice import Choice
from understudy.errors import DataError, listed
from understudy.outcome import decide
from understudy.policy import Policy
from understudy.progress_bars import Advance, no_bar
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.table_validation import NO_LABEL

CLASSES = 20
"""Classes of a plan that are counted one by one."""


@dataclass(frozen=True)
class GivenAnswer:
    """What an exit answers to a sample: the name of a class, and whether it is right."""

    name: str
    right: bool


@dataclass(frozen=True)
class SamplePicture:
    """A picture with its caption.

    Attributes:
        id: of the sample.
        label: its right answers; None where it has no label.
        group: the name of the class that it is shown with.
        little: what the first exit answers.
        confidence: how sure that is, beside its threshold.
        plan: what the plan answers.
        answered_by: the exit that does.
        reference: what the reference answers.
        picture: the image.
    """

    id: str
    label: str | None
    group: str
    little: GivenAnswer
    confidence: str
    plan: GivenAnswer
    answered_by: str
    reference: GivenAnswer
    picture: Picture

    @property
    def alt(self) -> str:
        """What is to see, in words."""
        label = "without label" if self.label is None else f"labelled {self.label}"
        verdict = "" if self.label is None else ", right" if self.plan.right else ", wrong"
        return f"Sample {self.id}, {label}; the plan answers {self.plan.name}{verdict}"


@dataclass(frozen=True)
class KindGallery:
    """The samples of a kind, some of them as pictures.

    Attributes:
        title, words: what the kind is.
        opened: whether the pictures are shown at once.
        count: how many samples there are of it.
        share: of all samples, as a fraction.
        pictures: of some of them.
    """

    title: str
    words: str
    opened: bool
    count: int
    share: float
    pictures: tuple[SamplePicture, ...]


@dataclass(frozen=True)
class ClassCounts:
    """What becomes of the samples of a class: how many there are, and how many of each kind."""

    name: str
    samples: int
    by_kind: tuple[int, ...]


@dataclass(frozen=True)
class PlanGallery:
    """The samples of a plan.

    Attributes:
        choices: the budgets that it was chosen for.
        kinds: its samples by kind.
        classes: the same by class, those first that lose most on tune; some of many.
    """

    choices: tuple[Choice, ...]
    kinds: tuple[KindGallery, ...]
    classes: tuple[ClassCounts, ...]

    @property
    def policy(self) -> Policy:
        """The plan's policy."""
        return self.choices[0].policy

    @property
    def early(self) -> float:
        """The fraction of samples that are answered before the last stage."""
        *early, _ = self.choices[0].outcome.shares.values()
        return sum(early)


@dataclass(frozen=True)
class Gallery:
    """The pictures of a report.

    Attributes:
        data: the spec of the images.
        samples: how many samples they were chosen from.
        classes: how many classes these have.
        plans: those that are cascades.
        missing: how many samples have no image.
        broken: ids of chosen samples whose images cannot be decoded.
        verified: whether the table says that these are its images; else they were found by ids.
    """

    data: str
    samples: int
    classes: int
    plans: tuple[PlanGallery, ...]
    missing: int
    broken: tuple[str, ...]
    verified: bool

    @property
    def groups(self) -> dict[str, int]:
        """The classes of the pictures by name, and how many pictures each has."""
        shown = (one.pictures for plan in self.plans for one in plan.kinds)
        counts = Counter(one.group for pictures in shown for one in pictures)
        return dict(sorted(counts.items(), key=lambda item: _natural(item[0])))


def gallery_of(
    result: Result,
    table: ScoreTable,
    images: ScoredImages,
    advance: Advance = no_bar,
    *,
    most: int = MOST_PICTURES,
) -> Gallery:
    """The gallery of a result.

    Args:
        result: what a search found.
        table: the samples that its figures are measured on, with what the search fitted.
        images: those of these samples.
        advance: told of the images that are done.
        most: how many pictures there are at most.

    Raises:
        DataError: no image that was chosen can be decoded.
    """
    ids = table.ids.tolist()
    there = np.array([id in images.positions for id in ids])
    plans = samples_shown(result.choices, table, result.reference, there, most=most)
    chosen = dict.fromkeys(ids[row] for one in plans for rows in one.shown for row in rows)
    pictures = images.pictures(chosen, advance)
    broken = tuple(id for id in chosen if id not in pictures)
    if chosen and not pictures:
        raise DataError(
            f"a gallery has images that can be decoded, none of the {len(chosen)} chosen of "
            f"{images.data.spec!r} can ({listed(map(repr, broken), 3)}): mend them"
        )
    return Gallery(
        data=images.data.spec,
        samples=len(table),
        classes=len(np.unique(plans[0].label)) if plans else 0,
        plans=tuple(
            _PlanCaptions(result, table, images.classes, one).gallery(pictures) for one in plans
        ),
        missing=int((~there).sum()),
        broken=broken,
        verified=images.verified,
    )


class _PlanCaptions:
    """The captions of a plan's samples.

    Args:
        result: what a search found.
        table: the samples.
        classes: names of the classes, where the table has none.
        samples: what the plan does with each sample.
    """

    def __init__(
        self,
        result: Result,
        table: ScoreTable,
        classes: Sequence[str] | None,
        samples: PlanSamples,
    ) -> None:
        self._samples, self._table = samples, table
        self._labelled = bool(result.table.get("labelled", True))
        self._policy = samples.choices[0].policy
        self._reference, self._classes = result.reference, table.classes or classes or ()
        self._stages = decide(table, self._policy).stage
        self._exits = [table.index(name) for name in (*self._policy.exits, result.reference)]
        self._right = table.right(result.reference, self._exits)
        self._answers = table.right_answers(result.reference)

    def gallery(self, pictures: Mapping[str, Picture]) -> PlanGallery:
        """The gallery of the plan, with the pictures that there are."""
        return PlanGallery(
            self._samples.choices, tuple(self._kinds(pictures)), tuple(self._by_class())
        )

    def _by_class(self) -> Iterator[ClassCounts]:
        label, kinds = self._samples.label, self._samples.kinds
        counts = np.zeros((len(self._samples.rank), len(KINDS)), int)
        np.add.at(counts, (label, kinds), 1)
        there = [
            number for number in np.argsort(self._samples.rank).tolist() if counts[number].any()
        ]
        for number in there[:CLASSES]:
            by_kind = tuple(counts[number].tolist())
            yield ClassCounts(self._name(number), sum(by_kind), by_kind)

    def _kinds(self, pictures: Mapping[str, Picture]) -> Iterator[KindGallery]:
        first, *_, last = self._policy.exits
        for number, (kind, rows) in enumerate(zip(KINDS, self._samples.shown, strict=True)):
            count = int((self._samples.kinds == number).sum())
            words = kind.words[not self._labelled]
            yield KindGallery(
                title=kind.title[not self._labelled],
                words=words.format(first=first, last=last, reference=self._reference),
                opened=kind.opened,
                count=count,
                share=count / len(self._table),
                pictures=tuple(
                    self._captioned(row, pictures[id])
                    for row in rows.tolist()
                    if (id := self._table.ids[row]) in pictures
                ),
            )

    def _captioned(self, row: int, picture: Picture) -> SamplePicture:
        stage, first = int(self._stages[row]), self._policy.stages[0]
        sure = self._table.scores(first.confidence)[self._exits[0], row]
        right = [self._name(one) for one in self._answers[row].tolist() if one != NO_LABEL]
        return SamplePicture(
            id=self._table.ids[row],
            label=" or ".join(right) if self._table.labelled[row] else None,
            group=right[0],
            little=self._answer(0, row),
            confidence=compared(float(sure), first.threshold or 0.0),
            plan=self._answer(stage, row),
            answered_by=self._policy.exits[stage],
            reference=self._answer(-1, row),
            picture=picture,
        )

    def _answer(self, exit: int, row: int) -> GivenAnswer:
        prediction = self._table.prediction[self._exits[exit], row]
        return GivenAnswer(self._name(int(prediction)), bool(self._right[exit, row]))

    def _name(self, number: int) -> str:
        return self._classes[number] if number < len(self._classes) else str(number)


def compared(confidence: float, threshold: float) -> str:
    """A confidence beside its threshold, with as many digits as tell them apart; at least three.

    >>> compared(0.9971, 0.62), compared(0.61999, 0.62)
    ('0.997 ≥ 0.62', '0.61999 < 0.62')
    """
    sign = "≥" if confidence >= threshold else "<"
    for digits in range(3, 18):
        texts = f"{confidence:.{digits}g}", f"{threshold:.{digits}g}"
        if texts[0] != texts[1] or confidence == threshold:
            break
    return f"{texts[0]} {sign} {texts[1]}"


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Names in the order that people expect, 9 before 10."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple((int(part) if part.isdecimal() else -1, part) for part in parts)
