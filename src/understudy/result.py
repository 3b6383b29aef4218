"""The result of a search: one JSON file, one table in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from understudy import display
from understudy.choice import Choice, Published, Single
from understudy.deciles import Difficulty
from understudy.errors import PolicyError, TableError, listed
from understudy.exit import Exit
from understudy.frontier import Frontier
from understudy.html_views import html_of
from understudy.json_codec import StoredFile, stored
from understudy.outcome import points
from understudy.policy_set import PolicySet
from understudy.reference import reference_words
from understudy.result_tables import ResultTables, worst_class
from understudy.shift import AppliedPlan, Proof, ShiftCard
from understudy.short_repr import clipped, cut_list
from understudy.split import ALL, fold_words, headline_split
from understudy.tabular import Tabular

if TYPE_CHECKING:
    from rich.console import Group

    from understudy.scores import ScoreTable


__all__ = ["Choice", "Result"]


@dataclass(frozen=True)
class Result(
    StoredFile,
    Tabular,
    what="a search result",
    error=PolicyError,
    remedy="search again",
    keys=(
        *(
            "unit",
            "reference",
            "delta",
            "searched_on",
            "measured_on",
            "results",
            "singles",
            "frontier",
        ),
        *("difficulty", "table", "asked", "published"),
    ),
    format="understudy.result",
    version=2,
):
    """All that one search found; `print(result)` prints it as a table.

    Attributes:
        unit, reference, delta: the cost that was minimised, the exit that drops are measured
            against, and the level.
        choices: one per budget.
        singles: every exit by itself, cheapest first.
        frontier: all non-dominated policies found, as measured on `searched_on`.
        searched_on: "tune", or "all" for a search in-sample, whose figures are too good.
        difficulty: accuracy by difficulty over all samples; None for a table of one exit.
        table: hash, samples and labels per split, provenance.
        arguments: the arguments of the search, so that it can be repeated.
        published: what the papers' own rules choose on the same samples, for comparison.

    >>> import numpy as np
    >>> from understudy import ScoreTable, search
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> result = search(table, max_drop=2.0, without=["learned"])
    >>> result.reference, [choice.max_drop for choice in result.choices]
    ('big', [2.0])
    >>> result.choices[0].policy.describe()
    'tiny when max_softmax >= 0.75, else big'
    """

    unit: str
    reference: str
    delta: float
    choices: tuple[Choice, ...] = field(metadata=stored(key="results"))
    singles: tuple[Single, ...]
    frontier: Frontier
    searched_on: str
    difficulty: Difficulty | None
    table: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict, metadata=stored(key="asked"))
    published: tuple[Published, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            PolicyError: the file is something else, was changed, a newer version wrote it, or a
                policy is not the one that its certificate proves.
        """
        result = super().load(path)
        for choice in result.choices:
            if choice.certificate is not None:
                what = f"the policy for {choice.max_drop:g} points in {str(path)!r}"
                choice.certificate.check(
                    choice.policy, choice.max_drop, what=what, remedy="search again"
                )
        return result

    @property
    def in_sample(self) -> bool:
        """Whether the search used all samples, so that its figures are too good."""
        return self.searched_on == ALL

    @property
    def labelled(self) -> bool:
        """Whether any sample has a label; without, figures are agreement with the reference."""
        return bool(self.table["labelled"])

    @property
    def gap(self) -> str:
        """What a budget bounds, in a word."""
        return "drop" if self.labelled else "disagreement"

    @property
    def partly_labelled(self) -> bool:
        """Whether some samples have a label and others none."""
        labels = self.table.get("labels", {})
        return any(labels.values()) and labels != self.table["samples"]

    @property
    def time_remarks(self) -> tuple[str, ...]:
        """What should be known of measured times, where they were minimised."""
        return tuple(self.table.get("time_remarks", ()))

    def reference_words(self) -> str:
        """The reference, with its accuracy where the thresholds were chosen."""
        exits = [Exit(single.name, (), single.origin) for single in self.singles]
        labels, on = self.table.get("labels"), self.searched_on
        known = labels[on] == self.table["samples"][on] if labels else self.table["labelled"]
        whole = [one for one, exit in zip(self.singles, exits, strict=True) if not exit.is_ensemble]
        accuracies = {one.name: one.on[on].accuracy for one in whole}
        found = (accuracies if known else {}) if self.labelled else None
        costs = {one.name: one.on[on].cost[self.unit] for one in whole}
        return reference_words(self.reference, found, costs, exits=exits, split=on)

    def label_words(self) -> str:
        """How many samples have labels, and what the figures are without them."""
        samples, labels = self.table["samples"], self.table["labels"]
        counts = (f"{labels[name]:,} of {samples[name]:,} on {name}" for name in samples)
        return (
            f"Labelled: {', '.join(counts)}. Where a label is missing the reference's answer takes "
            "its place: a drop can only be lower than shown, an accuracy is partly agreement."
        )

    @property
    def search_record(self) -> dict[str, Any]:
        """The table and the arguments of the search, as the log of looks keeps them."""
        own = {"reference": self.reference, "unit": self.unit, "delta": self.delta}
        return {"table": self.table.get("hash"), **own, **self.arguments}

    @property
    def measured_on(self) -> str:
        """The split of the headline figures: "test", "certify" where the table has no test split,
        or "all" for a search in-sample."""
        return headline_split({name for single in self.singles for name in single.on})

    def choice(self, max_drop: float | None = None) -> Choice:
        """The choice for a budget; the only one, or the first, where none is named.

        Raises:
            PolicyError: the search had no such budget.
        """
        if max_drop is None:
            return self.choices[0]
        for choice in self.choices:
            if abs(choice.max_drop - max_drop) < 1e-9:
                return choice
        raise PolicyError(
            f"no choice for a drop of {max_drop:g} points in this result; it has "
            f"{listed([f'{c.max_drop:g}' for c in self.choices], 12)}: search again with "
            f"--max-drop {max_drop:g}"
        )

    def with_fitted(self, table: ScoreTable) -> ScoreTable:
        """The table with what the search fitted: the scores and ensembles that its policies use,
        and those policies that were proved on the way to them.

        `evaluate` needs it for policies with learned scores, on samples other than those of tune.

        Raises:
            TableError: the table lacks an exit, or the logits of an ensemble's member.
        """
        from understudy.confidence_functions import LEARNED
        from understudy.deferral import scores_of, with_scores
        from understudy.ensemble import ensemble_of, with_ensembles

        scores = scores_of(self.table.get("provenance", {}))
        if scores and LEARNED not in table.confidence:
            table = with_scores(table, scores)
        used = {name for choice in self.choices for name in choice.exits}
        found = {one.name: ensemble_of(one.origin) for one in self.singles if one.name in used}
        return with_ensembles(table, {name: one for name, one in found.items() if one is not None})

    def searched(self, table: ScoreTable, *, name: str = "the table") -> ScoreTable:
        """The table that was searched, `with_fitted`.

        Raises:
            TableError: it is another table; `name` is what the message calls it.
        """
        hash = self.table.get("hash")
        if hash is not None and table.hash != hash:
            raise TableError(
                f"a result is shown with the table that it was searched on, {name} has another "
                f"hash ({table.hash[:12]}, not {hash[:12]}): name that table"
            )
        return self.with_fitted(table)

    @property
    def policy_set(self) -> PolicySet:
        """The policies of all budgets, with all that it takes to measure them on other tables."""
        from understudy.deferral import scores_of
        from understudy.ensemble import ensemble_of

        used = {name for choice in self.choices for name in choice.policy.exits}
        scores = scores_of(self.table.get("provenance", {}))
        ensembles = {one.name: ensemble_of(one.origin) for one in self.singles}
        whole = [one for one in self.singles if ensembles[one.name] is None]
        units = {unit for one in whole for unit in one.on[self.measured_on].cost}
        classes = self.table.get("classes")
        return PolicySet(
            reference=self.reference,
            unit=self.unit,
            plans=tuple(
                AppliedPlan(
                    max_drop=choice.max_drop,
                    policy=choice.policy,
                    proof=Proof.of(choice.certificate),
                    seen=choice.outcome,
                    seen_on=choice.measured_on,
                    kind="gap" if self.labelled else "disagreement",
                    seen_labelled=self.labelled and not self.partly_labelled,
                )
                for choice in self.choices
            ),
            origins={one.name: one.origin for one in whole},
            scores={name: score for name, score in scores.items() if name in used},
            ensembles={n: one for n, one in ensembles.items() if one is not None and n in used},
            classes=None if classes is None else tuple(classes),
            costs={
                unit: {
                    one.name: cost
                    for one in whole
                    if (cost := one.on[self.measured_on].cost.get(unit)) is not None
                }
                for unit in sorted(units)
            },
            source=self.table,
        )

    def apply(
        self, tables: ScoreTable | Mapping[str, ScoreTable], *, split: str | None = None
    ) -> ShiftCard:
        """Measure the policies of all budgets on other tables of the same models: another data set,
        other labels, next month's samples.

        Nothing is chosen or fitted there. A certificate holds for samples like those it was proved
        on, so another table voids it; the card says what is measured instead.

        Args:
            tables: one, or several by name.
            split: the samples to measure: tune, certify, test or all. By default all; where they
                are those that were searched, the split of the headline figures.

        >>> import numpy as np
        >>> from understudy import ScoreTable, search
        >>> right = np.arange(1000) % 10 < 9
        >>> exits = {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, 0 * right)}
        >>> table = ScoreTable.from_predictions(exits, 0 * right, costs={"tiny": 1, "big": 9})
        >>> card = search(table, max_drop=2.0).apply({"harder": table.relabelled(
        ...     {key: int(number % 5 == 0) for number, key in enumerate(table.ids)})})
        >>> card.to_polars().select("table", "within", "certificate").rows()
        [('as searched', None, None), ('harder', 'yes', 'void')]

        Raises:
            TableError: a table lacks an exit, was scored with other weights or classes, or lacks
                what a fitted exit needs; an empty split.
        """
        named = tables if isinstance(tables, Mapping) else {"table": tables}
        return self.policy_set.apply(named, split=split)

    def report(
        self,
        path: str | Path,
        *,
        shift: ShiftCard | None = None,
        table: ScoreTable | None = None,
        images: Any = None,
    ) -> Path:
        """Write the result as one HTML page that needs neither script nor network; its path.

        Args:
            path: the page to write.
            shift: shows the policies on other tables too.
            table: that which was searched: adds a slider over all policies from safe to cheap.
            images: those that the table was scored on, as a spec or as what `zoo.data.open_data`
                returns: shows which of them the plans answer early, defer, rescue and lose.

        >>> result.report("report.html", table=table)  # doctest: +SKIP
        PosixPath('report.html')

        Raises:
            UnderstudyError: the path does not end in .html or .htm, or it cannot be written; there
                are images without the table, or images other than those that it was scored on.
            TableError: it is not the table that was searched.
        """
        from understudy.app.report.page import write_report
        from understudy.progress_bars import progress_bars

        scores = None if table is None else self.searched(table)
        with progress_bars("images") as advance:
            write_report(self, path, shift=shift, table=scores, images=images, advance=advance)
        return Path(path)

    def __str__(self) -> str:
        return display.plain(self.view())

    def __repr__(self) -> str:
        plans = (
            f"{choice.max_drop:g}: {clipped(' → '.join(choice.policy.exits), 60)} saves "
            f"{display.percent(choice.outcome.saving[self.unit])}"
            for choice in self.choices
        )
        kind = "in-sample" if self.in_sample else f"certified at {display.level_text(self.delta)}"
        return (
            f"<Result against {clipped(self.reference)}, {clipped(self.unit)}, {kind}; by budget "
            f"in points: {cut_list(plans, 160, most=3)}>"
        )

    def _repr_html_(self) -> str:
        return html_of(self.view())

    def columns(self) -> dict[str, list[Any]]:
        """A row per budget: its plan with the headline figures and what was certified."""
        outcomes = [choice.outcome for choice in self.choices]
        proofs = [choice.certificate for choice in self.choices]
        units = [one for one in outcomes[0].cost if all(one in other.cost for other in outcomes)]
        least = [None if one is None else one.saving_bounds.get(self.unit) for one in proofs]
        return {
            "max_drop": [choice.max_drop for choice in self.choices],
            "policy": [choice.policy.describe() for choice in self.choices],
            "measured_on": [choice.measured_on for choice in self.choices],
            "accuracy": [one.accuracy for one in outcomes],
            "drop": [one.drop for one in outcomes],
            "drop_low": [one.drop_interval[0] for one in outcomes],
            "drop_high": [one.drop_interval[1] for one in outcomes],
            **{f"cost {unit}": [one.cost[unit] for one in outcomes] for unit in units},
            **{f"saving {unit}": [one.saving[unit] for one in outcomes] for unit in units},
            "certified": [one is not None and not one.falls_back for one in proofs],
            "certified_saving": least,
            "p_value": [None if one is None else one.p_value for one in proofs],
        }

    def view(self) -> Group:
        """The result for a terminal: single exits, the choice per budget, baselines, verdicts."""
        warning = display.warning_of(
            "IN-SAMPLE: chosen and measured on the same samples. These figures are too "
            "good; nothing is certified."
        )
        folds = fold_words(self.table.get("provenance", {}).get("split", {}))
        tables = self._tables()
        return display.group_of(
            *([warning] if self.in_sample else []),
            display.note_of(f"{self.reference_words()}\n"),
            *([display.note_of(self.label_words())] if self.partly_labelled else []),
            *([display.note_of(f"{folds}\n", heading="Cross-fitted: ")] if folds else []),
            tables.single_exits(),
            tables.plans(),
            *([] if self.in_sample else [tables.guarantees()]),
            tables.baselines(),
            *([tables.published_rules()] if self.published else []),
            *(display.note_of(f"{one}\n", heading="Times: ") for one in self.time_remarks),
            *(
                display.note_of(
                    choice.verdict + worst_class(choice) + "\n",
                    heading=f"{points(choice.max_drop)}: ",
                )
                for choice in self.choices
            ),
        )

    def _tables(self) -> ResultTables:
        return ResultTables(
            unit=self.unit,
            reference=self.reference,
            delta=self.delta,
            choices=self.choices,
            singles=self.singles,
            published=self.published,
            measured_on=self.measured_on,
            in_sample=self.in_sample,
            labelled=self.labelled,
            partly_labelled=self.partly_labelled,
            gap=self.gap,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        choices = [choice.to_dict(self.unit) for choice in self.choices]
        return super().to_dict() | {"results": choices}
